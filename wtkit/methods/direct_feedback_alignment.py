"""Direct feedback alignment: fixed random weights from the output straight to every layer."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like
from .feedback_alignment import FeedbackAlignment


@frozen
class DirectFeedbackAlignment(Method):
    """Every layer receives e, the δ of the output layer, through its own random weights, which
    never change::

        δ_l = φ'(y_l) B_l e

    B_l belongs to the layer whose input is y_l. It has the shape (outputs of the network, inputs of
    that layer) and the scale of that layer's W. For a convolution or transposed convolution, B has
    one weight per (channel, output); the signal is broadcast over positions and divided by their
    number, as global average pooling would do. A fully connected layer with several positions is
    treated in the same way. If the network's last layer is a convolution, e is its δ summed over
    positions. These are our choices. One weight per position, as in Nøkland's paper, would tie B to
    one image size, and take 8 GB for ResNet-18 at 224×224 with 1,000 classes. Where a residual
    connection skips a layer, δ skips it as well.

    The scale of a normalisation has no direct path from the output: the normalisation sends its own
    δ through fixed weights, as in feedback alignment.

    Matrix angles are defined only for the output layer, whose B has W's shape. Adds one
    hyper-parameter, the scale. Reference: Nøkland, NIPS (2016).

    Attributes:
        scale: the root mean square of B divided by that of W, at conversion.

    Example:
        >>> import torch, wtkit
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 5))
        >>> model = wtkit.convert(model, "direct_feedback_alignment")
        >>> model[0].B.shape  # (outputs of the network, inputs of the layer)
        torch.Size([5, 20])
    """

    label: ClassVar[str] = "DFA"
    direct: ClassVar[bool] = True

    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def of_scales(self):
        return FeedbackAlignment()

    def feedback_weights(self, W, stored):
        return stored
