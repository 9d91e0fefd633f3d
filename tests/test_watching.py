"""What watchers see of runs: while they train, after an interruption, and of an experiment."""

import contextlib
import json
import math
import os
import time

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import wtkit
from wtkit import WtkitError
from wtkit.__main__ import main
from wtkit.experiments import run_config
from wtkit.files import held
from wtkit.watching import PROGRESS, Progress, read_progress, show, status
from wtkit.watching.progress import CURVES, seconds_left

SETTINGS = {
    "method": "weight_mirror", "network": "mlp", "network_options": {"hidden": [8]},
    "image_size": 8, "classes": 2, "epochs": 3,
}  # fmt: skip
CONFIG = run_config(SETTINGS)


def train(folder, on_epoch=None, **changes):
    config = run_config(SETTINGS | changes)
    return wtkit.train(config, folder, device="cpu", quiet=True, on_epoch=on_epoch)


def only(folder):
    (run,) = status(folder).runs
    return run


# ------------------------------------------------------------------------------------------ one run


def test_a_run_is_seen_as_it_trains_and_when_it_is_done(tmp_path):
    seen = []
    result = train(tmp_path / "run", lambda _: seen.append(only(tmp_path / "run")))
    assert [(run.state, run.epoch, run.epochs) for run in seen] == [
        ("running", epoch, 3) for epoch in range(4)
    ]
    assert math.isnan(seen[0].left) and seen[1].left > 0 and seen[3].left == 0
    assert seen[3].test_error == float(result["test_error"][-1])
    assert seen[2].curves["matrix_angle"] == pytest.approx(
        result["matrix_angle"].mean("layer").values[:3].tolist()
    )
    done = only(tmp_path / "run")
    assert (done.state, done.epoch, done.note) == ("done", 3, "")
    assert not (tmp_path / "run" / PROGRESS).exists()
    assert done.took == pytest.approx(float(result["seconds"].sum()))


def test_an_interrupted_run_is_stopped_though_its_process_lives_on(tmp_path):
    def interrupt(run):
        if run.sizes["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, interrupt)
    run = only(tmp_path)
    assert (run.state, run.epoch) == ("stopped", 2)
    seen = []
    train(tmp_path, lambda _: seen.append(only(tmp_path)))
    assert [run.epoch for run in seen] == [3], "two epochs were in the checkpoint"


def test_watching_does_not_lock_and_writes_nothing(tmp_path):
    progress = Progress(tmp_path, "run", 3)
    progress.epoch([{"test_error": 90.0, "seconds": 1.0}])
    with held(tmp_path, "taken"):

        def there():
            return {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

        before = there()
        assert only(tmp_path).state == "running"
        assert there() == before
    with held(tmp_path, "taken"):
        pass


def written(folder, **changes):
    Progress(folder, "run", 4).epoch([{"test_error": 90.0, "seconds": 1.0}] * 3)
    content = json.loads((folder / PROGRESS).read_text()) | changes
    (folder / PROGRESS).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"process": 2**22 + 1}, "stopped"),  # above Linux's largest number
        ({"process_started": 1.0}, "stopped"),  # another process has this number now
        ({"machine": "elsewhere"}, "running"),
        ({"machine": "elsewhere", "written": 1.0}, "stopped"),
        ({"process": None}, "stopped"),
    ],
)
def test_whether_a_run_goes_on_is_told_by_its_process(tmp_path, changes, state):
    written(tmp_path, **changes)
    run = only(tmp_path)
    assert (run.state, run.epoch, run.epochs, run.test_error) == (state, 2, 4, 90.0)
    assert math.isnan(run.left) == (state == "stopped")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"machine": 3}'])
def test_a_damaged_file_is_no_more_than_unknown(tmp_path, text):
    (tmp_path / PROGRESS).write_text(text)
    assert read_progress(tmp_path) is None
    assert only(tmp_path).state == "waiting"


def test_a_run_whose_progress_cannot_be_written_trains_on(tmp_path):
    (tmp_path / PROGRESS).mkdir()
    assert train(tmp_path).sizes["epoch"] == 4


def test_time_left_counts_epochs_steps_and_the_time_since(tmp_path):
    said = {
        "epochs": 10, "epoch": 4, "step": 5, "steps": 10, "written": time.time() - 3,
        "curves": {name: [] for name in CURVES} | {"seconds": [9.0, 2.0, 4.0, 2.0, 4.0]},
    }  # fmt: skip
    assert seconds_left(said) == pytest.approx(5.5 * 3 - 3, abs=0.1)


# ------------------------------------------------------------------------------------ an experiment


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A folder to stand in with an experiment of six runs, none of which has begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/some.yaml").write_text(
        "methods: [backprop, kolen_pollack]\nnetworks: [mlp]\nseeds: [0, 1, 2]\n"
        "settings: {data: digits, image_size: 8, epochs: 3}\n"
    )
    return tmp_path / "results/some"


NAMES = [f"mlp-own-{m}-seed{n}" for m in ("backprop", "kolen_pollack") for n in range(3)]


def test_runs_wait_are_done_run_stop_and_fail(experiment, capsys):
    assert status("some").count("waiting") == 6
    train(experiment / "runs" / NAMES[0], method="backprop")
    (experiment / "runs" / NAMES[1]).mkdir()
    said_at = time.monotonic()
    Progress(experiment / "runs" / NAMES[1], NAMES[1], 3).epoch(
        [{"test_error": 50.0, "seconds": 2.0}] * 2
    )
    logs = experiment / "logs/train"
    logs.mkdir(parents=True)
    (logs / f"{NAMES[2]}.log").write_text("epoch 1\nwtkit: setting 'data': no such folder\n")
    stop = "wtkit: some/run: stopped by SIGTERM after step 3 of 9 of epoch 1; the same command "
    (logs / f"{NAMES[3]}.log").write_text(f"{stop}resumes from there\n")
    (logs / f"{NAMES[4]}.log").write_text("Traceback (most recent call last):\nKeyError: 'a'\n")
    now = status("some")
    since = time.monotonic() - said_at
    states = ["done", "running", "failed", "stopped", "failed", "waiting"]
    assert now.table["run"].tolist() == NAMES and now.table["state"].tolist() == states
    assert now.table["note"].tolist()[2] == "setting 'data': no such folder"
    assert now.table["note"].tolist()[4] == "KeyError: 'a'"
    # the running one has 4 s left; the waiting one takes the mean of 3 × 2 s and what was recorded
    mean = (6 + now.runs[0].took) / 2
    assert 4 + mean - since - 0.1 < now.left < 4 + mean + 0.1
    for same in (experiment, str(experiment), "config/some.yaml"):
        assert status(same).summary.partition("about")[0] == now.summary.partition("about")[0]
    assert main(["status", "some"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("some: 1 done, 1 running, 1 waiting, 1 stopped, 2 failed, about 0:0")
    assert len(shown) == 7 and "epoch 1/3  error 50.00 %" in shown[2]


def test_an_empty_new_log_is_a_run_that_starts(experiment):
    log = experiment / "logs/train" / f"{NAMES[0]}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    assert (status("some").runs[0].state, status("some").runs[0].note) == ("running", "starting")
    os.utime(log, (1, 1))
    assert status("some").runs[0].state != "running"


def test_a_run_that_is_running_again_is_not_failed(experiment):
    log = experiment / "logs/train" / f"{NAMES[0]}.log"
    log.parent.mkdir(parents=True)
    log.write_text("wtkit: out of memory\n")
    Progress(experiment / "runs" / NAMES[0], NAMES[0], 3)
    assert status("some").runs[0].state == "running"


def test_without_the_experiments_file_only_runs_with_a_folder_are_known(experiment, tmp_path):
    Progress(experiment / "runs" / NAMES[0], NAMES[0], 3)
    (tmp_path / "config/some.yaml").unlink()
    assert [run.run for run in status("some").runs] == [NAMES[0]]
    (tmp_path / "config/some.yaml").write_text("methods: [")  # being edited
    assert [run.run for run in status("some").runs] == [NAMES[0]]


def test_a_damaged_result_is_a_failed_run(experiment):
    folder = experiment / "runs" / NAMES[0]
    folder.mkdir(parents=True)
    (folder / "trajectory.nc").write_text("half a fi")
    run = status("some").runs[0]
    assert run.state == "failed" and "cannot read" in run.note


def test_what_is_not_there_is_named(experiment, capsys):
    for name in ("sme", "results/sme", experiment.parent / "sme"):
        with pytest.raises(WtkitError, match=r"no runs of .*mean 'some'.*there are: some"):
            status(name)
    assert main(["status", "sme"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_watch_ends_when_all_runs_have(experiment, capsys, monkeypatch):
    monkeypatch.setattr(show, "PATIENCE", 0.2)
    assert wtkit.watch("some", every=0.05).count("waiting") == 6
    for name in NAMES:
        seed = int(name[-1])
        train(experiment / "runs" / name, method=name.split("-")[2], seed=seed, epochs=1)
    started = time.monotonic()
    assert wtkit.watch(experiment, every=60).count("done") == 6
    assert time.monotonic() - started < 30
    assert "some: 6 done, 0 running, 0 waiting" in capsys.readouterr().out


def test_an_interruption_ends_watching_alone(experiment, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(show.time, "sleep", interrupted)
    assert wtkit.watch("some").count("waiting") == 6


# --------------------------------------------------------------------------------------- notebooks

CELLS = [
    """
import wtkit
from wtkit.experiments import run_config
""",
    """
config = run_config(SETTINGS)
run = wtkit.train(config, "run", device="cpu", watch=True)
""",
    """
wtkit.watch("run").table
""",
    """
from wtkit.results import gather, save
save(gather(["run/trajectory.nc"], "mine"), "results.nc")
results = wtkit.open_results("results.nc")
""",
]


@pytest.mark.parametrize(("units", "text"), [("bit", "2.5 bit"), ("1", "2.5")])
def test_a_run_without_a_test_error_is_judged_by_its_own_metric(tmp_path, units, text):
    model = wtkit.convert(torch.nn.Linear(3, 2), "feedback_alignment", seed=0)
    record = wtkit.Recorder(
        tmp_path, model, seed=0, epochs=2, metrics={"own_metric": units, "other": "s"}, quiet=True
    )
    with record:
        record(0, own_metric=3.0)
        record(1, train_loss=1.0, own_metric=2.5, other=7.0)
        running = status(tmp_path)
        record(2, train_loss=1.0)
    for now in (running, status(tmp_path)):
        (run,) = now.runs
        assert (run.metric, run.value, run.units) == ("own_metric", 2.5, units)
        assert run.curves["other"][1] == 7.0 and math.isnan(run.test_error)
        assert f"own metric {text}" in str(now)
        unit = " (bit)" if units == "bit" else ""
        assert next(iter(show._panels(now).items())) == ("own_metric", f"test own metric{unit}")
        live = Shown()
        show._update(live, now)
        assert live.lines["own_metric"][0][2][:2] == [3.0, 2.5]


def test_a_test_error_comes_before_other_metrics(tmp_path):
    model = wtkit.convert(torch.nn.Linear(3, 2), "feedback_alignment", seed=0)
    with wtkit.Recorder(tmp_path, model, seed=0, metrics={"other": "s"}, quiet=True) as record:
        record(train_loss=1.0, test_error=40.0, other=7.0)
    now = status(tmp_path)
    assert (now.runs[0].test_error, now.runs[0].metric) == (40.0, "")
    assert list(show._panels(now)) == ["test_error", "matrix_angle", "delta_angle"]


class Shown:
    """Takes the place of a display."""

    def curves(self, curves, epochs, panels):
        assert list(curves) == list(panels)
        self.lines = curves

    def bar(self, *_, **__):
        pass


@pytest.mark.slow
def test_a_notebook_shows_one_display_that_grows(tmp_path):
    cells = [text.replace("SETTINGS", repr(SETTINGS)) for text in CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    with contextlib.chdir(tmp_path):
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    _, train_cell, watch_cell, open_cell = notebook.cells
    (output,) = train_cell.outputs
    shown = output["data"]["text/html"]
    assert shown.count("<progress") == 1 and "data:image/png;base64," in shown
    assert 'value="3" max="3"' in shown and "epoch 3/3" in shown
    first, table = watch_cell.outputs
    assert (
        "1 done, 0 running" in first["data"]["text/html"] and "done" in table["data"]["text/html"]
    )
    (note,) = open_cell.outputs  # not on standard error, which notebooks show in red
    assert note["output_type"] == "display_data"
    assert "Results of mine: results.nc" in note["data"]["text/html"]
