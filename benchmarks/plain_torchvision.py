"""Backprop through wtkit against the same recipe in plain torchvision code: are the errors the
same?

    python benchmarks/plain_torchvision.py docs/tuning/plain-torchvision.csv --seeds 46

ResNet-18 with torchvision's own block on digits. The plain half shares nothing with wtkit but the
pixels' split: its network, augmentation, normalisation, decay and schedule are written out below
with torchvision's and PyTorch's own parts. A seed's two runs see other random numbers, so their
errors agree in the mean, not one by one. Seeds that are in the table are not run again.
"""

import argparse
import csv
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import v2

import wtkit

LR, WEIGHT_DECAY, MOMENTUM, BATCH, WARMUP = 0.005, 0.9, 0.9, 32, 1


class Digits(Dataset):
    """scikit-learn's digits at 32×32 pixels."""

    def __init__(self, indices, transform):
        digits = load_digits()
        small = torch.tensor(digits.images[indices], dtype=torch.float32)[:, None] / 16
        large = F.interpolate(small, size=(32, 32), mode="bilinear")
        self.images, self.labels = large.expand(-1, 3, -1, -1), digits.target[indices]
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), int(self.labels[index])


def plain(seed: int, epochs: int) -> float:
    """Final test error in %, of torchvision's network in a loop as tutorials have it."""
    torch.manual_seed(seed)
    indices = train_test_split(
        range(1797), test_size=360, stratify=load_digits().target, random_state=0
    )
    pixels = Digits(indices[0], nn.Identity()).images
    normalise = v2.Normalize(pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist())
    train = Digits(indices[0], v2.Compose([v2.RandomCrop(32, padding=4), normalise]))
    test = Digits(indices[1], normalise)
    batches = DataLoader(train, BATCH, shuffle=True, drop_last=True)

    model = resnet18(num_classes=10)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0},
    ]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)
    warm, total = WARMUP * len(batches), epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            step / warm
            if step < warm
            else (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        ),
    )
    model.train()
    for _ in range(epochs):
        for x, labels in batches:
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        wrong = sum(
            (model(x).argmax(1) != labels).sum().item() for x, labels in DataLoader(test, 180)
        )
    return 100 * wrong / len(test)


def through_wtkit(seed: int, epochs: int) -> float:
    """Final test error in %, of the same recipe as settings of a run."""
    config = wtkit.RunConfig(
        method="backprop", norm_order="bn_relu", data="digits", image_size=32, seed=seed,
        epochs=epochs, batch_size=BATCH, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY,
        schedule="cosine", warmup_epochs=WARMUP,
    )  # fmt: skip
    return wtkit.train(config, quiet=True)["test_error"].values.ravel()[-1]


def both(job: tuple[int, int]) -> tuple[int, float, float]:
    torch.set_num_threads(1)  # as a run of the pipeline; rounding depends on it
    return job[0], plain(*job), through_wtkit(*job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=46)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    rows = list(csv.reader(given.table.open()))[1:] if given.table.exists() else []
    done = {int(seed) for seed, *_ in rows}
    missing = [(seed, given.epochs) for seed in range(given.seeds) if seed not in done]
    with (
        multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool,
        given.table.open("a", newline="") as file,
    ):
        table = csv.writer(file)
        if not rows:
            table.writerow(("seed", "plain", "wtkit"))
        for row in pool.imap(both, missing):
            table.writerow(row)
            file.flush()
            rows.append(row)
            print("seed {}  plain {:.2f} %  wtkit {:.2f} %".format(*row), flush=True)
    errors = np.array(rows, float)[:, 1:]
    mean, error = errors.mean(0), errors.std(0, ddof=1) / math.sqrt(len(errors))
    print(
        f"plain {mean[0]:.2f} ± {error[0]:.2f} %  wtkit {mean[1]:.2f} ± {error[1]:.2f} %, "
        f"{len(errors)} seeds"
    )
    print(
        f"difference {mean[1] - mean[0]:+.2f} points; its standard error {math.hypot(*error):.2f}"
    )


if __name__ == "__main__":
    main()
