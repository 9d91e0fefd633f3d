"""Files that are written whole or not at all."""

import contextlib
import os
from pathlib import Path

from .errors import WtkitError


def write_whole(path: Path, content: bytes | memoryview, remedy: str = "free some space or check the folder") -> None:
    """Write ``content`` to a temporary file beside ``path``, then rename it: whoever reads never meets half a file.

    Libraries that write straight to disk say of a full one what their own buffers met, or crash; so content is made in
    memory, and only written here.

    Raises:
        WtkitError: naming the file, what the system said, and the remedy; what stood at ``path`` is still there.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise WtkitError(f"cannot write {path}: {error.strerror or error}; {remedy}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
