"""Whether runs belong together, so that they can be gathered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xarray as xr

from ..errors import WtkitError
from ..validation import shown
from .graph import GRAPH_COORDS
from .recorded import settings
from .schema import LAYER_COORDS, metrics_of

# settings on which the numbers do not depend, and the seed
_OWN = ("seed", "workers", "compile")


def check_layers(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that the runs of one network have the same layers; sources are named in the error."""
    first = sourced_runs[0][1]
    for source, run in sourced_runs[1:]:
        if list(first["layer"].values) != list(run["layer"].values):
            raise WtkitError(
                f"{source}: its layers differ from those of the other {run.attrs['network']} runs"
            )
        both = set(first.coords) & set(run.coords)
        for name in [name for name in (*LAYER_COORDS, *GRAPH_COORDS) if name in both]:
            if list(first[name].values) != list(run[name].values):
                raise WtkitError(
                    f"{source}: {name!r} of its layers differs from that of the other runs; check "
                    "its stem and image size"
                )


def check_data(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that the runs of each variant learned the same data."""
    data_by_variant: dict[str, str] = {}
    for source, run in sourced_runs:
        data = data_by_variant.setdefault(str(run["variant"].values), run.attrs["data"])
        if data != run.attrs["data"]:
            raise WtkitError(
                f"{source}: its data are {run.attrs['data']}, those of other runs {data}; give it "
                "its own variant"
            )


def check_metrics(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that the runs' own metrics have one unit each."""
    first: dict[str, tuple[str, str]] = {}
    for source, run in sourced_runs:
        for name in metrics_of(run):
            units = str(run[name].attrs["units"])
            other, expected = first.setdefault(name, (source, units))
            if units != expected:
                raise WtkitError(
                    f"{source}: its metric {name!r} is in {units!r}, that of {other} in "
                    f"{expected!r}; measure both in one unit, or give one another name"
                )


def check_runs(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that no two runs have the same labels, and that those that differ in their seed alone
    have the same settings."""
    check_labels(sourced_runs)
    first: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}
    for source, run in sourced_runs:
        other, expected = first.setdefault(run_labels(run)[:-1], (source, shared_settings(run)))
        found = shared_settings(run)
        if (key := _first_difference(expected, found)) is not None:
            raise WtkitError(
                f"{source}: its setting {key!r} is {found.get(key)!r}, that of the same "
                f"method and variant in {other} {expected.get(key)!r}; give one a variant of "
                "its own"
            )


def _first_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first setting in which the two differ; the method comes first."""
    keys = sorted(one.keys() | other.keys(), key=lambda key: (key != "method", key))
    return next((key for key in keys if one.get(key) != other.get(key)), None)


def differing(found: str, wanted: str) -> str:
    """The first setting in which two records of settings, as JSON, differ, in words."""
    try:
        there, here = dict(json.loads(found)), dict(json.loads(wanted))
    except (ValueError, TypeError, RecursionError):
        raise WtkitError(f"differing: expected JSON, {{…}}, got {shown(found)}") from None
    key = _first_difference(there, here)
    return "" if key is None else f" ({key} is {shown(there.get(key))}, not {shown(here.get(key))})"


def shared_settings(run: xr.Dataset) -> dict[str, Any]:
    """The settings that a run shares with those of other seeds: without those on which its numbers
    do not depend. A folder of images may have moved."""
    found = {key: value for key, value in settings(run).items() if key not in _OWN}
    if found.get("data") == "image_folder":
        found["data_root"] = Path(str(found.get("data_root"))).name
    else:
        found.pop("data_root", None)
    return found


def check_together(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that the runs of one network can be gathered; sources are named in the error."""
    check_layers(sourced_runs)
    check_data(sourced_runs)
    check_metrics(sourced_runs)
    check_runs(sourced_runs)


def run_labels(run: xr.Dataset) -> tuple[str, ...]:
    """What no two runs have in common: network, method, variant, norm order, seed and, if there are
    several, the experiment."""
    names = ("experiment", "method", "variant", "norm_order", "seed")
    return run.attrs["network"], *(str(run[name].values) for name in names if name in run.coords)


def check_labels(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that no two runs have the same labels."""
    sources: dict[tuple[str, ...], str] = {}
    for source, run in sourced_runs:
        labels = run_labels(run)
        if labels in sources:
            raise WtkitError(
                f"{source}: the same run as {sources[labels]} "
                f"({', '.join(filter(None, labels))}); pass one of them only"
            )
        sources[labels] = source
