"""A run's images: held in memory or streamed, split, augmented and shared between ranks."""

from ..arguments import check_arguments
from .base import Batch, Data, check_batch
from .loading import count, fetch, load
from .memory import InMemory, chosen_classes
from .streamed import Streamed

__all__ = [
    "Batch",
    "Data",
    "InMemory",
    "Streamed",
    "check_batch",
    "chosen_classes",
    "count",
    "fetch",
    "load",
]

check_arguments(globals())
