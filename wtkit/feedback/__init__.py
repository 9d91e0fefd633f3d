"""The feedback path: layers that send δ through B, and measures of how well B aligns with W.

:func:`convert` gives any network such layers, and :func:`export` takes them out again.
:func:`mirror` takes mirror steps. :func:`matrix_angles` and :func:`delta_angles` measure the
alignment. :func:`transport` lists the weights that δ passes.

In reading order: :mod:`~wtkit.feedback.maps`, the three maps of a layer;
:mod:`~wtkit.feedback.engaged`, its forward and backward passes; :mod:`~wtkit.feedback.layers`, the
layers; :mod:`~wtkit.feedback.normalisation`, the scales of normalisations;
:mod:`~wtkit.feedback.parts`, layers whose weights another module holds, such as those of
:mod:`~wtkit.feedback.attention`, :mod:`~wtkit.feedback.recurrent` and
:mod:`~wtkit.feedback.windows`, which :mod:`~wtkit.feedback.owners` lists;
:mod:`~wtkit.feedback.choosing`, :mod:`~wtkit.feedback.initial` and
:mod:`~wtkit.feedback.conversion`, which layers are converted and how;
:mod:`~wtkit.feedback.follow`, how B learns in engaged mode; :mod:`~wtkit.feedback.law` and
:mod:`~wtkit.feedback.strays`, checks that B follows W; :mod:`~wtkit.feedback.mirroring`, how B
learns in mirror mode; :mod:`~wtkit.feedback.angles`; :mod:`~wtkit.feedback.graph`, which layer
feeds which; :mod:`~wtkit.feedback.origins`, :mod:`~wtkit.feedback.transporting`,
:mod:`~wtkit.feedback.report` and :mod:`~wtkit.feedback.strict`, which weights δ passes.
"""

from ..arguments import check_arguments
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
from .convolution_maps import ConvMaps, TransposedMaps
from .convolutions import (
    FeedbackConv1d,
    FeedbackConv2d,
    FeedbackConv3d,
    FeedbackConvTranspose1d,
    FeedbackConvTranspose2d,
    FeedbackConvTranspose3d,
)
from .declared import register
from .engaged import deltas_of_backprop, twice_differentiable
from .graph import blocks_of, fed_layers
from .inputs import say_who_refused
from .layers import FeedbackLayer, FeedbackLinear, feedback_layers, unwrap
from .maps import Maps
from .mirroring import as_mirrored, mirror, mirror_step, noise_samples
from .normalisation import FeedbackScale, ScaleMaps, synchronise
from .report import Transport
from .transporting import transport

__all__ = [
    "ConvMaps",
    "FeedbackConv1d",
    "FeedbackConv2d",
    "FeedbackConv3d",
    "FeedbackConvTranspose1d",
    "FeedbackConvTranspose2d",
    "FeedbackConvTranspose3d",
    "FeedbackLayer",
    "FeedbackLinear",
    "FeedbackScale",
    "Maps",
    "ScaleMaps",
    "Transport",
    "TransposedMaps",
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
    "register",
    "synchronise",
    "transport",
    "twice_differentiable",
    "undisturbed",
    "unwrap",
    "weight_norms",
]

check_arguments(globals(), say_who_refused)
