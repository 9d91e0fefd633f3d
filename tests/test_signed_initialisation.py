"""Signed initialisation beyond the contract: the signs are those at conversion."""

import math

import contract
import pytest
import torch
from learning import digits_error
from torch import nn

import wtkit
from wtkit.feedback import feedback_layers

NAME = "signed_initialisation"


def test_B_keeps_the_signs_that_W_had_at_conversion():
    model = contract.network()
    signs = [layer.weight.sign().clone() for layer in model if hasattr(layer, "weight")]
    wtkit.convert(model, NAME)
    contract.train(model, steps=20, lr=1.0)
    layers = feedback_layers(model).values()
    for layer, sign in zip(layers, signs, strict=True):
        assert torch.equal(layer.B.sign(), sign)
    assert not all(torch.equal(layer.weight.sign(), layer.B.sign()) for layer in layers)


@pytest.mark.parametrize(
    ("draw", "cosine"),  # E|w| E m / √(E w² E m²), of a uniform m: 1/2 and 1/3
    [
        (nn.init.normal_, math.sqrt(2 / math.pi) * math.sqrt(3) / 2),
        (lambda W: nn.init.uniform_(W, -1, 1), 3 / 4),
    ],
)
def test_the_matrix_angle_starts_where_the_docs_say(draw, cosine):
    layer = nn.Linear(400, 300)
    draw(layer.weight)
    angle = wtkit.matrix_angles(wtkit.convert(layer, NAME)).item()
    assert angle == pytest.approx(math.degrees(math.acos(cosine)), abs=0.5)


@pytest.mark.parametrize("zeros", [1.0, 0.5])
def test_a_weight_of_0_gets_a_random_sign(zeros):
    """As in layers that start at zero, through which δ could not pass otherwise."""
    layer = nn.Linear(100, 100)
    with torch.no_grad():
        layer.weight[torch.rand(100, 100) < zeros] = 0
    zero = layer.weight == 0
    B = wtkit.convert(layer, NAME).B
    assert (B != 0).all()
    assert 0.4 < float((B[zero] > 0).float().mean()) < 0.6


@pytest.mark.slow
def test_it_learns_digits_that_frozen_layers_cannot():
    assert digits_error(NAME) < 0.7 * digits_error("frozen")
