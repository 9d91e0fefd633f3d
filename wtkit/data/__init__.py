"""The data sets: held in memory or streamed, from files or from a pack."""

from .base import Batch, Data, check_batch
from .images import PARTS, decode
from .memory import InMemory, chosen_classes
from .packed import is_pack, open_pack
from .packing import pack
from .sets import fetch, load, stored_images
from .streamed import Streamed

__all__ = [
    "PARTS",
    "Batch",
    "Data",
    "InMemory",
    "Streamed",
    "check_batch",
    "chosen_classes",
    "decode",
    "fetch",
    "is_pack",
    "load",
    "open_pack",
    "pack",
    "stored_images",
]
