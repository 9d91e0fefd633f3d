"""Convolutions in one to three dimensions, and transposed ones: every method against torch's own
layers with B in the place of W, in float64."""

import copy
import itertools

import contract
import pytest
import torch
from test_layers import wrapped
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import wtkit
from wtkit import methods
from wtkit.feedback import as_mirrored, feedback_layers, find_live_taps
from wtkit.feedback.convolution_maps import _reaching_taps
from wtkit.feedback.rows import rows

METHODS = methods.names()
FAMILIES = (
    "backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack",
    "direct_feedback_alignment",
)  # fmt: skip
SIZES = {
    "Conv1d": 24,
    "Conv3d": 4,
    "ConvTranspose1d": 16,
    "ConvTranspose2d": 3,
    "ConvTranspose3d": 3,
}
"""The kinds, with the size of an input in each dimension."""
DIMENSIONS = {kind: int(kind[-2]) for kind in (*SIZES, "Conv2d")}


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


# -------------------------------------------------------------------------------- every geometry

GEOMETRIES = {
    "Conv1d": {
        "one tap": {"kernel_size": 1},
        "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
        "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
        "groups": {"kernel_size": 2, "groups": 2},
        "depthwise": {"kernel_size": 3, "groups": 4, "padding": 1, "bias": False},
        "valid": {"kernel_size": 3, "padding": "valid"},
        "same": {"kernel_size": 3, "padding": "same"},
        "same, even": {"kernel_size": 4, "padding": "same", "dilation": 3},
        "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
        "replicate": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate", "stride": 2},
        "circular": {"kernel_size": 4, "padding": "same", "padding_mode": "circular"},
        "beyond the map": {"kernel_size": 9, "padding": 4},
        "only padding met": {"kernel_size": 3, "padding": 4, "stride": 3},
        "one position": {"kernel_size": 5},
    },
    "Conv3d": {
        "one tap": {"kernel_size": 1, "stride": 2},
        "unequal": {"kernel_size": (3, 2, 1), "stride": (1, 2, 1), "padding": (2, 1, 0)},
        "dilation, groups": {"kernel_size": 2, "dilation": (2, 1, 3), "padding": 2, "groups": 2},
        "same, even": {"kernel_size": (2, 3, 4), "padding": "same", "bias": False},
        "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        "circular": {"kernel_size": (1, 3, 2), "padding": (0, 1, 1), "padding_mode": "circular"},
        "beyond the map": {"kernel_size": 7, "padding": 3, "stride": 2},
        "one position": {"kernel_size": (5, 3, 4)},
    },
    "ConvTranspose1d": {
        "one tap": {"kernel_size": 1},
        "stride": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        "stride leaves gaps": {"kernel_size": 2, "stride": 3},
        "dilation": {"kernel_size": 3, "dilation": 2, "padding": 1, "bias": False},
        "groups": {"kernel_size": 3, "groups": 2},
        "depthwise": {"kernel_size": 2, "groups": 4},
        "cut away": {"kernel_size": 5, "padding": 3},
    },
    "ConvTranspose2d": {
        "unequal": {
            "kernel_size": (3, 2),
            "stride": (1, 2),
            "padding": (1, 0),
            "output_padding": (0, 1),
            "dilation": (2, 1),
        },
        "groups": {"kernel_size": 2, "stride": 2, "groups": 2},
    },
    "ConvTranspose3d": {
        "stride": {"kernel_size": 2, "stride": 2, "padding": (0, 1, 0), "bias": False},
        "groups, dilation": {"kernel_size": 2, "groups": 2, "dilation": (1, 2, 1)},
    },
}
EACH = [
    pytest.param(kind, geometry, id=f"{kind}, {name}")
    for kind, geometries in GEOMETRIES.items()
    for name, geometry in geometries.items()
]
INPUT = {1: (5,), 2: (4, 3), 3: (5, 3, 4)}


def of_geometry(kind, geometry, batch=(3,)):
    """A plain layer in float64, an input of it and a δ at its output."""
    outputs = 8 if geometry.get("groups") == 4 else 6
    plain = getattr(nn, kind)(4, outputs, **geometry).double()
    y = torch.randn(*batch, 4, *INPUT[DIMENSIONS[kind]], dtype=torch.float64)
    return plain, y, torch.randn_like(plain(y))


def step(layer, y, delta, **named):
    """Output and gradients of y and the parameters."""
    y = y.clone().requires_grad_()
    layer.zero_grad()
    out = layer(y, **named)
    out.backward(delta)
    weights = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return [out.detach(), y.grad, *[parameter.grad.clone() for parameter in weights]]


BATCHES = [(3,), (), (0,)]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("batch", BATCHES, ids=["batch", "one example", "empty"])
@pytest.mark.parametrize(("kind", "geometry"), EACH)
def test_delta_passes_torchs_own_layer_with_the_weights_B(kind, geometry, batch):
    plain, y, delta = of_geometry(kind, geometry, batch)
    layer = wtkit.convert(copy.deepcopy(plain), "feedback_alignment")
    out, below, *products = step(layer, y, delta)
    expected_below, expected = sent_back(layer, plain, y, delta)
    torch.testing.assert_close(out, plain(y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(below, expected_below, rtol=1e-12, atol=1e-12)
    for found, each in zip(products, expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("kind", "geometry"), EACH)
def test_backprop_is_autograd(kind, geometry):
    """T1, eq. 2: with B = W the feedback path is backprop."""
    plain, y, delta = of_geometry(kind, geometry)
    layer = wtkit.convert(copy.deepcopy(plain), "backprop")
    for found, expected in zip(step(layer, y, delta), step(plain, y, delta), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [(3,), ()], ids=["batch", "one example"])
@pytest.mark.parametrize("name", METHODS)
def test_a_transposed_convolution_takes_the_size_of_its_output(name, batch):
    plain, y, _ = of_geometry("ConvTranspose2d", {"kernel_size": 3, "stride": 2}, batch)
    layer = wtkit.convert(copy.deepcopy(plain), name)
    delta = torch.randn_like(plain(y, output_size=(10, 8)))
    found = step(layer, y, delta, output_size=(10, 8))
    torch.testing.assert_close(found[0], plain(y, output_size=[10, 8]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[2], step(plain, y, delta, output_size=(10, 8))[2])
    with pytest.raises(ValueError, match="requested an output size of"):
        layer(y, output_size=(12, 8))
    assert torch.equal(layer(y), layer(input=y))


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_what_torch_refuses_is_refused_as_torch_does(kind):
    plain, _, _ = of_geometry(kind, {"kernel_size": 2})
    layer = wtkit.convert(copy.deepcopy(plain), "feedback_alignment")
    size = INPUT[DIMENSIONS[kind]]
    for y in (
        torch.randn(3, 5, *size, dtype=torch.float64),
        torch.randn(3, 4, *size, dtype=torch.float32),
        torch.randn(2, 3, 4, *size, dtype=torch.float64),
        torch.randn(size, dtype=torch.float64),
    ):
        said = []
        for either in (plain, layer):
            with pytest.raises(RuntimeError) as raised:
                either(y)
            said.append(str(raised.value))
        assert said[0] == said[1]


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_an_in_place_relu_may_follow(kind):
    for geometry in GEOMETRIES[kind].values():
        plain, y, delta = of_geometry(kind, geometry)
        if geometry.get("padding") == "same":
            continue
        model = nn.Sequential(copy.deepcopy(plain), nn.ReLU(inplace=True))
        wtkit.convert(model, "feedback_alignment")(y.requires_grad_()).backward(delta)
        assert y.grad.isfinite().all()


# ------------------------------------------------------------------------ what PyTorch does with it


@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("name", FAMILIES)
def test_autocast(name, kind):
    model = wtkit.convert(network(kind).float(), name)
    inputs, targets = batch(kind)
    full = model(inputs.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = model(inputs.float())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), full, rtol=0.1, atol=0.1)
    F.cross_entropy(out.float(), targets).backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_gradients_of_single_examples(kind):
    plain, y, _ = of_geometry(kind, {"kernel_size": 2, "groups": 2})
    layer = wtkit.convert(copy.deepcopy(plain), "feedback_alignment")

    def loss(parameters, model, example):
        return functional_call(model, parameters, (example[None],)).square().sum()

    found, expected = (
        torch.func.vmap(torch.func.grad(loss), (None, None, 0))(
            {name: p.detach() for name, p in model.named_parameters()}, model, y
        )
        for model in (layer, plain)
    )
    torch.testing.assert_close(found["weight"], expected["weight"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of_kind", SIZES, indirect=True)
@pytest.mark.parametrize(
    "wrapper", ["none", "ddp", pytest.param("compile", marks=pytest.mark.slow)]
)
def test_kolen_pollack_keeps_its_law(wrapper, of_kind, process_group):
    torch.compiler.reset()
    model = contract.converted("kolen_pollack")
    gaps = {key: (x.weight - x.B).detach() for key, x in feedback_layers(model).items()}
    trained = model if wrapper == "none" else wrapped(wrapper, model)
    contract.train(trained, steps=4, lr=0.2, momentum=0, weight_decay=0.5)
    for key, layer in feedback_layers(model).items():
        torch.testing.assert_close(
            (layer.weight - layer.B).detach(), 0.9**4 * gaps[key], rtol=1e-9, atol=1e-12
        )


# ----------------------------------------------------------------------------------- mirror mode


@pytest.mark.parametrize("geometry", GEOMETRIES["ConvTranspose1d"].values())
def test_the_neurons_of_a_transposed_convolution_are_the_pixels_of_one_patch(geometry):
    """One position fires, and the response is what the layer itself puts out around it."""
    plain, _, _ = of_geometry("ConvTranspose1d", geometry | {"padding": 0, "output_padding": 0})
    layer = wtkit.convert(copy.deepcopy(plain), "weight_mirror")
    view = as_mirrored(layer)
    noise = torch.randn(view.groups, 7, view.inputs, dtype=torch.float64)
    response = view.respond(noise) + (0 if view.bias is None else view.bias)
    position = noise.movedim(0, 1).reshape(7, 4, 1)  # groups one after another
    patch = plain(position)[..., :: plain.dilation[0]]
    torch.testing.assert_close(response, patch.reshape(7, view.groups, -1).movedim(0, 1))


@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "Conv3d"])
def test_images_of_noise_have_the_layers_dimensions(kind):
    layer = wtkit.convert(getattr(nn, kind)(2, 3, 2, stride=2), "weight_mirror", noise_size=6)
    wtkit.mirror(layer, 300, running_mean=True)
    assert wtkit.matrix_angles(layer).item() < 10


@pytest.mark.parametrize("kind", SIZES)
def test_the_mirrors_product_is_W_on_average(kind):
    """Eq. 11: the mean over many steps is W within its standard error."""
    plain, _, _ = of_geometry(kind, {"kernel_size": 2, "groups": 2})
    layer = wtkit.convert(plain, "weight_mirror", seed=0, phi="identity", output_phi="identity")
    products = []
    for _ in range(400):
        products.append(layer.method.hebbian(as_mirrored(layer)))
        layer.mirror_count += 1
    every = torch.stack(products)
    W = rows(layer.maps, layer.weight.detach())
    far = (every.mean(0) - W) / (every.std(0) / 20)
    assert far.abs().mean() < 1
    assert far.abs().max() < 5


# ------------------------------------------------------------------------ what W's shape is read as


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda: nn.Conv1d(6, 4, 5, groups=2), 15),
        (lambda: nn.Conv3d(6, 4, 2), 48),
        (lambda: nn.ConvTranspose1d(6, 4, 5, groups=2), 3),
        (lambda: nn.ConvTranspose3d(6, 4, 2), 6),
    ],
)
def test_weights_of_zero_take_the_scale_of_their_fan_in(make, fan_in):
    plain = make()
    nn.init.zeros_(plain.weight)
    layer = wtkit.convert(plain, "sign_symmetry_fixed")
    assert layer.fan_in == fan_in
    stored = layer.feedback
    torch.testing.assert_close(stored.square().mean().sqrt().item(), fan_in**-0.5)
    assert stored.shape == layer.weight.shape


def test_direct_feedback_reaches_all_kinds_below_all_kinds():
    """Where the output layer has positions, its δ is summed over them."""
    inputs = torch.randn(4, 6, dtype=torch.float64)
    model = nn.Sequential(
        nn.Linear(6, 12), nn.Unflatten(1, (3, 4)), nn.ConvTranspose1d(3, 5, 2), nn.Conv1d(5, 2, 3)
    ).double()
    wtkit.convert(model, "direct_feedback_alignment")
    out = model(inputs)
    out.square().sum().backward()
    e = 2 * out.detach().sum(2)
    assert [layer.B.shape for layer in feedback_layers(model).values()] == [(2, 6), (2, 3), (2, 5)]
    delta = (e @ model[2].B / 4)[:, :, None].expand(4, 3, 4).flatten(1)
    torch.testing.assert_close(model[0].weight.grad, delta.T @ inputs)


def test_taps_that_reach_an_output_are_found_by_brute_force():
    for size, kernel, stride, padding, dilation in itertools.product(
        range(1, 4), range(1, 5), (1, 2, 3), range(4), (1, 2)
    ):
        width = stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * padding
        if width < 1:
            continue
        y = torch.ones(1, 1, size)
        numbers = 2.0 ** torch.arange(kernel)
        met = {
            tap
            for tap in range(kernel)
            if F.conv_transpose1d(
                y, numbers[None, None] * (torch.arange(kernel) == tap), None, stride, padding,
                dilation=dilation,
            ).any()
        }  # fmt: skip
        found = _reaching_taps(size, kernel, stride, padding, 0, dilation)
        shape = (size, kernel, stride, padding, dilation)
        assert met <= set(range(kernel)[found]), shape
        assert not met or {found.start, found.stop - 1} <= met, shape


def test_a_mirror_leaves_taps_that_reach_no_output_alone():
    layer = nn.ConvTranspose2d(2, 3, 3, padding=1)
    model = wtkit.convert(nn.Sequential(layer), "weight_mirror_delta_rule", seed=0)
    find_live_taps(model, torch.zeros(1, 2, 1, 1))
    assert layer.taps == (slice(None), slice(None), slice(1, 2), slice(1, 2))
    before = layer.B.clone()
    wtkit.mirror(model, 300)
    torch.testing.assert_close(layer.B[..., 1, 1], layer.weight[..., 1, 1].detach())
    kept = torch.ones(3, 3, dtype=torch.bool)
    kept[1, 1] = False
    assert torch.equal(layer.B[..., kept], before[..., kept])
    assert wtkit.matrix_angles(model).item() < 0.1


# ------------------------------------------------------------------------------------ the contract

MIRRORED = [contract.B_learns_in_mirror_mode_only_if_the_method_says_so]
MANY_OUTPUTS = ("ConvTranspose2d", "ConvTranspose3d")


def is_slow(check, kind, name):
    few = kind in ("Conv1d", "ConvTranspose2d") and name in FAMILIES
    return check is contract.compiled_equals_eager or not few


CHECKS = [
    pytest.param(
        check,
        kind,
        name,
        id=f"{check.__name__}-{kind}-{name}",
        marks=[pytest.mark.slow] if is_slow(check, kind, name) else [],
    )
    for check in contract.CHECKS
    for kind in SIZES
    for name in METHODS
    if check is not contract.compiled_equals_eager or name in FAMILIES
]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("check", "of_kind", "name"), CHECKS, indirect=["of_kind"])
def test_every_method_keeps_its_contract(check, of_kind, name):
    if name == "information_alignment" and check in MIRRORED and of_kind in MANY_OUTPUTS:
        pytest.skip("as in a Linear layer of many outputs and few inputs, B takes longer")
    torch.manual_seed(0)
    check(name)
