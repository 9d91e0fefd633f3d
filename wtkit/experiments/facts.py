"""What is known of a run's data without having them."""

from __future__ import annotations

import dataclasses
import math

from ..data_sets import data_set
from .run import RunConfig


@dataclasses.dataclass(frozen=True)
class Facts:
    """What of its data a run's course depends on; None where nobody knows without the data."""

    training: int | None
    held_out: int | None
    classes: int | None
    image_size: int

    def steps(self, config: RunConfig) -> int | None:
        """Steps an epoch."""
        return None if self.training is None else self.training // config.batch_size


def known_facts(config: RunConfig) -> Facts:
    """What is known of the data without having them: of a folder of images, only the size they
    are brought to."""
    about = data_set(config.data)
    training, held_out, classes = about.training, about.held_out, about.classes
    size = config.image_size or about.image_size
    if training is None or held_out is None or classes is None:
        return Facts(None, None, None, size)
    if config.classes is not None:  # classes are of one size, or nearly
        training, held_out = (number * config.classes // classes for number in (training, held_out))
    if config.evaluate_on == "validation":
        training, held_out = split(training)
    return Facts(training, held_out, config.classes or classes, size)


def split(training: int) -> tuple[int, int]:
    """How many images are trained on, and how many are held out of them, where choices are made by
    these."""
    held_out = math.ceil(training / 5)
    return training - held_out, held_out
