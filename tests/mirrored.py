"""What the tests of mirror methods share."""

import torch
from contract import array
from torch import nn

import wtkit
from wtkit.feedback import as_mirrored


def mirrored_layer(method, fan_in=30, out=12, **options):
    """A linear layer in float64, converted to ``method``."""
    torch.manual_seed(3)
    return wtkit.convert(nn.Linear(fan_in, out).double(), method, seed=1, **options)


def fired(mirrored):
    """The noise of the next mirror step, (groups, samples, inputs), drawn here by itself."""
    view = as_mirrored(mirrored)
    shape = (view.groups, mirrored.method.samples, view.inputs)
    generator = view.stream("noise", view.step)
    return array(torch.empty(shape, dtype=view.dtype).normal_(generator=generator))
