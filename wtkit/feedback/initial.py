"""What a layer stores for its feedback path at conversion, and which weights are refused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import WtkitError
from ..methods import Method
from ..methods.base import initial_scale
from ..seeds import stream_seed
from .maps import Maps
from .rows import from_rows, rows


def initial(
    method: Method, layer: nn.Module, maps: Maps, seed: int, outputs: int | None
) -> Tensor | None:
    """What a layer stores for its feedback path; raises if B would have the wrong shape.

    Args:
        maps: of the layer.
        seed: the seed of the layer's own random streams.
        outputs: the network's outputs, if its last layer is converted.
    """
    W = layer.get_parameter("weight").detach()
    seen = rows(maps, W)
    shape = W.shape
    if method.direct:
        if outputs is None:
            raise WtkitError(
                f"{method.name}: the network's last layer sends its δ to all others, so it cannot "
                "stay on backprop; take it out of keep_on_backprop"
            )
        shape = torch.Size((outputs, maps.features(W)[0]))
        seen = initial_scale(seen).to(W.dtype).expand(shape)
    stored = method.initial(seen, torch.Generator().manual_seed(stream_seed(seed, "feedback")))
    if stored is not None and seen is not W and stored.shape == seen.shape and not method.direct:
        stored = from_rows(maps, stored, W)
    B = method.feedback_weights(W, stored)
    if B is not None and B.shape != shape:
        raise WtkitError(
            f"{method.name}: feedback_weights gave shape {tuple(B.shape)}, expected {tuple(shape)}"
        )
    return stored


def refuse_weights(name: str, layer: nn.Module) -> None:
    """Raise for weights that no feedback path belongs to.

    Args:
        name: of the method, for the error.

    Raises:
        WtkitError: for complex weights, which the maps of a layer do not conjugate; for a layer
            without inputs or outputs.
    """
    W = layer.weight
    assert isinstance(W, Tensor)
    called = getattr(layer, "sketch", f"{type(layer).__name__}{tuple(W.shape)}")
    if W.is_complex():
        raise WtkitError(
            f"{name}: {called} has complex weights ({W.dtype}); a "
            "feedback path needs real ones: take layers for the real and the imaginary part"
        )
    if 0 in W.shape:
        raise WtkitError(
            f"{name}: {called} has no weights; give it inputs and outputs, or take it out"
        )
