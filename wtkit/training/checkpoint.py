"""A run's folder: its lock, its checkpoint, and its finished trajectory."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from .. import results
from ..errors import WtkitError
from ..experiments import RunConfig
from ..files import held, write_whole
from ..processes import agreed
from ..results import open_run
from ..seeds import stream_seed
from .machine import say
from .run import Run

# Snakemake deletes trajectory.nc before it repeats a job, also if only Snakemake was killed and the
# run finished. A copy that it does not know of makes the repetition instant.
COPY = "finished.nc"


def claim_folder(folder: Path, config: RunConfig, stack: contextlib.ExitStack) -> xr.Dataset | None:
    """Lock ``folder`` until ``stack`` closes. Returns the finished run in it, if there is one with
    these settings."""
    taken = f"another process is training in {folder}; wait for it, or take another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(held(folder, taken))
    except OSError as error:
        raise WtkitError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with --output"
        ) from None
    return _finished(folder, config)


def _finished(folder: Path, config: RunConfig) -> xr.Dataset | None:
    """The finished run in ``folder``, if there is one.

    Raises:
        WtkitError: if it has other settings.
    """
    path, copy = folder / "trajectory.nc", folder / COPY
    if not path.exists():
        if not copy.exists() or str(open_run(copy)["settings"].values) != config.revision:
            return None
        write_whole(path, copy.read_bytes())
    run = open_run(path)
    if str(run["settings"].values) != config.revision:
        raise WtkitError(
            f"{path} is a run with other settings; choose another folder, or delete it to train "
            "again"
        )
    return run


def finish(result: xr.Dataset, folder: Path) -> None:
    results.save(result, folder / "trajectory.nc")
    write_whole(folder / COPY, (folder / "trajectory.nc").read_bytes())
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def save_checkpoint(run: Run, folder: Path) -> None:
    """Write the run's state."""
    agreed(run.share, lambda: write_checkpoint(run.state(), folder / "checkpoint.pt"))


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    then = (
        "resumes from the last saved checkpoint" if path.exists() else "starts from the beginning"
    )
    write_whole(
        path, buffer.getbuffer(), f"free some space and run the same command again: it {then}"
    )


def resume(run: Run, folder: Path, quiet: bool) -> None:
    """Restore the checkpoint in ``folder``, if there is one with these settings."""
    state = agreed(
        run.share, lambda: _find_checkpoint(folder / "checkpoint.pt", run.config.revision, quiet)
    )
    if state is None:
        return
    run.restore(state)
    where = f", step {run.step} of {run.steps}" if run.step else ""
    say(f"Resuming after epoch {len(run.records) - 1} of {run.config.epochs}{where}.", quiet)


def _find_checkpoint(path: Path, revision: str, quiet: bool) -> dict[str, Any] | None:
    """The checkpoint with these settings; one with other settings is renamed first."""
    state = _load(path)
    if state is not None and state["revision"] != revision:
        aside = _aside(path, state["revision"])
        os.replace(path, aside)
        say(f"{path} belongs to other settings: renamed to {aside.name}.", quiet)
        state = None
    own = _aside(path, revision)
    if state is None and own.exists():  # these settings were here before
        os.replace(own, path)
        state = _load(path)
    return state


def _aside(path: Path, revision: str) -> Path:
    """The name of a checkpoint with these settings while others are trained in its folder."""
    return path.with_name(f"checkpoint.{stream_seed(revision):016x}.pt")


def _load(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=False)
        state["revision"]
    except Exception as error:  # a damaged file, or another program's, can raise anything
        raise WtkitError(
            f"cannot read {path} ({type(error).__name__}); delete it to train again"
        ) from None
    return state
