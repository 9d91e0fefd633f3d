"""The delta-rule mirror: a mirror method with none of the weight mirror's options."""

import copy
import functools
import json

import numpy as np
import pytest
import torch
from contract import array
from mirrored import fired, mirrored_layer
from torch import nn

import wtkit
from wtkit import methods, plan
from wtkit.experiments import known_facts, run_config
from wtkit.feedback import feedback_layers, find_live_taps, mirror_step, noise_samples
from wtkit.feedback.mirroring import as_mirrored
from wtkit.processes import Share

NAME = "weight_mirror_delta_rule"


layer = functools.partial(mirrored_layer, NAME)


def expected(B, W, noise, rate):
    """One step in float64, sample by sample: the delta rule at a fixed step size."""
    change = np.zeros_like(B)
    for xi in noise:
        for neuron in range(len(B)):
            error = W[neuron] @ xi - B[neuron] @ xi
            change[neuron] += error * xi
    return B + rate / (len(noise) + B.shape[1] + 1) * change


def test_one_step_is_the_delta_rule():
    mirrored = layer(rate=0.7, samples=9)
    B, W, noise = array(mirrored.B), array(mirrored.weight), fired(mirrored)[0]
    wtkit.mirror(mirrored)
    np.testing.assert_allclose(array(mirrored.B), expected(B, W, noise, 0.7), atol=1e-12)


def test_groups_of_a_convolution_learn_separately():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=2).double()
    mirrored = wtkit.convert(conv, NAME, seed=1, samples=5)
    B, W, noise = array(mirrored.B), array(mirrored.weight), fired(mirrored)
    wtkit.mirror(mirrored)
    for group in range(2):
        rows = slice(3 * group, 3 * group + 3)
        flat = B[rows].reshape(3, -1), W[rows].reshape(3, -1)
        found = array(mirrored.B)[rows].reshape(3, -1)
        np.testing.assert_allclose(found, expected(*flat, noise[group], 1.0), atol=1e-12)


def test_weights_that_only_meet_padding_receive_no_noise():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, padding=1))
    model = wtkit.convert(model.double(), NAME, samples=8)
    find_live_taps(model, torch.zeros(2, 3, 2, 2, dtype=torch.float64))
    before = model[1].B.clone()
    wtkit.mirror(model, 60)
    live = torch.zeros(3, 3, dtype=torch.bool)
    live[1, 1] = True
    assert torch.equal(model[1].B[..., ~live], before[..., ~live])
    W = model[1].weight.detach()
    torch.testing.assert_close(model[1].B[..., live], W[..., live], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rate", "samples"), [(1.0, 16), (0.5, 16), (1.5, 4), (1.0, 1)])
def test_the_expected_squared_mismatch_falls_by_the_factor_of_the_docstring(rate, samples):
    K, steps = 30, 400
    mirrored = layer(K, 40, rate=rate, samples=samples)
    start, W, factors = mirrored.B.clone(), mirrored.weight.detach(), []
    for _ in range(steps):
        with torch.no_grad():
            mirrored.feedback.copy_(start)
        wtkit.mirror(mirrored)
        factors.append(float((mirrored.B - W).square().sum() / (start - W).square().sum()))
    wanted = 1 - rate * (2 - rate) * samples / (samples + K + 1)
    error = np.std(factors) / np.sqrt(steps)
    assert np.mean(factors) == pytest.approx(wanted, abs=4 * error + 1e-9)


def test_no_sampling_error_is_left():
    mirrored = layer(samples=4)
    wtkit.mirror(mirrored, 600)
    torch.testing.assert_close(mirrored.B, mirrored.weight.detach(), rtol=0, atol=1e-9)


def passes(model, inputs, noise_std=0.0):
    """What each Linear of ``model`` gets and its summed input, with noise on every activity."""
    found, y = [], inputs
    for module in model:
        if isinstance(module, nn.Linear):
            y = y + noise_std * torch.randn_like(y)
            found.append((y, nn.functional.linear(y, module.weight, module.bias)))
            y = found[-1][1]
        else:
            y = module(y)
    return found


def test_small_noise_on_all_activities_at_once_needs_no_phase():
    """As in phaseless alignment learning: B learns from fluctuations while W learns from data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4))
    model = wtkit.convert(model.double(), NAME, samples=64, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    mirrored = feedback_layers(model).values()
    for _ in range(400):
        inputs = torch.randn(64, 9, dtype=torch.float64)
        nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(1)).backward()
        with torch.no_grad():
            still, moved = passes(model, inputs), passes(model, inputs, noise_std=1e-4)
            for one, before, after in zip(mirrored, still, moved, strict=True):
                noise, response = (b - a for a, b in zip(before, after, strict=True))
                torch.testing.assert_close(response, noise @ one.weight.mT, rtol=1e-6, atol=1e-12)
                scale = noise.square().mean().sqrt()
                one.method.learn(
                    as_mirrored(one), one.feedback, (noise / scale)[None], (response / scale)[None]
                )
        optimizer.step()
        optimizer.zero_grad()
    assert wtkit.matrix_angles(model).max() < 2
    assert wtkit.delta_angles(model, inputs, inputs[:, :4].argmax(1)).max() < 2


def test_two_processes_take_the_step_of_one(monkeypatch):
    """Each process sums over its own samples; the sum over processes is one process's step."""
    one = layer(samples=7)
    parts = [copy.deepcopy(one) for _ in range(2)]
    before = one.B.clone()
    mirror_step(one)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: None)
    for rank, part in enumerate(parts):
        mirror_step(part, share=Share(rank, 2))
    torch.testing.assert_close(sum(p.B - before for p in parts), one.B - before)


def test_a_run_takes_mirror_steps_by_the_methods_own_schedule():
    settings = {
        "method": NAME, "network": "mlp", "network_options": {"hidden": [10]}, "image_size": 8,
        "classes": 2, "epochs": 1, "options": {"samples": 5, "every": 2, "initial_steps": 7},
    }  # fmt: skip
    run = wtkit.train(run_config(settings), device="cpu", quiet=True)
    assert run.mirror_samples.values.tolist() == [5, 5]
    assert (run.matrix_angle.isel(epoch=-1) < run.matrix_angle.isel(epoch=0) - 5).all()
    recorded = json.loads(str(run["settings"].values))["options"]
    assert recorded == {"rate": 1.0, "samples": 5, "steps": 1, "every": 2, "initial_steps": 7}


def test_the_schedule_counts_all_mirror_steps():
    schedule = methods.load(NAME, every=3, steps=2, initial_steps=5).mirror_schedule
    assert schedule.total(10) == 5 + 3 * 2


def test_a_plan_accepts_a_mirror_without_the_weight_mirrors_options():
    config = run_config({"method": NAME, "network": "mlp", "epochs": 1})
    ((group, found),) = plan.survey([config], measured=False)
    row = plan.row(group, found)
    assert row["angle_before"] == pytest.approx(90, abs=2) and np.isnan(row["angle_at_end"])
    assert "mirror mode" in row["course"]
    assert plan.warnings(config, found) == []
    assert known_facts(config).steps(config) > 0


@pytest.mark.slow
def test_a_plan_measures_its_mirror_steps():
    config = run_config({"method": NAME, "network": "mlp", "epochs": 1})
    ((_, found),) = plan.survey([config], device="cpu")
    assert found.problem == "" and found.cost.mirror > 0


def test_noise_samples_are_the_methods():
    model = wtkit.convert(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)), NAME, samples=11)
    assert [noise_samples(layer) for layer in feedback_layers(model).values()] == [11, 11]
