"""Reward parameters at given poses, for ``local-trainer track params``.

Input is a list of entries, one per driving direction::

    [{"track": "reinvent_base", "reverse_direction": false,
      "poses": [{"x": 3.1, "y": 0.7, "yaw": 0.0}]}]

``x``, ``y`` (m) and ``yaw`` (rad) are the pose of the car's origin. A pose may also hold
``wheels`` (contact points front left, front right, rear left, rear right; otherwise where our
car has them), ``start_ndist`` (where the episode began, laps), ``prev_progress`` (percent),
``steps``, ``steering_angle`` (degrees) and ``speed`` (m/s). An entry may hold ``start_poses``
with ``ndist`` (laps), which get the pose on the centre line there.

Output is the same list with the track's facts in each entry, and in each pose the ``params`` a
reward function gets (without ``waypoints``) and ``closest_waypoint``, the nearer of the two.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.errors import ConfigError
from sim.car import CarConfig, wheel_points
from sim.reward_params import RewardParams, measure
from sim.steps import STEP_DTYPE
from sim.track import Track, start_pose

_REQUIRED = ("x", "y", "yaw")
_DEFAULTS = {
    "start_ndist": 0.0,
    "prev_progress": 0.0,
    "steps": 1.0,
    "steering_angle": 0.0,
    "speed": 0.0,
}


def read_poses(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a poses file.

    Raises:
        ConfigError: If the file is not JSON of the form above.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the poses file {str(path)!r}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The poses file {str(path)!r} must be JSON: {error}") from None
    if not isinstance(entries, list):
        raise ConfigError(f"poses: must be a list of entries, got {_kind(entries)}")
    for number, entry in enumerate(entries):
        _check_entry(f"entry {number}", entry)
    return entries


def answer(track: Track, entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of `read_poses` with everything measured on a track."""
    is_reversed = entry.get("reverse_direction", False)
    answered = {
        **entry,
        "track": entry.get("track", track.name),
        "reverse_direction": is_reversed,
        "track_length": track.length_m,
        "is_loop": track.is_loop,
        "is_ccw": track.is_ccw != is_reversed,
        "n_waypoints": len(track.center),
    }
    if "start_poses" in entry:
        answered["start_poses"] = [
            _start_pose(track, is_reversed, pose["ndist"]) for pose in entry["start_poses"]
        ]
    answered["poses"] = _answer_poses(track, is_reversed, entry["poses"])
    return answered


def _start_pose(track: Track, is_reversed: bool, fraction: float) -> dict[str, float]:
    x, y, yaw = start_pose(track.arrays, is_reversed, fraction, 0.0)
    return {"ndist": fraction, "x": float(x), "y": float(y), "yaw": float(yaw)}


def _answer_poses(
    track: Track, is_reversed: bool, poses: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    car = CarConfig().numbers()
    steps = np.zeros(len(poses), STEP_DTYPE)
    wheels = np.empty((4, 2))
    for i, pose in enumerate(poses):
        values = _DEFAULTS | pose
        x, y, yaw = float(pose["x"]), float(pose["y"]), float(pose["yaw"])
        if "wheels" in pose:
            wheels[:] = pose["wheels"]
        else:
            wheel_points(car, x, y, yaw, wheels)
        measure(
            track.arrays,
            is_reversed,
            x,
            y,
            yaw,
            wheels,
            float(values["start_ndist"]),
            float(values["prev_progress"]),
            steps,
            i,
        )
        for name in ("steps", "steering_angle", "speed"):
            steps[name][i] = values[name]
    answered = []
    for pose, params in zip(poses, RewardParams(track).dicts(steps), strict=True):
        nearer = _nearer_waypoint(params)
        del params["waypoints"]
        answered.append({**pose, "params": params, "closest_waypoint": nearer})
    return answered


def _nearer_waypoint(params: dict[str, Any]) -> int:
    """Return whichever of the two closest waypoints is nearer to the car."""
    here = (params["x"], params["y"])
    previous, following = params["closest_waypoints"]
    waypoints = params["waypoints"]
    is_nearer = math.dist(waypoints[previous], here) <= math.dist(waypoints[following], here)
    return int(previous if is_nearer else following)


def _check_entry(where: str, entry: Any) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("poses"), list):
        raise ConfigError(f"{where}: must be an object with a list 'poses', got {_kind(entry)}")
    is_reversed = entry.get("reverse_direction", False)
    if not isinstance(is_reversed, bool):
        raise ConfigError(f"{where}: reverse_direction must be true or false, got {is_reversed!r}")
    for number, pose in enumerate(entry["poses"]):
        _check_pose(f"{where}, pose {number}", pose)
    start_poses = entry.get("start_poses", [])
    if not isinstance(start_poses, list):
        raise ConfigError(f"{where}: start_poses must be a list, got {_kind(start_poses)}")
    for number, pose in enumerate(start_poses):
        here = f"{where}, start pose {number}"
        if not isinstance(pose, dict) or "ndist" not in pose:
            raise ConfigError(f"{here}: must be an object with 'ndist', got {_kind(pose)}")
        _check_number(here, "ndist", pose["ndist"])


def _check_pose(where: str, pose: Any) -> None:
    if not isinstance(pose, dict):
        raise ConfigError(f"{where}: must be an object with x, y and yaw, got {_kind(pose)}")
    for key in _REQUIRED:
        if key not in pose:
            raise ConfigError(f"{where}: {key} is missing")
    for key in (*_REQUIRED, *_DEFAULTS):
        if key in pose:
            _check_number(where, key, pose[key])
    if "wheels" not in pose:
        return
    wheels = pose["wheels"]
    is_four_pairs = isinstance(wheels, list) and [
        len(wheel) if isinstance(wheel, list) else 0 for wheel in wheels
    ] == [2, 2, 2, 2]
    if not is_four_pairs:
        raise ConfigError(f"{where}: wheels must be four [x, y] pairs, got {wheels!r:.80}")
    for wheel in wheels:
        for value in wheel:
            _check_number(where, "a wheel's coordinate", value)


def _check_number(where: str, key: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Beyond this nothing is on a track, and squares of it would overflow.
    if not is_number or not abs(value) <= 1e9:
        raise ConfigError(f"{where}: {key} must be a number within +-1e9, got {value!r:.40}")


def _kind(value: Any) -> str:
    """Name a value's type the way JSON does, with its keys if it is an object."""
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, value)) or 'nothing'}"
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
