"""The provenance of a result: versions, commit, device and processes."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import torchvision

from .. import __version__
from ..processes import ALONE, Share


def resumed_provenance(before: str, now: str) -> str:
    """The provenance of a resumed run: as it started, and under ``resumed`` what changed each
    time it was resumed."""
    first, current, latest = json.loads(before), json.loads(now), _latest(before)
    change = {
        key: value
        for key, value in current.items()
        if key != "started" and value != latest.get(key)
    }
    if change:
        first["resumed"] = [*first.get("resumed", []), change | {"started": current["started"]}]
    return json.dumps(first)


def _latest(before: str) -> dict[str, Any]:
    """The provenance of a run's last stretch."""
    first = json.loads(before)
    latest = dict(first)
    for resumed in first.get("resumed", []):
        latest |= resumed
    return latest


def rounding_change(before: str, now: str) -> str:
    """What differs between two provenances that changes how sums are rounded, in a few words; empty
    if a run that is resumed gives the same numbers, bit for bit.

    >>> rounding_change('{"threads": 1}', '{"threads": 2}')
    '2 threads instead of 1'
    """
    latest, current, changes = _latest(before), json.loads(now), []
    for key in ("threads", "processes", "device", "torch"):
        was, is_now = latest.get(key), current.get(key)
        if was is not None and was != is_now:
            changes.append(
                f"{is_now} {key} instead of {was}"
                if isinstance(is_now, int)
                else f"{key} {is_now} instead of {was}"
            )
    return ", ".join(changes)


def describe_provenance(device: torch.device, share: Share = ALONE) -> str:
    """What a result depends on besides its settings, as JSON."""
    return json.dumps(
        {
            "wtkit": __version__,
            "commit": current_commit(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "threads": torch.get_num_threads(),
            "processes": share.world,
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
    )


@functools.cache
def current_commit() -> str:
    """The commit of wtkit's checkout, with ``+`` if wtkit's files differ from it; "" outside of a
    checkout."""
    here = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(
            # without a lock on the index, on which the user's own git would fail
            ["git", "--no-optional-locks", "-C", here, *words],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--", str(here)) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu_name() -> str:
    """The CPU's model and the instruction set that PyTorch uses on it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return (
                    f"{line.partition(':')[2].strip()} ({torch.backends.cpu.get_cpu_capability()})"
                )
    return platform.processor() or platform.machine()
