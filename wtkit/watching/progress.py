"""``progress.json`` in a run's folder: what a running run says of itself, for those who watch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ..errors import WtkitError
from ..files import write_whole

PROGRESS = "progress.json"
EVERY = 10.0
"""Seconds between two writes within an epoch."""
SILENCE = 600.0
"""Seconds without a write after which a run on another machine counts as ended."""
CURVES = ("test_error", "train_loss", "seconds", "matrix_angle", "delta_angle")


class Progress:
    """Writes a run's ``progress.json``: at its start, within its epochs, and after each of them.

    A file that cannot be written is left out: the run itself must not depend on who watches.

    Args:
        folder: the run's folder.
        name: the run's name.
        epochs: how many epochs it trains.
        metrics: units of the run's own metrics, by name.
    """

    def __init__(
        self, folder: Path, name: str, epochs: int, metrics: Mapping[str, str] | None = None
    ) -> None:
        self._path = folder / PROGRESS
        self._last = -math.inf
        self._content: dict[str, Any] = {
            "name": name,
            "epochs": epochs,
            "epoch": 0,
            "step": 0,
            "steps": 0,
            "process": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "machine": socket.gethostname(),
            "metrics": dict(metrics or {}),
        }
        self._content["curves"] = {curve: [] for curve in self._names()}
        self._write()

    def step(self, step: int, steps: int) -> None:
        """Within an epoch: ``step`` of ``steps`` are done. Writes every :data:`EVERY` seconds."""
        if time.monotonic() - self._last > EVERY:
            self._content |= {"step": step, "steps": steps}
            self._write()

    def epoch(self, records: Sequence[Mapping[str, Any]]) -> None:
        """After an epoch, or a resumption: the records so far."""
        curves = {curve: [_mean(curve, entry) for entry in records] for curve in self._names()}
        done = max(0, len(records) - 1)
        self._content |= {"epoch": done, "step": 0, "curves": curves}
        self._write()

    def close(self, *, finished: bool) -> None:
        """At the end: a finished run is recorded elsewhere; of an interrupted one, say that this
        process, which may live on, no longer trains it."""
        if finished:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        else:
            self._content["process"] = None
            self._write()

    def _names(self) -> list[str]:
        return [*CURVES, *self._content["metrics"]]

    def _write(self) -> None:
        self._last = time.monotonic()
        content = json.dumps(self._content | {"written": time.time()})
        with contextlib.suppress(WtkitError):
            write_whole(self._path, content.encode())


def _mean(curve: str, entry: Mapping[str, Any]) -> float | None:
    """A recorded number, of angles the mean over layers (of δ angles without the output layer's,
    which is 0 by construction); None if it was not measured."""
    values = np.atleast_1d(np.asarray(entry.get(curve, math.nan), dtype=float))
    if curve == "delta_angle" and values.size > 1:
        values = values[:-1]
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What a run wrote last, with ``running``: whether its process still works; None if nothing is
    there that can be read."""
    try:
        found = json.loads((folder / PROGRESS).read_bytes())
        return found | {"running": _runs(found)}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _runs(found: Mapping[str, Any]) -> bool:
    if found["process"] is None:
        return False
    if found["machine"] != socket.gethostname():
        return time.time() - found["written"] < SILENCE
    try:
        process = psutil.Process(found["process"])
        # numbers of processes are used again
        same = abs(process.create_time() - found["process_started"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def seconds_left(found: Mapping[str, Any]) -> float:
    """Seconds until the run's end, by its epochs so far, or by its steps in the first; NaN if it
    has not trained yet."""
    seconds = [value for value in found["curves"]["seconds"][1:] if value is not None]
    since = max(0.0, time.time() - found["written"])
    share = found["step"] / found["steps"] if found["steps"] else 0.0
    if seconds:
        left = sum(seconds) / len(seconds) * (found["epochs"] - found["epoch"] - share)
        return max(0.0, left - since)
    return math.nan
