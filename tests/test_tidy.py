"""Results as one table, the accessor, selection by label, and results of several experiments."""

import warnings

import numpy as np
import pytest
import xarray as xr

import wtkit
from wtkit import WtkitError, open_results, results, tidy

LAYERS = {"layer": ["conv1", "fc"], "kind": ["Conv2d", "Linear"], "fan_in": [147, 512]}
LABELS = {
    "method": "weight_mirror", "variant": "", "norm_order": "relu_bn", "seed": 0,
    "status": "complete", "evaluated_on": "test", "held_out_images": 360,
    "angles_over": results.LIVE_WEIGHTS, "settings": '{"lr": 0.05}', "provenance": "{}",
}  # fmt: skip


def write(folder, experiment, runs, **common):
    """The results.nc of runs that differ in these labels."""
    paths = []
    for index, labels in enumerate(runs):
        chosen = {"network": "resnet18", "epochs": 2} | common | labels
        count = np.arange(chosen.pop("epochs") + 1.0)
        records = {"test_error": 10 * count, "matrix_angle": np.outer(count, [1.0, 2.0])}
        network = chosen.pop("network")
        run = results.dataset(records, LAYERS, LABELS | chosen, network=network, data="digits")
        paths.append(folder / f"{experiment}{index}.nc")
        results.save(run, paths[-1])
    path = folder / f"{experiment}.nc"
    results.save(results.gather(paths, experiment), path)
    return path


@pytest.fixture
def first(tmp_path):
    runs = [{"seed": 0}, {"seed": 1}, {"variant": "gaussian"}, {"method": "backprop"}]
    return write(tmp_path, "first", [*runs, {"network": "mlp"}])


def test_tidy_has_a_row_for_each_run_epoch_and_layer(first):
    tree = wtkit.open_results(first, quiet=True)
    table = wtkit.tidy(tree)
    assert list(table) == [
        "label", "experiment", "network", "seed", "epoch", "layer", "matrix_angle", "delta_angle",
        "test_error", "variant", "norm_order", "depth", "block", "level",
    ]  # fmt: skip
    assert len(table) == 5 * 3 * 2
    assert set(table["label"]) == {"WM", "WM gaussian", "BP"}
    assert set(table["experiment"]) == {"first"} and set(table["network"]) == {"resnet18", "mlp"}
    row = table.query("network == 'mlp' and epoch == 2 and layer == 'fc'").squeeze()
    assert (row["matrix_angle"], row["test_error"], row["depth"]) == (4.0, 20.0, 1)
    assert np.isnan(row["delta_angle"])
    assert (row["block"], row["level"]) == ("fc", 1), "an MLP's graph follows from its layers"
    assert "block" not in wtkit.tidy(tree["resnet18"]), "two layers are no ResNet"


def test_the_accessor_works_on_trees_nodes_and_data_sets(first):
    tree = wtkit.open_results(first, quiet=True)
    assert tree.wt.tidy().equals(wtkit.tidy(tree))
    assert set(tree["mlp"].wt.tidy()["experiment"]) == {"first"}
    node = tree["resnet18"].to_dataset()
    assert node.wt.select("WM").sizes["run"] == 2
    assert len(node.isel(run=0).wt.tidy()) == 3 * 2
    backprop = tree.wt.select("BP")
    assert list(backprop.children) == ["resnet18"], "no run of backprop in the MLP"
    assert set(backprop.wt.tidy()["label"]) == {"BP"}
    with pytest.raises(WtkitError, match="'KP'"):
        tree.wt.select("KP")


def test_one_run_epoch_or_layer_is_a_table_too(first):
    node = wtkit.open_results(first, quiet=True)["resnet18"].to_dataset()
    whole = wtkit.tidy(node)
    some = {
        "epoch == 2": node.isel(epoch=-1),
        "layer == 'fc'": node.sel(layer="fc"),
        "seed == 1": node.isel(run=1),
        "layer == 'fc' and epoch == 0 and seed == 1": node.isel(run=1, epoch=0, layer=-1),
    }
    for query, selected in some.items():
        table = wtkit.tidy(selected)
        assert list(table) == list(whole)
        wanted = whole.query(query).sort_values(list(table)).reset_index(drop=True)
        assert table.sort_values(list(table)).reset_index(drop=True).equals(wanted), query
    alone = wtkit.tidy(node[["matrix_angle"]])
    assert alone["matrix_angle"].equals(whole["matrix_angle"]) and alone["test_error"].isna().all()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda node: node.mean("run"), "'method' is missing"),
        (lambda node: node.mean("layer"), "'layer' is missing"),
        (lambda node: node.mean("epoch"), "'epoch' is missing"),
        (lambda node: node.drop_vars("seed"), "'seed' is missing"),
        (lambda node: node.groupby("seed").mean(), "is missing"),
        (lambda node: node.expand_dims("trial"), "'trial' is not a dimension of results"),
    ],
)
def test_results_without_their_labels_are_named(first, change, name):
    node = wtkit.open_results(first, quiet=True)["resnet18"].to_dataset()
    with pytest.raises(WtkitError, match=f"{name}.*before any mean"):
        wtkit.tidy(change(node))


def test_a_recorded_block_is_a_column(first):
    node = wtkit.open_results(first, quiet=True)["mlp"].to_dataset()
    blocks = node.assign_coords(block=("layer", ["stem", "head"]))
    assert set(wtkit.tidy(blocks)["block"]) == {"stem", "head"}


def test_select_takes_a_recorded_name_before_a_label(first):
    """A recorder's user may have called a method as another one's label."""
    node = wtkit.open_results(first, quiet=True)["resnet18"].to_dataset()
    names = np.where(node.seed == node.seed[0], "KP", node.method)
    named = node.assign_coords(method=("run", names.astype(object)))
    assert set(results.select(named, "KP", variant=None).method.values) == {"KP"}


def test_select_takes_names_and_labels(first):
    node = wtkit.open_results(first, quiet=True)["resnet18"]
    named = results.select(node, "weight_mirror")
    xr.testing.assert_identical(results.select(node, "WM"), named)
    assert results.select(node, "WM", seed=1).sizes["run"] == 1
    assert results.select(node, "WM gaussian")["variant"].values.tolist() == ["gaussian"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"method": "weight_miror"}, ["'weight_miror'", "mean 'weight_mirror'"]),
        ({"method": "kolen_pollack"}, ["'kolen_pollack'", "backprop"]),
        ({"variant": "gausian"}, ["variant 'gausian'", "mean 'gaussian'", "variant=None"]),
        ({"seed": 7}, ["seed 7", "'0', '1'"]),
        ({"norm_order": "bn_rulu"}, ["norm_order 'bn_rulu'", "'relu_bn'"]),
        ({"experiment": "first"}, ["experiment", "open_results"]),
    ],
)
def test_select_refuses_what_matches_nothing(first, labels, words):
    node = wtkit.open_results(first, quiet=True)["resnet18"]
    with pytest.raises(WtkitError) as error:
        results.select(node, **labels)
    assert all(word in str(error.value) for word in words), error.value
    method = labels.get("method")
    if method == "kolen_pollack":
        assert results.matching_runs(node, method).sizes["run"] == 0


def test_several_experiments_are_one_tree(first, tmp_path):
    runs = [{"method": "feedback_alignment", "epochs": 4}, {"network": "resnet50"}]
    second = write(tmp_path, "second_and_longer", runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = wtkit.open_results(first, second, quiet=True)
    assert list(tree.children) == ["resnet18", "mlp", "resnet50"]
    node = tree["resnet18"]
    assert node["experiment"].values.tolist() == ["first"] * 4 + ["second_and_longer"]
    assert node.sizes["epoch"] == 5 and node["method"].values[-1] == "feedback_alignment"
    assert results.select(node, "FA", experiment="second_and_longer").sizes["run"] == 1
    with pytest.raises(WtkitError, match="mean 'first'"):
        results.select(node, "WM", experiment="frist")
    variants = write(tmp_path, "only_variants", [{"variant": "fast"}])
    with pytest.raises(WtkitError, match=r"no runs with variant ''.*variant=None selects all"):
        wtkit.open_results(first, variants, quiet=True).wt.select(experiment="only_variants")
    assert set(wtkit.tidy(tree)["experiment"]) == {"first", "second_and_longer"}
    path = tmp_path / "both.nc"
    results.save(tree, path)
    xr.testing.assert_identical(wtkit.open_results(path, quiet=True), tree)


def test_a_run_may_not_be_opened_twice_and_a_name_may_not_be_empty():
    with pytest.raises(WtkitError, match="the same run as"):
        open_results("digits", "digits", quiet=True)
    with pytest.raises(WtkitError, match="got an empty text"):
        open_results("", quiet=True)


@pytest.mark.parametrize("given", [None, "digits", {}, [], 3])
def test_what_holds_no_results_is_named(given):
    with pytest.raises(WtkitError, match="expected results"):
        tidy(given)


def test_joined_results_can_be_saved_and_joined_again(first, tmp_path):
    tree = wtkit.open_results(first, quiet=True)
    for name in "abc":
        tree.attrs["experiment"] = name
        results.save(tree, tmp_path / f"{name}.nc")
    joined = wtkit.open_results(tmp_path / "a.nc", tmp_path / "b.nc", quiet=True)
    results.save(joined, tmp_path / "joined.nc")
    again = wtkit.open_results(tmp_path / "joined.nc", tmp_path / "c.nc", quiet=True)
    for node in again.children.values():
        assert set(node["experiment"].values.tolist()) == set("abc")
