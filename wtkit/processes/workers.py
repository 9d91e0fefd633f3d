"""The worker processes of a DataLoader: how many, and what becomes of their errors."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator

from ..errors import WtkitError


def at_most_a_core_each(workers: int) -> int:
    """So many processes for a DataLoader, or as many as there are cores: more would only take
    turns."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(workers, cores)


@contextlib.contextmanager
def killed_workers() -> Iterator[None]:
    """Say in a line that a DataLoader's process was killed, which PyTorch may notice anywhere in
    the main program."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = textwrap.shorten(str(error), 120)
        raise WtkitError(
            f"a process that decodes images is gone: {reason}; where memory is short take fewer "
            "workers, then give the same command again: it goes on from what was saved"
        ) from None


@contextlib.contextmanager
def workers_errors() -> Iterator[None]:
    """A ``WtkitError`` of a DataLoader's worker as it was raised there, without the traceback it
    comes wrapped in."""
    try:
        yield
    except WtkitError as error:
        raise WtkitError(
            str(error).strip().splitlines()[-1].rpartition("WtkitError: ")[2]
        ) from None
