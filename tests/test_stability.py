"""A B that averages W over too many steps makes the loss diverge at the edge of stability
(docs/planning.md): the scalar model, a network, and the plan's warning."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.experiments import run_config
from wtkit.plan import survey, warnings
from wtkit.plan.stability import tolerates_lag


def settles(rate, share, momentum, flat, steps=3000):
    """Whether gradient descent on ½ (w₂ w₁ − 1)² settles, with w₁'s δ through B.

    Args:
        rate: of B, which averages w₂ over 1/rate steps.
        share: the learning rate, as a share of the largest stable one at the start.
        flat: w₁ at the start, on the minimum w₁ w₂ = 1; its sharpness is w₁² + w₂².
    """
    w1, w2 = flat + 1e-3, 1 / flat
    lr = share * 2 * (1 + momentum) / (flat**2 + flat**-2)
    B, v1, v2 = w2, 0.0, 0.0
    for _ in range(steps):
        error = w2 * w1 - 1
        v1, v2 = momentum * v1 + B * error, momentum * v2 + w1 * error
        w1, w2 = w1 - lr * v1, w2 - lr * v2
        B += rate * (w2 - B)
        if not abs(error) < 10:
            return False
    return abs(w2 * w1 - 1) < 0.5


STARTS = [1.2, 1.4, 1.6, 2, 2.5, 3]
STARTS += [1 / flat for flat in STARTS]


@pytest.mark.parametrize("momentum", [0, 0.5, 0.9])
def test_below_the_edge_of_stability_any_lag_is_harmless(momentum):
    assert all(
        settles(rate, 0.95, momentum, flat) for rate in (1, 0.2, 0.05, 0.01) for flat in STARTS
    )


@pytest.mark.parametrize("momentum", [0, 0.5, 0.9])
def test_above_it_only_a_b_without_lag_finds_a_flatter_minimum(momentum):
    settled = [
        np.mean([settles(rate, 1.02, momentum, flat) for flat in STARTS]) for rate in (1, 0.2, 0.02)
    ]
    assert settled[0] == 1
    assert settled[0] > settled[1] > settled[2]


def worst_loss(rate, lr, norm=nn.Identity):
    """The largest loss in eight passes through the digits, with B an average over 1/rate steps."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:1440, None]
    labels = torch.tensor(digits.target)[:1440]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), norm(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), norm(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 10),
    )  # fmt: skip
    wtkit.convert(model, "symmetric_alignment", rate=rate)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.01)
    worst = 0.0
    for _ in range(8):
        for batch in torch.randperm(len(labels)).split(32):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            worst = max(worst, loss.item())
            if worst > 1000:
                return worst
    return worst


@pytest.mark.slow
def test_a_network_without_batchnorm_diverges_if_b_lags_and_the_rate_is_high():
    assert worst_loss(rate=0.05, lr=0.02) > 1000
    assert worst_loss(rate=0.2, lr=0.02) < 3
    assert worst_loss(rate=0.05, lr=0.005) < 3
    assert worst_loss(rate=0.05, lr=0.02, norm=nn.BatchNorm2d) < 3


@pytest.mark.parametrize(
    ("network", "method", "options", "warned"),
    [
        ({"activation": "relu"}, "weight_mirror", {"mirror_lr": 0.05}, "averages over 20 engaged"),
        ({"activation": "relu"}, "weight_mirror", {"mirror_lr": 0.2, "noise_batch": 8192}, ""),
        ({"activation": "tanh"}, "weight_mirror", {"mirror_lr": 0.05}, ""),
        ({"activation": "relu"}, "symmetric_alignment", {"rate": 0.02}, "averages over 50 engaged"),
        ({"activation": "relu"}, "symmetric_alignment", {"rate": 0.2}, ""),
        ({"activation": "relu"}, "kolen_pollack", {}, ""),
        (None, "symmetric_alignment", {"rate": 0.02}, ""),
    ],
)
def test_the_plan_warns_where_b_lags_without_normalisation(network, method, options, warned):
    settings = {"network": "mlp", "network_options": network} if network else {"image_size": 16}
    config = run_config({"method": method, "data": "digits", "options": options, **settings})
    ((_, inspection),) = survey([config], measured=False)
    said = "\n".join(warnings(config, inspection))
    assert ("has no normalisation" in said) == bool(warned)
    assert warned in said


def test_normalisation_and_bounded_activations_tolerate_a_lag():
    assert tolerates_lag(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    assert not tolerates_lag(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.ReLU()))
    assert not tolerates_lag(nn.Linear(2, 2))
    assert tolerates_lag(nn.Sequential(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2), nn.ReLU()))
