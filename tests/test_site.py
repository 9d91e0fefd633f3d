"""The documentation site is built without a warning, fetches nothing, and lists every method and
public name."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wtkit
from wtkit import methods

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def public_names():
    return re.findall(r"^   (wtkit\.[\w.]+)$", (DOCS / "api.md").read_text(), re.M)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--doctree-dir", folder / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, DOCS, folder / "html"]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


@pytest.mark.slow
def test_no_page_fetches_anything(site):
    fetched = re.compile(
        r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=\"(?:https?:)?//", re.I
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for path in pages:
        assert not fetched.search(path.read_text()), path
    for path in site.glob("_static/**/*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", path.read_text()), path


@pytest.mark.slow
def test_equations_are_mathml_and_interface_and_notebooks_have_pages(site):
    assert (site / "methods.html").read_text().count("<math") > 20
    assert "$" not in re.sub(
        r"<[^>]*>",
        "",
        (site / "methods.html").read_text().split("<article")[1].split("</article")[0],
    )
    for name in public_names():
        assert (site / f"api/{name}.html").exists()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert (site / f"notebooks/{path.stem}.html").exists()
    assert "mirror" in (site / "searchindex.js").read_text()


def test_the_interface_lists_what_wtkit_exports_and_every_method():
    names = set(public_names())
    assert {f"wtkit.{name}" for name in wtkit.__all__} <= names
    for name in methods.names():
        assert f"wtkit.methods.{name}.{methods.method_class(name).__name__}" in names


def test_the_page_of_methods_has_a_row_for_each():
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \|", (DOCS / "methods.md").read_text(), re.M)
    assert sorted((name, label) for label, name in rows) == [
        (name, methods.method_class(name).label) for name in methods.names()
    ]


def test_the_gallery_shows_all_reference_results():
    text = (DOCS / "gallery.md").read_text()
    for path in (ROOT / "results/reference").glob("*/results.nc"):
        assert f"../results/reference/{path.parent.name}/" in text, path


@pytest.fixture
def shown_notebooks():
    spec = importlib.util.spec_from_file_location(
        "shown_notebooks", DOCS / "_extensions/shown_notebooks.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_newest_executed_notebook_is_shown_or_else_the_committed_figure(
    shown_notebooks, tmp_path
):
    def notebook(words):
        cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": words}
        return json.dumps(
            {"cells": [cell, cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        )

    def shown():
        shown_notebooks.write(tmp_path, tmp_path / "shown")
        return [
            cell["source"]
            for cell in json.loads((tmp_path / "shown/fig.ipynb").read_text())["cells"]
        ]

    for name in (
        "notebooks",
        "results/reference/digits",
        "results/one/notebooks",
        "results/two/notebooks",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notebooks/fig.ipynb").write_text(notebook("committed"))
    (tmp_path / "results/reference/digits/fig.png").touch()
    first, note, last = shown()
    assert (first, last) == ("committed", "committed")
    assert "Not executed" in note
    assert "![fig](../../results/reference/digits/fig.png)" in note
    for number, name in enumerate(("two", "one")):
        path = tmp_path / f"results/{name}/notebooks/fig.ipynb"
        path.write_text(notebook(name))
        os.utime(path, (number, number))
    first, note, _ = shown()
    assert first == "one"
    assert "Executed on 1970-01-01: `results/one/notebooks/fig.ipynb`" in note
