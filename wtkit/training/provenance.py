"""The provenance of a result: versions, commit, device and processes."""

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
    """The provenance of a resumed run: as it started, and under ``resumed`` what changed each
    time it was resumed."""
    first, current = json.loads(before), json.loads(now)
    latest = dict(first)
    for resumed in first.get("resumed", []):
        latest |= resumed
    change = {
        key: value
        for key, value in current.items()
        if key != "started" and value != latest.get(key)
    }
    if change:
        first["resumed"] = [*first.get("resumed", []), change | {"started": current["started"]}]
    return json.dumps(first)


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
            ["git", "-C", here, *words], capture_output=True, text=True, check=True
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
