"""The last line of a result file, which has the checksum of the rest. HDF5 ignores it."""

import hashlib
from pathlib import Path

from ..errors import WtkitError

_MARK = b"\nSHA-256 of all bytes before this line: "
_LENGTH = len(_MARK) + 64 + 1


def with_checksum(content: bytes | memoryview) -> bytes:
    """``content`` with the line after it."""
    return b"".join([content, _MARK, hashlib.sha256(content).hexdigest().encode(), b"\n"])


def check_bytes(path: Path) -> None:
    """Check a file that has the line. Others have none: files of before, and those that another
    program wrote or edited.

    Raises:
        WtkitError: if the file is not what was written; the error does not name it.
        OSError: if it cannot be read.
    """
    if not path.is_file():  # a pipe would be waited for
        raise WtkitError("it is no file")
    content = path.read_bytes()
    line = content[-_LENGTH:]
    if line.startswith(_MARK) and content != with_checksum(content[:-_LENGTH]):
        raise WtkitError("a part of it was damaged or changed after it was written")
