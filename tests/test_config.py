"""What a run is, and how an experiment file becomes runs."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

from wtkit import WtkitError, methods
from wtkit.experiments import (
    NUMERICS,
    RunConfig,
    decay_exponent,
    expand,
    json_schema,
    learning_rate,
    run_config,
)

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted((ROOT / "config").rglob("*.yaml"))
SMALL = {"methods": ["backprop"], "networks": ["resnet18"]}


@pytest.fixture
def experiment(tmp_path):
    """Expands an experiment given as a dictionary or as YAML."""

    def runs(content):
        path = tmp_path / "mine.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return expand(path)

    return runs


# -------------------------------------------------------------------------------------------- a run


def test_a_run_has_a_name_that_is_its_folder():
    assert run_config({"method": "backprop"}).name == "resnet18-relu_bn-backprop-seed0"
    run = run_config(
        {"method": "weight_mirror", "variant": "long", "network": "resnet50", "seed": 3}
    )
    assert run.name == "resnet50-relu_bn-weight_mirror-long-seed3"


def test_a_run_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_config({"method": "backprop"}).lr = 1.0


def test_the_revision_changes_with_every_setting_and_with_the_numerics(monkeypatch):
    run = run_config({"method": "backprop"})
    others = [
        dataclasses.replace(run, lr=0.1),
        dataclasses.replace(run, seed=1),
        dataclasses.replace(run, norm_order="bn_relu"),
        run_config({"method": "weight_mirror"}),
        run_config({"method": "weight_mirror", "options": {"noise_std": 2.0}}),
    ]
    revisions = {one.revision for one in [run, *others]}
    monkeypatch.setattr("wtkit.experiments.run.NUMERICS", NUMERICS + 1)
    assert len(revisions | {run.revision}) == 7


REFUSED = [
    (
        {"method": "weight_miror"},
        "unknown method 'weight_miror' (did you mean 'weight_mirror'?); accepted: backprop, ",
    ),
    ({"lrr": 1}, "unknown setting 'lrr' (did you mean 'lr'?); accepted: method, options, "),
    ({"options": {"lr": 1}}, "unknown option of backprop 'lr'; accepted: none"),
    (
        {"method": "weight_mirror", "options": {"noise_sd": 1}},
        "'noise_sd' (did you mean 'noise_std'?); accepted: ",
    ),
    (
        {"method": "weight_mirror", "options": {"noise_std": -1}},
        "'noise_std': input should be greater than 0, got -1",
    ),
    (
        {"method": "weight_mirror", "options": {"noise": "orthogonal", "noise_size": 8}},
        "leave noise_size at None",
    ),
    (
        {"network": "resnet19"},
        "setting 'network': unknown network 'resnet19' (did you mean 'resnet18'?); expected a ",
    ),
    ({"network": "mobilnet_v2"}, "unknown network 'mobilnet_v2' (did you mean 'mobilenet_v2'?)"),
    ({"network": "mypackage.nets.Mine"}, "or a class of your own as 'package.module:Class'"),
    ({"network": "mypackage/nets.py:Mine"}, "or a class of your own as 'package.module:Class'"),
    (
        {"network_options": {"widht": 16}},
        "unknown option of a ResNet 'widht' (did you mean 'width'?)",
    ),
    (
        {"network": "vgg11", "network_options": {"num_classes": 3}},
        "'num_classes' is the data set's to say",
    ),
    (
        {"network": "mlp", "network_options": {"hiden": 3}},
        "unknown option of mlp 'hiden' (did you mean 'hidden'?)",
    ),
    (
        {"network": "mlp", "network_options": {"hidden": [0]}},
        "option of mlp 'hidden[0]': input should be greater than 0",
    ),
    (
        {"network": "mlp", "network_options": {"unit": "gelu"}},
        "option of mlp 'activation': input should be 'relu', 'tanh' or",
    ),
    ({"network": "vgg11", "norm_order": "bn_relu"}, "setting 'norm_order': only resnet18, "),
    (
        {"network": "mlp", "stem": "small"},
        "setting 'stem': only resnet18, resnet34, resnet50, ",
    ),
    ({"precision": "float16"}, ", got 'float16' (did you mean 'fp16'?)"),
    ({"precision": "bfloat16"}, ", got 'bfloat16' (did you mean 'bf16'?)"),
    ({"norm_order": "own"}, "setting 'norm_order': resnet18 needs one of relu_bn, bn_relu"),
    ({"backprop": "fc"}, "setting 'keep_on_backprop': expected a list, got 'fc'"),
    (
        {"method": "weight_mirror", "options": {"noise": "gausian"}},
        ", got 'gausian' (did you mean 'gaussian'?)",
    ),
    (
        {"norm_order": "bn"},
        "setting 'norm_order': input should be 'relu_bn', 'bn_relu' or 'own', got 'bn'",
    ),
    ({"data": "mnist"}, "unknown data set 'mnist'; accepted: cifar10, "),
    ({"epochs": 0}, "setting 'epochs': input should be greater than 0, got 0"),
    ({"epochs": 1.5}, "setting 'epochs': "),
    (
        {"lr": "fast"},
        "setting 'lr': input should be a valid number, unable to parse string as a "
        "number, got 'fast'",
    ),
    ({"momentum": 1}, "setting 'momentum': input should be less than 1, got 1"),
    (
        {"lr_drops": [32, -1]},
        "setting 'lr_drops[1]': input should be greater than or equal to 0, got -1",
    ),
    ({"variant": "Long One"}, "setting 'variant': "),
    ({"nesterov": True, "momentum": 0}, "setting 'nesterov': needs a momentum above 0"),
    (
        {"nesterov": True, "optimizer": "adamw"},
        "setting 'nesterov': is of SGD; leave it out with AdamW",
    ),
    ({"momentum": 0.5, "optimizer": "adamw"}, "setting 'momentum': is of SGD"),
    ({"optimizer": "adam"}, "setting 'optimizer': input should be 'sgd' or 'adamw', got 'adam'"),
    (
        {"method": "product_feedback_alignment", "optimizer": "adamw"},
        "setting 'optimizer': product_feedback_alignment needs sgd with these options",
    ),
    (
        {"method": "kolen_pollack", "options": {"lr_ratio": 2}, "optimizer": "adamw"},
        "setting 'optimizer': kolen_pollack needs sgd with these options",
    ),
    ({"method": None}, "setting 'method': input should be a valid string, got None"),
]


@pytest.mark.parametrize(
    ("settings", "message"), REFUSED, ids=[str(settings) for settings, _ in REFUSED]
)
def test_what_is_not_so_is_named(settings, message):
    with pytest.raises(WtkitError, match=re.escape(message)):
        run_config({"method": "backprop"} | settings)


def test_a_run_without_a_method_is_refused():
    with pytest.raises(WtkitError, match="setting 'method': is required"):
        run_config({})


def test_what_yaml_reads_as_text_is_a_number():
    assert yaml.safe_load("1e-3") == "1e-3"
    run = run_config(
        {"method": "weight_mirror", "weight_decay": "1e-3", "options": {"mirror_lr": "1e-3"}}
    )
    assert run.weight_decay == 1e-3
    assert methods.load(run.method, **run.options).mirror_lr == 1e-3


EVERYTHING = {
    "method": "weight_mirror",
    "options": {"noise": "uniform", "noise_size": None, "bias_blocking": True},
    "variant": "v2", "network": "resnet50", "network_options": {}, "norm_order": "bn_relu",
    "stem": "small", "keep_on_backprop": ["fc", "layer1.*"], "normalisation": "fixed",
    "data": "cifar10", "data_root": "some where", "classes": 5, "image_size": 40, "augment": "crop",
    "evaluate_on": "validation", "seed": 7, "epochs": 3, "batch_size": 32, "lr": 0.125,
    "optimizer": "sgd", "momentum": 0.5, "nesterov": True, "weight_decay": 1e-5,
    "schedule": "cosine", "lr_drops": [1, 2], "lr_drop_factor": 0.5, "warmup_epochs": 0.5,
    "label_smoothing": 0.1, "precision": "bf16", "angles_every": 2, "delta_examples": 16,
    "compile": True, "workers": 0,
}  # fmt: skip
OTHER = {
    "method": "backprop",
    "network": "mlp",
    "network_options": {"hidden": [30, 20], "unit": "tanh"},
}


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "backprop"},
        EVERYTHING | {"lr_drops": []},
        EVERYTHING | {"schedule": "step"},
        EVERYTHING | {"lr_drops": [], "optimizer": "adamw", "momentum": 0, "nesterov": False},
        EVERYTHING | {"schedule": "step", "lr_drops": [2]},
        OTHER,
    ],
)
def test_the_command_line_says_the_same(settings, monkeypatch, tmp_path):
    from wtkit import __main__

    run, trained = run_config(settings), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wtkit.training.train", lambda config, *_, **__: trained.append(config))
    assert __main__.main(["train", *run.arguments()]) == 0
    assert trained == [run]


def test_everything_is_everything():
    assert set(EVERYTHING) == {field.name for field in dataclasses.fields(RunConfig)}


# ------------------------------------------------------------------------------------ learning rate


def rates(moments, **settings):
    run = run_config({"method": "backprop", "lr": 1.0, "epochs": 90} | settings)
    return [learning_rate(run, moment) for moment in moments]


def test_the_learning_rate_falls_by_90_percent_at_each_drop():
    found = rates([0, 31.999, 32, 59.999, 60, 80, 89.9], lr_drops=[32, 60, 80])
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001, 0.001])
    assert rates([5], lr_drops=[5], lr_drop_factor=0.5) == [0.5]


def test_the_learning_rate_warms_up_linearly_from_0():
    assert rates([0, 1, 2.5, 4.99, 5, 6], warmup_epochs=5) == pytest.approx(
        [0, 0.2, 0.5, 0.998, 1, 1]
    )
    assert rates([0, 0.25, 0.5], warmup_epochs=0.5) == [0, 0.5, 1]


def test_a_cosine_ends_at_0_after_the_last_epoch():
    assert rates([0, 22.5, 45, 90], schedule="cosine") == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, 0]
    )
    assert rates([5, 10, 50, 90], schedule="cosine", warmup_epochs=10) == pytest.approx(
        [0.5, 1, 0.5, 0]
    )
    assert rates([0, 1], epochs=1, schedule="cosine", warmup_epochs=1) == pytest.approx([0, 1])


def test_decay_exponent_is_what_kolen_pollack_forgets_by():
    settings = {"lr": 0.1, "weight_decay": 0.02, "momentum": 0.9, "epochs": 4, "lr_drops": [2]}
    run = run_config({"method": "kolen_pollack"} | settings)
    assert decay_exponent(run, 50) == pytest.approx((100 * 0.1 + 100 * 0.01) * 0.02 / 0.1)


# -------------------------------------------------------------------------------------- experiments


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_expands(path):
    runs = expand(path)
    assert runs and len({run.name for run in runs}) == len(runs)


def test_the_experiments_that_are_shipped_say_what_to_expect():
    git = subprocess.run(
        ["git", "ls-files", "-z", "config"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    shipped = [ROOT / name for name in git.stdout.split("\0") if name.endswith(".yaml")]
    assert {"digits", "cifar10", "tiny_imagenet", "imagenet"} <= {path.stem for path in shipped}
    for path in shipped:
        top = path.read_text().split("\n\n")[0]
        assert "\n# Expected result" in top and "\n# Expected cost" in top, path


def test_an_experiment_is_methods_by_networks_by_norm_orders_by_seeds(experiment):
    runs = experiment(
        {
            "methods": ["backprop", "kolen_pollack"],
            "networks": ["resnet18", "resnet50"],
            "norm_orders": ["relu_bn", "bn_relu"],
            "seeds": [0, 1, 2],
            "settings": {"lr": 0.25},
        }
    )
    assert len(runs) == len({run.name for run in runs}) == 24
    assert {run.lr for run in runs} == {0.25}


def test_norm_order_and_seed_have_defaults(experiment):
    (run,) = experiment(SMALL)
    assert (run.norm_order, run.seed) == ("relu_bn", 0)


def test_overrides_apply_in_order_to_the_runs_that_match(experiment):
    runs = experiment("""
        methods: [backprop, weight_mirror, "weight_mirror:plain"]
        networks: [resnet18, resnet50]
        settings: {lr: 0.1, epochs: 5}
        overrides:
          - match: {network: resnet50}
            set: {lr: 0.2}
          - match: {network: resnet50, method: weight_mirror}
            set: {lr: 0.3, options: {noise: orthogonal, mirror_lr: 1e-3}}
          - match: {variant: plain}
            set: {options: {noise: gaussian}}
    """)
    assert {(run.network, run.method, run.variant): run.lr for run in runs} == {
        ("resnet18", "backprop", ""): 0.1,
        ("resnet18", "weight_mirror", ""): 0.1,
        ("resnet18", "weight_mirror", "plain"): 0.1,
        ("resnet50", "backprop", ""): 0.2,
        ("resnet50", "weight_mirror", ""): 0.3,
        ("resnet50", "weight_mirror", "plain"): 0.3,
    }
    options = {
        (run.network, run.variant): run.options for run in runs if run.method == "weight_mirror"
    }
    assert options == {
        ("resnet18", ""): {},
        ("resnet18", "plain"): {"noise": "gaussian"},
        ("resnet50", ""): {"noise": "orthogonal", "mirror_lr": "1e-3"},
        ("resnet50", "plain"): {"noise": "gaussian", "mirror_lr": "1e-3"},
    }


def test_overrides_may_set_norm_orders_and_seeds(experiment):
    runs = experiment(
        {
            "methods": ["backprop", "sign_symmetry"],
            "networks": ["resnet18"],
            "seeds": [0, 1],
            "overrides": [
                {
                    "match": {"method": "sign_symmetry"},
                    "set": {"norm_orders": ["relu_bn", "bn_relu"]},
                },
                {"match": {"norm_order": "bn_relu"}, "set": {"seeds": [5]}},
            ],
        }
    )
    assert [run.name for run in runs] == [
        "resnet18-relu_bn-backprop-seed0",
        "resnet18-relu_bn-backprop-seed1",
        "resnet18-relu_bn-sign_symmetry-seed0",
        "resnet18-relu_bn-sign_symmetry-seed1",
        "resnet18-bn_relu-sign_symmetry-seed5",
    ]


def test_networks_may_have_options_and_are_then_known_by_them(experiment):
    runs = experiment("""
        methods: [weight_mirror]
        networks: [mlp, {mlp: {unit: tanh, hidden: [300, 100]}}, "mypackage.nets:Mine"]
        overrides:
          - {match: {network: mlp}, set: {lr: 0.1}}
          - {match: {network: "mlp-hidden=300+100,unit=tanh"}, set: {lr: 0.2}}
          - {match: {network: mypackage.nets.Mine}, set: {lr: 0.3}}
    """)
    assert [(run.name, run.lr, run.network, run.network_options) for run in runs] == [
        ("mlp-own-weight_mirror-seed0", 0.1, "mlp", {}),
        (
            "mlp-hidden=300+100,unit=tanh-own-weight_mirror-seed0", 0.2, "mlp",
            {"activation": "tanh", "hidden": [300, 100]},
        ),
        ("mypackage.nets.Mine-own-weight_mirror-seed0", 0.3, "mypackage.nets:Mine", {}),
    ]  # fmt: skip


def test_norm_orders_are_those_of_resnets(experiment):
    runs = experiment(
        {
            "methods": ["backprop", "sign_symmetry"],
            "networks": ["resnet18", "vgg11"],
            "norm_orders": ["bn_relu"],
            "overrides": [
                {
                    "match": {"method": "sign_symmetry"},
                    "set": {"norm_orders": ["relu_bn", "bn_relu"]},
                }
            ],
        }
    )
    assert [(run.method, run.network, run.norm_order) for run in runs] == [
        ("backprop", "resnet18", "bn_relu"), ("backprop", "vgg11", "own"),
        ("sign_symmetry", "resnet18", "relu_bn"), ("sign_symmetry", "resnet18", "bn_relu"),
        ("sign_symmetry", "vgg11", "own"),
    ]  # fmt: skip


def test_options_for_all_runs_stand_in_the_settings(experiment):
    (run,) = experiment(
        {
            "methods": ["weight_mirror"],
            "networks": ["resnet18"],
            "settings": {"options": {"noise_std": 2}},
        }
    )
    assert run.options == {"noise_std": 2}


def override(match, change):
    return SMALL | {"overrides": [{"match": match, "set": change}]}


def bomb(line):
    """Nine lines, each with nine aliases of the one before."""
    lines = ["a0: &a0 {k: 1}"]
    for n in range(1, 9):
        lines.append(line.format(n=n, aliases=", ".join([f"*a{n - 1}"] * 9)))
    return "\n".join(lines)


BROKEN = [
    ("a: [", "not valid YAML"),
    ("just text", "expected a mapping with the keys methods, networks, "),
    (
        SMALL | {"method": ["backprop"]},
        "unknown key 'method' (did you mean 'methods'?); accepted: methods, ",
    ),
    ({"networks": ["resnet18"]}, "'methods': is required"),
    ("seeds: [0]\nseeds: [1]", "two keys are called 'seeds'"),
    (
        SMALL | {"methods": "backprop"},
        "'methods': expected a list, got 'backprop'",
    ),
    (
        SMALL | {"methods": [{"backprop": 1}]},
        "'methods[0]': input should be a valid string, got {'backprop': 1}",
    ),
    (SMALL | {"seeds": []}, "'seeds': expected a list that is not empty, got []"),
    (SMALL | {"seeds": 3}, "'seeds': expected a list, got 3; write [3]"),
    (SMALL | {"seeds": [-1]}, "'seeds[0]': input should be greater than or equal to 0, got -1"),
    (SMALL | {"seeds": [0, 1, 0]}, "'seeds': 0 is given twice; leave one out"),
    (SMALL | {"seeds": [True]}, "'seeds[0]': input should be a valid integer, got True"),
    (SMALL | {"methods": ["bakprop"]}, "unknown method 'bakprop' (did you mean 'backprop'?)"),
    (SMALL | {"networks": ["resnet19"]}, "setting 'network': "),
    (
        SMALL | {"networks": [{"mlp": None}]},
        "'networks[0]': expected a name, or one name with a mapping of options, got {",
    ),
    (
        SMALL | {"networks": [{"mlp": {}, "vgg11": {}}]},
        "expected a name, or one name with a mapping of options",
    ),
    (
        SMALL | {"networks": [{"mlp": {1: 2}}]},
        "expected a name, or one name with a mapping of options",
    ),
    (
        SMALL | {"networks": ["mlp"], "norm_orders": ["bn_rely"]},
        "'norm_orders[0]': input should be 'relu_bn', 'bn_relu' or 'own', got 'bn_rely' "
        "(did you mean 'bn_relu'?)",
    ),
    (
        SMALL | {"networks": [{"mlp": {"activations": "tanh"}}]},
        "unknown option of mlp 'activations' (did you mean 'activation'?)",
    ),
    (SMALL | {"settings": {"network_options": {}}}, "unknown setting 'network_options'"),
    (
        SMALL
        | {"networks": ["mlp", {"mlp": {"unit": "tanh"}}]}
        | {"exclude": [{"network": "mlp-unit=tan"}]},
        "'exclude[0]' matches no run: {'network': 'mlp-unit=tan'} (did you mean 'mlp-unit=tanh'?)",
    ),
    (
        SMALL | {"methods": [True]},
        "'methods[0]': input should be a valid string, got True; YAML reads yes, no, "
        "on and off so: put names in quotes",
    ),
    (SMALL | {"settings": ["lr"]}, "'settings': expected a mapping, got ['lr']"),
    (
        SMALL | {"settings": {"epoch": 3}},
        "unknown setting 'epoch' (did you mean 'epochs'?); accepted: options, ",
    ),
    (SMALL | {"settings": {"seed": 3}}, "unknown setting 'seed'"),
    (
        SMALL | {"settings": {"mirror_lr": 1}},
        "'mirror_lr' is an option of weight_mirror; write it in overrides: match: {method: …}, "
        "set: {options: ",
    ),
    (
        override({}, {"mirror_lr": 1}),
        "'mirror_lr' is an option of weight_mirror; write it as options: {mirror_lr: ",
    ),
    (
        SMALL | {"sweep": {"lr": [1]}},
        "'sweep' is a key of ablations, which name the experiment that they start from",
    ),
    (SMALL | {"overrides": [3]}, "'overrides[0]': expected a mapping, got 3"),
    (
        SMALL | {"settings": {"options": {"mirror_lr": 1}}},
        "'mirror_lr' is an option of weight_mirror, not of backprop; say whose it is, in "
        "overrides: match: {method: …}",
    ),
    (
        SMALL | {"settings": {"options": {"nothing": 1}}},
        "unknown option of backprop 'nothing'; accepted: none",
    ),
    (SMALL | {"overrides": {"match": {}}}, "'overrides': expected a list, got {'match': {}}"),
    (
        SMALL | {"overrides": [{"macth": {}, "set": {}}]},
        "unknown key of an override 'macth' (did you mean 'match'?)",
    ),
    (SMALL | {"overrides": [{"set": {"lr": 1}}]}, "'overrides[0].match': is required"),
    (
        override({"methods": "backprop"}, {}),
        "unknown key of 'match' 'methods' (did you mean 'method'?)",
    ),
    (
        override({"method": "backprop"}, {"lrr": 1}),
        "unknown key of 'set' 'lrr' (did you mean 'lr'?); accepted: ",
    ),
    (
        override({"method": "backprop"}, {"seed": 1}),
        "unknown key of 'set' 'seed' (did you mean 'seeds'?)",
    ),
    (
        override({"method": "backprop"}, {"seeds": 1}),
        "'overrides[0].set.seeds': expected a list, got 1",
    ),
    (
        override({"method": "backprop"}, {"options": 1}),
        "'overrides[0].set.options': expected a mapping, got 1",
    ),
    (
        override({"method": "bakprop"}, {"lr": 1}),
        "'overrides[0]' matches no run: {'method': 'bakprop'} (did you mean 'backprop'?)",
    ),
    (
        override({"method": ["backprop"]}, {"lr": 1}),
        "'overrides[0].match.method': input should be a valid string, got ['backprop']",
    ),
    (
        override({"norm_order": "bn_relu"}, {"lr": 1}),
        "'overrides[0]' matches no run: {'norm_order': 'bn_relu'}; norm_orders: relu_bn",
    ),
    (
        override({"norm_order": "relu_bn"}, {"norm_orders": ["bn_relu"]}),
        "by 'norm_order' cannot set 'norm_orders'",
    ),
    (
        SMALL | {"methods": ["backprop", "backprop"]},
        "two runs are called resnet18-relu_bn-backprop-seed0; leave one out",
    ),
    (
        "methods: [backprop]\nnetworks: [mlp]\nsettings: no",
        "'settings': expected a mapping, got False",
    ),
    (SMALL | {"overrides": ""}, "'overrides': expected a list, got ''"),
    (SMALL | {"exclude": False}, "'exclude': expected a list, got False"),
    (override({}, {}), "'overrides[0].set': expected a setting at least, got {}; leave the "),
    (SMALL | {"settings": {"lr": True}}, "'settings.lr': expected no truth value, got True"),
    (SMALL | {"settings": {"epochs": 0}}, "'settings.epochs': input should be greater than 0, got"),
    (override({}, {"lr_drops": [-1]}), "'overrides[0].set.lr_drops[0]': input should be greater "),
    (
        SMALL | {"settings": {"epochs": 9, "lr_drops": [3, 9]}},
        "setting 'lr_drops': expected epochs below 9, the number of 'epochs', got 9; leave it out",
    ),
    (SMALL | {"settings": {"lr_drops": [3, 3]}}, "'lr_drops': 3 is given twice; leave one out"),
    (
        SMALL | {"settings": {"schedule": "cosine", "lr_drops": [3]}},
        "setting 'lr_drops': a cosine schedule has none, got [3]; write lr_drops: [], or ",
    ),
    ("settings: {epochs: 010}", "line 1, column 20: 010 is not the same number in all versions "),
    ("settings: {lr: 1:30.5}", "1:30.5 is not the same number in all versions of YAML"),
    (bomb("a{n}: &a{n} [{aliases}]"), "aliases make it more than 100,000 values; write fewer"),
    (f"methods: {'x' * 10**6}", "'methods': expected a list, got 'xxx"),
    ("settings: {epochs: 1_000}", "1_000 is not the same number in all versions of YAML"),
    ("networks: [{'nets:Mine': {width: 0o17}}]", "0o17 is not the same number in all versions"),
    ("settings: {epochs: 0x_1}", "0x_1 is not the same number in all versions of YAML"),
    ("settings: {epochs: 0b11}", "0b11 is not the same number in all versions of YAML"),
    ("settings: {lr: 0.1_0}", "0.1_0 is not the same number in all versions of YAML"),
    (
        "methods: [backprop]\nnetworks: [{'nets:Mine': &a {x: *a}}]",
        "a value contains itself; write it out",
    ),
    (
        SMALL | {"settings": {"epochs": 3, "warmup_epochs": 4}},
        "setting 'warmup_epochs': 4 is more than the 3 'epochs'; lower it",
    ),
    (SMALL | {"settings": {"lr": 1e30}}, "'lr': 1e+30 is too large: float32 cannot hold its squ"),
    (SMALL | {"settings": {"weight_decay": 1e-50}}, "'weight_decay': 1e-50 is too small"),
    (
        SMALL | {"settings": {"lr_drops": [1], "warmup_epochs": 3}},
        "setting 'lr_drops': 1 is within the 3 'warmup_epochs'",
    ),
    (
        SMALL | {"settings": {"lr_drops": [1], "lr_drop_factor": 1}},
        "setting 'lr_drop_factor': at a factor of 1",
    ),
    (SMALL | {"settings": {"lr_drops": [True]}}, "'settings.lr_drops': expected no truth value"),
    (
        SMALL | {"networks": [{"mlp": {"hidden": [True]}}]},
        "option of mlp 'hidden': expected no truth value, got [True]",
    ),
    (SMALL | {"settings": {"classes": 11}}, "'classes': 11 is more than the 10 classes of digits"),
    (SMALL | {"settings": {"batch_size": 1438}}, "1438 is more than the 1437 training images"),
    (
        {"methods": ["weight_mirror"], "networks": ["mlp"]}
        | {"settings": {"options": {"noise_std": 1e30}}},
        "option of weight_mirror 'noise_std': input should be less than or equal to 1000000",
    ),
    (
        SMALL | {"networks": [{"nets:Mine": {"../../x; rm": 1}}]},
        "setting 'network_options': expected names of arguments, got '../../x; rm'",
    ),
    (SMALL | {"networks": [{"nets:Mine": {"x": "a" * 240}}]}, "has more than 240 bytes, too many "),
    (SMALL | {"networks": ["torch.hub:load"]}, "torch's own functions are not accepted, and noth"),
    (
        SMALL | {"networks": [{"timm:create_model": {"model_name": "vgg11", "pretrained": True}}]},
        "'pretrained' of timm:create_model would come from the net",
    ),
    (
        SMALL | {"networks": [{"torchvision.models:get_model": {"weights": "DEFAULT"}}]},
        "'weights' of torchvision.models:get_model would come from the net",
    ),
    (SMALL | {"networks": [{"vgg11": {"weights": "DEFAULT"}}]}, "would come from the net; leave "),
    (
        SMALL | {"networks": ["mlp"], "settings": {"normalisation": "learned"}},
        "setting 'normalisation': an mlp has none, so 'learned' has no effect; leave it out",
    ),
    ("settings: {<<: {lr: 1}, <<: {epochs: 3}}", "two keys are called '<<'; leave one out"),
    ("networks: [!!set {mlp}]", "!!set is not accepted"),
    ("methods: " + "[" * 5000 + "]" * 5000, "its values are nested too deeply"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_what_is_not_so_in_an_experiment_is_named_with_its_file(content, message, experiment):
    with pytest.raises(WtkitError, match=r"mine\.yaml: .*" + re.escape(message)):
        experiment(content)


def test_a_missing_experiment_is_named_with_those_that_there_are(tmp_path):
    (tmp_path / "digits.yaml").touch()
    with pytest.raises(
        WtkitError, match=r"no experiment file .*digts\.yaml \(did you mean 'digits'\?\)"
    ):
        expand(tmp_path / "digts.yaml")


def test_yamls_merge_keys_are_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "methods: [backprop]\nnetworks: [resnet18]\nsettings: {<<: {epochs: 3, lr: 1}, lr: 2}\n"
    )
    (run,) = expand(path)
    assert (run.epochs, run.lr) == (3, 2)


def test_a_merge_of_what_merges_is_read(tmp_path):
    """The override is resolved first, and then has its own key beside the merged one."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "methods: [backprop]\nnetworks: [resnet18]\n"
        "overrides:\n- match: {}\n  set: &set {<<: &base {epochs: 3, lr: 1}, lr: 2}\n"
        "settings: {<<: *set, momentum: 0.5}\n"
    )
    (run,) = expand(path)
    assert (run.epochs, run.lr, run.momentum) == (3, 2, 0.5)


def test_a_date_is_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("methods: [backprop]\nnetworks: [{'nets:Mine': {since: 2026-01-01}}]\n")
    (run,) = expand(path)
    assert run.network_options == {"since": "2026-01-01"}
    assert run_config({"method": "backprop", "network": "nets:Mine"} | {
        "network_options": {"since": "2026-01-01"}
    }) == run  # fmt: skip


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(WtkitError, match=r"mine\.yaml: not a file of text that can be read"):
        expand(tmp_path / "mine.yaml")


# ------------------------------------------------------------------------------- the JSON schema


SCHEMA = ROOT / "config" / "schema.json"


def test_the_schema_is_that_of_the_models():
    assert json.loads(SCHEMA.read_text()) == json_schema(), (
        "make it anew: wtkit schema > config/schema.json"
    )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_names_the_schema_and_fits_it(path):
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(.*)$", path.read_text(), re.M)
    assert (path.parent / named).resolve() == SCHEMA
    problems = Draft7Validator(json_schema()).iter_errors(yaml.safe_load(path.read_text()))
    assert [problem.message for problem in problems] == []


@pytest.mark.parametrize(
    ("content", "way"),
    [
        (SMALL | {"method": []}, []),
        (SMALL | {"methods": ["bakprop"]}, ["methods", 0]),
        (SMALL | {"networks": ["resnet19"]}, ["networks", 0]),
        (SMALL | {"networks": [{"mlp": {"unit": "gelu"}}]}, ["networks", 0]),
        (SMALL | {"settings": {"epochs": 0}}, ["settings", "epochs"]),
        (SMALL | {"settings": {"data": "mnist"}}, ["settings", "data"]),
        (SMALL | {"settings": {"options": {"noise_sd": 1}}}, ["settings", "options"]),
        (SMALL | {"overrides": [{"match": {}, "set": {"lrr": 1}}]}, ["overrides", 0, "set"]),
        ({"base": "digits", "sweep": {"lr": []}}, ["sweep", "lr"]),
        ({"base": "digits", "variants": {"a": {"mirror_lr": 2}}}, ["variants", "a", "mirror_lr"]),
        ({"base": "digits", "exclude": []}, []),
    ],
)
def test_the_schema_refuses_what_an_editor_should_mark(content, way):
    (problem,) = Draft7Validator(json_schema()).iter_errors(content)
    assert list(problem.absolute_path) == way


def test_settings_that_came_later_leave_the_revisions_of_before():
    """Or every finished run would be trained anew."""
    assert run_config({"method": "backprop"}).revision == (
        '{"angles_every": 1, "augment": null, "batch_size": 64, "classes": null, "compile": false, '
        '"data": "digits", "data_root": "data", "delta_examples": 64, "epochs": 10, "evaluate_on": '
        '"test", "image_size": null, "label_smoothing": 0.0, "lr": 0.05, "lr_drop_factor": 0.1, '
        '"lr_drops": [], "method": "backprop", "momentum": 0.9, "nesterov": false, "network": '
        '"resnet18", "norm_order": "relu_bn", "numerics": 1, "options": {}, "precision": '
        '"float32", "schedule": "step", "seed": 0, "stem": "imagenet", "variant": "", '
        '"warmup_epochs": 0.0, "weight_decay": 0.0001, "workers": 4}'
    )
    assert json.loads(run_config({"method": "backprop", "backprop": ["fc"]}).revision)[
        "backprop"
    ] == ["fc"]


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("resnet18", {"width": 64}),
        ("resnet18", {"width": None}),
        ("resnet20", {"width": "16"}),
        ("resnet50", {"width": 64}),
        ("mlp", {"hidden": [500]}),
        ("mlp", {"hidden": (500,), "activation": "relu"}),
        ("mlp", {"unit": "relu"}),
    ],
)
def test_a_network_has_one_name_whether_or_not_its_own_options_are_given(network, options):
    plain = run_config({"method": "backprop", "network": network})
    given = run_config({"method": "backprop", "network": network, "network_options": options})
    assert (given.name, given.revision) == (plain.name, plain.revision)
    assert given == plain and given.network_name == network


def test_one_network_under_two_names_is_refused(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(
        "methods: [backprop]\nnetworks: [resnet18, resnet18: {width: 64}]\nseeds: [0]\n"
    )
    with pytest.raises(WtkitError, match="two runs are called resnet18-relu_bn-backprop"):
        expand(path)


def test_other_options_than_the_networks_own_stay_in_its_name():
    names = [
        run_config({"method": "backprop", "network": network, "network_options": options}).name
        for network, options in (
            ("resnet18", {"width": 16}),
            ("mlp", {"hidden": [500, 500]}),
            ("mlp", {"hidden": [500], "activation": "tanh"}),
        )
    ]
    assert [name.partition("-backprop")[0] for name in names] == [
        "resnet18-width=16-relu_bn", "mlp-hidden=500+500-own", "mlp-unit=tanh-own"
    ]  # fmt: skip


def test_a_revision_has_an_mlps_options_left_at_their_defaults():
    run = run_config({"method": "backprop", "network": "mlp", "network_options": {"unit": "tanh"}})
    assert json.loads(run.revision)["network_options"] == {"hidden": [500], "unit": "tanh"}


@pytest.mark.parametrize(
    ("old", "current"),
    [
        ({"backprop": ["fc"]}, {"keep_on_backprop": ["fc"]}),
        (
            {"network": "mlp", "network_options": {"unit": "tanh"}},
            {"network": "mlp", "network_options": {"activation": "tanh"}},
        ),
    ],
)
def test_old_names_of_settings_mean_the_same_run(old, current):
    """Names and records still use the old words, so that finished runs are found."""
    before, after = (run_config({"method": "backprop"} | some) for some in (old, current))
    assert before == after
    assert (before.name, before.revision) == (after.name, after.revision)
    assert '"backprop": ["fc"]' in before.revision or '"unit": "tanh"' in before.revision
    assert "keep_on_backprop" not in after.revision and "activation" not in after.revision


def test_a_setting_by_both_of_its_names_is_refused():
    with pytest.raises(WtkitError, match="'keep_on_backprop' is given twice"):
        run_config({"method": "backprop", "backprop": ["a"], "keep_on_backprop": ["b"]})


@pytest.mark.parametrize("unit", ["relu", "tanh", "sigmoid"])
def test_a_mirrors_response_is_that_of_an_mlps_units(unit):
    def phi(**options):
        settings = {"method": "weight_mirror", "network": "mlp", "network_options": {"unit": unit}}
        run = run_config(settings | {"options": options})
        assert json.loads(run.revision)["options"]["phi"] == run.loaded_method().phi
        return run.loaded_method().phi

    assert phi() == unit
    assert phi(phi="identity") == "identity"


def test_a_revision_has_the_options_left_at_their_defaults():
    from wtkit.methods.weight_mirror import WeightMirror

    run = run_config({"method": "weight_mirror", "options": {"noise": "uniform"}})
    options = json.loads(run.revision)["options"]
    assert options == dataclasses.asdict(WeightMirror(noise="uniform"))
    assert run.arguments() == ["--method=weight_mirror", '--option=noise="uniform"']


def test_a_later_option_is_in_the_revision_unless_it_changes_nothing(monkeypatch):
    from wtkit.methods.feedback_alignment import FeedbackAlignment

    def options(**chosen):
        return json.loads(run_config({"method": "feedback_alignment", "options": chosen}).revision)[
            "options"
        ]

    assert options() == options(scale=1) == {}
    assert options(scale=2) == {"scale": 2}
    # as if the default had changed since
    monkeypatch.setattr(FeedbackAlignment, "LATER_OPTIONS", {"scale": 3.0})
    assert options() == {"scale": 1}
    assert options(scale=3) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "bp"}, "unknown method 'bp'"),
        (
            {"method": "backprop", "epoch": 3},
            r"unknown setting 'epoch' \(did you mean 'epochs'\?\)",
        ),
        (
            {"method": "backprop", "epochs": -3},
            "setting 'epochs': input should be greater than 0, got -3",
        ),
    ],
)
def test_a_run_by_hand_names_what_is_wrong_in_a_line(settings, message):
    with pytest.raises(WtkitError, match=message) as raised:
        RunConfig(**settings)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
def test_an_experiment_expands_without_torch():
    code = (
        f"import sys, wtkit.experiments; wtkit.experiments.expand({str(EXPERIMENTS[0])!r}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------------------------- ablations

BASE = {
    "methods": ["weight_mirror", "weight_mirror:gaussian", "kolen_pollack"],
    "networks": ["resnet18", "resnet50"],
    "seeds": [0, 1, 2], "settings": {"epochs": 8, "lr": 0.1},
    "overrides": [
        {"match": {"network": "resnet50"}, "set": {"epochs": 4, "seeds": [0]}},
        {"match": {"method": "weight_mirror"},
            "set": {"options": {"mirror_lr": 0.1, "mirror_every": 2}}},
        {"match": {"variant": "gaussian"}, "set": {"options": {"noise": "gaussian"}}},
    ],
    "exclude": [{"variant": "gaussian", "network": "resnet50"}],
}  # fmt: skip


@pytest.fixture
def ablation(tmp_path):
    for name in ("other", "base"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "ablations").mkdir()
    path = tmp_path / "ablations" / "mine.yaml"

    def build(content):
        path.write_text(yaml.safe_dump({"base": "base"} | content, sort_keys=False))
        return expand(path)

    return build


def test_an_ablation_may_be_named_from_within_its_folder(ablation, tmp_path, monkeypatch):
    """And an experiment that cannot be read is no matter of others."""
    runs = ablation(SWEEP := {"sweep": {"lr": [0.1]}})
    monkeypatch.chdir(tmp_path / "ablations")
    assert expand("mine.yaml") == runs
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(WtkitError, match=r"unknown base 'nobody'; accepted: base, other$"):
        ablation(SWEEP | {"base": "nobody"})


def test_a_sweep_is_a_grid_over_the_bases_runs(ablation):
    runs = ablation(
        {"sweep": {"mirror_lr": [0.01, 0.5], "lr": [0.1, 0.2]}, "methods": ["weight_mirror"]}
    )
    points = {
        (
            run.network,
            run.seed,
            run.variant,
            run.lr,
            run.options["mirror_lr"],
            run.options["mirror_every"],
            run.epochs,
        )
        for run in runs
    }
    assert points == {
        (network, seed, f"mirror_lr={rate},lr={lr}", lr, rate, 2, epochs)
        for network, epochs, seeds in (("resnet18", 8, (0, 1, 2)), ("resnet50", 4, (0,)))
        for seed in seeds
        for rate in (0.01, 0.5)
        for lr in (0.1, 0.2)
    }
    assert len({run.name for run in runs}) == len(runs) == 16


def test_an_ablation_outdoes_its_base(ablation):
    runs = ablation(
        {
            "methods": ["kolen_pollack", "backprop"], "networks": ["resnet50"], "seeds": [5, 6],
            "settings": {"epochs": 3},
            "overrides": [{"match": {"method": "backprop"}, "set": {"momentum": 0.5}}],
            "sweep": {"lr_drops": [[], [1, 2]]},
        }
    )  # fmt: skip
    assert [
        (run.method, run.seed, run.variant, run.epochs, run.lr, run.momentum, run.lr_drops)
        for run in runs
    ] == [
        (method, seed, f"lr_drops={word}", 3, 0.1, momentum, drops)
        for method, momentum in (("kolen_pollack", 0.9), ("backprop", 0.5))
        for seed in (5, 6)
        for word, drops in (("none", ()), ("1+2", (1, 2)))
    ]


def test_variants_have_names(ablation):
    runs = ablation(
        {
            "networks": ["resnet18"],
            "seeds": [0],
            "variants": {"short": {"epochs": 1}, "as_it_is": {}},
        }
    )
    assert [(run.method, run.variant, run.epochs) for run in runs] == [
        ("weight_mirror", "short", 1), ("weight_mirror", "as_it_is", 8),
        ("kolen_pollack", "short", 1), ("kolen_pollack", "as_it_is", 8),
    ]  # fmt: skip


def names_of(runs):
    return [run.name for run in runs]


def test_a_sweep_over_networks_takes_the_place_of_the_bases(ablation):
    """And the base's overrides are those of the network, as if it stood there."""
    runs = ablation(
        {
            "methods": ["backprop"],
            "settings": {"lr": 0.2},
            "sweep": {"network": ["resnet50", "vgg11"]},
        }
    )
    assert [
        (run.network, run.norm_order, run.variant, run.seed, run.epochs, run.lr) for run in runs
    ] == [
        ("resnet50", "relu_bn", "network=resnet50", 0, 4, 0.2),
        *(("vgg11", "own", "network=vgg11", seed, 8, 0.2) for seed in (0, 1, 2)),
    ]
    override = {"match": {"network": "vgg11"}, "set": {"epochs": 1}}
    runs = ablation(
        {
            "methods": ["backprop"],
            "overrides": [override],
            "sweep": {"network": ["resnet50", "vgg11"]},
        }
    )
    assert {(run.network, run.epochs) for run in runs} == {("resnet50", 4), ("vgg11", 1)}


def test_a_sweep_over_norm_orders_takes_the_place_of_the_bases(ablation):
    sweep = {"norm_order": ["bn_relu", "relu_bn"]}
    runs = ablation(
        {"methods": ["backprop"], "networks": ["resnet18"], "seeds": [0], "sweep": sweep}
    )
    assert names_of(runs) == [
        f"resnet18-{order}-backprop-norm_order={order}-seed0" for order in ("bn_relu", "relu_bn")
    ]


def test_variants_may_be_networks_with_options_and_norm_orders(ablation):
    variants = {
        "as_it_is": {},
        "before": {"norm_order": "bn_relu"},
        "tanh": {"network": "mlp", "network_options": {"unit": "tanh"}},
        "sigmoid": {"network": "mlp", "unit": "sigmoid", "lr": 0.5},
    }
    runs = ablation(
        {"methods": ["backprop"], "networks": ["resnet18"], "seeds": [0], "variants": variants}
    )
    assert sorted(names_of(runs)) == [
        "mlp-unit=sigmoid-own-backprop-sigmoid-seed0",
        "mlp-unit=tanh-own-backprop-tanh-seed0",
        "resnet18-bn_relu-backprop-before-seed0",
        "resnet18-relu_bn-backprop-as_it_is-seed0",
    ]
    assert {run.variant: run.lr for run in runs}["sigmoid"] == 0.5


def test_an_option_of_a_network_may_be_swept_beside_one_of_the_method(ablation):
    runs = ablation(
        {
            "methods": ["weight_mirror"], "networks": [{"mlp": {"hidden": [30]}}], "seeds": [0],
            "sweep": {"bias_blocking": [False, True], "unit": ["sigmoid", "tanh"]},
        }
    )  # fmt: skip
    assert [
        (run.network_options, run.options["bias_blocking"], run.loaded_method().phi) for run in runs
    ] == [
        ({"hidden": [30], "activation": unit}, blocked, unit)
        for blocked in (False, True)
        for unit in ("sigmoid", "tanh")
    ]
    assert runs[0].variant == "bias_blocking=False,unit=sigmoid"


def test_other_data_may_be_swept(ablation):
    variants = {
        "digits": {"data": "digits"},
        "few": {"data": "image_folder", "data_root": "x", "classes": 5},
    }
    runs = ablation(
        {"methods": ["backprop"], "networks": ["resnet18"], "seeds": [0], "variants": variants}
    )
    assert [(run.variant, run.data, run.classes) for run in runs] == [
        ("digits", "digits", None), ("few", "image_folder", 5),
    ]  # fmt: skip


BROKEN_ABLATIONS = [
    (
        {"sweep": {"network": ["resnet81"]}},
        "setting 'network': unknown network 'resnet81' (did you mean 'resnet18'?)",
    ),
    ({"sweep": {"network": [{"mlp": {}}]}}, "'network': expected a name, got {'mlp': {}}"),
    (
        {"sweep": {"norm_order": ["bn"]}},
        "unknown norm order 'bn'; accepted: relu_bn, bn_relu, own",
    ),
    (
        {"variants": {"a": {"network": "vgg11", "norm_order": "bn_relu"}}, "methods": ["backprop"]},
        "setting 'norm_order': only resnet18, resnet34, resnet50, ",
    ),
    ({"sweep": {"unit": ["tanh"]}}, "unknown setting or option of weight_mirror 'unit'"),
    (
        {"variants": {"a": {"network": "mlp", "unit": "gelu"}}},
        "option of mlp 'activation': input should be",
    ),
    (
        {"variants": {"a": {"network_options": {"unit": "tanh"}}}},
        "unknown option of a ResNet 'unit'; accepted: width",
    ),
    ({"variants": {"a": {"network_options": 3}}}, "'network_options': expected a mapping, got 3"),
    ({"sweep": {"lr": [0.1, 0.1]}}, "'sweep': two points are called lr=0.1; leave one out"),
    ({"sweep": {"lr": [1, 2, 1.0]}}, "'sweep': lr=1.0 is a point twice; leave one out"),
    ({"sweep": {"lr": ["1e-1", 0.1]}}, "'sweep': lr=0.1 is a point twice; leave one out"),
    ({"settings": {"epochs": 0}, "variants": {"a": {}}}, "'settings.epochs': input should be "),
    (
        {"sweep": {"seed": [1]}},
        "'seed' cannot differ by point: each is made with all of 'seeds', a key of its own",
    ),
    (
        {"variants": {"a": {"method": "backprop"}}},
        "'method' cannot differ by point: each is made with all of 'methods'",
    ),
    (
        {"variants": {1: {"lr": 1}, "1": {"lr": 2}}},
        "'variants': two are called 1; give one of them another name",
    ),
    (
        {
            "methods": ["weight_mirror"],
            "variants": {"a": {"mirror_lr": 0.1, "options": {"mirror_lr": 0.2}}},
        },
        "'mirror_lr' is given twice, by itself and in 'options'; leave one out",
    ),
    (
        {"variants": {True: {"lr": 1}}},
        "'variants': a name was read as True, which YAML means by it; put it in quotes",
    ),
    (
        {"base": "config/base.yaml", "sweep": {"lr": [1]}},
        "'base': expected an experiment's name, not its file; write",
    ),
    (
        {
            "methods": ["weight_mirror", "weight_mirror:gaussian"],
            "variants": {"a": {}, "gaussian_a": {"lr": 1}},
            "seeds": [0],
        },
        "two runs are called resnet18-relu_bn-weight_mirror-gaussian_a-seed0; give one of the "
        "points another name",
    ),
    (
        {"networks": ["resnet20"], "sweep": {"stem": ["imagenet", "small"]}},
        "the points stem=imagenet and stem=small make the same run of weight_mirror in resnet20; ",
    ),
    (
        {"sweep": {"optimizer": ["sgd", "adamw"], "momentum": [0, 0.9]}},
        "the points optimizer=adamw,momentum=0 and optimizer=adamw,momentum=0.9 make the same run ",
    ),
    (
        {"settings": {"optimizer": "adamw"}, "sweep": {"optimizer": ["adamw", "sgd"]}},
        "'optimizer': the base's adamw has no momentum that sgd could take over; give sgd its ",
    ),
    (
        {"sweep": {"lrr": [1]}},
        "unknown setting or option of weight_mirror 'lrr' (did you mean 'lr'?)",
    ),
    (
        {"sweep": {"mirror_lr": [1]}},
        "'mirror_lr' is an option of weight_mirror, not of kolen_pollack; leave ",
    ),
    (
        {"sweep": {"lr": []}},
        "'sweep.lr': expected a list that is not empty, got []",
    ),
    ({"sweep": {"lr": 1}}, "'sweep.lr': expected a list, got 1"),
    ({"sweep": {1: [1]}}, "'sweep': input should be a valid string, got 1"),
    ({"sweep": {}}, "'sweep': expected at least one, got {}"),
    ({"sweep": {"lr": [-1]}}, "setting 'lr': input should be greater than 0, got -1"),
    (
        {"sweep": {"mirror_lr": [2]}, "methods": ["weight_mirror"]},
        "option of weight_mirror 'mirror_lr': input should be",
    ),
    (
        {"sweep": {"lr": [1]}, "overrides": [{"match": {"network": "vgg11"}, "set": {"lr": 1}}]},
        "'overrides[0]' matches no run: {'network': 'vgg11'}; networks: resnet18, resnet50",
    ),
    ({"sweep": {"lr": [1]}, "overrides": [3]}, "'overrides[0]': expected a mapping, got 3"),
    ({"variants": {"a" * 121: {}}}, "setting 'variant': string should have at most 120 characters"),
    ({}, "an ablation needs either a 'sweep' or 'variants'"),
    (
        {"sweep": {"lr": [1]}, "variants": {"a": {}}},
        "an ablation needs either a 'sweep' or 'variants'",
    ),
    ({"variants": {}}, "'variants': expected at least one"),
    (
        {"variants": {"a b": {}}},
        "setting 'variant': may have the characters A-Za-z0-9_.,=+- only, got 'a b'",
    ),
    ({"sweeps": {"lr": [1]}}, "unknown key of an ablation 'sweeps' (did you mean 'sweep'?)"),
    ({"base": "mine", "sweep": {"lr": [1]}}, "unknown base 'mine'; accepted: base, other"),
    (
        {"base": ["base"], "sweep": {"lr": [1]}},
        "'base': input should be a valid string, got ['base']",
    ),
    (
        {"base": "bass", "sweep": {"lr": [1]}},
        "unknown base 'bass' (did you mean 'base'?); accepted: base, other",
    ),
]


@pytest.mark.parametrize(
    ("content", "message"), BROKEN_ABLATIONS, ids=[message for _, message in BROKEN_ABLATIONS]
)
def test_what_is_not_so_in_an_ablation_is_named_with_its_file(content, message, ablation):
    with pytest.raises(WtkitError, match=r"mine\.yaml: .*" + re.escape(message)):
        ablation(content)
