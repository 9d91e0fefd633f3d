"""A layer's weights as methods see them: outputs first.

A method gets W as (outputs, inputs of one neuron, ...), the shape in ``nn.Linear`` and
``nn.Conv2d``. The weights of other kinds of layer are rearranged: one row for each neuron.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .maps import Maps


def has_rows(maps: Maps, W: Tensor) -> bool:
    """Whether W has the outputs first, and the weights of one neuron after another."""
    probe = W if W.is_contiguous() else torch.empty(W.shape, device="meta")
    matrices = maps.matrices(probe)
    groups, outputs, _ = matrices.shape
    is_view = matrices.untyped_storage()._cdata == probe.untyped_storage()._cdata
    return is_view and matrices.is_contiguous() and groups * outputs == len(W)


def rows(maps: Maps, W: Tensor) -> Tensor:
    """W with the outputs first: W itself, or (neurons, inputs of one neuron)."""
    return W if has_rows(maps, W) else maps.matrices(W).flatten(0, 1)


def from_rows(maps: Maps, given: Tensor, W: Tensor) -> Tensor:
    """``given`` in the shape of W, if it has that of :func:`rows`, as a tensor of its own.

    >>> from wtkit.feedback.convolution_maps import TransposedMaps
    >>> maps, W = TransposedMaps((1,), (0,), (0,), (1,), 1), torch.randn(2, 3, 4)
    >>> bool((from_rows(maps, rows(maps, W), W) == W).all())
    True
    """
    numbers = torch.arange(W.numel(), device=given.device).reshape(W.shape)
    order = maps.matrices(numbers).flatten()
    flat = torch.empty_like(given.flatten())
    flat[order] = given.flatten()
    return flat.reshape(W.shape)
