"""The examples of CONTRIBUTING.md do what it says."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import contract
import pytest
import torch
from torch import nn

import wtkit
from wtkit import __main__, data, methods
from wtkit.config import expand, run_config

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def example(section, language):
    """The first block of ``language`` under the heading ``section``."""
    part = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", part, re.S)[1]


@pytest.fixture
def random_sign(tmp_path, monkeypatch):
    """The method as a file of the family, for the length of a test."""
    (tmp_path / "random_sign.py").write_text(example("Add a method", "python"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield "random_sign"
    sys.modules.pop("wtkit.methods.random_sign", None)


@pytest.mark.slow
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_method_keeps_the_contract(check, random_sign):
    check(random_sign)


def test_the_method_learns_through_signs_of_one_size(random_sign):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    wtkit.convert(model, random_sign, gain=0.5)
    x = torch.randn(64, 8)
    labels = x[:, :3].argmax(1)
    size = model[2].B.abs()
    before = model[2].weight.detach().square().mean().sqrt()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    torch.testing.assert_close(size, size.mean().expand_as(size))
    torch.testing.assert_close(model[2].B.abs(), size)
    assert 0.25 < size.mean() / before < 1  # the size of W's weights, drawn anew, times the gain


def test_a_misspelt_option_of_the_method_is_named(random_sign):
    with pytest.raises(wtkit.WtkitError, match=r"unknown option of random_sign 'gian' \(did you mean 'gain'\?\)"):
        run_config({"method": random_sign, "options": {"gian": 1}})


def test_the_ablation_expands(tmp_path):
    shutil.copy(ROOT / "config" / "digits.yaml", tmp_path)
    sweep, variants = re.findall(r"```yaml\n(.*?)```", TEXT.split("\n## Add an ablation\n")[1], re.DOTALL)[:2]
    (tmp_path / "mine.yaml").write_text(sweep)
    runs = expand(tmp_path / "mine.yaml")
    assert [(run.seed, run.options["mirror_steps"]) for run in runs] == [(s, m) for s in range(3) for m in (1, 2, 4)]
    (tmp_path / "mine.yaml").write_text(sweep.split("sweep:")[0] + variants)
    assert [run.options.get("bias_blocking", False) for run in expand(tmp_path / "mine.yaml")] == [False, True] * 3


def test_the_network_trains_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(example("Add a network", "python"))
    (tmp_path / "mine.yaml").write_text(f"methods: [weight_mirror]\n{example('Add a network', 'yaml')}")
    monkeypatch.syspath_prepend(tmp_path)
    runs = expand(tmp_path / "mine.yaml")
    assert [run.network_name for run in runs] == ["resnet18", "nets.Mine", "nets.Mine-width=64"]
    tiny = {"image_size": 8, "epochs": 1, "batch_size": 64, "options": {"noise": "orthogonal", "mirror_before": 4}}
    trained = wtkit.train(dataclasses.replace(runs[2], **tiny), quiet=True)
    assert trained.layer.values.tolist() == ["first", "second", "last"]
    assert trained.test_error[-1] < trained.test_error[0]
    by_hand = ["train", "--method=weight_mirror", "--network=nets:Mine", "--network-option=width=64"]
    assert __main__._parser().parse_args(by_hand).network_option == ["width=64"]
    assert f"`{by_hand[2].replace('=', ' ')} --network-option width=64`" in TEXT


def test_the_data_set_loads_or_says_what_is_missing(tmp_path, monkeypatch):
    namespace = dict(vars(data))
    exec(example("Add a data set", "python"), namespace)
    run = run_config({"method": "backprop", "data_root": str(tmp_path), "image_size": 32})
    with pytest.raises(wtkit.WtkitError, match="no fashion_mnist in "):
        namespace["_fashion_mnist"](run, torch.device("cpu"))

    class Made:
        data = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
        targets = torch.arange(20) % 10

        def __init__(self, root, train):
            pass

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", Made)
    loaded = namespace["_fashion_mnist"](run, torch.device("cpu"))
    images, labels = next(loaded.train_batches(10, epoch=0))
    assert (images.shape, labels.shape) == ((10, 3, 32, 32), (10,))


def test_every_file_in_the_layout_is_there():
    layout = TEXT.split("\n## Which file does what\n")[1].split("\n## ")[0]
    root = Path(__file__).resolve().parent.parent
    for row in re.findall(r"^\| (`.*?) \|", layout, re.M):
        names = re.findall(r"`(.*?)`", row)
        folder = Path(names[0]).parent
        for name in names:
            assert (root / name).exists() or (root / folder / name).exists(), name
