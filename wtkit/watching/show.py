"""Watch an experiment until its runs have ended."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path

from ..display import in_notebook
from ..errors import WtkitError
from .live import ANGLES, PANELS, Curves, Live
from .status import RunStatus, Status, status

PATIENCE = 60.0
"""Seconds without a running run after which nothing more is expected."""


def watch(experiment: str | Path = "digits", *, every: float = 5.0) -> Status:
    """Show what an experiment's runs are at until they have ended: in a notebook as a display that
    grows in place, elsewhere as text. Reads only, and never disturbs a run.

    The runs may be Snakemake's, in another process or on another machine that writes to the same
    folder. Interrupt it (in a notebook: the stop button) to end it sooner; the runs continue.

    Args:
        experiment: its name, such as ``digits``; its folder, ``results/digits``; its file; or the
            folder of one run.
        every: seconds between two looks.

    Returns:
        the runs as they were last seen; ``.table`` has them as a pandas table.

    Raises:
        WtkitError: if nothing is there, or ``every`` is no number of seconds.

    Example:
        >>> wtkit.watch("results/digits")  # doctest: +SKIP
    """
    if not 0 <= every < math.inf:
        raise WtkitError(f"watch: every: expected seconds, 0 or more, got {every}")
    now = status(experiment)
    show = _shower(now)
    quiet_since = time.monotonic()
    try:
        while True:
            show(now)
            if now.count("running"):
                quiet_since = time.monotonic()
            ended = now.count("done") + now.count("failed") == len(now.runs)
            idle = not now.count("running") and time.monotonic() - quiet_since > PATIENCE
            if ended or idle:
                return now
            time.sleep(every)
            now = status(experiment)
    except KeyboardInterrupt:
        return now


def _shower(first: Status) -> Callable[[Status], None]:
    """A function that shows a status: in place in a notebook, else as lines when they change."""
    if in_notebook():
        live = Live()
        return lambda now: _update(live, now)
    said: list[str] = []

    def print_changes(now: Status) -> None:
        text = str(now)
        # not for the time left alone, which changes always
        state = str([(run.run, run.state, run.epoch) for run in now.runs])
        if state not in said[-1:]:
            said.append(state)
            print(text, flush=True)

    return print_changes


def _update(live: Live, now: Status) -> None:
    kinds = [re.sub(r"-seed\d+$", "", run.run) for run in now.runs]
    colors = {kind: f"C{number % 10}" for number, kind in enumerate(dict.fromkeys(kinds))}
    under_way = [(kind, run) for kind, run in zip(kinds, now.runs, strict=True) if run.curves]
    panels = _panels(now)
    curves: dict[str, Curves] = {
        name: [(kind, colors[kind], run.curves.get(name, [])) for kind, run in under_way]
        for name in panels
    }
    live.curves(curves, max((run.epochs for run in now.runs), default=1), panels)
    live.bar(sum(map(_share, now.runs)), len(now.runs), str(now), at_once=True)


def _panels(now: Status) -> dict[str, str]:
    """The labels of the axes. The first is the test error; of runs that measure none, the first
    metric of their own."""
    measured = [run for run in now.runs if run.metric]
    if not measured or any(not math.isnan(run.test_error) for run in now.runs):
        return PANELS
    run = measured[0]
    units = "" if run.units == "1" else f" ({run.units})"
    return {run.metric: f"test {run.metric.replace('_', ' ')}{units}"} | ANGLES


def _share(run: RunStatus) -> float:
    """How much of a run is done."""
    return 1.0 if run.state == "done" else run.epoch / run.epochs if run.epochs else 0.0
