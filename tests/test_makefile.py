"""The Makefile and what it calls by itself."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEASURE = [sys.executable, ROOT / "workflow/scripts/measure.py"]
# of a make that runs us
HERITAGE = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHON", "EXPERIMENT")


def run(command, cwd=None):
    env = {key: value for key, value in os.environ.items() if key not in HERITAGE}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def make(tmp_path):
    """Runs make in a folder that holds the Makefile and pyproject.toml and nothing else."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return lambda *words: run(["make", *words], cwd=tmp_path)


def test_every_target_has_a_line_of_help(make):
    listed = re.findall(r"^  ([a-z-]+) +\S.*$", make().stdout, re.M)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert listed == phony


def test_a_python_that_is_too_old_or_absent_is_named_in_one_line(make):
    for python in ("false", "no-such-python"):
        done = make("setup", f"PYTHON={python}")
        assert done.returncode != 0 and done.stdout == ""
        assert done.stderr.splitlines()[0] == (
            f"error: '{python}' is not Python 3.11 or newer; "
            "choose one: make setup PYTHON=python3.12"
        )


def test_a_python_without_venv_is_told_how_to_get_it(make, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)
    done = make("test", f"PYTHON={python}")
    assert done.stderr.splitlines()[0].endswith(
        "lacks the module venv; on Debian or Ubuntu: apt install python3-venv"
    )


def test_set_up_is_done_when_missing_or_stale(make, tmp_path):
    assert "-m venv .venv" in make("-n", "test").stdout
    (tmp_path / ".venv").mkdir()
    stamp = tmp_path / ".venv/.stamp"
    stamp.touch()
    assert make("-n", "test").stdout == ".venv/bin/pytest -n 2\n"
    os.utime(stamp, (0, 0))
    assert "-m venv .venv" in make("-n", "test").stdout


def test_set_up_compiles_what_the_pipeline_imports_whatever_the_variable_says(make):
    (line,) = re.findall(
        r"^PYTHONDONTWRITEBYTECODE= .* -c 'import (.*)'$", make("-n", "setup").stdout, re.M
    )
    names = line.split(", ")
    assert "wtkit.training" in names
    assert all(importlib.util.find_spec(name.strip()) for name in names)


@pytest.fixture
def lab():
    spec = importlib.util.spec_from_file_location("lab", ROOT / "workflow/scripts/lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lab_opens_copies_and_keeps_their_changes(lab, tmp_path, capsys):
    source, target = tmp_path / "notebooks", tmp_path / "lab"
    source.mkdir()
    for name in ("one", "two"):
        (source / f"{name}.ipynb").write_text("committed")
    lab.copy(source, target)
    (target / "one.ipynb").write_text("mine")
    os.utime(target / "two.ipynb", (0, 0))
    lab.copy(source, target)
    assert (target / "one.ipynb").read_text() == "mine"
    assert (source / "one.ipynb").read_text() == "committed"
    assert capsys.readouterr().out == (
        "two.ipynb: notebooks/ has a newer version; delete lab/two.ipynb to open it\n"
    )
    assert run(["git", "check-ignore", "lab/one.ipynb"], cwd=ROOT).returncode == 0


def test_lab_shows_the_newest_results_of_any_experiment(lab, tmp_path, monkeypatch):
    assert lab.newest_results(tmp_path) is None
    (tmp_path / "config/ablations").mkdir(parents=True)
    for name in ("ablations/decay", "difficulty"):
        (tmp_path / f"config/{name}.yaml").write_text("base: digits")
    (tmp_path / "config/broken.yaml").write_text("base: [")
    for age, name in enumerate(["decay", "difficulty", "mine", "digits", "reference/digits"]):
        path = tmp_path / "results" / name / "results.nc"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert lab.newest_results(tmp_path) == tmp_path / "results/mine/results.nc"
    monkeypatch.setattr(lab, "copy", lambda *_: None)
    monkeypatch.setattr(lab, "newest_results", lambda _: Path("newest.nc"))
    given = []
    monkeypatch.setattr(os, "execve", lambda program, words, env: given.append(env))
    monkeypatch.delenv("WTKIT_RESULTS", raising=False)
    lab.main()
    monkeypatch.setenv("WTKIT_RESULTS", "cifar10")
    lab.main()
    assert [env["WTKIT_RESULTS"] for env in given] == ["newest.nc", "cifar10"]


@pytest.mark.parametrize("user", [0, 1000])
def test_lab_passes_options_on_and_starts_as_root(lab, make, monkeypatch, user):
    started = []
    monkeypatch.setattr(lab, "copy", lambda *_: None)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "execve", lambda program, words, env: started.extend(words))
    lab.main("--no-browser", "--port", "9000")
    assert started[1:3] == ["-m", "jupyterlab"]
    assert ("--allow-root" in started) == (user == 0)
    assert started[-4:] == ["--no-browser", "--port", "9000", str(ROOT / "lab")]
    plan = make("-n", "lab", "ARGS=--ip 0.0.0.0 --no-browser").stdout
    assert plan.splitlines()[-1].endswith("lab.py --ip 0.0.0.0 --no-browser")


@pytest.mark.parametrize(
    "experiment", ["cifar10", "config/ablations/cifar10.yaml", "ablations/cifar10"]
)
def test_the_report_lies_beside_the_results(make, experiment):
    plan = make("-n", "report", f"EXPERIMENT={experiment}").stdout
    assert (
        f"snakemake --config experiment={experiment} --report results/cifar10/report.html"
    ) in plan


def test_clean_keeps_data_and_reference_results(make, tmp_path):
    assert make("clean").returncode == 0  # nothing there yet
    kept = ["results/reference/digits/results.nc", "data/images.bin", "wtkit.py"]
    for name in [
        *kept,
        "results/digits/results.nc",
        "results/a file",
        ".snakemake/log",
        "docs/_build/html/index.html",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert make("clean").returncode == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "Makefile", "pyproject.toml"}


HUNGRY = "import time; b = bytes([1]) * 400_000_000; time.sleep(1.2)"
STUBBORN = """if True:
    import signal, time
    signal.signal(signal.SIGTERM, lambda *_: exit(7))
    print("up", flush=True)
    time.sleep(60)
"""


def test_measure_counts_set_up_and_children_and_hands_the_status_on():
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HUNGRY!r}]); sys.exit(3)"
    )
    done = run([*MEASURE, "--since", time.time() - 90, sys.executable, "-c", parent])
    assert done.returncode == 3
    words = re.search(
        r"Failed after (.*) minutes, 1\.5 of them set-up; (.*) GB of memory at most\.", done.stderr
    )
    assert float(words[1]) >= 1.5
    assert 0.4 <= float(words[2]) <= 0.6


def test_measure_leaves_the_command_line_alone():
    done = run([*MEASURE, "echo", "--since"])
    assert (done.returncode, done.stdout) == (0, "--since\n")
    assert "Finished after 0.0 minutes" in done.stderr


def test_measure_hands_sigterm_on_and_waits():
    command = [*MEASURE, sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(timeout=30) == 7
