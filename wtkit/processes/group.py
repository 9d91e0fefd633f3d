"""Several processes that train one run: each one's share, and the messages between them.

``python -m wtkit.processes`` or ``torchrun`` starts them. Each has the whole network and takes an
equal share of every batch and of the mirror's noise. The first reads and writes files and prints. A
single process is a group of one, for which these functions do nothing extra.
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
    """A process's share of the work of its group.

    Attributes:
        rank: the process's number in the group, from 0.
        world: the number of processes in the group.
        group: the group of ``torch.distributed``; None for all processes.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def part(self) -> slice:
        """This process's part of a list of samples: every ``world``-th.

        >>> list(range(7))[Share(rank=1, world=3).part]
        [1, 4]
        """
        return slice(self.rank, None, self.world)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of ``tensor`` over the group, in place; the same to the last bit in every
        process."""
        if self.world > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor


ALONE = Share()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Share]:
    """Within this context, this process's share in the group that ``torchrun`` started, or that the
    caller has initialised.

    Raises:
        WtkitError: in the remaining processes, if another process of the group has ended.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not dist.is_available() or not (launched or dist.is_initialized()):
        yield ALONE
        return
    if dist.is_initialized():
        yield Share(dist.get_rank(), dist.get_world_size())
        return
    # if the launcher dies, write a checkpoint and exit
    signalled_with_parent(signal.SIGTERM)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo next to NCCL: stop checks then do not wait for the GPU
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
            f"another process of this run has ended ({reason}); the same command resumes from the "
            "last checkpoint"
        )
        lost.said_elsewhere = LAUNCHED in os.environ or share.rank > 0
        raise lost from None
    finally:
        # after a failure NCCL would wait for operations that never end; this process ends soon
        if not failed or device.type == "cpu":
            dist.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Whether ``error`` says that another process does not answer; gloo has no error type for
    it."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def agreed(share: Share, action: Callable[[], T]) -> T:
    """Run ``action`` in the first process; all processes get its result, or raise its
    WtkitError."""
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
    """Run ``action`` in every process. If it raises a WtkitError in one, all of them raise it."""
    if share.world == 1:
        return action()
    result, error = None, None
    try:
        result = action()
    except WtkitError as raised:
        error = raised
    errors: list[WtkitError | None] = [None] * share.world
    dist.all_gather_object(errors, error)
    for rank, raised_there in enumerate(errors):
        if raised_there is not None:
            raised_there.said_elsewhere = rank != share.rank
            raise raised_there
    return cast(T, result)


def any_of(share: Share, flag: bool) -> bool:
    """Whether ``flag`` is set in any process; asked on the CPU if the group has a backend for
    it."""
    flags: list[bool | None] = [None] * share.world
    dist.all_gather_object(flags, flag, group=share.group)
    return any(flags)


def refuse_differing(share: Share, tensors: Mapping[str, Tensor], when: str) -> None:
    """Check that tensors are equal in all processes, bit for bit.

    Args:
        share: this process's share.
        tensors: the tensors to compare, by name.
        when: the time of the check, for the error.

    Raises:
        WtkitError: in every process, naming the first tensor that differs, and the processes.
    """
    if share.world == 1:
        return
    sums = torch.stack([_fingerprint(tensor) for tensor in tensors.values()])
    gathered = [torch.empty_like(sums) for _ in range(share.world)]
    dist.all_gather(gathered, sums)
    for other, theirs in enumerate(gathered):
        for name, same in zip(tensors, (theirs == gathered[0]).tolist(), strict=True):
            if not same:
                error = WtkitError(
                    f"{name!r} differs between process 0 and process {other} {when}; give all "
                    "processes one kind of device and one version of wtkit and torch, and start "
                    "again; saved epochs are not lost"
                )
                error.said_elsewhere = share.rank > 0
                raise error


def _fingerprint(tensor: Tensor) -> Tensor:
    """The sum of the tensor's elements, read as whole numbers; it differs if any single element
    does."""
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)
