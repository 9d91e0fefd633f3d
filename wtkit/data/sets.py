"""The data sets by name: found, loaded, and fetched where that is allowed."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import WtkitError
from ..experiments import RunConfig
from .base import Batch, Data, check_batch
from .images import Files, Images, folder, folder_classes
from .memory import chosen_classes, in_memory
from .packed import is_pack, open_pack
from .streamed import Streamed

IN_MEMORY_PIXELS = 64  # folders of images brought to this side or less are held in memory


def load(config: RunConfig, device: torch.device | str = "cpu") -> Data:
    """The data set that ``config`` names, with its augmentation and its held-out part.

    Raises:
        WtkitError: if the data are missing (saying where to get them, where to put them, and the
            command), or an image cannot be decoded (naming it), or a batch is larger than the
            training set.
    """
    data = _LOADERS[config.data](config, torch.device(device))
    check_batch(config, data.steps(1))
    if data.num_classes < 2 or len(data.held_out_examples(2)[0]) < 2:
        raise WtkitError(f"{config.data}: expected two classes and two held-out images at least")
    return data


def _digits(config: RunConfig, device: torch.device) -> Data:
    """scikit-learn's 1,797 scans of 8×8 pixels and 17 grey levels; a fixed stratified fifth of them
    is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    size = config.image_size or 32
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = (
        F.interpolate(grey, size=(size, size), mode="bilinear")
        .round()
        .to(torch.uint8)
        .expand(-1, 3, -1, -1)
    )
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        range(len(labels)), test_size=360, stratify=digits.target, random_state=0
    )
    parts = [(images[part], labels[part]) for part in (sorted(train), sorted(test))]
    return in_memory(config, device, *parts, num_classes=10, augment="crop")


def _cifar(config: RunConfig, device: torch.device) -> Data:
    import torchvision

    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        config.data
    ]
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
    return in_memory(config, device, *parts, num_classes=len(part.classes), augment="crop_flip")


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None or images.shape[-2:] == (size, size):
        return images
    return (
        F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
        .round()
        .to(torch.uint8)
    )


def stored_images(config: RunConfig, root: Path, how: str) -> tuple[Images, Images, int]:
    """For training and held out: the images in ``root``, packed or in folders, and the number of
    classes."""
    choose = functools.partial(chosen_classes, config)
    if is_pack(root):
        return open_pack(root, choose)
    classes = folder_classes(root, how)
    chosen = choose(len(classes))
    return *folder(root, classes, chosen), len(chosen)


def _imagenet(config: RunConfig, device: torch.device) -> Data:
    how = (
        "get ILSVRC2012 from https://image-net.org (free registration), unpack it there with one "
        f"folder a class, or link it: ln -s /where/it/is {config.data_root}/imagenet"
    )
    parts = stored_images(config, Path(config.data_root, "imagenet"), how)
    return Streamed(config, device, *parts, size=config.image_size or 224)


def _image_folder(config: RunConfig, device: torch.device) -> Data:
    how = "put your images there, or name another folder with data_root"
    train, test, num_classes = stored_images(config, Path(config.data_root), how)
    if config.image_size and config.image_size <= IN_MEMORY_PIXELS:
        parts = [_decoded(part, config.image_size) for part in (train, test)]
        return in_memory(config, device, *parts, num_classes=num_classes, augment="crop_flip")
    return Streamed(config, device, train, test, num_classes, size=config.image_size or 224)


def _tiny_imagenet(config: RunConfig, device: torch.device) -> Data:
    """The layout of the official archive: train/<wnid>/images/*.JPEG, val/images/*.JPEG and
    val_annotations.txt."""
    found = sorted(Path(config.data_root).glob("tiny-imagenet-*/wnids.txt"))
    if not found:
        raise WtkitError(
            f"no tiny-imagenet-*/wnids.txt in {config.data_root}/; get and unpack it with: "
            "curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q "
            f"tiny-imagenet-200.zip -d {config.data_root}"
        )
    root = found[0].parent
    wnids = sorted(found[0].read_text().split())
    label_of = {wnids[place]: label for place, label in chosen_classes(config, len(wnids)).items()}
    train = [
        (p, label)
        for w, label in label_of.items()
        for p in sorted((root / "train" / w / "images").glob("*.*"))
    ]
    annotations = root / "val" / "val_annotations.txt"
    try:
        rows = [line.split("\t") for line in annotations.read_text().splitlines()]
        unknown = {wnid for _, wnid, *_ in rows} - set(wnids)
        test = [
            (root / "val" / "images" / name, label_of[wnid])
            for name, wnid, *_ in rows
            if wnid in label_of
        ]
        if unknown:
            raise ValueError(f"no class {unknown.pop()} in wnids.txt")
    except (OSError, ValueError) as error:
        raise WtkitError(
            f"{annotations}: expected a line 'name, class, …' for each image ({error!r}); unpack "
            "the archive again"
        ) from None
    if not train or not test:
        raise WtkitError(
            f"no images in {root}/{'val' if train else 'train'}; unpack the archive again"
        )
    files = [
        Files([path for path, _ in part], [label for _, label in part]) for part in (train, test)
    ]
    parts = [_decoded(part, config.image_size or 64) for part in files]
    return in_memory(config, device, *parts, num_classes=len(label_of), augment="crop_flip")


def _decoded(images: Images, size: int) -> Batch:
    """All of ``images`` in memory: (N, 3, size, size) of uint8, and labels."""
    from tqdm import tqdm

    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for i in tqdm(range(len(images)), "decoding images", disable=None, leave=False):
        pixels[i] = _resized(images.decoded(i)[None], size)[0]
    return pixels, torch.tensor(images.labels)


_LOADERS = {
    "digits": _digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "tiny_imagenet": _tiny_imagenet,
    "imagenet": _imagenet,
    "image_folder": _image_folder,
}


def fetch(name: str, root: str) -> str:
    """Download ``cifar10`` or ``cifar100`` through torchvision; returns a sentence that says where
    it is.

    Raises:
        WtkitError: if it cannot be downloaded, or the set is not one that may be downloaded without
            asking.
    """
    import torchvision

    kinds = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
    if name not in kinds:
        # says how to get it, if missing
        load(RunConfig(method="backprop", data=name, data_root=root, batch_size=2))
        return f"{name} is in place."
    try:
        kinds[name](root, download=True)
    except (OSError, RuntimeError) as error:  # RuntimeError is what a wrong checksum raises
        raise WtkitError(
            f"cannot put {name} into {root}/: {error}; check the folder and the connection and try "
            "again"
        ) from None
    return f"{name} is in {root}/."
