"""Engaged mode: the forward and backward pass of a layer, with δ through B in place of W.

There are three ways to do so. With :class:`_Exchange`, PyTorch's own product finds B in the place
of the saved W; most layers use it in most passes. :class:`Engaged` writes out the same backward
pass, for layers that consist of several products or are compiled. :class:`Direct` sends the output
layer's δ, not the layer's own.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..errors import WtkitError
from .maps import Maps, OneProduct

_autograd: Any = torch._C._autograd

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
    learns from.

    If B is None, W is used. W and B are cast to ``dtype`` at use, so no unneeded second copy of W
    is kept for the backward pass.
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
    """The same for the transforms of ``torch.func``, such as gradients per example. Calls of this
    form are several times as slow in PyTorch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y, W, B, bias, maps, dtype):
        return maps.apply_weights(y, W.to(dtype), bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        y, W, B, _, ctx.maps, ctx.dtype = inputs
        ctx.save_for_backward(y, W, B)


def apply_engaged(
    y: Tensor, W: Tensor, B: Tensor | None, bias: Tensor | None, maps: Maps, dtype: torch.dtype
) -> Tensor:
    """A layer in engaged mode. B may be None, which stands for W."""
    if torch._C._are_functorch_transforms_active():
        return EngagedTransformed.apply(y, W, B, bias, maps, dtype)
    ask = getattr(maps, "place", None) if _may_exchange() else None
    place = None if ask is None else ask(y, W)
    if place is None:
        return Engaged.apply(y, W, B, bias, maps, dtype)
    maps = cast(OneProduct, maps)
    W_used = W if W.dtype == dtype else W.to(dtype)
    if B is None:
        return maps.product(y, maps.operand(W_used, place), bias, place)
    exchange = _Exchange(W, B, maps, place, dtype)
    exchange.operand = maps.operand(W_used, place)
    with saved_tensors_hooks(exchange.pack, exchange.unpack):
        out = maps.product(y, exchange.operand, bias, place)
    was_saved, exchange.operand = exchange.operand is None, None
    if was_saved or not y.requires_grad:
        return out
    return Engaged.apply(y, W, B, bias, maps, dtype)  # the product saved something else than W


_twice_differentiable = False


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within this context, layers record backward passes that can be differentiated again, with
    ``create_graph=True``. They cost more time."""
    global _twice_differentiable
    before, _twice_differentiable = _twice_differentiable, True
    try:
        yield
    finally:
        _twice_differentiable = before


def _may_exchange() -> bool:
    """Whether hooks on saved tensors may be used: activation checkpointing has its own."""
    return (
        not torch.compiler.is_compiling()
        and not _twice_differentiable
        and _autograd._saved_tensors_hooks_is_enabled()
        and _autograd._top_saved_tensors_default_hooks(True) is None
    )


class _Exchange:
    """Saves what PyTorch's own product needs for its backward pass, with B in place of W.

    The overhead is about half of that of :class:`Engaged`. PyTorch does not check whether tensors
    that hooks save were changed in place, so this class does. In a second derivative PyTorch would
    take B's part for W's, so second derivatives are refused.

    Attributes:
        operand: W in the form that the product takes, until the product saves it.
    """

    operand: Tensor | None = None

    def __init__(
        self, W: Tensor, B: Tensor, maps: OneProduct, place: Any, dtype: torch.dtype
    ) -> None:
        self.W, self.B, self.maps, self.place, self.dtype = W, B, maps, place, dtype
        self.versions = W._version, B._version

    def pack(self, saved: Tensor) -> tuple[Tensor | None, int]:
        if saved is not self.operand:
            return saved, saved._version
        self.operand = None  # no copy of W in another precision is kept
        return None, 0

    def unpack(self, kept: tuple[Tensor | None, int]) -> Tensor:
        saved, version = kept
        if saved is not None:
            return _unchanged(saved, version)
        of_W, of_B = self.versions
        if _deltas_of_backprop:
            M = _unchanged(self.W, of_W)
        else:
            _refuse_second_derivative()
            M = _unchanged(self.B, of_B)
        return self.maps.operand(M if M.dtype == self.dtype else M.to(self.dtype), self.place)


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise WtkitError(
            "create_graph=True differentiates a backward pass through feedback weights; run the "
            "forward pass inside wtkit.feedback.twice_differentiable()"
        )


def _unchanged(saved: Tensor, version: int) -> Tensor:
    """``saved``, if no operation in place has changed it since it had ``version``."""
    if saved._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: {type(saved).__name__} of shape {tuple(saved.shape)} is at version "
            f"{saved._version}; expected version {version} instead"
        )
    return saved


class Direct(torch.autograd.Function):
    """A layer in engaged mode that sends e, the output layer's δ, through B in place of its own δ.
    If B requires a gradient, it gets the product e yᵀ.

    ``is_clear`` says that the first dimension of y is that of the examples. Then an example's e
    belongs to all of its positions.
    """

    @staticmethod
    def forward(ctx, y, W, B, bias, maps, dtype, is_output, is_clear):
        ctx.save_for_backward(y, W, B)
        ctx.maps, ctx.dtype, ctx.is_output, ctx.is_clear = maps, dtype, is_output, is_clear
        return maps.apply_weights(y, W.to(dtype), bias)

    @staticmethod
    def backward(ctx, delta):
        y, W, B = ctx.saved_tensors
        for_y, for_W, for_B, for_bias, *_ = ctx.needs_input_grad
        if ctx.is_output:
            _store_output_delta(ctx.maps.output_delta(delta), ctx)
        direct = for_y and not _deltas_of_backprop
        needs = for_y and not direct, for_W, for_bias
        below, product, total = ctx.maps.backward(delta, y, W.to(ctx.dtype), needs)
        B_gradient = None
        if direct or for_B:
            output_delta = _output_delta(delta.device, ctx).to(ctx.dtype)
            if output_delta.dim() == 2 < y.dim() and not ctx.is_clear:
                raise WtkitError(
                    f"direct feedback: whether an input of shape {tuple(y.shape)} has examples or "
                    "positions first is unclear, since the model has a module with "
                    "batch_first=False; set batch_first=True, or take another method"
                )
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
        return below, W_gradient, B_gradient, total, None, None, None, None


output_deltas: dict[tuple[int, torch.device], tuple[Tensor, set[Any] | None]] = {}
"""The output layer's δ, keyed by (backward pass, device): autograd runs one thread per device. The
output layer stores it; the layers below, whose backward passes run later, read it. With it come the
nodes of the graph below the output layer, in the passes in which they are checked."""
CHECKED_EVERY = 16
"""Passes of which one is checked; before that, as many at the start of the program."""
_passes = itertools.count()


def _below(node: Any) -> set[Any] | None:
    """The nodes of autograd's graph that lead to ``node``, in a pass that is checked."""
    number = next(_passes)
    if torch.compiler.is_compiling() or (number > CHECKED_EVERY and number % CHECKED_EVERY):
        return None
    found, ahead = {node}, [node]
    while ahead:
        for other, _ in ahead.pop().next_functions:
            if other is not None and other not in found:
                found.add(other)
                ahead.append(other)
    return found


def _store_output_delta(delta: Tensor, node: Any) -> None:
    key = torch._C._current_graph_task_id(), delta.device
    if output_deltas.pop(key, None) is not None:
        raise WtkitError(
            "direct feedback: two outputs in one backward pass, so it is unclear whose δ a layer "
            "receives; call backward() once for each output"
        )
    output_deltas[key] = delta, _below(node)
    if len(output_deltas) > 64:  # left by passes that failed before their end
        output_deltas.pop(next(iter(output_deltas)))

    def forget() -> None:
        output_deltas.pop(key, None)

    torch.autograd.Variable._execution_engine.queue_callback(forget)  # at the end of the pass


def _output_delta(device: torch.device, node: Any) -> Tensor:
    found = output_deltas.get((torch._C._current_graph_task_id(), device))
    if found is None:
        raise WtkitError(
            "direct feedback: the backward pass reached a layer without passing the network's last "
            "layer, whose δ is sent; let the loss depend on that layer's output alone, and use "
            "activation checkpointing with use_reentrant=False"
        )
    delta, below = found
    if below is not None and node not in below:
        raise WtkitError(
            "direct feedback: the loss depends on a layer that does not lead to the network's last "
            "layer, as with two heads, so it is unclear whose δ the others receive; let the loss "
            "depend on the last layer's output alone"
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
