"""Engaged mode: the forward and backward pass of a layer, with δ through B in place of W.

:class:`Engaged` sends a layer's own δ. :class:`Direct` sends the output layer's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import WtkitError

_deltas_of_backprop = False


@contextlib.contextmanager
def deltas_of_backprop() -> Iterator[None]:
    """Within, the backward pass of every feedback layer sends δ through W, on a graph that is
    already there.

    The choice is made at backward time; a compiled backward has it burnt in, so measure on the
    uncompiled module.
    """
    global _deltas_of_backprop
    before, _deltas_of_backprop = _deltas_of_backprop, True
    try:
        yield
    finally:
        _deltas_of_backprop = before


class Engaged(torch.autograd.Function):
    """A layer in engaged mode: eq. 1 forward; backward, δ through B and the product δ yᵀ that W
    learns by.

    B may be None, for W. Of another precision than ``dtype``, W and B are cast as they are used, so
    that no second W waits for a backward pass that does without.
    """

    @staticmethod
    def forward(ctx, y, W, B, bias, maps, dtype):
        ctx.save_for_backward(y, W, B)
        ctx.maps, ctx.dtype = maps, dtype
        return maps.apply_weights(y, W.to(dtype), bias)

    @staticmethod
    def backward(ctx, delta):
        y, W, B = ctx.saved_tensors
        for_y, for_W, _, for_bias, *_ = ctx.needs_input_grad
        M = W if _deltas_of_backprop or B is None else B
        below, product, total = ctx.maps.backward(
            delta, y, M.to(ctx.dtype), (for_y, for_W, for_bias)
        )
        return below, None if product is None else product.to(W.dtype), None, total, None, None


class Direct(torch.autograd.Function):
    """A layer in engaged mode whose input is sent the output layer's δ, through B, in place of its
    own."""

    @staticmethod
    def forward(ctx, y, W, B, bias, maps, dtype, is_output):
        ctx.save_for_backward(y, W, B)
        ctx.maps, ctx.dtype, ctx.is_output = maps, dtype, is_output
        return maps.apply_weights(y, W.to(dtype), bias)

    @staticmethod
    def backward(ctx, delta):
        y, W, B = ctx.saved_tensors
        for_y, for_W, _, for_bias, *_ = ctx.needs_input_grad
        if ctx.is_output:
            _tell_error(delta)
        direct = for_y and not _deltas_of_backprop
        needs = for_y and not direct, for_W, for_bias
        below, product, total = ctx.maps.backward(delta, y, W.to(ctx.dtype), needs)
        if direct:
            error = _error(delta.device).to(ctx.dtype)
            below = ctx.maps.direct(error, y, B.to(ctx.dtype))
            if below.shape != y.shape:
                raise WtkitError(
                    f"direct feedback: the output layer's δ, {tuple(error.shape)}, does not fit "
                    f"the input of a layer, {tuple(y.shape)}; both need the same examples: leave "
                    "such layers on backprop, or take another method"
                )
        return (
            below,
            None if product is None else product.to(W.dtype),
            None,
            total,
            None,
            None,
            None,
        )


# What the backward pass of the output layer, which is run before those of the layers below it,
# tells them: its δ, by the number of the pass and by device, since each device has a thread.
output_deltas: dict[tuple[int, torch.device], Tensor] = {}


def _tell_error(delta: Tensor) -> None:
    key = torch._C._current_graph_task_id(), delta.device
    if output_deltas.pop(key, None) is not None:
        raise WtkitError(
            "direct feedback: two outputs in one backward pass, so that a layer cannot tell whose "
            "δ it is sent; call backward() once for each output"
        )
    output_deltas[key] = delta
    if len(output_deltas) > 64:  # passes that failed never came to their end
        output_deltas.pop(next(iter(output_deltas)))

    def forget() -> None:
        output_deltas.pop(key, None)

    torch.autograd.Variable._execution_engine.queue_callback(forget)  # at the end of the pass


def _error(device: torch.device) -> Tensor:
    error = output_deltas.get((torch._C._current_graph_task_id(), device))
    if error is None:
        raise WtkitError(
            "direct feedback: a layer was reached past the network's last layer, which has its δ "
            "to send; let the loss depend on that layer's output alone, and checkpoint with "
            "use_reentrant=False"
        )
    return error


def apply_direct(*arguments: Any) -> Tensor:
    """``Direct.apply`` as ``torch.compile`` may take it, whole: Dynamo refuses backward passes that
    tell each other something, though AOTAutograd, which just runs them, does not mind."""
    return Direct.apply(*arguments)
