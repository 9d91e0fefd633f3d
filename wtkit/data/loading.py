"""From a run to its data: read, held in memory or streamed; and data sets fetched."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data_sets import Reading, Wanted, data_set
from ..errors import WtkitError
from ..experiments import RunConfig, split
from ..images import Images
from .base import Batch, Data, check_batch
from .memory import chosen_classes, in_memory
from .streamed import Streamed

if TYPE_CHECKING:
    from ..data_sets.base import Part


def load(config: RunConfig, device: torch.device | str = "cpu") -> Data:
    """The data set that ``config`` names, with its augmentation and its held-out part.

    Raises:
        WtkitError: if the data are missing (saying where to get them, where to put them, and the
            command), or an image cannot be decoded (naming it), or a batch is larger than the
            training set, or there is no such device.
    """
    try:
        target = torch.device(device)
    except RuntimeError:
        raise WtkitError(f"load: device: expected 'cpu' or 'cuda', got {device!r}") from None
    reading = _read(config)
    data = _fed(config, reading, target)
    data.note = getattr(reading.train, "note", "")
    check_batch(config, data.steps(1))
    if data.num_classes < 2 or len(data.held_out_examples(2)[0]) < 2:
        raise WtkitError(f"{config.data}: expected two classes and two held-out images at least")
    return data


def count(config: RunConfig) -> tuple[int, int, int]:
    """How many images a run trains on and holds out, and its classes. Decodes no image file."""
    reading = _read(config)
    if not isinstance(reading.train, Images) or not isinstance(reading.held_out, Images):
        data = _fed(config, reading, torch.device("cpu"))
        return data.steps(1), data.number_held_out, data.num_classes
    training, held_out = len(reading.train), len(reading.held_out)
    if config.evaluate_on == "validation":
        training, held_out = split(training)
    return training, held_out, reading.classes


def fetch(name: str, root: str) -> str:
    """Download a data set where that is allowed; returns a sentence that says where it is.

    Raises:
        WtkitError: if it cannot be downloaded; for a data set that a person has to get, if it is
            missing, saying how to get it.
    """
    about = data_set(name)
    if about.fetch is None:
        data = load(RunConfig(method="backprop", data=name, data_root=root, batch_size=2))
        return "\n".join(filter(None, [f"{name} is in place.", data.note]))
    try:
        about.fetch(root)
    except (OSError, RuntimeError) as error:  # RuntimeError is what a wrong checksum raises
        raise WtkitError(
            f"cannot put {name} into {root}/: {error}; check the folder and the connection and try "
            "again"
        ) from None
    return f"{name} is in {root}/."


def _size(config: RunConfig) -> int:
    return config.image_size or data_set(config.data).image_size


def _read(config: RunConfig) -> Reading:
    choose = functools.partial(chosen_classes, config)
    wanted = Wanted(Path(config.data_root), _size(config), choose)
    return Reading(*data_set(config.data).read(wanted))


def _fed(config: RunConfig, reading: Reading, device: torch.device) -> Data:
    about, size = data_set(config.data), _size(config)
    train, held_out, classes = reading
    if about.streams(size) and isinstance(train, Images) and isinstance(held_out, Images):
        return Streamed(config, device, train, held_out, classes, size=size)
    parts = [_held(part, size) for part in (train, held_out)]
    return in_memory(config, device, *parts, num_classes=classes, augment=about.augment)


def _held(part: Part, size: int) -> Batch:
    """All images of a part, (N, 3, size, size) of uint8, and their labels."""
    if isinstance(part, Images):
        return _decoded(part, size)
    images, labels = part
    if images.ndim == 3:  # grey
        images = images[:, None].expand(-1, 3, -1, -1)
    return _resized(images, size), labels


def _decoded(images: Images, size: int) -> Batch:
    from tqdm import tqdm

    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for i in tqdm(range(len(images)), "decoding images", disable=None, leave=False):
        pixels[i] = _resized(images.decoded(i)[None], size)[0]
    return pixels, torch.tensor(images.labels)


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images
    return (
        F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
        .round()
        .to(torch.uint8)
    )
