"""An ablation: an experiment as its base, and the points at which its runs are repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import WtkitError
from ..validation import known
from .content import Ablation, Experiment
from .points import AXIS_OF_POINTS, axes_of_point, is_for, points_of, run_at
from .product import distinct, expand_product
from .reading import has_base, is_ablation, read_file
from .run import RunConfig

_AXES = ("methods", "networks", "norm_orders", "seeds")


def expand_ablation(content: Any, path: Path) -> list[RunConfig]:
    ablation = Ablation.read(content)
    base = _base(ablation.base, path)
    points = points_of(ablation)
    axes = {axis: getattr(ablation, axis) or getattr(base, axis) for axis in _AXES}
    axes_at = {point: axes_of_point(change, axes, points) for point, change in points.items()}
    runs = expand_product(_repeated(ablation, base, axes_at), own=ablation.overrides or [])
    made: list[RunConfig] = []
    for run in runs:
        at = {
            point: run_at(run, point, change)
            for point, change in points.items()
            if is_for(run, axes_at[point])
        }
        _refuse_twins(at)
        made += at.values()
    return distinct(made, "give one of the points another name")


def _refuse_twins(at: Mapping[str, RunConfig]) -> None:
    """Refuse points that make the same run. One of them says of a setting what the run does not
    have, such as a momentum with AdamW, and a figure would show that the setting has no effect."""
    found: dict[str, str] = {}
    for point, run in at.items():
        settings = dataclasses.replace(run, variant="").revision
        if settings in found:
            raise WtkitError(
                f"the points {found[settings]} and {point} make the same run of {run.method} in "
                f"{run.network_name}; leave one out, or name the points that differ by 'variants'"
            )
        found[settings] = point


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


def _repeated(
    ablation: Ablation, base: Experiment, axes_at: Mapping[str, Mapping[str, list]]
) -> Experiment:
    """The experiment that is repeated at each point: the base with the ablation's changes."""
    changed = {axis: getattr(ablation, axis) for axis in _AXES if getattr(ablation, axis)}
    for axis in AXIS_OF_POINTS:
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
