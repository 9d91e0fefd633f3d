"""The examples of the how-to guides and the tutorial do what the pages say."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import contract
import pytest
import torch
from PIL import Image
from torch import nn

import wtkit
from wtkit import __main__, data_sets, methods, networks
from wtkit.data import load
from wtkit.experiments import Facts, expand, known_facts, run_config
from wtkit.feedback import feedback_layers
from wtkit.results import data_label

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.stem for path in (ROOT / "docs/howto").glob("*.md"))
# these train, download, submit to a cluster, or concern the shell
LONG = (
    "make ",
    "wtkit data ",
    "wtkit plan config/smoke.yaml",
    "wtkit plan config/fashion.yaml",
    "wtkit schema ",
    "wtkit status",
    "wtkit train --method ",
    "source ",
    "snakemake mirror_rate",
    "snakemake --",
    "python -m wtkit.processes ",
    "torchrun ",
    "pip ",
    "WTKIT_RESULTS=",
)


def page(name):
    return (ROOT / f"docs/howto/{name}.md").read_text()


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.M | re.S)


def example(name, language):
    """The first block of ``language`` on a page."""
    return blocks(name, language)[0]


COMMANDS = [
    re.split(r"  +#", line)[0].strip()
    for name in PAGES
    for block in blocks(name, "sh")
    for line in block.splitlines()
]


def run(*command, cwd=ROOT):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if not command.startswith(LONG)]
)
def test_commands_run(command):
    run(*shlex.split(command))


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert {"reproduce", "report"} <= named
    assert named <= set(targets)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tutorial", "howto/model", "howto/layer"])
def test_the_blocks_of_a_page_run_in_order(name, tmp_path):
    parts = re.findall(
        r"^```python\n(.*?)^```", (ROOT / f"docs/{name}.md").read_text(), re.M | re.S
    )
    printed = run(sys.executable, "-W", "error", "-c", "\n".join(parts))
    assert "delta_angle" in printed or "δ angles" in printed


@pytest.mark.slow
def test_the_recorded_loop_is_recorded_once(tmp_path):
    code = "\n".join(blocks("record", "python"))
    printed = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path)
    assert "FA" in printed and "squared_error" in printed
    runs = wtkit.open_results(tmp_path / "results/sine/results.nc", quiet=True)["small"]
    assert dict(runs.sizes) == {"run": 6, "epoch": 6, "layer": 3}
    assert (runs.squared_error.isel(epoch=-1) < 0.6).all()
    again = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path)
    assert again.count("holds this run already, finished.") == 6


@pytest.mark.slow
def test_the_explorers_of_the_page_are_made_and_saved(tmp_path):
    run(sys.executable, "-W", "error", "-c", "\n".join(blocks("explore", "python")), cwd=tmp_path)
    assert (tmp_path / "sweep.html").stat().st_size > 10**6
    listed = re.findall(r"^\| `wtkit\.explore\.(\w+)", page("explore"), re.M)
    assert sorted(listed) == sorted(set(wtkit.explore.__all__) - {"Explorer"})


# -------------------------------------------------------------------------- methods, networks, data


@pytest.fixture
def random_sign(tmp_path, monkeypatch):
    """The method as a file of the family, for the length of a test."""
    (tmp_path / "random_sign.py").write_text(example("method", "python"))
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


def test_the_second_mirror_is_the_one_of_the_package():
    source = (ROOT / "wtkit/methods/weight_mirror_delta_rule.py").read_text()
    shown = [line for line in blocks("method", "python")[1].splitlines() if "def " not in line]
    assert len(shown) > 5 and all(line in source for line in shown)


def test_a_misspelt_option_of_the_method_is_named(random_sign):
    with pytest.raises(
        wtkit.WtkitError, match=r"unknown option of random_sign 'gian' \(did you mean 'gain'\?\)"
    ):
        run_config({"method": random_sign, "options": {"gian": 1}})


def test_the_ablation_expands(tmp_path):
    shutil.copy(ROOT / "config" / "digits_full_width.yaml", tmp_path)
    _, sweep, variants = blocks("ablation", "yaml")
    (tmp_path / "mine.yaml").write_text(sweep)
    runs = expand(tmp_path / "mine.yaml")
    assert [(run.seed, run.options["mirror_steps"]) for run in runs] == [
        (s, m) for s in range(3) for m in (1, 2, 4)
    ]
    (tmp_path / "mine.yaml").write_text(sweep.split("sweep:")[0] + variants)
    assert [run.options.get("bias_blocking", False) for run in expand(tmp_path / "mine.yaml")] == [
        False,
        True,
    ] * 3


def test_the_network_trains_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(example("network", "python"))
    (tmp_path / "mine.yaml").write_text(f"methods: [weight_mirror]\n{blocks('network', 'yaml')[1]}")
    monkeypatch.syspath_prepend(tmp_path)
    runs = expand(tmp_path / "mine.yaml")
    assert [run.network_name for run in runs] == ["resnet18", "nets.Mine", "nets.Mine-width=64"]
    tiny = {
        "image_size": 8,
        "epochs": 1,
        "batch_size": 64,
        "options": {"noise": "orthogonal", "mirror_before": 4},
    }
    trained = wtkit.train(dataclasses.replace(runs[2], **tiny), quiet=True)
    assert trained.layer.values.tolist() == ["first", "second", "last"]
    assert trained.test_error[-1] < trained.test_error[0]
    by_hand = [
        "train",
        "--method=weight_mirror",
        "--network=nets:Mine",
        "--network-option=width=64",
    ]
    assert __main__.make_parser().parse_args(by_hand).network_option == ["width=64"]
    assert f"`{by_hand[2].replace('=', ' ')} --network-option width=64`" in page("network")


def test_the_folder_of_images_is_planned_without_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(example("data_set", "yaml"))
    Image.new("RGB", (64, 64)).save("one.png")
    for part, images in (("train", 500), ("val", 50)):
        for label in range(10):
            folder = Path("data/mine", part, f"class{label}")
            folder.mkdir(parents=True)
            for number in range(images):
                (folder / f"{number}.png").hardlink_to("one.png")
    assert __main__.main(["plan", "mine.yaml", "--no-measure"]) == 0
    said = capsys.readouterr().out
    assert "40 × 78" in said and "Warning" not in said


@pytest.fixture
def fashion_mnist(tmp_path, monkeypatch):
    """The data set as a file of the package, and its experiment, for the length of a test."""
    (tmp_path / "fashion_mnist.py").write_text(example("data_set", "python"))
    (tmp_path / "fashion.yaml").write_text(blocks("data_set", "yaml")[1])
    monkeypatch.setattr(data_sets, "__path__", [*data_sets.__path__, str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "fashion.yaml"
    sys.modules.pop("wtkit.data_sets.fashion_mnist", None)


def test_the_data_set_is_planned_without_having_it(fashion_mnist, capsys):
    assert __main__.main(["plan", "fashion.yaml", "--no-measure"]) == 0
    said = capsys.readouterr().out
    assert "kolen_pollack" in said and "Warning" not in said
    runs = expand(fashion_mnist)
    assert {known_facts(run) for run in runs} == {Facts(60_000, 10_000, 10, 32)}


def test_the_data_set_says_what_is_missing_loads_and_trains(fashion_mnist, monkeypatch, capsys):
    (run, _) = expand(fashion_mnist)
    assert __main__.main(["train", *run.arguments()]) == 1
    assert "fetch it with: wtkit data fashion_mnist --data-root data" in capsys.readouterr().err

    class Made:
        data = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
        targets = torch.arange(20) % 10

        def __init__(self, root, train=True, download=False):
            if download:
                Path(root).mkdir()

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", Made)
    assert __main__.main(["data", "fashion_mnist"]) == 0
    images, labels = next(load(dataclasses.replace(run, batch_size=10)).train_batches(10, 0))
    assert (images.shape, labels.shape) == ((10, 3, 32, 32), (10,))
    small = {"network": "mlp", "norm_order": "own", "stem": "imagenet", "epochs": 1}
    trained = wtkit.train(dataclasses.replace(run, batch_size=10, **small), quiet=True)
    assert data_label(trained.expand_dims("run")) == "Fashion-MNIST"


@pytest.mark.slow
def test_the_ablation_is_planned(tmp_path):
    (tmp_path / "mirror_rate.yaml").write_text(example("ablation", "yaml"))
    assert "snakemake mirror_rate" in COMMANDS
    shutil.copy(ROOT / "config" / "smoke.yaml", tmp_path)
    chosen = ("--directory", str(tmp_path), "--config", f"experiment={tmp_path}/mirror_rate.yaml")
    plan = run("snakemake", "-n", *chosen)
    assert plan.count("rule train:") == 3
    assert "ablation_epochs.png" in plan


def test_experiments_expand(tmp_path):
    for name, runs in (("network", 12), ("data_set", 9)):
        path = tmp_path / f"{name}.yaml"
        path.write_text(example(name, "yaml"))
        assert len(expand(path)) == runs


def test_the_transformer_is_a_run_that_converts(monkeypatch, tmp_path):
    (command,) = [command for command in COMMANDS if command.startswith("wtkit train --method ")]
    trained = []
    monkeypatch.setattr("wtkit.training.train", lambda run, *_, **__: trained.append(run))
    monkeypatch.chdir(tmp_path)
    assert __main__.main(shlex.split(command)[1:]) == 0
    with torch.device("meta"):
        model = networks.build(trained[0], num_classes=10, image_size=trained[0].image_size)
        wtkit.convert(
            model, trained[0].method, seed=0, keep_on_backprop=trained[0].keep_on_backprop
        )
    assert len(feedback_layers(model)) == 50


def test_every_file_in_the_layout_is_there():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/code.md").read_text(), re.M)
    assert len(rows) > 10
    for row in rows:
        names = re.findall(r"`(.*?)`", row)
        folder = Path(names[0]).parent
        for name in names:
            assert (ROOT / name).exists() or (ROOT / folder / name).exists(), name
