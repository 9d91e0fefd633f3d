"""Labelled images on disk, read one at a time: files in folders, or a pack of them."""

from ..arguments import check_arguments
from .files import PARTS, Files, Images, decode
from .folders import Passed, images_in, note_on
from .packed import open_pack
from .packing import pack
from .stored import stored_images

__all__ = [
    "PARTS",
    "Files",
    "Images",
    "Passed",
    "decode",
    "images_in",
    "note_on",
    "open_pack",
    "pack",
    "stored_images",
]

check_arguments(globals())
