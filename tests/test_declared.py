"""Layers of users' own: those of docs/howto/layer.md keep the contract of all methods, and maps
that do not fit their layer are refused."""

import contextlib
import pickle
import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

import contract
import pytest
import test_convolutions
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import wtkit
from wtkit import methods
from wtkit.feedback import feedback_layers, register

PAGE = Path(__file__).resolve().parent.parent / "docs/howto/layer.md"
METHODS = methods.names()
FAMILIES = ("backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack")
FAMILIES += ("direct_feedback_alignment",)


@pytest.fixture(scope="module")
def page():
    """The page's classes, in a module from which pickle can import them."""
    module = types.ModuleType("layers_of_the_page")
    sys.modules[module.__name__] = module
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    exec("\n".join(blocks).replace("print", "str"), vars(module))
    yield module
    del sys.modules[module.__name__]


class Scaled(nn.Conv1d):
    """With the learning rate of its weights equalised, as in progressive GANs."""

    def forward(self, y):
        return self._conv_forward(y, 2 * self.weight, self.bias)


class ScaledMaps(NamedTuple):
    stride: tuple[int, ...]
    groups: int
    channels_first = True

    def apply_weights(self, y, W, bias=None):
        return F.conv1d(y, 2 * W, bias, self.stride, groups=self.groups)

    def matrices(self, W):
        return W.reshape(self.groups, len(W) // self.groups, -1)

    def features(self, W):
        return W.shape[1] * self.groups, len(W)


register(Scaled, ScaledMaps)


@pytest.fixture
def of_the_page(page, monkeypatch):
    """The contract's network, with layers of the page."""

    def network():
        return nn.Sequential(
            page.Local(2, 6, size=42, kernel=3),
            nn.ReLU(),
            Scaled(6, 4, 2, stride=2, groups=2, bias=False),
            nn.Tanh(),
            nn.Flatten(),
            page.Masked(80, 16, density=0.8),
            nn.ReLU(),
            nn.Linear(16, 3),
        ).double()

    def batch():
        generator = torch.Generator().manual_seed(5)
        inputs = torch.randn(5, 2, 42, dtype=torch.float64, generator=generator)
        return inputs, torch.tensor([0, 1, 2, 1, 0])

    monkeypatch.setattr(contract, "network", network)
    monkeypatch.setattr(contract, "batch", batch)
    monkeypatch.setattr(contract, "reference_gradients", test_convolutions.reference_gradients)


OWN_SHAPES = [contract.B_has_the_shape_precision_and_scale_of_W]  # reads in_channels
CHECKS = [
    pytest.param(
        check,
        name,
        id=f"{check.__name__}-{name}",
        marks=[]
        if name in FAMILIES and check is not contract.compiled_equals_eager
        else [pytest.mark.slow],
    )
    for check in contract.CHECKS
    if check not in OWN_SHAPES
    for name in METHODS
]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("check", "name"), CHECKS)
def test_layers_of_the_page_keep_the_contract(check, name, of_the_page):
    torch.manual_seed(0)
    check(name)


# ------------------------------------------------------------------------ what PyTorch does with it


@pytest.mark.parametrize("name", FAMILIES)
def test_autocast_computes_in_its_precision(name, page):
    """Also where a field of the maps, as a mask, is kept in another."""
    model = wtkit.convert(nn.Sequential(page.Masked(6, 5), nn.ReLU(), page.Masked(5, 3)), name)
    y = torch.randn(4, 6)
    full = model(y)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(y)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), full, rtol=0.05, atol=0.05)
    out.float().square().sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_gradients_of_single_examples(page):
    layer = wtkit.convert(page.Masked(6, 3).double(), "feedback_alignment")
    plain = wtkit.export(layer)
    y = torch.randn(4, 6, dtype=torch.float64)

    def loss(parameters, buffers, model, example):
        return torch.func.functional_call(model, (parameters, buffers), (example[None],)).sum()

    found, expected = (
        torch.func.vmap(torch.func.grad(loss), (None, None, None, 0))(
            dict(model.named_parameters()), dict(model.named_buffers()), model, y
        )
        for model in (layer, plain)
    )
    torch.testing.assert_close(found["weight"], expected["weight"])


def test_kolen_pollack_keeps_its_law(of_the_page):
    model = contract.converted("kolen_pollack")
    gaps = {key: (x.weight - x.B).detach() for key, x in feedback_layers(model).items()}
    contract.train(model, steps=4, lr=0.2, momentum=0, weight_decay=0.5)
    for key, layer in feedback_layers(model).items():
        torch.testing.assert_close(
            (layer.weight - layer.B).detach(), 0.9**4 * gaps[key], rtol=1e-9, atol=1e-12
        )


def test_a_pickle_needs_the_registration(page, monkeypatch):
    saved = pickle.dumps(wtkit.convert(page.Masked(4, 3), "feedback_alignment"))
    monkeypatch.delitem(wtkit.feedback.layers.TWINS, page.Masked)
    with pytest.raises(wtkit.WtkitError, match=r"Masked is not registered here; before loading"):
        pickle.loads(saved)


# ------------------------------------------------------------------------------- what does not fit


def own(forward, apply_weights, **others):
    """A registered subclass of nn.Linear with this forward pass and these maps."""

    class Own(nn.Linear):
        pass

    class OwnMaps(NamedTuple):
        pass

    Own.forward = forward
    OwnMaps.apply_weights = apply_weights
    for key, value in others.items():
        setattr(OwnMaps, key, value)
    register(Own, OwnMaps)
    return Own


def plain(self, y):
    return F.linear(y, self.weight, self.bias)


def exact(maps, y, W, bias=None):
    return F.linear(y, W, bias)


def normalised(W):
    return W / W.norm()


UNFIT = {
    "another output": (
        lambda self, y: F.linear(y, self.weight, self.bias).tanh(),
        exact,
        "gives another output than the layer",
    ),
    "another shape": (
        lambda self, y: F.linear(y, self.weight, self.bias)[None],
        exact,
        "gives another output than the layer",
    ),
    "random": (
        lambda self, y: F.linear(F.dropout(y), self.weight, self.bias),
        lambda maps, y, W, bias=None: F.linear(F.dropout(y), W, bias),
        "gives another output than the layer",
    ),
    "activation": (
        lambda self, y: F.linear(y, self.weight, self.bias).relu(),
        lambda maps, y, W, bias=None: F.linear(y, W, bias).relu(),
        "is not linear in y",
    ),
    "normalised": (
        lambda self, y: F.linear(y, normalised(self.weight), self.bias),
        lambda maps, y, W, bias=None: F.linear(y, normalised(W), bias),
        "is not linear in W",
    ),
}


LINEAR_IN_THE_BIAS = "has to add a part that is linear in the bias"
UNFIT |= {
    key: (
        lambda self, y, apply=apply: apply(None, y, self.weight, self.bias),
        apply,
        message,
    )
    for key, apply, message in (
        ("squared bias", lambda _, y, W, b=None: with_bias(y, W, b, lambda: b**2), None),
        ("size of the bias", lambda _, y, W, b=None: with_bias(y, W, b, lambda: 2 * b.abs()), None),
        ("constant", lambda _, y, W, b=None: with_bias(y, W, b, lambda: b + 1), None),
        (
            "bias times y",
            lambda _, y, W, b=None: with_bias(y, W, b, lambda: b * y.mean(-1, keepdim=True)),
            None,
        ),
        ("bias times W", lambda _, y, W, b=None: with_bias(y, W, b, lambda: b * W.sum(1)), None),
        ("size of y", lambda _, y, W, b=None: with_bias(y.abs(), W, b, lambda: b), "linear in y"),
    )
    for message in [message or LINEAR_IN_THE_BIAS]
}
UNFIT["squared bias of the layer, which is 0"] = (
    lambda self, y: F.linear(y, self.weight, self.bias**2),
    lambda _, y, W, b=None: F.linear(y, W, b),
    "gives another output than the layer",
)


def with_bias(y, W, bias, part):
    return F.linear(y, W) if bias is None else F.linear(y, W) + part()


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("forward", "apply_weights", "message"), UNFIT.values(), ids=UNFIT)
def test_maps_of_another_layer_are_refused_at_the_first_batch(
    forward, apply_weights, message, zero
):
    layer = wtkit.convert(own(forward, apply_weights)(4, 3), "feedback_alignment")
    if zero:
        nn.init.zeros_(layer.bias)
    state = torch.get_rng_state()
    with pytest.raises(wtkit.WtkitError, match=f"Own: 'apply_weights' of its maps .*{message}"):
        layer(torch.randn(2, 4, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrong_gradient_is_refused():
    def backward(maps, delta, y, M, needs):
        return delta @ M, delta.T @ y, 2 * delta.sum(0)

    layer = wtkit.convert(own(plain, exact, backward=backward)(4, 3), "feedback_alignment")
    with pytest.raises(wtkit.WtkitError, match=r"'backward' of its maps .* gradient of bias"):
        layer(torch.randn(2, 4))


@pytest.mark.parametrize(
    "wrong", [{"features": lambda maps, W: W.shape[:2]}, {"channels_first": True}]
)
def test_features_that_do_not_fit_are_refused_by_direct_feedback(wrong):
    layer = wtkit.convert(own(plain, exact, **wrong)(4, 3), "direct_feedback_alignment")
    with pytest.raises(wtkit.WtkitError, match="'features' of its maps gave"):
        layer(torch.randn(2, 5, 4))
    other = wtkit.convert(own(plain, exact, **wrong)(4, 3), "feedback_alignment")
    assert other(torch.randn(2, 5, 4)).shape == (2, 5, 3)


def test_a_right_gradient_of_its_own_is_used():
    calls = []

    def backward(maps, delta, y, M, needs):
        calls.append(needs)
        return delta @ M, delta.T @ y, delta.sum(0)

    layer = wtkit.convert(own(plain, exact, backward=backward)(4, 3), "feedback_alignment")
    for _ in range(2):
        layer(torch.randn(2, 4)).sum().backward()
    assert len(calls) == 3, "one more to compare it, in the first batch only"


@pytest.mark.parametrize(
    "matrices",
    [lambda maps, W: W, lambda maps, W: W[None, :, :2], lambda maps, W: 0 * W[None]],
    ids=["2-d", "a part", "zeros"],
)
def test_matrices_that_lose_weights_are_refused(matrices):
    layer = own(plain, exact, matrices=matrices)(4, 3)
    with pytest.raises(wtkit.WtkitError, match=r"'matrices' of its maps gave .* of W once"):
        wtkit.convert(layer, "feedback_alignment")
    assert not feedback_layers(layer)


def with_gain(layer):
    layer.gain = nn.Parameter(torch.ones(()))


def with_a_module(layer):
    layer.inner = nn.Linear(2, 2)


def without_bias(layer):
    del layer.bias


def without_weight(layer):
    layer.kernel = layer.weight
    del layer.weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_gain, "would give no gradient to 'gain'"),
        (with_a_module, "would give no gradient to 'inner.weight'"),
        (without_bias, "it has no 'bias'"),
        (without_weight, "it has no 'weight'"),
    ],
)
def test_a_layer_with_other_parameters_is_refused(change, message):
    layer = own(plain, exact)(4, 3)
    change(layer)
    with pytest.raises(wtkit.WtkitError, match=f"cannot convert '0' .Own.: .*{message}"):
        wtkit.convert(nn.Sequential(layer), "feedback_alignment")


class WithField(NamedTuple):
    mask: Tensor

    def apply_weights(self, y, W, bias=None):
        return F.linear(y, W, bias)


class Subclass(nn.Linear):
    pass


class NoTuple:
    def apply_weights(self, y, W, bias=None):
        return F.linear(y, W, bias)


class NoMap(NamedTuple):
    mask: Tensor


def test_a_field_that_the_layer_has_not_is_named():
    register(Subclass, WithField)
    with pytest.raises(wtkit.WtkitError, match="have the field 'mask', which the layer has not"):
        wtkit.convert(Subclass(2, 2), "feedback_alignment")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(2, 2), WithField), "kind: expected a type, got a Linear"),
        ((nn.Linear, WithField), "wtkit has maps for Linear; to change them, register a subclass"),
        ((Subclass, NoTuple), "as a class derived from typing.NamedTuple, got <class"),
        (
            (Subclass, lambda layer: None),
            "maps: expected a type, got a function",
        ),
        ((nn.LSTM, WithField), "wtkit has maps for LSTM"),
        ((nn.GRUCell, WithField), "wtkit has maps for GRUCell"),
        ((nn.MultiheadAttention, WithField), "wtkit has maps for MultiheadAttention"),
        ((nn.LayerNorm, WithField), "wtkit has maps for LayerNorm"),
        ((nn.BatchNorm2d, WithField), "wtkit has maps for BatchNorm2d"),
        ((Subclass, NoMap), "NoMap has no method apply_weights"),
    ],
)
def test_what_cannot_be_registered_is_said(arguments, message):
    with pytest.raises(wtkit.WtkitError, match=message):
        register(*arguments)


def test_a_class_may_be_registered_again(page):
    model = wtkit.convert(own(plain, exact)(4, 3), "feedback_alignment")
    kind = type(wtkit.export(model))
    register(kind, WithField)
    assert type(wtkit.export(model)) is kind


# ------------------------------------------------------------------------------- the first batch


def masked(page):
    torch.manual_seed(0)
    model = nn.Sequential(page.Masked(5, 6), nn.Tanh(), page.Masked(6, 3)).double()
    return wtkit.convert(model, "feedback_alignment", seed=0)


def gradients_of(model, y, context=contextlib.nullcontext, call=None):
    with context():
        (call(model) if call else model(y)).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("context", "call"),
    [
        (torch.autograd.graph.save_on_cpu, None),
        (lambda: torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone), None),
        (lambda: torch.autograd.graph.disable_saved_tensors_hooks("no"), None),
        (
            contextlib.nullcontext,
            lambda y: lambda m: checkpoint(m, y, use_reentrant=False),
        ),
    ],
    ids=["save_on_cpu", "hooks", "no hooks", "checkpoint"],
)
def test_hooks_on_saved_tensors_do_not_matter(context, call, page):
    """Neither in the first forward pass nor around the backward pass."""
    y = torch.randn(4, 5, dtype=torch.float64)
    found = gradients_of(masked(page), y, context, call and call(y))
    for a, b in zip(found, gradients_of(masked(page), y), strict=True):
        assert torch.equal(a, b)


def test_strict_takes_a_batch(page):
    model = nn.Sequential(page.Masked(5, 6), nn.Tanh(), page.Masked(6, 3))
    wtkit.convert(model, "kolen_pollack", strict=torch.randn(4, 5))
    assert len(feedback_layers(model)) == 2


def test_second_derivatives(page):
    """The penalty's gradient is that of a layer with B in W's place."""
    layer = wtkit.convert(page.Masked(5, 3).double(), "feedback_alignment")
    y = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    with wtkit.feedback.twice_differentiable():
        out = layer(y)
    (below,) = torch.autograd.grad(out.square().sum(), y, create_graph=True)
    below.square().sum().backward()
    M = layer.mask * layer.B
    expected = 8 * layer(y).detach() @ M @ M.T
    torch.testing.assert_close(y.grad, expected @ M)


def test_a_bias_of_each_position(page):
    class PerPosition(page.Local):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.bias = nn.Parameter(torch.randn(self.weight.shape[:2]))

        def forward(self, y):
            return PerPositionMaps(self.kernel, self.inputs).apply_weights(
                y, self.weight, self.bias
            )

    class PerPositionMaps(NamedTuple):
        kernel: int
        inputs: int
        channels_first = True

        def apply_weights(self, y, W, bias=None):
            out = page.LocalMaps(self.kernel, self.inputs).apply_weights(y, W)
            return out if bias is None else out + bias.T

        def matrices(self, W):
            return W

    register(PerPosition, PerPositionMaps)
    model = wtkit.convert(PerPosition(2, 4, 8, 3), "feedback_alignment")
    plain = wtkit.export(model)
    y = torch.randn(3, 2, 8)
    for a, b in zip(gradients_of(model, y), gradients_of(plain, y), strict=True):
        torch.testing.assert_close(a, b)


def test_a_second_input_is_refused(page):
    layer = wtkit.convert(page.Masked(5, 3), "feedback_alignment")
    with pytest.raises(wtkit.WtkitError, match="Masked: a registered layer is called with one inp"):
        layer(torch.randn(2, 5), torch.ones(()))
    with pytest.raises(wtkit.WtkitError, match="Masked: a registered layer is called with one inp"):
        layer(torch.randn(2, 5), scale=2.0)
