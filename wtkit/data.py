"""Data sets: small ones in memory and augmented in whole batches, large ones streamed from folders."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import RunConfig
from .errors import WtkitError
from .layers import stream_seed

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


def load(config: RunConfig, device: torch.device | str = "cpu") -> Data:
    """The data set that ``config`` names, with its augmentation and its held-out part.

    Raises:
        WtkitError: if the data are missing (saying where to get them, where to put them, and the command), or an image
            cannot be decoded (naming it), or a batch is larger than the training set.
    """
    data = _LOADERS[config.data](config, torch.device(device))
    if data.steps(config.batch_size) < 1:
        raise WtkitError(f"setting 'batch_size': {config.batch_size} is more than the {data.steps(1)} training images")
    if data.num_classes < 2 or len(data.held_out_examples(2)[0]) < 2:
        raise WtkitError(f"{config.data}: expected two classes and two held-out images at least")
    return data


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

Sample = tuple[Path, int]
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def _folder(config: RunConfig, root: Path, how: str) -> tuple[list[Sample], list[Sample], int]:
    """Samples of ``root/train/<class>/…`` and ``root/val/<class>/…``, and the number of classes."""
    classes, held_out = (sorted(p.name for p in root.glob(f"{part}/[!.]*") if p.is_dir()) for part in ("train", "val"))
    if not classes or not held_out:
        raise WtkitError(f"no images in {root}/: expected train/<class>/ and val/<class>/; {how}")
    for name in sorted({*classes} ^ {*held_out}):
        there, missing = ("train", "val") if name in classes else ("val", "train")
        raise WtkitError(f"{root / there / name} has no counterpart in {root / missing}; make it, or remove this")
    chosen, parts = _chosen(config, len(classes)), []
    for part in ("train", "val"):
        found = [
            (path, label)
            for place, label in chosen.items()
            for path in sorted((root / part / classes[place]).rglob("*"))
            if path.suffix.lower() in _SUFFIXES
        ]
        for place, label in chosen.items():
            if all(label != other for _, other in found):
                folder = root / part / classes[place]
                raise WtkitError(f"no images in {folder}/: expected {', '.join(_SUFFIXES)}; add some or remove it")
        parts.append(found)
    return parts[0], parts[1], len(chosen)


def _imagenet(config: RunConfig, device: torch.device) -> Data:
    how = (
        "get ILSVRC2012 from https://image-net.org (free registration), unpack it there with one folder a class, "
        f"or link it: ln -s /where/it/is {config.data_root}/imagenet"
    )
    parts = _folder(config, Path(config.data_root, "imagenet"), how)
    return Streamed(config, device, *parts, size=config.image_size or 224)


def _image_folder(config: RunConfig, device: torch.device) -> Data:
    how = "put your images there, or name another folder with data_root"
    train, test, num_classes = _folder(config, Path(config.data_root), how)
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
    parts = [_decoded(part, config.image_size or 64) for part in (train, test)]
    return _in_memory(config, device, *parts, num_classes=len(label_of), augment="crop_flip")


def _decode(path: Path) -> Tensor:
    """(3, H, W) of uint8.

    Raises:
        WtkitError: naming the file, if it is missing or damaged.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip these
                raise OSError(f"its mode is {image.mode}, expected 8 bits a channel")
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # SyntaxError is what PIL calls a broken PNG
        reason = str(error).splitlines()[0]
        raise WtkitError(f"cannot read the image {path}: {reason}; replace or remove it") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decoded(samples: list[Sample], size: int) -> Batch:
    """All of ``samples`` in memory: images (N, 3, size, size) of uint8, and labels."""
    from tqdm import tqdm

    images = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    for i, (path, _) in enumerate(tqdm(samples, "decoding images", disable=None, leave=False)):
        images[i] = _resized(_decode(path)[None], size)[0]
    return images, torch.tensor([label for _, label in samples])


class Streamed(Data):
    """Images decoded, cropped and flipped by worker processes as they are needed, and normalised on the device."""

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        train: list[Sample],
        test: list[Sample],
        num_classes: int,
        size: int,
    ) -> None:
        from torchvision.transforms import v2

        if config.evaluate_on == "validation":
            kept, aside = _validation_split([label for _, label in train])
            train, test = [train[i] for i in kept], [train[i] for i in aside]
        self.train, self.test, self.num_classes = train, test, num_classes
        self.device, self.workers, self.seed = device, config.workers, config.seed
        whole = v2.Compose([v2.Resize(math.ceil(size / 0.875), antialias=True), v2.CenterCrop(size)])
        augmented = {
            "none": whole,
            "crop": v2.RandomResizedCrop(size, antialias=True),
            "crop_flip": v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]),
        }
        self.for_training, self.for_testing = augmented[config.augment or "crop_flip"], whole
        # of ImageNet's training images, as torchvision's references have them
        self.mean = 255 * torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
        self.std = 255 * torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    def steps(self, batch_size: int) -> int:
        return len(self.train) // batch_size

    def train_batches(
        self, batch_size: int, epoch: int, *, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "data", epoch))
        order = torch.randperm(len(self.train), generator=generator).tolist()
        images = _Images([self.train[i] for i in order], self.for_training, generator)
        mine = _part(batch_size, rank, world)
        batches = (range(step * batch_size, (step + 1) * batch_size) for step in range(start, self.steps(batch_size)))
        return self._batches(images, [batch[mine] for batch in batches])

    def held_out_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        return self._batches(self._held_out(), _batched(len(self.test), batch_size, rank, world))

    def held_out_examples(self, number: int) -> Batch:
        return next(self._batches(self._held_out(), [_spread(len(self.test), number).tolist()]))

    def _held_out(self) -> _Images:
        return _Images(self.test, self.for_testing, torch.Generator())

    def _batches(self, images: _Images, places: Iterable[Sequence[int]]) -> Iterator[Batch]:
        from torch.utils.data import DataLoader

        loader = DataLoader(
            images,
            batch_sampler=[list(batch) for batch in places],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )
        try:
            for pixels, labels in loader:
                x = pixels.to(self.device, non_blocking=True)
                x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
                yield x, labels.to(self.device, non_blocking=True)
        except WtkitError as error:  # a worker's comes wrapped in the worker's traceback
            raise WtkitError(str(error).strip().splitlines()[-1].rpartition("WtkitError: ")[2]) from None


class _Images(torch.utils.data.Dataset):
    """Decodes and transforms one image; what it draws depends on the seed and the image's place, not on the worker."""

    def __init__(self, samples: list[Sample], transform, generator: torch.Generator) -> None:
        self.samples, self.transform = samples, transform
        self.seed = int(torch.randint(2**62, (), generator=generator))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        with torch.random.fork_rng([]):
            torch.manual_seed(stream_seed(self.seed, index))
            return self.transform(_decode(path)), label


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
