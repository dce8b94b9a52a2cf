"""Asking before something is deleted."""

from __future__ import annotations

import sys

import typer

from local_trainer.errors import ConfigError


def confirm(question: str, is_agreed: bool) -> None:
    """Ask, and go on only with a yes.

    Args:
        question: Names everything that goes.
        is_agreed: Whether ``--yes`` was given: then nothing is asked.

    Raises:
        ConfigError: If there is no terminal to ask in.
        typer.Abort: If the answer is no.
    """
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{question} There is no terminal to ask in: --yes agrees. Nothing was deleted."
        )
    typer.confirm(question, abort=True)
