"""Kolen–Pollack: forward and feedback weights that change alike, and so become alike."""

from typing import ClassVar

from ..settings import frozen
from .base import Method, random_like


@frozen
class KolenPollack(Method):
    """B receives the product that W receives, and the same decay (eqs. 16 and 18)::

        ΔW_{l+1}  = −η_W δ_{l+1} y_lᵀ − λ W_{l+1}
        ΔB_{l+1}ᵀ = −η_W δ_{l+1} y_lᵀ − λ B_{l+1}ᵀ

    so that W − Bᵀ = (1−λ)^t (W₀ − B₀ᵀ) (Sec. 5.1). B is a parameter of the layer that is handed W's gradient, computed
    from y_l and δ_{l+1} alone, as an optimizer steps. Learning rate, momentum and decay of the two agree because one
    optimizer steps both in one parameter group; a step that would treat them unlike is refused (:mod:`wtkit.layers`).

    Adds no hyper-parameter, but needs the weight decay that the other methods may go without: with PyTorch's
    decay ``wd`` and momentum m the mismatch falls as exp(−Σ lr · wd / (1−m)), summed over steps.
    Reference: Akrout et al. (2019), Sec. 5; Kolen & Pollack, ICNN (1994).
    """

    label: ClassVar[str] = "KP"
    learns_engaged: ClassVar[bool] = True

    def initial(self, W, generator):
        return random_like(W, generator)

    def feedback_weights(self, W, kept):
        return kept
