"""Symmetric alignment: feedback weights that follow an estimate of the forward weights."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like


@frozen
class SymmetricAlignment(Method):
    """After every update of W, B moves a fraction of the way to a noisy estimate of W::

        ΔB_{l+1} = η_B (Ŵ_{l+1}ᵀ − B_{l+1}),    Ŵ = W + σ rms(W) ξ,  ξ ~ N(0, 1)

    This is gradual weight transport ("weight estimation"); the circuit is not specified. It is the
    reference for a mirror that estimates W well. Adds two hyper-parameters, η_B and σ. Reference:
    Kunin, Nayebi et al., ICML (2020), with equal weights for their primitives "decay" and "self".

    Attributes:
        rate: η_B; B averages over about 1/η_B updates of W.
        noise: σ, the standard deviation of the estimate in units of W's root mean square.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "symmetric_alignment", rate=1)
        >>> model(torch.ones(1, 20)).sum().backward()
        >>> torch.optim.SGD(model.parameters(), lr=0.1).step()
        >>> torch.allclose(model.B, model.weight)
        True
    """

    label: ClassVar[str] = "SA"
    follows: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    noise: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    @property
    def lag(self):
        return 1 / self.rate

    def setting_of_lag(self, steps):
        return f"rate: {1 / steps:g}"

    def initial(self, W, generator):
        return random_like(W, generator)

    @property
    def source_of_B(self):
        return "an estimate of W after each update"

    def feedback_weights(self, W, stored):
        return stored

    def follow(self, W, stored, generator, update):
        estimate = W + self.noise * random_like(W, generator) if self.noise else W
        return stored + self.rate * (estimate - stored)
