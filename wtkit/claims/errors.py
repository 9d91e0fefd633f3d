"""The paper's claims about test errors (Sec. 6, Fig. 3, App. D.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import xarray as xr

from ..data_sets import data_set
from ..results import (
    BP,
    FA,
    KP,
    METHODS,
    ORDERS,
    SS,
    WM,
    XIAO_ERROR,
    Estimate,
    data_label,
    full_data_sets,
    method_label,
    methods_of,
)
from .claim import ClaimList, Finding, all_of
from .comparison import Comparison
from .judging import (
    alike,
    all_of_errors,
    as_printed,
    as_text,
    errors_of,
    is_below,
    nearly_matches,
    why_misaligned,
)

CLAIMS = ClaimList()


@CLAIMS.of_runs(
    "E1",
    "Fig. 3a, Sec. 6",
    "ResNet-18 on ImageNet ends at the errors printed for the five methods.",
    network="resnet18",
)
def _(node: xr.Dataset) -> Finding:
    return as_printed(node, "resnet18")


@CLAIMS.of_runs(
    "E2",
    "Fig. 3b, Sec. 6",
    "ResNet-50 on ImageNet ends at the errors printed for the five methods.",
    network="resnet50",
)
def _(node: xr.Dataset) -> Finding:
    return as_printed(node, "resnet50")


@CLAIMS.of_runs(
    "E3", "Fig. 3, Sec. 6", "WM and KP end below SS and FA in error, and nearly match BP."
)
def _(node: xr.Dataset) -> Finding:
    return judged_order(errors_of(node, METHODS), why_misaligned(node))


def judged_order(errors: Mapping[str, Estimate], misaligned: str = "") -> Finding:
    """Judge the paper's main claim: WM and KP nearly match BP and beat SS and FA.

    Args:
        errors: of the five methods, in percent.
        misaligned: why KP cannot be tested; empty if it can.
    """
    parts: list[Finding | Comparison] = (
        [Finding("cannot be tested here", why=misaligned)] if misaligned else []
    )
    for ours in [WM] if misaligned else [WM, KP]:
        parts.append(nearly_matches(errors[ours], errors[BP]))
        parts += [is_below(errors[ours], errors[other]) for other in (SS, FA)]
    return all_of_errors(errors.values(), as_text(errors), *parts)


@CLAIMS.of_runs(
    "E4",
    "Sec. 6, App. D.3",
    "BatchNorm before the ReLU lowers the error of SS and hardly changes the others'.",
)
def _(node: xr.Dataset) -> Finding:
    orders = [set(methods_of(node, order)) for order in ("relu_bn", "bn_relu")]
    both = [SS, *(m for m in METHODS if m != SS and m in set.intersection(*orders))]
    after, before = _in_order(node, both, "relu_bn"), _in_order(node, both, "bn_relu")
    of_ss = is_below(before[SS], after[SS])
    parts = [of_ss, *(part for m in both[1:] for part in alike(before[m], after[m]))]
    if missing := [method_label(method) for method in METHODS if method not in both]:
        why = (
            f"{method_label(SS)}'s part {all_of('', of_ss).outcome}; not run in both orders: "
            f"{', '.join(missing)}"
        )
        parts.append(Finding("cannot be tested here", why=why))
    shown = "; ".join(f"{method_label(m)} {after[m]} → {before[m]} %" for m in both)
    return all_of_errors([*after.values(), *before.values()], f"after → before: {shown}", *parts)


def _in_order(node: xr.Dataset, wanted: Iterable[str], norm_order: str) -> dict[str, Estimate]:
    """Errors in one norm order, which is part of their names."""
    order = f"BatchNorm {ORDERS[norm_order]}"
    errors = errors_of(node, wanted, norm_order)
    return {
        method: dataclasses.replace(error, name=f"{error.name} ({order})")
        for method, error in errors.items()
    }


@CLAIMS.of_runs(
    "E5",
    "Sec. 6",
    f"With BatchNorm before the ReLU, SS with ResNet-18 ends near Xiao et al.'s {XIAO_ERROR} %.",
    network="resnet18",
)
def _(node: xr.Dataset) -> Finding:
    error = errors_of(node, [SS], "bn_relu")[SS]
    if full_data_sets(node) != {"imagenet"}:
        why = f"these runs use {data_label(node)}, Xiao et al. ImageNet"
        return Finding("cannot be tested here", f"SS {error} %", why)
    xiao = Estimate(
        XIAO_ERROR, 0.0, name="Xiao et al.'s", images=data_set("imagenet").held_out or 0
    )
    return all_of_errors([error], f"SS {error} %", *alike(error, xiao))
