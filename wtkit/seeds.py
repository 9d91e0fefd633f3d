"""Seeds of random streams that are independent of each other and the same on every machine."""

from __future__ import annotations

import hashlib
from typing import Any


def stream_seed(*key: Any) -> int:
    """A seed for a random stream of its own, the same for the same key on every machine: 63 bits of
    SHA-256."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "big") >> 1
