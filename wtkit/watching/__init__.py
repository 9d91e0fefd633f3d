"""Watch runs while they train: what a run says of itself, and what an experiment's runs are at.

Reading never disturbs a run: nothing is locked and nothing is written. Imports no torch.
"""

from ..arguments import check_arguments
from .live import Live
from .progress import PROGRESS, Progress, read_progress
from .show import watch
from .status import Status, status

__all__ = [
    "PROGRESS",
    "Live",
    "Progress",
    "Status",
    "read_progress",
    "status",
    "watch",
]

check_arguments(globals())
