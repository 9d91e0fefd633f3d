"""The figures, drawn on axes that the caller hands in, and the one home of their style. Imports no torch.

Every function takes a network's data set (``results["resnet18"].to_dataset()``; dimensions ``run``, ``epoch`` and
``layer``) and draws what it finds: methods that were not run are left out or said to be missing, runs that diverged are
shown as such.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from . import methods, paper
from .errors import WtkitError, imports_of
from .trajectory import select

with imports_of("figures"):
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap, ListedColormap, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
    from matplotlib.typing import ColorType

# ------------------------------------------------------------------------------------------------------------- style


@dataclasses.dataclass(frozen=True)
class Look:
    """How a method is drawn: colours step in lightness, and line and marker differ too, so that grey print will do."""

    color: ColorType
    linestyle: Any
    marker: str


LOOKS = {
    paper.BP: Look("#000000", "-", "o"),
    paper.FA: Look("#dcb13c", (0, (1, 1.2)), "v"),
    paper.SS: Look("#4a9a94", (0, (5, 1.5)), "s"),
    paper.WM: Look("#0b3c8c", (0, (3, 1, 1, 1)), "D"),
    paper.KP: Look("#a83256", "-", "^"),
}
SPARE = (
    Look("#7a6fb0", (0, (8, 2)), "P"), Look("#a0693a", (0, (2, 2)), "X"), Look("#6f8f3f", "-", "*"),
    Look("#c26fa2", (0, (6, 1, 1, 1)), "<"), Look("#3f8fc0", (0, (4, 3)), ">"), Look("#8c8c8c", (0, (1, 2.5)), "p"),
    Look("#d0683c", (0, (9, 1.5, 2, 1.5)), "h"),
)  # fmt: skip
"""For methods beyond the paper's five, in order of their names."""

LAYER_COLORS: Colormap = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.92, 256)), "layers")
"""From the input layer (dark) to the output layer (light)."""
GREY = "0.45"


def style() -> None:
    """Set the style of all figures; once, before the first."""
    sns.set_theme(
        context="paper",
        style="ticks",
        font="DejaVu Sans",
        rc={
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 9,
            "axes.labelsize": 9,
            "axes.titlesize": 9.5,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "legend.fontsize": 8.5,
            "legend.frameon": False,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "lines.linewidth": 1.6,
            "lines.markersize": 4,
            "svg.hashsalt": "wtkit",
        },
    )


def look(method: str) -> Look:
    """How a method is drawn."""
    if method in LOOKS:
        return LOOKS[method]
    others = [name for name in methods.names() if name not in LOOKS]
    return SPARE[others.index(method) % len(SPARE) if method in others else -1]


def save(fig: Figure, stem: str | Path) -> None:
    """Write ``stem``.svg and ``stem``.png; the same figure always gives the same bytes.

    Raises:
        WtkitError: if a file cannot be written.
    """
    fig.draw_without_rendering()  # lays out once, so that both files show the same
    fig.set_layout_engine("none")
    with _writing(stem), mpl.rc_context({"svg.hashsalt": "wtkit"}):
        fig.savefig(f"{stem}.svg", metadata={"Date": None})
        fig.savefig(f"{stem}.png", dpi=200, metadata={"Software": None})


def save_table(table: pd.DataFrame, path: str | Path, title: str = "") -> None:
    """Write a table as the ending of ``path`` says: ``.html`` (a page of its own), ``.csv`` or ``.tex``.

    Raises:
        WtkitError: for another ending, or if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".html", ".csv", ".tex"):
        raise WtkitError(f"cannot write a table as {path.name!r}; endings are .html, .csv and .tex")
    if path.suffix == ".html":
        text = PAGE.format(title=title, table=table.to_html(index=False, border=0))
    elif path.suffix == ".csv":
        text = table.to_csv(index=False)
    else:
        text = table.to_latex(index=False, escape=True).replace("±", r"$\pm$").replace("–", "--")
    with _writing(path):
        path.write_text(text, encoding="utf-8")


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.45 "DejaVu Sans", Verdana, sans-serif; margin: 2em; color: #111; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .35em .8em; text-align: left !important; vertical-align: top; border-bottom: 1px solid #ccc; }}
th {{ border-bottom: 2px solid #111; }}
</style></head><body>
<h1>{title}</h1>
{table}
</body></html>
"""


@contextlib.contextmanager
def _writing(path: str | Path) -> Iterator[None]:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise WtkitError(
            f"cannot write {path}: {error.strerror or error}; name a folder that you may write to"
        ) from None


# ------------------------------------------------------------------------------------------------------- test errors


def test_error(ax: Axes, node: xr.Dataset, norm_order: str | None = None) -> None:
    """Test error (%) of every method over epochs, mean ± standard error over seeds; the final values at the margin.

    There, published errors stand beside them: the paper's, and those of :func:`wtkit.paper.anchors`.

    Args:
        norm_order: by default the network's :func:`wtkit.paper.main_order`.
    """
    norm_order = norm_order or paper.main_order(node)
    found = paper.methods_of(node, norm_order)
    for index, method in enumerate(found):
        _trajectory(ax, select(node, method, norm_order=norm_order), look(method), offset=index)
    finals = [(m, paper.final_error(node, m, norm_order), look(m)) for m in found]
    printed = paper.FINAL_ERRORS.get((str(node.attrs["network"]), norm_order), {})
    others = _other_anchors(node, norm_order)
    finals += [(m, paper.Estimate(np.nan), look(m)) for m in others["method"].unique() if m not in found]
    _error_axes(ax, node, [ours.mean for _, ours, _ in finals], others["error_percent"])
    columns = _margin(ax, node, [(paper.label(m), ours, printed.get(m), how) for m, ours, how in finals], _key(others))
    place_of = dict(zip([m for m, *_ in finals], columns, strict=True))
    for mark, (_, rows) in zip(ANCHOR_MARKS, _by_source(others), strict=False):
        how: dict[str, Any] = {"marker": mark, "markersize": 6, "markeredgewidth": 1.4, "zorder": 4}
        for method, error in zip(rows["method"], rows["error_percent"], strict=True):
            ax.plot(place_of[method] + 0.035 * float(node["epoch"].max()), error, color=look(method).color, **how)
    _remarks(ax, select(node, norm_order=norm_order))


ANCHOR_MARKS = {"+": "+", "x": "×", "_": "–", "|": "|"}
"""Marks of published errors, one a source and norm order, and how a text shows them."""


def _other_anchors(node: xr.Dataset, norm_order: str) -> pd.DataFrame:
    """Published errors for this network and data, but for those that the margin shows as the paper's; and ``key``,
    whose they are and what of them is otherwise than in these runs."""
    found = paper.anchors(node)
    found = found[(found["source"] != paper.PAPER) | (found["norm_order"] != norm_order)]
    other = found["norm_order"].where(found["norm_order"] != norm_order, "")
    words = other.map({order: f", BatchNorm {words}" for order, words in paper.ORDERS.items()} | {"": ""})
    return found.assign(key=found["source"] + words + ", original pixels" * paper.is_coded_anew(node))


def _by_source(anchors: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return list(anchors.groupby("key", sort=False))


def _key(anchors: pd.DataFrame) -> list[str]:
    """A line a source of published errors, with its mark."""
    return [f"{mark} {key}" for mark, (key, _) in zip(ANCHOR_MARKS.values(), _by_source(anchors), strict=False)]


def norm_order(ax: Axes, node: xr.Dataset, method: str = paper.SS) -> None:
    """Test error (%) of one method under both norm orders; at ImageNet scale the value of Xiao et al. as a line."""
    network, margin = str(node.attrs["network"]), []
    looks = {"relu_bn": look(method), "bn_relu": dataclasses.replace(look(method), color=_dark(method), linestyle="-")}
    for index, (order, how) in enumerate(looks.items()):
        runs, name = select(node, method, norm_order=order), paper.ORDERS[order]
        if runs.sizes["run"]:
            _trajectory(ax, runs, how, label=f"{paper.label(method)}, BatchNorm {name}", offset=index)
            printed = paper.FINAL_ERRORS.get((network, order), {}).get(method)
            margin.append((name.split()[0], paper.final_error(node, method, order), printed, how))
    if node.attrs["data"] == "imagenet" and network == "resnet18" and method == paper.SS:
        text = f"SS, BatchNorm before ReLU, Xiao et al.: {paper.XIAO_ERROR} %"
        ax.axhline(paper.XIAO_ERROR, color=GREY, linewidth=1, linestyle=(0, (6, 2)), zorder=1, label=text)
    _error_axes(ax, node, [ours.mean for _, ours, _, _ in margin])
    _margin(ax, node, margin)
    if not margin:
        why = "not run" if paper.main_order(node) in looks else "this network has an order of its own"
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=GREY)
        return
    _remarks(ax, select(node, method))
    ax.legend(loc="lower left", handlelength=3.2)


def _dark(method: str) -> tuple[float, float, float]:
    red, green, blue = to_rgb(look(method).color)
    return red / 2, green / 2, blue / 2


def _trajectory(ax: Axes, runs: xr.Dataset, how: Look, label: str | None = None, offset: int = 0) -> None:
    """Mean over the complete runs with a band of one standard error; each diverged run thin, up to a cross."""
    mean, error = paper.mean_and_error(paper.complete(runs)["test_error"])
    epochs = mean["epoch"].values
    every = max(1, len(epochs) // 6)
    ax.plot(
        epochs, mean, color=how.color, linestyle=how.linestyle, marker=how.marker, label=label,
        markevery=(offset % every, every), markeredgecolor="white", markeredgewidth=0.5, zorder=3,
    )  # fmt: skip
    ax.fill_between(epochs, mean - error, mean + error, color=how.color, alpha=0.2, linewidth=0, zorder=2)
    for index in np.flatnonzero(runs["status"].values == "diverged"):
        run = runs["test_error"].isel(run=index).dropna("epoch")
        ax.plot(run["epoch"], run, color=how.color, linewidth=0.8, linestyle=how.linestyle)
        ax.plot(run["epoch"][-1:], run[-1:], color=how.color, marker="x", markersize=7, markeredgewidth=1.8, zorder=4)


def _error_axes(ax: Axes, node: xr.Dataset, ours: Iterable[float], published: Iterable[float] = ()) -> None:
    """Axis, title and label of errors in percent: where ours go below 10 %, a logarithmic axis down to the lowest."""
    ax.set_ylabel(f"top-1 {paper.evaluated_on(node)} error (%)")
    ax.set_title(f"{paper.network_label(node.attrs['network'])}, {paper.data_label(node)}")
    lowest = min((error for error in ours if error > 0), default=100.0)
    if lowest < 10:  # the paper's axis is linear; errors of a few per cent would be one line on it
        ax.set_yscale("log")
        ax.set_ylim(0.7 * min(lowest, *published, 100.0), 110)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(0, 102)


def _epoch_axis(ax: Axes, node: xr.Dataset) -> int:
    """Whole epochs from 0, with a little room at both ends; returns the last."""
    last = max(1, int(node["epoch"].max()))
    ax.set_xlim(-0.02 * last, 1.02 * last)
    ticks = MaxNLocator(integer=True, nbins=7).tick_values(0, last)
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if 0 <= tick <= last]))
    ax.set_xlabel("epoch")
    return last


def _margin(
    ax: Axes,
    node: xr.Dataset,
    finals: Sequence[tuple[str, paper.Estimate, paper.Estimate | None, Look]],
    key: Sequence[str] = (),
) -> np.ndarray:
    """Final values right of the last epoch, a column each: ours filled, the paper's (ImageNet) open.

    Args:
        key: further lines to say what the marks there are.

    Returns:
        where the columns stand.
    """
    last = _epoch_axis(ax, node)
    left, right = 1.05 * last, (1.05 + max(0.4, 0.12 * len(finals) - 0.2)) * last
    edges = np.linspace(left, right, len(finals) + 1)
    columns = (edges[:-1] + edges[1:]) / 2
    for x, (name, ours, printed, how) in zip(columns, finals, strict=True):
        mark: dict[str, Any] = {"color": how.color, "marker": how.marker, "linestyle": "none", "elinewidth": 1}
        if np.isfinite(ours.mean):
            error = None if np.isnan(ours.error) else ours.error
            ax.errorbar(x - 0.015 * last, ours.mean, yerr=error, markersize=5, **mark)
        if printed:
            where = (x + 0.015 * last, printed.mean)
            ax.errorbar(*where, yerr=printed.error, markersize=5.5, markerfacecolor="white", **mark)
        _below(ax, x, name, 4, 7.5)
    spine = ax.spines["bottom"]
    spine.set_bounds(-0.02 * last, 1.02 * last)
    rule = Line2D([left, right], [0, 0], transform=ax.get_xaxis_transform(), clip_on=False)
    rule.set(color=spine.get_edgecolor(), linewidth=spine.get_linewidth())
    ax.add_line(rule)
    ax.set_xlim(-0.02 * last, right)
    _below(ax, right, "\n".join(["● last epoch", "○ paper, ImageNet", *key]), 17, 7.5, color=GREY, ha="right")
    ax.set_xlabel("epoch", x=0.5 * last / right)
    return columns


def _below(ax: Axes, x: float, text: str, points: float, size: float, color: str = "0.15", **how: Any) -> None:
    """Text at ``x``, so many points below the axes."""
    place = {"xytext": (0, -points), "textcoords": "offset points", "va": "top", "ha": "center"} | how
    ax.annotate(text, (x, 0), xycoords=ax.get_xaxis_transform(), fontsize=size, color=color, **place)


def _remarks(ax: Axes, runs: xr.Dataset) -> None:
    """Below the axes: how many seeds the means are over, and which runs diverged."""
    lines = [seeds(runs)]
    for method in paper.methods_of(runs):
        for order in paper.ORDERS:
            found = paper.final_error(runs, method, order)
            if found.diverged:
                lines.append(f"{found.name}: {found.diverged} of {found.runs} runs diverged (×), not in the mean")
    _below(ax, ax.get_xlim()[0], "\n".join(lines), 36, 7.5, color=GREY, ha="left")


def seeds(runs: xr.Dataset) -> str:
    """What a mean over these runs is worth, in words."""
    count = len(set(runs["seed"].values.tolist()))
    return "one seed: no standard error" if count == 1 else f"mean ± standard error of {count} seeds"


def method_legend(fig: Figure, nodes: Iterable[xr.Dataset], norm_order: str | None = None) -> None:
    """One row above the panels: every method that is drawn in one of them, as :func:`test_error` draws them."""
    found = {method for node in nodes for method in paper.methods_of(node, norm_order or paper.main_order(node))}
    ordered = [m for m in paper.METHODS if m in found] + sorted(found.difference(paper.METHODS))
    lines = []
    for method in ordered:
        how = look(method)
        line = Line2D([], [], color=how.color, linestyle=how.linestyle, marker=how.marker, markeredgecolor="white")
        line.set_label(paper.label(method))
        lines.append(line)
    fig.legend(handles=lines, loc="outside upper center", ncols=len(lines), handlelength=3.2, columnspacing=1.5)


# ------------------------------------------------------------------------------------------------------------ angles

QUANTITIES = {"matrix_angle": "matrix angle", "delta_angle": "δ angle"}
PANELS = {paper.WM: "ab", paper.KP: "cd", paper.SS: "ef"}
"""The panels of Fig. 4: a method's matrix angles and δ angles."""


def angle_columns(nodes: Iterable[xr.Dataset]) -> list[tuple[str, str]]:
    """Method and variant of each column of :func:`angle_grid`: those of Fig. 4, then FA, then what else was run."""
    nodes = list(nodes)
    others = {m for node in nodes for m in paper.methods_of(node)}.difference(paper.METHODS)
    variants = {(paper.WM, variant) for node in nodes for variant in paper.variants_of(node, paper.WM)}
    return [(method, "") for method in (*PANELS, paper.FA, *sorted(others))] + sorted(variants)


def angle_grid(axes: np.ndarray, node: xr.Dataset, columns: Sequence[tuple[str, str]]) -> None:
    """A network's matrix angles (first row of ``axes``) and δ angles (second row), a column a method."""
    for row, (quantity, name) in enumerate(QUANTITIES.items()):
        for ax, (method, variant) in zip(axes[row], columns, strict=True):
            angles(ax, node, method, quantity, variant)
            title = paper.label(method, variant)
            if method in PANELS and not variant:
                ax.set_title(f"$\\bf{{{PANELS[method][row]}}}$   {title}")
            else:
                ax.set_title(f"{title} (added here)")
            ax.label_outer()
        axes[row, 0].set_ylabel(f"{paper.network_label(node.attrs['network'])}\n{name} (°)")


def angles(ax: Axes, node: xr.Dataset, method: str, quantity: str, variant: str = "") -> None:
    """Angles in degrees over epochs, a line a layer, mean over complete runs, with the bound that the paper states."""
    _epoch_axis(ax, node)
    _angle_axes(ax, quantity)
    runs = select(node, method, norm_order=paper.main_order(node), variant=variant)
    kept = paper.complete(runs) if (runs["status"] == "complete").any() else runs
    values = kept[quantity].mean("run").dropna("epoch", how="all").transpose("epoch", "layer")
    if not values.size:
        ax.text(
            0.5,
            0.5,
            "not run" if not runs.sizes["run"] else "not measured",
            transform=ax.transAxes,
            ha="center",
            color=GREY,
        )
        return
    diverged = int((runs["status"] == "diverged").sum())
    if diverged:
        text = f"{diverged} of {runs.sizes['run']} runs diverged, {'shown' if kept is runs else 'left out'}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        ax.text(0.98, 0.77, text, transform=ax.transAxes, ha="right", va="top", fontsize=7, color=GREY, bbox=box)
    colors = LAYER_COLORS(np.linspace(0, 1, values.sizes["layer"]))
    for index in range(values.sizes["layer"]):  # the output layer last, on top
        ax.plot(values["epoch"], values.isel(layer=index), color=colors[index], linewidth=0.8)
    for epoch in paper.lr_drops(runs):
        ax.axvline(epoch, color=GREY, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
    bound = paper.ANGLE_BOUNDS.get((method, quantity))
    if bound and not variant:
        sign, angle = bound
        ax.axhline(angle, color=GREY, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1)
        ax.annotate(
            f"paper: {sign} {angle:g}°", (0.98, angle), xycoords=ax.get_yaxis_transform(), ha="right", fontsize=7,
            xytext=(0, 3 if sign == "<" else -3), va="bottom" if sign == "<" else "top", textcoords="offset points",
            color=GREY, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )  # fmt: skip


def _angle_axes(ax: Axes, quantity: str) -> None:
    # a square-root axis: from 1° to 90° on one scale, and still 0 in place
    ax.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), lambda y: y**2))
    ax.set_ylim(0, 100)
    ax.yaxis.set_major_locator(FixedLocator([0, 2, 10, 25, 45, 70, 90]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel(f"{QUANTITIES[quantity]} (°)")


def angle_note(fig: Figure, nodes: Iterable[xr.Dataset]) -> None:
    """Below all panels: what the lines are means of, and how to read the axes."""
    nodes = list(nodes)
    counts = ", ".join(
        f"{paper.network_label(node.attrs['network'])}: {len(set(node['seed'].values.tolist()))}" for node in nodes
    )
    drops = "; dotted: $\\eta_W$ drops" if any(map(paper.lr_drops, nodes)) else ""
    over = "; angles over all weights, dead ones included" if any(map(paper.over_all_weights, nodes)) else ""
    text = f"Every line a layer, mean over seeds ({counts}); square-root axis{drops}{over}."
    fig.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color=GREY)


def layer_bar(fig: Figure, axes: Sequence[Axes]) -> Colorbar:
    """The colour bar of the layers, from input to output."""
    bar = fig.colorbar(ScalarMappable(cmap=LAYER_COLORS), ax=axes, aspect=40, fraction=0.03, pad=0.01)
    bar.set_ticks([0, 1], labels=["input", "output"])
    bar.ax.tick_params(length=0)
    bar.set_label("layer", labelpad=-18)
    bar.outline.set_visible(False)
    return bar
