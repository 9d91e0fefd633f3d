"""Build the reference of the Python interface in docs/api/, from the docstrings: python docs/api.py"""

import pkgutil
import warnings
from pathlib import Path

import pdoc

import wtkit

if __name__ == "__main__":
    # wtkit loads its names when they are first used; pdoc lists those that are loaded
    vars(wtkit).update({name: getattr(wtkit, name) for name in wtkit.__all__})
    warnings.filterwarnings("ignore", message=".*PydanticDataclass")  # a name that only type checkers know
    modules = [module.name for module in pkgutil.walk_packages(wtkit.__path__, "wtkit.")]
    pdoc.render.configure(docformat="google", footer_text=f"wtkit {wtkit.__version__}")
    pdoc.pdoc(
        "wtkit",
        *(name for name in modules if name != "wtkit.__main__"),
        output_directory=Path(__file__).parent / "api",
    )
