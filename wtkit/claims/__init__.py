"""The paper's claims, and what recorded results say of each. Imports no torch."""

from .claim import CLAIMS, Outcome
from .claims import claim_table, judged_order
from .comparison import LEVEL, Comparison, binomial_variance, welch
from .judging import DECIDED, MARGIN, NO_ERROR, NO_SIZE

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
