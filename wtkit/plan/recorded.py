"""Compare the formulas' predictions with recorded runs. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from .. import methods
from ..experiments import RunConfig, known_facts, learning_rate
from ..methods.weight_mirror import WeightMirror
from ..results import is_own_loop, known_config_of, method_of
from .formulas import Layer, mirrors, mismatch, sampling_angle


def expected_angles(run: xr.Dataset) -> xr.DataArray:
    """Matrix angles in degrees, over ``layer``, that the noise leaves in a recorded run of a weight
    mirror if W is constant; NaN for other methods."""
    method = method_of(run)
    angles = np.full(run.sizes["layer"], np.nan)
    if mirrors(method):
        for i, (fan_in, samples) in enumerate(
            zip(run["fan_in"].values, run["mirror_samples"].values, strict=True)
        ):
            if np.isfinite(samples):  # NaN for a layer that stays on backprop
                phi = method.output_phi if i == len(angles) - 1 else method.phi
                inputs = existing_inputs(method, int(fan_in), int(samples))
                layer = Layer(str(run["layer"].values[i]), inputs, int(fan_in), int(samples), phi)
                angles[i] = sampling_angle(method, layer)
    return xr.DataArray(
        angles, dims="layer", coords={"layer": run["layer"]}, attrs={"units": "degree"}
    )


def existing_inputs(method: WeightMirror, fan_in: int, samples: int) -> int:
    """How many inputs of an activation are not padding, inferred from the number of samples that
    the method takes for them; ``fan_in`` if no number fits."""
    fitting = [inputs for inputs in range(1, fan_in + 1) if method.samples(inputs) == samples]
    return max(fitting, key=lambda inputs: math.gcd(inputs, fan_in), default=fan_in)


def measured_mismatch(run: xr.Dataset) -> xr.DataArray:
    """‖W − Bᵀ‖ over all layers of a recorded run, by epoch; NaN where it was not recorded."""
    W, r = run["weight_norm"], run["feedback_norm_ratio"]
    squared = W**2 * (1 + r**2 - 2 * r * np.cos(np.radians(run["matrix_angle"])))
    total: xr.DataArray = squared.clip(min=0).sum("layer", skipna=False)
    return total**0.5


def time_constants(run: xr.Dataset) -> tuple[float, float]:
    """Steps at the peak rate in which a recorded run's mismatch falls to 1/e: predicted and
    measured, or NaN; also NaN for a run without :func:`wtkit.results.known_config_of`.

    Both come from a linear fit of the mismatch's logarithm to Σ η_W / η_peak. The fit uses the
    epochs whose prediction is above 1/1000 of the start; below that, rounding dominates.
    """
    config = known_config_of(run)
    if config is None:
        return math.nan, math.nan
    steps = known_facts(config).steps(config)
    # gathering pads shorter runs with NaN
    measured = measured_mismatch(run).values[: config.epochs + 1]
    if steps is None or not measured[0] > 0:
        return math.nan, math.nan
    progress = _integrated_rate(config, steps)[: len(measured)]
    predicted = mismatch(config, steps)[: len(measured)]
    fitted = np.isfinite(measured) & (measured > 0) & (predicted > 1e-3)
    if fitted.sum() < 2 or config.weight_decay == 0:
        return math.nan, math.nan
    return (
        _fitted_constant(progress[fitted], predicted[fitted]),
        _fitted_constant(progress[fitted], measured[fitted]),
    )


def _integrated_rate(config: RunConfig, steps: int) -> np.ndarray:
    """Σ η_W / η_peak up to each epoch."""
    rates = [
        learning_rate(config, step / steps) / config.lr for step in range(config.epochs * steps)
    ]
    return np.concatenate([[0], np.cumsum(rates)])[::steps]


def _fitted_constant(progress: np.ndarray, values: np.ndarray) -> float:
    return float(-1 / np.polyfit(progress, np.log(values), 1)[0])


def predicted_and_measured(node: xr.Dataset) -> pd.DataFrame:
    """Predictions for complete runs next to what was measured, where it was recorded.

    The column ``quantity`` is ``steps`` (:func:`time_constants`; one row per run whose B learns as
    W does) or ``angle`` (:func:`expected_angles` and the matrix angle of the last epoch; one row
    per layer that learns in mirror mode).
    """
    rows = [
        row for index in range(node.sizes["run"]) for row in _run_comparisons(node.isel(run=index))
    ]
    columns = ["network", "method", "norm_order", "variant", "quantity", "predicted", "measured"]
    return pd.DataFrame(rows, columns=columns).dropna()


def _run_comparisons(run: xr.Dataset) -> Iterator[dict[str, Any]]:
    if run["status"] != "complete" or str(run["method"].values) not in methods.names():
        return
    labels = {name: str(run[name].values) for name in ("method", "norm_order", "variant")}
    labels |= {"network": run.attrs["network"]}
    if not is_own_loop(run) and method_of(run).learns_as_W:
        predicted, measured = time_constants(run)
        yield labels | {"quantity": "steps", "predicted": predicted, "measured": measured}
    recorded = run["matrix_angle"].dropna("epoch", how="all").values
    last = recorded[-1] if len(recorded) else []
    for predicted, measured in zip(expected_angles(run).values, last, strict=False):
        yield labels | {"quantity": "angle", "predicted": predicted, "measured": measured}
