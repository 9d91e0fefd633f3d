"""What is found out about runs that differ by their seed alone, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from ..experiments import Facts, RunConfig
from ..methods import Method
from .formulas import Layer


@dataclasses.dataclass(frozen=True)
class Cost:
    """What was measured of a few steps: seconds of each part of a run, and its peak of memory in
    bytes.

    Attributes:
        start: until the first step has been taken, reading the data included.
        step: an engaged step, loading its batch included.
        mirror: one mirror step.
        evaluation: the errors on all held-out images.
        agreement: one record of angles and norms.
        checkpoint: to write one.
        device: where, and with how many threads.
    """

    start: float
    step: float
    mirror: float
    evaluation: float
    agreement: float
    checkpoint: float
    memory: int
    device: str

    def seconds(self, config: RunConfig, steps: int) -> float:
        """Of a whole run of ``steps`` steps an epoch, from the end of Python's imports."""
        method, total, records = config.loaded_method(), config.epochs * steps, config.epochs + 1
        spent = self.start + total * self.step + records * (self.evaluation + self.checkpoint)
        spent += (2 + (config.epochs - 1) // config.angles_every) * self.agreement
        if method.learns_mirror:
            spent += total_mirror_steps(config, method, steps) * self.mirror
        return spent


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found out about runs that differ by their seed alone.

    Attributes:
        facts: of their data.
        layers: of the network that learn in mirror mode.
        at_rest: matrix angles in degrees on a Gaussian W that stays, before training and after the
            run's steps; NaN for none. None for a method that learns in engaged or mirror mode.
        course: why, in words.
        cost: None where it was not measured.
        problem: what keeps the runs from being made, in a line.
        slow: a warning of a precision that the device is slow in, of
            :func:`wtkit.training.precision_warning`.
    """

    facts: Facts
    layers: Sequence[Layer] = ()
    at_rest: tuple[float, float] | None = None
    course: str = ""
    cost: Cost | None = None
    problem: str = ""
    slow: str = ""


def groups(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """Runs that differ by their seed alone, together, in the order of the first of each."""
    found: dict[tuple[str, ...], list[RunConfig]] = {}
    for run in runs:
        found.setdefault((run.network_name, run.norm_order, run.method, run.variant), []).append(
            run
        )
    return list(found.values())


def total_mirror_steps(config: RunConfig, method: Method, steps: int | None) -> float:
    """Mirror steps of a whole run."""
    if steps is None:
        return math.inf
    return method.mirror_schedule.total(config.epochs * steps)
