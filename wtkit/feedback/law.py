"""The law of Kolen–Pollack, checked while it trains: W − B only decays (Sec. 5.1).

Whichever optimizer updates W and B, it must treat both alike. Then the equal products cancel in W −
B, and only the decay remains: a linear optimizer changes W − B in proportion to W − B itself and,
with momentum, to its last change. This is checked on a few entries of each layer, at intervals of
several steps.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from ..errors import WtkitError
from .entries import entries, has_entries, places

if TYPE_CHECKING:
    from .layers import FeedbackLayer

EVERY = 512
"""Steps between two checks; the first checks come after 2, 4, 8, … steps."""
OF_MOVE = 1e-3
"""The part of W's own change that W − B may change by without an explanation."""
OF_ROUNDING = 32
"""The same in units of the precision of W and B."""
RISE = 1.05
"""An adaptive optimizer that adds the decay to the gradient, as Adam does, shrinks the entries of
W − B at different rates. Their size may exceed its least so far by this factor, or, …"""
SETTLED = 0.2
"""… once it is this small in units of the first, fluctuate."""
BETWEEN = 2
"""Checks in a row that find W − B changed between two steps, after which a warning is given; a
single one may be a checkpoint that was loaded."""

Array = NDArray[np.float64]


@dataclasses.dataclass(eq=False)
class _Record:
    """What is known about one layer.

    Attributes:
        at: the indices of the entries that are checked.
        gap: W − B after the step before, and …
        change: … the change that this step made to it.
        first: the size of W − B when it was first observed.
        least: the smallest size so far.
        between: consecutive checks that found W − B changed between two steps.
    """

    at: Tensor
    gap: Array | None = None
    change: Array | None = None
    first: float = 0.0
    least: float = 0.0
    between: int = 0


_records: weakref.WeakKeyDictionary[FeedbackLayer, _Record] = weakref.WeakKeyDictionary()
_counts: weakref.WeakKeyDictionary[Optimizer, Iterator[int]] = weakref.WeakKeyDictionary()
"""The number of each optimizer's next step."""


def _is_checked(step: int) -> bool:
    """Whether the step with this number, from 1, is checked. The one before it is observed, too.

    >>> [step for step in range(1, 1100) if _is_checked(step)]
    [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    """
    return step % EVERY == 0 or (1 < step < EVERY and step.bit_count() == 1)


class Observed(NamedTuple):
    """The layers in which a step is observed, with their entries of W and B before it."""

    layers: list[FeedbackLayer]
    values: Array
    """(layers, W and B, entries)"""
    is_checked: bool

    @classmethod
    def before(cls, optimizer: Optimizer, layers: Iterable[FeedbackLayer]) -> Observed | None:
        """Count a step of ``optimizer``; look at its ``layers``, or give None if none is due."""
        count = _counts.get(optimizer)
        if count is None:
            count = _counts[optimizer] = itertools.count(1)
        step = next(count)
        if not _is_checked(step) and not _is_checked(step + 1):
            return None
        due = [
            layer
            for layer in layers
            if not layer.method.has_own_gradient and has_entries(layer.weight)
        ]
        if not due or _is_captured(due[0]):
            return None
        for layer in due:
            if layer not in _records:
                _records[layer] = _Record(places(layer.weight, layer.seed))
        return cls(due, _entries(due), _is_checked(step))

    def check(self, optimizer: Optimizer) -> None:
        """Look again after the step.

        Raises:
            WtkitError: if the step changed W − B of a layer by what no decay explains.

        Warns:
            UserWarning: if W or B changes between steps, again and again.
        """
        strict = not _couples(optimizer)
        for layer, before, after in zip(
            self.layers, self.values, _entries(self.layers), strict=True
        ):
            step = _Change(before, after, torch.finfo(layer.weight.dtype).eps)
            record = _records[layer]
            if not step.is_finite:
                continue
            if self.is_checked:
                _warn_of_changes_between(record, step, layer)
                if not step.is_linear(record.change) and (strict or _rises(record, step)):
                    raise WtkitError(
                        f"{layer.method.name}: {type(optimizer).__name__} moved W and B of "
                        f"{layer.sketch} by different rules, so B does not follow W; take SGD or "
                        "AdamW, and change no weights or gradients of one of them in the hooks of "
                        "a step"
                    )
            _note(record, step)


@dataclasses.dataclass(eq=False)
class _Change:
    """What one step did to entries of W and B.

    Attributes:
        before: W and B before it, (2, entries).
        after: W and B after it.
        precision: the relative precision of both.
    """

    before: Array
    after: Array
    precision: float

    @property
    def is_finite(self) -> bool:
        """False after training has diverged, which is another matter."""
        return bool(np.isfinite([self.before, self.after]).all())

    @property
    def gap(self) -> Array:
        """W − B before the step."""
        return self.before[0] - self.before[1]

    @property
    def gap_after(self) -> Array:
        return self.after[0] - self.after[1]

    @property
    def rounding(self) -> float:
        both = np.abs(self.before) + np.abs(self.after)
        return float(OF_ROUNDING * self.precision * np.linalg.norm(both))

    def is_linear(self, previous: Array | None) -> bool:
        """Whether W − B changed along itself and along its ``previous`` change only."""
        gap, change = self.gap, self.gap_after - self.gap
        along = np.stack([gap] if previous is None else [gap, previous], axis=1)
        left = change - along @ np.linalg.lstsq(along, change, rcond=None)[0]
        moved = np.linalg.norm(self.after[0] - self.before[0])
        return bool(np.linalg.norm(left) <= OF_MOVE * moved + self.rounding)


def _note(record: _Record, step: _Change) -> None:
    size = float(np.linalg.norm(step.gap_after))
    record.gap, record.change = step.gap_after, step.gap_after - step.gap
    record.first = record.first or float(np.linalg.norm(step.gap))
    record.least = min(record.least or record.first, size)


def _rises(record: _Record, step: _Change) -> bool:
    """Whether W − B has grown since the checks before."""
    size = float(np.linalg.norm(step.gap_after))
    return size > max(RISE * record.least, SETTLED * record.first)


def _warn_of_changes_between(record: _Record, step: _Change, layer: FeedbackLayer) -> None:
    if record.gap is None:
        return
    changed = np.linalg.norm(step.gap - record.gap) > step.rounding
    record.between = record.between + 1 if changed else 0
    if record.between == BETWEEN:
        warnings.warn(
            f"{layer.method.name}: W or B of {layer.sketch} changes between the steps of its "
            "optimizer, so B does not follow W; change both alike, or neither",
            stacklevel=2,
        )


def _couples(optimizer: Optimizer) -> bool:
    """Whether the decay may enter a step otherwise than linearly."""
    inside = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    if inside:
        return any(map(_couples, inside))
    if isinstance(optimizer, (torch.optim.SGD, torch.optim.AdamW)):
        return False
    return any(group.get("weight_decay", 1.0) != 0 for group in optimizer.param_groups)


def _is_captured(layer: FeedbackLayer) -> bool:
    """Whether the step is being recorded in a CUDA graph, which cannot wait for values."""
    return layer.weight.is_cuda and torch.cuda.is_current_stream_capturing()


def _entries(layers: Sequence[FeedbackLayer]) -> Array:
    """Entries of W and B, (layers, 2, entries), in one transfer if one device has them all."""
    found = [
        entries(tensor, _records[layer].at)
        for layer in layers
        for tensor in (layer.weight, layer.feedback)
        if tensor is not None
    ]
    if len({values.device for values in found}) > 1:
        found = [values.cpu() for values in found]
    return torch.stack(found).cpu().double().numpy().reshape(len(layers), 2, -1)
