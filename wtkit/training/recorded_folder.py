"""The folder of a recorded run: its lock, its unfinished record, its trajectory, and the results of
the experiment that it belongs to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from .. import results
from ..errors import WtkitError
from ..files import held
from ..results import check_together, differing, gather, open_results, open_run, run_labels
from ..watching import Progress
from .checkpoint import free_name
from .stored import read_checkpoint, write_checkpoint

TRAJECTORY, CHECKPOINT, GATHERED = "trajectory.nc", "checkpoint.pt", "results.nc"


class RecordedFolder:
    """The folder of one run.

    Args:
        experiment: the experiment's folder; None for a run that is not written.
        name: the run's name.
        writes: whether this process writes; the others of a group only read.
    """

    def __init__(self, experiment: str | Path | None, name: str, *, writes: bool) -> None:
        if experiment is not None and (
            not isinstance(experiment, (str, Path))
            or not str(experiment)
            or "\0" in str(experiment)
        ):
            raise WtkitError(
                f"Recorder: expected a folder, such as 'results/mine', or None, got {experiment!r}"
            )
        self.experiment = None if experiment is None else Path(experiment)
        self.folder = None if self.experiment is None else self.experiment / "runs" / name
        self._name, self._stack = name, contextlib.ExitStack()
        self._writes = writes and experiment is not None
        self._progress: Progress | None = None

    def claim(self) -> None:
        """Lock the run's folder until :meth:`release`."""
        if not self._writes:
            return
        assert self.folder is not None
        taken = f"another process records {self.folder}; wait for it, or take another seed"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(held(self.folder, taken))
        except OSError as error:
            raise WtkitError(
                f"cannot write to {self.folder}: {error.strerror}; choose another folder"
            ) from None

    def release(self) -> None:
        """Unlock the folder; a run that is not finished is shown as stopped."""
        if self._progress is not None:
            self._progress.close(finished=False)
            self._progress = None
        self._stack.close()

    def finished(self, revision: str) -> xr.Dataset | None:
        """The finished run in the folder, if there is one.

        Raises:
            WtkitError: if it has other settings than ``revision``.
        """
        if self.folder is None or not (self.folder / TRAJECTORY).exists():
            return None
        run = open_run(self.folder / TRAJECTORY)
        self._check_revision(str(run["settings"].values), revision)
        return run

    def _check_revision(self, found: str, revision: str) -> None:
        if found != revision:
            raise WtkitError(
                f"{self.folder} is a run with other settings{differing(found, revision)}; give "
                "this one another variant, or delete the folder"
            )

    def check(self, run: xr.Dataset) -> None:
        """Check before training that ``run`` can be gathered with the experiment's finished ones.

        Raises:
            WtkitError: if not, or if the experiment's results hold runs that its folder lacks,
                which gathering would lose.
        """
        if not self._writes:
            return
        assert self.experiment is not None
        finished = {str(path): open_run(path) for path in self._finished_runs()}
        path = self.experiment / GATHERED
        if path.exists():
            # a run whose folder was deleted is recorded anew
            there = {run_labels(other) for other in (run, *finished.values())}
            if lost := _labels_in(path) - there:
                raise WtkitError(
                    f"{path} holds runs of {min(lost)[0]} that {self.experiment}/runs lacks, "
                    "and they would be lost; choose another folder, or delete that file"
                )
        network = run.attrs["network"]
        alike = [(source, r) for source, r in finished.items() if r.attrs["network"] == network]
        check_together([*alike, (f"Recorder: {self._name}", run)])

    def _finished_runs(self) -> list[Path]:
        assert self.experiment is not None
        return sorted(self.experiment.glob(f"runs/*/{TRAJECTORY}"))

    def unfinished(self, revision: str, layers: Sequence[str]) -> dict[str, Any] | None:
        """The unfinished record in the folder, if there is one.

        Raises:
            WtkitError: if it cannot be used, or has other settings or layers.
        """
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return None
        try:
            state = read_checkpoint(self.folder / CHECKPOINT)
        except WtkitError as error:
            raise self.unusable(str(error)) from None
        if not {"revision", "layers", "records", "status", "provenance"} <= state.keys():
            raise self.unusable("it was not written by a Recorder")
        self._check_revision(state["revision"], revision)
        if state["layers"] != list(layers):
            raise self.unusable("its network has other layers")
        return state

    def unusable(self, why: str) -> WtkitError:
        assert self.folder is not None
        return WtkitError(
            f"cannot continue from {self.folder / CHECKPOINT}: {why}; delete it to start again"
        )

    def save(self, state: dict[str, Any]) -> None:
        """Write the unfinished record."""
        if self._writes:
            assert self.folder is not None
            write_checkpoint(state, self.folder / CHECKPOINT)

    def set_aside(self) -> Path | None:
        """Rename the unfinished record; returns its new name."""
        if not self._writes:
            return None
        assert self.folder is not None
        path = self.folder / CHECKPOINT
        name = free_name(path, "earlier")
        os.replace(path, name)
        return name

    def watch(
        self, epochs: int, metrics: Mapping[str, str], entries: Sequence[Mapping[str, Any]]
    ) -> None:
        """Begin to show those who watch what the run is at."""
        if self._writes:
            assert self.folder is not None
            self._progress = Progress(self.folder, self._name, epochs, metrics)
            self.show(entries)

    def show(self, entries: Sequence[Mapping[str, Any]]) -> None:
        if self._progress is not None:
            self._progress.epoch(entries)

    def finish(self, run: xr.Dataset) -> None:
        """Write the finished run."""
        if not self._writes:
            return
        assert self.folder is not None
        results.save(run, self.folder / TRAJECTORY)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        if self._progress is not None:
            self._progress.close(finished=True)
            self._progress = None
        self._stack.close()

    def gather(self) -> None:
        """Gather all finished runs of the experiment, unless the results have them all."""
        if not self._writes:
            return
        assert self.experiment is not None
        gathered = self.experiment / GATHERED
        with held(self.experiment, None):  # another process may be gathering
            runs = self._finished_runs()
            # a copied run may be older than the results
            if not (
                gathered.is_file()
                and all(_time(run) < _time(gathered) for run in runs)
                and {run_labels(open_run(run)) for run in runs} <= _labels_in(gathered)
            ):
                results.save(gather(runs, self.experiment.resolve().name), gathered)


def _labels_in(gathered: Path) -> set[tuple[str, ...]]:
    nodes = [node.to_dataset() for node in open_results(gathered, quiet=True).children.values()]
    return {run_labels(node.isel(run=n)) for node in nodes for n in range(node.sizes["run"])}


def _time(path: Path) -> int:
    """When the file was written."""
    return path.stat().st_mtime_ns
