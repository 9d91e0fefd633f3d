"""What every data set offers, and how its images are split and shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import WtkitError
from ..experiments import RunConfig

Batch = tuple[Tensor, Tensor]


class Data(ABC):
    """Training and held-out images of one run, as batches of normalised images (N, 3, H, W) and
    labels (N,)."""

    num_classes: int
    note: str = ""  # on files that were passed over

    @abstractmethod
    def train_batches(
        self, batch_size: int, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """One pass in random order, augmented; the same for the same seed and epoch. Drops the
        last, partial batch.

        Args:
            batch_size: of all ranks together, a multiple of ``world``.
            start: the batch to begin with; those before are passed over unread.
            rank, world: the part of each batch to give, of ``world`` equal ones. Which images a
                batch holds, and how each is cropped and flipped, depends on neither.
        """

    @abstractmethod
    def held_out_batches(
        self, batch_size: int, *, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """The held-out images in order, not augmented: of ``world`` parts that differ by one image
        at most, one."""

    @abstractmethod
    def held_out_examples(self, number: int) -> Batch:
        """Up to ``number`` held-out images, spread evenly over all of them."""

    @abstractmethod
    def steps(self, batch_size: int) -> int:
        """Batches in an epoch."""

    @property
    @abstractmethod
    def number_held_out(self) -> int:
        """How many images are held out."""


def check_batch(config: RunConfig, training: int) -> None:
    """Refuse a batch of more than the ``training`` images that there are."""
    if training < config.batch_size:
        raise WtkitError(
            f"setting 'batch_size': {config.batch_size} is more than the {training} training images"
        )


def validation_split(labels: list[int]) -> tuple[list[int], list[int]]:
    """Indices to train on and indices held out: a stratified fifth, the same for every run."""
    from sklearn.model_selection import train_test_split

    try:
        kept, aside = train_test_split(
            range(len(labels)), test_size=0.2, stratify=labels, random_state=0
        )
    except ValueError as error:
        raise WtkitError(
            f"setting 'evaluate_on': too few training images to hold a fifth out ({error})"
        ) from None
    return sorted(kept), sorted(aside)


def part_of(total: int, rank: int, world: int) -> slice:
    """Where the ``rank``-th of ``world`` parts of ``total`` things stands."""
    return slice(total * rank // world, total * (rank + 1) // world)


def batches_of(total: int, batch_size: int, rank: int, world: int) -> list[range]:
    """The ``rank``-th of ``world`` parts of ``total`` things, in batches, of which the last may be
    smaller."""
    mine = range(total)[part_of(total, rank, world)]
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def spread_over(total: int, number: int) -> Tensor:
    return torch.linspace(0, total - 1, min(number, total)).round().long()
