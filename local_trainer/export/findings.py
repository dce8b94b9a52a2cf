"""What a check found: one line a rule, and how to mend what would be refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "warning", "refused", "not checked"]


@dataclass(frozen=True)
class Finding:
    """What became of one rule."""

    rule: str
    outcome: Outcome
    found: str
    """What is there, one line."""
    mend: str = ""
    """How to mend it; empty if nothing is wrong."""


@dataclass(frozen=True)
class CheckReport:
    """Every rule for one model."""

    path: str
    target: Literal["console", "car"]
    findings: tuple[Finding, ...]

    @property
    def is_refused(self) -> bool:
        """Return whether any rule refuses the model."""
        return any(finding.outcome == "refused" for finding in self.findings)

    def count(self, outcome: Outcome) -> int:
        """Return how many rules came out so."""
        return sum(finding.outcome == outcome for finding in self.findings)


def passed(rule: str, found: str) -> Finding:
    """Return a rule that is kept."""
    return Finding(rule, "passed", found)


def refused(rule: str, found: str, mend: str) -> Finding:
    """Return a rule that is broken."""
    return Finding(rule, "refused", found, mend)


def warning(rule: str, found: str, mend: str) -> Finding:
    """Return something that is taken, but not as it may be meant."""
    return Finding(rule, "warning", found, mend)


def not_checked(rule: str, why: str) -> Finding:
    """Return a rule that could not be looked at."""
    return Finding(rule, "not checked", why)
