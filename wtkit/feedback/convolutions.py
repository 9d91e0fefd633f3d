"""Feedback layers for convolutions and transposed convolutions, in one to three dimensions."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .convolution_maps import ConvMaps, TransposedMaps
from .layers import FeedbackLayer, add_kind, of_one_precision
from .remembered import remembered


class _Positions(FeedbackLayer):
    """A layer for inputs (N, channels, *size), or one example without N."""

    @property
    def batch_dims(self) -> int:
        return self.weight.dim()


class FeedbackConv(_Positions, _ConvNd):
    """The common part of the convolutions. Shapes: y (N, in, *size) or (in, *size)."""

    @property
    def maps(self) -> ConvMaps:
        ends = tuple(self._reversed_padding_repeated_twice)
        return _geometry(self.stride, ends, self.padding_mode, self.dilation, self.groups)[0]

    def send(self, y: Tensor) -> Tensor:
        W = self.weight
        ends = tuple(self._reversed_padding_repeated_twice)
        maps, pads_first = _geometry(
            self.stride, ends, self.padding_mode, self.dilation, self.groups
        )
        if not of_one_precision(y, W) or not _fit(y.shape, W.shape, ends, maps):
            self.plain_forward(y)  # raises torch's own error
        if y.dim() < W.dim():  # one example without a batch dimension
            return self.send(y[None])[0]
        if pads_first:
            # non-zero or asymmetric padding is applied first; autograd handles it
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            y = F.pad(y, self._reversed_padding_repeated_twice, mode=mode)
        return self.engaged(y, maps=maps)


class FeedbackConv1d(FeedbackConv, nn.Conv1d):
    """``nn.Conv1d`` with a feedback path."""


class FeedbackConv2d(FeedbackConv, nn.Conv2d):
    """``nn.Conv2d`` with a feedback path."""


class FeedbackConv3d(FeedbackConv, nn.Conv3d):
    """``nn.Conv3d`` with a feedback path."""


class FeedbackConvTranspose(_Positions, _ConvTransposeNd):
    """The common part of the transposed convolutions. Shapes: y (N, in, *size) or (in, *size)."""

    @property
    def maps(self) -> TransposedMaps:
        padding = cast(tuple[int, ...], self.padding)  # transposed ones take no name of a padding
        return TransposedMaps(self.stride, padding, self.output_padding, self.dilation, self.groups)

    def send(self, y: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``output_size``: the size of the output, where the stride leaves a choice."""
        if y.dim() == self.weight.dim() - 1:  # one example without a batch dimension
            return self.send(y[None], output_size)[0]
        if output_size is None:
            return self.engaged(y)
        geometry: Any = self.stride, self.padding, self.kernel_size, self.dilation
        stride, padding, kernel, dilation = geometry  # tuples, though typed as lists
        output_padding = self._output_padding(
            y, output_size, stride, padding, kernel, self.weight.dim() - 2, dilation
        )
        return self.engaged(y, maps=self.maps._replace(output_padding=tuple(output_padding)))


class FeedbackConvTranspose1d(FeedbackConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with a feedback path."""


class FeedbackConvTranspose2d(FeedbackConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a feedback path."""


class FeedbackConvTranspose3d(FeedbackConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with a feedback path."""


@remembered
def _geometry(
    stride: tuple[int, ...],
    ends: tuple[int, ...],
    padding_mode: str,
    dilation: tuple[int, ...],
    groups: int,
) -> tuple[ConvMaps, bool]:
    """A convolution's maps, and whether its padding is more than theirs, which is zero and
    symmetric.

    Args:
        ends: the padding at both ends of each dimension, of the last dimension first.
    """
    pads_first = padding_mode != "zeros" or ends[::2] != ends[1::2]
    padding = (0,) * len(stride) if pads_first else ends[::-2]
    return ConvMaps(stride, padding, dilation, groups), pads_first


@remembered
def _fit(shape: torch.Size, of_W: torch.Size, ends: tuple[int, ...], maps: ConvMaps) -> bool:
    """Whether an input has a shape that the plain convolution accepts.

    The maps choose among several products, some of which only see the product of the sizes.
    """
    kernel = of_W[2:]
    if len(shape) - len(kernel) not in (1, 2):
        return False
    channels, *size = shape[-len(kernel) - 1 :]
    if channels != of_W[1] * maps.groups:
        return False
    for i, (n, k, d) in enumerate(zip(size, kernel, maps.dilation, strict=True), 1):
        if n == 0 or n + ends[-2 * i] + ends[-2 * i + 1] < d * (k - 1) + 1:
            return False
    return channels > 0


add_kind(nn.Conv1d, FeedbackConv1d)
add_kind(nn.Conv2d, FeedbackConv2d)
add_kind(nn.Conv3d, FeedbackConv3d)
add_kind(nn.ConvTranspose1d, FeedbackConvTranspose1d)
add_kind(nn.ConvTranspose2d, FeedbackConvTranspose2d)
add_kind(nn.ConvTranspose3d, FeedbackConvTranspose3d)
