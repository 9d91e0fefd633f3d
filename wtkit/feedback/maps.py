"""The three maps of a layer.

The paper's equations use three maps of a layer:

    W y      the forward path, eq. 1
    Mᵀ δ     the feedback path: eq. 2 with M = W, eq. 3 with M = B
    δ yᵀ     the product that W learns by, eqs. 4, 16 and 17

:class:`Maps` is what every kind of layer has to give. :class:`LinearMaps` has them for fully
connected layers, :class:`ConvMaps` for 2-d convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Taps = EllipsisType | tuple[slice, ...]
"""An index into the weights of a layer: all of them, or those of some of a kernel's taps."""


class Maps(Protocol):
    """The maps of one kind of layer, for weights W, or M in their place. Both have the shape of
    the layer's weight.

    The output is linear in y and in W, apart from the bias. Nothing here is differentiated by
    autograd.
    """

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        """W y + bias."""

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """(Mᵀ δ, δ yᵀ, Σ δ), in the shapes of y, M and the bias, each only if ``needs`` says so,
        else None."""

    def direct(self, output_delta: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e in y's shape, for the output layer's δ e. M has the shape (outputs of the network,
        inputs), with the inputs of :meth:`features`."""

    def direct_product(self, output_delta: Tensor, y: Tensor) -> Tensor:
        """e yᵀ, the product that the M of :meth:`direct` learns by, in its shape."""

    def matrices(self, W: Tensor) -> Tensor:
        """W as the matrices that the layer's neurons multiply by, (groups, outputs, inputs): one
        row for each neuron, with the weights of its inputs.

        Each entry of W appears once.
        """

    def features(self, W: Tensor) -> tuple[int, int]:
        """The features of y and of the output at one position: ``in_features`` or ``in_channels``
        of a layer, then ``out_features`` or ``out_channels``."""

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        """The part of W that a signal can pass if the input has y's size; ``...`` for all of it."""


class LinearMaps(NamedTuple):
    """The maps of a fully connected layer. Shapes: y (..., in), W and M (out, in), δ (..., out),
    bias (out,)."""

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        out = F.linear(y, W, bias)
        return out if y.dim() < 3 else _no_view(out, out.shape)

    def place(self, y: Tensor, W: Tensor) -> tuple[()] | None:
        return () if y.dim() > 1 else None

    def operand(self, M: Tensor, place: tuple[()]) -> Tensor:
        return M.t()

    def product(self, y: Tensor, operand: Tensor, bias: Tensor | None, place: tuple[()]) -> Tensor:
        rows = y if y.dim() == 2 else y.reshape(-1, y.shape[-1])
        out = rows.mm(operand) if bias is None else torch.addmm(bias, rows, operand)
        return out if y.dim() == 2 else _no_view(out, [*y.shape[:-1], out.shape[-1]])

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """(Mᵀ δ, δ yᵀ, Σ δ), each only if ``needs`` says so, else None."""
        rows = delta.reshape(-1, delta.shape[-1])
        return (
            delta @ M if needs[0] else None,
            rows.T @ y.reshape(-1, y.shape[-1]) if needs[1] else None,
            rows.sum(0) if needs[2] else None,
        )

    def direct(self, output_delta: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e in y's shape, for the output layer's δ e.

        If each example has one e and y has several positions, the signal is broadcast over the
        positions and divided by their number. Shapes: e (..., outputs), M (outputs, in).
        """
        signal = output_delta @ M
        if signal.dim() == 2 < y.dim() and len(signal) == len(y):
            positions = y.shape[1:-1]
            return (signal / positions.numel()).view(len(y), *[1] * len(positions), -1).expand_as(y)
        return signal

    def direct_product(self, output_delta: Tensor, y: Tensor) -> Tensor:
        """e yᵀ, the product that the M of :meth:`direct` learns by, (outputs, in).

        Where several positions of y share one e, y is averaged over them.
        """
        if output_delta.dim() == 2 < y.dim() and len(output_delta) == len(y):
            y = y.flatten(1, -2).mean(1)
        rows = output_delta.reshape(-1, output_delta.shape[-1])
        return rows.T @ y.reshape(-1, y.shape[-1])

    def matrices(self, W: Tensor) -> Tensor:
        """(1, out, in)."""
        return W[None]

    def features(self, W: Tensor) -> tuple[int, int]:
        return W.shape[1], W.shape[0]

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        return ...


class ConvMaps(NamedTuple):
    """The maps of a 2-d convolution with zero padding. Shapes: y (N, in, H, W), W and M (out,
    in/groups, kh, kw)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        taps, padding = self.taps(y, W)
        used = W[taps]
        seen = self.seen_at_once(y, used, padding)
        if seen is not None:
            rows = F.linear(_rows(y[seen]), _rows(used), bias)
            return _no_view(rows, [len(y), len(W), 1, 1])
        return self.product(y, used, bias, (taps, padding))

    def place(self, y: Tensor, W: Tensor) -> tuple[Taps, tuple[int, ...]] | None:
        taps, padding = self.taps(y, W)
        return (taps, padding) if self.seen_at_once(y, W[taps], padding) is None else None

    def operand(self, M: Tensor, place: tuple[Taps, tuple[int, ...]]) -> Tensor:
        return M if place[0] is ... else M[place[0]]

    def product(
        self,
        y: Tensor,
        operand: Tensor,
        bias: Tensor | None,
        place: tuple[Taps, tuple[int, ...]],
    ) -> Tensor:
        return F.conv2d(y, operand, bias, self.stride, place[1], self.dilation, self.groups)

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """(Mᵀ δ, δ yᵀ, Σ δ), each only if ``needs`` says so, in one call whatever M is."""
        taps, padding = self.taps(y, M)
        used = M[taps]
        seen = self.seen_at_once(y, used, padding)
        if seen is not None:
            below, product, total = LinearMaps().backward(
                delta.flatten(1), _rows(y[seen]), _rows(used), needs
            )
            size = used.shape[2:]
            below = None if below is None else _within(y, seen, _as_maps(below, size))
            if product is not None:
                # a 1×1 kernel's gradient needs the weight's own strides for
                # DistributedDataParallel
                product = (
                    product[..., None, None] if tuple(size) == (1, 1) else _as_maps(product, size)
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
                [0, 0],
                self.groups,
                list(needs),
            )
        return below, None if product is None else _within(M, taps, product), total

    def direct(self, output_delta: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e, broadcast over positions and divided by their number, as average pooling would send
        it.

        Shapes: e (N, outputs), or (N, outputs, H, W), which is summed over positions; M (outputs,
        in).
        """
        signal = _of_examples(output_delta) @ M
        return (signal / y.shape[2:].numel())[:, :, None, None].expand(-1, -1, *y.shape[2:])

    def direct_product(self, output_delta: Tensor, y: Tensor) -> Tensor:
        """e yᵀ, the product that the M of :meth:`direct` learns by, (outputs, in), with y averaged
        over positions."""
        return _of_examples(output_delta).T @ y.flatten(2).mean(2)

    def matrices(self, W: Tensor) -> Tensor:
        """(groups, out/groups, in/groups · taps): a neuron sees one patch at a time."""
        return W.reshape(self.groups, len(W) // self.groups, -1)

    def features(self, W: Tensor) -> tuple[int, int]:
        return W.shape[1] * self.groups, len(W)

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        return self.taps(y, W)[0]

    def seen_at_once(self, y: Tensor, W: Tensor, padding: tuple[int, ...]) -> Taps | None:
        """The part of y under the kernel if the output is a single position, else None.

        The convolution is then a matrix product, which takes a fifth of the time for small batches.
        """
        if self.groups > 1 or any(padding) or any(d > 1 for d in self.dilation):
            return None
        (rows, columns), (height, width) = W.shape[2:], y.shape[2:]
        if height - rows >= self.stride[0] or width - columns >= self.stride[1]:
            return None
        return slice(None), slice(None), slice(rows), slice(columns)

    def taps(self, y: Tensor, W: Tensor) -> tuple[Taps, tuple[int, ...]]:
        """The kernel's taps that touch y at all, and the padding to use with them.

        On a map smaller than the kernel (a 3×3 kernel on the 1×1 maps at the end of a ResNet) most
        taps only ever meet padding. Leaving them out changes no result and halves the time of a
        step on small images.
        """
        rows, top = _used_taps(
            y.shape[2], W.shape[2], self.stride[0], self.padding[0], self.dilation[0]
        )
        columns, left = _used_taps(
            y.shape[3], W.shape[3], self.stride[1], self.padding[1], self.dilation[1]
        )
        if rows == slice(0, W.shape[2]) and columns == slice(0, W.shape[3]):
            return ..., self.padding
        return (slice(None), slice(None), rows, columns), (top, left)


def _of_examples(output_delta: Tensor) -> Tensor:
    """The output layer's δ, (N, outputs): of a convolution summed over positions."""
    signal = output_delta.flatten(2).sum(2) if output_delta.dim() == 4 else output_delta
    return signal if signal.dim() > 1 else signal[None]  # of one example without a batch


def _no_view(result: Tensor, shape: Sequence[int]) -> Tensor:
    """``result`` in ``shape``, marked as a new tensor and not a view, so that an in-place ReLU may
    follow."""
    return torch.ops.aten._unsafe_view(result, shape)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H·W·C): the order in which a batch of images and a part of a kernel are
    copied fastest."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _as_maps(rows: Tensor, size: Sequence[int]) -> Tensor:
    """The inverse of :func:`_rows`, for maps of ``size``."""
    return rows.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)


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
