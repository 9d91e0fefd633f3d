"""Executed notebooks as pages: they fetch nothing, equations are MathML, failures show their
traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=", re.I)


def converted(*paths):
    """The pages of notebooks, by one process."""
    code = (
        "import sys, json, execute; page = execute.OfflinePage(); "
        "print(json.dumps([page.from_filename(path)[0] for path in sys.argv[1:]]))"
    )
    command = [sys.executable, "-W", "error", "-c", code, *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT / "workflow/scripts", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def notebook(path, *cells, parameters=""):
    code = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made = nbformat.v4.new_notebook(cells=[code, *cells])
    nbformat.write(made, path)
    return path


@pytest.fixture(scope="module")
def pages():
    return dict(zip(NOTEBOOKS, converted(*NOTEBOOKS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_fetches_nothing_and_leaves_no_latex(path, pages):
    html = pages[path]
    assert not FETCHED.search(html)
    body = html[html.index("<main") :]
    text = re.sub(r"<div class=\"[^\"]*highlight.*?</div>", "", body, flags=re.S)
    assert "$" not in re.sub(r"<(?:pre|code).*?</(?:pre|code)>", "", text, flags=re.S)
    latex = "".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    assert ("<math" in html) == ("$" in latex)


@pytest.mark.slow
def test_every_kind_of_equation_is_mathml_and_unknown_latex_stays_text(tmp_path):
    kinds = [
        r"inline $\mathbf W$ and \\(x_1\\)", "$$\n\\frac{a}{b}\n$$", r"\\[ y^2 \\]",
        "\\begin{align} a &= b \\\\ c &= d \\end{align}",
    ]  # fmt: skip
    cells = [nbformat.v4.new_markdown_cell(text) for text in [*kinds, r"$\nosuchmacro{1}$"]]
    output = nbformat.v4.new_output("display_data", {"text/latex": r"$\alpha$"})
    cells.append(nbformat.v4.new_code_cell("x", outputs=[output]))
    (html,) = converted(notebook(tmp_path / "n.ipynb", *cells))
    assert html.count("<math") == 6
    assert r"<code>\nosuchmacro{1}</code>" in html and "α" in html
    assert not FETCHED.search(html)


@pytest.mark.slow
def test_a_failed_notebook_prints_its_traceback_and_where_it_is(tmp_path):
    cell = nbformat.v4.new_code_cell("def f():\n    return {}['lost']\n\nf()")
    path = notebook(tmp_path / "n.ipynb", cell)
    command = [sys.executable, ROOT / "workflow/scripts/execute.py", path, tmp_path / "done.ipynb"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "return {}['lost']" in done.stderr and "\x1b" not in done.stderr
    assert done.stderr.rstrip().endswith(f"traceback: {tmp_path}/done.ipynb")
    assert f"{path}: KeyError: 'lost'\n" in done.stderr and len(done.stderr.splitlines()) < 60
