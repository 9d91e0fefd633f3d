"""Sparse feedback: direct random weights, most of which are 0."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, initial_scale, random_like
from .feedback_alignment import FeedbackAlignment


@frozen
class SparseFeedback(Method):
    """Every layer receives e, the δ of the output layer, through fixed random weights, as in direct
    feedback alignment; each neuron listens to a few outputs only::

        δ_l = φ'(y_l) B_l e,    k entries of each row of B_l are not 0,  k = max(1, round(d m))

    with m outputs of the network and the density d. The outputs are drawn for each neuron without
    replacement. With k = 1 a neuron's error is one output's, times one weight. The entries that are
    not 0 are Gaussian, and scaled so that B has the root mean square of W exactly: δ is as large at
    every density. Adds two hyper-parameters, the density and the scale. Reference: Crafton,
    Parihar, Gebhardt & Raychowdhury, Frontiers in Neuroscience 13 (2019).

    Departures: every neuron keeps at least one entry, and all keep equally many; for convolutions
    see :mod:`wtkit.methods.direct_feedback_alignment`. B is stored as a dense tensor, so sparsity
    saves neither memory nor time here.

    Attributes:
        density: d, the part of the outputs that a neuron listens to.
        scale: the root mean square of B over that of W at conversion.

    Example:
        >>> import torch, wtkit
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 5))
        >>> model = wtkit.convert(model, "sparse_feedback", density=0.4)
        >>> (model[2].B != 0).sum(0)  # of 5 outputs, for each of the 8 hidden neurons
        tensor([2, 2, 2, 2, 2, 2, 2, 2])
    """

    label: ClassVar[str] = "sDFA"
    direct: ClassVar[bool] = True

    density: Annotated[float, Field(gt=0, le=1)] = 0.1
    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def initial(self, W, generator):
        import torch

        kept = max(1, round(self.density * len(W)))
        draw = torch.rand(W.shape, generator=generator, device=generator.device)
        chosen = torch.zeros_like(draw).scatter_(0, draw.topk(kept, dim=0).indices, 1.0)
        B = random_like(W, generator).float() * chosen.to(W.device)
        return (B * (self.scale * initial_scale(W) / B.square().mean().sqrt())).to(W.dtype)

    def of_scales(self):
        return FeedbackAlignment()

    def feedback_weights(self, W, stored):
        return stored
