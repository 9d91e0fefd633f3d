"""Information alignment: feedback weights that learn to reconstruct the layer below."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, MirrorSchedule, random_like, white_noise


@frozen
class InformationAlignment(Method):
    """In engaged mode δ passes through B (eq. 3), which stays fixed. In mirror mode layer l fires
    noise ξ, layer l+1 responds with r, and B descends the sum of three costs: "decay", "amp" and
    "null", with the weights λ, 1 and ν::

        r = W_{l+1} ξ,    ξ ~ N(0, 1)
        R = λ/2 ‖B‖² − ξᵀ B r + ν/(2v) ‖B r‖²,    v = mean of r² over neurons and samples
        ΔB_{l+1} = η_B (ξ rᵀ − λ B_{l+1} − (ν/v) B_{l+1} r rᵀ),    averaged over N samples

    Amp gives the weight mirror's product. Null makes B r a reconstruction of ξ and keeps B small
    where responses are large. For a constant W and many samples B settles at::

        B = Wᵀ (λ + (ν/v) W Wᵀ)⁻¹

    With ν = 0 that is Wᵀ/λ, which the weight mirror learns; with λ → 0 it is a multiple of W's
    pseudo-inverse. If the rows of W are orthogonal and of equal length, and λ + ν = 1, it is Wᵀ. If
    not all singular values of W are equal, an angle between B and Wᵀ remains, however long the
    mirror runs, because null weakens W's largest singular values. Sampling adds to this angle; it
    adds more if a neuron has more inputs.

    The step size is η_B = η / (λ + ν κ). κ is a bound on the largest eigenvalue of the mean of r
    rᵀ/v, computed from the responses. A step is then stable for every η below 2, whatever W is.

    Adds four hyper-parameters that matter: η, λ, ν and N. Reference: Kunin, Nayebi et al., ICML
    (2020), "Two routes to scalable credit assignment without weight symmetry", for the three costs.
    Departures: they use the activations of engaged mode; here noise and a linear response replace
    these (Akrout et al., 2019, Sec. 4). We divide null by v, and chose the step size and the
    defaults, so that nothing depends on the scale of W.

    Attributes:
        rate: η, the step size; below 2 it is stable.
        decay: λ, the weight of the cost of a large B.
        null: ν, the weight of the cost of a large B r; 0 is a weight mirror with Gaussian noise.
        samples: N, noise samples per layer and mirror step.
        steps: mirror steps in each mirror phase.
        every: engaged steps between two mirror phases.
        initial_steps: mirror steps before training.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "information_alignment", seed=0)
        >>> wtkit.mirror(model, 300)
        >>> bool(wtkit.matrix_angles(model) < 30)
        True
    """

    label: ClassVar[str] = "IA"
    learns_mirror: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    rate: Annotated[float, Field(gt=0, lt=2)] = 0.05
    decay: Annotated[float, Field(gt=0, le=1e6)] = 0.5
    null: Annotated[float, Field(ge=0, le=1e6)] = 0.5
    samples: Annotated[int, Field(ge=1)] = 128
    steps: Annotated[int, Field(ge=0)] = 1
    every: Annotated[int, Field(ge=1)] = 1
    initial_steps: Annotated[int, Field(ge=0)] = 200

    def initial(self, W, generator):
        return random_like(W, generator)

    def feedback_weights(self, W, stored):
        return stored

    @property
    def mirror_schedule(self):
        return MirrorSchedule(self.initial_steps, self.every, self.steps)

    def mirror_samples(self, layer):
        return self.samples

    def mirror_update(self, layer, B):
        import torch

        noise = white_noise(layer, self.samples)
        response = layer.respond(noise).to(B.dtype)
        amp = layer.total(response.mT @ noise.to(B.dtype)) / self.samples
        spread = layer.total(response.mT @ response)  # (groups, outputs, outputs), Σ r rᵀ
        size = spread.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]  # N v
        spread = spread / size.clamp_min(torch.finfo(B.dtype).tiny)
        largest = (spread @ spread).square().sum((-2, -1), keepdim=True) ** 0.25
        B_now = layer.matrices(B)
        change = amp - self.decay * B_now - self.null * (spread @ B_now)
        change *= self.rate / (self.decay + self.null * largest)
        layer.live(B).add_(change.reshape(layer.shape))
        return B
