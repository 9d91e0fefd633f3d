"""The machine that runs a training: its device, memory, signals and terminal."""

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
from ..processes import said_once


@contextlib.contextmanager
def listen_for_stop(listen: bool) -> Iterator[list[str]]:
    """A list that collects the names of SIGTERM and SIGUSR1 as they arrive; schedulers send them
    before they take a machine away."""
    received: list[str] = []
    # only a program's main thread may listen, and only a run that can be resumed needs to
    signals = (
        (signal.SIGTERM, signal.SIGUSR1)
        if listen and threading.current_thread() is threading.main_thread()
        else ()
    )
    before = {
        number: signal.signal(number, lambda n, _: received.append(signal.Signals(n).name))
        for number in signals
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error into one that names the settings to reduce."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        raise WtkitError(
            f"out of memory on {device}: {textwrap.shorten(str(error), 120)}; take a smaller "
            "batch_size, image_size or noise_batch; saved epochs are not lost"
        ) from None


def find_device(name: str | torch.device | None) -> torch.device:
    """The device to train on; by default a GPU if there is one.

    Raises:
        WtkitError: if there is no such device, or it cannot train.
    """
    name = str(name or "") or ("cuda" if torch.cuda.is_available() else "cpu")
    # torchrun numbers the processes on this machine
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return _usable(f"cuda:{os.environ['LOCAL_RANK']}")
    with said_once():  # the same device for all processes
        return _usable(name)


def _usable(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error).splitlines()[0], 120)
        if is_lack_of_memory(error):
            raise WtkitError(
                f"out of memory on {name} before anything was stored there ({reason}); choose "
                "another device, or end the program that uses it"
            ) from None
        raise WtkitError(
            f"no device {name!r} here, expected 'cpu', or 'cuda' where there is a GPU ({reason})"
        ) from None
    if not torch.amp.is_autocast_available(device.type):
        raise WtkitError(
            f"device {name!r} cannot train; expected 'cpu', or 'cuda' where there is a GPU"
        )
    return device


@contextlib.contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Train in torch's default modes, whatever the caller has set: with gradients, without autocast
    but the run's own, in float32, and with new tensors on the CPU."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() is not torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        yield


def keep_memory() -> None:
    """Make the C library keep freed memory: returning the pages of gradients to the system and
    getting them back takes a tenth of a step on a CPU."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: smaller blocks come from the heap
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: the heap shrinks only above this free size


def say(text: str, quiet: bool) -> None:
    """Print a line, unless ``quiet``."""
    if not quiet:
        # a script's output may have ASCII only
        encoding = sys.stdout.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        # in one write: a process killed in between leaves no half line
        print(f"{text}\n", end="", flush=True)


def progress_bar(batches: Iterator, done: int, total: int, text: str, quiet: bool) -> Iterator:
    """A progress bar on a terminal; nothing elsewhere, where the line at the epoch's end is
    enough."""
    return tqdm(
        batches, text, total, initial=done, leave=False, disable=quiet or not sys.stderr.isatty()
    )
