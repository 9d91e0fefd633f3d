"""GPUs that runs on one machine claim, so that no two get the same one.

Snakemake counts GPUs, but hands none out. A claim is a lock on a file, one for each GPU and slot.
It goes with the last of its processes, however they end. Imports no torch, so that waiting costs
little.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from ..errors import WtkitError

FOLDER = Path("/tmp/wtkit-gpus")  # not TMPDIR, which may be a user's own
RUNS_PER_GPU = "WTKIT_RUNS_PER_GPU"
VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 1.0  # seconds


def devices() -> dict[str, str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls each of this machine's NVIDIA GPUs that we may use, and
    their UUIDs.

    A GPU that is parted (MIG) is its parts. Empty where there is none.
    """
    if shutil.which("nvidia-smi") is None:
        return {}
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    ).stdout
    uuids = [
        uuid for gpu in re.split(r"^(?=GPU)", listed, flags=re.MULTILINE) for uuid in _parts(gpu)
    ]
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return {uuid: uuid for uuid in uuids}
    here = {}
    for name in visible.split(","):
        found = (
            uuids[int(name) :][:1]
            if name.isdigit()
            else [uuid for uuid in uuids if name and uuid.startswith(name)]
        )
        if not found:
            break  # as in CUDA: what follows an unknown device is not there either
        here[name] = found[0]
    return here


def _parts(gpu: str) -> list[str]:
    uuids = re.findall(r"UUID: ([\w./-]+)\)", gpu)
    return uuids[1:] or uuids


def slots() -> int:
    """How many runs may share a GPU, by the environment."""
    return number_of_runs(os.environ.get(RUNS_PER_GPU, "1"), RUNS_PER_GPU)


def number_of_runs(given: object, key: str) -> int:
    """What was ``given`` as ``key``; raises WtkitError for what is no positive number."""
    if not str(given).isdecimal() or int(str(given)) < 1:
        raise WtkitError(f"{key}: expected a whole number from 1 on, got {str(given)!r}")
    return int(str(given))


@contextlib.contextmanager
def claim(
    among: Mapping[str, str], count: int = 1, *, runs: int = 1, folder: Path | None = None
) -> Iterator[list[str]]:
    """Hold ``count`` devices, all at once, and give their names; while too few are free, say so in
    a line and wait.

    Args:
        among: names of devices, and for each what tells it apart on this machine for all users and
            containers.
        runs: how many runs may share a device. Free devices come before those that are shared.
        folder: where the locks are; by default where all users have them.

    Raises:
        WtkitError: if there are fewer devices than that, or the locks cannot be written.
    """
    if count > len(among):
        raise WtkitError(f"{count} GPUs asked for, {len(among)} here: {', '.join(among) or 'none'}")
    if count > 1 and any(key.startswith("MIG") for key in among.values()):
        raise WtkitError(
            f"{count} GPUs asked for, but there are parts of one here (MIG): a run "
            "can have one of these"
        )
    waits = False
    while len(held := take_locks(among, count, runs, folder or FOLDER)) < count:
        for lock in held.values():
            lock.close()
        if not waits:
            print(
                f"Waiting for {count} of {len(among)} GPUs, {runs} run{'s' * (runs > 1)} on each. "
                f"More at a time: {RUNS_PER_GPU}={runs + 1}, or --device cuda, which does not ask.",
                flush=True,
            )
        waits = True
        time.sleep(POLL)
    try:
        yield list(held)
    finally:
        for lock in held.values():
            lock.close()


def take_locks(
    among: Mapping[str, str], count: int, runs: int, folder: Path
) -> dict[str, IO[bytes]]:
    """Up to ``count`` devices that could be locked, with their locks."""
    held: dict[str, IO[bytes]] = {}
    for slot in range(runs):
        for name, key in among.items():
            if name in held or len(held) == count:
                continue
            lock = _open(folder, f"{re.sub(r'[^A-Za-z0-9-]', '_', key)}.{slot}")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # it stays as long as a process that was launched for it
                os.set_inheritable(lock.fileno(), True)
                held[name] = lock
            except BlockingIOError:
                lock.close()
    return held


def _open(folder: Path, name: str) -> IO[bytes]:
    """A lock that any user may take, whoever made it."""
    path = folder / name
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)  # like /tmp itself
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
            path.chmod(0o666)
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise WtkitError(
            f"cannot lock a GPU with {path}: {error.strerror}; name one with --device cuda"
        ) from None


@contextlib.contextmanager
def claimed(count: int = 1) -> Iterator[None]:
    """Claim GPUs of this machine and show CUDA no others; call it before CUDA is used.

    Does nothing where there is no GPU, nor where somebody else hands them out: Slurm, torchrun, or
    a ``CUDA_VISIBLE_DEVICES`` of just so many.
    """
    here = {} if os.environ.keys() & {"SLURM_JOB_ID", "LOCAL_RANK"} else devices()
    if not here or (VISIBLE in os.environ and len(here) == count):
        yield
        return
    with claim(here, count, runs=slots()) as names:
        os.environ[VISIBLE] = ",".join(names)
        yield
