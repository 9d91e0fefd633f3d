"""All layers' angles over epochs."""

from __future__ import annotations

import numpy as np
import xarray as xr
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJS,
    GlyphRenderer,
    HoverTool,
    RadioButtonGroup,
    Range1d,
)
from bokeh.plotting import figure
from matplotlib.colors import to_hex

from ..figures import LAYER_COLORS
from .controls import begun, highest, plain_axes, stacked
from .groups import ANGLES, Group
from .page import TOOLS, WIDTH, Explorer

CHOOSE = """
for (const renderer of renderers) {
  renderer.glyph.ys = {field: quantity.value}
  renderer.glyph.line_color = {field: ["by_method", "by_layer"][color.active]}
}
axis.axis_label = labels[quantity.value]
"""


def angles(results: xr.Dataset | xr.DataTree) -> Explorer:
    """All layers' angles over epochs: one line per layer, mean over seeds.

    The pointer shows method, layer, fan-in, epoch and value. Check boxes show and hide methods and
    networks. Lines are coloured by method, or by layer, from the input (dark) to the output
    (light).

    Args:
        results: from :func:`wtkit.open_results`, one network of it, or a selection.

    Raises:
        WtkitError: for results without angles.

    Example:
        >>> wtkit.explore.angles(wtkit.open_results("digits"))  # doctest: +SKIP
    """
    groups, quantity, switches = begun(results)
    color = RadioButtonGroup(labels=["by method", "by layer"], active=0)
    plot = figure(width=WIDTH, height=440, tools=TOOLS, y_range=Range1d(0, highest(groups)))
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    plain_axes(plot, "epoch", ANGLES[quantity.value])
    renderers = []
    for group in groups:
        renderers.append(_lines(plot, group, quantity.value))
        switches.add((group.method, group.network), renderers[-1])
    plot.add_tools(
        HoverTool(
            renderers=renderers,
            line_policy="nearest",
            limit=1,  # of each method, where lines meet
            tooltips=[
                ("method", "@method"),
                ("layer", "@layer, fan-in @fan_in"),
                ("epoch", "$snap_x{0}"),
                ("angle", "$snap_y{0.0}°"),
            ],
        )
    )
    choose = CustomJS(
        args={
            "renderers": renderers, "quantity": quantity, "color": color, "axis": plot.yaxis[0],
            "labels": ANGLES,
        },
        code=CHOOSE,
    )  # fmt: skip
    quantity.js_on_change("value", choose)
    color.js_on_change("active", choose)
    boxes = switches.connected()
    return Explorer(
        stacked(*boxes, [quantity, color], plot), "Angles over epochs", 520 + 30 * len(boxes)
    )


def _lines(plot: figure, group: Group, quantity: str) -> GlyphRenderer:
    count = len(group.layers)
    data = {
        "epochs": [np.asarray(group.epochs)] * count,
        **{name: list(group.mean(name).T.astype(np.float32)) for name in ANGLES},
        "method": [group.method] * count,
        "layer": group.layers,
        "fan_in": group.fan_in,
        "by_method": [group.color] * count,
        "by_layer": [to_hex(c) for c in LAYER_COLORS(np.linspace(0, 1, count))],
    }
    return plot.multi_line(
        "epochs", quantity, source=ColumnDataSource(data), line_color="by_method",
        line_dash=group.dash, line_width=1.6, line_alpha=0.75, hover_line_width=4,
    )  # fmt: skip
