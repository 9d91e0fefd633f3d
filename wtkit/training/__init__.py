"""One run: its loop, checkpoints and records."""

from ..arguments import check_arguments
from .loop import train
from .machine import enough_memory, find_device, keep_memory
from .precision import precision_warning, slowdown
from .preparation import convert_all, make_optimizer, transport_of
from .provenance import cpu_name, describe_provenance
from .recorder import Recorder
from .run import PRECISIONS, Run
from .stored import write_checkpoint

__all__ = [
    "PRECISIONS",
    "Recorder",
    "Run",
    "convert_all",
    "cpu_name",
    "describe_provenance",
    "enough_memory",
    "find_device",
    "keep_memory",
    "make_optimizer",
    "precision_warning",
    "slowdown",
    "train",
    "transport_of",
    "write_checkpoint",
]

check_arguments(globals())
