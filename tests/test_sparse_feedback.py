"""Sparse feedback beyond the contract: how many outputs a neuron listens to, and which."""

import contract
import numpy as np
import pytest
import torch
from contract import array
from learning import digits_error
from torch import nn

import wtkit
from wtkit.feedback import feedback_layers

NAME = "sparse_feedback"


@pytest.mark.parametrize(
    ("density", "outputs", "kept"),
    [(0.1, 10, 1), (0.1, 3, 1), (1e-9, 7, 1), (0.5, 9, 4), (1, 9, 9)],
)
def test_each_neuron_listens_to_as_many_outputs(density, outputs, kept):
    model = nn.Sequential(nn.Conv2d(2, 30, 1), nn.Flatten(), nn.Linear(30, outputs))
    for layer in feedback_layers(wtkit.convert(model, NAME, density=density)).values():
        assert ((layer.B != 0).sum(0) == kept).all()


@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_B_is_as_large_at_every_density(density):
    model = wtkit.convert(nn.Linear(80, 90), NAME, density=density, scale=2.0)
    ratio = np.sqrt(np.square(array(model.B)).mean() / np.square(array(model.weight)).mean())
    assert ratio == pytest.approx(2, rel=1e-5)


def test_every_output_is_heard_by_about_as_many_neurons():
    B = wtkit.convert(nn.Linear(5000, 10), NAME, density=0.2, seed=1).B
    heard = array((B != 0).sum(1).float())
    assert abs(heard - 1000).max() < 150
    values = array(B[B != 0])
    assert abs(values.mean()) < 0.05 * values.std()


def test_a_neuron_with_one_connection_gets_one_outputs_error_times_its_weight():
    model = wtkit.convert(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 4)).double(), NAME)
    x, e = (torch.randn(3, n, dtype=torch.float64) for n in (5, 4))
    hidden = model[0](x).detach().requires_grad_()
    model[1](hidden).backward(e)
    B = array(model[1].B)
    for neuron in range(8):
        (output,) = np.flatnonzero(B[:, neuron])
        expected = B[output, neuron] * array(e)[:, output]
        np.testing.assert_allclose(array(hidden.grad)[:, neuron], expected, rtol=1e-12)


@pytest.mark.parametrize("density", [0, 1.1, float("nan")])
def test_a_density_outside_its_range_is_refused(density):
    with pytest.raises(wtkit.WtkitError, match=f"option of {NAME} 'density'"):
        wtkit.convert(contract.network(), NAME, density=density)


@pytest.mark.slow
def test_it_learns_digits_that_frozen_layers_cannot_with_one_connection_a_neuron():
    assert digits_error(NAME) < 0.7 * digits_error("frozen")
