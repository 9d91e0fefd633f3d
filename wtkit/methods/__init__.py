"""The methods, one file each; the file's name is the method's name."""

import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

from ..errors import WtkitError
from ..methods.base import Method
from ..validation import known

__all__ = ["Method", "load", "method_class", "names"]


def names() -> list[str]:
    """Names of all methods: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def method_class(name: str) -> type[Method]:
    """The :class:`Method` that the file ``name`` defines.

    Raises:
        WtkitError: where there is no such method, or its file is not as a method's should be.
    """
    where = f"methods/{known(name, names(), 'method')}.py"
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (ImportError, SyntaxError, NameError) as error:
        raise WtkitError(f"{where}: {type(error).__name__}: {error}") from None
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise WtkitError(f"{where}: expected one class that is a Method, found {len(found)}")
    if not dataclasses.is_dataclass(found[0]):
        raise WtkitError(f"{where}: {found[0].__name__} has no decorator; write @frozen above it")
    missing = sorted(found[0].__abstractmethods__) + (
        [] if hasattr(found[0], "label") else ["label"]
    )
    if missing:
        raise WtkitError(f"{where}: {found[0].__name__} lacks {', '.join(missing)}")
    return found[0]


def load(name: str, **options: Any) -> Method:
    """The method ``name`` with these hyper-parameters.

    Raises:
        WtkitError: for an unknown method, an option that it does not have, or a value that the
            option refuses.
    """
    return method_class(name)(**options)
