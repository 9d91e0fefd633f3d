"""The three maps of a layer.

The paper's equations use three maps of a layer:

    W y      the forward path, eq. 1 Mᵀ δ     the feedback path: eq. 2 with M = W, eq. 3 with M = B
    δ yᵀ     the product that W learns from, eqs. 4, 16 and 17

:class:`Maps` is their interface; every kind of layer implements it. :class:`LinearMaps` has the
maps of fully connected layers, and :mod:`~wtkit.feedback.convolution_maps` has those of
convolutions. With :mod:`~wtkit.feedback.declared` users declare the maps of their own layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Taps = EllipsisType | tuple[slice, ...]
"""An index into the weights of a layer: all of them, or those of some of a kernel's taps."""


class Maps(Protocol):
    """The maps of one kind of layer, for the weights W, or for M in their place. Both have the
    shape of the layer's weight.

    Apart from the bias, the output is linear in y and in W. Autograd does not differentiate these
    functions.
    """

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        """W y + bias."""

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """(Mᵀ δ, δ yᵀ, Σ δ), in the shapes of y, M and the bias, each only if ``needs`` says so,
        else None."""

    def output_delta(self, delta: Tensor) -> Tensor:
        """The δ at this layer's output as :meth:`direct` of all layers gets it, if this is the
        output layer: features last, (..., outputs)."""

    def direct(self, output_delta: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e in y's shape, for the output layer's δ e. M has the shape (outputs of the network,
        inputs), with the inputs of :meth:`features`."""

    def direct_product(self, output_delta: Tensor, y: Tensor) -> Tensor:
        """e yᵀ, the product that the M of :meth:`direct` learns by, in its shape."""

    def matrices(self, W: Tensor) -> Tensor:
        """W as the matrices that the layer's neurons multiply by, (groups, outputs, inputs): one
        row for each neuron, with the weights of its inputs.

        Each entry of W appears once, unchanged.
        """

    def biases(self, bias: Tensor, W: Tensor) -> Tensor | None:
        """The biases of those neurons, (groups, 1, outputs); None if they are no function of
        ``bias``, and are then left out in mirror mode."""

    def features(self, W: Tensor) -> tuple[int, int]:
        """The features of y and of the output at one position: ``in_features`` or ``in_channels``
        of a layer, then ``out_features`` or ``out_channels``."""

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        """The part of W that a signal can pass if the input has y's size; ``...`` for all of it."""


class OneProduct(Maps, Protocol):
    """Maps whose W y is a single product of PyTorch, which saves W for its backward pass.

    Feedback layers put B in the place of the saved W, so they need no backward pass of their own.
    Autograd differentiates these functions.
    """

    def place(self, y: Tensor, W: Tensor) -> Any:
        """What :meth:`operand` and :meth:`product` need to know of the shapes; None if W y is
        something else than one product."""

    def operand(self, M: Tensor, place: Any) -> Tensor:
        """M as the product takes it and saves it: M itself, or a view."""

    def product(self, y: Tensor, operand: Tensor, bias: Tensor | None, place: Any) -> Tensor:
        """W y + bias, for W's operand."""


class FeaturesLast:
    """Direct feedback if the features are the last dimension of input and output."""

    __slots__ = ()

    def output_delta(self, delta: Tensor) -> Tensor:
        return delta

    def direct(self, output_delta: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e for y of shape (..., in).

        If each example has one e and y has several positions, the signal is broadcast over the
        positions and divided by their number. Shapes: e (..., outputs), M (outputs, in).
        """
        signal = output_delta @ M
        if signal.dim() == 2 < y.dim() and len(signal) == len(y):
            positions = y.shape[1:-1]
            return (signal / positions.numel()).view(len(y), *[1] * len(positions), -1).expand_as(y)
        return signal

    def direct_product(self, output_delta: Tensor, y: Tensor) -> Tensor:
        """e yᵀ of the same, (outputs, in). Where several positions of y share one e, y is averaged
        over them."""
        if output_delta.dim() == 2 < y.dim() and len(output_delta) == len(y):
            y = y.flatten(1, -2).mean(1)
        rows = output_delta.reshape(-1, output_delta.shape[-1])
        return rows.T @ y.reshape(-1, y.shape[-1])


class FeaturesFirst:
    """Direct feedback if input and output have the shape (N, features, ...)."""

    __slots__ = ()

    def output_delta(self, delta: Tensor) -> Tensor:
        """Summed over positions, (N, outputs)."""
        return delta.flatten(2).sum(2) if delta.dim() > 2 else delta

    def direct(self, output_delta: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e for y of shape (N, in, ...), broadcast over positions and divided by their number,
        as average pooling would send it.

        Shapes: e (N, outputs), or (N, ..., outputs), which is summed over positions; M (outputs,
        in).
        """
        signal = _of_examples(output_delta) @ M
        positions = y.shape[2:]
        signal = (signal / positions.numel()).view(*signal.shape, *[1] * len(positions))
        return signal.expand(-1, -1, *positions)

    def direct_product(self, output_delta: Tensor, y: Tensor) -> Tensor:
        """e yᵀ of the same, (outputs, in), with y averaged over positions."""
        return _of_examples(output_delta).T @ y.flatten(2).mean(2)


class _NoFields(NamedTuple):
    """A base without fields: torch.compile can trace maps that are NamedTuples."""


class LinearMaps(FeaturesLast, _NoFields):
    """The maps of a fully connected layer. Shapes: y (..., in), W and M (out, in), δ (..., out),
    bias (out,)."""

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        out = F.linear(y, W, bias)
        return out if y.dim() < 3 else no_view(out, out.shape)

    def place(self, y: Tensor, W: Tensor) -> tuple[()] | None:
        return () if y.dim() > 1 else None

    def operand(self, M: Tensor, place: tuple[()]) -> Tensor:
        return M.t()

    def product(self, y: Tensor, operand: Tensor, bias: Tensor | None, place: tuple[()]) -> Tensor:
        rows = y if y.dim() == 2 else y.reshape(-1, y.shape[-1])
        out = rows.mm(operand) if bias is None else torch.addmm(bias, rows, operand)
        return out if y.dim() == 2 else no_view(out, [*y.shape[:-1], out.shape[-1]])

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

    def matrices(self, W: Tensor) -> Tensor:
        """(1, out, in)."""
        return W[None]

    def biases(self, bias: Tensor, W: Tensor) -> Tensor:
        return bias[None, None]

    def features(self, W: Tensor) -> tuple[int, int]:
        return W.shape[1], W.shape[0]

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        return ...


def _of_examples(output_delta: Tensor) -> Tensor:
    """The output layer's δ, (N, outputs), summed over positions."""
    if output_delta.dim() == 1:  # of one example without a batch
        return output_delta[None]
    return output_delta.flatten(1, -2).sum(1) if output_delta.dim() > 2 else output_delta


def no_view(result: Tensor, shape: Sequence[int]) -> Tensor:
    """``result`` in ``shape``, marked as a new tensor and not a view, so that an in-place ReLU may
    follow."""
    return torch.ops.aten._unsafe_view(result, shape)
