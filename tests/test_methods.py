"""The contract of the family (tests/contract.py), and what is said of single methods but not of
layers."""

import copy
import re
import subprocess
import sys
import textwrap

import contract
import pytest
import torch
from torch import nn

import wtkit
from wtkit import methods
from wtkit.feedback import feedback_layers
from wtkit.methods.base import random_like

PAPER = {
    "backprop": "BP",
    "feedback_alignment": "FA",
    "sign_symmetry": "SS",
    "weight_mirror": "WM",
    "kolen_pollack": "KP",
}


SLOW = [contract.compiled_equals_eager]
CHECKS = [
    pytest.param(check, id=check.__name__, marks=[pytest.mark.slow] if check in SLOW else [])
    for check in contract.CHECKS
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", methods.names())
def test_contract(name, check):
    check(name)


def test_the_papers_five_methods_are_there_under_their_labels():
    assert {name: methods.method_class(name).label for name in PAPER} == PAPER
    assert set(PAPER) <= set(methods.names())


SIXTH = '''
"""Scaled transport: a method that somebody adds."""

from typing import ClassVar

from wtkit.methods.base import Method
from wtkit.validation import frozen


@frozen
class ScaledTransport(Method):
    """δ travels through a fixed multiple of the forward weights. Reference: none."""

    label: ClassVar[str] = "ST"
    gain: float = 1.5

    def initial(self, W, generator):
        return None

    def feedback_weights(self, W, kept):
        return self.gain * W
'''


@pytest.fixture
def sixth(tmp_path, monkeypatch):
    (tmp_path / "scaled_transport.py").write_text(SIXTH)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield "scaled_transport"
    sys.modules.pop("wtkit.methods.scaled_transport", None)


@pytest.mark.slow
def test_a_sixth_method_is_one_file_that_passes_the_contract(sixth):
    assert sixth in methods.names()
    contract.holds(sixth)


def test_the_contract_refuses_a_method_whose_B_is_not_what_delta_travels_through(
    sixth, monkeypatch
):
    cls = methods.method_class(sixth)
    answers = iter(range(10**6))
    monkeypatch.setattr(cls, "feedback_weights", lambda self, W, kept: W * (1 + next(answers) // 4))
    with pytest.raises(AssertionError):
        contract.gradients_have_B_in_the_place_of_W(sixth)


SELDOM = (
    (
        SIXTH.replace("ScaledTransport", "Seldom")
        .replace("return None", "return random_like(W, generator)")
        .replace("return self.gain * W", "return kept")
        .replace("import Method", "import Method, random_like")
        .replace("    gain: float = 1.5\n", "    follows: ClassVar[bool] = True\n")
    )
    + """
    def follow(self, W, stored, generator, update):
        return stored if update % 400 else W.clone()
"""
)


@pytest.fixture
def seldom(tmp_path, monkeypatch):
    """A method that copies W to B at every 400th update."""
    (tmp_path / "seldom.py").write_text(SELDOM)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield "seldom"
    sys.modules.pop("wtkit.methods.seldom", None)


def test_the_contract_accepts_a_method_whose_B_changes_seldom(seldom):
    contract.B_learns_in_engaged_mode_only_if_the_method_says_so(seldom)


def test_the_contract_says_what_is_wrong_in_a_sentence(seldom, monkeypatch):
    cls = methods.method_class(seldom)
    monkeypatch.setattr(cls, "follow", lambda self, W, stored, generator, update: stored)
    monkeypatch.setattr(contract, "SELDOM", 3)
    with pytest.raises(AssertionError, match="within 3 of them, if and only if learns_engaged or"):
        contract.B_learns_in_engaged_mode_only_if_the_method_says_so(seldom)


def test_unknown_method_names_the_nearest_and_all():
    with pytest.raises(
        wtkit.WtkitError, match=r"unknown method 'weight_miror' \(did you mean 'weight_mirror'\?\)"
    ) as e:
        methods.load("weight_miror")
    assert all(name in str(e.value) for name in PAPER)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("weight_mirror", "mirror_lr", 0),
        ("weight_mirror", "mirror_lr", 1.5),
        ("weight_mirror", "mirror_decay", -0.1),
        ("weight_mirror", "noise_std", 0),
        ("weight_mirror", "noise_std", 1e-30),
        ("weight_mirror", "noise_std", 1e30),
        ("weight_mirror", "noise_std", 1e300),
        ("feedback_alignment", "scale", 1e300),
        ("direct_feedback_alignment", "scale", 1e39),
        ("kolen_pollack", "scale", 1e39),
        ("symmetric_alignment", "noise", 1e39),
        ("weight_mirror", "noise_batch", 1),
        ("weight_mirror", "noise", "pink"),
        ("weight_mirror", "phi", "gelu"),
        ("sign_symmetry", "scale", "magic"),
    ],
)
def test_a_refused_value_names_option_and_value(name, option, value):
    with pytest.raises(
        wtkit.WtkitError,
        match=re.escape(f"option of {name} '{option}': ") + ".*" + re.escape(str(value)),
    ):
        methods.load(name, **{option: value})


def test_orthogonal_noise_refuses_noise_images():
    with pytest.raises(wtkit.WtkitError, match="orthogonal noise is made of patches"):
        methods.load("weight_mirror", noise="orthogonal", noise_size=8)


def test_options_may_come_as_text():
    """As YAML's 1e-3 and the command line give them."""
    assert methods.load("weight_mirror", mirror_lr="1e-3").decay == 1e-3


def test_methods_load_without_torch():
    code = """
        import sys
        from wtkit import methods
        for name in methods.names():
            methods.load(name)
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_random_B_has_the_root_mean_square_of_W():
    W = 3 * torch.randn(200, 300)
    B = random_like(W, torch.Generator().manual_seed(0))
    assert float(B.square().mean().sqrt() / W.square().mean().sqrt()) == pytest.approx(1, rel=0.02)
    assert abs(float(B.mean())) < 0.06


def test_random_B_of_a_zero_W_still_sends_delta():
    B = random_like(torch.zeros(400, 100), torch.Generator().manual_seed(0))
    assert float(B.std()) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("name", ["feedback_alignment", "weight_mirror", "kolen_pollack"])
def test_no_seed_makes_B_like_W(name):
    """W and B are both Gaussian and seeded by the same number: their streams must still differ."""
    for seed in range(50):
        layer = nn.Linear(40, 40)
        torch.manual_seed(seed)
        nn.init.normal_(layer.weight)  # the very first numbers of the seed's stream
        assert 80 < wtkit.matrix_angles(wtkit.convert(layer, name, seed=seed)).item() < 100


def test_the_scale_of_feedback_alignment_multiplies_B_and_nothing_else():
    for name in ("feedback_alignment", "direct_feedback_alignment"):
        once = contract.converted(name, seed=1)
        twice = wtkit.convert(copy.deepcopy(once), name, seed=1, scale=2.0)
        for a, b in zip(
            feedback_layers(once).values(), feedback_layers(twice).values(), strict=True
        ):
            assert torch.equal(2 * a.B, b.B)
        with pytest.raises(
            wtkit.WtkitError, match=f"option of {name} 'scale': .* greater than 0, got 0"
        ):
            methods.load(name, scale=0)


def test_feedback_alignment_turns_W_towards_its_fixed_B():
    """T2: the output layer's matrix angle falls below 90° on an easy task."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, 10))
    wtkit.convert(model, "feedback_alignment")
    B = model[2].B.clone()
    inputs = torch.randn(200, 20)
    targets = torch.randn(10, 20) @ inputs.T
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (model(inputs) - targets.T).square().mean().backward()
        optimizer.step()
    assert torch.equal(model[2].B, B)
    assert float(wtkit.matrix_angles(model).sel(layer="2")) < 75


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@frozen\n", "", "ScaledTransport has no decorator; write @frozen above it"),
        (
            "    def feedback_weights",
            "    def feedback_wieghts",
            "ScaledTransport lacks feedback_weights",
        ),
        ("    label: ClassVar[str]", "    lable: ClassVar[str]", "ScaledTransport lacks label"),
        (
            "class ScaledTransport(Method)",
            "class ScaledTransport",
            "expected one class that is a Method, found 0",
        ),
        ("    def initial(", "    def initial", "SyntaxError: "),
        ("from typing import ClassVar", "from typing import Classvar", "ImportError: "),
    ],
)
def test_a_fault_in_a_methods_file_is_named_with_the_file(sixth, old, new, message, tmp_path):
    path = tmp_path / "scaled_transport.py"
    assert old in SIXTH
    path.write_text(SIXTH.replace(old, new))
    with pytest.raises(
        wtkit.WtkitError, match=r"^methods/scaled_transport\.py: .*" + re.escape(message)
    ):
        methods.load(sixth)
