"""Gradients against BioTorch's layers, given the same W and B; optional: `pip install biotorch`, or
its wheel alone."""

import copy

import contract
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.feedback import feedback_layers

biotorch = pytest.importorskip("biotorch.layers.utils", reason="pip install biotorch")

pytestmark = pytest.mark.filterwarnings("ignore:Using a non-full backward hook:FutureWarning")

MODES = {
    "backprop": "backpropagation",
    "feedback_alignment": "fa",
    "direct_feedback_alignment": "dfa",
    "sign_symmetry": "usf",
    "sign_symmetry_batchwise": "brsf",
    "sign_symmetry_fixed": "frsf",
}
SIZE = 6 * 6


def network():
    """The second convolution is of 1×1, where BioTorch's direct feedback, a transposed convolution
    of δ repeated over the output's positions, is ours but for the number of positions, which it
    does not divide by."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False), nn.Tanh(),
        nn.Flatten(), nn.Linear(4 * SIZE, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def theirs(plain, mode):
    """A copy of ``plain`` with BioTorch's layers, and the gradients of the cross-entropy."""
    net = copy.deepcopy(plain)
    for name, layer in plain.named_children():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            setattr(net, name, biotorch.convert_layer(layer, mode, copy_weights=True, output_dim=3))
    net.double()
    inputs, targets = contract.batch()
    out = net(inputs)
    loss = F.cross_entropy(out, targets)
    (error,) = torch.autograd.grad(loss, out, retain_graph=True)
    for layer in net:
        layer.loss_gradient = error
    loss.backward()
    return net, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODES)
def test_gradients_are_biotorchs(name):
    plain = network()
    net, expected = theirs(plain, MODES[name])
    options = {"scale": "xavier"} if name == "sign_symmetry" else {}
    model = wtkit.convert(copy.deepcopy(plain).double(), name, **options)
    for key, layer in feedback_layers(model).items():
        B = getattr(net.get_submodule(key), "weight_backward", None)
        if name == "direct_feedback_alignment" and B.dim() == 4:
            B = B[..., 0, 0] * SIZE
        if layer.feedback is not None and layer.feedback.shape == B.shape:
            layer.feedback.copy_(B if "alignment" in name else B.abs())
    found = contract.gradients(model, *contract.batch())
    assert set(expected) == set(found) - {"inputs"}
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-8)
