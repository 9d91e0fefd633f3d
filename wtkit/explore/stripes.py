"""Angles as a heat map, layers × epochs."""

from __future__ import annotations

import numpy as np
import xarray as xr
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Select,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from .controls import plain_axes, quantity_menu, stacked
from .groups import ANGLES, Group, groups_of
from .page import WIDTH, Explorer

ROW = 14  # pixels of a layer, such that its name does not touch the next one
FRAME = 90  # pixels of axes and tools

CHOOSE = """
const {layers, epochs, ticks} = shown[Number(group.value)]
source.data = {image: [sources[Number(group.value)].data[quantity.value][0]],
               columns: [epochs.length], rows: [layers.length]}
plot.y_range.start = layers.length - 0.5
plot.x_range.end = epochs.length - 0.5
plot.height = layers.length * row + frame
y.ticker.ticks = layers.map((_, i) => i)
y.major_label_overrides = new Map(layers.map((name, i) => [i, name]))
x.ticker.ticks = ticks
x.major_label_overrides = new Map(epochs.map((epoch, i) => [i, String(epoch)]))
"""
NAMES = """
const {layers, epochs} = shown[Number(group.value)]
return String({x: epochs, y: layers}[format][Math.round(value)])
"""


def heat_map(results: xr.Dataset | xr.DataTree) -> Explorer:
    """Angles of every layer (from the input down) at every epoch, mean over seeds, for one method
    in one network, which a menu chooses. The pointer shows layer, epoch and value.

    Args:
        results: from :func:`wtkit.open_results`, one network of it, or a selection.

    Raises:
        WtkitError: for results without angles.

    Example:
        >>> wtkit.explore.heat_map(wtkit.open_results("digits"))  # doctest: +SKIP
    """
    groups = groups_of(results)
    quantity = quantity_menu(groups)
    first = _first(groups, quantity.value)
    names = [(str(i), f"{group.network}, {group.method}") for i, group in enumerate(groups)]
    chosen = Select(options=names, value=str(first), width=420, name="group")
    shown = [_axes(group) for group in groups]
    sources = [
        ColumnDataSource({name: [_image(group, name)] for name in ANGLES}) for group in groups
    ]
    rows, columns = (len(shown[first][name]) for name in ("layers", "epochs"))
    image = {"image": sources[first].data[quantity.value], "columns": [columns], "rows": [rows]}
    source = ColumnDataSource(image)
    plot = _empty(rows, columns)
    _draw(plot, source)
    for axis, kind in ((plot.xaxis[0], "epochs"), (plot.yaxis[0], "layers")):
        axis.ticker = FixedTicker(
            ticks=shown[first]["ticks"] if kind == "epochs" else list(range(rows))
        )
        axis.major_label_overrides = {i: str(name) for i, name in enumerate(shown[first][kind])}
    arguments = {"shown": shown, "group": chosen}
    name = CustomJSHover(args=arguments, code=NAMES)
    plot.add_tools(
        HoverTool(
            tooltips=[("layer", "$y{y}"), ("epoch", "$x{x}"), ("angle", "@image{0.0}°")],
            formatters={"$x": name, "$y": name},
        )
    )
    arguments |= {"sources": sources, "source": source, "quantity": quantity, "plot": plot}
    arguments |= {"x": plot.xaxis[0], "y": plot.yaxis[0], "row": ROW, "frame": FRAME}
    choose = CustomJS(args=arguments, code=CHOOSE)
    for menu in (chosen, quantity):
        menu.js_on_change("value", choose)
    tallest = max(len(axes["layers"]) for axes in shown)
    return Explorer(
        stacked([chosen, quantity], plot), "Angles by layer and epoch", tallest * ROW + FRAME + 80
    )


def _first(groups: list[Group], quantity: str) -> int:
    """The group whose angles vary most: backprop's, the first by custom, are all 0."""
    spread = [np.nan_to_num(np.ptp(_filled(group.mean(quantity)))) for group in groups]
    return int(np.argmax(spread))


def _filled(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    return known if known.size else np.zeros(1)


def _image(group: Group, quantity: str) -> np.ndarray:
    """Layers × epochs, the input's layer first."""
    return np.ascontiguousarray(group.mean(quantity).T, dtype=np.float32)


def _axes(group: Group) -> dict[str, list]:
    """Names of the rows and columns, and which columns have a tick: about ten."""
    step = -(-len(group.epochs) // 10)
    ticks = list(range(0, len(group.epochs), step))
    return {"layers": group.layers, "epochs": group.epochs, "ticks": ticks}


def _empty(rows: int, columns: int) -> figure:
    plot = figure(
        width=WIDTH, height=rows * ROW + FRAME, tools="reset", name="heat map",
        x_range=Range1d(-0.5, columns - 0.5), y_range=Range1d(rows - 0.5, -0.5),
    )  # fmt: skip
    plain_axes(plot, "epoch", "layer")
    plot.grid.visible = False
    return plot


def _draw(plot: figure, source: ColumnDataSource) -> None:
    colors = LinearColorMapper(palette=Viridis256[::-1], low=0, high=90, nan_color="#d8d8d8")
    plot.image(
        image="image", x=-0.5, y=-0.5, dw="columns", dh="rows", source=source, color_mapper=colors
    )
    plot.add_layout(ColorBar(color_mapper=colors, title="°"), "right")
