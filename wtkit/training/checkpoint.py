"""A run's folder: its lock, its checkpoint, and its finished trajectory."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import Any

import xarray as xr

from .. import results
from ..errors import WtkitError
from ..experiments import RunConfig
from ..files import held, write_whole
from ..processes import agreed
from ..results import differing, open_run
from ..seeds import stream_seed
from .fitting import check_state
from .machine import say
from .provenance import rounding_change
from .run import Run
from .stored import read_checkpoint, write_checkpoint

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
    if (found := str(run["settings"].values)) != config.revision:
        raise WtkitError(
            f"{path} is a run with other settings{differing(found, config.revision)}; choose "
            "another folder (--output), or delete it to train again"
        )
    return run


def finish(result: xr.Dataset, folder: Path) -> None:
    results.save(result, folder / "trajectory.nc")
    write_whole(folder / COPY, (folder / "trajectory.nc").read_bytes())
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def save_checkpoint(run: Run, folder: Path) -> None:
    """Write the run's state."""
    agreed(run.share, lambda: write_checkpoint(run.state(), folder / "checkpoint.pt"))


def resume(run: Run, folder: Path, quiet: bool, set_aside: bool) -> None:
    """Restore the checkpoint in ``folder``, if there is one with these settings.

    Args:
        set_aside: whether to rename a checkpoint that cannot be used, and start from the beginning.

    Raises:
        WtkitError: if the checkpoint cannot be used: it is damaged, incomplete, of another program,
            or does not fit the run. It stays where it is.
    """
    path = folder / "checkpoint.pt"
    state = agreed(run.share, lambda: _find_checkpoint(run, path, quiet, set_aside))
    if state is None:
        return
    change = rounding_change(state["provenance"], run.provenance)
    run.restore(state)
    where = f", step {run.step} of {run.steps}" if run.step else ""
    say(f"Resuming after epoch {len(run.records) - 1} of {run.config.epochs}{where}.", quiet)
    if change and run.status == "running":
        say(
            f"Warning: resumed with {change}: sums are rounded in another order, so the numbers "
            "will not be those of an undisturbed run, bit for bit.",
            quiet,
        )


def _find_checkpoint(run: Run, path: Path, quiet: bool, set_aside: bool) -> dict[str, Any] | None:
    """The checkpoint with the run's settings, also one that was renamed for others."""
    state = _usable(run, path, quiet, set_aside)
    own = _aside(path, run.config.revision)
    if state is None and own.exists():  # these settings were here before
        os.replace(own, path)
        state = _usable(run, path, quiet, set_aside)
    return state


def _usable(run: Run, path: Path, quiet: bool, set_aside: bool) -> dict[str, Any] | None:
    """The checkpoint at ``path``. One with other settings is renamed; so is, with ``set_aside``,
    one that cannot be used."""
    if not path.exists():
        return None
    try:
        state = read_checkpoint(path)
        if state.get("revision") == run.config.revision:
            check_state(run, state)
            return state
        if not isinstance(state.get("revision"), str):
            raise WtkitError("it lacks 'revision'")
    except WtkitError as error:
        if not set_aside:
            raise WtkitError(
                f"cannot resume from {path}: {error}; delete it, or give --set-aside, which "
                "renames it; training then starts from the beginning"
            ) from None
        _rename(path, free_name(path, "unusable"), f"cannot be used ({error})", quiet)
        return None
    _rename(path, _aside(path, state["revision"]), "belongs to other settings", quiet)
    return None


def _rename(path: Path, name: Path, why: str, quiet: bool) -> None:
    os.replace(path, name)
    say(f"{path} {why}: renamed to {name.name}.", quiet)


def _aside(path: Path, revision: str) -> Path:
    """The name of a checkpoint with these settings while others are trained in its folder."""
    return path.with_name(f"checkpoint.{stream_seed(revision):016x}.pt")


def free_name(path: Path, word: str) -> Path:
    """A name for a checkpoint that is kept but not used, which no other file has."""
    names = (path.with_name(f"checkpoint.{word}{n}.pt") for n in itertools.count(1))
    return next(name for name in names if not name.exists())
