"""Which layers of a model are converted, and which modules must be named to stay on backprop."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..errors import WtkitError
from ..validation import nearest
from .layers import PLAIN, TWINS, twin_of_kind, unwrap
from .normalisation import SCALE_PLAIN, SCALE_TWINS
from .owners import base_of, held_by, parts_of
from .parts import FeedbackPart, Held, Owner
from .sharded import is_sharded

# These modules' parameters only scale and shift single elements, or are rows of a table: they do
# not mix the elements of an error signal.
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
_NO_MAPS: dict[type[nn.Module], str] = {
    nn.Bilinear: "multiplies two inputs by each other: what one sends back passes through the other"
}
"""Why a feedback path in the place of W has no meaning for a kind of layer."""

# Parameters that these modules of torchvision add to activities or to scores, or put beside them: δ
# passes that unchanged. Of other modules it is not known what they do with theirs.
_ADDED = {
    "torchvision.models.vision_transformer.VisionTransformer": ("class_token",),
    "torchvision.models.vision_transformer.Encoder": ("pos_embedding",),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("relative_position_bias_table",),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": (
        "relative_position_bias_table",
    ),
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": (
        "relative_position_bias_table",
    ),
    "torchvision.models.video.mvit.PositionalEncoding": (
        "class_token",
        "class_pos",
        "spatial_pos",
        "temporal_pos",
    ),
}


def convertible(module: nn.Module) -> bool:
    """Whether ``module`` is a layer that has a feedback twin, or is such a twin."""
    return _is_layer(module) and "weight" in module._parameters


def _is_layer(module: nn.Module) -> bool:
    return type(module) in PLAIN or twin_of_kind(type(module)) is not None


def choose(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The layers to convert, by name.

    Args:
        patterns: names of modules and parameters that stay on backprop, with everything inside.

    Raises:
        WtkitError: for weights that δ may travel through and that have no feedback twin; for a
            pattern that matches nothing.
    """
    exempt = _ExemptNames(patterns)
    chosen: dict[str, nn.Module] = {}
    untreatable: dict[str, str] = {}  # name of what would have to stay on backprop → the reason
    names = _all_names(unwrap(model))
    for name, module in unwrap(model).named_modules():
        if exempt.matches(*names[module]):
            exempt.modules += names[module]
        elif isinstance(module, FeedbackPart):
            _refuse_alone(name, module)  # otherwise its owner gets new parts
        elif convertible(module):
            chosen[name] = module
        elif not isinstance(module, _ELEMENTWISE):
            untreatable |= _untreatable_parts(names[module], module, exempt)
            chosen |= _chosen_parts(names[module], module, exempt)
    if untreatable:
        raise _cannot_convert(untreatable, unwrap(model), some=bool(chosen))
    if exempt.unmatched:
        raise _matches_nothing(sorted(exempt.unmatched)[0], model, chosen)
    return chosen


def _chosen_parts(
    names: list[str], module: nn.Module, exempt: _ExemptNames
) -> dict[str, FeedbackPart]:
    """The parts of a module to convert, by name. One stays on backprop if it is named, or its
    weight is."""
    parts = {}
    for part in parts_of(module):
        own = (part.name, part.held.weight)
        full = [f"{at}.{each}" if at else each for at in names for each in own]
        if not exempt.matches(*full):
            parts[full[0]] = part
    return parts


def _refuse_alone(name: str, part: FeedbackPart) -> None:
    """Refuse the conversion of a part without its owner."""
    if not name:
        raise WtkitError(
            f"convert: this is a part of another module, {part.sketch}; convert that module, or "
            "the model that has it"
        )


def choose_scales(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The normalisations of ``model`` that have a scale, by name.

    Args:
        patterns: names of modules that stay on backprop, with everything inside.

    Raises:
        WtkitError: for a subclass of a normalisation, which may do anything with its scale.
    """
    exempt = _ExemptNames(patterns)
    chosen: dict[str, nn.Module] = {}
    names = _all_names(unwrap(model))
    for name, module in unwrap(model).named_modules():
        kind = type(module)
        if exempt.matches(*names[module]):
            exempt.modules += names[module]
        elif kind in SCALE_TWINS or kind in SCALE_PLAIN:
            if module._parameters.get("weight") is not None:
                chosen[name] = module
        elif isinstance(module, _ELEMENTWISE) and any(map(is_lazy, module.parameters())):
            raise _has_no_shape(name, module, "weight")
        elif issubclass(kind, tuple(SCALE_TWINS)) and list(module.parameters()):
            raise WtkitError(
                f"normalisation: {name!r} ({kind.__module__}.{kind.__name__}) is a subclass of "
                "torch's, which may do anything with its scale, so it has no feedback path; leave "
                f"it on backprop: keep_on_backprop={[name or '*']}, or take torch's own class"
            )
    return chosen


class _ExemptNames:
    """The patterns of names that stay on backprop.

    Attributes:
        modules: names of modules that stay; their submodules and parameters then stay as well.
        unmatched: patterns that have not matched any name so far.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = patterns
        self.modules: list[str] = []
        self.unmatched = set(patterns)

    def matches(self, *names: str) -> bool:
        """Whether a module or parameter with these names stays on backprop."""
        matching = {p for p in self.patterns if any(fnmatch(name, p) for name in names)}
        self.unmatched -= matching
        inside = tuple(f"{module}." if module else "" for module in self.modules)
        return bool(matching) or any(name.startswith(inside) for name in names)


def _all_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every name of every module: one that is registered twice has two."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def _untreatable_parts(names: list[str], module: nn.Module, exempt: _ExemptNames) -> dict[str, str]:
    """The parts of a module without a feedback twin that δ may travel through, with the reasons."""
    name = names[0]
    parts: dict[str, str] = {}
    if is_computed(module):
        exempt.modules += names  # what computes the weight is not to be named, too
        return {name or "*": computed(name, module)}
    base = base_of(module)
    if base is not None:
        if any(map(is_sharded, module.parameters())):  # which has made a subclass of it
            raise WtkitError(
                f"{_where(name, module)} is sharded; convert the model before fully_shard, not "
                "after it"
            )
        exempt.modules += names
        return {
            name or "*": f"{_where(name, module)}: a subclass of {base.__name__} may multiply by "
            "its weights in ways of its own"
        }
    known = _known_parameters(module)
    biases = {part.held.bias for part in parts_of(module)}
    for own, parameter in module.named_parameters(recurse=False):
        if is_lazy(parameter):
            raise _has_no_shape(name, module, own)
        if own in biases:  # its part stays on backprop whole, or not
            continue
        full = [f"{at}.{own}" if at else own for at in names]
        if exempt.matches(*full) or own in known or not _mixes(parameter):
            continue
        why = _NO_MAPS.get(type(module), "carries weights that δ may travel through")
        reason = f"{_where(name, module)}: {own!r} {why}"
        if not any(convertible(m) or parts_of(m) for m in module.modules()):
            exempt.modules += names
            return parts | {name or "*": reason}  # the whole module
        parts[full[0]] = reason  # the parameter alone: the module also holds convertible layers
    return parts


def _has_no_shape(name: str, module: nn.Module, own: str) -> WtkitError:
    """The error for a parameter of a lazy module."""
    said = (
        f"cannot convert {_where(name, module)}: {own!r} has no shape before the first batch; run "
        "one batch through the model, then convert"
    )
    keep = f", or leave it on backprop: convert(..., keep_on_backprop=[{name!r}])" if name else ""
    return WtkitError(said + keep)


def _known_parameters(module: nn.Module) -> set[str]:
    """The parameters of ``module`` that its parts multiply by, or that are added."""
    return {part.held.weight for part in parts_of(module)} | set(added_by(module))


def added_by(module: nn.Module) -> tuple[str, ...]:
    """The parameters of ``module`` that δ passes unchanged, if it is known."""
    kind = module.plain if isinstance(module, Owner) else type(module)
    return _ADDED.get(f"{kind.__module__}.{kind.__qualname__}", ())


def is_computed(module: nn.Module) -> bool:
    """Whether ``module`` is a layer, or has parts, whose weight or bias is computed from other
    tensors."""
    return bool(_computed_names(module))


def _computed_names(module: nn.Module) -> list[str]:
    if isinstance(module, FeedbackPart):
        return [] if module.weight_parameter() is not None else [module.held.weight]
    if isinstance(module, tuple(TWINS)):
        wanted = ["weight", "bias"]
    else:
        held = [part.held for part in parts_of(module)] or _held_by_parametrized(module)
        wanted = [name for at in held for name in (at.weight, at.bias) if name is not None]
    return [name for name in wanted if name not in module._parameters]


def _held_by_parametrized(module: nn.Module) -> list[Held]:
    """What a module holds whose class a parametrization has changed."""
    kind = base_of(module)
    if kind is None or not is_parametrized(module):
        return []
    return list(held_by(kind, module).values())


def computed(name: str, module: nn.Module) -> str:
    """What is wrong with such a layer, and how to change it."""
    what = _computed_names(module)[0]
    return (
        f"{_where(name, module)}: {what!r} is computed from other tensors, by pruning or a "
        "parametrization; remove that (torch.nn.utils.prune.remove, "
        "parametrize.remove_parametrizations), convert, and then parametrize the converted layer"
    )


def _mixes(parameter: Tensor) -> bool:
    """Whether a parameter may multiply a vector of activities: it has two or more dimensions larger
    than 1."""
    return sum(size > 1 for size in parameter.shape) > 1


def _where(name: str, module: nn.Module) -> str:
    kind = type(module)
    named_as_torchs = getattr(nn, kind.__name__, kind) is not kind
    called = f"{kind.__module__}.{kind.__name__}" if named_as_torchs else kind.__name__
    return f"{repr(name) if name else 'the model itself'} ({called})"


def _cannot_convert(reasons: dict[str, str], model: nn.Module, *, some: bool) -> WtkitError:
    """The error for parts that cannot be converted.

    Args:
        some: whether other layers can be: else none is left if these stay on backprop.
    """
    first = next(iter(reasons.values()))
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    said = f"cannot convert {first}{more}; it has no feedback layer"
    if not some and not any(map(is_computed, model.modules())):
        return WtkitError(
            f"{said}, nor has anything else in this {type(model).__name__}: convert(..., "
            f"keep_on_backprop={as_patterns(reasons)}) would leave all of it on backprop; for a "
            "layer of your own see wtkit.feedback.register, docs/howto/layer.md"
        )
    return WtkitError(
        f"{said}. To leave it on backprop: convert(..., keep_on_backprop={as_patterns(reasons)}), "
        "or the setting 'keep_on_backprop' of a run; for a layer of your own see "
        "wtkit.feedback.register, docs/howto/layer.md"
    )


def _matches_nothing(pattern: str, model: nn.Module, chosen: dict[str, nn.Module]) -> WtkitError:
    """The error for a pattern that matches no module, and no parameter outside of layers."""
    for name, layer in chosen.items():
        if any(fnmatch(own, pattern) for own in _own_parameters(name, layer)):
            return WtkitError(
                f"keep_on_backprop: {pattern!r} is a parameter of a layer, and layers stay on "
                f"backprop whole; take {name!r}"
            )
    names = [name for name, _ in model.named_modules() if name]
    names += [name for name, _ in model.named_parameters()]
    outermost = ", ".join(name for name, _ in unwrap(model).named_children()) or "none"
    return WtkitError(
        f"keep_on_backprop: {pattern!r} matches no module or parameter of the model"
        f"{nearest(pattern, names)}; outermost modules: {outermost}"
    )


def _own_parameters(name: str, layer: nn.Module) -> Iterator[str]:
    """The names of the parameters of a layer, or of the bias that its owner holds for a part."""
    if not isinstance(layer, FeedbackPart):
        yield from (f"{name}.{own}" if name else own for own in layer._parameters)
    elif layer.held.bias is not None:
        yield name.removesuffix(layer.name) + layer.held.bias


def as_patterns(names: Iterable[str]) -> list[str]:
    """As few patterns as match ``names``: names that differ only in numbers share one with ``*``.

    >>> as_patterns(["layer1.fc", "layer2.fc", "head"])
    ['layer*.fc', 'head']
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return [pattern if len(group) > 1 else group[0] for pattern, group in alike.items()]
