"""What an ablation found: its runs by the quantities that were swept, as tables and figures.
Imports no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import data_sets
from ..errors import imports_of
from ..plan import compared
from ..results import MEANS, method_label, network_label, settings
from .angle_curves import ANGLES
from .drawing import seeds
from .looks import GREY, LAYER_COLORS, look_of

with imports_of("figures"):
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
QUANTITIES = {"test_error": "test error (%)"} | {
    name: f"{words} (°),\n{MEANS[name]}" for name, words in ANGLES.items()
}
"""What is shown against the swept quantities, and how an axis calls it."""
PREDICTED = (
    ("steps", "steps to 1/e of the mismatch", "a B that learns in\nengaged mode with ‖W‖ recorded"),
    ("angle", "matrix angle (°)", "a B that learns in mirror mode"),
)
"""What is predicted, how an axis calls it, and of which runs."""
GROUP = ["network", "method", "norm_order"]
ABREAST = 5  # panels over epochs that stand side by side


def swept(node: xr.Dataset) -> list[str]:
    """The settings or options that were swept, in the ablation's order; ``["variant"]`` where its
    points have names."""
    points = [
        [part.partition("=") for part in str(word).split(",")] for word in node["variant"].values
    ]
    keys = {tuple(key for key, _, _ in point) for point in points}
    named = len(keys) > 1 or any(not equals for point in points for _, equals, _ in point)
    return ["variant"] if named else list(keys.pop())


def runs(node: xr.Dataset) -> pd.DataFrame:
    """A row a run: who it is, its value of each swept quantity, and what it ended with.

    Angles are those of the last epoch that recorded them, in degrees: their mean over layers, and
    the largest (``matrix_angle_max``, ``delta_angle_max``), NaN where a layer has none, as with
    direct feedback. The output layer has no part in the mean δ angle, since its own is 0 by
    construction. A run that diverged has NaN for all it ended with. ``chance`` is the error of
    guessing, NaN where nobody wrote down how many classes there were.
    """
    rows, keys = [], swept(node)
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        ended = {
            name: float(values.iloc[-1])
            for name, values in _over_epochs(run).items()
            if values.size
        }
        rows.append(_identity(run, keys) | (ended if run["status"] == "complete" else {}))
    columns = [*QUANTITIES, "matrix_angle_max", "delta_angle_max"]
    return pd.DataFrame(rows).reindex(columns=[*rows[0], *(c for c in columns if c not in rows[0])])


def epochs(node: xr.Dataset) -> pd.DataFrame:
    """A row a run and epoch, with the columns of :func:`runs`."""
    parts, keys = [], swept(node)
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        measured = pd.DataFrame(_over_epochs(run)).rename_axis("epoch").reset_index()
        parts.append(measured.assign(**_identity(run, keys)))
    return pd.concat(parts, ignore_index=True)


def _identity(run: xr.Dataset, keys: Sequence[str]) -> dict[str, Any]:
    chosen = settings(run)
    chosen |= chosen.get("network_options", {}) | chosen["options"]
    who: dict[str, Any] = {
        name: str(run[name].values) for name in ("method", "norm_order", "status")
    }
    who |= {"network": run.attrs["network"], "seed": int(run["seed"])}
    # some are recorded only where they are not empty
    who |= {key: _value(chosen.get(key, [])) for key in keys}
    classes = chosen["classes"] or data_sets.classes(chosen["data"])
    return who | {"chance": 100 * (1 - 1 / classes) if classes else np.nan}


def _value(value: Any) -> Any:
    """As an axis or a table can show it: numbers stay numbers."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return text or "–"


def _over_epochs(run: xr.Dataset) -> dict[str, pd.Series]:
    angles = {
        name: run[name].dropna("epoch", how="all") for name in ("matrix_angle", "delta_angle")
    }
    found = {"test_error": run["test_error"].dropna("epoch").to_series()}
    # the output layer's is 0 by construction
    angles["delta_angle"] = angles["delta_angle"].isel(layer=slice(None, -1))
    for name, values in angles.items():
        found[name] = values.mean("layer", skipna=False).to_series()
        found[f"{name}_max"] = values.max("layer", skipna=False).to_series()
    return found


# ------------------------------------------------------------------------------------------ drawing


def draw(nodes: Sequence[xr.Dataset]) -> Figure:
    """What the runs ended with, against the swept quantity: a row a network, unless networks were
    swept; or heat maps where two quantities were."""
    table, keys = pd.concat([runs(node) for node in nodes], ignore_index=True), swept(nodes[0])
    if len(keys) == 2:
        return _heat_maps(table, keys)
    networks = list(table.groupby(_lines(table, keys)["network"], sort=False))
    fig, axes = _panels(len(networks), len(QUANTITIES), height=3.0)
    for row, (network, some) in zip(axes, networks, strict=True):
        for ax, quantity in zip(row, QUANTITIES, strict=True):
            against(ax, some, keys, quantity)
        row[0].set_title(network_label(network))
    methods_first = sorted(
        zip(*axes[0, 0].get_legend_handles_labels(), strict=True), key=lambda it: it[1] == "chance"
    )
    fig.legend(
        *zip(*methods_first, strict=True),
        loc="outside upper center",
        ncols=min(6, len(methods_first)),
    )
    fig.supxlabel(seeds(nodes[0]), x=0.01, ha="left", fontsize=7.5, color=GREY)
    return fig


def draw_epochs(nodes: Sequence[xr.Dataset]) -> Figure:
    """Test error and, below it, matrix angle over epochs: a line a point of the ablation, a pair of
    panels a method and network."""
    table, keys = pd.concat([epochs(node) for node in nodes], ignore_index=True), swept(nodes[0])
    table["point"], lines = _points(table, keys), _lines(table, keys)
    order = list(table["point"].unique())
    palette = dict(zip(order, LAYER_COLORS(np.linspace(0, 1, len(order))), strict=True))
    groups = list(table.groupby([lines[name] for name in GROUP], sort=False))
    abreast = min(ABREAST, len(groups))
    fig, axes = _panels(2 * math.ceil(len(groups) / abreast), abreast, height=2.4)
    fig.set_figwidth(fig.get_figwidth() + 1.9)  # for the legend
    pairs = [
        pair for rows in zip(axes[::2], axes[1::2], strict=True) for pair in zip(*rows, strict=True)
    ]
    for ax in itertools.chain(*pairs[len(groups) :]):
        ax.remove()
    for pair, (who, some) in zip(pairs, groups, strict=False):
        pair[0].set_title(_title(who, lines))
        for ax, quantity in zip(pair, ("test_error", "matrix_angle"), strict=True):
            if some[quantity].isna().all():
                ax.set_axis_off()  # a method without this angle
                continue
            sns.lineplot(
                some,
                x="epoch",
                y=quantity,
                hue="point",
                palette=palette,
                ax=ax,
                errorbar="se",
                legend=False,
            )
            ax.set_ylabel(QUANTITIES[quantity])
            _from_zero(ax)
    handles = [Line2D([], [], color=color) for color in palette.values()]
    fig.legend(handles, order, title=", ".join(map(_readable, keys)), loc="outside right upper")
    return fig


def draw_predicted(nodes: Sequence[xr.Dataset]) -> Figure:
    """What :mod:`wtkit.plan` predicts of these runs beside what was measured; a sentence where
    there is nothing."""
    table = pd.concat([compared(node) for node in nodes])
    fig, axes = _panels(1, 2, height=2.9)
    for ax, (quantity, words, runs_of) in zip(axes.flat, PREDICTED, strict=True):
        some = table[table["quantity"] == quantity]
        if some.empty:
            ax.text(0.5, 0.5, f"nothing to compare:\nno run of {runs_of}", ha="center", va="center")
            ax.set_axis_off()
            continue
        for method, rows in some.groupby("method", sort=False):
            how = look_of(method)
            ax.plot(
                rows["predicted"],
                rows["measured"],
                how.marker,
                color=how.color,
                alpha=0.6,
                label=method_label(method),
            )
        end = 1.08 * some[["predicted", "measured"]].max(axis=None)
        ax.plot([0, end], [0, end], "--", color=GREY, linewidth=0.8)
        # both from zero, or what differs by rounding would fill the panel
        ax.set(
            xlabel=f"predicted {words}", ylabel=f"measured {words}", xlim=(0, end), ylim=(0, end)
        )
        ax.legend()
    return fig


def against(ax: Axes, table: pd.DataFrame, keys: Sequence[str], quantity: str) -> None:
    """One of :data:`QUANTITIES` against what was swept, a line a method: mean and standard error
    over seeds.

    Args:
        table: of :func:`runs`.
        keys: columns of ``table``; where there are several, or names, a tick a combination, in
            their order there.
    """
    numeric = len(keys) == 1 and pd.api.types.is_numeric_dtype(table[keys[0]])
    x = table[keys[0]] if numeric else _points(table, keys)
    names = list(x.unique())
    places = x if numeric else x.map(names.index)
    lines = _lines(table, keys)
    for (_, method, norm_order), some in table.groupby([lines[name] for name in GROUP], sort=False):
        how = look_of(method)
        grouped = some[quantity].groupby(places[some.index])
        mean, error = grouped.mean(), grouped.sem()
        ax.errorbar(
            mean.index, mean, error.where(grouped.count() > 1),
            label=_name(method, norm_order, lines), color=how.color, linestyle=how.linestyle,
            marker=how.marker, capsize=2, elinewidth=0.8,
            markerfacecolor="white" if norm_order == "bn_relu" else how.color,
        )  # fmt: skip
    if numeric:
        least = x[x > 0].min()
        # some of a sweep's values may be 0, which no logarithm has
        if x.min() >= 0 and x.max() / least >= 8:
            ax.set_xscale("symlog", linthresh=least) if x.min() == 0 else ax.set_xscale("log")
        ax.set_xlabel(_readable(keys[0]))
    else:
        upright = len(names) > 8
        ax.set_xticks(
            range(len(names)),
            names,
            rotation=90 if upright else 30,
            ha="center" if upright else "right",
        )
        named = list(keys) == ["variant"]  # names that speak for themselves
        ax.set_xlabel("" if named else ", ".join(map(_readable, keys)))
    _from_zero(ax)
    if quantity == "test_error":
        _chance(ax, table["chance"].groupby(places).first())
    ax.set_ylabel(QUANTITIES[quantity])


def _chance(ax: Axes, level: pd.Series) -> None:
    """The error of guessing at each place, as a step, where the runs come anywhere near it."""
    top = ax.get_ylim()[1]
    if level.min() < 3 * top:
        ax.step(
            level.index,
            level,
            where="mid",
            color=GREY,
            linewidth=0.8,
            linestyle=(0, (5, 3)),
            label="chance",
        )
        ax.set_ylim(0, max(top, 1.03 * level.max()))


def _from_zero(ax: Axes) -> None:
    # of points all alike the margin is nothing, and cuts them
    top = max(ax.get_ylim()[1], 1.05 * ax.dataLim.ymax)
    ax.set_ylim(0, max(1.0, top))  # what is below 1 % or 1° is nothing, and looks so


def _heat_maps(table: pd.DataFrame, keys: Sequence[str]) -> Figure:
    (below, across), lines = keys, _lines(table, keys)
    groups = list(table.groupby([lines[name] for name in GROUP], sort=False))
    ticks = {
        key: sorted(v) if pd.api.types.is_numeric_dtype(v) else v
        for key in keys
        for v in [table[key].unique()]
    }
    fig, axes = _panels(len(groups), len(QUANTITIES), height=2.6)
    for row, (who, some) in zip(axes, groups, strict=True):
        row[0].set_title(_title(who, lines))
        for ax, (quantity, name) in zip(row, QUANTITIES.items(), strict=True):
            cells = some.pivot_table(
                index=below, columns=across, values=quantity, aggfunc="mean", dropna=False
            )
            sns.heatmap(
                cells.reindex(index=ticks[below], columns=ticks[across]), ax=ax, annot=True,
                fmt=".1f", annot_kws={"size": 7.5}, cmap=mpl.colormaps["viridis_r"],
                cbar_kws={"label": name}, vmin=0, vmax=90 if "angle" in quantity else None,
            )  # fmt: skip
            ax.invert_yaxis()
            ax.set(xlabel=_readable(across), ylabel=_readable(below))
    return fig


def _lines(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """What tells the lines of a figure apart, of each row of ``table``: :data:`GROUP`, of which a
    network or norm order is empty where each point of the ablation has its own, since then it is on
    the axis."""
    points = _points(table, keys)
    swept_too = [
        name
        for name in ("network", "norm_order")
        if table[name].nunique() > 1 and (table[name].groupby(points).nunique() == 1).all()
    ]
    return table[GROUP].assign(**dict.fromkeys(swept_too, ""))


def _points(table: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """What the point of the ablation at which each row stands is called on an axis."""
    words = table[list(keys)].astype(str).agg(", ".join, axis=1)
    return words.map(_readable) if list(keys) == ["variant"] else words


def _panels(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    return plt.subplots(rows, columns, figsize=(3.1 * columns, height * rows), squeeze=False)


def _name(method: str, norm_order: str, lines: pd.DataFrame) -> str:
    """The method's name, with its norm order where there are several."""
    return method_label(method) + (f" {norm_order}" if lines["norm_order"].nunique() > 1 else "")


def _title(who: Sequence[str], lines: pd.DataFrame) -> str:
    network, method, norm_order = who
    name = _name(method, norm_order, lines)
    return f"{network_label(network)}, {name}" if lines["network"].nunique() > 1 else name


def _readable(key: str) -> str:
    return key.replace("_", " ")
