"""Mirror mode: layers take turns to fire noise, and B learns from the response (Sec. 4).

How B learns is the method's decision (:meth:`wtkit.methods.Method.mirror_update`). This module
takes the mirror steps, and presents each layer to its method as a black box.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor, nn

from ..errors import WtkitError
from ..methods.base import MirroredLayer
from ..processes import ALONE, Share
from .convolution_maps import ConvMaps
from .layers import (
    FeedbackLayer,
    feedback_layers,
    refuse_without_values,
    share_of,
)
from .rows import from_rows, has_rows, rows
from .sharded import whole


@torch.no_grad()
def mirror(model: nn.Module, steps: int = 1, *, running_mean: bool = False) -> None:
    """Take ``steps`` mirror steps in every layer of ``model``, from the input up.

    Only B changes: no W, no BatchNorm statistic, no gradient, no global random stream. A layer's
    noise depends on its seed and on the number of mirror steps it has taken. So the model need not
    have seen an input, and a copy continues as the original would.

    Args:
        model: converted with a method that learns in mirror mode, such as ``"weight_mirror"``; may
            be wrapped by ``torch.compile`` or DistributedDataParallel. Under the latter, call it in
            every process: each takes its share of the noise samples, and B is the same in all of
            them and, to rounding, for any number of them.
        running_mean: use it before training. A weight mirror then averages over all steps of this
            call, with weight max(λ_B, 1/t) at step t, so that the initial B is gone after the first
            step and not after 1/λ_B steps.

    Raises:
        WtkitError: if no layer of the model learns in mirror mode, or ``steps`` is no number of
            steps.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(8, 2), "weight_mirror_delta_rule", seed=0)
        >>> wtkit.mirror(model, 100)
        >>> bool(wtkit.matrix_angles(model) < 1)
        True
    """
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 0:
        raise WtkitError(f"mirror: expected steps of 0 or more, got {steps!r}")
    layers = [
        layer
        for layer in feedback_layers(model, scales=True).values()
        if layer.method.learns_mirror
    ]
    if not layers:
        raise WtkitError(
            "mirror: no layer of this model learns in mirror mode; convert it: "
            "wtkit.convert(model, 'weight_mirror')"
        )
    refuse_without_values("mirror", {layer.sketch: layer for layer in layers})
    share = share_of(model)
    for step in range(1, steps + 1):
        for layer in layers:
            mirror_step(layer, running_mean_step=step if running_mean else None, share=share)


@torch.no_grad()
def mirror_step(
    layer: FeedbackLayer, running_mean_step: int | None = None, share: Share = ALONE
) -> None:
    """Take one mirror step in one layer.

    Args:
        running_mean_step: the number t = 1, 2, … of this step in a running mean, or None.
        share: the part of the noise samples that this process takes.
    """
    layer.settle()
    B = layer.feedback
    assert B is not None
    view = _Mirrored(layer, running_mean_step, share)
    if view.has_rows:
        updated = layer.method.mirror_update(view, B)
        if updated is not B:
            B.copy_(updated)  # in place: a backward pass may hold the buffer
    else:
        live = B[layer.taps]
        updated = layer.method.mirror_update(view, rows(layer.maps, live).clone())
        live.copy_(from_rows(layer.maps, updated, live))
    layer.mirror_count += 1


def noise_samples(layer: FeedbackLayer) -> int:
    """The noise samples that every neuron of ``layer`` responds to in a mirror step."""
    return layer.method.mirror_samples(as_mirrored(layer))


def as_mirrored(
    layer: FeedbackLayer, running_mean_step: int | None = None, share: Share = ALONE
) -> MirroredLayer:
    """``layer`` as its method sees it in mirror mode."""
    return _Mirrored(layer, running_mean_step, share)


class _Mirrored:
    """A feedback layer as a :class:`wtkit.methods.base.MirroredLayer`."""

    def __init__(self, layer: FeedbackLayer, running_mean_step: int | None, share: Share) -> None:
        self._W = whole(layer.weight)
        used = self._W[layer.taps]
        self._layer, self._share = layer, share
        maps = self._maps = layer.maps
        self.has_rows = has_rows(maps, self._W)
        # each neuron sees its own fan-in only: the groups of a convolution are separate matrices
        self._matrices = maps.matrices(used)
        self.groups, _, self.inputs = self._matrices.shape
        self.fan_in = self.inputs if used.shape == self._W.shape else layer.fan_in
        self.shape = used.shape if self.has_rows else self._matrices.flatten(0, 1).shape
        self.device = layer.weight.device
        # B may be stored in a higher precision than W
        self.dtype = layer.weight.dtype if layer.feedback is None else layer.feedback.dtype
        # no φ follows a scale, as none follows the output
        self.is_output, self.step = layer.is_output or layer.is_scale, layer.mirror_count
        bias = None if layer.bias is None else whole(layer.bias)
        self._bias = bias
        self.bias = None if bias is None else maps.biases(bias, used)
        self.running_mean_step = running_mean_step
        self.own_samples, self.processes = share.part, share.world
        self.in_channels, self.kernel_reach, self.stride = 0, (), ()
        if isinstance(maps, ConvMaps):
            self.in_channels, self.stride = maps.features(self._W)[0], maps.stride
            self.kernel_reach = tuple(
                d * (k - 1) + 1 for d, k in zip(maps.dilation, self._W.shape[2:], strict=True)
            )

    in_channels: int
    kernel_reach: tuple[int, ...]
    stride: tuple[int, ...]

    def stream(self, *key: object) -> torch.Generator:
        return self._layer.stream(*key)

    def respond(self, noise: Tensor) -> Tensor:
        return noise @ self._matrices.to(noise.dtype).mT

    def live(self, B: Tensor) -> Tensor:
        return B[self._layer.taps] if self.has_rows else B

    def matrices(self, B: Tensor) -> Tensor:
        return self.live(B).reshape(self.groups, -1, self.inputs)

    def total(self, tensor: Tensor) -> Tensor:
        return self._share.total(tensor)

    def respond_to_images(self, images: Tensor, *, with_bias: bool) -> Tensor:
        bias = self._bias if with_bias else None
        if self.dtype != self._W.dtype:
            bias = None if bias is None else bias.to(self.dtype)
        return self._image_maps.apply_weights(images, self._W.to(self.dtype), bias)

    def image_product(self, response: Tensor, images: Tensor) -> Tensor:
        dtype = response.dtype  # under autocast the response is narrower than the noise
        _, product, _ = self._image_maps.backward(
            response, images.to(dtype), self._W.to(dtype), (False, True, False)
        )
        assert product is not None
        return product

    @property
    def _image_maps(self) -> ConvMaps:
        assert isinstance(self._maps, ConvMaps)
        # no padding: it would bias the border
        return self._maps._replace(padding=(0,) * len(self._maps.padding))
