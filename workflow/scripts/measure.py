"""Run a command, and print its time and the peak memory of it and its children at the end.

    python workflow/scripts/measure.py --since SECONDS command ...

``--since`` is the start of the work as ``date +%s`` prints it; the time until now counts as set-up.
The exit status is the command's. Memory is the sum of the processes' resident sets, sampled every
half second; shared pages count once per process.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time

import psutil


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--since", type=float, default=None)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    start = time.time()
    since = start if args.since is None else args.since
    # Ctrl-C reaches the command by itself: wait for its end. SIGTERM is passed on.
    signal.signal(signal.SIGINT, lambda *_: None)
    command = subprocess.Popen(args.command)
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())

    peak = 0
    while True:
        peak = max(peak, memory(command.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = command.wait(timeout=0.5)
            break

    end = time.time()
    print(
        f"\n{'Finished' if status == 0 else 'Failed'} after {(end - since) / 60:.1f} minutes, "
        f"{(start - since) / 60:.1f} of them set-up; {peak / 1e9:.1f} GB of memory at most.",
        file=sys.stderr,
    )
    return status if status >= 0 else 128 - status


def memory(pid: int) -> int:
    """Bytes in the resident sets of a process and its descendants."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_info().rss
    return total


if __name__ == "__main__":
    sys.exit(main())
