"""Feedback alignment: fixed random feedback weights."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, magnitudes_like, random_like


@frozen
class FeedbackAlignment(Method):
    """δ passes through random weights that never change (eq. 3)::

        δ_l = φ'(y_l) B_{l+1} δ_{l+1}

    B has the scale of W times a factor, which is the only hyper-parameter. For the scale γ of a
    normalisation, b is uniform and positive. Reference: Lillicrap et al., Nature Communications 7
    (2016).

    Attributes:
        scale: the root mean square of B divided by that of W, at conversion.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "feedback_alignment", scale=2.0)
        >>> bool(1.5 < wtkit.feedback.feedback_norm_ratios(model) < 2.5)
        True
    """

    label: ClassVar[str] = "FA"
    LATER_OPTIONS: ClassVar = {"scale": 1.0}

    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def initial_of_scale(self, scale, generator):
        return magnitudes_like(scale, generator) * self.scale

    def feedback_weights(self, W, stored):
        return stored
