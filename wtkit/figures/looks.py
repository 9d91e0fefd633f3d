"""The style of all figures: colours, lines and markers of methods and layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.colors import Colormap, ListedColormap, to_rgb
from matplotlib.typing import ColorType

from .. import methods
from ..results import BP, FA, KP, SS, WM


@dataclasses.dataclass(frozen=True)
class Look:
    """Colour, line and marker of a method. Colours differ in lightness, and lines and markers
    differ too, so that figures work in grey."""

    color: ColorType
    linestyle: Any
    marker: str


LOOKS = {
    BP: Look("#000000", "-", "o"),
    FA: Look("#dcb13c", (0, (1, 1.2)), "v"),
    SS: Look("#4a9a94", (0, (5, 1.5)), "s"),
    WM: Look("#0b3c8c", (0, (3, 1, 1, 1)), "D"),
    KP: Look("#a83256", "-", "^"),
}
SPARE = (
    Look("#7a6fb0", (0, (8, 2)), "P"), Look("#a0693a", (0, (2, 2)), "X"), Look("#6f8f3f", "-", "*"),
    Look("#c26fa2", (0, (6, 1, 1, 1)), "<"), Look("#3f8fc0", (0, (4, 3)), ">"),
    Look("#8c8c8c", (0, (1, 2.5)), "p"), Look("#d0683c", (0, (9, 1.5, 2, 1.5)), "h"),
    Look("#2f6b4f", (0, (3, 3)), "d"), Look("#e08a8a", (0, (7, 1, 1, 1, 1, 1)), "H"),
    Look("#5b4a8a", (0, (2, 1)), "8"), Look("#b5b04a", (0, (5, 4)), "$+$"),
    Look("#4d4d4d", (0, (10, 2)), "$x$"),
)  # fmt: skip
"""For methods beyond the paper's five, in order of their names."""
VARIANT_LINES: tuple[Any, ...] = ((0, (4, 1)), (0, (2, 1)), (0, (1, 1)), (0, (6, 1, 2, 1)))
VARIANT_MARKERS = ("$1$", "$2$", "$3$", "$4$", "$5$", "$6$", "$7$", "$8$", "$9$")
"""For variants after the twelfth, whose colours and lines repeat."""
_OWN_METHODS: dict[str, int] = {}
"""Methods of a user's own in the order in which they were drawn first."""
LAYER_COLORS: Colormap = ListedColormap(
    mpl.colormaps["viridis"](np.linspace(0.0, 0.92, 256)), "layers"
)
"""Colours of layers, from the input (dark) to the output (light)."""
GREY = "0.45"


def set_style() -> None:
    """Set the style of all figures. Call once, before the first."""
    sns.set_theme(
        context="paper",
        style="ticks",
        font="DejaVu Sans",
        rc={
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 9,
            "axes.labelsize": 9,
            "axes.titlesize": 9.5,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "legend.fontsize": 8.5,
            "legend.frameon": False,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "lines.linewidth": 1.6,
            "lines.markersize": 4,
            "svg.hashsalt": "wtkit",
        },
    )


def look_of(method: str, number: int = 0) -> Look:
    """A method's look.

    Args:
        number: 0 for the main runs, 1, 2, … for variants, which are lighter and have other lines.
    """
    look = _main_look(method)
    if number == 0:
        return look
    share = 0.35 + 0.2 * (number % 3)  # of white
    red, green, blue = (share + (1 - share) * part for part in to_rgb(look.color))
    rounds = number // (3 * len(VARIANT_LINES))  # colours and lines repeat, markers do not
    marker = VARIANT_MARKERS[rounds % len(VARIANT_MARKERS)] if rounds else look.marker
    return Look((red, green, blue), VARIANT_LINES[number % len(VARIANT_LINES)], marker)


def _main_look(method: str) -> Look:
    if method in LOOKS:
        return LOOKS[method]
    others = [name for name in methods.names() if name not in LOOKS]
    if method in others:
        return SPARE[others.index(method) % len(SPARE)]
    place = _OWN_METHODS.setdefault(method, len(_OWN_METHODS))
    return SPARE[-1 - place % len(SPARE)]
