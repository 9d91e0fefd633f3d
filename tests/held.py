"""What every module that holds the weights of its layers must keep to, as plain functions of a
:class:`Case`.

The reference is the module's equations in float64, written from its definition. δ passes B in it
without the code under test: the value of a product is that of W, its derivative by y that of B.
"""

import copy
import dataclasses
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

import wtkit
from wtkit import methods
from wtkit.feedback import feedback_layers, mirror_step

LOCAL = [name for name in methods.names() if not methods.method_class(name).direct]
"""Methods that send a layer's own δ."""
LEARN_FROM_NOISE = [name for name in LOCAL if methods.method_class(name).learns_mirror]


def sent(y: Tensor, W: Tensor, B: Tensor, bias: Tensor | None = None) -> Tensor:
    """W y + b, whose derivative by y is that of B y."""
    through_B = y @ B.T
    out = y.detach() @ W.T + through_B - through_B.detach()
    return out if bias is None else out + bias


Weights = dict[str, Tensor]
Reference = Callable[[Weights, Weights, tuple[Tensor, ...]], Tensor]


@dataclasses.dataclass
class Case:
    """A module, its inputs, and its equations.

    Attributes:
        module: makes the plain module, in float64.
        inputs: makes the tensors that it is called with, and that gradients are taken for.
        call: the output of a module for those, as one tensor.
        reference: the same from the parameters, the feedback weights by the names of the parameters
            that they stand for, and the inputs.
        names: the layers, from the input up, and the parameter that each multiplies by.
    """

    module: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    call: Callable[[nn.Module, tuple[Tensor, ...]], Tensor]
    reference: Reference
    names: dict[str, str]

    def made(self, method: str | None = None, **options: object) -> nn.Module:
        torch.manual_seed(1)
        module = self.module().double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, 0.5)
        return module if method is None else wtkit.convert(module, method, seed=3, **options)

    def gradients(self, module: nn.Module) -> dict[str, Tensor]:
        """Of a loss that weighs all outputs differently."""
        inputs = tuple(each.requires_grad_() for each in self.inputs())
        module.zero_grad()
        loss(self.call(module, inputs)).backward()
        found = {f"input {i}": each.grad for i, each in enumerate(inputs)}
        found |= {name: p.grad for name, p in module.named_parameters()}
        return {name: grad for name, grad in found.items() if grad is not None}

    def expected(self, module: nn.Module) -> dict[str, Tensor]:
        """The same by the equations."""
        W = {
            name: p.detach().clone().requires_grad_()
            for name, p in module.named_parameters()
            if not name.endswith("feedback")
        }
        B = {name: W[name].detach() for name in self.names.values()}
        for layer, name in self.names.items():
            found = feedback_layers(module)[layer].B
            B[name] = torch.zeros_like(W[name]) if found is None else found.detach().clone()
        inputs = tuple(each.requires_grad_() for each in self.inputs())
        loss(self.reference(W, B, inputs)).backward()
        found = {f"input {i}": each.grad for i, each in enumerate(inputs)}
        return found | {name: each.grad for name, each in W.items()}


def loss(out: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return (out * weights).sum() + out.square().sum()


def step(case: Case, module: nn.Module, **settings: float) -> None:
    optimizer = torch.optim.SGD(module.parameters(), **({"lr": 0.01} | settings))
    case.gradients(module)
    optimizer.step()


# ------------------------------------------------------------------------------------------ checks


def layers_are_named(case: Case) -> None:
    plain = case.made()
    names = list(plain.state_dict())
    module = case.made("kolen_pollack")
    layers = feedback_layers(module)
    assert list(layers) == list(case.names)
    for layer, name in case.names.items():
        assert layers[layer].weight is module.get_parameter(name)
        assert layers[layer].weight_parameter() is module.get_parameter(name)
    feedback = [f"{layer}.feedback" for layer in case.names]
    assert sorted(module.state_dict()) == sorted(names + feedback)
    assert [key for key in module.state_dict() if key in names] == names


def gradients_have_B_in_the_place_of_W(case: Case, method: str) -> None:
    module = case.made(method)
    out = case.call(module, case.inputs())
    torch.testing.assert_close(out, case.call(case.made(), case.inputs()), rtol=1e-12, atol=1e-12)
    found, expected = case.gradients(module), case.expected(module)
    for name, value in expected.items():
        if name not in found:  # where nothing is sent
            assert value is None or not value.any(), name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)


def with_B_equal_to_W_they_are_torchs(case: Case) -> None:
    plain, module = case.gradients(case.made()), case.made("feedback_alignment")
    for layer in feedback_layers(module).values():
        layer.feedback.copy_(layer.weight.detach())
    for found in (case.gradients(module), case.gradients(case.made("backprop"))):
        assert list(found) == list(plain)
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-13, msg=name)


def kolen_pollacks_mismatch_decays(case: Case) -> None:
    for make, settings in (
        (torch.optim.SGD, {"lr": 1e-3, "weight_decay": 20.0}),
        (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 2.5}),
    ):
        module = case.made("kolen_pollack")
        layers = feedback_layers(module).values()
        before = [(layer.weight - layer.feedback).detach().clone() for layer in layers]
        moved = [layer.weight.detach().clone() for layer in layers]
        optimizer = make(module.parameters(), **settings)
        for _ in range(5):
            case.gradients(module)
            optimizer.step()
        for layer, gap, W in zip(layers, before, moved, strict=True):
            assert not torch.allclose(layer.weight, W)
            shrunk = (1 - settings["lr"] * settings["weight_decay"]) ** 5 * gap
            torch.testing.assert_close(
                (layer.weight - layer.feedback).detach(), shrunk, rtol=1e-9, atol=1e-12
            )


def mirrors_learn_W(case: Case, method: str) -> None:
    module = case.made(method)
    before = wtkit.matrix_angles(module)
    state = {name: p.detach().clone() for name, p in module.named_parameters()}
    wtkit.mirror(module, 300)
    assert (wtkit.matrix_angles(module) < before.clip(max=90) - 40).all()
    assert all(torch.equal(p, state[name]) for name, p in module.named_parameters())


def the_mirrors_expectation_is_W(case: Case) -> None:
    """The mean product of many noise samples, eq. 11: within four standard errors."""
    samples = 40_000
    module = case.made(
        "weight_mirror", mirror_lr=1.0, mirror_decay=1.0, noise_batch=samples, phi="identity",
    )  # fmt: skip
    for layer in feedback_layers(module).values():
        mirror_step(layer)
        spread = 2 * layer.weight.square().sum(1).max().sqrt().item()
        assert (layer.feedback - layer.weight).abs().max() < 4 * spread / samples**0.5


def angles_are_those_of_B(case: Case) -> None:
    module = case.made("feedback_alignment")
    angles = wtkit.matrix_angles(module)
    for name, layer in feedback_layers(module).items():
        B, W = layer.B.flatten(), layer.weight.detach().flatten()
        cosine = (B @ W) / (B.norm() * W.norm())
        assert abs(float(angles.sel(layer=name)) - float(cosine.acos().rad2deg())) < 1e-6


def export_gives_the_plain_module_back(case: Case) -> None:
    for method in ("kolen_pollack", "weight_mirror", "sign_symmetry"):
        module, plain = case.made(method), case.made()
        exported = wtkit.export(module)
        assert [type(each) for each in exported.modules()] == [type(m) for m in plain.modules()]
        assert [name for name, _ in exported.named_modules()] == [
            name for name, _ in plain.named_modules()
        ]
        assert list(exported.state_dict()) == list(plain.state_dict())
        for name, value in exported.state_dict().items():
            assert torch.equal(value, plain.state_dict()[name])
        assert repr(exported) == repr(plain)
        assert not any("_owner" in vars(each) for each in exported.modules())
        ours, theirs = case.gradients(exported), case.gradients(plain)
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
        assert feedback_layers(module), "the module itself stays converted"


def checkpoints_load_both_ways(case: Case) -> None:
    for assign in (False, True):
        module, plain = case.made("kolen_pollack"), case.module().double()
        B = {name: layer.feedback.clone() for name, layer in feedback_layers(module).items()}
        module.load_state_dict(plain.state_dict(), strict=True, assign=assign)
        for name, layer in feedback_layers(module).items():
            assert torch.equal(layer.feedback, B[name]), "B stays"
            assert torch.equal(layer.weight, plain.get_parameter(case.names[name]))
        for name, value in case.expected(module).items():
            torch.testing.assert_close(case.gradients(module)[name], value, rtol=1e-9, atol=1e-12)
        own = {k: v for k, v in module.state_dict().items() if not k.endswith("feedback")}
        fresh = case.module().double()
        fresh.load_state_dict(own, strict=True)
        other = wtkit.convert(case.module().double(), "kolen_pollack", seed=9)
        other.load_state_dict(module.state_dict(), strict=True, assign=assign)
        for name, value in module.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)


def copies_go_on_as_the_original(case: Case) -> None:
    for duplicate in (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))):
        for method in ("kolen_pollack", "sign_symmetry_batchwise"):
            module = case.made(method)
            twin = duplicate(module)
            state = {name: value.clone() for name, value in module.state_dict().items()}
            step(case, twin)
            for name, value in module.state_dict().items():
                assert torch.equal(value, state[name])
            step(case, module)
            for name, value in module.state_dict().items():
                assert torch.equal(value, twin.state_dict()[name]), name
            assert not torch.equal(module.state_dict()[name], state[name]), "they did go on"


def converting_again_leaves_nothing_behind(case: Case) -> None:
    for other in ("kolen_pollack", "weight_mirror", "frozen"):
        module = wtkit.convert(case.made(other), "sign_symmetry_fixed", seed=3)
        once = case.made("sign_symmetry_fixed")
        assert list(module.state_dict()) == list(once.state_dict())
        assert repr(module) == repr(once)
        for name, value in once.state_dict().items():
            assert torch.equal(value, module.state_dict()[name])
        for name, value in case.gradients(once).items():
            assert torch.equal(case.gradients(module)[name], value)


def a_part_may_stay_on_backprop(case: Case) -> None:
    """Named by its weight or by its name."""
    first, weight = next(iter(case.names.items()))
    for pattern in (first, weight) if not weight.endswith(".weight") else (first,):
        module = case.made("feedback_alignment", keep_on_backprop=pattern)
        assert list(feedback_layers(module)) == [name for name in case.names if name != first]
        others = dataclasses.replace(
            case, names={name: own for name, own in case.names.items() if name != first}
        )
        kept = {weight: module.get_parameter(weight).detach()}
        expected = dataclasses.replace(
            others,
            reference=lambda W, B, inputs, kept=kept: case.reference(W, B | kept, inputs),
        ).expected(module)
        found = case.gradients(module)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def compiled_equals_eager(case: Case, *, fullgraph: bool = True) -> None:
    for method in ("kolen_pollack", "sign_symmetry"):
        module = case.made(method)
        eager = case.gradients(module)
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=fullgraph, backend="aot_eager")
        found = case.gradients(compiled)
        for name, value in eager.items():
            key = name if name in found else f"_orig_mod.{name}"
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-12, msg=name)


def under_autocast_delta_passes_B(case: Case) -> None:
    module, exact = case.made("feedback_alignment").float(), case.made("feedback_alignment")
    inputs = tuple(each.float().requires_grad_() for each in case.inputs())
    with torch.autocast("cpu", torch.bfloat16):
        out = case.call(module, inputs)
    loss(out.float()).backward()
    found = {f"input {i}": each.grad for i, each in enumerate(inputs)}
    found |= {name: p.grad for name, p in module.named_parameters()}
    for name, value in case.expected(exact).items():
        assert (found[name] - value).norm() < 0.1 * value.norm(), name


def under_autocast_it_is_near(case: Case) -> None:
    """In torch's precision, or in float32, in which LSTM and GRU keep their states. W's gradient
    is in float32."""
    inputs = tuple(each.float() for each in case.inputs())
    plain = case.made().float()
    module = wtkit.convert(copy.deepcopy(plain), "kolen_pollack", seed=3)
    for layer in feedback_layers(module).values():
        layer.feedback.detach().copy_(layer.weight.detach())
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = case.call(module, inputs), case.call(plain, inputs)
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.1, atol=0.1)
    assert ours.dtype in (theirs.dtype, torch.float32)
    loss(ours.float()).backward()
    loss(case.call(plain, inputs)).backward()
    for name in case.names.values():
        found, exact = (m.get_parameter(name).grad for m in (module, plain))
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.1 * exact.norm()


CHECKS = [
    layers_are_named,
    with_B_equal_to_W_they_are_torchs,
    kolen_pollacks_mismatch_decays,
    the_mirrors_expectation_is_W,
    angles_are_those_of_B,
    export_gives_the_plain_module_back,
    checkpoints_load_both_ways,
    copies_go_on_as_the_original,
    converting_again_leaves_nothing_behind,
    a_part_may_stay_on_backprop,
    under_autocast_it_is_near,
    under_autocast_delta_passes_B,
]
