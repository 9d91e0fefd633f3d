"""The data set schema: what a run records, and the check that a data set follows it.

``docs/schema.md`` describes the schema in words. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from ..errors import WtkitError
from .graph import GRAPH_COORDS, graph_coords, with_graph

SCHEMA_VERSION = 2
LIVE_WEIGHTS, ALL_WEIGHTS = "live weights", "all weights"
"""The weights that angles and norm ratios are computed over: those that a signal can pass, or
all."""

# name: (dimensions of one run, long name, units, section of the paper)
VARIABLES: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "test_error": (("epoch",), "top-1 error on held-out images", "%", "Sec. 6, Fig. 3"),
    "test_error_top5": (("epoch",), "top-5 error on held-out images", "%", ""),
    "train_loss": (("epoch",), "mean training loss of the epoch", "nat", ""),
    "learning_rate": (("epoch",), "learning rate η_W at the end of the epoch", "1", "eq. 4"),
    "seconds": (("epoch",), "duration of the epoch, including measurements", "s", ""),
    "matrix_angle": (("epoch", "layer"), "angle between B and "
                                         "W", "degree", "Sec. 6, Fig. 4a, c, e"),
    "matrix_angle_all_weights": (("epoch", "layer"), "angle between B and W, dead weights "
                                                     "included", "degree", ""),
    "delta_angle": (("epoch", "layer"), "angle between δ and backprop's "
                                        "δ", "degree", "Sec. 6, Fig. 4b, d, f"),
    "feedback_norm_ratio": (("epoch", "layer"), "norm of B over norm of W", "1", "Sec. 4.3"),
    "feedback_norm_ratio_all_weights": (
        ("epoch", "layer"), "norm of B over norm of W, dead weights included", "1", ""
    ),
    "weight_norm": (("epoch", "layer"), "norm of W", "1", ""),
    "weight_norm_all_weights": (("epoch", "layer"), "norm of W, dead weights included", "1", ""),
    "delta_norm_ratio": (("epoch", "layer"), "norm of δ over norm of backprop's δ", "1", ""),
    "live_share": (("layer",), "share of the weights that a signal can pass", "1", ""),
    "mirror_samples": (("layer",), "noise samples per mirror step", "1", "Sec. 4.2"),
}  # fmt: skip
LIVE_VARIABLES = ("matrix_angle", "feedback_norm_ratio", "weight_norm")
"""Variables over the live weights. Each has a counterpart over all weights, with the suffix
``_all_weights``."""
LAYER_COORDS = {
    "depth": "position from the input, from 0",
    "kind": "Linear, Conv2d, or the kind of module that holds the weights",
    "fan_in": "inputs of one activation",
}
RUN_COORDS = {
    "method": "name of the method",
    "variant": "name of a set of options; empty for the main one",
    "norm_order": "relu_bn: BatchNorm after the ReLU; bn_relu: before; own: fixed by the network",
    "seed": "random seed",
    "status": "complete or diverged",
    "evaluated_on": "test or validation images",
    "held_out_images": "number of images that errors were measured on; -1 if not recorded",
    "angles_over": f"weights that angles and norm ratios of B and W are computed over: "
    f"{LIVE_WEIGHTS}, or {ALL_WEIGHTS} (schema version 1)",
    "settings": "all settings of the run, as JSON",
    "provenance": "versions, commit, device, processes and start of the run, as JSON",
}
RUN_ATTRS = ("schema_version", "network", "data")


def dataset(
    records: Mapping[str, Any],
    layers: Mapping[str, Any],
    run: Mapping[str, Any],
    *,
    network: str,
    data: str,
    metrics: Mapping[str, str] = MappingProxyType({}),
) -> xr.Dataset:
    """Make one run's data set with the dimensions ``epoch`` and ``layer``.

    Args:
        records: an array for each name in :data:`VARIABLES`, over epochs, epochs × layers, or
            layers. Epoch 0 is before training. A missing name means not measured: all NaN.
        layers: ``layer`` (names from the input up), ``kind`` and ``fan_in``; and, if the graph is
            known, ``block`` and ``feeds`` (for each layer, those that it feeds).
        run: a value for each of :data:`RUN_COORDS`.
        metrics: the units of further quantities by epoch in ``records``, by name.
    """
    sizes = {"epoch": len(records["test_error"]), "layer": len(layers["layer"])}
    variables = {name: _variable(name, sizes, records.get(name)) for name in VARIABLES}
    coords: dict[str, Any] = {
        "epoch": (
            "epoch",
            np.arange(sizes["epoch"]),
            {"long_name": "number of trained epochs; 0 is before training"},
        ),
        "layer": (
            "layer",
            np.asarray(layers["layer"], dtype=object),
            {"long_name": "module, from the input up"},
        ),
        "depth": ("layer", np.arange(sizes["layer"]), {"long_name": LAYER_COORDS["depth"]}),
        "kind": (
            "layer",
            np.asarray(layers["kind"], dtype=object),
            {"long_name": LAYER_COORDS["kind"]},
        ),
        "fan_in": (
            "layer",
            np.asarray(layers["fan_in"], dtype=np.int64),
            {"long_name": LAYER_COORDS["fan_in"]},
        ),
    }
    if "feeds" in layers:
        coords |= graph_coords(layers["layer"], layers["block"], layers["feeds"])
    for name, long_name in RUN_COORDS.items():
        coords[name] = ((), run[name], {"long_name": long_name})
    attrs = {"schema_version": SCHEMA_VERSION, "network": network, "data": data}
    if metrics:
        variables |= {
            name: (("epoch",), np.asarray(records[name], np.float64), metric_attrs(name, units))
            for name, units in metrics.items()
        }
        attrs["metrics"] = " ".join(metrics)
    return xr.Dataset(variables, coords, attrs)


def metric_attrs(name: str, units: str) -> dict[str, str]:
    """The attributes of a quantity that a user named, such as ``bits_per_character``."""
    return {"long_name": name.replace("_", " "), "units": units}


def metrics_of(node: xr.Dataset) -> list[str]:
    """The quantities by epoch that the runs of a network record beside :data:`VARIABLES`, in the
    order in which they were declared.

    >>> metrics_of(xr.Dataset(attrs={"metrics": "bits_per_character perplexity"}))
    ['bits_per_character', 'perplexity']
    """
    return str(node.attrs.get("metrics", "")).split()


def _variable(
    name: str, sizes: Mapping[Any, int], values: Any = None
) -> tuple[tuple[str, ...], np.ndarray, dict]:
    """Dimensions, values and attributes of one run's variable; all NaN without ``values``."""
    dims, long_name, units, section = VARIABLES[name]
    values = (
        np.full([sizes[d] for d in dims], np.nan)
        if values is None
        else np.asarray(values, dtype=np.float64)
    )
    return (
        dims,
        values,
        {"long_name": long_name, "units": units} | ({"paper": section} if section else {}),
    )


def upgraded(run: xr.Dataset) -> xr.Dataset:
    """Upgrade one run or a gathered node from any version to :data:`SCHEMA_VERSION`.

    Version 1 has one angle, over all weights. It keeps its name, and ``angles_over`` states the
    weights. The graph of the layers is added where it follows from their names.
    """
    run = with_graph(run)
    if run.attrs.get("schema_version") != 1:
        return run
    attrs = run.attrs | {"schema_version": SCHEMA_VERSION}
    leading = {"run": run.sizes["run"]} if "run" in run.dims else {}
    if "weight_norm" not in run.variables:  # missing in early files of version 1
        run = _with_missing(run, "weight_norm", leading)
    for name in LIVE_VARIABLES:
        copy = f"{name}_all_weights"
        if name in run.variables:
            run = run.assign({copy: run[name].assign_attrs(_variable(copy, run.sizes)[2])})
    run = _with_missing(run, "live_share", leading)
    for name, value in (("held_out_images", -1), ("angles_over", ALL_WEIGHTS)):
        values = np.full(
            tuple(leading.values()), value, dtype=object if isinstance(value, str) else None
        )
        run = run.assign_coords({name: (tuple(leading), values, {"long_name": RUN_COORDS[name]})})
    return run.assign_attrs(attrs)


def _with_missing(run: xr.Dataset, name: str, leading: Mapping[str, int]) -> xr.Dataset:
    """``run`` with a variable that is all NaN."""
    if not set(VARIABLES[name][0]) <= set(run.dims):
        return run  # check reports the missing dimension
    run = run.assign({name: _variable(name, run.sizes)})
    return run.assign({name: run[name].expand_dims(leading)}) if leading else run


RANGES = {
    "test_error": (0, 100),
    "test_error_top5": (0, 100),
    "matrix_angle": (0, 180),
    "delta_angle": (0, 180),
    "matrix_angle_all_weights": (0, 180),
    "live_share": (0, 1),
} | dict.fromkeys(
    ("train_loss", "learning_rate", "seconds", "weight_norm", "feedback_norm_ratio"),
    (0, float("inf")),
)
"""The range of a variable's values."""
STATUSES = ("complete", "diverged")


def check(run: xr.Dataset, source: str) -> xr.Dataset:
    """Return ``run`` if it follows the schema.

    Args:
        run: one run, or a gathered node with a dimension ``run``.
        source: named in the error.

    Raises:
        WtkitError: stating the rule that ``run`` breaks.
    """
    _check_attributes(run, source)
    leading = ("run",) if "run" in run.dims else ()
    _check_variables(run, leading, source)
    _check_metrics(run, leading, source)
    _check_coordinates(run, leading, source)
    for name, (low, high) in RANGES.items():
        if ((run[name] < low) | (run[name] > high)).any():
            raise WtkitError(
                f"{source}: {name!r} leaves the range {low} to {high} {VARIABLES[name][2]}"
            )
    return run


def _check_attributes(run: xr.Dataset, source: str) -> None:
    version = run.attrs.get("schema_version")
    if version is None:
        raise WtkitError(f"{source}: no attribute 'schema_version', so not a data set of wtkit")
    if not isinstance(version, (int, np.integer)):
        raise WtkitError(
            f"{source}: attribute 'schema_version' is {version!r}, expected a whole number"
        )
    if version > SCHEMA_VERSION:
        raise WtkitError(
            f"{source}: schema version {version}, but this wtkit reads up to {SCHEMA_VERSION}; "
            "upgrade wtkit"
        )
    for attr in RUN_ATTRS:
        if attr not in run.attrs:
            raise WtkitError(f"{source}: attribute {attr!r} is missing")
    for attr in ("network", "data"):
        # the network's name becomes that of a node
        if not isinstance(run.attrs[attr], str) or "/" in run.attrs[attr]:
            raise WtkitError(
                f"{source}: attribute {attr!r} is {run.attrs[attr]!r}, expected a name without /"
            )


def _check_variables(run: xr.Dataset, leading: tuple[str, ...], source: str) -> None:
    for name, (dims, _, expected, _) in VARIABLES.items():
        _expect(run, name, leading + dims, source)
        if run[name].dtype.kind not in "fiu":
            raise WtkitError(f"{source}: {name!r} holds {run[name].dtype}, expected numbers")
        units = run[name].attrs.get("units")
        if units != expected:
            raise WtkitError(f"{source}: {name!r} is in {units!r}, expected {expected!r}")


def _check_metrics(run: xr.Dataset, leading: tuple[str, ...], source: str) -> None:
    for name in metrics_of(run):
        _expect(run, name, (*leading, "epoch"), source)
        if run[name].dtype.kind not in "fiu":
            raise WtkitError(f"{source}: {name!r} holds {run[name].dtype}, expected numbers")


def _check_coordinates(run: xr.Dataset, leading: tuple[str, ...], source: str) -> None:
    _check_layers(run, source)
    _expect(run, "epoch", ("epoch",), source)
    if not np.array_equal(run["epoch"], np.arange(run.sizes["epoch"])):
        raise WtkitError(f"{source}: 'epoch' does not count 0, 1, 2, …")
    for name in RUN_COORDS:
        _expect(run, name, leading, source)
    for status in _texts(run, "status"):
        if status not in STATUSES:
            raise WtkitError(
                f"{source}: its status is {status!r}, expected {' or '.join(STATUSES)}; a run that "
                "has not ended cannot be saved or gathered"
            )
    for name in ("settings", "provenance"):
        for text in _texts(run, name):
            _check_json(text, name, source)


def _check_layers(run: xr.Dataset, source: str) -> None:
    graph = GRAPH_COORDS if any(name in run.variables for name in GRAPH_COORDS) else ()
    for name in ("layer", *LAYER_COORDS, *graph):
        _expect(run, name, ("layer",), source)
    layers = [str(name) for name in run["layer"].values]
    for name in layers:
        if layers.count(name) > 1:
            raise WtkitError(
                f"{source}: two layers are called {name!r}; each needs a name of its own"
            )


def _texts(run: xr.Dataset, name: str) -> list[str]:
    """A text of every run."""
    return [str(value) for value in np.atleast_1d(run[name].values)]


def _check_json(text: str, name: str, source: str) -> None:
    try:
        if isinstance(json.loads(text), dict):
            return
    except (ValueError, RecursionError):
        pass
    raise WtkitError(f"{source}: {name!r} is {text[:40]!r}, expected JSON: {{…}}")


def _expect(run: xr.Dataset, name: str, dims: tuple[str, ...], source: str) -> None:
    if name not in run.variables:
        raise WtkitError(f"{source}: {name!r} is missing")
    if set(run[name].dims) != set(dims):
        raise WtkitError(f"{source}: {name!r} has the dimensions {run[name].dims}, expected {dims}")
