"""Say of results that a function cannot read what they lack. Imports no torch."""

from __future__ import annotations

from typing import Any

import xarray as xr

from ..errors import WtkitError
from .schema import RUN_COORDS, VARIABLES

NEEDED = ("run", "epoch", "layer", *RUN_COORDS, "test_error")
ATTRS = ("network", "data")


def say_what_is_missing(
    _error: Exception, function: str, given: dict[str, Any]
) -> WtkitError | None:
    """The error to raise where ``function`` failed on results that lack something; None if they
    lack nothing, since then the fault is not the user's."""
    for name, value in given.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, xr.Dataset | xr.DataTree) and (missing := _missing(one)):
                return WtkitError(
                    f"{function}: {name}: no results by run, epoch and layer: {missing} is missing;"
                    " expected what wtkit.open_results() gives, before a mean or a choice of "
                    "variables"
                )
    return None


def _missing(results: xr.Dataset | xr.DataTree) -> str:
    """The first thing that results lack; empty if they have all."""
    if isinstance(results, xr.DataTree):
        nodes = [node.to_dataset() for node in results.subtree if node.has_data]
        if not nodes:
            return "every network"
    else:
        nodes = [results]
    for node in nodes:
        lacking = [name for name in NEEDED if name not in node.variables and name not in node.dims]
        lacking += [name for name in VARIABLES if name not in node.variables]
        lacking += [f"attribute {name}" for name in ATTRS if name not in node.attrs]
        if lacking:
            return repr(lacking[0])
    return ""
