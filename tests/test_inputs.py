"""Inputs of a converted layer: what torch refuses, it refuses; the rest it takes or names."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

import wtkit
from wtkit import networks
from wtkit.experiments import MLP, run_config
from wtkit.feedback.sharded import whole
from wtkit.methods import method_class, names
from wtkit.networks import by_name


class Own(nn.Linear):
    def forward(self, y):
        return super().forward(y)


METHODS = names()
LAYERS = {
    "linear": lambda: nn.Linear(6, 5),
    "without_bias": lambda: nn.Linear(6, 5, bias=False),
    "conv": lambda: nn.Conv2d(2, 3, 3),
    "padded": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "strided": lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
    "dilated": lambda: nn.Conv2d(2, 3, 2, dilation=2),
    "whole": lambda: nn.Conv2d(2, 3, (3, 2), bias=False),
    "one_pixel": lambda: nn.Conv2d(2, 3, 1),
    "depthwise": lambda: nn.Conv2d(2, 2, 3, padding=1, groups=2),
    "reflected": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    "same": lambda: nn.Conv2d(2, 3, 2, padding="same"),
}
LINEAR_SHAPES = [(4, 6), (6,), (4, 2, 6), (0, 6), (), (5,), (4, 5), (4, 12), (4, 6, 1), (6, 4)]
CONV_SHAPES = [
    *[(4, 2, 3, 3), (2, 3, 3), (0, 2, 3, 3), (4, 2, 3, 2), (1, 2, 1, 1), (1, 2, 5, 4)],
    *[(1, 3, 3, 2), (1, 1, 3, 3), (1, 3, 2, 3), (1, 1, 6, 3), (1, 4, 3, 3), (3, 3, 2), (1, 3, 3)],
    *[(3, 3), (3,), (), (1, 1, 2, 3, 3), (1, 2, 2, 2), (1, 2, 0, 3), (1, 2, 3, 0), (1, 0, 3, 3)],
]
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.bool,
    torch.complex64,
]
THINGS = [None, 3.0, [1.0] * 6, np.ones((4, 6), np.float32)]


def inputs_of(layer):
    """Inputs that fit and inputs that do not."""
    shapes = LINEAR_SHAPES if isinstance(layer, nn.Linear) else CONV_SHAPES
    yield from (torch.ones(shape, dtype=layer.weight.dtype) for shape in shapes)
    yield from (torch.ones(shapes[0]).to(dtype) for dtype in DTYPES)
    yield from THINGS


def outcome(layer, x):
    """The output, or the kind of error."""
    try:
        return layer(x)
    except Exception as error:
        return type(error)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("setting", ["float32", "float64", "autocast", "no_grad"])
@pytest.mark.parametrize("method", ["backprop", "kolen_pollack", "direct_feedback_alignment"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_what_torch_refuses_a_converted_layer_refuses_with_the_same_kind_of_error(
    make, method, setting
):
    plain = make().double() if setting == "float64" else make()
    layer = wtkit.convert(copy.deepcopy(plain), method)
    contexts = {
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "no_grad": torch.no_grad(),
    }
    with contexts.get(setting, contextlib.nullcontext()):
        for x in inputs_of(plain):
            expected, found = outcome(plain, x), outcome(layer, x)
            what = (x.shape, x.dtype) if isinstance(x, torch.Tensor) else x
            if isinstance(expected, type):
                assert found is expected, what
            else:
                assert not isinstance(found, type), (what, found)
                assert found.dtype == expected.dtype, what
                torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2, msg=str(what))


def test_float64_weights_and_inputs_under_autocast_are_as_in_a_plain_layer():
    plain = nn.Linear(6, 5).double()
    layer = wtkit.convert(copy.deepcopy(plain), "feedback_alignment")
    with torch.autocast("cpu", torch.bfloat16):
        for x in (torch.ones(4, 6), torch.ones(4, 6).double()):
            expected, found = outcome(plain, x), outcome(layer, x)
            assert found is expected or torch.equal(found, expected)


def test_a_kernel_that_meets_its_whole_input_counts_channels():
    """The product of the sizes fits; the channels do not."""
    layer = wtkit.convert(nn.Conv2d(2, 3, 3), "kolen_pollack")
    with pytest.raises(RuntimeError, match="to have 2 channels, but got 3 channels"):
        layer(torch.randn(1, 3, 3, 2))


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested tensors")
def test_sparse_and_nested_inputs_are_named_with_what_to_give_instead():
    layer = wtkit.convert(nn.Linear(6, 5), "feedback_alignment")
    for x in (torch.ones(4, 6).to_sparse(), torch.ones(4, 6).to_sparse_csr()):
        with pytest.raises(wtkit.WtkitError, match=r"dense inputs, got a sparse_.*x\.to_dense\(\)"):
            layer(x)
    rows = [torch.ones(2, 6), torch.ones(3, 6)]
    for layout in (torch.strided, torch.jagged):
        with pytest.raises(wtkit.WtkitError, match=r"got a nested tensor.*to_padded_tensor"):
            layer(torch.nested.nested_tensor(rows, layout=layout))


@pytest.mark.parametrize("batch", [(0,), (), (1,)], ids=["empty", "unbatched", "one"])
@pytest.mark.parametrize("method", METHODS)
def test_empty_batches_and_single_examples_pass_forward_and_back(method, batch):
    """The gradients of an empty batch are zero; of one example they are those of a batch of one."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(-3), nn.Linear(12, 4)
    )
    model = wtkit.convert(model, method, seed=0)
    one = copy.deepcopy(model)
    x = torch.randn(*batch, 2, 4, 4)
    assert model(x).square().sum().backward() is None
    if batch != (0,):
        one(x.reshape(1, 2, 4, 4)).square().sum().backward()
    for parameter, other in zip(model.parameters(), one.parameters(), strict=True):
        if parameter.grad is not None:
            expected = torch.zeros_like(parameter) if batch == (0,) else other.grad
            torch.testing.assert_close(parameter.grad, expected)


# ----------------------------------------------------------------------- the inputs of delta_angles


class Two(nn.Module):
    """Two inputs, the second by its name or its place."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x, z, scale=1.0):
        return self.out(torch.relu(self.a(x) + scale * self.b(z)))


class OfOne(Two):
    """One input, which holds several tensors."""

    def forward(self, batch):
        return super().forward(batch["x"], batch["z"])


class Paired(Two):
    """One tensor, which holds both."""

    def forward(self, both):
        return super().forward(*both.unbind())


TARGETS = torch.tensor([0, 1, 2, 0])


def fa(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return wtkit.convert(model, "feedback_alignment", seed=0)


def test_several_named_and_nested_inputs_give_the_angles_of_one():
    x, z = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)).unbind()
    expected = wtkit.delta_angles(fa(Paired()), torch.stack([x, z]), TARGETS).values
    assert (expected[:-1] > 1).all()
    for inputs in ((x, z), [x, z], (x, z, 1.0), {"x": x, "z": z}, {"z": z, "x": x, "scale": 1.0}):
        np.testing.assert_allclose(wtkit.delta_angles(fa(Two()), inputs, TARGETS), expected)
    found = wtkit.delta_angles(fa(OfOne()), {"x": x, "z": z}, TARGETS)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_angles_in_inference_mode_are_those_outside(mode):
    model = fa(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)))
    x = torch.randn(4, 6)
    expected = wtkit.delta_angles(model, x, TARGETS), wtkit.matrix_angles(model)
    with mode():
        found = wtkit.delta_angles(model, x * 1.0, TARGETS * 1), wtkit.matrix_angles(model)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_converted_in_inference_mode_can_be_trained():
    model = nn.Linear(6, 3)
    with torch.inference_mode():
        wtkit.convert(model, "feedback_alignment")
    y = X.clone().requires_grad_()
    model(y).sum().backward()
    torch.testing.assert_close(y.grad, model.B.sum(0).expand(4, 6))


def test_a_model_made_in_inference_mode_is_named():
    with torch.inference_mode():
        model = wtkit.convert(nn.Linear(6, 3), "feedback_alignment")
    with pytest.raises(wtkit.WtkitError, match=r"made inside torch\.inference_mode"):
        wtkit.delta_angles(model, torch.randn(4, 6), TARGETS)


ARRAY = np.ones((4, 6), np.float32)
X = torch.ones(4, 6)


@pytest.mark.parametrize(
    ("inputs", "targets", "loss", "message"),
    [
        (ARRAY, TARGETS, None, r"inputs: expected a torch.Tensor, got a NumPy array"),
        ((ARRAY,), TARGETS, None, r"inputs\[0\]: expected a torch.Tensor"),
        ({"input": ARRAY}, TARGETS, None, r"inputs\['input'\]: expected a torch.Tensor"),
        (None, TARGETS, None, r"inputs: expected a batch as a torch.Tensor, .*, got None"),
        ("x", TARGETS, None, r"inputs: expected a batch as a torch.Tensor, .*, got 'x'"),
        (X[:0], TARGETS[:0], None, "inputs: the batch is empty"),
        (X, np.zeros(4, int), None, r"targets: expected a torch.Tensor, got a NumPy"),
        (X, TARGETS, "mse", r"loss: expected a function.*, got 'mse'"),
        (X, TARGETS, lambda out, y: out, r"loss: expected a number, .*\(4, 3\); take its mean"),
        (X, TARGETS, lambda out, y: 1.0, r"loss: expected a number, as a tensor, got 1.0"),
        (X, TARGETS, lambda out, y: out.detach().sum(), "loss: its value depends on no feedback"),
    ],
)
def test_what_is_no_batch_or_no_loss_is_named(inputs, targets, loss, message):
    model = fa(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)))
    with pytest.raises(wtkit.WtkitError, match=message):
        wtkit.delta_angles(model, inputs, targets, **({} if loss is None else {"loss": loss}))
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------------------- gradients per example


PER_EXAMPLE = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
        (6,),
    ),
    "positions": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Flatten(), nn.Linear(10, 3)),
        (2, 6),
    ),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, stride=2, groups=2),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        (2, 6, 6),
    ),
    "whole": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3)), (2, 3, 3)),
    "cropped": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 2), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(4, 3)
        ),
        (2, 2, 2),
    ),
}


@pytest.mark.parametrize(("make", "shape"), PER_EXAMPLE.values(), ids=PER_EXAMPLE)
@pytest.mark.parametrize("method", [name for name in METHODS if not method_class(name).direct])
def test_vmap_gives_the_methods_own_gradient_of_each_example(method, make, shape):
    model = wtkit.convert(make().double(), method, seed=0)
    x, y = torch.randn(4, *shape).double(), TARGETS
    named = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, one, target):
        out = torch.func.functional_call(model, parameters, (one[None],))
        return nn.functional.cross_entropy(out, target[None])

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(named, x, y)
    for i in range(len(x)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name][i], parameter.grad)


def test_direct_feedback_says_that_it_has_no_gradient_under_a_transform():
    model = wtkit.convert(nn.Sequential(nn.Linear(6, 3)), "direct_feedback_alignment")
    named = dict(model.named_parameters())

    def total(parameters):
        return torch.func.functional_call(model, parameters, (X,)).sum()

    with pytest.raises(wtkit.WtkitError, match=r"direct feedback: torch\.func"):
        torch.func.grad(total)(named)


# ----------------------------------------------------------------------------------- sharded models


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'init'}", rank=0, world_size=1
    )
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def train_three_steps(net, x):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        nn.functional.cross_entropy(net(x), TARGETS).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore")  # torch's own, about a CPU
@pytest.mark.parametrize("method", METHODS)
def test_a_sharded_model_is_trained_mirrored_and_measured_as_a_whole_one(method, mesh):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    model = wtkit.convert(copy.deepcopy(plain), method, seed=0)
    sharded = wtkit.convert(copy.deepcopy(plain), method, seed=0)
    fully_shard(sharded, mesh=mesh)
    x, results = torch.randn(4, 6), []
    for net in (model, sharded):
        train_three_steps(net, x)
        if net[0].method.learns_mirror:
            wtkit.mirror(net, 3)
        results.append([wtkit.matrix_angles(net).values])
        net(x)  # FSDP gathers the parameters at the first pass
        results[-1].append(wtkit.delta_angles(net, x, TARGETS).values)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(wtkit.WtkitError, match="export: '0' is sharded over processes"):
        wtkit.export(sharded)
    with pytest.raises(wtkit.WtkitError, match="convert the model before fully_shard"):
        wtkit.convert(sharded, method)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(6, 2, 8, dropout=0, batch_first=True)
        self.memory = nn.LSTM(6, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.memory(self.attention(x))[0][:, -1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["kolen_pollack", "weight_mirror", "sign_symmetry_batchwise"])
def test_modules_that_hold_the_weights_of_their_layers_are_sharded(method, mesh):
    torch.manual_seed(0)
    model = wtkit.convert(Reader(), method, seed=0)
    sharded = copy.deepcopy(model)
    for module in (sharded.attention, sharded.memory, sharded):
        fully_shard(module, mesh=mesh)
    x = torch.randn(4, 5, 6)
    for net in (model, sharded):
        train_three_steps(net, x)
        if method == "weight_mirror":
            wtkit.mirror(net, 3)
    for (name, value), other in zip(
        model.state_dict().items(), sharded.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(whole(other), value, msg=name)
    angles = [wtkit.delta_angles(net, x, TARGETS).values for net in (model, sharded)]
    np.testing.assert_allclose(*angles, rtol=1e-4, atol=1e-4)
    with pytest.raises(wtkit.WtkitError, match=r"'attention\.self_attn\.in_proj' is sharded over"):
        wtkit.export(sharded)
    with pytest.raises(wtkit.WtkitError, match="convert the model before fully_shard"):
        wtkit.convert(sharded, method)


@pytest.mark.filterwarnings("ignore")
def test_a_B_that_requires_a_gradient_is_refused_where_it_would_be_waited_for(mesh):
    model = wtkit.convert(nn.Linear(6, 3), "kolen_pollack", seed=0)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model(X).sum().backward()
    wrapped = nn.parallel.DistributedDataParallel(model)
    with pytest.raises(wtkit.WtkitError, match=r"requires a gradient, .* names end in 'feedback'"):
        wrapped(X)


# -------------------------------------------------------------------------- wrong calls from Python


def test_a_module_with_two_names_stays_on_backprop_under_either():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(6, 6))
            self.again, self.out = self.first, nn.Linear(6, 2)

    for name in ("first", "again", "again.0", "ag*"):
        model = wtkit.convert(Tied(), "feedback_alignment", keep_on_backprop=name)
        assert [type(m).__name__ for m in (model.first[0], model.out)] == [
            "Linear",
            "FeedbackLinear",
        ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: wtkit.convert(m, "backprop", keep_on_backprop=None),
            "a text or a list of texts, got None",
        ),
        (
            lambda m: wtkit.convert(m, "backprop", keep_on_backprop=[3]),
            r"a text or a list of texts, got \[3\]",
        ),
        (lambda m: wtkit.convert(m, "backprop", keep_on_backprop=""), "expected a name"),
        (
            lambda m: wtkit.convert(m, "backprop", seed="x"),
            "seed: expected a whole number or None, got 'x'",
        ),
        (
            lambda m: wtkit.convert(m, "backprop", seed=1.5),
            "seed: expected a whole number or None, got 1.5",
        ),
        (lambda m: wtkit.convert(nn.Linear(0, 2), "kolen_pollack"), "has no weights"),
        (lambda m: wtkit.convert(nn.Conv2d(2, 0, 3), "backprop"), "has no weights"),
        (lambda m: wtkit.convert(Own(3, 4), "backprop"), "nor has anything else in this Own: "),
        (lambda m: wtkit.convert(nn.LazyLinear(4), "backprop"), "run one batch"),
        (lambda m: wtkit.convert(nn.LazyConv2d(4, 3), "backprop"), "run one batch"),
        (lambda m: wtkit.mirror(m, "3"), "mirror: steps: expected a whole number, got '3'"),
        (lambda m: wtkit.mirror(m, 2.5), "mirror: steps: expected a whole number, got 2.5"),
        (lambda m: wtkit.mirror(m, True), "mirror: steps: expected a whole number, got True"),
        (lambda m: wtkit.mirror("m"), r"mirror: model: expected a model .*, got 'm'"),
        (lambda m: wtkit.matrix_angles(None), r"model: expected a model .*, got None"),
        (lambda m: wtkit.delta_angles(3, X, TARGETS), r"model: expected a model .*, got 3"),
        (lambda m: wtkit.export({}), r"export: model: expected a model .*, got {}"),
        (lambda m: wtkit.train({"method": "backprop"}), "train: config: expected a RunConfig"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore:Lazy modules")
def test_wrong_arguments_are_named_with_what_was_expected(call, message):
    model = wtkit.convert(nn.Linear(6, 3), "weight_mirror", seed=0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(wtkit.WtkitError, match=message):
        call(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("measure", ["mirror", "matrix_angles", "delta_angles"])
def test_weights_without_values_are_named(measure):
    model = wtkit.convert(nn.Linear(6, 3, device="meta"), "weight_mirror")
    arguments = {"delta_angles": (X, TARGETS)}.get(measure, ())
    with pytest.raises(wtkit.WtkitError, match="on the meta device and has no values; load them"):
        getattr(wtkit, measure)(model, *arguments)


SMALL = {
    "method": "kolen_pollack",
    "network": "mlp",
    "image_size": 8,
    "classes": 2,
    "epochs": 1,
    "network_options": {"hidden": [8]},
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_inside_a_mode_without_gradients_is_the_same(mode):
    expected = wtkit.train(run_config(SMALL), device="cpu", quiet=True)
    with mode():
        found = wtkit.train(run_config(SMALL), device="cpu", quiet=True)
    for name in ("test_error", "matrix_angle", "delta_angle"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_network_without_a_parameter_to_train_is_refused(monkeypatch):
    def frozen(*arguments, **options):
        return by_name.mlp(*arguments, **options).requires_grad_(False)

    monkeypatch.setattr(networks, "build", lambda config, **sizes: frozen(MLP(), **sizes))
    with pytest.raises(wtkit.WtkitError, match=r"network 'mlp.*: all parameters are frozen"):
        wtkit.train(run_config(SMALL), device="cpu", quiet=True)


class Checkpointed(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.how = how

    def inner(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))))

    def forward(self, x):
        from torch.utils.checkpoint import checkpoint

        return self.c(checkpoint(self.inner, x, **self.how) if self.how else self.inner(x))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_delta_angles_within_activation_checkpointing_are_right_or_nan():
    x, y = torch.randn(5, 4), torch.arange(5) % 3
    whole = wtkit.convert(Checkpointed(), "feedback_alignment", seed=0)
    recomputed = wtkit.convert(Checkpointed(use_reentrant=False), "feedback_alignment", seed=0)
    recomputed.load_state_dict(whole.state_dict())
    expected = wtkit.delta_angles(whole, x, y)
    assert expected[0] > 1
    np.testing.assert_allclose(wtkit.delta_angles(recomputed, x, y), expected, rtol=1e-5)
    reentrant = wtkit.convert(Checkpointed(use_reentrant=True), "feedback_alignment")
    found = wtkit.delta_angles(reentrant, x, y)  # its layers run without gradients
    assert np.isnan(found[:2]).all() and found[2] == 0


def test_calls_with_batches_of_different_sizes_are_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.b(torch.relu(self.a(x))) + self.a(x[:1])

    model = wtkit.convert(Two(), "feedback_alignment")
    with pytest.raises(wtkit.WtkitError, match="batches of different sizes"):
        wtkit.delta_angles(model, torch.randn(5, 4), torch.arange(5) % 3)


STORING = [name for name in names() if wtkit.convert(nn.Linear(2, 2), name).feedback is not None]


@pytest.mark.parametrize("shape", [(4, 5), (3, 6)], ids=["outputs", "inputs"])
@pytest.mark.parametrize("method", STORING)
def test_a_weight_of_another_shape_than_at_conversion_is_named(method, shape):
    model = wtkit.convert(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), method)
    model[1].weight = nn.Parameter(torch.randn(shape))
    model[1].bias = None
    said = rf"of FeedbackLinear\({shape[0]}, {shape[1]}\) .* 'weight' of \(3, 5\); .* convert again"
    with pytest.raises(wtkit.WtkitError, match=said):
        model(torch.randn(2, 6))
    with pytest.raises(wtkit.WtkitError, match=said):
        model[1].B  # noqa: B018
    model[0].weight, model[0].bias = nn.Parameter(torch.randn(shape[1], 6)), None
    wtkit.convert(model, method)
    model(torch.randn(2, 6)).sum().backward()


@pytest.mark.parametrize("method", ["feedback_alignment", "kolen_pollack", "sign_symmetry_fixed"])
def test_both_sides_may_be_changed_together(method):
    model = wtkit.convert(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), method)
    rest = model[1].feedback.detach()[:, :4]
    model[1].feedback = (
        nn.Parameter(rest, requires_grad=False) if method == "kolen_pollack" else rest
    )
    model[1].weight = nn.Parameter(model[1].weight.detach()[:, :4])
    x = torch.randn(2, 4, requires_grad=True)
    model[1](x).sum().backward()
    torch.testing.assert_close(x.grad, model[1].B.sum(0).expand(2, 4))
