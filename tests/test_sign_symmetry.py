"""The sign-symmetry family: the scalings, the angles that independent weights must give, and when
magnitudes change."""

import copy
import math

import contract
import numpy as np
import pytest
import torch
from contract import array
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.feedback import feedback_layers

SCALES = ["initial", "strict", "xavier", "unit"]


def rms(W):
    return math.sqrt(float(W.detach().double().square().mean()))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("draw", "cosine"),
    [
        (nn.init.normal_, math.sqrt(2 / math.pi)),
        (lambda W: nn.init.uniform_(W, -1, 1), math.sqrt(3) / 2),
    ],
    ids=["gaussian", "uniform"],
)
def test_angle_to_the_signs_of_independent_weights(draw, cosine, scale):
    """arccos √(2/π) = 37.1° for Gaussian weights, arccos √3/2 = 30.0° for uniform ones, whatever
    the scale."""
    layer = nn.Linear(600, 500)
    draw(layer.weight)
    wtkit.convert(layer, "sign_symmetry", scale=scale)
    assert wtkit.matrix_angles(layer).item() == pytest.approx(
        math.degrees(math.acos(cosine)), abs=0.2
    )
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
    found, expected = (
        contract.gradients(model, inputs, targets),
        contract.reference_gradients(model, inputs, targets),
    )
    for key, value in expected.items():
        np.testing.assert_allclose(array(found[key]), value, rtol=1e-9, atol=1e-12, err_msg=key)


def test_the_norm_of_B_follows_that_of_W_or_stays_where_it_starts():
    def norms(model, tensor):
        return [
            float(getattr(layer, tensor).detach().norm())
            for layer in feedback_layers(model).values()
        ]

    for options in ({}, {"scale": "initial"}):
        model = contract.converted("sign_symmetry", **options)
        start = norms(model, "weight")
        contract.train(model, steps=3)
        assert norms(model, "weight") != pytest.approx(start)
        assert norms(model, "B") == pytest.approx(start if options else norms(model, "weight"))


def test_B_follows_a_sign_as_soon_as_it_turns():
    layer = wtkit.convert(nn.Linear(3, 2), "sign_symmetry")
    before = layer.B.clone()
    with torch.no_grad():
        layer.weight[0, 1].neg_()
    assert torch.equal(
        before != layer.B, torch.tensor([[False, True, False], [False, False, False]])
    )


def test_a_zero_weight_has_no_sign_and_sends_nothing():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[1, 2] = 0
    assert wtkit.convert(layer, "sign_symmetry").B[1, 2] == 0


def test_a_layer_that_starts_at_zero_sends_delta_once_it_has_learned():
    layer = nn.Linear(16, 2)
    nn.init.zeros_(layer.weight)
    wtkit.convert(layer, "sign_symmetry", scale="initial")
    with torch.no_grad():
        layer.weight.normal_()
    assert layer.B.abs().eq(0.25).all(), "1/√fan_in"


@pytest.mark.parametrize("scale", SCALES)
def test_a_checkpoint_keeps_the_scale(scale):
    model, other = (
        contract.converted("sign_symmetry", scale=scale),
        contract.converted("sign_symmetry", scale=scale),
    )
    contract.train(model)
    other.load_state_dict(model.state_dict())
    for a, b in zip(feedback_layers(model).values(), feedback_layers(other).values(), strict=True):
        assert torch.equal(a.B, b.B)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_scale_is_kept_in_the_precision_of_the_layer(dtype):
    layer = wtkit.convert(nn.Linear(8, 8).to(dtype), "sign_symmetry", scale="initial")
    assert layer.B.dtype == layer.feedback.dtype == dtype
    assert wtkit.convert(nn.Linear(8, 8).to(dtype), "sign_symmetry").B.dtype == dtype


# ----------------------------------------------------------------- random magnitudes: frSF and brSF

RANDOM = ["sign_symmetry_fixed", "sign_symmetry_batchwise"]


def magnitudes(model):
    return {name: layer.B.abs() for name, layer in feedback_layers(model).items()}


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize(
    ("draw", "cosine"),
    [
        (nn.init.normal_, math.sqrt(2 / math.pi)),
        (lambda W: nn.init.uniform_(W, -1, 1), math.sqrt(3) / 2),
    ],
    ids=["gaussian", "uniform"],
)
def test_angle_to_the_signs_of_independent_weights_with_random_magnitudes(draw, cosine, name):
    """As above, times √3/2 for the spread of the uniform magnitudes: 46.3° and 41.4°."""
    layer = nn.Linear(600, 500)
    draw(layer.weight)
    wtkit.convert(layer, name)
    angle = math.degrees(math.acos(cosine * math.sqrt(3) / 2))
    assert wtkit.matrix_angles(layer).item() == pytest.approx(angle, abs=0.2)
    assert round(angle, 1) in (46.3, 41.4)


@pytest.mark.parametrize("name", RANDOM)
def test_random_magnitudes_are_uniform_above_zero_and_have_the_norm_of_W(name):
    layer = wtkit.convert(nn.Linear(600, 500), name)
    assert float(layer.B.norm()) == pytest.approx(float(layer.weight.detach().norm()), rel=1e-5)
    quarters = array(layer.B.abs() / layer.B.abs().max()).ravel()
    np.testing.assert_allclose(
        np.histogram(quarters, 4, (0, 1))[0] / quarters.size, 0.25, atol=0.005
    )
    assert torch.equal(layer.B.sign(), layer.weight.sign())


def test_fixed_magnitudes_stay_and_batchwise_ones_change_with_every_update_alone():
    for name in RANDOM:
        model, (inputs, targets) = contract.converted(name), contract.batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen = [magnitudes(model)]
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(2):  # two backward passes accumulate into one step
                F.cross_entropy(model(inputs), targets).backward()
                model.eval()(inputs)
            torch.testing.assert_close(magnitudes(model), seen[-1], rtol=0, atol=0)
            optimizer.step()
            seen.append(magnitudes(model))
        for key in seen[0]:
            values = torch.stack([m[key].flatten() for m in seen])
            torch.testing.assert_close(
                values.norm(dim=1), values[0].norm().expand(4), rtol=1e-6, atol=0
            )
            if name == "sign_symmetry_fixed":
                assert torch.equal(values, values[:1].expand_as(values))
            else:
                correlations = values[:, :24].corrcoef() - torch.eye(4)
                assert correlations.abs().max() < 0.9 and not torch.equal(values[1], values[2])


def test_batchwise_magnitudes_are_independent_from_update_to_update_and_keep_their_norm():
    layer = wtkit.convert(nn.Linear(300, 200), "sign_symmetry_batchwise")
    norm, optimizer, seen = layer.B.norm(), torch.optim.SGD(layer.parameters(), lr=1e-3), []
    for _ in range(50):
        layer(torch.randn(2, 300)).sum().backward()
        optimizer.step()
        seen.append(layer.B.abs().flatten())
    correlations = torch.stack(seen).corrcoef() - torch.eye(50)
    assert correlations.abs().max() < 0.03
    assert float(layer.B.norm()) == pytest.approx(float(norm), rel=1e-5)


def test_a_draw_is_that_of_the_layers_seed_and_the_number_of_the_update():
    """Whatever else was drawn, by whatever optimizer; layers that are not updated draw nothing."""
    one = contract.converted("sign_symmetry_batchwise", seed=4)
    two = copy.deepcopy(one)
    contract.train(one, steps=2)
    torch.rand(100)
    inputs, targets = contract.batch()
    lower, upper = (
        torch.optim.AdamW(two[part].parameters(), lr=0.1) for part in (slice(0, 3), slice(3, 8))
    )
    for step, optimizer in enumerate((lower, upper, lower, upper), 1):
        F.cross_entropy(two(inputs), targets).backward()
        optimizer.step()
        assert [layer.update_count for layer in feedback_layers(two).values()] == [
            (step + 1) // 2
        ] * 2 + [step // 2] * 2
    torch.testing.assert_close(magnitudes(one), magnitudes(two), rtol=0, atol=0)


def test_a_step_that_the_scaler_skips_draws_nothing():
    layer = wtkit.convert(nn.Linear(3, 2), "sign_symmetry_batchwise")
    optimizer, scaler = (
        torch.optim.SGD(layer.parameters(), lr=1.0),
        torch.amp.GradScaler("cpu", init_scale=4.0),
    )
    before = layer.B.clone()
    for factor, changes in ((math.inf, False), (1.0, True)):
        optimizer.zero_grad()
        scaler.scale(layer(torch.ones(1, 3)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(layer.B.abs(), before.abs()) != changes


def test_frozen_weights_are_not_followed():
    layer = wtkit.convert(nn.Linear(3, 2), "sign_symmetry_batchwise")
    layer.weight.requires_grad_(False)
    before = layer.B.clone()
    layer(torch.ones(1, 3)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    assert torch.equal(layer.B, before) and layer.update_count == 0


# -------------------------------------------------------------------- what follows W in another way


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_symmetric_alignment_averages_over_the_latest_weights(noise):
    """Against the sum written out; with noise in distribution."""
    model = wtkit.convert(
        nn.Linear(400, 300).double(), "symmetric_alignment", rate=0.2, noise=noise
    )
    B, weights = model.B.clone(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(2, 400, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        weights.append(model.weight.detach().clone())
    expected = 0.8**10 * B + sum(0.2 * 0.8**age * W for age, W in enumerate(reversed(weights)))
    rest = (model.B - expected).square().mean().sqrt() / weights[-1].square().mean().sqrt()
    # a sum of independent noise, each 0.2 · 0.8^age · σ
    assert float(rest) == pytest.approx(
        noise * 0.2 * math.sqrt(sum(0.64**age for age in range(10))), rel=0.03, abs=1e-14
    )


def test_symmetric_alignment_comes_to_zero_degrees_where_W_stands_still():
    model = contract.converted("symmetric_alignment", rate=0.1)
    contract.train(model, steps=200, lr=1e-9)
    assert (wtkit.matrix_angles(model) < 1e-4).all()


def test_what_follows_keeps_no_model_alive():
    import gc
    import weakref

    gone = weakref.ref(contract.converted("sign_symmetry_batchwise"))
    gc.collect()
    assert gone() is None


def test_a_model_that_is_converted_to_something_else_is_followed_no_more():
    model = contract.converted("sign_symmetry_batchwise")
    wtkit.convert(model, "feedback_alignment")
    before = copy.deepcopy(model.state_dict())
    contract.train(model)
    assert all(
        torch.equal(layer.B, before[f"{name}.feedback"])
        for name, layer in feedback_layers(model).items()
    )
