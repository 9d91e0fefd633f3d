"""What to expect of an experiment before it is run: time, memory and alignment.

Formulas and warnings import no torch. What has to be tried out does; it is imported when it is
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .advice import LEAST, row, warnings
from .formulas import (
    Layer,
    angle_before,
    angle_of_mismatch,
    lag,
    lag_angle,
    lag_angle_at_end,
    mirrors,
    mismatch,
    sampling_angle,
    time_constant,
)
from .found import Cost, Found
from .recorded import compared, expected_angles, measured_mismatch, time_constants
from .report import is_saved, name_of, save, text

if TYPE_CHECKING:
    from .measuring import before_and_after, measure, mirror_layers, survey

__all__ = [
    "LEAST",
    "Cost",
    "Found",
    "Layer",
    "angle_before",
    "angle_of_mismatch",
    "before_and_after",
    "compared",
    "expected_angles",
    "is_saved",
    "lag",
    "lag_angle",
    "lag_angle_at_end",
    "measure",
    "measured_mismatch",
    "mirror_layers",
    "mirrors",
    "mismatch",
    "name_of",
    "row",
    "sampling_angle",
    "save",
    "survey",
    "text",
    "time_constant",
    "time_constants",
    "warnings",
]


def __getattr__(name: str) -> Any:
    """What is in ``measuring.py``, when it is first asked for: it imports torch."""
    if name in __all__:
        return getattr(importlib.import_module(".measuring", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
