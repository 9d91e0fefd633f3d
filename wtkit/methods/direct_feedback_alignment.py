"""Direct feedback alignment: fixed random weights from the output straight to every layer."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like


@frozen
class DirectFeedbackAlignment(Method):
    """Every layer is sent e, the δ of the output layer, through random weights of its own that
    never change::

        δ_l = φ'(y_l) B_l e

    B_l is kept by the layer that y_l enters, whose W it stands in for: (outputs, inputs of that
    layer), drawn with the scale of that W. A convolution has one weight a channel and output, the
    same at all positions of a map and divided by their number, as if the map were pooled before the
    output layer, and so has a fully connected layer that meets several positions; that is ours. A
    weight for every position, which is Nøkland's, would be bound to one image size, and take 8 GB
    for ResNet-18 at 224×224 and 1,000 classes. Where a residual sum passes a layer by, δ passes by
    as well.

    Matrix angles are defined for the output layer only, whose B is in W's shape. Adds one
    hyper-parameter, the scale. Reference: Nøkland, NIPS (2016).

    Attributes:
        scale: the root mean square of B over that of W at conversion.
    """

    label: ClassVar[str] = "DFA"
    direct: ClassVar[bool] = True

    scale: Annotated[float, Field(gt=0)] = 1.0

    def initial(self, W, generator):
        return random_like(W, generator) * self.scale

    def feedback_weights(self, W, kept):
        return kept
