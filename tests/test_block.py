"""docs/block.svg shows what wtkit/networks/resnet.py does."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from wtkit.experiments import NORM_ORDERS
from wtkit.networks import build_resnet

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def block():
    spec = importlib.util.spec_from_file_location("block", DOCS / "block.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def word(module):
    if isinstance(module, nn.Conv2d):
        return "×".join(map(str, module.kernel_size))
    return {nn.BatchNorm2d: "BatchNorm", nn.ReLU: "ReLU"}[type(module)]


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
@pytest.mark.parametrize(
    ("kind", "network"), [("BasicBlock", "resnet18"), ("Bottleneck", "resnet50")]
)
def test_modules_are_called_in_the_order_that_is_drawn(kind, network, norm_order, block):
    path, shortcut = (words.split() for words in block.BLOCKS[kind, norm_order])
    total = path.index("+")
    net = build_resnet(network, num_classes=2, norm_order=norm_order).layer2[0]
    calls = []
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, *_: calls.append(word(module)))
    net(torch.zeros(2, net.conv1.in_channels, 4, 4))
    assert calls == path[:total] + shortcut + path[total + 1 :]


def test_the_figure_is_there_and_can_be_drawn_again(block, tmp_path):
    assert (DOCS / "block.svg").read_text().startswith("<?xml")
    block.figure().savefig(tmp_path / "block.svg")
