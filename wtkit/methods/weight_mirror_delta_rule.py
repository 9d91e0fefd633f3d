"""Delta-rule mirror: feedback weights that learn to predict the response to noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from ..validation import frozen
from .base import Method, MirroredLayer, MirrorSchedule, random_like, white_noise

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class DeltaRuleMirror(Method):
    """In engaged mode δ passes through B (eq. 3), which stays fixed. In mirror mode layer l fires
    noise ξ, layer l+1 responds with r, and B learns to predict the response by the delta rule of
    Widrow and Hoff::

        r = W_{l+1} ξ,    ξ ~ N(0, 1)
        ΔB_{l+1}ᵀ = η / (N + K + 1) Σ_ξ (r − B_{l+1}ᵀ ξ) ξᵀ

    The sum is over N samples; K is the number of inputs of a neuron. For a constant W, each step
    reduces the expected squared mismatch by exactly this factor::

        E ‖W − Bᵀ‖² ← (1 − η (2 − η) N / (N + K + 1)) ‖W − Bᵀ‖²

    A weight mirror (:mod:`wtkit.methods.weight_mirror`) averages products of noise and response, so
    a sampling error remains. Here B learns from its prediction error, which vanishes at B = Wᵀ. In
    return, the feedback neurons must compare the response with their own prediction. The rule needs
    no decay and does not depend on the scale of the noise.

    The response is taken as linear, and biases are switched off (eq. 12), as for a small
    perturbation around a neuron's operating point. This is an idealisation.

    So the rule needs no phase of its own. Small noise can ride on the activities of all layers at
    once while the network runs in engaged mode, as in phaseless alignment learning (PAL; Max et
    al., 2024). ξ is then the fluctuation of layer l, which includes what comes from the layers
    below, and r that of layer l+1's summed input, as a high-pass filter passes them. Then r = W ξ
    still holds, and B = Wᵀ remains the fixed point. wtkit computes the limit of vanishing noise,
    with ξ white: the noise disturbs neither the activities nor what W learns. Departure from PAL:
    its B learns from the product of noise and response, with a decay.

    Adds three hyper-parameters that matter: η, N and the mirror steps. References: Widrow & Hoff,
    IRE WESCON Convention Record 4 (1960), for the rule; Akrout et al. (2019), Sec. 4, for mirror
    mode; Max et al., "Learning efficient backprojections across cortical hierarchies in real time",
    Nature Machine Intelligence 6 (2024), for mirrors without a phase. The combination, the step
    size and the defaults are ours.

    Attributes:
        rate: η; 1 reduces the mismatch fastest.
        samples: N, noise samples per layer and mirror step.
        steps: mirror steps in each mirror phase.
        every: engaged steps between two mirror phases.
        initial_steps: mirror steps before training.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "weight_mirror_delta_rule", seed=0)
        >>> wtkit.mirror(model, 50)
        >>> bool(wtkit.matrix_angles(model) < 0.1)
        True
    """

    label: ClassVar[str] = "DRM"
    learns_mirror: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    rate: Annotated[float, Field(gt=0, lt=2)] = 1.0
    samples: Annotated[int, Field(ge=1)] = 64
    steps: Annotated[int, Field(ge=0)] = 1
    every: Annotated[int, Field(ge=1)] = 1
    initial_steps: Annotated[int, Field(ge=0)] = 100

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
        noise = white_noise(layer, self.samples)
        return self.learn(layer, B, noise, layer.respond(noise))

    def learn(self, layer: MirroredLayer, B: Tensor, noise: Tensor, response: Tensor) -> Tensor:
        """B after a step of the delta rule, from any noise of variance 1 and the response to it.

        Shapes: noise (groups, samples of this process, inputs), response (groups, samples, outputs
        of a group). The step size is that of ``samples`` samples in all.
        """
        error = response - noise @ layer.matrices(B).mT
        product = layer.total((error.mT @ noise.to(error.dtype)).to(B.dtype))
        step_size = self.rate / (self.samples + layer.inputs + 1)
        layer.live(B).add_(product.reshape(layer.shape), alpha=step_size)
        return B
