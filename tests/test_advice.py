"""The plan of an experiment: its predictions, and that its warnings name what fixes them."""

import csv
import dataclasses
import json
import math
import re

import pytest
from images import image_folder

import wtkit
from wtkit import methods, plan
from wtkit.__main__ import main
from wtkit.experiments import Facts, known_facts, run_config
from wtkit.plan import Cost, Inspection, Layer, angles_at_rest, mismatch, name_of, report

LAYERS = (
    Layer("conv1", 147, 147, 64, "relu"),
    Layer("layer1", 576, 576, 144, "relu"),
    Layer("fc", 512, 512, 128, "identity"),
)
BASE = {
    "network": "resnet18",
    "epochs": 8,
    "batch_size": 32,
    "lr": 0.005,
    "weight_decay": 0.9,
    "schedule": "cosine",
}


def layers_of(method):
    """The same layers with the samples that a method takes."""
    return [dataclasses.replace(layer, samples=method.samples(layer.inputs)) for layer in LAYERS]


def planned(method, options=None, **settings):
    config = run_config(BASE | {"method": method, "options": options or {}} | settings)
    chosen = config.loaded_method()
    facts_and_layers = known_facts(config), layers_of(chosen) if plan.mirrors(chosen) else ()
    return config, Inspection(*facts_and_layers)


# ----------------------------------------------------------------------------------------- warnings


def advised(sentence):
    """The settings that a warning names with a value."""
    pairs = re.findall(r"(\w+): ([\d.]+|orthogonal)", sentence)
    return [(name, json.loads(value) if value[0].isdigit() else value) for name, value in pairs]


@pytest.mark.parametrize(
    ("method", "options", "settings", "words", "names"),
    [
        ("kolen_pollack", {}, {"weight_decay": 0.1}, "e^-0.9 only", {"weight_decay"}),
        ("kolen_pollack", {}, {"weight_decay": 0}, "e^-0.0 only", {"weight_decay"}),
        (
            "weight_mirror", {"mirror_lr": 0.08}, {"weight_decay": 0.1}, "noise leaves",
            {"mirror_lr", "noise_batch", "noise"},
        ),
        (
            "weight_mirror", {"mirror_decay": 0.2}, {"weight_decay": 0.1}, "noise leaves",
            {"mirror_decay", "noise_batch"},
        ),
        (
            "weight_mirror", {"mirror_lr": 0.12, "noise": "orthogonal"}, {"weight_decay": 0.1},
            "noise leaves", {"mirror_lr", "noise_fraction"},
        ),
        ("weight_mirror", {"mirror_lr": 1e-4}, {"weight_decay": 0}, "the run has 352",
            {"mirror_lr"}),
        ("weight_mirror", {"mirror_lr": 0.01}, {}, "W decays to 1/e in 19", {"mirror_lr"}),
        (
            "weight_mirror", {"mirror_lr": 0.1}, {"schedule": "step", "weight_decay": 0.2},
            "B ends about", {"mirror_steps"},
        ),
        (
            "weight_mirror", {"mirror_lr": 0.004, "mirror_before": 0}, {"weight_decay": 0},
            "B ends about", {"mirror_steps"},
        ),
        ("weight_mirror", {"mirror_before": 1}, {"weight_decay": 0}, "B starts at",
            {"mirror_before"}),
        (
            "weight_mirror", {"mirror_before": 1, "noise": "orthogonal"}, {"weight_decay": 0},
            "B starts at", {"mirror_before"},
        ),
    ],
)  # fmt: skip
def test_each_setting_that_a_warning_names_fixes_it(method, options, settings, words, names):
    (sentence,) = [
        warning
        for warning in plan.warnings(*planned(method, options, **settings))
        if words in warning
    ]
    assert {name for name, _ in advised(sentence)} == names
    start = sentence[: len("noise leaves")]
    for name, value in advised(sentence):
        change = (
            ({name: value}, {})
            if name in options or name.startswith(("mirror", "noise"))
            else ({}, {name: value})
        )
        fixed = plan.warnings(*planned(method, options | change[0], **settings | change[1]))
        assert not [warning for warning in fixed if warning.startswith(start)], (name, value, fixed)


# in so few steps momentum takes more than the sum over the schedule
@pytest.mark.parametrize("epochs", [8, 5])
def test_the_advised_decay_gives_what_it_says(epochs):
    config, inspection = planned("kolen_pollack", weight_decay=0.1, epochs=epochs)
    name, decay = advised(plan.warnings(config, inspection)[0])[0]
    assert name == "weight_decay"
    fixed = dataclasses.replace(config, weight_decay=decay)
    assert mismatch(fixed, inspection.facts.steps(config))[-1] <= math.exp(-6.8)
    assert plan.row([fixed], inspection)["aligned_epoch"] is not None
    assert plan.warnings(fixed, inspection) == []


@pytest.mark.parametrize(
    ("method", "options", "settings", "words"),
    [
        ("kolen_pollack", {}, {"epochs": 1}, "in so few steps; set more epochs"),
        (
            "kolen_pollack",
            {},
            {"lr": 100, "weight_decay": 1},
            "without bound; set it below 3.8",
        ),
        ("kolen_pollack", {}, {"warmup_epochs": 50}, "warmup_epochs: 50 covers all 8 epochs"),
        (
            "weight_mirror",
            {"mirror_every": 500},
            {},
            "mirror_every: 500 exceeds the run's 352 steps",
        ),
        ("weight_mirror", {"mirror_decay": 0}, {}, "mirror_decay is 0"),
        (
            "weight_mirror",
            {"mirror_before": 0, "mirror_lr": 0.2, "noise_fraction": 0},
            {},
            "set mirror_before: 100",
        ),
        (
            "weight_mirror",
            {},
            {"momentum": 0, "lr": 0.5, "weight_decay": 2},
            "W decays to 1/e in 0",
        ),
    ],
)
def test_what_cannot_be_is_said(method, options, settings, words):
    assert any(words in warning for warning in plan.warnings(*planned(method, options, **settings)))


def test_a_batch_larger_than_the_data_is_said_in_the_datas_own_words():
    config, _ = planned("kolen_pollack", batch_size=5000)
    ((_, inspection),) = plan.survey([config], measured=False)
    (warning,) = plan.warnings(config, inspection)
    assert "5000" in warning and "1437 training images" in warning
    assert plan.row([config], inspection)["steps_per_epoch"] == 0


@pytest.mark.parametrize(
    ("network", "words"),
    [({"network": "alexnet"}, "alexnet does not accept images of 8 pixels"),
     ({"network": "nowhere:Net"}, "No module named 'nowhere'")],
)  # fmt: skip
def test_a_network_that_cannot_be_made_is_a_problem_in_its_own_words(network, words):
    config, _ = planned("weight_mirror", image_size=8, **network)
    ((_, inspection),) = plan.survey([config], measured=False)
    (warning,) = [warning for warning in plan.warnings(config, inspection) if words in warning]
    assert ("image_size" in warning) == ("pixels" in words)


def test_advice_on_noise_leaves_the_lag_alone():
    """A rate so small that B would stand behind W is not advised."""
    config, inspection = planned("weight_mirror", {"mirror_lr": 0.2})
    (sentence,) = [
        warning
        for warning in plan.warnings(config, inspection)
        if warning.startswith("noise leaves")
    ]
    for name, value in advised(sentence):
        assert plan.warnings(*planned("weight_mirror", {"mirror_lr": 0.2} | {name: value})) == [], (
            name
        )


def test_a_mirror_that_stops_and_taps_without_inputs_are_warned_of():
    assert "mirror_steps is 0" in plan.warnings(*planned("weight_mirror", {"mirror_steps": 0}))[0]
    config, inspection = planned("weight_mirror", {"mirror_lr": 0.05}, weight_decay=0.1)
    part = dataclasses.replace(
        inspection, layers=[dataclasses.replace(inspection.layers[1], inputs=64, samples=64)]
    )
    assert any("taps that only meet padding" in warning for warning in plan.warnings(config, part))
    assert not any("taps" in warning for warning in plan.warnings(config, inspection))


def test_what_aligns_is_not_warned_of():
    orthogonal = {
        "noise": "orthogonal",
        "noise_fraction": 0.5,
        "mirror_lr": 0.075,
        "mirror_before": 12,
    }
    for method, options in (
        ("kolen_pollack", {}),
        ("weight_mirror", orthogonal),
        ("feedback_alignment", {}),
    ):
        assert plan.warnings(*planned(method, options)) == []


# ------------------------------------------------------------------------------------------- angles


@pytest.mark.parametrize("name", methods.names())
def test_every_method_says_what_to_expect_by_its_decisions(name):
    known = {
        "backprop": (0, 0), "sign_symmetry": (37.1, 37.1), "sign_symmetry_fixed": (46.3, 46.3),
        "frozen": (None, None), "sign_symmetry_batchwise": (46.3, 46.3),
        "symmetric_alignment": (90, 1.7), "weight_mirror_delta_rule": (90, None),
        "direct_kolen_pollack": (90, None), "information_alignment": (90, None),
        "signed_initialisation": (46.3, 46.3), "product_feedback_alignment": (90, None),
    }  # fmt: skip
    config, inspection = planned(name)
    at_rest, course = angles_at_rest(config.loaded_method(), 352)
    if name in ("kolen_pollack", "weight_mirror"):
        assert at_rest is None
        return
    row = plan.row([config], dataclasses.replace(inspection, at_rest=at_rest, course=course))
    for key, expected in zip(
        ("angle_before", "angle_at_end"), known.get(name, (90, 90)), strict=True
    ):
        assert row[key] == pytest.approx(
            float("nan") if expected is None else expected, abs=0.7, nan_ok=True
        )
    assert report.explain_angles(row) == course != ""


# ----------------------------------------------------------------------------------------- in print


def test_the_plan_is_in_columns_and_a_warning_is_printed_once():
    configs = [planned(name, network=net, weight_decay=0.1) for name in ("backprop",
               "kolen_pollack")
               for net in ("resnet18", "resnet50")]  # fmt: skip
    cost = Cost(2.0, 0.5, 0.0, 3.0, 1.0, 0.5, 1_200_000_000, "a machine")
    rows = [
        plan.row([config, config], dataclasses.replace(inspection, cost=cost))
        for config, inspection in configs
    ]
    whom = [(name_of(row), "the same") for row in rows]
    text = plan.text("some", rows, whom)
    title, costs, angles, warnings = text.split("\n\n")
    assert title == "some: 8 runs, 0:29:08 one after another on a machine"
    for part in (costs, angles):
        lines = part.splitlines()
        assert len(lines) == 5
        columns = {
            line.index(word)
            for line, word in zip(
                lines[1:], ("backprop", "backprop", "kolen", "kolen"), strict=True
            )
        }
        assert len(columns) == 1, "methods are below each other"
    assert re.search("2 +8 × 44 +0:03:38 +0:07:17 +1.2 GB", costs)
    assert re.search(
        r"resnet18 +kolen_pollack +90° +≥ \d+° +mismatch falls by e\^-0.9, never e\^-5", angles
    )
    assert warnings == "Warning, resnet18 relu_bn backprop and 3 more: the same"


def test_seconds_add_up_what_a_run_is_made_of():
    options = {"mirror_before": 7, "mirror_every": 4, "mirror_steps": 2}
    config = run_config(
        BASE | {"method": "weight_mirror", "options": options, "epochs": 5, "angles_every": 2}
    )
    cost = Cost(1000, 1, 100, 0, 0, 0, 0, "")
    assert cost.seconds(config, 10) == 1000 + 50 + 100 * (7 + 50 // 4 * 2)
    cost = Cost(0, 0, 0, 1, 100, 10_000, 0, "")
    assert cost.seconds(config, 10) == 6 * 10_001 + 4 * 100  # angles after 0, 2, 4 and 5 epochs


@pytest.mark.slow
def test_a_plan_without_measuring_from_the_command_line(tmp_path, capsys):
    assert (
        main(
            [
                "plan",
                "config/digits_full_width.yaml",
                "--no-measure",
                "--csv",
                str(tmp_path / "plan.csv"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert printed.startswith("config/digits_full_width.yaml: 30 runs\n")
    assert "weight_mirror:gaussian" in printed and "the mismatch falls by e^-2.5 only" in printed
    with (tmp_path / "plan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13 and sum(int(row["runs"]) for row in rows) == 30
    (mirror,) = [
        row for row in rows if row["network"] == "resnet18" and row["variant"] == "gaussian"
    ]
    # measured: docs/planning.md
    assert float(mirror["sampling_max"]) == pytest.approx(29.2, abs=0.1)

    assert main(["plan", "config/ablations/kp_decay.yaml", "--no-measure"]) == 0
    assert "kolen_pollack:weight_decay=0.3" in capsys.readouterr().out


@pytest.mark.slow
def test_data_that_are_missing_leave_what_needs_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "methods: [weight_mirror, kolen_pollack]\nnetworks: [resnet18]\n"
    (tmp_path / "a.yaml").write_text(f"{head}settings: {{data: imagenet}}\n")
    assert main(["plan", "a.yaml", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "10 × 20,018" in printed and "mismatch falls by e^-" in printed
    assert printed.count("no images in data/imagenet/") == 1 and "image-net.org" in printed

    (tmp_path / "b.yaml").write_text(
        f"{head}settings: {{data: image_folder, data_root: mine, image_size: 8}}\n"
    )
    assert main(["plan", "b.yaml", "--no-measure"]) == 0
    printed = capsys.readouterr().out
    assert "10 × –" in printed and "no images in mine/" in printed and "noise leaves" in printed
    image_folder(tmp_path / "mine", train=40)
    assert main(["plan", "b.yaml", "--no-measure"]) == 0
    printed = capsys.readouterr().out
    assert "10 × 1 " in printed and "no images" not in printed


# ---------------------------------------------------------------------------------------- measuring


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kolen_pollack", "weight_mirror"])
def test_a_run_takes_about_what_a_few_steps_foretell(method, tmp_path, monkeypatch):
    monkeypatch.setattr("wtkit.plan.measuring.PATIENCE", 0.5)
    settings = {
        "network": "mlp",
        "network_options": {"hidden": [50]},
        "data": "digits",
        "epochs": 3,
        "image_size": 16,
    }
    config = run_config(BASE | settings | {"method": method, "options": {}})
    ((_, inspection),) = plan.survey([config], device="cpu")
    assert inspection.problem == "" and inspection.facts == Facts(1437, 360, 10, 16)
    assert inspection.cost.memory > 1e8
    assert (inspection.cost.mirror > 0) == (method == "weight_mirror")
    taken = float(wtkit.train(config, tmp_path, device="cpu", quiet=True)["seconds"].sum())
    ((_, again),) = plan.survey([config], device="cpu")  # other work on the machine may come and go
    predicted = [one.cost.seconds(config, 44) for one in (inspection, again)]
    assert min(predicted) / 3 < taken < 3 * max(predicted)


@pytest.mark.parametrize(
    ("used", "threads", "said"),
    [
        (0.0, 4, None),
        (10.0, 4, None),
        (90.0, 1, "keep 3.6 of 4 cores busy; on a quiet machine runs are faster"),
        (50.0, 4, "keep 2.0 of 4 cores busy; on a quiet machine runs are faster, and one thread"),
        (75.0, 1, None),
        (50.0, 2, None),
    ],
)
def test_a_plan_says_that_other_programs_slow_its_measurement(used, threads, said, monkeypatch):
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: used)
    monkeypatch.setattr("psutil.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("wtkit.plan.measuring.PATIENCE", 0.0)
    settings = {"network": "mlp", "data": "digits", "image_size": 8, "method": "backprop"}
    config = run_config(BASE | settings | {"options": {}})
    ((_, found),) = plan.survey([config], device="cpu")
    busy = [text for text in plan.warnings(config, found) if "cores busy" in text]
    assert len(busy) == (said is not None) and all(said in text for text in busy)
    ((_, unmeasured),) = plan.survey([config], measured=False)
    assert unmeasured.busy == ""


@pytest.mark.slow
def test_runs_that_cannot_be_made_are_said_and_the_others_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("wtkit.plan.measuring.PATIENCE", 0.0)
    root = image_folder(tmp_path / "images")
    base = {
        "data": "image_folder",
        "data_root": str(root),
        "image_size": 8,
        "network": "mlp",
        "epochs": 1,
    }
    runs = [
        run_config(
            base | {"method": "backprop", "batch_size": 8, "seed": seed, "lr": 0.1 / (seed + 1)}
        )
        for seed in (0, 1)
    ]
    runs.append(run_config(base | {"method": "backprop", "variant": "large", "batch_size": 99}))
    runs.append(run_config(base | {"method": "backprop", "network": "alexnet", "batch_size": 8}))
    calls, measure = [], plan.measure
    monkeypatch.setattr(
        "wtkit.plan.measuring.measure", lambda *given: calls.append(given) or measure(*given)
    )
    both, large, small = (found for _, found in plan.survey(runs, device="cpu"))
    assert both.cost is not None and both.problem == ""
    assert both.facts == Facts(36, 18, 3, 8)
    assert "'batch_size': 99 is more than the 36 training images" in large.problem
    assert "cannot take images of 8×8 pixels" in small.problem and small.cost is None
    assert len(calls) == 2  # seeds and rates cost the same
