"""All claims of the paper, and the table of their verdicts. Imports no torch.

Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, "Deep Learning without Weight Transport",
NeurIPS 2019. Claims are in our words. Verdicts are computed from recorded runs. Our own thresholds
are in :mod:`wtkit.claims.judging`.
"""

from __future__ import annotations

import pandas as pd
import xarray as xr

from ..results import network_label
from . import angles, equations, errors, open_questions
from .claim import Claim

CLAIMS: list[Claim] = [
    *equations.CLAIMS,
    *errors.CLAIMS,
    *angles.CLAIMS,
    *open_questions.CLAIMS,
]
"""All claims in the paper's order."""


def claim_table(tree: xr.DataTree) -> pd.DataFrame:
    """One row per claim and network: the claim, what was measured, and the verdict."""
    return pd.DataFrame(
        {
            "id": claim.id,
            "where": claim.where,
            "claim": claim.text,
            "network": network_label(network) or "–",
            "verdict": finding.outcome,
            "measured": finding.measured or "–",
            "remarks": finding.why,
        }
        for claim in CLAIMS
        for network, finding in claim.judge(tree).items()
    )
