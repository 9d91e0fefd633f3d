"""Layers whose error signal has a path of its own, and :func:`convert`, which gives them to any network.

A layer is three maps, and every equation of the paper is written with them:

    W y      the forward path, eq. 1
    Mᵀ δ     the feedback path: eq. 2 with M = W, eq. 3 with M = B
    δ yᵀ     the product that W learns by, eqs. 4, 16 and 17

:class:`LinearMaps` and :class:`ConvMaps` are these maps for the two kinds of layer; everything else is shared.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from types import EllipsisType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from . import methods
from .errors import WtkitError
from .methods import Method
from .methods.base import initial_scale
from .parallel import ALONE, Share
from .settings import nearest

# --------------------------------------------------------------------------------------------------- the three maps


class LinearMaps(NamedTuple):
    """The maps of a fully connected layer. Shapes: y (..., in), W and M (out, in), δ (..., out), bias (out,)."""

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        out = F.linear(y, W, bias)
        return out if y.dim() < 3 else _no_view(out, out.shape)

    def backward(self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]) -> Sequence[Tensor | None]:
        """(Mᵀ δ, δ yᵀ, Σ δ), each where ``needs`` asks for it."""
        rows = delta.reshape(-1, delta.shape[-1])
        return (
            delta @ M if needs[0] else None,
            rows.T @ y.reshape(-1, y.shape[-1]) if needs[1] else None,
            rows.sum(0) if needs[2] else None,
        )

    def direct(self, error: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e, in the shape of y, for the output layer's δ: error (..., outputs), M (outputs, in).

        Where each example has one error and y several positions, the same at all and divided by their number.
        """
        signal = error @ M
        if signal.dim() == 2 < y.dim() and len(signal) == len(y):
            positions = y.shape[1:-1]
            return (signal / positions.numel()).view(len(y), *[1] * len(positions), -1).expand_as(y)
        return signal


Taps = EllipsisType | tuple[slice, ...]
"""An index into the weights of a layer: all of them, or those of some of a kernel's taps."""


class ConvMaps(NamedTuple):
    """The maps of a 2-d convolution with zero padding. Shapes: y (N, in, H, W), W and M (out, in/groups, kh, kw)."""

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
        return F.conv2d(y, used, bias, self.stride, padding, self.dilation, self.groups)

    def backward(self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]) -> Sequence[Tensor | None]:
        """(Mᵀ δ, δ yᵀ, Σ δ), each where ``needs`` asks for it: one call, whatever M is."""
        taps, padding = self.taps(y, M)
        used = M[taps]
        seen = self.seen_at_once(y, used, padding)
        if seen is not None:
            below, product, total = LinearMaps().backward(delta.flatten(1), _rows(y[seen]), _rows(used), needs)
            size = used.shape[2:]
            below = None if below is None else _within(y, seen, _maps(below, size))
            if product is not None:
                # of a 1×1 kernel with a weight's own strides, which DistributedDataParallel asks for
                product = product[..., None, None] if tuple(size) == (1, 1) else _maps(product, size)
        else:
            below, product, total = torch.ops.aten.convolution_backward(
                delta, y, used, [len(M)], self.stride, padding, self.dilation, False, [0, 0], self.groups, list(needs)
            )
        return below, None if product is None else _within(M, taps, product), total

    def direct(self, error: Tensor, y: Tensor, M: Tensor) -> Tensor:
        """Mᵀ e, the same at every position and divided by their number, as pooling over them would send it.

        Shapes: error (N, outputs), or (N, outputs, H, W), then summed over positions; M (outputs, in).
        """
        signal = error.flatten(2).sum(2) if error.dim() == 4 else error
        return (signal @ M / y[0, 0].numel())[:, :, None, None].expand(-1, -1, *y.shape[2:])

    def seen_at_once(self, y: Tensor, W: Tensor, padding: tuple[int, ...]) -> Taps | None:
        """The part of y that the kernel meets where the whole output is one position; None where there are more.

        Then the convolution is a matrix product, in which small batches take a fifth of the time.
        """
        if self.groups > 1 or any(padding) or any(d > 1 for d in self.dilation):
            return None
        (rows, columns), (height, width) = W.shape[2:], y.shape[2:]
        if height - rows >= self.stride[0] or width - columns >= self.stride[1]:
            return None
        return slice(None), slice(None), slice(rows), slice(columns)

    def taps(self, y: Tensor, W: Tensor) -> tuple[Taps, tuple[int, ...]]:
        """The kernel's taps that touch y at all, and the padding left for them.

        On a map smaller than the kernel (a 3×3 kernel on the 1×1 maps at the end of a ResNet) most taps only ever
        meet padding. To leave them out changes no result, and halves the time of a step on small images.
        """
        rows, top = _used_taps(y.shape[2], W.shape[2], self.stride[0], self.padding[0], self.dilation[0])
        columns, left = _used_taps(y.shape[3], W.shape[3], self.stride[1], self.padding[1], self.dilation[1])
        if rows == slice(0, W.shape[2]) and columns == slice(0, W.shape[3]):
            return ..., self.padding
        return (slice(None), slice(None), rows, columns), (top, left)


def _no_view(result: Tensor, shape: Sequence[int]) -> Tensor:
    """``result`` in ``shape``, as a tensor of its own and no view of another, so that an in-place ReLU may follow."""
    return torch.ops.aten._unsafe_view(result, shape)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H·W·C): the order in which a batch of images and a part of a kernel are copied fastest."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _maps(rows: Tensor, size: Sequence[int]) -> Tensor:
    """:func:`_rows` undone, for maps of ``size``."""
    return rows.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)


def _within(whole: Tensor, place: Taps, part: Tensor) -> Tensor:
    """``part`` at its ``place`` in zeros of the shape of ``whole``."""
    if part.shape == whole.shape:
        return part
    zeros = torch.zeros_like(whole)
    zeros[place] = part
    return zeros


def _used_taps(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[slice, int]:
    """The range of a kernel's taps that meet ``size`` inputs, in one dimension, and the padding to use with it."""

    def outputs(taps: int, padding: int) -> int:
        return (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1

    wanted = outputs(kernel, padding)
    low, high = 0, kernel
    while low < kernel - 1 and (wanted - 1) * stride + low * dilation < padding:  # even the last output starts below 0
        low += 1
    while high > low + 1 and (high - 1) * dilation - padding >= size:  # even the first output reaches past the end
        high -= 1
    left = padding - low * dilation
    if left < 0 or outputs(high - low, left) != wanted:
        return slice(0, kernel), padding
    return slice(low, high), left


# ---------------------------------------------------------------------------------------------------- engaged mode

_deltas_of_backprop = False


@contextlib.contextmanager
def deltas_of_backprop() -> Iterator[None]:
    """Within, the backward pass of every feedback layer sends δ through W, on a graph that is already there.

    The choice is made at backward time; a compiled backward has it burnt in, so measure on the uncompiled module.
    """
    global _deltas_of_backprop
    before, _deltas_of_backprop = _deltas_of_backprop, True
    try:
        yield
    finally:
        _deltas_of_backprop = before


class Engaged(torch.autograd.Function):
    """A layer in engaged mode: eq. 1 forward; backward, δ through B and the product δ yᵀ that W learns by.

    B may be None, for W. Of another precision than ``dtype``, W and B are cast as they are used, so that no second W
    waits for a backward pass that does without.
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
        below, product, total = ctx.maps.backward(delta, y, M.to(ctx.dtype), (for_y, for_W, for_bias))
        return below, None if product is None else product.to(W.dtype), None, total, None, None


class Direct(torch.autograd.Function):
    """A layer in engaged mode whose input is sent the output layer's δ, through B, in place of its own."""

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
                    f"direct feedback: the output layer's δ, {tuple(error.shape)}, does not fit the input of a layer, "
                    f"{tuple(y.shape)}; both need the same examples: leave such layers on backprop, or take another "
                    f"method"
                )
        return below, None if product is None else product.to(W.dtype), None, total, None, None, None


# What the backward pass of the output layer, which is run before those of the layers below it, tells them: its δ, by
# the number of the pass and by device, since each device has a thread.
_errors: dict[tuple[int, torch.device], Tensor] = {}


def _tell_error(delta: Tensor) -> None:
    key = torch._C._current_graph_task_id(), delta.device
    if _errors.pop(key, None) is not None:
        raise WtkitError(
            "direct feedback: two outputs in one backward pass, so that a layer cannot tell whose δ it is sent; "
            "call backward() once for each output"
        )
    _errors[key] = delta
    if len(_errors) > 64:  # passes that failed never came to their end
        _errors.pop(next(iter(_errors)))

    def forget() -> None:
        _errors.pop(key, None)

    torch.autograd.Variable._execution_engine.queue_callback(forget)  # at the end of the pass


def _error(device: torch.device) -> Tensor:
    error = _errors.get((torch._C._current_graph_task_id(), device))
    if error is None:
        raise WtkitError(
            "direct feedback: a layer was reached past the network's last layer, which has its δ to send; let the loss "
            "depend on that layer's output alone, and checkpoint with use_reentrant=False"
        )
    return error


def _direct(*arguments: Any) -> Tensor:
    """``Direct.apply`` as ``torch.compile`` may take it, whole: Dynamo refuses backward passes that tell each other
    something, though AOTAutograd, which just runs them, does not mind."""
    return Direct.apply(*arguments)


class FeedbackLayer(nn.Module):
    """What the two kinds of layer share. Made by :func:`convert`, never by a constructor.

    Attributes:
        method: the :class:`~wtkit.methods.Method` that it follows.
        feedback: what the method keeps for the feedback path: a parameter where B learns in engaged mode, which asks
            for no gradient since it is handed W's as an optimizer steps, otherwise a buffer, or None.
        is_output: whether it is the network's last layer.
        mirror_count: mirror steps taken so far, by which its noise is keyed.
        update_count: updates of W that its method has followed or set B apart in, by which what is drawn for them is
            keyed.
        taps: the part of ``weight`` that a signal can pass, as :func:`wtkit.angles.find_live_taps` found it; else all.
    """

    method: Method
    feedback: Tensor | None
    weight: Tensor
    bias: Tensor | None
    is_output: bool
    seed: int
    mirror_count: int
    update_count: int
    taps: Taps

    @property
    def B(self) -> Tensor | None:
        """What δ travels through, in the shape of ``weight``: for backprop ``weight`` itself.

        None where nothing is sent back; where the output layer's δ comes directly, (outputs, inputs of the layer).
        """
        return self.method.feedback_weights(self.weight, self.feedback)

    def stream(self, *key: object) -> torch.Generator:
        """The layer's random stream under ``key``, on the layer's device, apart from every other stream."""
        return torch.Generator(self.weight.device).manual_seed(stream_seed(self.seed, *key))

    @property
    @abstractmethod
    def maps(self) -> LinearMaps | ConvMaps:
        """The layer's three maps."""

    def engaged(self, y: Tensor) -> Tensor:
        """Eq. 1, recorded so that the backward pass follows the method. y in the layer's own input shape."""
        W, bias, through = self.weight, self.bias, self.B
        kept = through is self.feedback
        if through is None:  # δ ends here
            y, through = y.detach(), W
        B = None if through is W else through.detach()  # None for W itself
        device = y.device.type
        if not torch.is_autocast_enabled(device):
            return self._apply_engaged(y, W, B, bias, W.dtype)
        dtype = torch.get_autocast_dtype(device)
        y = y.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        # what δ travels through waits for it in this precision, unless it is there anyway, as a B that is kept
        if B is None:
            W = W.to(dtype)
        elif not kept:
            B = B.to(dtype)
        with torch.autocast(device, enabled=False):
            return self._apply_engaged(y, W, B, bias, dtype)

    def _apply_engaged(self, y: Tensor, W: Tensor, B: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        if self.method.direct:
            return _direct(y, W, B, bias, self.maps, dtype, self.is_output)
        return Engaged.apply(y, W, B, bias, self.maps, dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, method={self.method.name}"

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        # a plain checkpoint says nothing of the feedback path, which then stays as it is
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        with contextlib.suppress(ValueError):
            missing.remove(f"{prefix}feedback")

    def __setstate__(self, state):  # reached by copy.deepcopy and by unpickling
        super().__setstate__(state)
        _watch(self)


class FeedbackLinear(FeedbackLayer, nn.Linear):  # type: ignore[misc]  # torch says its bias is never None
    """``nn.Linear`` with a feedback path of its own."""

    @property
    def maps(self) -> LinearMaps:
        return LinearMaps()

    def forward(self, y: Tensor) -> Tensor:
        return self.engaged(y) if torch.is_grad_enabled() else super().forward(y)


class FeedbackConv2d(FeedbackLayer, nn.Conv2d):
    """``nn.Conv2d`` with a feedback path of its own."""

    @property
    def maps(self) -> ConvMaps:
        padding = (0, 0) if self._pads_first else self._symmetric_padding
        return ConvMaps(self.stride, padding, self.dilation, self.groups)

    def forward(self, y: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(y)
        if y.dim() == 3:  # one image without a batch dimension
            return self.forward(y[None])[0]
        if self._pads_first:
            # values that are not zero, or unequal ends, are no part of the convolution: autograd sends δ past them
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            y = F.pad(y, self._reversed_padding_repeated_twice, mode=mode)
        return self.engaged(y)

    @property
    def _ends(self) -> tuple[int, ...]:
        left, right, top, bottom = self._reversed_padding_repeated_twice
        return top, bottom, left, right

    @property
    def _symmetric_padding(self) -> tuple[int, int]:
        return self._ends[0], self._ends[2]

    @property
    def _pads_first(self) -> bool:
        top, bottom, left, right = self._ends
        return self.padding_mode != "zeros" or top != bottom or left != right


TWINS: dict[type[nn.Module], type[FeedbackLayer]] = {nn.Linear: FeedbackLinear, nn.Conv2d: FeedbackConv2d}
PLAIN = {twin: plain for plain, twin in TWINS.items()}

# ------------------------------------------------------------------------------------- B and W in one optimizer

_learning: weakref.WeakSet[FeedbackLayer] = weakref.WeakSet()
_following: weakref.WeakSet[FeedbackLayer] = weakref.WeakSet()


def _watch(layer: FeedbackLayer) -> None:
    """Have every optimizer's step treat B of ``layer`` as it treats W, or be followed by it, if the method says so."""
    method = getattr(layer, "method", None)
    if method is not None and method.learns_engaged:
        _learning.add(layer)
    if method is not None and method.follows:
        _following.add(layer)
    if method is not None and method.direct:
        torch.compiler.allow_in_graph(_direct)  # not at the top: it takes seconds


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """Hand W's gradient to B, or have a closure that computes gradients followed by that."""
    if not _learning:
        return None
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer
    if closure is None:
        _hand_over(optimizer)
        return None

    def closure_then_hand_over() -> Any:
        loss = closure()
        _hand_over(optimizer)
        return loss

    return args[:1], {**kwargs, "closure": closure_then_hand_over}


def _hand_over(optimizer: torch.optim.Optimizer) -> None:
    """Eq. 18: what W learns by is what B learns by, once all that is done to a gradient before a step is done.

    By then it is clipped, unscaled, and averaged over processes, none of which need then be done for B.
    """
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for layer in list(_learning):
        W, B = layer.weight, layer.feedback
        if B is None or W.grad is None or not ({id(W), id(B)} & group_of.keys()):
            continue
        _refuse_unequal(layer, group_of.get(id(W)), group_of.get(id(B)))
        if layer.method.apart:
            B.grad = _set_apart(layer, optimizer, group_of[id(B)])
        else:
            B.grad = W.grad if _only_reads_gradients(optimizer) else W.grad.clone()


def _set_apart(layer: FeedbackLayer, optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Tensor:
    """What B is handed where its method sets it apart from W."""
    if type(optimizer) is not torch.optim.SGD:
        raise WtkitError(
            f"{layer.method.name}: these options set B apart from W, which only torch.optim.SGD does exactly, got "
            f"{type(optimizer).__name__}; take SGD, or leave all options but 'scale' at their defaults"
        )
    decay = -group["weight_decay"] if group["maximize"] else group["weight_decay"]
    scale = getattr(optimizer, "grad_scale", None)  # by which the step has yet to divide what it is handed
    layer.update_count += 1
    gradient, stream = layer.weight.grad, layer.stream("update", layer.update_count)
    assert gradient is not None and layer.feedback is not None
    return layer.method.handed(gradient, layer.feedback, decay if scale is None else decay * scale, stream)


def _only_reads_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether W and B may hold one and the same gradient: no step writes into it, as those with Nesterov's momentum
    and those that unscale by themselves do."""
    return (
        type(optimizer) is torch.optim.SGD
        and not any(group["nesterov"] for group in optimizer.param_groups)
        and getattr(optimizer, "grad_scale", None) is None
    )


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Take the gradient from B again, so that clipping and the like meet it once, in W; have methods follow W."""
    for layer in list(_learning):
        if layer.feedback is not None:
            layer.feedback.grad = None
    if _following:
        _follow({id(p) for group in optimizer.param_groups for p in group["params"]})


@torch.no_grad()
def _follow(updated: set[int]) -> None:
    """Change what layers keep whose W was among the parameters ``updated``, as their method says."""
    for layer in list(_following):
        W, kept = layer.weight, layer.feedback
        if kept is None or W.grad is None or id(W) not in updated:
            continue
        layer.update_count += 1
        kept.copy_(layer.method.followed(W, kept, layer.stream("update", layer.update_count)))


def _refuse_unequal(layer: FeedbackLayer, for_W: dict[str, Any] | None, for_B: dict[str, Any] | None) -> None:
    """Refuse an optimizer whose parameter groups would move W and B of one layer by different rules."""
    if for_W is None or for_B is None:
        given, other = ("weight", "feedback") if for_B is None else ("feedback", "weight")
        raise WtkitError(
            f"{layer.method.name}: the optimizer was given {given!r} of {_sketch(layer)} without {other!r}, so B "
            f"would not follow W; give it all of model.parameters(), taken after wtkit.convert and not filtered"
        )
    if for_W is for_B:
        return
    differing = [key for key in for_W if key not in ("params", "param_names") and not _same(for_W[key], for_B.get(key))]
    if differing:
        raise WtkitError(
            f"{layer.method.name}: 'weight' and 'feedback' of {_sketch(layer)} are in parameter groups with "
            f"different {', '.join(differing)}; put both in one group"
        )


def _same(a: Any, b: Any) -> bool:
    return bool(a is b or a == b)


def _sketch(layer: FeedbackLayer) -> str:
    return f"{type(layer).__name__}{tuple(layer.weight.shape)}"


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)

# --------------------------------------------------------------------------------------------------- conversion

# Modules whose parameters only scale and shift single elements, or look rows up: no error signal is mixed by them.
_ELEMENTWISE = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
    nn.EmbeddingBag,
)


def convert(
    model: nn.Module,
    method: str | Method,
    *,
    seed: int | None = None,
    backprop: str | Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """Turn every ``nn.Linear`` and ``nn.Conv2d`` of ``model`` into its feedback twin, in place.

    Weights, device, dtype, hooks and ``state_dict`` names stay; a layer that keeps something for its feedback path
    adds ``<layer>.feedback`` to the ``state_dict``, which a checkpoint may lack. Take ``model.parameters()`` for the
    optimizer afterwards: Kolen–Pollack's B is among them. A converted model may be converted again.

    A layer must be called to send δ through B: where a module takes ``layer.weight`` and multiplies by itself, as the
    attention of torchvision's Swin transformers does, leave its layers on backprop. For ``torch.func``'s derivatives,
    and for what traces Python code (``torch.fx``, ``torch.jit``), take :func:`export`; ``torch.compile`` needs nothing.

    Args:
        model: any module, a bare layer included.
        method: a method's name, or a :class:`~wtkit.methods.Method`.
        seed: of the feedback path's own random streams; by default ``torch.initial_seed()``. No seed draws B like W.
        backprop: a name, or several, of modules or parameters that stay on backprop, with all inside; ``*`` matches any
            text.
        options: hyper-parameters of the method, if it is given by name.

    Returns:
        ``model`` itself.

    Raises:
        WtkitError: for an unknown method or option; for a model without a layer to convert; for a module that cannot
            be treated and that carries weights an error signal travels through; for a pattern in ``backprop`` that
            matches nothing.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(8, 2), "kolen_pollack")
        >>> model.B.shape == model.weight.shape
        True
    """
    if not isinstance(model, nn.Module):
        raise WtkitError(f"convert: expected an nn.Module, then a method, got {type(model).__name__}")
    if isinstance(method, str):
        method = methods.load(method, **options)
    elif not isinstance(method, Method):
        raise WtkitError(f"convert: expected a method's name or a Method, got {method!r}")
    elif options:
        raise WtkitError(f"options {', '.join(options)} given beside a Method; put them in its constructor")
    seed = torch.initial_seed() if seed is None else seed

    chosen = _choose(model, [backprop] if isinstance(backprop, str) else backprop)
    if not chosen and not backprop:
        raise WtkitError(f"convert: no nn.Linear and no nn.Conv2d in this {type(unwrap(model)).__name__}")
    if method.learns_engaged:
        _refuse_shared(chosen)
    seeds = {name: stream_seed(seed, "layer", name) for name in chosen}
    # drawn before anything is changed, so that a method that fails leaves the model as it was
    last = [name for name, module in unwrap(model).named_modules() if isinstance(module, tuple(TWINS))][-1:]
    outputs = len(chosen[last[0]].get_parameter("weight")) if last and last[0] in chosen else None
    initial = {name: _initial(method, layer, seeds[name], outputs) for name, layer in chosen.items()}
    for converted in feedback_layers(model).values():
        _strip(converted)  # also where it now stays on backprop
    for name, module in chosen.items():
        layer = _twin(module)
        layer.method = method
        layer.seed = seeds[name]
        layer.is_output = name in last
        layer.mirror_count = layer.update_count = 0
        layer.taps = ...
        kept = initial[name]
        if method.learns_engaged and kept is not None:
            layer.register_parameter("feedback", nn.Parameter(kept, requires_grad=False))
        else:
            layer.register_buffer("feedback", kept)
        _watch(layer)
    return model


def export(model: nn.Module) -> nn.Module:
    """A plain copy of ``model``: torch's own layers, no B, the same weights. ``model`` stays as it is."""
    plain = copy.deepcopy(unwrap(model))
    for layer in feedback_layers(plain).values():
        _strip(layer)
    return plain


def feedback_layers(model: nn.Module) -> dict[str, FeedbackLayer]:
    """The converted layers of ``model`` by module name, in the order of registration: from the input up.

    ``model`` may be wrapped by ``torch.compile``, DistributedDataParallel or DataParallel.
    """
    return {name: m for name, m in unwrap(model).named_modules() if isinstance(m, FeedbackLayer)}


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``, DistributedDataParallel and DataParallel, however nested."""
    *_, inner = _unwrapped(model)
    return inner


def share_of(model: nn.Module) -> Share:
    """This process's share of what the processes of a DistributedDataParallel do together; all of it without one."""
    for module in _unwrapped(model):
        if isinstance(module, nn.parallel.DistributedDataParallel):
            group = module.process_group
            return Share(torch.distributed.get_rank(group), torch.distributed.get_world_size(group), group)
    return ALONE


def _unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """``model``, and what it wraps, and so on."""
    yield model
    if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
        yield from _unwrapped(model._orig_mod)
    elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        yield from _unwrapped(model.module)


def stream_seed(*key: Any) -> int:
    """A seed for a random stream of its own, the same for the same key on every machine: 63 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "big") >> 1


def _initial(method: Method, layer: nn.Module, seed: int, outputs: int | None) -> Tensor | None:
    """What a layer keeps for its feedback path; raises where the B that it makes is not in the shape that it must have.

    Args:
        outputs: of the network, where its last layer is to be converted.
    """
    W = layer.get_parameter("weight").detach()
    like = W
    if method.direct:
        if outputs is None:
            raise WtkitError(f"{method.name}: the network's last layer has its δ to send, and cannot stay on backprop")
        like = initial_scale(W).to(W.dtype).expand(outputs, W.shape[1] * getattr(layer, "groups", 1))
    kept = method.initial(like, torch.Generator().manual_seed(stream_seed(seed, "feedback")))
    B = method.feedback_weights(W, kept)
    if B is not None and B.shape != like.shape:
        raise WtkitError(f"{method.name}: feedback_weights gave shape {tuple(B.shape)}, expected {tuple(like.shape)}")
    return kept


def _twin(layer: nn.Module) -> FeedbackLayer:
    """Make a plain layer its feedback twin."""
    layer.__class__ = TWINS[type(layer)]
    assert isinstance(layer, FeedbackLayer)
    return layer


def _strip(layer: FeedbackLayer) -> None:
    """Make a feedback layer the plain layer that it was."""
    _learning.discard(layer)
    _following.discard(layer)
    layer._buffers.pop("feedback", None)
    layer._parameters.pop("feedback", None)
    for attribute in ("method", "seed", "is_output", "mirror_count", "update_count", "taps"):
        delattr(layer, attribute)
    layer.__class__ = PLAIN[type(layer)]  # type: ignore[assignment]  # it is a FeedbackLayer no more


def convertible(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that has a feedback twin, or such a twin."""
    return (type(module) in TWINS or type(module) in PLAIN) and "weight" in module._parameters


def _choose(model: nn.Module, backprop: Sequence[str]) -> dict[str, nn.Module]:
    """The layers to convert, by name; raises for what can neither be converted nor left alone."""
    unmatched = set(backprop)
    exempt: list[str] = []

    def stays(name: str) -> bool:
        hits = {pattern for pattern in backprop if fnmatch(name, pattern)}
        unmatched.difference_update(hits)
        return bool(hits) or any(name.startswith(f"{module}.") for module in exempt)

    chosen: dict[str, nn.Module] = {}
    untreatable: dict[str, str] = {}  # what would have to stay on backprop, and why
    for name, module in unwrap(model).named_modules():
        if stays(name):
            exempt.append(name)
        elif convertible(module):
            chosen[name] = module
        elif not isinstance(module, _ELEMENTWISE):
            for own, parameter in module.named_parameters(recurse=False):
                full = f"{name}.{own}" if name else own
                if not stays(full) and _mixes(parameter):
                    # the parameter alone where the module holds layers that can be converted, or else all of it
                    inner = any(map(convertible, module.modules()))
                    untreatable[full if inner else name or "*"] = _described(name, module, own)
                    if not inner:
                        exempt.append(name)
                        break
    if untreatable:
        raise _untreatable(untreatable)
    if unmatched:
        pattern = sorted(unmatched)[0]
        names = [name for name, _ in model.named_modules() if name] + [name for name, _ in model.named_parameters()]
        for name, layer in chosen.items():
            if any(fnmatch(f"{name}.{own}" if name else own, pattern) for own in layer._parameters):
                raise WtkitError(f"backprop: {pattern!r} is a parameter of a layer, which stays whole; take {name!r}")
        outermost = ", ".join(name for name, _ in unwrap(model).named_children()) or "none"
        raise WtkitError(
            f"backprop: {pattern!r} matches no module or parameter of the model{nearest(pattern, names)}; outermost "
            f"modules: {outermost}"
        )
    return chosen


def _mixes(parameter: Tensor) -> bool:
    """Whether a parameter might be multiplied with a vector of activities: more than one dimension is not trivial."""
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return True
    return sum(size > 1 for size in parameter.shape) > 1


def _described(name: str, module: nn.Module, parameter: str) -> str:
    where = f"{name!r} ({type(module).__name__})" if name else f"the model itself ({type(module).__name__})"
    return f"{where}: {parameter!r} carries weights that δ may travel through"


def _untreatable(found: dict[str, str]) -> WtkitError:
    first, more = next(iter(found.values())), f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return WtkitError(
        f"cannot convert {first}{more}; only nn.Linear and nn.Conv2d have a feedback twin. "
        f"To leave it on backprop: convert(..., backprop={as_patterns(found)}), or the setting 'backprop' of a run"
    )


def as_patterns(names: Iterable[str]) -> list[str]:
    """As few patterns as match ``names``, with ``*`` where several differ in numbers alone."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return [pattern if len(those) > 1 else those[0] for pattern, those in alike.items()]


def _refuse_shared(chosen: dict[str, nn.Module]) -> None:
    first: dict[int, str] = {}
    for name, layer in chosen.items():
        other = first.setdefault(id(layer.weight), name)
        if other != name:
            raise WtkitError(
                f"{other!r} and {name!r} share one weight, which two Bs cannot both follow; "
                f"untie them or leave one on backprop: convert(..., backprop=[{name!r}])"
            )
