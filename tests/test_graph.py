"""Which layer feeds which: traced in the network, recorded, and known of older files."""

import json
import re

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit import WtkitError, networks, results
from wtkit.experiments import RESNETS, run_config
from wtkit.feedback import blocks_of, fed_layers
from wtkit.results import GRAPH_COORDS, downstream
from wtkit.results.graph import graph_coords, with_graph

IMAGES = torch.randn(2, 3, 16, 16)


def traced(model, method="weight_mirror", inputs=IMAGES):
    return fed_layers(wtkit.convert(model, method), inputs)


class Branches(nn.Module):
    """A trunk, a branch with a layer, one without, a layer used twice, and one never called."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)  # registered first, called last
        self.stem = nn.Linear(6, 4)
        self.side = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.twice = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        x = F.relu(self.stem(input=x))
        x = x + self.side(x)
        return self.head(self.twice(self.twice(x).relu_()).flatten(1))


EDGES = {
    "head": [],
    "stem": ["side.0", "twice"],
    "side.0": ["twice"],
    "twice": ["head", "twice"],
    "unused": [],
}


@pytest.mark.parametrize("method", ["weight_mirror", "frozen", "direct_feedback_alignment"])
def test_branches_loops_and_unused_layers_are_traced_whatever_the_method_sends(method):
    assert traced(Branches(), method, torch.randn(2, 6)) == EDGES


def test_what_a_gradient_cannot_pass_does_not_count():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x):
            with torch.no_grad():
                x = self.a(x)
            return self.c(self.b(x).detach())

    assert traced(Cut(), inputs=torch.randn(2, 3)) == {"a": [], "b": [], "c": []}


@pytest.mark.parametrize("network", sorted(set(RESNETS) - {"resnet101", "resnet152"}))
def test_the_graph_of_a_resnet_follows_from_the_names_of_its_layers(network):
    for norm_order in ("relu_bn", "bn_relu"):
        model = networks.build_resnet(network, width=4, norm_order=norm_order)
        feeds = traced(model)
        layers = {"layer": list(feeds), "kind": ["Conv2d"] * len(feeds), "fan_in": [1] * len(feeds)}
        old = results.dataset(
            {"test_error": [90.0]}, layers, LABELS, network=network, data="digits"
        )
        traced_coords = graph_coords(feeds, blocks_of(model), feeds)
        xr.testing.assert_identical(with_graph(old), old.assign_coords(traced_coords))


def test_tracing_changes_nothing():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(784, 2)
    )
    wtkit.convert(model, "kolen_pollack")
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    fed_layers(model, IMAGES)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert model[0].weight.requires_grad


# ----------------------------------------------------------------------------------------- recorded

LABELS = {
    "method": "weight_mirror", "variant": "", "norm_order": "relu_bn", "seed": 0,
    "status": "complete", "evaluated_on": "test", "held_out_images": 360,
    "angles_over": results.LIVE_WEIGHTS, "settings": '{"lr": 0.05}', "provenance": "{}",
}  # fmt: skip
NAMES = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.downsample.0", "fc"]
LAYERS = {"layer": NAMES, "kind": ["Conv2d"] * 4 + ["Linear"], "fan_in": [27] * 5}
GRAPH = {
    "block": ["conv1", *["layer1.0"] * 3, "fc"],
    "feeds": dict(zip(NAMES, [[NAMES[1], NAMES[3]], [NAMES[2]], ["fc"], ["fc"], []], strict=True)),
}


def make(network="resnet18", layers=LAYERS, **labels):
    records = {"test_error": [90.0], "matrix_angle": np.full((1, len(layers["layer"])), 60.0)}
    return results.dataset(records, layers, LABELS | labels, network=network, data="digits")


def test_a_run_records_its_graph():
    settings = {"method": "weight_mirror", "network": "mlp", "network_options": {"hidden": [8, 8]}}
    config = run_config(settings | {"image_size": 8, "classes": 2, "epochs": 1})
    run = wtkit.train(config, device="cpu", quiet=True)
    assert run["block"].values.tolist() == ["fc1", "fc2", "fc3"]
    assert run["level"].values.tolist() == [0, 1, 2]
    assert [json.loads(text) for text in run["feeds"].values] == [["fc2"], ["fc3"], []]


def test_the_graph_comes_back_as_it_was_saved_and_half_of_it_is_refused(tmp_path):
    run = make(layers=LAYERS | GRAPH, network="mine.Net")
    results.save(run, tmp_path / "run.nc")
    xr.testing.assert_identical(results.open_run(tmp_path / "run.nc"), run)
    with pytest.raises(WtkitError, match="'level' is missing"):
        results.save(run.drop_vars("level"), tmp_path / "half.nc")


def test_older_files_have_the_graph_where_the_names_tell_it(tmp_path):
    results.save(make(), tmp_path / "old.nc")
    old = results.open_run(tmp_path / "old.nc")
    assert old["level"].values.tolist() == [0, 1, 2, 1, 3]
    xr.testing.assert_equal(old, make(layers=LAYERS | GRAPH))
    results.save(make(network="mine.Net"), tmp_path / "own.nc")
    own = results.open_run(tmp_path / "own.nc")
    assert not set(GRAPH_COORDS) & set(own.variables)
    with pytest.raises(WtkitError, match="do not record which layer feeds which; train"):
        downstream(own)


def test_runs_with_and_without_the_graph_are_gathered(tmp_path):
    paths = [tmp_path / "old.nc", tmp_path / "new.nc"]
    for seed, (path, layers) in enumerate(zip(paths, (LAYERS, LAYERS | GRAPH), strict=True)):
        results.save(make(network="mine.Net", layers=layers, seed=seed), path)
    for order in (paths, paths[::-1]):
        node = results.gather(order, "some")["mine.Net"]
        assert node["block"].values.tolist() == GRAPH["block"] and node["feeds"].dims == ("layer",)
    other = LAYERS | GRAPH | {"feeds": {name: [] for name in NAMES}}
    results.save(make(network="mine.Net", layers=other, seed=2), tmp_path / "other.nc")
    with pytest.raises(WtkitError, match=r"other\.nc: 'level' of its layers differs"):
        results.gather([*paths[1:], tmp_path / "other.nc"], "some")


def test_downstream_follows_every_path():
    run = make(layers=LAYERS | GRAPH)
    through = downstream(run)
    assert through.dims == ("layer", "downstream_layer") and through.dtype == bool
    below = {name: set(through.downstream_layer[through.sel(layer=name)].values) for name in NAMES}
    assert below["conv1"] == set(NAMES[1:])
    assert below["layer1.0.downsample.0"] == {"fc"} and below["fc"] == set()
    xr.testing.assert_identical(run.wt.downstream(), through)
    xr.testing.assert_identical(downstream(run["matrix_angle"]), through)
    # what docs/schema.md computes; every cosine is 1/2
    cosines = np.cos(np.radians(run.matrix_angle)).rename(layer="downstream_layer")
    product = cosines.where(through).prod("downstream_layer").isel(epoch=0)
    np.testing.assert_allclose(product, [1 / 16, 1 / 4, 1 / 2, 1 / 2, 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: run.sel(layer=NAMES[:-1]), "layer 'fc' is left out of these results"),
        (lambda run: run.mean("layer"), "expected one network's results"),
        (lambda run: xr.DataTree.from_dict({"/resnet18": run}), "expected one network's results"),
    ],
)
def test_downstream_says_what_it_lacks(change, words):
    with pytest.raises(WtkitError, match=re.escape(words)):
        downstream(change(make(layers=LAYERS | GRAPH)))


def test_layers_in_a_loop_share_a_level():
    names = ["a", "b", "c"]
    coords = graph_coords(names, names, {"a": ["b"], "b": ["b", "c"], "c": ["b"]})
    assert coords["level"][1].tolist() == [0, 1, 1]
