"""Symmetric alignment: feedback weights that follow an estimate of the forward weights."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like


@frozen
class SymmetricAlignment(Method):
    """B moves a part of the way to W after every update of W, as if W had been read off with some
    noise ξ::

        ΔB_{l+1} = η_B (Ŵ_{l+1}ᵀ − B_{l+1}),    Ŵ = W + σ rms(W) ξ,  ξ ~ N(0, 1)

    It is weight transport spread over time, by a circuit that is left open: a "weight estimation",
    and the standard for what a circuit such as the weight mirror would do if it estimated W well.
    Adds two hyper-parameters, η_B and σ.
    Reference: Kunin, Nayebi et al., ICML (2020), with the same weight for their primitives "decay"
        and "self".

    Attributes:
        rate: η_B; B averages over about 1/η_B updates of W.
        noise: σ, the standard deviation of the estimate in units of W's root mean square.
    """

    label: ClassVar[str] = "SA"
    follows: ClassVar[bool] = True

    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    noise: Annotated[float, Field(ge=0)] = 0.0

    def initial(self, W, generator):
        return random_like(W, generator)

    def feedback_weights(self, W, kept):
        return kept

    def followed(self, W, kept, generator):
        estimate = W + self.noise * random_like(W, generator) if self.noise else W
        return kept + self.rate * (estimate - kept)
