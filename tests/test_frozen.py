"""The frozen baseline: nothing moves but the output layer, whatever the optimizer."""

import copy

import contract
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.experiments import run_config
from wtkit.training import Run


def network():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(6), nn.Flatten(),
        nn.PReLU(), nn.Linear(216, 8), nn.LayerNorm(8), nn.Linear(8, 3),
    ).double()  # fmt: skip


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True, foreach=True
    ),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_the_output_layer_moves_though_everything_would_decay(optimizer):
    model, (inputs, targets) = wtkit.convert(network(), "frozen"), contract.batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mean = model[2].running_mean.clone()
    step = OPTIMIZERS[optimizer](model.parameters())
    for _ in range(3):
        step.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        step.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"7.weight", "7.bias"}
    assert not torch.equal(model[2].running_mean, mean), "the statistics of the forward path go on"


def test_the_output_layer_learns_as_if_the_rest_were_fixed_features():
    """Against plain PyTorch with everything else under no_grad."""
    plain, (inputs, targets) = contract.network(), contract.batch()
    model = wtkit.convert(copy.deepcopy(plain), "frozen")
    losses = contract.train(model, steps=5)
    with torch.no_grad():
        features = plain[:7](inputs)
    optimizer = torch.optim.SGD(plain[7].parameters(), lr=0.2, momentum=0.5)
    for expected in losses:
        optimizer.zero_grad()
        loss = F.cross_entropy(plain[7](features), targets)
        assert loss.item() == expected
        loss.backward()
        optimizer.step()
    contract.assert_same_state(model.state_dict(), plain.state_dict())


def test_every_output_learns_where_there_are_several():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)

        def forward(self, y):
            hidden = self.trunk(y).relu()
            return self.one(hidden), self.two(hidden)

    model = wtkit.convert(TwoHeads(), "frozen")
    sum(out.square().sum() for out in model(torch.randn(3, 4))).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "one.weight", "one.bias", "two.weight", "two.bias",
    }  # fmt: skip


def test_there_are_no_angles_and_a_run_says_none(monkeypatch):
    model, batch = wtkit.convert(network(), "frozen"), contract.batch()
    assert np.isnan(wtkit.matrix_angles(model)).all()
    assert np.isnan(wtkit.delta_angles(model, *batch)).values.tolist() == [True, True, False]
    monkeypatch.setattr(
        "wtkit.networks.build", lambda *_, num_classes, **__: nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(),
            nn.Linear(4, num_classes)
        ),
    )  # fmt: skip
    run = Run(run_config({"method": "frozen"}), torch.device("cpu"))
    run.record(0.0)
    assert "angles" not in run.report()
    assert run.trajectory().matrix_angle.isnull().all()
