"""Inputs of a converted layer: what torch refuses, it refuses; the rest it takes or names."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

import wtkit
from wtkit.methods import names

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
