"""The feedback path: layers whose error signal has a path of its own, and how well it agrees with
W.

:func:`convert` gives any network such layers. :func:`mirror` takes mirror steps.
:func:`matrix_angles` and :func:`delta_angles` measure the alignment.
"""

from .angles import (
    angle,
    delta_angles,
    delta_statistics,
    feedback_norm_ratios,
    find_live_taps,
    live_shares,
    matrix_angles,
    undisturbed,
    weight_norms,
)
from .conversion import as_patterns, convert, convertible, export
from .engaged import deltas_of_backprop
from .layers import FeedbackConv2d, FeedbackLayer, FeedbackLinear, feedback_layers
from .maps import ConvMaps
from .mirroring import hebbian, learns_mirror, mirror, mirror_step, noise_samples

__all__ = [
    "ConvMaps",
    "FeedbackConv2d",
    "FeedbackLayer",
    "FeedbackLinear",
    "angle",
    "as_patterns",
    "convert",
    "convertible",
    "delta_angles",
    "delta_statistics",
    "deltas_of_backprop",
    "export",
    "feedback_layers",
    "feedback_norm_ratios",
    "find_live_taps",
    "hebbian",
    "learns_mirror",
    "live_shares",
    "matrix_angles",
    "mirror",
    "mirror_step",
    "noise_samples",
    "undisturbed",
    "weight_norms",
]
