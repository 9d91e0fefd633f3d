"""Product feedback alignment beyond the contract: R and F written out, their law, and the angle."""

import copy

import numpy as np
import pytest
import torch
from contract import array
from learning import digits_error
from torch import nn

import wtkit
from wtkit.methods import product_feedback_alignment

NAME = "product_feedback_alignment"
LAYERS = {
    "Linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "Conv2d": (lambda: nn.Conv2d(2, 4, 3), (2, 2, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 2, 2), (2, 3, 4, 4)),
    "LSTM": (lambda: nn.LSTM(3, 4), (5, 2, 3)),
}


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.3, **options)


def converted(make, **options):
    torch.manual_seed(0)
    return wtkit.convert(make().double(), NAME, seed=3, **options)


def product_of(layer, groups, outputs, expansion):
    """P of a layer as its updates show it: B's gradient is P times W's, and W's may be anything."""
    G = torch.eye(outputs, dtype=torch.float64).expand(groups, -1, -1)
    stream = torch.Generator().manual_seed(wtkit.seeds.stream_seed(layer.seed, "mixing"))
    return array(layer.method.feedback_gradient(G, G, 0.0, stream))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@pytest.mark.parametrize("kind", LAYERS)
def test_WP_minus_B_contracts_at_the_rate_of_weight_decay(kind, options):
    make, shape = LAYERS[kind]
    model = converted(make, expansion=2)
    layers = list(wtkit.feedback.feedback_layers(model).values())
    products, before = [], []
    for layer in layers:
        W = layer.maps.matrices(layer.weight.detach())
        products.append(product_of(layer, *W.shape[:2], 2))
        before.append(products[-1] @ array(W) - array(layer.maps.matrices(layer.B)))
    lone, opt = nn.Parameter(torch.ones(1, dtype=torch.float64)), sgd(model, **options)
    shrinks = torch.optim.SGD([lone], lr=0.1, weight_decay=0.3, **options)
    for _ in range(7):
        out = model(torch.randn(shape, dtype=torch.float64))
        (out if isinstance(out, torch.Tensor) else out[0]).square().sum().backward()
        lone.grad = torch.zeros_like(lone)
        for each in (opt, shrinks):
            each.step()
            each.zero_grad()
    for layer, P, first in zip(layers, products, before, strict=True):
        W, B = (array(layer.maps.matrices(M.detach())) for M in (layer.weight, layer.B))
        np.testing.assert_allclose(P @ W - B, lone.item() * first, rtol=1e-6, atol=1e-9)
        assert np.abs(P @ W - B).max() > 1e-3  # the law has something to say


def test_B_learns_as_R_times_F_does_in_two_matrices():
    """The population in between, written out: δ through F and R, and R's own SGD with momentum."""
    model, expansion = converted(lambda: nn.Linear(5, 4), expansion=3), 3
    generator = torch.Generator().manual_seed(wtkit.seeds.stream_seed(model.seed, "mixing"))
    draws = [torch.randn(1, 4, 4, generator=generator)[0] for _ in range(expansion)]
    F = array(torch.cat(draws)) / np.sqrt(expansion * 4)  # (r · outputs, outputs)
    R = array(model.B).T @ np.linalg.pinv(F)  # (inputs, r · outputs)
    np.testing.assert_allclose(R @ F, array(model.B).T, atol=1e-12)
    opt, velocity = sgd(model, momentum=0.9), 0.0
    for _ in range(5):
        y = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        delta = torch.randn(3, 4, dtype=torch.float64)
        model(y).backward(delta)
        np.testing.assert_allclose(array(y.grad), array(delta) @ F.T @ R.T, rtol=1e-6)
        velocity = 0.9 * velocity + array(y).T @ (array(delta) @ F.T) + 0.3 * R
        R = R - 0.1 * velocity
        opt.step()
        opt.zero_grad()
    np.testing.assert_allclose(array(model.B).T, R @ F, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("expansion", [1, 4, 10])
def test_the_angle_that_stays_is_that_of_the_expansion(expansion):
    W = torch.randn(300, 200)
    P = product_feedback_alignment._product(5, 1, 300, expansion)[0]
    PW = P @ W
    angle = torch.rad2deg(torch.acos((PW * W).sum() / PW.norm() / W.norm()))
    assert float(angle) == pytest.approx(np.degrees(np.arctan(expansion**-0.5)), abs=1)
    assert float(P.diagonal().mean()) == pytest.approx(1, abs=0.02)


def test_groups_do_not_mix():
    model = converted(lambda: nn.Conv2d(4, 6, 1, groups=2, bias=False))
    (layer,) = wtkit.feedback.feedback_layers(model).values()
    before = array(layer.B).copy()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    y = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    model(y)[:, :3].sum().backward()  # the first group alone has a δ
    opt.step()
    moved = array(layer.B) != before
    assert moved[:3].all() and not moved[3:].any()


def test_a_copy_and_a_resumed_model_go_on_in_the_same_way():
    def step(model, opt):
        torch.manual_seed(1)
        model(torch.randn(3, 5, dtype=torch.float64)).square().sum().backward()
        opt.step()
        opt.zero_grad()

    model = converted(lambda: nn.Linear(5, 4))
    opt = sgd(model)
    step(model, opt)
    twin = copy.deepcopy(model)
    again = converted(lambda: nn.Linear(5, 4))
    again.load_state_dict(model.state_dict())
    for each in (model, twin, again):
        step(each, sgd(each))
    assert torch.equal(twin.B, model.B) and torch.equal(again.B, model.B)


def test_the_order_of_memory_changes_nothing():
    def learned(layout):
        model = converted(lambda: nn.Conv2d(2, 4, 3)).to(memory_format=layout)
        y = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.manual_seed(0))
        model(y).square().sum().backward()
        sgd(model).step()
        return array(model.B)

    np.testing.assert_allclose(
        learned(torch.channels_last), learned(torch.contiguous_format), rtol=1e-12
    )


def test_another_optimizer_is_refused():
    model = converted(lambda: nn.Linear(5, 4))
    model(torch.randn(3, 5, dtype=torch.float64)).sum().backward()
    with pytest.raises(wtkit.WtkitError, match=r"this method requires torch\.optim\.SGD, got Adam"):
        torch.optim.Adam(model.parameters()).step()


@pytest.mark.slow
def test_it_learns_digits_that_frozen_layers_cannot():
    assert digits_error(NAME) < 0.5 * digits_error("frozen")
