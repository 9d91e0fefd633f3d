"""How far B will agree with W, by formulas of a run's settings alone. Imports no torch.

:mod:`wtkit.plan.advice` makes warnings of it. :mod:`wtkit.plan.measuring` tries out what has to be
tried out.
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
    """Steps in which, at the peak rate, the decay takes what is old of W, or of a mismatch, down to
    1/e.

    (1 − m) / (η · wd) for small rates; momentum lets it not fall below −2 / ln m.
    """
    m, taken = config.momentum, config.lr * config.weight_decay
    if not taken:
        return math.inf
    # one step of what is left and of the velocity, as in :func:`mismatch`
    step = (
        [[1 - taken * (1 + m), -(m**2)], [taken, m]]
        if config.nesterov
        else [[1 - taken, -m], [taken, m]]
    )
    largest = float(np.abs(np.linalg.eigvals(step)).max())
    return -1 / math.log(largest) if 0 < largest < 1 else 0.0 if largest == 0 else math.inf


def mirrors(method: Method) -> TypeGuard[WeightMirror]:
    """Whether the formulas of the weight mirror apply; other mirror methods have none."""
    return isinstance(method, WeightMirror)


def learns_as_W(method: Method) -> bool:
    """Whether B gets all that W gets, so that it cancels in their difference; not if options give B
    its own gradient."""
    return method.learns_engaged and not method.has_own_gradient


def mismatch(config: RunConfig, steps: int) -> np.ndarray:
    """‖W − Bᵀ‖ of Kolen–Pollack's layers over what it was before training, after 0, 1, … epochs of
    ``steps`` steps.

    W and B get the same gradient, which cancels in the difference, so SGD with momentum takes the
    difference down as it would any weight whose loss is flat: exactly, to rounding.
    ``exp(−config.decay_exponent)`` is its limit for small rates, without momentum's delay.
    """
    left, velocity, found = 1.0, 0.0, [1.0]
    for step in range(config.epochs * steps):
        decay = config.weight_decay * left
        velocity = config.momentum * velocity + decay
        change = decay + config.momentum * velocity if config.nesterov else velocity
        left -= learning_rate(config, step / steps) * change
        if (step + 1) % steps == 0:
            found.append(abs(left))
    return np.array(found)


def angle_of_mismatch(left: float) -> float:
    """The matrix angle in degrees, at least, once the share ``left`` of the mismatch is left:
    arccos(1 − left²).

    Assumes that W keeps its norm, and that what it learns stands at a right angle to where W and B
    started. A W that shrinks, as under a strong decay, has a larger angle: to the mismatch it is
    ‖W‖ that matters.
    """
    return math.degrees(math.acos(min(1.0, max(-1.0, 1 - left**2))))


# --------------------------------------------------------------------- B that learns in mirror mode

MANY = 1000
"""Steps that an epoch is taken to have where nobody knows."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose B learns in mirror mode.

    Attributes:
        inputs: of a unit, without those that only ever meet padding.
        fan_in: with them.
        samples: N, noise samples a mirror step.
        phi: φ of its response.
    """

    name: str
    inputs: int
    fan_in: int
    samples: int
    phi: str


def sampling_angle(method: WeightMirror, layer: Layer, steps: float = math.inf) -> float:
    """The matrix angle in degrees that the noise leaves after ``steps`` mirror steps of a W that
    does not move.

    With independent noise, K inputs and N samples, tan² = κ K λ_B / ((2 − λ_B) N): λ_B / (2 − λ_B)
    is what an exponential average leaves of a variance, and κ what the response adds, 1 where it is
    linear and 2 behind a ReLU. Orthogonal noise goes through a basis in n blocks, and block j of
    them weighs (1 − λ_B)^j: tan is the standard deviation of these weights over their mean; what
    the odd part of φ bends comes on top.
    """
    if steps < 1:
        return 90.0
    decay = method.decay
    if method.noise != "orthogonal":
        left = max(decay / (2 - decay), 1 / steps)
        return _degrees(_excess(layer.phi, method.noise_std) * layer.inputs / layer.samples * left)
    blocks = _blocks(layer)
    weights = (1 - decay) ** np.arange(blocks) * (np.arange(blocks) < steps)
    return _degrees(_spread(weights) + _excess(layer.phi, method.noise_std, odd=True) - 1)


def angle_before(method: WeightMirror, layer: Layer) -> float:
    """The matrix angle in degrees after the mirror steps before training, which average with weight
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
    return _degrees(_spread(weights) + _excess(layer.phi, method.noise_std, odd=True) - 1)


def _blocks(layer: Layer) -> int:
    return math.ceil(layer.inputs / (layer.samples // 2))


def _spread(weights: np.ndarray) -> float:
    """The variance of weights over their mean squared: tan² of the angle between them and equal
    ones."""
    return float(weights.var() / weights.mean() ** 2)


def _degrees(tan_squared: float) -> float:
    return math.degrees(math.atan(math.sqrt(max(tan_squared, 0.0))))


@functools.lru_cache(maxsize=64)
def _excess(phi: str, noise_std: float, odd: bool = False) -> float:
    """κ = E[φ(u)²] / (E[u²] E[φ'(u)]²): the variance of a response over that of its linear part.

    u is Gaussian. Where its scale matters, W is taken to be as torch initialises a Linear layer, so
    u = σ/√3.

    Args:
        odd: of (φ(u) − φ(−u))/2, which is what noise that is fired with both signs sees.
    """
    if phi in ("identity", "relu"):
        return 2.0 if phi == "relu" and not odd else 1.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights, u = weights / weights.sum(), nodes * noise_std / math.sqrt(3)
    # a sigmoid is a tanh of half the input, and half as high, on top of a half
    y, slope = (
        (np.tanh(u), 1 - np.tanh(u) ** 2)
        if phi == "tanh"
        else (np.tanh(u / 2), (1 - np.tanh(u / 2) ** 2) / 2)
    )
    y = y + 1 if phi == "sigmoid" and not odd else y
    return float(weights @ y**2 / (weights @ u**2 * (weights @ slope) ** 2))


def lag(method: WeightMirror) -> float:
    """Engaged steps that B stands behind W: the 1/λ_B mirror steps that it averages over."""
    rate = method.decay * method.mirror_steps
    return method.mirror_every / rate if rate else math.inf


def lag_angle(config: RunConfig, method: WeightMirror) -> float:
    """About the matrix angle in degrees that the lag makes while the learning rate is at its peak.

    tan² = lag / :func:`time_constant`, that of an exponential average of a W that the decay takes
    away at that rate and gradients make anew in random directions. A W that has settled on a
    direction, or learns little, is followed better.
    """
    constant = time_constant(config)
    return _degrees(lag(method) / constant) if constant else 90.0


def lag_angle_at_end(config: RunConfig, method: WeightMirror, steps: int | None) -> float:
    """About the matrix angle in degrees between B and such a W at the end of a run of ``steps``
    steps an epoch.

    None, where nobody knows how many, stands for many.

    Step by step, with c = E[B·W] and v = E[B·B] in units of E[W·W]: a step of W leaves
    e^(−η/η_peak/constant) of c, and a mirror step takes B to (1 − λ_B) B + η_B W. B begins as W
    where it mirrored before training, else at 90° to it.
    """
    constant, kept, gain = time_constant(config), 1 - method.decay, method.mirror_lr
    c, v = (1.0, 1.0) if method.mirror_before else (0.0, 1.0)
    steps = MANY if steps is None else steps
    for step in range(config.epochs * steps):
        share = learning_rate(config, step / steps) / config.lr
        c *= math.exp(-share / constant) if constant else 0.0
        if (step + 1) % method.mirror_every == 0:
            for _ in range(method.mirror_steps):
                c, v = kept * c + gain, kept**2 * v + 2 * kept * gain * c + gain**2
    return math.degrees(math.acos(min(1.0, c / math.sqrt(v)))) if v > 0 else 90.0
