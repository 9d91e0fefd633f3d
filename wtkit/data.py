"""Data sets: small ones in memory and augmented in whole batches, large ones streamed from folders."""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from . import packing
from .config import RunConfig
from .errors import WtkitError
from .images import Files, Images, at_most_a_core_each, folder, folder_classes, workers_errors
from .layers import stream_seed
from .processes import killed_with_parent

Batch = tuple[Tensor, Tensor]
IN_MEMORY_PIXELS = 64  # folders of images brought to this side or less are held in memory


class Data(ABC):
    """Training and held-out images of one run, as batches of normalised images (N, 3, H, W) and labels (N,)."""

    num_classes: int

    @abstractmethod
    def train_batches(
        self, batch_size: int, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """One pass in random order, augmented; the same for the same seed and epoch. Drops the last, partial batch.

        Args:
            batch_size: of all ranks together, a multiple of ``world``.
            start: the batch to begin with; those before are passed over unread.
            rank, world: the part of each batch to give, of ``world`` equal ones. Which images a batch holds, and how
                each is cropped and flipped, depends on neither.
        """

    @abstractmethod
    def held_out_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The held-out images in order, not augmented: of ``world`` parts that differ by one image at most, one."""

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


def load(config: RunConfig, device: torch.device | str = "cpu") -> Data:
    """The data set that ``config`` names, with its augmentation and its held-out part.

    Raises:
        WtkitError: if the data are missing (saying where to get them, where to put them, and the command), or an image
            cannot be decoded (naming it), or a batch is larger than the training set.
    """
    data = _LOADERS[config.data](config, torch.device(device))
    check_batch(config, data.steps(1))
    if data.num_classes < 2 or len(data.held_out_examples(2)[0]) < 2:
        raise WtkitError(f"{config.data}: expected two classes and two held-out images at least")
    return data


def check_batch(config: RunConfig, training: int) -> None:
    """Refuse a batch of more than the ``training`` images that there are."""
    if training < config.batch_size:
        raise WtkitError(f"setting 'batch_size': {config.batch_size} is more than the {training} training images")


# ----------------------------------------------------------------------------------------------------- in memory


@dataclasses.dataclass
class InMemory(Data):
    """Images as uint8 on the training device.

    Attributes:
        images, labels: for training, (N, 3, H, W) and (N,).
        held_out, held_out_labels: likewise.
        shift: how far a crop moves an image at most, in pixels.
    """

    images: Tensor
    labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    num_classes: int
    shift: int
    flip: bool
    seed: int

    def __post_init__(self) -> None:
        pixels = self.images.float()
        self.mean = pixels.mean((0, 2, 3), keepdim=True)
        self.std = pixels.std((0, 2, 3), keepdim=True).clamp_min(1.0)
        p = self.shift
        height, width = self.images.shape[2:]
        # every shift of every image, as a view: one gather then crops a whole batch, each image its own way
        self.crops = F.pad(self.images, (p, p, p, p)).unfold(2, height, 1).unfold(3, width, 1)

    def steps(self, batch_size: int) -> int:
        return len(self.images) // batch_size

    @property
    def number_held_out(self) -> int:
        return len(self.held_out)

    def train_batches(
        self, batch_size: int, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        device, mine = self.images.device, _part(batch_size, rank, world)
        generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "data", epoch))
        order = torch.randperm(len(self.images), generator=generator, device=device)
        for step in range(self.steps(batch_size)):
            # drawn for all ranks and for batches passed over, too: the next draws depend on it
            down, right = torch.randint(2 * self.shift + 1, (2, batch_size), generator=generator, device=device)
            if self.flip:
                mirrored = torch.rand(batch_size, 1, 1, 1, generator=generator, device=device) < 0.5
            if step < start:
                continue
            chosen = order[step * batch_size : (step + 1) * batch_size][mine]
            x = self.crops[chosen, :, down[mine], right[mine]]
            if self.flip:
                x = x * ~mirrored[mine] + x.flip(3) * mirrored[mine]  # on bytes, a fifth of the time of torch.where
            yield self._normalise(x), self.labels[chosen]

    def held_out_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        for batch in _batched(len(self.held_out), batch_size, rank, world):
            chosen = slice(batch.start, batch.stop)
            yield self._normalise(self.held_out[chosen]), self.held_out_labels[chosen]

    def held_out_examples(self, number: int) -> Batch:
        chosen = _spread(len(self.held_out), number)
        return self._normalise(self.held_out[chosen]), self.held_out_labels[chosen]

    def _normalise(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def _in_memory(
    config: RunConfig, device: torch.device, train: Batch, test: Batch, *, num_classes: int, augment: str
) -> InMemory:
    chosen = _chosen(config, num_classes)  # all of them, where a folder was read and only some classes of it
    images, labels = _relabelled(*train, chosen)
    held_out, held_out_labels = _relabelled(*test, chosen)
    if config.evaluate_on == "validation":
        kept, aside = _validation_split(labels.tolist())
        held_out, held_out_labels = images[aside], labels[aside]
        images, labels = images[kept], labels[kept]
    augment = config.augment or augment
    return InMemory(
        images.to(device),
        labels.to(device),
        held_out.to(device),
        held_out_labels.to(device),
        len(chosen),
        shift=0 if augment == "none" else images.shape[-1] // 8,
        flip=augment == "crop_flip",
        seed=config.seed,
    )


def _chosen(config: RunConfig, total: int) -> dict[int, int]:
    """The classes to use: the label of each among the ``total`` of the whole set, and the label that it gets."""
    number = config.classes or total
    if number > total:
        raise WtkitError(f"setting 'classes': {number} is more than the {total} classes of {config.data}")
    return {new * total // number: new for new in range(number)}


def _relabelled(images: Tensor, labels: Tensor, chosen: dict[int, int]) -> Batch:
    kept = [i for i, label in enumerate(labels.tolist()) if label in chosen]
    return images[kept], torch.tensor([chosen[label] for label in labels[kept].tolist()])


def _validation_split(labels: list[int]) -> tuple[list[int], list[int]]:
    """Indices to train on and indices held out: a stratified fifth, the same for every run."""
    from sklearn.model_selection import train_test_split

    try:
        kept, aside = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    except ValueError as error:
        raise WtkitError(f"setting 'evaluate_on': too few training images to hold a fifth out ({error})") from None
    return sorted(kept), sorted(aside)


def _part(total: int, rank: int, world: int) -> slice:
    """Where the ``rank``-th of ``world`` parts of ``total`` things stands."""
    return slice(total * rank // world, total * (rank + 1) // world)


def _batched(total: int, batch_size: int, rank: int, world: int) -> list[range]:
    """The ``rank``-th of ``world`` parts of ``total`` things, in batches, of which the last may be smaller."""
    mine = range(total)[_part(total, rank, world)]
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def _spread(total: int, number: int) -> Tensor:
    return torch.linspace(0, total - 1, min(number, total)).round().long()


def _digits(config: RunConfig, device: torch.device) -> Data:
    """scikit-learn's 1,797 scans of 8×8 pixels and 17 grey levels; a fixed stratified fifth of them is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    size = config.image_size or 32
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = F.interpolate(grey, size=(size, size), mode="bilinear").round().to(torch.uint8).expand(-1, 3, -1, -1)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(range(len(labels)), test_size=360, stratify=digits.target, random_state=0)
    parts = [(images[part], labels[part]) for part in (sorted(train), sorted(test))]
    return _in_memory(config, device, *parts, num_classes=10, augment="crop")


def _cifar(config: RunConfig, device: torch.device) -> Data:
    import torchvision

    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[config.data]
    parts = []
    for train in (True, False):
        try:
            part = kind(config.data_root, train=train)
        except RuntimeError:
            raise WtkitError(
                f"no {config.data} in {config.data_root}/; fetch it with: "
                f"wtkit data {config.data} --data-root {config.data_root}"
            ) from None
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2)
        parts.append((_resized(images, config.image_size), torch.tensor(part.targets)))
    return _in_memory(config, device, *parts, num_classes=len(part.classes), augment="crop_flip")


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None or images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True).round().to(torch.uint8)


# ------------------------------------------------------------------------------------------------ folders of images


def _stored(config: RunConfig, root: Path, how: str) -> tuple[Images, Images, int]:
    """For training and held out: the images in ``root``, packed or in folders, and the number of classes."""
    choose = functools.partial(_chosen, config)
    if packing.is_pack(root):
        return packing.open_pack(root, choose)
    classes = folder_classes(root, how)
    chosen = choose(len(classes))
    return *folder(root, classes, chosen), len(chosen)


def _imagenet(config: RunConfig, device: torch.device) -> Data:
    how = (
        "get ILSVRC2012 from https://image-net.org (free registration), unpack it there with one folder a class, "
        f"or link it: ln -s /where/it/is {config.data_root}/imagenet"
    )
    parts = _stored(config, Path(config.data_root, "imagenet"), how)
    return Streamed(config, device, *parts, size=config.image_size or 224)


def _image_folder(config: RunConfig, device: torch.device) -> Data:
    how = "put your images there, or name another folder with data_root"
    train, test, num_classes = _stored(config, Path(config.data_root), how)
    if config.image_size and config.image_size <= IN_MEMORY_PIXELS:
        parts = [_decoded(part, config.image_size) for part in (train, test)]
        return _in_memory(config, device, *parts, num_classes=num_classes, augment="crop_flip")
    return Streamed(config, device, train, test, num_classes, size=config.image_size or 224)


def _tiny_imagenet(config: RunConfig, device: torch.device) -> Data:
    """The layout of the official archive: train/<wnid>/images/*.JPEG, val/images/*.JPEG and val_annotations.txt."""
    found = sorted(Path(config.data_root).glob("tiny-imagenet-*/wnids.txt"))
    if not found:
        raise WtkitError(
            f"no tiny-imagenet-*/wnids.txt in {config.data_root}/; get and unpack it with: "
            f"curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip "
            f"-d {config.data_root}"
        )
    root = found[0].parent
    wnids = sorted(found[0].read_text().split())
    label_of = {wnids[place]: label for place, label in _chosen(config, len(wnids)).items()}
    train = [(p, label) for w, label in label_of.items() for p in sorted((root / "train" / w / "images").glob("*.*"))]
    annotations = root / "val" / "val_annotations.txt"
    try:
        rows = [line.split("\t") for line in annotations.read_text().splitlines()]
        unknown = {wnid for _, wnid, *_ in rows} - set(wnids)
        test = [(root / "val" / "images" / name, label_of[wnid]) for name, wnid, *_ in rows if wnid in label_of]
        if unknown:
            raise ValueError(f"no class {unknown.pop()} in wnids.txt")
    except (OSError, ValueError) as error:
        raise WtkitError(
            f"{annotations}: expected a line 'name, class, …' for each image ({error!r}); unpack the archive again"
        ) from None
    if not train or not test:
        raise WtkitError(f"no images in {root}/{'val' if train else 'train'}; unpack the archive again")
    files = [Files([path for path, _ in part], [label for _, label in part]) for part in (train, test)]
    parts = [_decoded(part, config.image_size or 64) for part in files]
    return _in_memory(config, device, *parts, num_classes=len(label_of), augment="crop_flip")


def _decoded(images: Images, size: int) -> Batch:
    """All of ``images`` in memory: (N, 3, size, size) of uint8, and labels."""
    from tqdm import tqdm

    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for i in tqdm(range(len(images)), "decoding images", disable=None, leave=False):
        pixels[i] = _resized(images.decoded(i)[None], size)[0]
    return pixels, torch.tensor(images.labels)


class Streamed(Data):
    """Images decoded, cropped and flipped by worker processes as they are needed, and normalised on the device."""

    def __init__(
        self, config: RunConfig, device: torch.device, train: Images, test: Images, num_classes: int, size: int
    ) -> None:
        if config.evaluate_on == "validation":
            kept, aside = _validation_split(train.labels)
            train, test = train.take(kept), train.take(aside)
        self.num_classes, self.device, self.seed = num_classes, device, config.seed
        whole = v2.Compose([v2.Resize(math.ceil(size / 0.875), antialias=True), v2.CenterCrop(size)])
        augmented = {
            "none": whole,
            "crop": _RandomResizedCrop(size),
            "crop_flip": v2.Compose([_RandomResizedCrop(size), v2.RandomHorizontalFlip()]),
        }
        self.train = _Reader(train, augmented[config.augment or "crop_flip"], config.workers, device)
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
        mine = _part(batch_size, rank, world)
        batches = (range(step * batch_size, (step + 1) * batch_size) for step in range(start, self.steps(batch_size)))
        return self._normalised(self.train, ([(order[i], seed, i) for i in batch[mine]] for batch in batches))

    def held_out_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        batches = _batched(len(self.test.images), batch_size, rank, world)
        return self._normalised(self.test, ([(i,) for i in batch] for batch in batches))

    def held_out_examples(self, number: int) -> Batch:
        chosen = _spread(len(self.test.images), number).tolist()
        return next(self._normalised(self.test, [[(i,) for i in chosen]]))

    def _normalised(self, reader: _Reader, batches: Iterable[list[Key]]) -> Iterator[Batch]:
        for pixels, labels in reader.read(batches):
            x = pixels.to(self.device, non_blocking=True)
            x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            yield x, labels.to(self.device, non_blocking=True)


Key = tuple[int, ...]  # an image's place in its set; and for random draws, the seed of the pass and its place there


class _Reader:
    """Decodes and transforms images in worker processes, which start with the first pass and stay for all others."""

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
            for batch in self.loader:
                yield batch
                if self.order.batches is not batches:
                    raise RuntimeError("another pass through these images has begun, which ended this one")


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
            torch.default_generator.manual_seed(stream_seed(*stream))  # torch.manual_seed would see to all GPUs, too
            return self.transform(self.images.decoded(place)), self.images.labels[place]


class _RandomResizedCrop(v2.RandomResizedCrop):
    """torchvision's, with its draws and pixels, in two thirds of the time: it resizes what is channels last."""

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        part = v2.functional.crop(inpt, **params)[None].contiguous(memory_format=torch.channels_last)
        return v2.functional.resize(part, self.size, self.interpolation, antialias=self.antialias)[0]


def _collated(batch: list[tuple[Tensor, int]]) -> Batch:
    """Images (N, 3, H, W), channels last as the crop leaves them and the network wants them, and labels."""
    images, labels = zip(*batch, strict=True)
    return torch.stack([x.permute(1, 2, 0) for x in images]).permute(0, 3, 1, 2), torch.tensor(labels)


_LOADERS = {
    "digits": _digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "tiny_imagenet": _tiny_imagenet,
    "imagenet": _imagenet,
    "image_folder": _image_folder,
}


def fetch(name: str, root: str) -> str:
    """Download ``cifar10`` or ``cifar100`` through torchvision; returns a sentence that says where it is.

    Raises:
        WtkitError: if it cannot be downloaded, or the set is not one that may be downloaded without asking.
    """
    import torchvision

    kinds = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
    if name not in kinds:
        load(RunConfig(method="backprop", data=name, data_root=root, batch_size=2))  # says how to get it, if missing
        return f"{name} is in place."
    try:
        kinds[name](root, download=True)
    except (OSError, RuntimeError) as error:  # RuntimeError is what a wrong checksum raises
        raise WtkitError(
            f"cannot put {name} into {root}/: {error}; check the folder and the connection and try again"
        ) from None
    return f"{name} is in {root}/."
