"""Layers whose backward pass is PyTorch's own, which finds B where it saved W. All is as with the
backward pass that is written out."""

import contract
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import wtkit
from wtkit import methods
from wtkit.feedback import deltas_of_backprop, engaged
from wtkit.feedback.maps import LinearMaps

SENT_BY_LAYERS = [name for name in methods.names() if not methods.method_class(name).direct]

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (4, 6)),
    "linear_of_sequences": (lambda: nn.Linear(6, 5, bias=False), (4, 3, 6)),
    "linear_of_one": (lambda: nn.Linear(6, 5), (6,)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 6)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, padding=2, groups=2, bias=False), (2, 4, 5, 6)),
    "dead_taps": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 1, 2)),
    "one_position": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 3, 3)),
    "series": (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 5)),
    "volume": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 3, 4)),
}


@pytest.fixture
def written_out(monkeypatch):
    """A function that makes all layers take the backward pass that is written out."""
    return lambda: monkeypatch.setattr(engaged, "_may_exchange", lambda: False)


def gradients(layer, y, *, backprop=False):
    y = y.clone().requires_grad_()
    layer.zero_grad()
    out = layer(y)
    delta = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    with deltas_of_backprop() if backprop else torch.enable_grad():
        out.backward(delta)
    found = y.grad, *(p.grad for p in layer.parameters())
    return [out.detach(), *(gradient for gradient in found if gradient is not None)]


@pytest.mark.parametrize("backprop", [False, True], ids=["method", "deltas_of_backprop"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64, "autocast"], ids=str)
@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("name", SENT_BY_LAYERS)
def test_every_gradient_is_the_same_bit_for_bit(
    written_out, name, make, shape, precision, backprop
):
    dtype = torch.float32 if precision == "autocast" else precision
    layer = wtkit.convert(make().to(dtype), name, seed=0)
    y = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        found = gradients(layer, y, backprop=backprop)
        written_out()
        expected = gradients(layer, y, backprop=backprop)
    assert len(found) == len(expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_most_layers_take_this_way_and_those_of_backprop_are_plain():
    def node(name, make, shape):
        return type(wtkit.convert(make(), name)(torch.zeros(shape)).grad_fn).__name__

    ways = {key: node("kolen_pollack", *layer) for key, layer in LAYERS.items()}
    assert [key for key, way in ways.items() if way == "EngagedBackward"] == [
        "linear_of_one", "one_position"
    ]  # fmt: skip
    assert node("backprop", *LAYERS["convolution"]) == "ConvolutionBackward0"


@pytest.mark.parametrize("what", ["y", "B", "W"])
def test_a_change_in_place_is_noticed_as_in_a_plain_layer(what):
    layer = wtkit.convert(nn.Conv2d(2, 2, 3), "kolen_pollack")
    y = torch.randn(2, 2, 5, 5).requires_grad_()
    seen = y * 1
    loss = layer(seen).sum()
    with torch.no_grad():
        {"y": seen, "B": layer.feedback, "W": layer.weight}[what].mul_(2)
    if what == "W":  # δ does not pass it
        loss.backward()
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("name", SENT_BY_LAYERS)
def test_under_autocast_no_cast_of_W_waits_for_the_backward_pass(monkeypatch, name):
    kept = []

    class Noted(engaged._Exchange):
        def pack(self, saved):
            result = super().pack(saved)
            kept.append((self, result[0]))
            return result

    monkeypatch.setattr(engaged, "_Exchange", Noted)
    layer = wtkit.convert(nn.Linear(31, 37), name, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(2, 31).requires_grad_())
    assert bool(kept) == (name not in ("backprop", "frozen"))  # those are PyTorch's own
    for exchange, saved in kept:
        assert exchange.operand is None
        assert saved is None or saved.shape == (2, 31)
    out.sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_activation_checkpointing_keeps_no_activity():
    """It has hooks of its own, which an inner pair would hide."""
    model = wtkit.convert(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), "frozen")
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    checkpoint(model, torch.randn(2, 4).requires_grad_(), use_reentrant=False).sum().backward()
    assert len(calls) == 2
    offered = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: offered.append(x) or x, lambda x: x):
        model(torch.randn(2, 4).requires_grad_())
    assert len(offered) > 3


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(2, 3, 3), lambda: nn.Linear(5, 3)])
def test_a_second_derivative_is_right_or_refused(make):
    """Of the input's gradient Bᵀδ with δ = 2 W y, W's part is δ's, since B does not follow it."""
    layer = wtkit.convert(make().double(), "feedback_alignment", seed=0)
    like = type(layer).__mro__[2]  # torch's own layer
    y = torch.randn(2, 2, 5, 5).double().requires_grad_()

    def penalty(layer):
        (first,) = torch.autograd.grad(layer(y).pow(2).sum(), y, create_graph=True)
        return first.pow(2).sum()

    with pytest.raises(wtkit.WtkitError, match="twice_differentiable"):
        penalty(layer)
    with wtkit.feedback.twice_differentiable():
        penalty(layer).backward()
    found = layer.weight.grad

    W, B = layer.weight.detach(), layer.feedback
    moved = W.clone().requires_grad_()
    send = nn.functional.linear if like is nn.Linear else nn.functional.conv2d
    delta = 2 * send(y, moved, layer.bias)
    _, back = torch.autograd.functional.vjp(lambda y: send(y, B), y, delta, create_graph=True)
    (expected,) = torch.autograd.grad(back.pow(2).sum(), moved)
    torch.testing.assert_close(found, expected)


def test_of_backprop_a_second_derivative_is_plain():
    layer = wtkit.convert(nn.Linear(5, 3).double(), "backprop")
    y = torch.randn(2, 5).double().requires_grad_()
    assert torch.autograd.gradgradcheck(layer, y)


def test_a_graph_is_used_once_as_in_plain_torch():
    loss = wtkit.convert(nn.Linear(3, 2), "feedback_alignment")(torch.randn(2, 3)).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_product_that_saves_something_else_than_W_is_written_out(monkeypatch):
    layer = wtkit.convert(nn.Linear(6, 5), "feedback_alignment", seed=0)
    y = torch.randn(4, 6)
    expected = gradients(layer, y)
    product = LinearMaps.product
    monkeypatch.setattr(
        LinearMaps,
        "product",
        lambda self, y, operand, bias, place: product(self, y, operand + 0, bias, place),
    )
    assert type(layer(y.requires_grad_()).grad_fn).__name__ == "EngagedBackward"
    for ours, theirs in zip(gradients(layer, y.detach()), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", SENT_BY_LAYERS)
def test_training_is_the_same_bit_for_bit(written_out, name):
    def trained():
        torch.manual_seed(0)
        model = wtkit.convert(contract.network().float(), name, seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        inputs, targets = contract.batch()
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs.float()), targets).backward()
            optimizer.step()
        return model.state_dict()

    found = trained()
    written_out()
    for key, value in trained().items():
        assert torch.equal(value, found[key]), key
