"""Sign-symmetry with fixed random magnitudes: frSF."""

from typing import ClassVar

from ..validation import frozen
from .base import Method, magnitudes_like


@frozen
class SignSymmetryFixed(Method):
    """δ passes through weights with the signs of the forward weights and fixed random magnitudes::

        δ_l = φ'(y_l) (M_{l+1} ∘ sign(W_{l+1}))ᵀ δ_{l+1}
        M uniform above 0,  ‖M‖ = ‖W‖ at conversion

    M is drawn once. Adds no hyper-parameter. Reference: Liao, Leibo & Poggio, AAAI (2016), where it
    is called frSF, except for the scale of M.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "sign_symmetry_fixed")
        >>> bool((model.B.sign() == model.weight.sign()).all())
        True
    """

    label: ClassVar[str] = "frSF"

    def initial(self, W, generator):
        return magnitudes_like(W, generator)

    @property
    def source_of_B(self):
        return "its signs are W's"

    def feedback_weights(self, W, stored):
        return stored * W.detach().sign()

    def is_valid(self, stored):
        return bool((stored >= 0).all())
