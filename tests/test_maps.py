"""The maps of each kind of layer: what they say of W's shape."""

import pytest
import torch
from torch import nn

import wtkit
from wtkit.feedback.maps import Maps

KINDS = {
    "Linear": (lambda: nn.Linear(6, 4), (1, 4, 6), (6, 4)),
    "Conv2d": (lambda: nn.Conv2d(6, 4, (3, 2)), (1, 4, 36), (6, 4)),
    "Conv2d, groups": (lambda: nn.Conv2d(6, 4, (3, 2), groups=2), (2, 2, 18), (6, 4)),
}


@pytest.mark.parametrize(("make", "shape", "features"), KINDS.values(), ids=KINDS)
def test_matrices_hold_each_weight_once(make, shape, features):
    layer = wtkit.convert(make(), "feedback_alignment")
    maps: Maps = layer.maps
    numbers = torch.arange(layer.weight.numel()).reshape(layer.weight.shape)
    matrices = maps.matrices(numbers)
    assert matrices.shape == shape
    assert matrices.flatten().sort().values.equal(numbers.flatten())
    assert maps.features(layer.weight) == features
