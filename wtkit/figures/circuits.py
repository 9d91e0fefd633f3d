"""Schematics of the paper's two circuits (Figs. 1 and 2). Imports no torch.

Cells are drawn in rows: the forward path above, the feedback path below. Cells of one layer face
each other, so a cross-projection is a straight line. In a weight array the axons of one layer cross
the dendrites of the next, and each crossing is a synapse: W is above the forward cells of layer
l+1, B below the feedback cells of layer l. An array that learns is shaded and its synapses are
filled; open synapses are constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from ..arguments import checked

Point = tuple[float, float]
INK, PALE, SHADE = "#1f1f1f", "#6b6b6b", "#e9e5db"
GOLD, GOLD_TEXT, BLUE = "#d98f00", "#8a5a00", "#0060a8"  # gold is too light for letters
CHANGE_OF_W = (
    r"$\Delta\mathbf{W}_{l+1} = -\eta_W\,\boldsymbol{\delta}_{l+1}\,\mathbf{y}_l^{\mathsf{T}}"
)
CHANGE_OF_B = r"$\Delta\mathbf{B}_{l+1} = "

# the drawing, in units of the distance between two cells
LOWER, UPPER = (0.0, 1.0, 2.0), (5.7, 6.7)  # x of the cells of layer l and of layer l+1
FORWARD, FEEDBACK = 3.0, 0.0  # y of the two paths
RADIUS = 0.28
# distances: cells to the nearest axon, axon to axon, around an array
ROOM, PITCH, MARGIN = 1.05, 0.45, 0.38
ASIDE = 0.7  # from the outermost cells to the labels
LIMITS = ((-1.9, 8.6), (-2.75, 6.0))
MIDDLE = ((LOWER[-1] + UPPER[0]) / 2, (FORWARD + FEEDBACK) / 2)


@checked
def weight_mirror(ax: Axes, mode: Literal["engaged", "mirror"]) -> None:
    """The weight mirror (Fig. 1): W learns from δ in engaged mode, B from noise in mirror mode.

    Args:
        ax: gets equal scales and no frame.
        mode: the mode to draw.

    Example:
        >>> from matplotlib.figure import Figure
        >>> weight_mirror(Figure().subplots(), "mirror")
    """
    if mode not in ("engaged", "mirror"):
        raise ValueError(f"mode: expected 'engaged' or 'mirror', got {mode!r}")
    _network(ax, W_learns=mode == "engaged", B_learns=mode == "mirror")
    if mode == "engaged":
        for x in LOWER + UPPER:
            _project_delta(ax, x)
        _label_W(ax, CHANGE_OF_W + "$   (4)")
        _label_B(ax, r"$\mathbf{B}_{l+1}$ fixed", PALE)
        _remark(ax, "forward cells\nreceive $\\boldsymbol{\\delta}$", GOLD_TEXT)
    else:
        for x in LOWER + UPPER:
            _project_y(ax, x)
        _noise(ax)
        _label_W(ax, r"$\mathbf{W}_{l+1}$ fixed", PALE)
        _label_B(
            ax,
            CHANGE_OF_B
            + r"\eta_B\,\boldsymbol{\delta}_l\,\boldsymbol{\delta}_{l+1}^{\mathsf{T}}$   (7)",
        )
        _remark(ax, "feedback cells\nmimic $\\mathbf{y}$", BLUE)


@checked
def kolen_pollack(ax: Axes) -> None:
    """The reciprocal Kolen–Pollack network (Fig. 2): in its one mode W learns from δ, and B from y.

    Args:
        ax: gets equal scales and no frame.
    """
    _network(ax, W_learns=True, B_learns=True)
    for x in LOWER + UPPER:
        _project_delta(ax, x - 0.12)
        _project_y(ax, x + 0.12)
    _label_W(ax, CHANGE_OF_W + r" - \lambda\,\mathbf{W}_{l+1}$   (16)")
    product = r"\mathbf{y}_l\,\boldsymbol{\delta}_{l+1}^{\mathsf{T}}"
    _label_B(ax, CHANGE_OF_B + rf"-\eta_W\,{product} - \lambda\,\mathbf{{B}}_{{l+1}}$   (17)")
    _remark(ax, "forward cells\nreceive $\\boldsymbol{\\delta}$", GOLD_TEXT, above=0.5)
    _remark(ax, "feedback cells\nreceive $\\mathbf{y}$", BLUE, above=-0.5)


# -------------------------------------------------------------------------- shared by the circuits


def _network(ax: Axes, *, W_learns: bool, B_learns: bool) -> None:
    """Draw both paths: cells, axons, weight arrays and their names."""
    ax.set(aspect="equal", xlim=LIMITS[0], ylim=LIMITS[1])
    ax.set_axis_off()
    _path(ax, FORWARD, +1, senders=LOWER, receivers=UPPER, learns=W_learns, fill=INK)
    _path(ax, FEEDBACK, -1, senders=UPPER[::-1], receivers=LOWER, learns=B_learns, fill="white")
    left, right = LOWER[0] - ASIDE, UPPER[-1] + ASIDE
    _write(ax, (left, FORWARD), r"$\mathbf{y}_l$", ha="right")
    _write(ax, (right, FORWARD), r"$\mathbf{y}_{l+1}$", ha="left")
    _write(ax, (left, FEEDBACK), r"$\boldsymbol{\delta}_l$", ha="right")
    _write(ax, (right, FEEDBACK), r"$\boldsymbol{\delta}_{l+1}$", ha="left")
    _write(ax, (right, FORWARD + ROOM + PITCH), r"$\mathbf{W}_{l+1}$", ha="left")
    _write(ax, (left, FEEDBACK - ROOM - PITCH / 2), r"$\mathbf{B}_{l+1}$", ha="right")
    quiet = {"color": PALE, "size": "small"}
    _write(ax, (left, MIDDLE[1]), "layer $l$", ha="right", **quiet)
    _write(ax, (right, MIDDLE[1]), "layer $l$+1", ha="left", **quiet)
    _write(ax, (MIDDLE[0], FORWARD + ROOM / 2), "forward path", **quiet)
    _write(ax, (MIDDLE[0], FEEDBACK - ROOM / 2), "feedback path", **quiet)


def _path(
    ax: Axes,
    y: float,
    side: int,
    *,
    senders: Sequence[float],
    receivers: Sequence[float],
    learns: bool,
    fill: str,
) -> None:
    """Draw cells at height ``y`` whose axons leave on ``side`` (+1 up, -1 down) and cross the
    receivers' dendrites there.

    Senders are listed from the outside in. The outermost sender has the outermost axon, so axons do
    not cross each other.
    """
    forwards = 1 if receivers[0] > senders[0] else -1
    heights = [y + side * (ROOM + PITCH * k) for k in reversed(range(len(senders)))]
    end = (max if forwards > 0 else min)(receivers) + forwards * MARGIN
    line: dict[str, Any] = {
        "color": INK,
        "lw": 1.1,
        "solid_joinstyle": "round",
        "solid_capstyle": "butt",
        "zorder": 2,
    }
    _array(ax, receivers, heights, learns)
    for x, height in zip(senders, heights, strict=True):
        ax.plot([x, x, end], [y, height, height], **line)
        _arrow(ax, (MIDDLE[0], height), (MIDDLE[0] + 0.22 * forwards, height))
    for x in receivers:
        ax.plot([x, x], [y, heights[0] + side * MARGIN], **line)
        _arrow(ax, (x, y + side * (RADIUS + 0.3)), (x, y + side * RADIUS))
        ax.plot(
            [x] * len(heights),
            heights,
            "o",
            ms=4.2,
            mfc=INK if learns else "white",
            mec=INK,
            mew=0.9,
            zorder=4,
        )
    for x in (*senders, *receivers):
        ax.add_patch(Circle((x, y), RADIUS, fc=fill, ec=INK, lw=1.3, zorder=5))


def _array(ax: Axes, xs: Sequence[float], ys: Sequence[float], learns: bool) -> None:
    """Draw the frame of a weight array with synapses at ``xs`` × ``ys``."""
    look: dict[str, Any] = {"fc": "white", "ec": PALE, "lw": 0.8, "ls": (0, (1, 1.5))}
    if learns:
        look = {"fc": SHADE, "ec": INK, "lw": 1.1}
    corner = (min(xs) - MARGIN, min(ys) - MARGIN)
    width, height = np.ptp(xs) + 2 * MARGIN, np.ptp(ys) + 2 * MARGIN
    ax.add_patch(
        FancyBboxPatch(
            corner, width, height, boxstyle="round,pad=0,rounding_size=0.15", zorder=1, **look
        )
    )


def _project_delta(ax: Axes, x: float) -> None:
    """Draw a cross-projection of δ to a forward cell: gold and dashed."""
    _arrow(
        ax, (x, FEEDBACK + RADIUS), (x, FORWARD - RADIUS), color=GOLD, lw=1.7, ls=(0, (2.5, 1.2))
    )


def _project_y(ax: Axes, x: float) -> None:
    """Draw a cross-projection of y to a feedback cell: blue and solid."""
    _arrow(ax, (x, FORWARD - RADIUS), (x, FEEDBACK + RADIUS), color=BLUE, lw=1.7)


def _arrow(ax: Axes, start: Point, end: Point, **look: Any) -> None:
    usual: dict[str, Any] = {"color": INK, "lw": 1.1, "mutation_scale": 8, "zorder": 3}
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>,head_width=0.28", shrinkA=0, shrinkB=0, **usual | look
        )
    )


def _noise(ax: Axes) -> None:
    """Draw irregular firing in the forward cells of layer l."""
    _write(ax, (LOWER[0] - ASIDE, FORWARD + 0.6), "noise", ha="right", color=PALE, size="small")
    rng = np.random.default_rng(1)
    t = np.linspace(-0.62, 0.62, 8) * RADIUS
    for x in LOWER:
        zigzag = rng.uniform(0.15, 0.55, 8) * np.resize([1, -1], 8) * RADIUS
        ax.plot(x + t, FORWARD + zigzag, color="white", lw=0.9, zorder=6)


def _label_W(ax: Axes, text: str, color: str = INK) -> None:
    """Write W's update above its array."""
    _write(
        ax,
        (LIMITS[0][1], FORWARD + ROOM + 2 * PITCH + MARGIN + 0.45),
        text,
        ha="right",
        color=color,
    )


def _label_B(ax: Axes, text: str, color: str = INK) -> None:
    """Write B's update below its array."""
    _write(
        ax, (LIMITS[0][0], FEEDBACK - ROOM - PITCH - MARGIN - 0.45), text, ha="left", color=color
    )


def _remark(ax: Axes, text: str, color: str, above: float = 0.0) -> None:
    """Write what the cross-projections do, between them."""
    _write(ax, (MIDDLE[0], MIDDLE[1] + above), text, color=color, size="small")


def _write(
    ax: Axes, place: Point, text: str, *, ha: str = "center", color: str = INK, size: str = "medium"
) -> None:
    ax.text(*place, text, ha=ha, va="center", color=color, size=size, linespacing=1.35, zorder=7)
