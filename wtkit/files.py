"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

from .errors import WtkitError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A file to write, which takes the name ``path`` when it is whole and on the disk: no reader meets half of it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | memoryview, remedy: str = "free some space or check the folder") -> None:
    """Write ``content`` to ``path``, whose folder is made if need be.

    Libraries that write straight to disk say of a full one what their own buffers met, or crash; so content is made in
    memory, and only written here.

    Raises:
        WtkitError: naming the file, what the system said, and the remedy; what stood at ``path`` is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise WtkitError(f"cannot write {path}: {error.strerror or error}; {remedy}") from None
