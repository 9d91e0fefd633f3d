"""Save figures and tables; the same input always gives the same bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from ..errors import WtkitError


def save_figure(fig: Figure, stem: str | Path) -> None:
    """Write ``stem``.svg and ``stem``.png; the same figure always gives the same bytes.

    Raises:
        WtkitError: if a file cannot be written.
    """
    fig.draw_without_rendering()  # one layout for both files
    fig.set_layout_engine("none")
    with _writing(stem), mpl.rc_context({"svg.hashsalt": "wtkit"}):
        fig.savefig(f"{stem}.svg", metadata={"Date": None})
        fig.savefig(f"{stem}.png", dpi=200, metadata={"Software": None})


def save_table(table: pd.DataFrame, path: str | Path, title: str = "") -> None:
    """Write a table in the format of ``path``'s suffix: ``.html`` (a page), ``.csv`` or ``.tex``.

    Raises:
        WtkitError: for another suffix, or if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".html", ".csv", ".tex"):
        raise WtkitError(f"cannot write a table as {path.name!r}; use .html, .csv or .tex")
    if path.suffix == ".html":
        text = PAGE.format(title=title, table=table.to_html(index=False, border=0))
    elif path.suffix == ".csv":
        text = table.to_csv(index=False)
    else:
        text = table.to_latex(index=False, escape=True).replace("±", r"$\pm$").replace("–", "--")
    with _writing(path):
        path.write_text(text, encoding="utf-8")


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.45 "DejaVu Sans", Verdana, sans-serif; margin: 2em; color: #111; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .35em .8em; text-align: left !important; vertical-align: top;
  border-bottom: 1px solid #ccc; }}
th {{ border-bottom: 2px solid #111; }}
</style></head><body>
<h1>{title}</h1>
{table}
</body></html>
"""


@contextlib.contextmanager
def _writing(path: str | Path) -> Iterator[None]:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise WtkitError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you can write to"
        ) from None
