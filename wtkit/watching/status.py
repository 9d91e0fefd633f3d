"""What an experiment's runs are at: done, running, stopped, failed, or waiting."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import WtkitError
from ..experiments import expand
from ..results import metrics_of, open_run
from ..validation import nearest, nothing_in_here
from .progress import SILENCE, read_progress, seconds_left

STATES = ("done", "running", "waiting", "stopped", "failed")
Curves = dict[str, list[float | None]]
RESUMES = "the same command resumes"
"""What the last line of a run says that was stopped by a signal."""


@dataclasses.dataclass
class RunStatus:
    """One run.

    Attributes:
        state: one of :data:`STATES`. A stopped run was interrupted and continues from its
            checkpoint, when its command is called again; a failed one ended with an error.
        epoch: trained epochs.
        epochs: of the whole run; 0 if unknown.
        test_error: the last one, in percent.
        metric: what the run is judged by if it measures no test error, such as
            ``bits_per_character``.
        value: the metric's last value, in ``units``.
        left: seconds until its end, NaN if unknown.
        took: seconds of a finished run.
        note: the error's last line, or ``diverged``.
        curves: by epoch, if the run is under way or done.
    """

    run: str
    state: str
    epoch: int = 0
    epochs: int = 0
    test_error: float = math.nan
    metric: str = ""
    value: float = math.nan
    units: str = ""
    left: float = math.nan
    took: float = math.nan
    note: str = ""
    curves: Curves = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Status:
    """An experiment's runs, at one moment.

    Attributes:
        experiment: its name.
        runs: one for each run of the experiment's file and each that has a folder.
    """

    experiment: str
    runs: list[RunStatus]

    @property
    def table(self) -> pd.DataFrame:
        """One row per run, with the fields of :class:`RunStatus`, without its curves."""
        rows = [
            {name: value for name, value in vars(run).items() if name != "curves"}
            for run in self.runs
        ]
        return pd.DataFrame(rows, columns=[f.name for f in dataclasses.fields(RunStatus)][:-1])

    def count(self, state: str) -> int:
        """How many runs are in this state."""
        return sum(run.state == state for run in self.runs)

    @property
    def left(self) -> float:
        """Seconds until the experiment's end if as many runs go on at a time as now; NaN if none
        runs or none has trained for an epoch yet.

        A waiting run counts as long as the mean of those that are known.
        """
        running = [run for run in self.runs if run.state == "running"]
        lengths = [run.took for run in self.runs if run.state == "done" and run.took > 0]
        lengths += [_length(run) for run in running if _length(run) > 0]
        if not running or not lengths:
            return math.nan
        mean = sum(lengths) / len(lengths)
        ahead = [mean if math.isnan(run.left) else run.left for run in running]
        total = sum(ahead) + mean * self.count("waiting")
        return max(*ahead, total / len(running)) if len(running) > 1 else total

    @property
    def summary(self) -> str:
        """One line: how many runs are in each state, and the time left."""
        counts = [f"{self.count(s)} {s}" for s in STATES if s in STATES[:3] or self.count(s)]
        if not math.isnan(self.left):
            counts.append(f"about {duration(self.left)} left")
        return f"{self.experiment}: {', '.join(counts)}"

    def __str__(self) -> str:
        width = max((len(run.run) for run in self.runs), default=0)
        return "\n".join([self.summary, *(f"  {_line(run, width)}" for run in self.runs)])


def duration(seconds: float) -> str:
    """``0:03:20`` for 200 seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))


def _length(run: RunStatus) -> float:
    seconds = [value for value in run.curves.get("seconds", [])[1:] if value is not None]
    return sum(seconds) / len(seconds) * run.epochs if seconds else math.nan


def _line(run: RunStatus, width: int) -> str:
    words = [f"{run.run:{width}}", f"{run.state:7}"]
    if run.epochs and run.state != "waiting":
        words.append(f"epoch {run.epoch}/{run.epochs}")
    if not math.isnan(run.test_error):
        words.append(f"error {run.test_error:.2f} %")
    elif not math.isnan(run.value):
        units = "" if run.units == "1" else f" {run.units}"
        words.append(f"{run.metric.replace('_', ' ')} {run.value:.4g}{units}")
    if not math.isnan(run.left):
        words.append(f"{duration(run.left)} left")
    return "  ".join([*words, *filter(None, [run.note])])


def status(experiment: str | Path) -> Status:
    """What the runs of an experiment are at. Reads only, and never disturbs a run.

    Args:
        experiment: its name, such as ``digits``; its folder, ``results/digits``; its file,
            ``config/digits.yaml``; or the folder of one run.

    A name is looked up in the working directory and its parents. Runs that wait are those of the
    file ``config/<name>.yaml`` or ``config/ablations/<name>.yaml`` that have not begun; without
    such a file, only runs that have a folder are known.

    Raises:
        WtkitError: if nothing is there.

    Example:
        >>> print(status("digits"))  # doctest: +SKIP
        digits: 12 done, 1 running, 22 waiting, about 0:31:12 left
    """
    folder, file = _find(experiment)
    if file is None and not (folder / "runs").is_dir():
        return Status(folder.name, [run_status(folder, None)])
    names = _names_of(file)
    found = sorted(path.name for path in (folder / "runs").glob("*/"))
    names = names or found
    logs = folder / "logs" / "train"
    runs = [run_status(folder / "runs" / name, logs / f"{name}.log") for name in names]
    return Status(folder.name, runs)


def _names_of(file: Path | None) -> list[str]:
    """The names of a file's runs; none if it cannot be read just now."""
    with contextlib.suppress(WtkitError):
        return [run.name for run in expand(file)] if file else []
    return []


def _find(experiment: str | Path) -> tuple[Path, Path | None]:
    """The folder of an experiment or run, and the experiment's file if there is one."""
    given = Path(experiment)
    if given.suffix in (".yaml", ".yml") and given.is_file():
        return Path("results", given.stem), given
    here = Path.cwd().resolve()
    roots = [here, *here.parents]
    folders = [given] if given.is_dir() else []
    folders += [root / "results" / given.name for root in roots]
    for folder in folders:
        if folder.is_dir():
            file = next(
                filter(Path.is_file, _files(folder.resolve().parent.parent, folder.name)), None
            )
            if file or (folder / "runs").is_dir() or _is_run(folder):
                return folder, file
    for root in roots:
        for file in filter(Path.is_file, _files(root, given.name)):
            return root / "results" / given.name, file
    names = {path.parent.name for root in roots for path in root.glob("results/*/runs")}
    names |= {path.stem for root in roots for path in root.glob("config/*.yaml")}
    raise WtkitError(
        f"no runs of an experiment {str(experiment)!r}{nearest(given.name, names)}; expected its "
        f"name, its folder or its file; there are: {', '.join(sorted(names)) or nothing_in_here()}"
    )


def _files(root: Path, name: str) -> Iterable[Path]:
    return root / "config" / f"{name}.yaml", root / "config" / "ablations" / f"{name}.yaml"


def _is_run(folder: Path) -> bool:
    kept = ("progress.json", "trajectory.nc", "checkpoint.pt")
    return any((folder / name).exists() for name in kept)


def run_status(folder: Path, log: Path | None) -> RunStatus:
    """What the run in ``folder`` is at.

    Args:
        log: what it printed, if it was written to a file.
    """
    if (folder / "trajectory.nc").exists():
        return _done(folder)
    said = read_progress(folder)
    state, note = _state(folder, said, log)
    if said is None:
        return RunStatus(folder.name, state, note=note)
    return RunStatus(
        folder.name,
        state,
        epoch=said["epoch"],
        epochs=said["epochs"],
        left=seconds_left(said) if state == "running" else math.nan,
        note=note,
        **_measured(said["curves"], said.get("metrics", {})),
    )


def _done(folder: Path) -> RunStatus:
    try:
        run = open_run(folder / "trajectory.nc")
    except WtkitError as error:
        return RunStatus(folder.name, "failed", note=str(error))
    epochs = run.sizes["epoch"] - 1
    metrics = {name: str(run[name].attrs["units"]) for name in metrics_of(run)}
    curves: Curves = {
        name: run[name].values.tolist()
        for name in ("test_error", "train_loss", "seconds", *metrics)
    }
    for name in ("matrix_angle", "delta_angle"):
        inner = run[name].isel(layer=slice(None, -1)) if name == "delta_angle" else run[name]
        curves[name] = inner.mean("layer").values.tolist()
    return RunStatus(
        folder.name,
        "done",
        epoch=epochs,
        epochs=epochs,
        took=float(run["seconds"].sum()),
        note="diverged" if str(run["status"].values) == "diverged" else "",
        **_measured(curves, metrics),
    )


def _measured(curves: Curves, metrics: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a run that come from its curves.

    Args:
        metrics: units of the run's own metrics, by name.
    """
    fields: dict[str, Any] = {"curves": curves, "test_error": _last(curves["test_error"])}
    if math.isnan(fields["test_error"]):
        for name, units in metrics.items():
            if not math.isnan(value := _last(curves.get(name, []))):
                return fields | {"metric": name, "value": value, "units": units}
    return fields


def _last(values: Sequence[float | None]) -> float:
    """The last value that was measured; NaN if none was."""
    measured = [value for value in values if value is not None and math.isfinite(value)]
    return measured[-1] if measured else math.nan


def _state(folder: Path, said: dict | None, log: Path | None) -> tuple[str, str]:
    """The state of a run that has not ended well, and the last line of its error."""
    if said is not None and said["running"]:
        return "running", ""
    lines, age = _last_lines(log)
    if said is None and lines == [] and age < SILENCE:
        return "running", "starting"  # its log was emptied just now
    if lines and lines[-1].startswith("wtkit: ") and RESUMES not in lines[-1]:
        return "failed", lines[-1].removeprefix("wtkit: ")
    if any(line.startswith("Traceback ") for line in lines):
        return "failed", lines[-1]
    if said is None and not (folder / "checkpoint.pt").exists() and not lines:
        return "waiting", ""
    return "stopped", "the same command continues it"


def _last_lines(log: Path | None) -> tuple[list[str], float]:
    """The end of a log, and the seconds since it was written to; nothing, and infinity, without
    one."""
    try:
        with open(log, "rb") as file:  # type: ignore[arg-type]
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 20_000))
            text = file.read().decode(errors="replace")
        age = time.time() - log.stat().st_mtime  # type: ignore[union-attr]
    except (OSError, TypeError):
        return [], math.inf
    return [line.strip() for line in text.splitlines() if line.strip()], age
