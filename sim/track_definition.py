"""Reads our track definitions: short text files of straights, arcs and widths.

A definition is a YAML file. It describes the centre line either piece by piece::

    description: Two straights and two bends.
    surface: asphalt            # asphalt (default), carpet, concrete, wood
    width_m: 0.76               # of the road, borders included
    spacing_m: 0.15             # between two waypoints; this is the default
    start: {x_m: 1.0, y_m: 0.5, heading_deg: 0}
    segments:
      - {straight_m: 3.0}
      - {left_deg: 180, radius_m: 1.2}
      - {straight_m: 3.0, width_m: 1.0}   # becomes 1.0 m wide towards its end
      - {left_deg: 180, radius_m: 1.2, width_m: 0.76}

or as a smooth curve through a few points, each with its own width if it differs::

    width_m: 0.76
    points:
      - [0.0, 0.0]
      - [4.0, 0.5, 0.9]
      - [2.0, 3.0]

A track is closed unless it says ``closed: false``. Segments of a closed track must end where
they began, to within 10 cm and 2 degrees; what is missing is spread over the whole lap.
Waypoint 0 lies at the start, and the order of the file is the driving direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sim.geometry import arc_lengths, signed_area
from sim.track import MAX_ROWS, Track

DEFAULT_SPACING_M = 0.15
MAX_WIDTH_M = 20.0

_MAX_GAP_M = 0.10
_MAX_GAP_DEG = 2.0
_MAX_NUMBER = 1e9
_TOP_KEYS = (
    "description",
    "surface",
    "width_m",
    "spacing_m",
    "closed",
    "start",
    "segments",
    "points",
)
_START_KEYS = ("x_m", "y_m", "heading_deg")
_SEGMENT_KEYS = ("straight_m", "left_deg", "right_deg", "radius_m", "width_m")


@dataclass(frozen=True)
class _Segment:
    length_m: float
    turn_rad: float
    """Change of heading over the segment, left positive."""
    end_width_m: float


@dataclass(frozen=True)
class _Line:
    """A centre line sampled at every row; a closed one without its closing row."""

    xy: np.ndarray
    heading_rad: np.ndarray
    width_m: np.ndarray


def read_definition(path: Path) -> Track:
    """Return the track that a definition file describes; its name is the file's.

    Raises:
        ValueError: If the file is not a definition, or describes no drivable track.
    """
    return parse_definition(path.stem, path.read_text(encoding="utf-8"))


def parse_definition(name: str, text: str) -> Track:
    """Return the track that the text of a definition describes.

    Args:
        name: What to call the track; errors begin with it.
        text: YAML as the module's docstring says.

    Raises:
        ValueError: If the text is not a definition, or describes no drivable track.
    """
    what = f"track {name!r}"
    content = _load_yaml(what, text)
    values = _mapping(what, content, _TOP_KEYS)
    width_m = _number(what, values, "width_m", above=0.0, at_most=MAX_WIDTH_M)
    spacing_m = _number(
        what, values, "spacing_m", above=0.0, at_most=5.0, default=DEFAULT_SPACING_M
    )
    closed = values.get("closed", True)
    if not isinstance(closed, bool):
        raise ValueError(f"{what}: closed must be true or false, got {closed!r}")
    if ("segments" in values) == ("points" in values):
        given = "both" if "segments" in values else "neither"
        raise ValueError(f"{what}: give either segments or points, got {given}")
    if "segments" in values:
        start = _mapping(f"{what}: start", values.get("start", {}), _START_KEYS)
        pose = tuple(_number(f"{what}: start", start, key, default=0.0) for key in _START_KEYS)
        segments = _segments(what, values["segments"], width_m)
        line = _line_of_segments(what, segments, pose, width_m, spacing_m, closed)
    else:
        if "start" in values:
            raise ValueError(f"{what}: start belongs to segments; the first point is the start")
        rows = _points(what, values["points"], width_m)
        line = _line_through(what, rows, spacing_m, closed)
    return _track_along(name, line, closed, values.get("surface", "asphalt"))


def format_points_definition(points: np.ndarray, width_m: float, closed: bool = True) -> str:
    """Return the text of a definition through points (N, 2) in m, or (N, 3) with widths."""
    lines = [f"width_m: {width_m!r}"]
    if not closed:
        lines.append("closed: false")
    lines.append("points:")
    for row in points.tolist():
        lines.append(f"  - [{', '.join(repr(round(value, 4)) for value in row)}]")
    return "\n".join(lines) + "\n"


# --- reading values --------------------------------------------------------------------------


def _load_yaml(what: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or "unreadable characters"
    except ValueError as error:  # a date that does not exist, a number of 5000 digits
        where, reason = "", str(error)
    except RecursionError:
        where, reason = "", "nested too deeply"
    raise ValueError(f"{what}: not valid YAML{where}: {reason}")


def _mapping(what: str, value: Any, allowed: Sequence[str]) -> Mapping[str, Any]:
    """Return the value if it is a mapping of allowed keys only."""
    if not isinstance(value, dict):
        kind = "nothing" if value is None else type(value).__name__
        raise ValueError(f"{what}: must be a mapping of {', '.join(allowed)}, got {kind}")
    for key in value:
        if key not in allowed:
            near = get_close_matches(str(key), allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{what}: unknown key {key!r}.{hint} Allowed: {', '.join(allowed)}")
    return value


def _number(
    what: str,
    values: Mapping[str, Any],
    key: str,
    above: float = -math.inf,
    at_most: float = math.inf,
    default: float | None = None,
) -> float:
    """Return a number of a mapping, checked."""
    value = values.get(key, default)
    if value is None and key not in values:
        raise ValueError(f"{what}: {key} is missing")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _MAX_NUMBER or not above < value <= at_most:
        limits = "a number"
        if above > -math.inf:
            limits = f"a number above {above:g}"
        if at_most < math.inf:
            limits += f" and at most {at_most:g}"
        raise ValueError(f"{what}: {key} must be {limits}, got {value!r}")
    return float(value)


def _segments(what: str, value: Any, width_m: float) -> list[_Segment]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what}: segments must be a list of at least one, got {value!r}")
    segments = []
    for number, item in enumerate(value, start=1):
        where = f"{what}: segment {number}"
        keys = _mapping(where, item, _SEGMENT_KEYS)
        kinds = [key for key in ("straight_m", "left_deg", "right_deg") if key in keys]
        if len(kinds) != 1:
            got = " and ".join(kinds) or "none"
            raise ValueError(f"{where}: give one of straight_m, left_deg, right_deg, got {got}")
        if "width_m" in keys:
            width_m = _number(where, keys, "width_m", above=0.0, at_most=MAX_WIDTH_M)
        if kinds[0] == "straight_m":
            if "radius_m" in keys:
                raise ValueError(f"{where}: a straight has no radius_m, got {keys['radius_m']!r}")
            length_m = _number(where, keys, "straight_m", above=0.0, at_most=1000.0)
            segments.append(_Segment(length_m, 0.0, width_m))
            continue
        turn_rad = math.radians(_number(where, keys, kinds[0], above=0.0, at_most=360.0))
        length_m = turn_rad * _number(where, keys, "radius_m", above=0.0, at_most=1000.0)
        sign = 1.0 if kinds[0] == "left_deg" else -1.0
        segments.append(_Segment(length_m, sign * turn_rad, width_m))
    return segments


def _points(what: str, value: Any, width_m: float) -> np.ndarray:
    """Return control points as rows x, y, width. Shape (N, 3)."""
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        raise ValueError(f"{what}: points must be a list of at most {MAX_ROWS}, got {value!r:.60}")
    rows = []
    for number, item in enumerate(value, start=1):
        where = f"{what}: point {number}"
        if not isinstance(item, list) or len(item) not in (2, 3):
            raise ValueError(f"{where}: must be [x, y] or [x, y, width] in metres, got {item!r}")
        named = dict(zip(("x", "y", "width"), item, strict=False))
        x, y = _number(where, named, "x"), _number(where, named, "y")
        width = _number(where, named, "width", above=0.0, at_most=MAX_WIDTH_M, default=width_m)
        rows.append((x, y, width))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


# --- drawing the line ------------------------------------------------------------------------


def _row_stations_m(what: str, length_m: float, spacing_m: float, closed: bool) -> np.ndarray:
    """Return evenly spaced stations; a closed line without the one at its end."""
    count = max(round(length_m / spacing_m), 3 if closed else 1)
    if count >= MAX_ROWS:
        raise ValueError(
            f"{what}: must have at most {MAX_ROWS} rows, got {count} "
            f"({length_m:.1f} m with a spacing_m of {spacing_m:g})"
        )
    stations_m = np.linspace(0.0, length_m, count + 1)
    return stations_m[:-1] if closed else stations_m


def _line_of_segments(
    what: str,
    segments: list[_Segment],
    start: tuple[float, ...],
    start_width_m: float,
    spacing_m: float,
    closed: bool,
) -> _Line:
    """Sample straights and arcs laid end to end from the start pose (m, m, degrees)."""
    lengths_m = np.array([segment.length_m for segment in segments])
    turns_rad = np.array([segment.turn_rad for segment in segments])
    ends_m = np.concatenate(([0.0], np.cumsum(lengths_m)))
    headings_rad = math.radians(start[2]) + np.concatenate(([0.0], np.cumsum(turns_rad)))
    joints = [np.array(start[:2])]
    for length_m, turn_rad, heading_rad in zip(lengths_m, turns_rad, headings_rad, strict=False):
        joints.append(joints[-1] + _chord(length_m, turn_rad, heading_rad))
    total_m = float(ends_m[-1])

    stations_m = _row_stations_m(what, total_m, spacing_m, closed)
    which = np.clip(np.searchsorted(ends_m, stations_m, side="right") - 1, 0, len(segments) - 1)
    past_m = stations_m - ends_m[which]
    turned_rad = turns_rad[which] * past_m / lengths_m[which]
    xy = np.array(joints)[which] + _chord(past_m, turned_rad, headings_rad[which])
    if closed:
        xy -= _closing_gap(what, joints, headings_rad) * (stations_m / total_m)[:, None]
    first_width_m = segments[-1].end_width_m if closed else start_width_m
    widths_m = [first_width_m] + [segment.end_width_m for segment in segments]
    return _Line(xy, headings_rad[which] + turned_rad, np.interp(stations_m, ends_m, widths_m))


def _chord(length_m: Any, turn_rad: Any, heading_rad: Any) -> np.ndarray:
    """Return the vector from the start to the end of an arc. Shape (..., 2), m."""
    half_rad = 0.5 * np.asarray(turn_rad)
    chord_m = length_m * np.sinc(half_rad / np.pi)  # sinc(x / pi) = sin(x) / x, 1 at 0
    angle_rad = heading_rad + half_rad
    return np.stack((chord_m * np.cos(angle_rad), chord_m * np.sin(angle_rad)), axis=-1)


def _closing_gap(what: str, joints: list[np.ndarray], headings_rad: np.ndarray) -> np.ndarray:
    """Return by how much the last joint misses the first, if it may."""
    gap_xy_m: np.ndarray = joints[-1] - joints[0]
    gap_m = float(np.hypot(*gap_xy_m))
    turned_deg = math.degrees(headings_rad[-1] - headings_rad[0])
    gap_deg = abs(abs(turned_deg) - 360.0)
    if gap_m > _MAX_GAP_M or gap_deg > _MAX_GAP_DEG:
        raise ValueError(
            f"{what}: a closed track must end where it begins, to within {_MAX_GAP_M:g} m and "
            f"{_MAX_GAP_DEG:g} deg after turning 360 deg; got a gap of {gap_m:.2f} m and "
            f"{turned_deg:.1f} deg"
        )
    return gap_xy_m


def _line_through(what: str, rows: np.ndarray, spacing_m: float, closed: bool) -> _Line:
    """Sample a smooth curve through control points (N, 3): x, y, width."""
    from scipy.interpolate import CubicSpline  # slow to import, and segments do without

    if closed and len(rows) > 1 and np.array_equal(rows[0, :2], rows[-1, :2]):
        rows = rows[:-1]
    needed = 3 if closed else 2
    if len(rows) < needed:
        raise ValueError(f"{what}: needs at least {needed} different points, got {len(rows)}")
    if closed:
        rows = np.vstack((rows, rows[:1]))
    knots_m = arc_lengths(rows[:, :2])
    repeated = np.nonzero(np.diff(knots_m) <= 1e-9)[0]
    if len(repeated):
        raise ValueError(
            f"{what}: points must differ from the one before, got {rows[repeated[0], :2].tolist()} "
            f"twice (points {repeated[0] + 1} and {repeated[0] + 2})"
        )
    boundary = "periodic" if closed else "natural"
    curve = CubicSpline(knots_m, rows[:, :2], bc_type=boundary)
    # The curve's own parameter is not its length: sample it finely and measure.
    fine = np.linspace(0.0, knots_m[-1], 20 * len(rows) + 2000)
    lengths_m = arc_lengths(curve(fine))
    stations_m = _row_stations_m(what, float(lengths_m[-1]), spacing_m, closed)
    at = np.interp(stations_m, lengths_m, fine)
    dx, dy = curve(at, 1).T
    return _Line(curve(at), np.arctan2(dy, dx), np.interp(at, knots_m, rows[:, 2]))


def _track_along(name: str, line: _Line, closed: bool, surface: str) -> Track:
    """Return the track with borders half a width to either side of a centre line."""
    normal = np.column_stack((-np.sin(line.heading_rad), np.cos(line.heading_rad)))
    offset = 0.5 * line.width_m[:, None] * normal
    center, left, right = line.xy, line.xy + offset, line.xy - offset
    if closed:
        center, left, right = (np.vstack((ring, ring[:1])) for ring in (center, left, right))
    _check_borders(name, center, left, right)
    is_clockwise = closed and signed_area(center) < 0.0
    inner, outer = (right, left) if is_clockwise else (left, right)
    return Track.from_route(name, np.column_stack((center, inner, outer)), surface)


def _check_borders(name: str, center: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Refuse a bend so tight that a border would run backwards."""
    along = np.diff(center, axis=0)
    for side, border in (("left", left), ("right", right)):
        forward = np.sum(np.diff(border, axis=0) * along, axis=1)
        folded = np.nonzero(forward <= 0.0)[0]
        if len(folded):
            x, y = center[folded[0]]
            raise ValueError(
                f"track {name!r}: a bend's radius must be more than half the road's width, got a "
                f"tighter one to the {side} near ({x:.2f}, {y:.2f})"
            )
