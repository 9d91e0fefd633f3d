"""The feedback path: layers that send their error signal through B, and how well B aligns with W.

:func:`convert` gives any network such layers, and :func:`export` takes them out again.
:func:`mirror` takes mirror steps. :func:`matrix_angles` and :func:`delta_angles` measure the
alignment.

In reading order: :mod:`~wtkit.feedback.maps`, the three maps of a layer;
:mod:`~wtkit.feedback.engaged`, its forward and backward pass; :mod:`~wtkit.feedback.layers`, the
layers; :mod:`~wtkit.feedback.parts`, layers whose weights another module holds, such as those of
:mod:`~wtkit.feedback.attention`, :mod:`~wtkit.feedback.recurrent` and
:mod:`~wtkit.feedback.windows`, which :mod:`~wtkit.feedback.owners` lists;
:mod:`~wtkit.feedback.choosing`, :mod:`~wtkit.feedback.initial` and
:mod:`~wtkit.feedback.conversion`, which layers are converted and how;
:mod:`~wtkit.feedback.follow`, how B learns in engaged mode; :mod:`~wtkit.feedback.law` and
:mod:`~wtkit.feedback.strays`, how it is noticed that B does not follow W;
:mod:`~wtkit.feedback.mirroring`, how it learns in mirror mode; :mod:`~wtkit.feedback.angles`;
:mod:`~wtkit.feedback.graph`, which layer feeds which.
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
from .choosing import as_patterns, convertible
from .conversion import convert, export
from .engaged import deltas_of_backprop
from .graph import blocks_of, fed_layers
from .layers import FeedbackConv2d, FeedbackLayer, FeedbackLinear, feedback_layers, unwrap
from .maps import ConvMaps
from .mirroring import as_mirrored, mirror, mirror_step, noise_samples

__all__ = [
    "ConvMaps",
    "FeedbackConv2d",
    "FeedbackLayer",
    "FeedbackLinear",
    "angle",
    "as_mirrored",
    "as_patterns",
    "blocks_of",
    "convert",
    "convertible",
    "delta_angles",
    "delta_statistics",
    "deltas_of_backprop",
    "export",
    "fed_layers",
    "feedback_layers",
    "feedback_norm_ratios",
    "find_live_taps",
    "live_shares",
    "matrix_angles",
    "mirror",
    "mirror_step",
    "noise_samples",
    "undisturbed",
    "unwrap",
    "weight_norms",
]
