"""Result files of strangers: damaged, edited, unfinished, or of runs that do not belong
together."""

import json
import os
from contextlib import ExitStack
from pathlib import Path

import h5py
import pytest
import xarray as xr

from wtkit import WtkitError, results
from wtkit.__main__ import main
from wtkit.experiments import run_config
from wtkit.results import open_results, open_run
from wtkit.training.checkpoint import claim_folder, finish

RUN = Path(__file__).parent / "data/run_v2.nc"


def make(network="resnet18", settings=None, **labels):
    run = open_run(RUN)
    for name, value in labels.items():
        run[name] = value
    if settings is not None:
        run["settings"] = settings if isinstance(settings, str) else json.dumps(settings)
    return run.assign_attrs(network=network)


def save(path, **changes):
    results.save(make(**changes), path)
    return path


def refused(call, *arguments):
    with pytest.raises(WtkitError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    whole = save(tmp_path / "run.nc").read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path = tmp_path / "damaged.nc"
        path.write_bytes(damaged)
        try:
            assert open_run(path).identical(make())  # of the line with the checksum itself
        except WtkitError as error:
            assert str(path) in str(error)


def test_gathered_results_have_a_checksum_too(tmp_path):
    tree = results.gather([save(tmp_path / "run.nc")], "mine")
    results.save(tree, tmp_path / "results.nc")
    damaged = bytearray((tmp_path / "results.nc").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "results.nc").write_bytes(damaged)
    text = refused(open_results, tmp_path / "results.nc")
    assert f"cannot read {tmp_path}/results.nc: " in text and "a part of it was damaged" in text


def test_what_another_program_wrote_or_edited_opens(tmp_path):
    path = save(tmp_path / "run.nc")
    xr.load_dataset(path, engine="h5netcdf").to_netcdf(tmp_path / "again.nc", engine="h5netcdf")
    assert open_run(tmp_path / "again.nc").identical(make())
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "read by hand"
    assert open_run(path).attrs["note"] == "read by hand"
    assert h5py.is_hdf5(path)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_named(tmp_path, share):
    content = save(tmp_path / "run.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(content[: int(share * len(content))])
    for call in (open_run, open_results):
        assert f"cannot read {tmp_path}/cut.nc: " in refused(call, tmp_path / "cut.nc")


def test_a_damaged_file_of_before_is_read_or_named_without_a_traceback(tmp_path, capfd):
    """It has no checksum."""
    whole, path = RUN.read_bytes(), tmp_path / "run.nc"
    for place in [*range(0, 100, 3), *range(100, len(whole), len(whole) // 40)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            results.gather([path], "mine")
        except WtkitError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["folder", "pipe", "text"])
def test_what_is_no_netcdf_is_named_and_not_waited_for(tmp_path, capsys, kind):
    path = tmp_path / "notes.py"
    {"folder": os.mkdir, "pipe": os.mkfifo, "text": lambda p: p.write_text("x = 1")}[kind](path)
    text = refused(open_run, path)
    assert "it is no netCDF file" in text and text.endswith("; name the trajectory.nc of a run")
    output = tmp_path / "results.nc"
    run = save(tmp_path / "run.nc")
    assert main(["gather", str(path), "--experiment=x", f"--output={output}"]) == 1
    assert main(["gather", str(run), "--experiment=x", f"--output={path}"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not output.exists()


BROKEN = [
    ({"status": "running"}, "its status is 'running', expected complete or diverged"),
    ({"settings": "{'lr': 1}"}, "'settings' is \"{'lr': 1}\", expected JSON"),
    ({"settings": "[" * 10**5}, "'settings' is '[[["),
    ({"settings": "3"}, "'settings' is '3', expected JSON"),
    ({"layer": ["fc", "fc"]}, "two layers are called 'fc'"),
    ({"network": "../../x"}, "attribute 'network' is '../../x', expected a name without /"),
    ({"test_error": ("epoch", list("abcd"), {"units": "%"})}, "'test_error' holds <U1, expected n"),
    ({"weight_norm": -make()["weight_norm"].fillna(1)}, "'weight_norm' leaves the range 0 to inf"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_run_that_cannot_be_one_is_refused(tmp_path, changes, message):
    run = make(network=changes.pop("network", "resnet18"), settings=changes.pop("settings", None))
    for name, value in changes.items():
        run[name] = ("layer", value) if name == "layer" else value
        if name in run.data_vars:
            run[name].attrs = make()[name].attrs
    run.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    for call in (open_run, lambda path: results.gather([path], "mine")):
        assert message in refused(call, tmp_path / "run.nc")
    assert message in refused(results.save, run, tmp_path / "again.nc")
    assert not (tmp_path / "again.nc").exists()


def test_runs_of_one_variant_have_one_set_of_settings(tmp_path):
    one, two = {"lr": 0.1, "seed": 0, "data": "digits"}, {"lr": 0.2, "seed": 1, "data": "digits"}
    first = save(tmp_path / "first.nc", settings=one)
    second = save(tmp_path / "second.nc", settings=two, seed=1)
    text = refused(results.gather, [first, second], "mine")
    assert f"{second}: its setting 'lr' is 0.2, that of the same method and variant in " in text
    assert f"{first} 0.1; give one a variant of its own" in text
    results.gather([first, save(second, settings=two, seed=1, variant="fast")], "mine")
    same = one | {"seed": 1, "data_root": "/elsewhere/data", "workers": 9}
    tree = results.gather([first, save(second, settings=same, seed=1)], "mine")
    results.save(tree, tmp_path / "results.nc")
    open_results(tmp_path / "results.nc", quiet=True)

    node = tree["resnet18"].to_dataset()
    node["settings"] = ("run", [json.dumps(one), json.dumps(two)])
    xr.DataTree.from_dict({"/resnet18": node}).to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    assert "(resnet18, run 1): its setting 'lr' is 0.2" in refused(
        open_results, tmp_path / "results.nc"
    )
    node["settings"] = ("run", [json.dumps(one)] * 2)
    node["seed"] = ("run", [0, 0])
    xr.DataTree.from_dict({"/resnet18": node}).to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    assert "the same run as" in refused(open_results, tmp_path / "results.nc")


def test_folders_of_images_of_other_names_are_other_data(tmp_path):
    paths = [
        save(
            tmp_path / f"{seed}.nc",
            seed=seed,
            settings={"data": "image_folder", "data_root": root},
        )
        for seed, root in enumerate(["/a/birds", "/b/birds", "/a/fish"])
    ]
    results.gather(paths[:2], "mine")
    assert "its setting 'data_root' is 'fish'" in refused(results.gather, paths, "mine")


def test_results_of_two_experiments_that_were_joined_open_again(tmp_path):
    for name in ("one", "two"):
        results.save(results.gather([save(tmp_path / "run.nc")], name), tmp_path / f"{name}.nc")
    joined = open_results(tmp_path / "one.nc", tmp_path / "two.nc", quiet=True)
    results.save(joined, tmp_path / "joined.nc")
    assert open_results(tmp_path / "joined.nc", quiet=True)["resnet18"].sizes["run"] == 2


def test_a_damaged_trajectory_is_restored_from_its_copy(tmp_path):
    config = run_config({"method": "backprop"})
    finish(make(settings=config.revision), tmp_path)
    whole = (tmp_path / "trajectory.nc").read_bytes()
    (tmp_path / "trajectory.nc").write_bytes(whole[:-200] + b"?" + whole[-199:])
    with ExitStack() as stack:
        text = refused(claim_folder, tmp_path, config, stack)
    assert "delete it and give the run's command again" in text
    (tmp_path / "trajectory.nc").unlink()
    with ExitStack() as stack:
        assert claim_folder(tmp_path, config, stack) is not None
    assert (tmp_path / "trajectory.nc").read_bytes() == whole


def test_a_small_file_that_claims_much_memory_is_refused(tmp_path):
    path = tmp_path / "run.nc"
    make().to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "r+") as file:
        file.create_dataset("huge", (10**11,), "f8", chunks=(1000,)).make_scale("huge")
    assert path.stat().st_size < 10**5
    assert "it would take 800 GB of memory" in refused(open_run, path)


def test_a_file_of_another_kind_is_called_what_it_is(tmp_path):
    other, run, gathered = (tmp_path / f"{name}.nc" for name in ("other", "run", "gathered"))
    xr.Dataset({"a": ("x", [1, 2])}).to_netcdf(other, engine="h5netcdf")
    results.save(results.gather([save(run)], "small"), gathered)
    for opened, path, words in [
        (open_results, other, "no attribute 'schema_version', so not a data set of wtkit"),
        (open_results, run, "a single run; open it with wtkit.results.open_run"),
        (open_run, gathered, "the gathered runs of an experiment; open it with open_results"),
    ]:
        assert refused(opened, path) == f"{path}: {words}"


def test_every_committed_file_of_results_has_a_checksum():
    files = sorted(RUN.parents[2].glob("results/reference/*/results.nc"))
    assert len(files) > 30
    assert [path for path in files if b"SHA-256 of all bytes" not in path.read_bytes()[-120:]] == []
