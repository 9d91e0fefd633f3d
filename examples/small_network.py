"""The small convolutional network of Webster, Choi & Ahn (2021) for 32-pixel images, by which
config/cifar10_small.yaml compares direct feedback with their figures."""

from torch import nn


class SmallNetwork(nn.Sequential):
    """Two 3×3 convolutions with BatchNorm before the ReLU, max pooling by 2, and two fully
    connected layers. 814,506 parameters with 10 classes.

    >>> import torch
    >>> SmallNetwork(10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(32 * 14 * 14, 128), nn.ReLU(),
            nn.Linear(128, num_classes),
        )  # fmt: skip
