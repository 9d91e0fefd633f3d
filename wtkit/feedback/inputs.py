"""The inputs of a model for a measurement: one tensor, several tensors, or named tensors."""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import WtkitError, is_lack_of_memory


def call(model: nn.Module, inputs: Any) -> Any:
    """The outputs of ``model`` for ``inputs``: a tuple or list are several inputs, a mapping is
    keyword arguments if ``forward`` takes them, and one input otherwise."""
    if isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
        return model(*inputs)
    if isinstance(inputs, Mapping) and _takes(model, inputs):
        return model(**inputs)
    return model(inputs)


def _takes(model: nn.Module, named: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(model.forward).bind(**named)
    except TypeError:
        return False
    return True


def tensors(inputs: Any) -> Iterator[Tensor]:
    """All tensors of ``inputs``, inside tuples, lists and mappings, too."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        for value in inputs.values():
            yield from tensors(value)
    elif isinstance(inputs, (tuple, list)):
        for value in inputs:
            yield from tensors(value)


def held_tensors(inputs: Any) -> Iterator[Tensor]:
    """All tensors of ``inputs``, also those that objects of the model's own hold."""
    seen: set[int] = set()
    waiting = [inputs]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += _inside(value)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (tuple, list)):
        return list(value)
    if isinstance(value, (type, ModuleType, FunctionType)):  # which lead anywhere
        return []
    slots = (getattr(value, name, None) for name in getattr(type(value), "__slots__", ()))
    return [*getattr(value, "__dict__", {}).values(), *slots]


def refuse_other_than_tensors(inputs: Any) -> None:
    """Raise for inputs that hold no tensor and are no object of the model's own."""
    if inputs is None or isinstance(inputs, (str, bytes, bool, int, float)):
        raise WtkitError(
            "inputs: expected a batch as a torch.Tensor, or a tuple or dict of several, got "
            f"{inputs!r}"
        )


_REFUSALS = (TypeError, AttributeError, ValueError, IndexError, RuntimeError)


def say_who_refused(error: Exception, function: str, given: Mapping[str, Any]) -> WtkitError | None:
    """The error to raise where the user's model or loss refused the user's inputs or targets; None
    for functions without inputs, for lack of memory, and for errors of another kind."""
    words = why_refused(error) if "inputs" in given else None
    if words is None:
        return None
    return WtkitError(
        f"{function}: the model or the loss failed with these inputs and targets ({words}); "
        "expected a batch as model(inputs) takes it"
    )


def why_refused(error: Exception) -> str | None:
    """The words of an error that a model or loss raised for what it was given; None for lack of
    memory, and for errors of another kind."""
    if isinstance(error, WtkitError) or not isinstance(error, _REFUSALS):
        return None
    if is_lack_of_memory(error):
        return None
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 200, placeholder='…')}"


def usable(inputs: Any, name: str) -> Any:
    """``inputs``, with copies of the tensors that were made in inference mode, which no backward
    pass may keep.

    Raises:
        WtkitError: for arrays and other things that are no tensors; ``name`` is what they are.
    """
    if isinstance(inputs, Tensor):
        return inputs.clone() if inputs.is_inference() else inputs
    if isinstance(inputs, dict):
        return {key: usable(value, f"{name}[{key!r}]") for key, value in inputs.items()}
    if type(inputs) in (tuple, list):
        return type(inputs)(usable(value, f"{name}[{i}]") for i, value in enumerate(inputs))
    if isinstance(inputs, (np.ndarray, np.generic)):
        raise WtkitError(
            f"{name}: expected a torch.Tensor, got a NumPy array; give it torch.as_tensor({name})"
        )
    return inputs


@contextlib.contextmanager
def out_of_inference_mode(model: nn.Module) -> Iterator[None]:
    """Within this context gradients can be computed, also inside ``torch.inference_mode`` or
    ``no_grad``.

    Raises:
        WtkitError: for a model that was made in inference mode.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise WtkitError(
            "the model's parameters were made inside torch.inference_mode, so no gradient passes "
            "them; make the model outside"
        )
    with torch.inference_mode(False), torch.enable_grad():
        yield
