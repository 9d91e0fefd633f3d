"""An ablation's final errors and angles against what it sweeps."""

from __future__ import annotations

from typing import Any

import pandas as pd
import xarray as xr
from bokeh.layouts import row
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    FactorRange,
    GlyphRenderer,
    HoverTool,
)
from bokeh.plotting import figure
from matplotlib.colors import to_hex

from ..errors import WtkitError
from ..figures import ablation, look_of
from ..results import method_label, network_label, nodes_of
from .controls import Switches, plain_axes, stacked
from .groups import dash_of
from .page import TOOLS, Explorer

ANGLES = {
    "matrix_angle": "matrix angle (°), mean over layers",
    "delta_angle": "δ angle (°), mean over layers",
}
RENAME = """
range.factors = factors[against.labels[against.active]]
for (const axis of axes) axis.axis_label = against.labels[against.active]
"""


def sweep(results: xr.Dataset | xr.DataTree) -> Explorer:
    """Final test error and angles of an ablation against what it sweeps: a point per run, lines
    through the means over seeds.

    If several settings are swept, a switch chooses the one on the axis; each line is then of fixed
    values of the others, which the pointer shows. A diverged run is a cross at the error of
    guessing.

    Args:
        results: of one ablation, from :func:`wtkit.open_results`, or one network of it.

    Raises:
        WtkitError: for results that sweep nothing, or of several ablations.

    Example:
        >>> wtkit.explore.sweep(wtkit.open_results("kp_decay"))  # doctest: +SKIP
    """
    table, keys = _table(results)
    first = nodes_of(results)[0][0]
    measure, words = next(iter(ablation.quantities(first).items()))
    against = [key.replace("_", " ") for key in keys]
    switches = Switches(
        {"methods": table["label"], "networks": table["network_label"], "against": against},
        single=["against"],
    )
    factors = {name: _factors(table[key]) for key, name in zip(keys, against, strict=True)}
    points = FactorRange(factors=factors[against[0]])
    tilt = 0.6 if any(len(word) > 5 for words in factors.values() for word in words) else 0
    drawn = {measure: words} | ANGLES
    plots = [_panel(points, text, against[0], tilt) for text in drawn.values()]
    lowest = table[measure].min()
    plots[0].y_range.start = lowest if lowest < 0 else 0
    for key, name in zip(keys, against, strict=True):
        others = [other for other in keys if other != key]
        for (label, network, *_), rows in _lines(table, others):
            for plot, quantity in zip(plots, drawn, strict=True):
                switches.add((label, network, name), *_draw(plot, rows, key, quantity))
    for plot in plots:
        described = [(name, f"@{{{key}}}") for key, name in zip(keys, against, strict=True)]
        dots = [renderer for renderer in plot.renderers if renderer.name == "runs"]
        tips = [*TOOLTIPS, (words, f"@{measure}{{0.00}}"), *ANGLE_TOOLTIPS, *described]
        plot.add_tools(HoverTool(renderers=dots, limit=1, tooltips=tips))
    rename = CustomJS(
        args={
            "range": points, "factors": factors, "against": switches.box("against"),
            "axes": [plot.xaxis[0] for plot in plots],
        },
        code=RENAME,
    )  # fmt: skip
    boxes = switches.connected(rename)
    return Explorer(stacked(*boxes, row(*plots)), "The ablation's sweep", 450 + 30 * len(boxes))


TOOLTIPS = [
    ("method", "@label, seed @seed"),
    ("network", "@network_label"),
    ("status", "@status"),
]
ANGLE_TOOLTIPS = [
    ("matrix angle", "@matrix_angle{0.0}°"),
    ("δ angle", "@delta_angle{0.0}°"),
]


def _table(results: xr.Dataset | xr.DataTree) -> tuple[pd.DataFrame, list[str]]:
    """A row per run, and the columns that are swept."""
    nodes = [node for node, _ in nodes_of(results)]
    swept = {tuple(ablation.swept(node)) for node in nodes}
    if len(swept) != 1:
        raise WtkitError(
            f"sweep: expected the results of one ablation, got {len(swept)}; open them one at a "
            "time, such as open_results('kp_decay')"
        )
    keys = list(swept.pop())
    table = pd.concat([ablation.runs(node) for node in nodes], ignore_index=True)
    if all(table[key].nunique() < 2 for key in keys):
        raise WtkitError(
            "sweep: these runs differ in no setting; open an ablation, such as "
            "open_results('kp_decay')"
        )
    orders = table["norm_order"].nunique() > 1 and "norm_order" not in keys
    labels = table["method"].map(method_label)
    on_axis = "network" in keys
    return table.assign(
        label=labels + (" " + table["norm_order"] if orders else ""),
        network_label="" if on_axis else table["network"].map(network_label),
    ), keys


def _lines(table: pd.DataFrame, others: list[str]) -> Any:
    """The rows of each line: of one method in one network, at one value of each other setting."""
    return table.groupby(["label", "network_label", *others], sort=False, dropna=False)


def _factors(values: pd.Series) -> list[str]:
    """The values of a setting as they stand on the axis: numbers sorted, names in their order."""
    found = list(dict.fromkeys(values))
    if pd.api.types.is_numeric_dtype(values):
        found.sort()
    return [_word(value) for value in found]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value) or "main"


def _panel(points: FactorRange, label: str, against: str, tilt: float) -> figure:
    plot = figure(width=330, height=400, tools=TOOLS, x_range=points)
    plain_axes(plot, against, label)
    plot.xaxis.major_label_orientation = tilt
    plot.y_range.start = 0
    return plot


def _draw(plot: figure, rows: pd.DataFrame, key: str, quantity: str) -> list[GlyphRenderer]:
    look = look_of(rows["method"].iloc[0])
    color, words = to_hex(look.color), rows[key].map(_word)
    means = rows.groupby(words, sort=False)[quantity].mean()
    means = means.reindex([word for word in _factors(rows[key]) if word in means.index])
    line = plot.line(
        means.index.to_list(), means.to_numpy(), line_color=color, line_width=1.5,
        line_dash=dash_of(look.linestyle),
    )  # fmt: skip
    shown = rows.assign(**{"x": words, "y": rows[quantity], key: words})
    dots = plot.scatter("x", "y", source=_source(shown), color=color, size=8, name="runs")
    lost = shown[shown["status"] != "complete"].assign(y=lambda table: table["chance"])
    if quantity != "test_error" or lost.empty:
        return [line, dots]
    crosses = plot.scatter(
        "x", "y", source=_source(lost), color=color, size=11, marker="x", name="runs"
    )
    return [line, dots, crosses]


def _source(table: pd.DataFrame) -> ColumnDataSource:
    return ColumnDataSource(table.to_dict("list"))
