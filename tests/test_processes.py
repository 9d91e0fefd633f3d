"""Processes of one run: what becomes of them when one is gone, and what is said of it, by gloo with
two of them."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from images import image_folder

import wtkit
from wtkit import files
from wtkit.experiments import RunConfig
from wtkit.processes import Share, is_first
from wtkit.training import run
from wtkit.training.run import Run

OURS = ["-m", "wtkit.processes", "2"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TRAIN = ["-m", "wtkit", "train", "--method=backprop"]
SMALL = [*TRAIN, "--device=cpu", "--network=mlp", "--network-option=hidden=[8]", "--epochs=100000"]
LONG = [*SMALL, "--image-size=8"]


def begun(launcher, words, folder, **pipes):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, *words], cwd=folder, env=environment, text=True, **pipes
    )


def said(words, folder):
    with begun(OURS, words, folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        lines = process.stderr.read().splitlines()
    return process.returncode, lines


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--option", "scale=2"], 1, "wtkit: unknown option of backprop 'scale'"),
        (["--device=nonsense"], 1, "wtkit: no device 'nonsense' here"),
        (
            ["--metod", "frozen"],
            2,
            "wtkit train: unrecognized argument --metod (did you mean '--method'?)",
        ),
        pytest.param(
            ["--batch-size=9"], 1, "wtkit: setting 'batch_size': 9 images", marks=pytest.mark.slow
        ),
        pytest.param(
            ["--data=imagenet"], 1, "wtkit: no images in data/imagenet/", marks=pytest.mark.slow
        ),
    ],
)
def test_what_all_processes_find_wrong_is_said_once(tmp_path, words, status, text):
    found, lines = said([*TRAIN, *words], tmp_path)
    assert (found, len(lines)) == (status, 1), lines
    assert lines[0].startswith(text)


def wait_until_saved(process, folder):
    while not (folder / "run/checkpoint.pt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def train_until_saved(launcher, folder, **options):
    """A launcher and its two processes, of which one has written a checkpoint."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = begun(launcher, [*LONG, "--output=run"], folder, **pipes, **options)
    wait_until_saved(process, folder)
    return process, psutil.Process(process.pid).children()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [OURS, TORCHRUN], ids=["ours", "torchrun"])
def test_a_launcher_that_is_killed_takes_its_processes_with_it(tmp_path, launcher):
    process, ours = train_until_saved(launcher, tmp_path)
    process.kill()
    gone, alive = psutil.wait_procs(ours, timeout=30)
    assert (len(gone), alive) == (2, [])
    # they had time to say it, and to write a checkpoint
    lines = process.stderr.read().splitlines()
    process.stderr.close(), process.wait()
    assert len(lines) == 1, lines
    assert lines[0].startswith("wtkit: run: stopped by SIGTERM after step ")
    with files.held(tmp_path / "run", "is held still"):
        pass


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_leaves_those_that_decode_images_to_the_run(tmp_path):
    root = image_folder(tmp_path / "images", size=72)
    words = [*SMALL, "--data=image_folder", f"--data-root={root}", "--image-size=72"]
    words += ["--workers=1", "--batch-size=12", "--output=run"]
    with begun([], words, tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
               start_new_session=True) as process:  # fmt: skip
        wait_until_saved(process, tmp_path)
        os.killpg(process.pid, signal.SIGTERM)
        lines = process.stderr.read().splitlines()
    assert (process.returncode, len(lines)) == (os.EX_TEMPFAIL, 1), lines
    assert lines[0].startswith("wtkit: run: stopped by SIGTERM after step ")


@pytest.mark.slow
def test_what_nohup_ignores_stays_ignored(tmp_path):
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process, ours = train_until_saved(OURS, tmp_path, **ignored)
    process.send_signal(signal.SIGHUP)
    assert psutil.wait_procs([*ours, psutil.Process(process.pid)], timeout=1)[0] == []
    process.send_signal(signal.SIGTERM)
    (line,) = process.stderr.read().splitlines()
    process.stderr.close()
    assert process.wait() == os.EX_TEMPFAIL and "stopped by SIGTERM" in line


def test_a_signal_that_comes_after_all_processes_have_agreed_waits_for_the_next_check(monkeypatch):
    signals = []

    def agreed_just_before_the_signal(share, flag):
        signals.append("SIGTERM")
        return flag

    monkeypatch.setattr(run, "any_of", agreed_just_before_the_signal)
    state = SimpleNamespace(share=Share(rank=0, world=2), step=10, steps=100)
    # otherwise this process would stop and the other would wait for it in vain
    assert not Run.stops(state, signals)
    assert Run.stops(state, signals)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_the_loss_of_one_process_is_said_in_a_line(tmp_path, which):
    process, ours = train_until_saved(OURS, tmp_path)
    ours[which].kill()
    lines = process.stderr.read().splitlines()
    process.stderr.close()
    assert process.wait() == 128 + signal.SIGKILL
    assert len(lines) == 1, lines
    assert lines[0].startswith(
        f"wtkit: process {which} of 2 was killed (SIGKILL), perhaps for lack of memory; the same"
    )
    assert psutil.wait_procs(ours, timeout=0)[1] == []
    assert (tmp_path / "run/checkpoint.pt").exists()


@pytest.mark.slow
def test_a_folder_of_another_run_is_said_once(tmp_path):
    settings = {"network": "mlp", "network_options": {"hidden": [8]}, "image_size": 8, "epochs": 1}
    wtkit.train(RunConfig(method="backprop", **settings), tmp_path / "run", quiet=True)
    status, lines = said([*LONG, "--output=run"], tmp_path)
    assert (status, len(lines)) == (1, 1), lines
    assert "run/trajectory.nc is a run with other settings" in lines[0]


GROUP = """
import os, signal, sys, time
rank = os.environ["RANK"]
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75 if rank == "1" else 0))
open(rank, "w").close()
time.sleep(60)
"""


def test_a_signal_is_handed_on_and_the_status_handed_back(tmp_path):
    with begun(["-c", "import sys; from wtkit.processes import launch; sys.exit(launch(2, ['-c', "
                      f"{GROUP!r}]))"],
               [], tmp_path) as process:  # fmt: skip
        while not all((tmp_path / rank).exists() for rank in "01"):
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == os.EX_TEMPFAIL


def test_a_process_that_will_not_leave_is_made_to(tmp_path):
    code = """
import sys
from wtkit.processes import launcher as processes
processes.LEAVE = processes.GRACE = 0.2
stay = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
words = ["-c", stay + "os.environ['RANK'] == '1' and os._exit(3); time.sleep(60)"]
sys.exit(processes.launch(2, words))
"""
    with begun(["-c", code], [], tmp_path) as process:
        assert process.wait(20) == 3


def test_alone_a_process_is_the_first(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert is_first()
    monkeypatch.setenv("RANK", "1")  # whatever it means to others
    assert is_first()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_first()
