"""Open JupyterLab on copies of the notebooks, in lab/: lab.py [OPTION of jupyter lab …].

Saving a notebook stores its outputs. In the copies this neither changes the checkout nor makes the
pipeline execute a notebook again. Existing copies stay.
"""

import os
import shutil
import sys
from pathlib import Path

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


def main(*options: str) -> None:
    copy(ROOT / "notebooks", ROOT / "lab")
    # JupyterLab refuses to start as root, which is the user in most containers
    as_root = ["--allow-root"] if os.geteuid() == 0 else []
    words = [sys.executable, "-m", "jupyterlab", *as_root, *options, str(ROOT / "lab")]
    os.execv(sys.executable, words)


if __name__ == "__main__":
    main(*sys.argv[1:])
