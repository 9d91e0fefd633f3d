"""Labelled images on disk, read one at a time: files in folders, or a pack of them."""

from .files import PARTS, Files, Images, decode
from .packed import open_pack
from .packing import pack
from .stored import stored_images

__all__ = ["PARTS", "Files", "Images", "decode", "open_pack", "pack", "stored_images"]
