"""Where a result comes from: versions, commit, device and processes."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import platform
import subprocess
from pathlib import Path

import torch
import torchvision

from .. import __version__
from ..processes import ALONE, Share


def resumed_provenance(before: str, now: str) -> str:
    """The provenance of a run that goes on: as it began, and under ``resumed`` what changed at each
    resumption."""
    began, goes_on = json.loads(before), json.loads(now)
    until_now = dict(began)
    for resumed in began.get("resumed", []):
        until_now |= resumed
    change = {
        key: value
        for key, value in goes_on.items()
        if key != "started" and value != until_now.get(key)
    }
    if change:
        began["resumed"] = [*began.get("resumed", []), change | {"started": goes_on["started"]}]
    return json.dumps(began)


def describe_provenance(device: torch.device, share: Share = ALONE) -> str:
    """What a result depends on beside its settings, as JSON."""
    return json.dumps(
        {
            "wtkit": __version__,
            "commit": current_commit(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else processor_name(),
            "threads": torch.get_num_threads(),
            "processes": share.world,
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
    )


@functools.cache
def current_commit() -> str:
    """The commit of the checkout that wtkit is run from, with ``+`` where wtkit itself differs from
    it; or nothing."""
    here = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", here, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--", str(here)) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return (
                    f"{line.partition(':')[2].strip()} ({torch.backends.cpu.get_cpu_capability()})"
                )
    return platform.processor() or platform.machine()
