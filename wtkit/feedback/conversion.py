""":func:`convert` gives any network feedback layers; :func:`export` removes them again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import methods
from ..errors import WtkitError
from ..methods import Method
from ..seeds import stream_seed
from ..validation import shown
from .choosing import choose, choose_scales, computed, is_computed
from .declared import refuse_declaration
from .follow import unwatch, watch
from .initial import initial, refuse_weights
from .inputs import held_tensors, why_refused
from .layers import (
    PLAIN,
    TWINS,
    FeedbackLayer,
    feedback_layers,
    maps_of,
    unwrap,
)
from .normalisation import (
    SCALE_PLAIN,
    SCALE_TWINS,
    initial_of_scale,
    method_of_scales,
)
from .owners import make_twins, parts_of, refuse_direct, strip_twins
from .parts import FeedbackPart, attach, detach
from .sharded import is_sharded
from .strict import refuse_by_modules, refuse_transported
from .transporting import measure

_ATTRIBUTES = (
    *("method", "seed", "is_output", "mirror_count", "update_count", "taps", "outputs", "drawn"),
    "converted_shape",
    "steps_first",
    "examples_first",
    "checked",
    "normalisation",
)
"""What a feedback layer has beside a plain layer's attributes."""


def convert(
    model: nn.Module,
    method: str | Method,
    *,
    seed: int | None = None,
    keep_on_backprop: str | Iterable[str] = (),
    normalisation: str = "exact",
    strict: Any = False,
    **options: Any,
) -> nn.Module:
    """Turn every layer of ``model`` that multiplies by weights into its feedback twin, in place.

    These are ``nn.Linear``, ``nn.Conv1d``, ``Conv2d``, ``Conv3d``, ``nn.ConvTranspose1d``,
    ``ConvTranspose2d``, ``ConvTranspose3d``, and classes of your own that were given to
    :func:`wtkit.feedback.register`.

    Weights, device, dtype, hooks and ``state_dict`` names stay. A layer that stores something for
    its feedback path adds ``<layer>.feedback`` to the ``state_dict``; a checkpoint may lack it.
    The ``state_dict`` records the method, and one of another method is refused. Beside weights of a
    lower precision, a B that averages over many small steps is stored in float32. Weights may be on
    the meta device: B is drawn when they are loaded.
    Pass ``model.parameters()`` to the optimizer after conversion: Kolen–Pollack's B is among them.
    A converted model may be converted again.

    ``nn.MultiheadAttention``, ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and their cells multiply by
    weights of their own. Each such weight becomes a layer, for example ``attention.in_proj`` or
    ``lstm.hh_l0``, whose W stays the module's ``in_proj_weight`` or ``weight_hh_l0``. So
    transformers, torchvision's among them, are converted whole. With gradients a recurrent network
    is a loop over time, whose cost :mod:`wtkit.feedback.recurrent` states; without gradients it is
    torch's own kernel. A B whose W is also an embedding learns from all of W's gradient.

    Tools that ask for ``type(module) is nn.Linear``, such as dynamic quantisation and some
    initialisations, pass over the converted layers: use them before, or on :func:`export`.

    δ travels through B only if the layer is called. A module of your own that reads
    ``layer.weight`` and multiplies by it sends δ through W; call the layer, or keep it on backprop.
    ``torch.func.grad`` and ``vmap`` give the method's gradients, also one per example;
    direct feedback refuses them. For forward-mode derivatives, and for tools that trace Python code
    (``torch.fx``, ``torch.jit``, ``torch.export``), use :func:`export`: what they make of a model
    has backprop's gradients. ``torch.compile`` works as usual.

    Args:
        model: any module, including a bare layer.
        method: a method's name, or a :class:`~wtkit.methods.Method`.
        seed: the seed of the feedback path's own random streams; by default
            ``torch.initial_seed()``. B's draws are independent of W's for every seed.
        keep_on_backprop: one or several names of modules or parameters that stay on backprop, with
            everything inside; ``*`` matches any text.
        normalisation: what δ is multiplied by where it passes the scale γ of BatchNorm, LayerNorm,
            GroupNorm, InstanceNorm or RMSNorm. ``exact``: γ itself; these modules stay as they
            are. ``fixed``: random weights b above 0 that never change. ``learned``: a b that starts
            and learns by the method's own rule. ``none``: 1. A norm with a b is a feedback layer,
            and adds ``<norm>.feedback`` to the ``state_dict``. Convert to SyncBatchNorm before.
        strict: refuse a network in which a weight is transported. ``True`` asks its modules, and
            refuses every parameter of a module that is not known to be harmless; it cannot see
            code that reads a layer's weight without calling the layer. A batch of the model's
            inputs measures a converted copy by :func:`wtkit.transport`, which sees all.
        options: hyper-parameters of the method, if it is given by name.

    Returns:
        ``model`` itself.

    Raises:
        WtkitError: for an unknown method or option; for a model without a layer to convert; for a
            module with weights that δ travels through and that has no feedback twin; for complex
            weights, and a weight that is computed from other tensors; for direct feedback to a
            recurrent network, where it is unclear which step's δ a layer would receive; for a
            pattern in ``keep_on_backprop`` that matches nothing; with ``strict``, for weights that
            are transported, each with the way out.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(8, 2), "kolen_pollack")
        >>> model.B.shape == model.weight.shape
        True
    """
    method = _loaded(method, options)
    seed = torch.initial_seed() if seed is None else seed
    patterns = _patterns(keep_on_backprop)
    chosen = _chosen(model, method, patterns)
    of_scales, scales = _scales(model, method, patterns, normalisation)
    if strict is True:
        refuse_by_modules(model, chosen, method, scales, of_scales)
    elif strict is not False:
        _refuse_measured(strict, model, method, seed, patterns, normalisation)
    seeds = {name: stream_seed(seed, "layer", name) for name in (*chosen, *scales)}
    output = _output_layer(model)
    outputs = None
    if output in chosen:
        last = chosen[output]
        _, outputs = maps_of(last).features(last.get_parameter("weight"))
    # drawn before anything changes, so that a method that fails leaves the model as it was
    with torch.inference_mode(False):  # else no backward pass could keep B
        drawn = {
            name: initial(method, layer, maps_of(layer), seeds[name], outputs)
            for name, layer in chosen.items()
        } | {
            name: initial_of_scale(of_scales, norm.get_parameter("weight"), seeds[name])
            for name, norm in scales.items()
        }
    _strip_all(model)  # also layers that now stay on backprop
    for name, module in (chosen | scales).items():
        _make_twin(
            module,
            of_scales if name in scales else method,
            seeds[name],
            is_output=name == output,
            outputs=None if name in scales else outputs,
            stored=drawn[name],
        )
    make_twins(model)
    if method.direct:
        _note_order(model)
    for norm in scales.values():
        norm.normalisation = normalisation  # type: ignore[assignment]
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
    for name, layer in feedback_layers(model, scales=True).items():
        if is_computed(layer):
            raise WtkitError(f"export: {computed(name, layer)}, then export")
        if is_sharded(layer.weight):
            raise WtkitError(
                f"export: {name!r} is sharded over processes; load the full state_dict into a "
                "model that is not, and export that"
            )
    plain = copy.deepcopy(unwrap(model))
    _strip_all(plain)
    return plain


def _note_order(model: nn.Module) -> None:
    """Note in layers whether their inputs may have positions before examples."""
    examples_first = all(
        module.batch_first
        for module in unwrap(model).modules()
        if isinstance(module, (nn.RNNBase, nn.MultiheadAttention))
    )
    for layer in feedback_layers(model).values():
        layer.examples_first = examples_first


def _chosen(model: nn.Module, method: Method, patterns: list[str]) -> dict[str, nn.Module]:
    """The layers to convert, once it is known that ``method`` can be had with them."""
    for name, module in unwrap(model).named_modules():
        refuse_declaration(name, module)
    chosen = choose(model, patterns)
    if not chosen and not patterns:
        raise WtkitError(
            f"convert: no layer with weights to convert in this {type(unwrap(model)).__name__}; "
            "for layers of your own see wtkit.feedback.register"
        )
    if method.learns_engaged and method.learns_from_W:
        _refuse_shared(chosen)
    if method.direct:
        refuse_direct(unwrap(model), method, chosen)
    for layer in chosen.values():
        refuse_weights(method.name, layer)
        if is_sharded(layer.get_parameter("weight")):
            raise WtkitError(f"{method.name}: convert the model before fully_shard, not after it")
    return chosen


def _scales(
    model: nn.Module, method: Method, patterns: list[str], normalisation: str
) -> tuple[Method, dict[str, nn.Module]]:
    """The normalisations that get a feedback path, and the method of their scales; ``method``
    itself if there are none."""
    of_scales = method_of_scales(method, normalisation)
    if of_scales is None:
        return method, {}
    scales = choose_scales(model, patterns)
    if of_scales.learns_from_W:
        _refuse_shared(scales)
    return of_scales, scales


def _refuse_measured(
    strict: Any, model: nn.Module, method: Method, seed: int, patterns: list[str], choice: str
) -> None:
    """Convert a copy, and raise if its feedback path uses a weight."""
    if not any(True for _ in held_tensors(strict)) and not isinstance(strict, np.ndarray):
        raise WtkitError(
            "convert: expected strict to be True, False, or a batch of the model's inputs, got "
            f"{shown(strict)}"
        )
    trial = copy.deepcopy(unwrap(model))
    convert(trial, method, seed=seed, keep_on_backprop=patterns, normalisation=choice)
    try:
        report = measure(trial, strict, "strict", quiet=True)
    except Exception as error:
        words = why_refused(error)
        if words is None:
            raise
        raise WtkitError(
            f"convert: strict: the model failed with this batch ({words}); expected a batch as "
            "model(inputs) takes it"
        ) from error
    refuse_transported(report, trial)


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
    """The name of the network's last layer, or part of a module that holds weights itself."""
    last = None
    for name, module in unwrap(model).named_modules():
        if isinstance(module, tuple(TWINS)):
            last = name
        for part in parts_of(module):
            last = f"{name}.{part.name}" if name else part.name
    return last


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
    if isinstance(module, FeedbackPart):
        attach(module)
    else:
        module.__class__ = (TWINS | SCALE_TWINS)[type(module)]
    layer = module
    assert isinstance(layer, FeedbackLayer)
    layer.method, layer.seed, layer.is_output = method, seed, is_output
    layer.mirror_count = layer.update_count = 0
    layer.taps, layer.outputs, layer.drawn = ..., outputs, not layer.weight.is_meta
    layer.converted_shape = tuple(layer.weight.shape)
    layer.store(stored)
    watch(layer)


def _strip_all(model: nn.Module) -> None:
    """Turn all layers of ``model`` back into plain ones."""
    for layer in feedback_layers(model, scales=True).values():
        _strip(layer)
    strip_twins(model)


def _strip(layer: FeedbackLayer) -> None:
    """Turn a feedback layer back into the plain layer."""
    unwatch(layer)
    layer._buffers.pop("feedback", None)
    layer._parameters.pop("feedback", None)
    if isinstance(layer, FeedbackPart):
        detach(layer)
        return
    for attribute in _ATTRIBUTES:
        vars(layer).pop(attribute, None)
    layer.__class__ = (PLAIN | SCALE_PLAIN)[type(layer)]  # type: ignore[assignment]  # no longer a FeedbackLayer


def _refuse_shared(chosen: dict[str, nn.Module]) -> None:
    """Refuse layers that share one weight, for a method whose B learns with W. Two parameters may
    share their memory, as a weight and its transpose."""
    first: dict[int, str] = {}
    for name, layer in chosen.items():
        W = layer.get_parameter("weight")
        other = first.setdefault(W.data_ptr() or id(W), name)  # 0 on the meta device
        if other != name:
            raise WtkitError(
                f"{other!r} and {name!r} share one weight, which two Bs cannot both follow; untie "
                f"them or leave one on backprop: convert(..., keep_on_backprop=[{name!r}])"
            )
