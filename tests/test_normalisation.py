"""The scale of a normalisation with a feedback path of its own: convert(..., normalisation=...)."""

import copy
import pickle

import contract
import numpy as np
import pytest
import torch
from contract import array
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit import WtkitError, methods
from wtkit.experiments import run_config
from wtkit.feedback import FeedbackScale, feedback_layers, synchronise
from wtkit.methods.base import NORMALISATIONS

METHODS = methods.names()
LEARN = ["feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"]
OTHERS = [choice for choice in NORMALISATIONS if choice != "exact"]

# name: the module, the shape of its input, the axes of a group that is normalised together (after a
# reshape to the third entry), and the axes that share one scale
KINDS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), (5, 6, 4), None, (0, 2), (0, 2)),
    "BatchNorm1d_flat": (lambda: nn.BatchNorm1d(6), (5, 6), None, (0,), (0,)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(6), (5, 6, 2, 3), None, (0, 2, 3), (0, 2, 3)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(6), (3, 6, 2, 3, 2), None, (0, 2, 3, 4), (0, 2, 3, 4)),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(6), (5, 6, 2, 3), None, (0, 2, 3), (0, 2, 3)),
    "no_statistics": (
        lambda: nn.BatchNorm2d(6, track_running_stats=False, momentum=None),
        (5, 6, 2, 3), None, (0, 2, 3), (0, 2, 3),
    ),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(6, affine=True), (5, 6, 4), None, (2,), (0, 2)),
    "InstanceNorm2d": (
        lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        (5, 6, 2, 3), None, (2, 3), (0, 2, 3),
    ),
    "InstanceNorm3d": (
        lambda: nn.InstanceNorm3d(6, affine=True), (3, 6, 2, 3, 2), None, (2, 3, 4), (0, 2, 3, 4)
    ),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (5, 6, 2, 3), (5, 2, 3, 2, 3), (2, 3, 4), (0, 2, 3)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (5, 4, 6), None, (2,), (0, 1)),
    "LayerNorm_of_maps": (lambda: nn.LayerNorm((4, 6)), (5, 4, 6), None, (1, 2), (0,)),
    "LayerNorm_one": (lambda: nn.LayerNorm(6, bias=False), (6,), None, (0,), ()),
    "RMSNorm": (lambda: nn.RMSNorm(6, eps=1e-3), (5, 4, 6), None, (2,), (0, 1)),
}  # fmt: skip


def norm_of(kind, seed=0):
    """A normalisation in float64 whose γ differ in size, with positive and negative ones."""
    torch.manual_seed(seed)
    norm = KINDS[kind][0]().double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2).view(-1)[1] *= -1
        if norm.bias is not None if hasattr(norm, "bias") else False:
            norm.bias.normal_()
    return norm


def beside(values, shape, shared):
    """γ's ``values`` in as many dimensions as the input, 1 where they are shared."""
    return values.reshape([1 if axis in shared else size for axis, size in enumerate(shape)])


def reference(kind, x, scale, bias, b, delta):
    """y, and (δ_x, Σ δ x̂, Σ δ) with b in the place of γ, in numpy."""
    _, shape, grouped, axes, shared = KINDS[kind]
    groups = x.reshape(grouped or shape)
    if kind == "RMSNorm":
        inverse = 1 / np.sqrt((groups**2).mean(axes, keepdims=True) + 1e-3)
        hat = groups * inverse
    else:
        centred = groups - groups.mean(axes, keepdims=True)
        inverse = 1 / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
        hat = centred * inverse
    sent = (delta * beside(b, shape, shared)).reshape(groups.shape)
    below = sent - hat * (sent * hat).mean(axes, keepdims=True)
    if kind != "RMSNorm":
        below = below - sent.mean(axes, keepdims=True)
    below = (below * inverse).reshape(shape)
    hat = hat.reshape(shape)
    y = hat * beside(scale, shape, shared) + (0 if bias is None else beside(bias, shape, shared))
    return y, below, (delta * hat).sum(shared).reshape(scale.shape), delta.sum(shared)


def converted(norm, method, choice, seed=1, **options):
    """``norm`` in a network that is converted; the last layer is the output."""
    model = nn.Sequential(norm, nn.Linear(1, 1).double())
    wtkit.convert(model, method, normalisation=choice, seed=seed, **options)
    return model[0]


# --------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("choice", OTHERS)
@pytest.mark.parametrize("method", LEARN)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_have_b_in_the_place_of_the_scale(kind, method, choice):
    norm = converted(norm_of(kind), method, choice)
    x = torch.randn(KINDS[kind][1], dtype=torch.float64, requires_grad=True)
    y = norm(x)
    delta = torch.randn_like(y)
    y.backward(delta)
    bias = None if norm.bias is None else array(norm.bias)
    expected = reference(kind, array(x), array(norm.weight), bias, array(norm.B), array(delta))
    np.testing.assert_allclose(array(y), expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(array(x.grad), expected[1], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(array(norm.weight.grad), expected[2], rtol=1e-9, atol=1e-12)
    if bias is not None:
        np.testing.assert_allclose(
            array(norm.bias.grad).ravel(), expected[3].ravel(), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_b_equal_to_the_scale_all_is_torchs_own(kind, mode):
    """Outputs, gradients and running statistics, in training and in evaluation mode."""
    plain = norm_of(kind).train(mode)
    ours = converted(copy.deepcopy(plain), "kolen_pollack", "learned").train(mode)
    with torch.no_grad():
        ours.feedback.copy_(ours.weight)
    x = torch.randn(KINDS[kind][1], dtype=torch.float64) + 1
    for _ in range(2):  # the second pass sees the statistics that the first one left
        found = []
        for norm in (plain, ours):
            norm.zero_grad()
            y = x.clone().requires_grad_()
            out = norm(y)
            out.square().sum().backward()
            found.append((out, y.grad, *(p.grad for p in norm.parameters() if p.grad is not None)))
        for expected, value in zip(*found, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-10)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))


def test_statistics_as_a_mean_of_all_batches():
    plain = nn.BatchNorm1d(3, momentum=None)
    ours = converted(copy.deepcopy(plain), "feedback_alignment", "fixed")
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(4, 3)
        plain(x), ours(x)
    torch.testing.assert_close(ours.running_var, plain.running_var)
    assert ours.num_batches_tracked == 3


def test_one_example_without_a_batch_dimension():
    plain = nn.InstanceNorm2d(3, affine=True)
    ours = converted(copy.deepcopy(plain), "feedback_alignment", "fixed")
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(ours(x), plain(x))


@pytest.mark.parametrize("kind", ["BatchNorm2d", "GroupNorm", "InstanceNorm2d", "LayerNorm"])
def test_inputs_of_another_shape_are_torchs_own_error(kind):
    norm = KINDS[kind][0]()
    ours = converted(copy.deepcopy(norm), "feedback_alignment", "fixed")
    for x in (torch.randn(5, 7, 2, 3), torch.randn(5, 7)):
        with pytest.raises((RuntimeError, ValueError)) as expected:
            norm(x)
        with pytest.raises(expected.type) as found:
            ours(x)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["BatchNorm2d", "LayerNorm", "GroupNorm"])
def test_under_autocast_outputs_and_gradients_have_torchs_types(kind, dtype):
    plain = KINDS[kind][0]()
    ours = converted(copy.deepcopy(plain), "kolen_pollack", "learned")
    x = torch.randn(KINDS[kind][1]).to(dtype)
    found = []
    for norm in (plain, ours):
        y = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = norm(y)
        out.float().square().sum().backward()
        found.append((out, y.grad, norm.weight.grad, norm.bias.grad))
    for expected, value in zip(*found, strict=True):
        assert value.dtype == expected.dtype
        torch.testing.assert_close(value, expected, rtol=0.03, atol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BatchNorm2d", "LayerNorm", "RMSNorm"])
def test_compiled_without_a_graph_break(kind):
    model = nn.Sequential(norm_of(kind), nn.ReLU(inplace=True), nn.Flatten())
    model.append(nn.Linear(int(np.prod(KINDS[kind][1][1:])), 3).double())
    wtkit.convert(model, "kolen_pollack", normalisation="learned", seed=0)
    x, targets = torch.randn(KINDS[kind][1], dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    eager = contract.gradients(copy.deepcopy(model), x, targets)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for name, value in contract.gradients(compiled, x, targets).items():
        torch.testing.assert_close(value, eager[name.removeprefix("_orig_mod.")])


# --------------------------------------------------------------------- what b is, and how it learns


def network():
    """A convolution and two Linears, each before a normalisation."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3),
    ).double()  # fmt: skip


def model_of(method, choice, **options):
    return wtkit.convert(network(), method, normalisation=choice, seed=4, **options)


def test_exact_leaves_the_modules_plain():
    model = model_of("kolen_pollack", "exact")
    assert type(model[1]) is nn.BatchNorm2d and type(model[5]) is nn.LayerNorm
    assert list(feedback_layers(model, scales=True)) == list(feedback_layers(model))


@pytest.mark.parametrize("choice", OTHERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_scales_a_positive_b(method, choice):
    model = model_of(method, choice)
    scales = {
        name: layer
        for name, layer in feedback_layers(model, scales=True).items()
        if isinstance(layer, FeedbackScale)
    }
    plain = choice == "learned" and method in ("backprop", "frozen")
    assert list(scales) == ([] if plain else ["1", "5"])
    assert list(feedback_layers(model)) == ["0", "4", "7"]
    for layer in scales.values():
        assert layer.B.shape == layer.weight.shape and (layer.B > 0).all()
        rms = float(layer.B.square().mean().sqrt())
        assert rms == pytest.approx(1) or (choice == "learned" and 0.4 < rms < 1.8)
    if choice == "none":
        assert all(bool((layer.B == 1).all()) for layer in scales.values())
    assert contract.gradients(model, *contract.batch())


def test_the_seed_decides_b_and_each_scale_has_its_own():
    first, again, other = (
        wtkit.convert(
            nn.Sequential(nn.BatchNorm1d(50), nn.BatchNorm1d(50), nn.Linear(50, 2)),
            "kolen_pollack", normalisation="fixed", seed=seed,
        )
        for seed in (1, 1, 2)
    )  # fmt: skip
    assert torch.equal(first[0].B, again[0].B)
    assert not torch.equal(first[0].B, other[0].B) and not torch.equal(first[0].B, first[1].B)


@pytest.mark.parametrize("method", METHODS)
def test_fixed_feedback_never_changes(method):
    model = model_of(method, "fixed")
    before = [model[place].B.clone() for place in (1, 5)]
    contract.train(model, steps=3)
    if methods.method_class(method).learns_mirror:
        wtkit.mirror(model)
    assert all(map(torch.equal, before, (model[place].B for place in (1, 5))))


def test_sign_symmetry_has_the_signs_of_the_scales():
    model = model_of("sign_symmetry", "learned")
    with torch.no_grad():
        model[1].weight[:3] = torch.tensor([-2.0, 0.0, 1.0])
    rms = model[1].weight.square().mean().sqrt()
    torch.testing.assert_close(model[1].B, model[1].weight.sign() * rms)
    unit = model_of("sign_symmetry", "learned", scale="xavier")
    assert (unit[1].B == 1).all(), "a scale has fans of 1"


def test_signed_initialisation_keeps_the_signs_of_the_start():
    norm = converted(norm_of("BatchNorm1d"), "signed_initialisation", "learned")
    assert torch.equal(norm.B.sign(), norm.weight.sign()) and (norm.B < 0).sum() == 1


def test_kolen_pollack_starts_at_the_scale_of_a_new_network_and_stays_there():
    """Without decay, which normalisations seldom have. Zeros, of a residual branch, as well."""
    model = model_of("kolen_pollack", "learned")
    nn.init.zeros_(model[5].weight)
    wtkit.convert(model, "kolen_pollack", normalisation="learned", seed=4)
    assert torch.equal(model[1].B, model[1].weight) and not model[5].B.any()
    contract.train(model, steps=20)
    for norm in (model[1], model[5]):
        assert not torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.B, norm.weight)


def test_kolen_pollacks_mismatch_of_scales_decays_by_the_law():
    """W − B = (1 − λ)ᵗ (W₀ − B₀), with λ = lr · weight_decay (Sec. 5.1)."""
    model = model_of("kolen_pollack", "learned")
    with torch.no_grad():
        for norm in (model[1], model[5]):
            norm.feedback.uniform_(0.2, 3)
    before = {place: (model[place].weight - model[place].B).detach() for place in (1, 5)}
    contract.train(model, steps=12, momentum=0.0, lr=0.1, weight_decay=0.5)
    for place, gap in before.items():
        found = (model[place].weight - model[place].B).detach()
        torch.testing.assert_close(found, gap * 0.95**12, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["weight_mirror", "weight_mirror_delta_rule"])
def test_mirror_mode_finds_the_scales(method):
    norm = norm_of("LayerNorm_of_maps")
    model = nn.Sequential(norm, nn.Linear(6, 2).double())
    wtkit.convert(model, method, normalisation="learned", seed=3)
    assert float(wtkit.matrix_angles(model, scales=True).sel(layer="0")) > 20
    W = norm.weight.clone()
    wtkit.mirror(model, 400, **({"running_mean": True} if method == "weight_mirror" else {}))
    assert float(wtkit.matrix_angles(model, scales=True).sel(layer="0")) < 2
    assert torch.equal(norm.weight, W) and norm.mirror_count == 400
    torch.testing.assert_close(norm.B, norm.weight.detach(), rtol=0.1, atol=0.1)
    assert list(wtkit.matrix_angles(model).layer.values) == ["1"]


def test_the_mirrors_expectation_is_the_scale():
    """Eq. 11 with a linear response: the mean product of independent steps is γ, whatever β."""
    norm = norm_of("BatchNorm1d")
    model = nn.Sequential(norm, nn.Linear(1, 1).double())
    rate = {"mirror_lr": 1.0, "mirror_decay": 1.0}
    wtkit.convert(model, "weight_mirror", normalisation="learned", seed=3, **rate)
    products = []
    for _ in range(400):
        wtkit.mirror(model)
        products.append(array(norm.B))
    products = np.stack(products)
    error = products.std(0) / np.sqrt(len(products))
    assert (np.abs(products.mean(0) - array(norm.weight)) < 5 * error).all()
    expected = np.sqrt((2 * array(norm.weight) ** 2 + array(norm.bias) ** 2) / 64)
    np.testing.assert_allclose(products.std(0), expected, rtol=0.2)


@pytest.mark.parametrize("choice", OTHERS)
def test_delta_angles_compare_with_the_exact_scale(choice):
    model, (inputs, targets) = model_of("backprop", choice), contract.batch()
    with torch.no_grad():
        model[1].weight.uniform_(0.1, 4)
        model[5].weight.uniform_(0.1, 4)
    statistics = model[1].running_mean.clone()
    angles = wtkit.delta_angles(model, inputs, targets)
    assert list(angles.layer.values) == ["0", "4", "7"]
    assert torch.equal(model[1].running_mean, statistics), "measuring changes nothing"
    below = angles.sel(layer=["0", "4"])
    assert ((below < 1e-4) if choice == "learned" else (below > 3)).all()


@pytest.mark.parametrize("method", ["direct_feedback_alignment", "sparse_feedback"])
def test_direct_feedback_passes_a_scale_within_its_layer(method):
    """e reaches the input of the next layer; from there δ passes φ′ and b, in numpy."""
    model, (inputs, targets) = model_of(method, "learned"), contract.batch()
    found = contract.gradients(model, inputs, targets)
    with torch.no_grad():
        x = model[:4](inputs)
        z = model[4](x)
        h = model[6](model[5](z))
        e = F.softmax(model[7](h), 1) - F.one_hot(targets, 3)
    delta = array(e) / len(targets) @ array(model[7].B) * (1 - array(h) ** 2)
    below = delta * array(model[5].B)
    centred = array(z) - array(z).mean(1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    hat = centred * inverse
    below = inverse * (
        below - below.mean(1, keepdims=True) - hat * (below * hat).mean(1, keepdims=True)
    )
    np.testing.assert_allclose(array(found["4.bias"]), below.sum(0), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(array(found["4.weight"]), below.T @ array(x), rtol=1e-8, atol=1e-12)


# ------------------------------------------------------------------------ what convert and torch do


@pytest.mark.parametrize("choice", OTHERS)
@pytest.mark.parametrize("method", LEARN)
def test_checkpoints_copies_and_export(method, choice):
    plain, model = network(), model_of(method, choice)
    assert set(model.state_dict()) - set(plain.state_dict()) <= {
        f"{place}.feedback" for place in (0, 1, 4, 5, 7)
    }
    contract.train(model)
    other = wtkit.convert(network(), method, normalisation=choice, seed=9)
    other.load_state_dict(model.state_dict())
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        contract.assert_same_state(
            contract.gradients(twin, *contract.batch()),
            contract.gradients(model, *contract.batch()),
        )
    exported = wtkit.export(model)
    assert [type(m) for m in exported.modules()] == [type(m) for m in plain.modules()]
    assert list(exported.state_dict()) == list(plain.state_dict())
    assert "normalisation" not in vars(exported[1]) and isinstance(model[1], FeedbackScale)
    model.load_state_dict(plain.state_dict())  # without b, which stays
    wtkit.convert(model, method)
    assert type(model[1]) is nn.BatchNorm2d


def test_a_checkpoint_of_another_choice_is_refused():
    saved = model_of("kolen_pollack", "fixed").state_dict()
    with pytest.raises(
        WtkitError, match=r"'1\.feedback': the checkpoint was saved with the method"
    ):
        model_of("kolen_pollack", "learned").load_state_dict(saved)


def test_weights_on_the_meta_device_get_b_when_they_are_loaded():
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
    wtkit.convert(model, "kolen_pollack", normalisation="fixed", seed=1)
    model.load_state_dict(
        nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)).state_dict(), assign=True
    )
    assert (model[0].B > 0).all() and model[0].B.std() > 0


def test_gradients_per_example():
    """torch.func's vmap and grad give the method's gradients."""
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    wtkit.convert(model, "kolen_pollack", normalisation="fixed", seed=1)
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x[None],)).square().sum()

    batch = torch.randn(3, 5, dtype=torch.float64)
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    for place in range(3):
        model.zero_grad()
        loss(dict(model.named_parameters()), batch[place]).backward()
        for name in parameters:
            torch.testing.assert_close(found[name][place], model.get_parameter(name).grad)


def test_kept_on_backprop():
    model = model_of("kolen_pollack", "learned", keep_on_backprop=["1"])
    assert type(model[1]) is nn.BatchNorm2d and isinstance(model[5], FeedbackScale)


def test_plain_scales_have_no_twin():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False))
    wtkit.convert(model, "kolen_pollack", normalisation="learned")
    assert type(model[1]) is nn.LayerNorm


class Own(nn.LayerNorm):
    def forward(self, x):
        return x * self.weight


@pytest.mark.parametrize("kind", [Own, type("LayerNorm2d", (nn.LayerNorm,), {})])
def test_a_subclass_must_be_named(kind):
    model = nn.Sequential(nn.Linear(4, 4), kind(4), nn.Linear(4, 2))
    with pytest.raises(WtkitError, match=r"normalisation: '1' .* keep_on_backprop="):
        wtkit.convert(model, "kolen_pollack", normalisation="learned")
    assert type(model[0]) is nn.Linear, "nothing has changed"
    wtkit.convert(model, "kolen_pollack", normalisation="learned", keep_on_backprop=["1"])
    assert type(model[1]) is kind


@pytest.mark.parametrize("given", ["lerned", "", None, True])
def test_another_choice_is_refused(given):
    with pytest.raises(WtkitError, match="normalisation"):
        wtkit.convert(network(), "backprop", normalisation=given)


def test_two_norms_that_share_a_scale_are_refused_where_b_learns_with_it():
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    with pytest.raises(WtkitError, match="share one weight"):
        wtkit.convert(model, "kolen_pollack", normalisation="learned")
    wtkit.convert(model, "feedback_alignment", normalisation="learned")


def test_synchronise_keeps_the_feedback_of_scales():
    model = model_of("kolen_pollack", "learned")
    B = model[1].B.clone()
    synchronise(model)
    assert isinstance(model[1], nn.SyncBatchNorm) and isinstance(model[1], FeedbackScale)
    assert torch.equal(model[1].B, B) and "feedback" in dict(model[1].named_parameters())
    plain = model_of("kolen_pollack", "exact")
    synchronise(plain)
    assert type(plain[1]) is nn.SyncBatchNorm and type(plain[5]) is nn.LayerNorm


# ----------------------------------------------------------------------------------------- in a run

TINY = {
    "network": "resnet18", "network_options": {"width": 4}, "stem": "small", "image_size": 8,
    "classes": 2, "epochs": 1, "batch_size": 16,
}  # fmt: skip


def test_a_run_records_its_choice_and_the_default_as_before():
    run = run_config({"method": "kolen_pollack", "normalisation": "learned"})
    assert '"normalisation": "learned"' in run.revision
    assert "--normalisation=learned" in run.arguments()
    assert "normalisation" not in run_config({"method": "kolen_pollack"}).revision
    with pytest.raises(WtkitError, match="normalisation"):
        run_config({"method": "kolen_pollack", "normalisation": "lerned"})


def test_the_settings_of_an_older_run_have_the_default():
    for node in wtkit.open_results("norm_order").children.values():
        found = wtkit.results.settings(node.to_dataset().isel(run=0))
        assert found["normalisation"] == "exact"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kolen_pollack", "weight_mirror"])
def test_a_run_that_is_stopped_resumes_bit_for_bit(method, tmp_path):
    config = run_config(TINY | {"method": method, "normalisation": "learned", "epochs": 2})
    whole = wtkit.train(config, device="cpu", quiet=True)

    class Stop(Exception):
        pass

    def stop(run):
        if run.sizes["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        wtkit.train(config, tmp_path, device="cpu", quiet=True, on_epoch=stop)
    resumed = wtkit.train(config, tmp_path, device="cpu", quiet=True)
    for name in ("test_error", "train_loss", "matrix_angle", "delta_angle"):
        np.testing.assert_array_equal(resumed[name].values, whole[name].values)
    assert resumed.layer.values.tolist() == whole.layer.values.tolist()
    assert not any("bn" in name for name in whole.layer.values)


@pytest.mark.parametrize("kind", [nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyInstanceNorm1d])
@pytest.mark.parametrize("normalisation", ["fixed", "learned", "none"])
def test_a_lazy_scale_is_refused(kind, normalisation):
    lazy = kind(affine=True)
    model = nn.Sequential(nn.Linear(3, 3), lazy)
    with pytest.raises(wtkit.WtkitError, match=r"'1' \(Lazy.* before the first batch"):
        wtkit.convert(model, "kolen_pollack", normalisation=normalisation)
    wtkit.convert(model, "kolen_pollack", normalisation=normalisation, keep_on_backprop="1")
