import copy
import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from images import image_folder
from torch.utils.data._utils import signal_handling

import wtkit
from wtkit import results
from wtkit.__main__ import main
from wtkit.experiments import RunConfig, expand, learning_rate
from wtkit.results import VARIABLES, open_run
from wtkit.training import Run, make_optimizer, provenance, write_checkpoint

pytestmark = pytest.mark.slow  # a ResNet-18 takes a second, however small its images

ROOT = Path(__file__).resolve().parent.parent
METHODS = ["backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"]
MEASURED = [name for name in VARIABLES if name != "seconds"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def config(images):
    def build(method="weight_mirror", **settings):
        tiny = {
            "data": "image_folder", "data_root": str(images), "image_size": 8, "epochs": 2,
            "batch_size": 12, "lr": 0.02, "weight_decay": 0.01, "delta_examples": 6,
            "network_options": {"width": 16},  # instead of 64, with as many layers
        }  # fmt: skip
        if method == "weight_mirror":
            tiny["options"] = {"noise": "orthogonal", "mirror_before": 4, "mirror_every": 2}
        return RunConfig(method=method, **tiny | settings)

    return build


def assert_same(a: xr.Dataset, b: xr.Dataset) -> None:
    """The same trajectory, bit for bit, but for the time that it took."""
    for name in MEASURED:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_records_what_the_schema_promises(config, method):
    epochs = []
    run = wtkit.train(
        # the angles of sign symmetry are those of wide layers
        config(method, network_options={}) if method == "sign_symmetry" else config(method),
        quiet=True,
        on_epoch=lambda so_far: epochs.append(so_far.sizes["epoch"]),
    )
    assert epochs == [1, 2, 3]
    assert str(run.status.values) == "complete"
    results.check(run, "a run")
    assert run.sizes == {"epoch": 3, "layer": 21}
    assert not run.test_error.isnull().any() and not run.weight_norm.isnull().any()
    assert np.isnan(run.train_loss[0])
    assert not run.train_loss[1:].isnull().any()
    assert float(run.delta_angle.sel(layer="fc").max()) == 0
    start = run.matrix_angle.isel(epoch=0)
    if method == "backprop":
        assert (run.matrix_angle == 0).all()
        assert (run.delta_angle == 0).all()
    elif method == "sign_symmetry":
        # torch draws the last layer uniformly: 30°
        wide = start.where(run.fan_in > 500, drop=True)[:-1]
        np.testing.assert_allclose(wide, 37.1, atol=0.6)
    else:
        np.testing.assert_allclose(start, 90, atol=10)
    assert run.mirror_samples.notnull().all() == (method == "weight_mirror")
    settings = results.settings(run)
    assert settings["method"] == method
    assert json.loads(str(run.provenance.values))["torch"] == torch.__version__


def test_a_seed_fixes_everything_and_another_changes_it(config):
    first, second, other = (
        wtkit.train(config(epochs=1, seed=seed), quiet=True) for seed in (3, 3, 4)
    )
    assert_same(first, second)
    assert not np.array_equal(first.train_loss, other.train_loss, equal_nan=True)


def test_training_does_not_touch_the_random_stream_of_the_caller(config):
    before = torch.get_rng_state()
    wtkit.train(config(epochs=1), quiet=True)
    assert torch.equal(before, torch.get_rng_state())


def test_measuring_angles_changes_nothing(config):
    measured = wtkit.train(config(epochs=3), quiet=True)
    seldom = wtkit.train(config(epochs=3, angles_every=3), quiet=True)
    for name in ("test_error", "train_loss"):
        np.testing.assert_array_equal(measured[name].values, seldom[name].values)
    assert seldom.matrix_angle.isnull().all("layer").values.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(measured.matrix_angle[3].values, seldom.matrix_angle[3].values)


def test_weights_decay_and_biases_and_batchnorm_do_not(config):
    from wtkit.feedback import convert
    from wtkit.networks import build_resnet
    from wtkit.training import make_optimizer

    model = convert(build_resnet("resnet18", num_classes=3), "kolen_pollack")
    decaying, others = make_optimizer(model, config("kolen_pollack")).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert decaying["weight_decay"] == 0.01
    assert others["weight_decay"] == 0
    assert len(decaying["params"]) == 2 * 21  # W and B
    assert all(
        "bn" in names[id(p)] or "bias" in names[id(p)] or "downsample.1" in names[id(p)]
        for p in others["params"]
    )


def test_kolen_pollacks_mismatch_falls_as_the_schedule_says(config):
    """The exponent that configurations are chosen by, against ‖W − B‖ of a real run without
    momentum."""
    from wtkit.experiments import decay_exponent

    settings = config(
        "kolen_pollack",
        momentum=0.0,
        lr=0.05,
        weight_decay=1.0,
        warmup_epochs=1,
        lr_drops=(2,),
        epochs=3,
    )
    mismatch = []

    def measure(run):  # law of cosines from what is recorded: ‖B‖/‖W‖ and the angle
        ratio, angle = run.feedback_norm_ratio[-1], np.deg2rad(run.matrix_angle[-1])
        mismatch.append(np.sqrt(1 + ratio**2 - 2 * ratio * np.cos(angle)))

    run = wtkit.train(settings, quiet=True, on_epoch=measure)
    assert run.status == "complete"
    # relative to ‖W‖, which decays too; W and B share all that is learnt, so the unused layers
    # decay by the law alone
    assert decay_exponent(settings, steps_per_epoch=3) == pytest.approx(
        0.05 * (0 + 1 / 3 + 2 / 3 + 3 + 0.3)
    )
    assert (mismatch[-1] < mismatch[0]).all()


def test_cosine_warmup_smoothing_and_nesterov_train(config):
    run = wtkit.train(
        config(
            "backprop",
            schedule="cosine",
            warmup_epochs=1,
            label_smoothing=0.1,
            nesterov=True,
            epochs=3,
        ),
        quiet=True,
    )
    rates = run.learning_rate.values[1:]
    assert rates[0] < 0.02
    assert rates[1] > rates[2] > 0


def test_a_loss_that_is_not_finite_ends_the_run_and_is_kept(config, tmp_path):
    run = wtkit.train(config("backprop", lr=1e20, epochs=5), tmp_path, quiet=True)
    assert str(run.status.values) == "diverged"
    assert run.sizes["epoch"] < 6
    assert np.isnan(run.test_error[-1])
    assert str(open_run(tmp_path / "trajectory.nc").status.values) == "diverged"
    tree = results.gather([tmp_path / "trajectory.nc"], "x")
    assert tree["resnet18-width=16"]["status"].values.tolist() == ["diverged"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(config, precision):
    run = wtkit.train(config("kolen_pollack", precision=precision, epochs=1), quiet=True)
    assert np.isfinite(run.train_loss[-1])


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        *((method, {}) for method in [*METHODS, "sign_symmetry_batchwise"]),
        ("kolen_pollack", {"options": {"signal_noise": 0.5, "decay_ratio": 3.0}}),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_end(config, tmp_path, method, changed):
    settings = config(method, epochs=3, **changed)
    unbroken = wtkit.train(settings, quiet=True)

    def stop_after(epoch):
        def on_epoch(run):
            if run.sizes["epoch"] == epoch + 1:
                raise Stop

        return on_epoch

    for epoch in (0, 2, 3):  # 3 is the last: only its trajectory is not written yet
        with pytest.raises(Stop):
            wtkit.train(settings, tmp_path, quiet=True, on_epoch=stop_after(epoch))
        assert (tmp_path / "checkpoint.pt").exists()
    resumed = wtkit.train(settings, tmp_path, quiet=True)
    assert_same(unbroken, resumed)
    assert_same(unbroken, open_run(tmp_path / "trajectory.nc"))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(config, tmp_path):
    settings = config("weight_mirror", epochs=16)
    unbroken = wtkit.train(settings, quiet=True)
    command = [
        sys.executable,
        "-m",
        "wtkit",
        "train",
        *settings.arguments(),
        "--output",
        str(tmp_path),
    ]
    # seconds after a checkpoint appears, so in the midst of an epoch or of writing
    delays = iter([0.0, 0.15, 0.4])
    for delay in delays:
        process = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE
        )
        process.stdout.readline()  # the first line: a record, or where it goes on
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    subprocess.run(
        command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert_same(unbroken, open_run(tmp_path / "trajectory.nc"))


def signalled(monkeypatch, number, step):
    """Have the signal arrive in the ``step``-th step from now on."""
    calls = itertools.count(1)

    def rate(*arguments):
        if next(calls) == 2 * step:  # once for each of the two groups of parameters
            os.kill(os.getpid(), number)
        return learning_rate(*arguments)

    monkeypatch.setattr("wtkit.training.run.learning_rate", rate)


@pytest.mark.parametrize(("method", "number", "step"), [
    ("weight_mirror", signal.SIGTERM, 1), ("weight_mirror", signal.SIGUSR1, 5),
    ("kolen_pollack", signal.SIGTERM, 3),
])  # fmt: skip
def test_a_run_that_is_told_to_stop_goes_on_from_the_very_step(
    config, tmp_path, monkeypatch, capsys, method, number, step
):
    """As Slurm and snakemake tell it; a third of an epoch a step, so step 3 is an epoch's last."""
    settings = config(method)
    unbroken = wtkit.train(settings, quiet=True)
    command = ["train", *settings.arguments(), "--output", str(tmp_path)]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signalled(patch, number, step)
        assert main(command) == 75
    assert signal.getsignal(number) == before
    where = f"after step {(step - 1) % 3 + 1} of 3 of epoch {(step - 1) // 3 + 1}"
    stopped = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name} {where}" in stopped
    assert len(stopped.splitlines()) == 1
    assert main(command) == 0
    assert (
        f"Resuming after epoch {(step - 1) // 3} of 2, step {(step - 1) % 3 + 1} of 3"
    ) in capsys.readouterr().out
    assert_same(unbroken, open_run(tmp_path / "trajectory.nc"))


def test_a_run_without_a_folder_leaves_signals_alone(config):
    def kinds(run):
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL

    wtkit.train(config("backprop", epochs=1), quiet=True, on_epoch=kinds)


def test_a_finished_run_is_not_trained_again_and_another_is_not_overwritten(config, tmp_path):
    wtkit.train(config("backprop", epochs=1), tmp_path, quiet=True)
    again = wtkit.train(
        config("backprop", epochs=1),
        tmp_path,
        quiet=True,
        on_epoch=lambda run: pytest.fail("trained"),
    )
    assert again.sizes["epoch"] == 2
    with pytest.raises(wtkit.WtkitError, match=r"other settings \(\w+ is .*, not .*\); choose"):
        wtkit.train(config("backprop", epochs=2), tmp_path, quiet=True)


def test_checkpoints_of_other_settings_are_left_aside(config, tmp_path, capsys):
    def stop(run):
        raise Stop

    for lr in (0.5, 0.25):
        with pytest.raises(Stop):
            wtkit.train(config("backprop", lr=lr), tmp_path, on_epoch=stop)
    run = wtkit.train(config("backprop", epochs=1), tmp_path)
    assert capsys.readouterr().out.count("belongs to other settings") == 2
    assert len(list(tmp_path.glob("checkpoint.*.pt"))) == 2
    assert_same(run, wtkit.train(config("backprop", epochs=1), quiet=True))


def test_settings_that_return_find_their_checkpoint(config, tmp_path, capsys):
    def stop(run):
        if run.sizes["epoch"] == 2:
            raise Stop

    for lr in (0.02, 0.01):
        with pytest.raises(Stop):
            wtkit.train(config("backprop", lr=lr), tmp_path, on_epoch=stop, quiet=True)
    run = wtkit.train(config("backprop"), tmp_path)
    assert "Resuming after epoch 1 of 2" in capsys.readouterr().out
    assert_same(run, wtkit.train(config("backprop"), quiet=True))


def test_a_checkpoint_from_before_a_variable_goes_on_without_it(config, tmp_path):
    def stop(run):
        if run.sizes["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        wtkit.train(config("kolen_pollack"), tmp_path, on_epoch=stop, quiet=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for entry in state["records"]:
        del entry["weight_norm"]
    write_checkpoint(state, tmp_path / "checkpoint.pt")
    run = wtkit.train(config("kolen_pollack"), tmp_path, quiet=True)
    assert run.weight_norm.isnull().all("layer").values.tolist() == [True, True, False]


def test_a_run_says_where_it_was_resumed(config, tmp_path, monkeypatch):
    def stop(run):
        raise Stop

    with pytest.raises(Stop):
        wtkit.train(config("backprop", epochs=1), tmp_path, on_epoch=stop, quiet=True)
    monkeypatch.setattr("wtkit.training.provenance.current_commit", lambda: "another")
    provenance = json.loads(
        str(wtkit.train(config("backprop", epochs=1), tmp_path, quiet=True).provenance.values)
    )
    assert provenance["commit"] != "another"
    (resumed,) = provenance["resumed"]
    assert resumed.keys() == {"commit", "started"}
    assert resumed["commit"] == "another"


def test_provenance_tells_every_change_from_the_stretch_before():
    at = [
        json.dumps({"processes": number, "started": str(hour)})
        for hour, number in enumerate((2, 1, 2, 2))
    ]
    told = at[0]
    for now in at[1:]:
        told = provenance.resumed_provenance(told, now)
    assert json.loads(told)["resumed"] == [
        {"processes": 1, "started": "1"},
        {"processes": 2, "started": "2"},
    ]


def test_a_last_step_that_destroys_the_weights_is_a_divergence(config):
    run = wtkit.train(config("backprop", epochs=1, batch_size=36, lr=1e30), quiet=True)
    assert run.sizes["epoch"] == 2
    assert str(run.status.values) == "diverged"


def test_a_checkpoint_from_a_gpu_goes_on_here_to_the_same(config):
    """Weights, and so their momentum, are channels_last there, which fused SGD would take for
    another order."""
    ended = []
    for there in (torch.contiguous_format, torch.channels_last):
        run = Run(config("kolen_pollack"), torch.device("cpu"))
        run.records.append({})
        run.engaged_epoch([], quiet=True)
        state = copy.deepcopy(run.state())
        for kept in state["optimizer"]["state"].values():
            if kept["momentum_buffer"].dim() == 4:
                kept["momentum_buffer"] = kept["momentum_buffer"].to(memory_format=there)
        run = Run(config("kolen_pollack"), torch.device("cpu"))
        run.restore(state)
        run.begin_epoch()
        run.engaged_epoch([], quiet=True)
        ended.append([p.detach().clone() for p in run.model.parameters()])
    assert all(map(torch.equal, *ended))


def test_a_first_step_that_overflows_leaves_no_momentum(config, monkeypatch):
    layer = torch.nn.Linear(1, 1, bias=False)
    before = layer.weight.item()
    optimizer = make_optimizer(
        layer, config("backprop", precision="fp16", lr=0.1, momentum=0.9, weight_decay=0)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    monkeypatch.setattr(
        torch, "empty_like", lambda like, **how: torch.full_like(like, float("nan"), **how)
    )
    for gradient in (float("inf"), 1.0, 1.0):
        scaler.scale(layer.weight.sum())  # as the scaler wants it
        layer.weight.grad = torch.full_like(layer.weight, gradient * scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
    assert layer.weight.item() == pytest.approx(before - 0.1 * (1 + 1.9))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_gpus_lack_of_memory_is_known_by_its_words(text, config, monkeypatch):
    def lacking(*_, **__):
        raise RuntimeError(text)

    monkeypatch.setattr("wtkit.training.run.find_live_taps", lacking)
    with pytest.raises(wtkit.WtkitError, match=r"out of memory on cpu: .*; take a smaller"):
        wtkit.train(config("weight_mirror"), quiet=True)
    monkeypatch.setattr("torch.empty", lacking)
    with pytest.raises(
        wtkit.WtkitError,
        match=r"^out of memory on cuda before anything was stored there \(CUDA error",
    ):
        wtkit.train(config("weight_mirror"), quiet=True, device="cuda")


def test_a_lack_of_memory_is_said_in_a_line(config, monkeypatch):
    def ask_for_too_much(*_):
        torch.empty(1 << 60)

    monkeypatch.setattr("wtkit.training.run.find_live_taps", ask_for_too_much)
    with pytest.raises(
        wtkit.WtkitError,
        match=r"out of memory on cpu: .*; take a smaller batch_size, image_size or",
    ):
        wtkit.train(config("weight_mirror"), quiet=True)


# a loader that lost its worker ends so
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_is_killed_is_said_in_a_line_and_the_run_goes_on(config, tmp_path):
    settings = config("backprop", image_size=72, workers=1, epochs=2)

    def kill(run):
        if run.sizes["epoch"] == 2:
            for worker in multiprocessing.active_children():
                worker.kill()

    with pytest.raises(
        wtkit.WtkitError, match=r"decodes images was killed: DataLoader worker .* resumes"
    ) as raised:
        wtkit.train(settings, tmp_path, quiet=True, on_epoch=kill)
    # a notebook keeps the error, and with it what its frames hold
    assert raised.value.__context__ is not None
    signal_handling._error_if_any_worker_fails()
    assert_same(wtkit.train(settings, tmp_path, quiet=True), wtkit.train(settings, quiet=True))


@pytest.mark.parametrize(
    ("method", "weight_decay", "count"),
    [("kolen_pollack", 0.0, 1), ("kolen_pollack", 0.1, 0), ("weight_mirror", 0.0, 0)],
)
def test_kolen_pollack_without_weight_decay_is_doubted(config, capsys, method, weight_decay, count):
    wtkit.train(config(method, epochs=1, weight_decay=weight_decay))
    doubt = f"setting 'weight_decay': without it, B of {method} stays as far from W as it is"
    assert capsys.readouterr().out.count(doubt) == count


def test_an_interrupt_leaves_no_loader(config, tmp_path):
    settings = config("backprop", image_size=72, workers=1, epochs=2)

    def interrupt(run):
        if run.sizes["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:  # a notebook keeps it
        wtkit.train(settings, tmp_path, quiet=True, on_epoch=interrupt)
    assert raised.value.__traceback__ is not None
    assert multiprocessing.active_children() == []
    assert_same(wtkit.train(settings, tmp_path, quiet=True), wtkit.train(settings, quiet=True))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(config, device):
    with pytest.raises(wtkit.WtkitError, match=f"device '{device}'"):
        wtkit.train(config("backprop"), device=device)


def test_two_trainers_do_not_share_a_folder(config, tmp_path):
    def second(run):
        with pytest.raises(wtkit.WtkitError, match="another process"):
            wtkit.train(config("backprop"), tmp_path, quiet=True)

    wtkit.train(config("backprop", epochs=1), tmp_path, quiet=True, on_epoch=second)


def test_a_full_disk_leaves_the_last_checkpoint(config, tmp_path, little_space):
    def stop_at_2(run):
        if run.sizes["epoch"] == 2:
            raise Stop

    settings = config("backprop", epochs=2)
    with pytest.raises(Stop):
        wtkit.train(settings, tmp_path, quiet=True, on_epoch=stop_at_2)

    before = (tmp_path / "checkpoint.pt").read_bytes()
    with (
        little_space(1000),
        pytest.raises(
            wtkit.WtkitError,
            match=r"^cannot write .*/checkpoint\.pt: .*; free some space .* resumes from the last",
        ),
    ):
        wtkit.train(settings, tmp_path, quiet=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    with (
        little_space(1000),
        pytest.raises(wtkit.WtkitError, match=r"free some space .* starts from the beginning$"),
    ):
        wtkit.train(settings, tmp_path / "another", quiet=True)
    assert_same(wtkit.train(settings, tmp_path, quiet=True), wtkit.train(settings, quiet=True))


def test_progress_is_a_line_an_epoch(config, capsys):
    wtkit.train(config("weight_mirror", epochs=1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["epoch 0/1", "epoch 1/1"]
    assert all(
        word in lines[1] for word in ("loss", "error", "matrix angles", "δ angles", " s", "left")
    )


# --------------------------------------------------------------------------------- the command line


def test_the_command_line_trains_what_a_config_says(config, tmp_path, capsys):
    settings = config("weight_mirror", epochs=1)
    assert main(["train", *settings.arguments(), "--output", str(tmp_path)]) == 0
    run = open_run(tmp_path / "trajectory.nc")
    assert str(run.settings.values) == settings.revision
    out = tmp_path / "results.nc"
    assert (
        main(
            [
                "gather",
                str(tmp_path / "trajectory.nc"),
                "--experiment",
                "mine",
                "--output",
                str(out),
            ]
        )
        == 0
    )
    assert wtkit.open_results(out)["resnet18-width=16"].sizes["run"] == 1


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    image_folder(root / "imagenet", classes=2, train=4, held_out=2, size=250)
    return root


PAPER = {
    (run.network, run.norm_order, run.method): run
    for run in expand(ROOT / "config" / "imagenet.yaml")
    # the others on 50 add only time
    if run.network == "resnet18" or run.method in ("weight_mirror", "kolen_pollack")
}


@pytest.mark.parametrize("run", PAPER.values(), ids=map("-".join, PAPER))
def test_the_papers_experiment_runs_on_a_folder_of_imagenets_layout(run, imagenet):
    """The kinds of run of config/imagenet.yaml, at 224×224, cut to one epoch of two steps and a
    quarter of the width."""
    shorter = {
        "network_options": {"width": 16},
        "epochs": 1,
        "warmup_epochs": 0.5,
        "batch_size": 4,
        "workers": 0,
        "delta_examples": 2,
    }
    # a B of few samples is too long, and δ would grow from layer to layer: rather none before
    # training than a few
    options = run.options | {"mirror_before": 0} if run.method == "weight_mirror" else run.options
    result = wtkit.train(
        dataclasses.replace(run, data_root=str(imagenet), options=options, **shorter), quiet=True
    )
    assert str(result.status.values) == "complete"
    assert result.test_error.notnull().all()
    assert result.sizes["layer"] == {"resnet18": 21, "resnet50": 54}[run.network]
