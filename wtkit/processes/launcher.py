"""Start and end the processes of a group together. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from ..errors import WtkitError

LAUNCHED = "WTKIT_LAUNCHED"  # set in processes whose launcher reports how each of them ended
# seconds after which the remaining processes of a failed group get SIGTERM, and SIGKILL
LEAVE, GRACE = 3.0, 30.0
POLL = 0.02  # seconds
CAN_WAIT_FOR_SIGNALS = hasattr(signal, "sigwaitinfo")  # not on macOS


def signalled_with_parent(number: signal.Signals) -> None:
    """Send this process a signal when its parent ends, however it ends."""
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG


def killed_with_parent(_worker: int) -> None:
    """Kill a DataLoader's process when its parent ends; on its own it may wait for ever.

    It obeys no SIGTERM but its parent's. A scheduler sends one to every process of a job, and the
    parent then needs images until the end of its step.
    """
    signalled_with_parent(signal.SIGKILL)
    if CAN_WAIT_FOR_SIGNALS:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_if_parent_says_so, daemon=True).start()


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Hold SIGTERM back, so that a process that starts within this context is not killed before
    :func:`killed_with_parent`."""
    if not CAN_WAIT_FOR_SIGNALS:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_if_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Within this context, only the first process of a group prints a WtkitError that all of them
    raise."""
    try:
        yield
    except WtkitError as error:
        error.said_elsewhere = not is_first()
        raise


def is_first() -> bool:
    """Whether this is the first process of its group, or has no group."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def launch(count: int, words: Sequence[str]) -> int:
    """Run Python with ``words`` in ``count`` processes of one group, as ``torchrun`` does.

    Unlike ``torchrun`` it passes inheritable files (GPU locks) on, forwards signals, and takes its
    children down with it.

    Returns:
        the exit status of the first process to fail. For a process that was killed this is 128 plus
        the signal, and the signal is printed.
    """
    processes: list[subprocess.Popen] = []
    received: list[int] = []

    def forward(number: int, _frame: object = None) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(number, forward)
    # bound, not listening: no other program gets the port, and the group may use it
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        for rank in range(count):
            processes.append(_start(words, rank, count, port=reserved.getsockname()[1]))
        for missed in [*received]:  # signals that came before all processes had started
            forward(missed)
        failed = _first_failure(processes)
    if failed is None:
        return 0
    status = processes[failed].returncode
    if status < 0 and -status not in received:
        name = signal.Signals(-status).name
        why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        print(
            f"wtkit: process {failed} of {len(processes)} was killed ({name}){why}; the same "
            "command resumes from the last checkpoint",
            file=sys.stderr,
        )
    return status if status >= 0 else 128 - status  # as shells do


def _start(words: Sequence[str], rank: int, count: int, port: int) -> subprocess.Popen:
    """Start one process of a group; torch reads its place in the group from the environment."""
    place = {
        "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHED: 1,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *words],
        env={"OMP_NUM_THREADS": "1"} | os.environ | {name: str(v) for name, v in place.items()},
        close_fds=False,
        start_new_session=True,  # a terminal's signals reach it once, through the launcher
        preexec_fn=lambda: signalled_with_parent(signal.SIGTERM),  # noqa: PLW1509  # no threads here
    )


def _first_failure(processes: list[subprocess.Popen]) -> int | None:
    """Wait until all processes have ended; if one fails, end the others. Returns the number of the
    one that failed first, or None."""
    failed, since = None, 0.0
    while any([process.poll() is None for process in processes]):  # a list, to poll each of them
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
    """The number of a failed process, preferably of one that was killed: its loss ends the
    others."""
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    return min(failed, key=lambda rank: processes[rank].returncode, default=None)
