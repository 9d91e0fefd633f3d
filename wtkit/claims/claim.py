"""What a claim is, what a finding is, and how findings are put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import xarray as xr

from ..results import network_label, networks_of
from .comparison import Comparison

Outcome = Literal[
    "holds",
    "fails",
    "undecided",
    "cannot be tested here",
    "shown by a test",
    "shown by another experiment",
]
"""What can be said of a claim. All but the first two come with a remark: what is not decided, why,
or by which."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one network's runs say of a claim: the outcome, the numbers as text, and why where it
    needs saying."""

    outcome: Outcome
    measured: str = ""
    why: str = ""


class CannotTestError(Exception):
    """Raised by a test that lacks what it needs; the text says what."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        where: section, figure or equation.
        text: the claim, in our words.
        test: what the runs of one network say of it; None where recorded runs cannot show it.
        network: the one network that it speaks of; empty for every network.
        elsewhere: what shows it besides, or instead of, recorded runs.
        shown: of what kind that is, where recorded runs cannot show the claim.
    """

    id: str
    where: str
    text: str
    test: Callable[[xr.Dataset], Finding] | None = None
    network: str = ""
    elsewhere: str = ""
    shown: Outcome = "shown by a test"

    def judge(self, tree: xr.DataTree) -> dict[str, Finding]:
        """A finding for each network that the claim can be held against; the key is empty where
        none is needed."""
        if self.test is None:
            return {"": Finding(self.shown, why=self.elsewhere)}
        nodes = networks_of(tree)
        if self.network and self.network not in nodes:
            return {
                self.network: Finding(
                    "cannot be tested here", why=f"{network_label(self.network)} was not run"
                )
            }
        return {name: self._on(node) for name, node in nodes.items() if self.network in ("", name)}

    def _on(self, node: xr.Dataset) -> Finding:
        assert self.test is not None
        try:
            found = self.test(node)
        except CannotTestError as error:
            found = Finding("cannot be tested here", why=str(error))
        return dataclasses.replace(found, why=listed(found.why, self.elsewhere))


CLAIMS: list[Claim] = []
"""Every claim, in the paper's order."""


def claim_of_runs(
    id: str, where: str, text: str, *, network: str = "", elsewhere: str = ""
) -> Callable:
    def add(test: Callable[[xr.Dataset], Finding]) -> Callable[[xr.Dataset], Finding]:
        CLAIMS.append(Claim(id, where, text, test, network, elsewhere))
        return test

    return add


def claim_shown_by(
    id: str, where: str, text: str, by: str, shown: Outcome = "shown by a test"
) -> None:
    CLAIMS.append(Claim(id, where, text, elsewhere=by, shown=shown))


def listed(*texts: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))


def all_of(measured: str, *parts: Finding | Comparison) -> Finding:
    """All parts together: fails if one fails, and holds only if each one holds."""
    among = sum(isinstance(part, Comparison) for part in parts)
    findings = [_weighed(part, among) if isinstance(part, Comparison) else part for part in parts]
    order: tuple[Outcome, ...] = ("fails", "cannot be tested here", "undecided", "holds")
    outcome = min((found.outcome for found in findings), key=order.index)
    return Finding(
        outcome,
        listed(measured, *(f.measured for f in findings)),
        listed(*(f.why for f in findings)),
    )


def _weighed(compared: Comparison, among: int = 1) -> Finding:
    """What a comparison says, as one of so many of a claim."""
    low, high = compared.interval(among)
    outcome: Outcome = "holds" if low > 0 else "fails" if high < 0 else "undecided"
    return Finding(
        outcome, compared.measured, "" if low > 0 else f"{outcome}: {compared.text(among)}"
    )


def decide(holds: bool, measured: str = "", otherwise: str = "") -> Finding:
    return Finding("holds" if holds else "fails", measured, "" if holds else otherwise)
