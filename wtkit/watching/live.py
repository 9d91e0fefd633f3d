"""A display in a notebook that is replaced in place: a progress bar above curves that grow."""

from __future__ import annotations

import base64
import html
import io
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import imports_of

EVERY = 0.5
"""Seconds between two updates within an epoch."""
SIZE = (9.0, 2.6)  # inches
ANGLES = {"matrix_angle": "matrix angle (°)", "delta_angle": "δ angle (°)"}
PANELS = {"test_error": "test error (%)"} | ANGLES
"""What is shown of a run that measures a test error, with the labels of the axes."""
Curves = Sequence[tuple[str, Any, Sequence[Any]]]
"""Label, colour and values by epoch of each line."""


class Live:
    """A display in the cell that is running. Its size never changes, so that nothing jumps.

    Raises:
        MissingExtra: without matplotlib.
    """

    def __init__(self) -> None:
        with imports_of("figures"):
            import matplotlib.figure  # noqa: F401
        from IPython.display import display

        self._image, self._last = "", -math.inf
        self._handle = display(_Html(""), display_id=True)

    def run(self, records: Sequence[Mapping[str, Any]], epochs: int, text: str) -> None:
        """After one of a run's epochs: a line per layer, from the input (dark) to the output."""
        from matplotlib import colormaps

        curves: dict[str, Curves] = {}
        for name in PANELS:
            values = np.array(
                [np.atleast_1d(entry.get(name, np.nan)) for entry in _even(records, name)]
            )
            colors = colormaps["viridis"](np.linspace(0, 0.92, values.shape[1]))
            black = "black" if values.shape[1] == 1 else None
            lines = zip(colors, values.T, strict=True)
            curves[name] = [("", black or color, line) for color, line in lines]
        self.curves(curves, epochs)
        self.bar(len(records) - 1, epochs, text, at_once=True)

    def curves(
        self, curves: Mapping[str, Curves], epochs: int, panels: Mapping[str, str] = PANELS
    ) -> None:
        """Draw lines in panels; shown by the next :meth:`bar`.

        Args:
            epochs: where the axes end.
            panels: the labels of the axes, by the name of what they show.
        """
        self._image = _png(curves, max(1, epochs), panels)

    def bar(self, done: float, total: float, text: str, *, at_once: bool = False) -> None:
        """Show the bar, the text beside it and the curves, at most every :data:`EVERY` seconds."""
        if at_once or time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            width, height = (round(96 * inches) for inches in SIZE)
            image = self._image and (
                f'<img src="data:image/png;base64,{self._image}" alt="error and angles by epoch" '
                f'width="{width}" height="{height}">'
            )
            self._handle.update(
                _Html(
                    f'<div><progress value="{done:g}" max="{max(total, 1):g}" style="width: 240px">'
                    f"</progress> <pre style='display: inline'>{html.escape(text)}</pre></div>"
                    f"{image}"
                )
            )


def _even(records: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The records, with as many values in each: epochs without angles have NaN for each layer."""
    longest = max(np.size(entry.get(name, np.nan)) for entry in records)
    return [
        entry if np.size(entry.get(name, np.nan)) == longest else {name: np.full(longest, np.nan)}
        for entry in records
    ]


class _Html:
    """HTML, and its first line where there is none."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "<wtkit: a display for notebooks>"


def _png(curves: Mapping[str, Curves], epochs: int, panels: Mapping[str, str]) -> str:
    """The panels as a PNG image, in base64. Not by pyplot: the notebook's own figures stay."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, dpi=192, layout="constrained")
    axes = figure.subplots(1, len(panels))
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        for text, color, values in curves.get(name, []):
            shown = np.array([np.nan if v is None else v for v in values], dtype=float)
            known = np.flatnonzero(np.isfinite(shown))
            ax.plot(known, shown[known], ".-", color=color, label=text, linewidth=1, markersize=3)
        ax.set(xlim=(-0.3, epochs + 0.3), xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if name in ANGLES:
            ax.set_ylim(0, 100)
        elif name in PANELS:  # a metric may be negative
            ax.set_ylim(0, None)
    labels = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    if any(labels):
        figure.legend(labels.values(), labels, loc="outside lower center", ncols=5, fontsize=7)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return base64.b64encode(content.getvalue()).decode()
