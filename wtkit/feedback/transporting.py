"""Measures which weights the feedback path uses, for any module (:func:`transport`).

One forward pass is kept. Then weights are changed, and the backward pass through the kept graph is
repeated. If another parameter's gradient changes, δ has passed the changed weights. The activations
are those of the kept pass, so their own dependence on the weights does not count.

A backward pass reads what the forward pass saved: weights, but also copies of weights and tensors
computed from them, such as signs, a cast, or a spectral norm. So the forward pass is traced
(:mod:`~wtkit.feedback.origins`). If a saved tensor was computed from weights alone, the repeated
backward pass gets the one that a forward pass with the changed weights computes. There is one
exception. A tensor that an operation saved while it computed weights from weights is kept: how
these parameters' gradients depend on each other does not count.

A graph may also hold what is no saved tensor: a Python number, or an attribute that a function of
the user's own keeps. If such a thing was computed from weights, the backward pass goes through the
graph of the forward pass with the changed weights, with the saved activations of the kept pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from tqdm import tqdm

from ..errors import WtkitError
from .choosing import as_patterns
from .inputs import (
    call,
    held_tensors,
    out_of_inference_mode,
    refuse_other_than_tensors,
    tensors,
    usable,
)
from .layers import FeedbackLayer, feedback_layers, unwrap
from .origins import Kind, Origins
from .report import Row, Transport
from .sharded import is_sharded

OF_EFFECT = 1e-2
"""The part of a parameter's effect that its magnitudes or its size must have to count."""
ROUNDING = 16
"""Changes of gradients below this, in units of their precision, are rounding."""
OF_LARGEST = 1e-3
"""A gradient below this part of the largest one is looked at for being rounding alone."""
Change = Callable[[Tensor, torch.Generator], Tensor]
Effect = dict[str, float]
"""By how much each gradient that changed has changed, by the parameter's name."""


def transport(model: nn.Module, inputs: Any, *, quiet: bool = False) -> Transport:
    """Say for every parameter of ``model`` whether the feedback path uses its value, where, and by
    which operation.

    A parameter is used if the δ that some other parameter learns from depends on its value. The
    part that is used may be its ``signs``, its ``scale`` (one number for all of it), both, or its
    ``value``. The feedback weights B are the feedback path itself and are not listed. One column
    says how they learn about W. If B is computed from W after each update, W is ``copied``.

    The answer holds for the current mode, training or evaluation. Parameters that are all zero, as
    some are at first, stop every δ; they are measured with other values. The model, its gradients
    and the global random streams do not change. The report takes a forward and a backward pass for
    each parameter that is used, and for each kind of parameter that is not used.

    Args:
        model: any module, converted or not; it is run uncompiled and without autocast.
        inputs: a batch; two small examples will do. A tuple or list stands for several inputs, a
            dict for keyword arguments of the model or for its single input.
        quiet: show no progress.

    Returns:
        a table with a row for each parameter; printed, it shows what is used.

    Raises:
        WtkitError: if nothing in the model learns; for a batch that shows nothing because it is
            empty or leaves gradients zero; for activation checkpointing, which would recompute
            activations from the changed weights; for sharded or missing weights.

    Example:
        >>> import torch, wtkit
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))
        >>> model = wtkit.convert(model, "kolen_pollack")
        >>> report = wtkit.transport(model, torch.randn(3, 4))
        >>> [(row.parameter, row.used) for row in report.transported]
        [('1.weight', 'value')]
        >>> model = wtkit.convert(model, "kolen_pollack", normalisation="learned")
        >>> wtkit.transport(model, torch.randn(3, 4)).transported
        ()
    """
    refuse_other_than_tensors(inputs)
    return measure(model, inputs, "inputs", quiet=quiet)


def measure(model: nn.Module, inputs: Any, argument: str, *, quiet: bool) -> Transport:
    """:func:`transport`, where the user gave ``inputs`` under the name ``argument``."""
    model = unwrap(model)
    layers = feedback_layers(model, scales=True)
    _refuse_what_has_no_values(model)
    for layer in layers.values():
        layer.settle()
    with out_of_inference_mode(model), contextlib.ExitStack() as context:
        context.enter_context(torch.compiler.set_stance("force_eager"))
        for device in {tensor.device.type for tensor in (*tensors(inputs), *model.parameters())}:
            # a cache would give casts of the weights before they were changed
            context.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
        context.enter_context(_without_zeros(model))
        measured = _Measurement(model, usable(inputs, argument), context)
        measured.refuse_what_shows_nothing(argument)
        bar = tqdm(
            total=len(measured.parameters),
            desc="transport",
            delay=2,
            leave=False,
            disable=True if quiet else None,
        )
        rows: dict[str, Row] = {}
        with bar:
            for names in _alike(model, measured.parameters):
                for name, effect, used in _used(measured, names):
                    rows[name] = _row(measured, layers, name, effect, used)
                    bar.update()
    return Transport([rows[name] for name in measured.parameters])


@contextlib.contextmanager
def _without_zeros(model: nn.Module) -> Iterator[None]:
    """Within this context no parameter is all zero."""
    generator = torch.Generator().manual_seed(0)
    zero = [p for p in model.parameters() if p.numel() > 0 and not p.any()]
    try:
        for parameter in zero:
            parameter.data.copy_(0.1 * _draw(parameter.detach(), generator))
        yield
    finally:
        for parameter in zero:
            parameter.data.zero_()


def _refuse_what_has_no_values(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise WtkitError(
                f"transport: {name!r} has no shape before the first batch; run one through the "
                "model first"
            )
        if parameter.is_meta:
            raise WtkitError(f"transport: {name!r} is on the meta device; load its values first")
        if is_sharded(parameter):
            raise WtkitError(
                f"transport: {name!r} is sharded over processes; ask before fully_shard"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise WtkitError("transport: no parameter requires a gradient, so δ goes nowhere")


def _alike(model: nn.Module, parameters: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of parameters in groups of one kind, which are likely to be used alike."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in parameters:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        groups.setdefault((type(module), getattr(module, "method", None), own), []).append(name)
    return list(groups.values())


def _used(measured: _Measurement, names: list[str]) -> Iterator[tuple[str, Effect, str]]:
    """For parameters of one kind: the effect of each on others, and which part of it has it.

    What all of them together do not do, none of them does alone.
    """
    together = measured.effect(dict.fromkeys(names, _other))
    reads = measured.reads_copies  # else no pass of one of them need be observed

    def matters(changed: list[str], change: Change, effect: Effect) -> bool:
        found = measured.effect(dict.fromkeys(changed, change), observed=reads)
        return any(size > OF_EFFECT * effect[q] for q, size in found.items() if q in effect)

    possible = [word for word in PARTS if together and matters(names, PARTS[word], together)]
    for name in names:
        effect = measured.effect({name: _other}, observed=reads) if together else {}
        effect = measured.of_others(effect, name)
        if not effect:
            yield name, effect, "no"
            continue
        found: list[str] = []
        for word in possible if measured.parameters[name].numel() > 1 else ():
            if "value" not in found and matters([name], PARTS[word], effect):
                found.append(word)
        yield name, effect, " and ".join(found) or "value"


def _row(
    measured: _Measurement,
    layers: dict[str, FeedbackLayer],
    name: str,
    effect: Effect,
    used: str,
) -> Row:
    W = measured.parameters[name]
    layer = next((each for each in layers.values() if each.weight_parameter() is W), None)
    source = ""
    if layer is not None:
        source = layer.method.source_of_B
        if used == "no" and copies(layer):
            used = "copied"
    order = list(measured.parameters)
    below = [q for q in order[: order.index(name)] if q in effect]
    below = below or [q for q in order if q in effect]
    kind = type(measured.model.get_submodule(name.rpartition(".")[0])).__name__
    return Row(name, kind, used, below[-1] if below else "", len(effect), source)


def _other(values: Tensor, generator: torch.Generator) -> Tensor:
    """Values that differ in everything."""
    rms = values.abs().square().mean().sqrt()
    new = _draw(values, generator) * torch.where(rms > 0, rms, 1.0)
    return torch.where(new.sign() == values.sign(), -new, new) if not values.is_complex() else new


def _other_magnitudes(values: Tensor, generator: torch.Generator) -> Tensor:
    """Values with the same signs and the same root mean square."""
    new = values * (0.25 + _draw(values, generator).abs())
    return new * (values.abs().square().sum() / new.abs().square().sum().clamp_min(1e-30)).sqrt()


def _other_signs(values: Tensor, generator: torch.Generator) -> Tensor:
    """Values with the same magnitudes, some of them with the other sign."""
    signs = torch.randn(values.shape, generator=generator).sign().to(values.device)
    return values * torch.where((signs < 0).any(), signs, -signs)


def _twice(values: Tensor, generator: torch.Generator) -> Tensor:
    return values * 2


PARTS: dict[str, Change] = {"value": _other_magnitudes, "signs": _other_signs, "scale": _twice}
"""Changes of one part of a value; a value whose magnitudes matter is used as a whole."""


def _draw(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


@torch.no_grad()
def copies(layer: FeedbackLayer) -> bool:
    """Whether what ``layer`` stores is made of W's values after an update."""
    method, stored, W = layer.method, layer.feedback, layer.weight
    if not method.follows or stored is None:
        return False
    update = layer.update_count + 1
    found = [
        method.follow(values, stored.clone(), layer.stream("update", update), update)
        for values in (W, _other(W, torch.Generator().manual_seed(0)))
    ]
    return not torch.equal(*found)


class _Measurement:
    """A model, the graph of one forward pass, and its gradients.

    Attributes:
        parameters: the parameters by name, without B.
        reads_copies: whether the last effect may be partly due to copies of weights.
    """

    reads_copies: bool

    def __init__(self, model: nn.Module, inputs: Any, context: contextlib.ExitStack) -> None:
        self.model, self.inputs = model, inputs
        own = {id(layer.feedback) for layer in feedback_layers(model, scales=True).values()}
        self.parameters = {n: p for n, p in model.named_parameters() if id(p) not in own}
        self._kept: list[Tensor] = []
        self._replaced: dict[int, Tensor] = {}
        self._kinds: list[Kind] = []  # of what is kept
        self._read: list[int] = []
        self._in_backward = False
        for module in model.modules():
            context.callback(module.register_forward_pre_hook(self._refuse_calls).remove)
        self._origins = Origins(model, self.parameters, inputs)
        found = self._forward(inputs, self._keep, self._origins.following())
        self._outputs = [out for out in found if out.requires_grad]
        if not self._outputs:
            raise WtkitError("transport: no output of the model depends on what it learns")
        self._unsaved = self._origins.numbers | self._in_attributes()
        self._made_of_weights = {i for i, kind in enumerate(self._kinds) if kind < Kind.ACTIVITY}
        for number in self._no_weights():
            self._made_of_weights.discard(number)
            self._kept[number] = self._kept[number].detach().clone()
        generator = torch.Generator().manual_seed(0)
        self._deltas = [_draw(out, generator) for out in self._outputs]
        self._learning = {n: p for n, p in self.parameters.items() if p.requires_grad}
        self._gradients = self._backward()
        again = self._backward()
        self._noise = {q: _size(again[q] - value) for q, value in self._gradients.items()}
        # of a whole module: the gradient of a bias before a BatchNorm is nothing but rounding
        self._sizes: dict[str, float] = {}
        for q, value in self._gradients.items():
            owner = q.rpartition(".")[0]
            self._sizes[owner] = max(self._sizes.get(owner, 0.0), _size(value))

    def refuse_what_shows_nothing(self, argument: str) -> None:
        """Raise for a batch on which a δ that passes weights would look like one that does not."""
        if not any(out.numel() for out in self._outputs):
            raise WtkitError(f"{argument}: the batch is empty, so no δ is sent; give examples")
        endless = [q for q, value in self._gradients.items() if not value.isfinite().all()]
        if endless:
            raise WtkitError(
                f"{argument}: on this batch gradients are not finite: "
                f"{', '.join(as_patterns(endless))}; give examples without inf and NaN"
            )
        learn = {q.rpartition(".")[0] for q in self._nonzero()}
        silent = [
            q
            for q, value in self._gradients.items()
            if value.numel() and q.rpartition(".")[0] not in learn
        ]
        if silent:
            raise WtkitError(
                f"{argument}: on this batch the gradients of {', '.join(as_patterns(silent))} are "
                "zero, so it cannot be seen which weights their δ passes; give other or more "
                "examples, such as random ones, or freeze what never learns (requires_grad_(False))"
            )

    def _nonzero(self) -> Iterator[str]:
        """The parameters whose gradient is more than rounding, which does not grow with δ."""
        larger = self._backward(3.0)
        largest = max(map(_size, self._gradients.values()), default=0.0)
        for q, value in self._gradients.items():
            size = _size(value)
            is_rounding = _size(larger[q] / 3 - value) > 0.1 * size
            if size > 0 and not (is_rounding and size < OF_LARGEST * largest):
                yield q

    def _no_weights(self) -> Iterator[int]:
        """The numbers of saved tensors that were made of weights, but for an operation that makes
        no more than that of them."""
        made: dict[Any, Kind] = {}
        for node in _nodes(self._outputs):
            numbers = self._saved_by(node)
            below = [made[each] for each, _ in node.next_functions if each is not None]
            saved = [self._kinds[number] for number in numbers]
            made[node] = max(self._origins.kind_made(node), *below, *saved, Kind.CONSTANT)
            yield from (n for n in numbers if made[node] <= self._kinds[n] < Kind.ACTIVITY)

    def _in_attributes(self) -> set[str]:
        """The parameters that attributes in the graph, of functions of the user's own, were
        computed from; a parameter itself is changed in place."""
        attributes = [getattr(node, "__dict__", {}) for node in _nodes(self._outputs)]
        held = (each for each in held_tensors(attributes) if not isinstance(each, nn.Parameter))
        return {name for each in held for name in self._origins.names(each)}

    def _saved_by(self, node: Any) -> list[int]:
        self._read = []
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                getattr(node, name)  # which unpacks them
        return self._read

    def effect(self, changes: Mapping[str, Change], *, observed: bool = True) -> Effect:
        """What changes of parameters' values change in gradients.

        Args:
            changes: by the parameter's name.
            observed: whether the forward pass saves copies that depend on these values.
        """
        generator = torch.Generator().manual_seed(0)
        before = {name: self.parameters[name].detach().clone() for name in changes}
        try:
            for name, change in changes.items():
                self.parameters[name].data.copy_(change(before[name], generator))
            found, outputs = self._observed() if observed else ({}, [])
            self._replaced = {i: t for i, t in found.items() if i in self._made_of_weights}
            is_unsaved = not self._unsaved.isdisjoint(changes)
            self.reads_copies = bool(self._replaced) or is_unsaved
            gradients = self._backward(outputs=outputs if is_unsaved else self._outputs)
        finally:
            self._replaced = {}
            for name, values in before.items():
                self.parameters[name].data.copy_(values)
        effect = {q: _size(gradients[q] - value) for q, value in self._gradients.items()}
        return {q: size for q, size in effect.items() if size > self._least(q)}

    def of_others(self, effect: Effect, name: str) -> Effect:
        """The part of an effect that is not on the parameter's own gradient. That counts if the
        parameter is used more than once: then its δ has passed another use of it."""
        module = self.model.get_submodule(name.rpartition(".")[0])
        # a fused kernel takes all steps in one operation
        if self._origins.uses[name] > 1 or isinstance(module, nn.RNNBase):
            return effect
        return {q: size for q, size in effect.items() if q != name}

    def _least(self, q: str) -> float:
        """The least change of a gradient that is not rounding."""
        precision = torch.finfo(self._gradients[q].dtype).eps
        return ROUNDING * (self._noise[q] + precision * self._sizes[q.rpartition(".")[0]])

    def _backward(
        self, factor: float = 1.0, outputs: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        self._in_backward = True
        try:
            found = torch.autograd.grad(
                self._outputs if outputs is None else outputs,
                list(self._learning.values()),
                [factor * delta for delta in self._deltas],
                retain_graph=True,
                allow_unused=True,
            )
        finally:
            self._in_backward = False
        return {q: g for q, g in zip(self._learning, found, strict=True) if g is not None}

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        self._kinds.append(self._origins.kind(tensor))
        return len(self._kept) - 1

    def _observed(self) -> tuple[dict[int, Tensor], list[Tensor]]:
        """The tensors that a forward pass with changed weights saves and that differ from the kept
        ones, by their number; and its outputs."""
        differing: dict[int, Tensor] = {}
        number = 0

        def compare(tensor: Tensor) -> int:
            nonlocal number
            if number < len(self._kept) and not _same(tensor, self._kept[number]):
                differing[number] = tensor
            number += 1
            return number - 1

        found = self._forward(self.inputs, compare)
        if number != len(self._kept):
            raise WtkitError(
                "transport: the model takes another way for other weights, so its passes cannot be "
                "compared; ask for its parts"
            )
        return differing, [out for out in found if out.requires_grad]

    def _forward(
        self,
        inputs: Any,
        pack: Callable[[Tensor], int],
        following: contextlib.AbstractContextManager[None] | None = None,
    ) -> list[Tensor]:
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, self._unpack)
        with _as_before(self.model), hooks, following or contextlib.nullcontext():
            return list(held_tensors(call(self.model, inputs)))

    def _unpack(self, number: int) -> Tensor:
        self._read.append(number)
        return self._replaced.get(number, self._kept[number])

    def _refuse_calls(self, module: nn.Module, inputs: Any) -> None:
        if self._in_backward:
            raise WtkitError(
                "transport: the backward pass calls the model's modules again, as activation "
                "checkpointing does; switch that off for this report"
            )


def _nodes(outputs: Iterable[Tensor]) -> list[Any]:
    """The nodes of the graph that ``outputs`` go back to, each after those below it."""
    order: dict[Any, None] = {}
    waiting: list[tuple[Any, bool]] = [(out.grad_fn, False) for out in outputs]
    seen = set()
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            order[node] = None
        elif node is not None and node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(below, False) for below, _ in node.next_functions]
    return list(order)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_sparse:
        return bool(torch.equal(a.to_dense(), b.to_dense()))
    return a.data_ptr() == b.data_ptr() or bool(torch.equal(a, b))


def _size(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


@contextlib.contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Within this context a forward pass starts from the same buffers and random streams each time,
    and leaves them as they were."""
    buffers = [(m._buffers, dict(m._buffers)) for m in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        torch.manual_seed(0)
        for own, original in buffers:
            own.update({name: b if b is None else b.clone() for name, b in original.items()})
        try:
            yield
        finally:
            for own, original in buffers:
                own.update(original)
