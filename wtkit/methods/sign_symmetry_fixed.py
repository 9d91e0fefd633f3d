"""Sign-symmetry with fixed random magnitudes: frSF."""

from typing import ClassVar

from ..validation import frozen
from .base import Method, magnitudes_like


@frozen
class SignSymmetryFixed(Method):
    """δ travels through weights that have the signs of the forward weights and random magnitudes of
    their own::

        δ_l = φ'(y_l) (M_{l+1} ∘ sign(W_{l+1}))ᵀ δ_{l+1}
        M uniform above 0,  ‖M‖ = ‖W‖ at conversion

    M is drawn once. Adds no hyper-parameter. Reference: Liao, Leibo & Poggio, AAAI (2016), whose
    frSF this is, apart from the scale of M.
    """

    label: ClassVar[str] = "frSF"

    def initial(self, W, generator):
        return magnitudes_like(W, generator)

    def feedback_weights(self, W, kept):
        return kept * W.detach().sign()
