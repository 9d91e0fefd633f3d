"""An LSTM and a transformer of equal size learn to predict the next character of a text.

    python examples/characters.py                     all runs of examples/characters.yaml
    python examples/characters.py lstm kolen_pollack  one method of one model
    wtkit.open_results("characters")                  what came out

The text is the documentation of the language that comes with every Python, ``pydoc_data.topics``.
The loop is ordinary PyTorch, recorded by ``wtkit.Recorder``; held-out bits per character take the
place of the test error. An interrupted run continues, and several of these programs may run at the
same time.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

import wtkit
from wtkit.validation import frozen, known

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
OTHER = len(ALPHABET)
"""The number of all characters that are not in the alphabet."""
SYMBOLS = OTHER + 1
HELD_OUT = 0.1
"""The share of each topic's text, at its end, that no model is trained on."""
EXAMPLES = 32
"""Held-out sequences for the δ angles."""


@frozen
class Settings:
    """The keys of ``characters.yaml``, which explains them."""

    NOUN: ClassVar[str] = "key of characters.yaml"

    models: tuple[str, ...] = ("lstm", "transformer")
    methods: tuple[str, ...] = ("backprop",)
    seeds: tuple[int, ...] = (0,)
    options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    keep_on_backprop: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    characters: int | None = None
    epochs: int = 4
    length: int = 64
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 1.0
    hidden: int = 256
    width: int = 96


class LSTM(nn.Module):
    """Characters (N, T) to logits of the next ones (N, T, symbols)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.characters = nn.Embedding(SYMBOLS, 64)
        self.lstm = nn.LSTM(64, settings.hidden, batch_first=True)
        self.output = nn.Linear(settings.hidden, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.lstm(self.characters(x))[0])


class Transformer(nn.Module):
    """Characters (N, T) to logits of the next ones (N, T, symbols), each of those up to it."""

    mask: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width, length = settings.width, settings.length
        self.characters = nn.Embedding(SYMBOLS, width)
        self.positions = nn.Embedding(length, width)
        nn.init.normal_(self.characters.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.1)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(3)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, SYMBOLS)
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.characters(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            y = block(y, self.mask, is_causal=True)
        return self.output(self.norm(y))


MODELS = {"lstm": LSTM, "transformer": Transformer}


def text_of_python() -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The text for training and the held-out one, as numbers of characters, and what it is."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise wtkit.WtkitError(
            "this Python has no module pydoc_data, whose text the models learn; install the whole "
            "standard library (Debian: libpython3-stdlib)"
        ) from None
    numbers = {character: number for number, character in enumerate(ALPHABET)}
    parts: tuple[list[int], list[int]] = ([], [])
    digest = hashlib.sha256()
    for name in sorted(topics):
        text = topics[name]
        digest.update(text.encode())
        cut = round(len(text) * (1 - HELD_OUT))
        for part, piece in zip(parts, (text[:cut], text[cut:]), strict=True):
            part += [numbers.get(character, OTHER) for character in piece]
    train, held_out = map(torch.tensor, parts)
    what = {"characters": len(train) + len(held_out), "sha256": digest.hexdigest()[:16]}
    return train, held_out, what


def sequences(text: Tensor, length: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and targets (N, ``length``): the text from ``start`` on in pieces, and the same, one
    character later."""
    count = (len(text) - start - 1) // length
    x = text[start : start + count * length].reshape(count, length)
    return x, text[start + 1 : start + 1 + count * length].reshape(count, length)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def bits_per_character(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    total = sum(
        loss(model(a), b).item() * len(a) for a, b in zip(x.split(128), y.split(128), strict=True)
    )
    model.train()
    return total / len(x) / math.log(2)


def adam(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW. Weight decay applies to forward and feedback weights, not to embeddings, biases and
    normalisation."""
    decays = {id(parameter): parameter.ndim > 1 for parameter in model.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            decays[id(module.weight)] = False
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[decays[id(parameter)]].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=settings.lr,
    )


def train(name: str, method: str, seed: int, settings: Settings, folder: Path) -> None:
    """One run."""
    text, held_out, what = text_of_python()
    text = text[: settings.characters]
    test = sequences(held_out, settings.length)
    torch.manual_seed(seed)
    model = MODELS[name](settings)
    options, kept = settings.options.get(method, {}), settings.keep_on_backprop.get(name, ())
    wtkit.convert(model, method, seed=seed, keep_on_backprop=kept, **options)
    optimizer = adam(model, settings)
    steps = (len(text) - settings.length) // settings.length // settings.batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * steps)
    chosen = dataclasses.asdict(settings)
    for key in ("models", "methods", "seeds", "options", "keep_on_backprop"):
        del chosen[key]
    chosen["keep_on_backprop"] = list(kept)
    with wtkit.Recorder(
        folder,
        model,
        seed=seed,
        batch=tuple(part[:EXAMPLES] for part in test),
        loss=loss,
        network=name,
        data=f"pydoc_topics-{sys.version_info.major}.{sys.version_info.minor}",
        metrics={"bits_per_character": "bit"},
        settings=chosen | what,
        epochs=settings.epochs,
        held_out=test[0].numel(),
        checkpoint=[optimizer, schedule],
    ) as record:
        mirrors = wtkit.methods.method_class(method).learns_mirror
        if record.epoch == 1:
            record(0, bits_per_character=bits_per_character(model, *test))
            if mirrors:
                wtkit.mirror(model, 100, running_mean=True)
        for epoch in range(record.epoch, settings.epochs + 1):
            start = int(torch.randint(settings.length, ()))
            x, y = sequences(text, settings.length, start)
            total = 0.0
            for rows in torch.randperm(len(x))[: steps * settings.batch_size].split(
                settings.batch_size
            ):
                value = loss(model(x[rows]), y[rows])
                value.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if mirrors:
                    wtkit.mirror(model)
                total += value.item() / steps
            bits = bits_per_character(model, *test)
            rate = schedule.get_last_lr()[0]
            record(epoch, train_loss=total, bits_per_character=bits, learning_rate=rate)
            print(f"{name} {method} seed {seed}, epoch {epoch}: {bits:.3f} bit", flush=True)


def read(path: Path) -> Settings:
    """The settings in a file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise wtkit.WtkitError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise wtkit.WtkitError(f"{path}: expected keys with their values")
    return Settings(**content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", help="one of the models; default: all")
    parser.add_argument("method", nargs="?", help="one of the methods; default: all")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("characters.yaml"))
    parser.add_argument("--output", type=Path, default=Path("results/characters"))
    words = parser.parse_args()
    try:
        settings = read(words.config)
        models = [words.model] if words.model else settings.models
        for name in models:
            known(name, MODELS, "model")
        for seed in settings.seeds:
            for method in [words.method] if words.method else settings.methods:
                for name in models:
                    train(name, method, seed, settings, words.output)
    except wtkit.WtkitError as error:
        sys.exit(f"wtkit: {error}")


if __name__ == "__main__":
    main()
