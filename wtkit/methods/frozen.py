"""Frozen: the baseline in which nothing learns but the output layer."""

from typing import ClassVar

from ..validation import frozen
from .base import Method


@frozen
class Frozen(Method):
    """δ travels through nothing::

        δ_l = 0,    ΔW_l = 0    below the output layer

    so that what a network achieves by its output layer alone is known before an error or an angle
    is read as a method's doing. The output layer learns as with every method; all parameters below
    are handed no gradient, and stay as they are: weights and biases, BatchNorm's scales and shifts,
    whatever the weight decay. BatchNorm's running statistics, which are no matter of δ, go on. In
    your own DistributedDataParallel say ``find_unused_parameters=True``.

    No angle is defined: all are NaN. Adds no hyper-parameter. Reference: none; a baseline.
    """

    label: ClassVar[str] = "FZ"

    def initial(self, W, generator):
        return None

    def feedback_weights(self, W, kept):
        return None
