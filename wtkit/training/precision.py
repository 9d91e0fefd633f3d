"""Whether a precision is faster on this CPU: measured, not read from its flags. Imports torch only
to measure."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import time
import warnings
from multiprocessing.connection import Connection

FASTEST = "float32"
"""The precision that others are compared with, and the advice if they are slower."""
MARGIN = 1.2
"""A smaller factor over float32's time may be noise, and gives no warning."""
TURNS = 0.08
"""Seconds for which each product is measured in each precision, after one turn to warm up."""
LIMIT = 20.0
"""Seconds after which the measurement is abandoned, without a warning."""


def precision_warning(precision: str, device: str, cpu: str) -> str:
    """A warning that a precision is slower than float32 on this CPU, with the setting to change; or
    "".

    Args:
        precision: the run's precision.
        device: the type of its device; only ``cpu`` is measured.
        cpu: the CPU's name, for the warning.
    """
    if device != "cpu" or precision == FASTEST:
        return ""
    factor = slowdown(precision)
    if factor <= MARGIN:
        return ""
    times = f"{factor:.0f}" if factor >= 3 else f"{factor:.1f}"
    compared = f"precision {precision} takes about {times} times as long as float32"
    return f"{compared} on this CPU, {cpu}; set precision: {FASTEST}"


@functools.cache
def slowdown(precision: str) -> float:
    """The time of a convolution and a matrix product in a precision over their time in float32, on
    one thread.

    Measured once per process, in about 0.4 s, without random numbers. On a busy machine, threads
    that wait for each other would hide the factor; and a change of their number could change how
    this process rounds afterwards. So a process with several threads measures in a forked copy. 1
    if it cannot be measured.
    """
    import torch

    if torch.get_num_threads() == 1 or sys.platform != "linux":
        return _measured(precision)
    here, there = multiprocessing.Pipe(duplex=False)
    copy = multiprocessing.get_context("fork").Process(
        target=_report, args=(precision, there), daemon=True
    )
    with warnings.catch_warnings():  # about threads, which the copy does not have
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
    """The time of a 3×3 convolution of 64 channels on 8×8 maps and a product with a 512×512 matrix,
    under autocast.

    The fastest turn of each, in CPU time of this thread, so that other work on the machine does not
    count.
    """
    import torch
    from torch.nn import functional as F

    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    images = torch.full((4, 64, 8, 8), 0.5).to(memory_format=torch.channels_last)
    kernels, vectors, matrix = (
        torch.full(size, 0.01) for size in ((64, 64, 3, 3), (64, 512), (512, 512))
    )
    total = 0.0
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=precision != FASTEST):
        for product in (
            lambda: F.conv2d(images, kernels, padding=1),
            lambda: F.linear(vectors, matrix),
        ):
            product()  # warm-up
            best, now = float("inf"), time.thread_time()
            end = now + TURNS
            while now < end:
                product()
                before, now = now, time.thread_time()
                best = min(best, now - before)
            total += best
    return total
