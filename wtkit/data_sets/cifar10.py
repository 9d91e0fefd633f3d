"""CIFAR-10, as torchvision has it."""

import functools
import shlex

from ..errors import WtkitError
from .base import DataSet, Reading, Wanted


def read(kind: str, classes: int, wanted: Wanted) -> Reading:
    """CIFAR10 or CIFAR100, which torchvision keeps as whole arrays."""
    import torch
    import torchvision

    def part(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        images = getattr(torchvision.datasets, kind)(wanted.root, train=train)
        pixels = torch.from_numpy(images.data).permute(0, 3, 1, 2)
        return pixels, torch.tensor(images.targets)

    try:
        return Reading(part(train=True), part(train=False), classes)
    except (RuntimeError, OSError, ValueError, EOFError):  # missing, or not readable
        name = kind.lower()
        raise WtkitError(
            f"no {name} in {wanted.root}/; fetch it with: "
            f"wtkit data {name} --data-root {shlex.quote(str(wanted.root))}"
        ) from None


def fetch(kind: str, root: str) -> None:
    import torchvision

    getattr(torchvision.datasets, kind)(root, download=True)


DATA_SET = DataSet(
    label="CIFAR-10",
    read=functools.partial(read, "CIFAR10", 10),
    image_size=32,
    classes=10,
    training=50_000,
    held_out=10_000,
    fetch=functools.partial(fetch, "CIFAR10"),
)
