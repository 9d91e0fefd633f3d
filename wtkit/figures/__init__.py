"""Figures and tables of recorded results. Imports no torch.

:mod:`wtkit.figures.ablation` draws ablations, and :mod:`wtkit.figures.circuits` the two schematics.
"""

from ..arguments import check_arguments
from ..errors import imports_of
from ..results import say_what_is_missing

with imports_of("figures"):  # before the files of this folder, which import them, too
    import matplotlib as _matplotlib  # noqa: F401
    import seaborn as _seaborn  # noqa: F401

from . import ablation, circuits
from .angle_curves import angle_columns, angle_grid, angle_note, angles, layer_bar
from .baselines import best_so_far, comparison, error_against_trials, own_best, shared_best, trials
from .error_curves import method_legend, norm_order, test_error
from .looks import GREY, LAYER_COLORS, LOOKS, look_of, set_style
from .saving import save_figure, save_table
from .verdicts import VERDICTS, style_verdicts

__all__ = [
    "GREY",
    "LAYER_COLORS",
    "LOOKS",
    "VERDICTS",
    "ablation",
    "angle_columns",
    "angle_grid",
    "angle_note",
    "angles",
    "best_so_far",
    "circuits",
    "comparison",
    "error_against_trials",
    "layer_bar",
    "look_of",
    "method_legend",
    "norm_order",
    "own_best",
    "save_figure",
    "save_table",
    "set_style",
    "shared_best",
    "style_verdicts",
    "test_error",
    "trials",
]

check_arguments(globals(), say_what_is_missing)
