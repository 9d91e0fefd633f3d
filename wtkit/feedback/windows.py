"""torchvision's attention in shifted windows, which itself multiplies by its layers' weights.

torchvision's function calls ``F.linear`` with ``self.qkv.weight``. Here the layer is called
instead.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import cached
from torch.overrides import TorchFunctionMode
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from .layers import FeedbackLayer
from .parts import Owner


class _ThroughLayers(TorchFunctionMode):
    """Within this context, ``F.linear`` with the weight of one of ``layers`` calls that layer.

    Windows are parts of examples, so the layer gets their positions as its own: (examples, windows
    · positions, features).
    """

    def __init__(self, layers: Iterable[FeedbackLayer], examples: int) -> None:
        super().__init__()
        self.layers = [(layer.weight, layer) for layer in layers]
        self.examples = examples

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.linear:
            y, W, bias = _linear_arguments(*args, **kwargs)
            for weight, layer in self.layers:
                if weight is W:
                    return self._called(layer, y, bias)
        return func(*args, **kwargs)

    def _called(self, layer: FeedbackLayer, y: Tensor, bias: Tensor | None) -> Tensor:
        rows = y.reshape(self.examples, -1, y.shape[-1])
        weights = layer.ready(rows)
        if bias is not layer.bias:  # version 2 clears a part of it
            bias = None if bias is None else bias.to(weights.dtype)
            weights = weights._replace(bias=bias)
        return layer(rows, weights=weights).view(*y.shape[:-1], -1)


def _linear_arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


class _Windows(Owner):
    """The common part of all versions; the layers are ``qkv`` and ``proj``."""

    def forward(self, x: Tensor) -> Tensor:
        """As in the plain module: (N, height, width, features), of videos (N, frames, height,
        width, features), to the same shape."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        layers = [each for each in self.children() if isinstance(each, FeedbackLayer)]
        if all(layer.weight_parameter() is not None for layer in layers):
            with _ThroughLayers(layers, len(x)):
                return super().forward(x)
        with cached(), _ThroughLayers(layers, len(x)):  # a computed W is one tensor all along
            return super().forward(x)


class FeedbackWindowAttention(_Windows, ShiftedWindowAttention):
    """``ShiftedWindowAttention`` with a feedback path."""

    plain = ShiftedWindowAttention


class FeedbackWindowAttentionV2(_Windows, ShiftedWindowAttentionV2):
    """``ShiftedWindowAttentionV2`` with a feedback path."""

    plain = ShiftedWindowAttentionV2

    @classmethod
    def refuses_direct(cls, module: nn.Module) -> tuple[list[str], str] | None:
        return ["cpb_mlp"], (
            "has layers that see positions of a window and no examples, so no example's δ of the "
            "output layer belongs to them"
        )


class FeedbackWindowAttention3d(_Windows, ShiftedWindowAttention3d):
    """``ShiftedWindowAttention3d``, of videos, with a feedback path."""

    plain = ShiftedWindowAttention3d


TWINS: tuple[type[Owner], ...] = (
    FeedbackWindowAttention,
    FeedbackWindowAttentionV2,
    FeedbackWindowAttention3d,
)
