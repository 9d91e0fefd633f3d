"""Means over runs, with their standard errors, and which runs there are."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import xarray as xr

from ..experiments import known_facts
from .names import MAIN_ORDER, METHODS, method_label
from .schema import ALL
from .store import config_of, select, settings


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over runs, with its standard error: NaN where there are fewer than two runs.

    Attributes:
        mean: in percent, or in degrees for an angle.
        error: over runs.
        runs: how many, diverged ones included; 0 where that is not known.
        diverged: how many of them are not in the mean.
        name: whose it is.
        images: in the test set that the mean was measured on; 0 where that is not known, or for an
            angle.
    """

    mean: float
    error: float = math.nan
    runs: int = 0
    diverged: int = 0
    name: str = ""
    images: int = 0

    @property
    def df(self) -> float:
        """Degrees of freedom of ``error``; infinite where the number of runs is not known."""
        return self.runs - self.diverged - 1 if self.runs else math.inf

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "diverged" if self.diverged else "–"
        text = f"{self.mean:.1f}" if self.mean >= 10 else f"{self.mean:.2f}"
        if not math.isnan(self.error):
            text += f" ± {self.error:.1f}" if self.mean >= 10 else f" ± {self.error:.2f}"
        return text


def mean_and_error(values: xr.DataArray, dim: str = "run") -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and standard error over ``dim``, NaN left out; the error is NaN where there are fewer
    than two values."""
    count = values.count(dim)
    mean = values.sum(dim) / count.where(count > 0)
    variance = ((values - mean) ** 2).sum(dim) / (count - 1).where(count > 1)
    return mean, (variance / count.where(count > 0)) ** 0.5


def complete(runs: xr.Dataset) -> xr.Dataset:
    """The runs that did not diverge."""
    return runs.isel(run=runs["status"].values == "complete")


def last_errors(runs: xr.Dataset) -> xr.DataArray:
    """Each run's ``test_error`` at its last epoch, in percent, over ``run``; runs may differ in
    length."""
    values = runs["test_error"].transpose("run", "epoch").values
    last = [row[np.isfinite(row)][-1] if np.isfinite(row).any() else np.nan for row in values]
    return xr.DataArray(np.array(last, dtype=float), dims="run")


def main_order(node: xr.Dataset) -> str:
    """The norm order that figures and claims speak of: the paper's; of a network without the
    choice, its own."""
    return "own" if "own" in node["norm_order"].values else MAIN_ORDER


def final_error(
    node: xr.Dataset, method: str, norm_order: str | None = None, variant: str = ""
) -> Estimate:
    """Error at the last epoch over the complete runs of a method, diverged runs counted beside."""
    runs = select(node, method, norm_order=norm_order or main_order(node), variant=variant)
    mean, error = mean_and_error(last_errors(complete(runs)))
    diverged = int((runs["status"].values == "diverged").sum())
    return Estimate(
        float(mean), float(error), runs.sizes["run"], diverged, method_label(method, variant)
    )


def methods_of(
    node: xr.Dataset, norm_order: str | None = None, variant: str | None = ""
) -> list[str]:
    """Methods that were run: the paper's five in our order, then others by name."""
    found = set(select(node, norm_order=norm_order, variant=variant)["method"].values.tolist())
    return [m for m in METHODS if m in found] + sorted(found.difference(METHODS))


def variants_of(node: xr.Dataset, method: str) -> list[str]:
    """Names of the variants of a method that were run beside the main one."""
    return sorted(set(select(node, method, variant=None)["variant"].values.tolist()) - {""})


def lr_drops(node: xr.Dataset) -> list[int]:
    """Epochs after which a step schedule lowers η_W at once, of the runs together."""
    drops: set[int] = set()
    for index in range(node.sizes["run"]):
        chosen = settings(node.isel(run=index))
        if chosen["schedule"] == "step":
            drops |= {drop for drop in chosen["lr_drops"] if 0 < drop < chosen["epochs"]}
    return sorted(drops)


def networks_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """The data sets of a tree by network, the smaller network first."""
    return {
        name: tree[name].to_dataset()
        for name in sorted(tree.children, key=lambda name: (len(name), name))
    }


def held_out_images(runs: xr.Dataset) -> int:
    """How many images errors were measured on: the fewest of any run; 0 where that is neither
    recorded nor known."""
    return min((_held_out(runs.isel(run=index)) for index in range(runs.sizes["run"])), default=0)


def _held_out(run: xr.Dataset) -> int:
    recorded = float(run["held_out_images"]) if "held_out_images" in run.variables else math.nan
    return int(recorded) if recorded > 0 else known_facts(config_of(run)).held_out or 0


def over_all_weights(node: xr.Dataset) -> bool:
    """Whether the angles of any run count weights that no signal passes, as in files of schema
    version 1."""
    return ALL in node["angles_over"].values


def evaluated_on(node: xr.Dataset) -> str:
    """``test``, ``validation``, or both names: the images that errors were measured on."""
    return " and ".join(sorted(set(node["evaluated_on"].values.tolist())))
