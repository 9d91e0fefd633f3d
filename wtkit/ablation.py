"""What an ablation found: its runs by the quantities that were swept, as tables and figures. Imports no torch."""

from __future__ import annotations

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

from . import paper, plotting
from .trajectory import settings

QUANTITIES = {"test_error": "test error (%)"} | {
    name: f"{words} (°),\nmean over layers" for name, words in plotting.QUANTITIES.items()
}
"""What is shown against the swept quantities, and how an axis calls it."""

GROUP = ["network", "method", "norm_order"]


def swept(node: xr.Dataset) -> list[str]:
    """The settings or options that were swept, in the ablation's order; ``["variant"]`` where its points have names."""
    points = [[part.partition("=") for part in str(word).split(",")] for word in node["variant"].values]
    keys = {tuple(key for key, _, _ in point) for point in points}
    named = len(keys) > 1 or any(not equals for point in points for _, equals, _ in point)
    return ["variant"] if named else list(keys.pop())


def runs(node: xr.Dataset) -> pd.DataFrame:
    """A row a run: who it is, its value of each swept quantity, and what it ended with.

    Angles are those of the last epoch that recorded them, in degrees: their mean over layers, and the largest
    (``matrix_angle_max``, ``delta_angle_max``), NaN where a layer has none, as with direct feedback. A run that
    diverged has NaN for all it ended with.
    """
    rows, keys = [], swept(node)
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        ended = {name: float(values.iloc[-1]) for name, values in _over_epochs(run).items() if values.size}
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
    chosen |= chosen["options"]
    who: dict[str, Any] = {name: str(run[name].values) for name in ("method", "norm_order", "status")}
    who |= {"network": run.attrs["network"], "seed": int(run["seed"])}
    return who | {key: _value(chosen.get(key, [])) for key in keys}  # some are recorded only where they are not empty


def _value(value: Any) -> Any:
    """As an axis or a table can show it: numbers stay numbers."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return text or "–"


def _over_epochs(run: xr.Dataset) -> dict[str, pd.Series]:
    angles = {name: run[name].dropna("epoch", how="all") for name in ("matrix_angle", "delta_angle")}
    found = {"test_error": run["test_error"].dropna("epoch").to_series()}
    for name, values in angles.items():
        found[name] = values.mean("layer", skipna=False).to_series()
        found[f"{name}_max"] = values.max("layer", skipna=False).to_series()
    return found


# --------------------------------------------------------------------------------------------------------- drawing


def draw(nodes: Sequence[xr.Dataset]) -> Figure:
    """What the runs ended with: against the swept quantity, a row a network, or as heat maps where two were swept."""
    if len(swept(nodes[0])) == 2:
        return _heat_maps(nodes)
    fig, axes = _panels(len(nodes), len(QUANTITIES), height=3.0)
    for row, node in zip(axes, nodes, strict=True):
        for ax, quantity in zip(row, QUANTITIES, strict=True):
            against(ax, runs(node), swept(node), quantity)
        row[0].set_title(paper.network_label(node.attrs["network"]))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=min(6, len(handles)))
    fig.supxlabel(plotting.seeds(nodes[0]), x=0.01, ha="left", fontsize=7.5, color=plotting.GREY)
    return fig


def draw_epochs(nodes: Sequence[xr.Dataset]) -> Figure:
    """Test error and matrix angle over epochs, a line a point of the ablation and a column a method and network."""
    table = pd.concat([epochs(node) for node in nodes])
    keys = swept(nodes[0])
    table["point"] = table[keys].astype(str).agg(", ".join, axis=1)
    order = list(table["point"].unique())
    palette = dict(zip(order, plotting.LAYER_COLORS(np.linspace(0, 1, len(order))), strict=True))
    groups = list(table.groupby(GROUP, sort=False))
    fig, axes = _panels(2, len(groups), height=2.4)
    for column, (who, some) in zip(axes.T, groups, strict=True):
        column[0].set_title(_title(who, table))
        for ax, quantity in zip(column, ("test_error", "matrix_angle"), strict=True):
            sns.lineplot(some, x="epoch", y=quantity, hue="point", palette=palette, ax=ax, errorbar="se")
            ax.set_ylabel(QUANTITIES[quantity])
            _from_zero(ax)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    for ax in axes.flat:
        ax.get_legend().remove()
    fig.legend(handles, labels, title=", ".join(map(_readable, keys)), loc="outside right upper")
    return fig


def against(ax: Axes, table: pd.DataFrame, keys: Sequence[str], quantity: str) -> None:
    """One of :data:`QUANTITIES` against what was swept, a line a method: mean and standard error over seeds.

    Args:
        table: of :func:`runs`.
        keys: columns of ``table``; where there are several, or names, a tick a combination.
    """
    several = len(keys) > 1
    x = table[list(keys)].astype(str).agg(", ".join, axis=1) if several else table[keys[0]]
    numeric = pd.api.types.is_numeric_dtype(x)
    places = x if numeric else pd.Categorical(x, list(dict.fromkeys(x))).codes
    for (_, method, norm_order), rows in table.groupby(GROUP, sort=False).groups.items():
        how = plotting.look(method)
        grouped = table.loc[rows, quantity].groupby(np.asarray(places)[rows])
        mean, error = grouped.mean(), grouped.sem()
        ax.errorbar(
            mean.index, mean, error.where(grouped.count() > 1), label=_name(method, norm_order, table), color=how.color,
            linestyle=how.linestyle, marker=how.marker, capsize=2, elinewidth=0.8,
            markerfacecolor="white" if norm_order == "bn_relu" else how.color,
        )  # fmt: skip
    if numeric:
        least = x[x > 0].min()
        if x.min() >= 0 and x.max() / least >= 8:  # some of a sweep's values may be 0, which no logarithm has
            ax.set_xscale("symlog", linthresh=least) if x.min() == 0 else ax.set_xscale("log")
        ax.set_xlabel(_readable(keys[0]))
    else:
        names = list(dict.fromkeys(x))
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.set_xlabel(", ".join(map(_readable, keys)))
    _from_zero(ax)
    ax.set_ylabel(QUANTITIES[quantity])


def _from_zero(ax: Axes) -> None:
    ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))  # what is below 1 % or 1° is nothing, and looks so


def _heat_maps(nodes: Sequence[xr.Dataset]) -> Figure:
    table, (below, across) = pd.concat([runs(node) for node in nodes]), swept(nodes[0])
    groups = list(table.groupby(GROUP, sort=False))
    fig, axes = _panels(len(groups), len(QUANTITIES), height=2.6)
    for row, (who, some) in zip(axes, groups, strict=True):
        row[0].set_title(_title(who, table))
        for ax, (quantity, name) in zip(row, QUANTITIES.items(), strict=True):
            cells = some.pivot_table(index=below, columns=across, values=quantity, aggfunc="mean", dropna=False)
            sns.heatmap(
                cells, ax=ax, annot=True, fmt=".1f", annot_kws={"size": 7.5}, cmap=mpl.colormaps["viridis_r"],
                cbar_kws={"label": name}, vmin=0, vmax=90 if "angle" in quantity else None,
            )  # fmt: skip
            ax.invert_yaxis()
            ax.set(xlabel=_readable(across), ylabel=_readable(below))
    return fig


def _panels(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    return plt.subplots(rows, columns, figsize=(3.1 * columns, height * rows), squeeze=False)


def _name(method: str, norm_order: str, table: pd.DataFrame) -> str:
    """The method's name, with its norm order where there are several."""
    return paper.label(method) + (f" {norm_order}" if table["norm_order"].nunique() > 1 else "")


def _title(who: Sequence[str], table: pd.DataFrame) -> str:
    network, method, norm_order = who
    name = _name(method, norm_order, table)
    return f"{paper.network_label(network)}, {name}" if table["network"].nunique() > 1 else name


def _readable(key: str) -> str:
    return key.replace("_", " ")
