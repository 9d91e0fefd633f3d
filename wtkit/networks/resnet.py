"""ResNets: torchvision's at any width, and He et al.'s for CIFAR, with a choice of the order of
BatchNorm and ReLU."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..experiments import NORM_ORDERS, RESNETS, STEMS
from ..validation import at_least, known


def build_resnet(
    network: str = "resnet18",
    *,
    num_classes: int = 1000,
    norm_order: str = "relu_bn",
    stem: str = "imagenet",
    width: int | None = None,
) -> ResNet:
    """A ResNet with torchvision's module names, parameter shapes and initialisation.

    Args:
        network: one of :data:`wtkit.experiments.RESNETS`. ``resnet20`` and ``resnet56`` are the
            CIFAR networks of He et al. (2016, Sec. 4.2): three stages, and shortcuts without
            weights.
        num_classes: the number of logits.
        norm_order: ``bn_relu``, torchvision's own network; or ``relu_bn``, the paper's variant
            (Sec. 6, App. D.3). The paper says "BatchNorm after the ReLU" and no more; the rest is
            our choice: ReLU and then BatchNorm follow every convolution, including those of the
            stem and the shortcut, and the residual sum comes last, with no ReLU after it.
        stem: ``imagenet``, a 7×7 convolution of stride 2 and pooling; ``small``, a 3×3 convolution
            and no pooling, for images of about 32 pixels. The CIFAR networks always have a small
            one.
        width: channels of the first stage; None for the network's own, 64 for torchvision's.

    Returns:
        a network from images (N, 3, H, W) to logits (N, num_classes).

    Raises:
        WtkitError: for an unknown network, stem or norm order, and for numbers below 1.

    Example:
        >>> sum(p.numel() for p in build_resnet("resnet20", num_classes=10).parameters())
        269722
    """
    architecture = RESNETS[known(network, RESNETS, "network")]
    known(stem, STEMS, "stem")
    known(norm_order, NORM_ORDERS, "norm_order")
    width = architecture.width if width is None else width
    at_least(num_classes, 1, "build_resnet: num_classes")
    at_least(width, 1, "build_resnet: width")
    model = ResNet(
        BLOCKS[norm_order][architecture.block],
        architecture.depths,
        num_classes=num_classes,
        width=width,
        relu_first=norm_order == "relu_bn",
        of_cifar=architecture.of_cifar,
    )
    if stem == "small" and not architecture.of_cifar:
        model.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
        _initialise(model.conv1)
        model.maxpool = nn.Identity()
    return model


class ResNet(nn.Module):
    """A stem, stages of residual blocks, pooling, and a Linear layer.

    Each stage but the first halves the map and doubles the channels.

    Shapes: images (N, 3, H, W) to logits (N, num_classes). Modules have torchvision's names.

    Args:
        block: the class of the residual blocks.
        depths: blocks in each stage.
        num_classes: the number of logits.
        width: channels of the first stage, before a bottleneck's expansion.
        relu_first: whether the stem's ReLU comes before its BatchNorm.
        of_cifar: whether the stem is a 3×3 convolution without pooling, and the shortcuts have no
            weights.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        *,
        num_classes: int,
        width: int = 64,
        relu_first: bool = False,
        of_cifar: bool = False,
    ) -> None:
        super().__init__()
        self.relu_first, self.stages = relu_first, len(depths)
        kernel, stride = (3, 1) if of_cifar else (7, 2)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = (
            nn.Identity() if of_cifar else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        )
        inputs = width
        for number, depth in enumerate(depths):
            channels = width * 2**number
            stage = _stage(
                block, inputs, channels, depth, stride=1 if number == 0 else 2, of_cifar=of_cifar
            )
            self.add_module(f"layer{number + 1}", stage)
            inputs = channels * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.bn1(self.relu(x)) if self.relu_first else self.relu(self.bn1(x))
        x = self.maxpool(x)
        for number in range(self.stages):
            x = getattr(self, f"layer{number + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def _stage(
    block: type[BasicBlock | Bottleneck],
    inputs: int,
    channels: int,
    depth: int,
    *,
    stride: int,
    of_cifar: bool,
) -> nn.Sequential:
    """``depth`` blocks. The first has the stride, and its own shortcut if the shape changes."""
    outputs = channels * block.expansion
    shortcut: nn.Module | None = None
    if of_cifar and stride != 1:
        shortcut = Subsampled(outputs, stride)
    elif stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first = block(inputs, channels, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, channels) for _ in range(1, depth)))


def _initialise(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


class Subsampled(nn.Module):
    """He et al.'s shortcut without weights: every ``stride``-th position, and zeros for the new
    channels.

    Shapes: (N, in, H, W) to (N, ``channels``, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        new = self.channels - x.shape[1]
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, new // 2, new - new // 2)
        )


class ReluBnBasicBlock(BasicBlock):
    """Two convolutions, each followed by ReLU and BatchNorm; then the sum."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.relu(self.conv1(x)))
        out = self.bn2(self.relu(self.conv2(out)))
        return out + _shortcut(self, x)


class ReluBnBottleneck(Bottleneck):
    """Three convolutions, each followed by ReLU and BatchNorm; then the sum."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.relu(self.conv1(x)))
        out = self.bn2(self.relu(self.conv2(out)))
        out = self.bn3(self.relu(self.conv3(out)))
        return out + _shortcut(self, x)


BLOCKS: dict[str, dict[str, type[BasicBlock | Bottleneck]]] = {
    "bn_relu": {"basic": BasicBlock, "bottleneck": Bottleneck},
    "relu_bn": {"basic": ReluBnBasicBlock, "bottleneck": ReluBnBottleneck},
}
"""The residual blocks of each norm order."""


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    if block.downsample is None:
        return x
    if isinstance(block.downsample, Subsampled):
        return block.downsample(x)
    convolution, norm = block.downsample
    return norm(block.relu(convolution(x)))
