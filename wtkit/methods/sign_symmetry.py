"""Sign-symmetry: feedback weights that share only the signs of the forward weights."""

from typing import ClassVar, Literal

from ..validation import frozen
from .base import Method, initial_scale


@frozen
class SignSymmetry(Method):
    """δ travels through the signs of the forward weights::

        δ_l = φ'(y_l) s_{l+1} sign(W_{l+1})ᵀ δ_{l+1}

    The scale s is one number a layer; without it δ grows or shrinks by a factor a layer. Adds one
    hyper-parameter, the choice of s. Reference: Liao, Leibo & Poggio, AAAI (2016), whose uSF this
    is.

    Attributes:
        scale: ``strict`` (default), the root mean square of W as it is now, so that ‖B‖ = ‖W‖,
            which transports one number a layer beside the signs, and ``initial``, the root mean
            square of W at conversion, which stays: the two normalisations of Moskovitz,
            Litwin-Kumar & Abbott (2018); ``xavier``, √(2/(fan_in + fan_out)), as BioTorch has it;
            ``unit``, 1. Under a decay that makes W small a scale that stays learns far worse.
    """

    label: ClassVar[str] = "SS"

    scale: Literal["initial", "strict", "xavier", "unit"] = "strict"

    def initial(self, W, generator):
        if self.scale == "initial":
            return initial_scale(W).to(W.dtype)
        if self.scale == "xavier":
            return W.new_tensor((2 / (W[0].numel() + W[:, 0].numel())) ** 0.5)
        return None

    def feedback_weights(self, W, kept):
        sign = W.detach().sign()
        if self.scale == "unit":
            return sign
        return sign.mul_(rms(W) if self.scale == "strict" else kept.to(W.dtype))


def rms(W):
    """Root mean square of W, a tensor without dimensions."""
    return W.detach().square().mean().sqrt()
