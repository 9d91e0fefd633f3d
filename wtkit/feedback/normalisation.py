"""The scale γ of a normalisation, with a feedback path of its own.

A normalisation consists of two maps in sequence::

    x̂ = normalised x                       no weights; autograd sends δ back through it
    y = γ ∘ x̂ + β                          below: δ_x̂ = b ∘ δ_y, with b in place of γ

The first map uses statistics of activations. In the second, each δ is multiplied by a weight. So
the second map is a layer whose W is the diagonal matrix of γ; :class:`ScaleMaps` has its three
maps.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import methods
from ..errors import WtkitError
from ..methods import Method
from ..methods.base import NORMALISATIONS
from ..seeds import stream_seed
from ..validation import frozen, known
from .layers import FeedbackLayer, Weights
from .maps import Maps


class ScaleMaps(NamedTuple):
    """The maps of a scale. Shapes: y and δ have the same shape; W, M and bias have γ's.

    Attributes:
        first: the dimension of y that γ's first dimension belongs to: 1 if γ is per channel,
            negative if γ is over the last dimensions.
    """

    first: int

    def apply_weights(self, y: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        """γ ∘ y + β."""
        W = self._beside(y, W)
        return y * W if bias is None else torch.addcmul(self._beside(y, bias), y, W)

    def backward(
        self, delta: Tensor, y: Tensor, M: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """(M ∘ δ, Σ δ ∘ y, Σ δ), each only if ``needs`` says so; sums are over all elements that
        share a weight."""
        return (
            delta * self._beside(y, M) if needs[0] else None,
            self._total(delta * y, M) if needs[1] else None,
            self._total(delta, M) if needs[2] else None,
        )

    def matrices(self, W: Tensor) -> Tensor:
        """A diagonal is as many groups of one neuron with one input: (weights, 1, 1)."""
        return W.reshape(-1, 1, 1)

    def biases(self, bias: Tensor, W: Tensor) -> Tensor:
        return bias.reshape(-1, 1, 1)

    def fit(self, y: Tensor, W: Tensor) -> bool:
        """Whether y has a dimension of the right size for each of γ's."""
        return y.shape[self.first :][: W.dim()] == W.shape

    def _place(self, y: Tensor, W: Tensor) -> range:
        first = self.first % y.dim()
        return range(first, first + W.dim())

    def _beside(self, y: Tensor, W: Tensor) -> Tensor:
        """W in as many dimensions as y has."""
        place = self._place(y, W)
        return W.reshape(*[1] * place.start, *W.shape, *[1] * (y.dim() - place.stop))

    def _total(self, elements: Tensor, W: Tensor) -> Tensor:
        place = self._place(elements, W)
        shared = [dim for dim in range(elements.dim()) if dim not in place]
        return elements.sum(shared) if shared else elements


class FeedbackScale(FeedbackLayer):
    """The common part of the normalisations with a feedback path. :func:`wtkit.convert` makes
    them.

    Attributes:
        normalisation: the choice given to :func:`wtkit.convert`, one of :data:`NORMALISATIONS`.
    """

    is_scale: ClassVar[bool] = True
    normalisation: str

    @property
    def maps(self) -> ScaleMaps:  # type: ignore[override]
        return ScaleMaps(1)

    @abstractmethod
    def normalised(self, x: Tensor) -> Tensor:
        """x̂: the plain module's output without γ and β."""

    def send(self, y: Tensor) -> Tensor:
        if not self.maps.fit(y, self.weight):
            SCALE_PLAIN[type(self)].forward(self, y)  # raises torch's own error
        return self.engaged(self.normalised(y))

    def engaged(
        self, y: Tensor, weights: Weights | None = None, maps: Maps | None = None
    ) -> Tensor:
        if not torch.is_autocast_enabled(y.device.type) and y.dtype == self.weight.dtype:
            return super().engaged(y, weights, maps)
        # in γ's precision, as torch's own kernels have it, whatever autocast would take
        with torch.autocast(y.device.type, enabled=False):
            return super().engaged(y.to(self.weight.dtype), weights, maps).to(y.dtype)

    def initial_feedback(self) -> Tensor | None:
        return initial_of_scale(self.method, self.weight, self.seed)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, normalisation={self.normalisation}"


class _OfBatch(FeedbackScale):
    """BatchNorm of any dimension."""

    def normalised(self, x: Tensor) -> Tensor:
        norm: Any = self
        norm._check_input_dim(x)
        rate = 0.0 if norm.momentum is None else norm.momentum
        kept = norm.running_mean, norm.running_var
        if self.training and not norm.track_running_stats:
            kept = None, None
        elif self.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if norm.momentum is None:  # the mean of all batches
                rate = 1.0 / float(norm.num_batches_tracked)
        return F.batch_norm(x, *kept, None, None, self.training or kept[0] is None, rate, norm.eps)


class FeedbackBatchNorm1d(_OfBatch, nn.BatchNorm1d):  # type: ignore[misc]
    """``nn.BatchNorm1d`` whose scale has a feedback path."""


class FeedbackBatchNorm2d(_OfBatch, nn.BatchNorm2d):  # type: ignore[misc]
    """``nn.BatchNorm2d`` whose scale has a feedback path."""


class FeedbackBatchNorm3d(_OfBatch, nn.BatchNorm3d):  # type: ignore[misc]
    """``nn.BatchNorm3d`` whose scale has a feedback path."""


class FeedbackSyncBatchNorm(FeedbackScale, nn.SyncBatchNorm):  # type: ignore[misc]
    """``nn.SyncBatchNorm`` whose scale has a feedback path."""

    def normalised(self, x: Tensor) -> Tensor:
        with _without_affine(self):
            return nn.SyncBatchNorm.forward(self, x)


class _OfInstances(FeedbackScale):
    """InstanceNorm of any dimension."""

    def send(self, y: Tensor) -> Tensor:
        norm: Any = self
        if y.dim() == norm._get_no_batch_dim():  # one example without a batch dimension
            return self.send(y[None])[0]
        norm._check_input_dim(y)
        return super().send(y)

    def normalised(self, x: Tensor) -> Tensor:
        norm: Any = self
        of_batch = self.training or not norm.track_running_stats
        rate = norm.momentum if norm.momentum is not None else 0.0
        return F.instance_norm(
            x, norm.running_mean, norm.running_var, None, None, of_batch, rate, norm.eps
        )


class FeedbackInstanceNorm1d(_OfInstances, nn.InstanceNorm1d):  # type: ignore[misc]
    """``nn.InstanceNorm1d`` whose scale has a feedback path."""


class FeedbackInstanceNorm2d(_OfInstances, nn.InstanceNorm2d):  # type: ignore[misc]
    """``nn.InstanceNorm2d`` whose scale has a feedback path."""


class FeedbackInstanceNorm3d(_OfInstances, nn.InstanceNorm3d):  # type: ignore[misc]
    """``nn.InstanceNorm3d`` whose scale has a feedback path."""


class FeedbackGroupNorm(FeedbackScale, nn.GroupNorm):  # type: ignore[misc]
    """``nn.GroupNorm`` whose scale has a feedback path."""

    def normalised(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, None, None, self.eps)


class FeedbackLayerNorm(FeedbackScale, nn.LayerNorm):  # type: ignore[misc]
    """``nn.LayerNorm`` whose scale has a feedback path."""

    @property
    def maps(self) -> ScaleMaps:  # type: ignore[override]
        return ScaleMaps(-len(self.normalized_shape))

    def normalised(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, None, None, self.eps)


class FeedbackRMSNorm(FeedbackScale, nn.RMSNorm):  # type: ignore[misc]
    """``nn.RMSNorm`` whose scale has a feedback path."""

    bias = None

    @property
    def maps(self) -> ScaleMaps:  # type: ignore[override]
        return ScaleMaps(-len(self.normalized_shape))

    def normalised(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, None, self.eps)


@contextlib.contextmanager
def _without_affine(module: nn.Module) -> Iterator[None]:
    """Within this context ``module`` has neither γ nor β."""
    state = vars(module)
    parameters = state["_parameters"]
    state["_parameters"] = dict.fromkeys(parameters)
    try:
        yield
    finally:
        state["_parameters"] = parameters


SCALE_TWINS: dict[type[nn.Module], type[FeedbackScale]] = {
    nn.BatchNorm1d: FeedbackBatchNorm1d,
    nn.BatchNorm2d: FeedbackBatchNorm2d,
    nn.BatchNorm3d: FeedbackBatchNorm3d,
    nn.SyncBatchNorm: FeedbackSyncBatchNorm,
    nn.InstanceNorm1d: FeedbackInstanceNorm1d,
    nn.InstanceNorm2d: FeedbackInstanceNorm2d,
    nn.InstanceNorm3d: FeedbackInstanceNorm3d,
    nn.GroupNorm: FeedbackGroupNorm,
    nn.LayerNorm: FeedbackLayerNorm,
    nn.RMSNorm: FeedbackRMSNorm,
}
SCALE_PLAIN = {twin: plain for plain, twin in SCALE_TWINS.items()}


# ------------------------------------------------------------------------------------- the choices


@frozen
class _One(Method):
    """δ passes a scale as if γ were 1."""

    label: ClassVar[str] = "1"

    @property
    def name(self) -> str:
        return "none"

    def initial(self, W, generator):
        return None

    def feedback_weights(self, W, stored):
        return torch.ones_like(W)


def method_of_scales(method: Method, normalisation: str) -> Method | None:
    """The method by which scales get their feedback; None if they stay plain, as for ``exact``.

    Args:
        method: of the other layers.

    Raises:
        WtkitError: for a choice that is none of :data:`NORMALISATIONS`.
    """
    if not isinstance(normalisation, str):
        raise WtkitError(
            f"normalisation: expected one of {', '.join(NORMALISATIONS)}, got {normalisation!r}"
        )
    known(normalisation, NORMALISATIONS, "normalisation")
    if normalisation == "exact":
        return None
    if normalisation == "none":
        return _One()
    if normalisation == "fixed":
        return methods.load("feedback_alignment")
    own = method.of_scales()
    return None if own.name == "backprop" else own


def initial_of_scale(method: Method, weight: Tensor, seed: int) -> Tensor | None:
    """What a scale stores for its feedback path, drawn from ``seed``; see
    :meth:`wtkit.methods.Method.initial_of_scale`."""
    scale = weight.detach()
    generator = torch.Generator().manual_seed(stream_seed(seed, "feedback"))
    stored = method.initial_of_scale(scale.flatten(), generator)
    return stored if stored is None or stored.dim() == 0 else stored.reshape(scale.shape)


def synchronise(model: nn.Module) -> None:
    """Let every BatchNorm of ``model`` normalise with the batch of all processes, in place, as
    ``nn.SyncBatchNorm.convert_sync_batchnorm`` does, which would take the scales' feedback
    away."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _OfBatch):
                child.__class__ = FeedbackSyncBatchNorm  # type: ignore[assignment]
                child.process_group = None  # type: ignore[assignment]
            elif isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(
                child, FeedbackScale
            ):
                parent.add_module(name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
