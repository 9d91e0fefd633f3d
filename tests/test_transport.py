"""wtkit.transport and convert(..., strict=...): which weights δ passes."""

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from contract import array
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock

import wtkit
from wtkit import WtkitError, methods
from wtkit.__main__ import main
from wtkit.feedback import Transport

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*:FutureWarning")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def used(model, inputs, **options):
    """The parameters that are used, with the part that is."""
    report = wtkit.transport(model, inputs, quiet=True, **options)
    return {row.parameter: row.used for row in report.transported}


def mlp(*norms, method=None, **options):
    model = nn.Sequential(nn.Linear(5, 6), *norms, nn.Tanh(), nn.Linear(6, 6), nn.ReLU())
    model.append(nn.Linear(6, 3))
    return model if method is None else wtkit.convert(model, method, **options)


X = torch.linspace(-2, 1.5, 20).reshape(4, 5).sin()
LAST = {"2.weight", "4.weight"}  # of mlp(): the first layer's W has nothing below it

# ------------------------------------------------------------------------- what each method uses

USED = {
    "backprop": "value",
    "sign_symmetry": "signs and scale",
    "sign_symmetry_fixed": "signs",
    "sign_symmetry_batchwise": "signs",
    "symmetric_alignment": "copied",
}


@pytest.mark.parametrize("method", methods.names())
def test_each_method_uses_what_it_says(method):
    model = mlp(method=method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = used(model, X)
    if method == "symmetric_alignment":
        assert found == dict.fromkeys(("0.weight", *LAST), "copied")
    else:
        assert found == (dict.fromkeys(LAST, USED[method]) if method in USED else {})
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_sign_symmetry_with_a_scale_of_its_own_uses_signs_only():
    assert used(mlp(method="sign_symmetry", scale="unit"), X) == dict.fromkeys(LAST, "signs")


def test_it_agrees_with_changing_weights_and_training_anew():
    """The δ of a layer by hand: with the same activities, that of a linear network is W₂ᵀ W₃ᵀ δ."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model.append(nn.Linear(4, 2, bias=False)).double()
    x, delta = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    W2, W3 = (array(model[i].weight) for i in (1, 2))
    model(x).backward(delta)
    expected = (array(delta) @ W3 @ W2).T @ array(x)
    assert abs(array(model[0].weight.grad) - expected).max() < 1e-12
    rows = {row.parameter: row for row in wtkit.transport(model, x).rows}
    # W₃ enters the gradients of W₁ and W₂, W₂ that of W₁, and W₁ none
    assert [rows[f"{i}.weight"].reaches for i in range(3)] == [0, 1, 2]
    assert rows["2.weight"].below == "1.weight"


# ----------------------------------------------------------- what else δ passes, on plain networks


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.full((6,), 0.5))
        self.shift = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return x * self.factor + self.shift


class Borrows(nn.Module):
    """Reads a layer's weight without calling the layer."""

    def __init__(self):
        super().__init__()
        self.below, self.above = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        return F.linear(self.below(x), self.above.weight)


class Hides(torch.autograd.Function):
    """Keeps its weight where autograd does not see it."""

    @staticmethod
    def forward(ctx, x, W):
        ctx.W, ctx.x = W, x
        return x @ W

    @staticmethod
    def backward(ctx, delta):
        return delta @ ctx.W.T, ctx.x.T @ delta


class Hiding(nn.Module):
    def __init__(self):
        super().__init__()
        self.below, self.W = nn.Linear(5, 6), nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        return Hides.apply(self.below(x), self.W)


class Casts(nn.Module):
    """Works in bfloat16 by its own autocast."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


class Tokens(nn.Module):
    """A table of tokens and one of positions, then an output that is tied to the first."""

    def __init__(self):
        super().__init__()
        self.table, self.place = nn.Embedding(7, 6), nn.Parameter(torch.randn(4, 6))
        self.mix, self.out = nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens):
        return {"logits": self.out(self.mix(self.table(tokens) + self.place).tanh())}


class Twice(nn.Module):
    """Calls one layer twice, with nothing below it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


def pruned():
    model = mlp()
    prune.l1_unstructured(model[2], "weight", 0.3)
    return model


def normed(wrap):
    model = mlp()
    wrap(model[2])
    return model


class Zeros(nn.LayerNorm):
    """The end of a residual branch as it starts."""

    def __init__(self):
        super().__init__(6)
        nn.init.zeros_(self.weight)

    def forward(self, x):
        return x + super().forward(x)


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.below, self.attend = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        x = self.below(x)
        return self.out(self.attend(x, x, x)[0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.out = nn.RNN(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.net(x)[0][:, -1])


TOKENS = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 0], [1, 1, 3, 5]])
PLAIN = {
    "linear": (mlp, X, {**dict.fromkeys(LAST, "value")}),
    "dropout": (lambda: mlp(nn.Dropout()), X, {"3.weight": "value", "5.weight": "value"}),
    "in_place": (
        lambda: mlp(nn.ReLU(inplace=True)), X, {"3.weight": "value", "5.weight": "value"}
    ),
    "batchnorm": (
        lambda: mlp(nn.BatchNorm1d(6)),
        X, {"1.weight": "value", "3.weight": "value", "5.weight": "value"},
    ),
    "zero_scale": (
        lambda: mlp(nn.BatchNorm1d(6), Zeros()),
        X, {"1.weight": "value", "2.weight": "value", "4.weight": "value", "6.weight": "value"},
    ),
    "prelu": (
        lambda: mlp(nn.PReLU()), X, {"1.weight": "value", "3.weight": "value", "5.weight": "value"}
    ),
    "scaled": (
        lambda: mlp(Scaled()), X, {"1.factor": "value", "3.weight": "value", "5.weight": "value"}
    ),
    "borrowed": (Borrows, X, {"above.weight": "value"}),
    "hidden": (Hiding, X, {"W": "value"}),
    "autocast": (Casts, X, dict.fromkeys(("inner.2.weight", "inner.4.weight"), "value")),
    "tied": (Tokens, TOKENS, {"table.weight": "value", "mix.weight": "value"}),
    "twice": (Twice, X, {"layer.weight": "value"}),
    "pruned": (pruned, X, {"2.weight_orig": "value", "4.weight": "value"}),
    "weight_norm": (
        lambda: normed(parametrizations.weight_norm), X,
        {
            "2.parametrizations.weight.original0": "value",
            "2.parametrizations.weight.original1": "value", "4.weight": "value",
        },
    ),
    "spectral_norm": (
        lambda: normed(parametrizations.spectral_norm), X,
        {"2.parametrizations.weight.original": "value", "4.weight": "value"},
    ),
    "attention": (
        Attends, torch.randn(2, 3, 4),
        dict.fromkeys(("attend.in_proj_weight", "attend.out_proj.weight", "out.weight"), "value"),
    ),
    "recurrent": (
        Recurrent, torch.randn(2, 3, 4),
        dict.fromkeys(("net.weight_hh_l0", "out.weight"), "value"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "inputs", "expected"), PLAIN.values(), ids=PLAIN)
def test_plain_networks(make, inputs, expected):
    assert used(make(), inputs) == expected


@pytest.mark.slow
def test_in_evaluation_mode_and_on_a_compiled_network():
    model = mlp(nn.BatchNorm1d(6)).eval()
    expected = {"1.weight": "value", "3.weight": "value", "5.weight": "value"}
    assert used(model, X) == expected
    assert used(torch.compile(model), X) == expected
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert used(model, X) == expected
    assert not model.training and all(p.requires_grad for p in model.parameters())


def test_frozen_parts_are_used_if_delta_passes_them():
    model = mlp()
    for layer in model[2:]:
        layer.requires_grad_(False)
    assert used(model, X) == dict.fromkeys(LAST, "value")
    model.requires_grad_(False)
    model[4].requires_grad_(True)
    assert not used(model, X), "nothing learns below the last layer"


def test_batchnorms_statistics_stay():
    model = mlp(nn.BatchNorm1d(6))
    before = [buffer.clone() for buffer in model.buffers()]
    used(model, X)
    assert all(map(torch.equal, model.buffers(), before))


def test_a_network_of_parts_that_differ():
    """A layer on backprop, one with signs, and one that uses nothing, of the same class."""
    model = mlp()
    model = nn.Sequential(
        wtkit.convert(mlp()[:2], "kolen_pollack"),
        wtkit.convert(nn.Linear(6, 6), "sign_symmetry_fixed"),
        wtkit.convert(nn.Linear(6, 6), "backprop"),
        wtkit.convert(nn.Linear(6, 6), "kolen_pollack"),
        nn.Linear(6, 2),
    )
    assert used(model, X) == {"1.weight": "signs", "2.weight": "value", "4.weight": "value"}


class SignsInAttribute(torch.autograd.Function):
    """δ passes the signs of W, which are no saved tensor."""

    @staticmethod
    def forward(ctx, y, W):
        ctx.signs = W.sign()
        ctx.save_for_backward(y)
        return y @ W.t()

    @staticmethod
    def backward(ctx, delta):
        return delta @ ctx.signs, delta.t() @ ctx.saved_tensors[0]


LEAVING = {
    "number": (lambda y, W: y * W.mean().item(), "value"),
    "slope": (lambda y, W: F.leaky_relu(y, W.detach().abs().mean().item()), "value"),
    "threshold": (lambda y, W: y * (y > W.mean().item()), "no"),
    "list": (lambda y, W: y @ torch.tensor(W.tolist()), "value"),
    "array": (lambda y, W: y @ torch.from_numpy(W.detach().numpy().copy()), "value"),
    "attribute": (SignsInAttribute.apply, "signs"),
}


class Leaving(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.below, self.above, self.act = nn.Linear(5, 4), nn.Linear(4, 2), act
        self.W = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return self.above(self.act(self.below(x).tanh(), self.W))


@pytest.mark.parametrize(("act", "expected"), LEAVING.values(), ids=LEAVING)
def test_values_that_leave_torch_or_the_saved_tensors_are_seen(act, expected):
    model = wtkit.convert(Leaving(act), "feedback_alignment", keep_on_backprop="W", seed=0)
    assert used(model, X).get("W", "no") == expected


def test_outputs_may_be_an_object_of_the_models_own():
    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor

    class Wraps(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return Output(self.inner(x))

    assert used(Wraps(), X) == {"inner.2.weight": "value", "inner.4.weight": "value"}


# ------------------------------------------------------------------------------------------ errors


class Checkpoints(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = mlp(), reentrant

    def forward(self, x):
        return checkpoint(self.inner, x.requires_grad_(), use_reentrant=self.reentrant)


class Chooses(nn.Module):
    """Takes another way for other inputs, and for other weights."""

    def __init__(self, by_weights):
        super().__init__()
        self.a, self.b, self.by_weights = mlp(), nn.Linear(5, 3), by_weights
        self.first = self.b.weight[0, 0].item()

    def forward(self, x):
        if self.by_weights:
            return self.a(x) if self.b.weight[0, 0] == self.first else self.b(x)
        return self.a(x) if x[0, 0] == X[0, 0] else self.b(x)


def test_a_model_may_take_another_way_for_other_inputs():
    assert used(Chooses(by_weights=False), X) == {"a.2.weight": "value", "a.4.weight": "value"}


def test_parameters_that_are_zero_at_first_hide_nothing():
    """Vision transformers start with an output layer of zeros, residual branches with a scale of
    zero: no δ passes them then."""
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[2].weight)
    used = [row.parameter for row in wtkit.transport(model, X).transported]
    assert used == ["1.weight", "2.weight"]
    assert not model[1].weight.any() and not model[2].weight.any()


HOLDERS = {
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), "1.self_attn.in_proj_weight"
    ),
    "LSTM": (lambda: nn.LSTM(8, 4, batch_first=True), "1.weight_hh_l0"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "held"), HOLDERS.values(), ids=HOLDERS)
def test_weights_that_another_module_holds_have_their_source(make, held):
    model, x = nn.Sequential(nn.Linear(8, 8), make()), torch.randn(3, 4, 8)
    plain = {row.parameter: row.used for row in wtkit.transport(model, x).rows}
    assert plain[held] == "value"
    wtkit.convert(model, "kolen_pollack", normalisation="learned", strict=True)
    rows = {row.parameter: row for row in wtkit.transport(model, x).rows}
    assert {row.used for row in rows.values()} == {"no"}
    assert rows[held].B_learns == "the same updates as W"


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (3, X, "expected a model"),
        (mlp(), None, "expected a batch"),
        (mlp(), 3, "expected a batch"),
        (mlp(), X.numpy(), "got a NumPy array"),
        (mlp().requires_grad_(False), X, "no parameter requires a gradient"),
        (nn.Sequential(nn.LazyLinear(5)), X, "'0.weight' has no shape before the first batch"),
        (mlp().to("meta"), X, "'0.weight' is on the meta device"),
        (Checkpoints(False), X, "activation checkpointing"),
        (Chooses(by_weights=True), X, "takes another way for other weights"),
    ],
)
def test_errors_name_the_fix(model, inputs, message):
    with pytest.raises(WtkitError, match=message):
        wtkit.transport(model, inputs)


# ------------------------------------------------------------------- activities that look like W


class OwnCell(nn.Module):
    """A gated cell that starts from zeros, with layers for W."""

    def __init__(self):
        super().__init__()
        self.drive, self.recur, self.out = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):  # (N, steps, 5)
        h = torch.zeros(len(x), 4)
        for y in x.unbind(1):
            recurrent = self.recur(h)
            h = (self.drive(y) * recurrent.sigmoid() + recurrent).tanh()
        return self.out(h)


class Positions(nn.Module):
    """Adds what a network makes of positions: of a buffer, a table, or a learned vector."""

    def __init__(self, of):
        super().__init__()
        self.of, self.table = of, nn.Embedding(4, 5)
        self.register_buffer("grid", torch.randn(4, 5))
        self.place = nn.Parameter(torch.randn(4, 1).expand(4, 5).clone()) if of == "place" else None
        self.net = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Sigmoid())
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        at = self.table(torch.arange(4)) if self.of == "table" else getattr(self, self.of)
        return self.out(x + self.net(at))


def half_dead():
    """Some units that are silent for every input, others that are not."""
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias[:4], model[2].bias[:4] = -100, -100
        model[2].bias[4:] = 3
    return model


def deep():
    return nn.Sequential(*(each for _ in range(12) for each in (nn.Linear(5, 5), nn.Sigmoid())))


ALIKE = torch.zeros(2, 3, dtype=torch.long)
HARMLESS = {
    "GRU": (lambda: nn.GRU(5, 4), torch.randn(3, 4, 5)),
    "deep_GRU": (lambda: nn.GRU(5, 4, 2, bidirectional=True), torch.randn(3, 4, 5)),
    "GRUCell": (lambda: nn.GRUCell(5, 4), X),
    "own_cell": (OwnCell, torch.randn(3, 2, 5)),
    "constant_tokens": (
        lambda: nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)),
        ALIKE,
    ),
    "constant_rows": (mlp, torch.ones(4, 5)),
    "deep_sigmoids": (deep, X),
    "dead_units": (half_dead, X),
    **{of: (lambda of=of: Positions(of), X) for of in ("grid", "table", "place")},
}


@pytest.mark.parametrize("network", HARMLESS)
def test_an_activity_that_no_input_changes_is_none_the_less_an_activity(network):
    make, inputs = HARMLESS[network]
    keep = ["place"] if network == "place" else []
    options = {"normalisation": "learned", "keep_on_backprop": keep}
    model = wtkit.convert(make(), "kolen_pollack", strict=inputs, **options)
    assert not used(model, inputs)
    # in its only step no δ passes the recurrent weights of a cell
    assert bool(used(make(), inputs)) == (network != "GRUCell")


@pytest.mark.slow
def test_the_position_networks_of_a_swin_transformer_are_harmless():
    from torchvision.models import swin_transformer as swin

    model = swin.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5,
        block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2,
    )  # fmt: skip
    wtkit.convert(model, "kolen_pollack", normalisation="learned")
    found = used(model, torch.randn(2, 3, 32, 32))
    # a temperature, which is learned and multiplies the scores
    assert set(found) == {f"features.{i}.0.attn.logit_scale" for i in (1, 3)}


def test_within_a_network_that_no_input_enters_weights_are_transported():
    assert used(Positions("grid"), X) == dict.fromkeys(("net.2.weight", "out.weight"), "value")
    assert used(Positions("table"), X) == dict.fromkeys(
        ("net.0.weight", "net.2.weight", "out.weight"), "value"
    )
    assert used(Positions("place"), X) == used(Positions("table"), X)


class MakesWeights(nn.Module):
    """Multiplies by what a layer makes of a learned vector."""

    def __init__(self):
        super().__init__()
        self.below, self.vector = nn.Linear(5, 5), nn.Parameter(torch.randn(1, 3).expand(1, 3))
        self.maker = nn.Linear(3, 25)

    def forward(self, x):
        return F.linear(self.below(x), self.maker(self.vector).view(5, 5))


class Adapted(nn.Module):
    """W and a product of low rank."""

    def __init__(self, *below):
        super().__init__()
        self.below = nn.Sequential(*below)
        sizes = {"W": (5, 5), "up": (5, 2), "down": (2, 5)}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(size)))

    def forward(self, x):
        return F.linear(self.below(x), self.W + self.up @ self.down)


class MakesKernels(nn.Module):
    """A convolution whose kernel is made of positions, which the pass makes, or a buffer holds."""

    def __init__(self, at):
        super().__init__()
        self.below, self.maker = nn.Conv1d(5, 4, 1), nn.Sequential(nn.Linear(1, 8), nn.Tanh())
        self.maker.append(nn.Linear(8, 16))
        self.register_buffer("at", at)

    def forward(self, x):
        at = torch.linspace(-1, 1, 3)[:, None] if self.at is None else self.at
        return F.conv1d(self.below(x), self.maker(at).T.reshape(4, 4, 3), padding=1)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.below, self.W = nn.Linear(5, 5), nn.Parameter(torch.randn(5, 5))

    def forward(self, x):
        return torch.sparse.mm(self.W.to_sparse(), self.below(x).T).T


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.below, self.W = nn.Linear(5, 5), nn.Parameter(torch.randn(3, dtype=torch.cfloat))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(self.below(x)) * self.W, n=5)


class Masked(nn.Module):
    """Makes its mask of what it makes of x, but of no value of x."""

    def __init__(self):
        super().__init__()
        self.below, self.W = nn.Linear(5, 5), nn.Parameter(torch.randn(5, 5))

    def forward(self, x):
        mask = torch.ones_like(x[:, :, None] * x[:, None])[0].tril() + x.new_zeros(5, 5)
        return F.linear(self.below(x), self.W * mask)


def test_what_is_made_of_weights_is_a_weight():
    names = ("vector", "maker.weight", "maker.bias")
    assert used(MakesWeights(), X) == dict.fromkeys(names, "value")
    for make in (Masked, Sparse, Spectral):
        assert used(make(), X) == {"W": "value"}
    made = [f"maker.{i}.{own}" for i in (0, 2) for own in ("weight", "bias")]
    for at in (None, torch.randn(3, 1)):
        model = wtkit.convert(MakesKernels(at), "kolen_pollack")
        assert used(model, torch.randn(2, 5, 6)) == dict.fromkeys(made, "value")
    assert used(Adapted(nn.Linear(5, 5)), X) == dict.fromkeys(("W", "up", "down"), "value")
    assert not used(Adapted(), X), "what they learn from each other is no transport"


@pytest.mark.parametrize(
    "wrap",
    [nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.weight_norm,
     parametrizations.spectral_norm, parametrizations.orthogonal],
)  # fmt: skip
def test_what_a_first_weight_is_computed_of_has_nothing_below_it(wrap):
    model = mlp()
    wrap(model[0])
    assert used(model, X) == dict.fromkeys(LAST, "value")


class UsedTwice(nn.Module):
    """One bare parameter, with nothing else that learns."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(5, 5))

    def forward(self, x):
        return F.linear(F.linear(x, self.W).tanh(), self.W)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_weight_that_only_its_own_delta_passes(kind):
    assert used(UsedTwice(), X) == {"W": "value"}
    model, x = kind(5, 4, bias=False), torch.randn(3, 2, 5)
    model.weight_ih_l0.requires_grad_(False)
    assert used(model, x) == {"weight_hh_l0": "value"}
    assert used(wtkit.convert(model, "backprop"), x) == {"weight_hh_l0": "value"}
    assert not used(wtkit.convert(model, "kolen_pollack"), x)


# ---------------------------------------------------------------------------- all kinds of batches

PACKED = nn.utils.rnn.pack_sequence([torch.randn(3, 5), torch.randn(2, 5)])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_packed_sequence_is_a_batch(kind):
    assert used(kind(5, 4), PACKED) == {"weight_hh_l0": "value"}
    with pytest.raises(WtkitError, match=r"weight_hh_l0 \(its value\)"):
        wtkit.convert(kind(5, 4), "backprop", strict=PACKED)
    assert not used(wtkit.convert(kind(5, 4), "kolen_pollack", strict=PACKED), PACKED)


@pytest.mark.parametrize("named", [False, True])
def test_inputs_that_are_one_object_stay_one(named):
    x = torch.randn(2, 3, 8)
    inputs = {"query": x, "key": x, "value": x} if named else (x, x, x)
    make = lambda: nn.MultiheadAttention(8, 2, batch_first=True)  # noqa: E731
    assert used(make(), inputs) == {"out_proj.weight": "value"}
    assert not used(wtkit.convert(make(), "kolen_pollack", strict=inputs), inputs)


@dataclasses.dataclass
class Batch:
    x: torch.Tensor


class TakesBatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, batch):
        return self.inner(batch.x)


def test_an_object_of_the_models_own_is_a_batch():
    model = wtkit.convert(TakesBatches(), "kolen_pollack", strict=Batch(X))
    assert not used(model, Batch(X))


def maps(**options):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, **options), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


def without_bias():
    return nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 2, bias=False))


def dead():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    nn.init.constant_(model[0].bias, -100)
    return model


ZEROS = torch.zeros(2, 1, 6, 6)
SHOW_NOTHING = {
    "zeros": (lambda: maps(bias=False), ZEROS, "the gradients of 0.weight are zero"),
    # the gradient of this bias is rounding alone
    "rounding": (maps, ZEROS, "the gradients of 0.weight, 0.bias are zero"),
    "no_bias": (without_bias, torch.zeros(4, 5), r"the gradients of \*.weight are zero"),
    "dead": (dead, X, "the gradients of 0.weight, 0.bias are zero"),
    "empty": (lambda: mlp(nn.LayerNorm(6)), X[:0], "the batch is empty"),
    "empty_maps": (lambda: maps().eval(), ZEROS[:0], "the batch is empty"),
    "nan": (mlp, X * float("nan"), "gradients are not finite"),
    "infinite": (mlp, X / 0, "gradients are not finite"),
}


@pytest.mark.parametrize("method", ["backprop", "kolen_pollack"])
@pytest.mark.parametrize("name", SHOW_NOTHING)
def test_a_batch_that_shows_nothing_is_refused(name, method):
    make, batch, message = SHOW_NOTHING[name]
    with pytest.raises(WtkitError, match=rf"^strict: .*{message}"):
        wtkit.convert(make(), method, strict=batch)
    with pytest.raises(WtkitError, match=rf"^inputs: .*{message}"):
        wtkit.transport(wtkit.convert(make(), method), batch)


def test_what_never_learns_may_be_frozen():
    model = dead()
    model[0].requires_grad_(False)
    wtkit.convert(model, "kolen_pollack", strict=X)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *((given, "convert: expected strict to be True, False, or a batch")
          for given in ([], (), {}, set(), object(), ["words"], (None, 3))),
        (torch.randn(4, 9), r"strict: the model failed with this batch \(RuntimeError: "),
        (torch.zeros(4, 5).long(), r"strict: the model failed with this batch \(RuntimeError: "),
        ((X, X), r"strict: the model failed with this batch \(TypeError: "),
        ({"y": X}, r"strict: the model failed with this batch \(TypeError: "),
        (X.numpy(), "got a NumPy array; give it torch.as_tensor"),
        ([X.numpy()], "expected strict to be|got a NumPy array; give it torch.as_tensor"),
    ],
)  # fmt: skip
def test_what_is_no_batch_of_the_model_is_a_sentence(given, message):
    model = mlp()
    with pytest.raises(WtkitError, match=message) as error:
        wtkit.convert(model, "kolen_pollack", strict=given)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)
    assert type(model[0]) is nn.Linear, "nothing has changed"


# -------------------------------------------------------------------------------------- the report


def test_the_report_is_a_table():
    model = mlp(nn.BatchNorm1d(6), method="sign_symmetry")
    report = wtkit.transport(model, X)
    assert isinstance(report, Transport)
    frame = report.to_frame()
    assert list(frame.parameter) == [name for name, _ in model.named_parameters()]
    row = frame.set_index("parameter").loc["1.weight"]
    assert (row.used, row.through) == ("value", "BatchNorm1d scales δ by its weight")
    # a bias before BatchNorm has no gradient but rounding
    assert (row.below, row.reaches) == ("0.weight", 1)
    text = repr(report)
    assert text.startswith("3 of 8 parameters are used by the feedback path.")
    assert "FeedbackLinear sends δ through the signs and scale of its weight" in text
    assert "B is computed from W" in text and "<table>" in report._repr_html_()


def test_B_is_not_listed_and_what_it_learns_by_is():
    model = mlp(nn.LayerNorm(6), method="kolen_pollack", normalisation="learned")
    report = wtkit.transport(model, X)
    assert not any("feedback" in row.parameter for row in report.rows)
    assert {row.B_learns for row in report.rows} == {"", "the same updates as W"}
    assert repr(report).startswith("None of 8 parameters is used by the feedback path.")


# ------------------------------------------------------------------------------------------ strict

STRICT = {
    "linear": (mlp, X),
    "batchnorm": (lambda: mlp(nn.BatchNorm1d(6)), X),
    "layernorm": (lambda: mlp(nn.LayerNorm(6)), X),
    "prelu": (lambda: mlp(nn.PReLU()), X),
    "scaled": (lambda: mlp(Scaled()), X),
    "tokens": (
        lambda: nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.RMSNorm(6), nn.Linear(6, 7)),
        TOKENS,
    ),
    "block": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), BasicBlock(4, 4), nn.Flatten(), nn.Linear(64, 3)
        ),
        torch.randn(2, 3, 6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("choice", ["exact", "learned", "none"])
@pytest.mark.parametrize(
    "method", ["backprop", "kolen_pollack", "sign_symmetry", "direct_feedback_alignment",
               "symmetric_alignment"]
)  # fmt: skip
@pytest.mark.parametrize("network", STRICT)
def test_strict_and_transport_have_the_same_verdict(network, method, choice):
    make, inputs = STRICT[network]
    model = wtkit.convert(make(), method, normalisation=choice)
    is_transported = bool(wtkit.transport(model, inputs).transported)
    for strict in (True, inputs):
        plain = make()
        before = [type(module) for module in plain.modules()]
        if is_transported:
            with pytest.raises(WtkitError, match=r"^strict: \d+ parameters would be transported: "):
                wtkit.convert(plain, method, normalisation=choice, strict=strict)
            assert [type(module) for module in plain.modules()] == before, "nothing has changed"
        else:
            wtkit.convert(plain, method, normalisation=choice, strict=strict)
            assert [type(module) for module in plain.modules()] != before


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (lambda: mlp(nn.LayerNorm(6)), {}, r"1\.weight \(its value\): normalisation='learned'"),
        (lambda: mlp(nn.PReLU()), {}, r"1\.weight \(its value\): take nn.LeakyReLU"),
        (mlp, {"keep_on_backprop": "2"}, r"2\.weight \(its value\): take it out of keep_on_b"),
        (mlp, {"method": "sign_symmetry"}, "take a method that uses no weight"),
    ],
)
def test_strict_names_each_and_the_way_out(make, options, expected):
    method = options.pop("method", "kolen_pollack")
    for strict in (True, X):
        with pytest.raises(WtkitError, match=expected):
            wtkit.convert(make(), method, strict=strict, **options)


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift, self.inner = nn.Parameter(torch.randn(5)), mlp()

    def forward(self, x):
        return self.inner(x + self.shift)


class Reads(nn.Module):
    """Reads a weight that another module holds for its part."""

    def __init__(self):
        super().__init__()
        self.below, self.cell = nn.Linear(5, 6), nn.RNNCell(6, 6)

    def forward(self, x):
        return F.linear(self.below(x), self.cell.weight_hh)


@pytest.mark.parametrize(
    ("make", "strict", "expected"),
    [
        (lambda: mlp(Scaled()), True, "Scaled is not known; strict=<a batch> measures"),
        (lambda: mlp(Scaled()), X, r"1\.factor \(its value\): δ passes it in Scaled, .*in a layer"),
        (Borrows, X, r"above\.weight \(its value\): .* by calling the layer, not"),
        (Reads, X, r"cell\.weight_hh \(its value\): .* by calling the layer, not"),
    ],
)
def test_the_way_out_is_one_that_helps(make, strict, expected):
    """With a batch given, none is advised; with a method that uses no weight, no other method."""
    with pytest.raises(WtkitError, match=expected) as error:
        wtkit.convert(make(), "kolen_pollack", strict=strict)
    assert "take a method" not in str(error.value)
    assert strict is True or "strict=<a batch>" not in str(error.value)


def test_a_batch_shows_what_modules_do_not():
    """That a parameter is harmless, and that a layer's weight is read without calling it."""
    with pytest.raises(WtkitError, match=r"shift \(its value\): Shifted is not known"):
        wtkit.convert(Shifted(), "kolen_pollack", strict=True)
    wtkit.convert(Shifted(), "kolen_pollack", strict=X)
    wtkit.convert(Borrows(), "kolen_pollack", strict=True)
    with pytest.raises(WtkitError, match=r"above\.weight \(its value\)"):
        wtkit.convert(Borrows(), "kolen_pollack", strict=X)


@pytest.mark.parametrize("given", [None, "yes", 2])
def test_strict_is_a_choice_or_a_batch(given):
    with pytest.raises(WtkitError, match="expected strict to be True, False, or a batch"):
        wtkit.convert(mlp(), "kolen_pollack", strict=given)


@pytest.mark.parametrize("method", methods.names())
def test_a_converted_network_may_be_asked_again(method):
    model = mlp(nn.BatchNorm1d(6), method=method)
    other = copy.deepcopy(model)
    wtkit.convert(model, "kolen_pollack", normalisation="learned", strict=X, seed=0)
    wtkit.convert(other, "kolen_pollack", normalisation="learned", seed=0)
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


# ------------------------------------------------------------------- the command line and the page


@pytest.mark.slow
def test_the_command_prints_the_report_of_a_runs_network(capsys):
    words = ["transport", "--method", "kolen_pollack", "--network", "resnet20", "--image-size", "8"]
    words += ["--network-option", "width=2"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("19 of 59 parameters are used by the feedback path.")
    assert main([*words, "--normalisation", "learned"]) == 0
    assert capsys.readouterr().out.startswith("None of 59 parameters is used by the feedback path.")
    assert main([*words, "--normalisation", "lerned"]) == 1
    assert "setting 'normalisation'" in capsys.readouterr().err


def test_the_blocks_of_the_page_run_in_order(capsys):
    page = Path(__file__).parent.parent / "docs/transport.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    exec("\n".join(blocks), {})
    assert "of 6 parameters are used by the feedback path" in capsys.readouterr().out
