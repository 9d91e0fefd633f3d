"""What a run may record, but a run to come should not say: it would have no effect, or end in
NaN."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from ..data_sets import classes
from ..errors import WtkitError
from .facts import known_facts
from .run import RunConfig

LONGEST_NAME = 240
"""Bytes of a run's name. It names files with a suffix, and file systems take 255."""
_LARGEST, _SMALLEST = 1e15, 1e-15


def check_sense(config: RunConfig) -> None:
    """Refuse settings of which one has no effect, or cannot work.

    Not a part of :class:`RunConfig`, so that results of before can be read.

    Raises:
        WtkitError: for a drop of the learning rate that is not reached, given twice, within the
            warm-up, by a factor of 1, or under a cosine schedule; for a warm-up longer than the
            run; for a ``normalisation`` of an mlp; for more classes or a larger batch than the data
            set has; for numbers whose squares float32 cannot hold; and for a name that is too long
            for a file.

    Example:
        >>> check_sense(RunConfig(method="backprop", epochs=3, lr_drops=(2, 3)))
        Traceback (most recent call last):
            ...
        wtkit.errors.WtkitError: setting 'lr_drops': expected epochs below 3, the number of \
'epochs', got 3; leave it out
    """
    _check_drops(config)
    _check_size(config)
    if config.network == "mlp" and config.normalisation != "exact":
        raise WtkitError(
            f"setting 'normalisation': an mlp has none, so {config.normalisation!r} has no effect; "
            "leave it out"
        )
    _check_numbers(config.options | {"lr": config.lr, "weight_decay": config.weight_decay})
    if config.warmup_epochs > config.epochs:
        raise WtkitError(
            f"setting 'warmup_epochs': {config.warmup_epochs:g} is more than the {config.epochs} "
            "'epochs'; lower it"
        )
    if len(config.name.encode()) > LONGEST_NAME:
        raise WtkitError(
            f"the run's name, {config.name[:60]}…, has more than {LONGEST_NAME} bytes, too many "
            "for a file; give a shorter variant or fewer options of the network"
        )


def _check_drops(config: RunConfig) -> None:
    drops = list(config.lr_drops)
    if drops and config.schedule == "cosine":
        raise WtkitError(
            f"setting 'lr_drops': a cosine schedule has none, got {drops}; write lr_drops: [], or "
            "schedule: step"
        )
    for drop in drops:
        if drop >= config.epochs:
            raise WtkitError(
                f"setting 'lr_drops': expected epochs below {config.epochs}, the number of "
                f"'epochs', got {drop}; leave it out"
            )
        if drop < config.warmup_epochs:
            raise WtkitError(
                f"setting 'lr_drops': {drop} is within the {config.warmup_epochs:g} "
                "'warmup_epochs', which know no drops; take a later epoch"
            )
        if drops.count(drop) > 1:
            raise WtkitError(f"setting 'lr_drops': {drop} is given twice; leave one out")
    if drops and config.lr_drop_factor == 1:
        raise WtkitError(
            "setting 'lr_drop_factor': at a factor of 1 'lr_drops' change nothing; lower it, or "
            "leave both out"
        )


def _check_size(config: RunConfig) -> None:
    """As far as the sizes of the data set are known without reading it."""
    total = classes(config.data)
    if total is not None and config.classes is not None and config.classes > total:
        raise WtkitError(
            f"setting 'classes': {config.classes} is more than the {total} classes of {config.data}"
        )
    training = known_facts(config).training
    # of some of the classes the number is approximate
    if training is not None and config.classes is None and config.batch_size > training:
        raise WtkitError(
            f"setting 'batch_size': {config.batch_size} is more than the {training} training images"
        )


def _check_numbers(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        size = abs(value) if is_number else 0
        if size and not _SMALLEST <= size <= _LARGEST:
            raise WtkitError(
                f"{name!r}: {value:g} is too {'large' if size > 1 else 'small'}: float32 "
                f"cannot hold its square; expected a size from {_SMALLEST:g} to {_LARGEST:g}"
            )
