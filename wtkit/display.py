"""Words to the user of a notebook or a terminal."""

from __future__ import annotations

import html
import sys


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class Note:
    """A line in a quiet box."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return (
            '<div style="border-left: 3px solid #b0b0b0; padding: 2px 8px; opacity: 0.8; '
            f'font-size: 90%">{html.escape(self._text)}</div>'
        )

    def __repr__(self) -> str:
        return self._text


def note(text: str) -> None:
    """Say something that is not a result: in a notebook in a quiet box, where standard error is
    shown as red as an error; elsewhere on standard error."""
    if in_notebook():
        from IPython.display import display

        display(Note(text))
    else:
        print(text, file=sys.stderr)
