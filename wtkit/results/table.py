"""Results as one pandas table, and the xarray accessor ``.wt``. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..arguments import checked
from ..errors import WtkitError
from .graph import GRAPH_COORDS, downstream
from .names import method_label
from .schema import LAYER_COORDS, RUN_COORDS, VARIABLES, metrics_of
from .selection import select

QUANTITIES = ("matrix_angle", "delta_angle", "test_error")
RUN_LABELS = ("variant", "norm_order", "seed")
LAYER_LABELS = ("depth", "block", "level")
LABELS = ("method", *RUN_LABELS, "epoch", "layer")
DIMENSIONS: dict[str, list[str]] = {
    "run": [*VARIABLES, *RUN_COORDS, "experiment"],
    "epoch": ["epoch", *(name for name, (dims, *_) in VARIABLES.items() if "epoch" in dims)],
    "layer": ["layer", *LAYER_COORDS, *GRAPH_COORDS]
    + [name for name, (dims, *_) in VARIABLES.items() if "layer" in dims],
}
"""The dimensions of results, and the variables that have each."""
COLUMNS = (
    "label", "experiment", "network", "seed", "epoch", "layer", *QUANTITIES, "variant",
    "norm_order", *LAYER_LABELS,
)  # fmt: skip


def tidy(results: xr.Dataset | xr.DataTree) -> pd.DataFrame:
    """Return results as one table: one row per run, epoch and layer.

    The columns are ``label`` (the method's label with its variant, such as ``WM gaussian``),
    ``experiment``, ``network``, ``seed``, ``epoch``, ``layer``, ``matrix_angle`` and
    ``delta_angle`` in degrees, ``test_error`` in percent, ``variant``, ``norm_order``, ``depth``
    and, if the graph is known, ``block`` and ``level``; then the runs' own metrics, such as
    ``bits_per_character``. An error or a metric belongs to all layers of its epoch: it is repeated
    on each of their rows. Values that were not measured are NaN.

    Args:
        results: from :func:`wtkit.open_results`, one network's node, one run, or a selection.

    Example:
        >>> import seaborn
        >>> table = tidy(open_results("digits"))  # doctest: +SKIP
        >>> seaborn.relplot(
        ...     table, x="epoch", y="matrix_angle", hue="label", col="network", kind="line"
        ... )  # doctest: +SKIP
    """
    tables = [_node_table(node, experiment) for node, experiment in nodes_of(results)]
    if not tables:
        raise WtkitError("tidy: expected results with runs, such as open_results()")
    table = pd.concat(tables, ignore_index=True)
    metrics = dict.fromkeys(name for node, _ in nodes_of(results) for name in metrics_of(node))
    return table[[name for name in (*COLUMNS, *metrics) if name in table]]


def nodes_of(results: xr.Dataset | xr.DataTree) -> list[tuple[xr.Dataset, str]]:
    """The data sets in ``results``, one per network, each with the name of its experiment, empty if
    unknown. They have the dimensions ``run``, ``epoch`` and ``layer``, also after a selection of
    one run, epoch or layer.

    Raises:
        WtkitError: for results after a mean, or without their labels.
    """
    if isinstance(results, xr.Dataset):
        found, attrs = [results], results.attrs
    else:
        found, attrs = [node.to_dataset() for node in results.subtree], results.root.attrs
    experiment = str(attrs.get("experiment", ""))
    return [(_whole(node), experiment) for node in found if set(QUANTITIES) & set(node.data_vars)]


def _whole(node: xr.Dataset) -> xr.Dataset:
    """``node`` with all dimensions and :data:`QUANTITIES`; those that it lacks are NaN."""
    missing = [name for name in LABELS if name not in node.coords]
    missing += ["network"] if "network" not in node.attrs else []
    if missing or not set(node.dims) <= set(DIMENSIONS):
        what = repr(missing[0]) if missing else repr(min(set(node.dims) - set(DIMENSIONS), key=str))
        raise WtkitError(
            f"{what} is {'missing' if missing else 'not a dimension of results'}; expected results "
            "by run, epoch and layer, before any mean, such as open_results()"
        )
    for dim, names in DIMENSIONS.items():
        if dim not in node.dims:  # one run, epoch or layer was selected
            present = [name for name in names if name in node.variables]
            node = node.assign({name: node[name].variable.expand_dims(dim) for name in present})
            node = node.set_coords([name for name in present if name not in VARIABLES])
    shape = tuple(DIMENSIONS)
    for name in QUANTITIES:
        if name not in node.data_vars:
            nan = np.full([node.sizes[dim] for dim in shape], np.nan)
            whole = node.assign({name: (shape, nan)})[name]
            drop = {dim: 0 for dim in shape if dim not in ("run", *VARIABLES[name][0])}
            node = node.assign({name: whole.isel(drop, drop=True)})
    return node


def _node_table(node: xr.Dataset, experiment: str) -> pd.DataFrame:
    labels = [name for name in (*RUN_LABELS, *LAYER_LABELS, "method") if name in node.coords]
    named = ["experiment"] if "experiment" in node.coords else []
    metrics = [name for name in metrics_of(node) if name in node.data_vars]
    wanted = node.reset_coords()[[*QUANTITIES, *metrics, *labels, *named]]
    table = wanted.to_dataframe(dim_order=[*DIMENSIONS]).reset_index().drop(columns="run")
    pairs = zip(table.pop("method"), table["variant"], strict=True)
    table["label"] = [method_label(method, variant) for method, variant in pairs]
    if not named:
        table["experiment"] = experiment
    return table.assign(network=node.attrs["network"], seed=table["seed"].astype(np.int64))


class Accessor:
    """``.wt`` on an xarray Dataset or DataTree of results, once ``wtkit.results`` is imported."""

    def __init__(self, results: xr.Dataset | xr.DataTree) -> None:
        self._results = results

    def tidy(self) -> pd.DataFrame:
        """:func:`wtkit.tidy` of these results."""
        return tidy(self._results)

    def downstream(self) -> xr.DataArray:
        """:func:`wtkit.results.downstream` of one network's results."""
        return downstream(self._results)

    def select(self, *args: Any, **labels: Any) -> xr.Dataset | xr.DataTree:
        """:func:`wtkit.results.select` of one network's runs. On a tree of networks: a tree of the
        networks that have such runs.

        Raises:
            WtkitError: if no network has such runs.
        """
        results = self._results
        if isinstance(results, xr.Dataset) or "run" in results.dims:
            return checked(select)(results, *args, **labels)
        selected, errors = {}, []
        for network, node in results.children.items():
            try:
                selected[f"/{network}"] = checked(select)(node, *args, **labels)
            except WtkitError as error:
                errors.append(error)
        if not selected:
            raise errors[0] if errors else WtkitError("select: there are no networks in this tree")
        tree = xr.DataTree.from_dict(selected)
        tree.attrs = dict(results.attrs)
        return tree


xr.register_dataset_accessor("wt")(Accessor)
xr.register_datatree_accessor("wt")(Accessor)
