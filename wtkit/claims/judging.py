"""Compare errors and angles for the claims; our thresholds.

The paper gives no number for some thresholds. Those are ours, and their docstrings say so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import xarray as xr

from ..experiments import known_facts
from ..plan import MIN_FOLDINGS, mismatch
from ..results import (
    FINAL_ERRORS,
    KP,
    MAIN_ORDER,
    METHODS,
    Estimate,
    check_one_experiment,
    complete,
    data_label,
    evaluated_on,
    final_error,
    full_data_sets,
    held_out_images,
    known_config_of,
    main_order,
    matching_runs,
    mean_and_error,
    measure_label,
    measure_of,
    measured,
    method_label,
)
from .claim import CannotTestError, Finding, all_of, joined
from .comparison import Comparison, binomial_variance, welch

NEAR_ZERO = 1.0
"""Ours: an angle below this many degrees is "near zero"."""
LATE = 0.9
"""Ours: "late in the run" begins after this share of the epochs."""
MARGIN = 0.1
"""Ours: an error nearly matches another if it exceeds it by less than this share."""
NORM_BOUND = 2.0
"""Ours: a norm ratio ‖B‖/‖W‖ is reasonable between the inverse of this and this."""


def errors_of(
    node: xr.Dataset, wanted: Iterable[str], norm_order: str | None = None
) -> dict[str, Estimate]:
    norm_order = norm_order or main_order(node)
    if evaluated_on(node) != "test":
        raise CannotTestError(f"errors were measured on {evaluated_on(node)} images")
    if measure_of(node) != "test_error":
        raise CannotTestError(f"these runs measured no test error, but {measure_label(node)}")
    errors = {method: final_error(node, method, norm_order) for method in wanted}
    for method, error in errors.items():
        images = held_out_images(matching_runs(node, method, norm_order=norm_order))
        errors[method] = dataclasses.replace(error, images=images)
    missing = [method_label(method) for method, error in errors.items() if not error.runs]
    if missing:
        raise CannotTestError(f"not run with {norm_order}: {', '.join(missing)}")
    unmeasured = [
        method_label(method)
        for method, error in errors.items()
        if math.isnan(error.mean) and error.diverged < error.runs
    ]
    if unmeasured:
        raise CannotTestError(f"no test error was recorded: {', '.join(unmeasured)}")
    return errors


def as_text(errors: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{error.name} {error}" for error in errors.values()) + " %"


def _lacks_error(*errors: Estimate) -> bool:
    return any(math.isnan(error.error) for error in errors)


NO_ERROR = "one seed gives no standard error"
NO_SIZE = "the size of the test set was not recorded, so its binomial error is left out"


def is_below(
    a: Estimate, b: Estimate, factor: float = 1.0, unit: str = " points"
) -> Finding | Comparison:
    """Whether ``a`` is below ``factor`` times ``b``."""
    if a.diverged:
        return Finding("fails", why=_diverged(a))
    if 0 < b.runs == b.diverged:
        return Finding("holds", why=_diverged(b))
    if _lacks_error(a, b):
        return Finding("cannot be tested here", why=NO_ERROR)
    error, df = welch((a.error, a.df), (factor * b.error, b.df))
    # both use the same test set, which reduces the error of their difference by an unknown amount
    test_set_variance = binomial_variance(a.mean, a.images) + factor**2 * binomial_variance(
        b.mean, b.images
    )
    claim = f"{a.name} below {f'{factor:g} × ' * (factor != 1)}{b.name}"
    return Comparison(
        claim, factor * b.mean - a.mean, error, df, math.sqrt(test_set_variance), unit
    )


def nearly_matches(a: Estimate, b: Estimate) -> Finding | Comparison:
    """Whether ``a`` exceeds ``b`` by less than :data:`MARGIN`. A lower ``a`` matches, too."""
    if 0 < b.runs == b.diverged:
        return Finding("cannot be tested here", why=_diverged(b))
    return is_below(a, b, 1 + MARGIN)


def alike(a: Estimate, b: Estimate) -> list[Finding | Comparison]:
    """Whether each of two errors nearly matches the other."""
    return [nearly_matches(a, b), nearly_matches(b, a)]


def all_of_errors(errors: Iterable[Estimate], shown: str, *parts: Finding | Comparison) -> Finding:
    """Combine parts, with remarks on diverged runs and on missing test set sizes."""
    finding, errors = all_of(shown, *parts), list(errors)
    remarks = [_diverged(error) for error in errors] + [NO_SIZE] * any(
        not error.images for error in errors
    )
    return dataclasses.replace(finding, why=joined(finding.why, *remarks))


def why_misaligned(node: xr.Dataset) -> str:
    """Why the settings prevent KP's B from aligning; empty if they do not, or if it is unknown."""
    runs = complete(matching_runs(node, KP, norm_order=main_order(node)))
    if not runs.sizes["run"]:
        return ""
    config = known_config_of(runs.isel(run=0))
    if config is None:
        return ""
    steps = known_facts(config).steps(config)
    if steps is None:
        return ""
    foldings = -math.log(max(float(mismatch(config, steps)[-1]), 1e-300))
    if foldings >= MIN_FOLDINGS:
        return ""
    return (
        f"{DECIDED}: the plan predicts {foldings:.1f} e-foldings of {method_label(KP)}'s mismatch, "
        f"fewer than {MIN_FOLDINGS:g}"
    )


DECIDED = "decided by the configuration"


def _diverged(*errors: Estimate) -> str:
    return ", ".join(
        f"{e.diverged} of {e.runs} runs of {e.name} diverged" for e in errors if e.diverged
    )


def as_printed(node: xr.Dataset, network: str) -> Finding:
    """Whether the five final errors match the paper's; testable on full ImageNet only."""
    printed = FINAL_ERRORS[network, MAIN_ORDER]
    errors = errors_of(node, METHODS)
    if full_data_sets(node) != {"imagenet"}:
        why = f"these runs use {data_label(node)}, the paper ImageNet"
        return Finding("cannot be tested here", as_text(errors), why)
    papers = {
        m: dataclasses.replace(printed[m], name=f"the paper's {errors[m].name}") for m in METHODS
    }
    parts = [part for m in METHODS for part in alike(errors[m], papers[m])]
    return all_of_errors(errors.values(), as_text(errors), *parts)


def by_layer(
    node: xr.Dataset, method: str, quantity: str = "matrix_angle", *, output: bool = True
) -> xr.DataArray:
    """A quantity of a method's complete runs, over ``run``, the measured ``epoch`` and ``layer``.

    Args:
        output: include the output layer, whose δ angle is 0 by construction.
    """
    runs = matching_runs(node, method, norm_order=main_order(node))
    if not runs.sizes["run"]:
        order = main_order(node)
        raise CannotTestError(
            f"{method_label(method)} was not run" + f" with {order}" * (order == MAIN_ORDER)
        )
    check_one_experiment(runs)
    if not complete(runs).sizes["run"]:
        raise CannotTestError(f"all runs of {method_label(method)} diverged")
    values = complete(runs)[quantity].dropna("epoch", how="all").transpose("run", "epoch", "layer")
    if values.sizes["epoch"] < 2:
        raise CannotTestError(
            f"no {quantity} of {method_label(method)} was recorded after the start"
        )
    return values if output else below_output(values)


def below_output(values: xr.DataArray) -> xr.DataArray:
    """The layers but for the output layer."""
    if values.sizes["layer"] < 2:
        raise CannotTestError("the network has no layer below its output layer")
    return values.isel(layer=slice(None, -1))


def after_start(angles: xr.DataArray) -> xr.DataArray:
    return angles.sel(epoch=angles["epoch"] >= 1)


def last_epoch(values: xr.DataArray) -> xr.DataArray:
    """Each run's last measured epoch; runs may differ in length."""
    return values["epoch"].where(measured(values)).max("epoch")


def late_part(angles: xr.DataArray) -> xr.DataArray:
    """The last tenth of each run; NaN at epochs that are late in other runs only."""
    late = angles["epoch"] > LATE * last_epoch(angles)
    return angles.where(late).sel(epoch=late.any("run"))


def largest_angle(angles: xr.DataArray) -> str:
    """The largest angle over runs, with its layer and epoch, as text."""
    worst = angles.max("run").stack(at=("epoch", "layer"))
    worst = worst.isel(at=int(worst.argmax("at")))
    return f"at most {float(worst):.1f}° ({worst['layer'].item()}, epoch {worst['epoch'].item()})"


def above_zero(differences: xr.DataArray, claim: str, unit: str = "°") -> Finding | Comparison:
    """Whether a difference is above zero by Student's t; ``differences`` has one value per run."""
    mean, error = (float(x) for x in mean_and_error(differences))
    if math.isnan(error):
        return Finding("cannot be tested here", f"{claim} by {mean:.3g}{unit}", NO_ERROR)
    measured = f"{claim} by {mean:.3g} ± {error:.2g}{unit}"
    return Comparison(
        claim, mean, error, int(differences.count()) - 1, unit=unit, measured=measured
    )


def mean_angle(angles: xr.DataArray, method: str) -> Estimate:
    """Mean over runs of each run's mean over epochs and layers."""
    run_means = angles.mean(["epoch", "layer"])
    mean, error = mean_and_error(run_means)
    return Estimate(float(mean), float(error), int(run_means.count()), name=method_label(method))
