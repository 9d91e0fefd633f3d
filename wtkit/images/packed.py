"""Reading a pack, which :mod:`wtkit.images.packing` describes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pydantic

from ..errors import WtkitError
from .files import PARTS, Images

FORMAT = 1
ROW = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4")])
"""Where in its shard the bytes of an image begin, how many they are, and its class."""


@dataclasses.dataclass(frozen=True)
class Packed(Images):
    """Images of one part of a pack.

    Attributes:
        rows: (N,), where each stands in its shard, as in the part's ``.npy``.
        shards: (N,), the number of the shard.
    """

    root: Path
    part: str
    rows: np.ndarray
    shards: np.ndarray
    labels: list[int]
    remedy: str
    # shard → its descriptor
    files: dict[int, int] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def read(self, place: int) -> bytes:
        shard, (offset, size, _) = int(self.shards[place]), self.rows[place].tolist()
        if shard not in self.files:
            self.files[shard] = os.open(self.root / shard_name(self.part, shard), os.O_RDONLY)
        data = os.pread(self.files[shard], size, offset)
        if len(data) < size:
            raise OSError("the shard is cut off before its end")
        return data

    def where(self, place: int) -> str:
        return (
            f"{self.root / shard_name(self.part, self.shards[place])} at byte "
            f"{self.rows[place]['offset']}"
        )

    def take(self, places: Sequence[int]) -> Packed:
        labels = [self.labels[i] for i in places]
        return dataclasses.replace(
            self, rows=self.rows[places], shards=self.shards[places], labels=labels
        )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"files": {}}  # another process opens its own

    def __del__(self) -> None:
        for file in self.files.values():
            os.close(file)


def is_pack(root: Path) -> bool:
    return (root / "pack.json").exists()


def open_pack(root: Path, choose: Callable[[int], dict[int, int]]) -> tuple[Packed, Packed, int]:
    """Training and held-out images of the classes that ``choose`` takes of so many, and their
    number.

    Raises:
        WtkitError: if the pack is not whole: unfinished, a file of it missing or cut off, or an
            index changed. A byte that changed within a shard is found by packing again, not here:
            that would take reading all of it.
    """
    manifest = read_manifest(root)
    command = ["wtkit", "data", "pack", manifest["source"], str(root)]
    command += [
        f"--{name.replace('_', '-')}={manifest[name]}"
        for name in ("short_side", "quality", "shard_images")
    ]
    if "parts" not in manifest:
        raise WtkitError(f"{root}/ holds an unfinished pack; finish it with: {shlex.join(command)}")
    remedy = f"copy it again, or mend the pack with: {shlex.join(command)}"
    chosen = choose(len(manifest["classes"]))
    parts = []
    for part in PARTS:
        rows = _rows(root, part, manifest["parts"][part], remedy)
        (places,) = np.isin(rows["label"], list(chosen)).nonzero()
        labels = [chosen[label] for label in rows["label"][places].tolist()]
        parts.append(
            Packed(root, part, rows[places], places // manifest["shard_images"], labels, remedy)
        )
    return parts[0], parts[1], len(chosen)


class _Shard(pydantic.BaseModel):
    # the name becomes a path
    file: Annotated[str, pydantic.Field(pattern=r"^(train|val)-[0-9]+\.tar$")]
    bytes: int


class _Part(pydantic.BaseModel):
    index_sha256: str
    shards: list[_Shard]


class _Parts(pydantic.BaseModel):
    train: _Part
    val: _Part


class _Manifest(pydantic.BaseModel):
    """What a reader of a pack takes from its manifest; ``parts`` is missing until it is whole."""

    source: str
    short_side: int
    quality: int
    shard_images: Annotated[int, pydantic.Field(ge=1, le=10**9)]
    classes: list[str]
    parts: _Parts = cast("_Parts", None)


def read_manifest(root: Path) -> dict[str, Any]:
    """The content of ``pack.json``.

    Raises:
        WtkitError: if the file cannot be read, lacks a key, or is of another format.
    """
    path = root / "pack.json"
    again = "copy it again, or pack into a new folder"
    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError("it is no file")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WtkitError(f"cannot read {path} ({error!r}); {again}") from None
    if found != FORMAT:
        raise WtkitError(
            f"{root}/pack.json: its format is {found!r}, expected {FORMAT}; pack anew "
            "into a new folder"
        )
    try:
        _Manifest.model_validate(manifest)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WtkitError(f"{path}: {where!r}: {first['msg']}; {again}") from None
    return manifest


def _rows(root: Path, part: str, described: dict[str, Any], remedy: str) -> np.ndarray:
    """The index of a part, its shards being there and of the size that they should have."""
    for shard in described["shards"]:
        path = root / shard["file"]
        size = path.stat().st_size if path.exists() else 0
        if size != shard["bytes"]:
            raise WtkitError(
                f"{path} has {size:,} of {shard['bytes']:,} bytes: it is cut off or "
                f"changed; {remedy}"
            )
    path = root / f"{part}.npy"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WtkitError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    if hashlib.sha256(data).hexdigest() != described["index_sha256"]:
        raise WtkitError(f"{path} is cut off or changed; {remedy}")
    try:
        rows = np.load(io.BytesIO(data))  # which by default unpickles nothing
        if rows.dtype != ROW or rows.ndim != 1:
            raise ValueError
    except ValueError:
        raise WtkitError(f"{path} is no index of a pack; {remedy}") from None
    return rows


def shard_name(part: str, number: int) -> str:
    return f"{part}-{number:05d}.tar"
