"""How B learns in engaged mode: hooks on every optimizer step.

Before a step, B's gradient is set to W's. After a step, methods that follow W update what they
store. PyTorch runs the global hooks of all optimizers, then the optimizer's own hooks, then the
step, then its own hooks again, then the global ones. B gets its gradient after all hooks that run
before the step, and loses it before all hooks that run after the step. So other hooks see W's
gradient once, and B gets the gradient as they changed it.

An optimizer may wrap another, as Lookahead and SAM do. B gets its gradient in the inner step. What
B learns after an update happens once, at the end of the outermost step.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from ..errors import WtkitError
from ..seeds import stream_seed
from .engaged import apply_direct
from .law import Observed
from .rows import from_rows, has_rows
from .sharded import as_sharded, whole
from .strays import expect_steps, steps_are_reported

if TYPE_CHECKING:
    from .layers import FeedbackLayer

learning_layers: weakref.WeakSet[FeedbackLayer] = weakref.WeakSet()
"""Layers whose B is a parameter that optimizers step."""
following_layers: weakref.WeakSet[FeedbackLayer] = weakref.WeakSet()
"""Layers whose method updates its stored tensor after each update of W."""


def watch(layer: FeedbackLayer) -> None:
    """Register ``layer`` for the optimizer hooks that its method needs."""
    method = getattr(layer, "method", None)
    if method is None:
        return
    if method.learns_engaged:
        learning_layers.add(layer)
    if method.follows:
        following_layers.add(layer)
    if method.learns_from_W:
        expect_steps(layer)
    if method.direct:
        torch.compiler.allow_in_graph(apply_direct)  # not at import: it takes seconds


def unwatch(layer: FeedbackLayer) -> None:
    """Undo :func:`watch`."""
    learning_layers.discard(layer)
    following_layers.discard(layer)
    steps_are_reported(layer)


# ------------------------------------------------------------------------------------------ a step


@dataclasses.dataclass(eq=False)
class _Step:
    """One call of ``optimizer.step``, from its first hook to its last.

    Attributes:
        frame: PyTorch's stack frame around hooks and step. While it is among the callers, the step
            is running.
        ids: the ids of the parameters in this step, with their places in the optimizer.
        learning: layers of these parameters whose B learns as W does, with that B.
        due: layers that follow W and whose W was updated by this step or by one inside it.
        drawn: layers for which random numbers were drawn for B's gradient.
        observed: W and B before the step, in the outermost step only.
        inside: calls of a base class's step inside this one; its hooks run again, without effect.
    """

    optimizer: Optimizer
    frame: FrameType
    ids: dict[int, int]
    learning: dict[FeedbackLayer, Tensor]
    handles: list[RemovableHandle] = dataclasses.field(default_factory=list)
    due: dict[FeedbackLayer, None] = dataclasses.field(default_factory=dict)
    drawn: dict[FeedbackLayer, None] = dataclasses.field(default_factory=dict)
    observed: Observed | None = None
    inside: int = 0

    def hook(self) -> None:
        """Make the last hook before the step and the first one after it."""
        optimizer = self.optimizer
        after = optimizer.register_step_post_hook(_before_others_hooks)
        hooks: Any = optimizer._optimizer_step_post_hooks  # an OrderedDict, though typed as a dict
        hooks.move_to_end(after.id, last=False)
        self.handles = [optimizer.register_step_pre_hook(_after_others_hooks), after]

    def take_gradients_away(self) -> None:
        """Clear B's gradients, so that gradient clipping sees each gradient once, in W."""
        for B in self.learning.values():
            B.grad = None

    def unhook(self) -> None:
        while self.handles:
            self.handles.pop().remove()


class _Running(threading.local):
    """The steps that are running in this thread, the outermost first."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []

    def drop_failed(self, frame: FrameType) -> None:
        """Forget steps that ended in an error, which no hook reports: they are no callers."""
        callers: set[FrameType] = set()
        above: FrameType | None = frame if self.steps else None
        while above is not None:
            callers.add(above)
            above = above.f_back
        for step in [step for step in self.steps if step.frame not in callers]:
            step.unhook()
            self.steps.remove(step)


_running = _Running()


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """The first hook of a step."""
    if not learning_layers and not following_layers:
        return
    frame = sys._getframe(1)
    _running.drop_failed(frame)
    if _running.steps and _running.steps[-1].optimizer is optimizer:
        _running.steps[-1].inside += 1
        return
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    ids = {id(parameter): place for place, parameter in enumerate(parameters)}
    each = ((layer, layer._parameters.get("feedback")) for layer in list(learning_layers))
    learning: dict[FeedbackLayer, Tensor] = {
        layer: B for layer, B in each if B is not None and id(B) in ids and not layer.method.direct
    }
    step = _Step(optimizer, frame, ids, learning)
    step.take_gradients_away()  # those that a step which failed, or one around this, set
    step.hook()
    _running.steps.append(step)


def _after_others_hooks(optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """The last hook before a step: set B's gradients, or, if the step gets a closure that computes
    gradients, after that closure."""
    step = _running.steps[-1]
    if not learning_layers or step.inside:
        return None
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer
    wraps = _wraps_another(optimizer)
    if closure is None and not wraps:
        _set_gradients(step)
    if len(_running.steps) == 1:
        step.observed = Observed.before(optimizer, step.learning)
    if closure is None or wraps:
        return None

    def closure_then_gradients() -> Any:
        loss = closure()
        _set_gradients(step)
        return loss

    return args[:1], {**kwargs, "closure": closure_then_gradients}


def _before_others_hooks(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """The first hook after a step: take B's gradients away, and note whose W was updated."""
    step = _running.steps[-1]
    if step.inside:
        return
    step.take_gradients_away()
    updated: list[tuple[int, int, FeedbackLayer]] = []
    for layer in list(following_layers):
        W = layer.weight_parameter()
        if W is not None and W.grad is not None and id(W) in step.ids:
            updated.append((step.ids[id(W)], layer.seed, layer))
            steps_are_reported(layer)
    # in the same order in all processes, which gather sharded weights together
    step.due |= {layer: None for *_, layer in sorted(updated, key=lambda each: each[:2])}


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """The last hook of a step. In the outermost, whatever an update does once."""
    steps = _running.steps
    if not steps or steps[-1].optimizer is not optimizer:
        return
    if steps[-1].inside:
        steps[-1].inside -= 1
        return
    step = steps.pop()
    step.unhook()
    if steps:
        steps[-1].due |= step.due
        steps[-1].drawn |= step.drawn
        return
    for layer in step.drawn:
        layer.update_count += 1
    _follow(list(step.due))
    if step.observed is not None:
        step.observed.check(optimizer)


# ------------------------------------------------------------------------------------ what is done


def _set_gradients(step: _Step) -> None:
    """Eq. 18: B learns by the gradient that W learns by.

    W's gradient is final at this point: clipped, unscaled, and averaged over processes. None of
    that has to be done for B.
    """
    try:
        _hand_over(step)
    except BaseException:
        step.take_gradients_away()
        raise


def _hand_over(step: _Step) -> None:
    optimizer = step.optimizer
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for layer in list(learning_layers):
        W, B = layer.weight_parameter(), layer.feedback
        if B is None or not ({id(W), id(B)} & group_of.keys()):
            continue
        if layer.method.direct:  # the backward pass has given B its gradient
            if id(B) not in group_of and B.requires_grad:
                raise _has_one(layer, "weight", "feedback")
            continue
        layer.refuse_computed_weight()
        if W is None or W.grad is None:
            continue
        _refuse_unequal(layer, group_of.get(id(W)), group_of.get(id(B)))
        steps_are_reported(layer)
        if layer.method.has_own_gradient:
            B.grad = _own_gradient(layer, optimizer, group_of[id(B)])
            step.drawn[layer] = None
        else:
            B.grad = W.grad if _only_reads_gradients(optimizer) else W.grad.clone()


@torch.no_grad()
def _follow(layers: list[FeedbackLayer]) -> None:
    """Update the stored tensors of layers that follow W."""
    for layer in layers:
        W, stored = whole(layer.weight), layer.feedback
        if stored is not None:
            layer.update_count = update = layer.update_count + 1
            stream = layer.stream("update", update)
            stored.copy_(layer.method.follow(W, stored, stream, update))


def _own_gradient(layer: FeedbackLayer, optimizer: Optimizer, group: dict[str, Any]) -> Tensor:
    """The gradient that the layer's method gives B, where it differs from W's."""
    method = layer.method
    if type(optimizer) is not torch.optim.SGD:
        always = type(method)().has_own_gradient
        what = "this method requires" if always else "these options require"
        other = "" if always else ", or leave all options but 'scale' at their defaults"
        raise WtkitError(
            f"{method.name}: {what} torch.optim.SGD, got {type(optimizer).__name__}; take "
            f"SGD{other}"
        )
    decay = -group["weight_decay"] if group["maximize"] else group["weight_decay"]
    # the step has yet to divide gradients by this
    scale = getattr(optimizer, "grad_scale", None)
    decay = decay if scale is None else decay * scale
    gradient, B = layer.weight.grad, layer.feedback
    assert gradient is not None and B is not None
    if not method.mixes_neurons:
        stream = layer.stream("update", layer.update_count + 1)
        return method.feedback_gradient(gradient, B, decay, stream)
    return _mixed_gradient(layer, gradient, B, decay)


def _mixed_gradient(
    layer: FeedbackLayer, gradient: Tensor, B: Tensor, decay: float | Tensor
) -> Tensor:
    """The gradient of B for a method that mixes the rows of a layer's weights."""
    maps, whole_gradient = layer.maps, whole(gradient)
    stream = torch.Generator().manual_seed(stream_seed(layer.seed, "mixing"))
    mixed = layer.method.feedback_gradient(
        maps.matrices(whole_gradient), maps.matrices(whole(B)), decay, stream
    )
    if has_rows(maps, whole_gradient):
        mixed = mixed.reshape(gradient.shape)
    else:
        mixed = from_rows(maps, mixed.flatten(0, 1), whole_gradient)
    return as_sharded(mixed, gradient)


def _wraps_another(optimizer: Optimizer) -> bool:
    """Whether another optimizer takes the step for this one."""
    return any(isinstance(value, Optimizer) for value in vars(optimizer).values())


def _only_reads_gradients(optimizer: Optimizer) -> bool:
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
    """Refuse parameter groups that would move W and B of one layer by different rules, and a
    precision that loses small steps."""
    if for_W is None or for_B is None:
        given, other = ("weight", "feedback") if for_B is None else ("feedback", "weight")
        raise _has_one(layer, given, other)
    if layer.weight.dtype.itemsize < 4:
        raise WtkitError(
            f"{layer.method.name}: {layer.sketch} has {layer.weight.dtype} weights, which round "
            "small steps and the decay away, so B would not follow W; keep the model in float32 "
            "and train it under torch.autocast"
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


def _has_one(layer: FeedbackLayer, given: str, other: str) -> WtkitError:
    """The error for an optimizer that has one of W and B."""
    lost = "learn" if layer.method.direct else "follow W"
    return WtkitError(
        f"{layer.method.name}: the optimizer has {given!r} of {layer.sketch} but not {other!r}, "
        f"so B would not {lost}; give it all of model.parameters(), taken after wtkit.convert and "
        "not filtered"
    )


def _same(a: Any, b: Any) -> bool:
    return bool(a is b or a == b)


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
