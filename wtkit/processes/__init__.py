"""The processes and GPUs of a run: claim GPUs, launch processes, share work among them.

``python -m wtkit.processes 4 -m wtkit train …`` starts one run in four processes. Only ``group.py``
needs torch; it is imported when one of its names is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import gpus
from .launcher import is_first, killed_with_parent, launch, said_once, starting_workers
from .workers import at_most_a_core_each, killed_workers, workers_errors

if TYPE_CHECKING:
    from .group import ALONE, Share, agreed, any_of, joined, refuse_differing, together

__all__ = [
    "ALONE",
    "Share",
    "agreed",
    "any_of",
    "at_most_a_core_each",
    "gpus",
    "is_first",
    "joined",
    "killed_with_parent",
    "killed_workers",
    "launch",
    "refuse_differing",
    "said_once",
    "starting_workers",
    "together",
    "workers_errors",
]


def __getattr__(name: str) -> Any:
    """Import ``group.py``, and with it torch, when one of its names is first used."""
    if name in __all__:
        return getattr(importlib.import_module(".group", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
