"""An experiment: methods × networks × norm orders × seeds, with settings and overrides."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .. import methods
from ..errors import WtkitError
from ..validation import known, nearest
from .choices import NORM_ORDERS, OLD_SETTINGS, OWN_ORDER, RESNETS, network_name, renamed
from .reading import expect_list, expect_mapping
from .run import RunConfig, run_config

AXES = ("methods", "networks", "norm_orders", "seeds")
_KEYS = (*AXES, "settings", "overrides", "exclude")
_MATCHES = ("method", "variant", "network", "norm_order")
_OF_AXES = (*_MATCHES, "network_options", "seed")
SETTINGS = [field.name for field in dataclasses.fields(RunConfig) if field.name not in _OF_AXES]


def checked_axes(content: Any) -> dict[str, Any]:
    """What an experiment is the product of."""
    if not isinstance(content, dict):
        raise WtkitError(f"expected a mapping with the keys {', '.join(_KEYS)}")
    for key in content:
        if key in ("sweep", "variants"):
            raise WtkitError(
                f"{key!r} is a key of ablations, which name the experiment that they start from: "
                "base: digits"
            )
        known(str(key), _KEYS, "key")
    axes: dict[str, Any] = {"norm_orders": ["relu_bn"], "seeds": [0]} | content
    for axis in AXES:
        check_axis(axis, axes.get(axis))
    return axes


def expand_product(content: Any, unchecked: int = 0) -> list[RunConfig]:
    """The runs of an experiment; its first ``unchecked`` overrides and all that it excludes may
    match none."""
    base = checked_axes(content)
    settings = expect_mapping("settings", content.get("settings") or {})
    settings = renamed(settings, OLD_SETTINGS)
    for key in settings:
        fix = f"; write it in overrides: match: {{method: …}}, set: {{options: {{{key}: …}}}}"
        check_setting(str(key), SETTINGS, "setting", fix)
    overrides = [
        _override(f"overrides[{number - unchecked if number >= unchecked else number}]", entry)
        for number, entry in enumerate(expect_list("overrides", content.get("overrides") or []))
    ]
    excluded = [
        _match("exclude", entry) for entry in expect_list("exclude", content.get("exclude") or [])
    ]

    whos: list[dict[str, str]] = []
    used: set[int] = set()
    left_out: set[int] = set()
    runs: dict[str, RunConfig] = {}
    for choice, (network, network_options) in itertools.product(
        base["methods"], map(named_network, base["networks"])
    ):
        method, _, variant = str(choice).partition(":")
        who = {
            "method": method,
            "variant": variant,
            "network": network_name(network, network_options),
        }
        norm_orders = base["norm_orders"]
        for _, change in _matching(overrides, who):
            norm_orders = change.get("norm_orders", norm_orders)
        for norm_order in norm_orders if network in RESNETS else [OWN_ORDER]:
            found = {
                n
                for n, match in enumerate(excluded)
                if _matches(match, who | {"norm_order": norm_order})
            }
            left_out |= found
            if found:
                continue
            values = (
                settings
                | who
                | {"norm_order": norm_order, "network": network, "network_options": network_options}
            )
            whos.append(who | {"norm_order": norm_order})
            seeds, options = (
                base["seeds"],
                dict(expect_mapping("options", settings.get("options") or {})),
            )
            for number, change in _matching(overrides, who | {"norm_order": norm_order}):
                used.add(number)
                seeds = change.get("seeds", seeds)
                options |= expect_mapping("options", change.get("options") or {})
                values |= {
                    key: value
                    for key, value in change.items()
                    if key not in ("norm_orders", "seeds")
                }
            for key in options:
                fix = (
                    f", not of {method}; say whose it is, in overrides: match: {{method: …}}, "
                    "set: {options: …}"
                )
                check_setting(str(key), option_names(method), f"option of {method}", fix)
            for seed in seeds:
                run = run_config(values | {"seed": seed, "options": options})
                if run.name in runs:
                    raise WtkitError(
                        f"two runs are called {run.name}; leave one out, or give it a variant, "
                        "'method:variant'"
                    )
                runs[run.name] = run
    own = [match for match, _ in overrides[unchecked:]]
    _check_all_used("override", own, {number - unchecked for number in used}, whos)
    if not unchecked:
        _check_all_used("exclude", excluded, left_out, whos)
    if not runs:
        raise WtkitError("'exclude' leaves no run of this experiment")
    return list(runs.values())


def _check_all_used(
    what: str, matches: list[dict[str, str]], used: set[int], runs: list[dict[str, str]]
) -> None:
    for number, match in enumerate(matches):
        if number not in used:
            there = {key: sorted({run[key] for run in runs}) for key in match}
            wrong = {key: value for key, value in match.items() if value not in there[key]}
            near = "".join(nearest(value, there[key]) for key, value in wrong.items())
            listed = "".join(
                f"; {key}s: {', '.join(filter(None, there[key])) or 'none'}" for key in wrong
            )
            raise WtkitError(f"{what} {number + 1} matches no run: {match}{near}{listed}")


def _matching(
    overrides: list[tuple[dict, dict]], who: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, (match, change) in enumerate(overrides):
        if _matches(match, who):
            yield number, change


def _matches(match: Mapping[str, str], who: Mapping[str, str]) -> bool:
    return all(who.get(key) == value for key, value in match.items())


def _match(name: str, value: Any) -> dict[str, str]:
    for key in expect_mapping(name, value):
        known(str(key), _MATCHES, f"key of '{name}'")
    return value


def _override(which: str, entry: Any) -> tuple[dict[str, str], dict[str, Any]]:
    entry = expect_mapping(which, entry)
    for key in entry:
        known(str(key), ("match", "set"), "key of an override")
    match, change = _match("match", entry.get("match")), expect_mapping("set", entry.get("set"))
    change = renamed(change, OLD_SETTINGS)
    for key in change:
        check_setting(str(key), [*SETTINGS, "norm_orders", "seeds"], "key of 'set'")
    for axis in ("norm_orders", "seeds"):
        if axis in change:
            check_axis(axis, change[axis])
    if "norm_order" in match and "norm_orders" in change:
        raise WtkitError("an override that matches by 'norm_order' cannot set 'norm_orders'")
    return match, change


def check_setting(key: str, accepted: Sequence[str], what: str, fix: str = "") -> None:
    """Of an option of some method that does not belong here, say whose it is, and the fix."""
    owners = (
        [] if key in accepted else [name for name in methods.names() if key in option_names(name)]
    )
    if owners:
        fix = fix or f"; write it as options: {{{key}: …}}"
        raise WtkitError(f"{key!r} is an option of {' and '.join(owners)}{fix}")
    known(key, accepted, what)


def option_names(method: str) -> list[str]:
    return [field.name for field in dataclasses.fields(methods.method_class(method))]  # type: ignore[arg-type]


def check_axis(axis: str, values: Any) -> None:
    kind, word = (int, "whole numbers") if axis == "seeds" else (str, "names")
    if not isinstance(values, list) or not values:
        raise WtkitError(f"{axis!r}: expected a list of {word} that is not empty, got {values!r}")
    for value in values:
        if axis == "networks" and isinstance(value, dict):
            named_network(value)
        elif not isinstance(value, kind) or isinstance(value, bool):
            quotes = ("; YAML reads yes, no, on and off so: put names in quotes") * isinstance(
                value, bool
            )
            raise WtkitError(f"{axis!r}: expected a list of {word}, got {value!r} in it{quotes}")
        elif axis == "norm_orders":  # here, for a network without the choice would not look at it
            known(str(value), (*NORM_ORDERS, OWN_ORDER), "norm order")


def named_network(entry: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of an entry of ``networks``."""
    if isinstance(entry, str):
        return entry, {}
    named = [
        (name, options)
        for name, options in entry.items()
        if isinstance(name, str) and isinstance(options, dict)
    ]
    if len(entry) != 1 or not named or not all(isinstance(key, str) for key in named[0][1]):
        raise WtkitError(
            f"'networks': expected a name, or one name with a mapping of options, got {entry!r}"
        )
    return named[0]
