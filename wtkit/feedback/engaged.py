"""Engaged mode: the forward and backward pass of a layer, with δ through B in place of W.

:class:`Engaged` sends the layer's own δ. :class:`Direct` sends the output layer's.
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
    """Within this context, backward passes send δ through W, also on graphs built before it.

    Layers decide at backward time. A compiled backward pass fixes the decision when it is compiled,
    so measure on the uncompiled module.
    """
    global _deltas_of_backprop
    before, _deltas_of_backprop = _deltas_of_backprop, True
    try:
        yield
    finally:
        _deltas_of_backprop = before


class Engaged(torch.autograd.Function):
    """A layer in engaged mode. Forward: eq. 1. Backward: δ through B, and the product δ yᵀ that W
    learns by.

    B may be None, which stands for W. W and B are cast to ``dtype`` at use, so backward keeps no
    second copy of W it does not need.
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
        W_gradient = None if product is None else product.to(W.dtype)
        return below, W_gradient, None, total, None, None


class EngagedTransformed(Engaged):
    """The same for the transforms of ``torch.func``, such as gradients per example. PyTorch calls
    this form several times as slowly."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y, W, B, bias, maps, dtype):
        return maps.apply_weights(y, W.to(dtype), bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        y, W, B, _, ctx.maps, ctx.dtype = inputs
        ctx.save_for_backward(y, W, B)


def apply_engaged(*arguments: Any) -> Tensor:
    """A layer in engaged mode, under a transform of ``torch.func`` or none."""
    transformed = torch._C._are_functorch_transforms_active()
    return (EngagedTransformed if transformed else Engaged).apply(*arguments)


class Direct(torch.autograd.Function):
    """A layer in engaged mode that sends the output layer's δ e through B, not its own. A B that
    requires a gradient gets the product e yᵀ."""

    @staticmethod
    def forward(ctx, y, W, B, bias, maps, dtype, is_output):
        ctx.save_for_backward(y, W, B)
        ctx.maps, ctx.dtype, ctx.is_output = maps, dtype, is_output
        return maps.apply_weights(y, W.to(dtype), bias)

    @staticmethod
    def backward(ctx, delta):
        y, W, B = ctx.saved_tensors
        for_y, for_W, for_B, for_bias, *_ = ctx.needs_input_grad
        if ctx.is_output:
            _store_output_delta(ctx.maps.output_delta(delta))
        direct = for_y and not _deltas_of_backprop
        needs = for_y and not direct, for_W, for_bias
        below, product, total = ctx.maps.backward(delta, y, W.to(ctx.dtype), needs)
        B_gradient = None
        if direct or for_B:
            output_delta = _output_delta(delta.device).to(ctx.dtype)
            sent = ctx.maps.direct(output_delta, y, B.to(ctx.dtype))
            if sent.shape != y.shape:
                raise WtkitError(
                    f"direct feedback: the output layer's δ, {tuple(output_delta.shape)}, does not "
                    f"fit the input of a layer, {tuple(y.shape)}; both need the same examples: "
                    "keep such layers on backprop, or take another method"
                )
            below = sent if direct else below
            if for_B:
                B_gradient = ctx.maps.direct_product(output_delta, y).to(B.dtype)
        W_gradient = None if product is None else product.to(W.dtype)
        return below, W_gradient, B_gradient, total, None, None, None


output_deltas: dict[tuple[int, torch.device], Tensor] = {}
"""The output layer's δ, keyed by (backward pass, device): autograd runs one thread per device. The
output layer stores it; the layers below, whose backward passes run later, read it."""


def _store_output_delta(delta: Tensor) -> None:
    key = torch._C._current_graph_task_id(), delta.device
    if output_deltas.pop(key, None) is not None:
        raise WtkitError(
            "direct feedback: two outputs in one backward pass, so it is unclear whose δ a layer "
            "receives; call backward() once for each output"
        )
    output_deltas[key] = delta
    if len(output_deltas) > 64:  # left by passes that failed before their end
        output_deltas.pop(next(iter(output_deltas)))

    def forget() -> None:
        output_deltas.pop(key, None)

    torch.autograd.Variable._execution_engine.queue_callback(forget)  # at the end of the pass


def _output_delta(device: torch.device) -> Tensor:
    delta = output_deltas.get((torch._C._current_graph_task_id(), device))
    if delta is None:
        raise WtkitError(
            "direct feedback: the backward pass reached a layer without passing the network's last "
            "layer, whose δ is sent; let the loss depend on that layer's output alone, and use "
            "activation checkpointing with use_reentrant=False"
        )
    return delta


def apply_direct(*arguments: Any) -> Tensor:
    """``Direct.apply``, as one opaque call for ``torch.compile``.

    Dynamo refuses backward passes that share state; AOTAutograd only runs them, and accepts it.

    Raises:
        WtkitError: under a transform of ``torch.func``, which has no such state.
    """
    if torch._C._are_functorch_transforms_active():
        raise WtkitError(
            "direct feedback: torch.func's transforms (grad, vmap) do not carry the output layer's "
            "δ to the other layers; use backward(), or another method"
        )
    return Direct.apply(*arguments)
