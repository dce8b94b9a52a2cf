"""The errors a caller may want to tell apart; every message says what, allowed, got.

LocalTrainerError
├── ConfigError           a value the user gave is wrong (exit status 2)
├── RewardFunctionError   the user's reward function failed (exit status 2)
├── NotFound              a run, checkpoint or file does not exist (exit status 2)
└── RunFailed             a run could not go on
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

Choice = TypeVar("Choice", bound=str)


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


def one_line(said: str | BaseException, most: int | None = None) -> str:
    """Return a text, or what an error says, without line breaks and cut to so many characters.

    An error that says nothing is told by its kind.
    """
    text = " ".join(str(said).split())
    if not text and isinstance(said, BaseException):
        text = type(said).__name__
    return text[:most]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind if it says nothing.

    For errors that say more than anybody wants to know, such as TensorFlow's.
    """
    return str(error).strip().partition("\n")[0].rstrip() or type(error).__name__


def last_line(text: str) -> str:
    """Return the last line of a text that has anything on it, where programs say why they end."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def one_of(what: str, got: str, allowed: Sequence[Choice]) -> Choice:
    """Return the one of the allowed words that was given, as the type that they have.

    Raises:
        ConfigError: If it is none of them.
    """
    for choice in allowed:
        if got == choice:
            return choice
    *others, last = allowed
    raise ConfigError(f"{what} must be {', '.join(others)} or {last}, got {got!r:.40}.")


def unknown_name(what: str, got: str, known: Iterable[str]) -> str:
    """Return the line for a name nobody knows: the nearest known one first, then all of them."""
    names = sorted(known)
    near = get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {got!r}.{hint} Allowed: {', '.join(names)}."
