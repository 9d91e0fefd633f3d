"""Test errors by epoch, with final errors in the margin (Fig. 3, App. D.3).

Every function draws one network's data set (``results["resnet18"].to_dataset()``; dimensions
``run``, ``epoch`` and ``layer``). Methods that were not run are left out or reported as missing.
Diverged runs are marked.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..results import (
    FINAL_ERRORS,
    METHODS,
    ORDERS,
    PAPER,
    SS,
    XIAO_ERROR,
    Estimate,
    anchors_of,
    complete,
    data_label,
    final_error,
    full_data_sets,
    learned_from_jpeg,
    main_order,
    matching_runs,
    mean_and_error,
    measure_label,
    measure_of,
    measured_in_all,
    method_label,
    methods_of,
    network_label,
    variants_of,
)
from .drawing import epoch_axis, log_ticks, seeds, text_below
from .looks import GREY, Look, look_of


def test_error(ax: Axes, node: xr.Dataset, norm_order: str | None = None) -> None:
    """Draw every method's test error in percent by epoch, mean ± standard error over seeds; of runs
    without one, their own metric (:func:`wtkit.results.measure_of`).

    The margin shows final errors next to published ones: the paper's, and those from
    :func:`wtkit.results.anchors_of`.

    Args:
        norm_order: by default the network's :func:`wtkit.results.main_order`.
    """
    norm_order = norm_order or main_order(node)
    drawn = _drawn(node, norm_order)
    for index, ((method, variant), look) in enumerate(drawn.items()):
        runs = matching_runs(node, method, norm_order=norm_order, variant=variant)
        _trajectory(ax, runs, measure_of(node), look, offset=index)
    finals = [(m, v, final_error(node, m, norm_order, v), look) for (m, v), look in drawn.items()]
    is_error = measure_of(node) == "test_error"  # published values are errors
    printed = FINAL_ERRORS.get((str(node.attrs["network"]), norm_order), {}) if is_error else {}
    others = _other_anchors(node, norm_order)[: None if is_error else 0]
    finals += [
        (m, "", Estimate(np.nan), look_of(m))
        for m in others["method"].unique()
        if (m, "") not in drawn
    ]
    _error_axes(ax, node, [ours.mean for _, _, ours, _ in finals], others["error_percent"])
    columns = _margin(
        ax,
        node,
        [
            (method_label(m, v), ours, None if v else printed.get(m), how)
            for m, v, ours, how in finals
        ],
    )
    column_of = {m: x for (m, v, *_), x in zip(finals, columns, strict=True) if not v}
    for mark, (_, rows) in zip(ANCHOR_MARKS, _by_source(others), strict=False):
        # the last column's mark is at the edge of the axes
        how: dict[str, Any] = {"marker": mark, "markersize": 6, "zorder": 4, "clip_on": False}
        for method, error in zip(rows["method"], rows["error_percent"], strict=True):
            ax.plot(
                column_of[method] + 0.035 * float(node["epoch"].max()),
                error,
                color=look_of(method).color,
                markeredgewidth=1.4,
                **how,
            )
    _remarks(ax, matching_runs(node, norm_order=norm_order, variant=None), _key(others))


def _drawn(node: xr.Dataset, norm_order: str) -> dict[tuple[str, str], Look]:
    """Methods and variants that were run in this norm order, with their looks."""
    return {
        (method, variant): look_of(method, number)
        for method in methods_of(node, norm_order, variant=None)
        for number, variant in enumerate(["", *variants_of(node, method)])
        if matching_runs(node, method, norm_order=norm_order, variant=variant).sizes["run"]
    }


ANCHOR_MARKS = {"+": "+", "x": "×", "_": "–", "|": "|"}
"""Markers of published errors, one per source and norm order, with their characters."""


def _other_anchors(node: xr.Dataset, norm_order: str) -> pd.DataFrame:
    """Published errors for this network and data, without the paper's, which the margin shows.

    The column ``key`` names the source and how its setting differs from these runs.
    """
    anchors = anchors_of(node)
    anchors = anchors[(anchors["source"] != PAPER) | (anchors["norm_order"] != norm_order)]
    other = anchors["norm_order"].where(anchors["norm_order"] != norm_order, "")
    order = other.map({name: f", BatchNorm {label}" for name, label in ORDERS.items()} | {"": ""})
    pixels = ", original pixels" * learned_from_jpeg(node)
    return anchors.assign(key=anchors["source"] + order + pixels)


def _by_source(anchors: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return list(anchors.groupby("key", sort=False))


def _key(anchors: pd.DataFrame) -> list[str]:
    """One line per source of published errors, with its mark."""
    return [
        f"{mark} {key}"
        for mark, (key, _) in zip(ANCHOR_MARKS.values(), _by_source(anchors), strict=False)
    ]


def norm_order(ax: Axes, node: xr.Dataset, method: str = SS) -> None:
    """Draw one method's test error in percent under both norm orders, and for ResNet-18 on ImageNet
    the value of Xiao et al."""
    network, margin = str(node.attrs["network"]), []
    looks = {
        "relu_bn": look_of(method),
        "bn_relu": dataclasses.replace(look_of(method), color=_dark(method), linestyle="-"),
    }
    for index, (order, how) in enumerate(looks.items()):
        runs, name = matching_runs(node, method, norm_order=order), ORDERS[order]
        if runs.sizes["run"]:
            label = f"{method_label(method)}, BatchNorm {name}"
            _trajectory(ax, runs, measure_of(node), how, label=label, offset=index)
            printed = FINAL_ERRORS.get((network, order), {}).get(method)
            margin.append((name.split()[0], final_error(node, method, order), printed, how))
    if full_data_sets(node) == {"imagenet"} and network == "resnet18" and method == SS:
        text = f"SS, BatchNorm before ReLU, Xiao et al.: {XIAO_ERROR} %"
        ax.axhline(XIAO_ERROR, color=GREY, linewidth=1, linestyle=(0, (6, 2)), zorder=1, label=text)
    _error_axes(ax, node, [ours.mean for _, ours, _, _ in margin])
    _margin(ax, node, margin)
    if not margin:
        why = "not run" if main_order(node) in looks else "this network has its own order"
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=GREY)
        return
    _remarks(ax, matching_runs(node, method))
    ax.legend(loc="lower left", handlelength=3.2)


def _dark(method: str) -> tuple[float, float, float]:
    red, green, blue = to_rgb(look_of(method).color)
    return red / 2, green / 2, blue / 2


def _trajectory(
    ax: Axes, runs: xr.Dataset, measure: str, how: Look, label: str | None = None, offset: int = 0
) -> None:
    """Draw the mean of ``measure`` over complete runs with a band of one standard error, and each
    diverged run as a thin line that ends in a cross."""
    values = complete(runs)[measure]
    mean, error = mean_and_error(values.sel(epoch=measured_in_all(values)))
    epochs = mean["epoch"].values
    every = max(1, len(epochs) // 6)
    ax.plot(
        epochs, mean, color=how.color, linestyle=how.linestyle, marker=how.marker, label=label,
        markevery=(offset % every, every), markeredgecolor="white", markeredgewidth=0.5, zorder=3,
    )  # fmt: skip
    ax.fill_between(
        epochs, mean - error, mean + error, color=how.color, alpha=0.2, linewidth=0, zorder=2
    )
    for index in np.flatnonzero(runs["status"].values == "diverged"):
        run = runs[measure].isel(run=index).dropna("epoch")
        ax.plot(run["epoch"], run, color=how.color, linewidth=0.8, linestyle=how.linestyle)
        ax.plot(
            run["epoch"][-1:],
            run[-1:],
            color=how.color,
            marker="x",
            markersize=7,
            markeredgewidth=1.8,
            zorder=4,
        )


def _error_axes(
    ax: Axes, node: xr.Dataset, ours: Iterable[float], published: Iterable[float] = ()
) -> None:
    """Set axis, title and label of errors in percent, or of another measure. Call after drawing the
    curves.

    The axis is logarithmic if one of our final errors is below 10 %. A logarithmic axis reaches
    down to the lowest positive error; errors of 0 are marked at its lower end. Another measure than
    the error is on a linear axis that matplotlib chooses.
    """
    is_error = measure_of(node) == "test_error"
    ax.set_ylabel("top-1 " * is_error + measure_label(node))
    ax.set_title(f"{network_label(node.attrs['network'])}, {data_label(node)}")
    if not is_error:
        return
    lowest = min((error for error in ours if error > 0), default=100.0)
    if lowest < 10:  # the paper's linear axis would squeeze errors of a few percent into one line
        ax.set_yscale("log")
        drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
        bottom = 0.7 * min(*drawn[drawn > 0], lowest, *published, 100.0)
        ax.set_ylim(bottom, 110)
        if (drawn == 0).any():
            _mark_zeros(ax, bottom)
        log_ticks(ax)
    else:
        ax.set_ylim(0, 102)


def _mark_zeros(ax: Axes, bottom: float) -> None:
    """Mark errors of 0, which a logarithmic axis cannot show, with a triangle at its lower end."""
    for line in list(ax.lines):
        x, y = (np.asarray(data, float) for data in line.get_data())
        zeros = x[y == 0]
        if zeros.size:
            place = np.full(zeros.size, 1.1 * bottom)
            ax.plot(zeros, place, linestyle="none", marker="v", color=line.get_color(), zorder=5)
    ax.text(0.01, 0.06, "▼ error of 0", transform=ax.transAxes, fontsize=7, color=GREY)


def _margin(
    ax: Axes,
    node: xr.Dataset,
    finals: Sequence[tuple[str, Estimate, Estimate | None, Look]],
) -> np.ndarray:
    """Draw final errors right of the last epoch, one column per method: ours filled, the paper's
    (ImageNet) open.

    Returns:
        the x of each column.
    """
    last = epoch_axis(ax, node)
    left, right = 1.05 * last, (1.05 + max(0.4, 0.12 * len(finals) - 0.2)) * last
    edges = np.linspace(left, right, len(finals) + 1)
    columns = (edges[:-1] + edges[1:]) / 2
    longest = max((len(_shortened(name)) for name, *_ in finals), default=0)
    upright = longest > 6  # names of variants, which would run into each other
    for x, (name, ours, printed, how) in zip(columns, finals, strict=True):
        mark: dict[str, Any] = {
            "color": how.color,
            "marker": how.marker,
            "linestyle": "none",
            "elinewidth": 1,
            "clip_on": False,  # errors near 100 % are at the edge of the axes
        }
        if np.isfinite(ours.mean):
            error = None if np.isnan(ours.error) else ours.error
            place, filled = ours.mean, mark
            if ours.mean == 0 and ax.get_yscale() == "log":
                place, error, filled = 1.1 * ax.get_ylim()[0], None, mark | {"marker": "v"}
            ax.errorbar(x - 0.015 * last, place, yerr=error, markersize=5, **filled)
        if printed:
            where = (x + 0.015 * last, printed.mean)
            ax.errorbar(*where, yerr=printed.error, markersize=5.5, markerfacecolor="white", **mark)
        text_below(ax, x, _shortened(name), 4, 7.5, rotation=90 if upright else 0)
    spine = ax.spines["bottom"]
    spine.set_bounds(-0.02 * last, 1.02 * last)
    rule = Line2D([left, right], [0, 0], transform=ax.get_xaxis_transform(), clip_on=False)
    rule.set(color=spine.get_edgecolor(), linewidth=spine.get_linewidth())
    ax.add_line(rule)
    ax.set_xlim(-0.02 * last, right)
    marks = ["● last epoch"]
    if any(printed for _, _, printed, _ in finals):
        marks.append("○ paper, ImageNet")
    below = 10 + 4.5 * longest if upright else 17
    text_below(ax, right, "\n".join(marks), below, 7.5, color=GREY, ha="right")
    ax.set_xlabel("epoch", x=0.5 * last / right)
    return columns


def _shortened(name: str) -> str:
    """At most 14 letters; the legend has the whole name."""
    return name if len(name) <= 14 else f"{name[:13]}…"


def _remarks(ax: Axes, runs: xr.Dataset, key: Sequence[str] = ()) -> None:
    """Write below the axes how many seeds the means have, which runs diverged, and the ``key`` of
    further marks."""
    lines = [seeds(runs)]
    for method in methods_of(runs, variant=None):
        for variant, order in itertools.product(["", *variants_of(runs, method)], ORDERS):
            error = final_error(runs, method, order, variant)
            if error.diverged:
                lines.append(
                    f"{error.name}: {error.diverged} of {error.runs} runs diverged (×), "
                    "not in the mean"
                )
    text_below(ax, ax.get_xlim()[0], "\n".join([*lines, *key]), 36, 7.5, color=GREY, ha="left")


def _columns(letters: Sequence[int], width: float) -> int:
    """The number of columns of a legend of these names in as few rows as fit into ``width`` inches,
    filled evenly."""
    for count in range(len(letters), 1, -1):
        columns = np.array_split(np.array(letters), count)  # as matplotlib fills a legend
        if sum(0.66 + 0.075 * column.max() for column in columns) <= width:
            rows = math.ceil(len(letters) / count)
            return math.ceil(len(letters) / rows)
    return 1


def method_legend(fig: Figure, nodes: Iterable[xr.Dataset], norm_order: str | None = None) -> None:
    """Draw a legend above the panels with every method that :func:`test_error` drew in one of
    them."""
    drawn: dict[tuple[str, str], Look] = {}
    for node in nodes:
        drawn |= _drawn(node, norm_order or main_order(node))
    ordered = [m for m in METHODS if (m, "") in drawn]
    others = sorted({m for m, _ in drawn}.difference(ordered))
    lines = []
    for method, variant in sorted(drawn, key=lambda it: ([*ordered, *others].index(it[0]), it[1])):
        how = drawn[method, variant]
        line = Line2D(
            [],
            [],
            color=how.color,
            linestyle=how.linestyle,
            marker=how.marker,
            markeredgecolor="white",
        )
        line.set_label(method_label(method, variant))
        lines.append(line)
    fig.legend(
        handles=lines,
        loc="outside upper center",
        ncols=_columns([len(str(line.get_label())) for line in lines], fig.get_figwidth()),
        handlelength=3.2,
        columnspacing=1.5,
    )
