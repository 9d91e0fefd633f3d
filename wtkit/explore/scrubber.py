"""Angle against depth, with a slider over epochs."""

from __future__ import annotations

import numpy as np
import xarray as xr
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJS,
    GlyphRenderer,
    HoverTool,
    Range1d,
    Slider,
)
from bokeh.plotting import figure

from .controls import begun, highest, plain_axes, stacked
from .groups import ANGLES, Group
from .page import TOOLS, WIDTH, Explorer

MOVE = """
sources.forEach((source, i) => {
  // the last epoch recorded up to here: runs may differ in which epochs recorded angles
  const at = Math.max(0, epochs[i].filter(epoch => epoch <= slider.value).length - 1)
  source.data.angle = source.data[`${quantity.value}_${at}`]
  source.change.emit()
})
axis.axis_label = labels[quantity.value]
"""


def epochs(results: xr.Dataset | xr.DataTree) -> Explorer:
    """Angle against depth, from the input to the output, mean over seeds, with a slider over
    epochs. The arrow keys move the slider.

    Args:
        results: from :func:`wtkit.open_results`, one network of it, or a selection.

    Raises:
        WtkitError: for results without angles.

    Example:
        >>> wtkit.explore.epochs(wtkit.open_results("digits"))  # doctest: +SKIP
    """
    groups, quantity, switches = begun(results)
    last = max(group.epochs[-1] for group in groups)
    slider = Slider(
        start=0, end=max(1, last), value=last, step=1, title="epoch", width=420, name="slider"
    )
    plot = figure(width=WIDTH, height=440, tools=TOOLS, y_range=Range1d(0, highest(groups)))
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    plain_axes(plot, "layer, from the input up", ANGLES[quantity.value])
    sources = [
        ColumnDataSource(_columns(group, quantity.value), name=f"{group.network}, {group.method}")
        for group in groups
    ]
    dots = []
    for group, source in zip(groups, sources, strict=True):
        line, dot = _line(plot, group, source)
        switches.add((group.method, group.network), line, dot)
        dots.append(dot)
    plot.add_tools(
        HoverTool(
            renderers=dots,
            limit=1,
            tooltips=[
                ("method", "@method"),
                ("layer", "@layer, fan-in @fan_in"),
                ("angle", "@angle{0.0}°"),
            ],
        )
    )
    move = CustomJS(
        args={
            "sources": sources, "epochs": [group.epochs for group in groups], "slider": slider,
            "quantity": quantity, "axis": plot.yaxis[0], "labels": ANGLES,
        },
        code=MOVE,
    )  # fmt: skip
    for control in (slider, quantity):
        control.js_on_change("value", move)
    boxes = switches.connected()
    return Explorer(
        stacked(*boxes, [quantity, slider], plot), "Angles by depth", 530 + 30 * len(boxes)
    )


def _columns(group: Group, quantity: str) -> dict[str, object]:
    """A row per layer; the angles of every recorded epoch, and under ``angle`` those shown."""
    count = len(group.layers)
    columns: dict[str, object] = {
        "depth": np.arange(count),
        "layer": group.layers,
        "fan_in": group.fan_in,
        "method": [group.method] * count,
    }
    for name in ANGLES:
        for index, values in enumerate(group.mean(name).astype(np.float32)):
            columns[f"{name}_{index}"] = values
    return columns | {"angle": columns[f"{quantity}_{len(group.epochs) - 1}"]}


def _line(
    plot: figure, group: Group, source: ColumnDataSource
) -> tuple[GlyphRenderer, GlyphRenderer]:
    line = plot.line("depth", "angle", source=source, line_color=group.color,
                     line_dash=group.dash, line_width=1.4)  # fmt: skip
    dots = plot.scatter("depth", "angle", source=source, color=group.color, size=7)
    return line, dots
