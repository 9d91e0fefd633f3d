"""``convert(..., strict=...)``: refuse a network in which a weight is transported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from ..errors import WtkitError
from ..methods import Method
from .choosing import added_by, as_patterns
from .layers import TWINS, FeedbackLayer, unwrap
from .normalisation import SCALE_PLAIN, SCALE_TWINS
from .parts import FeedbackPart
from .report import Row, Transport

_TABLES = (nn.Embedding, nn.EmbeddingBag)
"""Modules whose rows are looked up: no δ passes them."""


class _Reason(NamedTuple):
    """Why a parameter is refused, and what to do about it."""

    what: str
    way_out: str


def refuse_transported(report: Transport, model: nn.Module) -> None:
    """Raise if ``report`` lists a parameter of ``model`` as used by the feedback path."""
    modules = dict(unwrap(model).named_modules())
    reasons = {}
    for row in report.transported:
        module = modules[row.parameter.rpartition(".")[0]]
        known = _way_out(module, row)
        reasons[row.parameter] = _Reason(_what(row), known or _UNKNOWN.format(_kind(module)))
    _refuse(reasons)


def refuse_by_modules(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    method: Method,
    scales: Mapping[str, nn.Module],
    of_scales: Method,
) -> None:
    """Raise if a module of ``model`` may send δ through a parameter, from what is known of the
    module's class.

    Args:
        layers: those that ``method`` is for.
        scales: the normalisations that ``of_scales`` is for.

    Raises:
        WtkitError: for a method that uses W; for layers and normalisations that stay on backprop;
            for any other module with parameters of its own, but embeddings.
    """
    reasons: dict[str, _Reason] = {}
    harmless = {id(module) for module in (*layers.values(), *scales.values())}
    held = {
        (id(layer.owner), own)
        for layer in layers.values()
        if isinstance(layer, FeedbackPart)
        for own in (layer.held.weight, layer.held.bias)
    }
    for users, used_by in ((layers, method), (scales, of_scales)):
        part = part_used(used_by) if users else ""
        for name, module in users.items() if part else ():
            reasons[_weight_of(name, module)] = _Reason(part, _OTHER_METHOD)
    for name, module in unwrap(model).named_modules():
        if id(module) in harmless or type(module) in _TABLES:
            continue
        shifts = ("bias",) if isinstance(module, (*TWINS, *SCALE_TWINS)) else added_by(module)
        for own, parameter in module._parameters.items():
            if parameter is None or own == "feedback" or own in shifts:
                continue
            if (id(module), own) in held:
                continue
            known = _way_out(module) or (
                f"{_kind(module)} is not known; strict=<a batch> measures whether δ passes it"
            )
            reasons[f"{name}.{own}".lstrip(".")] = _Reason("its value", known)
    _refuse(reasons)


def _weight_of(name: str, layer: nn.Module) -> str:
    """The name of the parameter that is W of a layer."""
    if not isinstance(layer, FeedbackPart):
        return f"{name}.weight".lstrip(".")
    return f"{name.rpartition('.')[0]}.{layer.held.weight}".lstrip(".")


@torch.no_grad()
def part_used(method: Method) -> str:
    """Which part of W ``method`` uses, during a backward pass or after an update, in a few words;
    empty if none. Asked of the method itself, with a small W."""
    generator = torch.Generator().manual_seed(0)
    W, other = (torch.randn(4, 5, generator=generator) for _ in range(2))
    stored = method.initial(W, generator)
    B = [method.feedback_weights(values, stored) for values in (W, other)]
    if B[0] is not None and B[1] is not None and not torch.equal(B[0], B[1]):
        return f"{method.name}: {method.source_of_B}"
    if method.follows and stored is not None:
        followed = [
            method.follow(values, stored.clone(), torch.Generator().manual_seed(0), 1)
            for values in (W, other)
        ]
        if not torch.equal(*followed):
            return f"{method.name}: {method.source_of_B}"
    return ""


_OTHER_METHOD = "take a method that uses no weight, such as 'kolen_pollack' or 'weight_mirror'"
_CALL = (
    "δ passes it, or what is made of it, where the layer is not called; multiply by calling the "
    "layer, not by reading its weight"
)
_UNKNOWN = (
    "δ passes it in {}, in the place of which there is no B; multiply in a layer, such as "
    "nn.Linear, or see wtkit.feedback.register, docs/howto/layer.md"
)


def _what(row: Row) -> str:
    return row.B_learns if row.used == "copied" else f"its {row.used}"


def _way_out(module: nn.Module, row: Row | None = None) -> str:
    """What to do about a parameter of ``module``; empty if that is not known.

    Args:
        row: of the report, if δ was measured.
    """
    if isinstance(module, FeedbackLayer):
        return _way_out_of(module)
    if row is not None and row.B_learns:  # the weight of a layer that its owner holds
        parts = [part for part in module.children() if isinstance(part, FeedbackPart)]
        own = row.parameter.rpartition(".")[2]
        return next((_way_out_of(part) for part in parts if part.held.weight == own), "")
    if type(module) in SCALE_TWINS or type(module) in SCALE_PLAIN:
        return "normalisation='learned', and no keep_on_backprop for it"
    if isinstance(module, tuple(TWINS)):
        return "take it out of keep_on_backprop"
    if isinstance(module, nn.PReLU):
        return "take nn.LeakyReLU"
    return ""


def _way_out_of(layer: FeedbackLayer) -> str:
    return _OTHER_METHOD if part_used(layer.method) else _CALL


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _refuse(reasons: Mapping[str, _Reason]) -> None:
    if not reasons:
        return
    alike: dict[_Reason, list[str]] = {}
    for name, reason in reasons.items():
        alike.setdefault(reason, []).append(name)
    parts = [
        f"{', '.join(as_patterns(names))} ({what}): {way_out}"
        for (what, way_out), names in alike.items()
    ]
    raise WtkitError(f"strict: {len(reasons)} parameters would be transported: {'; '.join(parts)}")
