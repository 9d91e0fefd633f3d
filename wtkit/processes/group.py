"""Several processes that train one run: who they are, and what they tell each other.

``wtkit.processes.gpus`` or ``torchrun`` starts them. Each holds the whole network and does an equal
share of every batch and of the mirror's noise; the first reads and writes files and speaks. A
process alone is a group of one, to which nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import WtkitError
from .launcher import LAUNCHED, signalled_with_parent

T = TypeVar("T")
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Share(NamedTuple):
    """A process's part of work that a group does together.

    Attributes:
        rank: the process's number in the group, from 0.
        world: processes in the group.
        group: as ``torch.distributed`` knows it; None for all processes.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def part(self) -> slice:
        """Which of a row of samples are this process's: every ``world``-th."""
        return slice(self.rank, None, self.world)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of ``tensor`` over the group, in place, and the same to the last bit in all of
        it."""
        if self.world > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor


ALONE = Share()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Share]:
    """Within, the group of processes that ``torchrun`` started this one in, or that the caller has
    initialised.

    Raises:
        WtkitError: in those that are left, where another process of the group is gone.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not dist.is_available() or not (launched or dist.is_initialized()):
        yield ALONE
        return
    if dist.is_initialized():
        yield Share(dist.get_rank(), dist.get_world_size())
        return
    # so that the loss of what started us is a reason to leave, with a checkpoint
    signalled_with_parent(signal.SIGTERM)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo as well beside a GPU: whether to stop is asked without waiting for the GPU
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    share = Share(dist.get_rank(), dist.get_world_size())
    failed = True
    try:
        yield share
        failed = False
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        reason = textwrap.shorten(str(error), 120)
        lost = WtkitError(
            f"another process of this run is gone ({reason}); the same command goes on from what "
            "was saved"
        )
        lost.said_elsewhere = LAUNCHED in os.environ or share.rank > 0
        raise lost from None
    finally:
        # NCCL would first wait for what is under way, which without the others never ends; the
        # process does, soon
        if not failed or device.type == "cpu":
            dist.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Whether ``error`` says that another process does not answer; gloo has no type of its own for
    that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def agreed(share: Share, action: Callable[[], T]) -> T:
    """What ``action`` returns, or the WtkitError that it raises, in the first process: the same in
    all of them."""
    if share.world == 1:
        return action()
    outcome: list[Any] = [None]
    if share.rank == 0:
        try:
            outcome = [action()]
        except WtkitError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], WtkitError):
        outcome[0].said_elsewhere = share.rank > 0
        raise outcome[0]
    return outcome[0]


def together(share: Share, action: Callable[[], T]) -> T:
    """What ``action`` returns, which every process does for itself; a WtkitError of one of them is
    raised in all."""
    if share.world == 1:
        return action()
    result, error = None, None
    try:
        result = action()
    except WtkitError as raised:
        error = raised
    errors: list[WtkitError | None] = [None] * share.world
    dist.all_gather_object(errors, error)
    for rank, found in enumerate(errors):
        if found is not None:
            found.said_elsewhere = rank != share.rank
            raise found
    return cast(T, result)


def any_of(share: Share, flag: bool) -> bool:
    """Whether ``flag`` is set in any process; on the CPU where the group has a backend for it."""
    flags: list[bool | None] = [None] * share.world
    dist.all_gather_object(flags, flag, group=share.group)
    return any(flags)


def refuse_differing(share: Share, tensors: Mapping[str, Tensor], when: str) -> None:
    """Compare tensors that must be the same in all processes, bit for bit.

    Raises:
        WtkitError: in every process, naming the first that differs and the processes.
    """
    if share.world == 1:
        return
    sums = torch.stack([_fingerprint(tensor) for tensor in tensors.values()])
    found = [torch.empty_like(sums) for _ in range(share.world)]
    dist.all_gather(found, sums)
    for other, theirs in enumerate(found):
        for name, same in zip(tensors, (theirs == found[0]).tolist(), strict=True):
            if not same:
                error = WtkitError(
                    f"{name!r} differs between process 0 and process {other} {when}; give all "
                    "processes one kind of device and one version of wtkit and torch, and start "
                    "again: what was saved is kept"
                )
                error.said_elsewhere = share.rank > 0
                raise error


def _fingerprint(tensor: Tensor) -> Tensor:
    """The sum of the tensor's bits, read as whole numbers: another number wherever a single value
    differs."""
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)
