"""A wrong argument of any public function is a WtkitError of a line or two."""

import importlib
import inspect
import pathlib
import re
import warnings
from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from synthetic import synthetic

import wtkit
from wtkit.arguments import checked
from wtkit.experiments import run_config

mpl.use("agg")

ROOMS = ["", *(f".{name}" for name in wtkit._PACKAGES if name not in ("processes", "errors"))]
"""Processes' functions are the machinery of a run: nobody calls them by hand."""
INTERNAL = {
    "wtkit.experiments.as_argument",  # takes any value
    "wtkit.claims.judged_order",  # takes what another part of the claims has sorted
    "wtkit.images.decode",  # raises OSError for bytes that are no image: the reader goes on
    "wtkit.plan.is_saved",  # raise OSError for a file that cannot be read, as open does
    "wtkit.results.is_gathered",
    "wtkit.results.check_together",  # takes what a gathering has opened
    "wtkit.plan.name_of",  # takes rows that plan.row has made
}
FUNCTIONS = {
    f"wtkit{room}.{name}": getattr(importlib.import_module(f"wtkit{room}"), name)
    for room in ROOMS
    for name in importlib.import_module(f"wtkit{room}").__all__
}
FUNCTIONS = {
    name: function
    for name, function in FUNCTIONS.items()
    if inspect.isfunction(function)
    and inspect.signature(function).parameters
    and name not in INTERNAL
}


def strange():
    return [
        None, 5, -1, 0, 2.5, float("nan"), "nonsense", "", True, [], [1], ["x"], (), (1, 2), {},
        {"a": 1}, b"x", int, len, np.arange(3), np.float64(0.5), torch.zeros(2), mlp(),
        pathlib.Path("nowhere"), xr.Dataset(), xr.DataTree(), xr.DataArray([1.0]), object(),
    ]  # fmt: skip


def mlp():
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))


def mirrored():
    return wtkit.convert(mlp(), "weight_mirror", seed=0)


CONFIG = run_config(
    {
        "method": "kolen_pollack", "network": "mlp", "image_size": 8, "classes": 2, "epochs": 1,
        "network_options": {"hidden": [8]},
    }
)  # fmt: skip
TREE = synthetic(networks=("resnet18",), seeds=(0, 1), epochs=3, drop=2)
NODE = TREE["resnet18"].to_dataset()
X, Y = torch.randn(6, 4), torch.randint(2, (6,))
CALLS = {  # a call that works, by name; each of its arguments is replaced in turn
    "wtkit.convert": lambda: {"model": mlp(), "method": "weight_mirror", "seed": 0,
                              "keep_on_backprop": (), "mirror_lr": 0.1},
    "wtkit.export": lambda: {"model": mirrored()},
    "wtkit.mirror": lambda: {"model": mirrored(), "steps": 1, "running_mean": False},
    "wtkit.matrix_angles": lambda: {"model": mirrored(), "all_weights": False},
    "wtkit.delta_angles": lambda: {"model": mirrored(), "inputs": X, "targets": Y,
                                   "loss": torch.nn.functional.cross_entropy},
    "wtkit.open_results": lambda: {"quiet": True},
    "wtkit.tidy": lambda: {"results": TREE},
    "wtkit.watch": lambda: {"experiment": "digits", "every": 0.1},
    "wtkit.results.select": lambda: {"node": NODE, "method": "weight_mirror", "seed": 0,
                                     "norm_order": "relu_bn", "variant": ""},
    "wtkit.results.settings": lambda: {"run": NODE.isel(run=0)},
    "wtkit.results.config_of": lambda: {"run": NODE.isel(run=0)},
    "wtkit.results.final_error": lambda: {"node": NODE, "method": "backprop",
                                          "norm_order": "relu_bn", "variant": ""},
    "wtkit.results.error_table": lambda: {"tree": TREE},
    "wtkit.claims.claim_table": lambda: {"tree": TREE},
    "wtkit.networks.build": lambda: {"config": CONFIG, "num_classes": 2, "image_size": 8},
    "wtkit.networks.build_resnet": lambda: {"network": "resnet18", "num_classes": 10, "width": 4,
                                            "norm_order": "relu_bn", "stem": "small"},
    "wtkit.plan.mismatch": lambda: {"config": CONFIG, "steps": 3},
    "wtkit.methods.load": lambda: {"name": "weight_mirror", "mirror_lr": 0.1},
    "wtkit.data.load": lambda: {"config": CONFIG, "device": "cpu"},
    "wtkit.experiments.learning_rate": lambda: {"config": CONFIG, "epoch": 0.5},
    "wtkit.figures.look_of": lambda: {"method": "backprop", "number": 0},
}  # fmt: skip


def refuses_or_takes(name, /, *args, **kwargs):
    """Whatever else is raised fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            FUNCTIONS[name](*args, **kwargs)
    except wtkit.WtkitError as error:
        assert len(str(error)) < 700 and str(error).count("\n") < 2, error
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WTKIT_RESULTS", raising=False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_strange_thing_in_place_of_every_argument(name, capsys):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD]
    positional = [p for p in needed if p.kind != p.KEYWORD_ONLY]
    named = [p.name for p in needed if p.kind == p.KEYWORD_ONLY]
    for value in strange():
        values = [value] * max(1, len(positional))
        said = refuses_or_takes(name, *values, **dict.fromkeys(named, value))
    assert said, "an object() is nothing that any function takes"


@pytest.mark.parametrize("name", CALLS)
def test_a_strange_thing_in_place_of_one_argument(name, capsys):
    for key in CALLS[name]():
        for value in strange():
            refuses_or_takes(name, **CALLS[name]() | {key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("config", None, "expected a RunConfig, such as wtkit.experiments.run_config("),
        ("folder", 5, "folder: expected a text or a path or None, got 5"),
        ("on_epoch", 3, "on_epoch: expected a function or None, got 3"),
        ("device", mlp(), "device: expected a text or a torch.device or None, got a Sequential"),
        ("quiet", "no", "quiet: expected True or False, got 'no'"),
    ],
)
def test_train_refuses_before_anything_is_computed(key, value, words, tmp_path, capsys):
    with pytest.raises(wtkit.WtkitError) as refused:
        wtkit.train(**{"config": CONFIG, "folder": tmp_path, "quiet": True} | {key: value})
    assert str(refused.value).startswith("train: ") and words in str(refused.value)
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().err


def test_several_runs_in_place_of_one_are_counted():
    with pytest.raises(wtkit.WtkitError, match=r"^settings: expected one run, .*, got \d+ runs$"):
        wtkit.results.settings(NODE)


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        (lambda: wtkit.results.methods_of(NODE.drop_vars("method")), "'method'"),
        (lambda: wtkit.results.main_order(xr.Dataset()), "'run'"),
        (lambda: wtkit.figures.angle_columns([NODE, NODE.drop_vars("method")]), "'method'"),
        (lambda: wtkit.results.settings(NODE.isel(run=0).drop_vars("settings")), "'run'"),
    ],
)
def test_results_that_lack_something_are_said_to(call, missing):
    with pytest.raises(wtkit.WtkitError, match=rf"{missing} is missing; expected what wtkit.open_"):
        call()


def test_what_the_model_or_the_loss_refuse_is_said_to_be_theirs():
    with pytest.raises(
        wtkit.WtkitError, match=r"^delta_angles: the model or the loss failed .*mat1"
    ):
        wtkit.delta_angles(mirrored(), torch.randn(6, 5), Y)
    with pytest.raises(wtkit.WtkitError, match=r"model or the loss failed .*IndexError"):
        wtkit.delta_angles(mirrored(), X, Y + 9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: wtkit.RunConfig("backprop"),
            "expected a name for each, RunConfig(method=…), ",
        ),
        (lambda: wtkit.RunConfig(method="WM"), "did you mean 'weight_mirror', whose label it is?"),
        (lambda: wtkit.convert(mlp(), "KP"), "did you mean 'kolen_pollack', whose label it is?"),
        (lambda: wtkit.results.final_error(NODE, "weigt_mirror"), "did you mean 'weight_mirror'?"),
        (lambda: wtkit.results.variants_of(NODE, "nope"), "unknown method 'nope'"),
        (lambda: wtkit.claims.claim_table(TREE["resnet18"]), "or one network's node"),
        (lambda: wtkit.results.error_table(TREE["resnet18"]), "or one network's node"),
        (lambda: wtkit.figures.ablation.draw([]), "got an empty list"),
        (
            lambda: wtkit.figures.angles(Figure().subplots(), NODE, "weight_mirror", "matrix"),
            "unknown quantity 'matrix' (did you mean 'matrix_angle'?)",
        ),
        (
            lambda: wtkit.figures.angles(
                Figure().subplots(), NODE, "weight_mirror", "matrix_angle", variant="x"
            ),
            "unknown variant 'x'; accepted: ",
        ),
        (
            lambda: wtkit.figures.test_error(Figure().subplots(), NODE, norm_order="bn_rel"),
            "unknown norm_order 'bn_rel' (did you mean 'bn_relu'?)",
        ),
        (lambda: wtkit.results.methods_of(NODE, "x"), "unknown norm_order 'x'; accepted: "),
        (lambda: wtkit.results.select(TREE, "WM"), "such as results['resnet18']; these are of res"),
        (lambda: wtkit.results.select(NODE.isel(run=0), "WM"), "write isel(run=[0]), not isel(run"),
        (lambda: wtkit.open_results(__file__), "not a file of results; expected netCDF, such as"),
    ],
)
def test_what_a_newcomer_gets_wrong_is_said_with_the_fix(call, words):
    with pytest.raises(wtkit.WtkitError, match=re.escape(words)):
        call()


def test_a_label_is_as_good_as_a_name():
    by_name = wtkit.results.final_error(NODE, "weight_mirror")
    assert str(wtkit.results.final_error(NODE, "WM")) == str(by_name) != "–"


def test_a_fault_of_the_functions_own_stays_what_it_is():
    def broken(node: xr.Dataset) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        checked(broken, wtkit.results.say_what_is_missing)(NODE)


def test_an_array_is_a_list_and_a_node_is_a_data_set():
    def counted(
        axes: "Sequence[int]", names: "Iterable[str]", nodes: "Sequence[xr.Dataset]"
    ) -> int:
        assert all(type(node) is xr.Dataset for node in nodes)
        return len(axes)

    function = checked(counted)
    assert function(np.arange(3), {"a": 1}, [TREE["resnet18"], NODE]) == 3
    assert function(np.zeros((2, 2), object), [], ()) == 2
    with pytest.raises(wtkit.WtkitError, match=r"axes: expected a list of whole numbers, got {}"):
        function({}, [], [])
    node = TREE["resnet18"]
    assert wtkit.results.final_error(node, "backprop") == wtkit.results.final_error(
        NODE, "backprop"
    )
    with pytest.raises(wtkit.WtkitError, match=r"final_error: node: expected results of one netw"):
        wtkit.results.final_error(TREE, "backprop")


def test_what_stands_for_a_path_a_device_or_names_is_taken():
    class Place:
        def __fspath__(self):
            return "nowhere"

    checked(with_path)(Place())
    assert wtkit.training.find_device(torch.device("cpu")) == torch.device("cpu")
    model = wtkit.convert(mlp(), "backprop", keep_on_backprop=(name for name in ["2"]))
    assert list(wtkit.feedback.feedback_layers(model)) == ["0"]
    model = wtkit.convert(mlp(), "backprop", keep_on_backprop={"2"})
    assert list(wtkit.feedback.feedback_layers(model)) == ["0"]


def with_path(path: str | pathlib.Path) -> None:
    """Takes a path."""


def test_what_fits_is_taken():
    def taken(number: int, share: float, names: "str | list[str]", model: "torch.nn.Module") -> int:
        return number

    function = checked(taken)
    assert function(np.int64(3), 2, "x", mlp()) == 3
    assert function(np.uint8(3), np.float32(0.5), ["x"], model=mlp()) == 3
    assert checked(function) is function
    with pytest.raises(TypeError, match="missing 1 required"):
        function(1, 2.0, "x")
    for wrong in (("3", 2.0, "x"), (3, True, "x"), (3, 2.0, [1]), (3, 2.0, b"x")):
        with pytest.raises(wtkit.WtkitError, match=r"^taken: "):
            function(*wrong, mlp())
