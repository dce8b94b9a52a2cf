"""How the command line writes: tables, JSON, times and numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from local_trainer.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NOTHING = "–"
"""Shown where there is no value yet."""

# A pipe has no width; this is enough for every table of ours not to be cut.
_PIPE_WIDTH = 160


def stdout() -> Console:
    """Return the console for results."""
    return _console(is_stderr=False)


def stderr() -> Console:
    """Return the console for progress and everything that is not a result."""
    return _console(is_stderr=True)


def _console(is_stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if is_stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=is_stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def print_json(data: Any) -> None:
    """Write one JSON document to standard output."""
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def print_error(message: str) -> None:
    """Write one line to standard error."""
    print(f"error: {one_line(message)}", file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table; columns whose name begins with ``>`` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE, pad_edge=False, header_style="bold")
    for name in columns:
        is_right = name.startswith(">")
        result.add_column(name.lstrip(">"), justify="right" if is_right else "left")
    for row in rows:
        result.add_row(*map(Text, row))  # Text: brackets in a cell are no markup
    return result


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Return a two-column listing: name and value."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, Text(value))
    return grid


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def lap_time(seconds: float | None) -> str:
    """Return a lap time, or a dash if no lap was completed."""
    return NOTHING if seconds is None else f"{seconds:.2f} s"


def percent(value: float | None) -> str:
    """Return a percentage without decimals."""
    return NOTHING if value is None else f"{value:.0f} %"


def counted(number: int, word: str) -> str:
    """Return a number with its noun: ``1 step``, ``2,000 steps``."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
