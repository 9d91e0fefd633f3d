"""Attention: its projections send δ through B, and all else is torch's."""

import contextlib
import copy

import held
import pytest
import torch
from held import Case, sent
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.feedback import FeedbackLayer, fed_layers, feedback_layers

E, HEADS, N, L, S = 8, 2, 3, 4, 5
X = torch.randn(N, L, E, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
KEYS = torch.randn(N, S, E, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
PADDING = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()


def attention(q, k, v, allowed=None):
    """Head by head and query by query: softmax(q·k / √d) over the keys that are allowed."""
    size = q.shape[-1] // HEADS
    out = torch.zeros_like(q)
    for n in range(q.shape[0]):
        for h in range(0, q.shape[-1], size):
            at = slice(h, h + size)
            scores = torch.einsum("id,jd->ij", q[n, :, at], k[n, :, at]) / size**0.5
            if allowed is not None:
                scores = scores.masked_fill(~allowed[n], -torch.inf)
            out[n, :, at] = torch.softmax(scores, -1) @ v[n, :, at]
    return out


def packed(W, B, inputs, query=X, allowed=None):
    """The equations of attention with one matrix for q, k and v."""
    query, key, value = inputs
    rows = [slice(i * E, (i + 1) * E) for i in range(3)]
    q, k, v = (
        sent(y, W["in_proj_weight"][at], B["in_proj_weight"][at],
             W["in_proj_bias"][at] if "in_proj_bias" in W else None)
        for y, at in zip((query, key, value), rows, strict=True)
    )  # fmt: skip
    return _out(W, B, attention(q, k, v, allowed))


def _out(W, B, y):
    return sent(y, W["out_proj.weight"], B["out_proj.weight"], W.get("out_proj.bias"))


def _self(W, B, inputs):
    return packed(W, B, (*inputs, *inputs, *inputs))


def _separate(W, B, inputs):
    q, k, v = (
        sent(y, W[f"{name}_proj_weight"], B[f"{name}_proj_weight"], bias)
        for y, name, bias in zip(inputs, "qkv", W["in_proj_bias"].chunk(3), strict=True)
    )
    more = [W[f"bias_{each}"].expand(len(k), -1, -1) for each in "kv"]
    zeros = torch.zeros_like(more[0])
    k, v = (torch.cat([y, one, zeros], 1) for y, one in zip((k, v), more, strict=True))
    return _out(W, B, attention(q, k, v))


PACKED = {"in_proj": "in_proj_weight", "out_proj": "out_proj.weight"}
SEPARATE = {f"{x}_proj": f"{x}_proj_weight" for x in "qkv"} | {"out_proj": "out_proj.weight"}
ALLOWED = ~PADDING[:, None] & torch.ones(L, S).tril(1).bool()
CASES = {
    "self": Case(
        lambda: nn.MultiheadAttention(E, HEADS, batch_first=True),
        lambda: (X.clone(),),
        lambda m, x: m(x[0], x[0], x[0], need_weights=False)[0],
        _self,
        PACKED,
    ),
    "memory": Case(  # key is value, positions first, masks
        lambda: nn.MultiheadAttention(E, HEADS, bias=False),
        lambda: (X.clone(), KEYS.clone()),
        lambda m, x: m(
            x[0].transpose(0, 1), *[x[1].transpose(0, 1)] * 2, need_weights=False,
            key_padding_mask=PADDING, attn_mask=~torch.ones(L, S).tril(1).bool(),
        )[0].transpose(0, 1),
        lambda W, B, x: packed(W, B, (x[0], x[1], x[1]), allowed=ALLOWED),
        PACKED,
    ),
    "three inputs": Case(
        lambda: nn.MultiheadAttention(E, HEADS, batch_first=True),
        lambda: (X.clone(), KEYS.clone(), KEYS.clone() + 1),
        lambda m, x: m(*x)[0],
        packed,
        PACKED,
    ),
    "other sizes": Case(  # kdim, vdim, bias_k, bias_v, zero attention
        lambda: nn.MultiheadAttention(
            E, HEADS, kdim=3, vdim=6, add_bias_kv=True, add_zero_attn=True, batch_first=True
        ),
        lambda: (X.clone(), KEYS[..., :3].clone(), KEYS[..., :6].clone()),
        lambda m, x: m(*x)[0],
        _separate,
        SEPARATE,
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("method", held.LOCAL)
def test_gradients_have_B_in_the_place_of_W(case, method):
    held.gradients_have_B_in_the_place_of_W(case, method)


@pytest.mark.parametrize("check", held.CHECKS, ids=lambda check: check.__name__)
def test_held_weights(case, check):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("method", held.LEARN_FROM_NOISE)
def test_mirrors_learn_W(method):
    held.mirrors_learn_W(CASES["self"], method)
    held.mirrors_learn_W(CASES["other sizes"], method)


@pytest.mark.slow
def test_compiled_equals_eager():
    held.compiled_equals_eager(CASES["self"])
    held.compiled_equals_eager(CASES["three inputs"])


# --------------------------------------------------------------------------- all of torch's options

FLOATS = torch.linspace(-1, 1, L * S, dtype=torch.float64).view(L, S)
MASK = torch.arange(L * S).view(L, S) % 3 == 0
OPTIONS = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
    {"key_padding_mask": PADDING},
    {"key_padding_mask": PADDING.double() * -3, "attn_mask": FLOATS, "need_weights": False},
    {"attn_mask": MASK},
    {"attn_mask": FLOATS.expand(N * HEADS, L, S) + torch.arange(N * HEADS)[:, None, None]},
    {"attn_mask": MASK.expand(N * HEADS, L, S), "need_weights": False},
    {"attn_mask": torch.ones(L, S).triu(1).bool(), "is_causal": True, "need_weights": False},
    {"attn_mask": torch.ones(L, S).triu(1).bool(), "is_causal": True},
    {"attn_mask": torch.ones(L, S).triu(1).bool(), "is_causal": True, "need_weights": False,
     "key_padding_mask": PADDING},
]  # fmt: skip
MODULES = [
    {"batch_first": True},
    {},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"add_zero_attn": True, "batch_first": True, "bias": False},
    {"kdim": E, "vdim": 5},
    {"dropout": 0.5, "batch_first": True},
]


def as_given(y, module, batched):
    return (y if module.batch_first else y.transpose(0, 1)) if batched else y[0]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("settings", MODULES, ids=str)
def test_results_are_torchs(settings, options, batched):
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(E, HEADS, **settings).double()
    module = wtkit.convert(nn.MultiheadAttention(E, HEADS, **settings).double(), "backprop")
    module.load_state_dict(plain.state_dict())
    value = KEYS[..., : settings.get("vdim", E)]
    inputs = [as_given(y, plain, batched) for y in (X, KEYS, value)]
    if not batched:
        options = dict(options)
        for name, kept in (("key_padding_mask", 0), ("attn_mask", slice(HEADS))):
            given = options.get(name)
            if given is not None and (name != "attn_mask" or given.dim() == 3):
                options[name] = given[kept]
    for training in (True, False):
        results = []
        for each in (plain.train(training), module.train(training)):
            torch.manual_seed(4)
            fresh = [y.clone().requires_grad_() for y in inputs]
            out, shares = each(*fresh, **options)
            gradients = torch.autograd.grad(held.loss(out), [*fresh, *each.parameters()])
            results.append((out, shares, gradients))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(*inputs, **options), module(*inputs, **options), rtol=0, atol=0
        )


WRONG = [
    ((X[..., :5], KEYS, KEYS), {}),
    ((X, KEYS, KEYS[:, :2]), {}),
    ((X, KEYS[..., :2], KEYS[..., :2]), {}),
    ((X[:2], KEYS, KEYS), {}),
    ((X, KEYS[0], KEYS[0]), {}),
    ((X[0, 0], KEYS, KEYS), {}),
    ((X, KEYS, KEYS), {"is_causal": True}),
    ((X, KEYS, KEYS), {"attn_mask": FLOATS[:2]}),
    ((X, KEYS, KEYS), {"attn_mask": FLOATS[0]}),
    ((X, KEYS, KEYS), {"attn_mask": FLOATS.long()}),
    ((X, KEYS, KEYS), {"key_padding_mask": PADDING[:1]}),
    ((X, KEYS, KEYS), {"key_padding_mask": PADDING[:, :2]}),
    ((X.float(), KEYS.float(), KEYS.float()), {}),
]


@pytest.mark.parametrize(("inputs", "options"), WRONG)
def test_what_torch_refuses_is_refused_alike(inputs, options):
    plain = nn.MultiheadAttention(E, HEADS, batch_first=True).double()
    with pytest.raises(Exception) as expected:
        plain(*inputs, **options)
    module = wtkit.convert(plain, "feedback_alignment")
    with pytest.raises(type(expected.value)):
        module(*inputs, **options)


# ------------------------------------------------------------------------------- whole transformers


def encoder(**settings):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, HEADS, 12, dropout=0, batch_first=True, **settings)
    return nn.Sequential(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(E, 2)
    ).double()


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_an_encoders_layers_send_delta_through_B(norm_first, training):
    """In evaluation mode, too, where torch has a fast path for passes without gradients."""
    plain, model = encoder(norm_first=norm_first), encoder(norm_first=norm_first)
    wtkit.convert(model, "feedback_alignment", seed=0)
    plain.train(training), model.train(training)
    with torch.no_grad():
        torch.testing.assert_close(model(X), plain(X), rtol=0, atol=0)
    torch.testing.assert_close(model(X), plain(X))
    calls = {name: 0 for name in feedback_layers(model)}
    with contextlib.ExitStack() as hooks:
        for name, layer in feedback_layers(model).items():

            def count(*_, name=name):
                calls[name] += 1

            hooks.callback(layer.register_full_backward_hook(count).remove)
        model(X.clone().requires_grad_()).square().sum().backward()
    assert set(calls.values()) == {1} and len(calls) == 9
    exact = encoder(norm_first=norm_first)
    wtkit.convert(exact, "feedback_alignment")
    for layer in feedback_layers(exact).values():
        layer.feedback.copy_(layer.weight.detach())
    for each in (exact.train(training), plain):
        each.zero_grad()
        each(X).square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_a_whole_transformer_trains():
    torch.manual_seed(0)
    model = nn.Transformer(E, HEADS, 1, 1, 12, dropout=0, batch_first=True)
    wtkit.convert(model, "kolen_pollack", seed=0)
    source, target = X.float(), KEYS.float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    mask = nn.Transformer.generate_square_subsequent_mask(S)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        out = model(source, target, tgt_mask=mask, tgt_is_causal=True)
        losses.append(F.mse_loss(out, target))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    angles = wtkit.delta_angles(model, {"src": source, "tgt": target}, target, F.mse_loss)
    assert list(angles.layer.values) == list(feedback_layers(model))
    assert "decoder.layers.0.multihead_attn.in_proj" in angles.layer
    assert not angles.isnull().any()


def test_attentions_layers_feed_each_other():
    model = wtkit.convert(encoder(), "feedback_alignment")
    fed = fed_layers(model, X)
    first = "0.layers.0"
    assert fed[f"{first}.self_attn.in_proj"] == [f"{first}.self_attn.out_proj"]
    assert set(fed[f"{first}.self_attn.out_proj"]) == {
        f"{first}.linear1", "0.layers.1.self_attn.in_proj", "0.layers.1.self_attn.out_proj",
        "0.layers.1.linear1", "1",
    } - {"0.layers.1.self_attn.out_proj"}  # fmt: skip


def test_delta_angles_in_evaluation_mode_with_padding():
    """torch's fast path would take nested tensors."""
    layer = nn.TransformerEncoderLayer(E, HEADS, 12, dropout=0, batch_first=True)
    model = wtkit.convert(nn.TransformerEncoder(layer, 2), "feedback_alignment").eval()
    padding = torch.tensor([[0, 0, 0, 1]] * N).bool()
    angles = wtkit.delta_angles(
        model,
        {"src": X.float(), "src_key_padding_mask": padding},
        X.float(),
        lambda out, y: out.square().sum(),
    )
    assert not angles.isnull().any()


# ----------------------------------------------------------------------- torchvision's transformers


def vit():
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 8, 2, 2, 8, 12, num_classes=3).double()
    return seeded(model)


def swin(version=1):
    from torchvision.models import SwinTransformer
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    torch.manual_seed(0)
    settings = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    model = SwinTransformer(
        [4, 4], 8, [2, 1], [2, 2], [2, 2], stochastic_depth_prob=0.0, num_classes=3,
        **(settings if version == 2 else {}),
    )  # fmt: skip
    return seeded(model.double())


def video_swin():
    """Of images that are cut into frames: (2, 3, 16, 16) to 16 frames of 4 by 4 pixels."""
    from torchvision.models.video import SwinTransformer3d

    model = SwinTransformer3d(
        [4, 1, 1], 8, [2, 1], [2, 2], [2, 2, 2], stochastic_depth_prob=0.0, num_classes=3
    )
    return seeded(nn.Sequential(nn.Unflatten(3, (4, 4)), model).double())


def seeded(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, dtype=p.dtype, generator=generator) * 0.3)
    return model


IMAGES = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
VISION = {"vit": vit, "swin": swin, "swin v2": lambda: swin(2), "video swin": video_swin}


@pytest.mark.parametrize("make", VISION.values(), ids=VISION)
def test_torchvisions_transformers_are_converted_whole(make):
    plain, model = make(), wtkit.convert(make(), "feedback_alignment", seed=0)
    for layer in feedback_layers(model).values():
        layer.feedback.copy_(layer.weight.detach())
    for each in (plain, model):
        held.loss(each(IMAGES)).backward()
    found = dict(model.named_parameters())
    for name, p in plain.named_parameters():
        torch.testing.assert_close(found[name].grad, p.grad, rtol=1e-8, atol=1e-11, msg=name)
    exported = wtkit.export(model)
    assert [type(m) for m in exported.modules()] == [type(m) for m in plain.modules()]


@pytest.mark.parametrize("method", wtkit.methods.names())
@pytest.mark.parametrize("make", VISION.values(), ids=VISION)
def test_they_train_by_every_method(make, method):
    model = make().float()
    keep = "*.cpb_mlp" if make is VISION["swin v2"] and wtkit.methods.load(method).direct else ()
    wtkit.convert(model, method, seed=0, keep_on_backprop=keep)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, weight_decay=1e-3)
    labels = torch.tensor([0, 2])
    before = {name: layer.weight.clone() for name, layer in feedback_layers(model).items()}
    F.cross_entropy(model(IMAGES.float()), labels).backward()
    optimizer.step()
    moved = {
        name
        for name, layer in feedback_layers(model).items()
        if not torch.equal(before[name], layer.weight)
    }
    if method != "frozen":
        assert moved == set(before)
    angles = wtkit.delta_angles(model, IMAGES.float(), labels)
    assert method == "frozen" or not angles.isnull().any()


@pytest.mark.parametrize("version", [1, 2])
def test_swins_layers_send_delta_through_B(version):
    """What reaches the windows is Bᵀ δ: changed with B, and gone where B is 0."""
    gradients = []
    for scale in (1.0, 2.0, 0.0):
        model = wtkit.convert(swin(version), "feedback_alignment", seed=0)
        for name, layer in feedback_layers(model).items():
            if name == "features.1.0.attn.qkv":
                layer.feedback.mul_(scale)
        seen = {}

        def keep(module, inputs, seen=seen):
            y = inputs[0].clone()
            y.register_hook(lambda grad: seen.update(below=grad))
            return (y,)

        model.features[1][0].attn.register_forward_pre_hook(keep)
        model(IMAGES).square().sum().backward()
        gradients.append(seen["below"])
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    assert not gradients[2].any() and gradients[0].any()


def test_no_weight_of_a_video_swin_is_transported():
    model = wtkit.convert(video_swin(), "feedback_alignment", normalisation="learned", seed=0)
    assert wtkit.transport(model, IMAGES).transported == ()


def test_the_position_encoding_of_videos_is_added():
    from torchvision.models.video.mvit import PositionalEncoding

    model = nn.Sequential(nn.Linear(8, 8), PositionalEncoding(8, (2, 2), 3, False), nn.Linear(8, 2))
    wtkit.convert(model, "feedback_alignment")
    assert wtkit.transport(model, torch.randn(2, 12, 8)).transported == ()


def test_windows_are_parts_of_examples():
    """δ angles are taken by example, and direct feedback finds the example's δ."""
    model = wtkit.convert(swin(), "feedback_alignment", seed=0)
    shapes = {}
    layer = model.features[1][0].attn.qkv
    layer.register_forward_hook(lambda *args: shapes.update(out=args[-1].shape))
    model(IMAGES)
    assert shapes["out"] == (2, 16, 24)


def test_layers_without_examples_are_refused_direct_feedback():
    with pytest.raises(wtkit.WtkitError, match=r"see positions of a window and no examples") as e:
        wtkit.convert(swin(2), "direct_feedback_alignment")
    assert "keep_on_backprop=['features.1.0.attn.cpb_mlp']" in str(e.value)
    model = wtkit.convert(swin(2), "direct_feedback_alignment", keep_on_backprop="*.cpb_mlp")
    F.cross_entropy(model(IMAGES), torch.tensor([0, 1])).backward()


@pytest.mark.slow
def test_positions_in_front_are_refused_direct_feedback():
    """With as many positions as examples, one would silently be taken for the other."""
    first, behind = (
        nn.Sequential(nn.TransformerEncoderLayer(E, HEADS, 8, batch_first=first), nn.Linear(E, 2))
        for first in (True, False)
    )
    wtkit.convert(first, "direct_feedback_alignment")
    with pytest.raises(wtkit.WtkitError, match="positions before examples") as error:
        wtkit.convert(behind, "direct_feedback_alignment")
    assert "which batch_first=True prevents; leave it on backprop: keep_on_backprop=['0.self_" in (
        str(error.value)
    )
    wtkit.convert(behind, "feedback_alignment")


@pytest.mark.parametrize("method", ["feedback_alignment", "sign_symmetry"])
def test_a_weight_that_is_computed_later_is_computed_once_a_pass(method):
    """A spectral norm takes a step of its power iteration each time."""
    attention = nn.MultiheadAttention(E, HEADS, batch_first=True).double()
    windows = swin().features[1][0].attn
    for module, owner, name, inputs in (
        (attention, attention, "in_proj_weight", (X, X, X)),
        (attention, attention, "in_proj_weight", (X, KEYS, KEYS)),
        (windows, windows.qkv, "weight", (torch.randn(2, 4, 4, E, dtype=torch.float64),)),
    ):
        torch.manual_seed(0)
        plain = copy.deepcopy(module)
        model = wtkit.convert(copy.deepcopy(module), method, seed=0)
        for each in (plain, model):
            torch.manual_seed(0)
            torch.nn.utils.parametrizations.spectral_norm(
                each.qkv if owner is windows.qkv else each, name
            )
        ours, theirs = (each(*inputs) for each in (model, plain))
        torch.testing.assert_close(ours, theirs)
        if owner is windows.qkv:
            assert feedback_layers(model)["qkv"].weight_parameter() is None
            held.loss(ours).backward()
            held.loss(theirs).backward()
            grads = [m.proj.weight.grad for m in (model, plain)]
            assert torch.equal(*grads)  # nothing is below the output layer but W's own products


def test_compiled_transformers_have_no_break():
    for make in VISION.values():
        model = wtkit.convert(make(), "kolen_pollack", seed=0)
        held.loss(model(IMAGES)).backward()
        eager = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        held.loss(compiled(IMAGES)).backward()
        for name, p in model.named_parameters():
            if name in eager:
                torch.testing.assert_close(p.grad, eager[name], rtol=1e-8, atol=1e-10)


def test_positions_of_ones_own_module_are_named():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_embedding = nn.Parameter(torch.zeros(1, L, E))
            self.attention = nn.MultiheadAttention(E, HEADS)

    with pytest.raises(wtkit.WtkitError, match=r"keep_on_backprop=\['pos_embedding'\]"):
        wtkit.convert(Positions(), "feedback_alignment")
    model = wtkit.convert(Positions(), "feedback_alignment", keep_on_backprop="pos_embedding")
    assert list(feedback_layers(model)) == ["attention.in_proj", "attention.out_proj"]


def test_a_part_is_not_converted_alone():
    module = wtkit.convert(nn.MultiheadAttention(E, HEADS), "backprop")
    with pytest.raises(wtkit.WtkitError, match=r"part of .* in_proj\(24, 8\); convert that"):
        wtkit.convert(module.in_proj, "backprop")
    assert isinstance(module.in_proj, FeedbackLayer)
