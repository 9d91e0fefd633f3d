"""A sign and a colour for each verdict of the claims table."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pandas as pd

from ..claims import Outcome

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

VERDICTS = {
    "holds": ("✓", "#1b6e3c"),
    "fails": ("✗", "#a3212f"),
    "undecided": ("?", "#8a5a00"),
    "cannot be tested here": ("–", "#595959"),
    "shown by a test": ("✓", "#1b6e3c"),
    "shown by another experiment": ("–", "#595959"),
}
"""The sign and the colour of each verdict. Signs differ too, so that the table works in grey."""
assert set(VERDICTS) == set(get_args(Outcome))


def style_verdicts(table: pd.DataFrame) -> Styler:
    """The table of :func:`wtkit.claims.claim_table` with signs and colours, for a notebook.

    Also styles tables whose index holds the verdicts.
    """
    styler = table.style.set_properties(**{"text-align": "left", "vertical-align": "top"})
    styler = styler.set_table_styles([{"selector": "th", "props": [("text-align", "left")]}])
    if "verdict" not in table:
        return styler.format_index(_signed).map_index(_css)
    styler = styler.format(_signed, subset=["verdict"]).map(_css, subset=["verdict"])
    return styler.hide(axis="index")


def _signed(verdict: str) -> str:
    return f"{VERDICTS[verdict][0]} {verdict}"


def _css(verdict: str) -> str:
    return f"color: {VERDICTS[verdict][1]}; font-weight: bold; white-space: nowrap"
