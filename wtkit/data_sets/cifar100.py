"""CIFAR-100, as torchvision has it."""

import functools

from .base import DataSet
from .cifar10 import fetch, read

DATA_SET = DataSet(
    label="CIFAR-100",
    read=functools.partial(read, "CIFAR100", 100),
    image_size=32,
    classes=100,
    training=50_000,
    held_out=10_000,
    fetch=functools.partial(fetch, "CIFAR100"),
)
