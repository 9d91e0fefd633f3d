"""The worker processes of a DataLoader: their number and their errors."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator

from ..errors import WtkitError


def at_most_a_core_each(workers: int) -> int:
    """The number of processes for a DataLoader: ``workers``, but at most one per core."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(workers, cores)


@contextlib.contextmanager
def killed_workers() -> Iterator[None]:
    """Raise a WtkitError if a DataLoader's process was killed; PyTorch may notice that anywhere in
    the main program."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = textwrap.shorten(str(error), 120)
        raise WtkitError(
            f"a process that decodes images was killed: {reason}; if memory is short take fewer "
            "workers, then run the same command again: it resumes from the last checkpoint"
        ) from None


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
