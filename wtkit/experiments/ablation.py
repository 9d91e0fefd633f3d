"""An ablation: an experiment as its base, and the points at which its runs are repeated."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import WtkitError
from ..validation import known
from .choices import NORM_ORDERS, OWN_ORDER, as_word, network_name, options_class
from .content import SETTINGS, Ablation, Experiment, check_setting, network, option_names
from .product import distinct, expand_product
from .reading import has_base, is_ablation, read_file
from .run import RunConfig, run_config

_AXES = ("methods", "networks", "norm_orders", "seeds")
_AXIS_OF_POINTS = {"networks": "network", "norm_orders": "norm_order"}
_OF_POINTS = [*SETTINGS, *_AXIS_OF_POINTS.values(), "network_options"]


def expand_ablation(content: Any, path: Path) -> list[RunConfig]:
    ablation = Ablation.read(content)
    base = _base(ablation.base, path)
    points = _points(ablation)
    axes = {axis: getattr(ablation, axis) or getattr(base, axis) for axis in _AXES}
    axes_at = {point: _axes_at(change, axes, points) for point, change in points.items()}
    runs = expand_product(_repeated(ablation, base, axes_at), own=ablation.overrides or [])
    return distinct(
        (
            _at(run, point, change)
            for run, (point, change) in itertools.product(runs, points.items())
            if _is_for(run, axes_at[point])
        ),
        "give one of the points another name",
    )


def _base(name: str, path: Path) -> Experiment:
    """The experiment that the ablation at ``path`` names as its base."""
    path = path.resolve()  # a file named from within its folder has no parents else
    files = {
        file.stem: file
        for folder in (path.parent.parent, path.parent)
        for file in folder.glob("*.yaml")
    }
    content = read_file(files[name]) if name in files else None
    # only then: to tell experiments from ablations, all are read
    if content is None or has_base(content):
        experiments = sorted(stem for stem, file in files.items() if _is_experiment(file))
        if Path(name).stem in experiments:
            raise WtkitError(
                "'base': expected an experiment's name, not its file; write base: "
                f"{Path(name).stem}"
            )
        known(name, experiments, "base")
    try:
        return Experiment.read(content)
    except WtkitError as error:
        raise WtkitError(f"base {files[name]}: {error}") from None


def _is_experiment(path: Path) -> bool:
    """Whether the file can be a base. One that cannot be read does not concern an ablation that
    names another."""
    try:
        return not is_ablation(path)
    except WtkitError:
        return False


def _points(ablation: Ablation) -> dict[str, dict[str, Any]]:
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


def _axes_at(
    change: Mapping[str, Any], axes: Mapping[str, list], points: Mapping[str, Mapping[str, Any]]
) -> dict[str, list]:
    """The networks and norm orders that a point is for: those it names, or all of the ablation's.

    Axes that no point names are left out.
    """
    at = {}
    for axis, name in _AXIS_OF_POINTS.items():
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


def _repeated(
    ablation: Ablation, base: Experiment, axes_at: Mapping[str, Mapping[str, list]]
) -> Experiment:
    """The experiment that is repeated at each point: the base with the ablation's changes."""
    changed = {axis: getattr(ablation, axis) for axis in _AXES if getattr(ablation, axis)}
    for axis in _AXIS_OF_POINTS:
        every = [value for axes in axes_at.values() for value in axes.get(axis, [])]
        if every:
            changed[axis] = [value for n, value in enumerate(every) if value not in every[:n]]
    # an override that all runs match, so that a change made here outdoes the base's own overrides
    change: dict[str, Any] = ablation.settings.given if ablation.settings else {}
    change |= {key: changed[key] for key in ("norm_orders", "seeds") if key in changed}
    overrides = [
        *(base.overrides or []),
        *([{"match": {}, "set": change}] if change else []),
        *(ablation.overrides or []),
    ]
    main = {"methods": [method for method in base.methods if ":" not in method]}
    unchanged = {key: getattr(base, key) for key in Experiment.model_fields}
    return Experiment.read(unchanged | main | changed | {"overrides": overrides})


def _is_for(run: RunConfig, axes: Mapping[str, list]) -> bool:
    """Whether ``run`` is of these axes."""
    networks = [network_name(*entry) for entry in axes.get("networks", [])]
    orders = (OWN_ORDER, *axes.get("norm_orders", []))
    return ("networks" not in axes or run.network_name in networks) and (
        "norm_orders" not in axes or run.norm_order in orders
    )


def _at(run: RunConfig, point: str, change: dict[str, Any]) -> RunConfig:
    """``run`` with the settings, and options of its method or network, that ``change`` names."""
    values = dataclasses.asdict(run)
    home = _home_of_options(run)
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
