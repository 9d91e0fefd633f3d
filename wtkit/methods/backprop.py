"""Backprop: the standard method, with weight transport."""

from typing import ClassVar

from ..validation import frozen
from .base import Method


@frozen
class Backprop(Method):
    """δ passes through the transposed forward weights (eq. 2)::

        δ_l = φ'(y_l) W_{l+1}ᵀ δ_{l+1}

    Adds no hyper-parameter. Reference: Rumelhart, Hinton & Williams, Nature 323 (1986).

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "backprop")
        >>> wtkit.matrix_angles(model).item()
        0.0
    """

    label: ClassVar[str] = "BP"

    def initial(self, W, generator):
        return None

    @property
    def source_of_B(self):
        return "B is W"

    def feedback_weights(self, W, stored):
        return W
