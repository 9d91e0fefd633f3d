"""Sign-symmetry with random magnitudes drawn for every batch: brSF."""

from typing import ClassVar

from ..validation import frozen
from .base import Method, magnitudes_like


@frozen
class SignSymmetryBatchwise(Method):
    """δ passes through weights with the signs of the forward weights and random magnitudes::

        δ_l = φ'(y_l) (M_{l+1} ∘ sign(W_{l+1}))ᵀ δ_{l+1}
        M uniform above 0,  ‖M‖ = ‖W‖ at conversion

    A new M of the same norm is drawn after every update of W. Adds no hyper-parameter. Reference:
    Liao, Leibo & Poggio, AAAI (2016), where it is called brSF, except for the scale of M.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "sign_symmetry_batchwise")
        >>> before = model.B.clone()
        >>> model(torch.ones(1, 20)).sum().backward()
        >>> torch.optim.SGD(model.parameters(), lr=0.1).step()
        >>> torch.equal(model.B, before)
        False
    """

    label: ClassVar[str] = "brSF"
    follows: ClassVar[bool] = True

    def initial(self, W, generator):
        return magnitudes_like(W, generator)

    @property
    def source_of_B(self):
        return "its signs are W's"

    def feedback_weights(self, W, stored):
        return stored * W.detach().sign()

    def is_valid(self, stored):
        return bool((stored >= 0).all())

    def follow(self, W, stored, generator, update):
        return magnitudes_like(stored, generator)
