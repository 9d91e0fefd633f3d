"""Frozen: the baseline in which only the output layer learns."""

from typing import ClassVar

from ..validation import frozen
from .backprop import Backprop
from .base import Method


@frozen
class OutputLayerOnly(Method):
    """No δ is sent back::

        δ_l = 0,    ΔW_l = 0    below the output layer

    Baseline: what training the output layer alone achieves. The output layer learns as with every
    other method. All parameters below it (weights, biases, BatchNorm's scales and shifts) have no
    gradient and never change, whatever the weight decay. BatchNorm's running statistics do not
    depend on δ and are updated. If you use DistributedDataParallel yourself, set
    ``find_unused_parameters=True``.

    No angle is defined: all are NaN. Adds no hyper-parameter. Reference: none; a baseline.

    Example:
        >>> import torch, wtkit
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 5))
        >>> model = wtkit.convert(model, "frozen")
        >>> model(torch.ones(1, 20)).sum().backward()
        >>> model[0].weight.grad is None, model[2].weight.grad is None
        (True, False)
    """

    label: ClassVar[str] = "FZ"

    def initial(self, W, generator):
        return None

    def of_scales(self):
        return Backprop()  # δ passes the scales above the output layer alone

    def feedback_weights(self, W, stored):
        return None
