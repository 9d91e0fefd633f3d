"""Labelled images on disk, read and decoded one at a time; a pack of them is in ``packed.py``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import textwrap
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WtkitError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""As Pillow calls them. It tries no others: some of its decoders start other programs."""
MAX_PIXELS = 89_478_485
"""Of an image, before it is decoded: a quarter of a gigabyte, where Pillow begins to warn."""
PARTS = ("train", "val")


class Images(ABC):
    """The images of one part of a set, each with its label."""

    labels: list[int]
    remedy: str  # for an image that is missing or damaged
    note: str = ""  # on files that were passed over

    def __len__(self) -> int:
        return len(self.labels)

    def decoded(self, place: int) -> Tensor:
        """One image, (3, H, W) of uint8.

        Raises:
            WtkitError: naming the image, if it is missing or damaged.
        """
        try:
            return decode(self.read(place))
        except Exception as error:  # a decoder can raise anything
            strerror = getattr(error, "strerror", None)
            reason = strerror or textwrap.shorten(str(error) or type(error).__name__, 160)
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
    note: str = ""

    def read(self, place: int) -> bytes:
        path = self.paths[place]
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("it is a folder, a pipe or a device")
        return path.read_bytes()

    def where(self, place: int) -> str:
        return str(self.paths[place])

    def take(self, places: Sequence[int]) -> Files:
        return Files([self.paths[i] for i in places], [self.labels[i] for i in places])


def decode(data: bytes) -> Tensor:
    """(3, H, W) of uint8, channels last in memory: for that, resizing has its fastest kernels.

    Raises:
        OSError: if ``data`` are no whole image of 8 bits a channel in one of the formats
            JPEG, PNG, WebP and GIF, or have more than :data:`MAX_PIXELS` pixels. That is known from
            the header, before anything is decoded. A damaged image can raise other errors.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError
    from simplejpeg import decode_jpeg, decode_jpeg_header

    # the pixels that Pillow gives, in three quarters of its time; what it refuses is Pillow's to
    # read or to explain
    with contextlib.suppress(ValueError):
        height, width, colours, _ = decode_jpeg_header(data)
        _check_size(width, height)
        # of four inks it makes other colours
        if colours in ("RGB", "YCbCr", "Gray"):
            return torch.from_numpy(decode_jpeg(data)).permute(2, 0, 1)
    try:
        with warnings.catch_warnings():
            # Pillow's own limits come after ours
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                if image.mode.startswith(("I", "F")):  # Pillow would clip these
                    raise OSError(f"its mode is {image.mode}, expected 8 bits a channel")
                return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except UnidentifiedImageError:
        raise OSError(f"it is no image in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise OSError(_too_large()) from None
    except SyntaxError as error:  # what Pillow calls a broken PNG
        raise OSError(str(error)) from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise OSError(f"it has {width:,} × {height:,} pixels; {_too_large()}")


def _too_large() -> str:
    return f"images of up to {MAX_PIXELS:,} pixels are read, so shrink it"
