"""The paper's claims about angles (Sec. 6, Fig. 4)."""

from __future__ import annotations

import dataclasses
import math
import textwrap

import numpy as np
import pandas as pd
import xarray as xr

from ..plan import mirrors
from ..results import (
    ANGLE_BOUNDS,
    ANGLE_MEANS,
    BP,
    FA,
    GROWTH,
    KP,
    LATE_ANGLE,
    SS,
    WM,
    complete,
    lr_drops,
    main_order,
    matching_runs,
    method_of,
)
from .claim import CannotTestError, ClaimList, Finding, all_of, decide
from .comparison import Comparison
from .judging import (
    DECIDED,
    NEAR_ZERO,
    above_zero,
    after_start,
    below_output,
    by_layer,
    is_below,
    largest_angle,
    last_epoch,
    late_part,
    mean_angle,
    why_misaligned,
)

CLAIMS = ClaimList()


@CLAIMS.of_runs("A1", "Sec. 6", "Backprop's matrix angle is 0 in every layer.")
def _(node: xr.Dataset) -> Finding:
    angles = by_layer(node, BP)
    return decide(bool((angles.fillna(0) == 0).all()), largest_angle(angles))


@CLAIMS.of_runs(
    "A2",
    "Fig. 4a, Sec. 6",
    "WM's matrix angles stay below 12° in every layer, and below 6° late in the run in all but "
    "the final layer.",
)
def _(node: xr.Dataset) -> Finding:
    angles = after_start(by_layer(node, WM))
    late = late_part(angles)
    others, final = below_output(late), float(late.isel(layer=-1).max())
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


@CLAIMS.of_runs("A3", "Sec. 6", "WM aligns its final, fully connected layer worst.")
def _(node: xr.Dataset) -> Finding:
    late = late_part(by_layer(node, WM)).mean("epoch")
    final, others = late.isel(layer=-1), below_output(late)
    # the worst first
    others = others.sortby(others.mean("run"), ascending=False).transpose("layer", "run")
    name, worst = others["layer"][0].item(), float(others[0].mean())
    shown = f"late: final layer {float(final.mean()):.1f}°, worst other {worst:.1f}° ({name})"
    if _noise_in_proportion(
        complete(matching_runs(node, WM, norm_order=main_order(node))).isel(run=0)
    ):
        why = (
            f"{DECIDED}: noise is in proportion to fan-in, and the final layer gets as many "
            "samples per input as others, or more"
        )
        return Finding("cannot be tested here", shown, why)
    finding = all_of(
        "",
        *(
            above_zero(final - other, f"final layer above {other['layer'].item()}")
            for other in others
        ),
    )
    return dataclasses.replace(
        finding, measured=shown, why=textwrap.shorten(finding.why, 160, placeholder=" …")
    )


def _noise_in_proportion(run: xr.Dataset) -> bool:
    """Whether ``noise_fraction`` determines the noise samples of a layer below the final one.

    Then the final layer has as many samples per input as that layer, or more: ``noise_batch`` only
    adds samples.
    """
    method = method_of(run)
    assert mirrors(method)
    by_fraction = method.noise_fraction * run["fan_in"].values >= method.noise_batch
    return bool(by_fraction[:-1].any())


@CLAIMS.of_runs(
    "A4",
    "Sec. 6",
    "WM's matrix angles grow early, while η_W is large, and fall when η_W drops by 90 %.",
)
def _(node: xr.Dataset) -> Finding:
    angles = after_start(by_layer(node, WM)).mean("layer")
    drops = lr_drops(matching_runs(node, WM, norm_order=main_order(node)))
    if not drops:
        raise CannotTestError("η_W has no step drop in these runs")
    drop, epochs = drops[0], angles["epoch"]
    # the paper's epochs 2 and 10, scaled from its drop at epoch 32
    start, grown = GROWTH[0] * drop, GROWTH[1] * drop
    early = angles.sel(epoch=(epochs >= start) & (epochs < grown))
    high, after = (
        angles.sel(epoch=(epochs >= grown) & (epochs <= drop)),
        angles.sel(epoch=epochs > drop),
    )
    if not (early.size and high.size and after.size):
        raise CannotTestError(f"too few measured epochs before or after the drop at epoch {drop}")
    high = high.mean("epoch")
    return all_of(
        f"matrix angles, mean over layers, before the drop at epoch {drop}: "
        f"{float(high.mean()):.1f}°",
        above_zero(high - early.isel(epoch=0), "grew"),
        above_zero(high - late_part(after).mean("epoch"), "fell"),
    )


@CLAIMS.of_runs(
    "A5",
    "Fig. 4b, Sec. 6",
    "WM's δ angles stay below 25° in every layer, and grow upstream.",
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
    """Spearman's rank correlation of a quantity, listed from the input up, with the distance
    from the output; 0 if it is constant."""
    correlation = pd.Series(profile).rank().corr(pd.Series(np.arange(len(profile))[::-1]))
    return 0.0 if math.isnan(correlation) else float(correlation)


@CLAIMS.of_runs(
    "A6",
    "Fig. 4c and d, Sec. 6",
    "KP brings matrix and δ angles near zero within 20 epochs, and they stay there.",
)
def _(node: xr.Dataset) -> Finding:
    parts = []
    for quantity, name in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        angles = by_layer(node, KP, quantity)
        away = angles["epoch"].values[(angles.max(["run", "layer"]) >= NEAR_ZERO).values]
        last = int(angles["epoch"].max())
        ends = angles.where(angles["epoch"] == last_epoch(angles))
        if away.size and (away[-1] >= 20 or ends.max() >= NEAR_ZERO):
            where = f"{name} at epoch {away[-1]} {largest_angle(angles.sel(epoch=[away[-1]]))}"
            parts.append(
                Finding("fails", where, f"{name} not below {NEAR_ZERO:g}° (our threshold)")
            )
            continue
        afterwards = angles.sel(epoch=angles["epoch"] > (away[-1] if away.size else -1))
        measured = (
            f"{name} from epoch {int(afterwards['epoch'][0])} to {last} {largest_angle(afterwards)}"
        )
        if afterwards.sizes["epoch"] > 1:
            parts.append(Finding("holds", measured))
        else:
            why = f"{name} were near zero at the last epoch only"
            parts.append(Finding("cannot be tested here", measured, why))
    finding = all_of("", *parts)
    if finding.outcome != "holds" and (why := why_misaligned(node)):
        return Finding("cannot be tested here", finding.measured, why)
    return finding


@CLAIMS.of_runs("A7", "Fig. 4e and f, Sec. 6", "SS aligns both matrices and δ less than WM and KP.")
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
        shown.append(f"{words}, {ANGLE_MEANS[quantity]}, late: {values}")
        parts += [is_below(mean[m], mean[SS], unit="°") for m in ([WM] if misaligned else [WM, KP])]
    return all_of("; ".join(shown), *parts)


@CLAIMS.of_runs("A8", "Sec. 6", "With FA both angles stay above 80° in most layers.")
def _(node: xr.Dataset) -> Finding:
    parts = []
    for quantity, name in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        lowest = by_layer(node, FA, quantity, output=quantity == "matrix_angle").min(
            ["run", "epoch"]
        )
        share = float((lowest > ANGLE_BOUNDS[FA, quantity][1]).mean())
        parts.append(decide(share > 0.5, f"{name} above 80° throughout in {share:.0%} of layers"))
    return all_of("", *parts)
