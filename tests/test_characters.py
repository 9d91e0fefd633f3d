"""The example that trains character models records them as results."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import wtkit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import characters  # noqa: E402

SETTINGS = characters.read(ROOT / "examples/characters.yaml")


def test_both_models_are_of_equal_size():
    counts = [
        sum(parameter.numel() for parameter in model(SETTINGS).parameters())
        for model in characters.MODELS.values()
    ]
    assert abs(counts[0] / counts[1] - 1) < 0.01


@pytest.mark.parametrize("name", characters.MODELS)
def test_no_model_sees_the_characters_to_come(name):
    torch.manual_seed(0)
    model = characters.MODELS[name](SETTINGS).eval()
    x = torch.randint(characters.SYMBOLS, (2, SETTINGS.length))
    later = x.clone()
    later[:, 40:] = torch.randint(characters.SYMBOLS, later[:, 40:].shape)
    torch.testing.assert_close(model(x)[:, :40], model(later)[:, :40])
    assert not torch.allclose(model(x)[:, 40:], model(later)[:, 40:])


def test_targets_are_the_next_characters_and_no_text_is_in_both_parts():
    train, held_out, what = characters.text_of_python()
    assert len(train) + len(held_out) == what["characters"]
    assert abs(len(held_out) / what["characters"] - characters.HELD_OUT) < 0.001
    x, y = characters.sequences(train, 10, start=3)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x[0], train[3:13])
    assert y[-1, -1] == train[3 + x.numel()]


def test_bits_of_guessing_are_those_of_the_alphabet():
    class Guess(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(*x.shape, characters.SYMBOLS)

    x, y = characters.sequences(torch.arange(50) % characters.SYMBOLS, 7)
    bits = characters.bits_per_character(Guess(), x, y)
    assert bits == pytest.approx(np.log2(characters.SYMBOLS))


@pytest.mark.slow
def test_the_example_records_both_models(tmp_path):
    small = {
        "methods": ["kolen_pollack", "weight_mirror"],
        "options": {"weight_mirror": {"noise": "orthogonal"}},
        "characters": 6000, "epochs": 1, "length": 16, "hidden": 16,
        "width": 16, "lr": 0.01,
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    command = [
        sys.executable, "-W", "error", str(ROOT / "examples/characters.py"),
        "--config", "small.yaml", "--output", "results/small",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tree = wtkit.open_results(tmp_path / "results/small/results.nc", quiet=True)
    assert set(tree.children) == {"lstm", "transformer"}
    for node in tree.children.values():
        assert dict(node.sizes)["run"] == 2
        bits = node.bits_per_character.transpose("run", "epoch").values
        assert (bits[:, 1] < bits[:, 0]).all()
        assert bits[0, 0] == pytest.approx(np.log2(characters.SYMBOLS), abs=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("method: [a]", "unknown key of characters.yaml 'method' (did you mean 'methods'?)"),
        ("models: [gru]", "unknown model 'gru'; accepted: lstm, transformer"),
        ("[1", "cannot read "),
        ("a", "expected keys with their values"),
    ],
)
def test_wrong_settings_are_named(content, message, tmp_path, monkeypatch):
    (tmp_path / "wrong.yaml").write_text(content)
    monkeypatch.setattr("sys.argv", ["characters.py", "--config", str(tmp_path / "wrong.yaml")])
    with pytest.raises(SystemExit) as caught:
        characters.main()
    assert message in str(caught.value) and str(caught.value).startswith("wtkit: ")
