"""Format the numbers of a plan for people."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Any


def and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def time_text(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 100 else str(datetime.timedelta(seconds=round(seconds)))


def angle_text(degrees: float | None) -> str:
    if degrees is None or math.isnan(degrees):
        return "–"
    return f"{degrees:.1f}°" if 0.05 <= degrees < 9.95 else f"{degrees:.0f}°"


def steps_text(number: float) -> str:
    return "∞" if math.isinf(number) else f"{number:,.0f}"


def or_dash(value: Any, format_spec: str) -> str:
    return "–" if value is None else format(value, format_spec)
