"""Test error against angle, with the direction of time."""

from __future__ import annotations

import numpy as np
import xarray as xr
from bokeh.models import ColumnDataSource, CustomJS, GlyphRenderer, HoverTool, Range1d, Select
from bokeh.plotting import figure

from ..results import ANGLE_MEANS
from .controls import begun, highest, plain_axes, stacked
from .groups import ANGLES, Group
from .page import TOOLS, WIDTH, Explorer

CHOOSE = """
sources.forEach((source, i) => {
  const missing = Array(source.data.epoch.length).fill(NaN)
  source.data.angle = source.data[`${quantity.value}: ${layer.value}`] ?? missing
  source.change.emit()
})
const where = layer.value || means[quantity.value]
axis.axis_label = `${labels[quantity.value]}, ${where}`
"""


def error_against_angle(results: xr.Dataset | xr.DataTree) -> Explorer:
    """Test error, or the runs' own metric, against angle: one line per run, whose points grow from
    the first epoch to the last.

    A menu chooses the mean over layers (for δ angles without the output layer, whose δ is exact) or
    one layer.

    Args:
        results: from :func:`wtkit.open_results`, one network of it, or a selection.

    Raises:
        WtkitError: for results without angles.

    Example:
        >>> wtkit.explore.error_against_angle(wtkit.open_results("digits"))  # doctest: +SKIP
    """
    groups, quantity, switches = begun(results)
    layers = list(dict.fromkeys(name for group in groups for name in group.layers))
    layer = Select(
        options=[("", "mean over layers"), *((name, name) for name in layers)], value="", width=220,
        name="layer",
    )  # fmt: skip
    plot = figure(width=WIDTH, height=460, tools=TOOLS, x_range=Range1d(-2, highest(groups)))
    labels = dict.fromkeys(group.measure_label for group in groups)
    plain_axes(plot, f"{ANGLES[quantity.value]}, {ANGLE_MEANS[quantity.value]}", ", ".join(labels))
    sources, dots = [], []
    for group in groups:
        for index in range(group.runs.sizes["run"]):
            columns = _columns(group, group.runs.isel(run=index))
            columns["angle"] = columns[f"{quantity.value}: "]
            sources.append(ColumnDataSource(columns))
            line, dot = _path(plot, group, sources[-1])
            switches.add((group.method, group.network), line, dot)
            dots.append(dot)
    plot.add_tools(
        HoverTool(
            renderers=dots,
            limit=1,
            tooltips=[
                ("method", "@method, seed @seed"),
                ("epoch", "@epoch"),
                ("angle", "@angle{0.0}°"),
                (", ".join(labels), "@error{0.00}"),
            ],
        )
    )
    choose = CustomJS(
        args={
            "sources": sources, "quantity": quantity, "layer": layer, "axis": plot.xaxis[0],
            "labels": ANGLES, "means": ANGLE_MEANS,
        },
        code=CHOOSE,
    )  # fmt: skip
    for menu in (quantity, layer):
        menu.js_on_change("value", choose)
    boxes = switches.connected()
    return Explorer(
        stacked(*boxes, [quantity, layer], plot), "Error against angle", 540 + 30 * len(boxes)
    )


def _columns(group: Group, run: xr.Dataset) -> dict[str, object]:
    """A row per epoch: the error, and the angle of every layer and their mean."""
    count = run.sizes["epoch"]
    columns: dict[str, object] = {
        "epoch": group.epochs,
        "error": run[group.measure].values,
        "size": np.linspace(3, 11, count),
        "method": [group.method] * count,
        "seed": [int(run["seed"])] * count,
    }
    for name in ANGLES:
        values = run[name].transpose("epoch", "layer").values.astype(np.float32)
        inner = values[:, :-1] if name == "delta_angle" else values
        columns[f"{name}: "] = _mean(inner)
        columns |= {f"{name}: {layer}": values[:, i] for i, layer in enumerate(group.layers)}
    return columns


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over layers; NaN if there is none."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))


def _path(
    plot: figure, group: Group, source: ColumnDataSource
) -> tuple[GlyphRenderer, GlyphRenderer]:
    line = plot.line("angle", "error", source=source, line_color=group.color,
                     line_dash=group.dash, line_alpha=0.6)  # fmt: skip
    dots = plot.scatter("angle", "error", source=source, color=group.color, size="size",
                        fill_alpha=0.5)  # fmt: skip
    return line, dots
