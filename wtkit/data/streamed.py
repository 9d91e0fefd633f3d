"""Large data sets: images decoded and augmented by worker processes as they are needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..experiments import RunConfig
from ..images import Images
from ..processes import (
    at_most_a_core_each,
    killed_with_parent,
    starting_workers,
    workers_errors,
)
from ..seeds import stream_seed
from .base import Batch, Data, batches_of, part_of, spread_over, validation_split


class Streamed(Data):
    """Images decoded, cropped and flipped by worker processes as they are needed, and normalised on
    the device."""

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        train: Images,
        test: Images,
        num_classes: int,
        size: int,
    ) -> None:
        if config.evaluate_on == "validation":
            kept, aside = validation_split(train.labels)
            train, test = train.take(kept), train.take(aside)
        self.num_classes, self.device, self.seed = num_classes, device, config.seed
        whole = v2.Compose(
            [v2.Resize(math.ceil(size / 0.875), antialias=True), v2.CenterCrop(size)]
        )
        augmented = {
            "none": whole,
            "crop": _RandomResizedCrop(size),
            "crop_flip": v2.Compose([_RandomResizedCrop(size), v2.RandomHorizontalFlip()]),
        }
        self.train = _Reader(
            train, augmented[config.augment or "crop_flip"], config.workers, device
        )
        self.test = _Reader(test, whole, config.workers, device)
        # of ImageNet's training images, as torchvision's references have them
        self.mean = 255 * torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
        self.std = 255 * torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    def steps(self, batch_size: int) -> int:
        return len(self.train.images) // batch_size

    @property
    def number_held_out(self) -> int:
        return len(self.test.images)

    def train_batches(
        self, batch_size: int, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "data", epoch))
        order = torch.randperm(len(self.train.images), generator=generator).tolist()
        seed = int(torch.randint(2**62, (), generator=generator))
        mine = part_of(batch_size, rank, world)
        batches = (
            range(step * batch_size, (step + 1) * batch_size)
            for step in range(start, self.steps(batch_size))
        )
        return self._normalised(
            self.train, ([(order[i], seed, i) for i in batch[mine]] for batch in batches)
        )

    def held_out_batches(
        self, batch_size: int, *, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        batches = batches_of(len(self.test.images), batch_size, rank, world)
        return self._normalised(self.test, ([(i,) for i in batch] for batch in batches))

    def held_out_examples(self, number: int) -> Batch:
        chosen = spread_over(len(self.test.images), number).tolist()
        return next(self._normalised(self.test, [[(i,) for i in chosen]]))

    def _normalised(self, reader: _Reader, batches: Iterable[list[Key]]) -> Iterator[Batch]:
        for pixels, labels in reader.read(batches):
            x = pixels.to(self.device, non_blocking=True)
            x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            yield x, labels.to(self.device, non_blocking=True)


# an image's place in its set; and for random draws, the seed of the pass and its place there
Key = tuple[int, ...]


class _Reader:
    """Decodes and transforms images in worker processes, which start with the first pass and stay
    for all others."""

    def __init__(self, images: Images, transform, workers: int, device: torch.device) -> None:
        from torch.utils.data import DataLoader

        self.images, self.order = images, _Order()
        workers = at_most_a_core_each(workers)
        self.loader = DataLoader(
            _Transformed(images, transform),
            batch_sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collated,
            worker_init_fn=killed_with_parent,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )

    def read(self, batches: Iterable[list[Key]]) -> Iterator[Batch]:
        """Images (N, 3, H, W) of uint8, and labels; one pass at a time, a new one ends the last."""
        self.order.batches = batches
        with workers_errors():
            with starting_workers():
                loaded = iter(self.loader)
            for batch in loaded:
                yield batch
                if self.order.batches is not batches:
                    raise RuntimeError(
                        "another pass through these images has begun, which ended this one"
                    )


class _Order:
    """The batches of the pass to come, for a DataLoader that outlives it."""

    batches: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class _Transformed(torch.utils.data.Dataset):
    """One image by its key; what it draws depends on the key and not on the worker."""

    def __init__(self, images: Images, transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        place, *stream = key
        with torch.random.fork_rng([]):
            # torch.manual_seed would see to all GPUs, too
            torch.default_generator.manual_seed(stream_seed(*stream))
            return self.transform(self.images.decoded(place)), self.images.labels[place]


class _RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's, with its draws and pixels, in two thirds of the time: it resizes what is
    channels last."""

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        part = v2.functional.crop(inpt, **params)[None].contiguous(
            memory_format=torch.channels_last
        )
        return v2.functional.resize(part, self.size, self.interpolation, antialias=self.antialias)[
            0
        ]


def _collated(batch: list[tuple[Tensor, int]]) -> Batch:
    """Images (N, 3, H, W), channels last as the crop leaves them and the network wants them, and
    labels."""
    images, labels = zip(*batch, strict=True)
    return torch.stack([x.permute(1, 2, 0) for x in images]).permute(0, 3, 1, 2), torch.tensor(
        labels
    )
