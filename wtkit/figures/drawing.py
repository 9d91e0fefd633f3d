"""Axes and notes that several figures share."""

from __future__ import annotations

import textwrap
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from .looks import GREY

WHOLE_NUMBERS = MaxNLocator(nbins=7, integer=True)


def epoch_axis(ax: Axes, node: xr.Dataset) -> int:
    """Set an axis from epoch 0 to the last one, with whole numbers as ticks; returns the last."""
    last = max(1, int(node["epoch"].max()))
    ax.set_xlim(-0.02 * last, 1.02 * last)
    ticks = WHOLE_NUMBERS.tick_values(0, last)
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if 0 <= tick <= last]))
    ax.set_xlabel("epoch")
    return last


def log_ticks(ax: Axes) -> None:
    """Ticks of a logarithmic vertical axis at 1, 2, 5, 10, …, as plain numbers."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())


def text_below(
    ax: Axes, x: float, text: str, points: float, size: float, color: str = "0.15", **how: Any
) -> None:
    """Write text at ``x``, this many points below the axes."""
    place = {
        "xytext": (0, -points),
        "textcoords": "offset points",
        "va": "top",
        "ha": "center",
    } | how
    ax.annotate(
        text, (x, 0), xycoords=ax.get_xaxis_transform(), fontsize=size, color=color, **place
    )


def note_below(fig: Figure, text: str) -> None:
    """Write a note below all panels, as wide as the figure."""
    letters = int(17 * fig.get_figwidth())  # of this size in a line
    fig.supxlabel(textwrap.fill(text, letters), x=0.01, ha="left", fontsize=7.5, color=GREY)


def seeds(*nodes: xr.Dataset) -> str:
    """How many seeds the means over these runs have, in words; several nodes may differ in it."""
    count = " or ".join(dict.fromkeys(map(seed_counts, nodes)))
    return (
        "one seed: no standard error" if count == "1" else f"mean ± standard error of {count} seeds"
    )


def seed_counts(runs: xr.Dataset) -> str:
    """The number of seeds of a method, norm order and variant: ``"2"``, or ``"1 to 3"`` if they
    differ."""
    columns = (runs[name].values.tolist() for name in ("method", "norm_order", "variant", "seed"))
    found: dict[tuple[str, ...], set[int]] = {}
    for *group, seed in zip(*columns, strict=True):
        found.setdefault(tuple(group), set()).add(seed)
    counts = [len(each) for each in found.values()] or [0]
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
