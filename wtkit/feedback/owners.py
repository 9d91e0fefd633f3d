"""Modules that multiply by weights without calling a layer, and their feedback twins."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from torch import nn

from ..errors import WtkitError
from ..methods import Method
from .attention import FeedbackMultiheadAttention
from .layers import FeedbackLayer
from .parts import FeedbackPart, Held, Owner
from .recurrent import (
    FeedbackGRU,
    FeedbackGRUCell,
    FeedbackLSTM,
    FeedbackLSTMCell,
    FeedbackRNN,
    FeedbackRNNCell,
)

_TWINS: tuple[type[Owner], ...] = (
    FeedbackMultiheadAttention,
    FeedbackRNN,
    FeedbackLSTM,
    FeedbackGRU,
    FeedbackRNNCell,
    FeedbackLSTMCell,
    FeedbackGRUCell,
)


def _twins() -> Iterator[type[Owner]]:
    yield from _TWINS
    if "torchvision.models.swin_transformer" in sys.modules:  # else no model has such a module
        from . import windows

        yield from windows.TWINS


def twin_of(module: nn.Module) -> type[Owner] | None:
    """The twin of a plain ``module``, or the class of one that is a twin; None for other kinds."""
    return next((twin for twin in _twins() if type(module) in (twin, twin.plain)), None)


def has_twin(kind: type[nn.Module]) -> bool:
    """Whether modules of the plain ``kind`` have a twin."""
    return any(twin.plain is kind for twin in _twins())


def base_of(module: nn.Module) -> type[nn.Module] | None:
    """The kind that ``module`` is a subclass of, without being of that kind."""
    if twin_of(module) is not None:
        return None
    return next((twin.plain for twin in _twins() if isinstance(module, twin.plain)), None)


def held_by(kind: type[nn.Module], module: nn.Module) -> dict[str, Held]:
    """Where ``module``, of the plain ``kind`` or derived from it, holds its parts' weights."""
    return next((twin.held(module) for twin in _twins() if twin.plain is kind), {})


def parts_of(module: nn.Module) -> list[FeedbackPart]:
    """New parts for ``module``, which are not attached to it."""
    twin = twin_of(module)
    held = {} if twin is None else twin.held(module)
    return [FeedbackPart(module, name, at) for name, at in held.items()]


def make_twins(model: nn.Module) -> None:
    """Have modules of these kinds use their parts and converted layers, where they have any."""
    for module in model.modules():
        twin = twin_of(module)
        layers = [child for child in module.children() if isinstance(child, FeedbackLayer)]
        if twin is not None and layers:
            for layer in layers:
                layer.steps_first = twin.steps_first(module)
            module.__class__ = twin


def strip_twins(model: nn.Module) -> None:
    """Undo :func:`make_twins`."""
    for module in model.modules():
        if isinstance(module, Owner):
            module.__class__ = module.plain  # type: ignore[assignment]  # no longer an Owner


def refuse_direct(model: nn.Module, method: Method, chosen: dict[str, nn.Module]) -> None:
    """Refuse a method that sends the output layer's δ to what it cannot belong to.

    Raises:
        WtkitError: for recurrent modules, and for layers that see no examples.
    """
    for name, module in model.named_modules():
        twin = twin_of(module)
        refused = None if twin is None else twin.refuses_direct(module)
        if refused is None:
            continue
        inside, reason = refused
        names = [".".join(filter(None, (name, each))) for each in inside]
        if any(_is_in(layer, names) for layer in chosen):
            kind = module.plain if isinstance(module, Owner) else type(module)
            raise WtkitError(
                f"{method.name}: {repr(name) if name else 'the model itself'} ({kind.__name__}) "
                f"{reason}; leave it on backprop: keep_on_backprop={names if name else ['*']}, or "
                "take another method, such as kolen_pollack"
            )


def _is_in(layer: str, names: list[str]) -> bool:
    return any(not name or layer == name or layer.startswith(f"{name}.") for name in names)
