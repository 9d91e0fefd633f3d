"""Information alignment beyond the contract: its step, where B settles, and that it is stable."""

import copy
import functools

import numpy as np
import pytest
import torch
from contract import array
from learning import digits_error
from mirrored import fired, mirrored_layer
from torch import nn

import wtkit
from wtkit.feedback import find_live_taps, mirror_step
from wtkit.processes import Share

NAME = "information_alignment"


layer = functools.partial(mirrored_layer, NAME)


def expected(B, W, noise, rate, decay, null):
    """One step in float64, in the paper's orientation: the cost's gradient sample by sample."""
    B, responses = B.T, [W @ xi for xi in noise]
    v = np.mean(np.square(responses))
    change = -decay * B
    for xi, r in zip(noise, responses, strict=True):
        change += (np.outer(xi, r) - null / v * np.outer(B @ r, r)) / len(noise)
    eigenvalues = np.linalg.eigvalsh(np.mean([np.outer(r, r) for r in responses], 0) / v)
    return (B + rate / (decay + null * np.sum(eigenvalues**4) ** 0.25) * change).T


@pytest.mark.parametrize("null", [0.0, 0.6])
def test_one_step_descends_the_three_costs(null):
    mirrored = layer(rate=0.7, samples=9, decay=0.3, null=null)
    B, W, noise = array(mirrored.B), array(mirrored.weight), fired(mirrored)[0]
    wtkit.mirror(mirrored)
    np.testing.assert_allclose(array(mirrored.B), expected(B, W, noise, 0.7, 0.3, null), atol=1e-12)


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
        step = expected(*flat, noise[group], 0.05, 0.5, 0.5)
        np.testing.assert_allclose(found, step, atol=1e-12)


def test_weights_that_only_meet_padding_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, padding=1))
    model = wtkit.convert(model.double(), NAME)
    find_live_taps(model, torch.zeros(2, 3, 2, 2, dtype=torch.float64))
    before = model[1].B.clone()
    wtkit.mirror(model, 3)
    live = torch.zeros(3, 3, dtype=torch.bool)
    live[1, 1] = True
    assert torch.equal(model[1].B[..., ~live], before[..., ~live])
    assert not torch.equal(model[1].B[..., live], before[..., live])


@pytest.mark.parametrize(("decay", "null"), [(1.0, 0.0), (0.5, 0.5), (0.2, 1.0)])
def test_B_settles_where_the_docstring_says(decay, null):
    mirrored = layer(20, 8, rate=0.1, samples=5000, decay=decay, null=null)
    wtkit.mirror(mirrored, 600)
    W = array(mirrored.weight)
    v = np.square(W).sum() / len(W)
    settled = np.linalg.solve(decay * np.eye(len(W)) + null / v * W @ W.T, W)
    np.testing.assert_allclose(array(mirrored.B), settled, atol=0.05 * np.abs(settled).max())


def test_equal_orthogonal_rows_are_learned_without_an_angle():
    mirrored = layer(40, 10, samples=5000)
    nn.init.orthogonal_(mirrored.weight)
    wtkit.mirror(mirrored, 300)
    assert wtkit.matrix_angles(mirrored).item() < 3
    assert float(mirrored.B.norm() / mirrored.weight.detach().norm()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("samples", [1, 4, 128])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_largest_rate_is_stable_for_a_W_of_one_singular_value(scale, samples):
    mirrored = layer(30, 50, rate=1.99, samples=samples, decay=0.01, null=10.0)
    with torch.no_grad():
        mirrored.weight.copy_(scale * torch.randn(50, 1) @ torch.randn(1, 30))
        mirrored.feedback.mul_(scale)
    wtkit.mirror(mirrored, 300)
    assert float(mirrored.B.norm()) < 100 * float(mirrored.weight.detach().norm())


def test_a_W_of_zeros_lets_B_decay():
    mirrored = layer()
    nn.init.zeros_(mirrored.weight)
    before = float(mirrored.B.norm())
    wtkit.mirror(mirrored, 50)
    assert 0 < float(mirrored.B.norm()) < before


def test_two_processes_take_the_step_of_one(monkeypatch):
    """The parts of two processes add up to the sums of one, from which all take the same step."""
    one = layer(samples=7)
    parts, sums = [copy.deepcopy(one) for _ in range(2)], []
    mirror_step(one)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x, **_: sums.append(x.clone()))
    for rank, part in enumerate(parts):
        mirror_step(copy.deepcopy(part), share=Share(rank, 2))
    totals = iter([sums[0] + sums[2], sums[1] + sums[3]])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x, **_: x.copy_(next(totals)))
    mirror_step(parts[0], share=Share(0, 2))
    torch.testing.assert_close(parts[0].B, one.B)


@pytest.mark.slow
def test_it_learns_digits_that_frozen_layers_cannot():
    assert digits_error(NAME) < 0.7 * digits_error("frozen")
