"""The report of :func:`wtkit.transport` as a table."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tabulate import tabulate

if TYPE_CHECKING:
    import pandas as pd


class Row(NamedTuple):
    """What the feedback path uses of one parameter.

    Attributes:
        parameter: its name.
        kind: the class of its module.
        used: ``no``; ``copied``, if B is computed from it after each update; or the part of it that
            δ passes: ``signs``, ``scale``, ``signs and scale``, or ``value``.
        below: the nearest parameter whose δ depends on it.
        reaches: the number of such parameters.
        B_learns: how the B in its place learns about it, if there is one.
    """

    parameter: str
    kind: str
    used: str
    below: str
    reaches: int
    B_learns: str

    @property
    def through(self) -> str:
        """What the parameter does to δ, in a few words: ``BatchNorm2d scales δ by its weight``."""
        if self.used == "no":
            return ""
        own = self.parameter.rpartition(".")[2]
        if self.used == "copied":
            return f"{self.kind} copies its {own} into B"
        verb = "scales δ by" if any(word in self.kind for word in _SCALING) else "sends δ through"
        part = "" if self.used == "value" else f"{self.used} of "
        return f"{self.kind} {verb} the {part}its {own}".replace("the its", "its")


_SCALING = ("Norm", "PReLU")


class Transport:
    """Which parameters the feedback path uses; see :func:`wtkit.transport`.

    Attributes:
        rows: a :class:`Row` for each parameter.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)

    @property
    def transported(self) -> tuple[Row, ...]:
        """The rows of parameters that are used."""
        return tuple(row for row in self.rows if row.used != "no")

    def to_frame(self) -> pd.DataFrame:
        """All rows as a pandas table."""
        import pandas as pd

        names = [*Row._fields[:3], "through", *Row._fields[3:]]
        return pd.DataFrame(
            [[getattr(row, name) for name in names] for row in self.rows], columns=names
        )

    @property
    def summary(self) -> str:
        """One sentence."""
        used, total = len(self.transported), len(self.rows)
        if not used:
            return f"None of {total} parameters is used by the feedback path."
        return f"{used} of {total} parameters are used by the feedback path."

    def _table(self, style: str) -> str:
        return tabulate(self._groups(), headers="keys", tablefmt=style)

    def _groups(self) -> list[dict[str, object]]:
        """Parameters that are used alike in one line each."""
        alike: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            alike.setdefault((row.kind, row.used, row.through, row.B_learns), []).append(row)
        return [
            {
                "parameters": len(rows),
                "of": rows[0].kind,
                "used": used,
                "through": through,
                "first": rows[0].parameter,
                "below": rows[0].below,
                "B learns of it by": learns,
            }
            for (_, used, through, learns), rows in alike.items()
        ]

    def __repr__(self) -> str:
        return f"{self.summary}\n{self._table('simple')}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.summary)}</p>{self._table('html')}"
