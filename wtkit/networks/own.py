"""A network of your own: a class or function of an installed or local module, made without the
net."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import socket
import sys
import sysconfig
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import WtkitError
from ..validation import nearest


def own_network(path: str, arguments: dict[str, Any]) -> nn.Module:
    """An instance of the class at ``package.module:Class``. Errors inside the class are raised
    unchanged.

    Raises:
        WtkitError: if there is no such class or function; if it is one of torch's or of the
            standard library's, such as ``torch.hub:load``, which would run code or open files that
            the settings name; if it does not take the arguments, returns no module, or connects to
            another machine.
    """
    made = _named(path)
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError) as error:
        raise not_made(path, arguments, error) from None
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "none"
        raise not_made(path, arguments, TypeError(f"{error}; it takes {takes}")) from None
    with _offline(path):
        model = made(**arguments)
    if not isinstance(model, nn.Module):
        raise WtkitError(
            f"setting 'network': {path!r}: expected it to return an nn.Module, got "
            f"{type(model).__name__}"
        )
    return model


def _named(path: str) -> Any:
    """The class or function at ``path``."""
    module_name, _, class_name = path.partition(":")
    if os.getcwd() not in sys.path:  # there already under ``python -m wtkit``
        sys.path.append(os.getcwd())
    try:
        with _offline(path):
            module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, NameError) as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        missing = "; start in the folder that holds it, or install it" if is_missing else ""
        raise WtkitError(
            f"setting 'network': {path!r}: {type(error).__name__}: {error}{missing}"
        ) from None
    if not hasattr(module, class_name):
        near = nearest(class_name, vars(module))
        raise WtkitError(
            f"setting 'network': {path!r}: {module.__name__} has no {class_name!r}{near}"
        )
    made = getattr(module, class_name)
    if not callable(made):
        raise WtkitError(
            f"setting 'network': {path!r}: expected a class, or a function that returns a network"
        )
    if isinstance(made, type) and not issubclass(made, nn.Module):
        raise WtkitError(f"setting 'network': {path!r}: expected a class that is an nn.Module")
    if not isinstance(made, type) and _is_of_a_library(made):
        raise WtkitError(
            f"setting 'network': {path!r}: functions of torch and of Python's library are not "
            "accepted; write a function or a class of your own that returns the network"
        )
    return made


def _is_of_a_library(made: Any) -> bool:
    """Whether a function is torch's or the standard library's, whatever module it was found in."""
    while hasattr(made, "func"):  # functools.partial
        made = made.func
    if isinstance(made, type) and issubclass(made, nn.Module):
        return False
    origin = getattr(made, "__module__", None) or type(made).__module__
    package = origin.partition(".")[0]
    if package not in sys.stdlib_module_names:
        return package == "torch"
    # a module of the user's may have the name of one of these
    file = getattr(sys.modules.get(package), "__file__", None)
    return file is None or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


@contextlib.contextmanager
def _offline(path: str) -> Iterator[None]:
    """Refuse connections to other machines: what a network is made of must be here already.

    Raises:
        WtkitError: on a connection, also if the code within has handled the refusal.
    """
    refusal = WtkitError(
        f"setting 'network': {path!r} connects to the net; fetch what it needs beforehand, and "
        "load it from a file in a class of your own"
    )
    here, tried = threading.get_ident(), False
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def refuse() -> None:
        nonlocal tried
        if threading.get_ident() == here:  # other threads of the program are not ours to stop
            tried = True
            raise refusal

    def checked_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse()
        connect(self, address)

    def checked_look_up(*arguments: Any, **options: Any) -> Any:
        refuse()
        return look_up(*arguments, **options)

    socket.socket.connect, socket.getaddrinfo = checked_connect, checked_look_up  # type: ignore
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = connect, look_up  # type: ignore
        if tried:
            raise refusal


def not_made(name: str, arguments: dict[str, Any], error: Exception) -> WtkitError:
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return WtkitError(f"network {name!r} cannot be made with {given}: {one_line(error)}")


def one_line(error: Exception) -> str:
    """The error's text, shortened to a line."""
    return textwrap.shorten(str(error).strip() or type(error).__name__, 160)
