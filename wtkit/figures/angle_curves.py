"""Matrix angles and δ angles by epoch, one line per layer (Fig. 4)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ..results import (
    ANGLE_BOUNDS,
    BP,
    FA,
    KP,
    METHODS,
    SS,
    WM,
    check_one_experiment,
    complete_if_any,
    data_label,
    is_papers,
    lr_drops,
    main_order,
    matching_runs,
    measured_in_all,
    method_label,
    methods_of,
    network_label,
    over_all_weights,
    variants_of,
)
from ..validation import known
from .drawing import epoch_axis, note_below, seed_counts
from .looks import GREY, LAYER_COLORS

ANGLES = {"matrix_angle": "matrix angle", "delta_angle": "δ angle"}
PANELS = {WM: "ab", KP: "cd", SS: "ef"}
"""The panels of Fig. 4: a method's matrix angles and δ angles."""

WORDS: dict[str, Any] = {
    "fontsize": 7,
    "color": GREY,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1},
    "zorder": 1.5,
}
"""Words inside a panel: their box hides the thin grey lines (1), but no line of data (2)."""


def angle_columns(nodes: Iterable[xr.Dataset]) -> list[tuple[str, str]]:
    """Method and variant of each column of :func:`angle_grid`: of those that were run Fig. 4's,
    then FA, then others, then variants. Backprop's angles are 0: it has a column only if nothing
    else was run."""
    nodes = list(nodes)
    run = {method for node in nodes for method in methods_of(node)}
    main = [m for m in (*PANELS, FA, *sorted(run.difference(METHODS))) if m in run]
    variants = {
        (method, variant)
        for node in nodes
        for method in methods_of(node, variant=None)
        for variant in variants_of(node, method)
        if method != BP
    }
    return [(method, "") for method in main] + sorted(variants) or [(BP, "")]


def angle_grid(axes: np.ndarray, node: xr.Dataset, columns: Sequence[tuple[str, str]]) -> None:
    """Draw a network's matrix angles in the first row of ``axes`` and its δ angles in the second,
    one column per method.

    The letters of the paper's panels stand where the grid has all of them.
    """
    lettered = set(PANELS) <= {method for method, variant in columns if not variant}
    for row, (quantity, name) in enumerate(ANGLES.items()):
        for ax, (method, variant) in zip(axes[row], columns, strict=True):
            there = node["method"].values == method
            was_run = there.any() and (not variant or variant in node["variant"].values[there])
            if was_run:
                angles(ax, node, method, quantity, variant)
            else:  # a method of the user's own would be unknown here
                _empty(ax, node, quantity, "not run")
            title = method_label(method, variant)
            if lettered and method in PANELS and not variant:
                ax.set_title(f"$\\bf{{{PANELS[method][row]}}}$   {title}")
            else:
                ax.set_title(f"{title} (added here)" if lettered else title)
            ax.label_outer()
            if row == 1:  # networks may differ in their epochs
                ax.tick_params(labelbottom=True)
                ax.set_xlabel("epoch")
            ax.set_visible(not variant or was_run)
        # a row is about as high as so many letters are wide
        network = textwrap.fill(network_label(node.attrs["network"]), 26)
        axes[row, 0].set_ylabel(f"{network}\n{name} (°)")


def angles(ax: Axes, node: xr.Dataset, method: str, quantity: str, variant: str = "") -> None:
    """Draw one method's angles by epoch: one line per layer, the mean over complete runs, and for
    the paper's networks its bound.

    If all runs diverged, they are drawn. The axis extends beyond 100° if an angle does.

    Args:
        quantity: ``matrix_angle`` or ``delta_angle``.

    Raises:
        WtkitError: for an unknown method, quantity or variant, or runs of several experiments.
    """
    known(quantity, ANGLES, "quantity")
    known(variant, ["", *variants_of(node, method)], "variant")
    runs = matching_runs(node, method, norm_order=main_order(node), variant=variant)
    check_one_experiment(runs)
    shown = complete_if_any(runs)
    values = shown[quantity]
    values = values.sel(epoch=measured_in_all(values)).mean("run").transpose("epoch", "layer")
    if not values.size:
        _empty(ax, node, quantity, "not run" if not runs.sizes["run"] else "not measured")
        return
    epoch_axis(ax, node)
    _angle_axes(ax, quantity)
    diverged = int((runs["status"] == "diverged").sum())
    if diverged:
        text = (
            f"{diverged} of {runs.sizes['run']} runs diverged, "
            f"{'shown' if shown is runs else 'left out'}"
        )
        ax.text(
            0.98,
            0.77,
            text,
            transform=ax.transAxes,
            ha="right",
            va="top",
            **WORDS,
        )
    colors = LAYER_COLORS(np.linspace(0, 1, values.sizes["layer"]))
    ax.set_ylim(top=max(ax.get_ylim()[1], 1.05 * float(values.max())))
    for index in range(values.sizes["layer"]):  # the output layer is drawn last, on top
        ax.plot(values["epoch"], values.isel(layer=index), color=colors[index], linewidth=0.8)
    for epoch in lr_drops(runs):
        ax.axvline(epoch, color=GREY, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    bound = ANGLE_BOUNDS.get((method, quantity))
    if bound and not variant and is_papers(str(node.attrs["network"])):
        sign, angle = bound
        ax.axhline(angle, color=GREY, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1)
        ax.annotate(
            f"paper: {sign} {angle:g}°",
            (0.98, angle),
            xycoords=ax.get_yaxis_transform(),
            ha="right",
            # on the side where the paper has no lines
            xytext=(0, 3 if sign == "<" else -12),
            va="bottom" if sign == "<" else "top",
            textcoords="offset points",
            **WORDS,
        )


def _empty(ax: Axes, node: xr.Dataset, quantity: str, why: str) -> None:
    epoch_axis(ax, node)
    _angle_axes(ax, quantity)
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=GREY)


def _angle_axes(ax: Axes, quantity: str) -> None:
    # a square-root axis shows 1° and 90° on one scale, and includes 0
    ax.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), lambda y: y**2))
    ax.set_ylim(0, max(100, ax.get_ylim()[1]))  # panels of a grid share the axis
    ax.yaxis.set_major_locator(FixedLocator([0, 2, 10, 25, 45, 70, 90, 120, 150, 180]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel(f"{ANGLES[quantity]} (°)")


def angle_note(fig: Figure, nodes: Iterable[xr.Dataset]) -> None:
    """Write a note below all panels: the data, what the lines are, and how to read the axes."""
    nodes = list(nodes)
    counts = ", ".join(
        f"{network_label(node.attrs['network'])}: {seed_counts(_drawn(node))}" for node in nodes
    )
    drops = "; dotted: $\\eta_W$ drops" if any(map(lr_drops, nodes)) else ""
    over = (
        ("; angles over all weights, including dead ones")
        if any(map(over_all_weights, nodes))
        else ""
    )
    data = " and ".join(dict.fromkeys(map(data_label, nodes)))
    text = f"Data: {data}. One line per layer, mean over seeds ({counts}); square-root axis"
    note_below(fig, f"{text}{drops}{over}.")


def _drawn(node: xr.Dataset) -> xr.Dataset:
    """The runs that :func:`angle_grid` draws."""
    columns = set(angle_columns([node]))
    runs = matching_runs(node, norm_order=main_order(node), variant=None)
    labels = zip(runs["method"].values, runs["variant"].values, strict=True)
    return runs.isel(run=[label in columns for label in labels])


def layer_bar(fig: Figure, axes: Sequence[Axes]) -> Colorbar:
    """Draw the colour bar of the layers, from input to output."""
    bar = fig.colorbar(
        ScalarMappable(cmap=LAYER_COLORS), ax=axes, aspect=40, fraction=0.03, pad=0.01
    )
    bar.set_ticks([0, 1], labels=["input", "output"])
    bar.ax.tick_params(length=0)
    bar.set_label("layer", labelpad=-18)
    bar.outline.set_visible(False)
    return bar
