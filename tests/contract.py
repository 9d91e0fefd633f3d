"""What every method must keep to, as plain functions that take a method's name, and the reference
that they use.

The reference is numpy in float64, written from the paper's equations tap by tap, and knows nothing
of PyTorch.
"""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit import methods
from wtkit.feedback import FeedbackLayer, feedback_layers

# ------------------------------------------------------------------------------------ the reference

PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def array(tensor):
    return tensor.detach().double().numpy().copy()


def linear_forward(y, W, bias=None):
    """Eq. 1: y (..., in), W (out, in)."""
    return np.einsum("...i,oi->...o", y, W) + (0 if bias is None else bias)


def linear_backward(delta, y, M):
    """(Mᵀ δ, δ yᵀ, Σ δ): eqs. 2–3, 4 and 16."""
    leading = tuple(range(y.ndim - 1))
    return (
        np.einsum("...o,oi->...i", delta, M),
        np.tensordot(delta, y, axes=(leading, leading)),
        delta.sum(leading),
    )


def conv_padding(conv):
    """((top, bottom), (left, right)) of an nn.Conv2d; ``'same'`` puts the odd pixel behind."""
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return ((0, 0), (0, 0)) if conv.padding == "valid" else tuple((p, p) for p in conv.padding)


def _padded(y, conv):
    """y with its border, and for every padded pixel the index of the pixel that it shows (-1 for
    none)."""
    index = np.arange(y.shape[2] * y.shape[3]).reshape(y.shape[2:])
    mode = PAD_MODES[conv.padding_mode]
    index = np.pad(
        index, conv_padding(conv), mode, **({"constant_values": -1} if mode == "constant" else {})
    )
    flat = y.reshape(*y.shape[:2], -1)
    return np.where(index < 0, 0, flat[:, :, index]), index


def _taps(conv, padded, size):
    """For each tap of the kernel (i, j), the slices of the padded image that it meets."""
    for i in range(conv.kernel_size[0]):
        for j in range(conv.kernel_size[1]):
            slices = [
                slice(tap * d, tap * d + s * (n - 1) + 1, s)
                for tap, d, s, n in zip((i, j), conv.dilation, conv.stride, size, strict=True)
            ]
            yield i, j, (slice(None), slice(None), *slices)


def _grouped(x, groups, axis):
    return x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])


def conv_forward(y, W, bias, conv):
    """Eq. 1 of a convolution whose geometry is that of ``conv``: y (N, in, H, W), W (out,
    in/groups, kh, kw)."""
    padded, _ = _padded(y, conv)
    size = [
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(
            padded.shape[2:], conv.dilation, conv.kernel_size, conv.stride, strict=True
        )
    ]
    out = np.zeros((y.shape[0], W.shape[0], *size))
    grouped = _grouped(W, conv.groups, 0)
    for i, j, where in _taps(conv, padded, size):
        part = _grouped(padded[where], conv.groups, 1)
        out += np.einsum("ngihw,goi->ngohw", part, grouped[..., i, j]).reshape(out.shape)
    return out + (0 if bias is None else bias[:, None, None])


def conv_backward(delta, y, M, conv):
    """(Mᵀ δ, δ yᵀ, Σ δ) of that convolution."""
    padded, index = _padded(y, conv)
    below_padded, product = np.zeros_like(padded), np.zeros_like(M)
    grouped, signal = _grouped(M, conv.groups, 0), _grouped(delta, conv.groups, 1)
    for i, j, where in _taps(conv, padded, delta.shape[2:]):
        part = np.einsum("ngohw,goi->ngihw", signal, grouped[..., i, j])
        below_padded[where] += part.reshape(below_padded[where].shape)
        outer = np.einsum("ngohw,ngihw->goi", signal, _grouped(padded[where], conv.groups, 1))
        product[:, :, i, j] = outer.reshape(M.shape[:2])
    below = np.zeros((*y.shape[:2], y.shape[2] * y.shape[3]))
    shown = index >= 0
    np.add.at(below, (slice(None), slice(None), index[shown]), below_padded[:, :, shown])
    return below.reshape(y.shape), product, delta.sum((0, 2, 3))


# ----------------------------------------------------------------------------- the family's network


def network():
    """Two convolutions and two Linears, float64: every kind of layer has one of its kind below
    it."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 2, stride=2, groups=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    ).double()


def batch():
    """Always the same five images and classes."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(5, 2, 6, 6, dtype=torch.float64, generator=generator), torch.tensor(
        [0, 1, 2, 1, 0]
    )


def converted(name, **options):
    return wtkit.convert(network(), name, **options)


def gradients(model, inputs, targets):
    """Gradients of the cross-entropy with respect to the inputs and to every parameter, by name."""
    inputs = inputs.clone().requires_grad_()
    model.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    found = {"inputs": inputs.grad} | {name: p.grad for name, p in model.named_parameters()}
    return {name: grad for name, grad in found.items() if grad is not None}


def reference_gradients(model, inputs, targets):
    """The same by eqs. 1–4 in numpy, δ sent through each layer's B; zero where none is sent."""
    first, second, third, last = (model[i] for i in (0, 2, 5, 7))
    W = {layer: array(layer.weight) for layer in (first, second, third, last)}
    direct = first.method.direct
    B = {layer: 0 * W[layer] if direct or layer.B is None else array(layer.B) for layer in W}
    y0 = array(inputs)
    s1 = conv_forward(y0, W[first], array(first.bias), first)
    y1 = np.maximum(s1, 0)
    y2 = np.tanh(conv_forward(y1, W[second], None, second))
    y2_flat = y2.reshape(len(y2), -1)
    s3 = linear_forward(y2_flat, W[third], array(third.bias))
    y3 = np.maximum(s3, 0)
    logits = linear_forward(y3, W[last], array(last.bias))

    share = np.exp(logits - logits.max(1, keepdims=True))
    delta4 = (share / share.sum(1, keepdims=True) - np.eye(3)[targets.numpy()]) / len(targets)

    def sent(layer, y, below):
        """What reaches y, the input of ``layer``: what it sends, or the output's δ, straight and as
        if pooled."""
        if not direct:
            return below
        e = np.einsum("no,oi->ni", delta4, array(layer.B)).reshape(len(y), -1, *[1] * (y.ndim - 2))
        return np.ones_like(y) * e / y[0, 0].size

    below, dW_last, db_last = linear_backward(delta4, y3, B[last])
    below, dW_third, db_third = linear_backward(sent(last, y3, below) * (s3 > 0), y2_flat, B[third])
    below = sent(third, y2_flat, below).reshape(y2.shape)
    below, dW_second, _ = conv_backward(below * (1 - y2**2), y1, B[second], second)
    below, dW_first, db_first = conv_backward(
        sent(second, y1, below) * (s1 > 0), y0, B[first], first
    )
    below = sent(first, y0, below)
    return {
        "inputs": below,
        "0.weight": dW_first, "0.bias": db_first, "2.weight": dW_second,
        "5.weight": dW_third, "5.bias": db_third, "7.weight": dW_last, "7.bias": db_last,
    }  # fmt: skip


def train(model, steps=1, **settings):
    """A loop as anyone would write it; returns the losses."""
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), **({"lr": 0.2, "momentum": 0.5} | settings))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same_state(a, b):
    assert list(a) == list(b), "both should hold the same names, in the same order"
    for key in a:
        assert torch.equal(a[key], b[key]), f"{key!r} should be the same in both, bit for bit"


# ------------------------------------------------------------------------------------- the contract


def is_a_documented_frozen_dataclass(name):
    cls = methods.method_class(name)
    method = methods.load(name)
    assert (method.name, type(method)) == (name, cls), (
        "a method's name is that of its file, which defines its class"
    )
    assert cls.__doc__ and "Reference" in cls.__doc__, (
        "the docstring holds the equations and the reference"
    )
    assert 0 < len(cls.label) <= 4, "the label in figures and tables has 1 to 4 letters"
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, None)
    with pytest.raises(wtkit.WtkitError, match=f"unknown option of {name} 'no_such_option'"):
        methods.load(name, no_such_option=1)


def forward_is_that_of_the_plain_network(name):
    plain = network()
    model = wtkit.convert(copy.deepcopy(plain), name)
    inputs, _ = batch()
    same = "the forward pass uses W alone: the outputs are those of the plain network, bit for bit"
    assert torch.equal(model(inputs), plain(inputs)), same
    with torch.no_grad():
        assert torch.equal(model(inputs), plain(inputs)), f"{same}, also without gradients"


def gradients_have_B_in_the_place_of_W(name):
    model, (inputs, targets) = converted(name), batch()
    found, expected = gradients(model, inputs, targets), reference_gradients(model, inputs, targets)
    for key, value in expected.items():
        # where nothing is sent there is no gradient at all, so that no optimizer moves anything
        if key not in found:
            assert not value.any(), f"{key} has no gradient, but by eqs. 3 and 4 δ reaches it"
        else:
            np.testing.assert_allclose(
                array(found[key]), value, rtol=1e-9, atol=1e-12,
                err_msg=f"the gradient of {key} is not that of eqs. 3 and 4 with B in W's place",
            )  # fmt: skip


def B_has_the_shape_precision_and_scale_of_W(name):
    """Or the shape that leads straight from the three outputs; or there is none."""
    for dtype in (torch.float64, torch.float32):
        for layer in feedback_layers(converted(name).to(dtype)).values():
            if layer.B is None:
                continue
            inputs = getattr(layer, "in_features", None) or layer.in_channels
            shape = (3, inputs) if layer.method.direct else layer.weight.shape
            assert (layer.B.shape, layer.B.dtype) == (shape, dtype), (
                "B has W's shape and precision; of a direct method, a column per class"
            )
            assert 0.5 < float(rms(layer.B) / rms(layer.weight)) < 2, (
                "B's elements are about as large as W's at the start; random_like scales them so"
            )


def rms(tensor):
    return tensor.detach().square().mean().sqrt()


SELDOM = 1500
"""Updates of W within which a method that learns in engaged mode changes every B at least once."""


def B_learns_in_engaged_mode_only_if_the_method_says_so(name):
    model = converted(name)
    kept = {
        key: layer.feedback
        for key, layer in feedback_layers(model).items()
        if layer.feedback is not None
    }
    before = {key: value.detach().clone() for key, value in kept.items()}
    learns = methods.method_class(name).learns_engaged
    assert all(isinstance(value, nn.Parameter) == learns for value in kept.values()), (
        "B is a parameter, for the optimizer to update, if and only if learns_engaged is true"
    )
    assert sum("feedback" in key for key, _ in model.named_parameters()) == (
        len(kept) if learns else 0
    ), "model.parameters() has each layer's B if learns_engaged is true, and none otherwise"
    gradients(model, *batch())
    assert all(torch.equal(kept[key], before[key]) for key in kept), (
        "before W is updated nothing changes"
    )
    changes = learns or methods.method_class(name).follows
    changed: set[str] = set()
    for _ in range(SELDOM if changes else 2):
        train(model)
        changed |= {key for key in kept if not torch.equal(kept[key], before[key])}
        if changed == set(kept):
            break
    assert changed == (set(kept) if changes else set()), (
        f"B changes with W's updates, within {SELDOM} of them, if and only if learns_engaged or "
        "follows is true"
    )


def B_learns_in_mirror_mode_only_if_the_method_says_so(name):
    model = converted(name)
    if not methods.method_class(name).learns_mirror:
        with pytest.raises(wtkit.WtkitError, match="no layer of this model learns in mirror mode"):
            wtkit.mirror(model)
        return
    before = wtkit.matrix_angles(model)
    wtkit.mirror(model, 300)
    assert (wtkit.matrix_angles(model) < before - 30).all(), (
        "300 mirror steps bring every B at least 30° nearer to W if learns_mirror is true"
    )


def a_plain_loop_lowers_the_loss(name):
    """By more than the output layer does alone, or as much, where it is alone."""
    model = converted(name)
    losses = train(model, steps=40)
    assert losses[-1] < (0.95 if model[-1].B is None else 0.6) * losses[0], (
        f"40 steps of SGD on one batch lower the loss; it went from {losses[0]:.3f} to "
        f"{losses[-1]:.3f}"
    )


def angles_are_those_of_B(name):
    model, (inputs, targets) = converted(name), batch()
    train(model)
    angles = wtkit.matrix_angles(model)
    assert list(angles.layer.values) == ["0", "2", "5", "7"], "every layer has a matrix angle"
    for key, layer in feedback_layers(model).items():
        if layer.B is None or layer.B.shape != layer.weight.shape:  # no B is in W's place
            assert math.isnan(angles.sel(layer=key)), "no matrix angle without a B in W's place"
            continue
        B, W = array(layer.B).ravel(), array(layer.weight).ravel()
        cosine = min(1.0, B @ W / math.sqrt((B @ B) * (W @ W)))
        assert math.isclose(
            float(angles.sel(layer=key)), math.degrees(math.acos(cosine)), abs_tol=1e-5
        ), f"the matrix angle of layer {key!r} is not that between its B and its W"
    deltas = wtkit.delta_angles(model, inputs, targets)
    assert float(deltas.sel(layer="7")) == 0, "the output layer's δ is the loss's own: 0°"
    below = deltas.sel(layer=["0", "2", "5"])
    assert np.isnan(below).all() if layer.B is None else ((below >= 0) & (below <= 180)).all(), (
        "hidden layers have a δ angle of 0° to 180°, or none if no δ is sent"
    )


def the_seed_decides_B_and_no_global_stream_moves(name):
    plain, state = network(), torch.get_rng_state()
    first, again, other = (
        wtkit.convert(copy.deepcopy(plain), name, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state), (
        "B is drawn from the generator that initial is given; torch's own random stream moved"
    )
    assert_same_state(first.state_dict(), again.state_dict())
    for key, layer in feedback_layers(first).items():
        if layer.feedback is not None and layer.feedback.ndim:  # random, not a mere scale
            assert not torch.equal(layer.B, other.get_submodule(key).B), (
                "another seed gives another B"
            )


def state_dict_goes_round(name):
    model, other = converted(name), converted(name, seed=7)
    train(model)
    other.load_state_dict(model.state_dict(), strict=True)
    assert_same_state(model.state_dict(), other.state_dict())
    a, b = (gradients(m, *batch()) for m in (model, other))
    assert_same_state(a, b)


def plain_checkpoints_load_and_export_returns_them(name):
    checkpoint, model = network().state_dict(), converted(name)
    kept = {
        key: value.clone() for key, value in model.state_dict().items() if key not in checkpoint
    }
    model.load_state_dict(checkpoint, strict=True)
    for key, value in kept.items():
        assert torch.equal(model.state_dict()[key], value), "B stays as it was"
    plain = wtkit.export(model)
    assert_same_state(plain.state_dict(), checkpoint)
    assert [type(m) for m in plain.modules()] == [type(m) for m in network().modules()], (
        "export gives back PyTorch's own layers"
    )
    assert all(isinstance(layer, FeedbackLayer) for layer in (model[0], model[7])), (
        "the model itself stays"
    )
    inputs, _ = batch()
    assert torch.equal(plain(inputs), model(inputs)), "export changes no output"
    fresh = network()
    fresh.load_state_dict(checkpoint)
    assert_same_state(gradients(plain, *batch()), gradients(fresh, *batch()))


def a_copy_goes_on_as_the_original_would(name):
    for duplicate in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        model = converted(name)
        train(model)
        twin = duplicate(model)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        train(twin, steps=2)
        assert_same_state(model.state_dict(), before)
        train(model, steps=2)
        assert_same_state(model.state_dict(), twin.state_dict())


def converting_twice_leaves_nothing_behind(name):
    for other in methods.names():
        model = wtkit.convert(converted(other), name, seed=3)
        once = wtkit.convert(network(), name, seed=3)
        left = f"converting from {other} to {name} leaves something of {other} behind"
        assert list(model.state_dict()) == list(once.state_dict()), left
        assert [n for n, _ in model.named_parameters()] == [
            n for n, _ in once.named_parameters()
        ], left
        assert all(layer.method.name == name for layer in feedback_layers(model).values()), left
        assert "feedback" not in vars(model[0]), left


def compiled_equals_eager(name):
    model, (inputs, targets) = converted(name), batch()
    eager = gradients(model, inputs, targets)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = {
        key.removeprefix("_orig_mod."): value.clone()
        for key, value in gradients(compiled, inputs, targets).items()
    }
    assert set(found) == set(eager), "a compiled model has gradients where an eager one has"
    for key, value in eager.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-12, atol=1e-12,
            msg=lambda text, key=key: f"compiled, the gradient of {key} is another: {text}",
        )  # fmt: skip


CHECKS = [
    is_a_documented_frozen_dataclass,
    forward_is_that_of_the_plain_network,
    gradients_have_B_in_the_place_of_W,
    B_has_the_shape_precision_and_scale_of_W,
    B_learns_in_engaged_mode_only_if_the_method_says_so,
    B_learns_in_mirror_mode_only_if_the_method_says_so,
    a_plain_loop_lowers_the_loss,
    angles_are_those_of_B,
    the_seed_decides_B_and_no_global_stream_moves,
    state_dict_goes_round,
    plain_checkpoints_load_and_export_returns_them,
    a_copy_goes_on_as_the_original_would,
    converting_twice_leaves_nothing_behind,
    compiled_equals_eager,
]


def holds(name):
    """Every check of the family for the method ``name``."""
    for check in CHECKS:
        torch.manual_seed(0)
        check(name)
