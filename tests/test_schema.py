"""The data set schema: docs/schema.md, wtkit/results/schema.py and files agree."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from wtkit import WtkitError, results
from wtkit.results import (
    ALL_WEIGHTS,
    GRAPH_COORDS,
    LAYER_COORDS,
    LIVE_VARIABLES,
    LIVE_WEIGHTS,
    RUN_ATTRS,
    RUN_COORDS,
    SCHEMA_VERSION,
    VARIABLES,
    matching_runs,
    open_results,
    open_run,
    select,
    settings,
)

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = (ROOT / "docs/schema.md").read_text()
LAYERS = {"layer": ["conv1", "fc"], "kind": ["Conv2d", "Linear"], "fan_in": [147, 512]}
LABELS = {
    "method": "weight_mirror", "variant": "", "norm_order": "relu_bn", "seed": 0,
    "status": "complete", "evaluated_on": "test", "held_out_images": 360,
    "angles_over": LIVE_WEIGHTS, "settings": '{"lr": 0.05}', "provenance": "{}",
}  # fmt: skip


def make(epochs=3, layers=LAYERS, network="resnet18", data="digits", **labels):
    """A run whose error is 10 % of the epoch and whose angles are 10° an epoch; the rest was not
    measured."""
    count = np.arange(epochs + 1.0)
    records = {"test_error": 10 * count, "matrix_angle": np.outer(count, [10.0, 10.0])}
    return results.dataset(records, layers, LABELS | labels, network=network, data=data)


def save(folder, name, **changes):
    results.save(make(**changes), folder / name)
    return folder / name


# ------------------------------------------------------------------------------------- the document


def rows():
    """The cells of every row of every table in the document."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in SCHEMA.splitlines()
        if line[:1] == "|"
    ]


def test_the_document_lists_every_variable_with_dimensions_and_unit():
    listed = {row[0]: (row[1], row[2]) for row in rows() if len(row) == 4}
    for name, (dims, _, units, _) in VARIABLES.items():
        assert listed.pop(f"`{name}`") == (", ".join(f"`{d}`" for d in dims), f"`{units}`")
    assert not [name for name in listed if name.startswith("`")]


def test_the_document_lists_every_coordinate_and_attribute():
    listed = {row[0] for row in rows() if len(row) != 4 and row[0].startswith("`")}
    wanted = ("epoch", "layer", *LAYER_COORDS, *GRAPH_COORDS, *RUN_COORDS, *RUN_ATTRS)
    assert listed == {f"`{name}`" for name in wanted}


def test_the_document_is_of_the_present_version():
    assert re.search(r"^# .*, version (\d+)$", SCHEMA, re.M)[1] == str(SCHEMA_VERSION)


# ------------------------------------------------------------------------------------------ one run


def test_a_run_comes_back_as_it_was_saved(tmp_path):
    path = save(tmp_path, "new/folder/run.nc")
    xr.testing.assert_identical(open_run(path), make())
    assert [p.name for p in path.parent.iterdir()] == ["run.nc"]


def test_what_was_not_measured_is_nan():
    run = make()
    assert run["delta_angle"].isnull().all() and run["mirror_samples"].isnull().all()
    assert run["matrix_angle"].notnull().all()


def test_any_reader_finds_text_numbers_and_units(tmp_path):
    with xr.open_dataset(save(tmp_path, "run.nc"), engine="h5netcdf") as run:
        assert run["matrix_angle"].attrs == {
            "long_name": "angle between B and "
                         "W", "units": "degree", "paper": "Sec. 6, Fig. 4a, c, e"
        }  # fmt: skip
        assert run["matrix_angle"].sel(epoch=2, layer="fc") == 20
        assert run.attrs == {"schema_version": 2, "network": "resnet18", "data": "digits"}
        assert str(run["method"].values) == "weight_mirror"


def test_settings_of_a_run_come_back_as_a_dictionary():
    assert settings(make()) == {"lr": 0.05}


VIOLATIONS = [
    (lambda run: run.attrs.pop("schema_version"), "no attribute 'schema_version'"),
    (
        lambda run: run.attrs.update(schema_version="one"),
        "'schema_version' is 'one', expected a whole number",
    ),
    (
        lambda run: run.attrs.update(schema_version=3),
        "schema version 3, but this wtkit reads up to 2; upgrade",
    ),
    (lambda run: run.attrs.pop("network"), "attribute 'network' is missing"),
    (lambda run: run.attrs.pop("data"), "attribute 'data' is missing"),
    (lambda run: run.drop_vars("seconds"), "'seconds' is missing"),
    (lambda run: run.assign(test_error=run["matrix_angle"]), "'test_error' has the dimensions"),
    (
        lambda run: run["delta_angle"].attrs.update(units="radian"),
        "'delta_angle' is in 'radian', expected 'degree'",
    ),
    (lambda run: run["delta_angle"].attrs.clear(), "'delta_angle' is in None, expected 'degree'"),
    (lambda run: run.drop_vars("layer"), "'layer' is missing"),
    (lambda run: run.drop_vars("fan_in"), "'fan_in' is missing"),
    (lambda run: run.drop_vars("norm_order"), "'norm_order' is missing"),
    (lambda run: run.drop_vars("epoch"), "'epoch' is missing"),
    (lambda run: run.assign_coords(epoch=run["epoch"] + 1), "'epoch' does not count 0, 1, 2, …"),
    (lambda run: run["test_error"].__setitem__(1, 101), "'test_error' leaves the range 0 to 100 %"),
    (
        lambda run: run["test_error_top5"].__setitem__(1, -1),
        "'test_error_top5' leaves the range 0 to 100 %",
    ),
    (
        lambda run: run["matrix_angle"].__setitem__((1, 1), 181),
        "'matrix_angle' leaves the range 0 to 180 degree",
    ),
    (
        lambda run: run["delta_angle"].__setitem__((1, 1), -0.1),
        "'delta_angle' leaves the range 0 to 180 degree",
    ),
]


@pytest.mark.parametrize(
    ("violate", "message"), VIOLATIONS, ids=[message for _, message in VIOLATIONS]
)
def test_a_violation_is_refused_on_save_and_on_open(violate, message, tmp_path):
    run = make()
    changed = violate(run)
    run = changed if isinstance(changed, xr.Dataset) else run
    path = tmp_path / "run.nc"
    with pytest.raises(WtkitError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        results.save(run, path)
    assert not path.exists()
    run.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(WtkitError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        open_run(path)


def test_what_the_schema_does_not_know_is_kept(tmp_path):
    run = make().assign(extra=("epoch", np.ones(4)))
    results.save(run, tmp_path / "run.nc")
    assert "extra" in open_run(tmp_path / "run.nc")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, little_space):
    path = save(tmp_path, "run.nc")
    with (
        little_space(4096),
        pytest.raises(WtkitError, match=re.escape(f"cannot write {path}: File too large; free")),
    ):
        results.save(make(epochs=9), path)
    xr.testing.assert_identical(open_run(path), make())
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]


def test_a_missing_or_broken_run_is_named(tmp_path):
    path = tmp_path / "run.nc"
    with pytest.raises(WtkitError, match=re.escape(f"no run at {path}; train it first")):
        open_run(path)
    path.write_text("not netCDF")
    with pytest.raises(WtkitError, match=re.escape(f"cannot read {path}: ")):
        open_run(path)


def as_version_1(run):
    """What a version 1 run with the values of ``run`` opens as."""
    twins = {f"{name}_all_weights": run[name] for name in LIVE_VARIABLES}
    kept = {name: twin.assign_attrs(run[name].attrs) for name, twin in twins.items()}
    labels = {"held_out_images": -1, "angles_over": ALL_WEIGHTS}
    return run.assign(kept).assign_coords(
        {name: run[name].copy(data=value) for name, value in labels.items()}
    )


def without_what_came_with_version_2(run):
    later = [f"{name}_all_weights" for name in LIVE_VARIABLES]
    later += ["live_share", "held_out_images", "angles_over"]
    return run.drop_vars(later).assign_attrs(schema_version=1)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_files_of_every_version_stay_readable(version):
    """A new version adds its file, ``trajectory.save(make(), "tests/data/run_v2.nc")``; an old one
    is never remade."""
    run = open_run(ROOT / f"tests/data/run_v{version}.nc")
    xr.testing.assert_equal(run, as_version_1(make()) if version == 1 else make())


def test_the_angles_of_version_1_are_those_over_all_weights(tmp_path):
    path = tmp_path / "old.nc"
    without_what_came_with_version_2(make()).to_netcdf(path, engine="h5netcdf")
    run = open_run(path)
    xr.testing.assert_equal(run["matrix_angle_all_weights"], run["matrix_angle"])
    assert run["angles_over"].item() == "all weights" and run["held_out_images"].item() == -1
    assert run.attrs["schema_version"] == SCHEMA_VERSION and run["live_share"].isnull().all()
    results.save(make(seed=1), tmp_path / "new.nc")
    tree = results.gather([path, tmp_path / "new.nc"], "some")
    assert tree["resnet18"]["angles_over"].values.tolist() == ["all weights", "live weights"]

    old = without_what_came_with_version_2(tree["resnet18"].to_dataset())
    xr.DataTree.from_dict({"/resnet18": old}).to_netcdf(path, engine="h5netcdf")
    node = open_results(path, quiet=True)["resnet18"]
    assert node["angles_over"].values.tolist() == ["all weights"] * 2
    assert node["weight_norm_all_weights"].dims == node["matrix_angle"].dims


def test_files_from_before_a_variable_open_with_it_not_measured(tmp_path):
    path = tmp_path / "old.nc"
    without_what_came_with_version_2(make()).drop_vars("weight_norm").to_netcdf(
        path, engine="h5netcdf"
    )
    run = open_run(path)
    assert run["weight_norm"].dims == run["matrix_angle"].dims and run["weight_norm"].isnull().all()


def test_texts_stay_whole_whoever_joins_and_saves(tmp_path):
    """xarray opens texts with the width of the longest one, which cut longer ones that were joined
    to them."""
    short = open_run(save(tmp_path, "short.nc", method="frozen"))
    long = open_run(save(tmp_path, "long.nc", method="symmetric_alignment", variant="rate=0.05"))
    rules = {"data_vars": "all", "coords": list(RUN_COORDS), "compat": "equals", "join": "exact"}
    joined = xr.concat([short, long], "run", combine_attrs="override", **rules)
    results.save(joined, tmp_path / "joined.nc")
    joined.to_netcdf(tmp_path / "by_xarray.nc", engine="h5netcdf")
    results.save(xr.DataTree.from_dict({"/resnet18": joined}), tmp_path / "tree.nc")
    trees = [open_results(tmp_path / "tree.nc", quiet=True)["resnet18"].to_dataset()]
    for node in [
        *trees,
        *(xr.load_dataset(tmp_path / name) for name in ("joined.nc", "by_xarray.nc")),
    ]:
        assert node["method"].values.tolist() == ["frozen", "symmetric_alignment"]
        assert node["variant"].values.tolist() == ["", "rate=0.05"]


# ------------------------------------------------------------------------------------------- gather


def test_runs_are_gathered_by_network_and_short_ones_end_in_nan(tmp_path):
    three = {
        "layer": ["conv1", "conv2", "fc"],
        "kind": ["Conv2d", "Conv2d", "Linear"],
        "fan_in": [147, 576, 512],
    }
    deep = results.dataset({"test_error": [90.0]}, three, LABELS, network="resnet50", data="digits")
    results.save(deep, tmp_path / "c.nc")
    paths = [
        save(tmp_path, "a.nc"),
        save(tmp_path, "b.nc", epochs=1, seed=1, status="diverged"),
        tmp_path / "c.nc",
    ]
    tree = results.gather(paths, "some")
    assert tree.attrs == {"schema_version": 2, "experiment": "some"}
    assert set(tree.children) == {"resnet18", "resnet50"}

    node = tree["resnet18"].to_dataset()
    assert dict(node.sizes) == {"run": 2, "epoch": 4, "layer": 2}
    assert node.attrs == make().attrs
    assert node["test_error"].dims == ("run", "epoch") and node["matrix_angle"].dims == (
        "run",
        "epoch",
        "layer",
    )
    np.testing.assert_array_equal(node["test_error"], [[0, 10, 20, 30], [0, 10, np.nan, np.nan]])
    assert list(node["status"].values) == ["complete", "diverged"]
    assert all(node[name].dims == ("run",) for name in RUN_COORDS)
    assert all(node[name].dims == ("layer",) for name in LAYER_COORDS)
    assert dict(tree["resnet50"].sizes) == {"run": 1, "epoch": 1, "layer": 3}

    results.save(tree, tmp_path / "results.nc")
    xr.testing.assert_identical(open_results(tmp_path / "results.nc", quiet=True), tree)


def test_a_violation_in_a_gathered_node_is_refused(tmp_path):
    tree = results.gather([save(tmp_path, "a.nc")], "some")
    tree["resnet18/test_error"][0, 0] = 200
    with pytest.raises(WtkitError, match=r"results.nc \(resnet18\): 'test_error' leaves the range"):
        results.save(tree, tmp_path / "results.nc")


def test_what_cannot_be_gathered_is_named(tmp_path):
    with pytest.raises(WtkitError, match="to gather for 'some'"):
        results.gather([], "some")
    first = save(tmp_path, "a.nc")
    other = save(tmp_path, "b.nc", layers=LAYERS | {"layer": ["conv1", "head"]})
    with pytest.raises(
        WtkitError, match=re.escape(f"{other}: its layers differ from those of the other resnet18")
    ):
        results.gather([first, other], "some")
    other = save(tmp_path, "b.nc", data="cifar10")
    with pytest.raises(
        WtkitError, match=re.escape(f"{other}: its data are cifar10, those of other runs digits")
    ):
        results.gather([first, other], "some")
    again = save(tmp_path, "again.nc")
    same = f"{again}: the same run as {first} (resnet18, weight_mirror, relu_bn, 0)"
    with pytest.raises(WtkitError, match=re.escape(same)):
        results.gather([first, again], "some")


def test_variants_may_have_learned_different_data(tmp_path):
    paths = [
        save(tmp_path, f"{variant}{seed}.nc", variant=variant, data=data, seed=seed)
        for variant, data in (("easy", "digits"), ("hard", "cifar10"), ("again", "digits"))
        for seed in (0, 1)
    ]
    tree = results.gather(paths, "some")
    assert tree["resnet18"].attrs["data"] == "digits+cifar10"
    results.save(tree, tmp_path / "results.nc")
    xr.testing.assert_identical(open_results(tmp_path / "results.nc", quiet=True), tree)
    other = save(tmp_path, "other.nc", variant="easy", data="cifar10", seed=2)
    with pytest.raises(
        WtkitError, match=r"its data are cifar10, those of other runs digits; .* variant"
    ):
        results.gather([*paths, other], "some")


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WtkitError, match=r"cannot write .*/file/x\.nc: "):
        results.save(make(), tmp_path / "file" / "x.nc")


def test_select_takes_runs_by_label_and_keeps_the_dimension(tmp_path):
    paths = [
        save(tmp_path, "a.nc"),
        save(tmp_path, "b.nc", variant="long"),
        save(tmp_path, "c.nc", method="backprop"),
        save(tmp_path, "d.nc", norm_order="bn_relu"),
    ]
    node = results.gather(paths, "some")["resnet18"]
    assert select(node).sizes["run"] == 3
    assert select(node, variant=None).sizes["run"] == 4
    assert select(node, "weight_mirror").sizes["run"] == 2
    assert select(node, "weight_mirror", norm_order="relu_bn").sizes["run"] == 1
    assert select(node, "weight_mirror", variant="long").sizes["run"] == 1
    assert matching_runs(node, "kolen_pollack").sizes["run"] == 0
    with pytest.raises(WtkitError, match="expected one network's results"):
        select(results.gather(paths, "some"))


# ------------------------------------------------------------------------------------- open_results


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder to stand in, with wtkit imported from a checkout that holds no results."""
    monkeypatch.delenv("WTKIT_RESULTS", raising=False)
    monkeypatch.setattr(
        "wtkit.results.store.__file__", str(tmp_path / "elsewhere/wtkit/results/store.py")
    )
    (tmp_path / "here/notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/notebooks")
    gathered = results.gather([save(tmp_path, "run.nc")], "some")

    def put(where):
        path = tmp_path / where / "results.nc"
        gathered.attrs["experiment"] = path.parent.name
        results.save(gathered, path)
        return path

    return put


def test_results_are_looked_for_in_order(checkout, tmp_path, monkeypatch, capsys):
    def opened(*where):
        open_results(*where)
        return capsys.readouterr().err

    note = " (the reference results that come with wtkit, not yours)\n"
    checkout("elsewhere/results/reference/digits")
    assert "elsewhere/results/reference/digits/results.nc" + note in opened()
    checkout("here/results/reference/digits")
    assert "here/results/reference/digits/results.nc" + note in opened()
    checkout("elsewhere/results/digits")  # one's own, wherever it is, before the reference
    assert opened().endswith("elsewhere/results/digits/results.nc\n")
    checkout("here/results/digits")
    assert opened().endswith("here/results/digits/results.nc\n")
    checkout("here/notebooks/results/digits")
    assert opened() == "Results of digits: results/digits/results.nc\n"

    checkout("here/results/cifar10")
    monkeypatch.setenv("WTKIT_RESULTS", "cifar10")
    assert opened().startswith("Results of cifar10: ")
    file = checkout("some/other")
    assert opened(file) == f"Results of other: {file}\n"
    monkeypatch.setenv("WTKIT_RESULTS", str(file))
    assert opened() == f"Results of other: {file}\n"
    assert opened("digits").startswith("Results of digits: ")


def test_an_installed_wtkit_contains_the_reference_results(checkout, tmp_path, capsys):
    checkout("elsewhere/wtkit/reference/digits")
    checkout("elsewhere/wtkit/reference/kp_decay")
    open_results()
    said = capsys.readouterr().err
    assert said.startswith("Results of digits: ") and "reference results that come with" in said
    checkout("here/results/kp_decay")
    open_results("kp_decay")
    assert capsys.readouterr().err.endswith("here/results/kp_decay/results.nc\n")
    words = r"mean 'digits'.*there are: digits, kp_decay; make some with 'wtkit gather'"
    with pytest.raises(WtkitError, match=words):
        open_results("digit")


def test_quiet_says_nothing(checkout, capsys):
    open_results(checkout("here/results/digits"), quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_folder_opens_by_its_path_and_not_by_a_single_word(checkout, tmp_path, capsys):
    def opened(*where):
        open_results(*where)
        return capsys.readouterr().err

    checkout("here/notebooks/digits")
    own = checkout("elsewhere/results/digits")
    assert opened("digits").endswith("elsewhere/results/digits/results.nc\n")
    assert opened("../notebooks/digits") == "Results of digits: digits/results.nc\n"
    checkout("here/other/digits")
    for folder in ("../other/digits", "../other/digits/", tmp_path / "here/other/digits"):
        assert opened(folder).endswith("other/digits/results.nc\n")
    assert opened(own.parent) == f"Results of digits: {own}\n"


def test_missing_results_are_named_with_what_there_is(checkout, tmp_path):
    with pytest.raises(
        WtkitError, match="no results of an experiment 'digits'; there are: none; make some with"
    ):
        open_results()
    checkout("here/results/digits")
    with pytest.raises(
        WtkitError, match=r"experiment 'digts' \(did you mean 'digits'\?\); there are: digits"
    ):
        open_results("digts")
    with pytest.raises(WtkitError, match=r"no results at .*gone\.nc; make them"):
        open_results(tmp_path / "gone.nc")
    with pytest.raises(WtkitError, match=r"run\.nc: a single run; .*open_run"):
        open_results(tmp_path / "run.nc")
    (tmp_path / "broken.nc").write_text("not netCDF")
    with pytest.raises(WtkitError, match=r"cannot read .*broken\.nc: "):
        open_results(tmp_path / "broken.nc")


@pytest.mark.slow
def test_a_reader_of_results_imports_no_torch(tmp_path):
    path = tmp_path / "results.nc"
    results.save(results.gather([save(tmp_path, "run.nc")], "some"), path)
    code = f"import sys, wtkit; wtkit.open_results({str(path)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
