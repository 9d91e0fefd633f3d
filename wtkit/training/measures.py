"""What is measured of a converted model, and how its records become a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from .. import results
from ..feedback import (
    blocks_of,
    delta_statistics,
    feedback_layers,
    feedback_norm_ratios,
    live_shares,
    matrix_angles,
    noise_samples,
    weight_norms,
)
from ..results import VARIABLES

Entry = Mapping[str, Any]
"""What was measured at one epoch, by the names of :data:`wtkit.results.VARIABLES`: numbers, and an
array over layers for angles and norms."""


def weight_measures(model: nn.Module) -> dict[str, np.ndarray]:
    """Angles and norms of B and W of every layer, over the live weights and over all."""
    measures = {
        "matrix_angle": matrix_angles,
        "feedback_norm_ratio": feedback_norm_ratios,
        "weight_norm": weight_norms,
    }
    values = {}
    for name, measure in measures.items():
        values[name] = measure(model).values
        values[f"{name}_all_weights"] = measure(model, all_weights=True).values
    return values


def delta_measures(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
) -> dict[str, np.ndarray]:
    """Angles and ratios of norms of δ and backprop's δ of every layer, with the model's modules in
    the modes that they are in."""
    deltas = delta_statistics(model, inputs, targets, loss)
    return {name: deltas[name].values for name in ("delta_angle", "delta_norm_ratio")}


def trajectory(
    model: nn.Module,
    entries: Sequence[Entry],
    run: Mapping[str, Any],
    *,
    feeds: Mapping[str, Sequence[str]] | None,
    network: str,
    data: str,
    metrics: Mapping[str, str] | None = None,
    live_share: np.ndarray | None = None,
) -> xr.Dataset:
    """The records of a run as a data set, in the schema of :mod:`wtkit.results`.

    Args:
        model: the converted model.
        entries: one for each epoch, from epoch 0.
        run: a value for each of :data:`wtkit.results.RUN_COORDS`.
        feeds: the layers that each layer feeds; None if unknown.
        metrics: the units of further quantities in ``entries``, by name.
        live_share: of each layer, if it is known already.
    """
    layers = feedback_layers(model)
    records: dict[str, Any] = {}
    for name, (dims, *_) in VARIABLES.items():
        missing = np.full(len(layers), np.nan) if "layer" in dims else np.nan
        if "epoch" in dims:
            records[name] = [entry.get(name, missing) for entry in entries]
    for name in metrics or {}:
        records[name] = [entry.get(name, np.nan) for entry in entries]
    records["live_share"] = live_shares(model).values if live_share is None else live_share
    if any(layer.method.learns_mirror for layer in layers.values()):
        records["mirror_samples"] = [
            noise_samples(layer) if layer.method.learns_mirror else np.nan
            for layer in layers.values()
        ]
    described: dict[str, Any] = {
        "layer": list(layers),
        "kind": [layer.kind for layer in layers.values()],
        "fan_in": [layer.fan_in for layer in layers.values()],
    }
    if feeds is not None:
        described |= {"block": blocks_of(model), "feeds": feeds}
    return results.dataset(
        records, described, run, network=network, data=data, metrics=metrics or {}
    )


def as_recorded(entry: Entry) -> dict[str, Any]:
    """A record with its arrays, which are tensors in a checkpoint."""
    return {
        name: value.numpy() if isinstance(value, Tensor) else value for name, value in entry.items()
    }
