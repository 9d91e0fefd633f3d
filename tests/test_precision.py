"""A precision that is slower than float32 on the CPU is measured, and said before a run pays for
it."""

import os
import time

import numpy as np
import pytest
import torch

import wtkit
from wtkit.__main__ import main
from wtkit.experiments import run_config
from wtkit.results import VARIABLES
from wtkit.training import precision_warning, slowdown

SMALL = {
    "method": "kolen_pollack", "network": "mlp", "network_options": {"hidden": [20]},
    "data": "digits", "image_size": 8, "epochs": 1, "delta_examples": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def measured_anew():
    slowdown.cache_clear()
    yield
    slowdown.cache_clear()


@pytest.fixture
def measured(monkeypatch):
    """Has the measurement find a factor, and lists what it was asked of."""

    def as_if(factor):
        asked = []
        monkeypatch.setattr(
            "wtkit.training.precision._measured", lambda name: asked.append(name) or factor
        )
        return asked

    return as_if


def test_a_slower_precision_is_named_with_its_factor_and_what_to_set(measured):
    asked = measured(11.3)
    for _ in range(2):
        assert precision_warning("bf16", "cpu", "a CPU") == (
            "precision bf16 takes about 11 times as long as float32 on this CPU, a CPU; set "
            "precision: float32"
        )
    assert asked == ["bf16"]  # once a process
    assert "precision fp16 takes about 11 times" in precision_warning("fp16", "cpu", "")


@pytest.mark.parametrize(("factor", "said"), [(0.6, False), (1.15, False), (1.34, True)])
def test_a_small_margin_is_left_to_noise(measured, factor, said):
    measured(factor)
    assert ("about 1.3 times" in precision_warning("bf16", "cpu", "")) == said


def test_float32_and_other_devices_are_not_measured(measured):
    asked = measured(11)
    assert precision_warning("float32", "cpu", "") == precision_warning("bf16", "cuda", "") == ""
    assert asked == []


def test_a_real_measurement_leaves_the_process_as_it_was():
    stream, threads, grad = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    start = time.thread_time()
    factor = slowdown("bf16")
    assert time.thread_time() - start < 5
    assert 0.05 < factor < 100
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # bf16 is emulated
        assert factor > 2
    assert torch.equal(torch.get_rng_state(), stream)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(
    not os.path.exists("/proc"), reason="a copy of the process measures on Linux alone"
)
def test_with_several_threads_a_copy_measures_on_one(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    own = os.getpid()
    monkeypatch.setattr(
        "wtkit.training.precision._measured", lambda name: 7.0 if os.getpid() != own else -1.0
    )
    assert slowdown("bf16") == 7.0


@pytest.mark.skipif(
    not os.path.exists("/proc"), reason="a copy of the process measures on Linux alone"
)
@pytest.mark.parametrize(
    "fails", [lambda _: os._exit(1), lambda _: time.sleep(30)], ids=["dies", "hangs"]
)
def test_a_copy_that_fails_says_nothing(monkeypatch, fails):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr("wtkit.training.precision.LIMIT", 0.5)
    monkeypatch.setattr("wtkit.training.precision._measured", fails)
    assert precision_warning("bf16", "cpu", "") == ""


@pytest.mark.slow
def test_a_run_says_so_at_its_start_unless_quiet_and_to_the_same_result(measured, capsys):
    asked = measured(11)
    config = run_config(SMALL | {"precision": "bf16"})
    quiet = wtkit.train(config, device="cpu", quiet=True)
    assert asked == [] and capsys.readouterr().out == ""
    told = wtkit.train(config, device="cpu")
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("Warning: precision bf16 takes about 11 times") and first.endswith(
        "set precision: float32"
    )
    assert rest and not any("precision" in line for line in rest)
    for name in VARIABLES:
        if name != "seconds":
            np.testing.assert_array_equal(quiet[name].values, told[name].values, err_msg=name)


@pytest.mark.slow
def test_a_real_measurement_changes_no_number_of_a_run(capsys):
    config = run_config(SMALL | {"method": "weight_mirror", "precision": "bf16"})
    quiet, told = (wtkit.train(config, device="cpu", quiet=quiet) for quiet in (True, False))
    assert slowdown.cache_info().currsize == 1
    for name in VARIABLES:
        if name != "seconds":
            np.testing.assert_array_equal(quiet[name].values, told[name].values, err_msg=name)


@pytest.mark.slow
def test_a_float32_run_says_nothing(measured, capsys):
    measured(11)
    wtkit.train(run_config(SMALL), device="cpu")
    assert "Warning" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_plan_warns_with_the_setting(measured, monkeypatch, tmp_path, capsys):
    measured(11)
    monkeypatch.setattr("wtkit.plan.measuring.PATIENCE", 0.0)
    (tmp_path / "a.yaml").write_text(
        "methods: [backprop, feedback_alignment]\nnetworks: [mlp]\n"
        "settings: {data: digits, image_size: 8, epochs: 1, precision: bf16}\n"
    )
    assert main(["plan", str(tmp_path / "a.yaml"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("takes about 11 times as long as float32 on this CPU") == 1
    assert (
        "Warning, mlp own backprop and 1 more: precision bf16"
    ) in printed and "set precision: float32" in printed
    assert main(["plan", str(tmp_path / "a.yaml"), "--no-measure"]) == 0
    assert "precision" not in capsys.readouterr().out
