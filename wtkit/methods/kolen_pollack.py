"""Kolen–Pollack: forward and feedback weights that change alike, and so become alike."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like


@frozen
class KolenPollack(Method):
    """B receives the product that W receives, and the same decay (eqs. 16 and 18)::

        ΔW_{l+1}  = −η_W P − λ W_{l+1},    P = δ_{l+1} y_lᵀ
        ΔB_{l+1}ᵀ = −η_W P − λ B_{l+1}ᵀ

    so that W − Bᵀ = (1−λ)^t (W₀ − B₀ᵀ) (Sec. 5.1). B is a parameter of the layer that is handed W's
    gradient, computed from y_l and δ_{l+1} alone, as an optimizer steps. Learning rate, momentum
    and decay of the two agree because one optimizer steps both in one parameter group; a step that
    would treat them unlike is refused (:mod:`wtkit.feedback`).

    Adds no hyper-parameter, but needs the weight decay that the other methods may go without: with
    PyTorch's decay ``wd`` and momentum m the mismatch falls as exp(−Σ lr · wd / (1−m)), summed over
    steps. Reference: Akrout et al. (2019), Sec. 5; Kolen & Pollack, ICNN (1994).

    The options are no part of the method. They ask what becomes of it where the two sides do not
    agree, as Sec. 5.2 assumes that they do, and need SGD, which is linear in what B is handed
    (``scale`` does not)::

        ΔB_{l+1}ᵀ = −r η_W (P + σ rms(P) ξ) − q λ B_{l+1}ᵀ,    ξ ~ N(0, 1), anew in every update

    With q = 1 and σ = 0 it is rW − Bᵀ that falls as (1−λ)^t: another learning rate gives B another
    length but the same direction in the end. Another decay, or noise, leaves an angle.

    Attributes:
        scale: the root mean square of B over that of W at conversion.
        lr_ratio: r, B's learning rate over W's.
        decay_ratio: q, B's λ over W's. λ is the absolute one: B loses the share qλ of itself in a
            step, whatever r is. If all of PyTorch's step were r times as large for B, its decay
            included, that would be q = r.
        signal_noise: σ, noise on the product that B learns by, in units of the product's root mean
            square. It stands for noise on the two signals that are exchanged: s times their root
            mean square on y and on δ, independent for every example, disturbs P about as σ = √(2s²
            + s⁴) does, or less where examples' products agree.
    """

    label: ClassVar[str] = "KP"
    learns_engaged: ClassVar[bool] = True
    BEFORE: ClassVar = {"scale": 1.0, "lr_ratio": 1.0, "decay_ratio": 1.0, "signal_noise": 0.0}

    scale: Annotated[float, Field(gt=0)] = 1.0
    lr_ratio: Annotated[float, Field(ge=0)] = 1.0
    decay_ratio: Annotated[float, Field(ge=0)] = 1.0
    signal_noise: Annotated[float, Field(ge=0)] = 0.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def feedback_weights(self, W, kept):
        return kept

    @property
    def apart(self):
        return (self.lr_ratio, self.decay_ratio, self.signal_noise) != (1, 1, 0)

    def handed(self, gradient, B, decay, generator):
        product = gradient
        if self.signal_noise:
            xi = gradient.new_empty(gradient.shape).normal_(generator=generator)
            product = gradient + self.signal_noise * gradient.square().mean().sqrt() * xi
        # the step itself adds decay · B
        return self.lr_ratio * product + (self.decay_ratio - 1) * decay * B
