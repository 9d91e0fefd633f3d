"""The methods as text, from their docstrings: label, equation, options."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import get_args

from .. import methods
from ..validation import described

WIDTH = 100


def list_methods(names: Iterable[str] = ()) -> str:
    """The methods with label, name, equation and options with their defaults.

    Args:
        names: those to list; all if empty.

    Raises:
        WtkitError: for an unknown name.

    >>> print(list_methods(["feedback_alignment"]))  # doctest: +ELLIPSIS
    FA  feedback_alignment
        δ_l = φ'(y_l) B_{l+1} δ_{l+1}
        scale=1.0  ...
    """
    return "\n\n".join(_entry(name) for name in list(names) or methods.names())


def _entry(name: str) -> str:
    cls = methods.method_class(name)
    what, own = described(cls), dataclasses.fields(cls)  # type: ignore[arg-type]
    options = [(f"{field.name}={field.default!s}", _words(field, what)) for field in own]
    width = max((len(option) for option, _ in options), default=0)
    lines = [_wrapped(f"{option:{width}}  ", text) for option, text in options] or ["no options"]
    indented = textwrap.indent("\n".join([equation(cls), *lines]), " " * 4)
    return f"{cls.label}  {name}\n{indented}"


def _words(field: dataclasses.Field, what: Mapping[str, str]) -> str:
    """What an option is, with its choices where the description does not name them."""
    text = what.get(field.name, "")
    choices = [word for word in get_args(field.type) if isinstance(word, str)]
    if any(word not in text for word in choices):
        text += f"; one of {', '.join(choices)}"
    return text


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(text, WIDTH - 4, initial_indent=start, subsequent_indent=" " * len(start))


def equation(cls: type) -> str:
    """The first block of equations in a method's docstring: the indented lines behind ``::``."""
    text = inspect.cleandoc(cls.__doc__ or "")
    block = re.search(r"::\n\n((?: {4}.*\n?|\n)+)", text)
    return textwrap.dedent(block[1]).strip() if block else "(no equation in its docstring)"
