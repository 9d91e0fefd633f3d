"""The formulas of a plan, held to recorded runs and to mirrors and processes that are simulated
here."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import wtkit
from wtkit import data
from wtkit.experiments import decay_exponent, known_facts, learning_rate, run_config
from wtkit.feedback import feedback_layers
from wtkit.methods import load
from wtkit.plan import (
    Layer,
    angle_before,
    angle_of_mismatch,
    expected_angles,
    lag_angle,
    lag_angle_at_end,
    measured_mismatch,
    mismatch,
    predicted_and_measured,
    recorded,
    sampling_angle,
    time_constant,
    time_constants,
)
from wtkit.results import config_of, select, store

MLP = {
    "network": "mlp",
    "network_options": {"hidden": [20]},
    "data": "digits",
    "image_size": 8,
    "batch_size": 32,
}


def reference(experiment, network, variant=""):
    """The recorded runs of the weight mirror, one by one."""
    node = wtkit.open_results(experiment, quiet=True)[network]
    runs = select(node, "weight_mirror", variant=variant)
    return [runs.isel(run=number) for number in range(runs.sizes["run"])]


def last_angles(run):
    return run["matrix_angle"].dropna("epoch", how="all").isel(epoch=-1).values


# ------------------------------------------------------------------------------------ Kolen–Pollack


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.0, "lr": 0.02, "schedule": "cosine", "warmup_epochs": 1},
        {"momentum": 0.9, "lr": 0.005, "lr_drops": [2]},
        {"momentum": 0.9, "lr": 0.005, "nesterov": True},
        {"optimizer": "adamw", "lr": 0.02, "schedule": "cosine"},
    ],
)
def test_kolen_pollacks_mismatch_is_the_predicted_one(settings):
    config = run_config(
        MLP | {"method": "kolen_pollack", "epochs": 3, "weight_decay": 0.3} | settings
    )
    run = wtkit.train(config, quiet=True)
    left = measured_mismatch(run).values
    np.testing.assert_allclose(left / left[0], mismatch(config, 44), rtol=1e-4)
    assert left[-1] < 0.7 * left[0]
    assert config_of(run).revision == config.revision
    predicted, measured = time_constants(run)
    assert measured == pytest.approx(predicted, rel=1e-3)
    # for small rates
    assert measured == pytest.approx((1 - config.momentum) / (config.lr * 0.3), rel=0.25)


def test_the_exponent_is_the_mismatchs_limit_for_small_rates():
    config = run_config(
        MLP | {"method": "kolen_pollack", "epochs": 40, "lr": 1e-4, "weight_decay": 1.0}
    )
    left = mismatch(config, 44)
    assert -math.log(left[-1]) == pytest.approx(decay_exponent(config, 44), rel=0.01)
    assert time_constant(config) == pytest.approx(0.1 / 1e-4, rel=0.01)


@pytest.mark.parametrize(
    "changes", [{}, {"nesterov": True}, {"momentum": 0.0}, {"weight_decay": 100}]
)
def test_the_time_constant_is_that_of_the_mismatch_at_a_constant_rate(changes):
    config = run_config(
        MLP | {"method": "kolen_pollack", "epochs": 40, "lr": 1e-4, "weight_decay": 10} | changes
    )
    left = mismatch(config, 44)
    kept = left > 1e-100
    slope = np.polyfit(44 * np.arange(41)[kept], np.log(left[kept]), 1)[0]
    # beyond the limit that momentum sets the mismatch swings through 0, and its envelope is what
    # falls
    assert time_constant(config) == pytest.approx(-1 / slope, rel=0.03)


def test_no_decay_leaves_the_mismatch_as_it_is():
    config = run_config(MLP | {"method": "kolen_pollack", "weight_decay": 0})
    assert (mismatch(config, 44) == 1).all()
    assert time_constant(config) == math.inf


def test_the_angle_of_a_mismatch_is_that_of_vectors_that_share_the_rest():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((50, 3)))[0].T
    for left in (1.0, 0.5, 0.01):
        W, B = (left * start + math.sqrt(1 - left**2) * basis[2] for start in basis[:2])
        assert angle_of_mismatch(left) == pytest.approx(math.degrees(math.acos(W @ B)), abs=1e-4)


# -------------------------------------------------------------------------------- the weight mirror


@pytest.mark.parametrize(
    ("network", "variant", "tolerance", "of_median"),
    [
        ("resnet18", "", 0.1, 0.01),
        ("resnet18", "gaussian", 0.1, 0.01),
        ("resnet50", "", 0.05, 0.02),
    ],
)
def test_the_reference_results_end_at_the_predicted_angles(network, variant, tolerance, of_median):
    """Digits' learning rate ends at 0, so what is left is the noise; and dead taps, where W has not
    forgotten them."""
    for run in reference("digits_full_width", network, variant):
        expected = expected_angles(run)
        assert list(expected["layer"].values) == list(run["layer"].values)
        ratio = last_angles(run) / expected.values
        ratio = ratio[ratio < 3] if network == "resnet50" else ratio  # three layers of dead taps
        assert len(ratio) >= run.sizes["layer"] - 3
        np.testing.assert_allclose(ratio, 1, atol=tolerance)
        assert np.median(ratio) == pytest.approx(1, abs=of_median)


def test_the_layers_of_a_network_are_those_that_were_recorded():
    """Fan-in, samples, and inputs, which a recorded run gives away by its samples alone."""
    from wtkit.plan import mirror_layers

    for network in ("resnet18", "resnet50"):
        run = reference("digits_full_width", network)[0]
        config = config_of(run)
        layers = mirror_layers(config, known_facts(config))
        assert [layer.name for layer in layers] == list(run["layer"].values)
        assert [layer.fan_in for layer in layers] == run["fan_in"].values.tolist()
        assert [layer.samples for layer in layers] == run["mirror_samples"].values.tolist()
        method = config.loaded_method()
        assert [layer.inputs for layer in layers] == [
            recorded.existing_inputs(method, layer.fan_in, layer.samples) for layer in layers
        ]
        assert any(layer.inputs < layer.fan_in for layer in layers)
        assert [layer.phi for layer in layers] == ["relu"] * (len(layers) - 1) + ["identity"]


@pytest.mark.parametrize("noise", ["gaussian", "uniform", "orthogonal"])
@pytest.mark.parametrize("phi", ["identity", "relu", "tanh", "sigmoid"])
def test_a_mirror_of_a_w_at_rest_stands_at_the_predicted_angle(noise, phi):
    torch.manual_seed(0)
    options = {
        "noise": noise,
        "phi": phi,
        "mirror_lr": 0.05,
        "noise_batch": 32,
        "noise_fraction": 0.25,
    }
    model = wtkit.convert(nn.Sequential(nn.Linear(120, 400, bias=False), nn.ReLU(),
                          nn.Linear(400, 2)), "weight_mirror",
                          **options)  # fmt: skip
    method = load("weight_mirror", **options)
    layer = Layer("0", 120, 120, method.samples(120), phi)
    assert next(iter(feedback_layers(model).values())).method.samples(120) == layer.samples
    wtkit.mirror(model, 100)
    found = []
    for _ in range(30):
        wtkit.mirror(model, 15)
        found.append(float(wtkit.matrix_angles(model)[0]))
    assert np.mean(found) == pytest.approx(sampling_angle(method, layer), rel=0.03)


@pytest.mark.parametrize("noise", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("before", [0, 1, 3, 5, 40])
def test_a_mirror_before_training_ends_at_the_predicted_angle(noise, before):
    options = {"noise": noise, "mirror_before": before, "mirror_lr": 0.1, "noise_batch": 32}
    model = wtkit.convert(nn.Sequential(nn.Linear(160, 400, bias=False), nn.ReLU(),
                          nn.Linear(400, 2)), "weight_mirror",
                          **options)  # fmt: skip
    wtkit.mirror(model, before, running_mean=True)
    method = load("weight_mirror", **options)
    layer = Layer("0", 160, 160, method.samples(160), "relu")
    assert angle_before(method, layer) == pytest.approx(
        float(wtkit.matrix_angles(model)[0]), rel=0.05, abs=1
    )


def test_the_lag_is_that_of_an_average_behind_a_w_that_forgets_itself():
    """W loses a share lr · wd of itself at every step and gets as much anew."""
    config = run_config(
        MLP | {"method": "weight_mirror", "lr": 0.001, "weight_decay": 1.0, "momentum": 0.0}
    )
    rng = np.random.default_rng(0)
    for rate, every in ((0.01, 1), (0.05, 6)):
        method = load("weight_mirror", mirror_lr=rate, mirror_every=every)
        keep = math.exp(-1 / time_constant(config))
        W = rng.standard_normal(2_000)
        B, angles = W.copy(), []
        for step in range(2000):
            W = keep * W + math.sqrt(1 - keep**2) * rng.standard_normal(len(W))
            if step % every == 0:
                B += rate * (W - B)
            if step > 500 and step % every == every // 2:
                angles.append(
                    math.degrees(math.acos(W @ B / np.linalg.norm(W) / np.linalg.norm(B)))
                )
        assert lag_angle(config, method) == pytest.approx(np.mean(angles), abs=1.5)
    assert method.lag == pytest.approx(6 / 0.05)
    assert load("weight_mirror", mirror_steps=0).lag == math.inf


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"mirror_lr": 0.02}, {}),  # B remembers more steps than there are
        ({"mirror_lr": 0.02, "mirror_before": 0}, {}),
        ({"mirror_lr": 0.05, "mirror_every": 3, "mirror_steps": 2}, {}),
        ({"mirror_lr": 0.1}, {"schedule": "step", "lr_drops": [2]}),
        ({"mirror_lr": 0.1, "mirror_decay": 0.05}, {"schedule": "cosine", "warmup_epochs": 1}),
    ],
)
def test_at_the_end_the_lag_is_that_of_such_an_average_over_the_schedule(options, settings):
    config = run_config(
        MLP
        | {"method": "weight_mirror", "lr": 0.05, "weight_decay": 1.0, "momentum": 0.0, "epochs": 3}
        | settings
    )
    method, steps, rng = load("weight_mirror", **options), 30, np.random.default_rng(0)
    W = rng.standard_normal(50_000)
    B = W.copy() if method.mirror_before else rng.standard_normal(len(W))
    for step in range(3 * steps):
        keep = 1 - learning_rate(config, step / steps) * config.weight_decay
        W = keep * W + math.sqrt(1 - keep**2) * rng.standard_normal(len(W))
        if step % method.mirror_every == method.mirror_every - 1:
            for _ in range(method.mirror_steps):
                B += method.mirror_lr * W - method.decay * B
    angle = math.degrees(math.acos(W @ B / np.linalg.norm(W) / np.linalg.norm(B)))
    assert lag_angle_at_end(config, method, steps) == pytest.approx(angle, abs=0.6)


@pytest.mark.slow
def test_recorded_runs_are_compared_with_what_was_predicted():
    """Also those that have fewer epochs than others of their group, and are filled up."""
    settings = MLP | {"lr": 0.005, "weight_decay": 0.3}
    short = wtkit.train(run_config(settings | {"method": "kolen_pollack", "epochs": 2}), quiet=True)
    mirrored = wtkit.train(
        run_config(settings | {"method": "weight_mirror", "epochs": 1}), quiet=True
    )
    longer = wtkit.train(run_config(settings | {"method": "backprop", "epochs": 3}), quiet=True)
    node = store.join_runs([short, mirrored, longer])
    table = predicted_and_measured(node)
    assert table["quantity"].tolist() == ["steps", *["angle"] * mirrored.sizes["layer"]]
    assert table["measured"].iloc[0] == pytest.approx(table["predicted"].iloc[0], rel=1e-3)
    assert table["measured"].iloc[1:].tolist() == mirrored["matrix_angle"][-1].values.tolist()
    node["status"][:] = "diverged"
    assert predicted_and_measured(node).empty

    digits = wtkit.open_results("digits_full_width", quiet=True)["resnet18"].to_dataset()
    table = predicted_and_measured(digits)
    assert table.groupby(["method", "variant"]).size().to_dict() == {
        ("kolen_pollack", ""): 3, ("weight_mirror", ""): 3 * 21, ("weight_mirror", "gaussian"): 21
    }  # fmt: skip


def test_what_a_run_does_not_tell_is_not_a_number():
    node = wtkit.open_results("digits_full_width", quiet=True)["resnet18"]
    backprop, kolen_pollack = (
        select(node, method).isel(run=0) for method in ("backprop", "kolen_pollack")
    )
    assert expected_angles(backprop).isnull().all()
    assert not any(map(math.isnan, time_constants(kolen_pollack)))
    kolen_pollack["weight_norm"][:] = math.nan  # as of runs from before it was recorded
    assert all(map(math.isnan, time_constants(kolen_pollack)))


# ----------------------------------------------------------------------------------------- the data


@pytest.mark.parametrize("changes", [{}, {"classes": 4}, {"evaluate_on": "validation"}])
def test_what_is_known_of_digits_is_so(changes):
    config = run_config(MLP | {"method": "backprop"} | changes)
    loaded, known = data.load(config), known_facts(config)
    assert known.classes == loaded.num_classes
    # ten classes of nearly one size
    assert known.held_out == pytest.approx(loaded.number_held_out, rel=0.02)
    assert known.steps(config) == pytest.approx(loaded.steps(32), abs=1)
    if "classes" not in changes:
        assert (known.training, known.held_out) == (loaded.steps(1), loaded.number_held_out)


def test_of_a_folder_nothing_is_known_without_it():
    config = run_config({"method": "backprop", "data": "image_folder"})
    assert dataclasses.astuple(known_facts(config)) == (None, None, None, 224)
    assert known_facts(config).steps(config) is None
