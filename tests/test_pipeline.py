"""The pipeline, run as a user runs it."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from images import image_folder

import wtkit
from wtkit import trajectory
from wtkit.config import expand

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
ABLATIONS = sorted(path.stem for path in (ROOT / "config" / "ablations").glob("*.yaml"))


def snakemake(folder, *arguments, **environment):
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, *arguments]
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=os.environ | environment, check=False, cwd=ROOT
    )


def planned(done):
    """Jobs of the plan by rule."""
    rows = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {rule: int(count) for rule, count in rows}


def experiment(folder, **changes):
    """A file of an experiment that takes seconds a run."""
    images = image_folder(folder / "images")
    content = {
        "methods": ["backprop", "kolen_pollack"],
        "networks": ["resnet18"],
        "seeds": [0],
        "settings": {
            "data": "image_folder", "data_root": str(images), "image_size": 8, "epochs": 1, "batch_size": 12,
            "lr": 0.02, "weight_decay": 0.05, "delta_examples": 6,
        },
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def test_a_plain_snakemake_plans_the_default_experiment(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = snakemake(tmp_path, "-n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4  # seconds
    plan = planned(done)
    assert plan["train"] == len(expand(ROOT / "config" / "digits.yaml"))
    assert plan["gather"] == 1
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - {"explore", "ablation"}
    assert notebooks <= plan.keys()


def test_a_misspelt_config_key_is_named(tmp_path):
    done = snakemake(tmp_path, "-n", "--config", "experimnt=cifar10")
    assert done.returncode != 0
    assert "unknown config key 'experimnt' (did you mean 'experiment'?)" in done.stderr


def test_no_rule_reads_the_reference_results(tmp_path):
    done = snakemake(tmp_path, "-n", "-p")
    inputs = [line for line in done.stdout.splitlines() if line.strip().startswith("input:")]
    assert len(inputs) > 7
    assert not any("reference" in line for line in inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_plans_its_own_runs_and_no_others_settings(tmp_path, name):
    done = snakemake(tmp_path, "-n", "-p", "--config", f"experiment={name}")
    assert done.returncode == 0, done.stderr
    runs = expand(ROOT / "config" / f"{name}.yaml")
    assert planned(done)["train"] == len(runs)
    commands = sorted(line.strip() for line in done.stdout.splitlines() if "wtkit train" in line)
    for run, command in zip(sorted(runs, key=lambda run: run.name), sorted(commands), strict=True):
        assert f"results/{name}/" in command
        assert (f"--data={run.data}" in command) == (run.data != "digits")


@pytest.mark.parametrize(
    ("choice", "words"), [("digit", ["digit.yaml", "digits"]), ("nowhere/x.yaml", ["nowhere/x.yaml"])]
)
def test_an_unknown_experiment_is_said_in_a_line(tmp_path, choice, words):
    done = snakemake(tmp_path, "-n", "--config", f"experiment={choice}")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("wtkit: ")]
    assert all(word in line for word in words)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_from_an_experiment_to_its_figures(tmp_path):
    """A whole experiment; the recorded numbers are those of the same runs trained by hand."""
    path = experiment(tmp_path, methods=["backprop", "kolen_pollack", "sign_symmetry"])
    arguments = ("--cores", "2", "--config", f"experiment={path}")
    done = snakemake(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]

    results = tmp_path / "results" / "tiny"
    node = wtkit.open_results(results / "results.nc", quiet=True)["resnet18"]
    for run in expand(path):
        by_hand = wtkit.train(run, quiet=True)
        recorded = trajectory.select(node, run.method).isel(run=0)
        for name in ("test_error", "train_loss", "matrix_angle", "delta_angle"):
            np.testing.assert_allclose(recorded[name], by_hand[name], rtol=1e-3, atol=1e-3, err_msg=name)
    for figure in ("fig1_weight_mirror", "fig2_kolen_pollack", "fig3_test_error", "fig4_angles", "fig_d3_norm_order"):
        assert (results / "figures" / f"{figure}.svg").stat().st_size > 10_000
        assert (results / "notebooks" / f"{figure}.html").stat().st_size > 10_000

    again = snakemake(tmp_path, "-n", *arguments)
    assert "Nothing to be done" in again.stdout + again.stderr

    content = yaml.safe_load(path.read_text())
    content["overrides"] = [{"match": {"method": "sign_symmetry"}, "set": {"lr": 0.01}}]
    path.write_text(yaml.safe_dump(content))
    changed = snakemake(tmp_path, "-n", *arguments)
    assert planned(changed)["train"] == 1  # the one run whose settings changed

    report = snakemake(tmp_path, *arguments, "--report", "report.html", "--rerun-triggers", "mtime")
    assert report.returncode == 0, report.stderr[-2000:]
    page = (tmp_path / "report.html").read_text()
    assert "fig4_angles" in page
    assert "table1_errors" in page


@pytest.mark.slow
def test_an_ablation_from_its_file_to_its_figures(tmp_path):
    experiment(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text("base: tiny\nmethods: [kolen_pollack]\nsweep: {weight_decay: [0, 1]}\n")
    done = snakemake(tmp_path, "--cores", "2", "--config", f"experiment={path}")
    assert done.returncode == 0, done.stderr[-4000:]
    results = tmp_path / "results" / "mine"
    for figure in ("ablation", "ablation_epochs"):
        assert (results / "figures" / f"{figure}.svg").stat().st_size > 10_000
    rows = (results / "figures" / "ablation.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "weight_decay" in rows[0]


@pytest.mark.parametrize("target", [*ABLATIONS, "ablations"])
def test_an_ablation_is_a_target(tmp_path, target):
    done = snakemake(tmp_path, "-n", target)
    assert done.returncode == 0, done.stderr
    names = ABLATIONS if target == "ablations" else [target]
    assert planned(done)["train"] == sum(len(expand(ROOT / "config" / "ablations" / f"{name}.yaml")) for name in names)
    assert planned(done)["ablation"] == len(names)


@pytest.mark.slow
def test_a_failed_run_leaves_the_others_and_names_its_log(tmp_path):
    path = experiment(
        tmp_path,
        methods=["backprop", "backprop:broken"],
        overrides=[{"match": {"variant": "broken"}, "set": {"data_root": "nowhere"}}],
    )
    arguments = ("results/tiny/results.nc", "--cores", "2", "--config", f"experiment={path}")
    done = snakemake(tmp_path, *arguments)
    assert done.returncode != 0
    assert (tmp_path / "results/tiny/runs/resnet18-relu_bn-backprop-seed0/trajectory.nc").exists()
    assert "results/tiny/logs/train/resnet18-relu_bn-backprop-broken-seed0.log" in done.stderr
    assert "no images in nowhere" in done.stdout + done.stderr
    assert planned(snakemake(tmp_path, "-n", *arguments))["train"] == 1
