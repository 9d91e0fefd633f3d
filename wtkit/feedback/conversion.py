""":func:`convert` gives any network feedback layers; :func:`export` takes them away again."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from .. import methods
from ..errors import WtkitError
from ..methods import Method
from ..methods.base import initial_scale
from ..seeds import stream_seed
from ..validation import nearest
from .follow import following_layers, learning_layers, watch
from .layers import PLAIN, TWINS, FeedbackLayer, feedback_layers, unwrap

# Modules whose parameters only scale and shift single elements, or look rows up: no error signal is
# mixed by them.
_ELEMENTWISE = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
    nn.EmbeddingBag,
)


def convert(
    model: nn.Module,
    method: str | Method,
    *,
    seed: int | None = None,
    backprop: str | Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """Turn every ``nn.Linear`` and ``nn.Conv2d`` of ``model`` into its feedback twin, in place.

    Weights, device, dtype, hooks and ``state_dict`` names stay; a layer that keeps something for
    its feedback path adds ``<layer>.feedback`` to the ``state_dict``, which a checkpoint may lack.
    Take ``model.parameters()`` for the optimizer afterwards: Kolen–Pollack's B is among them. A
    converted model may be converted again.

    A layer must be called to send δ through B: where a module takes ``layer.weight`` and multiplies
    by itself, as the attention of torchvision's Swin transformers does, leave its layers on
    backprop. For ``torch.func``'s derivatives, and for what traces Python code (``torch.fx``,
    ``torch.jit``), take :func:`export`; ``torch.compile`` needs nothing.

    Args:
        model: any module, a bare layer included.
        method: a method's name, or a :class:`~wtkit.methods.Method`.
        seed: of the feedback path's own random streams; by default ``torch.initial_seed()``. No
            seed draws B like W.
        backprop: a name, or several, of modules or parameters that stay on backprop, with all
            inside; ``*`` matches any text.
        options: hyper-parameters of the method, if it is given by name.

    Returns:
        ``model`` itself.

    Raises:
        WtkitError: for an unknown method or option; for a model without a layer to convert; for a
            module that cannot be treated and that carries weights an error signal travels through;
            for a pattern in ``backprop`` that matches nothing.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(8, 2), "kolen_pollack")
        >>> model.B.shape == model.weight.shape
        True
    """
    if not isinstance(model, nn.Module):
        raise WtkitError(
            f"convert: expected an nn.Module, then a method, got {type(model).__name__}"
        )
    if isinstance(method, str):
        method = methods.load(method, **options)
    elif not isinstance(method, Method):
        raise WtkitError(f"convert: expected a method's name or a Method, got {method!r}")
    elif options:
        raise WtkitError(
            f"options {', '.join(options)} given beside a Method; put them in its constructor"
        )
    seed = torch.initial_seed() if seed is None else seed

    chosen = _choose(model, [backprop] if isinstance(backprop, str) else backprop)
    if not chosen and not backprop:
        raise WtkitError(
            f"convert: no nn.Linear and no nn.Conv2d in this {type(unwrap(model)).__name__}"
        )
    if method.learns_engaged:
        _refuse_shared(chosen)
    seeds = {name: stream_seed(seed, "layer", name) for name in chosen}
    # drawn before anything is changed, so that a method that fails leaves the model as it was
    last = [
        name for name, module in unwrap(model).named_modules() if isinstance(module, tuple(TWINS))
    ][-1:]
    outputs = len(chosen[last[0]].get_parameter("weight")) if last and last[0] in chosen else None
    initial = {
        name: _initial(method, layer, seeds[name], outputs) for name, layer in chosen.items()
    }
    for converted in feedback_layers(model).values():
        _strip(converted)  # also where it now stays on backprop
    for name, module in chosen.items():
        layer = _twin(module)
        layer.method = method
        layer.seed = seeds[name]
        layer.is_output = name in last
        layer.mirror_count = layer.update_count = 0
        layer.taps = ...
        kept = initial[name]
        if method.learns_engaged and kept is not None:
            layer.register_parameter("feedback", nn.Parameter(kept, requires_grad=False))
        else:
            layer.register_buffer("feedback", kept)
        watch(layer)
    return model


def export(model: nn.Module) -> nn.Module:
    """A plain copy of ``model``: torch's own layers, no B, the same weights. ``model`` stays as it
    is."""
    plain = copy.deepcopy(unwrap(model))
    for layer in feedback_layers(plain).values():
        _strip(layer)
    return plain


def _initial(method: Method, layer: nn.Module, seed: int, outputs: int | None) -> Tensor | None:
    """What a layer keeps for its feedback path; raises where the B that it makes is not in the
    shape that it must have.

    Args:
        outputs: of the network, where its last layer is to be converted.
    """
    W = layer.get_parameter("weight").detach()
    like = W
    if method.direct:
        if outputs is None:
            raise WtkitError(
                f"{method.name}: the network's last layer has its δ to send, and "
                "cannot stay on backprop"
            )
        like = (
            initial_scale(W).to(W.dtype).expand(outputs, W.shape[1] * getattr(layer, "groups", 1))
        )
    kept = method.initial(like, torch.Generator().manual_seed(stream_seed(seed, "feedback")))
    B = method.feedback_weights(W, kept)
    if B is not None and B.shape != like.shape:
        raise WtkitError(
            f"{method.name}: feedback_weights gave shape {tuple(B.shape)}, expected "
            f"{tuple(like.shape)}"
        )
    return kept


def _twin(layer: nn.Module) -> FeedbackLayer:
    """Make a plain layer its feedback twin."""
    layer.__class__ = TWINS[type(layer)]
    assert isinstance(layer, FeedbackLayer)
    return layer


def _strip(layer: FeedbackLayer) -> None:
    """Make a feedback layer the plain layer that it was."""
    learning_layers.discard(layer)
    following_layers.discard(layer)
    layer._buffers.pop("feedback", None)
    layer._parameters.pop("feedback", None)
    for attribute in ("method", "seed", "is_output", "mirror_count", "update_count", "taps"):
        delattr(layer, attribute)
    layer.__class__ = PLAIN[type(layer)]  # type: ignore[assignment]  # it is a FeedbackLayer no more


def convertible(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that has a feedback twin, or such a twin."""
    return (type(module) in TWINS or type(module) in PLAIN) and "weight" in module._parameters


def _choose(model: nn.Module, backprop: Sequence[str]) -> dict[str, nn.Module]:
    """The layers to convert, by name; raises for what can neither be converted nor left alone."""
    unmatched = set(backprop)
    exempt: list[str] = []

    def stays(name: str) -> bool:
        hits = {pattern for pattern in backprop if fnmatch(name, pattern)}
        unmatched.difference_update(hits)
        return bool(hits) or any(name.startswith(f"{module}.") for module in exempt)

    chosen: dict[str, nn.Module] = {}
    untreatable: dict[str, str] = {}  # what would have to stay on backprop, and why
    for name, module in unwrap(model).named_modules():
        if stays(name):
            exempt.append(name)
        elif convertible(module):
            chosen[name] = module
        elif not isinstance(module, _ELEMENTWISE):
            for own, parameter in module.named_parameters(recurse=False):
                full = f"{name}.{own}" if name else own
                if not stays(full) and _mixes(parameter):
                    # the parameter alone where the module holds layers that can be converted, or
                    # else all of it
                    inner = any(map(convertible, module.modules()))
                    untreatable[full if inner else name or "*"] = _described(name, module, own)
                    if not inner:
                        exempt.append(name)
                        break
    if untreatable:
        raise _untreatable(untreatable)
    if unmatched:
        pattern = sorted(unmatched)[0]
        names = [name for name, _ in model.named_modules() if name] + [
            name for name, _ in model.named_parameters()
        ]
        for name, layer in chosen.items():
            if any(fnmatch(f"{name}.{own}" if name else own, pattern) for own in layer._parameters):
                raise WtkitError(
                    f"backprop: {pattern!r} is a parameter of a layer, which stays "
                    f"whole; take {name!r}"
                )
        outermost = ", ".join(name for name, _ in unwrap(model).named_children()) or "none"
        raise WtkitError(
            f"backprop: {pattern!r} matches no module or parameter of the "
            f"model{nearest(pattern, names)}; outermost modules: {outermost}"
        )
    return chosen


def _mixes(parameter: Tensor) -> bool:
    """Whether a parameter might be multiplied with a vector of activities: more than one dimension
    is not trivial."""
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return True
    return sum(size > 1 for size in parameter.shape) > 1


def _described(name: str, module: nn.Module, parameter: str) -> str:
    where = (
        (f"{name!r} ({type(module).__name__})")
        if name
        else f"the model itself ({type(module).__name__})"
    )
    return f"{where}: {parameter!r} carries weights that δ may travel through"


def _untreatable(found: dict[str, str]) -> WtkitError:
    first, more = (
        next(iter(found.values())),
        (f" (and {len(found) - 1} more)") if len(found) > 1 else "",
    )
    return WtkitError(
        f"cannot convert {first}{more}; only nn.Linear and nn.Conv2d have a feedback twin. "
        f"To leave it on backprop: convert(..., backprop={as_patterns(found)}), or the setting "
        "'backprop' of a run"
    )


def as_patterns(names: Iterable[str]) -> list[str]:
    """As few patterns as match ``names``, with ``*`` where several differ in numbers alone."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return [pattern if len(those) > 1 else those[0] for pattern, those in alike.items()]


def _refuse_shared(chosen: dict[str, nn.Module]) -> None:
    first: dict[int, str] = {}
    for name, layer in chosen.items():
        other = first.setdefault(id(layer.weight), name)
        if other != name:
            raise WtkitError(
                f"{other!r} and {name!r} share one weight, which two Bs cannot both follow; "
                f"untie them or leave one on backprop: convert(..., backprop=[{name!r}])"
            )
