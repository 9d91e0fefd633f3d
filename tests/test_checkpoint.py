"""What is resumed from a checkpoint, and what is not: a file that cannot be trusted runs nothing,
and is named."""

import contextlib
import copy
import dataclasses
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

import wtkit
from wtkit.__main__ import main
from wtkit.experiments import RunConfig, run_config
from wtkit.results import open_run
from wtkit.training import Run, provenance, stored, write_checkpoint
from wtkit.training.fitting import check_state
from wtkit.training.stored import read_checkpoint

CONFIG = RunConfig(
    method="kolen_pollack", network="mlp", network_options={"hidden": [4]}, data="digits",
    image_size=8, classes=2, epochs=2, batch_size=64, delta_examples=4,
)  # fmt: skip


class Stop(Exception):
    pass


def interrupted(folder, config=CONFIG, after=1):
    """A folder with the checkpoint after so many epochs."""

    def stop(run):
        if run.sizes["epoch"] == after + 1:
            raise Stop

    with pytest.raises(Stop):
        wtkit.train(config, folder, device="cpu", on_epoch=stop, quiet=True)
    return folder / "checkpoint.pt"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a checkpoint after the first of two epochs."""
    return interrupted(tmp_path_factory.mktemp("run")).read_bytes()


@pytest.fixture
def path(tmp_path, written):
    (tmp_path / "checkpoint.pt").write_bytes(written)
    return tmp_path / "checkpoint.pt"


def refusal(path, config=CONFIG):
    """The error, in a line that names the file and both ways out; the file is as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(wtkit.WtkitError) as raised:
        wtkit.train(config, path.parent, device="cpu", quiet=True)
    text = str(raised.value)
    assert text.startswith(f"cannot resume from {path}: ")
    assert "\n" not in text and "delete it, or give --set-aside" in text
    assert before is None or path.read_bytes() == before
    return text


def test_a_checkpoint_holds_tensors_and_plain_values_and_gives_them_back(path):
    state = torch.load(path, weights_only=True)
    assert {type(value) for entry in state["records"] for value in entry.values()} == {
        float, torch.Tensor
    }  # fmt: skip
    again = path.with_name("again.pt")
    write_checkpoint(state, again)
    run = Run(CONFIG, torch.device("cpu"))
    check_state(run, read_checkpoint(again))
    run.restore(read_checkpoint(again))
    assert isinstance(run.records[0]["matrix_angle"], np.ndarray)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, state["model"][name])


class Call:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_checkpoint_that_is_a_pickle_of_a_call_runs_nothing(path, tmp_path):
    state, called = torch.load(path, weights_only=True), tmp_path / "called"
    state["records"][0]["train_loss"] = Call(called)
    with pytest.raises(wtkit.WtkitError, match=r"state\['records'\]\[0\]\['train_loss'\] is of ty"):
        write_checkpoint(state, path)
    # one whose checksum is right
    path.unlink()
    torch.save(state, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = stored._MARK + stored._digest(archive)
    assert "damaged" in refusal(path)
    torch.save(Call(called), path)
    assert "no checksum" in refusal(path)
    torch.save(Call(called), path, _use_new_zipfile_serialization=False)
    assert "no checkpoint" in refusal(path)
    path.write_bytes(pickle.dumps(Call(called)))
    assert "no checkpoint" in refusal(path)
    assert not called.exists()


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        [assert_same(one[key], other[key]) for key in one]
    elif isinstance(one, list):
        [assert_same(*pair) for pair in zip(one, other, strict=True)]
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other or np.isnan(one)


def test_no_flipped_byte_goes_unnoticed(path, written):
    """A file is refused, or gives what was written: a few bytes of an archive have no meaning."""
    expected, refused = read_checkpoint(path), 0
    for place in range(0, len(written), max(1, len(written) // 400)):
        damaged = bytearray(written)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert_same(read_checkpoint(path), expected)
        except wtkit.WtkitError:
            refused += 1
    assert refused > 200


def test_a_small_checkpoint_that_inflates_is_refused(path, tmp_path):
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for member in archive.infolist():
            small.writestr(member.filename, archive.read(member))
        small.writestr("archive/data/99", bytes(10**8))
        small.comment = stored._MARK + stored._digest(small)
    os.replace(tmp_path / "small.pt", path)
    assert path.stat().st_size < 10**6
    assert "a part was damaged or changed" in refusal(path)


@pytest.mark.parametrize("left", [0, 100, -200, -60, -1])
def test_a_checkpoint_that_is_cut_off_is_named(path, written, left):
    path.write_bytes(written[:left])
    assert re.search("it is cut off|a part was damaged", refusal(path))


def test_a_checkpoint_of_an_earlier_version_is_said_in_a_sentence(path):
    """They held arrays, which only an unpickler that runs code can read."""
    state = torch.load(path, weights_only=True)
    state["records"][0]["matrix_angle"] = np.zeros(2)
    torch.save(state, path)
    assert "damaged, or from an earlier version" in refusal(path)


def test_a_checkpoint_without_its_last_bytes_is_said_to_be_cut_off(path, written):
    """The checksum stands at the end."""
    for left in range(1, 140):
        path.write_bytes(written[:-left])
        assert re.search("cut off|a part was damaged", refusal(path)), left


def test_a_checkpoint_that_cannot_be_read_is_named(path, monkeypatch):
    def closed(self):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", closed)
        with pytest.raises(wtkit.WtkitError, match=r"it cannot be read \(Permission denied\)"):
            read_checkpoint(path)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_checkpoint_that_is_no_file_is_named(path, kind):
    path.unlink()
    os.mkdir(path) if kind == "folder" else os.mkfifo(path)
    assert "it is no file" in refusal(path)


def without(*keys):
    def spoil(state):
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return spoil


def put(value, *keys):
    def spoil(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return spoil


UNFIT = [
    *((without(key), f"lacks {key!r}") for key in ("model", "step", "loss", "random", "seconds")),
    (without("revision"), "lacks 'revision'"),
    (without("status"), "its status is None"),
    (without("records"), "'records' is of an unexpected type"),
    (without("optimizer"), "'optimizer' is of an unexpected type"),
    (without("provenance"), "lacks 'provenance'"),
    (without("random_cuda"), "lacks 'random_cuda'"),
    (put("x", "random_cuda"), "'random_cuda' is of an unexpected type"),
    (without("model", "fc1.weight"), "lacks 'model.fc1.weight'"),
    (without("mirror_counts", "fc2"), "lacks 'mirror_counts.fc2'"),
    (without("optimizer", "state", 0, "momentum_buffer"), "lacks 'optimizer.state.0.momentum_bu"),
    (without("optimizer", "param_groups", 0), "'optimizer.param_groups' has 1 entries"),
    (without("records", 1, "test_error"), "lacks 'records[1].test_error'"),
    (without("records", 0, "seconds"), "lacks 'records[0].seconds'"),
    (put([], "records"), "running with 0 records"),
    (lambda state: state["records"].extend(state["records"] * 9), "with 20 records, but the run "),
    (put("complete", "status"), "complete with 2 records, but the run has 2 epochs"),
    (put("done", "status"), "its status is 'done', expected one of running"),
    (put(10**6, "step"), "at step 1000000 of"),
    (put(-1, "step"), "at step -1 of"),
    (put(1.5, "step"), "'step' is of an unexpected type, float"),
    (put("0", "step"), "'step' is of an unexpected type, str"),
    (put("{", "provenance"), "'provenance' is no JSON"),
    (put("[]", "provenance"), "'provenance' is of an unexpected type"),
    (put(torch.zeros(2), "loss"), "'loss' is torch.float32 of shape (2,), but torch.float32 of"),
    (put(torch.zeros(4, 4), "model", "fc1.weight"), "of shape (4, 4), but torch.float32 of shape "),
    (put(torch.zeros(1), "model", "more"), "it has 'model.more', which is no part of this run"),
    (put(torch.zeros(1), "optimizer", "state", 0, "momentum_buffer"), "of shape (1,)"),
    (put({}, "optimizer", "state", 99), "'optimizer.state.99' belongs to no parameter"),
    (put(torch.zeros(9), "records", 0, "matrix_angle"), "'records[0].matrix_angle' is of an unex"),
    (lambda state: state["random"].fill_(255), "'random' is no state of torch's generator"),
    (put("fast", "records", 0, "seconds"), "'records[0].seconds' is of an unexpected type"),
]


@pytest.mark.parametrize(("spoil", "message"), UNFIT, ids=[message for _, message in UNFIT])
def test_a_checkpoint_that_does_not_fit_is_named_with_what_is_wrong(path, spoil, message):
    """Though its checksum is right."""
    state = torch.load(path, weights_only=True)
    spoil(state)
    write_checkpoint(state, path)
    assert message in refusal(path)


def test_on_request_an_unusable_checkpoint_is_renamed_and_none_is_lost(tmp_path, capsys):
    command = ["train", *CONFIG.arguments(), "--device=cpu", f"--output={tmp_path}"]
    for content in (b"first", b"second"):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        assert main(command) == 1
        assert main([*command, "--set-aside"]) == 0
        (tmp_path / "trajectory.nc").unlink()
        (tmp_path / "finished.nc").unlink()
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 2
    assert "renamed to checkpoint.unusable2.pt." in said.out
    kept = [(tmp_path / f"checkpoint.unusable{n}.pt").read_bytes() for n in (1, 2)]
    assert kept == [b"first", b"second"]


@pytest.mark.parametrize(
    "change",
    [
        {}, {"precision": "fp16"}, {"precision": "bf16"}, {"momentum": 0.0}, {"lr": 1e30},
        {"method": "weight_mirror"}, {"method": "symmetric_alignment"},
        {"method": "product_feedback_alignment"},
        {"method": "kolen_pollack", "optimizer": "adamw"},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_goes_on_to_the_same_end_bit_for_bit(tmp_path, change):
    """With the checkpoint of other settings beside its own; also at its end, if only the trajectory
    is not written yet, and if it has diverged."""
    config = dataclasses.replace(CONFIG, **change)
    unbroken = wtkit.train(config, device="cpu", quiet=True)
    interrupted(tmp_path, dataclasses.replace(config, seed=1), after=0)
    last = unbroken.sizes["epoch"] - 1
    for after in sorted({0, 1, last}):
        interrupted(tmp_path, config, after)
    resumed = wtkit.train(config, tmp_path, device="cpu", quiet=True)
    for name in unbroken.data_vars:
        if name != "seconds":
            np.testing.assert_array_equal(unbroken[name], resumed[name], err_msg=name)
    assert open_run(tmp_path / "trajectory.nc").equals(resumed)
    assert resumed.status == unbroken.status


def test_a_checkpoint_from_a_gpu_has_its_random_state_which_a_cpu_leaves_alone(path):
    state = copy.deepcopy(read_checkpoint(path))
    state["random_cuda"] = torch.zeros(16, dtype=torch.uint8)
    run = Run(CONFIG, torch.device("cpu"))
    check_state(run, state)
    run.restore(state)


def test_a_value_that_cannot_be_read_back_is_refused_before_training(tmp_path):
    with pytest.raises(wtkit.WtkitError, match=re.escape("state['model']['x'] is of type set")):
        write_checkpoint({"model": {"x": {1}}}, tmp_path / "checkpoint.pt")
    assert not any(tmp_path.iterdir())


def test_settings_without_effect_are_said_where_a_run_starts(capsys):
    wtkit.train(dataclasses.replace(CONFIG, lr_drops=(5,), epochs=1), device="cpu")
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        "Warning: setting 'lr_drops': expected epochs below 1, the number of 'epochs', got 5; "
        "leave it out"
    )


def test_another_number_of_threads_is_said_where_a_run_goes_on(tmp_path, capsys, monkeypatch):
    interrupted(tmp_path)
    interrupted(tmp_path, after=2)  # with the same number nothing is said
    assert "Warning" not in capsys.readouterr().out
    threads = torch.get_num_threads()
    interrupted(tmp_path / "other")
    monkeypatch.setattr("torch.get_num_threads", lambda: threads + 1)
    wtkit.train(CONFIG, tmp_path / "other", device="cpu")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Resuming after epoch 1 of 2")
    assert said[1].startswith(f"Warning: resumed with {threads + 1} threads instead of {threads}: ")


def test_what_changes_rounding_is_compared_with_the_last_stretch():
    first = {"threads": 2, "torch": "2.11", "resumed": [{"threads": 4}]}
    change = provenance.rounding_change
    assert change(json.dumps(first), json.dumps({"threads": 4, "torch": "2.11"})) == ""
    assert change(json.dumps(first), json.dumps({"threads": 2, "torch": "2.12"})) == (
        "2 threads instead of 4, torch 2.12 instead of 2.11"
    )


@pytest.mark.parametrize("mode", ["no_grad", "inference", "autocast", "float64", "meta"])
def test_a_run_trains_in_its_own_modes_whatever_the_caller_has_set(mode):
    expected = wtkit.train(CONFIG, device="cpu", quiet=True)
    before = torch.get_default_dtype()
    modes = {
        "no_grad": torch.no_grad, "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu"), "meta": lambda: torch.device("meta"),
        "float64": contextlib.nullcontext,
    }  # fmt: skip
    with modes[mode]():
        if mode == "float64":
            torch.set_default_dtype(torch.float64)
        try:
            found = wtkit.train(CONFIG, device="cpu", quiet=True)
            assert torch.get_default_dtype() == (torch.float64 if mode == "float64" else before)
        finally:
            torch.set_default_dtype(before)
    for name in ("test_error", "train_loss", "matrix_angle"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_settings_that_are_no_config_are_named():
    with pytest.raises(wtkit.WtkitError, match=r"expected a RunConfig, such as .*run_config"):
        wtkit.train({"method": "backprop"})
    for wrong in ([1], {1: 2}, None):
        with pytest.raises(wtkit.WtkitError, match=r"expected a mapping.*, got"):
            run_config(wrong)


def test_a_network_without_anything_to_train_is_named():
    config = RunConfig(method="backprop", network="own_networks:Still", image_size=32, epochs=1)
    with pytest.raises(wtkit.WtkitError, match=r"'own_networks\.Still': all parameters are frozen"):
        wtkit.train(config, device="cpu", quiet=True)
