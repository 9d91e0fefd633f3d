"""Those who watch a run: its display in a notebook, and its file for other processes."""

from __future__ import annotations

from pathlib import Path

from ..watching import Live, Progress
from .run import Run


class Watchers:
    """Tells the display and ``progress.json`` of each step and epoch of ``run``.

    Args:
        folder: the run's folder, for ``progress.json``; None writes nothing.
        live: the display; None for none.
    """

    def __init__(self, run: Run, folder: Path | None, live: Live | None) -> None:
        self._run, self._live = run, live
        self._progress: Progress | None = None
        if folder is not None and run.share.rank == 0:
            self._progress = Progress(folder, run.config.name, run.config.epochs)
        if self._progress and run.records:  # resumed
            self._progress.epoch(run.records)
        run.on_step = self.step

    def step(self) -> None:
        """After a step, as a rule without doing anything."""
        run, epochs = self._run, self._run.config.epochs
        if self._progress:
            self._progress.step(run.step, run.steps)
        if self._live:
            epoch = len(run.records)
            text = f"{run.config.name}  epoch {epoch}/{epochs}, step {run.step}/{run.steps}"
            self._live.bar(epoch - 1 + run.step / run.steps, epochs, text)

    def epoch(self) -> None:
        """After an epoch."""
        run = self._run
        if self._progress:
            self._progress.epoch(run.records)
        if self._live:
            self._live.run(run.records, run.config.epochs, run.report())

    def close(self) -> None:
        """After the run has ended, or was interrupted."""
        if self._progress:
            self._progress.close(finished=self._run.status != "running")
