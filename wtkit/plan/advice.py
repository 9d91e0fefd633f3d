"""The rows of a plan and its warnings, each with the setting that fixes it. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..experiments import RunConfig, decay_exponent
from ..methods import Method
from ..methods.weight_mirror import WeightMirror
from .formatting import steps_text
from .formulas import (
    Layer,
    angle_before,
    angle_of_mismatch,
    lag_angle,
    lag_angle_at_end,
    mirrors,
    mismatch,
    sampling_angle,
    time_constant,
)
from .inspection import Inspection, total_mirror_steps

TARGET_ANGLE = 12.0
"""Degrees that the paper's weight mirror stays below (Fig. 4a)."""
MAX_INITIAL_ANGLE = 45.0
"""Degrees above which δ through B is more noise than signal."""
LONGEST_LAG = 5.0
"""Engaged steps. In networks without normalisation, trained at the edge of stability, B followed W
closely enough at this lag and no longer at twice this lag (docs/planning.md)."""
MIN_FOLDINGS, ADVISED_FOLDINGS = 5.0, 7.0
"""E-foldings of Kolen–Pollack's mismatch: below the first the plan warns, and its advice reaches
the second."""


# --------------------------------------------------------------------------------------------- rows


def row(runs: Sequence[RunConfig], inspection: Inspection) -> dict[str, Any]:
    """All predictions for runs that differ only in their seed, by name. Predictions that do not
    apply are left out."""
    config, steps = runs[0], inspection.facts.steps(runs[0])
    columns: dict[str, Any] = {
        "network": config.network_name,
        "norm_order": config.norm_order,
        "method": config.method,
        "variant": config.variant,
        "runs": len(runs),
        "epochs": config.epochs,
        "steps_per_epoch": steps,
    }
    if inspection.cost is not None and steps is not None:
        seconds = inspection.cost.seconds(config, steps)
        columns |= {
            "seconds_per_run": seconds,
            "seconds": len(runs) * seconds,
            "memory_bytes": inspection.cost.memory,
            "device": inspection.cost.device,
        }
    columns["forgetting_steps"] = time_constant(config)
    method = config.loaded_method()
    if method.learns_as_W:
        columns |= _mismatch_columns(config, steps)
    elif mirrors(method):
        columns |= _mirror_columns(config, method, inspection.layers, steps)
    elif inspection.at_rest is not None:
        before, after = inspection.at_rest
        columns |= {
            "angle_before": before, "angle_at_end": after, "course": inspection.course
        }  # fmt: skip
    return columns


def _mismatch_columns(config: RunConfig, steps: int | None) -> dict[str, Any]:
    if steps is None:
        constant = steps_text(time_constant(config))
        return {
            "angle_before": 90.0,
            "course": "the number of steps is unknown without the data; the mismatch falls to 1/e "
            f"in {constant} steps at the peak rate",
        }
    by_epoch = mismatch(config, steps)
    aligned = np.flatnonzero(by_epoch <= math.exp(-MIN_FOLDINGS))
    return {
        "angle_before": 90.0,
        "angle_at_end": angle_of_mismatch(by_epoch[-1]),
        "mismatch_left": float(by_epoch[-1]),
        "e_foldings": _e_foldings(by_epoch[-1]),
        "aligned_epoch": int(aligned[0]) if aligned.size else None,
    }


def _mirror_columns(
    config: RunConfig, method: WeightMirror, layers: Sequence[Layer], steps: int | None
) -> dict[str, Any]:
    columns = {"lag_steps": method.lag, "lag_angle": lag_angle(config, method)}
    if not layers:
        return columns
    angles = [
        sampling_angle(method, layer, total_mirror_steps(config, method, steps)) for layer in layers
    ]
    lag_at_end = lag_angle_at_end(config, method, steps)
    tan_at_end = math.hypot(_tan(float(np.median(angles))), _tan(lag_at_end))
    samples = [layer.samples for layer in layers]
    return columns | {
        "angle_before": max(angle_before(method, layer) for layer in layers),
        "angle_at_end": math.degrees(math.atan(tan_at_end)),
        "sampling_min": min(angles),
        "sampling_max": max(angles),
        "worst_layer": layers[int(np.argmax(angles))].name,
        "samples_min": min(samples),
        "samples_max": max(samples),
    }


def _tan(degrees: float) -> float:
    return math.tan(math.radians(min(degrees, 89.99)))


def _e_foldings(remaining: float) -> float:
    """The number of factors of e by which a mismatch has fallen to the share ``remaining``."""
    return 0.0 - math.log(max(remaining, 1e-300))  # a minus sign alone would give -0


# ----------------------------------------------------------------------------------------- warnings


def warnings(config: RunConfig, inspection: Inspection) -> list[str]:
    """One sentence for each reason why B cannot align in this schedule, with the setting that fixes
    it."""
    method, steps = config.loaded_method(), inspection.facts.steps(config)
    sentences = [text for text in (inspection.problem, inspection.slow, inspection.busy) if text]
    if steps == 0:  # the inspection's problem says so
        return sentences
    if config.warmup_epochs >= config.epochs:
        sentences.append(
            f"warmup_epochs: {config.warmup_epochs:g} covers all {config.epochs} epochs; "
            "set it lower"
        )
    decay_per_step, limit = config.lr * config.weight_decay, _divergence_limit(config)
    if decay_per_step >= limit:
        return [
            *sentences,
            f"a decay of lr · weight_decay = {decay_per_step:.2g} per step makes weights grow "
            f"without bound; set it below {limit:.2g}",
        ]
    if method.learns_as_W and steps is not None:
        sentences += _mismatch_warnings(config, steps)
    if mirrors(method):
        sentences += _mirror_warnings(config, method, inspection.layers, steps)
    if not inspection.tolerates_lag:
        sentences += _divergence_warning(method)
    return sentences


def _divergence_limit(config: RunConfig) -> float:
    """The smallest lr · weight_decay at which SGD's weight decay diverges."""
    m = config.momentum
    return 2 * (1 + m) / (1 + 2 * m) if config.nesterov else 2 * (1 + m)


def _mismatch_warnings(config: RunConfig, steps: int) -> list[str]:
    remaining = mismatch(config, steps)[-1]
    if remaining <= math.exp(-MIN_FOLDINGS):
        return []
    problem = f"the mismatch falls by e^-{_e_foldings(remaining):.1f} only: B will not align"
    advised = _advised_decay(config, steps)
    if advised is None:
        return [f"{problem}, and no weight_decay is large enough in so few steps; set more epochs"]
    decay, foldings = advised
    return [
        f"{problem}; weight_decay: {decay:g} gives e^-{foldings:.1f} (set it for the methods that "
        "you compare with, too); more epochs also help"
    ]


def _advised_decay(config: RunConfig, steps: int) -> tuple[float, float] | None:
    """The smallest tried weight decay that reaches the advised e-foldings, with its e-foldings."""
    per_decay = decay_exponent(dataclasses.replace(config, weight_decay=1.0), steps)
    if not per_decay:
        return None
    # the estimate holds for small rates; in few steps, momentum needs a larger decay
    for factor in np.geomspace(0.8, 8, 12):
        decay = float(f"{factor * ADVISED_FOLDINGS / per_decay:.2g}")
        if decay * config.lr >= _divergence_limit(config):
            continue
        changed = dataclasses.replace(config, weight_decay=decay)
        foldings = _e_foldings(mismatch(changed, steps)[-1])
        if foldings >= ADVISED_FOLDINGS - 0.2:
            return decay, foldings
    return None


def _mirror_warnings(
    config: RunConfig, method: WeightMirror, layers: Sequence[Layer], steps: int | None
) -> list[str]:
    total = None if steps is None else config.epochs * steps
    if total is not None and method.mirror_steps and method.mirror_every > total:
        return [
            f"mirror_every: {method.mirror_every} exceeds the run's {total:,} steps; set it lower"
        ]
    sentences = _lag_warnings(config, method, steps)
    if layers:
        noisy = _noise_warnings(config, method, layers, steps)
        sentences += noisy
        sentences += _start_warnings(method, layers, bool(noisy))
        sentences += _padding_warnings(config, layers, steps)
    return sentences


def _lag_warnings(config: RunConfig, method: WeightMirror, steps: int | None) -> list[str]:
    """Warn if B lags too far behind W in a run with ``steps`` steps per epoch."""
    rate, lag_steps, constant = _rate_option(method), method.lag, time_constant(config)
    steps_per_mirror = method.mirror_every / max(method.mirror_steps, 1)
    if method.mirror_steps == 0:
        return ["mirror_steps is 0: B is constant while W learns; set 1 mirror step or more"]
    if method.decay == 0:
        return [f"{rate} is 0: B accumulates everything it mirrored; set a rate above 0"]
    if steps is not None and lag_steps > (total := config.epochs * steps):
        return [
            f"B averages over {lag_steps:,.0f} engaged steps, but the run has {total:,}; "
            f"{_faster_mirror(rate, 5 * steps_per_mirror / total)}"
        ]
    if lag_steps > constant:
        return [
            f"B averages over {lag_steps:,.0f} engaged steps, but W decays to 1/e in "
            f"{constant:,.0f}: about {lag_angle(config, method):.0f}° at the peak rate; "
            f"{_faster_mirror(rate, 4 * steps_per_mirror / max(constant, 1))}, or a smaller "
            "weight_decay"
        ]
    at_end = lag_angle_at_end(config, method, steps)
    if at_end > TARGET_ANGLE + 0.5:
        needed = _needed_mirror_steps(config, method, steps)
        return [f"B ends about {at_end:.0f}° from W because it lags; set mirror_steps: {needed}"]
    return []


def _divergence_warning(method: Method) -> list[str]:
    """Warn if B's lag can make the loss diverge in a network that does not tolerate it."""
    if method.lag <= LONGEST_LAG or math.isinf(method.lag):
        return []
    return [
        f"B averages over {method.lag:,.0f} engaged steps and the network has no normalisation: at "
        f"a high lr the loss may diverge; set {method.setting_of_lag(LONGEST_LAG)}, or a lower lr"
    ]


def _needed_mirror_steps(config: RunConfig, method: WeightMirror, steps: int | None) -> int:
    """The mirror steps that bring the lag to the target angle.

    More mirror steps rather than a higher rate, since a higher rate averages over fewer samples.
    The lag is at most a third of the run, so that B also forgets its initial values.
    """
    allowed_lag = min(
        time_constant(config) * _tan(TARGET_ANGLE) ** 2,
        math.inf if steps is None else config.epochs * steps / 3,
    )
    return math.ceil(method.mirror_every / (method.decay * allowed_lag))


def _noise_warnings(
    config: RunConfig, method: WeightMirror, layers: Sequence[Layer], steps: int | None
) -> list[str]:
    mirror_steps = total_mirror_steps(config, method, steps)
    angles = {layer: sampling_angle(method, layer, mirror_steps) for layer in layers}
    worst = max(angles, key=lambda layer: angles[layer])
    acceptable = angles[worst] <= TARGET_ANGLE + 0.5
    if acceptable or method.mirror_steps == 0 or method.decay == 0:
        return []
    # a lower rate must not make B lag too far behind W
    allowed_lag = min(time_constant(config), math.inf if steps is None else config.epochs * steps)
    allowed_lag = max(allowed_lag, 1.0)  # a decay that forgets in one step
    lowest_rate = method.mirror_every / method.mirror_steps / allowed_lag
    return [
        f"noise leaves {angles[worst]:.0f}° in {worst.name} ({worst.inputs:,} inputs, "
        f"{worst.samples:,} samples); for {TARGET_ANGLE:.0f}° set "
        f"{_less_noise(method, layers, mirror_steps, lowest_rate)}"
    ]


def _start_warnings(
    method: WeightMirror, layers: Sequence[Layer], warned_of_noise: bool
) -> list[str]:
    """Warn if B starts far from W, unless the cause is noise and there is a warning of it."""
    initial = {layer: angle_before(method, layer) for layer in layers}
    worst = max(initial, key=lambda layer: initial[layer])
    if initial[worst] <= MAX_INITIAL_ANGLE:
        return []
    problem = f"B starts at {initial[worst]:.0f}° in {worst.name}"
    for steps in sorted({round(number) for number in np.geomspace(1, 10_000, 120)}):
        if angle_before(dataclasses.replace(method, mirror_before=steps), worst) <= 20:
            return [f"{problem} after too few initial mirror steps; set mirror_before: {steps}"]
    if method.mirror_before == 0:
        return [f"{problem} without initial mirror steps; set mirror_before: 100"]
    return [] if warned_of_noise else [f"{problem} because of its noise"]


def _padding_warnings(config: RunConfig, layers: Sequence[Layer], steps: int | None) -> list[str]:
    padded = [layer for layer in layers if layer.inputs < layer.fan_in]
    remaining = mismatch(config, steps)[-1] if padded and steps is not None else 0.0
    if remaining <= 0.01:
        return []
    return [
        f"{len(padded)} layers ({padded[0].name}, …) have taps that only meet padding and get no "
        f"noise: their W counts in the matrix angle, and the decay leaves {remaining:.1%} of it; "
        "set a larger image_size"
    ]


def _rate_option(method: WeightMirror) -> str:
    """The option that sets λ_B."""
    return "mirror_lr" if method.mirror_decay is None else "mirror_decay"


def _faster_mirror(rate: str, value: float) -> str:
    """Advice to raise the rate, or to mirror more often if it would exceed 1."""
    return f"set {rate}: {value:.2g}" if value <= 1 else "set mirror_every: 1 and more mirror_steps"


def _less_noise(
    method: WeightMirror, layers: Sequence[Layer], mirror_steps: float, lowest_rate: float
) -> str:
    """Settings that bring the worst layer to the target angle: a lower rate, or more or orthogonal
    noise.

    Args:
        mirror_steps: of the whole run.
        lowest_rate: the rate below which B lags too far behind W.
    """
    rate = _rate_option(method)
    candidates = {_rounded_down(float(x)) for x in method.decay * np.geomspace(1, 1e-4, 400)}
    changes: list[dict[str, Any]] = [
        {rate: x} for x in sorted(candidates, reverse=True) if lowest_rate <= x < method.decay
    ]
    if method.noise == "orthogonal":
        changes.append({"noise_fraction": 0.5})
    else:
        needed = [
            (_tan(sampling_angle(method, layer)) / _tan(TARGET_ANGLE)) ** 2 * layer.samples
            for layer in layers
        ]
        changes += [{"noise_batch": math.ceil(max(needed))}, {"noise": "orthogonal"}]
    sufficient: dict[str, Any] = {}  # the first sufficient value of each option
    for change in changes:
        ((option, value),) = change.items()
        if option in sufficient:
            continue
        if _worst_angle(method, layers, mirror_steps, **change) <= TARGET_ANGLE:
            sufficient[option] = value
    return ", or ".join(
        f"{option}: {value:g}" if option == rate else f"{option}: {value}"
        for option, value in sufficient.items()
    ) or ("a weaker noise_std, phi: identity or phi: relu, or more samples")


def _worst_angle(
    method: WeightMirror, layers: Sequence[Layer], mirror_steps: float, **options: Any
) -> float:
    """The worst layer's angle with these options changed."""
    changed = dataclasses.replace(method, **options)
    return max(
        sampling_angle(
            changed,
            dataclasses.replace(layer, samples=changed.samples(layer.inputs)),
            mirror_steps,
        )
        for layer in layers
    )


def _rounded_down(value: float) -> float:
    digit = 10 ** math.floor(math.log10(value) - 1)
    return math.floor(value / digit) * digit
