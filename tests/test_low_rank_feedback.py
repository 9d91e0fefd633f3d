"""Low-rank feedback beyond the contract: how many dimensions of δ pass."""

import numpy as np
import pytest
import torch
from contract import array
from learning import digits_error
from torch import nn

import wtkit

NAME = "low_rank_feedback"


def rank(B):
    values = np.linalg.svd(array(B).reshape(len(B), -1), compute_uv=False)
    return int((values > 1e-5 * values[0]).sum())


@pytest.mark.parametrize("r", [1, 3, 10])
@pytest.mark.parametrize(
    "layer",
    [nn.Linear(20, 30), nn.Linear(30, 20), nn.Conv2d(4, 12, 3), nn.Conv2d(8, 40, 3, groups=2)],
)
def test_B_has_the_rank_that_was_asked_for_and_the_scale_of_W(layer, r):
    layer = wtkit.convert(layer, NAME, rank=r, scale=0.5)
    assert rank(layer.B) == r
    ratio = np.sqrt(np.square(array(layer.B)).mean() / np.square(array(layer.weight)).mean())
    assert ratio == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("r", [4, 5, 10**9])
def test_a_rank_above_the_smaller_side_is_full_rank(r):
    assert rank(wtkit.convert(nn.Linear(4, 30), NAME, rank=r).B) == 4
    assert rank(wtkit.convert(nn.Linear(30, 4), NAME, rank=r).B) == 4


def test_delta_outside_of_R_does_not_pass():
    """Of 30 dimensions of δ, 3 reach the layer below; the others are lost."""
    layer = wtkit.convert(nn.Linear(20, 30).double(), NAME, rank=3)
    lost = torch.tensor(np.linalg.svd(array(layer.B))[0][:, 3:].T.copy())
    y = torch.randn(27, 20, dtype=torch.float64, requires_grad=True)
    layer(y).backward(lost)
    assert float(y.grad.abs().max()) < 1e-6


@pytest.mark.slow
def test_it_learns_digits_that_frozen_layers_cannot():
    assert digits_error(NAME) < 0.7 * digits_error("frozen")
