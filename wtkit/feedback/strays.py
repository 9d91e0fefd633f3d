"""Detect updates of W that no optimizer reports and that B therefore does not follow.

``p.data -= lr * p.grad`` runs no hook and does not change W's version counter. So the values of a
few entries are compared from one backward pass to the next, until an optimizer reports its first
step.
"""

from __future__ import annotations

import warnings
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .entries import entries, has_entries, places

if TYPE_CHECKING:
    from .layers import FeedbackLayer

UPDATES = 2
"""Updates in a row after which a warning is given; a single one may be a checkpoint that was
loaded."""

_handles: weakref.WeakKeyDictionary[FeedbackLayer, RemovableHandle] = weakref.WeakKeyDictionary()


def expect_steps(layer: FeedbackLayer) -> None:
    """Warn if W of ``layer`` is updated before an optimizer reports a step."""
    W = layer.weight_parameter()
    if layer in _handles or W is None or not (W.requires_grad and W.is_leaf):
        return
    owner, seed = weakref.ref(layer), layer.seed
    at, seen, updates = None, None, 0

    def compare(weight: Tensor) -> None:
        nonlocal at, seen, updates
        if torch.compiler.is_compiling() or not has_entries(weight):
            return
        at = places(weight, seed) if at is None else at
        values = entries(weight, at).cpu()
        updates = 0 if seen is None or torch.equal(seen, values) else updates + 1
        seen = values
        watched = owner()
        if updates == UPDATES and watched is not None:
            steps_are_reported(watched)
            warnings.warn(
                f"{watched.method.name}: the weights of {watched.sketch} change without a step of "
                "a torch.optim.Optimizer, so its B does not follow them; step with one, such as "
                "torch.optim.SGD, which is p -= lr * p.grad",
                stacklevel=2,
            )

    _handles[layer] = W.register_post_accumulate_grad_hook(compare)


def steps_are_reported(layer: FeedbackLayer) -> None:
    """No longer compare the weights of ``layer``."""
    handle = _handles.pop(layer, None) if _handles else None
    if handle is not None:
        handle.remove()
