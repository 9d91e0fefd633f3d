"""Run a command in several processes: ``python -m wtkit.processes 4 -m wtkit train …``.

Each process gets one of four claimed GPUs. With a count of 0 or 1 the command runs alone, and
claims its GPU itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import WtkitError
from . import gpus
from .launcher import launch


def main(arguments: Sequence[str]) -> int:
    """Run ``COUNT WORD …``. The exit status is that of the process, or of the first of several
    processes to fail."""
    if len(arguments) < 2 or not arguments[0].isdigit():
        raise WtkitError(
            "expected a number of GPUs, then a command: python -m wtkit.processes 4 -m wtkit "
            f"train …; got {' '.join(arguments) or 'nothing'!r}"
        )
    count, words = int(arguments[0]), list(arguments[1:])
    if count < 2:
        os.execv(sys.executable, [sys.executable, *words])
    with gpus.claimed(count):
        return launch(count, words)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except WtkitError as error:
        sys.exit(f"wtkit: {error}")
    except KeyboardInterrupt:  # while it waits for GPUs
        print("wtkit: interrupted; nothing was started", file=sys.stderr)
        sys.exit(130)
