"""The notebooks that the site shows, written to docs/notebooks/ before Sphinx reads it. None is
executed.

An executed notebook is taken from results/<experiment>/notebooks/, where the pipeline leaves it:
the newest, if there are several. Of a notebook that has not been executed here the committed copy
is shown, without outputs, below the committed figures of results/reference/. A line at the top of
the page says which.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

# where the committed figures are, if not with those of digits
REFERENCE = {
    "ablation": "kp_decay",
    "fig1_weight_mirror": "circuits",
    "fig2_kolen_pollack": "circuits",
}


def write(root: Path, folder: Path) -> None:
    """Write all notebooks to ``folder``. Files that would not change stay, so that Sphinx need not
    read them again."""
    folder.mkdir(exist_ok=True)
    for source in sorted((root / "notebooks").glob("*.ipynb")):
        text = json.dumps(page(root, source), ensure_ascii=False, indent=1)
        target = folder / source.name
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


def page(root: Path, source: Path) -> dict:
    """The notebook with a second cell that says where it is from, and that has the committed
    figures if need be."""
    executed = sorted(
        root.glob(f"results/*/notebooks/{source.name}"), key=lambda path: path.stat().st_mtime
    )
    notebook = json.loads((executed[-1] if executed else source).read_text())
    words = came_from(root, executed[-1]) if executed else committed(root, source)
    cell = {"cell_type": "markdown", "id": "where-it-is-from", "metadata": {}, "source": words}
    # execution leaves out the name of the lexer in some versions of Jupyter
    notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    notebook["cells"].insert(1, cell)
    return notebook


def came_from(root: Path, executed: Path) -> str:
    day = datetime.fromtimestamp(executed.stat().st_mtime, UTC).date()
    return f":::{{note}}\nExecuted on {day}: `{executed.relative_to(root)}`.\n:::\n"


def committed(root: Path, source: Path) -> str:
    """A note, and the committed figures and tables of the notebook."""
    folder = root / "results/reference" / REFERENCE.get(source.stem, "digits")
    figures = sorted(folder.glob(f"{source.stem}*.png"))
    tables = sorted(folder.glob(f"{source.stem}*.html"))
    note = "Not executed when this site was built, so the cells have no outputs."
    if figures or tables:
        what = " and ".join(["figure"] * bool(figures) + ["table"] * bool(tables))
        note += f" The {what} below is committed with wtkit, in `{folder.relative_to(root)}`."
    parts = [f":::{{note}}\n{note}\n:::\n"]
    parts += [f"![{path.stem}](../../{path.relative_to(root)})\n" for path in figures]
    parts += [
        scrolled(re.search(r"<table.*</table>", path.read_text(), re.DOTALL)[0]) for path in tables
    ]
    return "\n".join(parts)


def scrolled(table: str) -> str:
    """A table as MyST takes it: HTML without blank lines, in a box that scrolls sideways."""
    lines = (
        line
        for line in table.replace('class="dataframe"', 'class="table"').splitlines()
        if line.strip()
    )
    return "\n".join(['<div class="pst-scrollable-table-container">', *lines, "</div>"]) + "\n"
