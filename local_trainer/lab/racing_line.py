"""The racing line of a track: the path and speeds that give the shortest lap, as far as known.

First the path of least curvature inside the road, then from there the path of least time under
the car's speed, turning, acceleration and braking limits. The limits are measured in the
simulator's car model; how much of them a driver can use was found by driving.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError, NotFound
from local_trainer.lab.driving import PathFollower, drive, turn_table
from local_trainer.runs import write_atomically
from sim.car import GRAVITY_MPS2, CarConfig
from sim.geometry import arc_lengths
from sim.simulator import STEPS_PER_SECOND, EpisodeStart
from sim.track import Track

GRIP_USE = 0.75
ACCELERATION_USE = 0.5
"""Steady turns and full brakes are more than a car has while it turns in: its steering takes a
tenth of a second to act, and braking takes grip from turning. Measured by driving the lines of
eight shipped tracks with `PathFollower`, from four starts in both directions, 64 laps: at 0.9 and
0.7, 13 laps left the road and 46 had a wheel off it; at these values no lap had a wheel off it,
and they took 11 % longer than the complete ones of the others."""

MARGIN_M = 0.15
"""Half the car's width is 0.1 m; the rest is what the car strays from the line."""


@dataclass(frozen=True)
class CarLimits:
    """What speeds and turns a line may ask of the car."""

    max_speed_mps: float = 4.0
    grip_use: float = GRIP_USE
    """Part of the tightest steady turn at each speed that a line may ask for."""

    acceleration_use: float = ACCELERATION_USE
    """Part of the tyres' drive force used to speed up and to brake."""

    margin_m: float = MARGIN_M
    """Distance of the car's origin from the borders: half its width, and room for errors."""

    car: CarConfig = CarConfig()

    def __post_init__(self) -> None:
        """Refuse limits that no line can be planned with."""
        car = self.car
        if not car.min_speed_mps < self.max_speed_mps <= car.max_speed_mps:
            raise ConfigError(
                f"max_speed must be above {car.min_speed_mps:g} and at most "
                f"{car.max_speed_mps:g} m/s, got {self.max_speed_mps}"
            )

    @property
    def acceleration_mps2(self) -> float:
        """How fast the speed may change."""
        return self.acceleration_use * self.car.drive_friction * GRAVITY_MPS2

    def speeds_for(self, curvatures_1pm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the fastest speed for each curvature, and how fast it falls with curvature.

        Args:
            curvatures_1pm: Any shape; the sign does not matter.

        Returns:
            Speeds in m/s and their slopes in m2/s, same shape.
        """
        table = turn_table(self.car)
        knots = self.grip_use * table.limits_1pm()[::-1]
        # Of speeds that turn equally tight, the fastest.
        is_tighter = np.diff(knots, prepend=0.0) > 0.0
        knots, values = knots[is_tighter], table.speeds_mps[::-1][is_tighter]
        at = np.abs(curvatures_1pm)
        speeds = np.minimum(np.interp(at, knots, values), self.max_speed_mps)
        cell = np.clip(np.searchsorted(knots, at) - 1, 0, len(knots) - 2)
        slopes = (np.diff(values) / np.diff(knots))[cell]
        is_limited = (speeds < self.max_speed_mps) & (at > knots[0]) & (at < knots[-1])
        return speeds, np.where(is_limited, slopes, 0.0)


@dataclass(frozen=True)
class RacingLine:
    """A path with a speed at each point, in driving direction."""

    track: str
    points_m: np.ndarray
    """World frame, shape (n, 2), evenly spaced; a closed line does not repeat its first point."""

    speeds_mps: np.ndarray
    """Shape (n,)."""

    lap_time_s: float
    """Estimate for a lap from a standing start at the first point."""

    is_closed: bool

    @property
    def length_m(self) -> float:
        """Length of the line, closing segment included."""
        return float(arc_lengths(_ring(self.points_m, self.is_closed))[-1])

    def reverse(self) -> RacingLine:
        """Return the line for the other driving direction; limits are the same both ways.

        A closed line keeps its first point.
        """
        shift = 1 if self.is_closed else 0
        return replace(
            self,
            points_m=np.roll(self.points_m[::-1], shift, axis=0),
            speeds_mps=np.roll(self.speeds_mps[::-1], shift),
        )


_SPACING_M = 0.1
"""Of the points of a finished line."""
_KNOT_M = 0.3
"""Of the knots that shape the line; bends are some times longer."""
_SAMPLES_PER_KNOT = 6


def racing_line(track: Track, limits: CarLimits | None = None) -> RacingLine:
    """Return the racing line of a track in row order.

    Args:
        track: Any track, open or closed; use `Track.reverse` for the other direction.
        limits: What the line may ask of the car.
    """
    limits = limits or CarLimits()
    corridor = _Corridor.of(track, limits.margin_m)
    offsets_m = _least_curvature(corridor)
    offsets_m = _least_time(corridor, limits, offsets_m)
    return _finish(track, limits, corridor.path(offsets_m))


def center_line(track: Track, limits: CarLimits | None = None) -> RacingLine:
    """Return the centre line with the fastest speeds under the same limits, to compare with."""
    corridor = _Corridor.of(track, 0.0)
    return _finish(track, limits or CarLimits(), corridor.path(np.zeros(corridor.num_offsets)))


def _finish(track: Track, limits: CarLimits, path_m: np.ndarray) -> RacingLine:
    """Return the line along a finely sampled path with the fastest speeds."""
    points = _evenly(path_m, _SPACING_M, track.is_loop)
    geometry = _Bends.of(points, track.is_loop)
    speeds = _speed_profile(geometry, limits, track.is_loop).speeds_mps
    return RacingLine(
        track=track.name,
        points_m=points,
        speeds_mps=speeds,
        lap_time_s=_standing_lap_s(geometry.lengths_m, speeds, limits),
        is_closed=track.is_loop,
    )


# --- driving a line --------------------------------------------------------------------------

_SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)


@dataclass(frozen=True)
class DrivenLap:
    """The fastest lap that the path follower drove along a line without leaving the road."""

    episode: Episode
    speed_scale: float
    """Part of the line's speeds it was driven at."""

    @property
    def lap_time_s(self) -> float:
        """Simulated time from a standing start to the end of the lap."""
        return self.episode.duration_s


def drive_line(track: Track, line: RacingLine, is_reversed: bool = False) -> DrivenLap | None:
    """Drive a line in the simulator, at its speeds and at parts of them.

    Args:
        track: The line's track, in row order.
        line: What to drive.
        is_reversed: True drives against the row order.

    Returns:
        The fastest complete lap, or None if there was none.
    """
    start = EpisodeStart(0, is_reversed=is_reversed)
    drivers = [
        PathFollower(line.points_m, scale * line.speeds_mps, line.is_closed) for scale in _SCALES
    ]
    slowest_s = 2.0 * line.lap_time_s / min(_SCALES) + 5.0
    starts = [start] * len(drivers)
    episodes = drive(track, drivers, starts, round(slowest_s * STEPS_PER_SECOND))
    laps = [
        DrivenLap(episode, scale)
        for episode, scale in zip(episodes, _SCALES, strict=True)
        if episode.is_complete
    ]
    return min(laps, key=lambda lap: lap.lap_time_s, default=None)


# --- files -----------------------------------------------------------------------------------

_COLUMNS = ("x", "y", "speed")


def save_line(line: RacingLine, path: Path) -> None:
    """Write a line: x and y in m and speed in m/s as ``.csv``, or all of it as ``.json``.

    Raises:
        ConfigError: If the file's name ends in neither.
    """
    rows = np.column_stack((line.points_m, line.speeds_mps)).round(4).tolist()
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([_COLUMNS, *rows])
        write_atomically(path, text.getvalue().encode())
        return
    _check_suffix(path)
    values = {
        "track": line.track,
        "is_closed": line.is_closed,
        "lap_time_s": round(line.lap_time_s, 3),
        "points": [dict(zip(_COLUMNS, row, strict=True)) for row in rows],
    }
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())


def read_line(path: Path) -> RacingLine:
    """Read a line that `save_line` wrote, or any CSV of x, y, speed.

    What a CSV does not say follows from it: the track is the file's name, the line is closed if
    its ends are near each other, and the lap time is estimated with the default limits.

    Raises:
        NotFound: If there is no such file.
        ConfigError: If it holds no line.
    """
    _check_suffix(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            values = json.loads(text)
            rows = [[float(point[key]) for key in _COLUMNS] for point in values["points"]]
        else:
            values = {}
            reader = csv.DictReader(io.StringIO(text))
            rows = [[float(point[key]) for key in _COLUMNS] for point in reader]
    except OSError as error:
        raise NotFound(f"Cannot read the line {str(path)!r}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: a line must hold the numbers {', '.join(_COLUMNS)} at each point, "
            f"got {error!r}"
        ) from None
    data = np.array(rows, np.float64).reshape(-1, 3)
    if len(data) < 4 or not np.isfinite(data).all() or data[:, 2].min() <= 0.0:
        raise ConfigError(
            f"{path}: a line must have at least 4 points, all finite, with speeds above 0; "
            f"got {len(data)} points"
        )
    return _line_of_file(path.stem, data, values)


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".csv", ".json"):
        raise ConfigError(f"A line's file must end in .csv or .json, got {str(path)!r}")


def _line_of_file(name: str, data: np.ndarray, values: dict[str, Any]) -> RacingLine:
    points, speeds = data[:, :2], data[:, 2]
    lengths = np.hypot(*np.diff(points, axis=0).T)
    gap_m = float(np.hypot(*(points[-1] - points[0])))
    is_closed = bool(values.get("is_closed", gap_m < 3.0 * np.median(lengths)))
    if is_closed and gap_m < 1e-6:
        points, speeds, lengths = points[:-1], speeds[:-1], lengths[:-1]
        gap_m = float(np.hypot(*(points[-1] - points[0])))
    all_lengths = np.append(lengths, gap_m) if is_closed else lengths
    return RacingLine(
        track=str(values.get("track", name)),
        points_m=points,
        speeds_mps=speeds,
        lap_time_s=float(
            values.get("lap_time_s", _standing_lap_s(all_lengths, speeds, CarLimits()))
        ),
        is_closed=is_closed,
    )


# --- the road as a corridor around the centre line -------------------------------------------


@dataclass(frozen=True)
class _Corridor:
    """Paths inside the road: smooth sideways offsets from a reference line.

    Offsets are the coefficients of a cubic B-spline; basis maps them to the samples.
    """

    reference_m: np.ndarray
    """Samples of the centre line, shape (n, 2)."""
    normals: np.ndarray
    """Unit vectors to the left, shape (n, 2)."""
    basis: np.ndarray
    """Shape (n, k)."""
    low_m: np.ndarray
    """Smallest offset of each coefficient, shape (k,)."""
    high_m: np.ndarray
    is_closed: bool

    @property
    def num_offsets(self) -> int:
        return len(self.low_m)

    @classmethod
    def of(cls, track: Track, margin_m: float) -> _Corridor:
        is_closed = track.is_loop
        num_knots = max(round(track.length_m / _KNOT_M), 8)
        spacing_m = track.length_m / (num_knots * _SAMPLES_PER_KNOT)
        reference = _evenly(_smooth_center(track), spacing_m, is_closed)
        bends = _Bends.of(reference, is_closed)
        normals = np.column_stack((-np.sin(bends.heading_rad), np.cos(bends.heading_rad)))
        left_m, right_m = _room(track, reference, normals)
        # An offset beyond the centre of a bend would fold the path.
        inside_m = 0.9 / np.maximum(np.abs(bends.curvature_1pm), 1e-6)
        left_m = np.where(bends.curvature_1pm > 0.0, np.minimum(left_m, inside_m), left_m)
        right_m = np.where(bends.curvature_1pm < 0.0, np.minimum(right_m, inside_m), right_m)
        basis = _spline_basis(len(reference), num_knots, is_closed)
        reaches = basis > 1e-3
        high_m = np.where(reaches, np.maximum(left_m - margin_m, 0.0)[:, None], np.inf).min(axis=0)
        low_m = -np.where(reaches, np.maximum(right_m - margin_m, 0.0)[:, None], np.inf).min(axis=0)
        return cls(reference, normals, basis, low_m, high_m, is_closed)

    def path(self, offsets_m: np.ndarray) -> np.ndarray:
        """Return the samples of the path with these coefficients, shape (n, 2)."""
        path: np.ndarray = self.reference_m + (self.basis @ offsets_m)[:, None] * self.normals
        return path


def _smooth_center(track: Track) -> np.ndarray:
    """Return a fine curve through the waypoints."""
    from scipy.interpolate import CubicSpline

    knots_m = arc_lengths(track.center)
    curve = CubicSpline(knots_m, track.center, bc_type="periodic" if track.is_loop else "natural")
    fine: np.ndarray = curve(np.linspace(0.0, knots_m[-1], 8 * len(knots_m)))
    return fine[:-1] if track.is_loop else fine


def _spline_basis(num_samples: int, num_knots: int, is_closed: bool) -> np.ndarray:
    """Return how a uniform cubic B-spline's coefficients make its samples, (samples, knots)."""
    intervals = num_knots if is_closed else num_knots - 1
    last = num_samples if is_closed else num_samples - 1
    at = np.arange(num_samples) * (intervals / last)
    away = np.abs(at[:, None] - np.arange(num_knots))
    if is_closed:
        away = np.minimum(away, num_knots - away)
    inner = 2.0 / 3.0 - away**2 + away**3 / 2.0
    outer = np.clip(2.0 - away, 0.0, None) ** 3 / 6.0
    basis = np.where(away < 1.0, inner, outer)
    normed: np.ndarray = basis / basis.sum(axis=1, keepdims=True)
    return normed


def _room(track: Track, points_m: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each point from the left and from the right border, m."""
    inner_m, inner_vector = _nearest(track.inner, points_m)
    outer_m, _ = _nearest(track.outer, points_m)
    inner_is_left = float(np.median(np.sum(inner_vector * normals, axis=1))) > 0.0
    return (inner_m, outer_m) if inner_is_left else (outer_m, inner_m)


def _nearest(border_m: np.ndarray, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distance and vector from each point to the nearest place of a polyline."""
    start, along = border_m[:-1], np.diff(border_m, axis=0)
    squared = np.maximum(np.sum(along**2, axis=1), 1e-18)
    gap = points_m[:, None] - start[None]
    share = np.clip(np.sum(gap * along, axis=2) / squared, 0.0, 1.0)
    vectors = share[..., None] * along - gap
    distance = np.hypot(vectors[..., 0], vectors[..., 1])
    nearest = np.argmin(distance, axis=1)
    rows = np.arange(len(points_m))
    return distance[rows, nearest], vectors[rows, nearest]


# --- shape of a path -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bends:
    """Shape of a sampled path; arrays of shape (n,), lengths (n,) closed or (n - 1,) open."""

    lengths_m: np.ndarray
    """From each point to the next."""
    heading_rad: np.ndarray
    curvature_1pm: np.ndarray

    @classmethod
    def of(cls, points_m: np.ndarray, is_closed: bool) -> _Bends:
        by = _differences(len(points_m), is_closed)
        lengths = np.hypot(*(by.edge @ points_m).T)
        (dx, dy), (ddx, ddy) = (by.first @ points_m).T, (by.second @ points_m).T
        curvature = (dx * ddy - dy * ddx) / np.maximum(np.hypot(dx, dy), 1e-9) ** 3
        return cls(lengths, np.arctan2(dy, dx), curvature)


class _Differences(NamedTuple):
    """Sparse matrices that take differences along a path by index."""

    edge: Any
    """From each point to the next, (n, n) closed or (n - 1, n) open."""
    first: Any
    """Central, (n, n); one-sided at the ends of an open path."""
    second: Any
    """Central, (n, n); 0 at the ends of an open path."""


@lru_cache(maxsize=8)
def _differences(count: int, is_closed: bool) -> _Differences:
    from scipy.sparse import csr_array, eye_array

    here = csr_array(eye_array(count))
    after = here[np.arange(1, count + 1) % count]
    before = here[np.arange(-1, count - 1) % count]
    edge, first, second = after - here, (after - before) / 2.0, after - 2.0 * here + before
    if not is_closed:
        edge = edge[:-1]
        first, second = first.tolil(), second.tolil()
        first[0], first[-1] = edge[0].toarray(), edge[-1].toarray()
        second[0], second[-1] = 0.0, 0.0
    return _Differences(csr_array(edge), csr_array(first), csr_array(second))


def _ring(points_m: np.ndarray, is_closed: bool) -> np.ndarray:
    return np.vstack((points_m, points_m[:1])) if is_closed else points_m


def _evenly(points_m: np.ndarray, spacing_m: float, is_closed: bool) -> np.ndarray:
    """Return the path at even spacing, as near to the asked one as fits."""
    from scipy.interpolate import CubicSpline

    ring = _ring(points_m, is_closed)
    at_m = arc_lengths(ring)
    count = max(round(at_m[-1] / spacing_m), 4)
    wanted = np.linspace(0.0, at_m[-1], count + 1)
    curve = CubicSpline(at_m, ring, bc_type="periodic" if is_closed else "natural")
    even: np.ndarray = curve(wanted[:-1] if is_closed else wanted)
    return even


# --- speeds along a path ---------------------------------------------------------------------


@dataclass(frozen=True)
class _SpeedProfile:
    """The fastest speeds along a path; a closed one was laid out three laps long, to wrap."""

    speeds_mps: np.ndarray
    """Shape (n,)."""
    slopes: np.ndarray
    """How fast the bend's own limit falls with curvature at each point, m2/s, shape (n,)."""
    at: np.ndarray
    """Place of each point in the layout, shape (n,)."""
    governed_by: np.ndarray
    """Place in the layout of the bend that limits the speed at each point, shape (n,)."""


def _speed_profile(bends: _Bends, limits: CarLimits, is_closed: bool) -> _SpeedProfile:
    """Return the fastest speeds that bends, acceleration and braking allow.

    With the same limit for both, the square of the speed may change by twice that limit a metre:
    each point's is the least of all bends' limits, raised by the distance from there.
    """
    bend_speeds, slopes = limits.speeds_for(bends.curvature_1pm)
    count = len(bend_speeds)
    laps = 3 if is_closed else 1
    stations = np.concatenate(([0.0], np.cumsum(np.tile(bends.lengths_m, laps))))
    stations = stations[: laps * count]
    squares = np.tile(bend_speeds**2, laps)
    rise = 2.0 * limits.acceleration_mps2 * stations
    places = np.arange(len(squares))
    after, after_by = _running_minimum(squares - rise, places)
    before, before_by = _running_minimum((squares + rise)[::-1], places[::-1])
    accelerating, braking = after + rise, before[::-1] - rise
    best = np.minimum(accelerating, braking)
    by = np.where(accelerating <= braking, after_by, before_by[::-1])
    at = places[count : 2 * count] if is_closed else places
    return _SpeedProfile(np.sqrt(best[at]), slopes, at, by[at])


def _running_minimum(values: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least value so far and the index it stands at."""
    least = np.minimum.accumulate(values)
    is_new = values <= least
    last = np.maximum.accumulate(np.where(is_new, np.arange(len(values)), 0))
    return least, index[last]


def _standing_lap_s(lengths_m: np.ndarray, speeds_mps: np.ndarray, limits: CarLimits) -> float:
    """Return the time from a standstill at the first point to the end of the line."""
    if len(lengths_m) == len(speeds_mps):
        speeds_mps = np.append(speeds_mps, speeds_mps[0])
    stations = np.concatenate(([0.0], np.cumsum(lengths_m)))
    speeds = np.minimum(speeds_mps, np.sqrt(2.0 * limits.acceleration_mps2 * stations))
    return float(np.sum(2.0 * lengths_m / (speeds[1:] + speeds[:-1])))


# --- the two optimisations -------------------------------------------------------------------

_LINEARISATIONS = 3
_STEPS = 120
_SMOOTHING_S = 1e-3
"""Time that a change of curvature by 1/m over 1 m counts as: steering takes time to act."""


def _least_curvature(corridor: _Corridor) -> np.ndarray:
    """Return the offsets of the path of least squared curvature.

    Seen along the normals of the last path, curvature is nearly linear in the offsets.
    """
    from scipy.optimize import lsq_linear

    by = _differences(len(corridor.reference_m), corridor.is_closed)
    bent = by.second @ corridor.reference_m
    bends_x = by.second @ (corridor.normals[:, :1] * corridor.basis)
    bends_y = by.second @ (corridor.normals[:, 1:] * corridor.basis)
    offsets_m = np.zeros(corridor.num_offsets)
    bounds = (corridor.low_m - 1e-9, corridor.high_m + 1e-9)
    for _ in range(_LINEARISATIONS):
        dx, dy = (by.first @ corridor.path(offsets_m)).T
        step = np.hypot(dx, dy)
        # Squared and summed over the samples it is an integral over length.
        weight_x, weight_y = -dy / step**2.5, dx / step**2.5
        matrix = weight_x[:, None] * bends_x + weight_y[:, None] * bends_y
        target = weight_x * bent[:, 0] + weight_y * bent[:, 1]
        # The same problem with as many rows as unknowns.
        square: Any = np.linalg.qr(np.column_stack((matrix, -target)), mode="r")
        offsets_m = lsq_linear(square[:-1, :-1], square[:-1, -1], bounds).x
    return offsets_m


def _least_time(corridor: _Corridor, limits: CarLimits, offsets_m: np.ndarray) -> np.ndarray:
    """Return the offsets of the fastest path to be found downhill from the given one."""
    from scipy.optimize import minimize

    result = minimize(
        lambda values: _time_and_gradient(corridor, limits, values),
        np.clip(offsets_m, corridor.low_m, corridor.high_m),
        jac=True,
        method="L-BFGS-B",
        bounds=np.column_stack((corridor.low_m, corridor.high_m)),
        options={"maxiter": _STEPS, "maxcor": 20},
    )
    best: np.ndarray = result.x
    return best


def _time_and_gradient(
    corridor: _Corridor, limits: CarLimits, offsets_m: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the time along a path, with a little for rough steering, and its gradient."""
    path = corridor.path(offsets_m)
    by = _differences(len(path), corridor.is_closed)
    bends = _Bends.of(path, corridor.is_closed)
    profile = _speed_profile(bends, limits, corridor.is_closed)
    speeds, lengths, count = profile.speeds_mps, bends.lengths_m, len(path)

    # Time of the edges, each by the mean slowness of its ends.
    slowness = 1.0 / speeds
    average = np.abs(by.edge) / 2.0
    by_length = average @ slowness
    time_s = float(lengths @ by_length)
    by_slowness = average.T @ lengths
    by_square = -0.5 * by_slowness / speeds**3  # of the squared speed

    # That is the square at the governing bend and a rise over the distance from there.
    governor = profile.governed_by % count
    bend_speeds, slopes = limits.speeds_for(bends.curvature_1pm)
    by_curvature = np.zeros(count)
    np.add.at(by_curvature, governor, by_square)
    by_curvature *= 2.0 * bend_speeds * slopes * np.sign(bends.curvature_1pm)
    layout = np.zeros(int(max(profile.at.max(), profile.governed_by.max())) + 2)
    rise = 2.0 * limits.acceleration_mps2 * by_square
    np.add.at(layout, np.minimum(profile.at, profile.governed_by), rise)
    np.add.at(layout, np.maximum(profile.at, profile.governed_by), -rise)
    by_edge = np.cumsum(layout)
    by_length += np.bincount(np.arange(len(by_edge)) % count, weights=by_edge, minlength=count)[
        : len(by_length)
    ]

    # Rough steering.
    change = by.edge @ bends.curvature_1pm
    mean_m = float(lengths.mean())
    rough_s = _SMOOTHING_S * float(change @ change) / mean_m
    by_curvature += 2.0 * _SMOOTHING_S / mean_m * (by.edge.T @ change)

    # From edges and curvature to the path's points, and from those to the offsets.
    edges = by.edge @ path
    by_points = by.edge.T @ ((by_length / lengths)[:, None] * edges)
    (dx, dy), (ddx, ddy) = (by.first @ path).T, (by.second @ path).T
    square = dx**2 + dy**2
    cube = square**1.5
    pull = 3.0 * bends.curvature_1pm / square
    by_first = np.column_stack((ddy / cube - pull * dx, -ddx / cube - pull * dy))
    by_second = np.column_stack((-dy, dx)) / cube[:, None]
    by_points += by.first.T @ (by_curvature[:, None] * by_first)
    by_points += by.second.T @ (by_curvature[:, None] * by_second)
    gradient = corridor.basis.T @ np.sum(by_points * corridor.normals, axis=1)
    return time_s + rough_s, gradient
