"""Direct Kolen–Pollack: learned weights from the output straight to every layer."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like
from .kolen_pollack import KolenPollack


@frozen
class DirectKolenPollack(Method):
    """As in direct feedback alignment, every layer receives e, the δ of the output layer, through
    weights of its own. They learn from e and the layer's activation, and decay as W does::

        δ_l = φ'(y_l) B_l e
        ΔB_l = −η_W y_l eᵀ − λ B_l

    B_l belongs to the layer whose input is y_l; η_W, λ and the momentum are those of the optimizer.
    In a fully connected output layer, e yᵀ is W's own product. So W − Bᵀ = (1−λ)^t (W₀ − B₀ᵀ)
    there, as in Kolen–Pollack. For the layers below no such law holds: B_l learns which outputs
    change with a neuron, and estimates the whole forward path above it.

    B is a parameter of the layer with the shape (outputs of the network, inputs of the layer), that
    of e yᵀ. The backward pass computes its gradient, so any optimizer will do. The only added
    hyper-parameter is the scale. Without weight decay the initial B remains part of B. B's gradient
    counts in :func:`torch.nn.utils.clip_grad_norm_` of all parameters; clip those whose names do
    not end in ``feedback`` for the norm that W's update has. Reference: Webster, Choi & Ahn,
    "Learning the connections in direct feedback alignment" (2021).

    The scale of a normalisation receives δ from the layer above, so its b learns as in
    Kolen–Pollack.

    Departures: a convolution has one weight per (channel, output), and its signal is divided by the
    number of positions (see :mod:`wtkit.methods.direct_feedback_alignment`). B learns from y
    averaged over positions, which is the adjoint operation. B starts with the scale of W.

    Attributes:
        scale: the root mean square of B divided by that of W, at conversion.

    Example:
        >>> import torch, wtkit
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 5))
        >>> model = wtkit.convert(model, "direct_kolen_pollack", seed=0)
        >>> x = torch.randn(4, 20)
        >>> model(x).square().sum().backward()
        >>> e = 2 * model(x)
        >>> torch.allclose(model[0].feedback.grad, e.T @ x, rtol=1e-4, atol=1e-4)
        True
    """

    label: ClassVar[str] = "DKP"
    direct: ClassVar[bool] = True
    learns_engaged: ClassVar[bool] = True

    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def of_scales(self):
        return KolenPollack()

    @property
    def source_of_B(self):
        return "the output layer's δ and the layer's input"

    def feedback_weights(self, W, stored):
        return stored
