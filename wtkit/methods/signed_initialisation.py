"""Signed initialisation: fixed feedback weights that share the signs of the initial W."""

from typing import ClassVar

from ..validation import frozen
from .base import Method, magnitudes_like


@frozen
class SignedInitialisation(Method):
    """δ passes through weights that never change and have the signs of W at conversion::

        δ_l = φ'(y_l) (M_{l+1} ∘ sign(W_{l+1}(0)))ᵀ δ_{l+1}
        M uniform above 0,  ‖M‖ = ‖W‖ at conversion

    The signs are transported once, and no weight is transported while the network learns. The
    method lies between feedback alignment, which starts at 90°, and sign-symmetry with fixed
    magnitudes, whose signs follow W. The matrix angle starts at 46° for a Gaussian W and at 41° for
    a uniform one. Where W is 0 the sign is random. Adds no hyper-parameter. Reference: Moskovitz,
    Litwin-Kumar & Abbott, arXiv:1812.06488 (2018), for feedback weights that agree with W in sign.

    Departures: only the initial signs agree, and the magnitudes are uniform, as in frSF, with the
    norm of W. Convert the network before training: if W is already trained, B copies the signs that
    W has learned.

    Example:
        >>> import torch, wtkit
        >>> layer = wtkit.convert(torch.nn.Linear(20, 5), "signed_initialisation")
        >>> bool((layer.B.sign() == layer.weight.sign()).all())
        True
        >>> before = layer.B.clone()
        >>> with torch.no_grad():
        ...     _ = layer.weight.neg_()
        >>> torch.equal(layer.B, before)  # the signs are those at conversion
        True
    """

    label: ClassVar[str] = "SI"

    def initial(self, W, generator):
        import torch

        size = magnitudes_like(W, generator)
        drawn = torch.rand(W.shape, generator=generator, device=generator.device).to(W.device)
        sign = torch.where(W.detach() == 0, (drawn - 0.5).sign().to(W.dtype), W.detach().sign())
        return size * sign

    def initial_of_scale(self, scale, generator):
        stored = self.initial(scale, generator)
        return stored.abs() * (1 - 2 * (scale < 0).to(stored.dtype))

    @property
    def source_of_B(self):
        return "W's signs once, at conversion"

    def feedback_weights(self, W, stored):
        return stored
