"""An interactive figure as a page of its own: HTML that needs no kernel and fetches nothing."""

from __future__ import annotations

import html
from pathlib import Path

from bokeh.embed import file_html
from bokeh.models import UIElement
from bokeh.resources import Resources

from ..files import write_whole

TOOLS = "pan,box_zoom,wheel_zoom,reset"
WIDTH = 900


class Explorer:
    """An interactive figure, which Jupyter shows when it is the last value of a cell.

    It is shown in a frame of its own, with the script that it needs, so that it works in the
    executed HTML, too, offline and next to any other script of that page.
    """

    def __init__(self, layout: UIElement, title: str, height: int) -> None:
        self.title, self.height = title, height
        self._layout = layout

    def to_html(self) -> str:
        """The figure as an HTML document that fetches nothing: about 1 MB of script, and the
        data."""
        return file_html(self._layout, Resources(mode="inline", log_level="error"), self.title)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_html` to a file.

        Raises:
            WtkitError: if the file cannot be written.
        """
        write_whole(Path(path), self.to_html().encode())

    def _repr_html_(self) -> str:
        # of an attribute only these two need to be escaped; the script is full of other signs
        document = self.to_html().replace("&", "&amp;").replace('"', "&quot;")
        return (
            f'<iframe srcdoc="{document}" title="{html.escape(self.title)}" '
            f'width="100%" height="{self.height}" style="border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<{self.title}: interactive in a notebook; save('figure.html') elsewhere>"
