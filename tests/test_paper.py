"""What the paper reports, and the verdicts on its claims: each with results that keep it and results that do not."""

import functools
import re
import subprocess
import sys

import numpy as np
import pytest
from synthetic import METHODS, altered, diverge, put, synthetic

import wtkit
from wtkit import paper
from wtkit.paper import BP, FA, KP, SS, WM

COUNTS = {"T": 7, "F": 2, "E": 5, "A": 8, "Q": 3}
ALL_IDS = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
TESTED = ["T2", "T5", "E3", "A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8"]


@functools.cache
def base():
    return synthetic(networks=("resnet18",), seeds=(0, 1))


def judged(tree, id, network="resnet18"):
    (claim,) = (claim for claim in paper.CLAIMS if claim.id == id)
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


# ------------------------------------------------------------------------------------------------- data and summaries


def test_the_papers_numbers():
    printed = paper.FINAL_ERRORS
    assert str(printed["resnet18", "relu_bn"][KP]) == "29.2 ± 0.4"
    assert str(printed["resnet50", "relu_bn"][FA]) == "98.9 ± 0.1"
    assert str(printed["resnet50", "bn_relu"][SS]) == "32.6 ± 0.6"
    assert paper.XIAO_ERROR == 37.91


def test_every_claim_is_there_once_with_where_it_stands():
    assert [claim.id for claim in paper.CLAIMS] == ALL_IDS
    assert all(re.search(r"Sec\. \d|eqs?\. \d|Fig\. \d", claim.where) for claim in paper.CLAIMS)


def test_standard_error_against_numpy_and_none_for_one_run():
    values = base()["resnet18"]["test_error"]
    mean, error = paper.mean_and_error(values)
    np.testing.assert_allclose(mean, values.values.mean(0))
    np.testing.assert_allclose(error, values.values.std(0, ddof=1) / np.sqrt(len(values)))
    mean, error = paper.mean_and_error(values.isel(run=[0]))
    np.testing.assert_allclose(mean, values.values[0])
    assert error.isnull().all()


def test_final_error_is_the_last_epoch_of_complete_runs():
    node = altered(base(), both(functools.partial(set_finals, **{KP: (1.0, 3.0)}), diverge(FA, 0)))["resnet18"]
    assert str(paper.final_error(node.to_dataset(), KP)) == "2.00 ± 1.00"
    one_left = paper.final_error(node.to_dataset(), FA)
    assert (one_left.runs, one_left.diverged, np.isnan(one_left.error)) == (2, 1, True)


def test_learning_rate_drops_are_found():
    assert paper.lr_drops(base()["resnet18"].to_dataset()) == [12]


def test_error_table_shows_ours_beside_the_papers_and_what_diverged():
    table = paper.error_table(altered(base(), diverge(FA, 0, 1)))
    ours = next(column for column in table if "digits" in column)
    assert ours == "test error %, digits"
    row = table[(table["method"] == "FA")].iloc[0]
    assert (row[ours], row["diverged"], row["paper: error %, ImageNet"]) == ("diverged", 2, "97.4 ± 0.2")
    assert list(table[table["BatchNorm"] == "before ReLU"]["method"]) == ["SS"]


def test_labels():
    assert [paper.label(method) for method in METHODS] == ["BP", "FA", "SS", "WM", "KP"]
    assert paper.label(WM, "gaussian") == "WM gaussian"
    assert paper.label("of_somebody_else") == "of_somebody_else"
    assert paper.network_label("resnet50") == "ResNet-50"
    assert paper.network_label("resnet18-width=16") == "ResNet-18, width 16"
    for name, shown in (("digits", "digits"), ("tiny_imagenet_32", "Tiny ImageNet"), ("cifar10_short", "cifar10-jpeg")):
        assert paper.data_label(wtkit.open_results(name, quiet=True)["resnet18"].to_dataset()) == shown


def test_no_torch_is_imported():
    code = "import sys, wtkit.paper, wtkit.plotting; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ----------------------------------------------------------------------------------------------------------- verdicts


def test_a_row_for_each_claim_and_network():
    table = paper.verdicts(base())
    assert list(dict.fromkeys(table["id"])) == ALL_IDS
    assert set(table["verdict"]) <= {"holds", "fails", "cannot be tested"}
    unsure = table[table["verdict"] != "holds"]
    assert (unsure["remarks"] != "").all()


@pytest.mark.parametrize("id", TESTED)
def test_claims_hold_where_they_do(id):
    found = judged(base(), id)
    assert found.outcome == "holds", found
    assert found.measured


def level(variable, method, value):
    """One value throughout: neither growth nor a fall."""
    return put(variable, method, value, epoch=slice(1, None))


BROKEN = {
    "T2": put("matrix_angle", FA, 95.0, epoch=-1, layer=-1),
    "T5": put("feedback_norm_ratio", WM, 7.0, epoch=5, layer=2),
    "E3": lambda node: set_finals(node, **{WM: (9.0, 9.1)}),
    "A1": put("matrix_angle", BP, 1e-6, epoch=3, layer=4),
    "A2": put("matrix_angle", WM, 12.5, epoch=3, layer=4),
    "A3": put("matrix_angle", WM, 11.0, layer=3),
    "A4": level("matrix_angle", WM, 5.0),
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
    assert judged(altered(base(), put("matrix_angle", WM, 7.0, epoch=-1, layer=3)), "A2").outcome == "fails"
    assert judged(altered(base(), put("matrix_angle", WM, 7.0, epoch=-1, layer=-1)), "A2").outcome == "holds"


def test_delta_angles_that_do_not_grow_upstream_break_a5():
    assert judged(altered(base(), put("delta_angle", WM, 10.0)), "A5").outcome == "fails"


@pytest.mark.parametrize(
    ("finals", "outcome", "why"),
    [
        ({KP: (2.9, 2.95)}, "fails", "BP and KP differ by 1.5 points"),
        ({SS: (0.5, 6.0)}, "cannot be tested", "the error bars of WM and SS overlap"),
        ({SS: (1.0, 1.1)}, "fails", "WM is not below SS"),
        ({KP: (2.0, 2.1), SS: (9.0, 9.1)}, "holds", ""),
    ],
)
def test_error_bars_decide_on_the_order(finals, outcome, why):
    found = judged(altered(base(), functools.partial(set_finals, **finals)), "E3")
    assert found.outcome == outcome
    assert why in found.why


def test_one_seed_gives_no_verdict_on_errors():
    found = judged(altered(base(), lambda node: node.isel(run=node["seed"].values == 0)), "E3")
    assert (found.outcome, found.why) == ("cannot be tested", paper.NO_ERROR)
    assert "WM 1.5" in found.measured


def test_a_diverged_run_counts_against_the_method_that_should_do_well():
    assert judged(altered(base(), diverge(WM, 1)), "E3").outcome == "fails"
    assert "1 of 2 runs of WM diverged" in judged(altered(base(), diverge(WM, 1)), "E3").why
    assert judged(altered(base(), diverge(FA, 0, 1)), "E3").outcome == "holds"
    assert judged(altered(base(), diverge(FA, 0, 1)), "A8").why == "all runs of FA diverged"


def test_what_was_not_run_cannot_be_tested():
    tree = altered(base(), lambda node: node.isel(run=node["method"].values != WM))
    for id in ("T5", "E3", "A2", "A3", "A4", "A5", "A7", "Q2"):
        assert judged(tree, id).outcome == "cannot be tested"
        assert "WM" in judged(tree, id).why
    assert judged(base(), "E2", "resnet50").why == "ResNet-50 was not run"


def test_validation_errors_are_no_test_errors():
    tree = altered(base(), lambda node: node.assign_coords(evaluated_on=("run", ["validation"] * node.sizes["run"])))
    assert judged(tree, "E3").why == "errors were measured on validation images"


def test_no_verdict_on_the_papers_numbers_at_another_scale():
    for id in ("E1", "E5"):
        found = judged(base(), id)
        assert found.outcome == "cannot be tested"
        assert "digits" in found.why
        assert "SS" in found.measured


def at_imagenet_scale(node, **finals):
    node.attrs["data"] = "imagenet"
    printed = {m: e.mean for m, e in paper.FINAL_ERRORS["resnet18", "relu_bn"].items()} | finals
    set_finals(node, **{method: (value - 0.1, value + 0.1) for method, value in printed.items()})
    set_finals(node, "bn_relu", **{SS: (37.7, 37.9)})


def test_the_papers_numbers_at_its_scale():
    tree = altered(base(), at_imagenet_scale)
    assert judged(tree, "E1").outcome == "holds"
    assert judged(tree, "E3").outcome == "holds"
    assert judged(tree, "E5").outcome == "holds"
    better_fa = altered(base(), lambda node: at_imagenet_scale(node, **{FA: 85.0}))
    assert judged(better_fa, "E1").outcome == "fails"
    assert "FA and the paper's FA differ by 12.4 points" in judged(better_fa, "E1").why


def test_norm_order_needs_all_methods_under_both():
    half = judged(base(), "E4")
    assert half.outcome == "cannot be tested"
    assert "SS's half holds; not run in both orders: BP, FA, WM, KP" in half.why
    copied = altered(base(), in_both_orders)
    assert judged(copied, "E4").outcome == "holds"
    moved = altered(copied, lambda node: set_finals(node, "bn_relu", **{KP: (4.0, 4.1)}))
    assert judged(moved, "E4").outcome == "fails"


def in_both_orders(node):
    """The other four methods' runs once more, as runs with BatchNorm before the ReLU."""
    import xarray as xr

    others = node.isel(run=node["method"].values != SS)
    before = others.assign_coords(norm_order=("run", ["bn_relu"] * others.sizes["run"]))
    return xr.concat([node, before], "run", join="outer", coords="different", compat="equals", data_vars="all")


def test_a_drop_of_the_learning_rate_is_needed_for_a4():
    def cosine(node):
        texts = node["settings"].values
        texts[:] = [text.replace('"schedule": "step"', '"schedule": "cosine"') for text in texts]

    smooth = altered(base(), cosine)
    assert "cosine" in str(smooth["resnet18"]["settings"].values[0])
    assert judged(smooth, "A4").why == "η_W never drops at once in these runs"


def test_epochs_without_angles_are_left_out():
    sparse = altered(
        base(), lambda node: node["matrix_angle"].values.__setitem__((slice(None), slice(1, 16, 2)), np.nan)
    )
    for id in ("A1", "A2", "A3", "A4", "A6", "A7"):
        assert judged(sparse, id).outcome == "holds"
    never = altered(base(), put("matrix_angle", WM, np.nan))
    assert judged(never, "A2").outcome == "cannot be tested"


def with_option(old, new, run):
    """A change that edits the settings of one run of each."""

    def change(node):
        texts = node["settings"].values.astype(object)
        texts[run] = texts[run].replace(old, new)
        return node.assign_coords(settings=("run", texts))

    return change


def test_open_questions_are_answered_by_sweeps():
    assert "one weight decay" in judged(base(), "Q1").why
    kp = np.flatnonzero(base()["resnet18"]["method"].values == KP)
    wm = np.flatnonzero(base()["resnet18"]["method"].values == WM)

    def angle_of(run, value):
        return lambda node: node["matrix_angle"].values.__setitem__(run, value)

    decayed = both(with_option('"weight_decay": 0.0001', '"weight_decay": 0.01', kp[1]), angle_of(kp[0], 20.0))
    found = judged(altered(base(), decayed), "Q1")
    assert found.outcome == "holds"
    assert found.measured.startswith("weight decay 0.0001: 20.0°")
    more = both(with_option('"options": {}', '"options": {"mirror_steps": 4}', wm[1]), angle_of(wm[1], 20.0))
    assert judged(altered(base(), more), "Q2").outcome == "fails"
    less = both(with_option('"options": {}', '"options": {"mirror_steps": 4}', wm[1]), angle_of(wm[0], 20.0))
    assert judged(altered(base(), less), "Q2").outcome == "holds"

    def follows_early(node):
        node["matrix_angle"].values[wm[0], 1] = 40.0  # at the end both are alike

    early = both(with_option('"options": {}', '"options": {"mirror_steps": 4}', wm[1]), follows_early)
    assert judged(altered(base(), early), "Q2").outcome == "holds"
