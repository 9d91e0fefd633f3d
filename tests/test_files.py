"""What commands may overwrite, and the lock of a folder."""

import contextlib
import dataclasses
import errno
import os
import shutil
from pathlib import Path

import pytest

from wtkit.__main__ import main
from wtkit.errors import WtkitError
from wtkit.experiments import run_config
from wtkit.files import held, replacing, write_whole
from wtkit.processes import gpus
from wtkit.results import open_run
from wtkit.training.checkpoint import claim_folder, finish

DATA = Path(__file__).parent / "data"
ROOT = DATA.parent.parent
PLAN = ["plan", str(ROOT / "config/smoke.yaml"), "--no-measure"]


@pytest.fixture
def run(tmp_path):
    shutil.copy(DATA / "run_v2.nc", tmp_path / "trajectory.nc")
    return tmp_path / "trajectory.nc"


def gather(run, output):
    return main(["gather", str(run), "--experiment", "mine", "--output", str(output)])


def refused(status, capsys, path):
    """The error's only line; the file is as it was."""
    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith("wtkit: ") and error.count("\n") == 1
    assert str(path) in error
    return error


def test_gather_overwrites_gathered_results_only(run, tmp_path, capsys):
    output = tmp_path / "results.nc"
    assert gather(run, output) == 0
    assert gather(run, output) == 0
    code = tmp_path / "model.py"
    code.write_text("x = 1\n")
    for path in (run, code):
        before = path.read_bytes()
        assert "is not gathered results" in refused(gather(run, path), capsys, path)
        assert path.read_bytes() == before


def test_plan_overwrites_a_plan_only(run, tmp_path, capsys):
    output = tmp_path / "plan.csv"
    assert main([*PLAN, "--csv", str(output)]) == 0
    assert main([*PLAN, "--csv", str(output)]) == 0
    capsys.readouterr()
    other = tmp_path / "other.csv"
    other.write_text("network,error\n")
    for path in (run, other):
        before = path.read_bytes()
        status = main([*PLAN, "--csv", str(path)])
        assert "is not an earlier plan" in refused(status, capsys, path)
        assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe"])
def test_a_pipe_is_not_overwritten_and_not_waited_for(run, tmp_path, capsys, kind):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if kind != "pipe":
        (tmp_path / "link").symlink_to(pipe)
        pipe = tmp_path / "link"
    refused(gather(run, pipe), capsys, pipe)
    refused(main([*PLAN, "--csv", str(pipe)]), capsys, pipe)


@pytest.mark.parametrize("where", [".", "folder"])
def test_a_folder_is_not_a_file_to_write(run, tmp_path, capsys, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for status in (gather(run, where), main([*PLAN, "--csv", where])):
        assert status == 1
    assert capsys.readouterr().err.count("is a folder; name a file in it") == 2
    with pytest.raises(WtkitError, match="is a folder"):
        write_whole(Path(where), b"")


def test_a_plan_that_cannot_be_written_is_still_printed(tmp_path, capsys, little_space):
    with little_space(0):
        assert main([*PLAN, "--csv", str(tmp_path / "plan.csv")]) == 1
    printed = capsys.readouterr()
    assert "kolen_pollack" in printed.out
    assert "cannot write" in printed.err


def test_a_lock_that_is_a_link_leaves_its_target_as_it_is(tmp_path):
    (tmp_path / "target").write_text("kept")
    os.symlink("target", tmp_path / ".lock")
    with held(tmp_path, "taken"), pytest.raises(WtkitError, match="taken"), held(tmp_path, "taken"):
        pass
    assert (tmp_path / "target").read_text() == "kept"


@pytest.mark.parametrize("kind", ["link", "pipe", "file"])
def test_what_stands_in_place_of_a_partial_file_is_left_alone(tmp_path, kind):
    (tmp_path / "target").write_text("kept")
    partial = tmp_path / ".new.partial"
    if kind == "link":
        partial.symlink_to("target")
    elif kind == "pipe":
        os.mkfifo(partial)
    else:
        partial.write_text("left by a process that was killed")
    write_whole(tmp_path / "new", b"whole")
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "new").read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"target", "new"}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, 524])
def test_a_file_system_without_locks_gets_a_line_of_warning(tmp_path, monkeypatch, capsys, number):
    """524 is ENOTSUPP, which Lustre says without the mount option flock."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    config = run_config({"method": "backprop"})
    with contextlib.ExitStack() as stack:
        assert claim_folder(tmp_path / "run", config, stack) is None
    said = capsys.readouterr().err
    assert said.startswith(f"wtkit: warning: no locks in {tmp_path}/run (")
    assert said.endswith("see to it that no second process writes to it\n")
    assert said.count("\n") == 1
    with pytest.raises(WtkitError, match=r"cannot lock a GPU in .*; name one with --device cuda"):
        gpus.take_locks({"cuda:0": "x"}, 1, 1, tmp_path)


def test_a_lock_that_another_machine_holds_is_taken(tmp_path, monkeypatch):
    """As NFS says it."""

    def flock(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(WtkitError, match="taken"), held(tmp_path, "taken"):
        pass


def test_a_lock_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(OSError, match="is no file"), held(tmp_path, "taken"):
        pass


def test_a_finished_run_whose_output_was_deleted_is_written_again(run, tmp_path):
    """As Snakemake deletes it when only Snakemake was killed. Another run does not get it."""
    result, folder = open_run(run), tmp_path / "run"
    config = run_config({"method": "backprop"})
    result["settings"] = config.revision
    folder.mkdir()
    (folder / "checkpoint.pt").touch()
    finish(result, folder)
    assert {path.name for path in folder.iterdir()} == {"trajectory.nc", "finished.nc"}
    written = (folder / "trajectory.nc").read_bytes()
    (folder / "trajectory.nc").unlink()
    with contextlib.ExitStack() as stack:
        other = dataclasses.replace(config, seed=1)
        assert claim_folder(folder, other, stack) is None
    with contextlib.ExitStack() as stack:
        assert claim_folder(folder, config, stack).identical(open_run(folder / "finished.nc"))
    assert (folder / "trajectory.nc").read_bytes() == written


def test_of_two_writers_of_one_file_no_part_is_seen(tmp_path):
    path = tmp_path / "results.nc"
    first, second = replacing(path), replacing(path)
    first.__enter__().write(b"first")
    with second as file:
        file.write(b"sec")
        with pytest.raises(OSError, match="another process writes it at the same time"):
            first.__exit__(None, None, None)
        assert not path.exists()
        file.write(b"ond")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]
