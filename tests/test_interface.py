"""``wtkit.`` completes to what there is to use, before and after the first use."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wtkit

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ast.parse((ROOT / "wtkit/__init__.py").read_text())


def public():
    return [name for name in dir(wtkit) if not name.startswith("_")]


def test_it_lists_the_names_and_packages_of_the_documentation_and_no_others():
    named = set(re.findall(r"^   wtkit\.(\w+)", (ROOT / "docs/api.md").read_text(), re.M))
    assert named <= set(public())
    folders = {path.parent.name for path in (ROOT / "wtkit").glob("*/__init__.py")}
    assert set(public()) == set(wtkit.__all__) | folders | {"errors"}  # not the small files


@pytest.mark.parametrize("name", public())
def test_each_name_is_there(name):
    found = getattr(wtkit, name)
    assert found.__name__ in (name, f"wtkit.{name}") and found.__doc__


def test_editors_see_each_name_where_it_comes_from():
    """They read the imports for type checkers, which mypy compares with the packages."""
    (guarded,) = [node for node in SOURCE.body if isinstance(node, ast.If)]
    homes = {
        alias.name: node.module
        for node in guarded.body
        for alias in node.names
        if isinstance(node, ast.ImportFrom)
    }
    assert homes == dict.fromkeys(wtkit._PACKAGES) | wtkit._HOMES
    assert list(wtkit._HOMES) == wtkit.__all__


def test_completion_is_the_same_before_and_after_the_first_use(tmp_path):
    code = """
import warnings
import wtkit
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def complete(text):
    shell.user_ns["wtkit"] = wtkit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # IPython calls its completions provisional
        found = shell.Completer.completions(text, len(text))
        return sorted(completion.text for completion in found)
before = complete("wtkit.")
assert {"explore", "open_results"} <= set(before), before
assert not {"Any", "importlib", "annotations", "TYPE_CHECKING"} & set(before), before
wtkit.tidy, wtkit.figures, wtkit.explore, wtkit.convert
assert complete("wtkit.") == before
assert complete("wtkit.open_re") == ["open_results"]
"""
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="'wtkit' has no attribute 'plotting'"):
        wtkit.plotting  # noqa: B018
