"""Layers that users define, and whose maps they declare with :func:`register`."""

from __future__ import annotations

import contextlib
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..errors import WtkitError
from .layers import PLAIN, TWINS, FeedbackLayer, MadeLater, add_kind
from .maps import FeaturesFirst, FeaturesLast, Maps, Taps
from .normalisation import SCALE_TWINS
from .owners import has_twin
from .parts import Owner

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
        kind: a subclass of ``nn.Module``. Its own subclasses are other kinds, unless they override
            nothing but ``__init__``.
        maps: its maps. Whoever registers a class again replaces them.

    Raises:
        WtkitError: for a class that wtkit itself converts; for maps that are no ``NamedTuple`` or
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
    if _is_known(kind):
        raise WtkitError(
            f"register: wtkit has maps for {kind.__name__}; to change them, register a subclass"
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
    held: Any = namedtuple(maps.__name__, (*fields, "bias_shape"))  # type: ignore[misc]
    complete: Any = type(maps.__name__, (held, maps, direct, _Defaults), {"__slots__": ()})

    def maps_of_layer(layer: Any) -> Maps:
        bias = layer.bias
        shape = None if bias is None else tuple(bias.shape)
        return complete(*[getattr(layer, field) for field in fields], shape)

    body = {"maps": property(maps_of_layer), "fields": fields, "__module__": kind.__module__}
    twin = type(f"Feedback{kind.__name__}", (FeedbackDeclared, kind), body)
    add_kind(kind, twin)


def _is_known(kind: type[nn.Module]) -> bool:
    """Whether wtkit itself converts modules of this class, or made the class."""
    if issubclass(kind, (FeedbackLayer, Owner)) or kind in SCALE_TWINS or has_twin(kind):
        return True
    twin = TWINS.get(kind)
    return twin is not None and not issubclass(twin, FeedbackDeclared)


class _Defaults:
    """Default maps, derived from ``apply_weights``, for layers whose W has the outputs first."""

    __slots__ = ()

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        return derivatives(self, delta, y, M, needs)

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
    maps: Any, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
) -> list[Tensor | None]:
    """(Mᵀ δ, δ yᵀ, Σ δ) as autograd has them of ``apply_weights``."""
    wanted = [place for place in range(3) if needs[place]]
    found: list[Tensor | None] = [None, None, None]
    if not wanted:
        return found
    given = [y, M, M.new_zeros(maps.bias_shape) if needs[2] else None]

    def applied(*values: Tensor) -> Tensor:
        arguments: list[Any] = [y, M, None]
        for place, value in zip(wanted, values, strict=True):
            arguments[place] = value
        return maps.apply_weights(*arguments)

    for place, value in zip(
        wanted, _pulled_back(applied, delta, [given[at] for at in wanted]), strict=True
    ):
        found[place] = value
    return found


def _pulled_back(function: Callable[..., Tensor], delta: Tensor, at: Sequence[Any]) -> Any:
    """The derivatives of ``function`` at these tensors, times δ."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        pulled: Any = torch.func.vjp(function, *at)  # which refuses hooks on saved tensors
        return pulled[1](delta)
    again = torch.is_grad_enabled()
    with torch.enable_grad(), _without_hooks():
        # a view, so that the derivative does not go on into what made the tensor
        inputs = [
            x.view_as(x) if again and x.requires_grad else x.detach().requires_grad_() for x in at
        ]
        out = function(*inputs)
        return torch.autograd.grad(
            out, inputs, delta, create_graph=again, allow_unused=True, materialize_grads=True
        )


@contextlib.contextmanager
def _without_hooks() -> Iterator[None]:
    """Hooks on saved tensors that do nothing, in front of those of checkpoints and the like."""
    autograd: Any = torch._C._autograd
    if not autograd._saved_tensors_hooks_is_enabled():
        yield
        return
    with saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        yield


class FeedbackDeclared(MadeLater, FeedbackLayer):
    """The common part of the feedback layers of registered classes."""

    fields: tuple[str, ...]
    checked: bool = False

    def send(self, y: Tensor, *others: Any, **named: Any) -> Tensor:
        if others or named:
            raise WtkitError(
                f"{PLAIN[type(self)].__name__}: a registered layer is called with one input, got "
                f"{1 + len(others) + len(named)} arguments; make what else it needs an attribute "
                "that is a field of its maps, or leave the layer on backprop: keep_on_backprop"
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
        _refuse_matrices(where, twin.maps.fget(layer), layer.get_parameter("weight"))  # type: ignore[attr-defined]


def _refuse_matrices(where: str, maps: Maps, W: Tensor) -> None:
    numbers = torch.arange(W.numel()).reshape(W.shape)
    matrices = maps.matrices(numbers)
    held = matrices.flatten().sort().values if isinstance(matrices, Tensor) else numbers[:0]
    if matrices.dim() != 3 or not torch.equal(held, numbers.flatten()):
        raise WtkitError(
            f"{where}: 'matrices' of its maps gave shape {tuple(matrices.shape)} for W of shape "
            f"{tuple(W.shape)}; expected (groups, outputs, inputs) with each entry of W once"
        )


def _check_forward(layer: FeedbackDeclared, y: Tensor) -> None:
    """Raise if the maps are not those of the layer.

    Raises:
        WtkitError: if the output differs from the plain layer's; if it is not linear; if the
            gradients are not its derivatives.
    """
    kind, maps, W = PLAIN[type(layer)].__name__, layer.maps, layer.weight
    y = y.detach().to(W.dtype)
    expected = layer.plain_forward(y)
    if not _agree(maps.apply_weights(y, W, layer.bias), expected):
        raise _another_output(kind)
    if layer.method.direct:
        _check_features(kind, maps, y, expected, W)
    stream = layer.stream("check")
    _check_linear(layer, y, stream)
    delta = torch.empty_like(expected).normal_(generator=stream)
    needs = (True, True, layer.bias is not None)
    found = maps.backward(delta, y, W, needs)
    exact = derivatives(maps, delta, y, W, needs)
    for what, a, b in zip(("y", "W", "bias"), found, exact, strict=True):
        if b is not None and (a is None or not _agree(a, b)):
            raise WtkitError(
                f"{kind}: 'backward' of its maps gives another gradient of {what} than autograd "
                "has of 'apply_weights'; correct it, or leave it out"
            )


def _check_features(kind: str, maps: Any, y: Tensor, out: Tensor, W: Tensor) -> None:
    """Raise if the features of y and of the output are not those that direct feedback would use."""
    where = 1 if getattr(maps, "channels_first", False) else -1
    found, expected = tuple(maps.features(W)), (y.shape[where], out.shape[where])
    if found != expected:
        raise WtkitError(
            f"{kind}: 'features' of its maps gave {found}, and dimension {where} of its input and "
            f"output has {expected}; correct it, or 'channels_first'"
        )


def _check_linear(layer: FeedbackDeclared, y: Tensor, stream: torch.Generator) -> None:
    """Raise if the output is not linear in y and in W, plus a part that is linear in the bias.

    At values of its own: the layer's may be zero, and hide what is wrong.

    Raises:
        WtkitError: if it is not, or the layer computes another output with these values.
    """
    kind, apply = PLAIN[type(layer)].__name__, layer.maps.apply_weights

    def drawn(like: Tensor, scale: float = 1.0) -> Tensor:
        return torch.empty_like(like).normal_(generator=stream).mul_(scale)

    size = layer.fan_in**-0.5
    W, W2 = drawn(layer.weight, size), drawn(layer.weight, size)
    y, y2 = drawn(y), drawn(y)
    out = apply(y, W)
    for what, mixed, second in (
        ("y", apply(y - 0.5 * y2, W), apply(y2, W)),
        ("W", apply(y, W - 0.5 * W2), apply(y, W2)),
    ):
        if not _agree(mixed, out - 0.5 * second):
            raise WtkitError(
                f"{kind}: 'apply_weights' of its maps is not linear in {what}; put what is not, "
                "such as an activation, into other modules, or into a parametrization of 'weight'"
            )
    bias = None if layer.bias is None else drawn(layer.bias)
    if bias is not None:
        other = drawn(bias)
        part, part_of_other = apply(y, W, bias) - out, apply(y, W, other) - out
        if not (
            _agree(apply(y, W, bias - 0.5 * other), out + part - 0.5 * part_of_other)
            and _agree(apply(y2, W2, bias), apply(y2, W2) + part)
        ):
            raise WtkitError(
                f"{kind}: 'apply_weights' of its maps has to add a part that is linear in the bias "
                "and does not depend on y and W; put what is not into other modules, or into a "
                "parametrization of 'bias'"
            )
    if not _agree(apply(y, W, bias), _plain_with(layer, y, W, bias)):
        raise _another_output(kind)


def _plain_with(layer: FeedbackDeclared, y: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
    """What the plain layer makes of y with other weights; where it computes its own from other
    tensors, what its maps make of it."""
    own = layer._parameters
    if own.get("weight") is None or (bias is not None and own.get("bias") is None):
        return layer.maps.apply_weights(y, W, bias)
    before = dict(own)
    own["weight"] = nn.Parameter(W)
    if bias is not None:
        own["bias"] = nn.Parameter(bias)
    try:
        return layer.plain_forward(y)
    finally:
        own.update(before)


def _another_output(kind: str) -> WtkitError:
    return WtkitError(
        f"{kind}: 'apply_weights' of its maps gives another output than the layer; it has to be "
        "all of the forward pass: put what is random or no part of W y + bias into other modules"
    )


def _agree(a: Tensor, b: Tensor) -> bool:
    """Whether both are equal up to rounding."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    tolerance = torch.finfo(b.dtype).eps ** 0.5
    size = float(b.abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * size)
