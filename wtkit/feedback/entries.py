"""A fixed sample of a tensor's entries: enough to see whether and how the tensor changed."""

from __future__ import annotations

import torch
from torch import Tensor

from .sharded import own_part

NUMBER = 32


def places(tensor: Tensor, seed: int) -> Tensor:
    """The flat indices of NUMBER entries of ``tensor``; no global random stream moves."""
    tensor = own_part(tensor)
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(tensor.numel(), (NUMBER,), generator=drawn, device="cpu").to(tensor.device)


def entries(tensor: Tensor, at: Tensor) -> Tensor:
    """Copies of those entries, (NUMBER,)."""
    return torch.take(own_part(tensor.detach()), at)


def has_entries(tensor: Tensor) -> bool:
    """Whether this process has values of ``tensor``."""
    return not tensor.is_meta and own_part(tensor).numel() > 0
