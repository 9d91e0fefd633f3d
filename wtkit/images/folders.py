"""Folders of images: which files are images, and of which class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NoReturn

from ..errors import WtkitError
from .files import PARTS, SUFFIXES, Files

Passed = Counter[str]
"""How many files were passed over, by a word for the reason."""


def images_in(folder: Path, passed: Passed) -> list[Path]:
    """The images in ``folder`` and its subfolders, sorted.

    This is the one rule for all folders and packs. An image is a file with a suffix of
    :data:`SUFFIXES`, in small letters or capitals. Links to files and folders are followed. Hidden
    files and folders, such as ``.ipynb_checkpoints``, are passed over, as are other suffixes and a
    folder that was read already. ``passed`` counts them.

    Raises:
        WtkitError: if a folder cannot be read.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        about = os.stat(where)
        if (about.st_dev, about.st_ino) in seen:  # a link back would never end
            passed["folder linked twice"] += 1
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        passed["hidden"] += sum(name.startswith(".") for name in (*folders, *files))
        # in place: where os.walk goes next
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                suffix = os.path.splitext(name)[1]
                if suffix.lower() in SUFFIXES:
                    found.append(Path(where, name))
                else:
                    passed[suffix or "without suffix"] += 1
    return sorted(found)


def _unreadable(error: OSError) -> NoReturn:
    raise WtkitError(
        f"cannot read the folder {error.filename}: {error.strerror}; change that, or remove it"
    ) from None


def note_on(root: Path, passed: Passed) -> str:
    """A line on the files that were passed over; empty if there are none."""
    total = passed.total()
    if not total:
        return ""
    reasons = [f"{number} {reason}" for reason, number in passed.most_common(6) if number]
    more = ", …" if len(passed) > len(reasons) and len(reasons) == 6 else ""
    return (
        f"{root}/: passed over {total} file{'s' * (total > 1)}: {', '.join(reasons)}{more}; images "
        f"are {', '.join(SUFFIXES)}"
    )


def folder_classes(root: Path, how: str, passed: Passed) -> list[str]:
    """The classes of ``root/train/<class>/`` and ``root/val/<class>/``, sorted.

    Args:
        how: how to get them, for the error.
        passed: counts what is beside the folders of the classes.

    Raises:
        WtkitError: if there are none, if a class is missing in one part, or if two folders are one.
    """
    parts = [_folders(root / part, passed) for part in PARTS]
    classes, held_out = parts
    if not classes or not held_out:
        raise WtkitError(f"no images in {root}/: expected train/<class>/ and val/<class>/; {how}")
    for name in sorted({*classes} ^ {*held_out}):
        there, missing = PARTS if name in classes else PARTS[::-1]
        raise WtkitError(
            f"{root / there / name} has no counterpart in {root / missing}; make it, or remove this"
        )
    _check_distinct([root / part / name for part in PARTS for name in classes])
    return classes


def _folders(part: Path, passed: Passed) -> list[str]:
    """The folders in ``part`` that are not hidden, sorted."""
    if not part.is_dir():
        return []
    entries = list(part.iterdir())
    folders = [path.name for path in entries if path.is_dir() and not path.name.startswith(".")]
    hidden = sum(path.name.startswith(".") for path in entries)
    passed["hidden"] += hidden
    passed["in no class"] += len(entries) - hidden - len(folders)
    return sorted(folders)


def _check_distinct(folders: list[Path]) -> None:
    """Refuse a class that is there twice: by a link, or by a name in two forms of Unicode."""
    found: dict[object, Path] = {}
    for path in folders:
        about = path.stat()
        name = unicodedata.normalize("NFC", path.name)
        for key in ((about.st_dev, about.st_ino), (path.parent, name)):
            if key in found:
                raise WtkitError(
                    f"{found[key]} and {path} are one folder, or have one name; remove one of them"
                )
            found[key] = path


def folder(
    root: Path, classes: list[str], chosen: dict[int, int], passed: Passed
) -> tuple[Files, Files]:
    """For training and held out: the images of the ``chosen`` ones of ``classes``, class by
    class. What was passed over is the first part's ``note``."""
    parts = []
    for part in PARTS:
        paths: list[Path] = []
        labels: list[int] = []
        for place, label in chosen.items():
            where = root / part / classes[place]
            found = images_in(where, passed)
            if not found:
                raise WtkitError(
                    f"no images in {where}/: expected {', '.join(SUFFIXES)}; add some or remove it"
                )
            paths += found
            labels += [label] * len(found)
        parts.append(Files(paths, labels))
    return Files(parts[0].paths, parts[0].labels, note=note_on(root, passed)), parts[1]
