""":func:`convert` gives any network feedback layers; :func:`export` takes them away again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .. import methods
from ..errors import WtkitError
from ..methods import Method
from ..seeds import stream_seed
from .choosing import choose, computed, is_computed
from .follow import unwatch, watch
from .initial import initial, refuse_weights
from .layers import PLAIN, TWINS, FeedbackLayer, feedback_layers, refuse_other_than_module, unwrap
from .sharded import is_sharded

_ATTRIBUTES = (
    *("method", "seed", "is_output", "mirror_count", "update_count", "taps", "outputs", "drawn"),
)
"""What a feedback layer has beside a plain layer's attributes."""


def convert(
    model: nn.Module,
    method: str | Method,
    *,
    seed: int | None = None,
    keep_on_backprop: str | Iterable[str] = (),
    **options: Any,
) -> nn.Module:
    """Turn every ``nn.Linear`` and ``nn.Conv2d`` of ``model`` into its feedback twin, in place.

    Weights, device, dtype, hooks and ``state_dict`` names stay. A layer that stores something for
    its feedback path adds ``<layer>.feedback`` to the ``state_dict``; a checkpoint may lack it.
    The ``state_dict`` records the method, and one of another method is refused. Beside weights of a
    lower precision, a B that averages over many small steps is stored in float32. Weights may be on
    the meta device: B is drawn when they are loaded.
    Pass ``model.parameters()`` to the optimizer after conversion: Kolen–Pollack's B is among them.
    A converted model may be converted again.

    Tools that ask for ``type(module) is nn.Linear``, such as dynamic quantisation and some
    initialisations, pass over the converted layers: use them before, or on :func:`export`.

    δ travels through B only if the layer is called. Some modules read ``layer.weight`` and multiply
    by it themselves, such as the attention of torchvision's Swin transformers; keep their layers on
    backprop. ``torch.func.grad`` and ``vmap`` give the method's gradients, also one per example;
    direct feedback refuses them. For forward-mode derivatives, and for tools that trace Python code
    (``torch.fx``, ``torch.jit``), use :func:`export`, whose gradients are backprop's.
    ``torch.compile`` works as usual.

    Args:
        model: any module, including a bare layer.
        method: a method's name, or a :class:`~wtkit.methods.Method`.
        seed: the seed of the feedback path's own random streams; by default
            ``torch.initial_seed()``. B's draws are independent of W's for every seed.
        keep_on_backprop: one or several names of modules or parameters that stay on backprop, with
            everything inside; ``*`` matches any text.
        options: hyper-parameters of the method, if it is given by name.

    Returns:
        ``model`` itself.

    Raises:
        WtkitError: for an unknown method or option; for a model without a layer to convert; for a
            module with weights that δ travels through and that has no feedback twin; for complex
            weights, and a weight that is computed from other tensors; for a pattern in
            ``keep_on_backprop`` that matches nothing.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(8, 2), "kolen_pollack")
        >>> model.B.shape == model.weight.shape
        True
    """
    method = _loaded(method, options)
    seed = torch.initial_seed() if seed is None else seed
    patterns = _patterns(keep_on_backprop)
    chosen = choose(model, patterns)
    if not chosen and not patterns:
        raise WtkitError(
            f"convert: no nn.Linear and no nn.Conv2d in this {type(unwrap(model)).__name__}"
        )
    if method.learns_engaged and method.learns_from_W:
        _refuse_shared(chosen)
    for layer in chosen.values():
        refuse_weights(method.name, layer)
        if is_sharded(layer.get_parameter("weight")):
            raise WtkitError(f"{method.name}: convert the model before fully_shard, not after it")
    seeds = {name: stream_seed(seed, "layer", name) for name in chosen}
    output = _output_layer(model)
    outputs = len(chosen[output].get_parameter("weight")) if output in chosen else None
    # drawn before anything changes, so that a method that fails leaves the model as it was
    with torch.inference_mode(False):  # else no backward pass could keep B
        drawn = {
            name: initial(method, layer, seeds[name], outputs) for name, layer in chosen.items()
        }
    for converted in feedback_layers(model).values():
        _strip(converted)  # also layers that now stay on backprop
    for name, module in chosen.items():
        _make_twin(
            module,
            method,
            seeds[name],
            is_output=name == output,
            outputs=outputs,
            stored=drawn[name],
        )
    return model


def export(model: nn.Module) -> nn.Module:
    """A plain copy of ``model``: torch's own layers, the same weights, no B. ``model`` does not
    change.

    Raises:
        WtkitError: for a layer whose weight or bias is computed from other tensors, or is
            sharded.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(8, 2), "kolen_pollack")
        >>> wtkit.export(model)
        Linear(in_features=8, out_features=2, bias=True)
    """
    refuse_other_than_module("export", model)
    for name, layer in feedback_layers(model).items():
        if is_computed(layer):
            raise WtkitError(f"export: {computed(name, layer)}, then export")
        if is_sharded(layer.weight):
            raise WtkitError(
                f"export: {name!r} is sharded over processes; load the full state_dict into a "
                "model that is not, and export that"
            )
    plain = copy.deepcopy(unwrap(model))
    for layer in feedback_layers(plain).values():
        _strip(layer)
    return plain


def _loaded(method: str | Method, options: dict[str, Any]) -> Method:
    """The method that :func:`convert` was given."""
    if isinstance(method, str):
        return methods.load(method, **options)
    if options:
        raise WtkitError(
            f"convert: options {', '.join(options)} next to a Method; pass them to its constructor"
        )
    return method


def _patterns(keep_on_backprop: str | Iterable[str]) -> list[str]:
    patterns = [keep_on_backprop] if isinstance(keep_on_backprop, str) else keep_on_backprop
    if not isinstance(patterns, Iterable) or isinstance(patterns, (bytes, dict)):
        raise _no_names(keep_on_backprop)
    patterns = list(patterns)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise _no_names(keep_on_backprop)
    return patterns


def _no_names(given: object) -> WtkitError:
    return WtkitError(
        "keep_on_backprop: expected a name of a module or parameter, or a list of them, got "
        f"{given!r}; leave it out to convert all"
    )


def _output_layer(model: nn.Module) -> str | None:
    """The name of the network's last Linear or Conv2d."""
    layers = [
        name for name, module in unwrap(model).named_modules() if isinstance(module, tuple(TWINS))
    ]
    return layers[-1] if layers else None


def _make_twin(
    module: nn.Module,
    method: Method,
    seed: int,
    *,
    is_output: bool,
    outputs: int | None,
    stored: Tensor | None,
) -> None:
    """Turn a plain layer into its feedback twin."""
    module.__class__ = TWINS[type(module)]
    layer = module
    assert isinstance(layer, FeedbackLayer)
    layer.method, layer.seed, layer.is_output = method, seed, is_output
    layer.mirror_count = layer.update_count = 0
    layer.taps, layer.outputs, layer.drawn = ..., outputs, not layer.weight.is_meta
    layer.store(stored)
    watch(layer)


def _strip(layer: FeedbackLayer) -> None:
    """Turn a feedback layer back into the plain layer."""
    unwatch(layer)
    layer._buffers.pop("feedback", None)
    layer._parameters.pop("feedback", None)
    for attribute in _ATTRIBUTES:
        vars(layer).pop(attribute, None)
    layer.__class__ = PLAIN[type(layer)]  # type: ignore[assignment]  # no longer a FeedbackLayer


def _refuse_shared(chosen: dict[str, nn.Module]) -> None:
    """Refuse layers that share one weight, for a method whose B learns with W."""
    first: dict[int, str] = {}
    for name, layer in chosen.items():
        other = first.setdefault(id(layer.weight), name)
        if other != name:
            raise WtkitError(
                f"{other!r} and {name!r} share one weight, which two Bs cannot both follow; untie "
                f"them or leave one on backprop: convert(..., keep_on_backprop=[{name!r}])"
            )
