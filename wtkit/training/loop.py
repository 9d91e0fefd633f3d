"""The loop of one run, in one process or, under torchrun, in several."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
import xarray as xr

from ..display import in_notebook
from ..errors import Stopped, WtkitError
from ..experiments import RunConfig, check_sense
from ..processes import agreed, joined, killed_workers
from ..watching import Live
from .checkpoint import claim_folder, finish, resume, save_checkpoint
from .machine import enough_memory, find_device, keep_memory, listen_for_stop, own_modes, say
from .precision import precision_warning
from .provenance import cpu_name
from .run import Run
from .watchers import Watchers


# around the whole call: PyTorch may notice a killed process while this one closes its files
@killed_workers()
def train(
    config: RunConfig,
    folder: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    on_epoch: Callable[[xr.Dataset], None] | None = None,
    quiet: bool = False,
    set_aside: bool = False,
    watch: bool = False,
) -> xr.Dataset:
    """Train one run and return its trajectory, in the schema of :mod:`wtkit.results`.

    Under ``torchrun`` all processes train one run together, each on its share of every batch:
    ``batch_size`` counts the images of all of them, and the result equals that of a single process
    to rounding. On GPUs BatchNorm normalises with the batch of all processes. PyTorch has no such
    BatchNorm for CPUs, where each process normalises with its own share.

    A loss or an output that is not finite ends the run; its record is written with the status
    ``diverged``.

    Args:
        config: the settings of the run.
        folder: where to write ``trajectory.nc``, and a checkpoint after every epoch. A run that is
            killed at any moment and started again resumes: on a CPU with the same result, bit for
            bit, if the number of threads is the same; on a GPU as far as its kernels are
            deterministic. On SIGTERM or SIGUSR1 the step is finished,
            a checkpoint written, and :class:`~wtkit.errors.Stopped` raised. None writes nothing.
        device: ``cpu``, ``cuda``, …, or a ``torch.device``; by default a GPU if there is one.
        on_epoch: called with the trajectory so far, before training and after every epoch.
        quiet: print nothing.
        set_aside: rename a checkpoint that cannot be used, and start from the beginning. By default
            it is an error.
        watch: in a notebook, show a progress bar within the epoch, and the error and angles of
            all layers as they grow, in place of printed lines. Elsewhere it changes nothing. A run
            with a ``folder`` can be watched from another process, too: :func:`wtkit.watch`.

    Raises:
        WtkitError: for a ``config`` that is none; for missing data; for a folder that holds another
            run, or that another process writes to; for a checkpoint that is damaged, changed, or
            does not fit the run; for a batch that the processes cannot split equally.

    Example:
        >>> import wtkit
        >>> from wtkit.experiments import run_config
        >>> config = run_config({"method": "kolen_pollack", "network": "mlp", "image_size": 8,
        ...                      "classes": 2, "epochs": 1, "network_options": {"hidden": [8]}})
        >>> run = wtkit.train(config, device="cpu", quiet=True)
        >>> run.test_error.dims
        ('epoch',)
    """
    folder = None if folder is None else Path(folder)
    live = Live() if watch and in_notebook() else None
    with contextlib.ExitStack() as stack:
        target = find_device(device)
        stack.enter_context(own_modes(target))
        share = stack.enter_context(joined(target))
        quiet = quiet or share.rank > 0
        if folder is not None:
            finished = agreed(share, lambda: claim_folder(folder, config, stack))
            if finished is not None:
                say(f"{folder} holds this run already, finished.", quiet)
                return finished
        if not quiet and (slow := precision_warning(config.precision, target.type, cpu_name())):
            say(f"Warning: {slow}", quiet)
        _say_doubts(config, quiet)
        stop_signals = stack.enter_context(listen_for_stop(folder is not None))
        keep_memory()
        stack.enter_context(torch.random.fork_rng([target] if target.type == "cuda" else []))
        with enough_memory(target):
            run = Run(config, target, share)
            if run.data.note:
                say(run.data.note, quiet)
            if folder is not None:
                resume(run, folder, quiet, set_aside)
            run.refuse_differing("at the start")
            watchers = Watchers(run, folder, live)
            stack.callback(watchers.close)
            _loop(run, folder, stop_signals, on_epoch, quiet or live is not None, watchers)
        result = run.trajectory()
        if folder is not None:
            agreed(share, lambda: finish(result, folder))
        return result


def _say_doubts(config: RunConfig, quiet: bool) -> None:
    """Say what the command line and experiment files refuse, and what a plan warns of."""
    try:
        check_sense(config)
    except WtkitError as error:
        say(f"Warning: {error}", quiet)
    if config.loaded_method().learns_as_W and config.weight_decay == 0:
        doubt = f"without it, B of {config.method} stays as far from W as it is"
        say(f"Warning: setting 'weight_decay': {doubt}", quiet)


def _loop(
    run: Run,
    folder: Path | None,
    stop_signals: list[str],
    on_epoch: Callable[[xr.Dataset], None] | None,
    quiet: bool,
    watchers: Watchers,
) -> None:
    """Train ``run`` from its current state to its end."""
    config = run.config
    while run.status == "running":
        start = time.perf_counter()
        epoch = len(run.records)
        if epoch == 1 and run.step == 0:
            run.mirror_before_training()
        if epoch > 0:
            stopped = run.engaged_epoch(stop_signals, quiet)
            if stopped and folder is not None:
                run.seconds += time.perf_counter() - start
                save_checkpoint(run, folder)
                stop = Stopped(
                    f"{folder}: stopped by {stop_signals[0]} after step {run.step} of {run.steps} "
                    f"of epoch {epoch}; the same command resumes from there"
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
        watchers.epoch()
        if on_epoch is not None:
            on_epoch(run.trajectory())
