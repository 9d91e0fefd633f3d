"""Means and standard errors over runs, and which methods, variants and networks were run."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import xarray as xr

from ..errors import WtkitError
from ..experiments import known_facts
from ..validation import known
from .names import MAIN_ORDER, METHODS, method_label
from .recorded import is_own_loop, known_config_of, settings
from .schema import ALL_WEIGHTS, metrics_of
from .selection import check_one_experiment, matching_runs


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over runs with its standard error.

    Attributes:
        mean: in percent, or in degrees for an angle.
        error: standard error over runs; NaN for fewer than two.
        runs: number of runs that were measured or diverged; of all, if none was; 0 if unknown.
        diverged: number of diverged runs, which are not in the mean.
        name: label of the mean.
        images: size of the test set; 0 if unknown, or for an angle.
    """

    mean: float
    error: float = math.nan
    runs: int = 0
    diverged: int = 0
    name: str = ""
    images: int = 0

    @property
    def df(self) -> float:
        """Degrees of freedom of ``error``; infinite if the number of runs is unknown."""
        return self.runs - self.diverged - 1 if self.runs else math.inf

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "diverged" if self.diverged else "–"
        # a small error takes the second decimal too: "± 0.0" would say that the runs were equal
        decimals = 2 if self.mean < 10 or 0 < self.error < 0.05 else 1
        text = f"{self.mean:.{decimals}f}"
        if not math.isnan(self.error):
            text += f" ± {self.error:.{decimals}f}"
        return text


def mean_and_error(values: xr.DataArray, dim: str = "run") -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and standard error over ``dim``, skipping NaN. The error of fewer than two values is
    NaN.

    Raises:
        WtkitError: for values without this dimension.
    """
    known(dim, map(str, values.dims), "dimension")
    count = values.count(dim)
    mean = values.sum(dim) / count.where(count > 0)
    variance = ((values - mean) ** 2).sum(dim) / (count - 1).where(count > 1)
    return mean, (variance / count.where(count > 0)) ** 0.5


def complete(runs: xr.Dataset) -> xr.Dataset:
    """The runs that did not diverge."""
    return runs.isel(run=runs["status"].values == "complete")


def complete_if_any(runs: xr.Dataset) -> xr.Dataset:
    """The runs that did not diverge; if all did, all of them, to be shown as they are."""
    return complete(runs) if (runs["status"] == "complete").any() else runs


def measured(values: xr.DataArray) -> xr.DataArray:
    """Whether a run has any value at an epoch, over ``run`` and ``epoch``."""
    return values.notnull().any([dim for dim in values.dims if dim not in ("run", "epoch")])


def measured_in_all(values: xr.DataArray) -> xr.DataArray:
    """The epochs at which no run lacks a value that another one has; a mean over fewer runs, where
    one was shorter, would jump."""
    if not {"run", "epoch"} <= set(values.dims):
        raise WtkitError(
            f"measured_in_all: expected values over 'run' and 'epoch', got over {values.dims}"
        )
    count = measured(values).sum("run")
    return (count == count.max()) & (count > 0) if count.size else count > 0


def measure_of(node: xr.Dataset) -> str:
    """What these runs are judged by: ``test_error``; of runs that measured none, the first of their
    own metrics, such as ``bits_per_character``."""
    for name in ("test_error", *metrics_of(node)):
        if name in node.variables and node[name].notnull().any():
            return name
    return "test_error"


def measure_label(node: xr.Dataset) -> str:
    """The label of :func:`measure_of` with its unit: ``test error (%)``, ``test bits per character
    (bit)``."""
    measure = node[measure_of(node)]
    if measure.name == "test_error":
        return f"{evaluated_on(node)} error (%)"
    units = measure.attrs["units"]
    return f"{evaluated_on(node)} {measure.attrs['long_name']}" + f" ({units})" * (units != "1")


def last_errors(runs: xr.Dataset, measure: str | None = None) -> xr.DataArray:
    """Each run's last value of ``measure``, by default :func:`measure_of`, as a rule the
    ``test_error`` in percent; runs may differ in length."""
    values = runs[measure or measure_of(runs)].transpose("run", "epoch").values
    last = [row[np.isfinite(row)][-1] if np.isfinite(row).any() else np.nan for row in values]
    return xr.DataArray(np.array(last, dtype=float), dims="run")


def main_order(node: xr.Dataset) -> str:
    """The norm order in figures and claims: the paper's, or the network's own if it has no
    choice."""
    return "own" if "own" in node["norm_order"].values else MAIN_ORDER


def final_error(
    node: xr.Dataset, method: str, norm_order: str | None = None, variant: str = ""
) -> Estimate:
    """Error at the last epoch, over a method's complete runs, with the number of diverged runs.

    It is the :func:`measure_of` all runs of ``node``: the methods of a table have one unit.

    Raises:
        WtkitError: if the method's runs are of several experiments.
    """
    runs = matching_runs(node, method, norm_order=norm_order or main_order(node), variant=variant)
    check_one_experiment(runs)
    values = last_errors(complete(runs), measure_of(node))
    mean, error = mean_and_error(values)
    diverged = int((runs["status"].values == "diverged").sum())
    # a recorder's user may have measured it in some of the runs only
    measured = int(values.count()) or runs.sizes["run"] - diverged
    return Estimate(
        float(mean), float(error), measured + diverged, diverged, method_label(method, variant)
    )


def methods_of(
    node: xr.Dataset, norm_order: str | None = None, variant: str | None = ""
) -> list[str]:
    """Methods that were run: the paper's five in our order, then others by name."""
    runs = matching_runs(node, norm_order=norm_order, variant=variant)
    names = set(runs["method"].values.tolist())
    return [m for m in METHODS if m in names] + sorted(names.difference(METHODS))


def variants_of(node: xr.Dataset, method: str) -> list[str]:
    """Names of a method's variants that were run, without the main one."""
    return sorted(set(matching_runs(node, method, variant=None)["variant"].values.tolist()) - {""})


def lr_drops(node: xr.Dataset) -> list[int]:
    """Epochs after which a step schedule lowers η_W, over all runs."""
    drops: set[int] = set()
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        if is_own_loop(run):
            continue
        chosen = settings(run)
        if chosen["schedule"] == "step":
            drops |= {drop for drop in chosen["lr_drops"] if 0 < drop < chosen["epochs"]}
    return sorted(drops)


def networks_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """A tree's data sets by network, sorted by length of the name, then by name: smaller ResNets
    come first.

    Raises:
        WtkitError: for a tree without networks, such as a single network's node.
    """
    if not tree.children:
        raise WtkitError(
            "expected the results of an experiment, such as open_results('digits'), got a tree "
            "without networks, or one network's node"
        )
    return {
        name: tree[name].to_dataset()
        for name in sorted(tree.children, key=lambda name: (len(name), name))
    }


def held_out_images(runs: xr.Dataset) -> int:
    """The number of images that errors were measured on: the smallest of any run; 0 if unknown."""
    return min((_held_out(runs.isel(run=index)) for index in range(runs.sizes["run"])), default=0)


def _held_out(run: xr.Dataset) -> int:
    recorded = float(run["held_out_images"]) if "held_out_images" in run.variables else 0.0
    if recorded > 0:
        return int(recorded)
    config = known_config_of(run)
    return 0 if config is None else known_facts(config).held_out or 0


def over_all_weights(node: xr.Dataset) -> bool:
    """Whether any run's angles include weights that no signal passes, as in schema version 1."""
    return ALL_WEIGHTS in node["angles_over"].values


def evaluated_on(node: xr.Dataset) -> str:
    """The images that errors were measured on: ``test``, ``validation``, or both."""
    return " and ".join(sorted(set(node["evaluated_on"].values.tolist())))
