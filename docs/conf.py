"""How Sphinx builds the site: make docs. Nothing is executed, and nothing is fetched, neither now
nor by the reader."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE / "_extensions")]

import shown_notebooks  # noqa: E402

import wtkit  # noqa: E402

project = "wtkit"
author = "the wtkit authors"
version = release = wtkit.__version__
description = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
]
exclude_patterns = ["_build", "_extensions"]

# ---- notebooks: copied to notebooks/ from the newest results, or as they are committed, with the
# committed figures
shown_notebooks.write(ROOT, HERE / "notebooks")
nb_execution_mode = "off"
nb_merge_streams = True

# ---- Markdown
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# ---- the interface, from its docstrings; api.md lists the names
autosummary_generate = ["api.md"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_type_aliases = {"Tensor": "torch.Tensor"}
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute is also documented as a member
python_maximum_signature_line_length = 88

# ---- looks
html_theme = "pydata_sphinx_theme"
html_title = "wtkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "wtkit"},
    "header_links_before_dropdown": 7,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"index": [], "tutorial": [], "questions": [], "gallery": [], "methods": []}
html_context = {"default_mode": "auto"}
copyright = "the wtkit authors. MIT licence"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
