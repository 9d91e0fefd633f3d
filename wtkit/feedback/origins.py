"""What each tensor of a forward pass was computed from: constants, weights alone, or activations.

:func:`wtkit.transport` must distinguish a copy of a weight from an activation. Their values do not
show the difference: an activation may be the same for all inputs, as behind dead ReLUs or many
sigmoids, for inputs of zeros, or in a step that starts from h = 0. So each operation of the pass is
traced, from the inputs on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .inputs import held_tensors
from .layers import PLAIN, TWINS, FeedbackLayer


class Kind(IntEnum):
    """Kinds of tensors, in order. The output of an operation has the last kind among its inputs. An
    input of an earlier kind than the output acts as a weight in that operation."""

    CONSTANT = 0
    """Made in the pass of nothing: h = 0."""
    WEIGHTS = 1
    """Parameters and buffers, and what is made of them alone: a cast, signs, a spectral norm."""
    LEARNED = 2
    """What a module with parameters makes of weights: a network's table of positions. What a layer
    makes of a constant, too."""
    ACTIVITY = 3
    """Inputs, and what is made of them. What a layer makes of zeros, too: they are the state before
    the first step."""


class _Origin(NamedTuple):
    """The kind of a tensor, and the parameters that it was computed from."""

    kind: Kind = Kind.CONSTANT
    names: frozenset[str] = frozenset()


class Origins(TorchDispatchMode):
    """Traces a forward pass of ``model`` inside :meth:`following`.

    Attributes:
        uses: in how many operations each parameter, or a tensor computed from it, acted as a
            weight.
        numbers: the parameters whose values, or what is computed from them, the model turned into
            Python numbers.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor], inputs: Any) -> None:
        super().__init__()
        self.model, self.parameters, self.inputs = model, parameters, inputs
        self.uses: Counter[str] = Counter()
        self.numbers: set[str] = set()
        self._alive: list[torch.UntypedStorage] = []  # else another tensor may get the same storage
        self._of: dict[int, _Origin] = {}  # by storage: a view is made of what its base is made of
        self._made: dict[int, Kind] = {}  # by the number of the operation's node in the graph
        self._recurrent = 0  # modules that are running now, which make h = 0 themselves

    def kind(self, tensor: Tensor) -> Kind:
        return self._get(tensor).kind

    def names(self, tensor: Tensor) -> frozenset[str]:
        """The parameters that ``tensor`` was computed from, if it is no activation."""
        return self._get(tensor).names

    def kind_made(self, node: Any) -> Kind:
        """Of what the operation made that ``node`` of the graph goes back through."""
        return self._made.get(node._sequence_nr(), Kind.CONSTANT)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Within this context the model's pass is followed."""
        for buffer in self.model.buffers():
            self._set(buffer, _Origin(Kind.WEIGHTS))
        for name, parameter in self.parameters.items():
            self._set(parameter, _Origin(Kind.WEIGHTS, frozenset([name])))
        for tensor in held_tensors(self.inputs):
            self._set(tensor, _Origin(Kind.ACTIVITY))
        with contextlib.ExitStack() as context:
            for module in _with_parameters(self.model):
                enter = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                context.callback(enter.remove)
                leave = module.register_forward_hook(self._leave, always_call=True)
                context.callback(leave.remove)
            context.callback(self._alive.clear)
            context.enter_context(self)
            yield

    def _enter(self, module: nn.Module, args: Any, named: Any) -> Any:
        """What a module is called with is an activity there, and elsewhere what it was."""
        self._recurrent += isinstance(module, _RECURRENT)
        is_layer = isinstance(module, (FeedbackLayer, *TWINS, *PLAIN))

        def taken(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            kind, names = self._get(value)
            if is_layer and not names and kind < Kind.LEARNED and not value.any():
                origin = _Origin(Kind.ACTIVITY)
            elif kind is Kind.WEIGHTS or (is_layer and kind is Kind.CONSTANT):
                origin = _Origin(Kind.LEARNED, names)
            else:
                return value
            copied = value.clone()
            self._set(copied, origin)
            return copied

        copies = {id(each): taken(each) for each in _tensors((args, named))}
        if all(id(copied) == before for before, copied in copies.items()):
            return None  # a list stays the caller's own
        # one object stays one: attention asks whether q is k
        return tree_map(lambda value: copies.get(id(value), value), (args, named))

    def _leave(self, module: nn.Module, *_: Any) -> None:
        self._recurrent -= isinstance(module, _RECURRENT)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [self._get(each) for each in _tensors((args, kwargs))]
        out = func(*args, **kwargs)
        made = _Origin() if _fills(func) else _joined(given)
        if not given and self._recurrent:
            made = _Origin(Kind.ACTIVITY)
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_floating_point():
            self.numbers |= made.names
        self.uses.update(name for each in given if each.kind < made.kind for name in each.names)
        number = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        self._made.setdefault(number, made.kind)  # operations that follow it are not recorded
        written = [
            value
            for at, value in zip(func._schema.arguments, args, strict=False)
            if at.alias_info is not None and at.alias_info.is_write
        ]
        for tensor in _tensors((out, written)):
            self._set(tensor, made)
        return out

    def _get(self, tensor: Tensor) -> _Origin:
        return self._of.get(_key(tensor), _Origin())

    def _set(self, tensor: Tensor, origin: _Origin) -> None:
        with contextlib.suppress(NotImplementedError, RuntimeError):  # a sparse tensor has none
            self._alive.append(tensor.untyped_storage())
        self._of[_key(tensor)] = origin


_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def _with_parameters(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of ``model`` that have parameters of their own or hold parts, but those that
    compute a weight."""
    computing = {
        inside
        for module in model.modules()
        if isinstance(module, ParametrizationList)
        for inside in module.modules()
    }
    for module in model.modules():
        has_own = any(own is not None for own in module._parameters.values())
        if (has_own or isinstance(module, FeedbackLayer)) and module not in computing:
            yield module


def _joined(origins: list[_Origin]) -> _Origin:
    kind = max((origin.kind for origin in origins), default=Kind.CONSTANT)
    if kind is Kind.ACTIVITY:
        return _Origin(kind)
    return _Origin(kind, frozenset().union(*(origin.names for origin in origins)))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _fills(func: Any) -> bool:
    """Whether an operation takes of a tensor its shape alone: ``zeros_like``, ``new_ones``."""
    name = func._schema.name.partition("::")[2]
    return name.startswith("new_") or name.endswith("_like")


def _key(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a sparse tensor has none
        return -id(tensor)
