"""Errors that are written for users."""

import contextlib
from collections.abc import Iterator


class WtkitError(ValueError):
    """An error that the user can fix. Its text names the key, file or value, what was expected, and
    the fix.

    The command line prints it in one or two lines, without a traceback.
    """

    said_elsewhere = False  # True if another process of the run prints the same error


class Stopped(WtkitError):
    """A run was stopped by a signal, and wrote a checkpoint from which the same command resumes."""


class MissingExtra(WtkitError, ImportError):
    """A package of one of wtkit's extras, such as ``wtkit[figures]``, is not installed."""


@contextlib.contextmanager
def imports_of(extra: str) -> Iterator[None]:
    """Import inside this context: if a package is missing, the error names the extra that installs
    it.

    Raises:
        MissingExtra: in place of ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed; pip install 'wtkit[{extra}]'") from None


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out. torch's own type for this covers only the GPU
    memory that torch allocates."""
    # messages of CUDA, of the CPU's allocator, and of CUDA's libraries
    messages = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in messages)
    )
