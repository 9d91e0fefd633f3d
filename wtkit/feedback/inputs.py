"""The inputs of a model that is measured: a tensor, several tensors, or named ones."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import WtkitError


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


def refuse_other_than_tensors(inputs: Any) -> None:
    """Raise for inputs that hold no tensor and are no object of the model's own."""
    if inputs is None or isinstance(inputs, (str, bytes, bool, int, float)):
        raise WtkitError(
            "inputs: expected a batch as a torch.Tensor, or a tuple or dict of several, got "
            f"{inputs!r}"
        )


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
