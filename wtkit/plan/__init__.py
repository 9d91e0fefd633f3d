"""Predict an experiment before it runs: time, memory and alignment.

Formulas and warnings need no torch. The measurements do; they are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ..arguments import check_arguments, checked
from ..results import say_what_is_missing
from .advice import MIN_FOLDINGS, row, warnings
from .formulas import (
    Layer,
    angle_before,
    angle_of_mismatch,
    lag_angle,
    lag_angle_at_end,
    mirrors,
    mismatch,
    sampling_angle,
    time_constant,
)
from .inspection import Cost, Inspection
from .recorded import (
    expected_angles,
    measured_mismatch,
    predicted_and_measured,
    time_constants,
)
from .report import is_saved, name_of, save, text

if TYPE_CHECKING:
    from .measuring import angles_at_rest, measure, mirror_layers, survey

__all__ = [
    "MIN_FOLDINGS",
    "Cost",
    "Inspection",
    "Layer",
    "angle_before",
    "angle_of_mismatch",
    "angles_at_rest",
    "expected_angles",
    "is_saved",
    "lag_angle",
    "lag_angle_at_end",
    "measure",
    "measured_mismatch",
    "mirror_layers",
    "mirrors",
    "mismatch",
    "name_of",
    "predicted_and_measured",
    "row",
    "sampling_angle",
    "save",
    "survey",
    "text",
    "time_constant",
    "time_constants",
    "warnings",
]

check_arguments(globals(), say_what_is_missing)


def __getattr__(name: str) -> Any:
    """Import ``measuring.py``, and torch with it, when one of its names is first used."""
    if name in __all__:
        return checked(getattr(importlib.import_module(".measuring", __name__), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
