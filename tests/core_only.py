"""Run Python code as if wtkit had been installed without extras: python tests/core_only.py CODE

A package that is not among the dependencies in pyproject.toml, nor among theirs, is not found.
"""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def installed_with(lines: list[str]) -> set[str]:
    """Names of all distributions that pip would install for these requirements."""
    found: set[str] = set()
    queue = [Requirement(line) for line in lines]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras}
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name in found and extras == {""}:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras
            ):
                needed.marker = None
                queue.append(needed)
    return found


class Without:
    """A finder of modules and distributions that asks all others, but not for what is absent."""

    def __init__(self, absent: set[str], core: set[str]):
        self.absent, self.core, self.finders = absent, core, list(sys.meta_path)

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.absent:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in self.finders)
        return next((spec for spec in found if spec), None)

    def find_distributions(self, *context):
        for finder in self.finders:
            for found in getattr(finder, "find_distributions", lambda *_: [])(*context):
                if canonicalize_name(found.name) in self.core:
                    yield found


def main(code: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = installed_with(project["dependencies"]) | {"wtkit"}
    homes = importlib.metadata.packages_distributions()
    absent = {
        module
        for module, distributions in homes.items()
        if not core & {canonicalize_name(name) for name in distributions}
    }
    assert {
        "matplotlib",
        "seaborn",
        "snakemake",
        "papermill",
        "nbconvert",
        "jupyterlab",
        "ipykernel",
    } <= absent
    absent -= sys.stdlib_module_names
    sys.meta_path[:] = [Without(absent, core)]
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    main(sys.argv[1])
