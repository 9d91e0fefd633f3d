"""A folder of images stored once, smaller, in a few large files: ``wtkit data pack``.

A pack is a folder with

- ``train-00000.tar`` … and ``val-00000.tar`` …, shards of ``shard_images`` images each, in the
  order of the folder's sorted names. Their members are ``<class>/<file>``, so that tar, WebDataset
  and whatever reads tar files reads them;
- ``train.npy`` and ``val.npy``, a row an image: where in its shard its bytes begin, how many they
  are, and its class;
- ``pack.json``, the manifest: what the pack was made of and how, its classes, the SHA-256 of all
  other files, and for each shard one of its images' sizes and times of change.

The manifest stands there from the start; until the pack is whole, it lacks ``parts``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import WtkitError
from ..files import held, replacing
from ..processes import at_most_a_core_each, killed_with_parent, killed_workers, workers_errors
from .files import PARTS, Files
from .folders import Passed, folder, folder_classes
from .packed import FORMAT, ROW, is_pack, read_manifest, shard_name


def pack(
    source: Path,
    target: Path,
    *,
    short_side: int = 256,
    quality: int = 90,
    shard_images: int = 8192,
    workers: int = 4,
) -> str:
    """Store the images of ``source`` in ``target``, or go on doing so; returns a line that says
    what is there, and one on files of ``source`` that were passed over.

    An image whose short side is longer than ``short_side`` is resized to it, as torchvision
    resizes, and stored as JPEG of that ``quality``; any other is kept byte for byte. The same
    images and settings make the same bytes. Of a pack that is there, unfinished or whole, shards
    are checked, and made anew where they are missing or damaged, and, of a whole one, where the
    size or time of change of an image is another.

    Raises:
        WtkitError: if ``source`` is no folder of images or one of them is damaged, or ``target``
            holds something else, is inside ``source``, or cannot be written.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise WtkitError(
            f"{target}/ is inside {source}/, the folder that is packed; name a folder outside"
        )
    passed = Passed()
    classes = folder_classes(source, "name the folder that holds both", passed)
    every = {i: i for i in range(len(classes))}
    parts = dict(zip(PARTS, folder(source, classes, every, passed), strict=True))
    names = {
        part: [path.relative_to(source / part).as_posix() for path in parts[part].paths]
        for part in PARTS
    }
    settings = {
        "format": FORMAT,
        "source": str(source.resolve()),
        "names_sha256": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "short_side": short_side,
        "quality": quality,
        "shard_images": shard_images,
        "classes": classes,
    }
    with _writing(target):
        target.mkdir(parents=True, exist_ok=True)
        if not is_pack(target) and any(
            path.name not in (".lock", ".pack.json.partial") for path in target.iterdir()
        ):
            raise WtkitError(
                f"{target}/ holds something else than a pack; name a new or an empty folder"
            )
        with held(
            target, f"another process is packing into {target}/; wait, or name another folder"
        ):
            known = _begun(target, settings)
            described = {
                part: _pack_part(target, part, parts[part], names[part], settings, known, workers)
                for part in PARTS
            }
            _write(
                target / "pack.json", json.dumps(settings | {"parts": described}, indent=1).encode()
            )
    shards = [shard for part in PARTS for shard in described[part]["shards"]]
    total, size = sum(map(len, parts.values())), sum(shard["bytes"] for shard in shards)
    text = f"{target}/ holds {total:,} images in {len(shards)} shards, {size / 1e6:,.1f} MB."
    return "\n".join(filter(None, [text, parts["train"].note]))


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WtkitError(
            f"cannot write {error.filename or target}: {error.strerror}; free some space or name a "
            "folder that can be written, then give the same command again: shards that are "
            "finished stay"
        ) from None


def _begun(target: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Claim ``target`` for this pack; returns what its manifest says of each shard, as far as it
    does."""
    if not is_pack(target):
        _write(target / "pack.json", json.dumps(settings, indent=1).encode())
        return {}
    found = read_manifest(target)
    for name, value in settings.items():
        if found.get(name) != value and name != "source":  # which may have moved
            what = (
                "of other images"
                if name in ("names_sha256", "classes")
                else (f"whose {name} is {found.get(name)!r}")
            )
            raise WtkitError(
                f"{target}/ holds a pack {what}; name another folder, or remove that one"
            )
    described = found.get("parts", {}).values()
    return {shard["file"]: shard for part in described for shard in part["shards"]}


def _pack_part(
    target: Path,
    part: str,
    images: Files,
    names: list[str],
    settings: dict[str, Any],
    known: dict[str, dict[str, Any]],
    workers: int,
) -> dict[str, Any]:
    """Write the shards of a part that are missing or damaged, then its index; returns its entry in
    the manifest."""
    from tqdm import tqdm

    step = settings["shard_images"]
    shards = [range(i, min(i + step, len(images))) for i in range(0, len(images), step)]
    paths = [target / shard_name(part, i) for i in range(len(shards))]
    sources = [_state([images.paths[place] for place in shard]) for shard in shards]
    found = [
        _whole(path, {"images": len(shard), "sources_sha256": source}, known.get(path.name, {}))
        for path, shard, source in zip(paths, shards, sources, strict=True)
    ]
    missing = [
        place
        for entry, shard in zip(found, shards, strict=True)
        if entry is None
        for place in shard
    ]
    with tqdm(
        total=len(images), initial=len(images) - len(missing), desc=f"packing {part}", disable=None
    ) as bar:
        stored = _stored(
            _Shrunk(images, names, settings["short_side"], settings["quality"]), missing, workers
        )
        entries = []
        for path, shard, entry, source in zip(paths, shards, found, sources, strict=True):
            if entry is None:
                write_shard(path, itertools.islice(stored, len(shard)), bar.update)
            entries.append((entry or _described(path)) | {"sources_sha256": source})
    places = itertools.chain.from_iterable(entry.pop("places") for entry in entries)
    rows = np.array(
        [(*place, label) for place, label in zip(places, images.labels, strict=True)], ROW
    )
    index = io.BytesIO()
    np.save(index, rows)
    _write(target / f"{part}.npy", index.getvalue())
    return {
        "images": len(images),
        "index_sha256": hashlib.sha256(index.getvalue()).hexdigest(),
        "shards": entries,
    }


def _state(paths: Sequence[Path]) -> str:
    """The SHA-256 of the sizes and times of change, in whole seconds, of some files."""
    states = ((found.st_size, int(found.st_mtime)) for found in (path.stat() for path in paths))
    return hashlib.sha256(json.dumps([*states]).encode()).hexdigest()


def _described(path: Path) -> dict[str, Any]:
    """What the manifest says of a shard, and as ``places`` where its images stand."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with tarfile.open(path) as tar:
        places = [(member.offset_data, member.size) for member in tar]
    return {
        "file": path.name,
        "images": len(places),
        "bytes": path.stat().st_size,
        "sha256": digest,
        "places": places,
    }


def _whole(path: Path, expected: dict[str, Any], known: dict[str, Any]) -> dict[str, Any] | None:
    """The same, or None if the shard is missing or damaged, or its images are known to have
    changed."""
    try:
        entry = _described(path) | {"sources_sha256": expected["sources_sha256"]}
    except (OSError, tarfile.TarError):
        return None
    was = {name: known.get(name, entry[name]) for name in ("sha256", "sources_sha256")}
    return entry if entry["images"] == expected["images"] and entry | was == entry else None


def write_shard(
    path: Path, members: Iterator[tuple[str, bytes]], advance: Callable[[], Any]
) -> None:
    """A tar file whose bytes depend on nothing but its members."""
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)  # as made: no owner, no time
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            advance()


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


def _stored(images: _Shrunk, places: list[int], workers: int) -> Iterator[tuple[str, bytes]]:
    """The images at ``places``, in order."""
    from torch.utils.data import DataLoader

    workers = at_most_a_core_each(workers)
    loader = DataLoader(
        images,
        batch_size=None,
        sampler=places,
        num_workers=workers,
        prefetch_factor=64 if workers else None,
        collate_fn=tuple,  # as they are
        worker_init_fn=killed_with_parent,
        generator=torch.Generator(),
    )
    with workers_errors(), killed_workers():
        yield from loader


class _Shrunk(torch.utils.data.Dataset):
    """Images with their names as a pack stores them: brought to ``short_side`` and encoded, or as
    they are."""

    def __init__(self, images: Files, names: list[str], short_side: int, quality: int) -> None:
        self.images, self.names, self.short_side, self.quality = images, names, short_side, quality

    def __getitem__(self, place: int) -> tuple[str, bytes]:
        from PIL import Image
        from torchvision.transforms.v2.functional import resize

        # what is kept as it is must be whole, too
        name, x = self.names[place], self.images.decoded(place)
        if min(x.shape[1:]) <= self.short_side:
            return name, self.images.read(place)
        pixels = resize(x, [self.short_side], antialias=True).permute(1, 2, 0).numpy()
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=self.quality, optimize=True)
        return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg", data.getvalue()
