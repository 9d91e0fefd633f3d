"""Interactive figures of recorded results, one line each, for notebooks. Imports no torch.

Each function returns an :class:`Explorer`. A notebook shows it, and its executed HTML keeps it:
hover, sliders and switches work offline and without a kernel.

>>> import wtkit
>>> results = wtkit.open_results("digits", quiet=True)  # doctest: +SKIP
>>> wtkit.explore.angles(results)  # doctest: +SKIP
"""

from ..arguments import check_arguments
from ..errors import imports_of
from ..results import say_what_is_missing

with imports_of("notebooks"):  # before the files of this folder, which import it, too
    import bokeh as _bokeh  # noqa: F401

from .curves import angles
from .page import Explorer
from .scatter import error_against_angle
from .scrubber import epochs
from .stripes import heat_map
from .sweeps import sweep

__all__ = ["Explorer", "angles", "epochs", "error_against_angle", "heat_map", "sweep"]

check_arguments(globals(), say_what_is_missing)
