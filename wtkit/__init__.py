"""Deep learning without weight transport: train, measure and compare feedback paths.

.. list-table:: What is here
   :header-rows: 1

   * - Task
     - Name
   * - Give a network's layers a feedback path
     - :func:`convert`; back to plain layers: :func:`export`
   * - Take mirror steps
     - :func:`mirror`
   * - Measure how well B aligns with W
     - :func:`matrix_angles`, :func:`delta_angles`
   * - Train one run and record it
     - :class:`RunConfig`, :func:`train`
   * - Watch runs while they train
     - :func:`watch`
   * - Read recorded runs
     - :func:`open_results`; as a table: :func:`tidy`
   * - Handle errors that the user can fix
     - :class:`WtkitError`

The methods are listed in :mod:`wtkit.methods`. Further packages: :mod:`~wtkit.feedback`,
:mod:`~wtkit.networks`, :mod:`~wtkit.data`, :mod:`~wtkit.experiments`, :mod:`~wtkit.training`,
:mod:`~wtkit.watching`,
:mod:`~wtkit.processes`, :mod:`~wtkit.plan`, :mod:`~wtkit.results`, :mod:`~wtkit.claims`,
:mod:`~wtkit.figures` and :mod:`~wtkit.explore`.

>>> import torch, wtkit
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> model = wtkit.convert(model, "weight_mirror")  # any network, in place
>>> wtkit.mirror(model, 100)
>>> wtkit.matrix_angles(model).dims
('layer',)
"""

import importlib
from typing import Any

# Imported when first used, so that a reader of results does not wait for torch.
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
    "watch": "watching",
}

_PACKAGES = (
    "claims",
    "data",
    "experiments",
    "explore",
    "feedback",
    "figures",
    "networks",
    "plan",
    "processes",
    "results",
    "training",
    "watching",
    "methods",
)

__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_PACKAGES])
