"""A checkpoint as a file: tensors and plain values with a checksum, so that reading one runs no
code."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WtkitError
from ..files import write_whole

_MARK = b"wtkit checkpoint, SHA-256 of its members "
_PLAIN = (str, bool, int, float, type(None))


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write the state of a run with ``torch.save``, completely or not at all.

    Its zip archive has a comment: the SHA-256 of the names, sizes and CRC-32 of all members.

    Raises:
        WtkitError: naming the first value that is neither a tensor nor plain; or if the file cannot
            be written.
    """
    content = as_bytes(state)
    then = (
        "resumes from the last saved checkpoint" if path.exists() else "starts from the beginning"
    )
    write_whole(path, content, f"free some space and run the same command again: it {then}")


def as_bytes(state: dict[str, Any]) -> memoryview:
    """The content of a checkpoint.

    Raises:
        WtkitError: naming the first value that is neither a tensor nor plain.
    """
    buffer = io.BytesIO()
    torch.save(_plain(state, "state"), buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = _MARK + _digest(archive)
    return buffer.getbuffer()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What :func:`write_checkpoint` wrote. Arrays come back as tensors, on the CPU.

    Raises:
        WtkitError: why the file cannot be used, in a few words that do not name it. Nothing in the
            file is executed.
    """
    if not path.is_file():  # a pipe would be waited for
        raise WtkitError("it is no file")
    try:
        data = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(data) as archive:
            if not archive.comment.startswith(_MARK):
                raise WtkitError(
                    "it has no checksum: it is cut off or damaged, or from an earlier version or "
                    "another program"
                )
            whole = (
                archive.comment == _MARK + _digest(archive)
                and _takes_no_more(archive, len(data.getbuffer()))
                and archive.testzip() is None
            )
        data.seek(0)
        state = torch.load(data, map_location="cpu", weights_only=True) if whole else None
    except WtkitError:
        raise
    except OSError as error:
        raise WtkitError(f"it cannot be read ({error.strerror or error})") from None
    except Exception:  # a damaged archive can raise anything
        raise WtkitError("it is cut off, damaged, or no checkpoint") from None
    if not isinstance(state, dict):
        raise WtkitError("its content is not what was written: a part was damaged or changed")
    return state


def _digest(archive: zipfile.ZipFile) -> bytes:
    members = [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
    return hashlib.sha256(repr(members).encode()).hexdigest().encode()


def _takes_no_more(archive: zipfile.ZipFile, size: int) -> bool:
    """Whether the members are stored as they are, so that they take no more memory than the
    file."""
    members = archive.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    return stored and sum(member.file_size for member in members) <= size


def _plain(value: Any, name: str) -> Any:
    """``value`` with NumPy's arrays as tensors and NumPy's numbers as Python's."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (dict, OrderedDict):
        # in place: the order and the version numbers of a state_dict stay with it
        made = value.copy()
        for key in value:
            made[key] = _plain(value[key], f"{name}[{key!r}]")
        return made
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{name}[{i}]") for i, item in enumerate(value))
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return value
    raise WtkitError(
        f"{name} is of type {type(value).__name__}, but a checkpoint holds tensors, numbers, "
        "texts, lists and dictionaries only; if it is a module's extra state, return one of these "
        "from its get_extra_state"
    )
