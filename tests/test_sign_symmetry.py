"""Sign-symmetry: the scalings, and the angles that independent weights must give."""

import math

import contract
import numpy as np
import pytest
import torch
from contract import array
from torch import nn

import wtkit
from wtkit.layers import feedback_layers

SCALES = ["initial", "strict", "xavier", "unit"]


def rms(W):
    return math.sqrt(float(W.detach().double().square().mean()))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("draw", "cosine"),
    [(nn.init.normal_, math.sqrt(2 / math.pi)), (lambda W: nn.init.uniform_(W, -1, 1), math.sqrt(3) / 2)],
    ids=["gaussian", "uniform"],
)
def test_angle_to_the_signs_of_independent_weights(draw, cosine, scale):
    """arccos √(2/π) = 37.1° for Gaussian weights, arccos √3/2 = 30.0° for uniform ones, whatever the scale."""
    layer = nn.Linear(600, 500)
    draw(layer.weight)
    wtkit.convert(layer, "sign_symmetry", scale=scale)
    assert wtkit.matrix_angles(layer).item() == pytest.approx(math.degrees(math.acos(cosine)), abs=0.2)
    assert round(math.degrees(math.acos(cosine)), 1) in (37.1, 30.0)


@pytest.mark.parametrize("scale", SCALES)
def test_B_is_a_positive_number_a_layer_times_the_signs_of_W(scale):
    for layer in feedback_layers(contract.converted("sign_symmetry", scale=scale)).values():
        ratio = array(layer.B) / np.sign(array(layer.weight))
        assert ratio.min() > 0
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-12)


def test_the_scales_and_how_they_follow_W():
    plain = contract.network()
    start = [rms(plain[i].weight) for i in (0, 2, 5, 7)]
    fans = [(2 * 9, 6 * 9), (3 * 4, 4 * 4), (36, 8), (8, 3)]
    for scale in SCALES:
        model = wtkit.convert(contract.network(), "sign_symmetry", scale=scale)
        model.load_state_dict(plain.state_dict(), strict=True)
        wtkit.convert(model, "sign_symmetry", scale=scale)
        with torch.no_grad():
            for layer in feedback_layers(model).values():
                layer.weight.mul_(3)
        found = [float(layer.B.abs().max()) for layer in feedback_layers(model).values()]
        expected = {
            "initial": start,
            "strict": [3 * value for value in start],
            "xavier": [math.sqrt(2 / (fan_in + fan_out)) for fan_in, fan_out in fans],
            "unit": [1, 1, 1, 1],
        }[scale]
        assert found == pytest.approx(expected, rel=1e-6), scale


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_go_through_the_signs_and_no_gradient_through_taking_them(scale):
    model, (inputs, targets) = contract.converted("sign_symmetry", scale=scale), contract.batch()
    found, expected = contract.gradients(model, inputs, targets), contract.reference_gradients(model, inputs, targets)
    for key, value in expected.items():
        np.testing.assert_allclose(array(found[key]), value, rtol=1e-9, atol=1e-12, err_msg=key)


def test_the_norm_of_B_starts_at_that_of_W_and_stays():
    model = contract.converted("sign_symmetry")
    norms = [float(layer.weight.detach().norm()) for layer in feedback_layers(model).values()]
    contract.train(model, steps=3)
    assert [float(layer.B.norm()) for layer in feedback_layers(model).values()] == pytest.approx(norms)


def test_B_follows_a_sign_as_soon_as_it_turns():
    layer = wtkit.convert(nn.Linear(3, 2), "sign_symmetry")
    before = layer.B.clone()
    with torch.no_grad():
        layer.weight[0, 1].neg_()
    assert torch.equal(before != layer.B, torch.tensor([[False, True, False], [False, False, False]]))


def test_a_zero_weight_has_no_sign_and_sends_nothing():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[1, 2] = 0
    assert wtkit.convert(layer, "sign_symmetry").B[1, 2] == 0


def test_a_layer_that_starts_at_zero_sends_delta_once_it_has_learned():
    layer = nn.Linear(16, 2)
    nn.init.zeros_(layer.weight)
    wtkit.convert(layer, "sign_symmetry")
    with torch.no_grad():
        layer.weight.normal_()
    assert layer.B.abs().eq(0.25).all(), "1/√fan_in"


@pytest.mark.parametrize("scale", SCALES)
def test_a_checkpoint_keeps_the_scale(scale):
    model, other = contract.converted("sign_symmetry", scale=scale), contract.converted("sign_symmetry", scale=scale)
    contract.train(model)
    other.load_state_dict(model.state_dict())
    for a, b in zip(feedback_layers(model).values(), feedback_layers(other).values(), strict=True):
        assert torch.equal(a.B, b.B)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_scale_is_kept_in_the_precision_of_the_layer(dtype):
    layer = wtkit.convert(nn.Linear(8, 8).to(dtype), "sign_symmetry")
    assert layer.B.dtype == layer.feedback.dtype == dtype
