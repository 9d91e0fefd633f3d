"""Feedback alignment: fixed random feedback weights."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like


@frozen
class FeedbackAlignment(Method):
    """δ travels through random weights that never change (eq. 3)::

        δ_l = φ'(y_l) B_{l+1} δ_{l+1}

    B is drawn with the scale of W, times a factor that is its one hyper-parameter. Reference:
    Lillicrap et al., Nature Communications 7 (2016).

    Attributes:
        scale: the root mean square of B over that of W at conversion.
    """

    label: ClassVar[str] = "FA"
    BEFORE: ClassVar = {"scale": 1.0}

    scale: Annotated[float, Field(gt=0)] = 1.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def feedback_weights(self, W, kept):
        return kept
