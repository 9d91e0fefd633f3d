"""Weight mirror: feedback weights that learn from noise."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from ..errors import WtkitError
from ..validation import frozen
from .base import Method, MirroredLayer, MirrorSchedule, random_like

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Phi = Literal["relu", "tanh", "sigmoid", "identity"]


@frozen
class WeightMirror(Method):
    """In engaged mode δ passes through B (eq. 3), which stays fixed. In mirror mode the layers take
    turns: layer l fires noise y_l, layer l+1 responds, both signals are copied into the feedback
    path (eq. 6), and B learns from their product (eq. 7) with a slow decay::

        y_{l+1} = φ(W_{l+1} y_l + b_{l+1})
        ΔB_{l+1} = η_B δ_l δ_{l+1}ᵀ / (N σ² φ'_s) − λ_B B_{l+1},    δ_l = y_l,  δ_{l+1} = y_{l+1}

    The product is summed over N noise samples. φ'_s is the mean slope of the layer's neurons over
    the samples. After the division by N, σ² and φ'_s, the expected product is W_{l+1}ᵀ itself (eq.
    11). So B settles at unit gain if λ_B = η_B. The circuit knows these three numbers; it reads no
    weight.

    Adds five hyper-parameters that matter: η_B, λ_B, σ, N and the mirror steps. Reference: Akrout
    et al. (2019), Sec. 4. The paper's text does not give their values; the defaults are ours.

    Attributes:
        mirror_lr: η_B, the weight of one mirror step's product; B averages over about 1/η_B steps.
        mirror_decay: λ_B; None means λ_B = η_B, which gives unit gain.
        mirror_steps: mirror steps after each engaged phase.
        mirror_every: engaged steps between two mirror phases.
        mirror_before: mirror steps before training, averaged with weight max(λ_B, 1/t).
        noise: ``gaussian`` or ``uniform``: independent samples, as in the paper; ``orthogonal``
            (ours): rows of a random orthonormal basis, each fired with both signs. Successive steps
            go through the whole basis, then start again.
        noise_std: σ of the noise, in units of the layer's input.
        noise_batch: the minimum number of noise samples per layer and mirror step.
        noise_fraction: the number of samples as a fraction of the layer's fan-in, if that is more.
        noise_size: the size of the noise images that a convolution receives, in pixels in each
            dimension. With None, each sample is one patch of the kernel's size, which has no border
            effects.
        phi: φ of every layer except the last, in its response to noise.
        output_phi: φ of the last layer.
        bias_blocking: whether layers switch off their bias in mirror mode (eq. 12).

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(20, 5), "weight_mirror", seed=0)
        >>> wtkit.mirror(model, 100, running_mean=True)
        >>> bool(wtkit.matrix_angles(model) < 15)
        True
    """

    label: ClassVar[str] = "WM"
    learns_mirror: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    mirror_lr: Annotated[float, Field(gt=0, le=1)] = 0.01
    mirror_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    mirror_steps: Annotated[int, Field(ge=0)] = 1
    mirror_every: Annotated[int, Field(ge=1)] = 1
    mirror_before: Annotated[int, Field(ge=0)] = 100
    noise: Literal["gaussian", "uniform", "orthogonal"] = "gaussian"
    noise_std: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    noise_batch: Annotated[int, Field(ge=2)] = 64
    noise_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    noise_size: Annotated[int, Field(ge=1)] | None = None
    phi: Phi = "relu"
    output_phi: Phi = "identity"
    bias_blocking: bool = False

    @field_validator("noise_std")
    @classmethod
    def _is_resolved(cls, value: float) -> float:
        if value < 1e-6:  # in float32 its square, by which the product is divided, vanishes
            raise ValueError(f"expected 1e-6 or more, got {value}")
        return value

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
        """N: noise samples in a mirror step of a layer whose neurons have ``fan_in`` inputs.

        Orthogonal noise comes in pairs and stays at half the fan-in or less: a whole basis in one
        step would read W exactly.
        """
        wanted = max(self.noise_batch, math.ceil(self.noise_fraction * fan_in))
        if self.noise == "orthogonal":
            return max(2, 2 * min(math.ceil(wanted / 2), fan_in // 4))
        return wanted

    def initial(self, W, generator):
        return random_like(W, generator)

    def feedback_weights(self, W, stored):
        return stored

    @property
    def mirror_schedule(self):
        return MirrorSchedule(self.mirror_before, self.mirror_every, self.mirror_steps)

    @property
    def lag(self):
        """1/λ_B mirror steps, in engaged steps."""
        rate = self.decay * self.mirror_steps
        return self.mirror_every / rate if rate else math.inf

    def setting_of_lag(self, steps):
        return f"a mirror_lr or mirror_steps so high that it averages over {steps:g}"

    def mirror_samples(self, layer):
        if self._fires_images(layer):
            return math.prod(self._images(layer))
        return self.samples(layer.inputs)

    def mirror_update(self, layer, B):
        """Eq. 7 with its decay: B ← (1 − λ_B) B + η_B · :meth:`hebbian`. In step t of a running
        mean both weights are at least 1/t. Weights that receive no noise only decay."""
        least = 1 / layer.running_mean_step if layer.running_mean_step else 0.0
        product = self.hebbian(layer).to(B.dtype)
        B.mul_(1 - max(self.decay, least))
        learning = B if product.shape == B.shape else layer.live(B)
        learning.add_(product, alpha=max(self.mirror_lr, least))
        return B

    def hebbian(self, layer: MirroredLayer) -> Tensor:
        """The product of noise and response at unit gain: δ_{l+1} δ_lᵀ / (N σ² φ'_s), with
        expectation W, in the shape ``layer.shape``.

        Every process draws the same N samples and takes its own part of them, so that a sample does
        not depend on which process takes it.
        """
        phi = self.output_phi if layer.is_output else self.phi
        multiply = self._image_product if self._fires_images(layer) else self._patch_product
        product, slope, own_samples = multiply(layer, phi)
        samples: int | Tensor = own_samples
        if layer.processes > 1:
            product, slope, samples = _of_all_processes(layer, product, slope, own_samples)
        # a layer that never fires has slope 0, and then its product is 0 as well
        return product.div_(samples * self.noise_std**2 * slope.clamp_min(1 / samples))

    def _patch_product(self, layer: MirroredLayer, phi: Phi) -> tuple[Tensor, Tensor, int]:
        """Σ response · noise, mean slope and number of samples, for vectors of noise."""
        import torch

        noise = self.noise_vectors(layer)[:, layer.own_samples]
        if torch.is_autocast_enabled(noise.device.type):
            # cast once, not in each of two products
            noise = noise.to(torch.get_autocast_dtype(noise.device.type))
        drive = layer.respond(noise)
        bias = None if self.bias_blocking else layer.bias
        samples = noise.shape[1]
        if self.noise == "orthogonal":
            offset = 0 if bias is None else bias
            plus, slope_plus = _response(drive + offset, phi)
            minus, slope_minus = _response(offset - drive, phi)
            response, slope, samples = plus - minus, (slope_plus + slope_minus) / 2, 2 * samples
        else:
            response, slope = _response(drive if bias is None else drive + bias, phi)
        return (response.mT @ noise).reshape(layer.shape), slope, samples

    def _image_product(self, layer: MirroredLayer, phi: Phi) -> tuple[Tensor, Tensor, int]:
        """The same for images of noise."""
        noise = self.noise_images(layer)[layer.own_samples]
        response = layer.respond_to_images(noise, with_bias=not self.bias_blocking)
        samples = response.numel() // response.shape[1]
        response, slope = _response(response, phi)
        return layer.image_product(response, noise), slope, samples

    def _fires_images(self, layer: MirroredLayer) -> bool:
        return self.noise_size is not None and bool(layer.kernel_reach)

    def _images(self, layer: MirroredLayer) -> tuple[int, int]:
        """The number of noise images in a step, and the positions in each at which a neuron
        responds."""
        size, reach = self.noise_size, layer.kernel_reach
        assert size is not None
        if size < max(reach):
            raise WtkitError(
                f"option of weight_mirror 'noise_size': {size} pixels are less than the "
                f"{max(reach)} that a kernel of the network spans; use {max(reach)} or more, or "
                "null for patches"
            )
        positions = math.prod((size - r) // s + 1 for r, s in zip(reach, layer.stride, strict=True))
        return math.ceil(self.samples(layer.fan_in) / positions), positions

    def noise_images(self, layer: MirroredLayer) -> Tensor:
        """Noise images, (images, channels, size, size) for a 2-d convolution."""
        size = self.noise_size
        assert size is not None
        shape = (size,) * len(layer.kernel_reach)
        return self._draw(layer, (self._images(layer)[0], layer.in_channels, *shape))

    def noise_vectors(self, layer: MirroredLayer) -> Tensor:
        """Noise vectors, (groups, samples, inputs). Orthogonal noise is half the samples; the other
        half are their negatives."""
        samples = self.samples(layer.inputs)
        if self.noise == "orthogonal":
            return self._orthogonal(layer, samples)
        return self._draw(layer, (layer.groups, samples, layer.inputs))

    def _draw(self, layer: MirroredLayer, shape: tuple[int, ...]) -> Tensor:
        """Independent noise with mean 0 and variance σ²."""
        import torch

        generator = layer.stream("noise", layer.step)
        noise = torch.empty(shape, dtype=layer.dtype, device=layer.device)
        if self.noise == "uniform":
            return noise.uniform_(-(3**0.5), 3**0.5, generator=generator).mul_(self.noise_std)
        return noise.normal_(0, self.noise_std, generator=generator)

    def _orthogonal(self, layer: MirroredLayer, samples: int) -> Tensor:
        """This step's block of the layer's own orthogonal basis.

        The basis is the orthonormal DCT-II with random signs of its columns and a random order of
        its rows. Each step takes one block of rows; after the last block the first comes again, so
        no row waits longer than one cycle.
        """
        import torch

        size, device, dtype = layer.inputs, layer.device, layer.dtype
        blocks = math.ceil(size / (samples // 2))
        block = layer.step % blocks
        generator = layer.stream("basis")
        rows = torch.randperm(size, generator=generator, device=device)[block::blocks]
        bits = torch.randint(
            0, 2, (layer.groups, 1, size), generator=generator, device=device, dtype=dtype
        )
        scale = (bits * 2 - 1) * (self.noise_std * size**0.5)
        basis = cosines(rows, size, dtype)
        return basis[None].mul_(scale) if layer.groups == 1 else basis * scale


def _response(drive: Tensor, phi: Phi) -> tuple[Tensor, Tensor]:
    """φ of the summed input, and the mean of φ', which neurons know from their own activity."""
    if phi == "relu":
        response = drive.relu()
        slope = response.sign()  # 1 where a neuron fires
    elif phi == "tanh":
        response = drive.tanh()
        slope = 1 - response**2
    elif phi == "sigmoid":
        response = drive.sigmoid()
        slope = response * (1 - response)
    else:
        return drive, drive.new_ones(())
    return response, slope.mean()


def _of_all_processes(
    layer: MirroredLayer, product: Tensor, slope: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The product, mean slope and samples of all processes together, in one exchange."""
    import torch

    product = product.to(layer.dtype)
    # a process without samples has no mean slope
    weighted = slope.to(product.dtype).nan_to_num() * samples
    packed = layer.total(
        torch.cat([product.flatten(), weighted.reshape(1), product.new_full((1,), int(samples))])
    )
    product = packed[:-2].view_as(product)
    return product, packed[-2] / packed[-1], packed[-1]


class Cosines:
    """Rows of orthonormal DCT-II matrices, whose rows are cosines of rising frequency.

    A matrix is kept for the next step, because computing it takes longer than using it, as long as
    all that are kept take up to ``LIMIT`` bytes. Where there is no room, only the rows that a step
    needs are computed. Room is made by matrices that were not used in the last ``RECENT`` calls:
    layers that take turns do not push each other out.
    """

    LIMIT = 2**29  # all of ResNet-50's take a quarter of it
    RECENT = 512
    AT_ONCE = 2**21  # elements whose phases are computed together

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, torch.dtype, torch.device], Tensor] = OrderedDict()
        self._used: dict[tuple[int, torch.dtype, torch.device], int] = {}
        self._calls = 0

    def __call__(self, rows: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        """The ``rows`` of the matrix (size, size), on their device."""
        import torch

        self._calls += 1
        key = size, dtype, rows.device
        if key not in self._kept:
            if not self._has_room(size**2 * dtype.itemsize):
                return self._computed(rows, size, dtype)
            every = torch.arange(size, device=rows.device)
            self._kept[key] = self._computed(every, size, dtype)
        self._kept.move_to_end(key)
        self._used[key] = self._calls
        return self._kept[key].index_select(0, rows)

    def _has_room(self, wanted: int) -> bool:
        """Whether ``wanted`` bytes more may be kept; drops matrices that are no longer used."""
        while wanted <= self.LIMIT < self.kept_bytes + wanted:
            oldest = next(iter(self._kept))
            if self._calls - self._used[oldest] <= self.RECENT:
                return False
            del self._kept[oldest], self._used[oldest]
        return wanted <= self.LIMIT

    @property
    def kept_bytes(self) -> int:
        return sum(matrix.nbytes for matrix in self._kept.values())

    def cache_clear(self) -> None:
        self._kept.clear()
        self._used.clear()

    def _computed(self, rows: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        import torch

        # integers keep the phase exact; cos has the period 4·size in it
        angles = torch.arange(4 * size, dtype=torch.float64) * (math.pi / (2 * size))
        table = (torch.cos(angles) * math.sqrt(2 / size)).to(rows.device, dtype)
        odd = 2 * torch.arange(size, device=rows.device) + 1
        found = torch.empty((len(rows), size), dtype=dtype, device=rows.device)
        together = max(1, self.AT_ONCE // size)
        for part, into in zip(rows.split(together), found.split(together), strict=True):
            into.copy_(table[torch.outer(part, odd) % (4 * size)])
        return found.masked_fill_((rows == 0)[:, None], size**-0.5)


cosines = Cosines()
