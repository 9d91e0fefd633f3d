"""The paper's claims, and the verdict of recorded results on each. Imports no torch."""

from ..arguments import check_arguments
from ..results import say_what_is_missing
from .claim import Outcome
from .comparison import LEVEL, Comparison, binomial_variance, welch
from .errors import judged_order
from .judging import DECIDED, MARGIN, NO_ERROR, NO_SIZE
from .table import CLAIMS, claim_table

__all__ = [
    "CLAIMS",
    "DECIDED",
    "LEVEL",
    "MARGIN",
    "NO_ERROR",
    "NO_SIZE",
    "Comparison",
    "Outcome",
    "binomial_variance",
    "claim_table",
    "judged_order",
    "welch",
]

check_arguments(globals(), say_what_is_missing)
