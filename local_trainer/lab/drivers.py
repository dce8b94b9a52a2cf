"""Drivers that try to earn a reward: honest laps, and ways of driving nobody wants.

Each `Attempt` names one way to drive and makes its driver. `attempts` lists the scripted ones;
`random_tactic` and `varied` make the adversarial search's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from local_trainer.actions import ActionSpace
from local_trainer.lab.driving import Driver, PathFollower
from local_trainer.lab.racing_line import MARGIN_M, RacingLine, center_line, racing_line
from sim.car import CarConfig
from sim.track import Track

SLOWEST_MPS = CarConfig().min_speed_mps
FASTEST_MPS = CarConfig().max_speed_mps
FULL_LOCK_DEG = CarConfig().max_steering_deg

LAP_SPEED_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""An honest lap is tried at these shares of the speeds the car should manage."""

_BEYOND_BORDER_M = 0.0
"""How far the car's origin may pass the border where corners are cut."""
_SWING_BACK_DEG = 90.0
"""How much sooner a loiterer turns back for each half road width that it is off its line."""
_LOOKS_BACK_DEG = 150.0
_SWINGS_OUT_DEG = 60.0


@dataclass(frozen=True)
class Attempt:
    """One way to drive."""

    name: str
    description: str
    """What it does, as the rest of a sentence that begins with the driver."""
    honest_line: str | None
    """The line of a lap as one would want it; the fastest clean lap along each is a yardstick.
    None for a driver nobody wants."""
    make: Callable[[], Driver]
    """Return a fresh driver; one episode each."""


def attempts(track: Track) -> list[Attempt]:
    """Return the scripted drivers for a track.

    Args:
        track: As driven: a reversed track for laps against the row order.
    """
    center = Line.center_of(track)
    fastest = _racing_line(track)
    laps = [
        ("centre line", "drives the centre line as fast as it can", _center_line(track)),
        ("racing line", "drives the racing line", fastest),
    ]
    honest = [
        Attempt(
            name if share == 1.0 else f"{name} at {100.0 * share:.0f} %",
            words if share == 1.0 else f"{words}, at {100.0 * share:.0f} % of its speeds",
            name,
            _following(line, share),
        )
        for name, words, line in laps
        for share in LAP_SPEED_SHARES
    ]
    return honest + _tricks(center, fastest)


# Both are asked for again and again for one track; the second takes seconds to find.
@lru_cache(maxsize=4)
def _center_line(track: Track) -> RacingLine:
    return center_line(track)


@lru_cache(maxsize=4)
def _racing_line(track: Track) -> RacingLine:
    return racing_line(track)


def _tricks(center: Line, fastest: RacingLine) -> list[Attempt]:
    half_m = center.half_width_m
    cut = center.exaggerated(fastest, (half_m + _BEYOND_BORDER_M) / (half_m - MARGIN_M))
    tricks: list[tuple[str, str, Callable[[], Driver]]] = [
        ("slow lap", "drives the centre line at 1 m/s", center.follow(1.0)),
        ("very slow lap", "drives the centre line at 0.6 m/s", center.follow(0.6)),
        (
            "crawling",
            f"creeps along the centre line at {SLOWEST_MPS:g} m/s",
            center.follow(SLOWEST_MPS),
        ),
        (
            "standing still",
            f"stays on one spot as nearly as the rules let it: full lock at {SLOWEST_MPS:g} m/s, "
            "the slowest command there is, left and right in turn",
            lambda: Loiter(center, SLOWEST_MPS),
        ),
        (
            "circling",
            "keeps full lock at 1 m/s",
            lambda: Steady(FULL_LOCK_DEG, 1.0),
        ),
        (
            "circling at full speed",
            f"keeps full lock at {FASTEST_MPS:g} m/s",
            lambda: Steady(FULL_LOCK_DEG, FASTEST_MPS),
        ),
        (
            "weaving",
            "swings between the borders at 0.8 m/s",
            center.weave(0.55 * half_m, 2.0).follow(0.8),
        ),
        (
            "loitering",
            "swings left and right at full lock, 0.4 m/s, and hardly gets on",
            lambda: Loiter(center, 0.4),
        ),
        (
            "zigzag at full speed",
            f"asks for {FASTEST_MPS:g} m/s and full lock, left and right in turn",
            lambda: Zigzag(center, FASTEST_MPS),
        ),
        (
            "cutting corners",
            "drives the racing line, but bends reach beyond their inner border",
            _following(cut, 1.0),
        ),
        (
            "flat out",
            f"follows the centre line at {FASTEST_MPS:g} m/s for as long as that goes well",
            center.follow(FASTEST_MPS),
        ),
        (
            "driving backwards",
            "turns round and drives the centre line the wrong way",
            lambda: WrongWay(center.follow(1.0)()),
        ),
    ]
    return [Attempt(name, words, None, make) for name, words, make in tricks]


def _following(line: RacingLine, share: float) -> Callable[[], Driver]:
    return lambda: PathFollower(line.points_m, share * line.speeds_mps, line.is_closed)


# --- lines along a track ---------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A path along a track at even spacing, in driving direction."""

    points_m: np.ndarray
    """Shape (n, 2); a closed one does not repeat its first point."""
    is_closed: bool
    half_width_m: float
    """Half the width of the road at its narrowest."""

    @classmethod
    def center_of(cls, track: Track) -> Line:
        """Return the centre line of a track."""
        points = _center_line(track).points_m
        return cls(points, track.is_loop, 0.5 * float(track.widths_m.min()))

    def follow(self, speeds_mps: float | np.ndarray) -> Callable[[], Driver]:
        """Return what makes drivers along this line."""
        speeds = np.broadcast_to(np.asarray(speeds_mps, float), (len(self.points_m),))
        return lambda: PathFollower(self.points_m, speeds, self.is_closed)

    def normals(self) -> np.ndarray:
        """Return the direction to the left at each point, shape (n, 2)."""
        along = self._next() - self._previous()
        along /= np.maximum(np.hypot(*along.T), 1e-9)[:, None]
        return np.column_stack((-along[:, 1], along[:, 0]))

    def headings_deg(self) -> np.ndarray:
        """Return the direction of the line at each point, shape (n,)."""
        along = self._next() - self._previous()
        headings: np.ndarray = np.degrees(np.arctan2(along[:, 1], along[:, 0]))
        return headings

    def exaggerated(self, line: RacingLine, factor: float) -> RacingLine:
        """Return a path with so many times the distance from this line, at the same speeds."""
        away = line.points_m[:, None] - self.points_m
        nearest = (away**2).sum(axis=2).argmin(axis=1)
        normals = self.normals()[nearest]
        left_m = ((line.points_m - self.points_m[nearest]) * normals).sum(axis=1)
        return replace(line, points_m=line.points_m + ((factor - 1.0) * left_m)[:, None] * normals)

    def offset(self, left_m: float | np.ndarray) -> Line:
        """Return the line moved to the left (negative: right) by so many metres."""
        shift = np.broadcast_to(np.asarray(left_m, float), (len(self.points_m),))
        return replace(self, points_m=self.points_m + shift[:, None] * self.normals())

    def weave(self, amplitude_m: float, wave_m: float, offset_m: float = 0.0) -> Line:
        """Return the line swinging left and right in waves about ``wave_m`` long."""
        length_m = float(np.hypot(*np.diff(self.points_m, axis=0).T).sum())
        waves = max(round(length_m / wave_m), 1)
        phase = 2.0 * math.pi * waves * np.arange(len(self.points_m)) / len(self.points_m)
        return self.offset(offset_m + amplitude_m * np.sin(phase))

    def _next(self) -> np.ndarray:
        return self._shifted(self.points_m, -1)

    def _previous(self) -> np.ndarray:
        return self._shifted(self.points_m, 1)

    def _shifted(self, points: np.ndarray, by: int) -> np.ndarray:
        """Return the points ``by`` places before each one; an open line repeats its ends."""
        if self.is_closed:
            return np.roll(points, by, axis=0)
        places = np.clip(np.arange(len(points)) - by, 0, len(points) - 1)
        return points[places]


# --- drivers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steady:
    """Gives one command for ever."""

    steering_deg: float
    speed_mps: float

    def command(self, step: np.void | None) -> tuple[float, float]:
        """Return steering in degrees and speed in m/s; see `Driver.command`."""
        return self.steering_deg, self.speed_mps


class Zigzag:
    """Steers full left or full right, whichever leads back to the line, and nothing between."""

    def __init__(self, line: Line, speed_mps: float, swing: float = 0.5) -> None:
        """Prepare to follow a line.

        Args:
            line: In driving direction.
            speed_mps: Asked for throughout.
            swing: How far ahead in seconds it judges where it is going; less swings wider.
        """
        self._points_m = line.points_m
        self._normals = line.normals()
        self._speed_mps = speed_mps
        self._swing = swing

    def command(self, step: np.void | None) -> tuple[float, float]:
        """Return steering in degrees and speed in m/s; see `Driver.command`."""
        if step is None:
            return FULL_LOCK_DEG, self._speed_mps
        yaw = float(step["yaw"])
        reach_m = self._swing * max(float(step["actual_speed"]), 0.5)
        ahead = np.array(
            (step["origin_x"] + reach_m * math.cos(yaw), step["origin_y"] + reach_m * math.sin(yaw))
        )
        away = ahead - self._points_m
        nearest = int((away**2).sum(axis=1).argmin())
        is_left = float(away[nearest] @ self._normals[nearest]) > 0.0
        return -FULL_LOCK_DEG if is_left else FULL_LOCK_DEG, self._speed_mps


class Loiter:
    """Swings left and right at full lock, so far round that it hardly gets on."""

    def __init__(self, line: Line, speed_mps: float, turn_deg: float = 75.0) -> None:
        """Prepare to stay around a line.

        Args:
            line: In driving direction.
            speed_mps: Asked for throughout.
            turn_deg: How far from the line's direction it swings to either side. Beyond 90 it
                drives back a little each time, which the rules allow for less than 15 steps.
        """
        self._line = line
        self._headings_deg = line.headings_deg()
        self._normals = line.normals()
        self._speed_mps = speed_mps
        self._turn_deg = turn_deg
        self._side = 1.0

    def command(self, step: np.void | None) -> tuple[float, float]:
        """Return steering in degrees and speed in m/s; see `Driver.command`."""
        if step is None:
            self._side = 1.0
            return FULL_LOCK_DEG, self._speed_mps
        away = np.array((step["origin_x"], step["origin_y"])) - self._line.points_m
        nearest = int((away**2).sum(axis=1).argmin())
        left_share = float(away[nearest] @ self._normals[nearest]) / self._line.half_width_m
        turned_deg = math.degrees(float(step["yaw"])) - float(self._headings_deg[nearest])
        turned_deg = (turned_deg + 180.0) % 360.0 - 180.0
        # Swinging back sooner where it is off the line brings it back.
        limit_deg = self._turn_deg - self._side * _SWING_BACK_DEG * left_share
        if self._side * turned_deg >= limit_deg:
            self._side = -self._side
        return self._side * FULL_LOCK_DEG, self._speed_mps


class WrongWay:
    """Turns round at full lock, then lets another driver go on from there.

    The road is hardly wider than the turn, so the car swings out to the right first.
    """

    def __init__(self, then: Driver, speed_mps: float = 0.3) -> None:
        """Take who drives once the car looks back, and how fast to turn."""
        self._then = then
        self._speed_mps = speed_mps
        self._first_yaw_deg: float | None = None
        self._has_swung = False
        self._has_turned = False

    def command(self, step: np.void | None) -> tuple[float, float]:
        """Return steering in degrees and speed in m/s; see `Driver.command`."""
        if step is None:
            self._first_yaw_deg, self._has_swung, self._has_turned = None, False, False
            return -FULL_LOCK_DEG, self._speed_mps
        if self._has_turned:
            return self._then.command(step)
        yaw_deg = math.degrees(float(step["yaw"]))
        if self._first_yaw_deg is None:
            self._first_yaw_deg = yaw_deg
        turned_deg = (yaw_deg - self._first_yaw_deg + 180.0) % 360.0 - 180.0
        self._has_swung = self._has_swung or turned_deg <= -_SWINGS_OUT_DEG
        if not self._has_swung:
            return -FULL_LOCK_DEG, self._speed_mps
        if abs(turned_deg) >= _LOOKS_BACK_DEG:
            self._has_turned = True
            self._then.command(None)
        return FULL_LOCK_DEG, self._speed_mps


class Limited:
    """Another driver, held to the actions that a model can choose."""

    def __init__(self, driver: Driver, actions: ActionSpace) -> None:
        """Take the driver, and the actions it is held to."""
        self._driver = driver
        self._actions = actions

    def command(self, step: np.void | None) -> tuple[float, float]:
        """Return the nearest action's steering and speed; see `Driver.command`."""
        steering_deg, speed_mps = self._driver.command(step)
        away = np.abs(self._actions.steering_deg - steering_deg) / FULL_LOCK_DEG
        away += np.abs(self._actions.speed_mps - speed_mps) / FASTEST_MPS
        nearest = int(away.argmin())
        return float(self._actions.steering_deg[nearest]), float(self._actions.speed_mps[nearest])


# --- the search ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tactic:
    """A way to drive as a few numbers, so that it can be varied."""

    kind: Literal["weave", "circle", "zigzag", "loiter"]
    speed_mps: float
    offset_share: float = 0.0
    """Where the line lies, left positive, in half road widths."""
    amplitude_share: float = 0.0
    """How far it swings, in half road widths."""
    wave_m: float = 2.0
    steering_deg: float = 0.0
    """Of a circle."""
    swing_s: float = 0.5
    """Of a zigzag: how far ahead it looks."""
    turn_deg: float = 90.0
    """Of a loiterer: how far it swings round."""

    def attempt(self, track: Track) -> Attempt:
        """Return the driver that does this on a track, as driven."""
        center = Line.center_of(track)
        half_m = center.half_width_m
        if self.kind == "circle":
            name = f"steering {self.steering_deg:+.0f}° at {self.speed_mps:.2f} m/s"
            return Attempt(
                f"search: {name}",
                f"keeps {name}",
                None,
                lambda: Steady(self.steering_deg, self.speed_mps),
            )
        if self.kind == "zigzag":
            name = f"full lock left and right at {self.speed_mps:.2f} m/s"
            line = center.offset(self.offset_share * half_m)
            return Attempt(
                f"search: {name}",
                f"gives {name}, whichever leads back to its line {self.swing_s:.2f} s ahead",
                None,
                lambda: Zigzag(line, self.speed_mps, self.swing_s),
            )
        line = center.weave(self.amplitude_share * half_m, self.wave_m, self.offset_share * half_m)
        side_m = self.offset_share * half_m
        name = f"{self.speed_mps:.2f} m/s, {abs(side_m):.2f} m {'left' if side_m > 0 else 'right'}"
        words = f"drives at {name} of the centre line"
        if self.amplitude_share > 0.05:
            name += f", weaving {self.amplitude_share * half_m:.2f} m"
            words += (
                f", swinging {self.amplitude_share * half_m:.2f} m to each side every "
                f"{self.wave_m:.1f} m"
            )
        return Attempt(f"search: {name}", words, None, line.follow(self.speed_mps))


def random_tactic(random: np.random.Generator) -> Tactic:
    """Return a tactic drawn at random."""
    # Even in the logarithm: traps lie at the slow end as often as at the fast one.
    speed_mps = float(np.exp(random.uniform(math.log(SLOWEST_MPS), math.log(FASTEST_MPS))))
    kind = random.choice(("weave", "weave", "weave", "loiter", "circle", "zigzag"))
    if kind == "loiter":
        return Tactic("loiter", speed_mps, turn_deg=float(random.uniform(40.0, 130.0)))
    if kind == "circle":
        steering_deg = float(random.uniform(-FULL_LOCK_DEG, FULL_LOCK_DEG))
        return Tactic("circle", speed_mps, steering_deg=steering_deg)
    offset_share = float(random.uniform(-1.0, 1.0))
    if kind == "zigzag":
        return Tactic("zigzag", speed_mps, offset_share, swing_s=float(random.uniform(0.1, 1.0)))
    amplitude_share = float(random.integers(2) * random.uniform(0.0, 1.0 - abs(offset_share)))
    wave_m = float(random.uniform(0.6, 6.0))
    return Tactic("weave", speed_mps, offset_share, amplitude_share, wave_m)


def varied(tactic: Tactic, random: np.random.Generator) -> Tactic:
    """Return a tactic near another one."""

    def near(value: float, spread: float, low: float, high: float) -> float:
        return float(np.clip(value + spread * random.normal(), low, high))

    speed_mps = tactic.speed_mps * math.exp(0.2 * random.normal())
    return replace(
        tactic,
        speed_mps=float(np.clip(speed_mps, SLOWEST_MPS, FASTEST_MPS)),
        offset_share=near(tactic.offset_share, 0.15, -1.1, 1.1),
        amplitude_share=near(tactic.amplitude_share, 0.1, 0.0, 1.0),
        wave_m=near(tactic.wave_m, 0.4, 0.5, 8.0),
        steering_deg=near(tactic.steering_deg, 4.0, -FULL_LOCK_DEG, FULL_LOCK_DEG),
        swing_s=near(tactic.swing_s, 0.1, 0.05, 1.5),
        turn_deg=near(tactic.turn_deg, 8.0, 20.0, 150.0),
    )
