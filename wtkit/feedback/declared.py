"""Layers of users' own, which declare their maps with :func:`register`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WtkitError
from .layers import PLAIN, TWINS, FeedbackLayer, add_kind
from .maps import FeaturesFirst, FeaturesLast, Maps, Taps

_autograd: Any = torch._C._autograd
WHERE = "docs/howto/layer.md"


def register(kind: type[nn.Module], maps: type[tuple]) -> None:
    """Let :func:`wtkit.convert` convert layers of the class ``kind``, as it does ``nn.Linear``.

    The layer holds W as its parameter ``weight``, and a bias or None as its parameter ``bias``; it
    has no other parameters. Its output is linear in its input, and in W.

    ``maps`` is a ``NamedTuple`` whose fields are attributes of the layer. It has the method

    - ``apply_weights(y, W, bias)``: all of the layer's forward pass, with the given W and bias

    and, where the defaults do not fit, further ones of :class:`~wtkit.feedback.Maps`:

    - ``matrices(W)`` → (groups, outputs, inputs): W as the matrices that its neurons multiply by,
      for mirror mode and the scale of B. By default ``W[i]`` are the weights of one neuron.
    - ``features(W)`` → (inputs, outputs): the features of y and of the output at one position, for
      direct feedback. By default those of the matrices.
    - ``channels_first = True``: features are the second dimension of y and of the output, as in
      convolutions. By default they are the last, as in ``nn.Linear``.
    - ``biases(bias, W)`` → (groups, 1, outputs): the biases of these neurons. By default ``bias``,
      if there is one for each neuron.
    - ``backward(delta, y, M, needs)``: where it can be faster than the derivatives of
      ``apply_weights``, which autograd computes, with one more forward pass.

    Maps are checked: ``matrices`` at conversion, the others in the first forward pass that is not
    compiled.

    Args:
        kind: a subclass of ``nn.Module``; its own subclasses are other kinds.
        maps: its maps. Whoever registers a class again replaces them.

    Raises:
        WtkitError: for a class of PyTorch's or wtkit's own; for maps that are no ``NamedTuple`` or
            have no ``apply_weights``.

    Example:
        >>> import torch, wtkit
        >>> from typing import NamedTuple
        >>> class Scaled(torch.nn.Linear):
        ...     gain = 0.5
        ...     def forward(self, y):
        ...         return torch.nn.functional.linear(y, self.gain * self.weight, self.bias)
        >>> class ScaledMaps(NamedTuple):
        ...     gain: float
        ...     def apply_weights(self, y, W, bias=None):
        ...         return torch.nn.functional.linear(y, self.gain * W, bias)
        >>> wtkit.feedback.register(Scaled, ScaledMaps)
        >>> wtkit.convert(Scaled(8, 2), "feedback_alignment")
        FeedbackScaled(in_features=8, out_features=2, bias=True, method=feedback_alignment)
    """
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise WtkitError(f"register: expected a subclass of nn.Module first, got {kind!r}")
    if issubclass(kind, FeedbackLayer) or kind.__module__.partition(".")[0] in ("torch", "wtkit"):
        raise WtkitError(
            f"register: {kind.__name__} is a class of {kind.__module__.partition('.')[0]}'s own, "
            "which other networks use, too; register a subclass"
        )
    fields = getattr(maps, "_fields", None)
    if not (isinstance(maps, type) and issubclass(maps, tuple) and fields is not None):
        raise WtkitError(
            f"register: expected the maps of {kind.__name__} as a class derived from "
            f"typing.NamedTuple, got {maps!r}; see {WHERE}"
        )
    if not callable(getattr(maps, "apply_weights", None)):
        raise WtkitError(
            f"register: {maps.__name__} has no method apply_weights(y, W, bias); see {WHERE}"
        )
    direct = FeaturesFirst if getattr(maps, "channels_first", False) else FeaturesLast
    complete: Any = type(maps.__name__, (maps, direct, _Defaults), {"__slots__": ()})

    def maps_of_layer(layer: nn.Module) -> Maps:
        return complete(*[getattr(layer, field) for field in fields])

    body = {"maps": property(maps_of_layer), "fields": fields, "__module__": kind.__module__}
    twin = type(f"Feedback{kind.__name__}", (FeedbackDeclared, kind), body)
    add_kind(kind, twin)


class _Defaults:
    """Maps that follow from ``apply_weights``, for layers with the outputs first in W."""

    __slots__ = ()

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        return derivatives(self, delta, y, M, needs)  # type: ignore[arg-type]

    def matrices(self, W: Tensor) -> Tensor:
        return W.flatten(1)[None]

    def biases(self, bias: Tensor, W: Tensor) -> Tensor | None:
        groups, outputs, _ = self.matrices(W).shape
        return bias.reshape(groups, 1, outputs) if bias.numel() == groups * outputs else None

    def features(self, W: Tensor) -> tuple[int, int]:
        groups, outputs, inputs = self.matrices(W).shape
        return groups * inputs, groups * outputs

    def live_taps(self, y: Tensor, W: Tensor) -> Taps:
        return ...


def derivatives(
    maps: Maps, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
) -> list[Tensor | None]:
    """(Mᵀ δ, δ yᵀ, Σ δ) as autograd has them of ``apply_weights``, for a bias with one number for
    each feature of the output."""
    given = [y, M, M.new_zeros(maps.features(M)[1])]
    wanted = [place for place in range(3) if needs[place]]
    found: list[Tensor | None] = [None, None, None]
    if not wanted:
        return found

    def applied(*values: Tensor) -> Tensor:
        arguments: list[Any] = [y, M, None]
        for place, value in zip(wanted, values, strict=True):
            arguments[place] = value
        return maps.apply_weights(*arguments)

    def pulled() -> Any:
        return torch.func.vjp(applied, *[given[place] for place in wanted])[1](delta)

    for place, value in zip(wanted, _without_hooks(pulled), strict=True):
        found[place] = value
    return found


def _without_hooks(function: Callable[[], Any]) -> Any:
    """The result of ``function``, out of reach of hooks on saved tensors, which torch.func refuses.
    Activation checkpointing and offloading have such hooks; they are those of a thread."""
    if torch.compiler.is_compiling() or _autograd._top_saved_tensors_default_hooks(True) is None:
        return function()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


class FeedbackDeclared(FeedbackLayer):
    """What the feedback layers of registered classes have in common."""

    fields: tuple[str, ...]
    checked: bool = False

    def send(self, y: Tensor, *others: Any, **named: Any) -> Tensor:
        if others or named:
            raise WtkitError(
                f"{PLAIN[type(self)].__name__}: a registered layer takes one input, got "
                f"{1 + len(others) + len(named)}; leave it on backprop, or put what the others do "
                "into another module"
            )
        if not torch.compiler.is_compiling() and not self.checked:
            self._check(y)
        return self.engaged(y)

    def _check(self, y: Tensor) -> None:
        is_copy = getattr(self, "_is_replica", False)  # of DataParallel, made anew for each batch
        if is_copy or y.numel() == 0 or torch._C._are_functorch_transforms_active():
            return
        on = [y.device] if y.device.type == "cuda" else []
        with (
            torch.no_grad(),
            torch.autocast(y.device.type, enabled=False),
            torch.random.fork_rng(on),
        ):
            _check_forward(self, y)
        self.checked = True

    def _apply_engaged(
        self,
        y: Tensor,
        W: Tensor,
        B: Tensor | None,
        bias: Tensor | None,
        maps: Any,
        dtype: torch.dtype,
    ) -> Tensor:
        maps = type(maps)(*[_in_precision(field, dtype) for field in maps])  # as under autocast
        return super()._apply_engaged(y, W, B, bias, maps, dtype)

    def __reduce_ex__(self, protocol):  # the class is made by register(): found by the plain one
        _, arguments, *state = super().__reduce_ex__(protocol)
        return _empty, (PLAIN[type(self)], *arguments[1:]), *state


def _empty(kind: type[nn.Module], *arguments: Any) -> FeedbackLayer:
    """A feedback layer before its state is set, for copies and pickles."""
    twin = TWINS.get(kind)
    if twin is None:
        raise WtkitError(
            f"{kind.__name__} is not registered here; before loading, call "
            f"wtkit.feedback.register({kind.__name__}, its maps)"
        )
    return twin.__new__(twin, *arguments)


def _in_precision(field: Any, dtype: torch.dtype) -> Any:
    is_floating = isinstance(field, Tensor) and field.is_floating_point()
    return field.to(dtype) if is_floating else field


# ---------------------------------------------------------------------------------- what is checked


def refuse_declaration(name: str, layer: nn.Module) -> None:
    """Raise for a layer of a registered class that its maps do not fit.

    Args:
        name: of the layer, for the error.

    Raises:
        WtkitError: for parameters that the maps have no gradient for; for a field that the layer
            has not; for ``matrices`` that do not hold each weight once.
    """
    twin = TWINS.get(type(layer), type(layer))
    if not issubclass(twin, FeedbackDeclared):
        return
    where = f"cannot convert {name or 'the model itself'!r} ({PLAIN[twin].__name__})"
    for own in ("weight", "bias"):
        if own not in layer._parameters and not isinstance(getattr(layer, own, None), Tensor):
            raise WtkitError(
                f"{where}: a registered layer holds W as its parameter 'weight' and a bias or None "
                f"as 'bias', and it has no {own!r}; see register_parameter in {WHERE}"
            )
    others = [
        own for own, _ in layer.named_parameters() if own not in ("weight", "bias", "feedback")
    ]
    if others and "weight" in layer._parameters:
        raise WtkitError(
            f"{where}: its maps would give no gradient to {others[0]!r}; a registered layer has no "
            "parameters but 'weight' and 'bias': hold others in modules before or behind it"
        )
    for field in twin.fields:
        if not hasattr(layer, field):
            raise WtkitError(f"{where}: its maps have the field {field!r}, which the layer has not")
    if "weight" in layer._parameters:
        maps, W = twin.maps.fget(layer), layer.get_parameter("weight")  # type: ignore[attr-defined]
        _refuse_matrices(where, maps, W)
        _refuse_bias(where, maps, W, layer._parameters.get("bias"))


def _refuse_matrices(where: str, maps: Maps, W: Tensor) -> None:
    numbers = torch.arange(W.numel()).reshape(W.shape)
    matrices = maps.matrices(numbers)
    held = matrices.flatten().sort().values if isinstance(matrices, Tensor) else numbers[:0]
    if matrices.dim() != 3 or not torch.equal(held, numbers.flatten()):
        raise WtkitError(
            f"{where}: 'matrices' of its maps gave shape {tuple(matrices.shape)} for W of shape "
            f"{tuple(W.shape)}; expected (groups, outputs, inputs) with each entry of W once"
        )


def _refuse_bias(where: str, maps: Maps, W: Tensor, bias: Tensor | None) -> None:
    outputs = maps.features(W)[1]
    has_own = type(maps).backward is not _Defaults.backward
    if bias is not None and bias.shape != (outputs,) and not has_own:
        raise WtkitError(
            f"{where}: its bias has shape {tuple(bias.shape)}; expected one number for each "
            f"feature of the output, ({outputs},): declare 'features' or 'backward', or add the "
            "bias in a module behind"
        )


def _check_forward(layer: FeedbackDeclared, y: Tensor) -> None:
    """Raise if the maps are not those of the layer.

    Raises:
        WtkitError: if the output differs from the plain layer's; if it is not linear in y and in W,
            or the bias is not added to it; if the gradients are not its derivatives.
    """
    kind, maps, W = PLAIN[type(layer)].__name__, layer.maps, layer.weight
    y = y.detach().to(W.dtype)
    expected = layer.plain_forward(y)
    if not _agree(maps.apply_weights(y, W, layer.bias), expected):
        raise WtkitError(
            f"{kind}: 'apply_weights' of its maps gives another output than the layer; it has to "
            "be all of the forward pass: put what is random or no part of W y + bias into other "
            "modules"
        )
    out = maps.apply_weights(y, W)
    for what, scaled in (("y", (-0.5 * y, W)), ("W", (y, -0.5 * W))):
        if not _agree(maps.apply_weights(*scaled), -0.5 * out):
            raise WtkitError(
                f"{kind}: 'apply_weights' of its maps is not linear in {what}; put what is not, "
                "such as an activation, into other modules, or into a parametrization of 'weight'"
            )
    if layer.bias is not None:
        _check_bias(kind, maps, y, W, layer)
    delta = torch.empty_like(out).normal_(generator=layer.stream("check"))
    needs = (True, True, layer.bias is not None)
    found = maps.backward(delta, y, W, needs)
    has_usual_bias = layer.bias is None or layer.bias.shape == (maps.features(W)[1],)
    exact = derivatives(maps, delta, y, W, (*needs[:2], needs[2] and has_usual_bias))
    for what, a, b in zip(("y", "W", "bias"), found, exact, strict=True):
        if b is not None and (a is None or not _agree(a, b)):
            raise WtkitError(
                f"{kind}: 'backward' of its maps gives another gradient of {what} than autograd "
                "has of 'apply_weights'; correct it, or leave it out"
            )


def _check_bias(kind: str, maps: Maps, y: Tensor, W: Tensor, layer: FeedbackDeclared) -> None:
    """Raise unless the bias is added to W y as it is, or spread over positions, whatever y and W
    are."""
    assert layer.bias is not None
    bias = torch.empty_like(layer.bias).normal_(generator=layer.stream("bias"))

    def added(bias: Tensor, y: Tensor, W: Tensor) -> Tensor:
        return maps.apply_weights(y, W, bias) - maps.apply_weights(y, W)

    usual = added(bias, y, W)
    others = (-2 * added(-0.5 * bias, y, W), added(bias, -0.5 * y, W), added(bias, y, -0.5 * W))
    if not all(_agree(other, usual, like=maps.apply_weights(y, W, bias)) for other in others):
        raise WtkitError(
            f"{kind}: 'apply_weights' of its maps does more with the bias than add it; put what "
            "depends on y or W, or is not linear in the bias, into other modules"
        )


def _agree(a: Tensor, b: Tensor, like: Tensor | None = None) -> bool:
    """Whether both are equal up to rounding, that of ``like`` if they are small differences."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    tolerance = torch.finfo(b.dtype).eps ** 0.5
    size = float((b if like is None else like).abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * size)
