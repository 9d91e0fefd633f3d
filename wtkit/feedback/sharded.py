"""Tensors that ``fully_shard`` has spread over processes, as plain tensors.

Inside a forward pass, the weights are plain and whole. Outside, they are DTensors.
"""

from __future__ import annotations

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """All of ``tensor``, gathered from all processes if it is sharded: call it in each of them."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of ``tensor``."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, which every process has whole, spread over them as ``like`` is, if it is."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor, like.device_mesh, like.placements)
