"""Whether a precision pays on this CPU: measured, not read off its flags. Imports torch only to
measure."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import time
import warnings
from multiprocessing.connection import Connection

FASTEST = "float32"
"""What the other precisions are compared with, and what is advised where they are slower."""
MARGIN = 1.2
"""Times float32's time up to which nothing is said: less may be noise."""
TURNS = 0.08
"""Seconds for which each product is tried in each precision, after a turn to warm up."""
LIMIT = 20.0
"""Seconds after which the measurement is given up, and nothing said."""


def precision_warning(precision: str, device: str, processor: str) -> str:
    """A sentence on a precision that is slower than float32 on this CPU, with the setting that
    fixes it; or nothing.

    Args:
        precision: of a run.
        device: its type, such as ``cpu``; nothing is measured on any other.
        processor: name of the CPU, to be shown.
    """
    if device != "cpu" or precision == FASTEST:
        return ""
    factor = slowdown(precision)
    if factor <= MARGIN:
        return ""
    times = f"{factor:.0f}" if factor >= 3 else f"{factor:.1f}"
    compared = f"precision {precision} takes about {times} times as long as float32"
    return f"{compared} on this CPU, {processor}; set precision: {FASTEST}"


@functools.cache
def slowdown(precision: str) -> float:
    """Time of a convolution and a matrix product in a precision, on one thread of the CPU, over
    that in float32.

    Measured once a process, in some 0.4 s, without a random number. Threads that wait for each
    other on a busy machine would hide the factor, and a change of their number could change how
    this process rounds from then on: so where there are several, a copy of the process measures. 1
    where it cannot be measured.
    """
    import torch

    if torch.get_num_threads() == 1 or sys.platform != "linux":
        return _measured(precision)
    here, there = multiprocessing.Pipe(duplex=False)
    copy = multiprocessing.get_context("fork").Process(
        target=_report, args=(precision, there), daemon=True
    )
    with warnings.catch_warnings():  # of threads, which the copy is without
        warnings.simplefilter("ignore", DeprecationWarning)
        copy.start()
    there.close()
    try:
        return float(here.recv()) if here.poll(LIMIT) else 1.0
    except EOFError:  # it died
        return 1.0
    finally:
        copy.kill()
        copy.join()


def _report(precision: str, there: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    there.send(_measured(precision))


def _measured(precision: str) -> float:
    return _seconds(precision) / _seconds(FASTEST)


def _seconds(precision: str) -> float:
    """Of a 3×3 convolution of 64 channels on 8×8 maps and a product with a 512×512 matrix, cast as
    autocast does.

    Of each the fastest turn, in time of this thread, which other work on the machine does not add
    to.
    """
    import torch
    from torch.nn import functional as F

    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    images = torch.full((4, 64, 8, 8), 0.5).to(memory_format=torch.channels_last)
    kernels, vectors, matrix = (
        torch.full(size, 0.01) for size in ((64, 64, 3, 3), (64, 512), (512, 512))
    )
    found = 0.0
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=precision != FASTEST):
        for product in (
            lambda: F.conv2d(images, kernels, padding=1),
            lambda: F.linear(vectors, matrix),
        ):
            product()  # prepares its kernels
            best, now = float("inf"), time.thread_time()
            end = now + TURNS
            while now < end:
                product()
                before, now = now, time.thread_time()
                best = min(best, now - before)
            found += best
    return found
