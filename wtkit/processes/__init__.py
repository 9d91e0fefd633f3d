"""The processes and GPUs of a run: claimed, launched, and in agreement.

``python -m wtkit.processes 4 -m wtkit train …`` starts one run in four processes. Only what
``torch.distributed`` does needs torch, which is imported when one of those names is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import gpus
from .launcher import is_first, killed_with_parent, launch, said_once
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
    "together",
    "workers_errors",
]


def __getattr__(name: str) -> Any:
    """What is in ``group.py``, when it is first asked for: it imports torch."""
    if name in __all__:
        return getattr(importlib.import_module(".group", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
