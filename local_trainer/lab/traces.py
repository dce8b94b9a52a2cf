"""The text of step traces as columns: log lines and CSV files of every generation.

A trace row has 15 fields (2019, angles in radians) to 19; CSV files name theirs in a heading.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from local_trainer.errors import ConfigError
from local_trainer.simtrace import TRACE_FIELDS

_LINE = re.compile(r"SIM_TRACE_LOG:([^\t\r\n]*)")
_OF_ALL_GENERATIONS = TRACE_FIELDS[:15]
_ADDED_FIELDS = {
    15: (),
    16: ("episode_status",),
    17: ("episode_status", "pause_duration"),
    18: ("episode_status", "pause_duration", "wall_clock"),
    19: ("episode_status", "pause_duration", "obstacle_crash_counter", "wall_clock"),
}
"""Fields after the fifteenth, by the number of fields."""

_ROWS_AT_ONCE = 4096

_FIRST_STEP = 1.0
"""Number of an episode's first step at most; some generations count from 0."""

_MAX_VALUE = 1e12
"""Beyond this nothing is on a track, and squares of it would overflow."""

TRACE_DTYPE = np.dtype(
    [
        ("episode", "i8"),
        ("steps", "f8"),
        ("X", "f8"),  # m, world frame: the point 0.14 m ahead of the car's origin
        ("Y", "f8"),
        ("yaw", "f8"),  # degrees, whatever the log's unit was
        ("steer", "f8"),  # degrees
        ("throttle", "f8"),  # m/s
        ("action", "i4"),  # -1 where the log has no index
        ("reward", "f8"),
        ("done", "?"),
        ("all_wheels_on_track", "?"),
        ("progress", "f8"),  # percent
        ("closest_waypoint", "i4"),
        ("track_len", "f8"),  # m
        ("tstamp", "f8"),  # s, simulation clock; wall clock in 2019
        ("episode_status", "U16"),  # empty where the generation has none
        ("pause_duration", "f8"),  # s
        ("wall_clock", "f8"),  # s
    ]
)
"""One row of a trace."""


@dataclass(frozen=True)
class Trace:
    """The rows of one log or CSV file."""

    rows: np.ndarray
    """Shape (n,), dtype `TRACE_DTYPE`."""

    num_fields: int
    """Fields of a row, 15 to 19."""

    in_radians: bool
    """Whether the file had its angles in radians."""

    num_skipped: int = 0
    """Rows left out because they are damaged, e.g. the last of a log cut off."""

    is_sorted_out: bool = False
    """Whether several workers' rows were mixed in the file and have been put in order."""

    @property
    def is_2019(self) -> bool:
        """Return whether it is of the first generation, without a status."""
        return self.num_fields == 15


def has_trace_lines(text: str) -> bool:
    """Return whether a text log holds step traces."""
    return "SIM_TRACE_LOG:" in text


def has_trace_heading(text: str) -> bool:
    """Return whether a text is a CSV file of step traces."""
    heading = [name.strip() for name in text.partition("\n")[0].split(",")]
    return set(_OF_ALL_GENERATIONS) <= set(heading)


def parse_log(text: str, what: str) -> Trace:
    """Return the trace lines of a text log; all other lines are passed over.

    Args:
        text: The log.
        what: What to call it in errors.

    Raises:
        ConfigError: If it holds no readable trace line.
    """
    lines = [match[1] for match in _LINE.finditer(text)]
    counts = Counter(line.count(",") + 1 for line in lines)
    known = [count for count, _ in counts.most_common() if count in _ADDED_FIELDS]
    if not known:
        found = f"lines of {next(iter(counts))} fields" if counts else "none"
        raise ConfigError(
            f"{what}: a log must hold SIM_TRACE_LOG lines of 15 to 19 fields, got {found}."
        )
    num_fields = known[0]
    names = (*_OF_ALL_GENERATIONS, *_ADDED_FIELDS[num_fields])
    fields = (line.split(",") for line in lines)
    return _trace(fields, names, num_fields, what)


def parse_csv(text: str, what: str) -> Trace:
    """Return the rows of a CSV trace by the names in its heading.

    Args:
        text: The file.
        what: What to call it in errors.

    Raises:
        ConfigError: If a column is missing or no row can be read.
    """
    reader = csv.reader(text.splitlines())
    try:
        names = tuple(name.strip() for name in next(reader, []))
        missing = [name for name in _OF_ALL_GENERATIONS if name not in names]
        if missing:
            raise ConfigError(f"{what}: a trace must have the column {missing[0]}, got {names}.")
        return _trace(reader, names, len(names), what)
    except csv.Error as error:
        raise ConfigError(f"{what}: must be a CSV file, but {error}.") from None


def _trace(
    fields: Iterable[list[str]], names: tuple[str, ...], num_fields: int, what: str
) -> Trace:
    parts = []
    count = 0
    given = filter(None, fields)  # CSV readers give an empty line as no fields
    while texts := list(islice(given, _ROWS_AT_ONCE)):
        count += len(texts)
        part = _rows_by_column(texts, names)
        if part is None:  # one is damaged: which?
            part = np.array([row for row in _rows(texts, names) if row is not None], TRACE_DTYPE)
        parts.append(part)
    rows = np.concatenate(parts) if parts else np.zeros(0, TRACE_DTYPE)
    if not len(rows):
        raise ConfigError(f"{what}: none of its {count} trace rows can be read.")
    in_radians = num_fields == 15 and _fits_radians(rows)
    if in_radians:
        rows["yaw"] = np.degrees(rows["yaw"])
        rows["steer"] = np.degrees(rows["steer"])
    num_skipped = count - len(rows)
    is_mixed = _is_mixed(rows)
    if is_mixed:
        rows = rows[_episode_by_episode(rows)]
    return Trace(rows, num_fields, in_radians, num_skipped, is_mixed)


def _is_mixed(rows: np.ndarray) -> bool:
    """Return whether an episode seems to begin in its middle: another worker's row came between."""
    is_new = (np.diff(rows["episode"]) != 0) | (np.diff(rows["steps"]) < 0)
    return bool((rows["steps"][1:][is_new] > _FIRST_STEP).any())


def _episode_by_episode(rows: np.ndarray) -> np.ndarray:
    """Return the order in which each episode's rows stand together.

    Workers count their episodes alike, so a row may continue several: it belongs to the car that
    was nearest a step before. Episodes stand in the order of their first rows.

    Returns:
        Indices of rows, shape (n,).
    """
    episodes: list[list[int]] = []
    awaited: dict[tuple[int, float], list[list[int]]] = {}
    places = np.stack([rows["X"], rows["Y"]], axis=1)
    keys = zip(rows["episode"].tolist(), rows["steps"].tolist(), strict=True)
    for k, (episode, step) in enumerate(keys):
        open_ones = awaited.get((episode, step), [])
        if open_ones:
            apart = [float(np.sum((places[k] - places[one[-1]]) ** 2)) for one in open_ones]
            mine = open_ones.pop(int(np.argmin(apart)))
        else:
            mine = []
            episodes.append(mine)
        mine.append(k)
        awaited.setdefault((episode, step + 1.0), []).append(mine)
    return np.concatenate([np.array(one) for one in episodes])


def _rows_by_column(texts: list[list[str]], names: tuple[str, ...]) -> np.ndarray | None:
    """Return all rows, converted a column at a time; None if one of them is damaged."""
    rows = np.zeros(len(texts), TRACE_DTYPE)
    try:
        columns = dict(zip(names, zip(*texts, strict=True), strict=True))
        for name in TRACE_DTYPE.names or ():
            if name not in columns:
                continue
            convert = _CONVERTERS[name]
            if convert is _finite:
                rows[name] = np.array(columns[name], np.float64)
                if not (np.abs(rows[name]) <= _MAX_VALUE).all():
                    return None
            else:  # few different values
                values = {text: convert(text) for text in set(columns[name])}
                rows[name] = [values[text] for text in columns[name]]
    except ValueError:
        return None
    return rows


def _rows(texts: list[list[str]], names: tuple[str, ...]) -> Iterator[tuple[Any, ...] | None]:
    """Yield each row's values in the order of `TRACE_DTYPE`, None for one that is damaged."""
    converters = [
        (names.index(name) if name in names else -1, _CONVERTERS[name])
        for name in TRACE_DTYPE.names or ()
    ]
    for row in texts:
        if len(row) != len(names):
            yield None
            continue
        try:
            yield tuple(convert(row[place] if place >= 0 else "") for place, convert in converters)
        except ValueError:
            yield None


def _fits_radians(rows: np.ndarray) -> bool:
    """Return whether angles can be radians: headings within a turn, steering within 30 degrees."""
    return bool(np.abs(rows["yaw"]).max() <= math.pi + 1e-3 and np.abs(rows["steer"]).max() <= 0.6)


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) <= _MAX_VALUE:
        raise ValueError(text)
    return value


def _finite_or_zero(text: str) -> float:
    return _finite(text) if text else 0.0


def _whole(text: str) -> int:
    value = _finite(text)
    if value != int(value) or abs(value) >= 2**31:
        raise ValueError(text)
    return int(value)


def _action(text: str) -> int:
    try:
        return _whole(text)
    except ValueError:
        return -1  # a continuous action is a pair of numbers


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("true", "false", "0", "1"):
        raise ValueError(text)
    return word in ("true", "1")


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        ("steps", "X", "Y", "yaw", "steer", "throttle", "reward", "progress", "track_len"), _finite
    ),
    **dict.fromkeys(("episode", "closest_waypoint"), _whole),
    **dict.fromkeys(("done", "all_wheels_on_track"), _flag),
    **dict.fromkeys(("tstamp", "pause_duration", "wall_clock"), _finite_or_zero),
    "action": _action,
    "episode_status": str.strip,
}
