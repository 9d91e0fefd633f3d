"""Tiny ImageNet: 200 classes of ImageNet at 64×64 pixels, in the layout of the official archive."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import WtkitError
from .base import DataSet, Reading, Wanted

if TYPE_CHECKING:
    from ..images import Passed


def read(wanted: Wanted) -> Reading:
    """``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and ``val_annotations.txt``."""
    from ..images import Files, Passed, images_in, note_on

    root, passed = _root(wanted.root), Passed()
    wnids = _wnids(root / "wnids.txt")
    label_of = {wnids[place]: label for place, label in wanted.choose(len(wnids)).items()}
    train = [
        (path, label)
        for wnid, label in label_of.items()
        for path in _training_images(root / "train" / wnid, passed)
    ]
    annotated = _annotated(root / "val" / "val_annotations.txt", wnids)
    held_out = [
        (root / "val" / "images" / name, label_of[wnid])
        for name, wnid in annotated.items()
        if wnid in label_of
    ]
    there = images_in(root / "val" / "images", passed)
    passed["without annotation"] += sum(path.name not in annotated for path in there)
    for part, where in ((train, "train/{}/images/"), (held_out, "val/")):
        there_are = {label for _, label in part}
        for wnid, label in label_of.items():
            if label not in there_are:
                raise WtkitError(
                    f"no images of the class {wnid} in {root}/{where.format(wnid)}; {_AGAIN}"
                )
    first, second = (
        Files([path for path, _ in part], [label for _, label in part], note=note)
        for part, note in ((train, note_on(root, passed)), (held_out, ""))
    )
    return Reading(first, second, classes=len(label_of))


def _training_images(folder: Path, passed: Passed) -> list[Path]:
    """The images of a class: those in ``images/``, beside which there is a text file."""
    from ..images import Passed, images_in

    own = Passed()
    found = images_in(folder, own)
    inside = [path for path in found if path.is_relative_to(folder / "images")]
    own["outside of images/"] += len(found) - len(inside)
    del own[".txt"]
    passed.update(own)
    return inside


def _root(folder: Path) -> Path:
    found = sorted(folder.glob("tiny-imagenet-*/wnids.txt"))
    if not found:
        raise WtkitError(
            f"no tiny-imagenet-*/wnids.txt in {folder}/; get and unpack it with: "
            "curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q "
            f"tiny-imagenet-200.zip -d {shlex.quote(str(folder))}"
        )
    return found[0].parent


def _wnids(path: Path) -> list[str]:
    """The names of the classes, sorted."""
    wnids = sorted(" ".join(_lines(path)).split())
    for name in wnids:
        if Path(name).name != name or wnids.count(name) > 1:
            raise WtkitError(f"{path}: {name!r} is no folder's name, or there twice; {_AGAIN}")
    return wnids


def _annotated(path: Path, wnids: list[str]) -> dict[str, str]:
    """Name and class of every held-out image."""
    annotated: dict[str, str] = {}
    for line in _lines(path):
        name, _, others = line.partition("\t")
        wnid = others.partition("\t")[0].strip()
        if wnid not in wnids or Path(name).name != name or name in annotated:
            raise WtkitError(
                f"{path}: expected a line 'name, class, …' for each image, once, with a class of "
                f"wnids.txt, got {line[:80]!r}; {_AGAIN}"
            )
        annotated[name] = wnid
    return annotated


_AGAIN = "unpack the archive again"


def _lines(path: Path) -> list[str]:
    """The lines that are not blank; with or without a byte order mark, ended in any way."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("it is a folder, a pipe or a device")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WtkitError(f"cannot read {path}: {error}; {_AGAIN}") from None
    return [line for line in lines if line.strip()]


DATA_SET = DataSet(
    label="Tiny ImageNet",
    read=read,
    image_size=64,
    classes=200,
    training=100_000,
    held_out=10_000,
)
