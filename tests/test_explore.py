"""The interactive figures: what they draw, from which results, and that they fetch nothing.

That hover, switches and sliders work is tested in a browser: test_browser.py.
"""

import json
import re

import numpy as np
import pytest
import xarray as xr
from synthetic import altered, diverge, synthetic

import wtkit
from wtkit import WtkitError, explore, results
from wtkit.explore.groups import groups_of

BY_LAYER = [explore.angles, explore.heat_map, explore.epochs, explore.error_against_angle]
ALL = [*BY_LAYER, explore.sweep]
POINTS = ["kolen_pollack:lr=0.1", "kolen_pollack:lr=0.2", "backprop:lr=0.1", "backprop:lr=0.2"]


@pytest.fixture(scope="module")
def tree():
    return synthetic(seeds=(0, 1), epochs=3, drop=2)


def sweep_of(points):
    """An ablation with these points, ``method:setting=value,…``, as its runs' settings say."""
    tree = synthetic(networks=["resnet18"], seeds=(0, 1), methods=points, epochs=2, drop=2)

    def sweep(node):
        texts = []
        for text, point in zip(node["settings"].values, node["variant"].values, strict=True):
            pairs = [part.split("=") for part in str(point).split(",")]
            changed = {name: float(value) for name, value in pairs}
            texts.append(json.dumps(json.loads(str(text)) | changed))
        return node.assign_coords(settings=("run", np.array(texts, dtype=object)))

    return altered(tree, sweep)


@pytest.fixture(scope="module")
def ablation():
    return sweep_of(POINTS)


def of(make, tree, ablation):
    return make(ablation if make is explore.sweep else tree)


@pytest.mark.parametrize("make", ALL)
def test_the_page_has_all_it_needs_and_fetches_nothing(make, tree, ablation):
    page = of(make, tree, ablation).to_html()
    assert "Bokeh" in page and len(page) < 4e6
    fetched = r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//"
    assert "<script" in page and not re.search(fetched, page)


@pytest.mark.parametrize("make", ALL)
def test_a_notebook_shows_it_in_a_frame(make, tree, ablation, tmp_path):
    explorer = of(make, tree, ablation)
    shown = explorer._repr_html_()
    document = re.fullmatch(r'<iframe srcdoc="([^"]*)" title="[^"]+" [^>]*></iframe>', shown)[1]
    assert document.replace("&quot;", '"').replace("&amp;", "&").startswith("<!DOCTYPE html>")
    assert "save('figure.html')" in repr(explorer)
    explorer.save(tmp_path / "new/figure.html")
    assert "Bokeh" in (tmp_path / "new/figure.html").read_text()


@pytest.mark.parametrize("make", BY_LAYER)
def test_a_tree_a_node_a_data_set_a_selection_and_one_run_are_drawn(make, tree):
    node = tree["resnet18"].to_dataset()
    for some in (tree, tree["resnet18"], node, results.select(node, "WM"), node.isel(run=0)):
        assert "Bokeh" in make(some).to_html()


def test_groups_are_means_over_seeds_in_the_order_of_our_figures(tree):
    groups = groups_of(tree["resnet18"])
    labels = ["BP", "FA", "SS", "SS, BatchNorm before ReLU", "WM", "KP"]
    assert [group.method for group in groups] == labels
    mirror = groups[4]
    assert mirror.runs.sizes["run"] == 2 and mirror.color == "#0b3c8c"
    wanted = results.select(tree["resnet18"], "WM").matrix_angle.mean("run")
    np.testing.assert_allclose(mirror.mean("matrix_angle"), wanted)


def test_several_experiments_are_told_apart(tree, tmp_path):
    paths = []
    for name in ("first", "second"):
        tree.attrs["experiment"] = name
        paths.append(tmp_path / f"{name}.nc")
        results.save(tree, paths[-1])
    both = wtkit.open_results(*paths, quiet=True)
    networks = {group.network for group in groups_of(both)}
    assert networks == {
        f"{e}: {n}" for e in ("first", "second") for n in ("ResNet-18", "ResNet-50")
    }


def test_only_epochs_with_angles_are_drawn_and_diverged_runs_are_not_averaged_in(tree):
    def sparse(node):
        for name in ("matrix_angle", "delta_angle"):
            node[name][{"epoch": [1, 2]}] = np.nan

    groups = groups_of(altered(tree, sparse))
    assert all(group.epochs == [0, 3] for group in groups)
    lost = altered(tree, diverge("weight_mirror", 0, 1, epoch=1))
    for make in BY_LAYER:
        assert "Bokeh" in make(lost).to_html()
    assert [g.epochs for g in groups_of(lost) if g.method == "WM"] == [[0, 1]] * 2


def test_a_mean_leaves_out_the_run_that_diverged(tree):
    def one(node):
        runs = np.flatnonzero(node["method"].values == "weight_mirror")
        node["matrix_angle"][{"run": runs[0]}] = 2.0
        node["matrix_angle"][{"run": runs[1], "epoch": slice(0, 2)}] = 90.0

    lost = altered(altered(tree, one), diverge("weight_mirror", 1, epoch=1))
    for group in groups_of(lost):
        if group.method == "WM":
            assert (group.mean("matrix_angle") == 2).all()


def test_a_method_without_one_kind_of_angle_is_drawn(tree):
    def without(node):
        node["matrix_angle"][:] = np.nan

    page = explore.angles(altered(tree, without)).to_html()
    assert '"value":"delta_angle"' in page


def test_a_sweep_has_a_point_per_run_and_its_settings(ablation):
    page = explore.sweep(ablation).to_html()
    assert '"factors":["0.1","0.2"]' in page
    assert "@{lr}" in page
    crossed = explore.sweep(altered(ablation, diverge("backprop", 0, epoch=1))).to_html()
    cross = '"marker":{"type":"value","value":"x"}'
    assert cross in crossed and cross not in page


@pytest.mark.parametrize("make", BY_LAYER)
def test_results_without_angles_are_refused_in_a_line(make, tree):
    def without(node):
        for name in ("matrix_angle", "delta_angle"):
            node[name][:] = np.nan

    for some in (altered(tree, without), xr.DataTree(), xr.Dataset()):
        with pytest.raises(WtkitError, match=r"explore: no run with an angle.*open_results\(\)"):
            make(some)


def test_a_sweep_of_nothing_or_of_two_ablations_is_refused(tree, ablation, tmp_path):
    with pytest.raises(WtkitError, match="differ in no setting; open an ablation"):
        explore.sweep(tree)
    renamed = xr.DataTree.from_dict(
        {"/resnet18": ablation["resnet18"], "/resnet50": tree["resnet50"]}
    )
    with pytest.raises(WtkitError, match="of one ablation, got 2"):
        explore.sweep(renamed)
    with pytest.raises(WtkitError, match="of one ablation, got 0"):
        explore.sweep(xr.DataTree())


def test_a_network_of_54_layers_for_90_epochs_stays_small():
    big = synthetic(networks=["resnet50"], seeds=(0,), epochs=90, drop=60)
    assert len(groups_of(big)[0].layers) == 54
    assert len(explore.angles(big).to_html()) < 3.5e6
