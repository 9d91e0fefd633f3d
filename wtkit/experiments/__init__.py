"""What a run is, and how an experiment file becomes runs. Imports no torch."""

from .choices import (
    CLASSES,
    DATA_SETS,
    MLP,
    NORM_ORDERS,
    OLD_SETTINGS,
    RESNETS,
    SIZES,
    STEMS,
    TORCHVISION,
    ResNetOptions,
)
from .facts import Facts, known_facts, split
from .file import expand
from .reading import is_ablation
from .run import NUMERICS, RunConfig, as_argument, decay_exponent, learning_rate, run_config

__all__ = [
    "CLASSES",
    "DATA_SETS",
    "MLP",
    "NORM_ORDERS",
    "NUMERICS",
    "OLD_SETTINGS",
    "RESNETS",
    "SIZES",
    "STEMS",
    "TORCHVISION",
    "Facts",
    "ResNetOptions",
    "RunConfig",
    "as_argument",
    "decay_exponent",
    "expand",
    "is_ablation",
    "known_facts",
    "learning_rate",
    "run_config",
    "split",
]
