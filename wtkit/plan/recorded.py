"""What the formulas predict of recorded runs, beside what was measured. Imports no torch."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import xarray as xr

from .. import methods
from ..experiments import known_facts, learning_rate
from ..methods.weight_mirror import WeightMirror
from ..results import config_of
from .formulas import Layer, learns_as_W, mirrors, mismatch, sampling_angle


def expected_angles(run: xr.Dataset) -> xr.DataArray:
    """The matrix angles in degrees over ``layer`` that noise leaves in a recorded run of a mirror
    at rest; or NaN."""
    config = config_of(run)
    method = config.loaded_method()
    found = np.full(run.sizes["layer"], np.nan)
    if mirrors(method):
        for i, (fan_in, samples) in enumerate(
            zip(run["fan_in"].values, run["mirror_samples"].values, strict=True)
        ):
            if np.isfinite(samples):  # NaN for a layer that was left on backprop
                phi = method.output_phi if i == len(found) - 1 else method.phi
                inputs = existing_inputs(method, int(fan_in), int(samples))
                layer = Layer(str(run["layer"].values[i]), inputs, int(fan_in), int(samples), phi)
                found[i] = sampling_angle(method, layer)
    return xr.DataArray(
        found, dims="layer", coords={"layer": run["layer"]}, attrs={"units": "degree"}
    )


def existing_inputs(method: WeightMirror, fan_in: int, samples: int) -> int:
    """How many of a unit's inputs exist: all, or as many taps of the kernel as the method takes so
    many samples for."""
    fitting = [inputs for inputs in range(1, fan_in + 1) if method.samples(inputs) == samples]
    return max(fitting, key=lambda inputs: math.gcd(inputs, fan_in), default=fan_in)


def measured_mismatch(run: xr.Dataset) -> xr.DataArray:
    """‖W − Bᵀ‖ of a recorded run over its epochs, of all layers together; NaN where it was not
    recorded."""
    W, r = run["weight_norm"], run["feedback_norm_ratio"]
    squared = W**2 * (1 + r**2 - 2 * r * np.cos(np.radians(run["matrix_angle"])))
    total: xr.DataArray = squared.clip(min=0).sum("layer", skipna=False)
    return total**0.5


def time_constants(run: xr.Dataset) -> tuple[float, float]:
    """Steps at the peak rate in which a recorded run's mismatch falls to 1/e, as predicted and as
    measured; or NaN.

    The slope of its logarithm over Σ η_W / η_peak, at the epochs at which the prediction lies above
    a thousandth of the start: less is rounding.
    """
    config = config_of(run)
    steps = known_facts(config).steps(config)
    # in a group with longer runs it is filled up
    left = measured_mismatch(run).values[: config.epochs + 1]
    if steps is None or not left[0] > 0:
        return math.nan, math.nan
    rates = [
        learning_rate(config, step / steps) / config.lr for step in range(config.epochs * steps)
    ]
    passed = np.concatenate([[0], np.cumsum(rates)])[::steps][: len(left)]
    expected = mismatch(config, steps)[: len(left)]
    kept = np.isfinite(left) & (left > 0) & (expected > 1e-3)
    if kept.sum() < 2 or config.weight_decay == 0:
        return math.nan, math.nan
    predicted, measured = (
        -1 / np.polyfit(passed[kept], np.log(of[kept]), 1)[0] for of in (expected, left)
    )
    return float(predicted), float(measured)


def compared(node: xr.Dataset) -> pd.DataFrame:
    """What was predicted of complete runs beside what was measured, as far as it was recorded.

    Rows have the ``quantity`` ``steps`` (:func:`time_constants`, a row a run whose B learns as W
    does) or ``angle`` (:func:`expected_angles` and the matrix angle of the last epoch, a row a
    layer that learns in mirror mode).
    """
    rows: list[dict[str, object]] = []
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        if run["status"] != "complete" or str(run["method"].values) not in methods.names():
            continue
        who = {name: str(run[name].values) for name in ("method", "norm_order", "variant")}
        who |= {"network": run.attrs["network"]}
        if learns_as_W(config_of(run).loaded_method()):
            predicted, measured = time_constants(run)
            rows.append(who | {"quantity": "steps", "predicted": predicted, "measured": measured})
        recorded = run["matrix_angle"].dropna("epoch", how="all").values
        for angle, last in zip(
            expected_angles(run).values, recorded[-1] if len(recorded) else [], strict=False
        ):
            rows.append(who | {"quantity": "angle", "predicted": angle, "measured": last})
    columns = ["network", "method", "norm_order", "variant", "quantity", "predicted", "measured"]
    return pd.DataFrame(rows, columns=columns).dropna()
