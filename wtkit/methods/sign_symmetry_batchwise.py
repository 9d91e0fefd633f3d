"""Sign-symmetry with random magnitudes that are drawn anew for every batch: brSF."""

from typing import ClassVar

from ..validation import frozen
from .base import Method, magnitudes_like


@frozen
class SignSymmetryBatchwise(Method):
    """δ travels through weights that have the signs of the forward weights and random magnitudes of
    the moment::

        δ_l = φ'(y_l) (M_{l+1} ∘ sign(W_{l+1}))ᵀ δ_{l+1}
        M uniform above 0,  ‖M‖ = ‖W‖ at conversion

    M is drawn anew after every update of W, and keeps its norm. Adds no hyper-parameter. Reference:
    Liao, Leibo & Poggio, AAAI (2016), whose brSF this is, apart from the scale of M.
    """

    label: ClassVar[str] = "brSF"
    follows: ClassVar[bool] = True

    def initial(self, W, generator):
        return magnitudes_like(W, generator)

    def feedback_weights(self, W, kept):
        return kept * W.detach().sign()

    def followed(self, W, kept, generator):
        return magnitudes_like(kept, generator)
