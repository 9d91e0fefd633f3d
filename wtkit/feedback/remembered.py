"""A cache for results that depend only on shapes and are needed in every forward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Asked = TypeVar("Asked", bound=Callable[..., Any])


def remembered(function: Asked) -> Asked:
    """``function``, which keeps its answers. Where it is compiled, the compiler follows it as it is
    written: its sizes may be symbols."""
    keeping = functools.lru_cache(4096)(function)

    @functools.wraps(function)
    def ask(*arguments: Any) -> Any:
        return (function if torch.compiler.is_compiling() else keeping)(*arguments)

    return ask  # type: ignore[return-value]  # of the same signature
