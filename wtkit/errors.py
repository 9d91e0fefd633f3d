"""The one error that people, not programs, are meant to read."""


class WtkitError(ValueError):
    """Something a user can mend: its text names the key, file or value, what was expected, and the fix.

    The command line prints it in one or two lines, without a traceback.
    """
