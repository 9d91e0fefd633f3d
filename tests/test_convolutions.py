"""Convolutions in one to three dimensions, and transposed ones: every method against torch's own
layers with B in the place of W, in float64."""

import copy

import contract
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import wtkit
from wtkit import methods

METHODS = methods.names()
SIZES = {
    "Conv1d": 24,
    "Conv3d": 4,
    "ConvTranspose1d": 16,
    "ConvTranspose2d": 3,
    "ConvTranspose3d": 3,
}
"""The kinds, with the size of an input in each dimension."""
DIMENSIONS = {kind: int(kind[-2]) for kind in SIZES}


def network(kind):
    """As the contract's network, with another kind of convolution."""
    layer = getattr(nn, kind)
    if "Transpose" in kind:
        second = layer(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False)
    else:
        second = layer(6, 4, 2, stride=2, groups=2, bias=False)
    size = 2 * SIZES[kind] if "Transpose" in kind else SIZES[kind] // 2
    return nn.Sequential(
        layer(2, 6, 3, padding=1),
        nn.ReLU(),
        second,
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * size ** DIMENSIONS[kind], 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    ).double()


def batch(kind):
    generator = torch.Generator().manual_seed(5)
    size = (SIZES[kind],) * DIMENSIONS[kind]
    inputs = torch.randn(5, 2, *size, dtype=torch.float64, generator=generator)
    return inputs, torch.tensor([0, 1, 2, 1, 0])


def sent_back(layer, plain, y, delta):
    """(Mᵀ δ, δ yᵀ, Σ δ) by autograd through torch's own layer, with M = B."""
    y = y.detach().requires_grad_()
    B = torch.zeros_like(layer.weight) if layer.B is None else layer.B.detach()
    if B.shape == layer.weight.shape:
        (below,) = torch.autograd.grad(functional_call(plain, {"weight": B}, y), y, delta)
    else:
        below = None
    return below, torch.autograd.grad(plain(y), list(plain.parameters()), delta)


def reference_gradients(model, inputs, targets):
    """What :func:`contract.reference_gradients` gives, from torch's own layers one at a time."""
    plain = copy.deepcopy(wtkit.export(model)).requires_grad_()
    seen = [inputs]
    for module in plain:
        seen.append(module(seen[-1]).detach())
    logits = seen[-1].requires_grad_()
    (delta,) = torch.autograd.grad(F.cross_entropy(logits, targets), logits)
    output_delta, found = delta, {}
    for place in reversed(range(len(plain))):
        module, y = plain[place], seen[place].detach().requires_grad_()
        if place not in (0, 2, 5, 7):
            (delta,) = torch.autograd.grad(module(y), y, delta)
            continue
        layer = model[place]
        below, products = sent_back(layer, module, y, delta)
        for (name, _), product in zip(module.named_parameters(), products, strict=True):
            found[f"{place}.{name}"] = product.numpy()
        delta = below
        if layer.method.direct:
            signal = torch.einsum("no,oi->ni", output_delta, layer.B.detach())
            positions = [1] * (y.dim() - 2)
            share = y.shape[2:].numel()
            delta = (signal / share).view(len(y), -1, *positions).expand(y.shape)
    return found | {"inputs": delta.detach().numpy()}


@pytest.fixture
def of_kind(monkeypatch, request):
    """The contract's checks, for another network."""
    kind = request.param
    monkeypatch.setattr(contract, "network", lambda: network(kind))
    monkeypatch.setattr(contract, "batch", lambda: batch(kind))
    monkeypatch.setattr(contract, "reference_gradients", reference_gradients)
    return kind


MIRRORED = [contract.B_learns_in_mirror_mode_only_if_the_method_says_so]
MANY_OUTPUTS = ("ConvTranspose2d", "ConvTranspose3d")
QUICK = [check for check in contract.CHECKS if check is not contract.compiled_equals_eager]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("of_kind", DIMENSIONS, indirect=True)
@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.__name__)
def test_every_method_keeps_its_contract(check, of_kind, name):
    if name == "information_alignment" and check in MIRRORED and of_kind in MANY_OUTPUTS:
        pytest.skip("as in a Linear layer of many outputs and few inputs, B takes longer")
    torch.manual_seed(0)
    check(name)
