"""What the paper reports, as data, and what gathered results say of each of its claims. Imports no torch.

Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, "Deep Learning without Weight Transport", NeurIPS 2019. Every
claim is a sentence in our words with a test of it on recorded runs; a verdict is computed from the runs and never typed
in. Where the paper gives no number, the threshold is ours: the capitals below that say so.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from . import methods
from .trajectory import ALL, select, settings

BP, FA, SS, WM, KP = METHODS = (
    "backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"
)  # fmt: skip
"""The five methods of the paper, in the order of our figures and tables."""
MAIN_ORDER = "relu_bn"
ORDERS = {"relu_bn": "after ReLU", "bn_relu": "before ReLU", "own": "the network's own"}
"""What figures and tables call the norm orders."""
"""BatchNorm after the ReLU, as in most of the paper's experiments (Sec. 6)."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over runs in percent, with its standard error: NaN where there are fewer than two runs."""

    mean: float
    error: float = math.nan
    runs: int = 0
    diverged: int = 0
    name: str = ""

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "diverged" if self.diverged else "–"
        text = f"{self.mean:.1f}" if self.mean >= 10 else f"{self.mean:.2f}"
        if not math.isnan(self.error):
            text += f" ± {self.error:.1f}" if self.mean >= 10 else f" ± {self.error:.2f}"
        return text


def _printed(**errors: tuple[float, float]) -> dict[str, Estimate]:
    return {method: Estimate(*values) for method, values in errors.items()}


# Final top-1 test errors on ImageNet in percent, with standard errors (Sec. 6), by network and norm order.
FINAL_ERRORS: Mapping[tuple[str, str], Mapping[str, Estimate]] = {
    ("resnet18", "relu_bn"): _printed(
        backprop=(30.1, 0.4),
        feedback_alignment=(97.4, 0.2),
        sign_symmetry=(39.2, 0.4),
        weight_mirror=(30.2, 0.7),
        kolen_pollack=(29.2, 0.4),
    ),
    ("resnet50", "relu_bn"): _printed(
        backprop=(22.9, 0.4),
        feedback_alignment=(98.9, 0.1),
        sign_symmetry=(33.8, 0.3),
        weight_mirror=(23.4, 0.5),
        kolen_pollack=(23.9, 0.7),
    ),
    ("resnet18", "bn_relu"): _printed(sign_symmetry=(37.8, 0.4)),
    ("resnet50", "bn_relu"): _printed(sign_symmetry=(32.6, 0.6)),
}
XIAO_ERROR = 37.91
"""Sign-symmetry, ResNet-18, ImageNet, of Xiao et al. (2018), as Sec. 6 quotes it, in percent."""
LR_DROP_EPOCH = 32
"""The epoch at which the paper's η_W falls by 90 %; its matrix angles grow between epochs 2 and 10 (Sec. 6)."""
GROWTH = (2 / LR_DROP_EPOCH, 10 / LR_DROP_EPOCH)
ANGLE_BOUNDS: Mapping[tuple[str, str], tuple[str, float]] = {
    (WM, "matrix_angle"): ("<", 12.0),
    (WM, "delta_angle"): ("<", 25.0),
    (FA, "matrix_angle"): (">", 80.0),
    (FA, "delta_angle"): (">", 80.0),
}
"""The bounds on angles, in degrees, that Sec. 6 states."""
LATE_ANGLE = 6.0
"""What WM's matrix angles stay below late in the run, the final layer aside, in degrees (Sec. 6)."""

NEAR_ZERO = 1.0
"""Ours: what we call "near zero" of an angle, in degrees."""
LATE = 0.9
"""Ours: "late in the run" is what comes after this share of its epochs."""
CLOSE = 1.0
"""Ours: errors that differ by no more percent points than this, or than one standard error, nearly match."""
NORM_BOUND = 2.0
"""Ours: a norm ratio of feedback to forward weights between 1/2 and this is reasonable."""
UPSTREAM_RANK = -0.5
"""Ours: "worse farther upstream" is a rank correlation of δ angle with depth below this."""


def label(method: str, variant: str = "") -> str:
    """How figures and tables call a method, e.g. ``WM``, or ``WM gaussian``; an unknown method by its name."""
    known = method in methods.names()
    return " ".join(filter(None, [methods.method_class(method).label if known else method, variant]))


def network_label(network: str) -> str:
    """``ResNet-18`` for ``resnet18``, ``ResNet-18, width 16`` for ``resnet18-width=16``; else the network's name."""
    found = re.fullmatch(r"resnet(\d+)(?:-width=(\d+))?", network)
    if not found:
        return network
    depth, width = found.groups()
    return f"ResNet-{depth}, width {width}" if width else f"ResNet-{depth}"


def data_label(node: xr.Dataset) -> str:
    """The data of a network's runs: ``CIFAR-10`` for ``cifar10``, and so on, a folder of images by its own name."""
    named = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny ImageNet", "imagenet": "ImageNet"}
    chosen = [settings(node.isel(run=index)) for index in range(node.sizes["run"])]
    used = [Path(one["data_root"]).name or "images" if one["data"] == "image_folder" else one["data"] for one in chosen]
    return ", ".join(named.get(one, one) for one in dict.fromkeys(used))


# ------------------------------------------------------------------------------------------------- what was measured


def mean_and_error(values: xr.DataArray, dim: str = "run") -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and standard error over ``dim``, NaN left out; the error is NaN where there are fewer than two values."""
    count = values.count(dim)
    mean = values.sum(dim) / count.where(count > 0)
    variance = ((values - mean) ** 2).sum(dim) / (count - 1).where(count > 1)
    return mean, (variance / count.where(count > 0)) ** 0.5


def complete(runs: xr.Dataset) -> xr.Dataset:
    """The runs that did not diverge."""
    return runs.isel(run=runs["status"].values == "complete")


def last_errors(runs: xr.Dataset) -> xr.DataArray:
    """Each run's ``test_error`` at its last epoch, in percent, over ``run``; runs may differ in length."""
    values = runs["test_error"].transpose("run", "epoch").values
    last = [row[np.isfinite(row)][-1] if np.isfinite(row).any() else np.nan for row in values]
    return xr.DataArray(np.array(last, dtype=float), dims="run")


def main_order(node: xr.Dataset) -> str:
    """The norm order that figures and claims speak of: the paper's; of a network without the choice, its own."""
    return "own" if "own" in node["norm_order"].values else MAIN_ORDER


def final_error(node: xr.Dataset, method: str, norm_order: str | None = None, variant: str = "") -> Estimate:
    """Error at the last epoch over the complete runs of a method, diverged runs counted beside."""
    runs = select(node, method, norm_order=norm_order or main_order(node), variant=variant)
    mean, error = mean_and_error(last_errors(complete(runs)))
    diverged = int((runs["status"].values == "diverged").sum())
    return Estimate(float(mean), float(error), runs.sizes["run"], diverged, label(method, variant))


def methods_of(node: xr.Dataset, norm_order: str | None = None, variant: str | None = "") -> list[str]:
    """Methods that were run: the paper's five in our order, then others by name."""
    found = set(select(node, norm_order=norm_order, variant=variant)["method"].values.tolist())
    return [m for m in METHODS if m in found] + sorted(found.difference(METHODS))


def variants_of(node: xr.Dataset, method: str) -> list[str]:
    """Names of the variants of a method that were run beside the main one."""
    return sorted(set(select(node, method, variant=None)["variant"].values.tolist()) - {""})


def lr_drops(node: xr.Dataset) -> list[int]:
    """Epochs after which a step schedule lowers η_W at once, of the runs together."""
    drops: set[int] = set()
    for index in range(node.sizes["run"]):
        chosen = settings(node.isel(run=index))
        if chosen["schedule"] == "step":
            drops |= {drop for drop in chosen["lr_drops"] if 0 < drop < chosen["epochs"]}
    return sorted(drops)


def networks(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """The data sets of a tree by network, the smaller network first."""
    return {name: tree[name].to_dataset() for name in sorted(tree.children, key=lambda name: (len(name), name))}


def error_table(tree: xr.DataTree) -> pd.DataFrame:
    """Final errors of every network, norm order, method and variant that was run, beside the paper's."""
    rows = []
    for (network, node), order in itertools.product(networks(tree).items(), ORDERS):
        for method in methods_of(node, order, variant=None):
            for variant in ["", *variants_of(node, method)]:
                ours = final_error(node, method, order, variant)
                printed = FINAL_ERRORS.get((network, order), {}).get(method)
                if ours.runs:
                    rows.append(
                        {
                            "network": network_label(network),
                            "BatchNorm": ORDERS[order],
                            "method": label(method, variant),
                            f"{evaluated_on(node)} error %, {data_label(node)}": str(ours),
                            "seeds": ours.runs,
                            "diverged": ours.diverged,
                            "paper: error %, ImageNet": str(printed) if printed and not variant else "–",
                        }
                    )
    return pd.DataFrame(rows)


def over_all_weights(node: xr.Dataset) -> bool:
    """Whether the angles of any run count weights that no signal passes, as in files of schema version 1."""
    return ALL in node["angles_over"].values


def evaluated_on(node: xr.Dataset) -> str:
    """``test``, ``validation``, or both names: the images that errors were measured on."""
    return " and ".join(sorted(set(node["evaluated_on"].values.tolist())))


# ------------------------------------------------------------------------------------------------------------ claims

Outcome = Literal["holds", "fails", "cannot be tested"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one network's runs say of a claim: the outcome, the numbers as text, and why where it needs saying."""

    outcome: Outcome
    measured: str = ""
    why: str = ""


class _CannotTestError(Exception):
    """Raised by a test that lacks what it needs; the text says what."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        where: section, figure or equation.
        text: the claim, in our words.
        test: what the runs of one network say of it; None where recorded runs cannot show it.
        network: the one network that it speaks of; empty for every network.
        elsewhere: what shows it besides, or instead of, recorded runs.
    """

    id: str
    where: str
    text: str
    test: Callable[[xr.Dataset], Finding] | None = None
    network: str = ""
    elsewhere: str = ""

    def judge(self, tree: xr.DataTree) -> dict[str, Finding]:
        """A finding for each network that the claim can be held against; the key is empty where none is needed."""
        if self.test is None:
            return {"": Finding("cannot be tested", why=f"not on recorded runs; {self.elsewhere}")}
        nodes = networks(tree)
        if self.network and self.network not in nodes:
            return {self.network: Finding("cannot be tested", why=f"{network_label(self.network)} was not run")}
        return {name: self._on(node) for name, node in nodes.items() if self.network in ("", name)}

    def _on(self, node: xr.Dataset) -> Finding:
        assert self.test is not None
        try:
            found = self.test(node)
        except _CannotTestError as error:
            found = Finding("cannot be tested", why=str(error))
        return dataclasses.replace(found, why=_listed(found.why, self.elsewhere))


CLAIMS: list[Claim] = []
"""Every claim, in the paper's order."""


def verdicts(tree: xr.DataTree) -> pd.DataFrame:
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


def _claim(id: str, where: str, text: str, *, network: str = "", elsewhere: str = "") -> Callable:
    def add(test: Callable[[xr.Dataset], Finding]) -> Callable[[xr.Dataset], Finding]:
        CLAIMS.append(Claim(id, where, text, test, network, elsewhere))
        return test

    return add


def _proven(id: str, where: str, text: str, by: str) -> None:
    CLAIMS.append(Claim(id, where, text, elsewhere=by))


def _listed(*texts: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))


def _all(measured: str, *parts: Finding) -> Finding:
    """All parts together: fails if one fails, and holds only if each one holds."""
    outcomes = {part.outcome for part in parts}
    worst: Outcome = "fails" if "fails" in outcomes else "cannot be tested" if len(outcomes) > 1 else parts[0].outcome
    return Finding(worst, _listed(measured, *(p.measured for p in parts)), _listed(*(p.why for p in parts)))


def _decide(holds: bool, measured: str = "", otherwise: str = "") -> Finding:
    return Finding("holds" if holds else "fails", measured, "" if holds else otherwise)


# ------------------------------------------------------------------------------- how errors and angles are compared


def _errors(node: xr.Dataset, wanted: Iterable[str], norm_order: str | None = None) -> dict[str, Estimate]:
    norm_order = norm_order or main_order(node)
    if evaluated_on(node) != "test":
        raise _CannotTestError(f"errors were measured on {evaluated_on(node)} images")
    errors = {method: final_error(node, method, norm_order) for method in wanted}
    missing = [label(method) for method, error in errors.items() if not error.runs]
    if missing:
        raise _CannotTestError(f"not run with {norm_order}: {', '.join(missing)}")
    return errors


def _shown(errors: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{error.name} {error}" for error in errors.values()) + " %"


def _unsure(*errors: Estimate) -> bool:
    return any(math.isnan(error.error) for error in errors)


NO_ERROR = "one seed gives no standard error"


def _close(a: Estimate, b: Estimate) -> Finding:
    """Whether two errors differ by no more than CLOSE, or than the standard error of their difference."""
    if a.diverged or b.diverged:
        return Finding("fails", why=_diverged(a, b))
    if _unsure(a, b):
        return Finding("cannot be tested", why=NO_ERROR)
    apart = abs(a.mean - b.mean)
    near = apart <= max(CLOSE, math.hypot(a.error, b.error)) + 1e-9
    return _decide(near, otherwise=f"{a.name} and {b.name} differ by {apart:.1f} points")


def _ahead(a: Estimate, b: Estimate) -> Finding:
    """Whether error ``a`` is lower than ``b``, the two error bars apart."""
    if a.diverged:
        return Finding("fails", why=_diverged(a))
    if 0 < b.runs == b.diverged:
        return Finding("holds", why=_diverged(b))
    if _unsure(a, b):
        return Finding("cannot be tested", why=NO_ERROR)
    if a.mean >= b.mean:
        return Finding("fails", why=f"{a.name} is not below {b.name}")
    if a.mean + a.error < b.mean - b.error:
        return Finding("holds", why=_diverged(b))
    return Finding("cannot be tested", why=f"the error bars of {a.name} and {b.name} overlap: more seeds needed")


def _diverged(*errors: Estimate) -> str:
    return ", ".join(f"{e.diverged} of {e.runs} runs of {e.name} diverged" for e in errors if e.diverged)


def _as_printed(node: xr.Dataset, network: str) -> Finding:
    """Whether the five final errors agree with those that the paper prints; only at the paper's scale."""
    printed = FINAL_ERRORS[network, MAIN_ORDER]
    errors = _errors(node, METHODS)
    if node.attrs["data"] != "imagenet":
        why = f"these runs are on {data_label(node)}, the paper's on ImageNet"
        return Finding("cannot be tested", _shown(errors), why)
    papers = {m: dataclasses.replace(printed[m], name=f"the paper's {errors[m].name}") for m in METHODS}
    return _all(_shown(errors), *(_close(errors[m], papers[m]) for m in METHODS))


def _by_layer(node: xr.Dataset, method: str, quantity: str = "matrix_angle", *, output: bool = True) -> xr.DataArray:
    """A quantity of a method's complete runs, over ``run``, ``epoch`` (as measured) and ``layer``.

    Args:
        output: whether to keep the output layer, whose δ angle is 0 by construction.
    """
    runs = select(node, method, norm_order=main_order(node))
    if not runs.sizes["run"]:
        order = main_order(node)
        raise _CannotTestError(f"{label(method)} was not run" + f" with {order}" * (order == MAIN_ORDER))
    if not complete(runs).sizes["run"]:
        raise _CannotTestError(f"all runs of {label(method)} diverged")
    values = complete(runs)[quantity].dropna("epoch", how="all").transpose("run", "epoch", "layer")
    if values.sizes["epoch"] < 2:
        raise _CannotTestError(f"no {quantity} of {label(method)} was recorded after the start")
    return values if output else values.isel(layer=slice(None, -1))


def _after_start(angles: xr.DataArray) -> xr.DataArray:
    return angles.sel(epoch=angles["epoch"] >= 1)


def _late(angles: xr.DataArray) -> xr.DataArray:
    last = angles["epoch"].max()
    return angles.sel(epoch=angles["epoch"] > LATE * last)


def _largest(angles: xr.DataArray) -> str:
    """The largest angle, with layer and epoch, over runs."""
    worst = angles.max("run").stack(at=("epoch", "layer"))
    worst = worst.isel(at=int(worst.argmax("at")))
    return f"at most {float(worst):.1f}° ({worst['layer'].item()}, epoch {worst['epoch'].item()})"


def _positive(differences: xr.DataArray, what: str) -> Finding:
    """Whether a difference, one value a run, is above zero: by more than its standard error where there is one."""
    mean, error = (float(x) for x in mean_and_error(differences))
    if math.isnan(error):
        return Finding("holds" if mean > 0 else "fails", f"{what} {mean:+.1f}°", "one seed: no standard error")
    measured = f"{what} {mean:+.1f} ± {error:.1f}°"
    if 0 < mean <= error:
        return Finding("cannot be tested", measured, "within its standard error: more seeds needed")
    return _decide(mean > 0, measured)


# ------------------------------------------------------------------------------------------------ equations, circuits

_proven("T1", "eq. 2", "With B = Wᵀ, the feedback path is backprop's.", "proven by tests/test_methods.py")


@_claim(
    "T2",
    "eqs. 3 and 4, Sec. 3",
    "In feedback alignment B is random and never changes, and it is W that turns towards Bᵀ.",
    elsewhere="that B never changes is proven by tests/test_methods.py",
)
def _(node: xr.Dataset) -> Finding:
    angle = _by_layer(node, FA).isel(layer=-1)
    final = angle.isel(epoch=-1)
    turned = _positive(90 - final, "output layer below 90° by")
    return dataclasses.replace(turned, measured=f"{turned.measured} ({float(angle[:, 0].mean()):.1f}° at first)")


_proven(
    "T3",
    "eqs. 5 and 11, Sec. 4.1",
    "The transposing rule moves B, on average, along σ²Wᵀ.",
    "proven by tests/test_mirror.py",
)
_proven(
    "T4",
    "eq. 12, Sec. 4.3",
    "A mirror that blocks biases need not assume equal slopes φ'(b), and aligns better where biases are large.",
    "proven by tests/test_mirror.py",
)


@_claim(
    "T5",
    "Sec. 4.3",
    "With a decay on B, mirroring leads it to a positive multiple of Wᵀ, of a norm that stays reasonable.",
    elsewhere="the convergence itself is proven by tests/test_mirror.py",
)
def _(node: xr.Dataset) -> Finding:
    ratio = _after_start(_by_layer(node, WM, "feedback_norm_ratio"))
    low, high = float(ratio.min()), float(ratio.max())
    bounded = low >= 1 / NORM_BOUND and high <= NORM_BOUND
    return _decide(
        bounded, f"‖B‖/‖W‖ from {low:.2f} to {high:.2f}", f"outside 1/{NORM_BOUND:g} to {NORM_BOUND:g} (our bounds)"
    )


_proven(
    "T6",
    "eqs. 13 and 14, Sec. 5.1",
    "Equal changes and equal decay make W − Bᵀ shrink by the factor 1 − λ a step, whatever the changes are.",
    "proven by tests/test_kolen_pollack.py",
)
_proven(
    "T7",
    "eqs. 15 to 18, Sec. 5.2",
    "Kolen–Pollack's B learns from y and δ alone, which the cells exchange anyway; no weight is sent.",
    "proven by tests/test_kolen_pollack.py",
)
_proven(
    "F1",
    "Fig. 1",
    "A circuit with cross-projections and two modes can carry out mirroring.",
    "drawn, and shown live, in notebooks/fig1_weight_mirror.ipynb",
)
_proven(
    "F2",
    "Fig. 2",
    "A circuit with reciprocal cross-projections and a single mode can carry out Kolen–Pollack learning.",
    "drawn, and shown live, in notebooks/fig2_kolen_pollack.ipynb",
)

# -------------------------------------------------------------------------------------------------------- test errors


@_claim(
    "E1",
    "Fig. 3a, Sec. 6",
    "ResNet-18 on ImageNet ends at the errors printed for the five methods.",
    network="resnet18",
)
def _(node: xr.Dataset) -> Finding:
    return _as_printed(node, "resnet18")


@_claim(
    "E2",
    "Fig. 3b, Sec. 6",
    "ResNet-50 on ImageNet ends at the errors printed for the five methods.",
    network="resnet50",
)
def _(node: xr.Dataset) -> Finding:
    return _as_printed(node, "resnet50")


@_claim("E3", "Fig. 3, Sec. 6", "WM and KP end below SS and FA in error, and close to BP.")
def _(node: xr.Dataset) -> Finding:
    errors = _errors(node, METHODS)
    close = [_close(errors[a], errors[b]) for a, b in itertools.combinations((BP, WM, KP), 2)]
    ahead = [_ahead(errors[a], errors[b]) for a, b in itertools.product((WM, KP), (SS, FA))]
    return _all(_shown(errors), *close, *ahead)


@_claim(
    "E4", "Sec. 6, App. D.3", "BatchNorm before the ReLU lowers the error of SS, and hardly moves that of the others."
)
def _(node: xr.Dataset) -> Finding:
    after, before = _errors(node, [SS]), _errors(node, [SS], "bn_relu")
    parts = [_ahead(_named(before[SS], "before"), _named(after[SS], "after"))]
    others = [method for method in METHODS if method != SS]
    both = [m for m in others if m in methods_of(node, "relu_bn") and m in methods_of(node, "bn_relu")]
    after |= _errors(node, both)
    before |= _errors(node, both, "bn_relu")
    parts += [_close(_named(before[m], "before"), _named(after[m], "after")) for m in both]
    if missing := [label(method) for method in others if method not in both]:
        why = f"{label(SS)}'s half {parts[0].outcome}; not run in both orders: {', '.join(missing)}"
        parts.append(Finding("cannot be tested", why=why))
    shown = "; ".join(f"{after[m].name} {after[m]} → {before[m]} %" for m in after)
    return _all(f"after → before: {shown}", *parts)


def _named(error: Estimate, order: str) -> Estimate:
    return dataclasses.replace(error, name=f"{error.name} with BatchNorm {order}")


@_claim(
    "E5",
    "Sec. 6",
    f"With BatchNorm before the ReLU, SS on ResNet-18 ends near the {XIAO_ERROR} % of Xiao et al.",
    network="resnet18",
)
def _(node: xr.Dataset) -> Finding:
    error = _errors(node, [SS], "bn_relu")[SS]
    if node.attrs["data"] != "imagenet":
        why = f"these runs are on {data_label(node)}, Xiao et al.'s on ImageNet"
        return Finding("cannot be tested", f"SS {error} %", why)
    return _all(f"SS {error} %", _close(error, Estimate(XIAO_ERROR, 0.0, name="Xiao et al.'s")))


# ------------------------------------------------------------------------------------------------------------- angles


@_claim("A1", "Sec. 6", "Backprop's matrix angle is 0 in every layer.")
def _(node: xr.Dataset) -> Finding:
    angles = _by_layer(node, BP)
    return _decide(bool((angles.fillna(0) == 0).all()), _largest(angles))


@_claim(
    "A2",
    "Fig. 4a, Sec. 6",
    "WM's matrix angles stay below 12° in every layer, and late in the run below 6° in all but the final layer.",
)
def _(node: xr.Dataset) -> Finding:
    angles = _after_start(_by_layer(node, WM))
    late = _late(angles)
    others, final = late.isel(layer=slice(None, -1)), float(late.isel(layer=-1).max())
    return _all(
        "",
        _decide(bool(angles.max() < ANGLE_BOUNDS[WM, "matrix_angle"][1]), _largest(angles), "12° exceeded"),
        _decide(
            bool(others.max() < LATE_ANGLE), f"late: {_largest(others)}, final layer {final:.1f}°", "late, 6° exceeded"
        ),
    )


@_claim("A3", "Sec. 6", "WM's final, fully connected layer is its worst aligned one.")
def _(node: xr.Dataset) -> Finding:
    late = _late(_by_layer(node, WM)).mean("epoch")
    others = late.isel(layer=slice(None, -1))
    worst = str(others["layer"].values[int(others.mean("run").argmax("layer"))])
    margin = _positive(late.isel(layer=-1) - others.sel(layer=worst), f"above the worst other layer ({worst}) by")
    return _all(f"final layer, late: {float(late.isel(layer=-1).mean()):.1f}°", margin)


@_claim(
    "A4",
    "Sec. 6",
    "WM's matrix angles grow early, while η_W is large, and fall when η_W drops by 90 %.",
)
def _(node: xr.Dataset) -> Finding:
    angles = _after_start(_by_layer(node, WM)).mean("layer")
    drops = lr_drops(select(node, WM, norm_order=main_order(node)))
    if not drops:
        raise _CannotTestError("η_W never drops at once in these runs")
    drop, epochs = drops[0], angles["epoch"]
    start, grown = GROWTH[0] * drop, GROWTH[1] * drop  # the paper's epochs 2 and 10, in proportion to its drop at 32
    early = angles.sel(epoch=(epochs >= start) & (epochs < grown))
    high, after = angles.sel(epoch=(epochs >= grown) & (epochs <= drop)), angles.sel(epoch=epochs > drop)
    if not (early.size and high.size and after.size):
        raise _CannotTestError(f"too few epochs before or after the drop (at epoch {drop}) were measured")
    high = high.mean("epoch")
    return _all(
        f"mean over layers before the drop at epoch {drop}: {float(high.mean()):.1f}°",
        _positive(high - early.isel(epoch=0), "grew by"),
        _positive(high - _late(after).mean("epoch"), "fell by"),
    )


@_claim("A5", "Fig. 4b, Sec. 6", "WM's δ angles stay below 25° in every layer, and are worse farther upstream.")
def _(node: xr.Dataset) -> Finding:
    angles = _after_start(_by_layer(node, WM, "delta_angle", output=False))
    profile = _late(angles).mean(["run", "epoch"]).to_series()
    rank = float(profile.rank().corr(pd.Series(np.arange(len(profile)), index=profile.index)))
    return _all(
        "",
        _decide(bool(angles.max() < ANGLE_BOUNDS[WM, "delta_angle"][1]), _largest(angles), "25° exceeded"),
        _decide(rank < UPSTREAM_RANK, f"late, rank correlation with depth {rank:.2f}", "not clearly worse upstream"),
    )


@_claim(
    "A6", "Fig. 4c and d, Sec. 6", "KP brings matrix and δ angles near zero within 20 epochs, and keeps them there."
)
def _(node: xr.Dataset) -> Finding:
    parts = []
    for quantity, name in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        angles = _by_layer(node, KP, quantity)
        away = angles["epoch"].values[(angles.max(["run", "layer"]) >= NEAR_ZERO).values]
        last = int(angles["epoch"].max())
        if away.size and (away[-1] >= 20 or away[-1] == last):
            where = f"{name} at epoch {away[-1]} {_largest(angles.sel(epoch=[away[-1]]))}"
            parts.append(Finding("fails", where, f"{name} not below {NEAR_ZERO:g}° (our threshold)"))
            continue
        held = angles.sel(epoch=angles["epoch"] > (away[-1] if away.size else -1))
        measured = f"{name} from epoch {int(held['epoch'][0])} to {last} {_largest(held)}"
        if held.sizes["epoch"] > 1:
            parts.append(Finding("holds", measured))
        else:
            parts.append(Finding("cannot be tested", measured, f"{name} were near zero at the last epoch only"))
    return _all("", *parts)


@_claim("A7", "Fig. 4e and f, Sec. 6", "SS aligns both matrices and δ less well than WM and KP.")
def _(node: xr.Dataset) -> Finding:
    parts = []
    for quantity, name in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        mean = {m: float(_late(_by_layer(node, m, quantity, output=False)).mean()) for m in (SS, WM, KP)}
        measured = f"mean {name}, late: " + ", ".join(f"{label(m)} {value:.1f}°" for m, value in mean.items())
        parts.append(_decide(mean[SS] > max(mean[WM], mean[KP]), measured))
    return _all("", *parts)


@_claim("A8", "Sec. 6", "In FA both angles stay above 80° in most layers.")
def _(node: xr.Dataset) -> Finding:
    parts = []
    for quantity, name in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        lowest = _by_layer(node, FA, quantity, output=quantity == "matrix_angle").min(["run", "epoch"])
        share = float((lowest > ANGLE_BOUNDS[FA, quantity][1]).mean())
        parts.append(_decide(share > 0.5, f"{name} above 80° throughout in {share:.0%} of layers"))
    return _all("", *parts)


# ------------------------------------------------------------------------------------------------------ open questions


def _sweep(
    node: xr.Dataset,
    method: str,
    amount: Callable[[xr.Dataset], float],
    period: Callable[[xr.DataArray], xr.DataArray] = _late,
) -> dict[float, tuple[float, Estimate]]:
    """Mean matrix angle (degrees, of a period) and final error by the amount of something, least first."""
    _by_layer(node, method)  # there are main runs, and their angles were measured
    runs = complete(select(node, method, norm_order=main_order(node), variant=None))
    amounts = np.array([amount(runs.isel(run=index)) for index in range(runs.sizes["run"])])
    found = {}
    for value in sorted(set(amounts.tolist())):
        some = runs.isel(run=amounts == value)
        angle = float(period(some["matrix_angle"].dropna("epoch", how="all")).mean())
        mean, error = mean_and_error(last_errors(some))
        found[value] = (angle, Estimate(float(mean), float(error), some.sizes["run"]))
    return found


def _falls(sweep: Mapping[float, tuple[float, Estimate]], symbol: str, missing: str) -> Finding:
    if len(sweep) < 2:
        raise _CannotTestError(missing)
    angles = [angle for angle, _ in sweep.values()]
    shown = ", ".join(f"{symbol} {value:g}: {angle:.1f}°, {error} %" for value, (angle, error) in sweep.items())
    return _decide(all(b < a for a, b in itertools.pairwise(angles)), shown, "the angle does not fall throughout")


@_claim(
    "Q1", "Sec. 7", "Open: a larger λ aligns KP faster, yet one too large may hamper learning; how large is left open."
)
def _(node: xr.Dataset) -> Finding:
    sweep = _sweep(node, KP, lambda run: settings(run)["weight_decay"])
    return _falls(sweep, "weight decay", "all runs of KP have one weight decay; an ablation over it would tell")


@_claim("Q2", "Sec. 7", "Where WM's angles are too large, more mirroring makes them smaller.")
def _(node: xr.Dataset) -> Finding:
    noise = {_mirroring(run)[1] for run in _runs(select(node, WM, norm_order=main_order(node)))}
    runs = select(node, WM, norm_order=main_order(node), variant=None)
    alike = [_mirroring(run)[1] in noise for run in _runs(runs)]
    # all of training: late in a run, when W rests, only noise is left, which more steps do not average out
    sweep = _sweep(
        runs.isel(run=alike), WM, lambda run: _mirroring(run)[0], lambda angles: angles.isel(epoch=slice(1, None))
    )
    missing = "all runs of WM mirror equally often; an ablation over mirror steps would tell"
    return _falls(sweep, "all of training, mirror steps an engaged step", missing)


def _runs(runs: xr.Dataset) -> list[xr.Dataset]:
    return [runs.isel(run=index) for index in range(runs.sizes["run"])]


def _mirroring(run: xr.Dataset) -> tuple[float, str]:
    """Mirror steps an engaged step, and all other options of WM as text."""
    options = dataclasses.asdict(methods.load(WM, **settings(run)["options"]))  # type: ignore[call-overload]
    amount = options.pop("mirror_steps") / options.pop("mirror_every")
    return amount, repr(options)


_proven(
    "Q3",
    "Sec. 7",
    "Open: how sensitive both methods are to hyper-parameters, and how they fare on other tasks and architectures.",
    "a question without a yes or no; it takes experiments of its own (see CONTRIBUTING.md)",
)
