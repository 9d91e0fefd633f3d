"""What the paper leaves open (Sec. 7), and what ablations say about it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from .. import methods
from ..results import (
    KP,
    WM,
    Estimate,
    complete,
    is_own_loop,
    last_errors,
    main_order,
    matching_runs,
    mean_and_error,
    shared_settings,
)
from .claim import CannotTestError, ClaimList, Finding, all_of
from .judging import by_layer, is_below, late_part, mean_angle

CLAIMS = ClaimList()


def _sweep(
    node: xr.Dataset,
    method: str,
    parted: Callable[[xr.Dataset], tuple[float, dict[str, Any]]],
    period: Callable[[xr.DataArray], xr.DataArray] = late_part,
) -> dict[float, tuple[Estimate, Estimate]]:
    """Mean matrix angle in degrees over a period, and final error, by increasing amount.

    Args:
        parted: a run's amount, and its other settings. Only runs count whose other settings are
            those of a main run.
    """
    by_layer(node, method)  # raises if angles of the main runs were not measured
    runs = complete(matching_runs(node, method, norm_order=main_order(node), variant=None))
    each = [runs.isel(run=index) for index in range(runs.sizes["run"])]
    if any(map(is_own_loop, each)):
        raise CannotTestError("these runs are of a training loop of its user's")
    amounts = np.array([parted(run)[0] for run in each])
    others = [parted(run)[1] | {"variant": ""} for run in each]
    is_main = runs["variant"].values == ""
    main = [other for other, chosen in zip(others, is_main, strict=True) if chosen]
    alike = np.array([other in main for other in others])
    by_amount = {}
    for value in sorted(set(amounts[alike].tolist())):
        selected = runs.isel(run=alike & (amounts == value))
        angle = mean_angle(period(selected["matrix_angle"].dropna("epoch", how="all")), method)
        mean, error = mean_and_error(last_errors(selected))
        by_amount[value] = (angle, Estimate(float(mean), float(error), selected.sizes["run"]))
    return by_amount


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


@CLAIMS.of_runs(
    "Q1",
    "Sec. 7",
    "A larger λ aligns KP faster, but too large a λ may hamper learning; the best λ is open.",
)
def _(node: xr.Dataset) -> Finding:
    sweep = _sweep(node, KP, _decay)
    return _falls(
        sweep,
        "weight decay",
        "config/ablations/kp_decay.yaml; all runs of KP here have the same weight decay",
    )


@CLAIMS.of_runs("Q2", "Sec. 7", "If WM's angles are too large, more mirroring reduces them.")
def _(node: xr.Dataset) -> Finding:
    # over all of training: late in a run W is constant, and more steps do not reduce the noise
    sweep = _sweep(node, WM, _mirroring, lambda angles: angles.isel(epoch=slice(1, None)))
    missing = "config/ablations/mirror_steps.yaml; all runs of WM here mirror equally often"
    return _falls(sweep, "all of training, mirror steps per engaged step", missing)


def _decay(run: xr.Dataset) -> tuple[float, dict[str, Any]]:
    """The weight decay, and the other settings."""
    others = shared_settings(run)
    return others.pop("weight_decay"), others


def _mirroring(run: xr.Dataset) -> tuple[float, dict[str, Any]]:
    """Mirror steps per engaged step, and the other settings and options."""
    others = shared_settings(run)
    options = dataclasses.asdict(methods.load(WM, **others.pop("options")))  # type: ignore[call-overload]
    amount = options.pop("mirror_steps") / options.pop("mirror_every")
    return amount, others | options


CLAIMS.shown_by(
    "Q3",
    "Sec. 7",
    "Open: how sensitive both methods are to hyper-parameters, and how well they work on other "
    "tasks and architectures.",
    "not a yes-or-no question: see docs/ablations.md, docs/architectures.md and config/ablations/",
    "shown by another experiment",
)
