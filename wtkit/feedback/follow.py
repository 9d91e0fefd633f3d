"""How B learns in engaged mode: hooks on every optimizer step.

Before a step B is handed the gradient of W. After a step methods that follow W change what they
keep.
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
following_layers: weakref.WeakSet[FeedbackLayer] = weakref.WeakSet()


def watch(layer: FeedbackLayer) -> None:
    """Have every optimizer's step treat B of ``layer`` as it treats W, or be followed by it, if the
    method says so."""
    method = getattr(layer, "method", None)
    if method is not None and method.learns_engaged:
        learning_layers.add(layer)
    if method is not None and method.follows:
        following_layers.add(layer)
    if method is not None and method.direct:
        torch.compiler.allow_in_graph(apply_direct)  # not at the top: it takes seconds


def _before_step(
    optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
) -> tuple[Any, Any] | None:
    """Hand W's gradient to B, or have a closure that computes gradients followed by that."""
    if not learning_layers:
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
    """Eq. 18: what W learns by is what B learns by, once all that is done to a gradient before a
    step is done.

    By then it is clipped, unscaled, and averaged over processes, none of which need then be done
    for B.
    """
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for layer in list(learning_layers):
        W, B = layer.weight, layer.feedback
        if B is None or W.grad is None or not ({id(W), id(B)} & group_of.keys()):
            continue
        _refuse_unequal(layer, group_of.get(id(W)), group_of.get(id(B)))
        if layer.method.apart:
            B.grad = _set_apart(layer, optimizer, group_of[id(B)])
        else:
            B.grad = W.grad if _only_reads_gradients(optimizer) else W.grad.clone()


def _set_apart(
    layer: FeedbackLayer, optimizer: torch.optim.Optimizer, group: dict[str, Any]
) -> Tensor:
    """What B is handed where its method sets it apart from W."""
    if type(optimizer) is not torch.optim.SGD:
        raise WtkitError(
            f"{layer.method.name}: these options set B apart from W, which only torch.optim.SGD "
            f"does exactly, got {type(optimizer).__name__}; take SGD, or leave all options but "
            "'scale' at their defaults"
        )
    decay = -group["weight_decay"] if group["maximize"] else group["weight_decay"]
    # by which the step has yet to divide what it is handed
    scale = getattr(optimizer, "grad_scale", None)
    layer.update_count += 1
    gradient, stream = layer.weight.grad, layer.stream("update", layer.update_count)
    assert gradient is not None and layer.feedback is not None
    return layer.method.handed(
        gradient, layer.feedback, decay if scale is None else decay * scale, stream
    )


def _only_reads_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether W and B may hold one and the same gradient: no step writes into it, as those with
    Nesterov's momentum and those that unscale by themselves do."""
    return (
        type(optimizer) is torch.optim.SGD
        and not any(group["nesterov"] for group in optimizer.param_groups)
        and getattr(optimizer, "grad_scale", None) is None
    )


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Take the gradient from B again, so that clipping and the like meet it once, in W; have
    methods follow W."""
    for layer in list(learning_layers):
        if layer.feedback is not None:
            layer.feedback.grad = None
    if following_layers:
        _follow({id(p) for group in optimizer.param_groups for p in group["params"]})


@torch.no_grad()
def _follow(updated: set[int]) -> None:
    """Change what layers keep whose W was among the parameters ``updated``, as their method
    says."""
    for layer in list(following_layers):
        W, kept = layer.weight, layer.feedback
        if kept is None or W.grad is None or id(W) not in updated:
            continue
        layer.update_count += 1
        kept.copy_(layer.method.followed(W, kept, layer.stream("update", layer.update_count)))


def _refuse_unequal(
    layer: FeedbackLayer, for_W: dict[str, Any] | None, for_B: dict[str, Any] | None
) -> None:
    """Refuse an optimizer whose parameter groups would move W and B of one layer by different
    rules."""
    if for_W is None or for_B is None:
        given, other = ("weight", "feedback") if for_B is None else ("feedback", "weight")
        raise WtkitError(
            f"{layer.method.name}: the optimizer was given {given!r} of {_sketch(layer)} without "
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
            f"{layer.method.name}: 'weight' and 'feedback' of {_sketch(layer)} are in parameter "
            f"groups with different {', '.join(differing)}; put both in one group"
        )


def _same(a: Any, b: Any) -> bool:
    return bool(a is b or a == b)


def _sketch(layer: FeedbackLayer) -> str:
    return f"{type(layer).__name__}{tuple(layer.weight.shape)}"


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
