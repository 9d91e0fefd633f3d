"""The rows of a plan, and its warnings, each with the setting that would mend it. Imports no
torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..experiments import RunConfig, decay_exponent
from ..methods.weight_mirror import WeightMirror
from .formulas import (
    Layer,
    angle_before,
    angle_of_mismatch,
    lag,
    lag_angle,
    lag_angle_at_end,
    learns_as_W,
    mirrors,
    mismatch,
    sampling_angle,
    time_constant,
)
from .found import Found, total_mirror_steps
from .words import steps_text

WANTED = 12.0
"""Degrees that the paper's weight mirror stays below (Fig. 4a)."""
FAR = 45.0
"""Degrees from which δ through B is more noise than signal."""
LEAST, ENOUGH = 5.0, 7.0
"""E-foldings of Kolen–Pollack's mismatch below which it is warned of, and to which the advice
brings it."""


def row(runs: Sequence[RunConfig], found: Found) -> dict[str, Any]:
    """Everything that is predicted of runs that differ by their seed, by name; what does not apply
    is left out."""
    config, steps = runs[0], found.facts.steps(runs[0])
    row: dict[str, Any] = {
        "network": config.network_name, "norm_order": config.norm_order, "method": config.method,
        "variant": config.variant, "runs": len(runs), "epochs": config.epochs,
        "steps_per_epoch": steps,
    }  # fmt: skip
    if found.cost is not None and steps is not None:
        seconds = found.cost.seconds(config, steps)
        row |= {
            "seconds_per_run": seconds,
            "seconds": len(runs) * seconds,
            "memory_bytes": found.cost.memory,
        }
        row |= {"device": found.cost.device}
    row["forgetting_steps"] = time_constant(config)
    method = config.loaded_method()
    if learns_as_W(method):
        row |= _engaged(config, steps)
    elif mirrors(method):
        row |= _mirrored(config, method, found.layers, steps)
    elif found.at_rest is not None:
        row |= {
            "angle_before": found.at_rest[0],
            "angle_at_end": found.at_rest[1],
            "course": found.course,
        }
    return row


def _engaged(config: RunConfig, steps: int | None) -> dict[str, Any]:
    if steps is None:
        unknown = "how many steps there are, the data say"
        return {
            "angle_before": 90.0,
            "course": f"{unknown}; 1/e in {steps_text(time_constant(config))} at the peak rate",
        }
    left = mismatch(config, steps)
    below = np.flatnonzero(left <= math.exp(-LEAST))
    return {
        "angle_before": 90.0, "angle_at_end": angle_of_mismatch(left[-1]),
        "mismatch_left": float(left[-1]), "e_foldings": _e_foldings(left[-1]),
        "aligned_epoch": int(below[0]) if below.size else None,
    }  # fmt: skip


def _mirrored(
    config: RunConfig, method: WeightMirror, layers: Sequence[Layer], steps: int | None
) -> dict[str, Any]:
    row = {"lag_steps": lag(method), "lag_angle": lag_angle(config, method)}
    if not layers:
        return row
    angles = [
        sampling_angle(method, layer, total_mirror_steps(config, method, steps)) for layer in layers
    ]
    behind = lag_angle_at_end(config, method, steps)
    at_end = math.hypot(_tan(float(np.median(angles))), _tan(behind))
    samples = [layer.samples for layer in layers]
    return row | {
        "angle_before": max(angle_before(method, layer) for layer in layers),
        "angle_at_end": math.degrees(math.atan(at_end)),
        "sampling_min": min(angles), "sampling_max": max(angles),
        "worst_layer": layers[int(np.argmax(angles))].name, "samples_min": min(samples),
        "samples_max": max(samples),
    }  # fmt: skip


def _tan(degrees: float) -> float:
    return math.tan(math.radians(min(degrees, 89.99)))


def warnings(config: RunConfig, found: Found) -> list[str]:
    """Where alignment cannot come about in the schedule, a sentence each, with the setting that
    would mend it."""
    method, steps = config.loaded_method(), found.facts.steps(config)
    told = [sentence for sentence in (found.problem, found.slow) if sentence]
    if steps == 0:  # found's problem
        return told
    if config.warmup_epochs >= config.epochs:
        told.append(
            f"warmup_epochs: {config.warmup_epochs:g} takes all of the {config.epochs} "
            "epochs; take fewer"
        )
    taken = config.lr * config.weight_decay
    if taken >= _most(config):
        grow = f"a decay of lr · weight_decay = {taken:.2g} a step makes weights grow without bound"
        return [*told, f"{grow}; take less than {_most(config):.2g}"]
    if learns_as_W(method) and steps is not None:
        told += _engaged_warnings(config, steps)
    if mirrors(method):
        told += _mirror_warnings(config, method, found.layers, steps)
    return told


def _most(config: RunConfig) -> float:
    """lr · weight_decay from which on SGD's own decay, as :func:`wtkit.plan.mismatch` steps it,
    diverges."""
    m = config.momentum
    return 2 * (1 + m) / (1 + 2 * m) if config.nesterov else 2 * (1 + m)


def _engaged_warnings(config: RunConfig, steps: int) -> list[str]:
    left = mismatch(config, steps)[-1]
    if left <= math.exp(-LEAST):
        return []
    words = f"the mismatch falls by e^-{_e_foldings(left):.1f} only: B will not align"
    per_decay = decay_exponent(dataclasses.replace(config, weight_decay=1.0), steps)
    # the sum over the schedule holds for small rates; in few steps momentum takes more
    decays = (
        [float(f"{factor * ENOUGH / per_decay:.2g}") for factor in np.geomspace(0.8, 8, 12)]
        if per_decay
        else []
    )
    changed = [
        dataclasses.replace(config, weight_decay=decay)
        for decay in decays
        if decay * config.lr < _most(config)
    ]
    ends = ((other.weight_decay, _e_foldings(mismatch(other, steps)[-1])) for other in changed)
    decay, gives = next((end for end in ends if end[1] >= ENOUGH - 0.2), (None, 0.0))
    if decay is None:
        return [f"{words}, with no weight_decay in so few steps; take more epochs"]
    return [
        f"{words}; weight_decay: {decay:g} gives e^-{gives:.1f} (the other methods of a comparison "
        "then take it, too), and so do more epochs"
    ]


def _e_foldings(left: float) -> float:
    """By how many factors of e a mismatch has fallen of which the share ``left`` is left."""
    return 0.0 - math.log(max(left, 1e-300))  # 0, rather than the -0 of a minus alone


def _mirror_warnings(
    config: RunConfig, method: WeightMirror, layers: Sequence[Layer], steps: int | None
) -> list[str]:
    total = None if steps is None else config.epochs * steps
    if total is not None and method.mirror_steps and method.mirror_every > total:
        return [
            f"mirror_every: {method.mirror_every} is more than the {total:,} steps of the run; "
            "take fewer"
        ]
    told = _lag_warnings(config, method, steps)
    if layers:
        noisy = _noise_warnings(config, method, layers, steps)
        told += (
            noisy
            + _start_warnings(method, layers, bool(noisy))
            + _padding_warnings(config, layers, steps)
        )
    return told


def _lag_warnings(config: RunConfig, method: WeightMirror, steps: int | None) -> list[str]:
    """Where B stays too far behind W in a run of ``steps`` steps an epoch."""
    rate, behind, forgotten = _rate_of(method), lag(method), time_constant(config)
    per_lag = method.mirror_every / max(method.mirror_steps, 1)
    if method.mirror_steps == 0:
        return ["mirror_steps is 0: B stands still while W moves; take 1 mirror step or more"]
    if method.decay == 0:
        return [f"{rate} is 0: B adds up all that it ever mirrored; take a rate above 0"]
    if steps is not None and behind > (total := config.epochs * steps):
        return [
            f"B averages over {behind:,.0f} engaged steps, the run has {total:,}; "
            f"{_rate(rate, 5 * per_lag / total)}"
        ]
    if behind > forgotten:
        return [
            f"B averages over {behind:,.0f} engaged steps, but the decay makes W forget itself in "
            f"{forgotten:,.0f}: about {lag_angle(config, method):.0f}° while the rate is at its "
            f"peak; {_rate(rate, 4 * per_lag / max(forgotten, 1))}, or a smaller weight_decay"
        ]
    at_end = lag_angle_at_end(config, method, steps)
    if at_end > WANTED + 0.5:
        # more mirror steps rather than a larger rate, which would average over less noise; a third
        # of the run, so that what B began as is forgotten, too
        allowed = min(
            forgotten * _tan(WANTED) ** 2, math.inf if steps is None else config.epochs * steps / 3
        )
        needed = math.ceil(method.mirror_every / (method.decay * allowed))
        return [f"B ends about {at_end:.0f}° behind W; take mirror_steps: {needed}"]
    return []


def _noise_warnings(
    config: RunConfig, method: WeightMirror, layers: Sequence[Layer], steps: int | None
) -> list[str]:
    mirrored = total_mirror_steps(config, method, steps)
    angles = {layer: sampling_angle(method, layer, mirrored) for layer in layers}
    worst = max(angles, key=lambda layer: angles[layer])
    if angles[worst] <= WANTED + 0.5 or method.mirror_steps == 0 or method.decay == 0:
        return []
    # a smaller rate must not leave B behind W in its turn
    behind = min(time_constant(config), math.inf if steps is None else config.epochs * steps)
    least = method.mirror_every / method.mirror_steps / behind
    return [
        f"noise leaves {angles[worst]:.0f}° in {worst.name} ({worst.inputs:,} inputs, "
        f"{worst.samples:,} samples); for {WANTED:.0f}° take "
        f"{_quieter(method, layers, mirrored, least)}"
    ]


def _start_warnings(method: WeightMirror, layers: Sequence[Layer], noisy: bool) -> list[str]:
    """Where B begins far from W; if it is its noise that leaves it there, ``noisy`` says that this
    is told already."""
    begun = {layer: angle_before(method, layer) for layer in layers}
    worst = max(begun, key=lambda layer: begun[layer])
    if begun[worst] <= FAR:
        return []
    tried = sorted({round(number) for number in np.geomspace(1, 10_000, 120)})
    enough = next(
        (
            n
            for n in tried
            if angle_before(dataclasses.replace(method, mirror_before=n), worst) <= 20
        ),
        None,
    )
    begins = f"B starts at {begun[worst]:.0f}° in {worst.name}"
    if enough:
        return [f"{begins}, W hardly mirrored; take mirror_before: {enough}"]
    if method.mirror_before == 0:
        return [f"{begins}, never mirrored; take mirror_before: 100"]
    return [] if noisy else [f"{begins}, and its noise leaves it there"]


def _padding_warnings(config: RunConfig, layers: Sequence[Layer], steps: int | None) -> list[str]:
    unused = [layer for layer in layers if layer.inputs < layer.fan_in]
    left = mismatch(config, steps)[-1] if unused and steps is not None else 0.0
    if left <= 0.01:
        return []
    return [
        f"{len(unused)} layers ({unused[0].name}, …) have taps that only meet padding, where no "
        f"noise is fired: their W is part of the matrix angle, and the decay leaves {left:.1%} of "
        "it; take larger images"
    ]


def _rate_of(method: WeightMirror) -> str:
    """The option that sets λ_B."""
    return "mirror_lr" if method.mirror_decay is None else "mirror_decay"


def _rate(name: str, value: float) -> str:
    """Advice to raise the rate, or, where 1 is not enough, to mirror more often."""
    return (
        (f"take {name}: {value:.2g}")
        if value <= 1
        else "take mirror_every: 1 and more mirror_steps"
    )


def _quieter(method: WeightMirror, layers: Sequence[Layer], mirrored: float, least: float) -> str:
    """What brings the worst layer's angle down to the wanted one: a smaller rate, or more or other
    noise.

    Args:
        mirrored: mirror steps of the run.
        least: the rate below which B stands too far behind W.
    """
    rate = _rate_of(method)
    lower = {_rounded_down(float(x)) for x in method.decay * np.geomspace(1, 1e-4, 400)}
    ways: list[dict[str, Any]] = [
        {rate: x} for x in sorted(lower, reverse=True) if least <= x < method.decay
    ]
    if method.noise == "orthogonal":
        ways.append({"noise_fraction": 0.5})
    else:
        factors = [
            (_tan(sampling_angle(method, layer)) / _tan(WANTED)) ** 2 * layer.samples
            for layer in layers
        ]
        ways += [{"noise_batch": math.ceil(max(factors))}, {"noise": "orthogonal"}]
    first = {
        next(iter(way)): way
        for way in reversed(ways)
        if _noise_of(method, layers, mirrored, **way) <= WANTED
    }
    words = [
        f"{name}: {value:g}" if name == rate else f"{name}: {value}"
        for way in first.values()
        for name, value in way.items()
    ]
    return ", or ".join(reversed(words)) or (
        "a weaker noise_std, phi: identity or phi: relu, or more samples"
    )


def _noise_of(
    method: WeightMirror, layers: Sequence[Layer], mirrored: float, **options: Any
) -> float:
    """The worst layer's angle with other options, after so many mirror steps."""
    changed = dataclasses.replace(method, **options)
    return max(
        sampling_angle(
            changed, dataclasses.replace(layer, samples=changed.samples(layer.inputs)), mirrored
        )
        for layer in layers
    )


def _rounded_down(value: float) -> float:
    digit = 10 ** math.floor(math.log10(value) - 1)
    return math.floor(value / digit) * digit
