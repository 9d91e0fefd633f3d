"""``wtkit.Recorder``: any training loop's records are results like all others."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit import results
from wtkit.claims import claim_table
from wtkit.claims.claim import CannotTestError
from wtkit.experiments import run_config
from wtkit.results import open_run, select, settings
from wtkit.training import Run

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 8, generator=GENERATOR)
Y = X[:, :3].argmax(1)
HELD_OUT = (X[:16], Y[:16])


def network(method="weight_mirror", seed=0, **options):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    return wtkit.convert(model, method, seed=seed, **options)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def step(model, optimizer):
    loss = F.cross_entropy(model(X), Y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if model[0].method.learns_mirror:
        wtkit.mirror(model)
    return loss.item()


@torch.no_grad()
def error_of(model):
    model.eval()
    error = 100 * (model(X).argmax(1) != Y).double().mean().item()
    model.train()
    return error


def trained(folder, method="weight_mirror", seed=0, epochs=3, **arguments):
    """A run in the loop that the guide shows."""
    model = network(method, seed)
    optimizer = sgd(model)
    chosen = {"batch": HELD_OUT, "network": "small", "data": "made_up", "quiet": True} | arguments
    with wtkit.Recorder(folder, model, seed=seed, **chosen) as record:
        for epoch in range(record.epoch, epochs + 1):
            loss = step(model, optimizer)
            record(epoch, train_loss=loss, test_error=error_of(model))
    return record.trajectory()


def weights(model):
    return [
        value.clone() for value in model.state_dict().values() if isinstance(value, torch.Tensor)
    ]


# --------------------------------------------------------------------------------- what is recorded


def test_angles_are_those_of_the_model_at_each_epoch(tmp_path):
    model = network()
    optimizer = sgd(model)
    expected = [(wtkit.matrix_angles(model), wtkit.delta_angles(model, *HELD_OUT))]
    with wtkit.Recorder(
        tmp_path / "mine", model, seed=0, batch=HELD_OUT, checkpoint=None, quiet=True
    ) as record:
        for _ in range(2):
            step(model, optimizer)
            torch.manual_seed(7)  # dropout of the two measures
            expected.append((wtkit.matrix_angles(model), wtkit.delta_angles(model, *HELD_OUT)))
            torch.manual_seed(7)
            record(test_error=50)
    run = open_run(tmp_path / "mine/runs/Sequential-own-weight_mirror-seed0/trajectory.nc")
    for epoch in (1, 2):
        matrix, delta = expected[epoch]
        np.testing.assert_array_equal(run.matrix_angle[epoch], matrix)
        np.testing.assert_array_equal(run.delta_angle[epoch], delta)
    np.testing.assert_array_equal(run.matrix_angle[0], expected[0][0])
    assert run.layer.values.tolist() == ["0", "3"]
    assert json.loads(run.feeds.values[0]) == ["3"]
    assert run.test_error.values.tolist()[1:] == [50, 50]
    assert np.isnan(run.test_error[0])
    assert str(run.status.values) == "complete"


def test_it_records_what_train_records():
    config = run_config(
        {"method": "weight_mirror", "network": "mlp", "image_size": 8, "classes": 3, "epochs": 1}
        | {"network_options": {"hidden": [8]}, "options": {"noise": "orthogonal"}}
    )
    run = Run(config, torch.device("cpu"))
    run.record(0.0)
    record = wtkit.Recorder(None, run.model, seed=0, batch=run.examples, quiet=True)
    theirs, ours = run.trajectory(), record.trajectory()
    assert set(theirs.variables) == set(ours.variables)
    measured = ("matrix_angle", "delta_angle", "weight_norm", "live_share", "mirror_samples")
    for name in (*measured, "feeds", "block", "kind", "fan_in"):
        np.testing.assert_array_equal(theirs[name], ours[name])


def test_recording_changes_nothing_in_a_training():
    def convolutional():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.2), nn.Flatten(), nn.Linear(4, 3),
        )  # fmt: skip
        return wtkit.convert(model, "weight_mirror", seed=0)

    x = X.reshape(32, 2, 2, 4)[..., :2]  # on its 1×1 map the second kernel has dead taps
    y = Y[:32]

    def train(recorded):
        model = convolutional()
        optimizer = sgd(model)
        record = lambda **_: None  # noqa: E731
        if recorded:
            record = wtkit.Recorder(None, model, seed=0, batch=(x, y), quiet=True)
        for _ in range(3):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            wtkit.mirror(model)
            model.eval()
            record(test_error=10)
            assert not model.training
            model.train()
        return model, record

    plain, _ = train(recorded=False)
    model, record = train(recorded=True)
    for ours, theirs in zip(weights(model), weights(plain), strict=True):
        assert torch.equal(ours, theirs)
    run = record.trajectory()
    assert run.live_share.values.tolist() == [4 / 9, 1 / 9, 1.0]
    assert (run.matrix_angle != run.matrix_angle_all_weights).values[1:, :2].all()


def test_delta_is_measured_in_the_mode_of_the_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    wtkit.convert(model, "feedback_alignment", seed=0)
    expected = wtkit.delta_angles(model, *HELD_OUT)
    record = wtkit.Recorder(None, model, seed=0, batch=HELD_OUT, quiet=True)
    model.eval()
    record(test_error=10)
    np.testing.assert_array_equal(record.trajectory().delta_angle[1], expected)


def test_inputs_may_be_named_and_several():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 3)

        def forward(self, first, second):
            return self.out(torch.tanh(self.a(first) + self.b(second)))

    model = wtkit.convert(Two(), "kolen_pollack", seed=0)
    for inputs in ({"first": X, "second": X}, (X, X)):
        record = wtkit.Recorder(None, model, seed=0, batch=(inputs, Y), quiet=True)
        run = record.trajectory()
        assert [json.loads(text) for text in run.feeds.values] == [["out"], ["out"], []]
        assert run.delta_angle.notnull().all()


def test_layers_of_attention_and_recurrence_are_of_the_kind_of_their_module():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = nn.GRU(8, 8, batch_first=True)
            self.block = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)

        def forward(self, x):
            return self.block(self.memory(x)[0]).mean(1)

    model = wtkit.convert(Both(), "sign_symmetry", seed=0)
    batch = (X[:24].reshape(4, 6, 8), Y[:4])
    run = wtkit.Recorder(None, model, seed=0, batch=batch, quiet=True).trajectory()
    assert dict(zip(run.layer.values.tolist(), run.kind.values.tolist(), strict=True)) == {
        "memory.ih_l0": "GRU",
        "memory.hh_l0": "GRU",
        "block.self_attn.in_proj": "MultiheadAttention",
        "block.self_attn.out_proj": "Linear",
        "block.linear1": "Linear",
        "block.linear2": "Linear",
    }
    assert run.delta_angle.notnull().all()
    assert run.fan_in.values.tolist() == [8] * 6


def test_a_wrapped_model_has_its_own_name():
    model = torch.compile(network("kolen_pollack"))
    record = wtkit.Recorder(None, model, seed=0, batch=HELD_OUT, quiet=True)
    assert record.trajectory().attrs["network"] == "Sequential"
    assert record.trajectory().layer.values.tolist() == ["0", "3"]


def test_without_a_batch_only_matrix_angles_are_measured(tmp_path):
    run = trained(tmp_path / "mine", batch=None)
    assert run.matrix_angle.notnull().all()
    assert run.delta_angle.isnull().all()
    assert "feeds" not in run.coords
    assert "feeds" not in wtkit.open_results(tmp_path / "mine/results.nc", quiet=True)["small"]


def test_angles_every_other_epoch_and_at_the_end():
    run = trained(None, epochs=3, angles_every=2)
    assert run.matrix_angle.notnull().all("layer").values.tolist() == [True, False, True, False]
    run = trained(None, epochs=3, angles_every=2, **{"settings": {"lr": 0.1}})
    model = network()
    record = wtkit.Recorder(None, model, seed=0, epochs=3, angles_every=2, quiet=True)
    for _ in range(3):
        record()
    kept = record.trajectory().matrix_angle.notnull().all("layer").values.tolist()
    assert kept == [True, False, True, True]


# --------------------------------------------------------------------- read as all results are read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three methods, two seeds."""
    folder = tmp_path_factory.mktemp("recorded") / "mine"
    for method in ("backprop", "weight_mirror", "feedback_alignment"):
        for seed in (0, 1):
            trained(folder, method, seed, settings={"lr": 0.1}, held_out=64)
    return folder


def test_results_are_opened_selected_and_tidied(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "results").mkdir()
    (folder.parent / "results/mine").symlink_to(folder)
    tree = wtkit.open_results("mine", quiet=True)
    assert tree.attrs["experiment"] == "mine"
    node = tree["small"]
    assert dict(node.sizes) == {"run": 6, "epoch": 4, "layer": 2}
    assert node.attrs["data"] == "made_up"
    mirrored = select(node, "WM", seed=1)
    assert settings(mirrored.isel(run=0))["lr"] == 0.1
    assert settings(mirrored.isel(run=0))["options"]["mirror_lr"] > 0
    table = wtkit.tidy(tree)
    assert len(table) == 6 * 4 * 2
    assert set(table["label"]) == {"BP", "WM", "FA"}


NOTEBOOKS = ("fig3_test_error", "fig4_angles", "fig_d3_norm_order", "table1_errors", "claims")


def executed(name, path, output):
    """The names of a notebook after its code has run on results."""
    pytest.importorskip("matplotlib")
    cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    names = {}
    for source in code:
        parameters = "results = None" in source
        exec(f"results, figures = {str(path)!r}, {str(output)!r}" if parameters else source, names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_all_notebooks_read_recorded_runs(name, folder, tmp_path):
    executed(name, folder / "results.nc", tmp_path)
    assert list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_all_notebooks_read_runs_with_a_metric_and_no_error(name, text_runs, tmp_path):
    names = executed(name, text_runs / "results.nc", tmp_path)
    if name == "fig3_test_error":
        assert names["axes"][0, 0].get_ylabel() == "test bits per character (bit)"
        assert names["axes"][0, 0].lines
    if name == "table1_errors":
        column = "test bits per character (bit), text"
        assert names["table"][column].tolist() == ["2.50", "2.50"]


@pytest.fixture(scope="module")
def text_runs(tmp_path_factory):
    """Two methods judged by a metric of their own."""
    folder = tmp_path_factory.mktemp("recorded") / "text"
    metrics = {"bits_per_character": "bit", "perplexity": "1"}
    for method in ("feedback_alignment", "kolen_pollack"):
        model = network(method)
        with wtkit.Recorder(
            folder, model, seed=0, batch=HELD_OUT, data="text", metrics=metrics, quiet=True
        ) as record:
            record(0, bits_per_character=4.5)
            record(train_loss=2.0, bits_per_character=torch.tensor(3.5), perplexity=np.float32(9))
            record(train_loss=1.5, bits_per_character=2.5, perplexity=6)
    return folder


def test_metrics_are_in_tables_and_explorers(text_runs, tmp_path):
    tree = wtkit.open_results(text_runs / "results.nc", quiet=True)
    table = wtkit.tidy(tree)
    assert list(table.columns)[-2:] == ["bits_per_character", "perplexity"]
    last = table[(table.epoch == 2) & (table.label == "KP")]
    assert last.bits_per_character.tolist() == [2.5, 2.5]
    assert tree["Sequential"].bits_per_character.attrs["units"] == "bit"
    assert len(wtkit.tidy(tree["Sequential"].isel(run=0, epoch=2).to_dataset())) == 2
    with pytest.raises(CannotTestError, match="no test error, but test bits per character"):
        wtkit.claims.judging.errors_of(tree["Sequential"].to_dataset(), ["kolen_pollack"])
    assert not (claim_table(tree)["verdict"] == "holds").all()
    page = wtkit.explore.error_against_angle(tree).to_html()
    assert "test bits per character (bit)" in page
    for explorer in (wtkit.explore.angles, wtkit.explore.heat_map, wtkit.explore.epochs):
        assert explorer(tree).to_html()


def test_methods_of_one_network_are_judged_by_one_measure(tmp_path):
    """Bits of one method never stand in a column, or on an axis, of errors in percent."""
    import matplotlib.pyplot as plt

    from wtkit import figures
    from wtkit.explore.groups import groups_of

    for method, measured in (("backprop", {"bits": 2}), ("kolen_pollack", {"test_error": 40})):
        with wtkit.Recorder(
            tmp_path, network(method), seed=0, metrics={"bits": "bit"}, quiet=True
        ) as record:
            record(**measured)
    tree = wtkit.open_results(tmp_path / "results.nc", quiet=True)
    table = results.error_table(tree)
    assert table["test error %, own"].tolist() == ["–", "40.0"]
    figures.test_error(axes := plt.figure().add_subplot(), tree["Sequential"])
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[], [40]]
    assert {group.measure_label for group in groups_of(tree)} == {"test error (%)"}
    page = wtkit.explore.error_against_angle(tree).to_html()
    assert "test bits" not in page
    plt.close("all")


def test_a_mean_is_of_the_runs_that_were_measured(tmp_path):
    """Their number gives the degrees of freedom."""
    for seed, measured in enumerate(({"test_error": 10}, {"test_error": 12}, {})):
        with wtkit.Recorder(tmp_path, network(), seed=seed, quiet=True) as record:
            record(**measured)
    tree = wtkit.open_results(tmp_path / "results.nc", quiet=True)
    estimate = results.final_error(tree["Sequential"], "weight_mirror")
    assert (estimate.mean, estimate.error, estimate.runs) == (11, pytest.approx(1), 2)
    assert estimate.df == 1


def test_a_metric_has_one_unit(tmp_path):
    def recorded(folder, seed, units):
        with wtkit.Recorder(
            tmp_path / folder, network(seed=seed), seed=seed, metrics={"rate": units}, quiet=True
        ) as record:
            record(train_loss=1.0, rate=0.5)
        return tmp_path / folder / "results.nc"

    first = recorded("one", 0, "bit")
    with pytest.raises(wtkit.WtkitError, match=r"'rate' is in 'nat', .* in 'bit'; measure both"):
        recorded("one", 1, "nat")
    recorded("one", 1, "bit")
    other = recorded("other", 0, "nat")
    with pytest.raises(wtkit.WtkitError, match=r"'rate' is in 'nat', .* in 'bit'; measure both"):
        wtkit.open_results(first, other, quiet=True)


def test_metrics_of_some_runs_only_are_gathered(text_runs, tmp_path):
    paths = list(text_runs.glob("runs/*/trajectory.nc"))
    plain = trained(tmp_path / "plain", network="Sequential", data="text")
    results.save(plain, tmp_path / "plain.nc")
    tree = results.gather([*paths, tmp_path / "plain.nc"], "both")
    assert tree["Sequential"].attrs["metrics"] == "bits_per_character perplexity"
    assert int(tree["Sequential"].bits_per_character.notnull().any("epoch").sum()) == 2
    results.save(tree, tmp_path / "both.nc")
    wtkit.open_results(tmp_path / "both.nc", quiet=True)


def test_recorded_runs_are_shown_while_they_train(tmp_path):
    model = network()
    record = wtkit.Recorder(tmp_path / "mine", model, seed=0, epochs=4, quiet=True)
    record(test_error=40)
    (run,) = wtkit.watching.status(tmp_path / "mine").runs
    assert (run.state, run.epoch, run.epochs, run.test_error) == ("running", 1, 4, 40)
    record.close()
    (run,) = wtkit.watching.status(tmp_path / "mine").runs
    assert (run.state, run.epoch) == ("done", 1)


# -------------------------------------------------------------------------------- ends and restarts


def test_a_run_that_is_killed_continues_bit_for_bit(tmp_path):
    def train(folder, killed_at=None):
        model = network("kolen_pollack")
        optimizer = sgd(model)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        parts = [optimizer, schedule]
        with wtkit.Recorder(
            folder, model, seed=0, batch=HELD_OUT, checkpoint=parts, quiet=True
        ) as record:
            if record.epoch == 1:
                record(0, test_error=error_of(model))
            for epoch in range(record.epoch, 6):
                loss = step(model, optimizer)
                schedule.step()
                if epoch == killed_at:
                    raise KeyboardInterrupt
                record(epoch, train_loss=loss, test_error=error_of(model))
        return record.trajectory()

    whole = train(tmp_path / "whole")
    for killed_at in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", killed_at)
    resumed = train(tmp_path / "killed")
    for name in ("train_loss", "test_error", "matrix_angle", "delta_angle", "weight_norm"):
        np.testing.assert_array_equal(whole[name], resumed[name])
    assert len(list((tmp_path / "killed").glob("runs/*/checkpoint*"))) == 0


def test_a_loop_with_checkpoints_of_its_own_continues_where_it_says(tmp_path, capsys):
    def recorder():
        return wtkit.Recorder(tmp_path / "mine", network(), seed=0)

    with pytest.raises(ZeroDivisionError), recorder() as record:
        for epoch in (1, 2, 3, 4):
            record(epoch, test_error=10 * epoch)
        raise ZeroDivisionError
    with recorder() as record:
        assert "record(5, …) continues" in capsys.readouterr().out
        record(3, test_error=1)  # its checkpoint is of epoch 2
        record(test_error=2)
    assert record.trajectory().test_error.values[1:].tolist() == [10, 20, 1, 2]


def test_an_unfinished_record_that_is_started_again_is_kept_aside(tmp_path, capsys):
    for error in (10, 20):
        record = wtkit.Recorder(tmp_path / "mine", network(), seed=0)
        record(test_error=error)  # the cell of a notebook, run again
    assert "checkpoint.earlier1.pt" in capsys.readouterr().out
    run = record.close()
    assert run.test_error.values[1:].tolist() == [20]
    assert len(list((tmp_path / "mine").glob("runs/*/checkpoint.earlier1.pt"))) == 1


def test_a_finished_run_is_passed_over_and_never_overwritten(tmp_path):
    before = trained(tmp_path / "mine")
    path = next((tmp_path / "mine").glob("runs/*/trajectory.nc"))
    content = path.read_bytes()
    record = wtkit.Recorder(
        tmp_path / "mine", network(), seed=0, batch=HELD_OUT, network="small", data="made_up"
    )
    assert record.epoch == before.sizes["epoch"]
    assert record.finished
    with pytest.raises(wtkit.WtkitError, match=r"is finished: pass over it \(if record.finished\)"):
        record(test_error=1)
    trained(tmp_path / "mine", epochs=3)
    assert path.read_bytes() == content


def test_a_run_that_was_stopped_early_is_passed_over(tmp_path):
    for expected in (1, 11):
        with wtkit.Recorder(tmp_path / "mine", network(), seed=0, epochs=10, quiet=True) as record:
            assert record.epoch == expected
            for epoch in range(record.epoch, 11):
                record(epoch, test_error=50)
                if epoch == 3:
                    break
    assert record.trajectory().sizes["epoch"] == 4


def test_a_run_that_diverged_and_was_killed_is_finished_later(tmp_path):
    for checkpoint in (None, []):
        chosen = {"variant": f"v{checkpoint is None:d}", "checkpoint": checkpoint, "quiet": True}
        record = wtkit.Recorder(tmp_path / "mine", network(), seed=0, **chosen)
        assert not record(train_loss=float("inf"))
        record = wtkit.Recorder(tmp_path / "mine", network(), seed=0, **chosen)
        assert record.finished and not record(train_loss=1.0)
        assert str(record.close().status.values) == "diverged"


def test_settings_may_have_numpys_numbers(tmp_path):
    chosen = {"lr": np.float32(0.5), "widths": [np.int64(3)]}
    run = trained(tmp_path / "mine", settings=chosen, seed=np.int64(2))
    assert settings(run)["lr"] == 0.5
    assert settings(run)["widths"] == [3]
    assert int(run.seed) == 2


def test_a_run_that_diverged_ends_there(tmp_path):
    with wtkit.Recorder(tmp_path / "mine", network(), seed=0, batch=HELD_OUT, quiet=True) as record:
        assert record(train_loss=1.0, test_error=50)
        assert not record(train_loss=float("nan"), test_error=90)
        assert not record(train_loss=1.0, test_error=50)
    run = open_run(record.folder / "trajectory.nc")
    again = wtkit.Recorder(
        tmp_path / "mine", network(), seed=0, batch=HELD_OUT, epochs=5, quiet=True
    )
    assert (again.finished, again.epoch, again(train_loss=1.0)) == (True, 6, False)
    assert str(run.status.values) == "diverged"
    assert run.sizes["epoch"] == 3
    assert np.isnan(run.test_error[2])
    assert run.matrix_angle[2].isnull().all()


@pytest.mark.slow
def test_processes_record_into_one_folder_at_the_same_time(tmp_path):
    code = """
        import sys, torch, wtkit
        torch.set_num_threads(1)
        for seed in range(int(sys.argv[1]), int(sys.argv[1]) + 3):
            model = wtkit.convert(torch.nn.Linear(4, 2), "feedback_alignment", seed=seed)
            with wtkit.Recorder("mine", model, seed=seed, quiet=True) as record:
                record(test_error=seed)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    started = [subprocess.Popen([*command, first], cwd=tmp_path) for first in ("0", "3")]
    assert [process.wait() for process in started] == [0, 0]
    tree = wtkit.open_results(tmp_path / "mine/results.nc", quiet=True)
    assert sorted(tree["Linear"].seed.values.tolist()) == list(range(6))


@pytest.mark.slow
def test_only_one_process_records_a_run(tmp_path):
    code = """
        import torch, wtkit
        model = wtkit.convert(torch.nn.Linear(4, 2), "feedback_alignment", seed=0)
        wtkit.Recorder("mine", model, seed=0)
    """
    model = wtkit.convert(nn.Linear(4, 2), "feedback_alignment", seed=0)
    record = wtkit.Recorder(tmp_path / "mine", model, seed=0)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "WtkitError: another process records mine/runs/" in done.stderr
    record(test_error=1)


# ------------------------------------------------------------------------------------------- errors


def refused(match, folder=None, model=None, **arguments):
    with pytest.raises(wtkit.WtkitError, match=match) as caught:
        wtkit.Recorder(folder, network() if model is None else model, **{"seed": 0} | arguments)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        (r"'network': .*valid string, got nan", {"network": float("nan")}),
        (r"'metrics': expected the unit of 'x' in .* got '\\x00'", {"metrics": {"x": "\0"}}),
        (r"'metrics': expected the unit of 'x' in .* got '\\ud800'", {"metrics": {"x": "\ud800"}}),
        (r"'network': may have the characters", {"network": "a/b"}),
        (r"'method': 'KP' is the label of kolen_pollack in figures", {"method": "KP"}),
        (r"'network': .*at least|'network': may have", {"network": ""}),
        (r"'variant': may have the characters", {"variant": "a b"}),
        (r"'data': may have the characters", {"data": "../x"}),
        (r"'seed': .*valid integer, .*got 'x'", {"seed": "x"}),
        (r"'seed': expected no truth value", {"seed": True}),
        (r"'seed': .*greater than or equal to 0", {"seed": -1}),
        (r"'metrics': expected units by name", {"metrics": ["perplexity"]}),
        (r"'metrics': expected names of your own.*'test_error'", {"metrics": {"test_error": "%"}}),
        (r"'metrics': expected names of your own.*'epoch'", {"metrics": {"epoch": "1"}}),
        (r"'metrics': expected names of your own.*'a b'", {"metrics": {"a b": "1"}}),
        (r"'settings': 'lr': expected numbers, texts", {"settings": {"lr": float("nan")}}),
        (r"'settings': 'x': expected numbers, texts", {"settings": {"x": torch.ones(2)}}),
        (r"'settings': 'seed' is recorded anyway", {"settings": {"seed": 1}}),
        (r"'evaluated_on': .*'test' or 'validation', got 'tset'", {"evaluated_on": "tset"}),
        (r"'epochs': .*greater than 0", {"epochs": 0}),
        (r"batch to be inputs and targets", {"batch": X}),
        (r"checkpoint to be a list of objects with a state_dict", {"checkpoint": [1]}),
        (r"'method': the layers have 'weight_mirror'", {"method": "kolen_pollack"}),
        (r"loss: expected a number", {"batch": HELD_OUT, "loss": lambda out, _: out}),
        (r"expected a folder", {"folder": ""}),
        (r"expected a folder", {"folder": "a\0b"}),
        *((r"'network': may have the characters", {"network": name}) for name in (".", "..", ".x")),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_said_before_training(match, arguments):
    refused(match, **arguments)


def test_models_that_cannot_be_recorded():
    refused("no feedback layers; convert it first, also for backprop", model=nn.Linear(2, 2))
    refused("then a converted model, got dict", model={})
    mixed = network("feedback_alignment")
    wtkit.convert(mixed[3], "kolen_pollack")
    refused(r"several methods.*feedback_alignment, kolen_pollack.*method='…'", model=mixed)
    record = wtkit.Recorder(None, mixed, seed=0, method="half_and_half", quiet=True)
    record(test_error=1)
    assert str(record.close().method.values) == "half_and_half"


@pytest.mark.parametrize(
    ("match", "values"),
    [
        (r"unknown quantity 'test_eror' \(did you mean 'test_error'\?\)", {"test_eror": 1}),
        (r"declare one of your own with its unit", {"accuracy": 1}),
        (r"'test_error': expected from 0 to 100 %, got 101", {"test_error": 101}),
        (r"'train_loss': expected 0 or more, got -1; record other losses", {"train_loss": -1}),
        (r"'test_error': expected a number, got 'x'", {"test_error": "x"}),
        (r"'test_error': expected a number, got True", {"test_error": True}),
        (r"'test_error': expected from 0 to 100 %, got inf", {"test_error": 10**5000}),
        (r"'test_error': expected a number, got tensor", {"test_error": torch.ones(2)}),
        (r"'test_error': expected a number, got \(1\+0j\)", {"test_error": 1 + 0j}),
    ],
)
def test_values_that_are_refused_leave_the_record_as_it_was(match, values):
    record = wtkit.Recorder(None, network(), seed=0, quiet=True)
    record(test_error=10)
    with pytest.raises(wtkit.WtkitError, match=match):
        record(**values)
    record(test_error=20)
    assert record.trajectory().test_error.values[1:].tolist() == [10, 20]


def test_epochs_follow_each_other():
    record = wtkit.Recorder(None, network(), seed=0, quiet=True)
    record(0, test_error=90)
    for epoch, match in ((2, "expected 1"), ("1", "number of an epoch"), (True, "number of an")):
        with pytest.raises(wtkit.WtkitError, match=match):
            record(epoch)
    record(0, test_error=80)
    record(np.int64(1))
    with pytest.raises(wtkit.WtkitError, match=r"if record\.epoch == 1"):
        record(0)
    assert record.trajectory().test_error[0] == 80
    assert record.trajectory().sizes["epoch"] == 2


def test_quantities_of_training_are_not_of_epoch_0():
    record = wtkit.Recorder(None, network(), seed=0, quiet=True)
    with pytest.raises(wtkit.WtkitError, match="'train_loss' belongs to training"):
        record(0, train_loss=1.0)


def test_nothing_recorded_is_said(tmp_path):
    with (
        pytest.raises(wtkit.WtkitError, match="nothing was recorded; call record"),
        wtkit.Recorder(tmp_path / "mine", network(), seed=0),
    ):
        pass
    assert not list(tmp_path.glob("mine/runs/*/*.nc"))


def test_runs_that_could_not_be_gathered_are_refused_before_training(tmp_path):
    trained(tmp_path / "mine", settings={"lr": 0.1})
    chosen = {"folder": tmp_path / "mine", "network": "small", "data": "made_up"}
    refused("'lr' is 0.2, that of the same method", seed=1, settings={"lr": 0.2}, **chosen)
    refused(
        r"is a run with other settings \(lr is 0\.1, not 0\.2\); give",
        settings={"lr": 0.2},
        **chosen,
    )
    refused("its data are other", **chosen | {"data": "other", "seed": 1, "settings": {"lr": 0.1}})
    other = wtkit.convert(nn.Linear(4, 2), "feedback_alignment", seed=0)
    refused("its layers differ from those of the other small runs", model=other, **chosen)


def test_results_that_gathering_would_lose_are_refused(tmp_path):
    import shutil

    trained(tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine/runs")
    refused("holds runs of small that .* lacks, and they would be lost", tmp_path / "mine")


def test_a_run_whose_folder_was_deleted_is_recorded_anew(tmp_path):
    """As the error advises where a run has other settings."""
    import shutil

    trained(tmp_path / "mine", settings={"lr": 0.1})
    shutil.rmtree(tmp_path / "mine/runs")
    run = trained(tmp_path / "mine", settings={"lr": 0.2})
    assert settings(run)["lr"] == 0.2
    tree = results.open_results(tmp_path / "mine/results.nc", quiet=True)
    np.testing.assert_array_equal(tree["small"].test_error.values[0], run.test_error.values)


@pytest.mark.parametrize("name", ["runs/small-own-weight_mirror-seed0/trajectory.nc", "results.nc"])
def test_a_run_that_could_not_be_written_can_be_closed_again(tmp_path, name):
    """And one that was not gathered is, by whoever closes it next."""
    folder = tmp_path / "mine"
    record = wtkit.Recorder(folder, network(), seed=0, network="small", quiet=True)
    record(test_error=50)
    (folder / name).mkdir()
    with pytest.raises(wtkit.WtkitError, match=f"cannot write .*{name}"):
        record.close()
    (folder / name).rmdir()
    assert not (folder / "results.nc").exists()
    if name == "results.nc":
        record = wtkit.Recorder(folder, network(), seed=0, network="small", quiet=True)
        assert record.finished
    else:
        assert record(test_error=40)  # it may also go on
    run = record.close()
    tree = results.open_results(folder / "results.nc", quiet=True)
    np.testing.assert_array_equal(tree["small"].test_error.values[0], run.test_error.values)


def test_layers_that_change_while_they_are_recorded_are_refused():
    """The trajectory has one method, and one fan-in of each layer, for all epochs."""
    for change in (
        lambda model: wtkit.convert(model, "feedback_alignment", seed=0),
        lambda model: model.__setitem__(0, wtkit.convert(nn.Linear(9, 16), "weight_mirror")),
    ):
        record = wtkit.Recorder(None, model := network(), seed=0, quiet=True)
        change(model)
        with pytest.raises(wtkit.WtkitError, match="feedback layers are others than when"):
            record(test_error=1)


def test_a_checkpoint_of_more_or_fewer_objects_is_named(tmp_path):
    model = network()
    record = wtkit.Recorder(tmp_path, model, seed=0, checkpoint=[sgd(model)], quiet=True)
    record(test_error=1)
    refused(
        "it holds 1 objects beside the model, and 'checkpoint' names 0", tmp_path, checkpoint=[]
    )


def test_a_state_that_cannot_be_saved_is_refused_before_training(tmp_path):
    class Part:
        def state_dict(self):
            return {"log": print}

        def load_state_dict(self, state):
            pass

    refused("'log'.* is of type builtin_function", tmp_path / "mine", checkpoint=[Part()])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 1000])
def test_a_damaged_record_is_named(tmp_path, content):
    record = wtkit.Recorder(tmp_path / "mine", network(), seed=0)
    record(test_error=1)
    (record.folder / "checkpoint.pt").write_bytes(content)
    refused("cannot continue from .*checkpoint.pt: .*; delete it", tmp_path / "mine")


def test_another_optimizer_cannot_continue(tmp_path):
    model = network()
    record = wtkit.Recorder(tmp_path / "mine", model, seed=0, checkpoint=[sgd(model)], quiet=True)
    record(test_error=1)
    model = network()
    two = [sgd(model), sgd(model)]
    refused("cannot continue from .*checkpoint.pt", tmp_path / "mine", model, checkpoint=two)


def test_layers_that_change_are_named():
    model = network("feedback_alignment")
    record = wtkit.Recorder(None, model, seed=0, quiet=True)
    wtkit.convert(model, "feedback_alignment", keep_on_backprop="0")
    with pytest.raises(wtkit.WtkitError, match="feedback layers are others than when"):
        record(test_error=1)


def test_a_recorder_that_another_replaced_says_so(tmp_path):
    first = wtkit.Recorder(tmp_path / "mine", network(), seed=0)
    second = wtkit.Recorder(tmp_path / "mine", network(), seed=0)
    with pytest.raises(wtkit.WtkitError, match="this recorder was left; make a new one"):
        first(test_error=1)
    second(test_error=1)


def test_a_finished_run_of_fewer_epochs_says_so(tmp_path, capsys):
    trained(tmp_path / "mine", epochs=3)
    capsys.readouterr()
    with wtkit.Recorder(
        tmp_path / "mine", network(), seed=0, network="small", data="made_up", epochs=5
    ) as record:
        assert record.finished
    printed = capsys.readouterr().out
    assert "finished after 3 of 5 epochs; to record it anew, delete the folder" in printed


def test_finished_runs_that_are_older_than_the_results_are_gathered(tmp_path):
    trained(tmp_path / "mine", seed=0)
    trained(tmp_path / "other", seed=1)
    path = next((tmp_path / "other").glob("runs/*"))
    copy = tmp_path / "mine/runs" / path.name
    shutil.copytree(path, copy)
    os.utime(copy / "trajectory.nc", (0, 0))
    trained(tmp_path / "mine", seed=0)
    gathered = wtkit.open_results(tmp_path / "mine", quiet=True)["small"]
    assert sorted(gathered.seed.values) == [0, 1]
