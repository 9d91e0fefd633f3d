"""From a mapping that somebody typed to a validated, frozen dataclass, or to a sentence that says
what is wrong."""

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeVar, cast, dataclass_transform

import pydantic

from .errors import WtkitError

T = TypeVar("T")

# Lax types on purpose: YAML reads 1e-3 as text, and a command line knows nothing else.
_CONFIG = pydantic.ConfigDict(validate_default=True, extra="forbid", allow_inf_nan=False)


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def frozen(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that validates its fields.

    Its constructor raises WtkitError, naming the first unknown key or refused value and what is
    accepted. A value is called an option of the method that ``cls`` stands in the file of, or
    whatever ``cls.NOUN`` says.
    """
    made = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
    fields = made.__pydantic_fields__
    construct = made.__init__
    what = vars(cls).get("NOUN") or f"option of {cls.__module__.rpartition('.')[2]}"

    @functools.wraps(construct)
    def checked(self: T, **values: Any) -> None:
        for name, value in values.items():
            known(name, fields, what)
            if isinstance(value, bool) and "bool" not in str(fields[name].annotation):
                raise WtkitError(f"{what} {name!r}: expected no truth value, got {value}")
        try:
            construct(self, **values)
        except pydantic.ValidationError as error:
            raise _sentence(error, what) from None

    made.__init__ = checked  # type: ignore[assignment, method-assign]
    return cast(type[T], made)


def known(value: str, accepted: Iterable[str], what: str) -> str:
    """Return ``value`` if it is one of ``accepted``.

    Raises:
        WtkitError: naming ``what`` it is, the value, the nearest accepted one and all of them.
    """
    accepted = list(accepted)
    if value in accepted:
        return value
    raise WtkitError(
        f"unknown {what} {value!r}{nearest(value, accepted)}; accepted: "
        f"{', '.join(accepted) or 'none'}"
    )


def nearest(value: str, accepted: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"``, or nothing where nothing is near."""
    match = difflib.get_close_matches(str(value), list(accepted), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def described(cls: type) -> dict[str, str]:
    """What each field of ``cls`` is: the first sentence on it under ``Attributes:`` in the
    docstring, as plain text."""
    listed = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    plain = {name: re.sub(r":\w+:(?=`)|`", "", " ".join(text.split())) for name, text in entries}
    return {name: re.split(r"\.(?: |$)", text)[0] for name, text in plain.items()}


def _sentence(error: pydantic.ValidationError, what: str) -> WtkitError:
    """The first of what pydantic refused, in a line."""
    first = error.errors()[0]
    where = f"{what} {'.'.join(map(str, first['loc']))!r}: " if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    if first["type"] == "missing":
        message = "is required"
    if first["type"] == "string_pattern_mismatch":  # of which there are only ^[…]*$
        message = f"may have the characters {first['ctx']['pattern'][2:-3]} only"
    given = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    if first["type"] == "literal_error":
        given += nearest(first["input"], re.findall(r"'(.*?)'", first["ctx"]["expected"]))
    return WtkitError(f"{where}{message[0].lower()}{message[1:]}{given}")
