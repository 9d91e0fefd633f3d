"""Mirror mode: eqs. 5–12, the claims T3–T5, and the arithmetic of its sampling error."""

import copy
import math
import pickle

import contract
import numpy as np
import pytest
import torch
from contract import array
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.feedback import as_mirrored, feedback_layers, find_live_taps
from wtkit.methods.weight_mirror import Cosines, WeightMirror, cosines

KINDS = ["gaussian", "uniform", "orthogonal"]


def layer(fan_in=40, out=30, *, bias=True, bias_std=0.0, **options):
    """A Linear under the weight mirror whose φ is the one of hidden layers."""
    plain = nn.Linear(fan_in, out, bias=bias).double()
    nn.init.normal_(plain.weight, std=fan_in**-0.5)
    if bias:
        nn.init.normal_(plain.bias, std=bias_std)
    mirrored = wtkit.convert(plain, "weight_mirror", **options)
    mirrored.is_output = False
    return mirrored


def convolution(**options):
    geometry = {
        key: options.pop(key)
        for key in ("stride", "padding", "dilation", "groups")
        if key in options
    }
    conv = nn.Conv2d(4, 6, 3, bias=False, **geometry).double()
    conv = wtkit.convert(conv, "weight_mirror", **options)
    conv.is_output = False
    return conv


def recorded_noise(mirrored, monkeypatch):
    """A list that fills with the noise that the layer fires."""
    fired = []
    name = "noise_vectors" if mirrored.method.noise_size is None else "noise_images"
    original = getattr(WeightMirror, name)

    def record(*args):
        fired.append(original(*args))
        return fired[-1]

    monkeypatch.setattr(WeightMirror, name, record)
    return fired


def hebbian(mirrored):
    with torch.no_grad():
        return mirrored.method.hebbian(as_mirrored(mirrored))


def noise_vectors(mirrored):
    return mirrored.method.noise_vectors(as_mirrored(mirrored))


def tan2(mirrored):
    return math.tan(math.radians(wtkit.matrix_angles(mirrored).item())) ** 2


def norm_ratio(mirrored):
    return float(mirrored.B.norm() / mirrored.weight.detach().norm())


PHI = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
    "identity": (lambda x: x, np.ones_like),
}

# ------------------------------------------------------------------------------- eqs. 6–8, one step


@pytest.mark.parametrize("bias_blocking", [True, False])
@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize("noise", KINDS)
def test_one_step_is_equation_7_with_its_decay(noise, phi, bias_blocking, monkeypatch):
    """In numpy from the recorded noise: ΔB = η_B y_l y_{l+1}ᵀ / (N σ² φ'_s) − λ_B B, y_{l+1} = φ(W
    y_l + b)."""
    options = {
        "noise": noise,
        "phi": phi,
        "bias_blocking": bias_blocking,
        "noise_std": 0.7,
        "noise_batch": 16,
    }
    mirrored = layer(bias_std=0.5, mirror_lr=0.03, mirror_decay=0.02, **options)
    fired = recorded_noise(mirrored, monkeypatch)
    before = array(mirrored.B)
    wtkit.mirror(mirrored)

    y = array(fired[0][0])
    if noise == "orthogonal":
        y = np.concatenate([y, -y])
    bias = 0 if bias_blocking else array(mirrored.bias)
    drive = y @ array(mirrored.weight).T + bias
    function, slope = PHI[phi]
    product = np.einsum("no,ni->oi", function(drive), y) / (len(y) * 0.7**2 * slope(drive).mean())
    np.testing.assert_allclose(array(mirrored.B), before * (1 - 0.02) + 0.03 * product, atol=1e-12)


@pytest.mark.parametrize("geometry", [
    {}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2, "padding": 1},
], ids=str)  # fmt: skip
def test_noise_images_follow_equation_7_at_every_position(geometry, monkeypatch):
    mirrored = convolution(noise_size=7, noise_batch=40, mirror_lr=0.1, **geometry)
    fired = recorded_noise(mirrored, monkeypatch)
    before = array(mirrored.B)
    wtkit.mirror(mirrored)
    unpadded = nn.Conv2d(
        4, 6, 3, bias=False, **{k: v for k, v in geometry.items() if k != "padding"}
    )
    y = array(fired[0])
    drive = contract.conv_forward(y, array(mirrored.weight), None, unpadded)
    response = np.maximum(drive, 0)
    samples = drive.size / drive.shape[1]
    assert samples >= 40
    _, product, _ = contract.conv_backward(response, y, array(mirrored.weight), unpadded)
    expected = 0.9 * before + 0.1 * product / (samples * (drive > 0).mean())
    np.testing.assert_allclose(array(mirrored.B), expected, atol=1e-12)


def test_patches_of_a_grouped_convolution_are_as_many_separate_matrices(monkeypatch):
    mirrored = convolution(groups=2, mirror_lr=0.1, noise_batch=20, phi="identity")
    fired = recorded_noise(mirrored, monkeypatch)
    before = array(mirrored.B)
    wtkit.mirror(mirrored)
    for group, y in enumerate(array(fired[0])):
        W = array(mirrored.weight)[group * 3 : group * 3 + 3].reshape(3, -1)
        product = (y @ W.T).T @ y / len(y)
        found = array(mirrored.B)[group * 3 : group * 3 + 3].reshape(3, -1)
        expected = 0.9 * before[group * 3 : group * 3 + 3].reshape(3, -1) + 0.1 * product
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_settling_is_the_plain_average_until_the_decay_takes_over():
    mirrored = layer(mirror_lr=0.25)
    products, twin = [], copy.deepcopy(mirrored)
    for _ in range(6):
        products.append(hebbian(twin))
        twin.mirror_count += 1
    wtkit.mirror(mirrored, 4, running_mean=True)
    torch.testing.assert_close(mirrored.B, sum(products[:4]) / 4)
    expected = mirrored.B.clone()
    wtkit.mirror(mirrored, 2)
    for product in products[4:]:
        expected = 0.75 * expected + 0.25 * product
    torch.testing.assert_close(mirrored.B, expected)


# --------------------------------------------------------------- T3, eqs. 5, 11 and 12: expectation


def mean_product(mirrored, steps):
    total = torch.zeros_like(mirrored.weight)
    for _ in range(steps):
        total += hebbian(mirrored)
        mirrored.mirror_count += 1
    return total.detach() / steps


@pytest.mark.parametrize("noise_std", [0.3, 2.0])
@pytest.mark.parametrize("noise", KINDS)
def test_transposing_rule_expects_sigma_squared_W(noise, noise_std):
    """T3: E[y yᵀ Wᵀ] = σ² Wᵀ, so that after division by σ² the mean product is W itself, at unit
    gain."""
    mirrored = layer(phi="identity", noise=noise, noise_std=noise_std, noise_batch=400, bias=False)
    product, W = mean_product(mirrored, 60), mirrored.weight.detach()
    gain = float((product * W).sum() / W.square().sum())
    assert gain == pytest.approx(1, abs=0.02)
    assert float((product - W).norm() / W.norm()) < 1.3 * math.sqrt(40 / (400 * 60))


@pytest.mark.parametrize("bias_blocking", [True, False])
@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid"])
def test_mean_slope_makes_unit_gain_under_any_phi(phi, bias_blocking):
    """Eq. 11 without its approximation: E[y φ(Wy+b)] = σ² E[φ'] W, unit by unit; φ'_s is the mean
    over the units."""
    mirrored = layer(
        phi=phi,
        bias_blocking=bias_blocking,
        bias_std=0.0 if bias_blocking else 0.2,
        noise_batch=500,
    )
    product, W = mean_product(mirrored, 60), mirrored.weight.detach()
    assert float((product * W).sum() / W.square().sum()) == pytest.approx(1, abs=0.03)


def test_biases_scale_rows_by_the_units_own_slope():
    """Eq. 11 unblocked: unit i's row is Φ(b_i/‖w_i‖) over the mean of these, times W's row;
    blocked, all are alike."""
    for bias_blocking in (False, True):
        mirrored = layer(20, 6, noise_batch=2000, bias_blocking=bias_blocking)
        with torch.no_grad():
            mirrored.bias.copy_(torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]))
        W = mirrored.weight.detach()
        slope = (
            torch.special.ndtr(mirrored.bias.detach() / W.norm(dim=1))
            if not bias_blocking
            else torch.ones(6)
        )
        gain = (mean_product(mirrored, 60) * W).sum(1) / W.square().sum(1)
        torch.testing.assert_close(gain, (slope / slope.mean()).to(gain), atol=0.05, rtol=0.05)


def test_bias_blocking_reaches_smaller_angles_where_biases_vary():
    """T4, eq. 12."""
    angles = {}
    for bias_blocking in (True, False):
        torch.manual_seed(1)
        mirrored = layer(bias_std=1.5, bias_blocking=bias_blocking, mirror_lr=0.02, noise_batch=200)
        wtkit.mirror(mirrored, 150, running_mean=True)
        angles[bias_blocking] = wtkit.matrix_angles(mirrored).item()
    assert angles[True] < 6
    assert angles[False] > 3 * angles[True]


# ------------------------------------------------------------------------------------ T5: long runs


def test_B_converges_and_stays_bounded_with_a_decay_and_grows_without():
    """T5, Sec. 4.3."""
    mirrored = layer(mirror_lr=0.02)
    with torch.no_grad():
        mirrored.feedback.mul_(30)  # however large B starts
    wtkit.mirror(mirrored, 600)
    assert norm_ratio(mirrored) == pytest.approx(1, abs=0.1)
    assert wtkit.matrix_angles(mirrored).item() < 12
    undamped = layer(mirror_lr=0.02, mirror_decay=0.0)
    wtkit.mirror(undamped, 600)
    assert norm_ratio(undamped) > 10


@pytest.mark.parametrize("decay", [0.01, 0.04])
def test_the_decay_sets_the_gain(decay):
    """B settles at η_B/λ_B times W: a positive multiple of reasonable size, whichever it is."""
    mirrored = layer(mirror_lr=0.02, mirror_decay=decay, noise_batch=300)
    wtkit.mirror(mirrored, 500)
    assert norm_ratio(mirrored) == pytest.approx(0.02 / decay, rel=0.1)


def test_B_follows_a_W_that_moves():
    mirrored = layer(mirror_lr=0.05)
    wtkit.mirror(mirrored, 100)
    with torch.no_grad():
        mirrored.weight.copy_(-mirrored.weight)
    assert wtkit.matrix_angles(mirrored).item() > 150
    wtkit.mirror(mirrored, 100)
    assert wtkit.matrix_angles(mirrored).item() < 20


# ---------------------------------------------------------------------- the arithmetic of claims.md


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
@pytest.mark.parametrize(("phi", "factor"), [("identity", 1), ("relu", 2)])
@pytest.mark.parametrize("bias_blocking", [True, False])
def test_one_batch_leaves_tan_squared_K_over_n_and_relu_doubles_it(
    noise, phi, factor, bias_blocking
):
    K, n = 200, 400
    mirrored = layer(K, 150, phi=phi, noise=noise, noise_batch=n, bias_blocking=bias_blocking)
    found = []
    for _ in range(5):
        # a first step of weight 1: B is the product of one batch
        wtkit.mirror(mirrored, running_mean=True)
        found.append(tan2(mirrored))
    assert np.mean(found) == pytest.approx(factor * K / n, rel=0.06)


@pytest.mark.parametrize(("phi", "factor"), [("identity", 1), ("relu", 2)])
def test_an_average_over_1_over_lambda_steps_leaves_tan_squared_K_lambda_over_2n(phi, factor):
    K, n, decay = 120, 100, 0.05
    mirrored = layer(K, 100, phi=phi, noise_batch=n, mirror_lr=decay)
    wtkit.mirror(mirrored, 150)
    found = []
    for _ in range(8):
        wtkit.mirror(mirrored, 20)
        found.append(tan2(mirrored))
    assert np.mean(found) == pytest.approx(factor * K * decay / (2 * n), rel=0.12)


def test_orthogonal_noise_removes_most_of_the_sampling_error():
    angles = {}
    for noise in ("gaussian", "orthogonal"):
        torch.manual_seed(2)
        mirrored = layer(120, 60, phi="identity", noise=noise, noise_batch=60, mirror_lr=0.05)
        wtkit.mirror(mirrored, 160)
        angles[noise] = wtkit.matrix_angles(mirrored).item()
    assert angles["orthogonal"] < angles["gaussian"] / 2


@pytest.mark.parametrize("phi", ["identity", "tanh"])
def test_a_full_cycle_of_orthogonal_noise_through_a_linear_response_reads_W(phi):
    mirrored = layer(
        48, 20, phi=phi, noise="orthogonal", noise_batch=16, noise_std=1e-4, bias=False
    )
    wtkit.mirror(mirrored, 6, running_mean=True)
    torch.testing.assert_close(mirrored.B, mirrored.weight.detach(), rtol=1e-5, atol=1e-5)


def test_pairs_of_opposite_signs_make_a_relu_linear_so_that_one_cycle_reads_W():
    """φ(d) − φ(−d) = d: orthogonal noise avoids what the ReLU costs; as many Gaussian samples leave
    tan² = 2K/N = 1."""
    fan_in, samples = 256, 64
    found = {}
    for noise in ("orthogonal", "gaussian"):
        mirrored = layer(fan_in, 100, phi="relu", noise=noise, noise_batch=samples, bias=False)
        # one cycle: each direction with both signs
        wtkit.mirror(mirrored, 2 * fan_in // samples, running_mean=True)
        found[noise] = mirrored
    torch.testing.assert_close(
        found["orthogonal"].B, found["orthogonal"].weight.detach(), rtol=0, atol=1e-6
    )
    assert wtkit.matrix_angles(found["gaussian"]).item() == pytest.approx(45, abs=3)


# ---------------------------------------------------------------------------------------- the noise


@pytest.mark.parametrize("noise", KINDS)
def test_noise_has_zero_mean_equal_variance_and_no_correlation(noise):
    K, std, steps = 12, 0.7, 1500
    mirrored = layer(K, 3, noise=noise, noise_std=std, noise_batch=32)
    drawn = []
    for _ in range(steps):
        vectors = noise_vectors(mirrored)[0]
        drawn.append(torch.cat([vectors, -vectors]) if noise == "orthogonal" else vectors)
        mirrored.mirror_count += 1
    drawn = torch.cat(drawn)
    # pairs, and blocks of 3 of one basis
    error = 5.5 / math.sqrt(len(drawn) / (4 if noise == "orthogonal" else 1))
    assert drawn.mean(0).abs().max() < error * std
    covariance = drawn.T @ drawn / len(drawn) / std**2
    assert (covariance - torch.eye(K)).abs().max() < 1.5 * error


@pytest.mark.parametrize("fan_in", [1, 2, 7, 27, 64, 130])
def test_orthogonal_noise_covers_one_basis_exactly_once_a_cycle(fan_in):
    mirrored = layer(fan_in, 3, noise="orthogonal", noise_batch=16, noise_std=0.5)
    half = mirrored.method.samples(fan_in) // 2
    blocks = math.ceil(fan_in / half)
    cycles = []
    for _ in range(2):
        basis = []
        for _ in range(blocks):
            basis.append(noise_vectors(mirrored)[0])
            assert 0 < len(basis[-1]) <= half
            mirrored.mirror_count += 1
        cycles.append(torch.cat(basis))
        gram = cycles[-1] @ cycles[-1].T
        torch.testing.assert_close(gram, 0.25 * fan_in * torch.eye(fan_in, dtype=torch.float64))
    # again in the same order, so that no direction waits longer than a cycle
    torch.testing.assert_close(*cycles)


@pytest.mark.parametrize("fan_in", [4, 9, 27, 64, 512, 4608])
def test_samples_of_orthogonal_noise_stay_below_the_fan_in(fan_in):
    for noise_batch, noise_fraction in ((2, 0), (64, 0.25), (10**6, 0.99)):
        method = layer(
            4, 2, noise="orthogonal", noise_batch=noise_batch, noise_fraction=noise_fraction
        ).method
        assert 2 <= method.samples(fan_in) <= max(2, fan_in / 2)
        assert method.samples(fan_in) % 2 == 0


def test_samples_follow_the_fan_in_and_have_a_floor():
    method = layer(4, 2, noise_batch=64, noise_fraction=0.25).method
    assert [method.samples(fan_in) for fan_in in (9, 256, 300, 4608)] == [64, 64, 75, 1152]


def test_layers_and_steps_have_noise_of_their_own():
    model = wtkit.convert(nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9)), "weight_mirror", seed=0)
    first = noise_vectors(model[0])
    assert not torch.equal(first, noise_vectors(model[1]))
    wtkit.mirror(model)
    assert not torch.equal(first, noise_vectors(model[0]))


def test_groups_fire_noise_of_their_own():
    for noise in KINDS:
        first, second = noise_vectors(convolution(groups=2, noise=noise))
        assert not torch.equal(first, second)


def test_noise_images_and_patches_agree():
    images, patches = convolution(noise_size=6, noise_batch=400), convolution(noise_batch=400)
    for mirrored in (images, patches):
        wtkit.mirror(mirrored, 60, running_mean=True)
        assert wtkit.matrix_angles(mirrored).item() < 8
        assert norm_ratio(mirrored) == pytest.approx(1, abs=0.05)


def test_noise_images_smaller_than_the_kernel_are_refused():
    with pytest.raises(
        wtkit.WtkitError, match="'noise_size': 4 pixels are less than the 5 that a kernel"
    ):
        wtkit.mirror(convolution(dilation=2, noise_size=4))


def test_the_output_layer_has_a_phi_of_its_own():
    model = wtkit.convert(
        nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30)).double(),
        "weight_mirror",
        phi="sigmoid",
        output_phi="identity",
    )
    hidden, output = model
    assert (hidden.is_output, output.is_output) == (False, True)
    noise = noise_vectors(output)[0]
    W, b = output.weight.detach(), output.bias.detach()
    torch.testing.assert_close(hebbian(output), ((noise @ W.T + b).T @ noise).detach() / len(noise))


def test_a_layer_that_never_fires_keeps_a_finite_B():
    mirrored = layer()
    with torch.no_grad():
        mirrored.bias.fill_(-1e3)
    wtkit.mirror(mirrored, 3)
    assert mirrored.B.isfinite().all()


# ---------------------------------------------------------------------- what mirroring leaves alone


def small_network():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Linear(64, 3)
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"noise": "orthogonal"}, {"noise_size": 5}], ids=str)
def test_nothing_but_B_changes(options):
    """W, biases, BatchNorm's statistics, gradients, modes and the global random streams, bit for
    bit."""
    model = wtkit.convert(small_network(), "weight_mirror", **options).train()
    F.cross_entropy(model(torch.randn(4, 2, 4, 4)), torch.tensor([0, 1, 2, 0])).backward()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    stream, numpy_stream = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    wtkit.mirror(model, 3)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]) == (not key.endswith("feedback")), key
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters()) and model.training
    assert torch.equal(torch.get_rng_state(), stream)
    assert pickle.dumps(np.random.get_state()) == numpy_stream


def test_a_model_that_has_never_seen_an_input_will_do():
    model = wtkit.convert(small_network(), "weight_mirror")
    wtkit.mirror(model, 200, running_mean=True)
    assert (wtkit.matrix_angles(model) < 12).all()


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("noise", KINDS)
def test_a_copys_noise_goes_on_as_the_originals(noise, duplicate):
    model = wtkit.convert(small_network(), "weight_mirror", noise=noise)
    wtkit.mirror(model, 3)
    twin = duplicate(model)
    torch.manual_seed(99)
    wtkit.mirror(model, 2)
    wtkit.mirror(twin, 2)
    contract.assert_same_state(model.state_dict(), twin.state_dict())
    assert all(x.mirror_count == 5 for x in feedback_layers(twin).values())


def test_order_of_steps_and_calls_does_not_matter():
    once, thrice = (
        wtkit.convert(copy.deepcopy(plain), "weight_mirror") for plain in [small_network()] * 2
    )
    wtkit.mirror(once, 3)
    for _ in range(3):
        wtkit.mirror(thrice)
    contract.assert_same_state(once.state_dict(), thrice.state_dict())


def test_only_layers_of_the_mirror_take_part():
    model = wtkit.convert(small_network(), "feedback_alignment")
    wtkit.convert(model[5], "weight_mirror")
    before = model[0].B.clone()
    wtkit.mirror(model)
    assert torch.equal(model[0].B, before)
    assert (model[0].mirror_count, model[5].mirror_count) == (0, 1)


def test_the_update_between_engaged_steps_reaches_the_next_backward_pass():
    """B is changed in place, not rebound: δ travels through the new values."""
    mirrored = layer(8, 5)
    address = mirrored.feedback.data_ptr()
    wtkit.mirror(mirrored, 2)
    assert mirrored.feedback.data_ptr() == address
    y = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    mirrored(y).sum().backward()
    torch.testing.assert_close(y.grad[0], mirrored.B.sum(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_low_precision_can_be_mirrored(dtype):
    mirrored = wtkit.convert(nn.Linear(16, 8).to(dtype), "weight_mirror")
    wtkit.mirror(mirrored, 40, running_mean=True)
    assert mirrored.B.dtype == dtype and wtkit.matrix_angles(mirrored).item() < 20


def shrinking(size=1):
    """Two convolutions; the second one's map is ``size`` pixels, and its kernel reaches past it."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1)
    ).double()
    images = torch.zeros(2, 3, 2 * size, 2 * size, dtype=torch.float64)
    return wtkit.convert(
        model, "weight_mirror", noise="orthogonal", noise_batch=2, phi="identity"
    ), images


def test_noise_is_fired_only_where_inputs_exist():
    """The taps that are left are those whose weights the output depends on at all; elsewhere B only
    decays."""
    model, images = shrinking()
    find_live_taps(model, images)
    conv = model[2]
    (of_weight,) = torch.autograd.grad(model(torch.randn_like(images)).square().sum(), conv.weight)
    used = (of_weight != 0).any(0).any(0)
    assert used.tolist() == [[False] * 3, [False, True, False], [False] * 3]
    B = conv.B.clone()
    wtkit.mirror(model)
    assert torch.equal(conv.B[:, :, ~used], B[:, :, ~used] * (1 - conv.method.decay))
    wtkit.mirror(
        model, 8, running_mean=True
    )  # a whole cycle of four inputs, two noise vectors a step
    torch.testing.assert_close(conv.B[:, :, used], conv.weight.detach()[:, :, used])


def test_fitting_the_noise_leaves_everything_else_alone():
    model, images = shrinking()
    model.insert(1, nn.BatchNorm2d(4).double())
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    find_live_taps(model, images)
    contract.assert_same_state(before, model.state_dict())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_on_maps_that_the_kernel_fits_on_every_tap_receives_noise():
    model, images = shrinking(size=3)
    find_live_taps(model, images)
    assert model[0].taps is ... and model[2].taps is ...


def test_a_negative_number_of_steps_is_refused():
    model = wtkit.convert(nn.Linear(4, 3), "weight_mirror")
    with pytest.raises(wtkit.WtkitError, match="mirror: expected steps of 0 or more, got -1"):
        wtkit.mirror(model, -1)


# ----------------------------------------------------------------- the memory of orthogonal noise


def dct(size):
    """The orthonormal DCT-II, as its definition reads."""
    k, n = torch.arange(size).double()[:, None], torch.arange(size).double()
    matrix = (math.pi * k * (2 * n + 1) / (2 * size)).cos() * math.sqrt(2 / size)
    matrix[0] = size**-0.5
    return matrix


@pytest.mark.parametrize("size", [1, 2, 7, 64, 333])
@pytest.mark.parametrize("kept", [True, False])
def test_rows_of_the_basis_are_the_same_kept_or_computed(size, kept, monkeypatch):
    fresh = Cosines()
    monkeypatch.setattr(fresh, "LIMIT", fresh.LIMIT if kept else 0)
    monkeypatch.setattr(fresh, "AT_ONCE", 200)
    rows = torch.randperm(size)[: max(1, size // 2)]
    for _ in range(2):
        found = fresh(rows, size, torch.float64)
        torch.testing.assert_close(found, dct(size)[rows], rtol=0, atol=1e-12)
    assert fresh.kept_bytes == (8 * size**2 if kept else 0)


def test_bases_are_kept_up_to_a_number_of_bytes(monkeypatch):
    fresh = Cosines()
    monkeypatch.setattr(fresh, "LIMIT", 4 * (30**2 + 20**2))
    monkeypatch.setattr(fresh, "RECENT", 4)
    for size in (10, 20, 30, 20, 40, 10, 30):
        fresh(torch.tensor([0]), size, torch.float32)
        assert fresh.kept_bytes <= fresh.LIMIT
    assert [size for size, *_ in fresh._kept] == [20, 10], "layers take turns: none is pushed out"
    for _ in range(4):
        fresh(torch.tensor([0]), 30, torch.float32)
    assert [size for size, *_ in fresh._kept] == [10, 30], "the one that waited too long has gone"


def test_a_wide_layer_keeps_no_basis():
    """The bases of VGG's first fully connected layer would take 2.5 GB."""
    before = cosines.kept_bytes
    wide = wtkit.convert(
        nn.Linear(25088, 2), "weight_mirror", noise="orthogonal", noise_fraction=0, noise_batch=4
    )
    wtkit.mirror(wide)
    assert cosines.kept_bytes == before
