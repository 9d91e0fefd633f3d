"""What the paper reports, and the verdicts on its claims: each with results that keep it and
results that do not."""

import functools
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from synthetic import METHODS, altered, diverge, put, synthetic

import wtkit
from wtkit import results
from wtkit.claims import (
    CLAIMS,
    DECIDED,
    LEVEL,
    MARGIN,
    NO_ERROR,
    NO_SIZE,
    Comparison,
    Outcome,
    binomial_variance,
    claim,
    claim_table,
    judged_order,
    judging,
    welch,
)
from wtkit.results import (
    ANCHORS,
    BP,
    FA,
    FINAL_ERRORS,
    KP,
    ORDERS,
    PAPER,
    SS,
    WM,
    XIAO,
    XIAO_ERROR,
    Estimate,
    anchors_of,
    data_label,
    error_table,
    final_error,
    lr_drops,
    mean_and_error,
    method_label,
    network_label,
)

ROOT = Path(__file__).parent.parent

COUNTS = {"T": 7, "F": 2, "E": 5, "A": 8, "Q": 3}
ALL_IDS = [
    f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)
]
TESTED = ["T2", "T5", "E3", "A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8"]


FINALS = {BP: 14.0, FA: 50.0, SS: 32.0, WM: 14.2, KP: 13.0}


@functools.cache
def base(seeds=3, data="cifar10"):
    """Runs that keep every claim that runs can be held against."""
    fixed_noise = {WM: {"noise_fraction": 0.0}}
    return synthetic(
        networks=("resnet18",), seeds=range(seeds), finals=FINALS, data=data, options=fixed_noise
    )


def judged(tree, id, network="resnet18"):
    (claim,) = (claim for claim in CLAIMS if claim.id == id)
    return claim.judge(tree)[network]


def both(*changes):
    def change(node):
        for one in changes:
            node = new if (new := one(node)) is not None else node
        return node

    return change


def set_finals(node, norm_order="relu_bn", **finals):
    """Last errors of methods: ``method=(one value a run)``."""
    for method, values in finals.items():
        runs = (node["method"].values == method) & (node["norm_order"].values == norm_order)
        node["test_error"][{"run": np.flatnonzero(runs), "epoch": -1}] = np.array(values)


# ------------------------------------------------------------------------------- data and summaries


def test_the_papers_numbers():
    printed = FINAL_ERRORS
    assert str(printed["resnet18", "relu_bn"][KP]) == "29.2 ± 0.4"
    assert str(printed["resnet50", "relu_bn"][FA]) == "98.9 ± 0.1"
    assert str(printed["resnet50", "bn_relu"][SS]) == "32.6 ± 0.6"
    assert {len(printed[network, "relu_bn"]) for network in ("resnet18", "resnet50")} == {
        len(results.METHODS)
    }
    assert XIAO_ERROR == 37.91


def test_published_errors_are_written_down_in_one_file():
    assert (ROOT / "docs" / "anchors.csv").samefile(ROOT / "wtkit" / "anchors.csv")
    found = ANCHORS
    assert list(found) == [
        "network", "method", "data", "epochs", "error_percent", "standard_error", "norm_order",
        "source",
    ]  # fmt: skip
    assert set(found["method"]) <= set(wtkit.methods.names())
    assert set(found["norm_order"]) <= {*ORDERS, ""}
    assert found["error_percent"].between(0, 100).all()
    assert not found.duplicated(["network", "method", "data", "norm_order", "source"]).any()
    assert found["source"].str.fullmatch(r".+ \(\d{4}\)").all()


def test_published_errors_of_the_same_network_and_data():
    found = anchors_of(base()["resnet18"].to_dataset())
    assert dict(zip(found["method"], found["error_percent"], strict=True)) == {
        BP: 8.14, "direct_feedback_alignment": 18.32,
    }  # fmt: skip
    assert anchors_of(base(data="digits")["resnet18"].to_dataset()).empty
    assert set(anchors_of(base(data="imagenet")["resnet18"].to_dataset())["source"]) == {
        PAPER, XIAO, "Sanfiz & Akrout (2021)",
    }  # fmt: skip


FOLDERS = [(10, "a/cifar10-jpeg", True), (5, "a/cifar10-jpeg", False), (10, "a/b", False)]


@pytest.mark.parametrize(("classes", "root", "whole"), FOLDERS)
def test_a_folder_of_jpeg_files_is_named_after_its_data_set(classes, root, whole):
    changed = both(
        with_option(
            '"data": "cifar10", "data_root": "data"',
            f'"data": "image_folder", "data_root": "{root}"',
            ...,
        ),
        with_option('"classes": null', f'"classes": {classes}', ...),
    )
    node = altered(base(), changed)["resnet18"].to_dataset()
    part = "" if whole or "cifar" not in root else ", 5 classes"
    assert data_label(node) == (f"CIFAR-10 (JPEG{part})" if "cifar" in root else "b")
    assert bool(len(anchors_of(node))) == whole


def test_every_claim_is_there_once_with_where_it_stands():
    assert [claim.id for claim in CLAIMS] == ALL_IDS
    assert all(re.search(r"Sec\. \d|eqs?\. \d|Fig\. \d", claim.where) for claim in CLAIMS)


def test_standard_error_against_numpy_and_none_for_one_run():
    values = base()["resnet18"]["test_error"]
    mean, error = mean_and_error(values)
    np.testing.assert_allclose(mean, values.values.mean(0))
    np.testing.assert_allclose(error, values.values.std(0, ddof=1) / np.sqrt(len(values)))
    mean, error = mean_and_error(values.isel(run=[0]))
    np.testing.assert_allclose(mean, values.values[0])
    assert error.isnull().all()


def test_final_error_is_the_last_epoch_of_complete_runs():
    node = altered(
        base(2), both(functools.partial(set_finals, **{KP: (1.0, 3.0)}), diverge(FA, 0))
    )["resnet18"]
    assert str(final_error(node.to_dataset(), KP)) == "2.00 ± 1.00"
    one_left = final_error(node.to_dataset(), FA)
    assert (one_left.runs, one_left.diverged, np.isnan(one_left.error)) == (2, 1, True)


def test_a_small_standard_error_is_not_printed_as_zero():
    printed = {"10.33 ± 0.03": 0.031, "10.3 ± 0.1": 0.0501, "10.3 ± 0.0": 0.0, "10.3": np.nan}
    assert [str(Estimate(10.331, error)) for error in printed.values()] == list(printed)


def test_learning_rate_drops_are_found():
    assert lr_drops(base()["resnet18"].to_dataset()) == [12]


def test_error_table_shows_ours_beside_the_papers_and_what_diverged():
    table = error_table(altered(base(2), diverge(FA, 0, 1)))
    ours = next(column for column in table if "CIFAR" in column)
    assert ours == "test error %, CIFAR-10"
    row = table[(table["method"] == "FA")].iloc[0]
    assert (row[ours], row["diverged"], row["paper: error %, ImageNet"]) == (
        "diverged",
        2,
        "97.4 ± 0.2",
    )
    assert list(table[table["BatchNorm"] == "before ReLU"]["method"]) == ["SS"]


def test_labels():
    assert [method_label(method) for method in METHODS] == ["BP", "FA", "SS", "WM", "KP"]
    assert method_label(WM, "gaussian") == "WM gaussian"
    assert method_label("of_somebody_else") == "of_somebody_else"
    assert network_label("resnet50") == "ResNet-50"
    assert network_label("resnet18-width=16") == "ResNet-18, width 16"
    assert network_label("vit-depth=6,heads=4") == "ViT, depth 6, heads 4"
    assert network_label("mlp-hidden=300+300,unit=relu") == "MLP, hidden 300+300, unit relu"
    for name in ("mobilenet_v2", "my-own.Network", "resnet-18"):
        assert network_label(name) == name
    for name, shown in (
        ("digits_full_width", "digits"),
        ("tiny_imagenet_32", "Tiny ImageNet (100 classes)"),
        ("cifar10_short", "CIFAR-10 (JPEG)"),
    ):
        assert data_label(wtkit.open_results(name, quiet=True)["resnet18"].to_dataset()) == shown


def test_no_torch_is_imported():
    code = "import sys, wtkit.claims, wtkit.figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ----------------------------------------------------------------------------------------- verdicts


def test_a_row_for_each_claim_and_network():
    table = claim_table(base())
    assert list(dict.fromkeys(table["id"])) == ALL_IDS
    assert set(table["verdict"]) <= set(typing.get_args(Outcome))
    unsure = table[table["verdict"] != "holds"]
    assert (unsure["remarks"] != "").all()


def test_what_shows_a_claim_elsewhere_is_a_file_that_is_there():
    table = claim_table(base()).set_index("id")
    for outcome, folders in (
        ("shown by a test", "tests"),
        ("shown by another experiment", "notebooks|config"),
    ):
        remarks = table.loc[table["verdict"] == outcome, "remarks"]
        assert len(remarks)
        for remark in remarks:
            names = re.findall(rf"(?:{folders})/[\w/]*(?:\.\w+)?", remark)
            assert names and all((ROOT / name).exists() for name in names), remark


@pytest.mark.parametrize("id", TESTED)
def test_claims_hold_where_they_do(id):
    found = judged(base(), id)
    assert found.outcome == "holds", found
    assert found.measured


BROKEN = {
    "T2": put("matrix_angle", FA, 95.0, epoch=-1, layer=-1),
    "T5": put("feedback_norm_ratio", WM, 7.0, epoch=5, layer=2),
    "E3": lambda node: set_finals(node, **{WM: (39.0, 39.1, 39.2)}),
    "A1": put("matrix_angle", BP, 1e-6, epoch=3, layer=4),
    "A2": put("matrix_angle", WM, 12.5, epoch=3, layer=4),
    "A3": put("matrix_angle", WM, 11.0, layer=3),
    "A4": lambda node: node.assign(matrix_angle=node["matrix_angle"] * (1 + node["epoch"] ** 2)),
    "A5": put("delta_angle", WM, 26.0, epoch=3, layer=4),
    "A6": put("delta_angle", KP, 3.0, epoch=-1, layer=4),
    "A7": put("delta_angle", SS, 1.0),
    "A8": put("delta_angle", FA, 70.0, layer=slice(0, 15)),
}


@pytest.mark.parametrize("id", TESTED)
def test_claims_fail_where_they_do_not_hold(id):
    found = judged(altered(base(), BROKEN[id]), id)
    assert found.outcome == "fails", found


def test_late_angles_above_6_degrees_break_a2():
    assert (
        judged(altered(base(), put("matrix_angle", WM, 7.0, epoch=-1, layer=3)), "A2").outcome
        == "fails"
    )
    assert (
        judged(altered(base(), put("matrix_angle", WM, 7.0, epoch=-1, layer=-1)), "A2").outcome
        == "holds"
    )


def test_delta_angles_are_judged_over_the_run():
    """Upstream or downstream by all epochs together; alike in all layers, nothing is decided."""
    tree = base()
    layers = tree["resnet18"].sizes["layer"]
    wm = np.flatnonzero(tree["resnet18"]["method"].values == WM)

    def profile(values, epochs):
        return lambda node: node["delta_angle"].values.__setitem__((wm, epochs), np.asarray(values))

    downstream = profile(np.linspace(1, 20, layers), slice(1, None))
    assert judged(altered(tree, downstream), "A5").outcome == "fails"
    assert judged(altered(tree, profile(10.0, slice(1, None))), "A5").outcome == "undecided"
    assert (
        judged(altered(tree, profile(np.linspace(1, 20, layers), slice(-1, None))), "A5").outcome
        == "holds"
    )


@pytest.mark.parametrize(
    ("finals", "outcome", "why"),
    [
        ({KP: (19.0, 19.1, 19.2)}, "fails", "fails: KP below 1.1 × BP"),
        ({KP: (14.9, 15.3, 15.9)}, "undecided", "undecided: KP below 1.1 × BP"),
        ({SS: (2.0, 19.0, 40.0)}, "undecided", "undecided: WM below SS"),
        ({SS: (10.0, 10.1, 10.2)}, "fails", "fails: WM below SS"),
        ({KP: (6.0, 6.1, 6.2)}, "holds", ""),
    ],
)
def test_intervals_decide_on_the_order_and_better_than_backprop_matches_it(finals, outcome, why):
    found = judged(altered(base(), functools.partial(set_finals, **finals)), "E3")
    assert found.outcome == outcome
    assert why in found.why


def test_two_seeds_with_overlapping_bars_are_undecided_on_both_sides():
    for ours, theirs in (((14.0, 15.0), (14.8, 16.0)), ((14.8, 16.0), (14.0, 15.0))):
        found = judged(
            altered(base(2), functools.partial(set_finals, **{WM: ours, SS: theirs})), "E3"
        )
        assert found.outcome == "undecided"


def test_a_small_test_set_leaves_undecided_what_a_large_one_decides():
    """Errors that differ by seven points with hardly any scatter, on 360 and on 10,000 images."""
    finals = functools.partial(set_finals, **{SS: (20.0, 20.1, 20.2)})
    assert judged(altered(base(), finals), "E3").outcome == "holds"
    small = judged(altered(base(data="digits"), finals), "E3")
    assert small.outcome == "undecided"
    assert "WM below SS" not in small.why, "an ordering by six points is clear on 360 images, too"

    def recorded(images):
        return lambda node: node.assign_coords(
            held_out_images=("run", np.full(node.sizes["run"], images))
        )

    assert judged(altered(base(), both(finals, recorded(360))), "E3").outcome == "undecided"
    unknown = judged(altered(base(), both(finals, as_folder, recorded(-1))), "E3")
    assert (unknown.outcome, unknown.why) == ("holds", NO_SIZE)


def as_folder(node):
    return with_option('"data": "cifar10"', '"data": "image_folder"', ...)(node)


def test_one_seed_gives_no_verdict_on_errors_or_angles():
    alone = altered(base(), lambda node: node.isel(run=node["seed"].values == 1))
    for id in ("T2", "E3", "A3", "A4", "A7"):
        found = judged(alone, id)
        assert found.outcome == "cannot be tested here"
        assert NO_ERROR in found.why
    assert "WM 14.2" in judged(alone, "E3").measured


def test_what_the_configuration_decides_is_called_that():
    too_little = with_option('"weight_decay": 0.1', '"weight_decay": 0.0001', ...)
    for id in ("E3", "A7"):
        found = judged(altered(base(), too_little), id)
        assert found.outcome == "cannot be tested here"
        assert found.why.startswith(DECIDED)
        assert all(word in found.why for word in ("0.5 e-foldings", "KP", "fewer than 5"))
        assert "KP" in found.measured
    never = both(too_little, put("matrix_angle", KP, 80.0))
    assert DECIDED in judged(altered(base(), never), "A6").why
    worse = both(too_little, functools.partial(set_finals, **{WM: (60.0, 60.1, 60.2)}))
    assert judged(altered(base(), worse), "E3").outcome == "fails", (
        "the weight mirror's part is not decided by it"
    )
    proportional = with_option('"noise_fraction": 0.0', '"noise_fraction": 0.25', ...)
    assert DECIDED in judged(altered(base(), proportional), "A3").why
    # noise_batch is more in the final layer, which has 512 inputs, and less in others
    partly = '"noise_fraction": 0.25, "noise_batch": 320'
    proportional = with_option('"noise_fraction": 0.0', partly, ...)
    assert DECIDED in judged(altered(base(), proportional), "A3").why
    few = with_option('"noise_fraction": 0.0', '"noise_fraction": 0.01', ...)  # noise_batch is more
    assert judged(altered(base(), few), "A3").outcome == "holds"


def test_a_diverged_run_counts_against_the_method_that_should_do_well():
    assert judged(altered(base(), diverge(WM, 1)), "E3").outcome == "fails"
    assert "1 of 3 runs of WM diverged" in judged(altered(base(), diverge(WM, 1)), "E3").why
    lost = judged(altered(base(), diverge(FA, 0, 1, 2)), "E3")
    assert (lost.outcome, lost.why) == ("holds", "3 of 3 runs of FA diverged")
    assert judged(altered(base(), diverge(FA, 0, 1, 2)), "A8").why == "all runs of FA diverged"
    assert judged(altered(base(), diverge(BP, 0, 1, 2)), "E3").outcome == "cannot be tested here"


def test_what_was_not_run_cannot_be_tested():
    tree = altered(base(), lambda node: node.isel(run=node["method"].values != WM))
    for id in ("T5", "E3", "A2", "A3", "A4", "A5", "A7", "Q2"):
        assert judged(tree, id).outcome == "cannot be tested here"
        assert "WM" in judged(tree, id).why
    assert judged(base(), "E2", "resnet50").why == "ResNet-50 was not run"


def test_a_network_of_one_layer_has_no_layer_below_its_output():
    tree = altered(base(), lambda node: node.isel(layer=[-1]))
    for id in ("A2", "A3", "A5", "A7", "A8"):
        finding = judged(tree, id)
        assert finding.outcome == "cannot be tested here", id
        assert "no layer below its output layer" in finding.why, id
    assert judged(tree, "A1").outcome == "holds"


def test_validation_errors_are_no_test_errors():
    tree = altered(
        base(),
        lambda node: node.assign_coords(evaluated_on=("run", ["validation"] * node.sizes["run"])),
    )
    assert judged(tree, "E3").why == "errors were measured on validation images"


def test_no_verdict_on_the_papers_numbers_at_another_scale():
    for id in ("E1", "E5"):
        found = judged(base(), id)
        assert found.outcome == "cannot be tested here"
        assert "CIFAR-10" in found.why
        assert "SS" in found.measured


def at_imagenet_scale(node, **finals):
    printed = {m: e.mean for m, e in FINAL_ERRORS["resnet18", "relu_bn"].items()} | finals
    set_finals(
        node, **{method: (value - 0.1, value, value + 0.1) for method, value in printed.items()}
    )
    set_finals(node, "bn_relu", **{SS: (37.7, 37.8, 37.9)})


def test_the_papers_numbers_at_its_scale():
    tree = altered(base(data="imagenet"), at_imagenet_scale)
    assert judged(tree, "E1").outcome == "holds"
    assert judged(tree, "E3").outcome == "holds"
    assert judged(tree, "E5").outcome == "holds"
    better_fa = altered(tree, lambda node: at_imagenet_scale(node, **{FA: 85.0}))
    assert judged(better_fa, "E1").outcome == "fails"
    assert "fails: the paper's FA below 1.1 × FA by" in judged(better_fa, "E1").why
    few_classes = altered(tree, with_option('"classes": null', '"classes": 100', ...))
    assert judged(few_classes, "E1").outcome == "cannot be tested here"


def test_the_papers_own_numbers_by_our_rule():
    """Its word holds for ResNet-18; for ResNet-50 its error bar on Kolen–Pollack is wider than our
    margin allows."""
    for network, outcome in (("resnet18", "holds"), ("resnet50", "undecided")):
        printed = FINAL_ERRORS[network, "relu_bn"]
        named = {
            m: Estimate(e.mean, e.error, name=method_label(m), images=e.images)
            for m, e in printed.items()
        }
        found = judged_order(named)
        assert found.outcome == outcome
        assert found.why.startswith("undecided: KP below 1.1 × BP by") == (network == "resnet50")


def test_norm_order_needs_all_methods_under_both():
    half = judged(base(), "E4")
    assert half.outcome == "cannot be tested here"
    assert "SS's part holds" in half.why and "BP, FA, WM, KP" in half.why
    copied = altered(base(), in_both_orders)
    assert judged(copied, "E4").outcome == "holds"
    moved = altered(copied, lambda node: set_finals(node, "bn_relu", **{KP: (4.0, 4.1, 4.2)}))
    assert judged(moved, "E4").outcome == "fails"


def in_both_orders(node):
    """The other four methods' runs once more, as runs with BatchNorm before the ReLU."""
    others = node.isel(run=node["method"].values != SS)
    before = others.assign_coords(norm_order=("run", ["bn_relu"] * others.sizes["run"]))
    return xr.concat(
        [node, before], "run", join="outer", coords="different", compat="equals", data_vars="all"
    )


def test_a_drop_of_the_learning_rate_is_needed_for_a4():
    smooth = altered(base(), with_option('"schedule": "step"', '"schedule": "cosine"', ...))
    assert "cosine" in str(smooth["resnet18"]["settings"].values[0])
    assert "drop" in judged(smooth, "A4").why


def test_epochs_without_angles_are_left_out():
    sparse = altered(
        base(),
        lambda node: node["matrix_angle"].values.__setitem__(
            (slice(None), slice(1, 16, 2)), np.nan
        ),
    )
    for id in ("A1", "A2", "A3", "A4", "A6", "A7"):
        assert judged(sparse, id).outcome == "holds"
    never = altered(base(), put("matrix_angle", WM, np.nan))
    assert judged(never, "A2").outcome == "cannot be tested here"


def with_option(old, new, runs):
    """A change that edits the settings of some runs, by position; ``...`` are all."""

    def change(node):
        texts = node["settings"].values.astype(object)
        changed = [texts[run].replace(old, new) for run in np.arange(len(texts))[runs]]
        assert (texts[runs] != np.array(changed, dtype=object)).any()
        texts[runs] = changed
        return node.assign_coords(settings=("run", texts))

    return change


def test_open_questions_are_answered_by_sweeps():
    for id, ablation in (("Q1", "kp_decay"), ("Q2", "mirror_steps")):
        found = judged(base(4), id)
        assert (found.outcome, found.why.partition(";")[0]) == (
            "shown by another experiment", f"config/ablations/{ablation}.yaml",
        )  # fmt: skip
    kp = np.flatnonzero(base(4)["resnet18"]["method"].values == KP)
    wm = np.flatnonzero(base(4)["resnet18"]["method"].values == WM)

    def raised(runs, by):
        return lambda node: node["matrix_angle"].values.__setitem__(
            runs, node["matrix_angle"].values[runs] + by
        )

    decay = with_option('"weight_decay": 0.1', '"weight_decay": 0.01', kp[:2])
    found = judged(altered(base(4), both(decay, raised(kp[:2], 20.0))), "Q1")
    assert found.outcome == "holds"
    assert found.measured.startswith("weight decay 0.01: 20.")
    alone = both(
        with_option('"weight_decay": 0.1', '"weight_decay": 0.01', kp[:1]), raised(kp[:1], 20.0)
    )
    assert judged(altered(base(4), alone), "Q1").outcome == "cannot be tested here"
    more = with_option('"noise_fraction": 0.0', '"noise_fraction": 0.0, "mirror_steps": 4', wm[:2])
    assert judged(altered(base(4), both(more, raised(wm[:2], 40.0))), "Q2").outcome == "fails"
    assert judged(altered(base(4), both(more, raised(wm[2:], 40.0))), "Q2").outcome == "holds"

    def follows_early(node):
        node["matrix_angle"].values[wm[2:], 1] += 40.0  # at the end both are alike

    assert judged(altered(base(4), both(more, follows_early)), "Q2").outcome == "holds"


# --------------------------------------------------------------------------------------- statistics


def test_welch_against_scipy():
    a, b = np.array([3.0, 4.0, 6.0]), np.array([1.0, 1.5, 1.7, 1.2, 1.9])
    error, df = welch((stats.sem(a), 2), (stats.sem(b), 4))
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert error == pytest.approx((a.mean() - b.mean()) / expected.statistic)
    assert df == np.floor(expected.df)
    low, high = Comparison("", a.mean() - b.mean(), error, expected.df).interval()
    reference = expected.confidence_interval(1 - 2 * LEVEL)
    np.testing.assert_allclose((low, high), (reference.low, reference.high))
    assert welch((0.0, 1), (0.0, 1)) == (0.0, np.inf)
    assert welch((0.3, np.inf), (0.4, np.inf)) == (pytest.approx(0.5), np.inf)


def test_the_binomial_error_against_the_formula_and_at_the_ends():
    assert binomial_variance(30.0, 10_000) == pytest.approx(30 * 70 / 10_000, rel=1e-3)
    assert 0 < binomial_variance(0.0, 360) == pytest.approx(binomial_variance(100.0, 360))
    assert binomial_variance(30.0, 0) == 0
    alone = Comparison("", 1.0, 0.0, np.inf, test_set_error=2.0)
    assert alone.interval() == pytest.approx((1 - 1.645 * 2, 1 + 1.645 * 2), abs=1e-3)


EXPERIMENTS = 2_000
ALLOWED = LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / EXPERIMENTS)
"""Where an interval errs in 5 % exactly: three standard errors of so many experiments more."""
IMAGES = 10_000


def drawn(rng, seeds, means, spread):
    """Estimates of made-up methods, an experiment each row.

    What the test set adds to an error is drawn for each method alone: images that are hard for all
        would cancel.

    Args:
        means: true errors in percent, by method.
        spread: standard deviation of each method's runs, in percent points.
    """
    found = {}
    for (method, mean), sd in zip(means.items(), np.broadcast_to(spread, len(means)), strict=True):
        of_test_set = np.sqrt(mean * (100 - mean) / IMAGES) * rng.standard_normal((EXPERIMENTS, 1))
        runs = mean + of_test_set + sd * rng.standard_normal((EXPERIMENTS, seeds))
        values = zip(runs.mean(1).tolist(), stats.sem(runs, axis=1).tolist(), strict=True)
        name = method_label(method)
        found[method] = [Estimate(*value, seeds, name=name, images=IMAGES) for value in values]
    return [
        dict(zip(found, experiment, strict=True))
        for experiment in zip(*found.values(), strict=True)
    ]


def rates(findings):
    outcomes = pd.Series([found.outcome for found in findings])
    return {outcome: (outcomes == outcome).mean() for outcome in ("holds", "fails", "undecided")}


ALIKE = dict.fromkeys((BP, FA, SS, WM, KP), 30.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.2, 2.0, (0.2, 2.0)], ids=["test set", "seeds", "unequal"])
def test_runs_without_a_difference_are_seldom_ordered(seeds, spread):
    pairs = drawn(np.random.default_rng(seeds), seeds, {WM: 30.0, SS: 30.0}, spread)
    found = rates(claim.all_of("", judging.is_below(pair[WM], pair[SS])) for pair in pairs)
    assert max(found["holds"], found["fails"]) <= (ALLOWED if spread == 0.2 else LEVEL)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_five_methods_without_a_difference_seldom_hold_or_fail_the_main_claim(seeds):
    rng = np.random.default_rng(seeds)
    found = rates(map(judged_order, drawn(rng, seeds, ALIKE, 1.0)))
    assert max(found["holds"], found["fails"]) <= LEVEL
    apart = drawn(rng, seeds, ALIKE | {SS: 60.0, FA: 90.0}, 0.5)[:300]
    assert rates(map(judged_order, apart))["holds"] > (0.2 if seeds == 2 else 0.8)
    behind = drawn(rng, seeds, ALIKE | {KP: 60.0}, 0.5)[:300]
    assert rates(map(judged_order, behind))["fails"] > 0.8


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_method_at_the_margin_seldom_matches_backprop(seeds):
    pairs = drawn(np.random.default_rng(seeds), seeds, {WM: 30.0 * (1 + MARGIN), BP: 30.0}, 1.0)
    found = rates(claim.all_of("", judging.nearly_matches(pair[WM], pair[BP])) for pair in pairs)
    assert max(found["holds"], found["fails"]) <= LEVEL


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_angles_without_a_difference_are_seldom_above_zero(seeds):
    values = np.random.default_rng(seeds).standard_normal((EXPERIMENTS, seeds))
    means, errors = values.mean(1), stats.sem(values, axis=1)
    compared = [
        Comparison("x", *one, seeds - 1)
        for one in zip(means.tolist(), errors.tolist(), strict=True)
    ]
    first = judging.above_zero(xr.DataArray(values[0], dims="run"), "x")
    assert (first.difference, first.error, first.df) == pytest.approx(
        (means[0], errors[0], seeds - 1)
    )
    found = rates(claim.all_of("", one) for one in compared)
    assert max(found["holds"], found["fails"]) <= ALLOWED


# ---------------------------------------------------------------------------- runs that differ


def cut(method, run, epochs, angle):
    """One run of a method has this angle in all layers, and ends after so many epochs."""

    def change(node):
        index = int(np.flatnonzero(node["method"].values == method)[run])
        for name in ("matrix_angle", "delta_angle"):
            node[name][{"run": index}] = angle
        for name in ("test_error", "matrix_angle", "delta_angle"):
            node[name][{"run": index, "epoch": slice(epochs + 1, None)}] = np.nan

    return change


def test_a_short_run_counts_at_its_own_end():
    assert judged(base(), "A2").outcome == "holds"
    assert judged(altered(base(), cut(WM, 0, 5, 8.0)), "A2").outcome == "fails"
    assert judged(base(), "A6").outcome == "holds"
    assert judged(altered(base(), cut(KP, 0, 5, 40.0)), "A6").outcome == "fails"


def test_a_sweep_compares_runs_that_differ_in_nothing_else():
    kp = np.flatnonzero(base(4)["resnet18"]["method"].values == KP)
    decay = with_option('"weight_decay": 0.1', '"weight_decay": 0.01', kp[:2])
    rate = with_option('"lr": 0.05', '"lr": 0.2', kp[2:3])
    name = "with another learning rate"

    def of_a_variant(node):
        node["matrix_angle"].values[kp[2]] = 80.0
        names = node["variant"].values.astype(object)
        names[kp[2]] = name
        return node.assign_coords(variant=("run", names))

    tree = altered(base(4), both(decay, rate, of_a_variant))
    (other,) = [n for n, v in enumerate(tree["resnet18"]["variant"].values) if v == name]
    assert '"lr": 0.2' in tree["resnet18"]["settings"].values[other]
    without = judged(altered(tree, lambda node: node.isel(run=node["variant"] != name)), "Q1")
    assert judged(tree, "Q1") == without


def test_a_method_without_an_error_is_named():
    def unmeasured(node):
        node["test_error"][{"run": node["method"].values == KP}] = np.nan

    finding = judged(altered(base(), unmeasured), "E3")
    assert (finding.outcome, finding.why) == (
        "cannot be tested here",
        "no test error was recorded: KP",
    )


def test_claims_about_a_data_set_that_is_not_installed():
    tree = altered(base(), with_option('"data": "cifar10"', '"data": "unheard_of"', slice(None)))
    assert judged(tree, "A6").outcome == "holds"
    assert judged(tree, "A3").outcome == "holds"
    assert (
        NO_SIZE in judged(altered(tree, lambda node: node.drop_vars("held_out_images")), "E3").why
    )
