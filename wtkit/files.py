"""Files that are written whole or not at all, and folders that one process holds."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from io import BufferedWriter
from pathlib import Path

from .errors import WtkitError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A file to write, which takes the name ``path`` when it is whole and on the disk: no reader
    meets half of it."""
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


def write_whole(
    path: Path, content: bytes | memoryview, remedy: str = "free some space or check the folder"
) -> None:
    """Write ``content`` to ``path``, whose folder is made if need be.

    Libraries that write straight to disk say of a full one what their own buffers met, or crash; so
    content is made in memory, and only written here.

    Raises:
        WtkitError: naming the file, what the system said, and the remedy; what stood at ``path`` is
            still there.
    """
    if path.is_dir():
        raise WtkitError(f"cannot write {path}: it is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise WtkitError(f"cannot write {path}: {error.strerror or error}; {remedy}") from None


def refuse_overwriting(path: Path, replaceable: Callable[[Path], bool], product: str) -> None:
    """Allow writing to ``path`` only if nothing is there, or what ``replaceable`` accepts.

    Args:
        replaceable: whether a file is an earlier product of the same command. An ``OSError`` or a
            ``ValueError`` means no.
        product: what the command writes, for the message.

    Raises:
        WtkitError: if ``path`` is a folder or another file. It is not changed.
    """
    if not path.exists():
        return
    if path.is_dir():
        raise WtkitError(f"cannot write {path}: it is a folder; name a file in it")
    try:
        if replaceable(path):
            return
    except (OSError, ValueError):
        pass
    raise WtkitError(f"{path} exists and is not {product}; choose another file, or delete it first")


@contextlib.contextmanager
def held(folder: Path, otherwise: str) -> Iterator[None]:
    """Hold ``folder`` for this process alone; the lock goes with the process, however it ends.

    Raises:
        WtkitError: with the text ``otherwise``, if another process holds it.
        OSError: if nothing can be written there.
    """
    # "a", not "w": if .lock is a link, its target stays as it is
    with open(folder / ".lock", "a") as lock:
        # or processes that decode images would hold it on after us
        os.register_at_fork(after_in_child=lock.close)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WtkitError(otherwise) from None
        yield
