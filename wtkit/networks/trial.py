"""A trial pass of a converted network: whether it can be trained as it is."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from ..errors import WtkitError, is_lack_of_memory
from ..feedback import FeedbackLayer, as_patterns, feedback_layers, undisturbed
from .by_name import one_line


def try_out(model: nn.Module, images: Tensor, num_classes: int, name: str) -> None:
    """One forward pass of a converted network as in training, of which nothing stays, to see that
    it can be trained.

    Args:
        images: two or more, as they will be trained on.

    Raises:
        WtkitError: where the network cannot take the images; where its outputs are not logits (N,
            num_classes); and where it uses the weights of a converted layer without calling the
            layer, as some attention does: δ would travel through W there, whatever the method.
    """
    layers = feedback_layers(model)
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
            found = (
                (f"shape {tuple(outputs.shape)}")
                if isinstance(outputs, Tensor)
                else type(outputs).__name__
            )
            raise WtkitError(
                f"network {name!r} gives {found} for {len(images)} images, expected "
                f"logits {expected}"
            )
        passed_by = {
            name: layer
            for name, layer in layers.items()
            if layer not in called and layer.method.name != "backprop"
        }
        if passed_by:
            _refuse_used(model, images, passed_by)


def _refuse_used(model: nn.Module, images: Tensor, layers: dict[str, FeedbackLayer]) -> None:
    """Refuse layers that were not called but whose weights the outputs depend on all the same."""
    weights = [layer.weight.requires_grad_() for layer in layers.values()]
    outputs = model(images)
    if not outputs.requires_grad:
        return
    found = torch.autograd.grad(outputs.sum(), weights, allow_unused=True)
    used = [name for name, gradient in zip(layers, found, strict=True) if gradient is not None]
    if used:
        these = (
            (f"weights of {used[0]!r} and {len(used) - 1} more layers")
            if len(used) > 1
            else f"weight of {used[0]!r}"
        )
        raise WtkitError(
            f"the network uses the {these} without calling "
            f"{'them' if len(used) > 1 else 'the layer'}, so that δ would not pass through B; "
            f"leave that on backprop: backprop={as_patterns(used)}"
        )
