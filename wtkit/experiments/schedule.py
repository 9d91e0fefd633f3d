"""The learning rate over a run, and what Kolen–Pollack forgets by it."""

import math

from ..validation import at_least
from .run import RunConfig


def learning_rate(config: RunConfig, epoch: float) -> float:
    """η_W at a moment of training, counted in epochs from 0 at the start: warm-up, then the
    schedule.

    Raises:
        WtkitError: for a moment before the start.
    """
    at_least(epoch, 0, "learning_rate: epoch")
    if epoch < config.warmup_epochs:
        return config.lr * epoch / config.warmup_epochs
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.lr * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return config.lr * config.lr_drop_factor ** sum(epoch >= drop for drop in config.lr_drops)


def decay_exponent(config: RunConfig, steps_per_epoch: int) -> float:
    """How many e-foldings Kolen–Pollack's mismatch ‖W − Bᵀ‖ falls by over the run: Σ lr ·
    weight_decay / (1 − m).

    The one place that converts between PyTorch's weight decay and the paper's λ = lr ·
    weight_decay.
    """
    steps = config.epochs * steps_per_epoch
    total = sum(learning_rate(config, step / steps_per_epoch) for step in range(steps))
    return total * config.weight_decay / (1 - config.momentum)
