"""The settings that an experiment file may give, as :class:`RunConfig` has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import pydantic

from .. import methods
from ..errors import WtkitError
from ..validation import Typed, is_stray_truth_value, known
from .choices import OLD_SETTINGS, renamed
from .run import RunConfig

_OF_AXES = ("method", "variant", "network", "norm_order", "network_options", "seed")
SETTINGS = [field.name for field in dataclasses.fields(RunConfig) if field.name not in _OF_AXES]
"""The settings that an experiment file may give to all runs, or to those that match."""


class _Settings(Typed):
    NOUN: ClassVar[str] = "setting"
    FIX: ClassVar[str] = "write it in overrides: match: {{method: …}}, set: {{options: {{{}: …}}}}"

    @classmethod
    def check_key(cls, key: str) -> None:
        check_setting(key, list(cls.model_fields), cls.NOUN, "; " + cls.FIX.format(key))

    @pydantic.model_validator(mode="before")
    @classmethod
    def _has_current_names(cls, given: Any) -> Any:
        return renamed(given, OLD_SETTINGS) if isinstance(given, dict) else given

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if is_stray_truth_value(value, field.annotation) and "dict" not in str(field.annotation):
            raise WtkitError(f"expected no truth value, got {value}")
        return value


def _optional(name: str) -> tuple[Any, None]:
    """A setting as :class:`RunConfig` has it, of which a file may give any or none."""
    field = RunConfig.__pydantic_fields__[name]  # type: ignore[attr-defined]
    kind = field.annotation
    return (Annotated[kind, *field.metadata] if field.metadata else kind), None


Settings: type[_Settings] = pydantic.create_model(  # type: ignore[call-overload]
    "Settings", __base__=_Settings, **{name: _optional(name) for name in SETTINGS}
)


def check_setting(key: str, accepted: Sequence[str], what: str, fix: str) -> None:
    """Of an option of some method that does not belong here, say whose it is, and the fix."""
    owners = (
        [] if key in accepted else [name for name in methods.names() if key in option_names(name)]
    )
    if owners:
        raise WtkitError(f"{key!r} is an option of {' and '.join(owners)}{fix}")
    known(key, accepted, what)


def option_names(method: str) -> list[str]:
    return [field.name for field in dataclasses.fields(methods.method_class(method))]  # type: ignore[arg-type]
