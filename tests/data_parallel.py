"""What two processes do for test_parallel.py, under torchrun, and what one does to compare: OUTPUT
CONFIGS."""

import copy
import os
import pickle
import signal
import sys
import warnings
from pathlib import Path

import own_networks
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import wtkit
from wtkit.feedback import feedback_layers
from wtkit.processes import joined, refuse_differing

CASES = {
    "backprop": {},
    "feedback_alignment": {},
    "sign_symmetry": {"scale": "strict"},
    "sign_symmetry_batchwise": {},
    "symmetric_alignment": {"rate": 0.1, "noise": 0.5},
    "direct_feedback_alignment": {},
    "direct_kolen_pollack": {},
    # less than two pairs
    "weight_mirror": {"noise": "orthogonal", "noise_batch": 2, "noise_fraction": 0.0},
    "weight_mirror:gaussian": {"noise_batch": 7, "noise_fraction": 0.0},  # an odd number
    "weight_mirror:images": {"noise_size": 5, "noise_batch": 2, "noise_fraction": 0.0},
    "kolen_pollack": {},
    "kolen_pollack:nesterov": {},
    "kolen_pollack:lines": {},
    "weight_mirror:lines": {"noise_batch": 6, "noise_fraction": 0.0},
    "kolen_pollack:apart": {"lr_ratio": 1.5, "decay_ratio": 0.5, "signal_noise": 0.5},
}
STEPS, BATCH = 5, 8


def network():
    """GroupNorm, so that an image does not depend on those beside it."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, 4),
    ).double()  # fmt: skip


class Lines(nn.Module):
    """Reads an image line by line, by attention and a recurrent network."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.memory, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, images):
        y = images.flatten(1, 2)
        y, _ = self.attention(y, y, y, need_weights=False)
        return self.head(self.memory(y)[1][0])


def of_lines():
    torch.manual_seed(3)
    return Lines().double()


def batches():
    generator = torch.Generator().manual_seed(9)
    for _ in range(STEPS):
        images = torch.randn(BATCH, 2, 6, 6, dtype=torch.float64, generator=generator)
        yield images, torch.randint(4, (BATCH,), generator=generator)


def trained(case, wrap, share):
    """State after some steps of a plain loop, each process on its part of the batches."""
    method, _, kind = case.partition(":")
    plain = of_lines() if kind == "lines" else network()
    model = wtkit.convert(plain, method, seed=1, **CASES[case])
    whole = wrap(model)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.05,
        momentum=0.9,
        weight_decay=0.1,
        nesterov=kind == "nesterov",
        fused=kind == "",
    )
    for images, targets in batches():
        mine = slice(share.rank * BATCH // share.world, (share.rank + 1) * BATCH // share.world)
        F.cross_entropy(whole(images[mine]), targets[mine]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if method == "weight_mirror":
            wtkit.mirror(whole, 2)
    refuse_differing(share, model.state_dict(), "at the end")
    return {name: value.clone() for name, value in model.state_dict().items()}


def reduced(method):
    """How many numbers the processes exchange in one backward pass."""
    model = DistributedDataParallel(wtkit.convert(network(), method))
    numbers = []

    def count(_state, bucket):
        numbers.append(bucket.buffer().numel())
        return (
            torch.distributed.all_reduce(bucket.buffer(), async_op=True)
            .get_future()
            .then(lambda f: f.value()[0])
        )

    model.register_comm_hook(None, count)
    images, targets = next(batches())
    F.cross_entropy(model(images), targets).backward()
    return sum(numbers)


def disturbed(share):
    """What is said where one process has another B."""
    model = wtkit.convert(network(), "feedback_alignment", seed=1)
    if share.rank == 1:
        feedback_layers(model)["3"].feedback[0, 0, 0, 0] += 1e-15
    try:
        refuse_differing(share, model.state_dict(), "after epoch 3")
    except wtkit.WtkitError as error:
        return f"{error}", error.said_elsewhere
    raise AssertionError("not noticed")


def without_batch_norm():
    """Have ResNets built with GroupNorm."""
    from wtkit.networks import build_resnet, by_name

    build = build_resnet

    def grouped(*arguments, **settings):
        model = build(*arguments, **settings)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, nn.GroupNorm(1, module.num_features))
        return model

    by_name.build_resnet = grouped


class Stop(Exception):
    pass


def main(output, jobs):
    warnings.simplefilter("error")
    output = Path(output)
    without_batch_norm()
    with joined(torch.device("cpu")) as share:
        found = {
            (case, view): trained(
                case, lambda m, v=view: DistributedDataParallel(m, gradient_as_bucket_view=v), share
            )
            for case in CASES
            for view in (False, True)
        }
        found["reduced"] = {method: reduced(method) for method in ("backprop", "kolen_pollack")}
        found["disturbed"] = disturbed(share)
        runs = pickle.loads(Path(jobs).read_bytes())
        for name, (config, until) in runs.items():

            def on_epoch(run, until=until):
                if run.sizes["epoch"] == until:
                    raise Stop
                if until == "signal" and share.rank == 1 and run.sizes["epoch"] == 2:
                    os.kill(os.getpid(), signal.SIGTERM)

            try:
                found[name] = wtkit.train(config, output / name, device="cpu", on_epoch=on_epoch)
            except Stop:
                pass
            except wtkit.WtkitError as error:
                found[name] = type(error).__name__, str(error)
        found["dropped"] = own_networks.Dropped.dropped
        (output / f"{share.rank}.pickle").write_bytes(pickle.dumps(copy.deepcopy(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
