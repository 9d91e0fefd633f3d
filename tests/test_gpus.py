"""Claims of GPUs, on machines that have none: a made-up nvidia-smi says what there is."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import wtkit
from wtkit.processes import __main__, gpus

UUIDS = [f"GPU-{digit * 8}-aaaa-bbbb-cccc-{digit * 12}" for digit in "0123"]
AMONG = dict(zip(("cuda:0", "cuda:1", "cuda:2", "cuda:3"), UUIDS, strict=True))


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("SLURM_JOB_ID", "LOCAL_RANK", gpus.VISIBLE, gpus.RUNS_PER_GPU):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("wtkit.processes.gpus.FOLDER", tmp_path / "locks")
    monkeypatch.setattr("wtkit.processes.gpus.POLL", 0.02)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Gives the machine so many GPUs, or those that are listed."""

    def machine(listed):
        if isinstance(listed, int):
            listed = "\n".join(
                f"GPU {i}: NVIDIA H100 (UUID: {uuid})" for i, uuid in enumerate(UUIDS[:listed])
            )
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}\nEND\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return machine


def test_claims_spread_over_all_devices_before_they_share_one(tmp_path):
    claims = [gpus.claim(AMONG, runs=2, folder=tmp_path) for _ in range(8)]
    names = [claim.__enter__()[0] for claim in claims]
    assert names == [*AMONG, *AMONG]
    claims[2].__exit__(None, None, None)
    with gpus.claim(AMONG, runs=2, folder=tmp_path) as again:
        assert again == ["cuda:2"]


def test_several_devices_are_held_all_at_once_or_not_at_all(tmp_path, capsys):
    held = []

    def three():
        with gpus.claim(AMONG, 3, folder=tmp_path) as names:
            held.extend(names)

    with gpus.claim(AMONG, 2, folder=tmp_path) as two:
        assert two == ["cuda:0", "cuda:1"]
        thread = threading.Thread(target=three)
        thread.start()
        time.sleep(0.1)
        assert not held
    thread.join(10)
    assert len(held) == 3
    said = capsys.readouterr().out
    assert said.count("\n") == 1  # however long it waits
    assert "Waiting for 3 of 4 GPUs, 1 run on each" in said
    assert f"{gpus.RUNS_PER_GPU}=2" in said


def test_equal_numbers_of_different_devices_do_not_collide(tmp_path):
    ours, theirs = {"cuda:0": UUIDS[0]}, {"cuda:0": UUIDS[1]}  # two containers with a common /tmp
    with gpus.claim(ours, folder=tmp_path), gpus.claim(theirs, folder=tmp_path) as names:
        assert names == ["cuda:0"]


def test_a_claim_goes_with_its_process_however_that_ends(tmp_path):
    code = f"""
import time
from pathlib import Path
from wtkit.processes import __main__, gpus
with gpus.claim({{"cuda:0": "x"}}, folder=Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert gpus.take_locks({"cuda:0": "x"}, 1, 1, tmp_path) == {}
        process.send_signal(signal.SIGKILL)
    with gpus.claim({"cuda:0": "x"}, folder=tmp_path) as names:
        assert names == ["cuda:0"]


def test_too_few_devices_are_said_at_once(tmp_path):
    with pytest.raises(wtkit.WtkitError, match="3 GPUs asked for, 1 here: cuda:0"):
        gpus.claim({"cuda:0": "x"}, 3, folder=tmp_path).__enter__()


def test_locks_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        wtkit.WtkitError,
        match=r"cannot lock a GPU with .*file/x\.0: .*; name one with --device cuda",
    ):
        gpus.claim({"cuda:0": "x"}, folder=tmp_path / "file").__enter__()


def test_all_users_may_take_a_lock(tmp_path):
    with gpus.claim({"cuda:0": "x"}, folder=tmp_path / "locks"):
        assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
        assert (tmp_path / "locks" / "x.0").stat().st_mode & 0o777 == 0o666


def test_devices_are_what_cuda_would_show(machine, monkeypatch):
    machine(4)
    assert gpus.devices() == {uuid: uuid for uuid in UUIDS}
    for visible, seen in [
        ("", {}),
        ("-1", {}),
        ("2,0", {"2": UUIDS[2], "0": UUIDS[0]}),
        ("1,7,0", {"1": UUIDS[1]}),
        (UUIDS[3], {UUIDS[3]: UUIDS[3]}),
        ("GPU-11111111", {"GPU-11111111": UUIDS[1]}),
    ]:
        monkeypatch.setenv(gpus.VISIBLE, visible)
        assert gpus.devices() == seen


def test_a_parted_gpu_is_its_parts(machine):
    machine(
        f"GPU 0: NVIDIA H100 (UUID: {UUIDS[0]})\n  MIG 1g.10gb Device 0: (UUID: MIG-a)\n"
        f"  MIG 1g.10gb Device 1: (UUID: MIG-b)\nGPU 1: NVIDIA H100 (UUID: {UUIDS[1]})"
    )
    assert list(gpus.devices()) == ["MIG-a", "MIG-b", UUIDS[1]]
    with (
        pytest.raises(wtkit.WtkitError, match=r"2 GPUs asked for, .*MIG"),
        gpus.claimed(2),
    ):
        pass


def test_a_claim_is_all_that_cuda_is_shown(machine, monkeypatch):
    machine(2)
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    with gpus.claim({"0": UUIDS[0]}), gpus.claimed():
        assert os.environ[gpus.VISIBLE] == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("SLURM_JOB_ID", "7"), ("LOCAL_RANK", "1"), (gpus.VISIBLE, "1"), (gpus.VISIBLE, "")],
)
def test_nothing_is_claimed_where_others_hand_out(machine, monkeypatch, name, value):
    machine(2)
    monkeypatch.setenv(name, value)
    before = os.environ.get(gpus.VISIBLE)
    with gpus.claimed():
        assert os.environ.get(gpus.VISIBLE) == before
    assert not gpus.FOLDER.exists()


def test_a_machine_without_a_gpu_claims_nothing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with gpus.claimed():
        assert gpus.VISIBLE not in os.environ
    assert not gpus.FOLDER.exists()


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_an_unusable_number_of_runs_is_named(monkeypatch, value):
    monkeypatch.setenv(gpus.RUNS_PER_GPU, value)
    with pytest.raises(
        wtkit.WtkitError,
        match=rf"{gpus.RUNS_PER_GPU}: expected a whole number of 1 or more, got '{value}'",
    ):
        gpus.slots()


SHOW = """
import os, sys
from pathlib import Path
from wtkit.processes import gpus
words = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "WORLD_SIZE")]
if words[1] != "1":  # one process only, for it takes what it counts
    devices = dict(zip(sys.argv[2:], sys.argv[2:]))
    words.append(len(gpus.take_locks(devices, 4, 1, Path(sys.argv[1]))))
os.write(1, (" ".join(map(str, words)) + os.linesep).encode())  # in one piece: they share a pipe
"""


def launched(count, folder):
    (folder / "show.py").write_text(SHOW)
    words = [str(count), "show.py", str(gpus.FOLDER), *UUIDS]
    code = f"""
import pathlib, sys
from wtkit.processes import __main__, gpus
gpus.FOLDER = pathlib.Path({str(gpus.FOLDER)!r})
sys.exit(__main__.main({words}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize("count", [0, 1])
def test_one_process_is_started_as_it_is(machine, tmp_path, count):
    machine(4)
    assert launched(count, tmp_path) == ["None None None 4"]


STAY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: open("told" + os.environ["RANK"], "w").close())
open(os.environ["RANK"], "w").close()
while not os.path.exists("leave"):
    time.sleep(0.02)
"""


def test_a_claim_outlives_a_launcher_that_is_killed_as_its_processes_do(machine, tmp_path):
    machine(2)
    among = dict(zip(UUIDS[:2], UUIDS[:2], strict=True))
    code = f"""
import pathlib
from wtkit.processes import __main__, gpus
gpus.FOLDER = pathlib.Path({str(gpus.FOLDER)!r})
__main__.main(["2", "-c", {STAY!r}])
"""

    def wait_for(*names):
        deadline = time.monotonic() + 60
        while not all((tmp_path / name).exists() for name in names):
            assert time.monotonic() < deadline, f"still no {names}"
            time.sleep(0.02)

    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        wait_for("0", "1")
        process.kill()
    wait_for("told0", "told1")
    assert gpus.take_locks(among, 2, 1, gpus.FOLDER) == {}
    (tmp_path / "leave").touch()
    with gpus.claim(among, 2) as names:
        assert names == UUIDS[:2]


@pytest.mark.slow
def test_several_processes_share_what_was_claimed_for_them(machine, monkeypatch, tmp_path):
    machine(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = ",".join(UUIDS[:2])
    assert launched(2, tmp_path) == [f"{shown} 0 2 2", f"{shown} 1 2"]
    with gpus.claim({uuid: uuid for uuid in UUIDS}, 4) as names:
        assert names == UUIDS  # free again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status"), [("os.kill(os.getpid(), 9)", 137), ("os._exit(75)", 75)]
)
def test_of_several_processes_the_first_to_fail_is_told(monkeypatch, tmp_path, end, status):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "fail.py").write_text(
        f"import os, time\nif os.environ['RANK'] == '1':\n    {end}\ntime.sleep(60)\n"
    )
    words = [sys.executable, "-m", "wtkit.processes", "2", tmp_path / "fail.py"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["2"], ["x", "-m", "wtkit"], ["-1", "-m", "wtkit"]])
def test_a_count_that_is_none_is_refused(arguments):
    with pytest.raises(wtkit.WtkitError, match="expected a number of GPUs, then a command"):
        __main__.main(arguments)
