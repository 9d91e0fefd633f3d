"""The settings that a run recorded."""

from __future__ import annotations

import json
from typing import Any

import xarray as xr

from .. import methods
from ..errors import WtkitError
from ..experiments import LATER_SETTINGS, RunConfig, run_config
from ..methods import Method

OWN_LOOP = {"loop": "own"}
"""What is among the settings of a run that :class:`wtkit.Recorder` recorded."""


def settings(run: xr.Dataset) -> dict[str, Any]:
    """All settings of one run (an element of the dimension ``run``) as a dictionary, including
    settings and options that are not recorded.

    Raises:
        WtkitError: for several runs.
    """
    if run["settings"].ndim:
        raise WtkitError(
            f"settings: expected one run, such as node.isel(run=0), got {run['settings'].size} runs"
        )
    recorded = json.loads(str(run["settings"].values))
    if recorded.get("method") in methods.names():
        earlier = methods.method_class(recorded["method"]).LATER_OPTIONS
        recorded["options"] = {**earlier, **recorded.get("options", {})}
        recorded = LATER_SETTINGS | recorded
    return recorded


def is_own_loop(run: xr.Dataset) -> bool:
    """Whether :class:`wtkit.Recorder` recorded this run (an element of the dimension ``run``) in a
    training loop of its user's. Its settings are then those that the user named."""
    return OWN_LOOP.items() <= json.loads(str(run["settings"].values)).items()


def method_of(run: xr.Dataset) -> Method:
    """The method of one recorded run (an element of the dimension ``run``) with its options."""
    if is_own_loop(run):
        return methods.load(str(run["method"].values), **settings(run)["options"])
    # the method does not depend on the data set, which may not be installed here
    return _as_config(settings(run) | {"data": "digits", "classes": None}).loaded_method()


def config_of(run: xr.Dataset) -> RunConfig:
    """The settings of one recorded run (an element of the dimension ``run``) as a RunConfig; not
    for a run of :func:`is_own_loop`, which has none."""
    return _as_config(settings(run))


def _as_config(recorded: dict[str, Any]) -> RunConfig:
    return run_config({name: value for name, value in recorded.items() if name != "numerics"})


def known_config_of(run: xr.Dataset) -> RunConfig | None:
    """:func:`config_of`; None for a run of :func:`is_own_loop`, or of a data set, network or method
    that is not installed here."""
    if is_own_loop(run):
        return None
    try:
        return config_of(run)
    except WtkitError:
        return None
