"""Claims on GPUs, so that no two runs on one machine use the same one.

Snakemake counts GPUs but does not assign them. A claim is a lock on a file, one for each GPU and
slot. It ends with the last of its processes, however they end. Imports no torch, so that waiting
costs little.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from ..errors import WtkitError
from ..files import NoLocks, locked

FOLDER = Path("/tmp/wtkit-gpus")  # not TMPDIR, which may differ between users
RUNS_PER_GPU = "WTKIT_RUNS_PER_GPU"
VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 1.0  # seconds


def devices() -> dict[str, str]:
    """The NVIDIA GPUs that this process may use: their names in ``CUDA_VISIBLE_DEVICES``, and their
    UUIDs.

    A GPU partitioned by MIG is listed as its parts. Empty if there is no GPU.
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
    usable = {}
    for name in visible.split(","):
        matching = (
            uuids[int(name) :][:1]
            if name.isdigit()
            else [uuid for uuid in uuids if name and uuid.startswith(name)]
        )
        if not matching:
            break  # as in CUDA: devices after an unknown one are ignored
        usable[name] = matching[0]
    return usable


def _parts(gpu: str) -> list[str]:
    """The UUIDs of a GPU's parts in its section of ``nvidia-smi -L``, or its own if it has none."""
    uuids = re.findall(r"UUID: ([\w./-]+)\)", gpu)
    return uuids[1:] or uuids


def slots() -> int:
    """How many runs may share a GPU, as the environment variable says."""
    return number_of_runs(os.environ.get(RUNS_PER_GPU, "1"), RUNS_PER_GPU)


def number_of_runs(given: object, key: str) -> int:
    """``given`` as a positive whole number; raises WtkitError, with the name ``key``, if it is
    none."""
    if not str(given).isdecimal() or int(str(given)) < 1:
        raise WtkitError(f"{key}: expected a whole number of 1 or more, got {str(given)!r}")
    return int(str(given))


@contextlib.contextmanager
def claim(
    among: Mapping[str, str], count: int = 1, *, runs: int = 1, folder: Path | None = None
) -> Iterator[list[str]]:
    """Claim ``count`` devices at once and give their names; while too few are free, print a line
    and wait.

    Args:
        among: names of devices, and for each an identifier that is the same for all users and
            containers on this machine.
        count: the number of devices to claim.
        runs: how many runs may share a device. Free devices are taken before shared ones.
        folder: the folder of the locks; by default the one that all users share.

    Raises:
        WtkitError: if the machine has too few devices, or the locks cannot be written.
    """
    if count > len(among):
        raise WtkitError(
            f"{count} GPUs asked for, {len(among)} here: {', '.join(among) or 'none'}; ask for "
            "fewer"
        )
    if count > 1 and any(key.startswith("MIG") for key in among.values()):
        raise WtkitError(
            f"{count} GPUs asked for, but the GPUs here are partitioned (MIG); ask for 1, as a run "
            "can use only one part"
        )
    waits = False
    while len(claims := take_locks(among, count, runs, folder or FOLDER)) < count:
        for lock in claims.values():
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
        yield list(claims)
    finally:
        for lock in claims.values():
            lock.close()


def take_locks(
    among: Mapping[str, str], count: int, runs: int, folder: Path
) -> dict[str, IO[bytes]]:
    """Lock up to ``count`` free devices; returns them with their locks."""
    claims: dict[str, IO[bytes]] = {}
    for slot in range(runs):
        for name, key in among.items():
            if name in claims or len(claims) == count:
                continue
            lock = _open(folder, f"{re.sub(r'[^A-Za-z0-9-]', '_', key)}.{slot}")
            try:
                free = locked(lock)
            except NoLocks as error:
                lock.close()
                raise WtkitError(
                    f"cannot lock a GPU in {folder}: {error}; name one with --device cuda"
                ) from None
            if free:
                # inherited by the processes launched for it, and held as long as any of them runs
                os.set_inheritable(lock.fileno(), True)
                claims[name] = lock
            else:
                lock.close()
    return claims


def _open(folder: Path, name: str) -> IO[bytes]:
    """Open a lock file, or create one that any user may lock."""
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
    """Claim GPUs of this machine and hide all others from CUDA; call it before CUDA is used.

    Does nothing if there is no GPU, or if Slurm, torchrun or a ``CUDA_VISIBLE_DEVICES`` of exactly
    ``count`` devices assigns them.
    """
    usable = {} if os.environ.keys() & {"SLURM_JOB_ID", "LOCAL_RANK"} else devices()
    if not usable or (VISIBLE in os.environ and len(usable) == count):
        yield
        return
    with claim(usable, count, runs=slots()) as names:
        os.environ[VISIBLE] = ",".join(names)
        yield
