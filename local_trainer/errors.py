"""The errors a caller may want to tell apart; every message says what, allowed, got.

LocalTrainerError
├── ConfigError           a value the user gave is wrong (exit status 2)
├── RewardFunctionError   the user's reward function failed (exit status 2)
├── NotFound              a run, checkpoint or file does not exist (exit status 2)
└── RunFailed             a run could not go on
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class LocalTrainerError(Exception):
    """Base of all errors shown to the user as one line."""

    exit_status = 1


class ConfigError(LocalTrainerError, ValueError):
    """Raised when something the user gave is not allowed."""

    exit_status = 2


class NotFound(LocalTrainerError):
    """Raised when a named run, checkpoint or file does not exist."""

    exit_status = 2


class RewardFunctionError(LocalTrainerError):
    """Raised when a reward function cannot be loaded, fails, or returns nonsense."""

    exit_status = 2

    params: dict[str, Any] | None = None
    """What the function was given, if a call failed."""


class RunFailed(LocalTrainerError):
    """Raised when a run cannot go on."""


def unknown_name(what: str, got: str, known: Iterable[str]) -> str:
    """Return the line for a name nobody knows: the nearest known one first, then all of them."""
    names = sorted(known)
    near = get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {got!r}.{hint} Allowed: {', '.join(names)}."
