"""What the paper reports, as data, and what gathered results say of each of its claims. Imports no torch.

Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, "Deep Learning without Weight Transport", NeurIPS 2019. Every
claim is a sentence in our words with a test of it on recorded runs; a verdict is computed from the runs and never typed
in. Where the paper gives no number, the threshold is ours: the capitals below that say so.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from . import methods
from .advice import LEAST
from .comparison import Comparison, binomial_variance, welch
from .config import CLASSES
from .planning import SIZES, config_of, known_facts, mirrors, mismatch
from .trajectory import ALL, select, settings

BP, FA, SS, WM, KP = METHODS = (
    "backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"
)  # fmt: skip
"""The five methods of the paper, in the order of our figures and tables."""
MAIN_ORDER = "relu_bn"
"""BatchNorm after the ReLU, as in most of the paper's experiments (Sec. 6)."""
ORDERS = {"relu_bn": "after ReLU", "bn_relu": "before ReLU", "own": "the network's own"}
"""What figures and tables call the norm orders."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over runs, with its standard error: NaN where there are fewer than two runs.

    Attributes:
        mean: in percent, or in degrees for an angle.
        error: over runs.
        runs: how many, diverged ones included; 0 where that is not known.
        diverged: how many of them are not in the mean.
        name: whose it is.
        images: in the test set that the mean was measured on; 0 where that is not known, or for an angle.
    """

    mean: float
    error: float = math.nan
    runs: int = 0
    diverged: int = 0
    name: str = ""
    images: int = 0

    @property
    def df(self) -> float:
        """Degrees of freedom of ``error``; infinite where the number of runs is not known."""
        return self.runs - self.diverged - 1 if self.runs else math.inf

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "diverged" if self.diverged else "–"
        text = f"{self.mean:.1f}" if self.mean >= 10 else f"{self.mean:.2f}"
        if not math.isnan(self.error):
            text += f" ± {self.error:.1f}" if self.mean >= 10 else f" ± {self.error:.2f}"
        return text


def _anchors() -> pd.DataFrame:
    with importlib.resources.files("wtkit").joinpath("anchors.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file).fillna({"norm_order": ""})


ANCHORS = _anchors()
"""Published top-1 test errors in percent, from ``docs/anchors.csv``, the one place where they are written down.

Akrout et al. (2019), Sec. 6. Xiao et al. (2018), "Biologically-plausible learning algorithms can scale to large
datasets". Sanfiz and Akrout (2021), "Benchmarking the accuracy and robustness of feedback alignment algorithms", the
benchmarks of BioTorch, a run each. Nakajima et al. (2022), "Physical deep learning with biologically inspired training
method", Nature Communications 13, table 2. What a source does not say is empty.
"""
PAPER, XIAO = "Akrout et al. (2019)", "Xiao et al. (2018)"
"""Two of the sources in :data:`ANCHORS`."""


def _printed() -> dict[tuple[str, str], dict[str, Estimate]]:
    printed: dict[tuple[str, str], dict[str, Estimate]] = {}
    for row in ANCHORS[ANCHORS["source"] == PAPER].itertuples():
        of_network = printed.setdefault((row.network, row.norm_order), {})
        of_network[row.method] = Estimate(row.error_percent, row.standard_error, images=SIZES[row.data][1])
    return printed


FINAL_ERRORS: Mapping[tuple[str, str], Mapping[str, Estimate]] = _printed()
"""Final top-1 test errors on ImageNet in percent, with standard errors (Sec. 6), by network and norm order."""
XIAO_ERROR = float(ANCHORS.loc[ANCHORS["source"] == XIAO, "error_percent"].item())
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

MEANS = {"matrix_angle": "mean over layers", "delta_angle": "mean over layers but the output"}
"""What figures and texts call means of angles: the output layer's δ angle is 0 by construction, and left out."""
NEAR_ZERO = 1.0
"""Ours: what we call "near zero" of an angle, in degrees."""
LATE = 0.9
"""Ours: "late in the run" is what comes after this share of its epochs."""
MARGIN = 0.1
"""Ours: an error nearly matches another if it is above it by less than this share of it."""
NORM_BOUND = 2.0
"""Ours: a norm ratio of feedback to forward weights between 1/2 and this is reasonable."""


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


JPEG = "-jpeg"
"""A folder of images that is called so behind the name of a data set holds that set's images as JPEG files."""


def _data_names(node: xr.Dataset) -> list[tuple[str, int | None]]:
    """The data of a network's runs, a folder of images by its own name; and of how many classes, None for all."""
    chosen = [settings(node.isel(run=index)) for index in range(node.sizes["run"])]
    return list(
        dict.fromkeys(
            (Path(one["data_root"]).name or "images" if one["data"] == "image_folder" else one["data"], one["classes"])
            for one in chosen
        )
    )


def data_label(node: xr.Dataset) -> str:
    """The data of a network's runs: ``CIFAR-10`` for ``cifar10``, and so on, a folder of images by its own name."""
    named = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny ImageNet", "imagenet": "ImageNet"}
    named |= {name + JPEG: f"{words} (JPEG)" for name, words in named.items()}
    return ", ".join(dict.fromkeys(named.get(name, name) for name, _ in _data_names(node)))


def whole_sets(node: xr.Dataset) -> set[str]:
    """The data sets that a network's runs learned with all their classes; :data:`JPEG` is left off their names."""
    named = ((name.removesuffix(JPEG), classes) for name, classes in _data_names(node))
    return {name for name, classes in named if classes in (None, CLASSES.get(name))}


def is_coded_anew(node: xr.Dataset) -> bool:
    """Whether images of a data set were learned from JPEG files, and not from the pixels that it was published with."""
    return any(name.endswith(JPEG) for name, _ in _data_names(node))


def anchors(node: xr.Dataset) -> pd.DataFrame:
    """The rows of :data:`ANCHORS` for the network and the data of these runs, whatever their norm order."""
    same_network = ANCHORS["network"] == node.attrs["network"]
    return ANCHORS[same_network & ANCHORS["data"].isin(whole_sets(node))]


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


def held_out_images(runs: xr.Dataset) -> int:
    """How many images errors were measured on: the fewest of any run; 0 where that is neither recorded nor known."""
    return min((_held_out(runs.isel(run=index)) for index in range(runs.sizes["run"])), default=0)


def _held_out(run: xr.Dataset) -> int:
    recorded = float(run["held_out_images"]) if "held_out_images" in run.variables else math.nan
    return int(recorded) if recorded > 0 else known_facts(config_of(run)).held_out or 0


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

Outcome = Literal[
    "holds", "fails", "undecided", "cannot be tested here", "shown by a test", "shown by another experiment"
]
"""What can be said of a claim. All but the first two come with a remark: what is not decided, why, or by which."""


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
        shown: of what kind that is, where recorded runs cannot show the claim.
    """

    id: str
    where: str
    text: str
    test: Callable[[xr.Dataset], Finding] | None = None
    network: str = ""
    elsewhere: str = ""
    shown: Outcome = "shown by a test"

    def judge(self, tree: xr.DataTree) -> dict[str, Finding]:
        """A finding for each network that the claim can be held against; the key is empty where none is needed."""
        if self.test is None:
            return {"": Finding(self.shown, why=self.elsewhere)}
        nodes = networks(tree)
        if self.network and self.network not in nodes:
            return {self.network: Finding("cannot be tested here", why=f"{network_label(self.network)} was not run")}
        return {name: self._on(node) for name, node in nodes.items() if self.network in ("", name)}

    def _on(self, node: xr.Dataset) -> Finding:
        assert self.test is not None
        try:
            found = self.test(node)
        except _CannotTestError as error:
            found = Finding("cannot be tested here", why=str(error))
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


def _shown_by(id: str, where: str, text: str, by: str, shown: Outcome = "shown by a test") -> None:
    CLAIMS.append(Claim(id, where, text, elsewhere=by, shown=shown))


def _listed(*texts: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))


def _all(measured: str, *parts: Finding | Comparison) -> Finding:
    """All parts together: fails if one fails, and holds only if each one holds."""
    among = sum(isinstance(part, Comparison) for part in parts)
    findings = [_weighed(part, among) if isinstance(part, Comparison) else part for part in parts]
    order: tuple[Outcome, ...] = ("fails", "cannot be tested here", "undecided", "holds")
    outcome = min((found.outcome for found in findings), key=order.index)
    return Finding(outcome, _listed(measured, *(f.measured for f in findings)), _listed(*(f.why for f in findings)))


def _weighed(compared: Comparison, among: int = 1) -> Finding:
    """What a comparison says, as one of so many of a claim."""
    low, high = compared.interval(among)
    outcome: Outcome = "holds" if low > 0 else "fails" if high < 0 else "undecided"
    return Finding(outcome, compared.measured, "" if low > 0 else f"{outcome}: {compared.text(among)}")


def _decide(holds: bool, measured: str = "", otherwise: str = "") -> Finding:
    return Finding("holds" if holds else "fails", measured, "" if holds else otherwise)


# ------------------------------------------------------------------------------- how errors and angles are compared


def _errors(node: xr.Dataset, wanted: Iterable[str], norm_order: str | None = None) -> dict[str, Estimate]:
    norm_order = norm_order or main_order(node)
    if evaluated_on(node) != "test":
        raise _CannotTestError(f"errors were measured on {evaluated_on(node)} images")
    errors = {method: final_error(node, method, norm_order) for method in wanted}
    for method, error in errors.items():
        images = held_out_images(select(node, method, norm_order=norm_order))
        errors[method] = dataclasses.replace(error, images=images)
    missing = [label(method) for method, error in errors.items() if not error.runs]
    if missing:
        raise _CannotTestError(f"not run with {norm_order}: {', '.join(missing)}")
    return errors


def _shown(errors: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{error.name} {error}" for error in errors.values()) + " %"


def _unsure(*errors: Estimate) -> bool:
    return any(math.isnan(error.error) for error in errors)


NO_ERROR = "one seed gives no standard error"
NO_SIZE = "the size of the test set was not recorded, so its binomial error is left out"


def _below(a: Estimate, b: Estimate, factor: float = 1.0, unit: str = " points") -> Finding | Comparison:
    """Whether ``a`` is below ``factor`` times ``b``."""
    if a.diverged:
        return Finding("fails", why=_diverged(a))
    if 0 < b.runs == b.diverged:
        return Finding("holds", why=_diverged(b))
    if _unsure(a, b):
        return Finding("cannot be tested here", why=NO_ERROR)
    error, df = welch((a.error, a.df), (factor * b.error, b.df))
    # the test set is the same for both, which takes some of its error from their difference; how much is not recorded
    images = binomial_variance(a.mean, a.images) + factor**2 * binomial_variance(b.mean, b.images)
    claim = f"{a.name} below {f'{factor:g} × ' * (factor != 1)}{b.name}"
    return Comparison(claim, factor * b.mean - a.mean, error, df, math.sqrt(images), unit)


def _nearly_matches(a: Estimate, b: Estimate) -> Finding | Comparison:
    """Whether ``a`` is above ``b`` by less than :data:`MARGIN`; one that is below it is welcome."""
    if 0 < b.runs == b.diverged:
        return Finding("cannot be tested here", why=_diverged(b))
    return _below(a, b, 1 + MARGIN)


def _alike(a: Estimate, b: Estimate) -> list[Finding | Comparison]:
    """Whether each of two errors nearly matches the other."""
    return [_nearly_matches(a, b), _nearly_matches(b, a)]


def _of_errors(errors: Iterable[Estimate], shown: str, *parts: Finding | Comparison) -> Finding:
    """All parts together, with a word on runs that diverged, and where a test set's binomial error is left out."""
    found, errors = _all(shown, *parts), list(errors)
    remarks = [_diverged(error) for error in errors] + [NO_SIZE] * any(not error.images for error in errors)
    return dataclasses.replace(found, why=_listed(found.why, *remarks))


def _misaligned(node: xr.Dataset) -> str:
    """Why KP's B cannot align in these runs, whatever they measure; empty where it can, or where nobody knows."""
    runs = complete(select(node, KP, norm_order=main_order(node)))
    if not runs.sizes["run"]:
        return ""
    config = config_of(runs.isel(run=0))
    steps = known_facts(config).steps(config)
    if steps is None:
        return ""
    foldings = -math.log(max(float(mismatch(config, steps)[-1]), 1e-300))
    plan = f"{label(KP)}'s plan gives {foldings:.1f} e-foldings of its mismatch, fewer than {LEAST:g}"
    return f"{DECIDED}: {plan}" if foldings < LEAST else ""


DECIDED = "decided by the configuration"


def _diverged(*errors: Estimate) -> str:
    return ", ".join(f"{e.diverged} of {e.runs} runs of {e.name} diverged" for e in errors if e.diverged)


def _as_printed(node: xr.Dataset, network: str) -> Finding:
    """Whether the five final errors agree with those that the paper prints; only at the paper's scale."""
    printed = FINAL_ERRORS[network, MAIN_ORDER]
    errors = _errors(node, METHODS)
    if whole_sets(node) != {"imagenet"}:
        why = f"these runs are on {data_label(node)}, the paper's on ImageNet"
        return Finding("cannot be tested here", _shown(errors), why)
    papers = {m: dataclasses.replace(printed[m], name=f"the paper's {errors[m].name}") for m in METHODS}
    parts = [part for m in METHODS for part in _alike(errors[m], papers[m])]
    return _of_errors(errors.values(), _shown(errors), *parts)


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


def _positive(differences: xr.DataArray, claim: str, unit: str = "°") -> Finding | Comparison:
    """Whether a difference, one value a run, is above zero: by Student's t."""
    mean, error = (float(x) for x in mean_and_error(differences))
    if math.isnan(error):
        return Finding("cannot be tested here", f"{claim} by {mean:.3g}{unit}", NO_ERROR)
    measured = f"{claim} by {mean:.3g} ± {error:.2g}{unit}"
    return Comparison(claim, mean, error, int(differences.count()) - 1, unit=unit, measured=measured)


def _mean_angle(angles: xr.DataArray, method: str) -> Estimate:
    """The mean over epochs and layers of each run, over runs."""
    of_runs = angles.mean(["epoch", "layer"])
    mean, error = mean_and_error(of_runs)
    return Estimate(float(mean), float(error), int(of_runs.count()), name=label(method))


# ------------------------------------------------------------------------------------------------ equations, circuits

_shown_by("T1", "eq. 2", "With B = Wᵀ, the feedback path is backprop's.", "tests/test_methods.py")


@_claim(
    "T2",
    "eqs. 3 and 4, Sec. 3",
    "In feedback alignment B is random and never changes, and it is W that turns towards Bᵀ.",
    elsewhere="that B never changes is shown by tests/test_methods.py",
)
def _(node: xr.Dataset) -> Finding:
    angle = _by_layer(node, FA).isel(layer=-1)
    final = angle.isel(epoch=-1)
    return _all(f"{float(angle[:, 0].mean()):.1f}° at first", _positive(90 - final, "output layer below 90°"))


_shown_by(
    "T3",
    "eqs. 5 and 11, Sec. 4.1",
    "The transposing rule moves B, on average, along σ²Wᵀ.",
    "tests/test_mirror.py",
)
_shown_by(
    "T4",
    "eq. 12, Sec. 4.3",
    "A mirror that blocks biases need not assume equal slopes φ'(b), and aligns better where biases are large.",
    "tests/test_mirror.py",
)


@_claim(
    "T5",
    "Sec. 4.3",
    "With a decay on B, mirroring leads it to a positive multiple of Wᵀ, of a norm that stays reasonable.",
    elsewhere="the convergence itself is shown by tests/test_mirror.py",
)
def _(node: xr.Dataset) -> Finding:
    ratio = _after_start(_by_layer(node, WM, "feedback_norm_ratio"))
    low, high = float(ratio.min()), float(ratio.max())
    bounded = low >= 1 / NORM_BOUND and high <= NORM_BOUND
    return _decide(
        bounded, f"‖B‖/‖W‖ from {low:.2f} to {high:.2f}", f"outside 1/{NORM_BOUND:g} to {NORM_BOUND:g} (our bounds)"
    )


_shown_by(
    "T6",
    "eqs. 13 and 14, Sec. 5.1",
    "Equal changes and equal decay make W − Bᵀ shrink by the factor 1 − λ a step, whatever the changes are.",
    "tests/test_kolen_pollack.py",
)
_shown_by(
    "T7",
    "eqs. 15 to 18, Sec. 5.2",
    "Kolen–Pollack's B learns from y and δ alone, which the cells exchange anyway; no weight is sent.",
    "tests/test_kolen_pollack.py",
)
_shown_by(
    "F1",
    "Fig. 1",
    "A circuit with cross-projections and two modes can carry out mirroring.",
    "notebooks/fig1_weight_mirror.ipynb draws it and runs it live",
    "shown by another experiment",
)
_shown_by(
    "F2",
    "Fig. 2",
    "A circuit with reciprocal cross-projections and a single mode can carry out Kolen–Pollack learning.",
    "notebooks/fig2_kolen_pollack.ipynb draws it and runs it live",
    "shown by another experiment",
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


@_claim("E3", "Fig. 3, Sec. 6", "WM and KP end below SS and FA in error, and nearly match BP.")
def _(node: xr.Dataset) -> Finding:
    return judged_order(_errors(node, METHODS), _misaligned(node))


def judged_order(errors: Mapping[str, Estimate], misaligned: str = "") -> Finding:
    """What errors in percent say of the paper's main claim: that WM and KP nearly match BP, and beat SS and FA.

    Args:
        errors: of the five methods.
        misaligned: why KP's part cannot be tested; empty where it can.
    """
    parts: list[Finding | Comparison] = [Finding("cannot be tested here", why=misaligned)] if misaligned else []
    for ours in [WM] if misaligned else [WM, KP]:
        parts.append(_nearly_matches(errors[ours], errors[BP]))
        parts += [_below(errors[ours], errors[other]) for other in (SS, FA)]
    return _of_errors(errors.values(), _shown(errors), *parts)


@_claim(
    "E4", "Sec. 6, App. D.3", "BatchNorm before the ReLU lowers the error of SS, and hardly moves that of the others."
)
def _(node: xr.Dataset) -> Finding:
    orders = [set(methods_of(node, order)) for order in ("relu_bn", "bn_relu")]
    both = [SS, *(m for m in METHODS if m != SS and m in set.intersection(*orders))]
    after, before = _in_order(node, both, "relu_bn"), _in_order(node, both, "bn_relu")
    half = _below(before[SS], after[SS])
    parts = [half, *(part for m in both[1:] for part in _alike(before[m], after[m]))]
    if missing := [label(method) for method in METHODS if method not in both]:
        why = f"{label(SS)}'s half {_all('', half).outcome}; not run in both orders: {', '.join(missing)}"
        parts.append(Finding("cannot be tested here", why=why))
    shown = "; ".join(f"{label(m)} {after[m]} → {before[m]} %" for m in both)
    return _of_errors([*after.values(), *before.values()], f"after → before: {shown}", *parts)


def _in_order(node: xr.Dataset, wanted: Iterable[str], norm_order: str) -> dict[str, Estimate]:
    """The errors of methods in a norm order that is not the main one alone, named so."""
    words = f"BatchNorm {ORDERS[norm_order]}"
    errors = _errors(node, wanted, norm_order)
    return {method: dataclasses.replace(error, name=f"{error.name} ({words})") for method, error in errors.items()}


@_claim(
    "E5",
    "Sec. 6",
    f"With BatchNorm before the ReLU, SS on ResNet-18 ends near the {XIAO_ERROR} % of Xiao et al.",
    network="resnet18",
)
def _(node: xr.Dataset) -> Finding:
    error = _errors(node, [SS], "bn_relu")[SS]
    if whole_sets(node) != {"imagenet"}:
        why = f"these runs are on {data_label(node)}, Xiao et al.'s on ImageNet"
        return Finding("cannot be tested here", f"SS {error} %", why)
    xiao = Estimate(XIAO_ERROR, 0.0, name="Xiao et al.'s", images=SIZES["imagenet"][1])
    return _of_errors([error], f"SS {error} %", *_alike(error, xiao))


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
    final, others = late.isel(layer=-1), late.isel(layer=slice(None, -1))
    others = others.sortby(others.mean("run"), ascending=False).transpose("layer", "run")  # the worst first
    name, worst = others["layer"][0].item(), float(others[0].mean())
    shown = f"late: final layer {float(final.mean()):.1f}°, worst other {worst:.1f}° ({name})"
    if _noise_in_proportion(complete(select(node, WM, norm_order=main_order(node))).isel(run=0)):
        why = f"{DECIDED}: noise in proportion to fan-in leaves the final layer no worse than others"
        return Finding("cannot be tested here", shown, why)
    found = _all("", *(_positive(final - other, f"final layer above {other['layer'].item()}") for other in others))
    return dataclasses.replace(found, measured=shown, why=textwrap.shorten(found.why, 160, placeholder=" …"))


def _noise_in_proportion(run: xr.Dataset) -> bool:
    """Whether WM's settings give the final layer, and others, noise samples by ``noise_fraction`` of their fan-in."""
    method = config_of(run).loaded_method()
    assert mirrors(method)
    by_fraction = method.noise_fraction * run["fan_in"].values >= method.noise_batch
    return bool(by_fraction[-1] and by_fraction[:-1].any())


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
        f"matrix angles, mean over layers, before the drop at epoch {drop}: {float(high.mean()):.1f}°",
        _positive(high - early.isel(epoch=0), "grew"),
        _positive(high - _late(after).mean("epoch"), "fell"),
    )


@_claim("A5", "Fig. 4b, Sec. 6", "WM's δ angles stay below 25° in every layer, and are worse farther upstream.")
def _(node: xr.Dataset) -> Finding:
    angles = _after_start(_by_layer(node, WM, "delta_angle", output=False))
    ranks = xr.apply_ufunc(_rank_upstream, angles.mean("epoch"), input_core_dims=[["layer"]], vectorize=True)
    return _all(
        "",
        _decide(bool(angles.max() < ANGLE_BOUNDS[WM, "delta_angle"][1]), _largest(angles), "25° exceeded"),
        _positive(ranks, "over the run, rank correlation with distance from the output above 0", ""),
    )


def _rank_upstream(profile: np.ndarray) -> float:
    """Spearman's correlation of a quantity, given from the input up, with distance from the output; 0 where flat."""
    correlation = pd.Series(profile).rank().corr(pd.Series(np.arange(len(profile))[::-1]))
    return 0.0 if math.isnan(correlation) else float(correlation)


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
            why = f"{name} were near zero at the last epoch only"
            parts.append(Finding("cannot be tested here", measured, why))
    found = _all("", *parts)
    if found.outcome != "holds" and (why := _misaligned(node)):
        return Finding("cannot be tested here", found.measured, why)
    return found


@_claim("A7", "Fig. 4e and f, Sec. 6", "SS aligns both matrices and δ less well than WM and KP.")
def _(node: xr.Dataset) -> Finding:
    misaligned = _misaligned(node)
    parts: list[Finding | Comparison] = [Finding("cannot be tested here", why=misaligned)] if misaligned else []
    shown = []
    for quantity, words in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
        all_layers = quantity == "matrix_angle"
        mean = {m: _mean_angle(_late(_by_layer(node, m, quantity, output=all_layers)), m) for m in (SS, WM, KP)}
        values = ", ".join(f"{angle.name} {angle}°" for angle in mean.values())
        shown.append(f"{words}, {MEANS[quantity]}, late: {values}")
        parts += [_below(mean[m], mean[SS], unit="°") for m in ([WM] if misaligned else [WM, KP])]
    return _all("; ".join(shown), *parts)


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
) -> dict[float, tuple[Estimate, Estimate]]:
    """Mean matrix angle (degrees, of a period) and final error by the amount of something, least first."""
    _by_layer(node, method)  # there are main runs, and their angles were measured
    runs = complete(select(node, method, norm_order=main_order(node), variant=None))
    amounts = np.array([amount(runs.isel(run=index)) for index in range(runs.sizes["run"])])
    found = {}
    for value in sorted(set(amounts.tolist())):
        some = runs.isel(run=amounts == value)
        angle = _mean_angle(period(some["matrix_angle"].dropna("epoch", how="all")), method)
        mean, error = mean_and_error(last_errors(some))
        found[value] = (angle, Estimate(float(mean), float(error), some.sizes["run"]))
    return found


def _falls(sweep: Mapping[float, tuple[Estimate, Estimate]], symbol: str, missing: str) -> Finding:
    if len(sweep) < 2:
        return Finding("shown by another experiment", why=missing)
    angles = [dataclasses.replace(angle, name=f"angle at {value:g}") for value, (angle, _) in sweep.items()]
    shown = ", ".join(f"{symbol} {value:g}: {angle}°, {error} %" for value, (angle, error) in sweep.items())
    return _all(shown, *(_below(b, a, unit="°") for a, b in itertools.pairwise(angles)))


@_claim(
    "Q1", "Sec. 7", "Open: a larger λ aligns KP faster, yet one too large may hamper learning; how large is left open."
)
def _(node: xr.Dataset) -> Finding:
    sweep = _sweep(node, KP, lambda run: settings(run)["weight_decay"])
    return _falls(sweep, "weight decay", "config/ablations/kp_decay.yaml; here all runs of KP have one weight decay")


@_claim("Q2", "Sec. 7", "Where WM's angles are too large, more mirroring makes them smaller.")
def _(node: xr.Dataset) -> Finding:
    noise = {_mirroring(run)[1] for run in _runs(select(node, WM, norm_order=main_order(node)))}
    runs = select(node, WM, norm_order=main_order(node), variant=None)
    alike = [_mirroring(run)[1] in noise for run in _runs(runs)]
    # all of training: late in a run, when W rests, only noise is left, which more steps do not average out
    sweep = _sweep(
        runs.isel(run=alike), WM, lambda run: _mirroring(run)[0], lambda angles: angles.isel(epoch=slice(1, None))
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


_shown_by(
    "Q3",
    "Sec. 7",
    "Open: how sensitive both methods are to hyper-parameters, and how they fare on other tasks and architectures.",
    "a question without a yes or no: config/ablations/ and config/difficulty.yaml, with answers in docs/ablations.md",
    "shown by another experiment",
)
