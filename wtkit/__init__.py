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
   * - List which weights δ passes
     - :func:`transport`
   * - Train one run and record it
     - :class:`RunConfig`, :func:`train`
   * - Record a training loop of your own
     - :class:`Recorder`
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

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
    from . import (  # noqa: F401
        claims,
        data,
        data_sets,
        errors,
        experiments,
        explore,
        feedback,
        figures,
        images,
        methods,
        networks,
        plan,
        processes,
        results,
        training,
        watching,
    )
    from .errors import WtkitError
    from .experiments import RunConfig
    from .feedback import convert, delta_angles, export, matrix_angles, mirror, transport
    from .results import open_results, tidy
    from .training import Recorder, train
    from .watching import watch

# Imported when first used, so that a reader of results does not wait for torch.
_HOMES = {
    "Recorder": "training",
    "RunConfig": "experiments",
    "WtkitError": "errors",
    "convert": "feedback",
    "delta_angles": "feedback",
    "export": "feedback",
    "matrix_angles": "feedback",
    "mirror": "feedback",
    "open_results": "results",
    "tidy": "results",
    "train": "training",
    "transport": "feedback",
    "watch": "watching",
}
_PACKAGES = (
    "claims",
    "data",
    "data_sets",
    "errors",
    "experiments",
    "explore",
    "feedback",
    "figures",
    "images",
    "methods",
    "networks",
    "plan",
    "processes",
    "results",
    "training",
    "watching",
)

__all__ = [
    "Recorder",
    "RunConfig",
    "WtkitError",
    "convert",
    "delta_angles",
    "export",
    "matrix_angles",
    "mirror",
    "open_results",
    "tidy",
    "train",
    "transport",
    "watch",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What there is to use, the same before and after its first use."""
    return sorted([*__all__, *_PACKAGES, "__doc__", "__file__", "__path__", "__version__"])
