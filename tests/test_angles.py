"""Angles against a network of plain PyTorch, and proof that measuring disturbs nothing."""

import copy
import math

import contract
import numpy as np
import pytest
import torch
import xarray as xr
from contract import array
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit import methods
from wtkit.feedback import (
    angle,
    delta_statistics,
    feedback_layers,
    feedback_norm_ratios,
    find_live_taps,
    live_shares,
    weight_norms,
)
from wtkit.networks import build_resnet

METHODS = methods.names()
SENDING = [name for name in METHODS if name != "frozen"]


class Swapped(nn.Module):
    """A plain layer whose output is that of W and whose backward pass is that of M, without a
    custom backward."""

    def __init__(self, layer, M):
        super().__init__()
        self.W, self.M, self.outputs = layer, copy.deepcopy(layer), []
        self.M.weight.data.copy_(M)

    def forward(self, y):
        through_M = self.M(y)
        out = through_M + (self.W(y) - through_M).detach()
        out.retain_grad()
        self.outputs.append(out)
        return out * 1


class Cut(nn.Module):
    """A plain layer that sends nothing back, and notes its input, so that something else may be
    sent there."""

    def __init__(self, layer):
        super().__init__()
        self.W, self.inputs, self.outputs = layer, [], []

    def forward(self, y):
        if y.requires_grad:
            self.inputs.append(y)
        out = self.W(y.detach())
        out.retain_grad()
        self.outputs.append(out)
        return out * 1


def independent_direct_deltas(model, inputs, targets, loss):
    """δ of every layer, if each is sent that of the output: of a loss whose gradient in their
    inputs is just that."""
    plain = wtkit.export(model)
    cut = {name: Cut(plain.get_submodule(name)) for name in feedback_layers(model)}
    for name, module in cut.items():
        setattr(plain, name, module)
    value = loss(plain(inputs), targets)
    *_, last = cut.values()
    (e,) = torch.autograd.grad(value, last.outputs[0], retain_graph=True)
    last.outputs[0].grad = None
    for name, layer in feedback_layers(model).items():
        for y in cut[name].inputs:
            pooled = y.flatten(2).mean(2) if y.dim() == 4 else y
            value = value + (pooled * (e @ layer.B)).sum()
    value.backward()
    return {
        name: [array(out.grad).reshape(len(out), -1) for out in x.outputs]
        for name, x in cut.items()
    }


def independent_deltas(model, inputs, targets, loss, use_B):
    """δ of every layer, flat per example, from a plain copy in which every layer is Swapped."""
    if use_B and any(layer.method.direct for layer in feedback_layers(model).values()):
        return independent_direct_deltas(model, inputs, targets, loss)
    plain, found = wtkit.export(model), {}
    for name, layer in feedback_layers(model).items():
        parent = plain.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            found[name] = Swapped(plain.get_submodule(name), layer.B if use_B else layer.weight)
        setattr(parent, name.rpartition(".")[2], found[name])
    loss(plain(inputs), targets).backward()
    return {
        name: [array(out.grad).reshape(len(out), -1) for out in x.outputs]
        for name, x in found.items()
    }


def independent_angles(model, inputs, targets, loss=F.cross_entropy):
    sent, exact = (
        independent_deltas(model, inputs, targets, loss, use_B) for use_B in (True, False)
    )
    means, ratios = [], []
    for name in sent:
        a, b = np.concatenate(sent[name], 1), np.concatenate(exact[name], 1)
        cosines = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
        means.append(np.degrees(np.arccos(np.clip(cosines, -1, 1))).mean())
        ratios.append(np.linalg.norm(a) / np.linalg.norm(b))
    return means, ratios


def network():
    """What disturbs: ReLUs in place, BatchNorm before and after, dropout's place kept for its own
    test."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 3),
    ).double()  # fmt: skip


# ---------------------------------------------------------------------------- one angle, in float64


def test_angle_of_known_vectors():
    u = torch.tensor([[1.0, 0], [1, 0], [1, 0], [2, 0], [1, 1e-9], [0, 0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 3], [-5, 0], [1, 1], [7, 0], [1, 0], [1, 0]], dtype=torch.float64)
    found = angle(u, v).numpy()
    np.testing.assert_allclose(found[:4], [90, 180, 45, 0], atol=1e-12)
    assert found[4] == pytest.approx(math.degrees(1e-9), rel=1e-6), "where arccos has no digit left"
    assert np.isnan(found[5]), "no direction, no angle"


def test_angle_is_computed_in_float64():
    u = torch.full((100_000,), 1e-30)
    assert angle(u, u).dtype == torch.float64
    assert float(angle(u, u)) == 0


# ------------------------------------------------------------------------------------ matrix angles


@pytest.mark.parametrize("name", SENDING)
def test_the_matrix_angle_is_that_of_the_tensor_delta_travels_through(name):
    """B is read off the backward pass, by sending unit δ through the layer, rather than asked
    for."""
    layer = wtkit.convert(nn.Linear(6, 5).double(), name)
    y = torch.zeros(5, 6, dtype=torch.float64, requires_grad=True)
    layer(y).backward(torch.eye(5, dtype=torch.float64))
    travelled, W = array(y.grad).ravel(), array(layer.weight).ravel()
    cosine = travelled @ W / math.sqrt((travelled @ travelled) * (W @ W))
    assert wtkit.matrix_angles(layer).item() == pytest.approx(
        math.degrees(math.acos(min(1, cosine))), abs=1e-5
    )
    expected = np.linalg.norm(travelled) / np.linalg.norm(W)
    assert feedback_norm_ratios(layer).item() == pytest.approx(expected)
    assert weight_norms(layer).item() == pytest.approx(np.linalg.norm(W))


def test_matrix_angles_are_labelled():
    found = wtkit.matrix_angles(wtkit.convert(network(), "feedback_alignment"))
    assert found.dims == ("layer",) and list(found.layer.values) == ["0", "3", "7", "9"]
    assert (
        found.attrs["units"] == "degree"
        and found.name == "matrix_angle"
        and found.dtype == np.float64
    )


def test_backprops_matrix_angle_is_exactly_zero():
    """A1."""
    assert (wtkit.matrix_angles(wtkit.convert(network(), "backprop")) == 0).all()


@pytest.mark.parametrize("name", ["feedback_alignment", "weight_mirror", "kolen_pollack"])
def test_wide_layers_of_a_fresh_resnet18_lie_near_90_degrees(name):
    found = wtkit.matrix_angles(wtkit.convert(build_resnet("resnet18", num_classes=10), name))
    assert ((found > 80) & (found < 100)).all()
    assert len(found) == 21


def test_sign_symmetry_of_a_fresh_resnet18_lies_at_37_degrees():
    found = wtkit.matrix_angles(
        wtkit.convert(build_resnet("resnet18", num_classes=10), "sign_symmetry")
    )
    assert (abs(found[:-1] - 37.1) < 1).all(), "Gaussian convolutions"
    assert abs(found[-1] - 30) < 1, "a uniform classifier"


# ----------------------------------------------------------------------------------------- δ angles


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SENDING)
def test_delta_angles_and_norm_ratios_agree_with_plain_pytorch(name, training):
    model, (inputs, targets) = wtkit.convert(network(), name).train(training), contract.batch()
    found = delta_statistics(model, inputs, targets)
    means, ratios = independent_angles(model, inputs, targets)
    np.testing.assert_allclose(found.delta_angle.values, means, atol=2e-5)
    np.testing.assert_allclose(found.delta_norm_ratio.values, ratios, rtol=1e-9)
    assert list(found.layer.values) == ["0", "3", "7", "9"]
    assert found.delta_angle.attrs["units"] == "degree"


@pytest.mark.parametrize("loss", [
    F.cross_entropy,
    lambda out, targets: F.cross_entropy(out, targets, label_smoothing=0.2),
    lambda out, targets: F.mse_loss(out, F.one_hot(targets, 3).double()),
    lambda out, targets: out.logsumexp(1).sum() - out[0, targets[0]] ** 3,
], ids=["cross_entropy", "smoothed", "mse", "odd"])  # fmt: skip
def test_any_loss(loss):
    model, (inputs, targets) = wtkit.convert(network(), "feedback_alignment"), contract.batch()
    found = wtkit.delta_angles(model, inputs, targets, loss)
    np.testing.assert_allclose(
        found.values, independent_angles(model, inputs, targets, loss)[0], atol=2e-5
    )


def test_the_output_layers_delta_angle_is_exactly_zero():
    model, (inputs, targets) = wtkit.convert(network(), "feedback_alignment"), contract.batch()
    assert wtkit.delta_angles(model, inputs, targets)[-1] == 0


def test_backprops_delta_angles_are_exactly_zero():
    model, (inputs, targets) = wtkit.convert(network(), "backprop"), contract.batch()
    assert (wtkit.delta_angles(model, inputs, targets) == 0).all()


def test_delta_angles_accumulate_over_the_layers_downstream():
    """Only the last layer's B is wrong, and every layer upstream has its share of it."""
    model, (inputs, targets) = wtkit.convert(network(), "feedback_alignment"), contract.batch()
    with torch.no_grad():
        for layer in list(feedback_layers(model).values())[:-1]:
            layer.feedback.copy_(layer.weight)
    found = wtkit.delta_angles(model, inputs, targets).values
    assert (found[:-1] > 5).all() and found[-1] == 0


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, y):
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(y)))))


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, tokens):
        return self.head(F.relu(self.layer(self.words(tokens)), inplace=True).mean(1))


class Partial(nn.Module):
    def __init__(self):
        super().__init__()
        self.cut, self.unused, self.used = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, y):
        with torch.no_grad():
            frozen = self.cut(y)
        return self.used(frozen.relu())


def test_a_layer_used_twice_counts_both_deltas():
    model, (_, targets) = wtkit.convert(Twice().double(), "feedback_alignment"), contract.batch()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    found = delta_statistics(model, inputs, targets)
    means, ratios = independent_angles(model, inputs, targets)
    np.testing.assert_allclose(found.delta_angle.values, means, atol=2e-5)
    np.testing.assert_allclose(found.delta_norm_ratio.values, ratios, rtol=1e-9)


def test_inputs_that_are_no_numbers_to_differentiate():
    model, (_, targets) = wtkit.convert(Sequence().double(), "feedback_alignment"), contract.batch()
    tokens = torch.randint(0, 7, (5, 6))
    found = wtkit.delta_angles(model, tokens, targets)
    np.testing.assert_allclose(
        found.values, independent_angles(model, tokens, targets)[0], atol=2e-5
    )


def test_where_no_delta_arrives_the_angle_is_not_a_number():
    model, (_, targets) = wtkit.convert(Partial().double(), "feedback_alignment"), contract.batch()
    found = wtkit.delta_angles(model, torch.randn(5, 4, dtype=torch.float64), targets)
    assert np.isnan(found.values).tolist() == [True, True, False]


def test_examples_without_any_delta_are_left_out_of_the_mean():
    model, (inputs, targets) = (
        wtkit.convert(network(), "feedback_alignment").eval(),
        contract.batch(),
    )
    expected = wtkit.delta_angles(model, inputs[:3], targets[:3])
    found = wtkit.delta_angles(
        model, inputs, targets, lambda out, t: F.cross_entropy(out[:3], t[:3])
    )
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "x"),
    [(nn.Sequential(nn.Linear(8, 2)), torch.randn(8)), (nn.Conv2d(3, 2, 3), torch.randn(3, 5, 5))],
)
def test_an_example_without_a_batch_is_refused(model, x):
    model = wtkit.convert(model, "feedback_alignment")
    with pytest.raises(wtkit.WtkitError, match=r"expected a batch, .* got one example of shape \("):
        wtkit.delta_angles(model, x, None, loss=lambda output, _: output.sum())


def test_delta_angles_under_autocast():
    model, (inputs, targets) = (
        wtkit.convert(network().float(), "feedback_alignment"),
        contract.batch(),
    )
    expected = wtkit.delta_angles(model, inputs.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = wtkit.delta_angles(model, inputs.float(), targets)
    np.testing.assert_allclose(found.values, expected.values, atol=3)


# ----------------------------------------------------------------------- measuring disturbs nothing


def everything(model):
    """All that a measurement might touch, as bits."""
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "addresses": [t.data_ptr() for t in [*model.parameters(), *model.buffers()]],
        "versions": [t._version for t in [*model.parameters(), *model.buffers()]],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "stream": torch.get_rng_state(),
        "options": [vars(m).get("track_running_stats") for m in model.modules()],
    }


def assert_nothing_changed(before, model):
    after = everything(model)
    contract.assert_same_state(before.pop("state"), after.pop("state"))
    assert torch.equal(before.pop("stream"), after.pop("stream"))
    for a, b in zip(before.pop("gradients"), after.pop("gradients"), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert before == after


def disturbable(name="feedback_alignment"):
    model = nn.Sequential(
        *network()[:6],
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.Dropout(0.5),
        *network()[6:],
    )
    model = wtkit.convert(model.double(), name)
    model[3].requires_grad_(False)
    inputs, targets = contract.batch()
    F.cross_entropy(model(inputs), targets).backward()
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_measuring_changes_nothing(name, training):
    model, (inputs, targets) = disturbable(name).train(training), contract.batch()
    before, images = everything(model), inputs.clone()
    with torch.set_grad_enabled(training):
        wtkit.matrix_angles(model)
        feedback_norm_ratios(model)
        weight_norms(model)
        wtkit.delta_angles(model, inputs, targets)
        assert torch.is_grad_enabled() == training
    assert_nothing_changed(before, model)
    assert torch.equal(inputs, images) and not inputs.requires_grad and inputs.grad is None


def test_a_loss_that_fails_leaves_everything_as_it_was():
    model, (inputs, targets) = disturbable(), contract.batch()
    before = everything(model)
    with pytest.raises(ZeroDivisionError):
        wtkit.delta_angles(model, inputs, targets, lambda out, targets: 1 / 0)
    assert_nothing_changed(before, model)


@pytest.mark.parametrize("name", METHODS)
def test_training_is_bit_for_bit_the_same_with_and_without_measuring(name):
    inputs, targets = contract.batch()
    plain = disturbable(name)
    watched, finals = copy.deepcopy(plain), []
    for model in (plain, watched):
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            if model is watched:  # even between a forward and a backward pass
                wtkit.delta_angles(model, inputs, targets)
                wtkit.matrix_angles(model)
            loss.backward()
            optimizer.step()
        finals.append(model.state_dict())
    contract.assert_same_state(*finals)


def test_dropout_is_the_same_for_both_deltas():
    """One forward pass serves both: with B = W the angles are zero in spite of random units."""
    model, (inputs, targets) = disturbable(), contract.batch()
    with torch.no_grad():
        for layer in feedback_layers(model).values():
            layer.feedback.copy_(layer.weight)
    assert (wtkit.delta_angles(model, inputs, targets) == 0).all()


def test_training_mode_measures_with_the_batchs_statistics():
    model, (inputs, targets) = wtkit.convert(network(), "feedback_alignment"), contract.batch()
    model[4].running_var.fill_(1e4)
    training = wtkit.delta_angles(model.train(), inputs, targets)
    evaluation = wtkit.delta_angles(model.eval(), inputs, targets)
    assert not np.allclose(training.values, evaluation.values)


@pytest.mark.parametrize("measure", [
    wtkit.matrix_angles, feedback_norm_ratios, weight_norms,
    lambda model: wtkit.delta_angles(model, *contract.batch()),
])  # fmt: skip
def test_a_plain_model_is_refused(measure):
    with pytest.raises(
        wtkit.WtkitError, match=r"no feedback layers; convert it first: wtkit\.convert"
    ):
        measure(network())


def test_a_resnet_can_be_measured_in_training_mode():
    """The δ angle of the layers that a residual sum joins, BatchNorm after the ReLU."""
    model = wtkit.convert(
        build_resnet("resnet18", num_classes=4, stem="small").double(), "feedback_alignment"
    )
    inputs, targets = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    found = wtkit.delta_angles(model, inputs, targets)
    np.testing.assert_allclose(
        found.values, independent_angles(model, inputs, targets)[0], atol=1e-3
    )
    assert (found[:-1] > 45).all()


# ---------------------------------------------------------------------------------------- live taps


def on_small_maps(method="feedback_alignment"):
    """Two convolutions whose second map is one pixel, so that eight of its nine taps are dead; and
    a Linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )
    return wtkit.convert(model.double(), method, seed=1), torch.randn(
        4, 3, 2, 2, dtype=torch.float64
    )


def test_angles_and_norms_are_of_weights_that_a_signal_can_pass():
    """The live weights are those that the output depends on, as the gradient tells; the others do
    not count."""
    model, images = on_small_maps()
    find_live_taps(model, images)
    grads = torch.autograd.grad(
        model(images).square().sum(), [layer.weight for layer in model[0:3:2]]
    )
    for name, layer, grad in zip(("0", "2"), model[0:3:2], grads, strict=True):
        live = (grad != 0).any(0, keepdim=True).any(1, keepdim=True).expand_as(grad)
        for chosen, all_weights in ((live, False), (torch.ones_like(live), True)):
            W, B = layer.weight.detach()[chosen].numpy(), layer.B[chosen].numpy()
            cosine = W @ B / np.linalg.norm(W) / np.linalg.norm(B)
            found = wtkit.matrix_angles(model, all_weights=all_weights).sel(layer=name)
            assert found.item() == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-6)
            ratio = feedback_norm_ratios(model, all_weights=all_weights).sel(layer=name)
            assert ratio.item() == pytest.approx(np.linalg.norm(B) / np.linalg.norm(W))
            norm = weight_norms(model, all_weights=all_weights).sel(layer=name)
            assert norm.item() == pytest.approx(np.linalg.norm(W))
        assert live_shares(model).sel(layer=name).item() == pytest.approx(
            live.double().mean().item()
        )
    assert live_shares(model).values.tolist() == [4 / 9, 1 / 9, 1]


def test_a_matrix_angle_sees_nothing_of_dead_taps():
    model, images = on_small_maps()
    find_live_taps(model, images)
    before = wtkit.matrix_angles(model)
    with torch.no_grad():
        model[2].weight[:, :, 0] = 7.0  # the row of taps above the pixel
    xr.testing.assert_identical(wtkit.matrix_angles(model), before)
    assert wtkit.matrix_angles(model, all_weights=True)[1] != before[1]


def test_a_layer_that_is_used_twice_has_the_live_taps_of_both_uses():
    model = wtkit.convert(OnTwoMaps().double(), "feedback_alignment")
    find_live_taps(model, torch.zeros(2, 3, 1, 4, dtype=torch.float64))
    assert model.conv.taps == (slice(None), slice(None), slice(1, 2), slice(0, 3))
    assert live_shares(model).item() == pytest.approx(1 / 3)


class OnTwoMaps(nn.Module):
    """One convolution on a map of 1×4 pixels and on its 1×1 mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return self.conv(y.mean((2, 3), keepdim=True)).flatten(1)
