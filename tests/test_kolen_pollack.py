"""Kolen–Pollack: eqs. 13–18, T6 and T7, through the real steps of real optimizers."""

import copy
import gc
import io
import math
import pickle

import contract
import numpy as np
import pytest
import torch
from contract import array
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.experiments import RunConfig, decay_exponent, learning_rate
from wtkit.feedback import feedback_layers
from wtkit.feedback.follow import learning_layers
from wtkit.seeds import stream_seed


def model_and_gaps():
    model = contract.converted("kolen_pollack")
    return model, gaps(model)


def gaps(model):
    return {key: (layer.weight - layer.B).detach() for key, layer in feedback_layers(model).items()}


def step(model, optimizer):
    inputs, targets = contract.batch()
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def assert_gaps(model, expected, **tolerance):
    for key, gap in gaps(model).items():
        torch.testing.assert_close(
            gap, expected[key], **({"rtol": 1e-10, "atol": 1e-13} | tolerance), msg=key
        )


def recursion(gap, steps, *, lr, weight_decay=0.0, momentum=0.0, nesterov=False, dampening=0.0):
    """W − B under SGD as PyTorch documents it, without any gradient: the products are equal and
    cancel."""
    velocity = None
    for _ in range(steps):
        change = weight_decay * gap
        if momentum:
            velocity = (
                change if velocity is None else momentum * velocity + (1 - dampening) * change
            )
            change = change + momentum * velocity if nesterov else velocity
        gap = gap - lr * change
    return gap


# ---------------------------------------------------------------------- T6: the law of the mismatch


@pytest.mark.parametrize("decay", [0.05, 0.3])
def test_mismatch_falls_as_one_minus_lambda_to_the_t(decay):
    """T6, eqs. 13–14: λ of the paper is absolute per step, so PyTorch's weight decay is λ / lr."""
    model, before = model_and_gaps()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=decay / 0.2)
    for t in range(1, 7):
        step(model, optimizer)
        assert_gaps(model, {key: (1 - decay) ** t * gap for key, gap in before.items()})


SGD = {
    "plain": {"weight_decay": 0.4},
    "no_decay": {},
    "momentum": {"weight_decay": 0.4, "momentum": 0.9},
    "momentum_no_decay": {"momentum": 0.9},
    "nesterov": {"weight_decay": 0.4, "momentum": 0.9, "nesterov": True},
    "nesterov_no_decay": {"momentum": 0.9, "nesterov": True},
    "dampening": {"weight_decay": 0.4, "momentum": 0.9, "dampening": 0.3},
}
IMPLEMENTATIONS = {
    "for_loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("settings", SGD.values(), ids=SGD)
def test_mismatch_follows_the_gradient_free_recursion_of_sgd(settings, implementation):
    model, before = model_and_gaps()
    moved = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings, **implementation)
    for _ in range(8):
        step(model, optimizer)
    assert not torch.equal(model[0].weight, moved)
    assert_gaps(
        model,
        {key: recursion(gap, 8, lr=0.1, **settings) for key, gap in before.items()},
        atol=1e-12,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}], ids=str)
def test_mismatch_falls_geometrically_under_adamw(settings, implementation):
    """Its decay is apart from the gradient, and the moments of equal gradients are equal."""
    model, before = model_and_gaps()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.01, weight_decay=5.0, **settings, **implementation
    )
    for _ in range(6):
        step(model, optimizer)
    assert_gaps(model, {key: 0.95**6 * gap for key, gap in before.items()}, rtol=1e-9)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam]
)
def test_without_decay_the_mismatch_stays_in_any_optimizer(optimizer):
    model, before = model_and_gaps()
    optimizer = optimizer(model.parameters(), lr=0.01)
    for _ in range(3):
        step(model, optimizer)
    assert_gaps(model, before, rtol=1e-9)


def test_the_law_holds_while_a_scheduler_moves_the_learning_rate():
    model, expected = model_and_gaps()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    for t in range(5):
        step(model, optimizer)
        scheduler.step()
        expected = {key: (1 - 0.2 * 0.7**t * 0.5) * gap for key, gap in expected.items()}
    assert_gaps(model, expected)


def test_angles_fall_to_zero_by_the_decay():
    model = contract.converted("kolen_pollack")
    assert (abs(wtkit.matrix_angles(model) - 90) < 30).all()
    contract.train(model, steps=150, lr=0.2, momentum=0.5, weight_decay=0.05)
    inputs, targets = contract.batch()
    assert (wtkit.matrix_angles(model) < 6).all()
    assert (wtkit.delta_angles(model, inputs, targets) < 6).all()


# -------------------------------------------------------------- T7: what the update of B is made of


def test_the_product_for_B_is_that_for_W_from_y_and_delta():
    """Eqs. 15–18, in numpy, from the two signals at a layer's ends."""
    model, signals = contract.converted("kolen_pollack"), {}
    for key, layer in feedback_layers(model).items():
        layer.register_full_backward_hook(
            lambda _m, _in, out, key=key: signals.setdefault(key, []).append(out[0])
        )
        layer.register_forward_hook(
            lambda _m, ins, _out, key=key: signals.setdefault(key, []).append(ins[0])
        )
    contract.gradients(model, *contract.batch())
    for key, layer in feedback_layers(model).items():
        y, delta = map(array, signals[key])
        if isinstance(layer, nn.Linear):
            product = np.einsum("no,ni->oi", delta, y)
        else:
            _, product, _ = contract.conv_backward(delta, y, np.zeros(layer.weight.shape), layer)
        np.testing.assert_allclose(array(layer.weight.grad), product, atol=1e-14)
        assert layer.feedback.grad is None, (
            "what is done to gradients before a step is done to W's alone"
        )
    for key, given in as_handed_over(model, torch.optim.SGD).items():
        assert torch.equal(given, feedback_layers(model)[key].weight.grad)
        assert feedback_layers(model)[key].feedback.grad is None, "taken away after the step"


def as_handed_over(model, kind, **settings):
    """Each B's gradient as a step of an optimizer sees it, after all hooks; the step is taken."""
    seen = {}

    def note(*arguments):
        seen.update({key: layer.feedback.grad for key, layer in feedback_layers(model).items()})
        return collect(*arguments)

    optimizer = kind(model.parameters(), **({"lr": 0.1} | settings))
    collect, optimizer._init_group = optimizer._init_group, note  # the first thing a step does
    optimizer.step()
    return seen


@pytest.mark.parametrize(
    ("kind", "settings", "shared"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}, True),
        (torch.optim.SGD, {"momentum": 0.9, "fused": True}, True),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True}, False),
        (torch.optim.AdamW, {}, False),
    ],
)
def test_W_and_B_share_one_gradient_where_no_step_writes_into_it(kind, settings, shared):
    """It saves the memory of a copy of the weights."""
    model = contract.converted("kolen_pollack")
    contract.gradients(model, *contract.batch())
    before = {key: layer.weight.grad.clone() for key, layer in feedback_layers(model).items()}
    for key, given in as_handed_over(model, kind, **settings).items():
        W = feedback_layers(model)[key].weight
        assert (given.data_ptr() == W.grad.data_ptr()) == shared
        assert not shared or torch.equal(W.grad, before[key]), "the step has not written into it"


def test_a_closure_that_computes_the_gradients_keeps_the_law():
    model, before = model_and_gaps()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.5)
    inputs, targets = contract.batch()

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(2)] + [optimizer.step(closure=closure)]
    assert losses[-1] < losses[0]
    assert_gaps(model, {key: 0.9**3 * gap for key, gap in before.items()})


def gradients_after_scrambling(model, what):
    inputs, targets = contract.batch()
    model.zero_grad()
    loss = F.cross_entropy(model(inputs), targets)
    for layer in feedback_layers(model).values():
        if what:
            getattr(layer, what).data.normal_()  # behind autograd's back
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_backward_reads_no_W():
    """T7: with W scrambled after the forward pass, every gradient is what it was; backprop's are
    not."""
    model = contract.converted("kolen_pollack")
    expected = gradients_after_scrambling(copy.deepcopy(model), None)
    contract.assert_same_state(gradients_after_scrambling(model, "weight"), expected)

    model = contract.converted("backprop")
    expected = gradients_after_scrambling(copy.deepcopy(model), None)
    found = gradients_after_scrambling(model, "weight")
    assert torch.equal(found["7.weight"], expected["7.weight"])
    assert not any(
        torch.allclose(found[key], expected[key]) for key in ("0.weight", "2.weight", "5.weight")
    )


def test_backward_reads_B():
    model = contract.converted("kolen_pollack")
    expected = gradients_after_scrambling(copy.deepcopy(model), None)
    found = gradients_after_scrambling(model, "feedback")
    assert torch.equal(found["7.weight"], expected["7.weight"]), "made of y and δ alone, not of B"
    assert not any(
        torch.allclose(found[key], expected[key]) for key in ("0.weight", "2.weight", "5.weight")
    )


# ------------------------------------------------------------------ clipping, scaling, accumulation


@pytest.mark.parametrize("foreach", [False, True])
def test_clipping_the_norm_clips_as_in_the_plain_network_and_W_and_B_alike(foreach):
    model = contract.converted("kolen_pollack")
    contract.gradients(model, *contract.batch())
    products = {key: layer.weight.grad.clone() for key, layer in feedback_layers(model).items()}
    squares = sum(
        float(p.grad.square().sum()) for n, p in model.named_parameters() if "feedback" not in n
    )
    total = nn.utils.clip_grad_norm_(model.parameters(), 0.01, foreach=foreach)
    assert float(total) == pytest.approx(math.sqrt(squares))
    for key, given in as_handed_over(model, torch.optim.SGD).items():
        expected = products[key] * 0.01 / (math.sqrt(squares) + 1e-6)
        torch.testing.assert_close(given, expected, rtol=1e-9, atol=0)
        torch.testing.assert_close(
            feedback_layers(model)[key].weight.grad, expected, rtol=1e-9, atol=0
        )


def test_clipping_values_keeps_the_law():
    model, before = model_and_gaps()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.5)
    for _ in range(3):
        contract.gradients(model, *contract.batch())
        nn.utils.clip_grad_value_(model.parameters(), 1e-3)
        optimizer.step()
    assert_gaps(model, {key: 0.9**3 * gap for key, gap in before.items()})


@pytest.mark.parametrize(
    "options", [{}, {"lr_ratio": 1.5, "decay_ratio": 0.5, "signal_noise": 0.3}], ids=str
)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_gradient_scaling_unscales_W_and_B_once(implementation, nesterov, clip, options):
    """By a power of two, so that the scaled run must end where the plain one does."""
    plain = contract.converted("kolen_pollack", **options).float()
    scaled = copy.deepcopy(plain)
    inputs, targets = contract.batch()
    settings = {
        "lr": 0.2,
        "momentum": 0.9,
        "nesterov": nesterov,
        "weight_decay": 0.1,
    } | implementation
    for model, enabled in ((plain, False), (scaled, True)):
        optimizer = torch.optim.SGD(model.parameters(), **settings)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)
        for _ in range(4):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(inputs.float()), targets)).backward()
            if clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
    for (name, found), expected in zip(scaled.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_a_step_that_overflows_moves_neither_W_nor_B(implementation):
    model = contract.converted("kolen_pollack").float()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1, **implementation)
    scaler = torch.amp.GradScaler("cpu")
    inputs, targets = contract.batch()
    scaler.scale(F.cross_entropy(model(inputs.float()), targets) * float("inf")).backward()
    scaler.step(optimizer)
    contract.assert_same_state(model.state_dict(), before)


def test_accumulated_gradients_keep_the_law():
    model, before = model_and_gaps()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        inputs, targets = contract.batch()
        for part in (slice(0, 2), slice(2, 5)):
            F.cross_entropy(model(inputs[part]), targets[part]).backward()
        optimizer.step()
    assert_gaps(model, {key: 0.9**3 * gap for key, gap in before.items()})


# --------------------------------------------------------------------------- copies and checkpoints


def through_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch_save": through_torch_save,
    "deepcopy_of_a_layer": lambda model: nn.Sequential(*(copy.deepcopy(layer) for layer in model)),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copys_B_learns_and_is_watched_as_the_originals(duplicate):
    original, _ = model_and_gaps()
    contract.train(original)
    twin, state = (
        duplicate(original),
        {key: value.clone() for key, value in original.state_dict().items()},
    )
    before = gaps(twin)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2, weight_decay=0.5)
    for _ in range(3):
        step(twin, optimizer)
    assert_gaps(twin, {key: 0.9**3 * gap for key, gap in before.items()})
    contract.assert_same_state(original.state_dict(), state)
    with pytest.raises(wtkit.WtkitError, match=r"'weight' of .* not 'feedback'"):
        step(
            twin,
            torch.optim.SGD([p for n, p in twin.named_parameters() if "feedback" not in n], lr=0.2),
        )


def test_model_and_optimizer_resume_from_a_checkpoint():
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    model = contract.converted("kolen_pollack")
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    for _ in range(2):
        step(model, optimizer)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other = contract.converted("kolen_pollack", seed=9)
    other_optimizer = torch.optim.SGD(other.parameters(), **settings)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    for net, its in ((model, optimizer), (other, other_optimizer)):
        for _ in range(2):
            step(net, its)
    contract.assert_same_state(model.state_dict(), other.state_dict())


# --------------------------------------------------------------- steps that would treat them unlike


def named(model, kept):
    return [p for name, p in model.named_parameters() if kept(name)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_an_optimizer_without_B_is_refused_before_anything_moves(implementation):
    model = contract.converted("kolen_pollack")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(
        named(model, lambda name: "feedback" not in name), lr=0.1, **implementation
    )
    with pytest.raises(
        wtkit.WtkitError,
        match=r"^kolen_pollack: .* 'weight' of Feedback\w+\(.*\) but not 'feedback'",
    ):
        step(model, optimizer)
    contract.assert_same_state(model.state_dict(), before)


def test_an_optimizer_made_before_conversion_is_refused():
    model = contract.network()
    optimizer = torch.optim.AdamW(model.parameters())
    wtkit.convert(model, "kolen_pollack")
    with pytest.raises(wtkit.WtkitError, match=r"taken after wtkit\.convert"):
        step(model, optimizer)


def test_an_optimizer_without_W_is_refused():
    model = contract.converted("kolen_pollack")
    with pytest.raises(wtkit.WtkitError, match=r"'feedback' of .* not 'weight'"):
        step(model, torch.optim.SGD(named(model, lambda name: "feedback" in name), lr=0.1))


@pytest.mark.parametrize(
    "setting", [{"weight_decay": 0.1}, {"lr": 0.2}, {"momentum": 0.5}], ids=str
)
def test_groups_that_differ_are_refused(setting):
    model = contract.converted("kolen_pollack")
    groups = [
        {"params": named(model, lambda name: "feedback" in name), **setting},
        {"params": named(model, lambda name: "feedback" not in name)},
    ]
    with pytest.raises(
        wtkit.WtkitError, match=f"different {next(iter(setting))}; put both in one group"
    ):
        step(model, torch.optim.SGD(groups, lr=0.1))


def test_groups_that_agree_will_do():
    model, before = model_and_gaps()
    groups = [
        {"params": [(n, p) for n, p in model.named_parameters() if ("feedback" in n) == feedback]}
        for feedback in (False, True)
    ]
    step(model, torch.optim.SGD(groups, lr=0.2, weight_decay=0.5))
    assert_gaps(model, {key: 0.9 * gap for key, gap in before.items()})


def test_an_optimizer_of_what_asks_for_gradients_is_refused():
    model = contract.converted("kolen_pollack")
    assert not any(layer.feedback.requires_grad for layer in feedback_layers(model).values())
    with pytest.raises(wtkit.WtkitError, match=r"not 'feedback'.*not filtered"):
        step(model, torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1))


@pytest.mark.parametrize("frozen", ["weight", "all of it"])
def test_freezing_W_holds_B(frozen):
    model = contract.converted("kolen_pollack")
    (model[5].weight if frozen == "weight" else model[5]).requires_grad_(False)
    before = model[5].weight.clone(), model[5].B.clone()
    step(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    assert torch.equal(model[5].weight, before[0]) and torch.equal(model[5].B, before[1])
    assert model[0].weight.grad.abs().sum() > 0, "δ still passes"


def test_other_models_and_optimizers_are_left_in_peace():
    watched = contract.converted("kolen_pollack")
    # it has gradients, and another model's optimizer steps
    contract.gradients(watched, *contract.batch())
    contract.train(contract.network())
    contract.train(contract.converted("feedback_alignment"))
    part = [watched[0].bias, watched[5].bias]
    torch.optim.SGD(part, lr=0.1).step()


def test_a_model_converted_to_another_method_is_no_longer_watched():
    model = wtkit.convert(contract.converted("kolen_pollack"), "feedback_alignment")
    contract.train(model)
    contract.train(wtkit.export(contract.converted("kolen_pollack")))


def test_watching_keeps_no_model_alive():
    gc.collect()
    before = len(learning_layers)
    model = contract.converted("kolen_pollack")
    assert len(learning_layers) == before + 4
    del model
    gc.collect()
    assert len(learning_layers) == before


# ----------------------------------------------------------- two sides that do not agree (Sec. 5.2)

APART = {
    "lr": {"lr_ratio": 3.0},
    "lr_0": {"lr_ratio": 0.0},
    "decay": {"decay_ratio": 1.5},
    "no_decay_of_B": {"decay_ratio": 0.0},
    "noise": {"signal_noise": 0.5},
    "all": {"lr_ratio": 0.5, "decay_ratio": 3.0, "signal_noise": 2.0, "scale": 0.3},
}


def simulated(
    B,
    products,
    rates,
    method,
    noise,
    *,
    weight_decay=0.0,
    momentum=0.0,
    nesterov=False,
    dampening=0.0,
):
    """B in numpy: two terms, each with its own velocity, of which neither knows of the other's
    ratio."""
    learned = forgotten = None
    for exact, lr, xi in zip(products, rates, noise, strict=True):
        product = exact + method.signal_noise * math.sqrt((exact**2).mean()) * xi
        decay = weight_decay * B
        learned = product if learned is None else momentum * learned + (1 - dampening) * product
        forgotten = decay if forgotten is None else momentum * forgotten + (1 - dampening) * decay
        steps = (
            [learned, forgotten]
            if not nesterov
            else [product + momentum * learned, decay + momentum * forgotten]
        )
        B = B - method.lr_ratio * lr * (steps[0] if momentum else product)
        B = B - method.decay_ratio * lr * (steps[1] if momentum else decay)
    return B


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "settings", [*SGD.values(), SGD["momentum"] | {"maximize": True}], ids=[*SGD, "maximize"]
)
@pytest.mark.parametrize("options", APART.values(), ids=APART)
def test_B_set_apart_follows_its_own_rates(options, settings, implementation):
    model = contract.converted("kolen_pollack", **options)
    layers, rates = feedback_layers(model), [0.1 * 0.8**t for t in range(6)]
    before = {key: array(layer.B) for key, layer in layers.items()}
    products = {key: [] for key in layers}

    def note(*_):
        for key, layer in layers.items():
            products[key].append(array(layer.weight.grad))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings, **implementation)
    optimizer.register_step_pre_hook(note)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    for _ in rates:
        step(model, optimizer)
        scheduler.step()
    settings, sign = dict(settings), -1 if settings.get("maximize") else 1
    settings.pop("maximize", None)
    for key, layer in layers.items():
        noise = [sign * drawn(layer, number) for number in range(1, 7)]
        of_descent = [sign * product for product in products[key]]
        expected = simulated(before[key], of_descent, rates, layer.method, noise, **settings)
        np.testing.assert_allclose(array(layer.B), expected, rtol=1e-10, atol=1e-13, err_msg=key)


def drawn(layer, number):
    generator = torch.Generator().manual_seed(stream_seed(layer.seed, "update", number))
    return torch.empty(layer.weight.shape, dtype=torch.float64).normal_(generator=generator).numpy()


@pytest.mark.parametrize("settings", SGD.values(), ids=SGD)
def test_another_learning_rate_only_makes_B_longer(settings):
    """r W − B falls as W − B does where r = 1, whatever the gradients."""
    model = contract.converted("kolen_pollack", lr_ratio=3.0)
    before = {
        key: (3 * layer.weight - layer.B).detach() for key, layer in feedback_layers(model).items()
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **settings)
    for _ in range(8):
        step(model, optimizer)
    for key, layer in feedback_layers(model).items():
        expected = recursion(before[key], 8, lr=0.1, **settings)
        torch.testing.assert_close(
            (3 * layer.weight - layer.B).detach(), expected, rtol=1e-10, atol=1e-12, msg=key
        )


def test_the_decay_of_B_is_absolute():
    """B shrinks by λ times its ratio, also where it learns nothing."""
    model = contract.converted("kolen_pollack", lr_ratio=0.0, decay_ratio=1.5)
    before = {key: layer.B.detach().clone() for key, layer in feedback_layers(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.5)
    for _ in range(4):
        step(model, optimizer)
    for key, layer in feedback_layers(model).items():
        torch.testing.assert_close(layer.B.detach(), 0.85**4 * before[key], rtol=1e-12, atol=0)


def test_noise_is_anew_in_every_update_and_relative_to_the_product():
    layer = wtkit.convert(nn.Linear(200, 300).double(), "kolen_pollack", signal_noise=0.5)
    layer.weight.grad = 1e-3 * torch.randn(300, 200, dtype=torch.float64)
    first, second = (
        as_handed_over(layer, torch.optim.SGD, lr=0.0)[""] - layer.weight.grad for _ in range(2)
    )
    for noise in (first, second):
        assert float(noise.std()) == pytest.approx(0.5e-3, rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.02


def test_scale_is_that_of_B_at_conversion():
    network = contract.network()
    plain, scaled = (
        wtkit.convert(copy.deepcopy(network), "kolen_pollack", seed=1, scale=scale)
        for scale in (1, 3)
    )
    for key, layer in feedback_layers(scaled).items():
        assert torch.equal(layer.B, 3 * feedback_layers(plain)[key].B)


@pytest.mark.parametrize(
    "options", [{"lr_ratio": 1.1}, {"decay_ratio": 1.1}, {"signal_noise": 0.1}], ids=str
)
def test_setting_B_apart_is_refused_where_the_step_is_not_linear(options):
    model = contract.converted("kolen_pollack", **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        wtkit.WtkitError, match=r"^kolen_pollack: .* torch\.optim\.SGD, got AdamW; take SGD"
    ):
        step(model, torch.optim.AdamW(model.parameters()))
    contract.assert_same_state(model.state_dict(), before)
    step(contract.converted("kolen_pollack", scale=2.0), torch.optim.AdamW(model.parameters()))


def test_groups_that_differ_are_refused_where_B_is_set_apart_too():
    model = contract.converted("kolen_pollack", lr_ratio=2.0)
    groups = [
        {"params": named(model, lambda name, own=own: ("feedback" in name) == own)}
        for own in (True, False)
    ]
    with pytest.raises(wtkit.WtkitError, match="different lr; put both in one group"):
        step(model, torch.optim.SGD([groups[0] | {"lr": 0.2}, groups[1]], lr=0.1))


def test_a_run_at_the_defaults_is_the_run_that_it_was():
    """Its revision says nothing of options that it did not have."""
    written = [
        RunConfig(method="kolen_pollack", options=o).revision
        for o in ({}, {"lr_ratio": 1.0, "scale": 1})
    ]
    assert written[0] == written[1]
    assert '"options": {}' in written[0]
    assert ('"options": {"lr_ratio": 1.5}') in RunConfig(
        method="kolen_pollack", options={"lr_ratio": 1.5}
    ).revision


# -------------------------------------------------------------------- λ, converted in its one place


def test_learning_rate_warms_up_and_drops():
    config = RunConfig(
        method="kolen_pollack", lr=0.4, warmup_epochs=2, epochs=40, lr_drops=(32, 36)
    )
    found = [learning_rate(config, epoch) for epoch in (0, 0.5, 1, 2, 31.99, 32, 35, 36, 39)]
    assert found == pytest.approx([0, 0.1, 0.2, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


def test_learning_rate_follows_the_cosine_to_zero():
    config = RunConfig(
        method="kolen_pollack", lr=0.4, warmup_epochs=2, epochs=10, schedule="cosine"
    )
    found = [learning_rate(config, epoch) for epoch in (1, 2, 4, 6, 8, 10)]
    assert found == pytest.approx(
        [0.2, 0.4, *(0.2 * (1 + math.cos(math.pi * x)) for x in (0.25, 0.5, 0.75)), 0]
    )


def test_twenty_epochs_of_the_papers_size_make_ten_e_foldings():
    """The arithmetic of Sec. 6's "near zero within 20 epochs": η 0.1, decay 1e-4, momentum 0.9,
    5,000 steps."""
    config = RunConfig(method="kolen_pollack", lr=0.1, weight_decay=1e-4, momentum=0.9, epochs=20)
    assert decay_exponent(config, 5000) == pytest.approx(10)


@pytest.mark.parametrize(("schedule", "momentum"), [("step", 0.0), ("cosine", 0.9)])
def test_decay_exponent_predicts_the_mismatch_of_real_steps(schedule, momentum):
    """To first order in λ m/(1−m)², here 2 %."""
    config = RunConfig(
        method="kolen_pollack", lr=0.05, weight_decay=0.05 * (1 - momentum), momentum=momentum,
        schedule=schedule, warmup_epochs=1, lr_drops=(4,), epochs=6,
    )  # fmt: skip
    layer = wtkit.convert(nn.Linear(3, 2).double(), "kolen_pollack")
    before = float((layer.weight - layer.B).detach().norm())
    optimizer = torch.optim.SGD(
        layer.parameters(),
        lr=1.0,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )
    steps_per_epoch = 150
    for number in range(config.epochs * steps_per_epoch):
        optimizer.param_groups[0]["lr"] = learning_rate(config, number / steps_per_epoch)
        optimizer.zero_grad()
        layer(torch.randn(4, 3, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    fallen = -math.log(float((layer.weight - layer.B).detach().norm()) / before)
    assert fallen == pytest.approx(decay_exponent(config, steps_per_epoch), rel=0.05)
    assert fallen > 1
