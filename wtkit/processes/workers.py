"""The worker processes of a DataLoader: their number and their errors."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing.util
import os
import signal
import tempfile
import textwrap
import threading
import traceback
from collections.abc import Iterator

from ..errors import WtkitError

# what a Unix socket's path may have, less the names that multiprocessing adds
LONGEST_FOLDER = 70


def at_most_a_core_each(workers: int) -> int:
    """The number of processes for a DataLoader: ``workers``, but at most one per core. Also sees to
    it that they can send images even where ``TMPDIR`` is long."""
    if workers:
        _make_short_folder()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(workers, cores)


def _make_short_folder() -> None:
    """Have multiprocessing put its sockets where their path is not too long for the system: it
    takes ``TMPDIR`` however long that is, and then no batch ever arrives."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        return
    before, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        multiprocessing.util.get_temp_dir()  # made once for this process and those it starts
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def killed_workers() -> Iterator[None]:
    """Raise a WtkitError if a DataLoader's process was killed; PyTorch may notice that anywhere in
    the main program. Also after an interrupt, no loader is left."""
    try:
        yield
    except KeyboardInterrupt as error:
        _release_loaders(error)
        raise
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        _release_loaders(error)
        reason = textwrap.shorten(str(error), 120)
        raise WtkitError(
            f"a process that decodes images was killed: {reason}; if memory is short take fewer "
            "workers, then run the same command again: it resumes from the last checkpoint"
        ) from None


def _release_loaders(error: BaseException) -> None:
    """Forget the loaders that the frames of ``error`` hold. As long as they exist, PyTorch reports
    their dead processes again, also to the run that resumes in this process."""
    # if another process dies meanwhile, PyTorch would raise from here
    reports = signal.getsignal(signal.SIGCHLD)
    silenced = callable(reports) and threading.current_thread() is threading.main_thread()
    if silenced:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        traceback.clear_frames(error.__traceback__)
        gc.collect()
    finally:
        if silenced:
            signal.signal(signal.SIGCHLD, reports)


@contextlib.contextmanager
def workers_errors() -> Iterator[None]:
    """Raise a ``WtkitError`` of a DataLoader's worker without the traceback that PyTorch wraps it
    in."""
    try:
        yield
    except WtkitError as error:
        raise WtkitError(
            str(error).strip().splitlines()[-1].rpartition("WtkitError: ")[2]
        ) from None
