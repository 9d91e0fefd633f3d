"""The pipeline, run as a user runs it."""

import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import tarfile
import time

import nbformat
import numpy as np
import pipeline
import psutil
import pytest
import test_live_notebooks
import yaml
from pipeline import ROOT, experiment, planned, snakemake

import wtkit
from wtkit.experiments import expand
from wtkit.results import open_run, select

EXPERIMENTS = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
ABLATIONS = sorted(path.stem for path in (ROOT / "config" / "ablations").glob("*.yaml"))
PROFILES = ("default", "slurm")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    with pipeline.planner(tmp_path_factory.mktemp("planner")) as plan:
        yield plan


def test_a_plain_snakemake_plans_the_default_experiment(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = snakemake(tmp_path, "-n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    )  # seconds; 5 without AVX-512
    plan = planned(done)
    assert plan["train"] == len(expand(ROOT / "config" / "digits.yaml"))
    assert plan["gather"] == 1
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - {
        "explore",
        "ablation",
    }
    assert notebooks <= plan.keys()


def test_a_misspelt_config_key_is_named(plan, tmp_path):
    done = plan(tmp_path, "-n", "--config", "experimnt=cifar10")
    assert done.returncode != 0
    assert "unknown config key 'experimnt' (did you mean 'experiment'?)" in done.stderr


def test_no_rule_reads_the_reference_results(plan, tmp_path):
    done = plan(tmp_path, "-n", "-p")
    inputs = [line for line in done.stdout.splitlines() if line.strip().startswith("input:")]
    assert len(inputs) > 7
    assert not any("reference" in line for line in inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_plans_its_own_runs_and_no_others_settings(plan, tmp_path, name):
    done = plan(tmp_path, "-n", "-p", "--config", f"experiment={name}")
    assert done.returncode == 0, done.stderr
    runs = expand(ROOT / "config" / f"{name}.yaml")
    assert planned(done)["train"] == len(runs)
    commands = sorted(line.strip() for line in done.stdout.splitlines() if "wtkit train" in line)
    for run, command in zip(sorted(runs, key=lambda run: run.name), sorted(commands), strict=True):
        assert f"results/{name}/" in command
        assert (f"--data={run.data}" in command) == (run.data != "digits")


@pytest.mark.parametrize(
    ("choice", "words"),
    [("digit", ["digit.yaml", "digits"]), ("nowhere/x.yaml", ["nowhere/x.yaml"])],
)
def test_an_unknown_experiment_is_said_in_a_line(plan, tmp_path, choice, words):
    done = plan(tmp_path, "-n", "--config", f"experiment={choice}")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("wtkit: ")]
    assert all(word in line for word in words)
    assert "Traceback" not in done.stderr


@pytest.fixture
def checkout(tmp_path):
    """A copy of the pipeline's files with experiments whose names are numbers to Snakemake."""
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copy(ROOT / "Snakefile", root)
    shutil.copytree(ROOT / "config", root / "config")
    for name in ("workflow", "notebooks", "wtkit", "profiles", "environment.yml"):
        (root / name).symlink_to(ROOT / name)
    for name in ("0", "010", "10", "1e3", "true"):
        shutil.copy(ROOT / "config/smoke.yaml", root / "config" / f"{name}.yaml")
    return root


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("0", "results/0/"),
        pytest.param("true", "results/true/", marks=pytest.mark.slow),
        pytest.param("1e3", "results/1e3/", marks=pytest.mark.slow),
        pytest.param("config/010.yaml", "results/010/", marks=pytest.mark.slow),
        ("010", "wtkit: config key 'experiment': expected a name, but Snakemake reads 10, which 2"),
        ("7", "Snakemake reads 7, which no files of config/ are called; name the file"),
        ("../config/digits", "wtkit: experiment '../config/digits': its results go to a folder"),
    ],
)
def test_an_experiment_is_known_by_its_name_whatever_snakemake_reads(plan, checkout, choice, words):
    done = plan(
        checkout,
        "-n",
        "-p",
        "--snakefile",
        checkout / "Snakefile",
        "--config",
        f"experiment={choice}",
    )
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "results/digits/" not in done.stdout


@pytest.mark.slow
def test_from_an_experiment_to_its_figures(plan, tmp_path):
    """A whole experiment; the recorded numbers are those of the same runs trained by hand."""
    path = experiment(tmp_path, methods=["backprop", "kolen_pollack", "sign_symmetry"])
    arguments = ("--cores", "2", "--config", f"experiment={path}")
    done = snakemake(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]

    results = tmp_path / "results" / "tiny"
    node = wtkit.open_results(results / "results.nc", quiet=True)["resnet18-width=16"]
    for run in expand(path):
        by_hand = wtkit.train(run, quiet=True)
        recorded = select(node, run.method).isel(run=0)
        for name in ("test_error", "train_loss", "matrix_angle", "delta_angle"):
            np.testing.assert_allclose(
                recorded[name], by_hand[name], rtol=1e-3, atol=1e-3, err_msg=name
            )
    once = tmp_path / "results" / "circuits"
    for figure, folder in {
        "fig1_weight_mirror": once,
        "fig2_kolen_pollack": once,
        "fig3_test_error": results,
        "fig4_angles": results,
        "fig_d3_norm_order": results,
    }.items():
        assert (folder / "figures" / f"{figure}.svg").stat().st_size > 10_000
        assert (folder / "notebooks" / f"{figure}.html").stat().st_size > 10_000
    test_live_notebooks.the_weight_mirror_does_as_its_equations_say(once)
    test_live_notebooks.kolen_pollack_does_as_its_law_says(once)

    again = plan(tmp_path, "-n", *arguments)
    assert "Nothing to be done" in again.stdout + again.stderr

    content = yaml.safe_load(path.read_text())
    content["overrides"] = [{"match": {"method": "sign_symmetry"}, "set": {"lr": 0.01}}]
    path.write_text(yaml.safe_dump(content))
    changed = plan(tmp_path, "-n", *arguments)
    assert planned(changed)["train"] == 1  # the one run whose settings changed

    report = snakemake(tmp_path, *arguments, "--report", "report.html", "--rerun-triggers", "mtime")
    assert report.returncode == 0, report.stderr[-2000:]
    page = (tmp_path / "report.html").read_text()
    assert "fig4_angles" in page
    assert "table1_errors" in page
    assert "System Message" not in page + report.stderr, "docutils could not read a caption"
    assert re.search(r"The paper's claims:\W+n?holds \d", page)
    assert "Angles of W to B" in page and "from the results of" in page
    assert "which reads no results" in page


@pytest.mark.slow
def test_a_notebook_is_executed_again_for_its_code_not_for_its_outputs(plan, tmp_path):
    """In a checkout whose notebook only writes its files."""
    for name in ("Snakefile", "config", "wtkit", "environment.yml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("workflow", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    path = tmp_path / "notebooks/fig1_weight_mirror.ipynb"
    notebook = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell("figures = None", metadata={"tags": ["parameters"]})
    draw = "from pathlib import Path\nfor end in ('svg', 'png'):\n    "
    draw += "Path(figures, f'fig1_weight_mirror.{end}').write_text('drawn')"
    notebook.cells = [parameters, nbformat.v4.new_code_cell(draw)]
    nbformat.write(notebook, path)

    figure = "results/circuits/figures/fig1_weight_mirror.svg"
    of_the_copy = ("--snakefile", tmp_path / "Snakefile", "--cores", "1")
    done = snakemake(tmp_path, figure, *of_the_copy)
    assert done.returncode == 0, done.stderr[-4000:]
    page = tmp_path / "results/circuits/notebooks/fig1_weight_mirror.html"
    assert "write_text" in page.read_text()
    for name in ("digits", "smoke"):
        of_all = planned(plan(tmp_path, "-n", *of_the_copy, "--config", f"experiment={name}"))
        assert "fig1_weight_mirror" not in of_all, "it reads no results: once is enough"
        assert of_all["fig3_test_error"] == 1

    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="saved by JupyterLab")]
    notebook.cells[0].execution_count = 1
    nbformat.write(notebook, path)
    again = plan(tmp_path, "-n", figure, *of_the_copy)
    assert "Nothing to be done" in again.stdout + again.stderr
    notebook.cells[1].source += "\nprint(figures)"
    nbformat.write(notebook, path)
    assert planned(plan(tmp_path, "-n", figure, *of_the_copy))["fig1_weight_mirror"] == 1


@pytest.mark.slow
def test_an_ablation_from_its_file_to_its_figures(tmp_path):
    experiment(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text("base: tiny\nmethods: [kolen_pollack]\nsweep: {weight_decay: [0, 1]}\n")
    done = snakemake(tmp_path, "--cores", "2", "--config", f"experiment={path}")
    assert done.returncode == 0, done.stderr[-4000:]
    results = tmp_path / "results" / "mine"
    for figure in ("ablation", "ablation_epochs", "ablation_predicted"):
        assert (results / "figures" / f"{figure}.svg").stat().st_size > 10_000
    rows = (results / "figures" / "ablation.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "weight_decay" in rows[0]


@pytest.mark.parametrize("target", [*ABLATIONS, "ablations"])
def test_an_ablation_is_a_target(plan, tmp_path, target):
    done = plan(tmp_path, "-n", target)
    assert done.returncode == 0, done.stderr
    names = ABLATIONS if target == "ablations" else [target]
    assert planned(done)["train"] == sum(
        len(expand(ROOT / "config" / "ablations" / f"{name}.yaml")) for name in names
    )
    assert planned(done)["ablation"] == len(names)


@pytest.mark.slow
def test_a_failed_run_leaves_the_others_and_names_its_log(plan, tmp_path):
    path = experiment(
        tmp_path,
        methods=["backprop", "backprop:broken"],
        overrides=[{"match": {"variant": "broken"}, "set": {"data_root": "nowhere"}}],
    )
    arguments = ("results/tiny/results.nc", "--cores", "2", "--config", f"experiment={path}")
    done = snakemake(tmp_path, *arguments)
    assert done.returncode != 0
    assert (
        tmp_path / "results/tiny/runs/resnet18-width=16-relu_bn-backprop-seed0/trajectory.nc"
    ).exists()
    assert (
        "results/tiny/logs/train/resnet18-width=16-relu_bn-backprop-broken-seed0.log" in done.stderr
    )
    assert "no images in nowhere" in done.stdout + done.stderr
    assert planned(plan(tmp_path, "-n", *arguments))["train"] == 1


def test_a_cluster_asks_for_what_the_experiment_needs(plan, tmp_path):
    """profiles/slurm without what only its plugin knows; make test-slurm tries the whole of it."""
    default, slurm = (
        yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text()) for name in PROFILES
    )
    here_alone, there_alone = default.keys() - slurm.keys(), slurm.keys() - default.keys()
    assert here_alone == {"cores"}
    assert there_alone == {
        "executor",
        "jobs",
        "slurm-requeue",
        "retries",
        "set-resources",
        "latency-wait",
    }
    assert all(slurm[key] == default[key] for key in default.keys() & slurm.keys())

    for key in ("executor", "slurm-requeue"):
        slurm.pop(key)
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(slurm))
    done = plan(tmp_path, "-n", "--workflow-profile", tmp_path, "--config", "experiment=imagenet")
    assert done.returncode == 0, done.stderr
    (asked,) = {line for line in done.stdout.splitlines() if "runtime=" in line}
    for words in (
        "gpu=1,",
        "mem_mb=64000,",
        "runtime=1440,",
        "cpus_per_gpu=13,",
        "slurm_extra=--signal=TERM@120",
    ):
        assert words in asked


def test_no_more_runs_are_started_than_gpus_have_room_for(plan, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: GPU-a)'\necho 'GPU 1: X (UUID: GPU-b)'\n")
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    # Snakemake holds what a rule asks for to what there is in all
    arguments = (
        "-n",
        "--set-resources",
        "train:gpu=100",
        "--config",
        "experiment=smoke",
        "runs_per_gpu=3",
    )
    done = plan(tmp_path, *arguments, PATH=path)
    assert re.findall(r" gpu=(\d+)", done.stdout) == ["6"] * 6


@pytest.mark.parametrize("number", ["0", "x"])
def test_an_unusable_number_of_runs_a_gpu_is_named(plan, tmp_path, number):
    done = plan(tmp_path, "-n", "--config", f"runs_per_gpu={number}")
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(
        f"wtkit: config key 'runs_per_gpu': expected a whole number of 1 or more, got '{number}'"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="nothing is refused to root"
)
def test_a_folder_that_cannot_be_written_is_said_in_a_line_and_left_as_it_is(plan, tmp_path):
    as_others = ["setpriv", "--bounding-set=-dac_override", "--"] if os.geteuid() == 0 else []
    path = experiment(tmp_path)
    first, second = expand(path)
    results = tmp_path / "results/tiny"
    wtkit.train(first, results / "runs" / first.name, quiet=True)
    kept = (results / "runs" / first.name / "trajectory.nc").read_bytes()
    arguments = ("results/tiny/results.nc", "--cores", "1", "--config", f"experiment={path}")

    def run(*more):
        words = [*as_others, *pipeline.command(tmp_path, *arguments, *more)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    def refused():
        done = run()
        assert done.returncode != 0
        (line,) = [line for line in done.stderr.splitlines() if "wtkit: " in line]
        assert line == done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        return line

    for folder in (tmp_path, results, results / "runs"):
        folder.chmod(0o555)
    assert f"wtkit: cannot write to {tmp_path}, " in refused()
    tmp_path.chmod(0o755)
    assert refused().startswith(
        "wtkit: cannot write to results/tiny/, results/tiny/runs/; change that (chmod u+w), or"
    )
    assert run("-n").returncode == 0

    assert (results / "runs" / first.name / "trajectory.nc").read_bytes() == kept
    for folder in (results, results / "runs"):
        folder.chmod(0o755)
    done = plan(tmp_path, "-n", *arguments)
    assert re.findall(r"output: results/tiny/runs/(\S+)/", done.stdout) == [second.name]


@pytest.mark.slow
def test_a_run_that_is_trained_elsewhere_is_left_alone(plan, tmp_path):
    path = experiment(tmp_path)
    busy, idle = expand(path)
    runs = tmp_path / "results/tiny/runs"
    (runs / busy.name).mkdir(parents=True)
    arguments = ("results/tiny/results.nc", "--cores", "2", "--config", f"experiment={path}")
    with open(runs / busy.name / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a run by hand in this folder does
        done = snakemake(tmp_path, *arguments)
    assert done.returncode != 0
    (line,) = {line for line in done.stdout.splitlines() if line.startswith("wtkit: ")}
    assert f"another process is training in results/tiny/runs/{busy.name}; wait for it" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert (runs / idle.name / "trajectory.nc").exists()
    again = plan(tmp_path, "-n", *arguments)
    assert re.findall(r"output: results/tiny/runs/(\S+)/", again.stdout) == [busy.name]


@pytest.mark.slow
def test_a_run_that_is_killed_is_said_to_be_and_goes_on(tmp_path):
    """With SIGKILL, as the system does for want of memory; the other run ends, the same command
    completes the first."""
    path = experiment(
        tmp_path,
        settings={"epochs": 20},  # more than pass while its first is noticed
        overrides=[{"match": {"method": "kolen_pollack"}, "set": {"epochs": 1}}],
    )
    first, second = expand(path)
    arguments = ("results/tiny/results.nc", "--cores", "2", "--config", f"experiment={path}")
    log = tmp_path / f"results/tiny/logs/train/{first.name}.log"
    with subprocess.Popen(
        pipeline.command(tmp_path, *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while not (log.exists() and "epoch 1/" in log.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        (trainer,) = [
            child.pid
            for child in psutil.Process(process.pid).children(recursive=True)
            if first.name in " ".join(command_of(child)) and "python" in command_of(child)[0]
        ]
        os.kill(trainer, signal.SIGKILL)
        output = process.stdout.read()
    assert process.returncode != 0
    said = (
        "wtkit: killed (SIGKILL), perhaps for lack of memory; the same command resumes from "
        "what was saved"
    )
    assert said in output.splitlines()
    assert log.read_text().splitlines()[-1] == said
    kept = tmp_path / f"results/tiny/runs/{second.name}/trajectory.nc"
    before = kept.read_bytes()

    done = snakemake(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    assert log.read_text().startswith("Resuming after epoch")
    assert kept.read_bytes() == before
    recorded = open_run(tmp_path / f"results/tiny/runs/{first.name}/trajectory.nc")
    unbroken = wtkit.train(first, quiet=True)
    for name in ("test_error", "train_loss", "matrix_angle", "delta_angle"):
        np.testing.assert_array_equal(recorded[name], unbroken[name], err_msg=name)


def command_of(process):
    try:
        return process.cmdline() or [""]
    except psutil.Error:  # it ended as we looked
        return [""]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("rsync"), reason="Snakemake's plugin needs it")
def test_data_come_from_storage_and_results_go_there(tmp_path):
    """With Snakemake's file-system plugin; the others, S3's among them, have the same interface."""
    pytest.importorskip("snakemake_storage_plugin_fs")
    path = experiment(tmp_path, methods=["backprop"], settings={"data_root": "data/mine"})
    bucket, here = tmp_path / "bucket", tmp_path / "here"
    bucket.mkdir(), here.mkdir()
    with tarfile.open(bucket / "mine.tar", "w") as archive:
        archive.add(tmp_path / "images", "data/mine")
    storage = ("--default-storage-provider", "fs", "--default-storage-prefix", bucket)
    words = ("results/tiny/results.nc", "--cores", "1", *storage, "--config", f"experiment={path}")
    arguments = (*words, f"archive={bucket}/mine.tar")
    done = snakemake(here, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(wtkit.open_results(bucket / "results/tiny/results.nc", quiet=True)) == [
        "resnet18-width=16"
    ]
    assert not (here / "results").exists()
    again = snakemake(here, "-n", *arguments)
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_outlives_snakemake_is_not_trained_again(tmp_path, how):
    """Snakemake alone is ended, and its trainer finishes. The next call deletes the run's output,
    which is incomplete to Snakemake; finished.nc has it."""
    path = experiment(tmp_path, methods=["backprop"], settings={"epochs": 20})
    (run,) = expand(path)
    target = f"results/tiny/runs/{run.name}/trajectory.nc"
    arguments = (target, "--cores", "1", "--config", f"experiment={path}")
    log, folder = (
        tmp_path / f"results/tiny/{name}"
        for name in (f"logs/train/{run.name}.log", f"runs/{run.name}")
    )
    with subprocess.Popen(
        pipeline.command(tmp_path, *arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not (log.exists() and "epoch 0/" in log.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        (trainer,) = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if run.name in " ".join(command_of(child)) and "python" in command_of(child)[0]
        ]
        trainer.suspend()
        process.send_signal(how)
        time.sleep(1)
        trainer.resume()
        process.wait(300)
    trainer.wait(300)
    written = (folder / "trajectory.nc").read_bytes()
    assert not (folder / "checkpoint.pt").exists()

    snakemake(tmp_path, "--unlock", *arguments)
    done = snakemake(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (folder / "trajectory.nc").read_bytes() == written
    if how is signal.SIGKILL:
        assert (
            log.read_text() == f"results/tiny/runs/{run.name} holds this run already, finished.\n"
        )

    forced = snakemake(tmp_path, *arguments, "-R", "train")
    assert forced.returncode == 0, forced.stderr[-4000:]
    assert "epoch 20/20" in log.read_text()
    assert (folder / "trajectory.nc").read_bytes() != written
