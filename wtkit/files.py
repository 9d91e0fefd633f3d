"""Files that are written completely or not at all, and folders that one process locks."""

import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from io import BufferedWriter
from pathlib import Path
from typing import IO

from .errors import WtkitError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A file to write. It gets the name ``path`` once it is complete and on disk, so that no reader
    sees a part of it."""
    partial = path.with_name(f".{path.name}.partial")
    # what was left there goes, also a link, whose target stays as it is
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not _is_at(partial, file):
                raise OSError(errno.EBUSY, "another process writes it at the same time")
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                if _is_at(partial, file):
                    partial.unlink()
            raise


def _is_at(path: Path, file: IO) -> bool:
    """Whether ``path`` still is the open ``file``; another process may have replaced it."""
    return path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))


def write_whole(
    path: Path, content: bytes | memoryview, remedy: str = "free some space or check the folder"
) -> None:
    """Write ``content`` to ``path``; its folder is created if needed.

    Libraries that write to a full disk themselves raise unclear errors, or crash. So they write to
    memory, and only this function writes to disk.

    Raises:
        WtkitError: naming the file, the system's error, and the remedy. The old file at ``path``
            still exists.
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
        replaceable: whether a file is an earlier product of the same command. An exception means
            no.
        product: what the command writes, for the message.

    Raises:
        WtkitError: if ``path`` is a folder or another file. It is not changed.
    """
    if not path.exists():
        return
    if path.is_dir():
        raise WtkitError(f"cannot write {path}: it is a folder; name a file in it")
    try:
        if path.is_file() and replaceable(path):  # a pipe would be waited for
            return
    except Exception:  # a file of another kind, or a damaged one, can raise anything
        pass
    raise WtkitError(f"{path} exists and is not {product}; choose another file, or delete it first")


@contextlib.contextmanager
def held(folder: Path, otherwise: str | None) -> Iterator[None]:
    """Lock ``folder`` for this process. The lock ends with the process, however it ends. If another
    process has locked it, raise, or wait if ``otherwise`` is None.

    A file system without locks, as some of NFS and Lustre are, gets a line of warning on standard
    error.

    Raises:
        WtkitError: with the text ``otherwise``, if another process has locked it.
        OSError: if the folder is not writable.
    """
    path = folder / ".lock"
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, f"{path} is no file", str(path))
    # "a", not "w": if .lock is a link, its target stays as it is
    with open(path, "a") as lock:
        # otherwise the processes that decode images would keep the lock after this one ends
        os.register_at_fork(after_in_child=lock.close)
        try:
            while not locked(lock):
                if otherwise is not None:
                    raise WtkitError(otherwise)
                time.sleep(0.05)
        except NoLocks as error:
            print(
                f"wtkit: warning: no locks in {folder} ({error}); see to it that no second process "
                "writes to it",
                file=sys.stderr,
                flush=True,
            )
        yield


class NoLocks(Exception):
    """A file system has no locks."""


def locked(file: IO) -> bool:
    """Lock an open file for this process; False if another one has locked it.

    Raises:
        NoLocks: if the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EACCES:  # what flock by way of NFS may say instead
            return False
        # ENOSYS, ENOLCK, EOPNOTSUPP and, on Lustre, ENOTSUPP, for which there is no name
        raise NoLocks(error.strerror or str(error)) from None
    return True
