"""Labelled images on disk, read and decoded one at a time; a pack of them is in ``packed.py``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WtkitError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
PARTS = ("train", "val")


class Images(ABC):
    """The images of one part of a set, each with its label."""

    labels: list[int]
    remedy: str  # for an image that is missing or damaged

    def __len__(self) -> int:
        return len(self.labels)

    def decoded(self, place: int) -> Tensor:
        """One image, (3, H, W) of uint8.

        Raises:
            WtkitError: naming the image, if it is missing or damaged.
        """
        try:
            return decode(self.read(place))
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0]
            raise WtkitError(
                f"cannot read the image {self.where(place)}: {reason}; {self.remedy}"
            ) from None

    @abstractmethod
    def read(self, place: int) -> bytes:
        """One image as it is stored."""

    @abstractmethod
    def where(self, place: int) -> str:
        """Where it is stored."""

    @abstractmethod
    def take(self, places: Sequence[int]) -> Images:
        """Those images alone, in that order."""


@dataclasses.dataclass(frozen=True)
class Files(Images):
    """Images that are files of their own."""

    paths: list[Path]
    labels: list[int]
    remedy: str = "replace or remove it"

    def read(self, place: int) -> bytes:
        return self.paths[place].read_bytes()

    def where(self, place: int) -> str:
        return str(self.paths[place])

    def take(self, places: Sequence[int]) -> Files:
        return Files([self.paths[i] for i in places], [self.labels[i] for i in places])


def decode(data: bytes) -> Tensor:
    """(3, H, W) of uint8, channels last in memory: for that, resizing has its fastest kernels.

    Raises:
        OSError: if ``data`` are no whole image of 8 bits a channel.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError
    from simplejpeg import decode_jpeg, decode_jpeg_header

    # the pixels that Pillow gives, in three quarters of its time; what it refuses is Pillow's to
    # read or to explain
    with contextlib.suppress(ValueError):
        # of four inks it makes other colours
        if decode_jpeg_header(data)[2] in ("RGB", "YCbCr", "Gray"):
            return torch.from_numpy(decode_jpeg(data)).permute(2, 0, 1)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip these
                raise OSError(f"its mode is {image.mode}, expected 8 bits a channel")
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except UnidentifiedImageError:
        raise OSError("it is no image") from None
    except SyntaxError as error:  # what Pillow calls a broken PNG
        raise OSError(str(error)) from None


def folder_classes(root: Path, how: str) -> list[str]:
    """The classes of ``root/train/<class>/`` and ``root/val/<class>/``, sorted; ``how`` says how to
    get them."""
    classes, held_out = (
        sorted(p.name for p in root.glob(f"{part}/[!.]*") if p.is_dir()) for part in PARTS
    )
    if not classes or not held_out:
        raise WtkitError(f"no images in {root}/: expected train/<class>/ and val/<class>/; {how}")
    for name in sorted({*classes} ^ {*held_out}):
        there, missing = PARTS if name in classes else PARTS[::-1]
        raise WtkitError(
            f"{root / there / name} has no counterpart in {root / missing}; make it, or remove this"
        )
    return classes


def folder(root: Path, classes: list[str], chosen: dict[int, int]) -> tuple[Files, Files]:
    """For training and held out: the images of the ``chosen`` ones of ``classes``, class by
    class."""
    parts = []
    for part in PARTS:
        paths: list[Path] = []
        labels: list[int] = []
        for place, label in chosen.items():
            where = root / part / classes[place]
            found = [path for path in sorted(where.rglob("*")) if path.suffix.lower() in SUFFIXES]
            if not found:
                raise WtkitError(
                    f"no images in {where}/: expected {', '.join(SUFFIXES)}; add some or remove it"
                )
            paths += found
            labels += [label] * len(found)
        parts.append(Files(paths, labels))
    return parts[0], parts[1]
