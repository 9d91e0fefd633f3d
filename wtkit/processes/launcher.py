"""Processes that do one thing together: started, ended, and heard as one. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from ..errors import WtkitError

LAUNCHED = "WTKIT_LAUNCHED"  # set for processes whose launcher says what became of each
# seconds after which what is left of a group that failed gets SIGTERM, and SIGKILL
LEAVE, GRACE = 3.0, 30.0
POLL = 0.02  # seconds


def signalled_with_parent(number: signal.Signals) -> None:
    """Have this process sent a signal when its parent ends, however that ends."""
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG


def killed_with_parent(_worker: int) -> None:
    """The same for a process of a DataLoader: left alone it may wait for ever."""
    signalled_with_parent(signal.SIGKILL)


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """What all processes of a group find wrong alike, before they have met, the first of them
    says."""
    try:
        yield
    except WtkitError as error:
        error.said_elsewhere = not is_first()
        raise


def is_first() -> bool:
    """Whether this is the first process of its group, or alone."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def launch(count: int, words: Sequence[str]) -> int:
    """Python with ``words`` in ``count`` processes of one group, as ``torchrun`` starts them.

    Unlike ``torchrun`` it hands down the files that were opened to be inherited, which claims are,
    hands on each signal that it can, and takes its processes with it when it is killed.

    Returns:
        the exit status of the first process to fail, 128 and the signal if it was killed; it is
        said which signal.
    """
    processes: list[subprocess.Popen] = []
    told: list[int] = []

    def hand_on(number: int, _frame: object = None) -> None:
        told.append(number)
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, hand_on)
    # bound, not listening: no other program is given the port, the group may use it
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        group = {
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            LAUNCHED: 1,
        }
        group["MASTER_PORT"] = reserved.getsockname()[1]
        for rank in range(count):
            place = {
                name: str(value)
                for name, value in (group | {"RANK": rank, "LOCAL_RANK": rank}).items()
            }
            processes.append(
                subprocess.Popen(
                    [sys.executable, *words],
                    env={"OMP_NUM_THREADS": "1"} | os.environ | place,
                    close_fds=False,
                    start_new_session=True,  # what a terminal sends reaches it through us, and once
                    preexec_fn=lambda: signalled_with_parent(signal.SIGTERM),  # noqa: PLW1509  # we have no threads
                )
            )
        for missed in [*told]:  # while not all of them had begun
            hand_on(missed)
        failed = _first_failure(processes)
    if failed is None:
        return 0
    status = processes[failed].returncode
    if status < 0 and -status not in told:
        name = signal.Signals(-status).name
        why = ", perhaps for want of memory" if name == "SIGKILL" else ""
        print(
            f"wtkit: process {failed} of {len(processes)} was killed ({name}){why}; the same "
            "command goes on from what was saved",
            file=sys.stderr,
        )
    return status if status >= 0 else 128 - status  # as a shell has it


def _first_failure(processes: list[subprocess.Popen]) -> int | None:
    """The number of the process that failed first, if one did, when all have ended: the others are
    made to."""
    failed, since = None, 0.0
    while any([process.poll() is None for process in processes]):  # a list: look at each of them
        time.sleep(POLL)
        if failed is None:
            failed = _worst(processes)
            since = time.monotonic()
        elif time.monotonic() - since > LEAVE:
            last = time.monotonic() - since > GRACE
            for process in processes:
                process.send_signal(signal.SIGKILL if last else signal.SIGTERM)
            time.sleep(LEAVE)
    return _worst(processes) if failed is None else failed


def _worst(processes: list[subprocess.Popen]) -> int | None:
    """Of those that have failed the one that was killed, if any: the loss of it ends the others."""
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    return min(failed, key=lambda rank: processes[rank].returncode, default=None)
