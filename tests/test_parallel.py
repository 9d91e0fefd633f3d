"""N processes with batch b are one process with batch N·b, to rounding: by torchrun and gloo, two
processes."""

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import data_parallel
import numpy as np
import pytest
import torch
from images import image_folder

import wtkit
from wtkit.experiments import RunConfig
from wtkit.networks import build_resnet, by_name
from wtkit.processes import ALONE
from wtkit.results import open_run

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
METHODS = ["backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"]
# which draw anew in every step, and leave parameters without gradient
OTHERS = ["sign_symmetry_batchwise", "frozen"]


@pytest.fixture(scope="module")
def without_batch_norm():
    build = build_resnet
    data_parallel.without_batch_norm()
    yield
    by_name.build_resnet = build


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, without_batch_norm):
    """Runs for the processes, by the name of their folders, and when each ends before its end."""
    images = image_folder(tmp_path_factory.mktemp("images"))

    def config(method, network="resnet18", **settings):
        options = (
            {"noise": "orthogonal", "noise_fraction": 0.5, "mirror_before": 8}
            if method == "weight_mirror"
            else {}
        )
        if network == "resnet18":
            settings["network_options"] = {"width": 16}  # instead of 64
        return RunConfig(
            method=method, options=options, data="image_folder", data_root=str(images),
            image_size=8, epochs=2, batch_size=12, lr=0.002, weight_decay=0.1, delta_examples=6,
            network=network, **settings,
        )  # fmt: skip

    return {
        **{method: (config(method), None) for method in (*METHODS, *OTHERS)},
        "mlp": (config("kolen_pollack", network="mlp", network_options={"hidden": [20]}), None),
        "dropout": (config("feedback_alignment", network="own_networks:Dropped"), None),
        "begun_by_two": (config("weight_mirror"), 2),
        "begun_by_one": (config("kolen_pollack"), None),
        "signalled": (config("weight_mirror", seed=1), "signal"),
        "odd_batch": (dataclasses.replace(config("backprop"), batch_size=9), None),
    }


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, jobs):
    """What each of the two processes found, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("by_two")
    begin(jobs["begun_by_one"][0], folder / "begun_by_one")
    (folder / "jobs.pickle").write_bytes(pickle.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(HERE / "data_parallel.py"), str(folder), str(folder / "jobs.pickle")],
        env=os.environ | {"OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)], folder


def begin(config, folder):
    """One epoch of a run, by one process."""

    def stop(run):
        if run.sizes["epoch"] == 2:
            raise data_parallel.Stop

    with pytest.raises(data_parallel.Stop):
        wtkit.train(config, folder, quiet=True, on_epoch=stop)


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("case", data_parallel.CASES)
def test_two_processes_are_one_with_twice_the_batch(by_two, case, view):
    alone = data_parallel.trained(case, lambda model: model, ALONE)
    (first, second), _ = by_two
    assert alone.keys() == first[case, view].keys()
    for name, value in alone.items():
        torch.testing.assert_close(first[case, view][name], value, rtol=1e-9, atol=1e-11, msg=name)
        assert torch.equal(first[case, view][name], second[case, view][name]), name


def test_kolen_pollack_exchanges_no_more_than_backprop(by_two):
    (first, _), _ = by_two
    assert first["reduced"]["kolen_pollack"] == first["reduced"]["backprop"] > 0


def test_a_B_that_differs_is_named_with_its_process(by_two):
    for rank, found in enumerate(by_two[0]):
        said, elsewhere = found["disturbed"]
        assert "'3.feedback' differs between process 0 and process 1 after epoch 3" in said
        assert elsewhere == (rank == 1)


def assert_close(a, b):
    """The same run to rounding, which float32 carries through two epochs of steps."""
    np.testing.assert_allclose(a.train_loss, b.train_loss, rtol=5e-3)
    for name in ("matrix_angle", "delta_angle"):
        np.testing.assert_allclose(a[name], b[name], atol=1)
    np.testing.assert_allclose(a.feedback_norm_ratio, b.feedback_norm_ratio, rtol=1e-3)
    np.testing.assert_allclose(a.test_error, b.test_error, atol=6)  # one of 18 images


@pytest.mark.parametrize("method", [*METHODS, *OTHERS, "mlp"])
def test_a_run_of_two_processes_is_that_of_one(by_two, jobs, method):
    (first, second), folder = by_two
    alone = wtkit.train(jobs[method][0], quiet=True)
    assert_close(first[method], alone)
    np.testing.assert_array_equal(first[method].matrix_angle, second[method].matrix_angle)
    assert '"processes": 2' in str(first[method].provenance.values)
    saved = open_run(folder / method / "trajectory.nc")
    np.testing.assert_array_equal(saved.train_loss, first[method].train_loss)


def test_each_process_drops_units_of_its_own(by_two):
    """And the same again from the same seed: with equal masks the batch would have half as many
    draws."""
    first, second = (np.array(found["dropped"]) for found in by_two[0])
    assert first.shape == second.shape
    assert 0.2 < np.mean(first != second) < 0.8
    assert by_two[0][0]["dropout"].status == "complete"


@pytest.mark.parametrize("name", ["begun_by_two", "begun_by_one"])
def test_a_checkpoint_resumes_on_another_number_of_processes(by_two, jobs, name):
    (first, _), folder = by_two
    config = jobs[name][0]
    resumed = (
        wtkit.train(config, folder / name, quiet=True) if name == "begun_by_two" else first[name]
    )
    assert '"resumed"' in str(resumed.provenance.values)
    assert_close(resumed, wtkit.train(config, quiet=True))


def test_a_signal_to_one_process_stops_both_at_one_step(by_two, jobs):
    (first, second), folder = by_two
    for found, why in ((first, "a signal to another process"), (second, "SIGTERM")):
        kind, said = found["signalled"]
        assert kind == "Stopped"
        assert f"stopped by {why} after step 3 of 3 of epoch 2" in said
    config = jobs["signalled"][0]
    assert_close(
        wtkit.train(config, folder / "signalled", quiet=True), wtkit.train(config, quiet=True)
    )


def test_a_batch_that_cannot_be_shared_is_refused(by_two):
    kind, said = by_two[0][0]["odd_batch"]
    assert kind == "WtkitError"
    assert "setting 'batch_size': 9 images" in said and "multiple of 2" in said
