"""The machine that a run is on: its device, memory, signals and terminal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator

import torch
from tqdm import tqdm

from ..errors import WtkitError, is_lack_of_memory


@contextlib.contextmanager
def listen_for_stop(listen: bool) -> Iterator[list[str]]:
    """A list that the name of SIGTERM or SIGUSR1 is put on when it arrives, as before a machine is
    taken away."""
    told: list[str] = []
    # only a program's main thread may listen, and only a run that can be resumed has a use for it
    signals = (
        (signal.SIGTERM, signal.SIGUSR1)
        if listen and threading.current_thread() is threading.main_thread()
        else ()
    )
    before = {
        number: signal.signal(number, lambda n, _: told.append(signal.Signals(n).name))
        for number in signals
    }
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        raise WtkitError(
            f"out of memory on {device}: {textwrap.shorten(str(error), 120)}; take a smaller "
            "batch_size, image_size or noise_batch; epochs that were saved are kept"
        ) from None


def find_device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    # torchrun's number of this process on this machine
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error).splitlines()[0], 120)
        if is_lack_of_memory(error):
            raise WtkitError(
                f"out of memory on {name}, before anything was put there ({reason})"
            ) from None
        raise WtkitError(
            f"no device {name!r} here, expected 'cpu', or 'cuda' where there is a GPU ({reason})"
        ) from None
    if not torch.amp.is_autocast_available(device.type):
        raise WtkitError(
            f"device {name!r} cannot train; expected 'cpu', or 'cuda' where there is a GPU"
        )
    return device


def keep_memory() -> None:
    """Have the C library keep what is freed: handing gradients' pages back and forth costs a tenth
    of a CPU step."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        mallopt = ctypes.CDLL(None).mallopt
        # M_MMAP_THRESHOLD: what is smaller comes from the heap, which is kept …
        mallopt(-3, 32 << 20)
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: … until that much of it is free


def say(text: str, quiet: bool) -> None:
    if not quiet:
        # in one go: a process that is killed in between leaves no half line
        print(f"{text}\n", end="", flush=True)


def progress_bar(batches: Iterator, done: int, total: int, text: str, quiet: bool) -> Iterator:
    """A bar on a terminal, nothing elsewhere: the line at the epoch's end then says it all."""
    return tqdm(
        batches, text, total, initial=done, leave=False, disable=quiet or not sys.stderr.isatty()
    )
