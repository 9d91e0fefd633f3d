"""The methods, one file each; the file's name is the method's name."""

import importlib
import inspect
import pkgutil
from typing import Any

from ..settings import known, validated
from .base import Method

__all__ = ["Method", "load", "method_class", "names"]


def names() -> list[str]:
    """Names of all methods: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def method_class(name: str) -> type[Method]:
    """The :class:`Method` that the file ``name`` defines.

    Raises:
        WtkitError: where there is no such method.
    """
    module = importlib.import_module(f"{__name__}.{known(name, names(), 'method')}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    )
    return found


def load(name: str, **options: Any) -> Method:
    """The method ``name`` with these hyper-parameters.

    Raises:
        WtkitError: for an unknown method, an option that it does not have, or a value that the option refuses.
    """
    return validated(method_class(name), options, f"option of {name}")
