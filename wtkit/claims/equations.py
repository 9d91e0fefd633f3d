"""The paper's claims about its equations and circuits (Secs. 3 to 5, Figs. 1 and 2)."""

from __future__ import annotations

import xarray as xr

from ..results import FA, WM
from .claim import ClaimList, Finding, all_of, decide
from .judging import NORM_BOUND, above_zero, after_start, by_layer, last_epoch

CLAIMS = ClaimList()

CLAIMS.shown_by(
    "T1", "eq. 2", "With B = Wᵀ, the feedback path is backprop's.", "tests/test_methods.py"
)


@CLAIMS.of_runs(
    "T2",
    "eqs. 3 and 4, Sec. 3",
    "In feedback alignment B is random and constant, and W turns towards Bᵀ.",
    elsewhere="tests/test_methods.py shows that B is constant",
)
def _(node: xr.Dataset) -> Finding:
    angle = by_layer(node, FA).isel(layer=-1)
    final = angle.where(angle["epoch"] == last_epoch(angle)).max("epoch")
    return all_of(
        f"{float(angle[:, 0].mean()):.1f}° at first",
        above_zero(90 - final, "output layer below 90°"),
    )


CLAIMS.shown_by(
    "T3",
    "eqs. 5 and 11, Sec. 4.1",
    "The transposing rule moves B, on average, along σ²Wᵀ.",
    "tests/test_mirror.py",
)
CLAIMS.shown_by(
    "T4",
    "eq. 12, Sec. 4.3",
    "Bias-blocking removes the assumption of equal slopes φ'(b), and aligns better when biases "
    "are large.",
    "tests/test_mirror.py",
)


@CLAIMS.of_runs(
    "T5",
    "Sec. 4.3",
    "With weight decay, mirroring makes B converge to a positive multiple of Wᵀ, and its norm "
    "stays reasonable.",
    elsewhere="tests/test_mirror.py shows the convergence",
)
def _(node: xr.Dataset) -> Finding:
    ratio = after_start(by_layer(node, WM, "feedback_norm_ratio"))
    low, high = float(ratio.min()), float(ratio.max())
    bounded = low >= 1 / NORM_BOUND and high <= NORM_BOUND
    return decide(
        bounded,
        f"‖B‖/‖W‖ from {low:.2f} to {high:.2f}",
        f"outside 1/{NORM_BOUND:g} to {NORM_BOUND:g} (our bounds)",
    )


CLAIMS.shown_by(
    "T6",
    "eqs. 13 and 14, Sec. 5.1",
    "With equal updates and equal decay, W − Bᵀ shrinks by the factor 1 − λ per step, whatever "
    "the updates are.",
    "tests/test_kolen_pollack.py",
)
CLAIMS.shown_by(
    "T7",
    "eqs. 15 to 18, Sec. 5.2",
    "Kolen–Pollack's B learns from y and δ alone, which the cells exchange anyway; no weight is "
    "transported.",
    "tests/test_kolen_pollack.py",
)
CLAIMS.shown_by(
    "F1",
    "Fig. 1",
    "A circuit with cross-projections and two modes can implement the weight mirror.",
    "notebooks/fig1_weight_mirror.ipynb draws and simulates it",
    "shown by another experiment",
)
CLAIMS.shown_by(
    "F2",
    "Fig. 2",
    "A circuit with reciprocal cross-projections and one mode can implement Kolen–Pollack "
    "learning.",
    "notebooks/fig2_kolen_pollack.ipynb draws and simulates it",
    "shown by another experiment",
)
