"""An ablation: an experiment as its base, and the points at which its runs are repeated."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import WtkitError
from ..validation import known
from .choices import (
    OLD_MLP_OPTIONS,
    OLD_SETTINGS,
    OWN_ORDER,
    as_word,
    network_name,
    options_class,
    renamed,
)
from .product import (
    AXES,
    SETTINGS,
    check_axis,
    check_setting,
    checked_axes,
    expand_product,
    named_network,
    option_names,
)
from .reading import expect_list, expect_mapping, has_base, is_ablation, read_file
from .run import RunConfig, run_config

_ABLATION_KEYS = ("base", *AXES, "settings", "overrides", "sweep", "variants")
_AXIS_OF_POINTS = {"networks": "network", "norm_orders": "norm_order"}
_OF_POINTS = [*SETTINGS, *_AXIS_OF_POINTS.values(), "network_options"]


def expand_ablation(content: dict[str, Any], path: Path) -> list[RunConfig]:
    for key in content:
        known(str(key), _ABLATION_KEYS, "key of an ablation")
    base = _base(content["base"], path)
    changed = {key: content[key] for key in AXES if key in content}
    for axis, values in changed.items():
        check_axis(axis, values)
    points = _points(content)
    named = [
        axis
        for axis, name in _AXIS_OF_POINTS.items()
        if any(name in change for change in points.values())
    ]
    axes_at = {
        p: {a: _axis_at(a, change, (base | changed)[a]) for a in named}
        for p, change in points.items()
    }
    for axis in named:
        every = [value for axes in axes_at.values() for value in axes[axis]]
        changed[axis] = [value for n, value in enumerate(every) if value not in every[:n]]
    main = {"methods": [method for method in base["methods"] if ":" not in str(method)]}
    before = expect_list("overrides", base.get("overrides") or [])
    # an override that all runs match, so that a change made here outdoes the base's own overrides
    change = expect_mapping("settings", content.get("settings") or {}) | {
        key: changed[key] for key in ("norm_orders", "seeds") if key in changed
    }
    after = [
        {"match": {}, "set": change},
        *expect_list("overrides", content.get("overrides") or []),
    ]
    runs = expand_product(
        base | main | changed | {"overrides": before + after}, unchecked=len(before) + 1
    )
    found: dict[str, RunConfig] = {}
    for run, (point, change) in itertools.product(runs, points.items()):
        if _is_for(run, axes_at[point]):
            made = _at(run, point, change)
            if made.name in found:
                raise WtkitError(
                    f"two runs are called {made.name}; give one of the points another name"
                )
            found[made.name] = made
    return list(found.values())


def _base(name: Any, path: Path) -> dict[str, Any]:
    """The experiment that the ablation at ``path`` names as its base."""
    path = path.resolve()  # a file named from within its folder has no parents else
    files = {
        file.stem: file
        for folder in (path.parent.parent, path.parent)
        for file in folder.glob("*.yaml")
    }
    content = read_file(files[str(name)]) if str(name) in files else None
    # only then: to tell experiments from ablations, all are read
    if content is None or has_base(content):
        experiments = sorted(stem for stem, file in files.items() if _is_experiment(file))
        if Path(str(name)).stem in experiments:
            raise WtkitError(
                "'base': expected an experiment's name, not its file; write base: "
                f"{Path(name).stem}"
            )
        known(name, experiments, "base")
    return checked_axes(content)


def _is_experiment(path: Path) -> bool:
    """Whether the file can be a base; one that cannot be read is no matter of whoever names
    another."""
    try:
        return not is_ablation(path)
    except WtkitError:
        return False


def _axis_at(axis: str, change: Mapping[str, Any], others: list) -> list:
    """The networks or norm orders that a point is for: the one that it names, or those of the
    ablation."""
    name = _AXIS_OF_POINTS[axis]
    if name not in change:
        return others
    if not isinstance(change[name], str):
        raise WtkitError(f"{name!r}: expected a name, got {change[name]!r}")
    options = change.get("network_options") if axis == "networks" else None
    return [{change[name]: options} if options else change[name]]


def _is_for(run: RunConfig, axes: Mapping[str, list]) -> bool:
    """Whether ``run`` is of these axes; those that no point names are not among them."""
    networks = [network_name(*named_network(entry)) for entry in axes.get("networks", [])]
    orders = (OWN_ORDER, *axes.get("norm_orders", []))
    return ("networks" not in axes or run.network_name in networks) and (
        "norm_orders" not in axes or run.norm_order in orders
    )


def _points(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is changed at each point of an ablation, by the word for it."""
    if ("sweep" in content) == ("variants" in content):
        raise WtkitError("an ablation needs either a 'sweep' or 'variants'")
    if "variants" in content:
        variants = expect_mapping("variants", content["variants"])
        if not variants:
            raise WtkitError("'variants': expected at least one")
        for name in variants:
            if name is None or isinstance(name, bool):  # YAML's yes, no, on, off, null, ~
                raise WtkitError(
                    f"'variants': a name was read as {name}, which YAML means by it; "
                    "put it in quotes"
                )
            if list(map(str, variants)).count(str(name)) > 1:  # 1 and '1'
                raise WtkitError(
                    f"'variants': two are called {name}; give one of them another name"
                )
        return {str(name): expect_mapping(str(name), change) for name, change in variants.items()}
    sweep = expect_mapping("sweep", content["sweep"])
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise WtkitError(
                f"'sweep': expected a list of values for {key!r} that is not empty, got {values!r}"
            )
    if not sweep:
        raise WtkitError("'sweep': expected at least one setting or option with a list of values")
    points: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*sweep.values()):
        change = dict(zip(sweep, values, strict=True))
        word = ",".join(f"{key}={as_word(value)}" for key, value in change.items())
        if word in points:
            raise WtkitError(
                f"'sweep': two points are called {word}; leave one out, or name them by 'variants'"
            )
        if change in points.values():  # 1 and 1.0
            raise WtkitError(f"'sweep': {word} is a point twice; leave one out")
        points[word] = change
    return points


def _at(run: RunConfig, point: str, change: dict[str, Any]) -> RunConfig:
    """``run`` with the settings, and options of its method or network, that ``change`` names."""
    values = dataclasses.asdict(run)
    options = dict.fromkeys(option_names(run.method), "options")
    known_options = options_class(run.network)
    if known_options is not None:
        options |= {field.name: "network_options" for field in dataclasses.fields(known_options)}
    old_names = OLD_SETTINGS | (OLD_MLP_OPTIONS if run.network == "mlp" else {})
    for key, value in renamed(change, old_names).items():
        if key in ("method", "seed"):
            raise WtkitError(
                f"{key!r} cannot differ by point: each is made with all of '{key}s', "
                "a key of its own"
            )
        fix = f", not of {run.method}; leave {run.method} out of 'methods'"
        check_setting(str(key), [*_OF_POINTS, *options], f"setting or option of {run.method}", fix)
        if key in ("options", "network_options"):
            given = renamed(expect_mapping(key, value), old_names)
            for name in given.keys() & renamed(change, old_names).keys():
                raise WtkitError(
                    f"{name!r} is given twice, by itself and in {key!r}; leave one out"
                )
            values[key] |= given
        elif key in options:
            values[options[key]][key] = value
        else:
            values[key] = value
    values["variant"] = "_".join(filter(None, [run.variant, point]))
    return run_config(values)
