"""Recurrent networks: δ goes back through time through B, and all else is torch's."""

import copy
import itertools

import held
import numpy as np
import pytest
import torch
from held import Case, sent
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import wtkit
from wtkit.feedback import FeedbackLayer, fed_layers, feedback_layers

IN, UNITS, N, L = 4, 3, 3, 5
X = torch.randn(L, N, IN, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
H = torch.randn(4, N, UNITS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LENGTHS = [2, 5, 4]


# ------------------------------------------------------------------------------------ the equations


def cell(kind, W, B, y, state, at=""):
    """One step for one example or several: the new state. ``at`` ends the names of the weights."""

    def product(name, y):
        weight = f"weight_{name}{at}"
        return sent(y, W[weight], B[weight], W.get(f"bias_{name}{at}"))

    h, *c = state
    x, r = product("ih", y), product("hh", h)
    if kind == "LSTM":
        i, f, g, o = (x + r).chunk(4, -1)
        cells = torch.sigmoid(f) * c[0] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(cells)
        return (product("hr", h) if f"weight_hr{at}" in W else h), cells
    if kind == "GRU":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), r.chunk(3, -1)
        new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        z = torch.sigmoid(x_z + h_z)
        return ((1 - z) * new + z * h,)
    return (F.relu(x + r) if kind == "ReLU" else torch.tanh(x + r),)


def network(kind, W, B, inputs, layers=1, directions=1, lengths=(L,) * N):
    """All outputs, the end of each sequence cut off, and the last states, one example at a time."""
    y, *starts = inputs
    results, ends = [], []
    for n, length in enumerate(lengths):
        seen, index = y[:length, n], 0
        for layer in range(layers):
            outs = []
            for at in [f"_l{layer}", f"_l{layer}_reverse"][:directions]:
                state = tuple(start[index, n] for start in starts)
                steps = list(seen) if "reverse" not in at else list(seen)[::-1]
                states = []
                for value in steps:
                    state = cell(kind, W, B, value, state, at)
                    states.append(state[0])
                outs.append(torch.stack(states if "reverse" not in at else states[::-1]))
                ends += [each.flatten() for each in state]
                index += 1
            seen = torch.cat(outs, -1)
        results.append(seen.flatten())
    return torch.cat(results + ends)


def flat(module, result, lengths=(L,) * N, layers=1):
    """The same from what torch's modules return."""
    out, states = result
    states = states if isinstance(states, tuple) else (states,)
    if isinstance(out, PackedSequence):
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    else:
        out = out if getattr(module, "batch_first", False) else out.transpose(0, 1)
    outs = [out[n, :length].flatten() for n, length in enumerate(lengths)]
    order = itertools.product(range(len(lengths)), range(len(states[0])), states)
    ends = [each[i, n] for n, i, each in order]
    return torch.cat([*outs, *ends])


def starts(count, sizes):
    return [H[:count, :, :size].clone() for size in sizes]


# -------------------------------------------------------------------------------------------- cases


def names(*suffixes, projected=False):
    products = ["ih", "hh", *(["hr"] if projected else [])]
    return {f"{each}{at}": f"weight_{each}{at}" for at in suffixes for each in products}


def of_cell(kind, make):
    count = 2 if kind == "LSTM" else 1

    def call(module, inputs):
        y, *state = inputs
        out = module(y, tuple(state) if kind == "LSTM" else state[0])
        return torch.cat(out if kind == "LSTM" else (out,), -1)

    return Case(
        make,
        lambda: (X[0].clone(), *[H[i].clone() for i in range(count)]),
        call,
        lambda W, B, x: torch.cat(cell(kind, W, B, x[0], x[1:]), -1),
        names(""),
    )


def of_network(kind, make, layers=1, directions=1, sizes=(UNITS,), lengths=None, projected=False):
    def inputs():
        return (X.clone(), *starts(layers * directions, sizes))

    def call(module, inputs):
        y, *state = inputs
        if lengths is not None:
            y = pack_padded_sequence(y, lengths, enforce_sorted=False)
        elif getattr(module, "batch_first", False):
            y = y.transpose(0, 1)
        out = module(y, tuple(state) if kind == "LSTM" else state[0])
        return flat(module, out, lengths or (L,) * N)

    suffixes = [f"_l{i}{way}" for i in range(layers) for way in ["", "_reverse"][:directions]]
    return Case(
        make,
        inputs,
        call,
        lambda W, B, x: network(kind, W, B, x, layers, directions, lengths or (L,) * N),
        names(*suffixes, projected=projected),
    )


CASES = {
    "RNNCell": of_cell("tanh", lambda: nn.RNNCell(IN, UNITS)),
    "RNNCell, ReLU": of_cell("ReLU", lambda: nn.RNNCell(IN, UNITS, nonlinearity="relu")),
    "LSTMCell": of_cell("LSTM", lambda: nn.LSTMCell(IN, UNITS, bias=False)),
    "GRUCell": of_cell("GRU", lambda: nn.GRUCell(IN, UNITS)),
    "RNN": of_network("ReLU", lambda: nn.RNN(IN, UNITS, 2, nonlinearity="relu"), layers=2),
    "LSTM": of_network(
        "LSTM", lambda: nn.LSTM(IN, UNITS, 2, batch_first=True), layers=2, sizes=(UNITS, UNITS)
    ),
    "LSTM, projected": of_network(
        "LSTM", lambda: nn.LSTM(IN, UNITS, proj_size=2, bidirectional=True), directions=2,
        sizes=(2, UNITS), projected=True,
    ),
    "GRU, packed": of_network(
        "GRU", lambda: nn.GRU(IN, UNITS, 2, bidirectional=True, bias=False), 2, 2,
        lengths=LENGTHS,
    ),
    "RNN, packed": of_network("tanh", lambda: nn.RNN(IN, UNITS), lengths=LENGTHS),
}  # fmt: skip
SMALL = ["RNNCell", "LSTMCell", "GRUCell", "LSTM", "GRU, packed"]


@pytest.mark.parametrize("method", held.LOCAL)
@pytest.mark.parametrize("name", CASES)
def test_gradients_have_B_in_the_place_of_W(name, method):
    held.gradients_have_B_in_the_place_of_W(CASES[name], method)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("check", held.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
def test_held_weights(name, check):
    check(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("method", held.LEARN_FROM_NOISE)
def test_mirrors_learn_W(method):
    held.mirrors_learn_W(CASES["LSTM, projected"], method)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_compiled_cells_equal_eager_ones(name):
    held.compiled_equals_eager(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_compiled_networks_equal_eager_ones(kind):
    """With a break around the module, as plain torch has it; in one graph if ``allow_rnn`` says
    so."""
    module = wtkit.convert(kind(IN, UNITS), "kolen_pollack", seed=0)
    found = []
    for fullgraph in (None, True, False):
        torch.compiler.reset()
        module.zero_grad()
        with torch._dynamo.config.patch(allow_rnn=bool(fullgraph)):
            each = torch.compile(module, fullgraph=bool(fullgraph), backend="aot_eager")
            (module if fullgraph is None else each)(X.float())[0].square().sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters()})
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


# --------------------------------------------------------------------------- all of torch's options

SETTINGS = [
    (kind, {"num_layers": layers, "bidirectional": both, "batch_first": first} | more)
    for kind, more in (
        (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu", "bias": False}),
        (nn.LSTM, {}), (nn.LSTM, {"proj_size": 2}), (nn.GRU, {}),
    )
    for layers, both, first in (
        (1, False, False), (2, True, False), (3, False, True), (1, True, True)
    )
]  # fmt: skip


def twins(kind, settings):
    torch.manual_seed(0)
    plain = kind(IN, UNITS, **settings).double()
    module = wtkit.convert(kind(IN, UNITS, **settings).double(), "backprop")
    module.load_state_dict(plain.state_dict())
    return plain, module


def states(module, count=N):
    """Initial states for ``count`` examples, or for one without a batch."""
    layers = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or module.hidden_size, module.hidden_size]
    torch.manual_seed(1)
    shape = () if count is None else (count,)
    found = [torch.randn(layers, *shape, size, dtype=torch.float64) for size in sizes]
    return tuple(found) if isinstance(module, nn.LSTM) else found[0]


def sequences(module, kind):
    if kind == "packed":
        return pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
    if kind == "sorted":
        return pack_sequence([X[:length, 0] for length in (5, 3, 3)])
    if kind == "unbatched":
        return X[:, 0]
    return X.transpose(0, 1) if module.batch_first else X


@pytest.mark.parametrize("with_states", [True, False])
@pytest.mark.parametrize("given", ["batch", "packed", "sorted", "unbatched"])
@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=str)
def test_results_are_torchs(kind, settings, given, with_states):
    results = []
    for module in twins(kind, settings):
        hx = states(module, None if given == "unbatched" else N) if with_states else None
        out, ends = module(sequences(module, given), hx)
        if isinstance(out, PackedSequence):
            assert torch.equal(out.batch_sizes, sequences(module, given).batch_sizes)
            data, order = out.data, (out.sorted_indices, out.unsorted_indices)
        else:
            data, order = out, None
        gradients = torch.autograd.grad(
            held.loss(data) + held.loss(torch.cat([ends] if torch.is_tensor(ends) else ends, -1)),
            list(module.parameters()),
        )
        with torch.no_grad():
            fused = module(sequences(module, given), hx)[0]
        torch.testing.assert_close(fused.data, data, rtol=1e-10, atol=1e-12)
        results.append((data, order, ends, gradients))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("given", ["batch", "packed"])
def test_dropout_between_layers(given):
    """Of a batch torch's own draws; of a packed sequence others, of the same rate."""
    outs = []
    for module in twins(nn.GRU, {"num_layers": 2, "dropout": 0.5}):
        torch.manual_seed(0)
        outs.append(module(sequences(module, given))[0])
        assert not torch.equal(outs[-1].data, module(sequences(module, given))[0].data)
        module.eval()
        assert torch.equal(*(module(sequences(module, given))[0].data for _ in range(2)))
    if given == "batch":
        torch.testing.assert_close(*outs)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cells_take_one_example_and_no_state(kind):
    plain, module = twins(kind, {})
    torch.testing.assert_close(module(X[0]), plain(X[0]))
    torch.testing.assert_close(module(X[0, 0]), plain(X[0, 0]))
    state = (H[0, 0], H[1, 0]) if kind is nn.LSTMCell else H[0, 0]
    torch.testing.assert_close(module(X[0, 0], state), plain(X[0, 0], state))


WRONG = [
    (nn.LSTM, (X[..., :2],)), (nn.LSTM, (X, (H[:1, :2], H[:1]))), (nn.LSTM, (X, (H[:2], H[:2]))),
    (nn.GRU, (X[0, 0],)), (nn.GRU, (X, H[:1, 0])), (nn.GRU, (X[:, 0], H[:1])),
    (nn.LSTM, (X[:0],)), (nn.RNN, (X.float(),)), (nn.RNN, (X, H[:1, :, :2])), (nn.RNN, (X[None],)),
    (nn.LSTMCell, (X[0], (H[0, :2], H[0]))), (nn.GRUCell, (X,)), (nn.RNNCell, (X[0, :, :2],)),
    (nn.RNNCell, (X[0], H[0, :2])), (nn.GRUCell, (X[0].float(),)),
    (nn.GRU, (pack_padded_sequence(X[..., :2], [5, 4, 2]),)),
    (nn.GRU, (pack_padded_sequence(X, [5, 4, 2]), H[:1, :2])),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "inputs"), WRONG)
def test_what_torch_refuses_is_refused_alike(kind, inputs):
    plain, module = twins(kind, {})
    with pytest.raises(Exception) as expected:
        plain(*inputs)
    with pytest.raises(type(expected.value)):
        module(*inputs)


# --------------------------------------------------------------------------- in a network of layers


class Tagger(nn.Module):
    """A class for each step, from an embedding through recurrence."""

    def __init__(self, kind=nn.LSTM, **settings):
        super().__init__()
        self.embedding = nn.Embedding(7, IN)
        self.memory = kind(IN, UNITS, batch_first=True, **settings)
        self.head = nn.Linear(UNITS * (2 if settings.get("bidirectional") else 1), 7)

    def forward(self, tokens):
        return self.head(self.memory(self.embedding(tokens))[0]).transpose(1, 2)


TOKENS = torch.randint(7, (N, L), generator=torch.Generator().manual_seed(0))
TARGETS = TOKENS.roll(1, 1)


def tagger(method, kind=nn.LSTM, seed=0, **settings):
    torch.manual_seed(seed)
    return wtkit.convert(Tagger(kind, **settings), method, seed=0)


@pytest.mark.parametrize("method", held.LOCAL)
def test_a_plain_loop_lowers_the_loss(method):
    model = tagger(method)
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        if method == "product_feedback_alignment"  # which takes no other
        else torch.optim.AdamW(model.parameters(), lr=0.02)
    )
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(TOKENS), TARGETS))
        losses[-1].backward()
        optimizer.step()
        if method in held.LEARN_FROM_NOISE:
            wtkit.mirror(model)
    assert losses[-1] < (0.95 if method == "frozen" else 0.8) * losses[0]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("method", ["direct_feedback_alignment", "direct_kolen_pollack"])
def test_direct_feedback_has_no_step_to_come_from(kind, method):
    with pytest.raises(wtkit.WtkitError, match="unclear which step's δ of the output") as error:
        tagger(method, kind)
    assert "keep_on_backprop=['memory']" in str(error.value)
    model = wtkit.convert(Tagger(kind), method, keep_on_backprop="memory")
    assert list(feedback_layers(model)) == ["head"]
    with pytest.raises(wtkit.WtkitError, match=r"the model itself \(LSTM\) is called"):
        wtkit.convert(nn.LSTM(2, 2), method)


def test_delta_angles_read_all_steps_as_one_vector():
    """By example, against the gradients of each step's products."""
    model = tagger("feedback_alignment", nn.RNN)
    angles = wtkit.delta_angles(model, TOKENS, TARGETS)
    assert list(angles.layer.values) == ["memory.ih_l0", "memory.hh_l0", "head"]
    assert float(angles.sel(layer="head")) == 0

    memory, found = model.memory, []
    for B in (model.memory.hh_l0.feedback, memory.weight_hh_l0.detach()):
        head_B = model.head.feedback if B is memory.hh_l0.feedback else model.head.weight.detach()
        x, h, drives = model.embedding(TOKENS), torch.zeros(N, UNITS), []
        outs = []
        for t in range(L):
            drive = x[:, t] @ memory.weight_ih_l0.T + memory.bias_ih_l0
            drive = drive + sent(h, memory.weight_hh_l0, B, memory.bias_hh_l0)
            drive.retain_grad()
            drives.append(drive)
            h = drive.tanh()
            outs.append(h)
        logits = sent(torch.stack(outs, 1), model.head.weight, head_B, model.head.bias)
        F.cross_entropy(logits.transpose(1, 2), TARGETS).backward()
        found.append(torch.stack([drive.grad for drive in drives], 1).flatten(1).double().numpy())
    cosine = (found[0] * found[1]).sum(1) / np.prod([np.linalg.norm(x, axis=1) for x in found], 0)
    expected = np.degrees(np.arccos(cosine)).mean()
    for layer in ("memory.ih_l0", "memory.hh_l0"):
        assert abs(float(angles.sel(layer=layer)) - expected) < 1e-3


@pytest.mark.parametrize("batch_first", [True, False])
def test_examples_are_those_of_the_batch(batch_first):
    """Steps first or examples first: the angles are the same."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = nn.LSTM(IN, UNITS, 2, batch_first=batch_first, bidirectional=True)
            self.head = nn.Linear(2 * UNITS, 2)

        def forward(self, x):
            out = self.memory(x if batch_first else x.transpose(0, 1))[0]
            return self.head(out[:, 0] if batch_first else out[0])

    torch.manual_seed(0)
    model = wtkit.convert(Net(), "feedback_alignment", seed=0)
    x = X.float().transpose(0, 1)
    angles = wtkit.delta_angles(model, x, torch.tensor([0, 1, 0]))
    several = [wtkit.delta_angles(model, x[[n]], torch.tensor([n % 2])) for n in range(N)]
    np.testing.assert_allclose(angles, np.mean([each.values for each in several], 0), atol=1e-3)


def test_a_network_of_several_lengths_has_angles():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory, self.head = nn.GRU(IN, UNITS), nn.Linear(UNITS, 2)

        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
            return self.head(self.memory(packed)[1][0])

    model = wtkit.convert(Packed(), "feedback_alignment")
    angles = wtkit.delta_angles(model, (X.float(), torch.tensor(LENGTHS)), torch.tensor([0, 1, 0]))
    assert not angles.isnull().any()


def test_a_packed_sequence_is_one_input():
    model = wtkit.convert(nn.LSTM(IN, UNITS), "feedback_alignment", seed=0).double()
    packed = pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
    angles = wtkit.delta_angles(
        model, packed, None, lambda out, _: (out[0].data ** 2).sum() + out[1][0].sum()
    )
    several = [
        wtkit.delta_angles(
            model, X[:length, [n]], None, lambda out, _: (out[0] ** 2).sum() + out[1][0].sum()
        ).values
        for n, length in enumerate(LENGTHS)
    ]
    np.testing.assert_allclose(angles, np.mean(several, 0), atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.MultiheadAttention])
def test_kolen_pollacks_own_gradient_is_that_of_its_options(kind):
    """B moves by r (P + qλ/r B): here with another rate and decay, after one step."""
    torch.manual_seed(0)
    module = kind(IN, IN) if kind is nn.LSTM else kind(IN, 2, batch_first=True)
    wtkit.convert(module, "kolen_pollack", lr_ratio=2.0, decay_ratio=0.5, seed=0)
    layers = feedback_layers(module).values()
    before = [layer.feedback.detach().clone() for layer in layers]
    x = torch.randn(3, 4, IN)
    (module(x) if kind is nn.LSTM else module(x, x, x))[0].square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.3).step()
    for layer, B in zip(layers, before, strict=True):
        expected = B - 0.1 * (2.0 * layer.weight.grad + 0.5 * 0.3 * B)
        torch.testing.assert_close(layer.feedback.detach(), expected)


def test_recurrent_layers_feed_themselves():
    model = tagger("feedback_alignment", num_layers=2)
    fed = fed_layers(model, TOKENS)
    assert fed == {
        "memory.ih_l0": ["memory.hh_l0", "memory.ih_l1"],
        "memory.hh_l0": ["memory.hh_l0", "memory.ih_l1"],
        "memory.ih_l1": ["memory.hh_l1", "head"],
        "memory.hh_l1": ["memory.hh_l1", "head"],
        "head": [],
    }


def test_the_last_layer_is_the_output():
    model = tagger("weight_mirror")
    outputs = [name for name, layer in feedback_layers(model).items() if layer.is_output]
    assert outputs == ["head"]
    model = wtkit.convert(nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)), "weight_mirror")
    outputs = [name for name, layer in feedback_layers(model).items() if layer.is_output]
    assert outputs == ["1.hh_l0"]


def test_without_gradients_the_kernel_is_torchs():
    model = tagger("kolen_pollack")
    calls = []
    model.memory.hh_l0.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(TOKENS)
    assert not calls
    model(TOKENS)
    assert len(calls) == L


def test_a_copy_of_a_part_alone_says_what_it_lacks():
    part = copy.deepcopy(tagger("kolen_pollack").memory.ih_l0)
    with pytest.raises(wtkit.WtkitError, match="'weight_ih_l0' belongs to a module that is gone"):
        part(X)


# ------------------------------------------------------------------------------------- tied weights


class Tied(nn.Module):
    """A model of the next token whose output layer is its embedding."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.embedding = nn.Embedding(7, IN)
        self.memory = kind(IN, IN, batch_first=True)
        self.norm = nn.LayerNorm(IN)
        self.decoder = nn.Linear(IN, 7)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        return self.decoder(self.norm(self.memory(self.embedding(tokens))[0])).transpose(1, 2)


def test_B_of_a_tied_layer_gets_all_of_Ws_gradient():
    torch.manual_seed(0)
    model = wtkit.convert(Tied(), "kolen_pollack", seed=0)
    decoder = model.decoder
    assert decoder.weight is model.embedding.weight
    gap = (decoder.weight - decoder.feedback).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    changed = decoder.weight.detach().clone()
    before, moved = gap, torch.zeros_like(gap)
    for _ in range(8):
        optimizer.zero_grad()
        F.cross_entropy(model(TOKENS), TARGETS).backward()
        optimizer.step()
        moved = 0.9 * moved + 0.05 * before  # what momentum makes of the decay
        before = before - 0.1 * moved
    torch.testing.assert_close((decoder.weight - decoder.feedback).detach(), before)
    assert not torch.allclose(decoder.weight, changed)
    exported = wtkit.export(model)
    assert exported.decoder.weight is exported.embedding.weight


def test_shared_parts_are_refused_for_learning_from_W():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.LSTM(3, 3), nn.LSTM(3, 3)
            self.two.weight_hh_l0 = self.one.weight_hh_l0

    with pytest.raises(wtkit.WtkitError, match=r"'one\.hh_l0' and 'two\.hh_l0' share") as error:
        wtkit.convert(Shared(), "kolen_pollack")
    assert "keep_on_backprop=['two.hh_l0']" in str(error.value)
    model = wtkit.convert(Shared(), "kolen_pollack", keep_on_backprop="two.hh_l0")
    assert "two.hh_l0" not in feedback_layers(model)
    wtkit.convert(Shared(), "feedback_alignment")


def test_a_bias_is_no_pattern_but_its_layer_is():
    for pattern in ("memory.bias_hh_l0", "*.bias_hh_l*"):
        with pytest.raises(
            wtkit.WtkitError, match=r"is a parameter of a layer.* take 'memory.hh_l"
        ):
            wtkit.convert(Tagger(), "feedback_alignment", keep_on_backprop=pattern)


def test_a_module_that_is_called_twice_sums_its_gradients():
    torch.manual_seed(0)
    model = nn.GRU(IN, IN).double()
    plain = wtkit.export(model)
    wtkit.convert(model, "feedback_alignment")
    for layer in feedback_layers(model).values():
        layer.feedback.copy_(layer.weight.detach())
    for each in (model, plain):
        each(each(X)[0])[0].square().sum().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


# -------------------------------------------------------------------------------- other ways to use


def test_weights_on_the_meta_device_get_their_B_when_they_are_loaded():
    with torch.device("meta"):
        model = wtkit.convert(Tagger(), "kolen_pollack", seed=0)
    plain = Tagger()
    model.load_state_dict(plain.state_dict(), assign=True)
    expected = tagger("kolen_pollack", seed=0)
    expected.load_state_dict(plain.state_dict())
    assert not any(value.is_meta for value in model.state_dict().values())
    F.cross_entropy(model(TOKENS), TARGETS).backward()


def test_a_weight_may_be_computed_later_unless_B_follows_it():
    for method in ("feedback_alignment", "kolen_pollack"):
        model = wtkit.convert(nn.LSTM(IN, UNITS), method)
        nn.utils.parametrizations.weight_norm(model, "weight_hh_l0")
        if method == "kolen_pollack":
            with pytest.raises(wtkit.WtkitError, match=r"hh_l0\(12, 3\) is computed from other"):
                model(X.float())
        else:
            model(X.float())[0].sum().backward()
            assert model.parametrizations.weight_hh_l0.original0.grad.any()
        with pytest.raises(wtkit.WtkitError, match=r"'weight_hh_l0' is computed from other"):
            wtkit.export(model)
        with pytest.raises(wtkit.WtkitError, match=r"'weight_hh_l0' is computed from other"):
            wtkit.convert(model, method)


def test_each_examples_gradient_by_torch_func():
    model = wtkit.convert(nn.GRU(IN, UNITS), "feedback_alignment", seed=0)
    x = X.float()
    W = {name: p.detach() for name, p in model.named_parameters()}

    def one(W, example):
        return torch.func.functional_call(model, W, (example[:, None],))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(one), (None, 1))(W, x)
    for n in range(N):
        model.zero_grad()
        model(x[:, [n]])[0].square().sum().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(found[name][n], p.grad)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_module_moves_as_a_whole(kind):
    model = wtkit.convert(kind(3, 4), "weight_mirror").double()
    assert all(value.dtype is torch.float64 for value in model.state_dict().values())
    model.half()
    assert model.hh_l0.feedback.dtype is torch.float32, "it averages over many small steps"
    model.float().requires_grad_(False)
    assert not model(torch.randn(2, 1, 3))[0].requires_grad
    assert all(isinstance(child, FeedbackLayer) for child in model.children())


def test_biases_leave_an_angle_unless_they_are_blocked():
    """The numbers of docs/methods.md."""
    angles = {False: [], True: []}
    for blocked, seed in itertools.product(angles, (0, 1)):
        torch.manual_seed(seed)
        model = wtkit.convert(nn.LSTM(3, 4), "weight_mirror", seed=0, bias_blocking=blocked)
        wtkit.mirror(model, 2000)
        angles[blocked].append(float(wtkit.matrix_angles(model).sel(layer="ih_l0")))
    assert [round(angle) for angle in angles[False]] == [22, 28] and max(angles[True]) < 1
