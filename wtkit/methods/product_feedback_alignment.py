"""Product feedback alignment: Kolen–Pollack through a population of neurons in between."""

import functools
from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like
from .kolen_pollack import KolenPollack


@frozen
class ProductFeedbackAlignment(Method):
    """In Kolen–Pollack, a synapse of W and one of B connect the same two neurons. Here δ passes
    through a population between them, so no two neurons are connected in both directions::

        δ_l = φ'(y_l) R_{l+1} F_{l+1} δ_{l+1},              B_{l+1} = R_{l+1} F_{l+1}
        ΔR_{l+1} = −η_W y_l (F_{l+1} δ_{l+1})ᵀ − λ R_{l+1}

    F, (r · outputs, outputs), is random and never changes; R, (inputs, r · outputs), learns. η_W, λ
    and the momentum are those of W. So B learns from W's product times P = Fᵀ F, which is the
    identity in expectation::

        ΔB_{l+1} = −η_W y_l δ_{l+1}ᵀ P − λ B_{l+1},    Wᵀ P − B falls as (1−λ)^t

    The angle between W and P W remains: arctan √(1/r) if W's rows are unrelated, which is 18° at r
    = 10 and 45° at r = 1. The layer stores B, (outputs, inputs). F is drawn from the layer's seed
    and is not part of a checkpoint. A convolution has one F for all positions; each of its groups
    has its own. Requires torch.optim.SGD, which is linear in the gradient: with others, B would not
    move as R F does.

    Adds two hyper-parameters, r and the scale, and needs weight decay. Reference: Ji-An & Benna,
    "Deep learning without weight symmetry", arXiv:2405.20594 (2024), who take r = 10.

    The scale of a normalisation is a diagonal matrix, which does not mix neurons. So its b learns
    as in Kolen–Pollack.

    Departure: B starts with random values, as in Kolen–Pollack. F is Gaussian.

    Attributes:
        expansion: r, the number of neurons in between for each output.
        scale: the root mean square of B divided by that of W, at conversion.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 50), "product_feedback_alignment", seed=0)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0)
        >>> for _ in range(50):
        ...     sgd.zero_grad()
        ...     (model(torch.ones(1, 20)) @ torch.randn(50)).sum().backward()
        ...     sgd.step()
        >>> 10 < wtkit.matrix_angles(model).item() < 25
        True
    """

    label: ClassVar[str] = "PFA"
    learns_engaged: ClassVar[bool] = True
    mixes_neurons: ClassVar[bool] = True

    expansion: Annotated[int, Field(ge=1, le=1000)] = 10
    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def of_scales(self):
        return KolenPollack(scale=self.scale)

    def feedback_weights(self, W, stored):
        return stored

    @property
    def has_own_gradient(self):
        return True

    def feedback_gradient(self, gradient, B, decay, generator):
        groups, outputs, _ = gradient.shape
        P = _product(generator.initial_seed(), groups, outputs, self.expansion)
        return P.to(gradient) @ gradient


# of all layers of a large network; a P is drawn once and not in every update
@functools.lru_cache(maxsize=512)
def _product(seed: int, groups: int, outputs: int, expansion: int):
    """Fᵀ F for each group, (groups, outputs, outputs). Entries of F have the variance of one over
    its rows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    product = torch.zeros(groups, outputs, outputs)
    for _ in range(expansion):  # outputs rows of F at a time
        F = torch.randn(groups, outputs, outputs, generator=generator)
        product += F.mT @ F
    return product / (expansion * outputs)
