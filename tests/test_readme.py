"""What the README shows is run, or, where that takes minutes, held to what is there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wtkit
from wtkit import methods, networks
from wtkit.__main__ import main
from wtkit.config import expand
from wtkit.layers import feedback_layers

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
# training, a download, a shell's own business: these are not for a test
LONG = (
    "make ",
    "wtkit data ",
    "wtkit plan config/smoke.yaml",
    "source ",
    "snakemake mirror_rate",
    "wtkit train --method ",
)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


COMMANDS = [line.split("  ")[0].strip() for block in blocks("sh") for line in block.splitlines()]


def run(*command, cwd=ROOT):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith(LONG)])
def test_commands_run(command):
    run(*shlex.split(command))


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert named
    assert set(named) <= set(targets)
    for target in re.findall(r"`make ([a-z-]+)`", TEXT):
        assert target in targets


def test_the_method_works(tmp_path, monkeypatch):
    (code,) = [block for block in blocks("python") if "class RandomSign" in block]
    (tmp_path / "random_sign.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    layer = wtkit.convert(torch.nn.Sequential(torch.nn.Linear(8, 4)), "random_sign")[0]
    assert torch.allclose(layer.B.abs(), layer.weight.detach().square().mean().sqrt())
    sys.modules.pop("wtkit.methods.random_sign")


@pytest.mark.slow
def test_the_ablation_is_planned(tmp_path):
    (text,) = [block for block in blocks("yaml") if "mirror_lr" in block]
    assert "snakemake mirror_rate" in COMMANDS
    (tmp_path / "mirror_rate.yaml").write_text(text)
    shutil.copy(ROOT / "config" / "smoke.yaml", tmp_path)
    chosen = ("--directory", str(tmp_path), "--config", f"experiment={tmp_path}/mirror_rate.yaml")
    plan = run("snakemake", "-n", *chosen)
    assert plan.count("rule train:") == 3
    assert "ablation_epochs.png" in plan


@pytest.mark.slow
def test_the_loop_runs(tmp_path):
    (code,) = [block for block in blocks("python") if "optimizer" in block]
    assert "delta_angle" in run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_the_results_open(tmp_path):
    (code,) = [block for block in blocks("python") if "select" in block]
    assert "matrix_angle" in run(sys.executable, "-W", "error", "-c", code)


def test_experiments_expand(tmp_path):
    files = blocks("yaml")
    assert len(files) == 3
    shutil.copy(ROOT / "config" / "smoke.yaml", tmp_path)
    for number, text in enumerate(files):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert len(expand(path)) in (3, 9, 12)


def test_the_transformer_is_a_run_that_converts(monkeypatch, tmp_path):
    (command,) = [command for command in COMMANDS if command.startswith("wtkit train --method ")]
    trained = []
    monkeypatch.setattr("wtkit.training.train", lambda run, *_, **__: trained.append(run))
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    with torch.device("meta"):
        model = networks.build(trained[0], num_classes=10, image_size=trained[0].image_size)
        wtkit.convert(model, trained[0].method, seed=0, backprop=trained[0].backprop)
    assert len(feedback_layers(model)) == 26


def test_files_that_it_links_to_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z]+@", TEXT)
