"""From a mapping that somebody typed to a validated, frozen object, or to a sentence that says what
is wrong."""

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform

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
    def checked(self: T, *unnamed: Any, **values: Any) -> None:
        if unnamed:
            raise WtkitError(
                f"{what}: expected a name for each, {cls.__name__}({next(iter(fields), '')}=…), "
                f"got {shown(unnamed[0])} without one"
            )
        for name, value in values.items():
            known(name, fields, what)
            if is_stray_truth_value(value, fields[name].annotation):
                raise WtkitError(f"{what} {name!r}: expected no truth value, got {value}")
        try:
            construct(self, **values)
        except pydantic.ValidationError as error:
            raise _sentence(error, f"{what} ") from None

    made.__init__ = checked  # type: ignore[assignment, method-assign]
    return cast(type[T], made)


class Typed(pydantic.BaseModel):
    """A mapping in a file that somebody typed: frozen, its keys known, :meth:`read` from the file.

    Unlike :func:`frozen` objects, one can hold others, and an error names the way to the value:
    ``'overrides[0].set.lr'``.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    NOUN: ClassVar[str] = "key"

    @classmethod
    def read(cls, content: Any) -> Self:
        """Raises WtkitError, naming the first unknown key or refused value."""
        try:
            return cls.model_validate(content)
        except pydantic.ValidationError as error:
            raise _sentence(error) from None

    @property
    def given(self) -> dict[str, Any]:
        """What was typed, without defaults."""
        return self.model_dump(exclude_unset=True)

    @classmethod
    def check_key(cls, key: str) -> None:
        known(key, cls.model_fields, cls.NOUN)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, content: Any) -> Any:
        if isinstance(content, cls):
            return content
        if not isinstance(content, dict):
            raise WtkitError(f"expected a mapping, got {shown(content)}")
        for key in content:
            cls.check_key(str(key))
        return content


def is_stray_truth_value(value: Any, annotation: Any) -> bool:
    """Whether ``value`` is True or False, or a list with one, where none belongs: pydantic takes
    True for the number 1."""
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(one, bool) for one in values) and "bool" not in str(annotation)


def known(value: str, accepted: Iterable[str], what: str) -> str:
    """Return ``value`` if it is one of ``accepted``.

    Raises:
        WtkitError: naming ``what`` it is, the value, the nearest accepted one and all of them.
    """
    accepted = list(accepted)
    if value in accepted:
        return value
    raise WtkitError(
        f"unknown {what} {shown(value)}{nearest(value, accepted)}; accepted: "
        f"{', '.join(accepted) or 'none'}"
    )


def at_least(value: float, least: float, what: str) -> None:
    """Raise WtkitError, naming ``what`` it is, for a number below ``least`` and for NaN."""
    if not value >= least:
        raise WtkitError(f"{what}: expected {least} or more, got {value}")


def shown(value: Any) -> str:
    """``value`` as Python writes it, in one line, cut to a part of it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def nearest(value: str, accepted: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"``, or nothing where nothing is near. Of near words with numbers,
    those with the same numbers come first."""
    word, words = str(value)[:200], list(accepted)
    near = difflib.get_close_matches(word, words, n=len(words) or 1, cutoff=0.4)
    alike = [other for other in near if NUMBER.findall(other) == NUMBER.findall(word) != []]
    match = alike or difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


NUMBER = re.compile(r"\d+")


def nothing_in_here() -> str:
    """What to say where a list of what is in the working directory is empty."""
    return f"none in {Path.cwd()}; run this in the folder of the checkout"


def described(cls: type) -> dict[str, str]:
    """What each field of ``cls`` is: the first sentence on it under ``Attributes:`` in the
    docstring, as plain text."""
    listed = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    plain = {name: re.sub(r":\w+:(?=`)|`", "", " ".join(text.split())) for name, text in entries}
    return {name: SENTENCE_END.split(text)[0] for name, text in plain.items()}


SENTENCE_END = re.compile(r"(?<!\beq)(?<!\beqs)(?<!\bSec)(?<!\bApp)(?<!\bFig)\.(?: |$)")
"""A full stop that does not belong to an abbreviation, as in "eq. 7"."""


_EXPECTED = {
    "missing": "is required",
    "too_short": "expected a list that is not empty",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
}
"""In the words of people who write YAML, by pydantic's type of an error."""
_WITHOUT_VALUE = ("missing", "value_error")


def _sentence(error: pydantic.ValidationError, what: str = "") -> WtkitError:
    """The first of what pydantic refused, in a line; ``what`` goes before the name of the value."""
    first = error.errors()[0]
    where = f"{what}{_way(first['loc'])!r}: " if first["loc"] else ""
    message = _message(first)
    given = "" if first["type"] in _WITHOUT_VALUE else f", got {shown(first['input'])}"
    if first["type"] == "literal_error":
        given += nearest(first["input"], re.findall(r"'(.*?)'", first["ctx"]["expected"]))
    if first["type"] in ("list_type", "tuple_type") and isinstance(
        first["input"], str | int | float
    ):
        given += f"; write [{first['input']}]"
    if first["type"] == "string_type" and isinstance(first["input"], bool):
        given += "; YAML reads yes, no, on and off so: put names in quotes"
    return WtkitError(f"{where}{message[0].lower()}{message[1:]}{given}")


def _way(loc: tuple[int | str, ...]) -> str:
    """The way to a value, ``overrides[0].set.lr``; of a wrong key, to its mapping."""
    if loc[-1] == "[key]":
        loc = loc[:-2]
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in loc)[1:]


def _message(first: Any) -> str:
    """What was expected."""
    if first["type"] in _EXPECTED:
        return _EXPECTED[first["type"]]
    if first["type"] == "string_pattern_mismatch":
        characters = re.fullmatch(r"\^(\[[^]]+\])?\[([^]]+)\]\*\$", first["ctx"]["pattern"])
        if characters is not None:
            no_dot = ", and no . first" if characters[1] else ""
            return f"may have the characters {characters[2]} only{no_dot}"
    return first["msg"].removeprefix("Value error, ")
