"""What is known of a group of runs before they start, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from ..experiments import Facts, RunConfig
from ..methods import Method
from .formulas import Layer


@dataclasses.dataclass(frozen=True)
class Cost:
    """Measured seconds of each part of a run, and its peak memory in bytes.

    Attributes:
        start: from the start to the end of the first step, including reading the data.
        step: one engaged step, including loading its batch.
        mirror: one mirror step.
        evaluation: the errors on all held-out images.
        alignment: one record of angles and norms.
        checkpoint: writing one checkpoint.
        device: name of the device, with the number of threads on a CPU.
    """

    start: float
    step: float
    mirror: float
    evaluation: float
    alignment: float
    checkpoint: float
    memory: int
    device: str

    def seconds(self, config: RunConfig, steps: int) -> float:
        """Seconds of a run with ``steps`` steps per epoch, counted after Python's imports."""
        method, total, records = config.loaded_method(), config.epochs * steps, config.epochs + 1
        spent = self.start + total * self.step + records * (self.evaluation + self.checkpoint)
        spent += (2 + (config.epochs - 1) // config.angles_every) * self.alignment
        if method.learns_mirror:
            spent += total_mirror_steps(config, method, steps) * self.mirror
        return spent


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is known of runs that differ only in their seed.

    Attributes:
        facts: sizes of their data.
        layers: the network's layers that learn in mirror mode.
        at_rest: matrix angles in degrees to a constant Gaussian W, before training and after the
            run's steps; NaN where there is no angle. None for a method that learns in engaged or
            mirror mode.
        course: explanation of ``at_rest``.
        cost: None if it was not measured.
        problem: why the runs cannot start, in one line; empty if they can.
        tolerates_lag: whether the network's loss stays finite if B trails W
            (:func:`wtkit.plan.stability.tolerates_lag`); True for methods without lag.
        slow: warning that the precision is slow on this device, from
            :func:`wtkit.training.precision_warning`.
        busy: warning that other programs kept the cores busy while the cost was measured.
    """

    facts: Facts
    layers: Sequence[Layer] = ()
    at_rest: tuple[float, float] | None = None
    course: str = ""
    cost: Cost | None = None
    problem: str = ""
    tolerates_lag: bool = True
    slow: str = ""
    busy: str = ""


def groups(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """Group the runs that differ only in their seed, in order of first appearance."""
    by_identity: dict[tuple[str, ...], list[RunConfig]] = {}
    for run in runs:
        identity = (run.network_name, run.norm_order, run.method, run.variant)
        by_identity.setdefault(identity, []).append(run)
    return list(by_identity.values())


def total_mirror_steps(config: RunConfig, method: Method, steps: int | None) -> float:
    """Number of mirror steps in a whole run; infinite if the steps per epoch are unknown."""
    if steps is None:
        return math.inf
    return method.mirror_schedule.total(config.epochs * steps)
