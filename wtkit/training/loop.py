"""The loop of one run, in one process or, under torchrun, in several."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
import xarray as xr

from ..errors import Stopped
from ..experiments import RunConfig
from ..processes import agreed, joined, killed_workers
from .checkpoint import claim_folder, finish, resume, save_checkpoint
from .machine import enough_memory, find_device, keep_memory, listen_for_stop, say
from .precision import precision_warning
from .provenance import processor_name
from .run import Run


def train(
    config: RunConfig,
    folder: str | Path | None = None,
    *,
    device: str | None = None,
    on_epoch: Callable[[xr.Dataset], None] | None = None,
    quiet: bool = False,
) -> xr.Dataset:
    """Train one run and return its trajectory, in the schema of :mod:`wtkit.results`.

    Under ``torchrun`` all its processes train the one run together, each on its share of every
    batch: ``batch_size`` is that of all of them, and the result, to rounding, is that of a process
    alone. BatchNorm normalises with the batch of all processes on GPUs; on CPUs PyTorch has no such
    BatchNorm, and each normalises with its own share.

    A loss or an output that is not finite ends the run; its record is kept, with the status
    ``diverged``.

    Args:
        config: what to train.
        folder: where to write ``trajectory.nc``, and a checkpoint after every epoch, so that a run
            that is killed at any moment and started again goes on where it was: on the CPU to the
            same result, on a GPU to what its kernels repeat. On SIGTERM or SIGUSR1 the step is
            finished, a checkpoint written, and :class:`~wtkit.errors.Stopped` raised. None writes
            nothing.
        device: ``cpu``, ``cuda``, …; by default a GPU if there is one.
        on_epoch: called with the trajectory so far, before training and after every epoch.
        quiet: print nothing.

    Raises:
        WtkitError: for missing data; for a folder that holds another run, or that another process
            is writing to; for a batch that the processes cannot share equally.
    """
    folder = None if folder is None else Path(folder)
    with contextlib.ExitStack() as stack:
        target = find_device(device)
        share = stack.enter_context(joined(target))
        quiet = quiet or share.rank > 0
        if folder is not None:
            finished = agreed(share, lambda: claim_folder(folder, config, stack))
            if finished is not None:
                say(f"{folder} holds this run already, finished.", quiet)
                return finished
        if not quiet and (
            slow := precision_warning(config.precision, target.type, processor_name())
        ):
            say(f"Warning: {slow}", quiet)
        told_to_stop = stack.enter_context(listen_for_stop(folder is not None))
        keep_memory()
        stack.enter_context(torch.random.fork_rng([target] if target.type == "cuda" else []))
        with enough_memory(target), killed_workers():
            run = Run(config, target, share)
            if folder is not None:
                resume(run, folder, quiet)
            run.refuse_differing("at the start")
            _loop(run, folder, told_to_stop, on_epoch, quiet)
        result = run.trajectory()
        if folder is not None:
            agreed(share, lambda: finish(result, folder))
        return result


def _loop(
    run: Run,
    folder: Path | None,
    told_to_stop: list[str],
    on_epoch: Callable[[xr.Dataset], None] | None,
    quiet: bool,
) -> None:
    """From wherever ``run`` stands to its end."""
    config = run.config
    while run.status == "running":
        start = time.perf_counter()
        epoch = len(run.records)
        if epoch > 0:
            stopped = run.engaged_epoch(told_to_stop, quiet)
            if stopped and folder is not None:
                run.seconds += time.perf_counter() - start
                save_checkpoint(run, folder)
                stop = Stopped(
                    f"{folder}: stopped by {told_to_stop[0]} after step {run.step} of {run.steps} "
                    f"of epoch {epoch}; the same command goes on from there"
                )
                stop.said_elsewhere = run.share.rank > 0
                raise stop
        run.record(start)
        if epoch == config.epochs:
            run.status = "complete"
        if "test_error" not in run.records[-1]:
            run.status = "diverged"
        if folder is not None:
            save_checkpoint(run, folder)
        say(run.report(), quiet)
        if on_epoch is not None:
            on_epoch(run.trajectory())
