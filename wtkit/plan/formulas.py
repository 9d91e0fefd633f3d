"""Predict how well B will align with W from a run's settings alone. Imports no torch.

:mod:`wtkit.plan.advice` turns the predictions into warnings. :mod:`wtkit.plan.measuring` measures
what formulas cannot predict.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TypeGuard

import numpy as np

from ..experiments import RunConfig, learning_rate
from ..methods import Method
from ..methods.weight_mirror import WeightMirror

# -------------------------------------------------------------------- B that learns in engaged mode


def time_constant(config: RunConfig) -> float:
    """Steps at the peak rate in which the decay shrinks W's past, or a mismatch, to 1/e.

    (1 − m) / (η · wd) for small rates. With momentum that is not Nesterov's it never falls below
    −2 / ln m.
    """
    m, decay = config.momentum, config.lr * config.weight_decay
    if not decay:
        return math.inf
    # one step of (mismatch, velocity), as in :func:`mismatch`
    step = (
        [[1 - decay * (1 + m), -(m**2)], [decay, m]]
        if config.nesterov
        else [[1 - decay, -m], [decay, m]]
    )
    largest = float(np.abs(np.linalg.eigvals(step)).max())
    return -1 / math.log(largest) if 0 < largest < 1 else 0.0 if largest == 0 else math.inf


def mirrors(method: Method) -> TypeGuard[WeightMirror]:
    """Whether the formulas of the weight mirror apply; other mirror methods have none."""
    return isinstance(method, WeightMirror)


def mismatch(config: RunConfig, steps: int) -> np.ndarray:
    """Kolen–Pollack's ‖W − Bᵀ‖ relative to its initial value, after 0, 1, … epochs of ``steps``
    steps.

    W and B get the same gradient, which cancels in the difference. SGD with momentum therefore
    shrinks the difference as it shrinks a weight without gradient: exactly, up to rounding.
    ``exp(−config.decay_exponent)`` is the limit for small rates, without momentum's delay.
    """
    remaining, velocity, by_epoch = 1.0, 0.0, [1.0]
    for step in range(config.epochs * steps):
        decay = config.weight_decay * remaining
        velocity = config.momentum * velocity + decay
        change = decay + config.momentum * velocity if config.nesterov else velocity
        remaining -= learning_rate(config, step / steps) * change
        if (step + 1) % steps == 0:
            by_epoch.append(abs(remaining))
    return np.array(by_epoch)


def angle_of_mismatch(remaining: float) -> float:
    """Lower bound of the matrix angle in degrees when the share ``remaining`` of the mismatch
    remains: arccos(1 − remaining²).

    Assumes that W keeps its norm and that its updates are orthogonal to the initial W and B. If W
    shrinks, as under a strong decay, the angle is larger.
    """
    return math.degrees(math.acos(min(1.0, max(-1.0, 1 - remaining**2))))


# --------------------------------------------------------------------- B that learns in mirror mode

ASSUMED_STEPS = 1000
"""Steps per epoch that are assumed if the number is unknown."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose B learns in mirror mode.

    Attributes:
        inputs: inputs of one activation, without those that only see padding.
        fan_in: inputs including those.
        samples: N, noise samples per mirror step.
        phi: φ, the response function.
    """

    name: str
    inputs: int
    fan_in: int
    samples: int
    phi: str


def sampling_angle(method: WeightMirror, layer: Layer, steps: float = math.inf) -> float:
    """Matrix angle in degrees that the noise leaves after ``steps`` mirror steps with constant W.

    Independent noise, K inputs and N samples: tan² = κ K λ_B / ((2 − λ_B) N). Exponential averaging
    scales the variance by λ_B / (2 − λ_B); the response scales it by κ, which is 1 if linear and 2
    for a ReLU. Orthogonal noise cycles through a basis in n blocks, and block j has the weight
    (1 − λ_B)^j: tan is the standard deviation of these weights over their mean, plus the
    non-linearity of φ's odd part.
    """
    if steps < 1:
        return 90.0
    decay = method.decay
    if method.noise != "orthogonal":
        averaging = max(decay / (2 - decay), 1 / steps)
        factor = _variance_factor(layer.phi, method.noise_std)
        return _degrees(factor * layer.inputs / layer.samples * averaging)
    blocks = _blocks(layer)
    weights = (1 - decay) ** np.arange(blocks) * (np.arange(blocks) < steps)
    return _orthogonal_angle(method, layer, weights)


def angle_before(method: WeightMirror, layer: Layer) -> float:
    """Matrix angle in degrees after the initial mirror steps, which average with weight
    max(λ_B, 1/t)."""
    steps = method.mirror_before
    if steps == 0 or method.noise != "orthogonal":
        return sampling_angle(method, layer, steps)
    blocks = _blocks(layer)
    weights = np.zeros(blocks)
    for step in range(1, steps + 1):
        weight = max(method.decay, 1 / step)
        weights *= 1 - weight
        weights[(step - 1) % blocks] += weight
    return _orthogonal_angle(method, layer, weights)


def _orthogonal_angle(method: WeightMirror, layer: Layer, weights: np.ndarray) -> float:
    """Angle in degrees from unequal weights of the noise blocks and the response's odd part."""
    factor = _variance_factor(layer.phi, method.noise_std, odd=True)
    return _degrees(_relative_variance(weights) + factor - 1)


def _blocks(layer: Layer) -> int:
    return math.ceil(layer.inputs / (layer.samples // 2))


def _relative_variance(weights: np.ndarray) -> float:
    """Variance over squared mean: tan² of the angle between ``weights`` and equal weights."""
    return float(weights.var() / weights.mean() ** 2)


def _degrees(tan_squared: float) -> float:
    return math.degrees(math.atan(math.sqrt(max(tan_squared, 0.0))))


@functools.lru_cache(maxsize=64)
def _variance_factor(phi: str, noise_std: float, odd: bool = False) -> float:
    """κ = E[φ(u)²] / (E[u²] E[φ'(u)]²): variance of the response over that of its linear part.

    u is Gaussian. Its standard deviation is σ/√3, from torch's initialisation of Linear layers.

    Args:
        odd: use (φ(u) − φ(−u))/2, the response to noise that is sent with both signs.
    """
    if phi in ("identity", "relu"):
        return 2.0 if phi == "relu" and not odd else 1.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights, u = weights / weights.sum(), nodes * noise_std / math.sqrt(3)
    # sigmoid(u) = (1 + tanh(u/2)) / 2
    y, slope = (
        (np.tanh(u), 1 - np.tanh(u) ** 2)
        if phi == "tanh"
        else (np.tanh(u / 2), (1 - np.tanh(u / 2) ** 2) / 2)
    )
    y = y + 1 if phi == "sigmoid" and not odd else y
    return float(weights @ y**2 / (weights @ u**2 * (weights @ slope) ** 2))


def lag_angle(config: RunConfig, method: WeightMirror) -> float:
    """Approximate matrix angle in degrees due to the lag, at the peak learning rate.

    tan² = lag / :func:`time_constant`: the angle of an exponential average if the decay shrinks W
    at that rate and gradients rebuild it in random directions. The angle is smaller if W keeps its
    direction or learns little.
    """
    constant = time_constant(config)
    return _degrees(method.lag / constant) if constant else 90.0


def lag_angle_at_end(config: RunConfig, method: WeightMirror, steps: int | None) -> float:
    """Approximate matrix angle in degrees due to the lag, at the end of a run.

    Iterates c = E[B·W] and v = E[B·B], in units of E[W·W]: an engaged step multiplies c by
    e^(−η/η_peak/constant), and a mirror step sets B to (1 − λ_B) B + η_B W. B starts equal to W if
    there are initial mirror steps, otherwise at 90° to it.

    Args:
        steps: per epoch; None if unknown, which assumes :data:`ASSUMED_STEPS`.
    """
    constant, retained, gain = time_constant(config), 1 - method.decay, method.mirror_lr
    c, v = (1.0, 1.0) if method.mirror_before else (0.0, 1.0)
    steps = ASSUMED_STEPS if steps is None else steps
    for step in range(config.epochs * steps):
        share = learning_rate(config, step / steps) / config.lr
        c *= math.exp(-share / constant) if constant else 0.0
        if (step + 1) % method.mirror_every == 0:
            for _ in range(method.mirror_steps):
                c, v = retained * c + gain, retained**2 * v + 2 * retained * gain * c + gain**2
    return math.degrees(math.acos(min(1.0, c / math.sqrt(v)))) if v > 0 else 90.0
