"""The errors that people, not programs, are meant to read."""

import contextlib
from collections.abc import Iterator


class WtkitError(ValueError):
    """Something a user can mend: its text names the key, file or value, what was expected, and the
    fix.

    The command line prints it in one or two lines, without a traceback.
    """

    said_elsewhere = False  # of several processes that fail alike, one says it


class Stopped(WtkitError):
    """A run that was told to stop, and left a checkpoint from which the same command goes on."""


class MissingExtra(WtkitError, ImportError):
    """A package is not installed that only one of wtkit's extras needs, such as
    ``wtkit[figures]``."""


@contextlib.contextmanager
def imports_of(extra: str) -> Iterator[None]:
    """Around imports: if a package is missing, the error names the extra that installs it.

    Raises:
        MissingExtra: in place of ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed; pip install 'wtkit[{extra}]'") from None


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out; torch has a type for that, but only for its own
    memory of a GPU."""
    # CUDA's, the CPU's, and that of CUDA's libraries
    said = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in said)
    )
