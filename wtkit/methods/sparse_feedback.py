"""Sparse feedback: random weights from the output to every layer, most of them 0."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, initial_scale, random_like
from .feedback_alignment import FeedbackAlignment


@frozen
class SparseFeedback(Method):
    """Every layer receives e, the δ of the output layer, through fixed random weights, as in direct
    feedback alignment. But each neuron receives only a few outputs::

        δ_l = φ'(y_l) B_l e,    k entries of each row of B_l are not 0,  k = max(1, round(d m))

    Here m is the number of outputs of the network, and d is the density. The outputs are drawn for
    each neuron without replacement. With k = 1, a neuron's δ is that of one output, times one
    weight. The nonzero entries are Gaussian, scaled so that B has exactly the root mean square of W
    times the factor ``scale``. So δ has the same scale at every density. Adds two hyper-parameters,
    the density and the scale. Reference: Crafton, Parihar, Gebhardt & Raychowdhury, Frontiers in
    Neuroscience 13 (2019).

    Departures: every neuron has at least one nonzero entry, and all have equally many. For
    convolutions see :mod:`wtkit.methods.direct_feedback_alignment`. B is stored as a dense tensor,
    so sparsity saves neither memory nor time here.

    Attributes:
        density: d, the fraction of the outputs that a neuron receives.
        scale: the root mean square of B divided by that of W, at conversion.

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
