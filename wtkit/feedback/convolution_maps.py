"""The three maps of convolutions with zero padding, in one to three dimensions.

:class:`ConvMaps` has those of ``nn.Conv1d``, ``Conv2d`` and ``Conv3d``, :class:`TransposedMaps`
those of ``nn.ConvTranspose1d``, ``ConvTranspose2d`` and ``ConvTranspose3d``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .maps import FeaturesFirst, LinearMaps, Taps, no_view
from .remembered import remembered

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Convolution(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class _Transposed(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class ConvMaps(FeaturesFirst, _Convolution):
    """The maps of a convolution with zero padding. Shapes: y (N, in, *size), W and M (out,
    in/groups, *kernel). ``size``, ``kernel`` and the fields have one number per dimension."""

    __slots__ = ()

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        taps, padding = self.taps(y.shape[2:], W.shape[2:])
        used = W[taps]
        seen = self.seen_at_once(y.shape[2:], used.shape[2:], padding)
        if seen is not None:
            rows = F.linear(_rows(y[seen]), _rows(used), bias)
            return no_view(rows, [len(y), len(W), *[1] * len(padding)])
        return self.product(y, used, bias, (taps, padding))

    def place(self, y: Tensor, W: Tensor) -> tuple[Taps, tuple[int, ...]] | None:
        return _place(self, y.shape[2:], W.shape[2:])

    def operand(self, M: Tensor, place: tuple[Taps, tuple[int, ...]]) -> Tensor:
        return M if place[0] is ... else M[place[0]]

    def product(
        self, y: Tensor, operand: Tensor, bias: Tensor | None, place: tuple[Taps, tuple[int, ...]]
    ) -> Tensor:
        padding = place[1]
        convolve = _CONVOLUTION[len(padding)]
        return convolve(y, operand, bias, self.stride, padding, self.dilation, self.groups)

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """(Mᵀ δ, δ yᵀ, Σ δ), each only if ``needs`` says so, in one call whatever M is."""
        taps, padding = self.taps(y.shape[2:], M.shape[2:])
        used = M[taps]
        seen = self.seen_at_once(y.shape[2:], used.shape[2:], padding)
        if seen is not None:
            below, product, total = LinearMaps().backward(
                delta.flatten(1), _rows(y[seen]), _rows(used), needs
            )
            size = used.shape[2:]
            below = None if below is None else _within(y, seen, _as_maps(below, size))
            if product is not None:
                # the gradient of a kernel of one tap needs the weight's own strides for
                # DistributedDataParallel
                product = (
                    product[(..., *[None] * len(size))]
                    if size.numel() == 1
                    else _as_maps(product, size)
                )
        else:
            below, product, total = torch.ops.aten.convolution_backward(
                delta,
                y,
                used,
                [len(M)],
                self.stride,
                padding,
                self.dilation,
                False,
                [0] * len(padding),
                self.groups,
                list(needs),
            )
        return below, None if product is None else _within(M, taps, product), total

    def matrices(self, W: Tensor) -> Tensor:
        """(groups, out/groups, in/groups · taps): a neuron sees one patch at a time."""
        return W.reshape(self.groups, len(W) // self.groups, -1)

    def biases(self, bias: Tensor, W: Tensor) -> Tensor:
        return bias.reshape(self.groups, 1, -1)

    def features(self, W: Tensor) -> tuple[int, int]:
        return W.shape[1] * self.groups, len(W)

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        return self.taps(y.shape[2:], W.shape[2:])[0]

    def seen_at_once(
        self, size: Sequence[int], kernel: Sequence[int], padding: tuple[int, ...]
    ) -> Taps | None:
        """The part of y under the kernel if the output is a single position, else None.

        The convolution is then a matrix product, which takes a fifth of the time for small batches.
        """
        if self.groups > 1 or any(padding) or any(d > 1 for d in self.dilation):
            return None
        if any(n - k >= stride for n, k, stride in zip(size, kernel, self.stride, strict=True)):
            return None
        return slice(None), slice(None), *map(slice, kernel)

    def taps(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[Taps, tuple[int, ...]]:
        """The kernel's taps that touch y at all, and the padding to use with them.

        On a map smaller than the kernel (a 3×3 kernel on the 1×1 maps at the end of a ResNet) most
        taps only ever meet padding. Leaving them out changes no result and halves the time of a
        step on small images.
        """
        used = []
        is_whole = True
        for n, k, stride, padding, d in zip(
            size, kernel, self.stride, self.padding, self.dilation, strict=True
        ):
            reach = d * (k - 1)
            # the lowest tap meets y in the last output, and the highest one in the first
            if (n + 2 * padding - reach - 1) // stride * stride >= padding > reach - n:
                used.append((slice(0, k), padding))
            else:
                used.append(_used_taps(n, k, stride, padding, d))
                is_whole = is_whole and used[-1][0] == slice(0, k)
        if is_whole:
            return ..., self.padding
        slices, paddings = zip(*used, strict=True)
        return (slice(None), slice(None), *slices), paddings


@remembered
def _place(
    maps: ConvMaps, size: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[Taps, tuple[int, ...]] | None:
    """The taps and the padding of :meth:`ConvMaps.taps`; None if the output is a single
    position."""
    taps, padding = maps.taps(size, kernel)
    used = kernel if taps is ... else [part.stop - part.start for part in taps[2:]]
    return (taps, padding) if maps.seen_at_once(size, used, padding) is None else None


class TransposedMaps(FeaturesFirst, _Transposed):
    """The maps of a transposed convolution. Shapes: y (N, in, *size), W and M (in, out/groups,
    *kernel).

    Every position of y adds a patch of the kernel's size to the output: W y at that position. Where
    patches overlap, the output is their sum. So the layer's neurons are the pixels of one patch.
    Each has the in/groups inputs of one position. In mirror mode one position fires at a time.
    """

    __slots__ = ()

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.product(y, W, bias, ())

    def place(self, y: Tensor, W: Tensor) -> tuple[()]:
        return ()

    def operand(self, M: Tensor, place: tuple[()]) -> Tensor:
        return M

    def product(self, y: Tensor, operand: Tensor, bias: Tensor | None, place: tuple[()]) -> Tensor:
        stride, padding, output_padding, dilation, groups = self
        transposed = _TRANSPOSED[len(stride)]
        return transposed(y, operand, bias, stride, padding, output_padding, groups, dilation)

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        stride, padding, output_padding, dilation, groups = self
        outputs = [M.shape[1] * groups]
        return torch.ops.aten.convolution_backward(
            delta, y, M, outputs, stride, padding, dilation, True, output_padding, groups,
            list(needs),
        )  # fmt: skip

    def matrices(self, W: Tensor) -> Tensor:
        """(groups, out/groups · taps, in/groups)."""
        grouped = W.reshape(self.groups, len(W) // self.groups, *W.shape[1:])
        return grouped.flatten(2).mT

    def biases(self, bias: Tensor, W: Tensor) -> Tensor:
        """An output's bias for each of its taps."""
        return bias.reshape(self.groups, 1, -1).repeat_interleave(W.shape[2:].numel(), dim=2)

    def features(self, W: Tensor) -> tuple[int, int]:
        return len(W), W.shape[1] * self.groups

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        """The taps from the first to the last that reach an output: the padding of a transposed
        convolution cuts the border of the output away."""
        kernel = W.shape[2:]
        used = [
            _reaching_taps(*each)
            for each in zip(
                y.shape[2:], kernel, self.stride, self.padding, self.output_padding, self.dilation,
                strict=True,
            )
        ]  # fmt: skip
        if all(taps == slice(0, k) for taps, k in zip(used, kernel, strict=True)):
            return ...
        return slice(None), slice(None), *used


def _rows(maps: Tensor) -> Tensor:
    """(N, C, *size) as (N, size · C): the order in which a batch of images and a part of a kernel
    are copied fastest."""
    return maps.permute(0, *range(2, maps.dim()), 1).flatten(1)


def _as_maps(rows: Tensor, size: Sequence[int]) -> Tensor:
    """The inverse of :func:`_rows`, for maps of ``size``."""
    maps = rows.unflatten(1, (*size, -1))
    return maps.permute(0, -1, *range(1, maps.dim() - 1))


def _within(whole: Tensor, place: Taps, part: Tensor) -> Tensor:
    """Zeros in the shape of ``whole``, with ``part`` at ``place``."""
    if part.shape == whole.shape:
        return part
    zeros = torch.zeros_like(whole)
    try:
        zeros[place] = part
    except RuntimeError:  # under vmap `part` may have a dimension that `whole` has not
        zeros = part.new_zeros(whole.shape)
        zeros[place] = part
    return zeros


def _used_taps(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[slice, int]:
    """In one dimension, the range of a kernel's taps that meet any of ``size`` inputs, and the
    padding to use with it."""

    def outputs(taps: int, padding: int) -> int:
        return (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1

    wanted = outputs(kernel, padding)
    low, high = 0, kernel
    # the lowest tap meets padding even in the last output
    while low < kernel - 1 and (wanted - 1) * stride + low * dilation < padding:
        low += 1
    # the highest tap meets padding even in the first output
    while high > low + 1 and (high - 1) * dilation - padding >= size:
        high -= 1
    left = padding - low * dilation
    if left < 0 or outputs(high - low, left) != wanted:
        return slice(0, kernel), padding
    return slice(low, high), left


def _reaching_taps(
    size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int
) -> slice:
    """In one dimension of a transposed convolution, the range of its taps that reach any output
    from any of ``size`` inputs."""
    last = stride * (size - 1) + dilation * (kernel - 1) - 2 * padding + output_padding
    places = range(-padding, stride * size - padding, stride)  # of tap 0
    reaching = [
        tap for tap in range(kernel) if any(0 <= at + tap * dilation <= last for at in places)
    ]
    return slice(reaching[0], reaching[-1] + 1) if reaching else slice(0, kernel)
