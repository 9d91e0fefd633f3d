"""B follows W, or says that it does not: optimizers, hooks around a step, weights of all kinds."""

import copy
import gc
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

import wtkit
from wtkit.feedback import feedback_layers, follow, law
from wtkit.feedback.law import _is_checked
from wtkit.methods import names
from wtkit.methods.symmetric_alignment import SymmetricAlignment

METHODS = names()


def layer(method="kolen_pollack", **options):
    torch.manual_seed(0)
    return wtkit.convert(nn.Linear(6, 5), method, seed=0, **options)


def step(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()


def gap(model):
    return float((model.weight - model.B).norm().detach())


# ------------------------------------------------------------------------------ the law, as it runs


class Scaled(torch.optim.SGD):
    """A step relative to the size of the parameter, as those of LARS and LAMB are."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is not None:
                p.grad.mul_(p.norm())
        super().step(closure)


class Noisy(torch.optim.SGD):
    """Langevin dynamics: noise of its own for every parameter."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for p in (p for group in self.param_groups for p in group["params"]):
            p.add_(torch.randn_like(p), alpha=1e-3)


class Clipped(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for p in (p for group in self.param_groups for p in group["params"]):
            p.clamp_(-0.1, 0.1)


class Centred(torch.optim.SGD):
    """A change of the gradient that is the same for W and B."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is not None and p.ndim > 1:
                p.grad -= p.grad.mean(1, keepdim=True)
        super().step(closure)


class Signs(torch.optim.Optimizer):
    """Lion, without its momentum; its group has no key that is called weight_decay."""

    def __init__(self, params, lr=0.01, wd=0.1):
        super().__init__(params, {"lr": lr, "wd": wd})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["wd"]).sub_(group["lr"] * p.grad.sign())


# PyTorch makes a class's step run hooks when its first instance is made: here also inside the steps
# of the classes above, which call it
torch.optim.SGD([torch.zeros(1)])
UNEQUAL = {
    "adafactor": (torch.optim.Adafactor, {"lr": 0.05}),
    "adafactor_decay": (torch.optim.Adafactor, {"lr": 0.05, "weight_decay": 0.01}),
    "scaled": (Scaled, {"lr": 0.01}),
    "scaled_decay": (Scaled, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    "noisy": (Noisy, {"lr": 0.01, "weight_decay": 0.1}),
    "clipped": (Clipped, {"lr": 0.01, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("kind", "settings"), UNEQUAL.values(), ids=UNEQUAL)
def test_an_optimizer_that_moves_W_and_B_by_different_rules_is_refused(kind, settings, scale):
    model = layer(scale=scale)
    before = gap(model)
    with pytest.raises(
        wtkit.WtkitError, match=rf"kolen_pollack: {kind.__name__} moved .*FeedbackLinear\(5, 6\)"
    ):
        step(model, kind(model.parameters(), **settings), 130)
    assert gap(model) < 1.5 * before


EQUAL = {
    "sgd": (torch.optim.SGD, {"lr": 0.01}),
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.2}),
    "nesterov": (
        torch.optim.SGD,
        {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1.0},
    ),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam_decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adam_strong_decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 1.0}),
    "rmsprop_decay": (torch.optim.RMSprop, {"lr": 0.01, "weight_decay": 0.1}),
    "adagrad_decay": (torch.optim.Adagrad, {"lr": 0.01, "weight_decay": 0.1}),
    "rprop": (torch.optim.Rprop, {"lr": 0.001}),
    "muon": (lambda p, **k: torch.optim.Muon([q for q in p if q.ndim == 2], **k), {"lr": 0.01}),
    "centred": (Centred, {"lr": 0.01, "weight_decay": 0.1}),
    "signs": (Signs, {}),
}


@pytest.mark.parametrize(("kind", "settings"), EQUAL.values(), ids=EQUAL)
def test_an_optimizer_that_treats_them_alike_goes_on(kind, settings):
    model = layer()
    before = gap(model)
    step(model, kind(model.parameters(), **settings), 130)
    assert gap(model) <= before * (1 + 1e-5)


def test_a_checkpoint_loaded_in_mid_training_is_no_fault():
    """The momentum is still that of the weights before."""
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.5)
    step(model, optimizer, 3)
    model.load_state_dict(nn.Linear(6, 5).state_dict())
    step(model, optimizer, 40)


def test_a_diverged_run_is_left_to_the_run():
    model = layer()
    with torch.no_grad():
        model.weight.fill_(float("inf"))
    step(model, torch.optim.SGD(model.parameters(), lr=0.1), 4)


def test_checks_are_rare_and_come_in_pairs(monkeypatch):
    looked, entries = [], law.entries

    def counted(tensor, at):
        looked.append(tensor)
        return entries(tensor, at)

    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    step(model, optimizer, 260)
    monkeypatch.setattr(law, "entries", counted)
    step(model, optimizer, 740)
    assert len(looked) == 2 * 2 * 2, "one check: of W and B, before and after each of two steps"
    assert [n for n in range(1, 20) if _is_checked(n)] == [2, 4, 8, 16]


def test_W_or_B_that_changes_between_steps_is_warned_of_once():
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
    with pytest.warns(UserWarning, match=r"kolen_pollack: W or B of .* between the steps") as said:
        for _ in range(70):
            step(model, optimizer)
            model.weight.data.clamp_(-0.05, 0.05)
    assert len(said) == 1


# ------------------------------------------------------------------------------ hooks around a step


def halve(optimizer, *_):
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        if p.grad is not None:
            p.grad.mul_(0.5)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_hooks_before_a_step_see_each_gradient_once_and_B_gets_what_they_made(kind):
    model, plain = layer(), nn.Linear(6, 5)
    plain.load_state_dict(wtkit.export(model).state_dict())
    x, before, seen = torch.randn(4, 6), gap(model), []
    for net in (model, plain):
        optimizer = kind(net.parameters(), lr=0.1, weight_decay=0.0)
        optimizer.register_step_pre_hook(halve)
        optimizer.register_step_pre_hook(lambda *_, net=net: seen.append(net.weight.grad.clone()))
        net(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(model.weight, plain.weight)
    assert gap(model) == pytest.approx(before, rel=1e-5)


def test_hooks_after_a_step_see_no_gradient_of_B():
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(halve)
    model(torch.ones(1, 6)).sum().backward()
    gradient = model.weight.grad.clone()
    optimizer.step()
    assert torch.equal(model.weight.grad, gradient / 2) and model.feedback.grad is None


def test_a_hook_after_a_step_that_clears_the_gradients_hides_no_update():
    model = layer("symmetric_alignment", rate=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda its, *_: its.zero_grad())
    step(model, optimizer, 3)
    assert model.update_count == 3


def test_a_step_leaves_no_hook_behind_even_if_it_fails():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise ArithmeticError

    model = layer("symmetric_alignment", rate=1.0)
    broken, sound = (kind(model.parameters(), lr=0.1) for kind in (Broken, torch.optim.SGD))
    with pytest.raises(ArithmeticError):
        step(model, broken)
    step(model, sound, 2)
    assert torch.allclose(model.B, model.weight), "not taken for a part of the step that failed"
    for optimizer in (broken, sound):
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    assert not follow._running.steps


# ---------------------------------------------------------------------- optimizers that wrap others


class Lookahead(torch.optim.Optimizer):
    """Zhang et al. (2019): every few steps, go part of the way."""

    def __init__(self, inner, every=5, part=0.5):
        super().__init__(inner.param_groups, {})
        self.inner, self.every, self.part, self.count = inner, every, part, 0
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.inner.step(closure)
        self.count += 1
        if self.count % self.every == 0:
            fast = (p for group in self.param_groups for p in group["params"])
            for p, slow in zip(fast, self.slow, strict=True):
                p.copy_(slow.lerp_(p, self.part))
        return loss


class SharpnessAware(torch.optim.Optimizer):
    """Foret et al. (2021): the gradient from a point uphill."""

    def __init__(self, inner, reach=0.05):
        super().__init__(inner.param_groups, {})
        self.base_optimizer, self.reach = inner, reach

    @torch.no_grad()
    def step(self, closure):
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [p.clone() for p in moved]
        for p in moved:
            p.add_(p.grad, alpha=self.reach)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for p, old in zip(moved, before, strict=True):
            p.copy_(old)
        self.base_optimizer.step()


def test_an_update_counts_once_however_many_optimizers_report_it():
    model = layer("symmetric_alignment", rate=0.05)
    optimizer, expected = Lookahead(torch.optim.SGD(model.parameters(), lr=0.01)), model.B.clone()
    for _ in range(20):
        step(model, optimizer)
        expected += 0.05 * (model.weight.detach() - expected)
    assert model.update_count == 20
    torch.testing.assert_close(model.B, expected)


@pytest.mark.parametrize("wrap", [Lookahead, SharpnessAware])
def test_the_law_holds_in_an_optimizer_that_wraps_another(wrap):
    model = layer()
    optimizer = wrap(torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=1.0))
    before = (model.weight - model.B).detach()
    for _ in range(4):
        x = torch.randn(4, 6)

        def closure(x=x):
            optimizer.zero_grad()
            model(x).square().sum().backward()

        closure()
        optimizer.step(closure)
    torch.testing.assert_close((model.weight - model.B).detach(), before * 0.99**4)


def test_layers_follow_in_the_order_of_the_optimizer_also_those_that_share_a_weight(monkeypatch):
    """Processes that gather sharded weights together must agree on it; sets differ in theirs."""
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(9)))
    model[8].weight = model[0].weight
    wtkit.convert(model, "sign_symmetry_batchwise")
    order = []
    monkeypatch.setattr(follow, "_follow", order.extend)
    model(torch.randn(4, 6)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    places = [next(i for i, each in enumerate(model) if each.weight is w.weight) for w in order]
    assert places == sorted(places) and len(set(map(id, order))) == 9


def test_a_wrapped_optimizer_takes_random_numbers_once():
    model = layer(signal_noise=0.1)
    step(model, Lookahead(torch.optim.SGD(model.parameters(), lr=0.01)), 3)
    assert model.update_count == 3


# -------------------------------------------------------------------------- steps without optimizer


def by_hand(model, steps, update):
    for _ in range(steps):
        model.zero_grad()
        model(torch.randn(4, 6)).square().sum().backward()
        update(model)


def through_data(model):
    for p in model.parameters():
        if p.grad is not None:
            p.data -= 0.01 * p.grad


@torch.no_grad()
def in_place(model):
    for p in model.parameters():
        if p.grad is not None:
            p.sub_(p.grad, alpha=0.01)


@pytest.mark.parametrize("update", [through_data, in_place])
@pytest.mark.parametrize(
    "method", ["kolen_pollack", "symmetric_alignment", "sign_symmetry_batchwise"]
)
def test_updates_without_an_optimizer_are_warned_of_once(method, update):
    model = copy.deepcopy(layer(method))
    with pytest.warns(UserWarning, match=rf"{method}: the weights of .* without a step of") as said:
        by_hand(model, 6, update)
    assert len(said) == 1


@pytest.mark.parametrize("method", ["backprop", "feedback_alignment", "weight_mirror"])
def test_a_B_that_does_not_learn_from_updates_needs_no_optimizer(method):
    by_hand(layer(method), 6, through_data)


def test_other_passes_and_a_checkpoint_are_no_updates():
    model = layer()
    for _ in range(3):  # gradients that accumulate
        model(torch.randn(4, 6)).sum().backward()
    model.load_state_dict(nn.Linear(6, 5).state_dict())
    model(torch.randn(4, 6)).sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    step(model, optimizer, 3)
    assert not model.weight._post_accumulate_grad_hooks, "nothing is looked at once steps come"


def test_looking_keeps_no_model_alive_and_stops_nothing_from_being_saved():
    model = layer()
    torch.save(model, io.BytesIO())
    pickle.dumps(model)
    gc.collect()
    before = len(follow.learning_layers)
    del model
    gc.collect()
    assert len(follow.learning_layers) == before - 1


# --------------------------------------------------------------------------- W that is no parameter

COMPUTED = {
    "prune": lambda m: prune.l1_unstructured(m, "weight", 0.3),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda m: parametrize.register_parametrization(m, "weight", nn.Tanh()),
}
COMPUTED_BY = pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)


@COMPUTED_BY
@pytest.mark.parametrize(
    "method", ["kolen_pollack", "symmetric_alignment", "sign_symmetry_batchwise"]
)
def test_a_computed_W_is_refused_where_B_learns_from_its_updates(method, compute):
    model = layer(method)
    compute(model)
    with pytest.raises(wtkit.WtkitError, match=r"'weight' of .*FeedbackLinear\(5, 6\) is computed"):
        model(torch.randn(4, 6))


@COMPUTED_BY
def test_a_computed_W_learns_through_its_own_gradient_where_B_does_not_follow(compute):
    """δ passes B, and what computes W learns by W's product."""
    plain = nn.Linear(6, 5)
    model = wtkit.convert(copy.deepcopy(plain), "feedback_alignment", seed=0)
    x = torch.randn(4, 6)
    for net in (plain, model):
        torch.manual_seed(0)
        compute(net)
        net(x).square().sum().backward()
    for (name, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


@COMPUTED_BY
@pytest.mark.parametrize("after", [False, True])
def test_a_computed_W_is_named_by_convert_and_export(compute, after):
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    if after:
        wtkit.convert(model, "feedback_alignment")
    compute(model[0])
    tried = [lambda: wtkit.convert(model, "kolen_pollack")]
    tried += [lambda: wtkit.export(model)] if after else []
    for call in tried:
        with pytest.raises(wtkit.WtkitError, match=r"'0' .*'weight' is computed .*; remove that"):
            call()


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_the_old_weight_norm_is_named_too():
    with pytest.raises(wtkit.WtkitError, match="'weight' is computed from other tensors"):
        wtkit.convert(nn.Sequential(weight_norm(nn.Linear(6, 5))), "kolen_pollack")


@pytest.mark.parametrize(
    "compute",
    [
        lambda m: prune.l1_unstructured(m, "bias", 0.3),
        lambda m: parametrize.register_parametrization(m, "bias", nn.Tanh()),
    ],
)
def test_a_computed_bias_changes_nothing_for_B_and_is_named_by_export(compute):
    model = layer()
    compute(model)
    before = gap(model)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), 5)
    assert gap(model) == pytest.approx(before * 0.99**5, rel=1e-5)
    with pytest.raises(wtkit.WtkitError, match=r"'bias' is computed .*; remove that"):
        wtkit.export(model)


def test_once_pruning_is_made_permanent_B_follows_again():
    model = layer()
    COMPUTED["prune"](model)
    prune.remove(model, "weight")
    before = gap(model)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), 5)
    assert gap(model) == pytest.approx(before * 0.99**5, rel=1e-5)


# --------------------------------------------------------------------------- devices and precisions


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["assign", "to_empty"])
def test_weights_that_come_from_the_meta_device_bring_B(method, way):
    """The B that conversion after loading would draw."""
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    expected = wtkit.convert(copy.deepcopy(plain), method, seed=1)
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    wtkit.convert(model, method, seed=1)
    if way == "to_empty":
        model.to_empty(device="cpu")
    model.load_state_dict(plain.state_dict(), assign=way == "assign")
    for found, its in zip(
        feedback_layers(model).values(), feedback_layers(expected).values(), strict=True
    ):
        assert found.B is None or torch.equal(found.B, its.B)
    if method == "kolen_pollack":
        step(model, torch.optim.SGD(model.parameters(), lr=0.01), 3)


def test_a_model_that_was_on_the_meta_device_loads_its_own_checkpoint():
    model = layer()
    saved = copy.deepcopy(model.state_dict())
    model.to("meta").to_empty(device="cpu").load_state_dict(saved)
    assert torch.equal(model.B, saved["feedback"])


def test_a_B_left_on_another_device_is_named():
    model = layer("feedback_alignment")
    model.weight = nn.Parameter(torch.empty(5, 6, device="meta"))
    with pytest.raises(wtkit.WtkitError, match=r"'weight' of .* is on meta, 'feedback' on cpu"):
        model(torch.empty(4, 6, device="meta"))


AVERAGING = {
    "symmetric_alignment": {"rate": 0.001},
    "weight_mirror": {"mirror_lr": 0.001, "noise": "orthogonal", "phi": "identity"},
    "weight_mirror_delta_rule": {"rate": 0.05},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("method", AVERAGING)
def test_small_steps_of_B_do_not_round_away_beside_weights_of_low_precision(method, after, dtype):
    model = nn.Linear(64, 32)
    model = model if after else model.to(dtype)
    wtkit.convert(model, method, seed=0, **AVERAGING[method])
    model.to(dtype)
    if method == "symmetric_alignment":
        model(torch.randn(2, 64, dtype=dtype)).sum().backward()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for _ in range(6000):
            optimizer.step()
    else:
        wtkit.mirror(model, 6000 if method == "weight_mirror" else 500)
    assert model.B.dtype == dtype
    assert wtkit.matrix_angles(model).item() < 1


def test_a_checkpoint_keeps_the_precision_of_B():
    model = wtkit.convert(nn.Linear(64, 32).bfloat16(), "symmetric_alignment")
    for assign in (False, True):
        other = wtkit.convert(nn.Linear(64, 32).bfloat16(), "symmetric_alignment", seed=5)
        other.load_state_dict(model.state_dict(), assign=assign)
        assert torch.equal(other.feedback, model.feedback)
        assert other.feedback.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kolen_pollack_refuses_to_step_weights_of_low_precision(dtype):
    model = layer().to(dtype)
    model(torch.ones(1, 6, dtype=dtype)).sum().backward()
    before = model.weight.clone()
    with pytest.raises(wtkit.WtkitError, match=rf"{dtype} weights, .* under torch.autocast"):
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(model.weight, before) and model.feedback.grad is None


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("method", METHODS)
def test_complex_weights_are_refused(method):
    for plain in (
        nn.Linear(6, 5, dtype=torch.complex64),
        nn.Conv2d(2, 3, 2, dtype=torch.complex128),
    ):
        with pytest.raises(wtkit.WtkitError, match="complex weights"):
            wtkit.convert(plain, method)
    model = layer(method).to(torch.complex64)
    with pytest.raises(wtkit.WtkitError, match="complex weights"):
        model(torch.ones(1, 6, dtype=torch.complex64))


# -------------------------------------------------------------------------------------- checkpoints

STORING = [name for name in METHODS if layer(name).feedback is not None]


@pytest.mark.parametrize("saved", STORING)
@pytest.mark.parametrize("loading", STORING)
def test_a_checkpoint_of_another_method_is_refused_and_nothing_changes(saved, loading):
    model, buffer = layer(loading), io.BytesIO()
    torch.save(layer(saved, **({"scale": 2.0} if "scale" in vars(layer(saved).method) else {}))
               .state_dict(), buffer)  # fmt: skip
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    before = copy.deepcopy(model.state_dict())
    if saved == loading:
        assert model.load_state_dict(state).missing_keys == []
        return
    with pytest.raises(wtkit.WtkitError, match=rf"'feedback': .* {saved}, the model has {loading}"):
        model.load_state_dict(state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["sign_symmetry_fixed", "sign_symmetry_batchwise"])
def test_a_checkpoint_without_a_name_is_judged_by_its_values(method):
    state = {**layer("feedback_alignment").state_dict()}  # safetensors keeps the tensors only, too
    with pytest.raises(wtkit.WtkitError, match="its values are not of this method"):
        layer(method).load_state_dict(state)
    layer(method).load_state_dict({**layer(method).state_dict()})


@pytest.mark.parametrize("method", STORING)
def test_checkpoints_from_before_the_name_was_recorded_load(method):
    state = layer(method).state_dict()
    for entry in state._metadata.values():
        entry.pop("method", None)
    assert layer(method).load_state_dict(state).missing_keys == []


def test_weights_alone_load_into_any_method():
    state = layer("feedback_alignment").state_dict()
    del state["feedback"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer("kolen_pollack").load_state_dict(state)


def test_a_method_that_follows_is_given_the_number_of_the_update(monkeypatch):
    numbers = []
    plain = SymmetricAlignment.follow

    def recording(self, W, stored, generator, update):
        numbers.append(update)
        return plain(self, W, stored, generator, update)

    monkeypatch.setattr(SymmetricAlignment, "follow", recording)
    model = wtkit.convert(nn.Linear(3, 2), "symmetric_alignment")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert numbers == [1, 2, 3]


@pytest.mark.filterwarnings("error")
def test_weights_that_have_diverged_are_passed_over_in_silence():
    model = wtkit.convert(nn.Linear(3, 3), "kolen_pollack", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert not model.weight.isfinite().any()
