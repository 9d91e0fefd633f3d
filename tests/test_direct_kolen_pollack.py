"""Direct Kolen–Pollack beyond the contract: what B learns by, and from which optimizers."""

import contract
import numpy as np
import pytest
import torch
from contract import array
from learning import digits_error
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.feedback import feedback_layers

NAME = "direct_kolen_pollack"


def error_and_inputs(model, inputs, targets):
    """The output layer's δ, and what enters each layer, observed by torch alone."""
    plain, seen = wtkit.export(model), {}
    for name, layer in plain.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.register_forward_hook(lambda _, y, out, at=name: seen.update({at: y[0]}))
    logits = plain(inputs)
    logits.retain_grad()
    F.cross_entropy(logits, targets).backward()
    return array(logits.grad), {name: array(y) for name, y in seen.items()}


def products(e, seen):
    """Σ e yᵀ over the examples, y averaged over the positions of an image."""
    means = {at: y.mean((2, 3)) if y.ndim == 4 else y for at, y in seen.items()}
    return {at: np.einsum("no,ni->oi", e, y) for at, y in means.items()}


def test_the_gradient_of_B_is_the_outputs_error_times_the_layers_activity():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    expected = products(*error_and_inputs(model, inputs, targets))
    F.cross_entropy(model(inputs), targets).backward()
    for name, layer in feedback_layers(model).items():
        np.testing.assert_allclose(array(layer.feedback.grad), expected[name], atol=1e-12)


def test_a_step_of_sgd_is_the_equation_with_its_decay_and_momentum():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    layers = feedback_layers(model)
    B = {at: array(layer.feedback) for at, layer in layers.items()}
    velocity = {at: 0 for at in B}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5, weight_decay=0.1)
    for _ in range(4):
        found = products(*error_and_inputs(model, inputs, targets))
        velocity = {at: 0.5 * velocity[at] + found[at] + 0.1 * b for at, b in B.items()}
        B = {at: b - 0.2 * velocity[at] for at, b in B.items()}
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    for at, layer in layers.items():
        np.testing.assert_allclose(array(layer.B), B[at], atol=1e-12)


def test_in_the_output_layer_it_is_kolen_pollack():
    model = contract.converted(NAME)
    before = array(model[7].weight - model[7].B)
    contract.train(model, steps=30, momentum=0, lr=0.1, weight_decay=0.5)
    after = array(model[7].weight - model[7].B)
    np.testing.assert_allclose(after, before * (1 - 0.05) ** 30, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("positions", [(7,), (2, 3)])
def test_positions_that_share_one_error_teach_by_their_mean(positions):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, y):
            return self.head(self.first(y).tanh().mean(tuple(range(1, y.dim() - 1))))

    model = wtkit.convert(Pooled().double(), NAME)
    y = torch.randn(2, *positions, 4, dtype=torch.float64)
    e = torch.randn(2, 3, dtype=torch.float64)
    model(y).backward(e)
    expected = array(e).T @ array(y).mean(tuple(range(1, y.dim() - 1)))
    np.testing.assert_allclose(array(model.first.feedback.grad), expected, atol=1e-12)


def test_a_sequence_teaches_position_by_position():
    model = wtkit.convert(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), NAME)
    x, e = (torch.randn(2, 7, n, dtype=torch.float64) for n in (4, 3))
    model(x).backward(e)
    expected = np.einsum("nto,nti->oi", array(e), array(x))
    np.testing.assert_allclose(array(model[0].feedback.grad), expected, atol=1e-12)


def test_one_image_without_a_batch_teaches_as_a_batch_of_one():
    model = contract.converted(NAME)[:3].double()
    model.append(nn.Conv2d(4, 3, 3).double())
    wtkit.convert(model, NAME, seed=1)
    image, found = torch.randn(2, 6, 6, dtype=torch.float64), []
    for x in (image, image[None]):
        model.zero_grad()
        model(x).sum().backward()
        found.append({at: layer.feedback.grad for at, layer in feedback_layers(model).items()})
    for at, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][at])


def test_gradients_of_several_batches_add_up():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    for _ in range(2):
        F.cross_entropy(model(inputs), targets).backward()
    twice = model[0].feedback.grad.clone()
    model.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    torch.testing.assert_close(twice, 2 * model[0].feedback.grad)


def test_autocast_gives_B_a_gradient_in_its_own_precision():
    model, (inputs, targets) = contract.converted(NAME).float(), contract.batch()
    with torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(model(inputs.float()), targets).backward()
    found = model[5].feedback.grad
    assert found.dtype == torch.float32
    model.zero_grad()
    F.cross_entropy(model(inputs.float()), targets).backward()
    torch.testing.assert_close(found, model[5].feedback.grad, rtol=0.1, atol=0.02)


def test_measuring_delta_angles_teaches_nothing():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    wtkit.delta_angles(model, inputs, targets)
    assert all(layer.feedback.grad is None for layer in feedback_layers(model).values())


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.Adafactor, torch.optim.RMSprop])
def test_any_optimizer_steps_B(make):
    model, (inputs, targets) = contract.converted(NAME).float(), contract.batch()
    optimizer, before = make(model.parameters(), lr=0.01), model[0].B.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.float()), targets).backward()
        optimizer.step()
    assert not torch.equal(model[0].B, before)


def test_an_optimizer_without_B_is_refused():
    model, (inputs, targets) = contract.network(), contract.batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wtkit.convert(model, NAME)
    F.cross_entropy(model(inputs), targets).backward()
    with pytest.raises(wtkit.WtkitError, match=r"'weight' .* not 'feedback', so B would not learn"):
        optimizer.step()
    for layer in feedback_layers(model).values():
        layer.feedback.requires_grad_(False)  # direct feedback alignment, on purpose
    optimizer.step()


def test_two_layers_may_share_a_weight_and_W_may_be_computed():
    shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))
    shared[2].weight = shared[0].weight
    wtkit.convert(shared, NAME)
    nn.utils.parametrizations.spectral_norm(shared[3])
    x = torch.randn(3, 4)
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    shared(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(shared[0].feedback.grad, shared[2].feedback.grad)


def test_Bs_gradient_counts_in_the_norm_that_is_clipped():
    model = wtkit.convert(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), NAME)
    model(torch.randn(3, 4)).square().sum().backward()
    own = {name: p for name, p in model.named_parameters() if not name.endswith("feedback")}
    of_all = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert of_all > 1.1 * nn.utils.clip_grad_norm_(own.values(), 1e9)


@pytest.mark.slow
def test_it_learns_digits_that_frozen_layers_cannot():
    errors = {name: digits_error(name) for name in (NAME, "frozen")}
    assert errors[NAME] < 0.6 * errors["frozen"], errors
