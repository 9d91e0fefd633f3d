"""Weight mirror: feedback weights that learn from noise."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..validation import frozen
from .base import Method, random_like

Phi = Literal["relu", "tanh", "sigmoid", "identity"]


@frozen
class WeightMirror(Method):
    """In engaged mode δ travels through B (eq. 3), which stays fixed. In mirror mode the layers
    take turns: layer l fires noise y_l, layer l+1 responds, both signals reach the feedback path,
    and B learns by their product (eq. 7) with a slow decay::

        y_{l+1} = φ(W_{l+1} y_l + b_{l+1})
        ΔB_{l+1} = η_B δ_l δ_{l+1}ᵀ / (N σ² φ'_s) − λ_B B_{l+1},    δ_l = y_l,  δ_{l+1} = y_{l+1}

    summed over N noise samples. Dividing by N, by the noise's variance σ² and by φ'_s, the mean
    slope of the layer's units over the samples, makes the expected product W_{l+1}ᵀ itself (eq.
    11), so that with λ_B = η_B, B settles at unit gain; all three are known to the circuit, no
    weight is read. Mechanics in :mod:`wtkit.feedback`.

    Adds five hyper-parameters that matter: η_B, λ_B, σ, N and the mirror steps. Reference: Akrout
    et al. (2019), Sec. 4. The paper's values are not in its text; these defaults are ours.

    Attributes:
        mirror_lr: η_B, the weight of one mirror step's product; B averages over about 1/η_B steps.
        mirror_decay: λ_B; None for η_B, which gives unit gain.
        mirror_steps: mirror steps after each engaged phase.
        mirror_every: engaged steps between two mirror phases.
        mirror_before: mirror steps before training, averaged with weight max(λ_B, 1/t).
        noise: ``gaussian`` or ``uniform``, independent as in the paper; or ``orthogonal`` (ours):
            rows of a random orthonormal basis, each fired with both signs; many steps go through
            the basis once, then again.
        noise_std: σ of the noise, in units of the layer's input.
        noise_batch: noise samples a layer and mirror step, at least.
        noise_fraction: the same as a share of the layer's fan-in, where that is more.
        noise_size: height and width of the noise images that a convolution receives, in pixels;
            None for one patch of the kernel's size a sample, which no border biases.
        phi: φ of every layer but the last, in its response to noise.
        output_phi: φ of the last layer.
        bias_blocking: whether layers close off their bias in mirror mode (eq. 12).
    """

    label: ClassVar[str] = "WM"
    learns_mirror: ClassVar[bool] = True

    mirror_lr: Annotated[float, Field(gt=0, le=1)] = 0.01
    mirror_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    mirror_steps: Annotated[int, Field(ge=0)] = 1
    mirror_every: Annotated[int, Field(ge=1)] = 1
    mirror_before: Annotated[int, Field(ge=0)] = 100
    noise: Literal["gaussian", "uniform", "orthogonal"] = "gaussian"
    noise_std: Annotated[float, Field(gt=0)] = 1.0
    noise_batch: Annotated[int, Field(ge=2)] = 64
    noise_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    noise_size: Annotated[int, Field(ge=1)] | None = None
    phi: Phi = "relu"
    output_phi: Phi = "identity"
    bias_blocking: bool = False

    def __post_init__(self):
        if self.noise == "orthogonal" and self.noise_size is not None:
            raise ValueError(
                "orthogonal noise is made of patches; leave noise_size at None or "
                "choose gaussian noise"
            )

    @property
    def decay(self) -> float:
        """λ_B, per mirror step."""
        return self.mirror_lr if self.mirror_decay is None else self.mirror_decay

    def samples(self, fan_in: int) -> int:
        """N: noise samples a mirror step for a layer whose units have ``fan_in`` inputs.

        Orthogonal noise stays at half the fan-in or less, in pairs: a whole basis at once would
        read W exactly.
        """
        wanted = max(self.noise_batch, math.ceil(self.noise_fraction * fan_in))
        if self.noise == "orthogonal":
            return max(2, 2 * min(math.ceil(wanted / 2), fan_in // 4))
        return wanted

    def initial(self, W, generator):
        return random_like(W, generator)

    def feedback_weights(self, W, kept):
        return kept
