"""Tables and figures of an ablation, by the quantities that it sweeps. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
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
from ..arguments import checked
from ..errors import WtkitError
from ..experiments import OLD_MLP_OPTIONS, OLD_SETTINGS, RunConfig, own_options
from ..plan import predicted_and_measured
from ..results import (
    ANGLE_MEANS,
    ORDERS,
    data_label,
    is_own_loop,
    measure_label,
    measure_of,
    method_label,
    network_label,
    settings,
)
from .angle_curves import ANGLES
from .drawing import WHOLE_NUMBERS, note_below, seed_counts, seeds
from .looks import GREY, LAYER_COLORS, look_of

ANGLE_LABELS = {  # no longer than an axis is high
    name: textwrap.fill(f"{words} (°), {ANGLE_MEANS[name]}", 24) for name, words in ANGLES.items()
}
PREDICTED = {"steps": "steps to 1/e\nof the mismatch", "angle": "matrix angle (°)"}
"""The quantities that :mod:`wtkit.plan` predicts, with their axis labels; no line is longer than an
axis."""
SWEPT_LABELS = {
    "lr": r"learning rate $\eta_W$",
    "mirror_lr": r"mirror rate $\eta_B$",
    "mirror_before": "mirror steps before training",
    "mirror_steps": "mirror steps per mirror phase",
    "mirror_every": "engaged steps per mirror phase",
    "noise_fraction": "noise samples / inputs",
    "noise_std": r"$\sigma$ of the noise",
    "phi": r"$\phi$ of the mirror",
    "normalisation": r"factor in place of $\gamma$",
    "scale": "initial scale of B",
}
"""The axis labels of swept settings and options whose names do not read as words."""
GROUP = ["network", "method", "norm_order"]
MAX_COLUMNS = 5  # of panels by epoch
DASHES = [  # of lines by epoch, after the solid one
    (4, 1), (1, 1), (6, 1, 2, 1), (2, 1), (8, 3), (1, 3), (5, 1, 1, 1, 1, 1), (3, 3), (10, 1),
    (8, 2, 2, 2), (2, 4),
]  # fmt: skip


def swept(node: xr.Dataset) -> list[str]:
    """The settings or options that were swept, in the ablation's order; ``["variant"]`` if its
    points are named, also by words such as ``rate=1`` that name no setting."""
    points = [
        [part.partition("=") for part in str(word).split(",")] for word in node["variant"].values
    ]
    keys = {tuple(key for key, _, _ in point) for point in points}
    named = len(keys) > 1 or any(not equals for point in points for _, equals, _ in point)
    if named:
        return ["variant"]
    settings_of_runs = [_chosen(node.isel(run=index)) for index in range(node.sizes["run"])]
    (swept_keys,) = keys
    known = all(any(key in chosen for chosen in settings_of_runs) for key in swept_keys)
    return list(swept_keys) if known else ["variant"]


def quantities(node: xr.Dataset) -> dict[str, str]:
    """The quantities that are drawn against the swept ones, with their axis labels: the test error,
    or what these runs are judged by instead, and the angles."""
    return {measure_of(node): measure_label(node)} | ANGLE_LABELS


@checked
def runs(node: xr.Dataset) -> pd.DataFrame:
    """One row per run: its labels, swept quantities, and final errors and angles.

    Angles in degrees are from the last epoch that recorded them: their mean over layers, and the
    largest (``matrix_angle_max``, ``delta_angle_max``); NaN if a layer has none, as with direct
    feedback. The mean δ angle leaves out the output layer, where it is 0 by construction. A
    diverged run has NaN. Runs that measured no test error have their own metric in its place.
    ``chance`` is the error of guessing, NaN if the number of classes is
    unknown.
    """
    rows, keys = [], swept(node)
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        final = {
            name: float(values.iloc[-1])
            for name, values in _by_epoch(run, measure_of(node)).items()
            if values.size
        }
        rows.append(_labels(run, keys) | (final if run["status"] == "complete" else {}))
    columns = [*quantities(node), "matrix_angle_max", "delta_angle_max"]
    return pd.DataFrame(rows).reindex(columns=[*rows[0], *(c for c in columns if c not in rows[0])])


@checked
def epochs(node: xr.Dataset) -> pd.DataFrame:
    """One row per run and epoch, with the columns of :func:`runs`."""
    parts, keys = [], swept(node)
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        measured = pd.DataFrame(_by_epoch(run, measure_of(node))).rename_axis("epoch").reset_index()
        parts.append(measured.assign(**_labels(run, keys)))
    return pd.concat(parts, ignore_index=True)


def _refuse_none(nodes: Sequence[xr.Dataset]) -> None:
    if not len(nodes):
        raise WtkitError("nodes: expected the results of one network or more, got an empty list")
    for node in nodes:
        if not node.sizes["run"]:
            network = network_label(str(node.attrs["network"]))
            raise WtkitError(f"nodes: no run of {network} is in them; select other labels")


def _chosen(run: xr.Dataset) -> dict[str, Any]:
    """A run's settings and options by name, old and new."""
    chosen = settings(run)
    if not is_own_loop(run):
        # options that are the network's own are not recorded, nor some settings that are empty
        unset: dict[str, Any] = {field.name: [] for field in dataclasses.fields(RunConfig)}
        chosen = unset | own_options(chosen["network"]) | chosen
        chosen |= chosen["network_options"]
        mlp = OLD_MLP_OPTIONS if chosen["network"] == "mlp" else {}
        for old, new in (OLD_SETTINGS | mlp).items():
            chosen[old] = chosen[new] = chosen.get(old, chosen[new])
    return chosen | chosen["options"] | {"variant": str(run["variant"].values)}


def _labels(run: xr.Dataset, keys: Sequence[str]) -> dict[str, Any]:
    chosen, own_loop = _chosen(run), is_own_loop(run)
    labels: dict[str, Any] = {
        name: str(run[name].values) for name in ("method", "norm_order", "status")
    }
    labels |= {"network": run.attrs["network"], "seed": int(run["seed"])}
    labels |= {key: _value(chosen.get(key, [])) for key in keys}
    classes = None if own_loop else chosen["classes"] or data_sets.classes(chosen["data"])
    return labels | {"chance": 100 * (1 - 1 / classes) if classes else np.nan}


def _value(value: Any) -> Any:
    """A number, or the text of any other value."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return text or "–"


def _by_epoch(run: xr.Dataset, measure: str) -> dict[str, pd.Series]:
    angles = {
        name: run[name].dropna("epoch", how="all") for name in ("matrix_angle", "delta_angle")
    }
    found = {measure: run[measure].dropna("epoch").to_series()}
    # the output layer's is 0 by construction
    angles["delta_angle"] = angles["delta_angle"].isel(layer=slice(None, -1))
    for name, values in angles.items():
        if not values.sizes["layer"]:  # a network of one layer has no δ angle below it
            continue
        found[name] = values.mean("layer", skipna=False).to_series()
        found[f"{name}_max"] = values.max("layer", skipna=False).to_series()
    return found


# ------------------------------------------------------------------------------------------ drawing


@checked
def draw(nodes: Sequence[xr.Dataset]) -> Figure:
    """Draw final errors and angles against the swept quantity, one row per network unless networks
    were swept; heat maps if two quantities were swept."""
    _refuse_none(nodes)
    table, keys = pd.concat([runs(node) for node in nodes], ignore_index=True), swept(nodes[0])
    drawn = quantities(nodes[0])
    if len(keys) == 2:
        fig = _heat_maps(table, keys, drawn)
        _note(fig, nodes)
        return fig
    networks = list(table.groupby(_lines(table, keys)["network"], sort=False))
    fig, axes = _panels(len(networks), len(drawn), height=3.0)
    for row, (network, rows) in zip(axes, networks, strict=True):
        for ax, (quantity, label) in zip(row, drawn.items(), strict=True):
            plot_against(ax, rows, keys, quantity, label)
        row[0].set_title(network_label(network))
    handles = {  # of all networks: they may differ in their methods
        label: handle
        for ax in axes[:, 0]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    names = sorted(handles, key=lambda name: name == "chance")
    fig.legend(
        [handles[name] for name in names],
        names,
        loc="outside upper center",
        ncols=min(6, len(names)),
    )
    _note(fig, nodes, seeds(*nodes), " (×)")
    return fig


def _note(fig: Figure, nodes: Sequence[xr.Dataset], means: str = "", mark: str = "") -> None:
    """Write below all panels what was run: networks, data, epochs and seeds.

    Args:
        means: what is drawn over seeds, as text; by default their number.
        mark: what shows diverged runs, as text.
    """
    networks = list(dict.fromkeys(network_label(str(node.attrs["network"])) for node in nodes))
    between = " and " if any("," in network for network in networks) else ", "
    lasts = {
        int(run.dropna("epoch")["epoch"][-1])
        for node in nodes
        for run in node[measure_of(node)].isel(run=node["status"].values == "complete")
    }
    words = [between.join(networks), " and ".join(dict.fromkeys(map(data_label, nodes)))]
    if lasts:
        words.append(" to ".join(map(str, sorted({min(lasts), max(lasts)}))) + " epochs")
    counts = " or ".join(dict.fromkeys(map(seed_counts, nodes)))
    words.append(means or ("one seed" if counts == "1" else f"{counts} seeds"))
    status = np.concatenate([node["status"].values for node in nodes])
    if diverged := int((status == "diverged").sum()):
        words.append(f"{diverged} of {len(status)} runs diverged{mark}")
    note_below(fig, "; ".join(words))


@checked
def draw_epochs(nodes: Sequence[xr.Dataset]) -> Figure:
    """Draw test error and, below it, matrix angle by epoch: one line per point of the ablation, one
    pair of panels per method and network.

    Colour shows the swept quantity with the most values, dashes show the others. Of points named
    like ``decay_3`` colour shows the word, dashes show the number.
    """
    _refuse_none(nodes)
    table, keys = pd.concat([epochs(node) for node in nodes], ignore_index=True), swept(nodes[0])
    measure, label = next(iter(quantities(nodes[0]).items()))
    shown = {measure: label, "matrix_angle": ANGLE_LABELS["matrix_angle"]}
    table["point"], lines = _points(table, keys), _lines(table, keys)
    table["by_color"], table["by_dash"] = _colored_and_dashed(table[keys])
    values, rests = table["by_color"].unique(), table["by_dash"].unique()
    colors = dict(zip(values, LAYER_COLORS(np.linspace(0, 1, len(values))), strict=True))
    dashes: dict[str, Any] = dict(zip(rests, itertools.cycle(["", *DASHES]), strict=False))
    groups = list(table.groupby([lines[name] for name in GROUP], sort=False))
    columns = min(MAX_COLUMNS, len(groups))
    fig, axes = _panels(2 * math.ceil(len(groups) / columns), columns, height=2.4)
    points = table.drop_duplicates("point")
    # for the legend, with as many entries in a column as the figure is high
    legend_columns = math.ceil(len(points) / max(1, int(4.5 * fig.get_figheight()) - 2))
    fig.set_figwidth(fig.get_figwidth() + 1.9 * legend_columns)
    pairs = [
        pair for rows in zip(axes[::2], axes[1::2], strict=True) for pair in zip(*rows, strict=True)
    ]
    for ax in itertools.chain(*pairs[len(groups) :]):
        ax.remove()
    for pair, (group, rows) in zip(pairs, groups, strict=False):
        pair[0].set_title(_title(group, lines))
        for ax, (quantity, label) in zip(pair, shown.items(), strict=True):
            if rows[quantity].isna().all():
                ax.set_axis_off()  # a method without this angle
                continue
            sns.lineplot(
                rows,
                x="epoch",
                y=quantity,
                hue="by_color",
                palette=colors,
                style="by_dash",
                dashes=dashes,
                ax=ax,
                errorbar="se",
                legend=False,
            )
            ax.xaxis.set_major_locator(WHOLE_NUMBERS)
            ax.set_ylabel(label)
            _from_zero(ax)
    handles = [
        Line2D([], [], color=colors[value], linestyle=(0, dashes[rest]) if dashes[rest] else "-")
        for value, rest in zip(points["by_color"], points["by_dash"], strict=True)
    ]
    fig.legend(
        handles,
        points["point"],
        title=", ".join(map(_readable, keys)),
        loc="outside right upper",
        ncols=legend_columns,
    )
    _note(fig, nodes)
    return fig


def _colored_and_dashed(points: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """What colour and dashes of a point's lines show, from its swept values, by row."""
    if list(points) == ["variant"]:
        parts = points["variant"].str.extract(r"^(.*?)(?:[ _]([\d.]+))?$").fillna("")
        ranks = {word: list(dict.fromkeys(rows)) for word, rows in parts.groupby(0)[1]}
        return parts[0], [str(ranks[word].index(number)) for word, number in parts.values]
    by_color = max(points, key=lambda key: points[key].nunique())
    return points[by_color], [str(rest) for rest in points.drop(columns=by_color).values]


@checked
def draw_predicted(nodes: Sequence[xr.Dataset]) -> Figure:
    """Draw predictions of :mod:`wtkit.plan` against measurements, one panel per quantity that was
    recorded; without any, a figure that says so."""
    _refuse_none(nodes)
    table = pd.concat([predicted_and_measured(node) for node in nodes])
    recorded = [name for name in PREDICTED if (table["quantity"] == name).any()]
    if not recorded:
        fig, axes = _panels(1, 1, height=1.5)
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0, 0.5, "These runs recorded nothing that is predicted.", va="center")
        return fig
    fig, axes = _panels(1, len(recorded), height=3.1)
    for ax, quantity in zip(axes.flat, recorded, strict=True):
        _plot_predicted(ax, table[table["quantity"] == quantity], PREDICTED[quantity])
    _note(fig, nodes)
    return fig


def _plot_predicted(ax: Axes, table: pd.DataFrame, label: str) -> None:
    for method, rows in table.groupby("method", sort=False):
        look = look_of(method)
        ax.plot(
            rows["predicted"],
            rows["measured"],
            look.marker,
            color=look.color,
            alpha=0.6,
            label=method_label(method),
        )
    end = 1.08 * table[["predicted", "measured"]].max(axis=None)
    ax.plot([0, end], [0, end], "--", color=GREY, linewidth=0.8)
    # both axes start at 0; otherwise rounding errors would fill the panel
    ax.set(xlabel=f"predicted {label}", ylabel=f"measured {label}", xlim=(0, end), ylim=(0, end))
    ax.legend()


def plot_against(
    ax: Axes, table: pd.DataFrame, keys: Sequence[str], quantity: str, label: str
) -> None:
    """Draw one of :func:`quantities` against the swept quantity, one line per method: mean and
    standard error over seeds. A cross at the top marks a point where a run diverged.

    Args:
        table: from :func:`runs`.
        keys: columns of ``table``. Several columns, or a column of names, give one tick per
            combination, in the table's order.
    """
    numeric = len(keys) == 1 and pd.api.types.is_numeric_dtype(table[keys[0]])
    x = table[keys[0]] if numeric else _points(table, keys)
    names = list(x.unique())
    places = x if numeric else x.map(names.index)
    lines = _lines(table, keys)
    for (_, method, norm_order), rows in table.groupby([lines[name] for name in GROUP], sort=False):
        how = look_of(method)
        grouped = rows[quantity].groupby(places[rows.index])
        mean, error = grouped.mean(), grouped.sem()
        ax.errorbar(
            mean.index, mean, error.where(grouped.count() > 1),
            label=_name(method, norm_order, lines), color=how.color, linestyle=how.linestyle,
            marker=how.marker, capsize=2, elinewidth=0.8,
            markerfacecolor="white" if norm_order == "bn_relu" else how.color,
        )  # fmt: skip
        lost = places[rows.index][rows["status"] == "diverged"].unique()
        for place in lost:
            ax.plot(place, 0.97, "x", color=how.color, transform=ax.get_xaxis_transform())
    if numeric:
        least = x[x > 0].min()
        # a logarithmic axis cannot show 0
        if x.min() >= 0 and x.max() / least >= 8:
            ax.set_xscale("symlog", linthresh=least) if x.min() == 0 else ax.set_xscale("log")
        ax.set_xlabel(_readable(keys[0]))
    else:
        vertical = len(names) > 8
        ax.set_xticks(
            range(len(names)),
            names,
            rotation=90 if vertical else 30,
            ha="center" if vertical else "right",
        )
        words = pd.to_numeric(pd.Series(names), errors="coerce").isna().any()
        named = list(keys) == ["variant"] and words  # numbers need an axis label, words do not
        ax.set_xlabel("" if named else ", ".join(map(_readable, keys)))
    _from_zero(ax)
    if quantity == "test_error":
        _chance(ax, table["chance"].groupby(places).first())
    ax.set_ylabel(label)


def _chance(ax: Axes, level: pd.Series) -> None:
    """Draw the error of guessing as steps, unless it is far above all runs."""
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
    if ax.dataLim.ymin < 0:  # a metric of the runs' own
        return
    # equal points would have no margin
    top = max(ax.get_ylim()[1], 1.05 * ax.dataLim.ymax)
    ax.set_ylim(0, max(1.0, top))  # at least up to 1 % or 1°, so that rounding looks small


def _heat_maps(table: pd.DataFrame, keys: Sequence[str], drawn: Mapping[str, str]) -> Figure:
    (below, across), lines = keys, _lines(table, keys)
    groups = list(table.groupby([lines[name] for name in GROUP], sort=False))
    ticks = {
        key: sorted(v) if pd.api.types.is_numeric_dtype(v) else v
        for key in keys
        for v in [table[key].unique()]
    }
    fig, axes = _panels(len(groups), len(drawn), height=2.6)
    for row, (group, rows) in zip(axes, groups, strict=True):
        row[0].set_title(_title(group, lines))
        for ax, (quantity, name) in zip(row, drawn.items(), strict=True):
            cells = rows.pivot_table(
                index=below, columns=across, values=quantity, aggfunc="mean", dropna=False
            )
            sns.heatmap(
                cells.reindex(index=ticks[below], columns=ticks[across]), ax=ax, annot=True,
                fmt=".1f", annot_kws={"size": 7.5}, cmap=mpl.colormaps["viridis_r"],
                cbar_kws={"label": name}, vmin=min(0, rows[quantity].min()),
                vmax=90 if "angle" in quantity else None,
            )  # fmt: skip
            ax.invert_yaxis()
            ax.set(xlabel=_readable(across), ylabel=_readable(below))
    return fig


def _lines(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The columns :data:`GROUP`, which identify the line of each row. A network or norm order that
    was swept is empty, since it is on the axis."""
    points = _points(table, keys)
    on_axis = [
        name
        for name in ("network", "norm_order")
        if table[name].nunique() > 1 and (table[name].groupby(points).nunique() == 1).all()
    ]
    return table[GROUP].assign(**dict.fromkeys(on_axis, ""))


def _points(table: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """The label of each row's point of the ablation."""
    words = table[list(keys)].astype(str).agg(", ".join, axis=1)
    return words.str.replace("_", " ") if list(keys) == ["variant"] else words


def _panels(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    return plt.subplots(rows, columns, figsize=(3.1 * columns, height * rows), squeeze=False)


def _name(method: str, norm_order: str, lines: pd.DataFrame) -> str:
    """The method's label, with its norm order if there are several and it is not the paper's."""
    other = norm_order == "bn_relu" and lines["norm_order"].nunique() > 1
    return method_label(method) + (f", BatchNorm {ORDERS[norm_order]}" if other else "")


def _title(group: Sequence[str], lines: pd.DataFrame) -> str:
    network, method, norm_order = group
    name = _name(method, norm_order, lines)
    return f"{network_label(network)}, {name}" if lines["network"].nunique() > 1 else name


def _readable(key: str) -> str:
    return SWEPT_LABELS.get(key, key.replace("_", " "))
