"""The networks: torchvision's own under bn_relu, the paper's order under relu_bn, and both
stems."""

import copy
import itertools

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.experiments import NORM_ORDERS, STEMS
from wtkit.feedback import feedback_layers
from wtkit.networks import Subsampled, build_resnet

SIZES = ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]


def images(size=32, count=6):
    return torch.randn(count, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize("network", SIZES)
def test_bn_relu_with_backprop_is_torchvisions(network):
    """Same outputs, and in training mode the same gradients and BatchNorm statistics, from the same
    weights."""
    plain = getattr(torchvision.models, network)(num_classes=7).double()
    model = build_resnet(network, num_classes=7, norm_order="bn_relu").double()
    model.load_state_dict(plain.state_dict(), strict=True)
    wtkit.convert(model, "backprop")
    inputs, targets = images(), torch.tensor([1, 5, 0, 2, 2, 6])
    for net in (plain, model):
        F.cross_entropy(net(inputs), targets).backward()
    for (name, found), (other, expected) in zip(
        model.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-8, atol=1e-10, msg=name)
    for name, found in model.named_buffers():
        torch.testing.assert_close(found, plain.get_buffer(name), rtol=1e-9, atol=1e-9, msg=name)
    torch.testing.assert_close(model.eval()(inputs), plain.eval()(inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
@pytest.mark.parametrize("network", SIZES)
def test_names_and_shapes_are_torchvisions(network, norm_order):
    with torch.device("meta"):
        expected = getattr(torchvision.models, network)(num_classes=10).state_dict()
        found = build_resnet(network, num_classes=10, norm_order=norm_order).state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert list(found) == list(expected)


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_initial_weights_are_torchvisions(norm_order):
    torch.manual_seed(3)
    expected = torchvision.models.resnet18(num_classes=10).state_dict()
    torch.manual_seed(3)
    found = build_resnet("resnet18", num_classes=10, norm_order=norm_order).state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("network", SIZES)
def test_width_scales_every_layer(network):
    """Width k has k/64 of torchvision's channels everywhere, and torchvision's names."""
    with torch.device("meta"):
        wide = getattr(torchvision.models, network)(num_classes=10).state_dict()
        narrow = build_resnet(network, num_classes=10, width=16).state_dict()
    assert list(narrow) == list(wide)
    for key, value in wide.items():
        fixed = (3, 10)  # colours and classes
        expected = [
            size if size in fixed or dim > 1 else size // 4 for dim, size in enumerate(value.shape)
        ]
        assert list(narrow[key].shape) == expected, key


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
@pytest.mark.parametrize(
    ("network", "depth", "millions"), [("resnet20", 3, 0.27), ("resnet56", 9, 0.85)]
)
def test_the_networks_for_cifar_are_he_et_als(network, depth, millions, norm_order):
    """6n + 2 layers with weights, n blocks in each of three stages of 16, 32 and 64 channels, and
    their parameters."""
    model = build_resnet(network, num_classes=10, norm_order=norm_order)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 6 * depth + 2
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    assert [
        stage[0].conv1.out_channels for stage in (model.layer1, model.layer2, model.layer3)
    ] == [16, 32, 64]
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [depth] * 3
    maps = model.layer3(
        model.layer2(model.layer1(model.maxpool(model.conv1(torch.zeros(2, 3, 32, 32)))))
    )
    assert maps.shape == (2, 64, 8, 8)


def test_a_shortcut_without_weights_takes_every_second_position_and_adds_zeros():
    x = torch.arange(2 * 4 * 5 * 5, dtype=torch.float64).view(2, 4, 5, 5)
    expected = torch.zeros(2, 8, 3, 3, dtype=torch.float64)
    expected[:, 2:6] = x[:, :, ::2, ::2]
    assert torch.equal(Subsampled(8, 2)(x), expected)


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_resnet20_is_what_its_weights_compute(norm_order):
    model = build_resnet("resnet20", num_classes=5, norm_order=norm_order).double().eval()
    state, x = model.state_dict(), images(count=2)
    for key in state:  # statistics that change something
        if "running" in key:
            state[key].uniform_(0.5, 1.5)

    def unit(x, conv, bn, stride=1):
        x = F.conv2d(x, state[f"{conv}.weight"], None, stride, 1)
        norm = [state[f"{bn}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        if norm_order == "relu_bn":
            return F.batch_norm(x.relu(), *norm)
        return F.batch_norm(x, *norm)

    after = torch.relu if norm_order == "bn_relu" else lambda x: x
    y = after(unit(x, "conv1", "bn1"))
    for stage, block in itertools.product((1, 2, 3), range(3)):
        key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        out = after(unit(y, f"{key}.conv1", f"{key}.bn1", stride))
        out = unit(out, f"{key}.conv2", f"{key}.bn2")
        if stride == 2:
            quarter = y.shape[1] // 2
            y = torch.cat(
                [
                    torch.zeros_like(out[:, :quarter]),
                    y[:, :, ::2, ::2],
                    torch.zeros_like(out[:, :quarter]),
                ],
                1,
            )
        y = after(out + y)
    expected = y.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def relu_bn_forward(state, x, stem):
    """The paper's order as documented, from the weights alone: convolution, ReLU, BatchNorm; the
    sum last."""

    def norm(x, key):
        mean, var = (state[f"{key}.running_{what}"].view(-1, 1, 1) for what in ("mean", "var"))
        weight, bias = (state[f"{key}.{what}"].view(-1, 1, 1) for what in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def unit(x, conv, bn, stride):
        kernel = state[f"{conv}.weight"]
        return norm(F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2).relu(), bn)

    x = unit(x, "conv1", "bn1", 1 if stem == "small" else 2)
    if stem == "imagenet":
        x = F.max_pool2d(x, 3, 2, 1)
    for layer in range(1, 5):
        block = 0
        while f"layer{layer}.{block}.conv1.weight" in state:
            key = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            shortcut = x
            if f"{key}.downsample.0.weight" in state:
                shortcut = unit(x, f"{key}.downsample.0", f"{key}.downsample.1", stride)
            if f"{key}.conv3.weight" in state:  # a bottleneck strides in its middle
                y = unit(
                    unit(x, f"{key}.conv1", f"{key}.bn1", 1), f"{key}.conv2", f"{key}.bn2", stride
                )
                y = unit(y, f"{key}.conv3", f"{key}.bn3", 1)
            else:
                y = unit(
                    unit(x, f"{key}.conv1", f"{key}.bn1", stride), f"{key}.conv2", f"{key}.bn2", 1
                )
            x = y + shortcut
            block += 1
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("network", SIZES)
def test_relu_bn_is_convolution_then_relu_then_batchnorm_with_the_sum_last(network, stem):
    model = build_resnet(network, num_classes=5, stem=stem).double().eval()
    # statistics, scales and shifts that are not 0 and 1
    for name, value in model.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            value.copy_(torch.rand(value.shape) + 0.5)
    inputs = images(8 if stem == "small" else 32)
    with torch.no_grad():
        torch.testing.assert_close(
            model(inputs), relu_bn_forward(model.state_dict(), inputs, stem), rtol=1e-9, atol=1e-9
        )


def test_relu_bn_is_the_default_and_differs():
    model = build_resnet("resnet18", num_classes=5, stem="small").eval()
    other = build_resnet("resnet18", num_classes=5, stem="small", norm_order="bn_relu").eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        x = torch.randn(1, 3, 8, 8)
        assert not torch.allclose(model(x), other(x))


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_small_stem_keeps_the_resolution(norm_order):
    model = build_resnet("resnet18", num_classes=5, norm_order=norm_order, stem="small").eval()
    sizes = []
    model.layer1.register_forward_hook(lambda _module, _inputs, out: sizes.append(tuple(out.shape)))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 5)
    assert sizes == [(1, 64, 16, 16)]
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    # He, fan out
    assert float(model.conv1.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("network", "layers"), [("resnet18", 21), ("resnet50", 54)])
def test_every_convolution_and_the_classifier_convert(network, layers):
    with torch.device("meta"):
        model = build_resnet(network)
    kinds = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(kinds) == layers
    names = list(feedback_layers(wtkit.convert(model, "backprop")))
    assert (len(names), names[0], names[-1]) == (layers, "conv1", "fc")


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_copies_and_exports(norm_order):
    model = wtkit.convert(
        build_resnet("resnet18", num_classes=5, stem="small", norm_order=norm_order), "backprop"
    ).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        torch.testing.assert_close(wtkit.export(model)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "resnet19"}, r"unknown network 'resnet19' \(did you mean 'resnet"),
        ({"norm_order": "relu_bm"}, r"unknown norm_order 'relu_bm' \(did you mean 'relu_bn'\?\)"),
        (
            {"stem": "smal"},
            r"unknown stem 'smal' \(did you mean 'small'\?\); accepted: imagenet, small",
        ),
    ],
)
def test_unknown_choices_are_named(settings, message):
    with pytest.raises(wtkit.WtkitError, match=message):
        build_resnet(**settings)
