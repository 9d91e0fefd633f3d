"""Direct feedback alignment beyond the contract: what reaches a layer, in networks where that is
not plain."""

import copy
import itertools
import threading

import contract
import numpy as np
import pytest
import torch
from contract import array
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.feedback import engaged, feedback_layers
from wtkit.networks import build_resnet

NAME = "direct_feedback_alignment"


def products(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_hidden_layers_learn_by_the_outputs_error_whatever_the_layers_between():
    """Nøkland's equation, written out for a perceptron in numpy; the weights in between are changed
    to show it."""
    model = wtkit.convert(
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)), NAME
    )
    model.double()
    x, t = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    for _ in range(2):
        found = products(model, (model(x) - t).square().sum() / 2)
        y1 = np.tanh(array(model[0](x)))
        e = array(model(x) - t)
        delta1 = (e @ array(model[2].B)) * (1 - y1**2)
        np.testing.assert_allclose(array(found["0.weight"]), delta1.T @ array(x), atol=1e-12)
        y2 = np.tanh(array(model[2](torch.tensor(y1))))
        np.testing.assert_allclose(
            array(found["2.weight"]), ((e @ array(model[4].B)) * (1 - y2**2)).T @ y1, atol=1e-12
        )
        with torch.no_grad():
            model[2].weight.mul_(-3)


def test_a_convolutions_input_is_sent_one_number_a_channel_and_example():
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Flatten(), nn.Linear(24, 3)
    ).double()
    model = wtkit.convert(plain, NAME)
    assert [tuple(layer.B.shape) for layer in feedback_layers(model).values()] == [
        (3, 2),
        (3, 4),
        (3, 24),
    ]
    hidden = model[0](torch.randn(5, 2, 6, 6, dtype=torch.float64)).detach().requires_grad_()
    out = model[1:](hidden)
    e = torch.randn_like(out)
    out.backward(e)
    expected = array(e) @ array(model[1].B) / 16
    np.testing.assert_allclose(
        array(hidden.grad), np.broadcast_to(expected[:, :, None, None], (5, 4, 4, 4)), atol=1e-12
    )


def test_a_resnet_trains_and_its_shortcuts_have_weights_of_their_own():
    torch.manual_seed(0)
    model = wtkit.convert(build_resnet("resnet18", num_classes=4, stem="small"), NAME)
    assert tuple(model.layer2[0].downsample[0].B.shape) == (4, 64)
    inputs, targets = torch.randn(4, 3, 8, 8), torch.arange(4)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(inputs), targets))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    angles = wtkit.matrix_angles(model)
    assert np.isnan(angles[:-1]).all() and 0 < angles[-1] < 180


def test_two_losses_of_one_graph_each_send_their_own_error():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    out = model(inputs)
    one, two = F.cross_entropy(out, targets), out.square().sum()
    model.zero_grad()
    one.backward(retain_graph=True)
    two.backward()
    both = {name: p.grad.clone() for name, p in model.named_parameters()}
    out = model(inputs)
    whole = products(model, F.cross_entropy(out, targets) + out.square().sum())
    for name, value in whole.items():
        torch.testing.assert_close(both[name], value, rtol=1e-12, atol=1e-13)


def test_gradient_checkpointing():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    expected = products(model, F.cross_entropy(model(inputs), targets))
    for parts in ((slice(0, 5), slice(5, 8)), (slice(0, 0), slice(0, 8))):
        hidden = model[parts[0]](inputs.clone().requires_grad_())
        out = torch.utils.checkpoint.checkpoint(model[parts[1]], hidden, use_reentrant=False)
        contract.assert_same_state(products(model, F.cross_entropy(out, targets)), expected)


def test_a_sequence_is_sent_errors_position_by_position():
    model = wtkit.convert(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), NAME)
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    rows = products(model, model(x.flatten(0, 1)).square().sum())
    for name, value in products(model, model(x).square().sum()).items():
        torch.testing.assert_close(value, rows[name], rtol=1e-12, atol=1e-12)


class Pooled(nn.Module):
    """With a layer that meets several positions where the output layer meets their mean."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, y):
        return self.head(self.second(self.first(y).tanh()).tanh().mean(1))


@pytest.mark.parametrize("positions", [(7,), (2, 3)])
def test_one_error_for_several_positions_is_shared_by_them(positions):
    model = wtkit.convert(Pooled().double(), NAME)
    y = torch.randn(2, *positions, 4, dtype=torch.float64)
    seen = model.first(y).detach().tanh().requires_grad_()
    out = model.head(model.second(seen).tanh().mean(tuple(range(1, y.dim() - 1))))
    e = torch.randn_like(out)
    out.backward(e)
    expected = (array(e) @ array(model.second.B)).reshape(2, *[1] * len(positions), 5) / np.prod(
        positions
    )
    np.testing.assert_allclose(array(seen.grad), np.broadcast_to(expected, seen.shape), atol=1e-12)


def test_errors_of_other_examples_are_refused():
    class Windows(Pooled):
        def forward(self, y):  # (N, 6, 4), in two windows of three
            hidden = self.second(self.first(y.reshape(-1, 3, 4)).tanh()).tanh()
            return self.head(hidden.reshape(len(y), 6, 5).mean(1))

    with pytest.raises(
        wtkit.WtkitError, match=r"the output layer's δ, \(2, 3\), does not fit .*input.*\(4, 3, 5\)"
    ):
        wtkit.convert(Windows(), NAME)(torch.randn(2, 6, 4)).sum().backward()


def test_copies_and_models_side_by_side_do_not_hear_each_other():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    expected, other = products(model, F.cross_entropy(model(inputs), targets)), copy.deepcopy(model)
    losses = [F.cross_entropy(net(inputs), targets) for net in (model, other)]
    (3 * losses[1]).backward()
    contract.assert_same_state(products(model, losses[0]), expected)


def test_threads_do_not_hear_each_other():
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    expected = products(model, F.cross_entropy(model(inputs), targets))
    twins, failed = [copy.deepcopy(model) for _ in range(4)], []

    def work(twin):
        for _ in range(20):
            found = products(twin, F.cross_entropy(twin(inputs), targets))
            failed.extend(
                name for name, value in expected.items() if not torch.equal(found[name], value)
            )

    threads = [threading.Thread(target=work, args=(twin,)) for twin in twins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, a, b):
        return self.head(self.hidden(a).tanh()) - self.head(self.hidden(b).tanh())


class Early(nn.Module):
    """Whose loss also depends on a hidden layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, y):
        hidden = self.second(self.first(y).tanh())
        return hidden, self.head(hidden)


def test_two_outputs_in_one_pass_are_refused():
    model = wtkit.convert(Siamese(), NAME)
    with pytest.raises(wtkit.WtkitError, match="two outputs in one backward pass"):
        model(torch.randn(2, 4), torch.randn(2, 4)).sum().backward()


def test_a_layer_that_no_error_can_reach_is_refused():
    model = wtkit.convert(Early(), NAME)
    hidden, out = model(torch.randn(2, 4))
    with pytest.raises(wtkit.WtkitError, match="the network's last layer"):
        hidden.sum().backward(retain_graph=True)
    out.sum().backward()  # and the last pass left nothing behind
    hidden, out = model(torch.randn(2, 4))
    with pytest.raises(wtkit.WtkitError, match="the network's last layer"):
        hidden.sum().backward()


def test_the_last_layer_cannot_stay_on_backprop():
    model = contract.network()
    with pytest.raises(wtkit.WtkitError, match=r"last layer .* take it out of keep_on_backprop"):
        wtkit.convert(model, NAME, keep_on_backprop="7")
    assert not feedback_layers(model)
    wtkit.convert(model, NAME, keep_on_backprop="0")


def test_nothing_is_kept_after_a_pass(monkeypatch):
    monkeypatch.setattr("wtkit.feedback.engaged.output_deltas", {})
    model, (inputs, targets) = contract.converted(NAME), contract.batch()
    products(model, F.cross_entropy(model(inputs), targets))
    wtkit.delta_angles(model, inputs, targets)
    assert not engaged.output_deltas


def test_passes_that_fail_leave_no_more_than_a_few_errors_behind(monkeypatch):
    monkeypatch.setattr("wtkit.feedback.engaged.output_deltas", {})
    model, (inputs, _) = contract.converted(NAME), contract.batch()
    model[0].weight.register_hook(lambda grad: 1 / 0)
    for _ in range(100):
        with pytest.raises(ZeroDivisionError):
            model(inputs).sum().backward()
    assert len(engaged.output_deltas) == 64


@pytest.mark.slow
def test_compiled_with_autocast_in_one_graph():
    torch.compiler.reset()
    model, (inputs, targets) = contract.converted(NAME).float(), contract.batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = []
    for net in (model, compiled):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(net(inputs.float()), targets)
        found.append(products(model, loss))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=2e-2, atol=2e-2)


def test_a_layer_of_as_many_units_as_there_are_outputs_has_no_matrix_angle_either():
    model = torch.nn.Sequential(
        torch.nn.Linear(7, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    )
    angles = wtkit.matrix_angles(wtkit.convert(model, "direct_feedback_alignment"))
    assert angles.isnull().values.tolist() == [True, True, False]


class TwoHeads(nn.Module):
    """The first head does not lead to the second, which is the last layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5))
        self.one, self.other = nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, y, first="one"):
        hidden = torch.tanh(self.body(y))
        heads = {name: getattr(self, name)(hidden) for name in (first, "one", "other")}
        return heads["one"], heads["other"]


@pytest.mark.parametrize("first", ["one", "other"])
@pytest.mark.parametrize("name", [NAME, "direct_kolen_pollack", "sparse_feedback"])
def test_a_loss_of_two_heads_is_refused(monkeypatch, name, first):
    monkeypatch.setattr("wtkit.feedback.engaged._passes", itertools.count())
    model = wtkit.convert(TwoHeads(), name)
    one, other = model(torch.randn(2, 4), first)
    with pytest.raises(wtkit.WtkitError, match="last layer"):
        (one.square().sum() + other.square().sum()).backward()
    model(torch.randn(2, 4), first)[1].square().sum().backward()


def test_two_heads_are_noticed_in_later_passes_too(monkeypatch):
    monkeypatch.setattr("wtkit.feedback.engaged._passes", itertools.count(1000))
    model = wtkit.convert(TwoHeads(), NAME)
    with pytest.raises(wtkit.WtkitError, match="as with two heads"):
        for _ in range(engaged.CHECKED_EVERY):
            sum(out.square().sum() for out in model(torch.randn(2, 4))).backward()


class PositionsFirst(nn.Module):
    """Layers around attention that takes (positions, examples, features)."""

    def __init__(self, batch_first):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=batch_first)
        self.head = nn.Linear(8, 3)

    def forward(self, y, at_each=False):
        y = self.encoder(y)
        return self.head(y if at_each else y.mean(int(self.encoder.self_attn.batch_first)))


@pytest.mark.parametrize("kept", ["encoder.self_attn", "encoder.self_attn.*"])
def test_positions_are_not_taken_for_examples(kept):
    y = torch.randn(4, 4, 8)
    model = wtkit.convert(PositionsFirst(False), NAME, keep_on_backprop=kept)
    with pytest.raises(wtkit.WtkitError, match="set batch_first=True"):
        model(y).square().sum().backward()
    model(y, at_each=True).square().sum().backward()  # each position has an e of its own
    wtkit.convert(PositionsFirst(True), NAME)(y).square().sum().backward()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1)
        ),
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.ConvTranspose1d(4, 4, 1)),
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 2, groups=2)),
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1)),
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 2)),
    ],
)
@pytest.mark.parametrize("name", [NAME, "direct_kolen_pollack", "sparse_feedback"])
def test_a_direct_B_of_a_convolution_has_no_matrix_angle(make, name):
    model = wtkit.convert(make(), name)
    assert np.isnan(wtkit.matrix_angles(model)).all()
    assert np.isnan(wtkit.matrix_angles(model, all_weights=True)).all()
    assert np.isnan(wtkit.feedback.feedback_norm_ratios(model)).all()
