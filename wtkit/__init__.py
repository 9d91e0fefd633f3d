"""Deep learning without weight transport: train, measure and compare feedback paths.

>>> import wtkit
>>> model = wtkit.convert(model, "weight_mirror")  # doctest: +SKIP
"""

import importlib
from typing import Any

# Loaded when first used: a reader of results should not wait for torch.
_HOMES = {
    "RunConfig": "experiments",
    "WtkitError": "errors",
    "convert": "feedback",
    "export": "feedback",
    "delta_angles": "feedback",
    "matrix_angles": "feedback",
    "mirror": "feedback",
    "open_results": "results",
    "tidy": "results",
    "train": "training",
}

_ROOMS = (
    "claims",
    "data",
    "experiments",
    "feedback",
    "figures",
    "networks",
    "plan",
    "processes",
    "results",
    "training",
    "methods",
)

__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_ROOMS])
