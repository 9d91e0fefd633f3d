"""The pipeline on a Slurm cluster: make test-slurm, which starts one (tests/slurm.sh)."""

import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from pipeline import ROOT, command, experiment

import wtkit
from wtkit.experiments import expand
from wtkit.results import open_run

if "WTKIT_TEST_SLURM" not in os.environ:
    pytest.skip("needs the cluster of `make test-slurm`", allow_module_level=True)

WAIT = 240  # seconds for anything that must come


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory):
    """Snakemake's plugin, in a folder of its own: where it is, every start of Snakemake takes a
    second more."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        yield
        return
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["slurm"]
    folder = tmp_path_factory.mktemp("plugin")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--prefix", folder, *extra], check=True
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(packages), prepend=os.pathsep)
        yield


class Pipeline:
    """Snakemake at work, until the experiment's results are gathered."""

    def __init__(self, folder, path, *arguments):
        self.folder, self.path = folder, path
        self.runs = {run.name: run for run in expand(path)}
        # no accounting here, which Snakemake's plugin asks otherwise; and short runs
        words = ("--workflow-profile", "slurm", "--slurm-status-command", "squeue", *arguments)
        words += ("--slurm-init-seconds-before-status-checks", "3")
        self.output = open(folder / "output", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command(folder, f"results/{path.stem}/results.nc", *words, "--config",
                f"experiment={path}"),
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=self.output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:  # a test that failed
            self.process.kill()
        self.process.wait()
        self.output.close()

    def said(self):
        return (self.folder / "output").read_text()

    def log(self, run):
        path = self.folder / "results" / self.path.stem / "logs" / "train" / f"{run}.log"
        return path.read_text() if path.exists() else ""

    def job(self, run):
        """The latest job of a run, by Slurm's number; the first line of its log names it."""
        (*_, number) = re.findall(rf"SLURM jobid (\d+) \(log: \S*{re.escape(run)}", self.said())
        return number

    def until(self, true):
        end = time.monotonic() + WAIT
        while not true():
            assert time.monotonic() < end, self.said()[-4000:]
            time.sleep(0.2)

    def finished(self):
        """What was recorded, by run."""
        self.until(lambda: self.process.poll() is not None)
        assert self.process.returncode == 0, self.said()[-6000:]
        folder = self.folder / "results" / self.path.stem
        assert (folder / "results.nc").exists()
        # the others ran here
        assert set(re.findall(r"slurm_logs/(\w+)/", self.said())) == {"rule_train"}
        return {run: open_run(folder / "runs" / run / "trajectory.nc") for run in self.runs}


def slurm(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def allocated(job):
    return re.search(r"TresPerJob=(\S+)", slurm("scontrol", "show", "job", job))[1]


def assert_equal(recorded, expected):
    for name in set(recorded) - {"seconds", "provenance"}:
        np.testing.assert_array_equal(recorded[name], expected[name], err_msg=name)


def test_runs_that_are_disturbed_end_as_if_they_had_not_been(tmp_path):
    path = experiment(
        tmp_path, methods=["weight_mirror"], seeds=[0, 1, 2, 3], networks=["resnet18"],
        settings={"epochs": 20},
    )  # fmt: skip
    disturbances = [
        lambda job: slurm("scontrol", "requeue", job),
        # as --signal=TERM@120 and --signal=USR1@120 have it sent before the time is over
        lambda job: slurm("scancel", "--signal=TERM", job),
        lambda job: slurm("scancel", "--signal=USR1", job),
        # a job that comes before all others preempts them: SIGTERM, some seconds of grace, SIGKILL
        lambda job: slurm(
            "sbatch", "--partition=high", "--gpus=2", "--output=/dev/null", "--wrap=sleep 1"
        ),
    ]
    with Pipeline(tmp_path, path) as pipeline:
        undisturbed = list(pipeline.runs)
        for disturb in disturbances:
            pipeline.until(lambda: [run for run in undisturbed if "epoch 2/" in pipeline.log(run)])
            run = next(run for run in undisturbed if "epoch 2/" in pipeline.log(run))
            undisturbed.remove(run)
            job = pipeline.job(run)
            assert allocated(job) == "gres:gpu:1"
            disturb(job)
        recorded = pipeline.finished()
    for run, config in pipeline.runs.items():
        assert pipeline.log(run).startswith("Resuming after epoch")
        assert_equal(recorded[run], wtkit.train(config, quiet=True))


def test_a_run_on_several_gpus_is_disturbed_as_little(tmp_path):
    path = experiment(
        tmp_path, methods=["kolen_pollack"], networks=["resnet18"], settings={"epochs": 20}
    )
    (run,) = expand(path)
    name = run.name
    with Pipeline(tmp_path, path, "--set-resources", "train:gpu=2") as pipeline:
        pipeline.until(lambda: "epoch 2/" in pipeline.log(name))
        job = pipeline.job(name)
        assert allocated(job) == "gres:gpu:2"
        slurm("scancel", "--signal=USR1", job)
        recorded = pipeline.finished()[name]
    assert pipeline.log(name).startswith("Resuming after epoch")
    # not the run on one, whose BatchNorm has the whole batch: on processors, each process
    # normalises with its share
    by_hand = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "wtkit",
        "train",
    ]
    folder = tmp_path / "by_hand"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*by_hand, *run.arguments(), "--output", folder],
        env=environment,
        check=True,
        capture_output=True,
    )
    assert_equal(recorded, open_run(folder / "trajectory.nc"))
