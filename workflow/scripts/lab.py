"""Open JupyterLab on copies of the notebooks, in lab/: lab.py [OPTION of jupyter lab …].

Saving a notebook stores its outputs. In the copies this neither changes the checkout nor makes the
pipeline execute a notebook again. Existing copies stay.
"""

import os
import shutil
import sys
from pathlib import Path

from wtkit import WtkitError
from wtkit.experiments import is_ablation

ROOT = Path(__file__).resolve().parent.parent.parent


def copy(source: Path, target: Path) -> None:
    """Copy the notebooks that ``target`` lacks, and name those that are newer in ``source``."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.glob("*.ipynb")):
        own = target / path.name
        if not own.exists():
            shutil.copyfile(path, own)
        elif path.stat().st_mtime > own.stat().st_mtime:
            print(f"{own.name}: notebooks/ has a newer version; delete lab/{own.name} to open it")


def names_base(path: Path) -> bool:
    try:
        return is_ablation(path)
    except WtkitError:  # reported where the file is used
        return False


def newest_results(root: Path) -> Path | None:
    """The results.nc that was written last, of any experiment; not of ablations, which have a
    notebook of their own."""
    ablations = {path.stem for path in (root / "config").rglob("*.yaml") if names_base(path)}
    found = [p for p in root.glob("results/*/results.nc") if p.parent.name not in ablations]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def main(*options: str) -> None:
    copy(ROOT / "notebooks", ROOT / "lab")
    # what open_results() opens; a choice of the user's stays
    newest = newest_results(ROOT)
    chosen = {} if newest is None else {"WTKIT_RESULTS": str(newest)}
    # JupyterLab refuses to start as root, which is the user in most containers
    as_root = ["--allow-root"] if os.geteuid() == 0 else []
    words = [sys.executable, "-m", "jupyterlab", *as_root, *options, str(ROOT / "lab")]
    os.execve(sys.executable, words, chosen | os.environ)


if __name__ == "__main__":
    main(*sys.argv[1:])
