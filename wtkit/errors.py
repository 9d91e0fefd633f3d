"""The errors that people, not programs, are meant to read."""


class WtkitError(ValueError):
    """Something a user can mend: its text names the key, file or value, what was expected, and the fix.

    The command line prints it in one or two lines, without a traceback.
    """

    said_elsewhere = False  # of several processes that fail alike, one says it


class Stopped(WtkitError):
    """A run that was told to stop, and left a checkpoint from which the same command goes on."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out; torch has no type of its own for that on the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
