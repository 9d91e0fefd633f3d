"""Claims, findings, and the rules that combine findings."""

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
"""The verdict on a claim. All but the first two have a remark: what is undecided, why a test is
impossible, or what shows the claim."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The verdict of one network's runs on a claim, the measured numbers, and a remark."""

    outcome: Outcome
    measured: str = ""
    why: str = ""


class CannotTestError(Exception):
    """The runs lack what a test needs; the message names it."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        where: section, figure or equation.
        text: the claim, in our words.
        test: judges one network's runs; None if recorded runs cannot show the claim.
        network: the only network that the claim is about; empty for every network.
        elsewhere: what else shows it, in addition to recorded runs or instead of them.
        shown: the outcome of a claim without a test.
    """

    id: str
    where: str
    text: str
    test: Callable[[xr.Dataset], Finding] | None = None
    network: str = ""
    elsewhere: str = ""
    shown: Outcome = "shown by a test"

    def judge(self, tree: xr.DataTree) -> dict[str, Finding]:
        """A finding for each network that the claim is about; the key is empty for a claim without
        a test."""
        if self.test is None:
            return {"": Finding(self.shown, why=self.elsewhere)}
        nodes = networks_of(tree)
        if self.network and self.network not in nodes:
            return {
                self.network: Finding(
                    "cannot be tested here", why=f"{network_label(self.network)} was not run"
                )
            }
        return {
            name: self._judge_node(node)
            for name, node in nodes.items()
            if self.network in ("", name)
        }

    def _judge_node(self, node: xr.Dataset) -> Finding:
        assert self.test is not None
        try:
            finding = self.test(node)
        except CannotTestError as error:
            finding = Finding("cannot be tested here", why=str(error))
        return dataclasses.replace(finding, why=joined(finding.why, self.elsewhere))


class ClaimList(list[Claim]):
    """The claims of one module, in the paper's order."""

    def of_runs(
        self, id: str, where: str, text: str, *, network: str = "", elsewhere: str = ""
    ) -> Callable:
        """Decorate a test of recorded runs to add its claim."""

        def add(test: Callable[[xr.Dataset], Finding]) -> Callable[[xr.Dataset], Finding]:
            self.append(Claim(id, where, text, test, network, elsewhere))
            return test

        return add

    def shown_by(
        self, id: str, where: str, text: str, by: str, shown: Outcome = "shown by a test"
    ) -> None:
        """Add a claim that recorded runs cannot show; ``by`` names what shows it."""
        self.append(Claim(id, where, text, elsewhere=by, shown=shown))


def joined(*texts: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))


def all_of(measured: str, *parts: Finding | Comparison) -> Finding:
    """Combine parts: the claim fails if one part fails, and holds only if all parts hold."""
    among = sum(isinstance(part, Comparison) for part in parts)
    findings = [
        _finding_of(part, among) if isinstance(part, Comparison) else part for part in parts
    ]
    order: tuple[Outcome, ...] = ("fails", "cannot be tested here", "undecided", "holds")
    outcome = min((finding.outcome for finding in findings), key=order.index)
    return Finding(
        outcome,
        joined(measured, *(f.measured for f in findings)),
        joined(*(f.why for f in findings)),
    )


def _finding_of(comparison: Comparison, among: int = 1) -> Finding:
    """The verdict of a comparison, one of ``among`` in the claim."""
    low, high = comparison.interval(among)
    outcome: Outcome = "holds" if low > 0 else "fails" if high < 0 else "undecided"
    return Finding(
        outcome, comparison.measured, "" if low > 0 else f"{outcome}: {comparison.text(among)}"
    )


def decide(holds: bool, measured: str = "", otherwise: str = "") -> Finding:
    return Finding("holds" if holds else "fails", measured, "" if holds else otherwise)
