"""What the paper reports, as data.

Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, "Deep Learning without Weight Transport",
    NeurIPS 2019.
"""

from __future__ import annotations

import importlib.resources
import itertools
from collections.abc import Mapping

import pandas as pd
import xarray as xr

from ..data_sets import data_set
from .names import FA, ORDERS, WM, data_label, method_label, network_label, whole_sets
from .summary import Estimate, evaluated_on, final_error, methods_of, networks_of, variants_of


def _anchors() -> pd.DataFrame:
    with importlib.resources.files("wtkit").joinpath("anchors.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file).fillna({"norm_order": ""})


ANCHORS = _anchors()
"""Published top-1 test errors in percent, from ``docs/anchors.csv``, the one place where they are
written down.

Akrout et al. (2019), Sec. 6. Xiao et al. (2018), "Biologically-plausible learning algorithms can
scale to large datasets". Sanfiz and Akrout (2021), "Benchmarking the accuracy and robustness of
feedback alignment algorithms", the benchmarks of BioTorch, a run each. Nakajima et al. (2022),
"Physical deep learning with biologically inspired training method", Nature Communications 13, table
2. What a source does not say is empty.
"""
PAPER, XIAO = "Akrout et al. (2019)", "Xiao et al. (2018)"
"""Two of the sources in :data:`ANCHORS`."""


def _printed() -> dict[tuple[str, str], dict[str, Estimate]]:
    printed: dict[tuple[str, str], dict[str, Estimate]] = {}
    for row in ANCHORS[ANCHORS["source"] == PAPER].itertuples():
        of_network = printed.setdefault((row.network, row.norm_order), {})
        of_network[row.method] = Estimate(
            row.error_percent, row.standard_error, images=data_set(row.data).held_out or 0
        )
    return printed


FINAL_ERRORS: Mapping[tuple[str, str], Mapping[str, Estimate]] = _printed()
"""Final top-1 test errors on ImageNet in percent, with standard errors (Sec. 6), by network and
norm order."""
XIAO_ERROR = float(ANCHORS.loc[ANCHORS["source"] == XIAO, "error_percent"].item())
"""Sign-symmetry, ResNet-18, ImageNet, of Xiao et al. (2018), as Sec. 6 quotes it, in percent."""
LR_DROP_EPOCH = 32
"""The epoch at which the paper's η_W falls by 90 %; its matrix angles grow between epochs 2 and 10
(Sec. 6)."""
GROWTH = (2 / LR_DROP_EPOCH, 10 / LR_DROP_EPOCH)
ANGLE_BOUNDS: Mapping[tuple[str, str], tuple[str, float]] = {
    (WM, "matrix_angle"): ("<", 12.0),
    (WM, "delta_angle"): ("<", 25.0),
    (FA, "matrix_angle"): (">", 80.0),
    (FA, "delta_angle"): (">", 80.0),
}
"""The bounds on angles, in degrees, that Sec. 6 states."""
LATE_ANGLE = 6.0
"""What WM's matrix angles stay below late in the run, the final layer aside, in degrees (Sec.
6)."""


def anchors_of(node: xr.Dataset) -> pd.DataFrame:
    """The rows of :data:`ANCHORS` for the network and the data of these runs, whatever their norm
    order."""
    same_network = ANCHORS["network"] == node.attrs["network"]
    return ANCHORS[same_network & ANCHORS["data"].isin(whole_sets(node))]


def error_table(tree: xr.DataTree) -> pd.DataFrame:
    """Final errors of every network, norm order, method and variant that was run, beside the
    paper's."""
    rows = []
    for (network, node), order in itertools.product(networks_of(tree).items(), ORDERS):
        for method in methods_of(node, order, variant=None):
            for variant in ["", *variants_of(node, method)]:
                ours = final_error(node, method, order, variant)
                printed = FINAL_ERRORS.get((network, order), {}).get(method)
                if ours.runs:
                    rows.append(
                        {
                            "network": network_label(network),
                            "BatchNorm": ORDERS[order],
                            "method": method_label(method, variant),
                            f"{evaluated_on(node)} error %, {data_label(node)}": str(ours),
                            "seeds": ours.runs,
                            "diverged": ours.diverged,
                            "paper: error %, ImageNet": str(printed)
                            if printed and not variant
                            else "–",
                        }
                    )
    return pd.DataFrame(rows)
