"""What wtkit knows of a data set: one record, which also reads the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from ..images import Images

    Part = tuple[Tensor, Tensor] | Images

# Nothing here imports torch, so that a configuration can be checked without it.


class Wanted(NamedTuple):
    """What a run asks of a data set.

    Attributes:
        root: the folder of data sets.
        size: height and width in pixels. Images of another size are resized after they are read.
        choose: from the number of classes of the data set, which to use and the label of each. A
            data set that gives tensors need not call it.
    """

    root: Path
    size: int
    choose: Callable[[int], dict[int, int]]


class Reading(NamedTuple):
    """What a data set gives.

    Attributes:
        train, held_out: each the images and labels as tensors, (N, 3, H, W) or (N, H, W) of uint8
            and (N,); or :class:`wtkit.images.Images`, which are decoded later.
        classes: how many there are among the labels.
    """

    train: Part
    held_out: Part
    classes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set.

    Attributes:
        label: how figures and tables call it.
        read: reads the images. If they are missing it raises WtkitError, which says where to get
            them, where to put them, and with which command.
        image_size: height and width in pixels, unless a run says otherwise.
        classes, training, held_out: how many classes, training images and held-out images it has.
            None if this is known only once it has been read.
        augment: the augmentation of images held in memory, unless a run says otherwise.
        streams: whether images of a size are decoded as they are needed; others are held in memory.
        fetch: downloads the data set into a folder. None if a person has to get it.
    """

    label: str
    read: Callable[[Wanted], Reading | tuple[Part, Part, int]]
    image_size: int
    classes: int | None = None
    training: int | None = None
    held_out: int | None = None
    augment: str = "crop_flip"
    streams: Callable[[int], bool] = lambda size: False
    fetch: Callable[[str], object] | None = None
