"""The points of an ablation: what each changes, which runs it is for, and the run that it makes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from ..errors import WtkitError
from ..validation import known
from .choices import (
    NORM_ORDERS,
    OLD_MLP_OPTIONS,
    OLD_SETTINGS,
    OWN_ORDER,
    as_word,
    network_name,
    options_class,
    renamed,
)
from .content import Ablation, network
from .run import RunConfig, run_config
from .settings import SETTINGS, check_setting, option_names

AXIS_OF_POINTS = {"networks": "network", "norm_orders": "norm_order"}
_OF_POINTS = [*SETTINGS, *AXIS_OF_POINTS.values(), "network_options"]


def points_of(ablation: Ablation) -> dict[str, dict[str, Any]]:
    """What is changed at each point of an ablation, by the word for it."""
    if ablation.variants is not None:
        return ablation.variants
    points: dict[str, dict[str, Any]] = {}
    numbers: list[dict[str, Any]] = []
    sweep = ablation.sweep or {}
    for values in itertools.product(*sweep.values()):
        change = dict(zip(sweep, values, strict=True))
        word = ",".join(f"{key}={as_word(value)}" for key, value in change.items())
        if word in points:
            raise WtkitError(
                f"'sweep': two points are called {word}; leave one out, or name them by 'variants'"
            )
        numbers.append({key: _as_number(value) for key, value in change.items()})
        if numbers[-1] in numbers[:-1]:  # 1, 1.0 and 1e0
            raise WtkitError(f"'sweep': {word} is a point twice; leave one out")
        points[word] = change
    return points


def _as_number(value: Any) -> Any:
    """A number that YAML reads as text, as the number that a setting would take it for."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def axes_of_point(
    change: Mapping[str, Any], axes: Mapping[str, list], points: Mapping[str, Mapping[str, Any]]
) -> dict[str, list]:
    """The networks and norm orders that a point is for: those it names, or all of the ablation's.

    Axes that no point names are left out.
    """
    at = {}
    for axis, name in AXIS_OF_POINTS.items():
        if name in change:
            at[axis] = [_named(name, change)]
        elif any(name in other for other in points.values()):
            at[axis] = axes[axis]
    return at


def _named(name: str, change: Mapping[str, Any]) -> Any:
    value = change[name]
    if not isinstance(value, str):
        raise WtkitError(f"{name!r}: expected a name, got {value!r}")
    if name == "norm_order":
        # here, for a network without the choice would not look at it
        return known(value, (*NORM_ORDERS, OWN_ORDER), "norm order")
    options = change.get("network_options")
    return network({value: options} if options else value)


def is_for(run: RunConfig, axes: Mapping[str, list]) -> bool:
    """Whether ``run`` is of these axes."""
    networks = [network_name(*entry) for entry in axes.get("networks", [])]
    orders = (OWN_ORDER, *axes.get("norm_orders", []))
    return ("networks" not in axes or run.network_name in networks) and (
        "norm_orders" not in axes or run.norm_order in orders
    )


def run_at(run: RunConfig, point: str, change: dict[str, Any]) -> RunConfig:
    """``run`` with the settings, and options of its method or network, that ``change`` names."""
    values = dataclasses.asdict(run)
    home = _home_of_options(run)
    old_names = OLD_SETTINGS | (OLD_MLP_OPTIONS if run.network == "mlp" else {})
    change = renamed(change, old_names)
    if run.optimizer == "adamw" and change.get("optimizer") == "sgd" and "momentum" not in change:
        # the run's 0 is AdamW's, and nobody chose it
        raise WtkitError(
            "'optimizer': the base's adamw has no momentum that sgd could take over; give sgd its "
            "'momentum' at this point"
        )
    for key in ("options", "network_options"):
        if isinstance(change.get(key), dict):
            change[key] = renamed(change[key], old_names)
    for key, value in change.items():
        _check_change(run, key, value, change, home)
        if key in ("options", "network_options"):
            values[key] |= value
        elif key in home:
            values[home[key]][key] = value
        else:
            values[key] = value
    values["variant"] = "_".join(filter(None, [run.variant, point]))
    return run_config(values)


def _home_of_options(run: RunConfig) -> dict[str, str]:
    """The setting that each option of the run's method or network belongs to."""
    home = dict.fromkeys(option_names(run.method), "options")
    known_options = options_class(run.network)
    if known_options is not None:
        home |= {field.name: "network_options" for field in dataclasses.fields(known_options)}
    return home


def _check_change(
    run: RunConfig, key: str, value: Any, change: Mapping[str, Any], home: Mapping[str, str]
) -> None:
    if key in ("method", "seed"):
        raise WtkitError(
            f"{key!r} cannot differ by point: each is made with all of '{key}s', a key of its own"
        )
    fix = f", not of {run.method}; leave {run.method} out of 'methods'"
    check_setting(key, [*_OF_POINTS, *home], f"setting or option of {run.method}", fix)
    if key in ("options", "network_options"):
        if not isinstance(value, dict):
            raise WtkitError(f"{key!r}: expected a mapping, got {value!r}")
        for name in value.keys() & change.keys():
            raise WtkitError(f"{name!r} is given twice, by itself and in {key!r}; leave one out")
