"""The paper's numbers, as data.

Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, "Deep Learning without Weight Transport",
NeurIPS 2019.
"""

from __future__ import annotations

import importlib.resources
import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd
import xarray as xr

from ..data_sets import data_set
from .names import FA, ORDERS, WM, data_label, full_data_sets, method_label, network_label
from .summary import (
    Estimate,
    evaluated_on,
    final_error,
    measure_label,
    measure_of,
    methods_of,
    networks_of,
    variants_of,
)


def _anchors() -> pd.DataFrame:
    with importlib.resources.files("wtkit").joinpath("anchors.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file).fillna({"norm_order": ""})


ANCHORS = _anchors()
"""Published top-1 test errors in percent, from ``docs/anchors.csv``, their single source.

- Akrout et al. (2019), Sec. 6.
- Xiao et al. (2018), "Biologically-plausible learning algorithms can scale to large datasets".
- Sanfiz and Akrout (2021), "Benchmarking the accuracy and robustness of feedback alignment
  algorithms": BioTorch's benchmarks, single runs.
- Nakajima et al. (2022), "Physical deep learning with biologically inspired training method",
  Nature Communications 13, table 2.

A cell is empty if the source does not state the value.
"""
PAPER, XIAO = "Akrout et al. (2019)", "Xiao et al. (2018)"
"""Two of the sources in :data:`ANCHORS`."""


def _printed() -> dict[tuple[str, str], dict[str, Estimate]]:
    errors: dict[tuple[str, str], dict[str, Estimate]] = {}
    for row in ANCHORS[ANCHORS["source"] == PAPER].itertuples():
        by_method = errors.setdefault((row.network, row.norm_order), {})
        by_method[row.method] = Estimate(
            row.error_percent, row.standard_error, images=data_set(row.data).held_out or 0
        )
    return errors


FINAL_ERRORS: Mapping[tuple[str, str], Mapping[str, Estimate]] = _printed()
"""Final top-1 test errors on ImageNet in percent, with standard errors (Sec. 6), by network and
norm order."""
XIAO_ERROR = float(ANCHORS.loc[ANCHORS["source"] == XIAO, "error_percent"].item())
"""Error in percent of sign-symmetry with ResNet-18 on ImageNet in Xiao et al. (2018), as quoted in
Sec. 6."""
LR_DROP_EPOCH = 32
"""The epoch at which the paper's η_W drops by 90 % (Sec. 6)."""
GROWTH = (2 / LR_DROP_EPOCH, 10 / LR_DROP_EPOCH)
"""The period in which the paper's matrix angles grow, epochs 2 to 10, as shares of the epochs up to
the drop (Sec. 6)."""
ANGLE_BOUNDS: Mapping[tuple[str, str], tuple[str, float]] = {
    (WM, "matrix_angle"): ("<", 12.0),
    (WM, "delta_angle"): ("<", 25.0),
    (FA, "matrix_angle"): (">", 80.0),
    (FA, "delta_angle"): (">", 80.0),
}
"""Bounds on angles in degrees (Sec. 6)."""
LATE_ANGLE = 6.0
"""Degrees that WM's matrix angles stay below late in the run, except the final layer's (Sec. 6)."""


def is_papers(network: str) -> bool:
    """Whether a network is one of the paper's, of any width.

    >>> is_papers("resnet18-width=16"), is_papers("mlp-hidden=500")
    (True, False)
    """
    return network.partition("-")[0] in {name for name, _ in FINAL_ERRORS}


def anchors_of(node: xr.Dataset) -> pd.DataFrame:
    """The rows of :data:`ANCHORS` for the network and data of these runs, in every norm order."""
    same_network = ANCHORS["network"] == node.attrs["network"]
    return ANCHORS[same_network & ANCHORS["data"].isin(full_data_sets(node))]


def error_table(tree: xr.DataTree) -> pd.DataFrame:
    """Final errors of every network, norm order, method and variant that was run, next to the
    paper's."""
    rows = [
        _error_row(network, node, order, method, variant)
        for (network, node), order in itertools.product(networks_of(tree).items(), ORDERS)
        for method in methods_of(node, order, variant=None)
        for variant in ["", *variants_of(node, method)]
    ]
    return pd.DataFrame([row for row in rows if row["seeds"]])


def _heading(node: xr.Dataset) -> str:
    if measure_of(node) == "test_error":
        return f"{evaluated_on(node)} error %"
    return measure_label(node)


def _error_row(
    network: str, node: xr.Dataset, norm_order: str, method: str, variant: str
) -> dict[str, Any]:
    ours = final_error(node, method, norm_order, variant)
    paper = None if variant else FINAL_ERRORS.get((network, norm_order), {}).get(method)
    return {
        "network": network_label(network),
        "BatchNorm": ORDERS[norm_order],
        "method": method_label(method, variant),
        f"{_heading(node)}, {data_label(node)}": str(ours),
        "seeds": ours.runs,
        "diverged": ours.diverged,
        "paper: error %, ImageNet": str(paper) if paper else "–",
    }
