"""ResNets as torchvision has them, with the order of BatchNorm and ReLU and the stem to choose."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from .config import NORM_ORDERS, RESNETS, STEMS
from .settings import known


def build(
    network: str = "resnet18", *, num_classes: int = 1000, norm_order: str = "relu_bn", stem: str = "imagenet"
) -> ResNet:
    """A ResNet with torchvision's module names, parameter shapes and initialisation.

    Args:
        network: one of :data:`wtkit.config.RESNETS`.
        norm_order: ``bn_relu``, torchvision's own network; or ``relu_bn``, the paper's variant (Sec. 6, App. D.3).
            The text says "BatchNorm after the ReLU" and no more, so the rest is our choice: every convolution, those
            of the stem and the shortcut included, is followed by ReLU and then BatchNorm, and the residual sum comes
            last, with no ReLU behind it.
        stem: ``imagenet``, a 7×7 convolution of stride 2 and pooling; ``small``, a 3×3 convolution and no pooling, for
            images of about 32 pixels.

    Returns:
        a network from images (N, 3, H, W) to logits (N, num_classes).

    Raises:
        WtkitError: for a value that is none of these.
    """
    kind, depths = RESNETS[known(network, RESNETS, "network")]
    known(stem, STEMS, "stem")
    architecture, blocks = KINDS[known(norm_order, NORM_ORDERS, "norm_order")]
    model = architecture(blocks[kind], list(depths), num_classes)
    if stem == "small":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


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


class ReluBnResNet(ResNet):
    """A ResNet whose stem, too, has its BatchNorm behind the ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.relu(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


KINDS: dict[str, tuple[type[ResNet], dict[str, type[BasicBlock | Bottleneck]]]] = {
    "bn_relu": (ResNet, {"basic": BasicBlock, "bottleneck": Bottleneck}),
    "relu_bn": (ReluBnResNet, {"basic": ReluBnBasicBlock, "bottleneck": ReluBnBottleneck}),
}
"""What each norm order builds its network and its blocks from."""


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    if block.downsample is None:
        return x
    convolution, norm = block.downsample
    return norm(block.relu(convolution(x)))
