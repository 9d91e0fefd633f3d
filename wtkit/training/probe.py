"""A model in a training loop of its user's: measured undisturbed, saved and restored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WtkitError
from ..feedback import FeedbackLayer, fed_layers, feedback_layers, find_live_taps, live_shares
from .measures import delta_measures, weight_measures


class Probe:
    """Measures a converted model. Between two measures the model is as its user left it.

    Args:
        model: the converted model.
        batch: inputs and targets for the δ angles; None for matrix angles only.
        loss: of outputs and targets.

    Attributes:
        layers: the names of the feedback layers.
        feeds: the layers that each layer feeds; None without a batch.
        live_share: of each layer, the share of the weights that a signal of the batch can pass.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: tuple[Any, Any] | None,
        loss: Callable[[Any, Any], Tensor],
    ) -> None:
        self._model, self._batch, self._loss = model, batch, loss
        self._modes = {module: module.training for module in model.modules()}
        self._taps: dict[FeedbackLayer, Any] = {}
        self._made_of = _made_of(model)
        self.layers = list(self._made_of)
        self.feeds: dict[str, list[str]] | None = None
        if batch is not None:
            self._taps = _live_taps(model, batch[0])
            self.feeds = fed_layers(model, batch[0])
        with self._as_in_training():
            self.live_share = live_shares(model).values

    def measures(self) -> dict[str, Any]:
        """Angles and norms of every layer, by the names of their records."""
        if _made_of(self._model) != self._made_of:
            raise WtkitError(
                "record: the model's feedback layers are others than when the recorder was made; "
                "convert first, then make the recorder"
            )
        with self._as_in_training():
            values: dict[str, Any] = dict(weight_measures(self._model))
            if self._batch is not None:
                inputs, targets = self._batch
                values |= delta_measures(self._model, inputs, targets, self._loss)
        return values

    @contextlib.contextmanager
    def _as_in_training(self) -> Iterator[None]:
        """Within this context modules are in the modes that they had at first, and dead taps are
        left out."""
        modes = {module: module.training for module in self._model.modules()}
        taps = {layer: layer.taps for layer in self._taps}
        try:
            for module in modes:
                module.training = self._modes.get(module, module.training)
            for layer, live in self._taps.items():
                layer.taps = live
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for layer, own in taps.items():
                layer.taps = own


def _made_of(model: nn.Module) -> dict[str, Any]:
    """What a record says of the feedback layers for all epochs alike."""
    return {
        name: (layer.method, layer.weight.shape) for name, layer in feedback_layers(model).items()
    }


def _live_taps(model: nn.Module, inputs: Any) -> dict[FeedbackLayer, Any]:
    """The live taps of each layer. The layers keep theirs: a mirror fires noise at those."""
    kept = {layer: layer.taps for layer in feedback_layers(model).values()}
    find_live_taps(model, inputs)
    live = {layer: layer.taps for layer in kept}
    for layer, taps in kept.items():
        layer.taps = taps
    return live


def model_state(model: nn.Module, parts: Sequence[Any]) -> dict[str, Any]:
    """What a training continues from: the model, ``parts`` such as the optimizer, and torch's
    global random stream."""
    layers = feedback_layers(model).items()
    return {
        "model": model.state_dict(),
        "counts": {name: [layer.mirror_count, layer.update_count] for name, layer in layers},
        "parts": [part.state_dict() for part in parts],
        "random": torch.get_rng_state(),
    }


def restore_model(model: nn.Module, parts: Sequence[Any], state: Mapping[str, Any]) -> None:
    """Continue from the result of :func:`model_state`, as it comes back from a checkpoint."""
    if len(parts) != len(state["parts"]):
        raise ValueError(
            f"it holds {len(state['parts'])} objects beside the model, and 'checkpoint' names "
            f"{len(parts)}"
        )
    model.load_state_dict(state["model"])
    for part, content in zip(parts, state["parts"], strict=True):
        part.load_state_dict(content)
    for name, layer in feedback_layers(model).items():
        layer.mirror_count, layer.update_count = state["counts"][name]
    torch.set_rng_state(state["random"])


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of a group."""
    group = torch.distributed
    return not (group.is_available() and group.is_initialized()) or group.get_rank() == 0
