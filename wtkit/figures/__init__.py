"""Figures and tables of recorded results. Imports no torch.

:mod:`wtkit.figures.ablation` draws ablations, and :mod:`wtkit.figures.circuits` the two schematics.
"""

from . import ablation, circuits
from .angle_curves import angle_columns, angle_grid, angle_note, angles, layer_bar
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
    "circuits",
    "layer_bar",
    "look_of",
    "method_legend",
    "norm_order",
    "save_figure",
    "save_table",
    "set_style",
    "style_verdicts",
    "test_error",
]
