"""Feedback alignment: fixed random feedback weights."""

from typing import ClassVar

from ..settings import frozen
from .base import Method, random_like


@frozen
class FeedbackAlignment(Method):
    """δ travels through random weights that never change (eq. 3)::

        δ_l = φ'(y_l) B_{l+1} δ_{l+1}

    Adds no hyper-parameter: B is drawn with the scale of W. Reference: Lillicrap et al., Nature Communications 7
    (2016).
    """

    label: ClassVar[str] = "FA"

    def initial(self, W, generator):
        return random_like(W, generator)

    def feedback_weights(self, W, kept):
        return kept
