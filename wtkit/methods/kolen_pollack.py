"""Kolen–Pollack: forward and feedback weights get the same updates, and so become alike."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like


@frozen
class KolenPollack(Method):
    """B receives the same update as W, and the same decay (eqs. 16 and 18)::

        ΔW_{l+1}  = −η_W P − λ W_{l+1},    P = δ_{l+1} y_lᵀ
        ΔB_{l+1}ᵀ = −η_W P − λ B_{l+1}ᵀ

    So W − Bᵀ = (1−λ)^t (W₀ − B₀ᵀ) (Sec. 5.1). B is a parameter of the layer; before each optimizer
    step its gradient is set to W's, which is computed from y_l and δ_{l+1} alone. One optimizer
    steps both in one parameter group, so that they share learning rate, momentum and decay; a step
    that would treat them differently is refused (:mod:`wtkit.feedback`).

    Weight decay is seldom applied to the scale γ of a normalisation. So b starts at a single
    number, the mean magnitude of γ. If γ = 1, as in a new network, b then always equals γ.

    Adds no hyper-parameter, but needs weight decay: with PyTorch's decay ``wd`` and momentum m the
    mismatch falls as exp(−Σ lr · wd / (1−m)), summed over steps. Reference: Akrout et al. (2019),
    Sec. 5; Kolen & Pollack, ICNN (1994).

    These options are not part of the method; they relax Sec. 5.2's assumption that both paths share
    rates. All but ``scale`` require SGD, which is linear in the gradient::

        ΔB_{l+1}ᵀ = −r η_W (P + σ rms(P) ξ) − q λ B_{l+1}ᵀ,    ξ ~ N(0, 1), drawn in each update

    With q = 1 and σ = 0, rW − Bᵀ falls as (1−λ)^t: another learning rate changes the length of B
    but not its final direction. Another decay, or noise, leaves an angle.

    Attributes:
        scale: the root mean square of B divided by that of W, at conversion.
        lr_ratio: r, B's learning rate divided by W's.
        decay_ratio: q, B's λ divided by W's. λ is absolute: B loses the fraction qλ per step,
            whatever r is. To multiply PyTorch's whole step by r, including its decay, set q = r.
        signal_noise: σ, noise on B's product, in units of the product's root mean square. It stands
            for noise on the two signals that the paths exchange. Noise of s times their root mean
            square on y and on δ, independent per example, disturbs P about as much as σ = √(2s² +
            s⁴), or less if the products of the examples agree.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "kolen_pollack", seed=0)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0)
        >>> for _ in range(50):
        ...     sgd.zero_grad()
        ...     model(torch.ones(1, 20)).sum().backward()
        ...     sgd.step()
        >>> bool(wtkit.matrix_angles(model) < 5)
        True
    """

    label: ClassVar[str] = "KP"
    learns_engaged: ClassVar[bool] = True
    LATER_OPTIONS: ClassVar = {
        "scale": 1.0,
        "lr_ratio": 1.0,
        "decay_ratio": 1.0,
        "signal_noise": 0.0,
    }

    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    lr_ratio: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    decay_ratio: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    signal_noise: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def initial_of_scale(self, scale, generator):
        return scale.abs().mean().expand_as(scale) * self.scale

    def feedback_weights(self, W, stored):
        return stored

    @property
    def has_own_gradient(self):
        return (self.lr_ratio, self.decay_ratio, self.signal_noise) != (1, 1, 0)

    def feedback_gradient(self, gradient, B, decay, generator):
        product = gradient
        if self.signal_noise:
            xi = gradient.new_empty(gradient.shape).normal_(generator=generator)
            product = gradient + self.signal_noise * gradient.square().mean().sqrt() * xi
        # SGD itself adds decay · B
        return self.lr_ratio * product + (self.decay_ratio - 1) * decay * B
