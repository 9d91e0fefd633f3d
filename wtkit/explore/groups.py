"""What is drawn as one group: the runs of a method in a network, whose seeds are averaged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import to_hex

from ..errors import WtkitError
from ..figures import look_of
from ..results import (
    METHODS,
    ORDERS,
    complete_if_any,
    mean_and_error,
    measure_label,
    measure_of,
    measured_in_all,
    method_label,
    network_label,
    nodes_of,
)

ANGLES = {"matrix_angle": "matrix angle (°)", "delta_angle": "δ angle (°)"}
"""The quantities by layer, with their axis labels."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one method, variant and norm order in one network of one experiment.

    Attributes:
        network: its label, with the experiment's name if there are several.
        method: its label, with the variant, and the norm order if it is not the paper's.
        color: of the method in all figures.
        dash: of the method's lines, as Bokeh has them.
        runs: its runs; ``epoch`` are those at which angles were recorded.
        measure: what all runs of the network are judged by, and …
        measure_label: … its label.
    """

    network: str
    method: str
    color: str
    dash: str
    runs: xr.Dataset
    measure: str
    measure_label: str

    def mean(self, quantity: str) -> np.ndarray:
        """The mean over complete runs in degrees, epochs × layers; NaN where not all of them were
        measured. If all runs diverged, they are shown."""
        values = complete_if_any(self.runs)[quantity]
        mean, _ = mean_and_error(values.where(measured_in_all(values)))
        return mean.transpose("epoch", "layer").values

    @property
    def epochs(self) -> list[int]:
        return self.runs["epoch"].values.tolist()

    @property
    def layers(self) -> list[str]:
        return self.runs["layer"].values.tolist()

    @property
    def fan_in(self) -> list[int]:
        return self.runs["fan_in"].values.tolist()


def groups_of(results: xr.Dataset | xr.DataTree) -> list[Group]:
    """The groups of results: the paper's methods first, in the order of our figures.

    Raises:
        WtkitError: for anything but results in which an angle was recorded.
    """
    found = [group for node, _ in nodes_of(results) for group in _of_node(node)]
    if not found:
        raise WtkitError(
            "explore: no run with an angle in these results; expected open_results(), one network "
            "of it, or a selection"
        )
    return sorted(found, key=_rank)


def _rank(group: Group) -> tuple[int, str, bool]:
    method = str(group.runs["method"].values[0])
    place = METHODS.index(method) if method in METHODS else len(METHODS)
    return place, method, "BatchNorm" in group.method


def _of_node(node: xr.Dataset) -> list[Group]:
    labels = [_labels(node.isel(run=index)) for index in range(node.sizes["run"])]
    groups = []
    for label in dict.fromkeys(labels):
        runs = node.isel(run=[index for index, other in enumerate(labels) if other == label])
        angles = xr.concat([runs[name] for name in ANGLES], "quantity")
        recorded = angles.notnull().any([dim for dim in angles.dims if dim != "epoch"])
        if recorded.any():
            groups.append(_group(runs.isel(epoch=recorded.values), label, node))
    return groups


def _labels(run: xr.Dataset) -> tuple[str, ...]:
    """What tells groups apart: experiment, method, variant, norm order."""
    own = str(run["experiment"].values) if "experiment" in run.coords else ""
    return own, *(str(run[name].values) for name in ("method", "variant", "norm_order"))


def _group(runs: xr.Dataset, label: tuple[str, ...], node: xr.Dataset) -> Group:
    experiment, method, variant, norm_order = label
    network = network_label(str(runs.attrs["network"]))
    look = look_of(method)
    order = f", BatchNorm {ORDERS[norm_order]}" if norm_order == "bn_relu" else ""
    return Group(
        network=f"{experiment}: {network}" if experiment else network,
        method=method_label(method, variant) + order,
        color=to_hex(look.color),
        dash=dash_of(look.linestyle),
        runs=runs,
        measure=measure_of(node),
        measure_label=measure_label(node),
    )


def dash_of(linestyle: Any) -> str:
    """matplotlib's dashes, in line widths, as Bokeh's, in pixels."""
    if linestyle == "-":
        return "solid"
    return " ".join(str(max(1, round(2 * length))) for length in linestyle[1])
