"""What is written down twice, because other tools want it so, agrees."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import wtkit

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# what conda calls the packages that have another name there
CONDA = {"torch": "pytorch", "snakemake": "snakemake-minimal"}


def read(name: str):
    return yaml.safe_load((ROOT / name).read_text())


def packages(lines: list[str]) -> dict[str, SpecifierSet]:
    return {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}


def from_pip():
    (found,) = [
        entry["pip"] for entry in read("environment.yml")["dependencies"] if isinstance(entry, dict)
    ]
    return found


def test_environment_has_the_packages_and_bounds_of_pyproject():
    listed = packages(
        [line for line in read("environment.yml")["dependencies"] if isinstance(line, str)]
    )
    listed.pop("pip")
    listed |= packages([line for line in from_pip() if line != "-e ."])  # not in conda's channels
    extras = PROJECT["project"]["optional-dependencies"]
    lines = sum(
        (extras[name] for name in ("figures", "pipeline", "notebooks")),
        PROJECT["project"]["dependencies"],
    )
    wanted = {CONDA.get(name, name): spec for name, spec in packages(lines).items()}
    wanted.pop("wtkit")  # pipeline and notebooks include figures
    assert listed == wanted | {"python": SpecifierSet(PROJECT["project"]["requires-python"])}


def test_set_up_takes_the_extras_of_the_environment():
    assert "--editable '.[pipeline,notebooks]' --group dev" in (ROOT / "Makefile").read_text()
    extras = PROJECT["project"]["optional-dependencies"]
    assert all("wtkit[figures]" in extras[name] for name in ("pipeline", "notebooks"))


def test_environment_installs_wtkit_itself():
    assert from_pip()[0] == "-e ."


@pytest.mark.slow
def test_a_wheel_contains_every_reference_result(tmp_path):
    """Without them, open_results() finds nothing after pip install."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("wtkit", "results/reference"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    code = "from setuptools.build_meta import build_wheel; build_wheel('out')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "out").glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "results/reference").glob("*/results.nc"):
        assert f"wtkit/reference/{path.parent.name}/results.nc" in files
    assert not [name for name in files if name.endswith((".png", ".svg"))]


def test_channels_are_in_the_order_that_bioconda_asks_for():
    assert read("environment.yml")["channels"] == ["conda-forge", "bioconda", "nodefaults"]


def test_oldest_python_is_the_same_everywhere():
    (oldest,) = SpecifierSet(PROJECT["project"]["requires-python"])
    assert oldest.operator == ">="
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.version.replace(".", "")
    assert re.search(
        r"version_info < \((\d+), (\d+)\)", (ROOT / "Makefile").read_text()
    ).groups() == tuple(oldest.version.split("."))
    assert (
        read(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"][0]
        == oldest.version
    )


def test_version_and_licence_are_the_same_everywhere():
    citation = read("CITATION.cff")
    assert citation["version"] == wtkit.__version__
    assert citation["license"] == PROJECT["project"]["license"]
