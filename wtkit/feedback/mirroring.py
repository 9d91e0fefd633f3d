"""Mirror mode: layers take turns to fire noise, and B learns W from the response (Sec. 4)."""

from __future__ import annotations

import functools
import math
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WtkitError
from ..methods import Method
from ..methods.weight_mirror import WeightMirror
from ..processes import ALONE, Share
from .layers import FeedbackConv2d, FeedbackLayer, feedback_layers, share_of
from .maps import ConvMaps


def learns_mirror(method: Method) -> TypeGuard[WeightMirror]:
    """Whether B learns in mirror mode; a method that says so has the options of
    :class:`WeightMirror`."""
    return method.learns_mirror


@torch.no_grad()
def mirror(model: nn.Module, steps: int = 1, *, settle: bool = False) -> None:
    """Take ``steps`` mirror steps in every layer of ``model``, from the input up.

    Nothing but B changes: no W, no BatchNorm statistic, no gradient, no global random stream. The
    noise of a layer is keyed by its seed and by the mirror steps that it has taken, so a model that
    has never seen an input will do, and a copy goes on as the original would.

    Args:
        model: converted with ``"weight_mirror"``; may be wrapped by ``torch.compile`` or
            DistributedDataParallel. Under the latter each process takes its share of the noise
            samples and the products are averaged, so that B is the same in all of them and, to
            rounding, for any number of them: call it in all.
        settle: average over all steps of this call, with weight max(λ_B, 1/t) at step t, as before
            training, so that the initial B is gone after the first step rather than after 1/λ_B
            steps.

    Raises:
        WtkitError: if no layer of the model learns in mirror mode, or ``steps`` is negative.
    """
    if steps < 0:
        raise WtkitError(f"mirror: expected a number of steps that is not negative, got {steps}")
    layers = [layer for layer in feedback_layers(model).values() if learns_mirror(layer.method)]
    if not layers:
        raise WtkitError(
            "mirror: no layer of this model learns in mirror mode; convert it: "
            "wtkit.convert(model, 'weight_mirror')"
        )
    share = share_of(model)
    for step in range(1, steps + 1):
        for layer in layers:
            mirror_step(layer, averaged=step if settle else None, share=share)


@torch.no_grad()
def mirror_step(layer: FeedbackLayer, averaged: int | None = None, share: Share = ALONE) -> None:
    """Eq. 7 with its decay, once, in one layer: B ← (1 − λ_B) B + η_B · :func:`hebbian`.

    Args:
        averaged: the number t of this step in a plain average: then both weights are at least 1/t.
        share: of the noise samples that this process takes.
    """
    method = _method(layer)
    least = 1 / averaged if averaged else 0.0
    B = layer.feedback
    assert B is not None
    product = hebbian(layer, share).to(B.dtype)
    B.mul_(1 - max(method.decay, least))
    learning = B if product.shape == B.shape else B[layer.taps]
    learning.add_(product, alpha=max(method.mirror_lr, least))
    layer.mirror_count += 1


def hebbian(layer: FeedbackLayer, share: Share = ALONE) -> Tensor:
    """The product of noise and response at unit gain, in W's shape: δ_{l+1} δ_lᵀ / (N σ² φ'_s), of
    expectation W.

    Of live taps alone, where :func:`wtkit.feedback.find_live_taps` found them: in the shape of
    ``W[layer.taps]``. B's other taps only decay.

    δ_l and δ_{l+1} are the noise and the response, which mirror mode copies into the feedback path
    (eq. 6). φ'_s is the mean of φ' over units and samples. Orthogonal noise fires each of its
    vectors with both signs. All processes of ``share`` draw the same N samples and take their part
    of them, so that a sample does not depend on who takes it.
    """
    method = _method(layer)
    W = layer.weight
    bias = None if method.bias_blocking else layer.bias
    phi = method.output_phi if layer.is_output else method.phi

    samples: int | Tensor
    if isinstance(layer, FeedbackConv2d) and method.noise_size is not None:
        # no padding: it would bias the border
        maps = ConvMaps(layer.stride, (0, 0), layer.dilation, layer.groups)
        noise = noise_images(layer, method.noise_size)[share.part]
        response = maps.apply_weights(noise, W, bias)
        samples = response.numel() // response.shape[1]
        response, slope = _respond(response, phi)
        like = response.dtype  # under autocast the response is narrower than the noise
        _, product, _ = maps.backward(response, noise.to(like), W.to(like), (False, True, False))
        assert product is not None
    else:
        # every unit sees its own fan-in only: groups of a convolution are as many separate matrices
        groups = getattr(layer, "groups", 1)
        used = W[layer.taps]
        weights = used.reshape(groups, -1, used[0].numel())  # (groups, out, fan_in)
        noise = noise_vectors(layer, groups)[:, share.part]  # (groups, samples, fan_in)
        if torch.is_autocast_enabled(noise.device.type):
            # once, rather than in each of two products
            noise = noise.to(torch.get_autocast_dtype(noise.device.type))
        drive = noise @ weights.mT  # (groups, samples, out)
        offset = 0 if bias is None else bias.reshape(groups, 1, -1)
        samples = noise.shape[1]
        if method.noise == "orthogonal":
            plus, slope_plus = _respond(drive + offset, phi)
            minus, slope_minus = _respond(offset - drive, phi)
            response, slope, samples = plus - minus, (slope_plus + slope_minus) / 2, 2 * samples
        else:
            response, slope = _respond(drive if bias is None else drive + offset, phi)
        product = (response.mT @ noise).reshape(used.shape)
    if share.world > 1:
        product, slope, samples = _of_all(share, product.to(W.dtype), slope, samples)
    # a layer that never fires has no slope to divide by, and then no product either
    return product.div_(samples * method.noise_std**2 * slope.clamp_min(1 / samples))


def _of_all(
    share: Share, product: Tensor, slope: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The product, mean slope and samples of all processes from those of each, in one exchange."""
    # a process that was left without samples has no mean
    fired = slope.to(product.dtype).nan_to_num() * samples
    packed = share.total(
        torch.cat([product.flatten(), fired.reshape(1), product.new_full((1,), samples)])
    )
    product = packed[:-2].view_as(product)
    return product, packed[-2] / packed[-1], packed[-1]


def _method(layer: FeedbackLayer) -> WeightMirror:
    assert learns_mirror(layer.method)
    return layer.method


def _respond(drive: Tensor, phi: str) -> tuple[Tensor, Tensor]:
    """φ of the summed input, and the mean of φ', which the units know from their own activity."""
    if phi == "relu":
        response = F.relu(drive)
        slope = response.sign()  # 1 where a unit fires
    elif phi == "tanh":
        response = drive.tanh()
        slope = 1 - response**2
    elif phi == "sigmoid":
        response = drive.sigmoid()
        slope = response * (1 - response)
    else:
        return drive, drive.new_ones(())
    return response, slope.mean()


def _draw(layer: FeedbackLayer, shape: tuple[int, ...]) -> Tensor:
    """Independent noise with mean 0 and variance σ²."""
    method = _method(layer)
    generator = layer.stream("noise", layer.mirror_count)
    noise = torch.empty(shape, dtype=layer.weight.dtype, device=layer.weight.device)
    if method.noise == "uniform":
        return noise.uniform_(-(3**0.5), 3**0.5, generator=generator).mul_(method.noise_std)
    return noise.normal_(0, method.noise_std, generator=generator)


def noise_images(layer: FeedbackConv2d, size: int) -> Tensor:
    """(images, in channels, size, size), as many images as give the method's samples."""
    return _draw(layer, (_images(layer, size)[0], layer.in_channels, size, size))


def _images(layer: FeedbackConv2d, size: int) -> tuple[int, int]:
    """How many noise images of ``size`` pixels a step takes, and the positions in each at which a
    unit responds."""
    method = _method(layer)
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if size < max(reach):
        raise WtkitError(
            f"option of weight_mirror 'noise_size': {size} pixels are less than the {max(reach)} "
            f"that a kernel of the network spans; use {max(reach)} or more, or null for patches"
        )
    positions = math.prod((size - r) // s + 1 for r, s in zip(reach, layer.stride, strict=True))
    return math.ceil(method.samples(layer.weight[0].numel()) / positions), positions


def noise_samples(layer: FeedbackLayer) -> int:
    """N: the noise samples that every unit of ``layer`` responds to in a mirror step."""
    method = _method(layer)
    if isinstance(layer, FeedbackConv2d) and method.noise_size is not None:
        return math.prod(_images(layer, method.noise_size))
    return method.samples(layer.weight[layer.taps][0].numel())


def noise_vectors(layer: FeedbackLayer, groups: int) -> Tensor:
    """(groups, samples, fan_in); of orthogonal noise half the samples, whose mirror images are the
    other half."""
    method = _method(layer)
    fan_in = layer.weight[layer.taps][0].numel()
    samples = method.samples(fan_in)
    if method.noise != "orthogonal":
        return _draw(layer, (groups, samples, fan_in))
    # A basis of the layer's own, the orthonormal DCT-II with the signs of its columns drawn at
    # random, and a random order of its rows: a block of them a step, then the same again, so that
    # no row waits longer than a cycle.
    blocks = math.ceil(fan_in / (samples // 2))
    block = layer.mirror_count % blocks
    generator = layer.stream("basis")
    device, dtype = layer.weight.device, layer.weight.dtype
    rows = torch.randperm(fan_in, generator=generator, device=device)[block::blocks]
    signs = (
        torch.randint(0, 2, (groups, 1, fan_in), generator=generator, device=device, dtype=dtype)
        * 2
        - 1
    )
    return cosines(fan_in, dtype, device).index_select(0, rows) * (
        signs * (method.noise_std * fan_in**0.5)
    )


@functools.lru_cache(maxsize=16)  # one a fan-in: to compute it takes longer than to use it
def cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal DCT-II matrix, whose rows are cosines of rising frequency: (size, size)."""
    # integers keep the phase exact; cos has the period 4·size in it
    phase = torch.outer(torch.arange(size), 2 * torch.arange(size) + 1) % (4 * size)
    table = torch.cos(
        torch.arange(4 * size, dtype=torch.float64) * (math.pi / (2 * size))
    ) * math.sqrt(2 / size)
    matrix = table.to(device, dtype)[phase.to(device)]
    matrix[0] = size**-0.5
    return matrix
