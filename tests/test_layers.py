"""convert() and the layers: every geometry against numpy, and everything that PyTorch does with a
module."""

import copy
import itertools
import pickle

import contract
import numpy as np
import pytest
import torch
from contract import array
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import wtkit
from wtkit import methods
from wtkit.feedback import ConvMaps, FeedbackConv2d, FeedbackLinear, feedback_layers
from wtkit.feedback.convolution_maps import _used_taps
from wtkit.feedback.layers import twin_of_kind

METHODS = methods.names()

# what torch itself says of plain layers, and what its compiler says to itself at a graph break
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


def engaged_step(layer, y, delta):
    """Output and gradients of one layer for a given δ at its output."""
    y = y.clone().requires_grad_()
    layer.zero_grad()
    out = layer(y)
    out.backward(delta)
    return out.detach(), y.grad


# ------------------------------------------------------------------------- the maps, every geometry

GEOMETRIES = {
    "1x1": {"kernel_size": 1},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "unequal": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 1), "dilation": (1, 2)},
    "stride_leaves_pixels": {"kernel_size": 2, "stride": 3},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "groups": 4, "padding": 1},
    "no_bias": {"kernel_size": 3, "bias": False},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "same": {"kernel_size": 3, "padding": "same"},
    "same_even": {"kernel_size": (4, 2), "padding": "same"},
    "same_even_dilated": {
        "kernel_size": (2, 4),
        "padding": "same",
        "dilation": (3, 1),
        "groups": 2,
    },
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "replicate", "stride": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "groups": 2},
    "circular_same_even": {"kernel_size": (2, 4), "padding": "same", "padding_mode": "circular"},
    "kernel_beyond_map": {"kernel_size": 7, "padding": 3, "stride": 2},
    "only_padding_met": {"kernel_size": 3, "padding": 4, "stride": 3},
}


@pytest.mark.parametrize("size", [(6, 5), (3, 4)], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_convolution_agrees_with_numpy(geometry, size):
    plain = nn.Conv2d(4, 6 if geometry.get("groups") != 4 else 8, **geometry).double()
    layer = wtkit.convert(copy.deepcopy(plain), "feedback_alignment")
    y = torch.randn(3, 4, *size, dtype=torch.float64)
    delta = torch.randn_like(plain(y))
    out, below = engaged_step(layer, y, delta)
    bias = None if plain.bias is None else array(plain.bias)
    torch.testing.assert_close(out, plain(y), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        array(out), contract.conv_forward(array(y), array(plain.weight), bias, plain), atol=1e-12
    )
    expected = contract.conv_backward(array(delta), array(y), array(layer.B), plain)
    np.testing.assert_allclose(array(below), expected[0], atol=1e-12)
    np.testing.assert_allclose(array(layer.weight.grad), expected[1], atol=1e-12)
    if plain.bias is not None:
        np.testing.assert_allclose(array(layer.bias.grad), expected[2], atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 3), (0,)], ids=str)
def test_linear_agrees_with_numpy_for_inputs_of_any_rank(leading, bias):
    plain = nn.Linear(5, 3, bias=bias).double()
    layer = wtkit.convert(copy.deepcopy(plain), "feedback_alignment")
    y, delta = (
        torch.randn(*leading, 5, dtype=torch.float64),
        torch.randn(*leading, 3, dtype=torch.float64),
    )
    out, below = engaged_step(layer, y, delta)
    assert torch.equal(out, plain(y))
    expected = contract.linear_backward(array(delta), array(y), array(layer.B))
    np.testing.assert_allclose(array(below), expected[0], atol=1e-12)
    np.testing.assert_allclose(array(layer.weight.grad), expected[1], atol=1e-12)
    if bias:
        np.testing.assert_allclose(array(layer.bias.grad), expected[2], atol=1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_backprop_is_autograd(geometry):
    """T1, eq. 2: with B = W the feedback path is backprop."""
    plain = nn.Conv2d(4, 8, **geometry).double()
    layer = wtkit.convert(copy.deepcopy(plain), "backprop")
    y = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    delta = torch.randn_like(plain(y))
    for found, expected in zip(
        engaged_step(layer, y, delta), engaged_step(plain, y, delta), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for found, expected in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "geometry", [GEOMETRIES["stride"], GEOMETRIES["reflect"], GEOMETRIES["same_even"]]
)
def test_one_image_without_a_batch_dimension(geometry):
    layer = wtkit.convert(nn.Conv2d(2, 3, **geometry).double(), "feedback_alignment")
    image = torch.randn(2, 5, 5, dtype=torch.float64)
    delta = torch.randn_like(layer(image))
    out, below = engaged_step(layer, image, delta)
    product = layer.weight.grad.clone()
    out_of_batch, below_of_batch = engaged_step(layer, image[None], delta[None])
    assert torch.equal(out, out_of_batch[0])
    assert torch.equal(below, below_of_batch[0])
    assert torch.equal(product, layer.weight.grad)


def test_an_empty_batch_gives_zero_products():
    layer = wtkit.convert(nn.Conv2d(2, 3, 3), "kolen_pollack")
    layer(torch.zeros(0, 2, 5, 5)).sum().backward()
    assert not layer.weight.grad.any()


# --------------------------------------------------------------------------- taps that meet nothing


def test_used_taps_are_those_that_meet_an_input_by_brute_force():
    """Cropping keeps every tap that meets an input, the outputs' number, and every tap's place
    relative to the map."""
    cropped = 0
    for size, kernel, stride, padding, dilation in itertools.product(
        range(1, 8), range(1, 6), (1, 2, 3), range(6), (1, 2, 3)
    ):
        outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        if outputs < 1:
            continue
        met = {
            tap
            for tap, o in itertools.product(range(kernel), range(outputs))
            if 0 <= o * stride + tap * dilation - padding < size
        }
        taps, left = _used_taps(size, kernel, stride, padding, dilation)
        kept = range(kernel)[taps]
        shape = (size, kernel, stride, padding, dilation)
        assert met <= set(kept), shape
        assert left == padding - taps.start * dilation >= 0, shape
        assert (size + 2 * left - dilation * (len(kept) - 1) - 1) // stride + 1 == outputs, shape
        cropped += len(kept) < kernel
    assert cropped > 100


def test_only_the_central_tap_of_a_3x3_kernel_meets_a_1x1_map():
    assert _used_taps(size=1, kernel=3, stride=1, padding=1, dilation=1) == (slice(1, 2), 0)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), [
    (1, 3, 1, 1, 1), (1, 3, 2, 1, 1), (2, 3, 2, 1, 1), (2, 7, 2, 3, 1), (1, 5, 1, 2, 1),
    (2, 3, 1, 2, 2), (3, 3, 3, 3, 3), (1, 7, 2, 3, 1), (1, 3, 1, 2, 2),
])  # fmt: skip
def test_cropped_taps_change_no_gradient(size, kernel, stride, padding, dilation):
    """Exactly: in float64 on small integers every sum is exact, in whatever order."""

    def integers(*shape):
        return torch.randint(-8, 9, shape).double()

    y, W, M = (
        integers(2, 4, size, size + 1),
        integers(6, 2, kernel, kernel),
        integers(6, 2, kernel, kernel),
    )
    geometry = (stride, padding, dilation, 2)
    y.requires_grad_()
    plain_M = M.clone().requires_grad_()
    out = F.conv2d(y, W, None, *geometry)
    delta = integers(*out.shape)
    (below,) = torch.autograd.grad(F.conv2d(y, M, None, *geometry), y, delta)
    (product,) = torch.autograd.grad(F.conv2d(y, plain_M, None, *geometry), plain_M, delta)
    maps = ConvMaps((stride,) * 2, (padding,) * 2, (dilation,) * 2, 2)
    assert maps.taps(y.shape[2:], W.shape[2:])[0] is not ..., "something is cropped"
    assert torch.equal(maps.apply_weights(y, W), out)
    found = maps.backward(delta, y.detach(), M, (True, True, True))
    for value, expected in zip(found, (below, product, delta.sum((0, 2, 3))), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), [
    ((2, 2), (1, 1), 2, 0), ((2, 2), (3, 3), 2, 1), ((1, 1), (3, 3), 1, 1), ((5, 4), (5, 4), 1, 0),
    ((3, 3), (2, 2), 2, 0),
])  # fmt: skip
def test_an_output_of_one_position_equals_the_convolution(size, kernel, stride, padding):
    """Though it is computed as a matrix product; exactly, as above, and with an in-place ReLU
    behind it."""

    def integers(*shape):
        return torch.randint(-8, 9, shape).double()

    plain = nn.Sequential(nn.Conv2d(4, 6, kernel, stride, padding), nn.ReLU(inplace=True))
    with torch.no_grad():
        plain[0].weight.copy_(integers(*plain[0].weight.shape))
        plain[0].bias.copy_(integers(6))
    plain.double()
    ours = wtkit.convert(copy.deepcopy(plain), "backprop")
    x = integers(3, 4, *size)
    assert ours[0](x).shape[2:] == (1, 1)
    results = []
    for model in (plain, ours):
        y = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
        out = model(y)
        (out * torch.arange(6).view(1, 6, 1, 1)).sum().backward()
        results.append((out, y.grad, model[0].weight.grad, model[0].bias.grad))
    assert all(map(torch.equal, *results))


# ------------------------------------------------------------------------------- what convert keeps


def test_twins_are_subclasses_and_the_model_itself_returns():
    model = contract.network()
    assert wtkit.convert(model, "feedback_alignment") is model
    assert isinstance(model[0], FeedbackConv2d) and isinstance(model[0], nn.Conv2d)
    assert isinstance(model[5], FeedbackLinear) and isinstance(model[5], nn.Linear)
    assert "method=feedback_alignment" in repr(model[0]) and "kernel_size=(3, 3)" in repr(model[0])


@pytest.mark.parametrize("name", METHODS)
def test_parameters_keep_their_identity(name):
    model = contract.network()
    before = dict(model.named_parameters())
    wtkit.convert(model, name)
    after = dict(model.named_parameters())
    assert all(after[key] is value for key, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_precision_is_kept(name, dtype):
    model = wtkit.convert(
        nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 2)).to(dtype), name
    )
    model(torch.randn(2, 2, 3, 3, dtype=dtype)).sum().backward()
    for layer in feedback_layers(model).values():
        assert {x.dtype for x in (layer.B, layer.weight.grad) if x is not None} <= {dtype}


@pytest.mark.parametrize("name", METHODS)
def test_the_feedback_path_moves_with_the_model(name):
    """Seen on the meta device, since there may be no other."""
    model = wtkit.convert(contract.network(), name).to("meta")
    assert {
        layer.B.device.type for layer in feedback_layers(model).values() if layer.B is not None
    } <= {"meta"}


def test_hooks_stay():
    layer, calls = nn.Linear(3, 2), []
    layer.register_forward_hook(lambda *_: calls.append("forward"))
    layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    wtkit.convert(layer, "feedback_alignment")(
        torch.ones(1, 3, requires_grad=True)
    ).sum().backward()
    assert calls == ["forward", "backward"]


def test_a_frozen_layer_stays_frozen():
    layer = nn.Linear(3, 2).requires_grad_(False)
    wtkit.convert(layer, "kolen_pollack")
    assert not layer.feedback.requires_grad
    y = torch.randn(4, 3, requires_grad=True)
    layer(y).sum().backward()
    assert torch.allclose(y.grad, layer.B.sum(0).expand(4, 3))
    assert layer.weight.grad is None
    before = layer.B.clone()
    torch.optim.SGD(layer.parameters(), lr=1.0, weight_decay=0.5).step()
    assert torch.equal(layer.B, before)


def test_training_and_evaluation_modes_agree_without_gradients():
    model = wtkit.convert(contract.network(), "kolen_pollack").eval()
    inputs, _ = contract.batch()
    with torch.no_grad():
        expected = model(inputs)
    with torch.inference_mode():
        assert torch.equal(model(inputs), expected)


def test_options_beside_a_method_object_are_refused():
    with pytest.raises(wtkit.WtkitError, match=r"options noise_std.* constructor"):
        wtkit.convert(nn.Linear(2, 2), methods.load("weight_mirror"), noise_std=1)


def test_a_method_object_does_as_well_as_its_name():
    method = methods.load("sign_symmetry", scale="unit")
    assert wtkit.convert(nn.Linear(3, 2), method).B.abs().eq(1).all()


def test_an_unknown_option_leaves_the_model_alone():
    model = contract.network()
    with pytest.raises(
        wtkit.WtkitError, match=r"option of weight_mirror 'mirror_lrr' \(did you mean 'mirror_lr'"
    ):
        wtkit.convert(model, "weight_mirror", mirror_lrr=0.1)
    assert not feedback_layers(model)


def test_torchvisions_checkpoint_loads_and_an_export_goes_back():
    torchvision = pytest.importorskip("torchvision")
    plain = torchvision.models.squeezenet1_1(num_classes=5)
    model = wtkit.convert(torchvision.models.squeezenet1_1(num_classes=5), "kolen_pollack")
    model.load_state_dict(plain.state_dict(), strict=True)
    torchvision.models.squeezenet1_1(num_classes=5).load_state_dict(
        wtkit.export(model).state_dict(), strict=True
    )
    contract.assert_same_state(wtkit.export(model).state_dict(), plain.state_dict())


def test_strict_loading_still_finds_what_is_really_missing():
    model = wtkit.convert(nn.Linear(3, 2), "feedback_alignment")
    with pytest.raises(RuntimeError, match=r'Missing key.*"bias"'):
        model.load_state_dict({"weight": torch.zeros(2, 3)}, strict=True)


def test_layers_may_share_a_weight_where_B_does_not_learn_with_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    wtkit.convert(model, "feedback_alignment")
    assert not torch.equal(model[0].B, model[1].B)
    model(torch.randn(2, 3)).sum().backward()


# ----------------------------------------------------------------------------- what convert refuses


class PositionEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 4, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, y):
        return self.head((y + self.positions).mean(1))


class Own(nn.Linear):
    def forward(self, y):
        return 2 * super().forward(y)


class OwnAttention(nn.MultiheadAttention):
    pass


class OwnMemory(nn.GRU):
    pass


REFUSED = {
    "Bilinear": (
        lambda: nn.Sequential(nn.Bilinear(2, 2, 2)), "'0' (Bilinear): 'weight' multiplies two "
                                                     "inputs", "0"
    ),
    "attention": (
        lambda: nn.Sequential(OwnAttention(4, 2)), "'0' (OwnAttention): a subclass of "
                                                   "MultiheadAttention may multiply", "0"
    ),
    "parametrized LSTM": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.LSTM(2, 2), "weight_hh_l0")),
        "'0' (ParametrizedLSTM): 'weight_hh_l0' is computed from other tensors, by pruning", "0",
    ),
    "pruned LSTM": (
        lambda: nn.Sequential(prune.identity(nn.LSTM(2, 2), "weight_ih_l0")),
        "'0' (LSTM): 'weight_ih_l0' is computed from other tensors, by pruning", "0",
    ),
    "positions": (PositionEmbedding, "the model itself (PositionEmbedding): "
                                     "'positions'", "positions"),
    "subclass": (lambda: nn.Sequential(Own(2, 2)), "'0' (Own): 'weight'", "0"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)), "'0' (LazyLinear): 'weight'", "0"),
    "weight_norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))),
        "'0' (ParametrizedLinear): 'weight' is computed from other tensors, by pruning", "0",
    ),
    "bare": (lambda: OwnMemory(2, 2), "the model itself (OwnMemory): a subclass of GRU", "*"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message", "pattern"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_named_and_may_stay_on_backprop(make, message, pattern):
    model = make()
    with pytest.raises(wtkit.WtkitError) as error:
        wtkit.convert(model, "feedback_alignment")
    assert f"cannot convert {message}" in str(error.value)
    assert "convert(..., keep_on_backprop=[" in str(error.value)
    assert not feedback_layers(model), "nothing was changed"
    wtkit.convert(model, "feedback_alignment", keep_on_backprop=[pattern])
    assert not any(name.startswith(pattern) for name in feedback_layers(model))


def test_element_wise_scales_are_left_alone():
    model = nn.Sequential(
        nn.Embedding(5, 4),
        nn.LayerNorm((3, 4)),
        nn.Linear(4, 4),
        nn.PReLU(4),
        nn.BatchNorm1d(3),
        nn.RMSNorm(4),
    )
    assert list(feedback_layers(wtkit.convert(model, "feedback_alignment"))) == ["2"]


def test_a_pattern_that_matches_nothing_names_the_nearest():
    model = nn.Sequential()
    model.add_module("decoder", nn.Linear(2, 2))
    said = r"'decodr' matches no module .*did you mean 'decoder'\?\); outermost modules: decoder$"
    with pytest.raises(wtkit.WtkitError, match=said):
        wtkit.convert(model, "feedback_alignment", keep_on_backprop=["decodr"])


def test_a_layers_own_parameter_is_no_pattern_but_its_layer_is():
    with pytest.raises(
        wtkit.WtkitError,
        match=r"'0\.weight' is a parameter of a layer.* take '0'",
    ):
        wtkit.convert(
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            "feedback_alignment",
            keep_on_backprop="0.weight",
        )


def test_modules_by_pattern_stay_on_backprop():
    inner = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    model = nn.Sequential(nn.Linear(2, 2), inner, nn.Linear(2, 2))
    assert list(
        feedback_layers(wtkit.convert(model, "feedback_alignment", keep_on_backprop=["1"]))
    ) == [
        "0",
        "2",
    ]
    assert list(
        feedback_layers(wtkit.convert(model, "feedback_alignment", keep_on_backprop=["1.*"]))
    ) == [
        "0",
        "2",
    ]


def test_a_layer_that_now_stays_on_backprop_forgets_its_former_method():
    model = wtkit.convert(contract.network(), "kolen_pollack")
    wtkit.convert(model, "feedback_alignment", keep_on_backprop=["7"])
    assert type(model[7]) is nn.Linear
    assert not any("feedback" in name for name, _ in model.named_parameters())


def test_the_output_layer_is_the_networks_last_even_if_that_stays_on_backprop():
    def flags(**options):
        return [
            x.is_output
            for x in feedback_layers(
                wtkit.convert(contract.network(), "weight_mirror", **options)
            ).values()
        ]

    assert flags() == [False, False, False, True]
    assert flags(keep_on_backprop=["7"]) == [False, False, False]


@pytest.mark.parametrize("share", [lambda W: W, lambda W: nn.Parameter(W.detach().t())])
def test_kolen_pollack_refuses_shared_weights(share):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = share(model[0].weight)
    with pytest.raises(wtkit.WtkitError, match="'0' and '1' share one weight"):
        wtkit.convert(model, "kolen_pollack")


# ------------------------------------------------------------------ what PyTorch does with a module


def learning(model):
    """The parameters that autograd gave a gradient; Kolen–Pollack's B is handed W's later, and
    frozen ones get none."""
    return [(name, p) for name, p in model.named_parameters() if p.grad is not None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_autocast(name, dtype):
    """Output as plain autocast's; products in the parameters' own precision, within rounding of
    float32's."""
    plain = contract.network().float()
    model = wtkit.convert(copy.deepcopy(plain), name)
    inputs, targets = contract.batch()
    exact = {
        key: value.clone()
        for key, value in contract.gradients(model, inputs.float(), targets).items()
    }
    with torch.autocast("cpu", dtype):
        out, expected = model(inputs.float()), plain(inputs.float())
    assert out.dtype == dtype and torch.equal(out, expected)
    model.zero_grad()
    F.cross_entropy(out.float(), targets).backward()
    for key, parameter in learning(model):
        assert parameter.grad.dtype == torch.float32
        error = (parameter.grad - exact[key]).norm() / exact[key].norm()
        assert error < (0.1 if dtype == torch.bfloat16 else 0.01), key


def test_backprop_under_autocast_is_plain_autocast():
    plain = contract.network().float()
    model = wtkit.convert(copy.deepcopy(plain), "backprop")
    inputs, targets = contract.batch()
    for net in (plain, model):
        with torch.autocast("cpu", torch.bfloat16):
            out = net(inputs.float())
        F.cross_entropy(out.float(), targets).backward()
    for (key, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-2, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_autocast_has_no_weights_wait_but_what_delta_travels_through(name):
    """Beside the parameters and B themselves, which are there anyway: a cast of W, or the B that is
    made of it."""
    model = wtkit.convert(contract.network().float(), name)
    there = {x.data_ptr() for x in (*model.parameters(), *model.buffers())}
    shapes = {layer.weight.shape for layer in feedback_layers(model).values()}
    waiting = []

    def note(x):
        if x.shape in shapes and x.data_ptr() not in there:
            waiting.append(x.dtype)
        return x

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda x: x),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(contract.batch()[0].float())
    kept = all(
        layer.feedback is not None and layer.B is layer.feedback
        for layer in feedback_layers(model).values()
    )
    assert waiting == ([] if kept else [torch.bfloat16] * len(feedback_layers(model)))


def test_an_input_of_another_precision_is_refused_as_by_a_plain_layer():
    for plain, shape in (
        (nn.Linear(3, 2, bias=False), (1, 3)),
        (nn.Conv2d(3, 2, 1, bias=False), (1, 3, 2, 2)),
    ):
        layer = wtkit.convert(copy.deepcopy(plain), "feedback_alignment")
        said = []
        for either in (plain, layer):
            with pytest.raises(RuntimeError) as raised:
                either(torch.randn(shape, dtype=torch.float64))
            said.append(str(raised.value))
        assert said[0] == said[1]


def test_autocast_leaves_the_update_of_kolen_pollack_equal_for_W_and_B():
    model = wtkit.convert(contract.network().float(), "kolen_pollack")
    inputs, targets = contract.batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(inputs.float()), targets)
    loss.backward()
    before = {key: (x.weight - x.B).detach() for key, x in feedback_layers(model).items()}
    torch.optim.SGD(model.parameters(), lr=0.2).step()
    for key, layer in feedback_layers(model).items():
        torch.testing.assert_close(
            (layer.weight - layer.B).detach(), before[key], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("name", METHODS)
def test_channels_last(name):
    model, (inputs, targets) = contract.converted(name), contract.batch()
    expected = {
        key: value.clone() for key, value in contract.gradients(model, inputs, targets).items()
    }
    model = model.to(memory_format=torch.channels_last)
    found = contract.gradients(model, inputs.to(memory_format=torch.channels_last), targets)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
    out = model[0](inputs.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_accumulate(name):
    model, (inputs, targets) = contract.converted(name), contract.batch()
    model.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    whole = {key: p.grad.clone() for key, p in learning(model)}
    model.zero_grad()
    for half in (slice(0, 2), slice(2, 5)):
        (
            F.cross_entropy(model(inputs[half]), targets[half], reduction="sum") / len(targets)
        ).backward()
    for key, p in learning(model):
        torch.testing.assert_close(p.grad, whole[key], rtol=1e-12, atol=1e-14)


def test_gradient_checkpointing():
    model, (inputs, targets) = contract.converted("feedback_alignment"), contract.batch()
    expected = {key: p.clone() for key, p in contract.gradients(model, inputs, targets).items()}
    model.zero_grad()
    hidden = torch.utils.checkpoint.checkpoint(model[:5], inputs, use_reentrant=False)
    F.cross_entropy(model[5:](hidden), targets).backward()
    for key, p in model.named_parameters():
        assert torch.equal(p.grad, expected[key])


@pytest.mark.slow
def test_compiled_in_a_dynamic_batch_with_strides_padding_and_autocast():
    model = wtkit.convert(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, (2, 4), padding="same"), nn.ReLU(), nn.Conv2d(4, 2, 7, 2, 3),
            nn.Flatten(),
        ),
        "kolen_pollack",
    )  # fmt: skip
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for size in (2, 3):
        inputs = torch.randn(size, 2, 4, 4)
        grads = []
        for net in (model, compiled):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                out = net(inputs)
            out.float().square().sum().backward()
            grads.append([p.grad.clone() for _, p in learning(model)])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def wrapped(kind, model):
    if kind == "compile":
        return torch.compile(model, backend="aot_eager")
    if kind == "compile_in_place":
        model.compile(backend="aot_eager")
        return model
    if kind == "compile_inside":
        model[5] = torch.compile(model[5], backend="aot_eager")
        return model
    if kind == "data_parallel":
        return nn.DataParallel(model)
    wrapper = nn.parallel.DistributedDataParallel(model)
    return torch.compile(wrapper, backend="aot_eager") if kind == "compiled_ddp" else wrapper


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["compile", "compile_in_place", "compile_inside", "data_parallel", "ddp", "compiled_ddp"],
)
def test_wrapped_models_can_be_trained_mirrored_and_measured(kind, process_group):
    torch.compiler.reset()
    model, (inputs, targets) = contract.converted("weight_mirror"), contract.batch()
    bare = copy.deepcopy(model)
    model = wrapped(kind, model)
    for net in (model, bare):
        contract.train(net)
        wtkit.mirror(net, 2)
    found, expected = wtkit.matrix_angles(model), wtkit.matrix_angles(bare)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)
    found, expected = (wtkit.delta_angles(net, inputs, targets) for net in (model, bare))
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9, atol=1e-9)
    assert (expected.values[:-1] > 1).all(), (
        "angles of 0 would hide a backward pass with its weights burnt in"
    )
    plain = wtkit.export(model)
    assert not feedback_layers(plain)
    assert feedback_layers(model)


@pytest.mark.parametrize(
    "kind", ["data_parallel", "ddp", pytest.param("compile", marks=pytest.mark.slow)]
)
def test_kolen_pollack_keeps_its_law_in_a_wrapper(kind, process_group):
    torch.compiler.reset()
    model = contract.converted("kolen_pollack")
    gaps = {key: (x.weight - x.B).detach() for key, x in feedback_layers(model).items()}
    contract.train(wrapped(kind, model), steps=4, lr=0.2, momentum=0, weight_decay=0.5)
    for key, layer in feedback_layers(model).items():
        torch.testing.assert_close(
            (layer.weight - layer.B).detach(), 0.9**4 * gaps[key], rtol=1e-9, atol=1e-12
        )


def test_a_wrapped_model_can_be_converted_too(process_group):
    model = nn.DataParallel(contract.network())
    assert wtkit.convert(model, "feedback_alignment") is model
    assert list(feedback_layers(model)) == ["0", "2", "5", "7"]


def test_a_whole_model_goes_through_torch_save(tmp_path):
    model = contract.converted("kolen_pollack")
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    contract.assert_same_state(model.state_dict(), loaded.state_dict())
    assert pickle.loads(pickle.dumps(loaded))[0].method == model[0].method


class OneModuleTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, y):
        return self.layer(torch.tanh(self.layer(y)))


def test_a_layer_used_twice_sums_its_products():
    model = wtkit.convert(OneModuleTwice().double(), "feedback_alignment")
    y, delta = (torch.randn(3, 4, dtype=torch.float64) for _ in range(2))
    _, below = engaged_step(model, y, delta)
    W, bias, B = (array(t) for t in (model.layer.weight, model.layer.bias, model.layer.B))
    hidden = np.tanh(contract.linear_forward(array(y), W, bias))
    signal, second, _ = contract.linear_backward(array(delta), hidden, B)
    expected, first, _ = contract.linear_backward(signal * (1 - hidden**2), array(y), B)
    np.testing.assert_allclose(array(below), expected, atol=1e-12)
    np.testing.assert_allclose(array(model.layer.weight.grad), first + second, atol=1e-12)


def test_one_name_stays_on_backprop():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    wtkit.convert(model, "feedback_alignment", keep_on_backprop="10")
    assert [name for name, _ in model.named_children() if name not in feedback_layers(model)] == [
        "10"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "backprop"), r"model: expected a model \(torch.nn.Module\), got None"),
        (("backprop", nn.Linear(2, 2)), r"model: expected a model .*, got 'backprop'"),
        ((nn.Linear(2, 2), None), "method: expected a text or a Method, got None"),
        (
            (nn.Linear(2, 2), methods.method_class("weight_mirror")),
            "method: expected a text or a Method, got an ABCMeta",
        ),
        (
            (nn.Sequential(nn.ReLU()), "backprop"),
            "no layer with weights to convert in this Sequential",
        ),
    ],
)
def test_what_cannot_be_converted_is_said(arguments, message):
    with pytest.raises(wtkit.WtkitError, match=message):
        wtkit.convert(*arguments)


@pytest.mark.parametrize("fault", ["raises", "shape"])
def test_a_method_that_fails_leaves_the_model_as_it_was(fault):
    class Faulty(methods.Method):
        label = "?"

        def initial(self, W, generator):
            if W.shape == (3, 4) and fault == "raises":
                raise ZeroDivisionError
            return W.clone()

        def feedback_weights(self, W, kept):
            return kept.T if W.shape == (3, 4) else kept

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(
        (ZeroDivisionError, wtkit.WtkitError), match=r"^$|gave shape \(4, 3\), expected \(3, 4\)"
    ):
        wtkit.convert(model, Faulty())
    assert {type(layer) for layer in model} == {nn.Linear}
    model(torch.randn(2, 4))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4), (5, 2, 3, 4)])
def test_an_in_place_relu_may_follow_a_linear_of_any_shape(shape, bias):
    model = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.ReLU(inplace=True)).double()
    plain = copy.deepcopy(model)
    wtkit.convert(model, "backprop")
    y = torch.randn(shape, dtype=torch.float64)
    for net in (model, plain):
        net(y).square().sum().backward()
    torch.testing.assert_close(model[0].weight.grad, plain[0].weight.grad)


def test_maps_of_one_position_are_laid_out_channels_last():
    """By the layout the layers below choose their kernels, and so their rounding, which recorded
    runs depend on."""
    layer = wtkit.convert(nn.Conv2d(6, 4, 1, bias=False), "feedback_alignment")
    y = torch.randn(3, 6, 1, 1, requires_grad=True)
    seen = []
    y.register_hook(lambda delta: seen.append(delta.stride()))
    layer(y).sum().backward()
    assert seen == [(6, 1, 6, 6)]
    assert layer.weight.grad.stride() == layer.weight.stride()


@pytest.mark.parametrize("normalisation", ["fixed", "learned", "none"])
@pytest.mark.parametrize("name", ["LazyBatchNorm1d", "LazyInstanceNorm1d"])
def test_a_lazy_scale_is_refused(name, normalisation):
    lazy = getattr(nn, name)(**({"affine": True} if "Instance" in name else {}))
    model = nn.Sequential(nn.Linear(2, 2), lazy)
    with pytest.raises(wtkit.WtkitError, match=f"'1' .{name}.: 'weight' has no shape before"):
        wtkit.convert(model, "feedback_alignment", normalisation=normalisation)
    wtkit.convert(model, "feedback_alignment", normalisation=normalisation, keep_on_backprop=["1"])


def test_a_lazy_model_is_not_told_to_leave_all_on_backprop():
    with pytest.raises(wtkit.WtkitError, match=r"run one batch through the model, then convert$"):
        wtkit.convert(nn.LazyLinear(4), "feedback_alignment")


@pytest.mark.parametrize("method", ["weight_mirror", "sign_symmetry"])
def test_a_state_dict_continues_the_random_draws(method):
    model = wtkit.convert(nn.Sequential(nn.Linear(4, 3), nn.GRU(3, 2)), method, seed=0)
    for layer in feedback_layers(model).values():
        layer.mirror_count, layer.update_count = 3, 5
    other = wtkit.convert(nn.Sequential(nn.Linear(4, 3), nn.GRU(3, 2)), method, seed=0)
    state = model.state_dict()
    other.load_state_dict(state)
    for layer in feedback_layers(other).values():
        assert (layer.mirror_count, layer.update_count) == (3, 5)
    other.load_state_dict(wtkit.export(model).state_dict())  # a plain one has no counts
    wtkit.export(model).load_state_dict(wtkit.export(other).state_dict())
    for content in state._metadata.values():
        content.pop("counts", None)  # as older files are
    other.load_state_dict(state)
    assert {layer.mirror_count for layer in feedback_layers(other).values()} == {3}


def test_the_mirror_resumes_exactly_from_a_state_dict(tmp_path):
    def made():
        torch.manual_seed(0)
        return wtkit.convert(nn.Sequential(nn.Linear(4, 3)), "weight_mirror", seed=0)

    whole, first, second = made(), made(), made()
    wtkit.mirror(whole, 2)
    wtkit.mirror(first, 1)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    wtkit.mirror(second, 1)
    assert torch.equal(whole[0].B, second[0].B)


@pytest.mark.parametrize("name", ["weight_mirror", "sign_symmetry_batchwise"])
def test_a_training_that_goes_on_from_a_state_dict_draws_other_numbers(name):
    def step(layer):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer(torch.ones(2, 5)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if name == "weight_mirror":
            wtkit.mirror(layer)

    layer, other = (wtkit.convert(nn.Linear(5, 4), name, seed=0) for _ in range(2))
    step(layer)
    other.load_state_dict(layer.state_dict())
    for each in (layer, other):
        step(each)
    assert torch.equal(layer.B, other.B)


class Square(nn.Linear):
    """Differs from its base in what it is made with alone."""

    def __init__(self, size):
        super().__init__(size, size, bias=False)
        self.size = size

    def reset_parameters(self):
        nn.init.orthogonal_(self.weight)

    def trace(self):
        return self.weight.trace()


class Doubled:
    def forward(self, y):
        return 2 * y


OVERRIDING = {
    "forward": type("Own", (nn.Linear,), {"forward": lambda self, y: y}),
    "a mixin": type("Own", (Doubled, nn.Linear), {}),
    "a part of forward": type("Own", (nn.Conv2d,), {"_conv_forward": lambda self, y, *_: y}),
    "call": type("Own", (nn.Linear,), {"__call__": lambda self, y: y}),
    "attributes": type("Own", (nn.Linear,), {"__getattr__": nn.Module.__getattr__}),
    "weight": type("Own", (nn.Linear,), {"weight": property(lambda self: 1)}),
}


@pytest.mark.parametrize("kind", OVERRIDING.values(), ids=OVERRIDING)
def test_a_subclass_that_overrides_something_is_of_no_known_kind(kind):
    assert twin_of_kind(kind) is None


def test_a_subclass_that_inherits_all_is_converted_as_its_base(tmp_path):
    torch.manual_seed(0)
    plain = nn.Sequential(Square(4), nn.Tanh(), Square(4))
    model = wtkit.convert(copy.deepcopy(plain), "feedback_alignment", seed=0)
    assert isinstance(model[0], Square) and type(model[0]).__name__ == "FeedbackSquare"
    assert model[0].size == 4 and model[0].trace() == plain[0].trace()
    like = wtkit.convert(
        nn.Sequential(*[nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False)]),
        "feedback_alignment",
        seed=0,
    )
    like.load_state_dict(model.state_dict())
    y = torch.randn(3, 4)
    for each in (model, like):
        each(y).sum().backward()
    assert torch.equal(model[0].weight.grad, like[0].weight.grad)

    torch.save(model, tmp_path / "model.pt")
    for again in (
        copy.deepcopy(model),
        torch.load(tmp_path / "model.pt", weights_only=False),
        pickle.loads(pickle.dumps(model)),
    ):
        assert type(again[0]) is type(model[0]) and torch.equal(again[0].B, model[0].B)
    assert [type(module) for module in wtkit.export(model)] == [Square, nn.Tanh, Square]


def test_torchvisions_video_resnets_are_converted_whole():
    from torchvision.models.video import mc3_18, r3d_18

    for make in (r3d_18, mc3_18):
        model = wtkit.convert(make(num_classes=2), "feedback_alignment", normalisation="none")
        assert wtkit.transport(model, torch.randn(2, 3, 2, 8, 8), quiet=True).transported == ()
