"""Networks by name: each family trains under the methods, and is the network that it is called."""

import json
import re
import socket

import numpy as np
import own_networks
import pytest
import torch
from images import image_folder
from torch import nn
from torch.nn import functional as F
from torchvision import models

import wtkit
from wtkit import networks, results
from wtkit.experiments import MLP, RESNETS, TORCHVISION, RunConfig
from wtkit.feedback import FeedbackLayer, as_patterns, fed_layers, feedback_layers
from wtkit.networks import mlp, try_out

METHODS = ["backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"]
# transformers small enough for a test
VIT = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 64,
}
VIT_BACKPROP = ["encoder.pos_embedding", "*.self_attention"]
SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": [4, 4],
}

FAMILIES = {
    "mlp": ({"network_options": {"hidden": [20, 10], "unit": "tanh"}}, METHODS),
    "vit": ({"network_options": {"patch": 8, "depth": 2, "width": 16, "heads": 2}}, METHODS),
    "own_networks:Small": ({"network_options": {"width": 6}}, METHODS),
    "mobilenet_v2": ({"network_options": {"width_mult": 0.25}}, METHODS),
    "squeezenet1_1": ({}, METHODS),
    "shufflenet_v2_x0_5": ({}, METHODS),
    "torchvision.models:VisionTransformer": (
        {"network_options": VIT},
        METHODS,
    ),
    "densenet121": ({}, ["sign_symmetry", "kolen_pollack"]),
    "convnext_tiny": ({}, ["feedback_alignment"]),
    "efficientnet_b0": ({}, ["kolen_pollack"]),
    "googlenet": ({}, ["weight_mirror", "kolen_pollack"]),
    "mobilenet_v3_small": ({}, ["weight_mirror", "feedback_alignment"]),
    "regnet_y_400mf": ({}, ["weight_mirror", "sign_symmetry"]),
    "resnext50_32x4d": ({}, ["kolen_pollack"]),
    "torchvision.models:SwinTransformer": (
        {"network_options": SWIN},
        METHODS,
    ),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"), size=32)


@pytest.fixture
def config(images):
    def build(network, method="feedback_alignment", **settings):
        tiny = {
            "data": "image_folder", "data_root": str(images), "image_size": 32, "epochs": 1,
            "batch_size": 18, "lr": 0.01, "delta_examples": 4,
        }  # fmt: skip
        if method == "weight_mirror":
            tiny["options"] = {"noise": "orthogonal", "noise_fraction": 0.5, "mirror_before": 4}
        return RunConfig(network=network, method=method, **tiny | settings)

    return build


def built(network, num_classes=5, image_size=32, **settings):
    config = RunConfig(method="backprop", network=network, **settings)
    return networks.build(config, num_classes=num_classes, image_size=image_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "method"),
    [(network, method) for network, (_, methods) in FAMILIES.items() for method in methods],
)
def test_every_family_trains(config, network, method):
    settings, _ = FAMILIES[network]
    run = results.check(wtkit.train(config(network, method, **settings), quiet=True), network)
    assert str(run.status.values) == "complete"
    assert np.isfinite(run.train_loss[-1])
    assert run.attrs["network"].startswith(network.replace(":", "."))
    # before training, the head of a vision transformer is zero and sends no δ
    last = run.isel(epoch=-1)
    assert not last.delta_angle.isnull().any()
    assert last.delta_angle[-1] < 1e-6
    if method == "backprop":
        assert (last.matrix_angle == 0).all()
        assert (last.delta_angle < 1e-4).all()
    elif method in ("feedback_alignment", "kolen_pollack"):
        wide = run.matrix_angle.isel(epoch=0).where(
            (run.fan_in > 100) & (run.kind == "Conv2d"), drop=True
        )
        np.testing.assert_allclose(wide, 90, atol=10)
    assert run.mirror_samples.notnull().any() == (method == "weight_mirror")


@pytest.mark.slow
def test_vgg_trains():
    """A step alone: to measure the angles of its 129 million weights takes longer."""
    model = wtkit.convert(built("vgg11"), "sign_symmetry")
    try_out(model, torch.randn(2, 3, 32, 32), 5, "vgg11")
    F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([1, 3])).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert len(feedback_layers(model)) == 11
    assert all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["densenet121", "mobilenet_v2", "convnext_tiny", "googlenet"])
def test_backprop_is_torchvisions(network):
    """From the same seed the same weights, outputs and gradients, dropout and stochastic depth
    included."""
    nets = {}
    for name in ("plain", "converted"):
        torch.manual_seed(3)
        if name == "plain":
            more = {"aux_logits": False, "init_weights": True} if network == "googlenet" else {}
            nets[name] = models.get_model(network, num_classes=5, **more).double()
        else:
            nets[name] = wtkit.convert(built(network).double(), "backprop")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=generator)
    outputs = []
    for net in nets.values():
        torch.manual_seed(4)
        outputs.append(net(inputs))
        F.cross_entropy(outputs[-1], torch.tensor([0, 1, 4, 2])).backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-8, atol=1e-10)
    pairs = zip(nets["plain"].named_parameters(), nets["converted"].named_parameters(), strict=True)
    for (name, expected), (other, found) in pairs:
        assert name == other
        assert torch.equal(found, expected), name
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_the_names_are_those_of_torchvisions_classifiers():
    own = [name for name, architecture in RESNETS.items() if architecture.of_cifar]
    assert own == ["resnet20", "resnet56"]
    assert sorted({*RESNETS, *TORCHVISION} - {*own}) == models.list_models(module=models)


def test_an_mlp_has_the_layers_and_units_that_it_is_asked_for():
    torch.manual_seed(0)
    model = mlp(MLP(hidden=[20, 10], activation="sigmoid"), num_classes=4, image_size=6).double()
    W = {
        name: layer.weight.detach().numpy()
        for name, layer in model.named_children()
        if "fc" in name
    }
    b = {
        name: layer.bias.detach().numpy() for name, layer in model.named_children() if "fc" in name
    }
    assert [w.shape for w in W.values()] == [(20, 108), (10, 20), (4, 10)]
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    y = x.numpy().reshape(3, -1)
    for name in ("fc1", "fc2"):
        y = 1 / (1 + np.exp(-(y @ W[name].T + b[name])))
    np.testing.assert_allclose(model(x).detach().numpy(), y @ W["fc3"].T + b["fc3"], rtol=1e-10)
    units = [
        type(built("mlp", network_options={"unit": unit})[2])
        for unit in ("relu", "tanh", "sigmoid")
    ]
    assert units == [nn.ReLU, nn.Tanh, nn.Sigmoid]
    assert [type(layer) for layer in mlp(MLP(hidden=[]), num_classes=4, image_size=2)] == [
        nn.Flatten, nn.Linear,
    ]  # fmt: skip


def test_a_vision_transformer_is_made_for_the_images():
    with torch.device("meta"):
        assert built("vit_b_16", image_size=64).image_size == 64
        assert built("vit_b_16", image_size=64, network_options={"image_size": 32}).image_size == 32


def test_the_vision_transformer_computes_what_its_papers_say():
    options = {"patch": 2, "depth": 2, "width": 8, "heads": 2, "mlp_ratio": 1.5}
    model = built("vit", image_size=6, network_options=options).double()
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)

    def normalised(y, name):
        y = y - y.mean(-1, keepdims=True)
        y /= np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
        return y * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(y, name):
        return y @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def attended(y, name):
        qkv = y @ p[f"{name}.in_proj_weight"].T + p[f"{name}.in_proj_bias"]
        q, k, v = (z.reshape(3, 9, 2, 4) for z in np.split(qkv, 3, -1))
        scores = np.exp(np.einsum("nshd,nthd->nhst", q, k) / 2)
        shares = scores / scores.sum(-1, keepdims=True)
        return linear(np.einsum("nhst,nthd->nshd", shares, v).reshape(3, 9, 8), f"{name}.out_proj")

    patches = x.numpy().reshape(3, 3, 3, 2, 3, 2).transpose(0, 2, 4, 1, 3, 5).reshape(3, 9, 12)
    y = patches @ p["patches.weight"].reshape(8, 12).T + p["patches.bias"]
    y = y + p["positions.weight"]
    for number in range(2):
        block = f"blocks.{number}"
        y = y + attended(normalised(y, f"{block}.norm1"), f"{block}.self_attn")
        hidden = linear(normalised(y, f"{block}.norm2"), f"{block}.linear1")
        y = y + linear(nn.functional.gelu(torch.tensor(hidden)).numpy(), f"{block}.linear2")
    expected = linear(normalised(y, "norm").mean(1), "head")
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-9)
    with torch.no_grad():  # torch's fused kernel
        np.testing.assert_allclose(model.eval()(x).numpy(), expected, rtol=1e-9)


def test_all_layers_of_the_vision_transformer_are_converted_and_feed_each_other():
    options = {"patch": 2, "depth": 2, "width": 8, "heads": 2}
    model = wtkit.convert(built("vit", image_size=4, network_options=options), "backprop")
    fed = fed_layers(model, torch.randn(2, 3, 4, 4))
    block = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    inner = [f"blocks.{number}.{name}" for number in range(2) for name in block]
    assert list(fed) == ["patches", *inner, "head"]
    assert fed["blocks.0.self_attn.in_proj"] == ["blocks.0.self_attn.out_proj"]
    assert fed["blocks.0.linear1"] == ["blocks.0.linear2"]
    first = [name for name in inner if name.endswith(("in_proj", "linear1"))]
    assert fed["patches"] == [*first, "head"]


def test_a_class_in_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(
        "import torch\n\ndef net(num_classes): return torch.nn.Linear(1, num_classes)"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert built("nets_of_mine:net").out_features == 5


MADE_WRONG = [
    (
        "mobilenet_v2",
        {"round_nearest": 0},
        "network 'mobilenet_v2' cannot be made with image_size=32, round_nearest=0: integer",
    ),
    ("vgg11", {"widht": 3}, "network 'vgg11' cannot be made with image_size=32, widht=3: "),
    (
        "vit_b_16",
        {"image_size": 40},
        "network 'vit_b_16' cannot be made with image_size=40: Input shape indivisible by ",
    ),
    ("vit", {"patch": 5}, "images of 32 pixels are not filled by patches of 5; take a 'patch'"),
    ("vit", {"width": 30}, "option of vit 'width': expected a multiple of the 4 'heads', got 30"),
    ("vit", {"mlp_ratio": 0.001}, "option of vit 'mlp_ratio': 0.001 of the width 128 is no neuron"),
    ("vit", {"deph": 3}, "unknown option of vit 'deph' (did you mean 'depth'?)"),
    (
        "vgg11",
        {"weights": "DEFAULT"},
        "'weights' of vgg11 would come from the net; leave it out, or load a file of weights",
    ),
    (
        "own_networks:Small",
        {"depth": 3},
        "'own_networks:Small' cannot be made with num_classes=5, depth=3: got an unexpected "
        "keyword argument 'depth'; it takes num_classes, width",
    ),
    (
        "own_networks:Classless",
        {},
        "cannot be made with num_classes=5: got an unexpected keyword argument 'num_classes'",
    ),
    ("own_networks:Smal", {}, "own_networks has no 'Smal' (did you mean 'Small'?)"),
    (
        "own_network:Small",
        {},
        "No module named 'own_network'; start in the folder that holds it, or install it",
    ),
    ("own_networks:constant", {}, "expected a class, or a function that returns a network"),
    ("own_networks:number", {}, "return an nn.Module, got int"),
    ("broken_network:Small", {}, "SyntaxError: "),
    ("torch.hub:load", {"repo_or_dir": "a/b", "model": "c"}, "nothing is loaded from its hub"),
    ("torch:load", {"f": "x.pt", "weights_only": False}, "torch's own functions are not accepted"),
    ("own_networks:from_hub", {"repo_or_dir": "a/b", "model": "c"}, "functions of torch and of Py"),
    ("own_networks:part_of_hub", {"model": "c"}, "functions of torch and of Python's library"),
    ("subprocess:run", {"args": ["touch", "called"]}, "functions of torch and of Python's library"),
    ("subprocess:Popen", {"args": ["touch", "called"]}, "expected a class that is an nn.Module"),
    ("builtins:print", {}, "functions of torch and of Python's library are not accepted"),
    ("own_networks:fetched", {}, "'own_networks:fetched' connects to the net; fetch what it needs"),
    ("own_networks:quietly_fetched", {}, "connects to the net; fetch what it needs beforehand"),
    ("own_networks:Small", {"../../x": 1}, "expected names of arguments, got '../../x'"),
]


@pytest.mark.parametrize(
    ("network", "options", "message"), MADE_WRONG, ids=[message for *_, message in MADE_WRONG]
)
def test_what_cannot_be_made_is_named(network, options, message, tmp_path, monkeypatch):
    (tmp_path / "broken_network.py").write_text("class Small(\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(wtkit.WtkitError, match=re.escape(message)) as error:
        built(network, network_options=options)
    assert len(str(error.value).splitlines()) == 1


def test_a_network_of_a_module_with_a_librarys_name_is_found(tmp_path, monkeypatch):
    code = "import torch\n\ndef net(num_classes): return torch.nn.Linear(1, num_classes)"
    (tmp_path / "this.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert built("this:net").out_features == 5


def test_other_threads_may_connect_while_a_network_is_made():
    with socket.create_server(("127.0.0.1", 0)) as server:
        own_networks.elsewhere = server.getsockname()
        assert built("own_networks:slowly").hidden is not None
        server.accept()[0].close()


TRAINED_WRONG = [
    ("own_networks:Two", {}, "network 'own_networks.Two' returns tuple for 2 images, expected"),
    ("own_networks:Maps", {}, "returns shape (2, 8, 13, 13) for 2 images, expected logits (2, 3)"),
    ("own_networks:Recurrent", {}, "cannot convert 'memory' (OwnMemory): a subclass of GRU"),
    ("own_networks:Recurrent", {}, "convert(..., keep_on_backprop=['memory']), or the setting"),
    ("own_networks:PassesBy", {}, "the network uses the weight of 'hidden' without calling the "
                                  "layer, so δ"),
    ("own_networks:Small", {"normalisation": "learned"},
     "own_networks:Small has no scale γ, so 'learned' has no effect; leave it out"),
    ("own_networks:Small", {"keep_on_backprop": ["*"]}, "setting 'keep_on_backprop'"),
    ("own_networks:Small", {"keep_on_backprop": ["hiden"]}, "'hiden' matches no module"),
    ("googlenet", {"network_options": {"aux_logits": True}}, "returns GoogLeNetOutputs for"),
    ("alexnet", {}, "network 'alexnet' cannot take images of 32×32 pixels (Given input size: "
                    "(256x1x1). Calc"),
    (
        "torchvision.models:VisionTransformer",
        {"network_options": VIT | {"image_size": 64}, "keep_on_backprop": VIT_BACKPROP},
        "cannot take images of 32×32 pixels (Wrong image height! Expected 64 but got 32!); take "
        "another image_size",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("network", "settings", "message"), TRAINED_WRONG, ids=[m for *_, m in TRAINED_WRONG]
)
def test_what_cannot_be_trained_is_named_before_it_is(config, network, settings, message):
    with pytest.raises(wtkit.WtkitError, match=re.escape(message)) as error:
        wtkit.train(config(network, **settings), quiet=True)
    assert len(str(error.value).splitlines()) == 1


def test_torchvisions_transformers_are_converted_whole(config):
    vit = {"network_options": VIT}
    run = wtkit.train(config("torchvision.models:VisionTransformer", **vit), quiet=True)
    assert [name for name in run.layer.values if "attention" in name] == [
        f"encoder.layers.encoder_layer_{i}.self_attention.{part}"
        for i in range(2)
        for part in ("in_proj", "out_proj")
    ]
    assert not run.delta_angle.isel(epoch=-1).isnull().any()
    assert set(run.kind.values) == {"Conv2d", "MultiheadAttention", "Linear"}
    swin = {"network_options": SWIN}
    run = wtkit.train(config("torchvision.models:SwinTransformer", **swin), quiet=True)
    assert {"features.1.0.attn.qkv", "features.3.0.attn.proj"} <= set(run.layer.values)
    assert not run.delta_angle.isel(epoch=-1).isnull().any()


def test_attention_on_backprop_is_torchs_own_and_is_not_measured(config):
    vit = {"network_options": VIT, "keep_on_backprop": VIT_BACKPROP}
    run = wtkit.train(config("torchvision.models:VisionTransformer", **vit), quiet=True)
    assert not any("attention" in name for name in run.layer.values)
    assert len(run.layer) == 6


def test_a_layer_that_plays_no_part_is_not_measured(config):
    run = wtkit.train(config("own_networks:Unused"), quiet=True)
    assert run.layer.values[run.delta_angle.isel(epoch=-1).isnull()].tolist() == ["hidden"]


def test_trying_out_changes_nothing():
    model = wtkit.convert(
        built("mobilenet_v2", network_options={"width_mult": 0.25}), "kolen_pollack"
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    stream, learning = torch.get_rng_state(), [p.requires_grad for p in model.parameters()]
    try_out(model, images, 5, "mobilenet_v2")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert [p.requires_grad for p in model.parameters()] == learning
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["sign_symmetry", "weight_mirror", "kolen_pollack"])
def test_layers_that_stay_on_backprop_are_measured_like_the_others(config, method):
    run = wtkit.train(
        config("own_networks:Small", method, keep_on_backprop=["head", "features.0"]), quiet=True
    )
    names = ["features.0", "features.2", "hidden", "head"]
    assert run.layer.values.tolist() == names
    aligned = (run.matrix_angle == 0).all("epoch").values.tolist()
    assert aligned == [True, False, False, True]
    assert json.loads(str(run.settings.values))["backprop"] == ["head", "features.0"]
    if method == "weight_mirror":
        assert run.mirror_samples.isnull().values.tolist() == aligned


def test_the_last_layer_on_backprop_sends_backprops_delta(config):
    """As Xiao et al. (2018) had it: then only what lies below the next layer down differs."""
    run = wtkit.train(
        config("own_networks:Small", "sign_symmetry", keep_on_backprop=["head"]), quiet=True
    )
    delta = run.delta_angle.isel(epoch=0)
    assert (delta.sel(layer=["head", "hidden"]) < 1e-4).all()
    assert (delta.sel(layer=["features.0", "features.2"]) > 1).all()


class Stop(Exception):
    pass


@pytest.mark.parametrize("network", ["own_networks:Dropped"])
def test_an_interrupted_run_with_dropout_goes_on_to_the_same_end(config, network, tmp_path):
    def stop(run):
        if run.sizes["epoch"] == 2:
            raise Stop

    unbroken = wtkit.train(config(network, epochs=3), quiet=True)
    with pytest.raises(Stop):
        wtkit.train(config(network, epochs=3), tmp_path, quiet=True, on_epoch=stop)
    resumed = wtkit.train(config(network, epochs=3), tmp_path, quiet=True)
    np.testing.assert_array_equal(unbroken.train_loss, resumed.train_loss)
    np.testing.assert_array_equal(unbroken.delta_angle, resumed.delta_angle)


def test_networks_are_gathered_under_names_that_tell_them_apart(config, tmp_path):
    paths = []
    chosen = {
        "mlp": {},
        "mlp-hidden=20+10,unit=tanh": {"network_options": {"hidden": [20, 10], "unit": "tanh"}},
        "own_networks.Small": {},
    }
    for name, settings in chosen.items():
        run = config("own_networks:Small" if "Small" in name else "mlp", **settings)
        assert run.name == f"{name}-own-feedback_alignment-seed0"
        wtkit.train(run, tmp_path / run.name, quiet=True)
        paths.append(tmp_path / run.name / "trajectory.nc")
    results.save(results.gather(paths, "mine"), tmp_path / "results.nc")
    tree = wtkit.open_results(tmp_path / "results.nc", quiet=True)
    assert {name: node.sizes["layer"] for name, node in tree.children.items()} == dict(
        zip(chosen, [2, 3, 4], strict=True)
    )
    assert set(tree["mlp"]["norm_order"].values) == {"own"}


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["a.0.b", "a.1.b", "c"], ["a.*.b", "c"]),
        (["a.0.b"], ["a.0.b"]),
        (["encoder.layer_0.x", "encoder.layer_11.x"], ["encoder.layer_*.x"]),
    ],
)
def test_patterns_are_few(names, patterns):
    assert as_patterns(names) == patterns


def test_several_modules_that_cannot_be_converted_are_named_at_once():
    model = nn.Sequential(*(own_networks.Recurrent(2) for _ in range(3)))
    with pytest.raises(
        wtkit.WtkitError, match=r"'0.memory' \(OwnMemory\).* \(and 2 more\)"
    ) as error:
        wtkit.convert(model, "feedback_alignment")
    assert "keep_on_backprop=['*.memory'])" in str(error.value)
    wtkit.convert(model, "feedback_alignment", keep_on_backprop=["*.memory"])
    assert sum(isinstance(module, FeedbackLayer) for module in model.modules()) == 12
