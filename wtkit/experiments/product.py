"""An experiment: methods × networks × norm orders × seeds, with settings and overrides."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import WtkitError
from ..validation import nearest
from .choices import OWN_ORDER, RESNETS, network_name
from .content import Experiment, Match, Network, Override
from .run import RunConfig, run_config
from .settings import check_setting, option_names


class Cell(NamedTuple):
    """A method in a network with a norm order, which is run once for each seed.

    Attributes:
        who: what overrides and exclusions match by.
    """

    who: dict[str, str]
    network: Network


def expand_product(
    experiment: Experiment, own: Sequence[Override] | None = None
) -> list[RunConfig]:
    """The runs of an experiment.

    Args:
        own: for an ablation, the overrides that have to match a run. Others and exclusions, which
            come from its base, may match none.
    """
    cells = list(_cells(experiment))
    kept = [cell for cell in cells if not _fitting(experiment.exclude, cell)]
    runs = distinct(
        itertools.chain.from_iterable(_runs(experiment, cell) for cell in kept),
        "leave one out, or give it a variant, 'method:variant'",
    )
    overrides = experiment.overrides if own is None else own
    _check_all_used("overrides", [override.match for override in overrides or []], kept)
    if own is None:
        _check_all_used("exclude", experiment.exclude or [], cells)
    if not runs:
        raise WtkitError("'exclude' leaves no run of this experiment")
    return runs


def distinct(runs: Iterable[RunConfig], fix: str) -> list[RunConfig]:
    """The runs, no two of one name."""
    found: dict[str, RunConfig] = {}
    for run in runs:
        if run.name in found:
            raise WtkitError(f"two runs are called {run.name}; {fix}")
        found[run.name] = run
    return list(found.values())


def _cells(experiment: Experiment) -> Iterator[Cell]:
    for choice, network in itertools.product(experiment.methods, experiment.networks):
        method, _, variant = choice.partition(":")
        who = {"method": method, "variant": variant, "network": network_name(*network)}
        orders: Sequence[str] = [OWN_ORDER]
        if network.name in RESNETS:
            orders = _last("norm_orders", _changes(experiment, who), experiment.norm_orders)
        for norm_order in orders:
            yield Cell(who | {"norm_order": norm_order}, network)


def _runs(experiment: Experiment, cell: Cell) -> Iterator[RunConfig]:
    """A run for each seed."""
    method = cell.who["method"]
    changes = _changes(experiment, cell.who)
    if experiment.settings is not None:
        changes.insert(0, experiment.settings.given)
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for change in changes:
        values |= change
        options |= change.get("options", {})
    seeds = values.pop("seeds", experiment.seeds)
    values.pop("norm_orders", None)
    for key in options:
        fix = (
            f", not of {method}; say whose it is, in overrides: match: {{method: …}}, "
            "set: {options: …}"
        )
        check_setting(key, option_names(method), f"option of {method}", fix)
    network = {"network": cell.network.name, "network_options": cell.network.options}
    for seed in seeds:
        yield run_config(values | cell.who | network | {"options": options, "seed": seed})


def _changes(experiment: Experiment, who: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the overrides that match set, in order."""
    return [
        override.set.given for override in experiment.overrides or [] if override.match.fits(who)
    ]


def _last(key: str, changes: Sequence[Mapping[str, Any]], otherwise: Any) -> Any:
    return next((change[key] for change in reversed(changes) if key in change), otherwise)


def _fitting(matches: Sequence[Match] | None, cell: Cell) -> bool:
    return any(match.fits(cell.who) for match in matches or [])


def _check_all_used(key: str, matches: Sequence[Match], cells: Sequence[Cell]) -> None:
    for number, match in enumerate(matches):
        if not any(match.fits(cell.who) for cell in cells):
            there = {name: sorted({cell.who[name] for cell in cells}) for name in match.given}
            wrong = {name: value for name, value in match.given.items() if value not in there[name]}
            near = "".join(nearest(value, there[name]) for name, value in wrong.items())
            listed = "".join(
                f"; {name}s: {', '.join(filter(None, there[name])) or 'none'}" for name in wrong
            )
            raise WtkitError(f"'{key}[{number}]' matches no run: {match.given}{near}{listed}")
