"""Select runs by their labels. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import methods
from ..errors import WtkitError
from ..validation import known, nearest
from .names import ORDERS


def select(
    node: xr.Dataset | xr.DataTree,
    method: str | None = None,
    *,
    norm_order: str | None = None,
    variant: str | None = "",
    seed: int | None = None,
    experiment: str | None = None,
) -> xr.Dataset:
    """Select the runs of one network that have these labels. The dimension ``run`` remains.

    Args:
        node: one network's results.
        method: name or label, such as ``weight_mirror`` or ``WM``. A label may include the
            variant: ``WM gaussian``.
        norm_order: ``relu_bn``, ``bn_relu`` or ``own``.
        variant: empty for the main runs; None for all runs.
        seed: the random seed.
        experiment: its name, for results that were opened from several experiments.

    Raises:
        WtkitError: if no run has these labels; it names the nearest recorded one.

    Example:
        >>> mirror = select(open_results()["resnet18"], "WM")  # doctest: +SKIP
        >>> mirror.matrix_angle.mean("run").isel(epoch=-1)  # doctest: +SKIP
    """
    runs = _dataset(node)
    if method is not None:
        method, variant = _split_label(runs, method, variant)
    wanted = {  # the variant last: an error then says that its default leaves nothing
        "experiment": experiment,
        "method": method,
        "norm_order": norm_order,
        "seed": seed,
        "variant": variant,
    }
    for name, value in wanted.items():
        if value is not None:
            runs = _narrowed(runs, name, value)
    return runs


def matching_runs(
    node: xr.Dataset | xr.DataTree,
    method: str | None = None,
    *,
    norm_order: str | None = None,
    variant: str | None = "",
) -> xr.Dataset:
    """Like :func:`select`, but without runs if none match. For callers that handle missing runs
    themselves.

    Raises:
        WtkitError: for a method or norm order that is neither recorded nor one of wtkit's.
    """
    runs = _dataset(node)
    if norm_order is not None and norm_order not in runs["norm_order"].values:
        known(norm_order, ORDERS, "norm_order")
    if method is not None and method not in runs["method"].values:
        method = known(methods.names_by_label().get(method, method), methods.names(), "method")
    mask = np.ones(runs.sizes["run"], dtype=bool)
    for name, value in (("method", method), ("norm_order", norm_order), ("variant", variant)):
        if value is not None:
            mask &= runs[name].values == value
    return runs.isel(run=mask)


def check_one_experiment(runs: xr.Dataset) -> None:
    """Check before a mean over seeds that the runs are of one experiment: those of another have
    the same labels, but other settings.

    Raises:
        WtkitError: if they are of several.
    """
    names = dict.fromkeys(runs["experiment"].values.tolist()) if "experiment" in runs.coords else {}
    if len(names) > 1:
        raise WtkitError(
            f"these runs are of several experiments, {', '.join(names)}, which have no mean; open "
            f"one, or select one: results.wt.select(experiment={next(iter(names))!r}, variant=None)"
        )


def _dataset(node: xr.Dataset | xr.DataTree) -> xr.Dataset:
    dataset = node.to_dataset() if isinstance(node, xr.DataTree) else node
    if isinstance(node, xr.DataTree) and node.children:
        raise WtkitError(
            f"expected one network's results, such as results[{next(iter(node.children))!r}]; "
            f"these are of {', '.join(node.children)}"
        )
    if "run" not in dataset.sizes:
        raise WtkitError(
            "expected one network's results along the dimension 'run', such as "
            "open_results()['resnet18-width=16']; to keep it, write isel(run=[0]), not isel(run=0)"
        )
    return dataset


def _split_label(runs: xr.Dataset, text: str, variant: str | None) -> tuple[str, str | None]:
    """The method's name and the variant that a name or label stands for."""
    names = methods.names_by_label()
    label, _, labelled_variant = text.partition(" ")
    recorded = list(dict.fromkeys(runs["method"].values.tolist()))
    # a recorder's user may have called a method as another one's label
    method = label if label in recorded else names.get(label, label)
    if method not in recorded:
        labels = [label for label, name in names.items() if name in recorded]
        raise WtkitError(
            f"no runs of method {text!r}{nearest(text, [*recorded, *labels])}; "
            f"recorded: {', '.join(recorded) or 'none'}"
        )
    return method, labelled_variant or variant


def _narrowed(runs: xr.Dataset, name: str, value: Any) -> xr.Dataset:
    """The runs whose coordinate ``name`` is ``value``."""
    if name not in runs.coords:
        raise WtkitError(
            f"no coordinate {name!r} in these results; pass several names to open_results"
        )
    mask = runs[name].values == value
    if not mask.any():
        recorded = [str(other) for other in dict.fromkeys(runs[name].values.tolist())]
        hint = "; variant=None selects all" if name == "variant" else ""
        raise WtkitError(
            f"no runs with {name} {value!r}{nearest(str(value), recorded)}; "
            f"recorded: {', '.join(map(repr, recorded)) or 'none'}{hint}"
        )
    return runs.isel(run=mask)
