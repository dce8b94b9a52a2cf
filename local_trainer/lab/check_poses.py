"""The poses that `local_trainer.lab.check` tries a reward function with, on any track.

Each car drives one short episode: the start, on and beside the centre line, at the borders, the
wrong way, off the road, the finish. Measured with numpy alone: the compiled kernels of
`sim.reward_params` would take longer to load than the whole check may.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sim.car import CarConfig
from sim.reward_dict import KEYS
from sim.track import Track

REFERENCE_AHEAD_M = 0.14
_STEP_M = 0.1  # a car at 1.5 m/s, 15 steps a second
_STEPS_PER_SECOND = 15.0
_CAMERA_HALF_ANGLE_RAD = 0.565
_BOX_HALF_SIZE_M = (0.25, 0.2)


class _Pose(NamedTuple):
    name: str
    lap: float
    """Place in laps from the start."""
    lateral: float
    """In half road widths, left positive."""
    turned_deg: float = 0.0
    speed_mps: float = 1.5
    steering_deg: float = 0.0


_POSES = (
    _Pose("at the start", 0.001, 0.0, 0.0, 1.0),
    _Pose("behind the start line", 0.9995, 0.1, 5.0, 1.0, -10.0),
    _Pose("just after the start", 0.004, 0.05, 0.0, 1.5, 5.0),
    _Pose("on the centre line", 0.1013, 0.0, 0.0, 3.0, 0.0),
    _Pose("left of the centre line", 0.2017, 0.5, 10.0, 2.0, -15.0),
    _Pose("right of the centre line", 0.3011, -0.5, -10.0, 2.0, 15.0),
    _Pose("at the left border", 0.4023, 0.97, 20.0, 4.0, 30.0),
    _Pose("at the right border", 0.4519, -0.97, -20.0, 0.1, -30.0),
    _Pose("near an object", 0.4931, 0.45, 0.0, 1.5, 0.0),
    _Pose("across the road", 0.5527, 0.0, 90.0, 1.0, 30.0),
    _Pose("facing backwards", 0.6037, 0.2, 180.0, 1.0, 0.0),
    _Pose("off the road on the left", 0.7029, 2.2, 30.0, 1.0, -30.0),
    _Pose("off the road on the right", 0.8031, -2.2, -30.0, 1.0, 30.0),
    _Pose("before the finish", 0.9971, 0.0, 0.0, 4.0, 0.0),
    _Pose("at the finish", 0.0007, 0.0, 0.0, 4.0, 0.0),
)
_BOXES = ((0.15, -0.5), (0.5, 0.5), (0.85, -0.5))  # laps in row order, half widths to the left


@dataclass(frozen=True)
class Car:
    """One car's episode: what a reward function is given at each of its poses."""

    track: str
    is_reversed: bool
    has_objects: bool
    waypoints: list[tuple[float, float]]
    """In driving direction, m."""
    poses: list[str]
    params: list[dict[str, Any]]
    """One dict a pose, without ``waypoints``."""

    @property
    def name(self) -> str:
        """Where and how it drives, in words."""
        direction = ", reversed" if self.is_reversed else ""
        return f"{self.track}{direction}{', with objects' if self.has_objects else ''}"


def cars_on(track: Track) -> list[Car]:
    """Return the four cars that are tried on a track: both directions, without and with objects."""
    return [car for is_reversed in (False, True) for car in _cars(track, is_reversed)]


def _cars(track: Track, is_reversed: bool) -> list[Car]:
    line = _Line(track, is_reversed)
    poses = _POSES if track.is_loop else _open_poses()
    laps = np.array([pose.lap for pose in poses])
    half_widths_m = 0.5 * np.interp(laps, line.stations_m / line.length_m, line.widths_m)
    points, headings_rad = line.poses(
        laps,
        np.array([pose.lateral for pose in poses]) * half_widths_m,
        np.radians([pose.turned_deg for pose in poses]),
    )
    measured = line.measure(points, headings_rad)
    steps = _steps(poses, line.length_m)
    cars = []
    for objects in (None, _objects(track, line)):
        params = [
            _params(
                pose,
                steps[i],
                {key: column[i] for key, column in measured.items()},
                headings_rad[i],
                line,
                is_reversed,
                objects,
            )
            for i, pose in enumerate(poses)
        ]
        names = [pose.name for pose in poses]
        has_objects = objects is not None
        cars.append(Car(track.name, is_reversed, has_objects, line.waypoints, names, params))
    return cars


def _open_poses() -> tuple[_Pose, ...]:
    """Return the poses for a track with two ends: none lies before the first."""
    laps = {"at the start": 0.02, "just after the start": 0.023, "at the finish": 0.9997}
    poses = [pose for pose in _POSES if pose.name != "behind the start line"]
    return tuple(pose._replace(lap=laps.get(pose.name, pose.lap)) for pose in poses)


def _steps(poses: tuple[_Pose, ...], length_m: float) -> list[float]:
    """Return the step each pose is reached at: the first three at once, then by the way driven."""
    steps: list[float] = []
    for pose in poses:
        driven = round(pose.lap * length_m / _STEP_M) if len(steps) >= 3 else 0
        steps.append(float(max(driven, steps[-1] + 1.0 if steps else 1.0)))
    return steps


def _params(
    pose: _Pose,
    steps: float,
    measured: dict[str, Any],
    heading_rad: float,
    line: _Line,
    is_reversed: bool,
    objects: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return one pose's parameters in the service's order, without the waypoints."""
    progress = _progress(pose, measured["projection_distance"], line)
    one = dict.fromkeys(key for key in KEYS if key != "waypoints") | measured
    one |= {
        "progress": progress,
        "steps": steps,
        "sim_time": steps / _STEPS_PER_SECOND,
        "speed": pose.speed_mps,
        "steering_angle": pose.steering_deg,
        "track_length": line.length_m,
        "is_reversed": is_reversed,
        "is_crashed": objects is not None and pose.name == "near an object",
    }
    return one | _object_params(objects, one, heading_rad, line.length_m)


def _progress(pose: _Pose, station_m: float, line: _Line) -> float:
    percent = 100.0 * station_m / line.length_m
    if pose.name == "at the finish":
        return 100.0
    return percent - 100.0 if pose.name == "behind the start line" else percent


class _Line:
    """A track's lines in driving direction."""

    def __init__(self, track: Track, is_reversed: bool) -> None:
        step = -1 if is_reversed else 1
        self.center = track.center[::step]
        self.inner, self.outer = track.inner, track.outer
        self.is_loop = track.is_loop
        self.widths_m = track.widths_m[::step]
        self.is_left_inner = track.is_ccw != is_reversed
        self.waypoints = track.waypoints[::step]
        lengths_m = np.hypot(*np.diff(self.center, axis=0).T)
        self.stations_m = np.concatenate(([0.0], np.cumsum(lengths_m)))
        self.length_m = float(self.stations_m[-1])

    def poses(
        self, laps: np.ndarray, left_m: np.ndarray, turned_rad: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return reference points (n, 2) in m and headings (n,) in rad, in [-pi, pi]."""
        stations_m = laps * self.length_m
        rows = np.searchsorted(self.stations_m, stations_m, side="right") - 1
        rows = np.clip(rows, 0, len(self.center) - 2)
        along = self.center[rows + 1] - self.center[rows]
        lengths_m = self.stations_m[rows + 1] - self.stations_m[rows]
        share = (stations_m - self.stations_m[rows]) / lengths_m
        left = np.column_stack((-along[:, 1], along[:, 0])) / lengths_m[:, None]
        points = self.center[rows] + share[:, None] * along + left_m[:, None] * left
        headings_rad = np.arctan2(along[:, 1], along[:, 0]) + turned_rad
        return points, np.arctan2(np.sin(headings_rad), np.cos(headings_rad))

    def measure(self, points: np.ndarray, headings_rad: np.ndarray) -> dict[str, list[Any]]:
        """Return the geometric parameters at each pose, one list a parameter."""
        segment, share, nearest = _project(self.center, points)
        _, _, inner = _project(self.inner, nearest)
        _, _, outer = _project(self.outer, nearest)
        is_nearer_inner = _distance(points, inner) < _distance(points, outer)
        wheels_on = self._wheels_on_road(points, headings_rad)

        last = len(self.center) - 1
        previous = np.where(share >= 1.0, segment + 1, segment)
        stations_m = self.stations_m[previous].copy()
        inside = (share > 0.0) & (share < 1.0)
        lengths_m = self.stations_m[segment + 1] - self.stations_m[segment]
        stations_m[inside] += (share * lengths_m)[inside]
        if self.is_loop:  # the closing vertex is the first
            at_end = previous == last
            previous[at_end], stations_m[at_end] = 0, 0.0
        following = np.where(previous < last, previous + 1, 0)
        return {
            "all_wheels_on_track": (wheels_on == 4).tolist(),
            "x": points[:, 0].tolist(),
            "y": points[:, 1].tolist(),
            "heading": np.degrees(headings_rad).tolist(),
            "distance_from_center": _distance(points, nearest).tolist(),
            "projection_distance": stations_m.tolist(),
            "track_width": _distance(inner, outer).tolist(),
            "closest_waypoints": np.column_stack((previous, following)).tolist(),
            "is_left_of_center": (is_nearer_inner == self.is_left_inner).tolist(),
            "is_offtrack": (wheels_on == 0).tolist(),
        }

    def _wheels_on_road(self, points: np.ndarray, headings_rad: np.ndarray) -> np.ndarray:
        """Return how many wheels of each pose are on the road, shape (n,)."""
        car = CarConfig()
        front_m = car.rear_axle_x_m + car.wheelbase_m
        ahead = np.column_stack((np.cos(headings_rad), np.sin(headings_rad)))
        left = np.column_stack((-ahead[:, 1], ahead[:, 0]))
        origin = points - REFERENCE_AHEAD_M * ahead
        count = np.zeros(len(points), int)
        for forward_m, side_m in (
            (front_m, car.front_wheel_y_m),
            (front_m, -car.front_wheel_y_m),
            (car.rear_axle_x_m, car.rear_wheel_y_m),
            (car.rear_axle_x_m, -car.rear_wheel_y_m),
        ):
            count += self._is_on_road(origin + forward_m * ahead + side_m * left)
        return count

    def _is_on_road(self, points: np.ndarray) -> np.ndarray:
        if self.is_loop:
            return np.asarray(_is_within(self.outer, points) & ~_is_within(self.inner, points))
        return _is_within(np.vstack((self.outer, self.inner[::-1], self.outer[:1])), points)


def _project(line: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nearest segment of a line to each point, the share along it and the place."""
    start, along = line[:-1], np.diff(line, axis=0)
    squared = np.maximum((along**2).sum(axis=1), 1e-18)
    share = ((points[:, None] - start) * along).sum(axis=2) / squared
    share = np.clip(share, 0.0, 1.0)
    places = start + share[:, :, None] * along
    segment = ((places - points[:, None]) ** 2).sum(axis=2).argmin(axis=1)
    which = np.arange(len(points))
    return segment, share[which, segment], places[which, segment]


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.hypot(*(a - b).T)
    return distance


def _is_within(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which points a closed ring encloses: an odd number of edges lies to their right."""
    (x0, y0), (x1, y1) = ring[:-1].T, ring[1:].T
    x, y = points[:, :1], points[:, 1:]
    spans = (y0 > y) != (y1 > y)
    crossing_x = x0 + (y - y0) / np.where(y1 == y0, 1.0, y1 - y0) * (x1 - x0)
    return np.asarray((spans & (x < crossing_x)).sum(axis=1) % 2 == 1)


def _objects(track: Track, line: _Line) -> dict[str, Any]:
    """Return the parameters that boxes on the road have, whatever the car does."""
    forward = _Line(track, False)
    laps, lateral = np.array(_BOXES).T
    half_widths_m = 0.5 * np.interp(laps, forward.stations_m / forward.length_m, forward.widths_m)
    points, _ = forward.poses(laps, lateral * half_widths_m, np.zeros(len(laps)))
    measured = line.measure(points, np.zeros(len(points)))
    return {
        "objects_location": points.tolist(),
        "objects_left_of_center": measured["is_left_of_center"],
        "objects_distance": measured["projection_distance"],
        "objects_distance_from_center": measured["distance_from_center"],
        "objects_heading": [0.0] * len(points),
        "objects_speed": [0.0] * len(points),
    }


def _object_params(
    objects: dict[str, Any] | None, params: dict[str, Any], heading_rad: float, length_m: float
) -> dict[str, Any]:
    """Return all parameters about objects, for one pose."""
    if objects is None:
        lists: dict[str, Any] = {key: [] for key in KEYS if key.startswith("objects_")}
        return {**lists, "closest_objects": [0, 0], "object_in_camera": False}
    ahead_m = [
        (station_m - params["projection_distance"]) % length_m
        for station_m in objects["objects_distance"]
    ]
    following = ahead_m.index(min(ahead_m))
    previous = ahead_m.index(max(ahead_m))
    x, y = objects["objects_location"][following]
    long_m, wide_m = _BOX_HALF_SIZE_M
    corners = [(x + i * long_m, y + j * wide_m) for i in (-1, 1) for j in (-1, 1)]
    is_seen = any(_is_ahead(params, heading_rad, point) for point in [(x, y), *corners])
    return {**objects, "closest_objects": [previous, following], "object_in_camera": is_seen}


def _is_ahead(params: dict[str, Any], heading_rad: float, point: tuple[float, float]) -> bool:
    bearing_rad = math.atan2(point[1] - params["y"], point[0] - params["x"]) - heading_rad
    return abs(math.remainder(bearing_rad, math.tau)) < _CAMERA_HALF_ANGLE_RAD
