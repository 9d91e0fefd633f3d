"""The README is short, its code runs, and its targets and links exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


COMMANDS = [line.split("  ")[0].strip() for block in blocks("sh") for line in block.splitlines()]


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [command.split()[1] for command in COMMANDS]
    assert named == ["smoke", "reproduce"]
    assert set(named) <= set(targets)
    for target in re.findall(r"`make ([a-z-]+)`", TEXT):
        assert target in targets


def run(code, cwd=ROOT):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_loop_runs(tmp_path):
    (code,) = [block for block in blocks("python") if "optimizer" in block]
    assert "delta_angle" in run(code, cwd=tmp_path)


@pytest.mark.slow
def test_the_results_open():
    (code,) = [block for block in blocks("python") if "select" in block]
    assert "matrix_angle" in run(code)


def test_it_is_short():
    assert len(TEXT.split()) <= 800


def test_files_that_it_links_to_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z]+@", TEXT)
