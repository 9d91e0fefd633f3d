"""What a run is, and how an experiment file becomes runs. Imports no torch."""

from ..arguments import check_arguments
from .choices import (
    LATER_SETTINGS,
    MLP,
    NORM_ORDERS,
    OLD_MLP_OPTIONS,
    OLD_SETTINGS,
    OWN_ORDER,
    RESNETS,
    STEMS,
    TORCHVISION,
    Positive,
    ResNetOptions,
    ViT,
    own_options,
)
from .facts import Facts, known_facts, split
from .file import expand
from .listing import list_methods
from .reading import is_ablation
from .run import NUMERICS, RunConfig, as_argument, from_argument, run_config
from .schedule import decay_exponent, learning_rate
from .schema import json_schema
from .sense import check_sense

__all__ = [
    "LATER_SETTINGS",
    "MLP",
    "NORM_ORDERS",
    "NUMERICS",
    "OLD_MLP_OPTIONS",
    "OLD_SETTINGS",
    "OWN_ORDER",
    "RESNETS",
    "STEMS",
    "TORCHVISION",
    "Facts",
    "Positive",
    "ResNetOptions",
    "RunConfig",
    "ViT",
    "as_argument",
    "check_sense",
    "decay_exponent",
    "expand",
    "from_argument",
    "is_ablation",
    "json_schema",
    "known_facts",
    "learning_rate",
    "list_methods",
    "own_options",
    "run_config",
    "split",
]

check_arguments(globals())
