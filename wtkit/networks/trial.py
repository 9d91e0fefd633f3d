"""A trial pass that checks whether a converted network can be trained."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from ..errors import WtkitError, is_lack_of_memory
from ..feedback import FeedbackLayer, as_patterns, feedback_layers, undisturbed
from .own import one_line


def try_out(model: nn.Module, images: Tensor, num_classes: int, name: str) -> None:
    """Check by one forward pass in training mode that a converted network can be trained. The pass
    changes nothing.

    Args:
        model: a converted network.
        images: two or more images like those of the training.
        num_classes: the expected number of logits.
        name: the network's name, for errors.

    Raises:
        WtkitError: if all parameters are frozen; if the network cannot take the images; if its
            outputs are not logits (N, num_classes); or if it uses the weights of a converted layer
            without calling the layer, as some attention modules do: δ would travel through W there,
            whatever the method.
    """
    layers = feedback_layers(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise WtkitError(
            f"network {name!r}: all parameters are frozen, so nothing would learn; leave "
            "requires_grad at True for those that are to be trained"
        )
    called: set[nn.Module] = set()
    with undisturbed(model, images), contextlib.ExitStack() as hooks:
        for layer in layers.values():
            hooks.callback(
                layer.register_forward_pre_hook(lambda module, _: called.add(module)).remove
            )
        try:
            with torch.no_grad():
                outputs = model.train()(images)
        except (RuntimeError, AssertionError, ValueError) as error:
            if is_lack_of_memory(error):
                raise
            size = "×".join(map(str, images.shape[2:]))
            raise WtkitError(
                f"network {name!r} cannot take images of {size} pixels ({one_line(error)}); take "
                "another image_size"
            ) from error
        expected = (len(images), num_classes)
        if not isinstance(outputs, Tensor) or outputs.shape != expected:
            is_tensor = isinstance(outputs, Tensor)
            given = f"shape {tuple(outputs.shape)}" if is_tensor else type(outputs).__name__
            raise WtkitError(
                f"network {name!r} returns {given} for {len(images)} images, expected logits "
                f"{expected}"
            )
        not_called = {
            name: layer
            for name, layer in layers.items()
            if layer not in called and layer.method.name != "backprop"
        }
        if not_called:
            _refuse_used(model, images, not_called, called)


def _refuse_used(
    model: nn.Module, images: Tensor, layers: dict[str, FeedbackLayer], called: set[nn.Module]
) -> None:
    """Refuse layers that were not called if the outputs depend on their weights. Some are called
    only where gradients are wanted: then hooks add them to ``called``."""
    for layer in layers.values():
        layer.weight.requires_grad_()
    outputs = model(images)
    layers = {name: layer for name, layer in layers.items() if layer not in called}
    if not layers or not outputs.requires_grad:
        return
    weights = [layer.weight for layer in layers.values()]
    gradients = torch.autograd.grad(outputs.sum(), weights, allow_unused=True)
    used = [name for name, gradient in zip(layers, gradients, strict=True) if gradient is not None]
    if used:
        more = f" (and of {len(used) - 1} more layers)" if len(used) > 1 else ""
        raise WtkitError(
            f"the network uses the weight of {used[0]!r}{more} without calling the layer, so δ "
            f"would not pass through B; keep it on backprop: keep_on_backprop={as_patterns(used)}"
        )
