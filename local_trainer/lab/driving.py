"""Scripted drivers in the embedded simulator, and one that follows a path as fast as it can.

A driver reads the last step's record and answers with a command; it gets no picture, so the
simulator takes none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from local_trainer.episodes import Episode
from sim.car import CarConfig, driving_table
from sim.embedded import EmbeddedSimulator
from sim.simulator import STEPS_PER_SECOND, EpisodeStart
from sim.steps import STEP_DTYPE
from sim.track import Track

NO_ACTION = -1
"""Stands in `Episode.actions`: a driver's commands belong to no action space."""


class Driver(Protocol):
    """What decides how one car drives one episode."""

    def command(self, step: np.void | None) -> tuple[float, float]:
        """Return the next command.

        Args:
            step: Record of the step before, `sim.steps.STEP_DTYPE`; None begins an episode.

        Returns:
            Steering in degrees (left positive) and speed in m/s.
        """


def drive(
    track: Track,
    drivers: Sequence[Driver],
    starts: Sequence[EpisodeStart],
    max_steps: int,
    seed: int = 0,
    car: CarConfig | None = None,
) -> list[Episode]:
    """Drive one episode with each driver, all cars at once.

    Args:
        track: Track to drive on.
        drivers: One a car; two cars must not share one.
        starts: Where each car begins. Of its rules, ``max_steps`` is replaced.
        max_steps: Steps after which an episode is cut off.
        seed: Fixes everything random in the simulator.
        car: How the cars drive.

    Returns:
        The episodes in the order of the drivers, without pictures. Rewards are 0 and actions
        `NO_ACTION`: compute rewards from the steps.

    Raises:
        ValueError: If drivers and starts differ in number, or a start or command is not allowed.
    """
    if len(drivers) != len(starts):
        raise ValueError(
            f"starts must be one for each of the {len(drivers)} drivers, got {len(starts)}"
        )
    if not drivers:
        return []
    starts = [replace(start, rules=replace(start.rules, max_steps=max_steps)) for start in starts]
    simulator = EmbeddedSimulator(track, len(drivers), seed, channels=0, car=car)
    cars = np.arange(len(drivers))
    simulator.reset(cars, starts)
    last: list[np.void | None] = [None] * len(drivers)
    records: list[list[np.void]] = [[] for _ in drivers]
    times: list[list[float]] = [[] for _ in drivers]
    while len(cars):
        commands = np.array([drivers[i].command(last[i]) for i in cars.tolist()], np.float64)
        steps = simulator.step(cars, commands[:, 0], commands[:, 1])
        now = time.time()
        for k, i in enumerate(cars.tolist()):
            last[i] = steps[k]
            records[i].append(steps[k])
            times[i].append(now)
        cars = cars[~steps["done"]]
    simulator.close()
    return [
        Episode(
            start=start,
            phase="evaluation",
            iteration=0,
            steps=np.array(episode, STEP_DTYPE),
            actions=np.full(len(episode), NO_ACTION, np.int32),
            rewards=np.zeros(len(episode)),
            wall_clock=np.array(clock),
        )
        for start, episode, clock in zip(starts, records, times, strict=True)
    ]


# --- what steering turns the car how far -----------------------------------------------------


@dataclass(frozen=True)
class TurnTable:
    """Steady turns of the car, measured in the simulator's car model."""

    speeds_mps: np.ndarray
    """Ascending, shape (S,)."""

    steering_deg: np.ndarray
    """Ascending from 0, shape (A,)."""

    curvatures_1pm: np.ndarray
    """Curvature of the origin's path, ascending along each row, shape (S, A). Steering at which
    the car spins when it starts with it holds the value of the last that does not."""

    def limits_1pm(self) -> np.ndarray:
        """Return the tightest steady turn at each speed, shape (S,)."""
        limits: np.ndarray = self.curvatures_1pm[:, -1]
        return limits

    def steering_for(self, speed_mps: float, curvature_1pm: float) -> float:
        """Return the steering (degrees, left positive) that turns with a curvature."""
        at = float(np.clip(speed_mps, self.speeds_mps[0], self.speeds_mps[-1]))
        upper = min(int(np.searchsorted(self.speeds_mps, at)), len(self.speeds_mps) - 1)
        lower = max(upper - 1, 0)
        gap_mps = self.speeds_mps[upper] - self.speeds_mps[lower]
        share = (at - self.speeds_mps[lower]) / gap_mps if gap_mps > 0.0 else 0.0
        row = (1.0 - share) * self.curvatures_1pm[lower] + share * self.curvatures_1pm[upper]
        steering_deg = np.interp(abs(curvature_1pm), row, self.steering_deg)
        return math.copysign(float(steering_deg), curvature_1pm)


_TABLE_SPEEDS_MPS = (0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0, 3.3, 3.6, 4.0)
_TABLE_STEERING_DEG = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.5, 15.0, 18.0, 21.0, 25.0, 30.0)
_LEAST_RISE_1PM = 1e-6
"""Keeps the rows of the table rising, so that they can be read backwards."""


@lru_cache(maxsize=4)
def turn_table(car: CarConfig | None = None) -> TurnTable:
    """Measure how far each steering turns the car at each speed."""
    config = car or CarConfig()
    speeds = np.array([v for v in _TABLE_SPEEDS_MPS if v <= config.max_speed_mps])
    steering_deg = np.array([a for a in _TABLE_STEERING_DEG if a <= config.max_steering_deg])
    curvatures = np.zeros((len(speeds), len(steering_deg)))
    for row, speed in zip(curvatures, speeds, strict=True):
        tests = driving_table(config, [(float(speed), math.radians(a)) for a in steering_deg[1:]])
        for k, test in enumerate(tests, start=1):
            if test.spins:
                row[k:] = row[k - 1]
                break
            row[k] = max(1.0 / test.turn_radius_m, row[k - 1])
        row += _LEAST_RISE_1PM * np.arange(len(row))
    return TurnTable(speeds, steering_deg, curvatures)


# --- following a path ------------------------------------------------------------------------

_SPACING_M = 0.02
_SEARCH_M = 0.8
"""The nearest point of the path is looked for this far ahead of and behind the last one."""


class PathFollower:
    """Steers along a path at given speeds, from wherever its car begins.

    The curvature to drive is the path's own a little ahead, corrected for distance from the path
    and difference in direction; the car's measured turns say which steering that needs. Position
    and direction are those the car will have when the steering has taken effect, and its
    direction is the one it moves in, not the one it looks in, so that slip does not push it out.
    """

    def __init__(
        self,
        points_m: np.ndarray,
        speeds_mps: np.ndarray,
        is_closed: bool = True,
        delay_s: float = 0.10,
        reach_m: float = 0.35,
        reach_s: float = 0.10,
        car: CarConfig | None = None,
    ) -> None:
        """Prepare to follow a path.

        Args:
            points_m: Path in world frame, shape (n, 2); a closed one may repeat its first point.
                Which way along it to drive follows from the car's direction at the start.
            speeds_mps: Speed at each point, shape (n,).
            is_closed: Whether the last point joins the first.
            delay_s: How long a command takes to turn the car.
            reach_m: Distance over which errors are corrected at a standstill.
            reach_s: How much it grows with each m/s.
            car: The car whose turns are used.

        Raises:
            ValueError: If the shapes differ or there are fewer than two points.
        """
        points = np.asarray(points_m, np.float64)
        speeds = np.asarray(speeds_mps, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
            raise ValueError(f"points_m must have shape (n >= 2, 2), got {points.shape}")
        if speeds.shape != (len(points),):
            raise ValueError(
                f"speeds_mps must be one for each of the {len(points)} points, got {speeds.shape}"
            )
        self._path = _Path.through(points, speeds, is_closed)
        self._table = turn_table(car)
        self._delay_s, self._reach_m, self._reach_s = delay_s, reach_m, reach_s
        self._place: int | None = None
        self._is_backwards = False
        self._origin: tuple[float, float] | None = None

    def command(self, step: np.void | None) -> tuple[float, float]:
        """Return steering in degrees and speed in m/s; see `Driver.command`."""
        if step is None:
            self._place = self._origin = None
            return 0.0, float(self._path.speeds_mps.min())
        x, y, yaw = float(step["origin_x"]), float(step["origin_y"]), float(step["yaw"])
        speed_mps = max(float(step["actual_speed"]), 0.1)
        course_rad, turn_radps = self._motion(x, y, yaw, speed_mps)

        # Where the car will be once this command has turned it.
        ahead_m = speed_mps * self._delay_s
        course_rad += turn_radps * self._delay_s
        middle_rad = course_rad - 0.5 * turn_radps * self._delay_s
        x += ahead_m * math.cos(middle_rad)
        y += ahead_m * math.sin(middle_rad)
        path = self._locate(x, y, yaw)

        place = self._place
        assert place is not None
        left_m = (y - path.y_m[place]) * path.cos[place] - (x - path.x_m[place]) * path.sin[place]
        turned_rad = _wrapped(course_rad - path.heading_rad[place])
        reach_m = self._reach_m + self._reach_s * speed_mps
        curvature = (
            path.curvature_1pm[place]
            - 2.0 * math.sin(turned_rad) / reach_m
            - float(np.clip(left_m, -reach_m, reach_m)) / reach_m**2
        )
        next_mps = float(path.speeds_mps[path.index_ahead(place, speed_mps / STEPS_PER_SECOND)])
        return self._table.steering_for(speed_mps, curvature), next_mps

    def _motion(self, x: float, y: float, yaw: float, speed_mps: float) -> tuple[float, float]:
        """Return the direction the car moves in (rad) and how fast that turns (rad/s)."""
        before, self._origin = self._origin, (x, y)
        if before is None or math.hypot(x - before[0], y - before[1]) < 0.01:
            self._yaw = self._course = yaw
            return yaw, 0.0
        moved_rad = math.atan2(y - before[1], x - before[0])
        turn_radps = _wrapped(yaw - self._yaw) * STEPS_PER_SECOND
        self._yaw = yaw
        # The chord lags behind by half a step.
        return moved_rad + 0.5 * turn_radps / STEPS_PER_SECOND, turn_radps

    def _locate(self, x: float, y: float, yaw: float) -> _Path:
        """Find the nearest point of the path, near the last one if there is one."""
        path = self._path
        if self._place is None:
            self._place = int(np.argmin((path.x_m - x) ** 2 + (path.y_m - y) ** 2))
            if math.cos(yaw - path.heading_rad[self._place]) < 0.0:
                self._path = path = path.reversed()
                self._place = len(path.x_m) - 1 - self._place
            return path
        around = path.indices_around(self._place, _SEARCH_M)
        away2 = (path.x_m[around] - x) ** 2 + (path.y_m[around] - y) ** 2
        self._place = int(around[int(np.argmin(away2))])
        return path


@dataclass(frozen=True)
class _Path:
    """A path at even spacing with all that following it needs; arrays of shape (n,)."""

    x_m: np.ndarray
    y_m: np.ndarray
    heading_rad: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    curvature_1pm: np.ndarray
    speeds_mps: np.ndarray
    spacing_m: float
    is_closed: bool

    @classmethod
    def through(cls, points_m: np.ndarray, speeds_mps: np.ndarray, is_closed: bool) -> _Path:
        from scipy.interpolate import CubicSpline

        points, speeds = without_repeats(points_m, speeds_mps, is_closed)
        if is_closed:
            points, speeds = np.vstack((points, points[:1])), np.append(speeds, speeds[0])
        knots_m = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))))
        count = max(round(knots_m[-1] / _SPACING_M), 4)
        at_m = np.linspace(0.0, knots_m[-1], count + 1)
        if is_closed:
            at_m = at_m[:-1]
        curve = CubicSpline(knots_m, points, bc_type="periodic" if is_closed else "natural")
        x, y = curve(at_m).T
        dx, dy = curve(at_m, 1).T
        ddx, ddy = curve(at_m, 2).T
        heading = np.arctan2(dy, dx)
        curvature = (dx * ddy - dy * ddx) / np.maximum(np.hypot(dx, dy), 1e-9) ** 3
        return cls(
            x_m=x,
            y_m=y,
            heading_rad=heading,
            cos=np.cos(heading),
            sin=np.sin(heading),
            curvature_1pm=curvature,
            speeds_mps=np.interp(at_m, knots_m, speeds),
            spacing_m=float(knots_m[-1]) / count,
            is_closed=is_closed,
        )

    def reversed(self) -> _Path:
        """Return the same path driven the other way."""
        return replace(
            self,
            x_m=self.x_m[::-1],
            y_m=self.y_m[::-1],
            heading_rad=self.heading_rad[::-1] + math.pi,
            cos=-self.cos[::-1],
            sin=-self.sin[::-1],
            curvature_1pm=-self.curvature_1pm[::-1],
            speeds_mps=self.speeds_mps[::-1],
        )

    def indices_around(self, place: int, distance_m: float) -> np.ndarray:
        reach = int(distance_m / self.spacing_m)
        around = np.arange(place - reach, place + reach + 1)
        count = len(self.x_m)
        return around % count if self.is_closed else np.unique(np.clip(around, 0, count - 1))

    def index_ahead(self, place: int, distance_m: float) -> int:
        ahead = place + round(distance_m / self.spacing_m)
        count = len(self.x_m)
        return ahead % count if self.is_closed else min(ahead, count - 1)


def without_repeats(
    points_m: np.ndarray, speeds_mps: np.ndarray, is_closed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return points and speeds without points that repeat the one before (or close the ring)."""
    following = np.roll(points_m, -1, axis=0)
    keeps = np.hypot(*(following - points_m).T) > 1e-6
    if not is_closed:
        keeps[-1] = True
    return points_m[keeps], speeds_mps[keeps]


def _wrapped(angle_rad: float) -> float:
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi
