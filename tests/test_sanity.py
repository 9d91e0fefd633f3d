"""What a stranger would try first, on whole runs: each has an outcome that is known before."""

import pytest
import torch
from images import image_folder
from torch.nn import functional as F

import wtkit
from wtkit import data
from wtkit.feedback import feedback_layers
from wtkit.networks import build_resnet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"), train=60, held_out=200)


def run(images, method, **settings):
    tiny = {
        "data": "image_folder",
        "data_root": str(images),
        "image_size": 8,
        "batch_size": 20,
        "lr": 0.02,
    }
    return wtkit.train(wtkit.RunConfig(method=method, **tiny | settings), quiet=True)


def test_the_weight_mirror_switched_off_is_feedback_alignment(images):
    off = run(images, "weight_mirror", epochs=2, options={"mirror_steps": 0, "mirror_before": 0})
    aligned = run(images, "feedback_alignment", epochs=2)
    for name in (
        "train_loss",
        "test_error",
        "matrix_angle",
        "feedback_norm_ratio",
        "weight_norm",
        "delta_angle",
        "delta_norm_ratio",
    ):
        torch.testing.assert_close(
            torch.tensor(off[name].values),
            torch.tensor(aligned[name].values),
            rtol=0,
            atol=0,
            equal_nan=True,
        )


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_kolen_pollack_without_decay_keeps_its_mismatch(precision):
    torch.manual_seed(0)
    model = wtkit.convert(build_resnet("resnet18", num_classes=3), "kolen_pollack")
    layers = feedback_layers(model).values()
    start = [(layer.weight - layer.B).detach().clone() for layer in layers]
    before = [layer.weight.detach().clone() for layer in layers]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(5):
        with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
            loss = F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8) % 3)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for layer, gap, W in zip(layers, start, before, strict=True):
        assert (layer.weight - W).norm() > 1e-3 * W.norm()  # it learned …
        # … and no mismatch is gone
        assert (layer.weight - layer.B - gap).norm() < 1e-6 * gap.norm()


@pytest.mark.parametrize("shuffled", [True, False], ids=["labels shuffled", "as they are"])
def test_shuffled_labels_give_chance(images, shuffled, monkeypatch):
    load = data.load

    def shuffling(config, device):
        loaded = load(config, device)
        if shuffled:
            # the held-out ones, too: the guesses of a class agree, its random labels do not
            generator = torch.Generator().manual_seed(0)
            for name in ("labels", "held_out_labels"):
                labels = getattr(loaded, name)
                setattr(loaded, name, labels[torch.randperm(len(labels), generator=generator)])
        return loaded

    monkeypatch.setattr("wtkit.data.load", shuffling)
    error = float(run(images, "backprop", epochs=4).test_error[-1])
    if shuffled:
        assert abs(error - 200 / 3) < 8  # a standard error of guessing is 1.9
    else:
        assert error < 30
