"""What may stand in an experiment file, and in an ablation's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, StrictInt

from ..errors import WtkitError
from ..validation import Typed, known, shown
from .choices import NORM_ORDERS, OWN_ORDER, SEED
from .settings import Settings


class Network(NamedTuple):
    """An entry of ``networks``: a name, or ``name: {option: value}``."""

    name: str
    options: dict[str, Any]


def network(entry: Any) -> Network:
    if isinstance(entry, str):
        return Network(entry, {})
    if isinstance(entry, Network):
        return entry
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        if isinstance(options, dict) and all(isinstance(key, str) for key in (name, *options)):
            return Network(name, options)
    raise WtkitError(f"expected a name, or one name with a mapping of options, got {shown(entry)}")


Names = Annotated[list[str], Field(min_length=1)]
Networks = Annotated[list[Annotated[Network, BeforeValidator(network)]], Field(min_length=1)]
NormOrders = Annotated[
    list[Literal[*NORM_ORDERS, OWN_ORDER]],  # type: ignore[valid-type]
    Field(min_length=1),
]


def _without_repeats(seeds: list[int]) -> list[int]:
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise WtkitError(f"{seed} is given twice; leave one out")
    return seeds


Seeds = Annotated[
    list[Annotated[StrictInt, SEED]],
    Field(min_length=1),
    AfterValidator(_without_repeats),
]


class Change(Settings):  # type: ignore[misc, valid-type]
    """Settings for the runs that match, and their own seeds and norm orders."""

    NOUN: ClassVar[str] = "key of 'set'"
    FIX: ClassVar[str] = "write it as options: {{{}: …}}"

    norm_orders: NormOrders | None = None
    seeds: Seeds | None = None

    @pydantic.model_validator(mode="after")
    def _changes_something(self) -> Change:
        if not self.model_fields_set:
            raise WtkitError("expected a setting at least, got {}; leave the override out")
        return self


class Match(Typed):
    """Which runs; all of them, if it names nothing."""

    NOUN: ClassVar[str] = "key of 'match'"

    method: str | None = None
    variant: str | None = None
    network: str | None = None
    norm_order: str | None = None

    def fits(self, who: Mapping[str, str]) -> bool:
        return all(who.get(key) == value for key, value in self.given.items())


class Exclusion(Match):
    """Runs to leave out."""

    NOUN: ClassVar[str] = "key of 'exclude'"


class Override(Typed):
    """A change for the runs that match.

    Attributes:
        match: which runs; ``{}`` for all.
        set: settings for them.
    """

    NOUN: ClassVar[str] = "key of an override"

    match: Match
    set: Change

    @pydantic.model_validator(mode="after")
    def _does_not_match_what_it_sets(self) -> Override:
        if self.match.norm_order is not None and self.set.norm_orders is not None:
            raise WtkitError(
                "an override that matches by 'norm_order' cannot set 'norm_orders'; leave one out"
            )
        return self


class Experiment(Typed):
    """Methods × networks × norm orders × seeds, with settings and overrides.

    Attributes:
        methods: names, or ``name:variant``.
        networks: names, or ``name: {option: value}``.
        norm_orders: of the ResNets. Any other network is run once, in its own order.
        seeds: one run for each.
        settings: for all runs.
        overrides: changes for the runs that match, applied in order.
        exclude: runs to leave out.
    """

    methods: Names
    networks: Networks
    norm_orders: NormOrders = Field(default_factory=lambda: ["relu_bn"])
    seeds: Seeds = Field(default_factory=lambda: [0])
    settings: Settings | None = None  # type: ignore[valid-type]
    overrides: list[Override] | None = None
    exclude: list[Exclusion] | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            keys = ", ".join(cls.model_fields)
            raise WtkitError(f"expected a mapping with the keys {keys}, got {shown(content)}")
        return content

    @classmethod
    def check_key(cls, key: str) -> None:
        if key in ("sweep", "variants"):
            raise WtkitError(
                f"{key!r} is a key of ablations, which name the experiment that they start from: "
                "base: digits"
            )
        known(key, cls.model_fields, cls.NOUN)


class Ablation(Typed):
    """The runs of a base, repeated at each point of a sweep or at each of the variants.

    Attributes:
        base: the name of an experiment in the same folder, or in the one above.
        methods: instead of the base's; names, or ``name:variant``.
        networks: instead of the base's.
        norm_orders: instead of the base's.
        seeds: instead of the base's.
        settings: for all runs. They outdo the base's overrides.
        overrides: changes for the runs that match, after the base's.
        sweep: settings or options, each with a list of values. All combinations are run.
        variants: names of points, each with its settings and options.
    """

    NOUN: ClassVar[str] = "key of an ablation"

    base: str
    methods: Names | None = None
    networks: Networks | None = None
    norm_orders: NormOrders | None = None
    seeds: Seeds | None = None
    settings: Settings | None = None  # type: ignore[valid-type]
    overrides: list[Override] | None = None
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = None
    variants: dict[str, dict[str, Any]] | None = None

    @pydantic.field_validator("variants", mode="before")
    @classmethod
    def _variants_have_names(cls, variants: Any) -> Any:
        if not isinstance(variants, dict):
            return variants
        for name in variants:
            if name is None or isinstance(name, bool):  # YAML's yes, no, on, off, null, ~
                raise WtkitError(
                    f"a name was read as {name}, which YAML means by it; put it in quotes"
                )
            if list(map(str, variants)).count(str(name)) > 1:  # 1 and '1'
                raise WtkitError(f"two are called {name}; give one of them another name")
        return {str(name): change for name, change in variants.items()}

    @pydantic.model_validator(mode="after")
    def _has_points(self) -> Ablation:
        if (self.sweep is None) == (self.variants is None):
            raise WtkitError("an ablation needs either a 'sweep' or 'variants'")
        if not self.sweep and not self.variants:
            key = "variants" if self.sweep is None else "sweep"
            raise WtkitError(f"{key!r}: expected at least one, got {{}}")
        return self
