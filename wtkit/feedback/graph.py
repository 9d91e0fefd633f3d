"""The graph of a network's layers: which layer feeds which, including residual branches."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .angles import undisturbed
from .inputs import call, tensors
from .layers import FeedbackLayer, feedback_layers, unwrap

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Call(NamedTuple):
    """One call of a layer, with its node in the autograd graph."""

    layer: str
    node: Any


class _Mark(torch.autograd.Function):
    """A layer's output as a node whose only parent is the layer's input, whatever the method sends
    back. ``anchor`` requires a gradient, so that the graph begins at the first layer."""

    @staticmethod
    def forward(ctx, anchor, y, out):
        return out.clone()  # an in-place ReLU may overwrite the clone


def fed_layers(model: nn.Module, inputs: Any) -> dict[str, list[str]]:
    """The layers that each layer feeds: those that its output reaches without passing another
    layer.

    The graph is that of one forward pass in evaluation mode, which changes nothing in the model,
    nor any gradient or global random stream. A path counts if a gradient could pass it. A layer
    that is never called feeds nothing and is fed by none.

    Args:
        model: a converted model, possibly wrapped by ``torch.compile`` or DistributedDataParallel.
        inputs: a batch of the shape that the model is trained on, as :func:`delta_angles` takes it.

    Returns:
        for each layer, from the input up, the names of those it feeds, in the same order.

    Example:
        >>> import torch, wtkit
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(),
        ...                             torch.nn.Linear(4, 2))
        >>> fed_layers(wtkit.convert(model, "weight_mirror"), torch.randn(1, 4))
        {'0': ['2'], '2': []}
    """
    layers = feedback_layers(model)
    fed: dict[str, set[str]] = {name: set() for name in layers}
    calls = _calls(unwrap(model), layers, inputs)
    layer_of = {made.node: made.layer for made in calls}
    for made in calls:
        for name in _parents(made.node, layer_of):
            fed[name].add(made.layer)
    return {name: [other for other in layers if other in fed[name]] for name in layers}


def _calls(model: nn.Module, layers: dict[str, FeedbackLayer], inputs: Any) -> list[Call]:
    """The calls of all layers in one forward pass, in their order."""
    calls: list[Call] = []
    device = next((tensor.device for tensor in tensors(inputs)), None)
    anchor = torch.zeros((), device=device, requires_grad=True)
    training = {module: module.training for module in model.modules()}
    with undisturbed(model, inputs), torch.enable_grad(), contextlib.ExitStack() as context:
        context.enter_context(torch.compiler.set_stance("force_eager"))

        def mark(layer: str) -> Any:
            def hook(_module: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> Tensor:
                marked = _Mark.apply(anchor, next(iter([*args, *kwargs.values()])), out.detach())
                if marked.grad_fn is not None:  # None if the network is inside torch.no_grad here
                    calls.append(Call(layer, marked.grad_fn))
                return marked

            return hook

        for name, layer in layers.items():
            handle = layer.register_forward_hook(mark(name), with_kwargs=True)
            context.callback(handle.remove)
        try:
            call(model.eval(), inputs)
        finally:
            for module, mode in training.items():
                module.training = mode
    return calls


def _parents(node: Any, layer_of: dict[Any, str]) -> set[str]:
    """The layers whose marks are reached from ``node`` without passing another mark."""
    found: set[str] = set()
    queue, seen = [node], {node}
    while queue:
        for parent, _ in queue.pop().next_functions:
            if parent is None or parent in seen:
                continue
            seen.add(parent)
            if parent in layer_of:
                found.add(layer_of[parent])
            else:
                queue.append(parent)
    return found


def blocks_of(model: nn.Module) -> list[str]:
    """The block of each layer: the innermost module that contains another layer, too; containers
    such as ``nn.Sequential`` and the network itself left out. A layer outside of all blocks is a
    block of its own.

    >>> from wtkit import convert, networks
    >>> model = convert(networks.build_resnet("resnet18", width=4), "backprop")
    >>> blocks_of(model)[:3]
    ['conv1', 'layer1.0', 'layer1.0']
    """
    layers = feedback_layers(model)
    modules = dict(unwrap(model).named_modules())
    blocks = []
    for name in layers:
        parts = name.split(".")
        outer = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
        fitting = (
            other
            for other in outer
            if not isinstance(modules[other], CONTAINERS)
            and sum(layer.startswith(f"{other}.") for layer in layers) > 1
        )
        blocks.append(next(fitting, name))
    return blocks
