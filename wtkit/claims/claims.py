"""The paper's claims, each with a test on recorded runs.

Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, "Deep Learning without Weight Transport",
NeurIPS 2019. A claim is a sentence in our words. Its verdict is computed from the runs and never
typed in. Thresholds that are ours are in :mod:`wtkit.claims.judging`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from .. import methods
from ..data_sets import data_set
from ..plan import mirrors
from ..results import (
    ANGLE_BOUNDS,
    BP,
    FA,
    GROWTH,
    KP,
    LATE_ANGLE,
    MEANS,
    METHODS,
    ORDERS,
    SS,
    WM,
    XIAO_ERROR,
    Estimate,
    complete,
    config_of,
    data_label,
    last_errors,
    lr_drops,
    main_order,
    mean_and_error,
    method_label,
    methods_of,
    network_label,
    select,
    settings,
    whole_sets,
)
from .claim import CLAIMS, CannotTestError, Finding, all_of, claim_of_runs, claim_shown_by, decide
from .comparison import Comparison
from .judging import (
    DECIDED,
    NEAR_ZERO,
    NORM_BOUND,
    above_zero,
    after_start,
    alike,
    as_printed,
    as_text,
    by_layer,
    errors_of,
    is_below,
    largest_angle,
    late_part,
    mean_angle,
    nearly_matches,
    of_errors,
    why_misaligned,
)


def claim_table(tree: xr.DataTree) -> pd.DataFrame:
    """A row for each claim and network: what it says, what was measured, and the verdict."""
    return pd.DataFrame(
        {
            "id": claim.id,
            "where": claim.where,
            "claim": claim.text,
            "network": network_label(network) or "–",
            "verdict": found.outcome,
            "measured": found.measured or "–",
            "remarks": found.why,
        }
        for claim in CLAIMS
        for network, found in claim.judge(tree).items()
    )


# ------------------------------------------------------------------------------ equations, circuits

claim_shown_by(
    "T1", "eq. 2", "With B = Wᵀ, the feedback path is backprop's.", "tests/test_methods.py"
)


@claim_of_runs(
    "T2",
    "eqs. 3 and 4, Sec. 3",
    "In feedback alignment B is random and never changes, and it is W that turns towards Bᵀ.",
    elsewhere="that B never changes is shown by tests/test_methods.py",
)
def _(node: xr.Dataset) -> Finding:
    angle = by_layer(node, FA).isel(layer=-1)
    final = angle.isel(epoch=-1)
    return all_of(
        f"{float(angle[:, 0].mean()):.1f}° at first",
        above_zero(90 - final, "output layer below 90°"),
    )


claim_shown_by(
    "T3",
    "eqs. 5 and 11, Sec. 4.1",
    "The transposing rule moves B, on average, along σ²Wᵀ.",
    "tests/test_mirror.py",
)
claim_shown_by(
    "T4",
    "eq. 12, Sec. 4.3",
    "A mirror that blocks biases need not assume equal slopes φ'(b), and aligns better where "
    "biases are large.",
    "tests/test_mirror.py",
)


@claim_of_runs(
    "T5",
    "Sec. 4.3",
    "With a decay on B, mirroring leads it to a positive multiple of Wᵀ, of a norm that stays "
    "reasonable.",
    elsewhere="the convergence itself is shown by tests/test_mirror.py",
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


claim_shown_by(
    "T6",
    "eqs. 13 and 14, Sec. 5.1",
    "Equal changes and equal decay make W − Bᵀ shrink by the factor 1 − λ a step, whatever the "
    "changes are.",
    "tests/test_kolen_pollack.py",
)
claim_shown_by(
    "T7",
    "eqs. 15 to 18, Sec. 5.2",
    "Kolen–Pollack's B learns from y and δ alone, which the cells exchange anyway; no weight is "
    "sent.",
    "tests/test_kolen_pollack.py",
)
claim_shown_by(
    "F1",
    "Fig. 1",
    "A circuit with cross-projections and two modes can carry out mirroring.",
    "notebooks/fig1_weight_mirror.ipynb draws it and runs it live",
    "shown by another experiment",
)
claim_shown_by(
    "F2",
    "Fig. 2",
    "A circuit with reciprocal cross-projections and a single mode can carry out Kolen–Pollack "
    "learning.",
    "notebooks/fig2_kolen_pollack.ipynb draws it and runs it live",
    "shown by another experiment",
)

# -------------------------------------------------------------------------------------- test errors


@claim_of_runs(
    "E1",
    "Fig. 3a, Sec. 6",
    "ResNet-18 on ImageNet ends at the errors printed for the five methods.",
    network="resnet18",
)
def _(node: xr.Dataset) -> Finding:
    return as_printed(node, "resnet18")


@claim_of_runs(
    "E2",
    "Fig. 3b, Sec. 6",
    "ResNet-50 on ImageNet ends at the errors printed for the five methods.",
    network="resnet50",
)
def _(node: xr.Dataset) -> Finding:
    return as_printed(node, "resnet50")


@claim_of_runs(
    "E3", "Fig. 3, Sec. 6", "WM and KP end below SS and FA in error, and nearly match BP."
)
def _(node: xr.Dataset) -> Finding:
    return judged_order(errors_of(node, METHODS), why_misaligned(node))


def judged_order(errors: Mapping[str, Estimate], misaligned: str = "") -> Finding:
    """What errors in percent say of the paper's main claim: that WM and KP nearly match BP, and
    beat SS and FA.

    Args:
        errors: of the five methods.
        misaligned: why KP's part cannot be tested; empty where it can.
    """
    parts: list[Finding | Comparison] = (
        [Finding("cannot be tested here", why=misaligned)] if misaligned else []
    )
    for ours in [WM] if misaligned else [WM, KP]:
        parts.append(nearly_matches(errors[ours], errors[BP]))
        parts += [is_below(errors[ours], errors[other]) for other in (SS, FA)]
    return of_errors(errors.values(), as_text(errors), *parts)


@claim_of_runs(
    "E4",
    "Sec. 6, App. D.3",
    "BatchNorm before the ReLU lowers the error of SS, and hardly moves that of the others.",
)
def _(node: xr.Dataset) -> Finding:
    orders = [set(methods_of(node, order)) for order in ("relu_bn", "bn_relu")]
    both = [SS, *(m for m in METHODS if m != SS and m in set.intersection(*orders))]
    after, before = _in_order(node, both, "relu_bn"), _in_order(node, both, "bn_relu")
    half = is_below(before[SS], after[SS])
    parts = [half, *(part for m in both[1:] for part in alike(before[m], after[m]))]
    if missing := [method_label(method) for method in METHODS if method not in both]:
        why = (
            f"{method_label(SS)}'s half {all_of('', half).outcome}; not run in both orders: "
            f"{', '.join(missing)}"
        )
        parts.append(Finding("cannot be tested here", why=why))
    shown = "; ".join(f"{method_label(m)} {after[m]} → {before[m]} %" for m in both)
    return of_errors([*after.values(), *before.values()], f"after → before: {shown}", *parts)


def _in_order(node: xr.Dataset, wanted: Iterable[str], norm_order: str) -> dict[str, Estimate]:
    """The errors of methods in a norm order that is not the main one alone, named so."""
    words = f"BatchNorm {ORDERS[norm_order]}"
    errors = errors_of(node, wanted, norm_order)
    return {
        method: dataclasses.replace(error, name=f"{error.name} ({words})")
        for method, error in errors.items()
    }


@claim_of_runs(
    "E5",
    "Sec. 6",
    f"With BatchNorm before the ReLU, SS on ResNet-18 ends near the {XIAO_ERROR} % of Xiao et al.",
    network="resnet18",
)
def _(node: xr.Dataset) -> Finding:
    error = errors_of(node, [SS], "bn_relu")[SS]
    if whole_sets(node) != {"imagenet"}:
        why = f"these runs are on {data_label(node)}, Xiao et al.'s on ImageNet"
        return Finding("cannot be tested here", f"SS {error} %", why)
    images = data_set("imagenet").held_out or 0
    xiao = Estimate(XIAO_ERROR, 0.0, name="Xiao et al.'s", images=images)
    return of_errors([error], f"SS {error} %", *alike(error, xiao))


# ------------------------------------------------------------------------------------------- angles


@claim_of_runs("A1", "Sec. 6", "Backprop's matrix angle is 0 in every layer.")
def _(node: xr.Dataset) -> Finding:
    angles = by_layer(node, BP)
    return decide(bool((angles.fillna(0) == 0).all()), largest_angle(angles))


@claim_of_runs(
    "A2",
    "Fig. 4a, Sec. 6",
    "WM's matrix angles stay below 12° in every layer, and late in the run below 6° in all but the "
    "final layer.",
)
def _(node: xr.Dataset) -> Finding:
    angles = after_start(by_layer(node, WM))
    late = late_part(angles)
    others, final = late.isel(layer=slice(None, -1)), float(late.isel(layer=-1).max())
    return all_of(
        "",
        decide(
            bool(angles.max() < ANGLE_BOUNDS[WM, "matrix_angle"][1]),
            largest_angle(angles),
            "12° exceeded",
        ),
        decide(
            bool(others.max() < LATE_ANGLE),
            f"late: {largest_angle(others)}, final layer {final:.1f}°",
            "late, 6° exceeded",
        ),
    )


@claim_of_runs("A3", "Sec. 6", "WM's final, fully connected layer is its worst aligned one.")
def _(node: xr.Dataset) -> Finding:
    late = late_part(by_layer(node, WM)).mean("epoch")
    final, others = late.isel(layer=-1), late.isel(layer=slice(None, -1))
    # the worst first
    others = others.sortby(others.mean("run"), ascending=False).transpose("layer", "run")
    name, worst = others["layer"][0].item(), float(others[0].mean())
    shown = f"late: final layer {float(final.mean()):.1f}°, worst other {worst:.1f}° ({name})"
    if _noise_in_proportion(complete(select(node, WM, norm_order=main_order(node))).isel(run=0)):
        why = (
            f"{DECIDED}: noise in proportion to fan-in leaves the final layer no worse than others"
        )
        return Finding("cannot be tested here", shown, why)
    found = all_of(
        "",
        *(
            above_zero(final - other, f"final layer above {other['layer'].item()}")
            for other in others
        ),
    )
    return dataclasses.replace(
        found, measured=shown, why=textwrap.shorten(found.why, 160, placeholder=" …")
    )


def _noise_in_proportion(run: xr.Dataset) -> bool:
    """Whether WM's settings give the final layer, and others, noise samples by ``noise_fraction``
    of their fan-in."""
    method = config_of(run).loaded_method()
    assert mirrors(method)
    by_fraction = method.noise_fraction * run["fan_in"].values >= method.noise_batch
    return bool(by_fraction[-1] and by_fraction[:-1].any())


@claim_of_runs(
    "A4",
    "Sec. 6",
    "WM's matrix angles grow early, while η_W is large, and fall when η_W drops by 90 %.",
)
def _(node: xr.Dataset) -> Finding:
    angles = after_start(by_layer(node, WM)).mean("layer")
    drops = lr_drops(select(node, WM, norm_order=main_order(node)))
    if not drops:
        raise CannotTestError("η_W never drops at once in these runs")
    drop, epochs = drops[0], angles["epoch"]
    # the paper's epochs 2 and 10, in proportion to its drop at 32
    start, grown = GROWTH[0] * drop, GROWTH[1] * drop
    early = angles.sel(epoch=(epochs >= start) & (epochs < grown))
    high, after = (
        angles.sel(epoch=(epochs >= grown) & (epochs <= drop)),
        angles.sel(epoch=epochs > drop),
    )
    if not (early.size and high.size and after.size):
        raise CannotTestError(
            f"too few epochs before or after the drop (at epoch {drop}) were measured"
        )
    high = high.mean("epoch")
    return all_of(
        f"matrix angles, mean over layers, before the drop at epoch {drop}: "
        f"{float(high.mean()):.1f}°",
        above_zero(high - early.isel(epoch=0), "grew"),
        above_zero(high - late_part(after).mean("epoch"), "fell"),
    )


@claim_of_runs(
    "A5",
    "Fig. 4b, Sec. 6",
    "WM's δ angles stay below 25° in every layer, and are worse farther upstream.",
)
def _(node: xr.Dataset) -> Finding:
    angles = after_start(by_layer(node, WM, "delta_angle", output=False))
    ranks = xr.apply_ufunc(
        _rank_upstream, angles.mean("epoch"), input_core_dims=[["layer"]], vectorize=True
    )
    return all_of(
        "",
        decide(
            bool(angles.max() < ANGLE_BOUNDS[WM, "delta_angle"][1]),
            largest_angle(angles),
            "25° exceeded",
        ),
        above_zero(
            ranks, "over the run, rank correlation with distance from the output above 0", ""
        ),
    )


def _rank_upstream(profile: np.ndarray) -> float:
    """Spearman's correlation of a quantity, given from the input up, with distance from the output;
    0 where flat."""
    correlation = pd.Series(profile).rank().corr(pd.Series(np.arange(len(profile))[::-1]))
    return 0.0 if math.isnan(correlation) else float(correlation)


@claim_of_runs(
    "A6",
    "Fig. 4c and d, Sec. 6",
    "KP brings matrix and δ angles near zero within 20 epochs, and keeps them there.",
)
def _(node: xr.Dataset) -> Finding:
    parts = []
    for quantity, name in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        angles = by_layer(node, KP, quantity)
        away = angles["epoch"].values[(angles.max(["run", "layer"]) >= NEAR_ZERO).values]
        last = int(angles["epoch"].max())
        if away.size and (away[-1] >= 20 or away[-1] == last):
            where = f"{name} at epoch {away[-1]} {largest_angle(angles.sel(epoch=[away[-1]]))}"
            parts.append(
                Finding("fails", where, f"{name} not below {NEAR_ZERO:g}° (our threshold)")
            )
            continue
        held = angles.sel(epoch=angles["epoch"] > (away[-1] if away.size else -1))
        measured = f"{name} from epoch {int(held['epoch'][0])} to {last} {largest_angle(held)}"
        if held.sizes["epoch"] > 1:
            parts.append(Finding("holds", measured))
        else:
            why = f"{name} were near zero at the last epoch only"
            parts.append(Finding("cannot be tested here", measured, why))
    found = all_of("", *parts)
    if found.outcome != "holds" and (why := why_misaligned(node)):
        return Finding("cannot be tested here", found.measured, why)
    return found


@claim_of_runs(
    "A7", "Fig. 4e and f, Sec. 6", "SS aligns both matrices and δ less well than WM and KP."
)
def _(node: xr.Dataset) -> Finding:
    misaligned = why_misaligned(node)
    parts: list[Finding | Comparison] = (
        [Finding("cannot be tested here", why=misaligned)] if misaligned else []
    )
    shown = []
    for quantity, words in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        all_layers = quantity == "matrix_angle"
        mean = {
            m: mean_angle(late_part(by_layer(node, m, quantity, output=all_layers)), m)
            for m in (SS, WM, KP)
        }
        values = ", ".join(f"{angle.name} {angle}°" for angle in mean.values())
        shown.append(f"{words}, {MEANS[quantity]}, late: {values}")
        parts += [is_below(mean[m], mean[SS], unit="°") for m in ([WM] if misaligned else [WM, KP])]
    return all_of("; ".join(shown), *parts)


@claim_of_runs("A8", "Sec. 6", "In FA both angles stay above 80° in most layers.")
def _(node: xr.Dataset) -> Finding:
    parts = []
    for quantity, name in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        lowest = by_layer(node, FA, quantity, output=quantity == "matrix_angle").min(
            ["run", "epoch"]
        )
        share = float((lowest > ANGLE_BOUNDS[FA, quantity][1]).mean())
        parts.append(decide(share > 0.5, f"{name} above 80° throughout in {share:.0%} of layers"))
    return all_of("", *parts)


# ----------------------------------------------------------------------------------- open questions


def _sweep(
    node: xr.Dataset,
    method: str,
    amount: Callable[[xr.Dataset], float],
    period: Callable[[xr.DataArray], xr.DataArray] = late_part,
) -> dict[float, tuple[Estimate, Estimate]]:
    """Mean matrix angle (degrees, of a period) and final error by the amount of something, least
    first."""
    by_layer(node, method)  # there are main runs, and their angles were measured
    runs = complete(select(node, method, norm_order=main_order(node), variant=None))
    amounts = np.array([amount(runs.isel(run=index)) for index in range(runs.sizes["run"])])
    found = {}
    for value in sorted(set(amounts.tolist())):
        some = runs.isel(run=amounts == value)
        angle = mean_angle(period(some["matrix_angle"].dropna("epoch", how="all")), method)
        mean, error = mean_and_error(last_errors(some))
        found[value] = (angle, Estimate(float(mean), float(error), some.sizes["run"]))
    return found


def _falls(sweep: Mapping[float, tuple[Estimate, Estimate]], symbol: str, missing: str) -> Finding:
    if len(sweep) < 2:
        return Finding("shown by another experiment", why=missing)
    angles = [
        dataclasses.replace(angle, name=f"angle at {value:g}")
        for value, (angle, _) in sweep.items()
    ]
    shown = ", ".join(
        f"{symbol} {value:g}: {angle}°, {error} %" for value, (angle, error) in sweep.items()
    )
    return all_of(shown, *(is_below(b, a, unit="°") for a, b in itertools.pairwise(angles)))


@claim_of_runs(
    "Q1",
    "Sec. 7",
    "Open: a larger λ aligns KP faster, yet one too large may hamper learning; how "
    "large is left open.",
)
def _(node: xr.Dataset) -> Finding:
    sweep = _sweep(node, KP, lambda run: settings(run)["weight_decay"])
    return _falls(
        sweep,
        "weight decay",
        "config/ablations/kp_decay.yaml; here all runs of KP have one weight decay",
    )


@claim_of_runs(
    "Q2", "Sec. 7", "Where WM's angles are too large, more mirroring makes them smaller."
)
def _(node: xr.Dataset) -> Finding:
    noise = {_mirroring(run)[1] for run in _runs(select(node, WM, norm_order=main_order(node)))}
    runs = select(node, WM, norm_order=main_order(node), variant=None)
    alike = [_mirroring(run)[1] in noise for run in _runs(runs)]
    # all of training: late in a run, when W rests, only noise is left, which more steps do not
    # average out
    sweep = _sweep(
        runs.isel(run=alike),
        WM,
        lambda run: _mirroring(run)[0],
        lambda angles: angles.isel(epoch=slice(1, None)),
    )
    missing = "config/ablations/mirror_steps.yaml; here all runs of WM mirror equally often"
    return _falls(sweep, "all of training, mirror steps an engaged step", missing)


def _runs(runs: xr.Dataset) -> list[xr.Dataset]:
    return [runs.isel(run=index) for index in range(runs.sizes["run"])]


def _mirroring(run: xr.Dataset) -> tuple[float, str]:
    """Mirror steps an engaged step, and all other options of WM as text."""
    options = dataclasses.asdict(methods.load(WM, **settings(run)["options"]))  # type: ignore[call-overload]
    amount = options.pop("mirror_steps") / options.pop("mirror_every")
    return amount, repr(options)


claim_shown_by(
    "Q3",
    "Sec. 7",
    "Open: how sensitive both methods are to hyper-parameters, and how they fare on other tasks "
    "and architectures.",
    "a question without a yes or no: config/ablations/ and config/difficulty.yaml, with answers in "
    "docs/ablations.md",
    "shown by another experiment",
)
