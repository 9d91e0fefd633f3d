"""The settings that a run recorded."""

from __future__ import annotations

import json
from typing import Any

import xarray as xr

from .. import methods
from ..experiments import LATER_SETTINGS, RunConfig, run_config


def settings(run: xr.Dataset) -> dict[str, Any]:
    """All settings of one run (an element of the dimension ``run``) as a dictionary, including
    settings and options that are not recorded."""
    recorded = json.loads(str(run["settings"].values))
    if recorded.get("method") in methods.names():
        earlier = methods.method_class(recorded["method"]).LATER_OPTIONS
        recorded["options"] = {**earlier, **recorded.get("options", {})}
        recorded = LATER_SETTINGS | recorded
    return recorded


def config_of(run: xr.Dataset) -> RunConfig:
    """The settings of one recorded run (an element of the dimension ``run``) as a RunConfig."""
    return run_config({name: value for name, value in settings(run).items() if name != "numerics"})
