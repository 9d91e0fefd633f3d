"""Sign-symmetry: feedback weights that share only the signs of the forward weights."""

from typing import ClassVar, Literal

from ..validation import frozen
from .base import Method, initial_scale


@frozen
class SignSymmetry(Method):
    """δ passes through the signs of the forward weights::

        δ_l = φ'(y_l) s_{l+1} sign(W_{l+1})ᵀ δ_{l+1}

    The scale s is one number per layer. Without it, δ would grow or shrink by a factor in each
    layer. Adds one hyper-parameter, the choice of s. Reference: Liao, Leibo & Poggio, AAAI (2016),
    where it is called uSF.

    Attributes:
        scale: how s is set. ``strict`` (default): the current root mean square of W, so that ‖B‖ =
            ‖W‖; this transports one number per layer besides the signs. ``initial``: the root mean
            square of W at conversion. These two are the normalisations of Moskovitz, Litwin-Kumar &
            Abbott (2018). ``xavier``: √(2/(fan_in + fan_out)), as in BioTorch. ``unit``: 1. If
            weight decay makes W small, the method learns far worse with a constant scale.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "sign_symmetry")
        >>> bool((model.B.sign() == model.weight.sign()).all()), model.B.abs().unique().numel()
        (True, 1)
    """

    label: ClassVar[str] = "SS"

    scale: Literal["initial", "strict", "xavier", "unit"] = "strict"

    def initial(self, W, generator):
        if self.scale == "initial":
            return initial_scale(W).to(W.dtype)
        if self.scale == "xavier":
            return W.new_tensor((2 / (W[0].numel() + W[:, 0].numel())) ** 0.5)
        return None

    def of_scales(self):
        return SignSymmetry(scale="unit") if self.scale == "xavier" else self  # fans of 1

    @property
    def source_of_B(self):
        return "B is computed from W"

    def feedback_weights(self, W, stored):
        sign = W.detach().sign()
        if self.scale == "unit":
            return sign
        return sign.mul_(rms(W) if self.scale == "strict" else stored.to(W.dtype))


def rms(W):
    """The root mean square of W, as a tensor without dimensions."""
    return W.detach().square().mean().sqrt()
