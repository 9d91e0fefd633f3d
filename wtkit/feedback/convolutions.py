"""The feedback layers of convolutions, and of transposed ones, in one to three dimensions."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .convolution_maps import ConvMaps, TransposedMaps
from .layers import FeedbackLayer, add_kind, of_one_precision


class FeedbackConv(FeedbackLayer, _ConvNd):
    """What the convolutions have in common. Shapes: y (N, in, *size) or (in, *size)."""

    @property
    def maps(self) -> ConvMaps:
        return ConvMaps(self.stride, _padding_of_maps(self), self.dilation, self.groups)

    def send(self, y: Tensor) -> Tensor:
        if not self._fits(y):
            self.plain_forward(y)  # raises torch's own error
        if y.dim() < self.weight.dim():  # one example without a batch dimension
            return self.send(y[None])[0]
        if _pads_first(self):
            # non-zero or asymmetric padding is applied first; autograd handles it
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            y = F.pad(y, self._reversed_padding_repeated_twice, mode=mode)
        return self.engaged(y)

    def _fits(self, y: Tensor) -> bool:
        """Whether y has the shape and precision that the plain layer accepts.

        The maps choose among several products, some of which only see the product of the sizes.
        """
        W = self.weight
        kernel = W.shape[2:]
        if y.dim() - len(kernel) not in (1, 2):
            return False
        channels, *size = y.shape[-len(kernel) - 1 :]
        if channels != W.shape[1] * self.groups:
            return False
        if not of_one_precision(y, W):
            return False
        ends = self._reversed_padding_repeated_twice  # of the last dimension first
        for i, (n, k, d) in enumerate(zip(size, kernel, self.dilation, strict=True), 1):
            if n == 0 or n + ends[-2 * i] + ends[-2 * i + 1] < d * (k - 1) + 1:
                return False
        return channels > 0

    @property
    def batch_dims(self) -> int:
        return self.weight.dim()


class FeedbackConv1d(FeedbackConv, nn.Conv1d):
    """``nn.Conv1d`` with a feedback path."""


class FeedbackConv2d(FeedbackConv, nn.Conv2d):
    """``nn.Conv2d`` with a feedback path."""


class FeedbackConv3d(FeedbackConv, nn.Conv3d):
    """``nn.Conv3d`` with a feedback path."""


class FeedbackConvTranspose(FeedbackLayer, _ConvTransposeNd):
    """What the transposed convolutions have in common. Shapes: y (N, in, *size) or (in, *size)."""

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

    @property
    def batch_dims(self) -> int:
        return self.weight.dim()


class FeedbackConvTranspose1d(FeedbackConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with a feedback path."""


class FeedbackConvTranspose2d(FeedbackConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a feedback path."""


class FeedbackConvTranspose3d(FeedbackConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with a feedback path."""


def _pads_first(layer: _ConvNd) -> bool:
    """Whether the padding is more than the maps' own, which is zero and symmetric."""
    both = layer._reversed_padding_repeated_twice
    return layer.padding_mode != "zeros" or both[::2] != both[1::2]


def _padding_of_maps(layer: _ConvNd) -> tuple[int, ...]:
    both = layer._reversed_padding_repeated_twice
    return (0,) * (len(both) // 2) if _pads_first(layer) else tuple(both[::-2])


add_kind(nn.Conv1d, FeedbackConv1d)
add_kind(nn.Conv2d, FeedbackConv2d)
add_kind(nn.Conv3d, FeedbackConv3d)
add_kind(nn.ConvTranspose1d, FeedbackConvTranspose1d)
add_kind(nn.ConvTranspose2d, FeedbackConvTranspose2d)
add_kind(nn.ConvTranspose3d, FeedbackConvTranspose3d)
