"""Tiny ImageNet: 200 classes of ImageNet at 64×64 pixels, in the layout of the official archive."""

from __future__ import annotations

from pathlib import Path

from ..errors import WtkitError
from .base import DataSet, Reading, Wanted


def read(wanted: Wanted) -> Reading:
    """``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and ``val_annotations.txt``."""
    from ..images import Files

    root = _root(wanted.root)
    wnids = sorted((root / "wnids.txt").read_text().split())
    label_of = {wnids[place]: label for place, label in wanted.choose(len(wnids)).items()}
    train = [
        (path, label)
        for wnid, label in label_of.items()
        for path in sorted((root / "train" / wnid / "images").glob("*.*"))
    ]
    held_out = [
        (root / "val" / "images" / name, label_of[wnid])
        for name, wnid in _annotated(root / "val" / "val_annotations.txt", wnids)
        if wnid in label_of
    ]
    if not train or not held_out:
        raise WtkitError(
            f"no images in {root}/{'val' if train else 'train'}; unpack the archive again"
        )
    first, second = (
        Files([path for path, _ in part], [label for _, label in part])
        for part in (train, held_out)
    )
    return Reading(first, second, classes=len(label_of))


def _root(folder: Path) -> Path:
    found = sorted(folder.glob("tiny-imagenet-*/wnids.txt"))
    if not found:
        raise WtkitError(
            f"no tiny-imagenet-*/wnids.txt in {folder}/; get and unpack it with: "
            "curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q "
            f"tiny-imagenet-200.zip -d {folder}"
        )
    return found[0].parent


def _annotated(path: Path, wnids: list[str]) -> list[tuple[str, str]]:
    """Name and class of every held-out image."""
    try:
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        annotated = [(name, wnid) for name, wnid, *_ in rows]
        unknown = {wnid for _, wnid in annotated} - set(wnids)
        if unknown:
            raise ValueError(f"no class {unknown.pop()} in wnids.txt")
    except (OSError, ValueError) as error:
        raise WtkitError(
            f"{path}: expected a line 'name, class, …' for each image ({error!r}); unpack "
            "the archive again"
        ) from None
    return annotated


DATA_SET = DataSet(
    label="Tiny ImageNet",
    read=read,
    image_size=64,
    classes=200,
    training=100_000,
    held_out=10_000,
)
