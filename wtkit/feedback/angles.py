"""Alignment of the feedback path with the forward path: matrix angles and δ angles (Sec. 6)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WtkitError
from .engaged import deltas_of_backprop
from .inputs import call, out_of_inference_mode, refuse_other_than_tensors, tensors, usable
from .layers import (
    FeedbackLayer,
    feedback_layers,
    refuse_without_values,
    unwrap,
)
from .maps import LinearMaps, Taps
from .sharded import whole


def angle(u: Tensor, v: Tensor) -> Tensor:
    """The angle between u and v in degrees, over the last dimension, in float64.

    Kahan's form, 2·atan2(‖û − v̂‖, ‖û + v̂‖), is exact at 0° and 180°, where arccos loses half its
    digits. NaN if u or v is zero, which has no direction.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).item()
    90.0
    """
    u, v = u.double(), v.double()
    u = u / u.norm(dim=-1, keepdim=True)
    v = v / v.norm(dim=-1, keepdim=True)
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1)))


@torch.no_grad()
def find_live_taps(model: nn.Module, inputs: Any) -> None:
    """Find which taps of the convolutions' kernels are live, by one forward pass.

    On a map smaller than its kernel, a convolution has taps that only ever meet padding (eight of
    the nine of a 3×3 kernel on a 1×1 map). No signal passes them, forward or back, so they say
    nothing about a method. After this call, angles and norm ratios are taken over the live taps,
    and mirror mode fires noise at those only. Without this call every tap counts as live. Nothing
    else in the model changes, nor any global random stream.

    Args:
        model: a converted model.
        inputs: a batch of the size that the model is trained on, (N, C, H, W), or other inputs as
            :func:`delta_angles` takes them; only their shapes matter.
    """
    layers = feedback_layers(model)
    live: dict[FeedbackLayer, Taps] = {}

    def note(layer: FeedbackLayer, given: tuple[Tensor, ...]) -> None:
        y = next(tensors(given), None)
        if y is not None and y.dim() >= layer.batch_dims:
            taps = layer.maps.live_taps(y, layer.weight)
            live[layer] = _union(live[layer], taps) if layer in live else taps

    model = unwrap(model)
    training = {module: module.training for module in model.modules()}
    with undisturbed(model, inputs), contextlib.ExitStack() as hooks:
        for layer in layers.values():
            hooks.callback(layer.register_forward_pre_hook(note).remove)
        try:
            call(model.eval(), inputs)
        finally:
            for module, mode in training.items():
                module.training = mode
    for layer, taps in live.items():
        layer.taps = taps


def _union(a: Taps, b: Taps) -> Taps:
    """The smallest range of taps that holds both, for a layer that is used more than once."""
    if isinstance(a, EllipsisType) or isinstance(b, EllipsisType):
        return ...
    ranges = (
        slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a[2:], b[2:], strict=True)
    )
    return (slice(None), slice(None), *ranges)


def live_shares(model: nn.Module) -> xr.DataArray:
    """The fraction of each layer's weights that a signal can pass, over ``layer``; 1 without dead
    taps."""
    layers = _layers(model)
    weights = {x: whole(x.weight) for x in layers.values()}
    shares = [W[x.taps].numel() / W.numel() for x, W in weights.items()]
    return _per_layer(
        layers,
        torch.tensor(shares, dtype=torch.float64),
        "live_share",
        "share of the weights that a signal can pass",
        "1",
    )


def matrix_angles(
    model: nn.Module, *, all_weights: bool = False, scales: bool = False
) -> xr.DataArray:
    """The angle between B, which δ travels through, and W, for each layer. Both are read as one
    vector.

    Args:
        model: a converted model, possibly wrapped by ``torch.compile`` or DistributedDataParallel.
        all_weights: whether to include the dead taps that :func:`find_live_taps` found.
        scales: whether to include the scales of normalisations that have a feedback path.

    Returns:
        degrees over ``layer`` (module names as registered); 0 for backprop; NaN for layers
        without a B in W's shape.

    Raises:
        WtkitError: for a model without feedback layers.

    Example:
        >>> import torch, wtkit
        >>> model = wtkit.convert(torch.nn.Linear(100, 50), "feedback_alignment")
        >>> bool(abs(wtkit.matrix_angles(model) - 90) < 5)  # random B: about a right angle
        True
    """
    layers = _layers(model, scales)
    with torch.no_grad():
        values = torch.stack([angle(*_vectors(x, all_weights)) for x in layers.values()])
    return _per_layer(layers, values, "matrix_angle", "angle between B and W", "degree")


def feedback_norm_ratios(model: nn.Module, *, all_weights: bool = False) -> xr.DataArray:
    """‖B‖ / ‖W‖ of each layer, over ``layer``, for the same weights as :func:`matrix_angles`; NaN
    for layers without a B in W's shape."""
    layers = _layers(model)
    with torch.no_grad():
        vectors = [_vectors(x, all_weights) for x in layers.values()]
        values = torch.stack([B.double().norm() / W.double().norm() for B, W in vectors])
    return _per_layer(layers, values, "feedback_norm_ratio", "norm of B over norm of W", "1")


def weight_norms(model: nn.Module, *, all_weights: bool = False) -> xr.DataArray:
    """‖W‖ (Frobenius) of each layer, over ``layer``, for the same weights as :func:`matrix_angles`.

    With the angle θ and the ratio r it gives the mismatch ‖W − Bᵀ‖ = ‖W‖ √(1 + r² − 2 r cos θ).
    """
    layers = _layers(model)
    with torch.no_grad():
        values = torch.stack([_vectors(x, all_weights)[1].double().norm() for x in layers.values()])
    return _per_layer(layers, values, "weight_norm", "norm of W", "1")


def delta_angles(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
) -> xr.DataArray:
    """The angle between the δ that the method sends and the δ that backprop would send, for each
    layer.

    Both come from one forward pass, so from the same activities and the same loss, and each has
    passed all layers downstream. δ is the error signal at the layer's output, before φ and
    BatchNorm. Angles are taken per example and averaged over the batch; the output layer's is 0. In
    training mode BatchNorm normalises with the batch, as in training. Nothing in the model changes,
    nor any gradient or global random stream.

    An example is a row of the layer's output, an index of its first dimension. A model that folds
    time into the batch, (batch, time, features) to (batch · time, features), so has an angle per
    time step; if its layers see (batch, time, features), an example is the whole sequence.

    Args:
        model: a converted model, possibly wrapped by ``torch.compile`` or DistributedDataParallel;
            it is run uncompiled.
        inputs: a batch, examples first. A tuple or list are several inputs, a dict is keyword
            arguments of the model (or its one input, if it takes no such arguments).
        targets: the second argument of ``loss``.
        loss: ``loss(outputs, targets)`` → a number.

    Returns:
        degrees over ``layer`` (module names in the order of registration, see
        :func:`~wtkit.feedback.feedback_layers`); NaN where no δ arrives.

    Raises:
        WtkitError: for a model without feedback layers; for inputs that are no tensors, or no
            batch; for a loss that is no number.

    Example:
        >>> import torch, wtkit
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))
        >>> model = wtkit.convert(model, "feedback_alignment")
        >>> angles = wtkit.delta_angles(model, torch.randn(4, 9), torch.tensor([0, 1, 2, 0]))
        >>> float(angles.sel(layer="2"))  # the output layer's δ is exact
        0.0
    """
    return delta_statistics(model, inputs, targets, loss)["delta_angle"]


def delta_statistics(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
) -> xr.Dataset:
    """``delta_angle``, the result of :func:`delta_angles`, and ``delta_norm_ratio``, the method's
    ‖δ‖ over backprop's."""
    layers = _layers(model)
    compared = [_compared(*deltas) for deltas in _deltas(model, layers, inputs, targets, loss)]
    angles, ratios = (torch.stack(values) for values in zip(*compared, strict=True))
    return xr.Dataset(
        {
            "delta_angle": _per_layer(
                layers, angles, "delta_angle", "angle of δ to backprop's", "degree"
            ),
            "delta_norm_ratio": _per_layer(
                layers, ratios, "delta_norm_ratio", "norm of δ over norm of backprop's", "1"
            ),
        }
    )


def _deltas(
    model: nn.Module,
    layers: dict[str, FeedbackLayer],
    inputs: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor],
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """For each layer, the method's δ and backprop's, one of each per call of the layer; zero where
    no δ arrives."""
    model = unwrap(model)
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    with (
        out_of_inference_mode(model),
        undisturbed(model, inputs),
        contextlib.ExitStack() as hooks,
    ):
        refuse_other_than_tensors(inputs)
        inputs, targets = usable(inputs, "inputs"), usable(targets, "targets")
        # a compiled backward pass, even inside the model, would have fixed its feedback weights
        hooks.enter_context(torch.compiler.set_stance("force_eager"))
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(_keep(outputs[name])).remove)
        value = _loss(loss, call(model, inputs), targets)
        # activation checkpointing calls layers again in the backward pass: those calls do not count
        outputs = {name: list(calls) for name, calls in outputs.items()}
        reached = [out for calls in outputs.values() for out in calls]
        sent = torch.autograd.grad(value, reached, retain_graph=True, allow_unused=True)
        if any(out.numel() == 0 for out in reached):
            raise WtkitError("inputs: the batch is empty, and no angle is defined; give examples")
        for layer, calls in zip(layers.values(), outputs.values(), strict=True):
            if any(out.dim() < layer.batch_dims for out in calls):
                shapes = ", ".join(str(tuple(each.shape)) for each in tensors(inputs))
                raise WtkitError(
                    "inputs: expected a batch, examples first, got one example of shape "
                    f"{shapes}; give inputs[None] and a target for it"
                )
        with deltas_of_backprop():
            exact = torch.autograd.grad(value, reached, allow_unused=True)
    signals = iter(zip(reached, sent, exact, strict=True))
    deltas = []
    for name, calls in outputs.items():
        of_layer: tuple[list[Tensor], list[Tensor]] = ([], [])
        for _ in calls:
            out, *both = next(signals)
            for delta, kept in zip(both, of_layer, strict=True):
                arrived = torch.zeros_like(out) if delta is None else delta.detach()
                kept.append(layers[name].by_example(arrived))
        deltas.append(of_layer)
    return deltas


def _loss(loss: Callable[[Any, Any], Tensor], outputs: Any, targets: Any) -> Tensor:
    """The value of ``loss``, from which gradients start."""
    if not callable(loss):
        raise WtkitError(f"loss: expected a function of outputs and targets, got {loss!r}")
    value = loss(outputs, targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise WtkitError(f"loss: expected a number, as a tensor, got {given}; take its mean")
    if not value.requires_grad:
        raise WtkitError("loss: its value depends on no feedback layer; compute it from outputs")
    return value


def _compared(ours: list[Tensor], theirs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The angle and the ratio of norms of the method's δ and backprop's in one layer; NaN for a
    layer that was not called. The δ of several calls are read as one vector."""
    if not ours:
        nan = torch.full((), float("nan"), dtype=torch.float64)
        return nan, nan
    if len({len(call) for call in ours}) > 1:
        raise WtkitError(
            "inputs: a layer was called with batches of different sizes, so its δ cannot be read "
            "by example; give all its calls the same examples"
        )
    delta, true = (torch.cat([d.flatten(1) for d in calls], 1).double() for calls in (ours, theirs))
    return angle(delta, true).nanmean().cpu(), (delta.norm() / true.norm()).cpu()


def _keep(calls: list[Tensor]) -> Callable[..., Tensor]:
    def hook(_layer: nn.Module, _inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        # the first layer: no parameter requires a gradient, so the graph begins here
        if not out.requires_grad:
            out = out.detach().requires_grad_()
        calls.append(out)
        return out.clone()  # an in-place ReLU would otherwise overwrite `out`

    return hook


@contextlib.contextmanager
def undisturbed(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Within this context nothing that a forward pass changes is kept: BatchNorm's statistics, the
    parameters' ``requires_grad`` and the random streams are restored. Every layer is called."""
    buffers = [
        m._buffers for m in model.modules() if not isinstance(m, FeedbackLayer) or m.is_scale
    ]
    originals = [dict(own) for own in buffers]
    learning = [p for p in model.parameters() if p.requires_grad]
    on = {tensor.device for tensor in (*tensors(inputs), *model.parameters())}
    with torch.random.fork_rng([device for device in on if device.type == "cuda"]):
        # buffers that training updates, such as BatchNorm's, are replaced by copies
        for own in buffers:
            own.update(
                {name: buffer if buffer is None else buffer.clone() for name, buffer in own.items()}
            )
        for parameter in learning:
            parameter.requires_grad_(False)
        # torch's fast path through attention calls no layer, where nothing requires a gradient
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for own, original in zip(buffers, originals, strict=True):
                own.update(original)
            for parameter in learning:
                parameter.requires_grad_(True)


def _B(layer: FeedbackLayer) -> Tensor:
    """B, or NaN in W's shape if nothing is sent back or B leads straight from the output. In a
    fully connected output layer that B is in the place of W."""
    B = layer.B
    in_place = layer.is_output and isinstance(layer.maps, LinearMaps)
    if B is None or (layer.method.direct and not in_place):
        return torch.full_like(whole(layer.weight), float("nan"))
    return B


def _vectors(layer: FeedbackLayer, all_weights: bool) -> tuple[Tensor, Tensor]:
    """B and W as vectors, with all weights or only the live ones."""
    B, W = _B(layer), whole(layer.weight)
    if not all_weights:
        B, W = B[layer.taps], W[layer.taps]
    return B.flatten(), W.flatten()


def _layers(model: nn.Module, scales: bool = False) -> dict[str, FeedbackLayer]:
    layers = feedback_layers(model, scales=scales)
    if not layers:
        raise WtkitError(
            "the model has no feedback layers; convert it first: wtkit.convert(model, method)"
        )
    refuse_without_values("angles", layers)
    return layers


def _per_layer(
    layers: dict[str, FeedbackLayer], values: Tensor, name: str, long_name: str, units: str
) -> xr.DataArray:
    return xr.DataArray(
        np.asarray(values.detach().cpu(), dtype=np.float64),
        dims="layer",
        coords={"layer": list(layers)},
        name=name,
        attrs={"long_name": long_name, "units": units},
    )
