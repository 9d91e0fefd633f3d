"""Low-rank feedback: fixed random weights that pass a few dimensions of δ."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, initial_scale, random_like
from .feedback_alignment import FeedbackAlignment


@frozen
class LowRankFeedback(Method):
    """Like feedback alignment, but δ passes through only r numbers::

        δ_l = φ'(y_l) Q_{l+1} R_{l+1} δ_{l+1},    B = Q R

    R, (r, outputs of the layer), reduces δ; Q, (inputs of the layer, r), expands it. Both are
    Gaussian and never change. B has exactly the root mean square of W times the factor ``scale``.
    If r is at least the smaller dimension of W, B has full rank. A convolution's B is a matrix of
    (outputs, inputs of one neuron), so δ passes through r numbers for each position. Adds two
    hyper-parameters, the rank and the scale. Reference: Hanut & Kadmon, "Training large neural
    networks with low-dimensional error feedback", arXiv:2502.20580 (2025), for feedback of low
    rank.

    Departure: Q and R are fixed. In the rule of the publication, LDFA, they learn, so this method's
    errors are not those of LDFA. B is stored as one tensor, so a low rank saves neither memory nor
    time here.

    Attributes:
        rank: r, the numbers that δ passes through.
        scale: the root mean square of B divided by that of W, at conversion.

    Example:
        >>> import torch, wtkit
        >>> layer = wtkit.convert(torch.nn.Linear(20, 30), "low_rank_feedback", rank=4)
        >>> int(torch.linalg.matrix_rank(layer.B, rtol=1e-4))
        4
    """

    label: ClassVar[str] = "LRF"

    rank: Annotated[int, Field(ge=1)] = 10
    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def initial(self, W, generator):
        import torch

        outputs, inputs = len(W), W[0].numel()
        if self.rank >= min(outputs, inputs):
            B = random_like(W, generator).float()
        else:
            R, Q = (
                torch.randn(self.rank, size, generator=generator, device=generator.device)
                for size in (outputs, inputs)
            )
            B = (R.T @ Q).reshape(W.shape).to(W.device)
        return (B * (self.scale * initial_scale(W) / B.square().mean().sqrt())).to(W.dtype)

    def of_scales(self):
        return FeedbackAlignment(scale=self.scale)  # no rank is below that of a single number

    def feedback_weights(self, W, stored):
        return stored
