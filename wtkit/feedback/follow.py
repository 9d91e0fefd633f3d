"""How B learns in engaged mode: hooks on every optimizer step.

Before a step, B's gradient is set to W's. After a step, methods that follow W update what they
store.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ..errors import WtkitError
from .engaged import apply_direct

if TYPE_CHECKING:
    from .layers import FeedbackLayer

learning_layers: weakref.WeakSet[FeedbackLayer] = weakref.WeakSet()
"""Layers whose B is a parameter that optimizers step."""
following_layers: weakref.WeakSet[FeedbackLayer] = weakref.WeakSet()
"""Layers whose method updates its stored tensor after each update of W."""


def watch(layer: FeedbackLayer) -> None:
    """Register ``layer`` for the optimizer hooks that its method needs."""
    method = getattr(layer, "method", None)
    if method is not None and method.learns_engaged:
        learning_layers.add(layer)
    if method is not None and method.follows:
        following_layers.add(layer)
    if method is not None and method.direct:
        torch.compiler.allow_in_graph(apply_direct)  # not at import: it takes seconds


# ---------------------------------------------------------------------------------- before the step


def _before_step(
    optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
) -> tuple[Any, Any] | None:
    """Set B's gradients, or, if the step gets a closure that computes gradients, after that
    closure."""
    if not learning_layers:
        return None
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer
    if closure is None:
        _set_gradients(optimizer)
        return None

    def closure_then_gradients() -> Any:
        loss = closure()
        _set_gradients(optimizer)
        return loss

    return args[:1], {**kwargs, "closure": closure_then_gradients}


def _set_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Eq. 18: B learns by the gradient that W learns by.

    W's gradient is final at this point: clipped, unscaled, and averaged over processes. None of
    that has to be done for B.
    """
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for layer in list(learning_layers):
        W, B = layer.weight, layer.feedback
        if B is None or W.grad is None or not ({id(W), id(B)} & group_of.keys()):
            continue
        _refuse_unequal(layer, group_of.get(id(W)), group_of.get(id(B)))
        if layer.method.has_own_gradient:
            B.grad = _own_gradient(layer, optimizer, group_of[id(B)])
        else:
            B.grad = W.grad if _only_reads_gradients(optimizer) else W.grad.clone()


def _own_gradient(
    layer: FeedbackLayer, optimizer: torch.optim.Optimizer, group: dict[str, Any]
) -> Tensor:
    """The gradient that the layer's method gives B, where it differs from W's."""
    if type(optimizer) is not torch.optim.SGD:
        raise WtkitError(
            f"{layer.method.name}: these options require torch.optim.SGD, got "
            f"{type(optimizer).__name__}; take SGD, or leave all options but 'scale' at their "
            "defaults"
        )
    decay = -group["weight_decay"] if group["maximize"] else group["weight_decay"]
    # the step has yet to divide gradients by this
    scale = getattr(optimizer, "grad_scale", None)
    layer.update_count += 1
    gradient, stream = layer.weight.grad, layer.stream("update", layer.update_count)
    assert gradient is not None and layer.feedback is not None
    return layer.method.feedback_gradient(
        gradient, layer.feedback, decay if scale is None else decay * scale, stream
    )


def _only_reads_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether W and B may share one gradient tensor: steps with Nesterov's momentum, and steps that
    unscale gradients themselves, write into it."""
    return (
        type(optimizer) is torch.optim.SGD
        and not any(group["nesterov"] for group in optimizer.param_groups)
        and getattr(optimizer, "grad_scale", None) is None
    )


def _refuse_unequal(
    layer: FeedbackLayer, for_W: dict[str, Any] | None, for_B: dict[str, Any] | None
) -> None:
    """Refuse parameter groups that would move W and B of one layer by different rules."""
    if for_W is None or for_B is None:
        given, other = ("weight", "feedback") if for_B is None else ("feedback", "weight")
        raise WtkitError(
            f"{layer.method.name}: the optimizer has {given!r} of {layer.sketch} but not "
            f"{other!r}, so B would not follow W; give it all of model.parameters(), taken after "
            "wtkit.convert and not filtered"
        )
    if for_W is for_B:
        return
    differing = [
        key
        for key in for_W
        if key not in ("params", "param_names") and not _same(for_W[key], for_B.get(key))
    ]
    if differing:
        raise WtkitError(
            f"{layer.method.name}: 'weight' and 'feedback' of {layer.sketch} are in parameter "
            f"groups with different {', '.join(differing)}; put both in one group"
        )


def _same(a: Any, b: Any) -> bool:
    return bool(a is b or a == b)


# ----------------------------------------------------------------------------------- after the step


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Clear B's gradients, so that gradient clipping sees each gradient once, in W; update the
    layers that follow W."""
    for layer in list(learning_layers):
        if layer.feedback is not None:
            layer.feedback.grad = None
    if following_layers:
        _update_following({id(p) for group in optimizer.param_groups for p in group["params"]})


@torch.no_grad()
def _update_following(stepped: set[int]) -> None:
    """Update the stored tensors of layers whose W is among the parameters (by id) that were
    stepped."""
    for layer in list(following_layers):
        W, stored = layer.weight, layer.feedback
        if stored is None or W.grad is None or id(W) not in stepped:
            continue
        layer.update_count += 1
        stored.copy_(layer.method.follow(W, stored, layer.stream("update", layer.update_count)))


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
