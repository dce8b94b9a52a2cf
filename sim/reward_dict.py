"""The dict that a reward function gets, made from step records.

Imports no compiler: the process that runs the user's function has to start quickly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

KEYS = (
    "all_wheels_on_track",
    "x",
    "y",
    "heading",
    "distance_from_center",
    "projection_distance",
    "progress",
    "steps",
    "speed",
    "steering_angle",
    "track_width",
    "track_length",
    "waypoints",
    "closest_waypoints",
    "is_left_of_center",
    "is_reversed",
    "closest_objects",
    "objects_location",
    "objects_left_of_center",
    "objects_distance",
    "objects_distance_from_center",
    "objects_heading",
    "objects_speed",
    "object_in_camera",
    "is_crashed",
    "is_offtrack",
    "sim_time",
)
"""Keys of the dict, in the service's order."""

_RECORD_FIELDS = [
    "all_wheels_on_track",
    "x",
    "y",
    "heading",
    "distance_from_center",
    "projection_distance",
    "progress",
    "steps",
    "speed",
    "steering_angle",
    "track_width",
    "previous_waypoint",
    "next_waypoint",
    "is_left_of_center",
    "is_reversed",
    "is_crashed",
    "is_offtrack",
    "sim_time",
]


class CenterLine(Protocol):
    """What `RewardParams` needs of a track; a `sim.track.Track` has it."""

    @property
    def length_m(self) -> float:
        """Length of the centre line."""

    @property
    def waypoints(self) -> list[tuple[float, float]]:
        """Its vertices in row order, m."""


class RewardParams:
    """Makes the dicts that a reward function gets for steps on one track."""

    def __init__(self, track: CenterLine) -> None:
        """Take the track in row order; reversed steps get its waypoints reversed."""
        self._waypoints = (track.waypoints, track.waypoints[::-1])
        # Copying a whole dict and setting its values is faster than building a new one. It fixes
        # the order of the keys, and holds the values that never change.
        self._template: dict[str, Any] = dict.fromkeys(KEYS)
        self._template["track_length"] = track.length_m
        self._template["object_in_camera"] = False

    def dicts(self, steps: np.ndarray) -> list[dict[str, Any]]:
        """Return one dict per step, with the service's keys in its order.

        Values are Python's own types. Every list is a new one, so that a reward function may
        change what it gets.

        Args:
            steps: Shape (n,), dtype `sim.steps.STEP_DTYPE`.
        """
        return list(self.each(steps))

    def each(self, steps: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield the same dicts, each made when it is asked for.

        Faster than `dicts` where a dict is dropped before the next: it is freed at once, so that
        Python's garbage collector finds nothing to look through.
        """
        template = self._template
        forward, backward = self._waypoints
        # One tuple a record: tolist() converts all fields at once, far faster than one by one.
        for (
            all_wheels_on_track,
            x,
            y,
            heading,
            distance_from_center,
            projection_distance,
            progress,
            step,
            speed,
            steering_angle,
            track_width,
            previous,
            following,
            is_left_of_center,
            is_reversed,
            is_crashed,
            is_offtrack,
            sim_time,
        ) in steps[_RECORD_FIELDS].tolist():
            params = template.copy()
            params["all_wheels_on_track"] = all_wheels_on_track
            params["x"] = x
            params["y"] = y
            params["heading"] = heading
            params["distance_from_center"] = distance_from_center
            params["projection_distance"] = projection_distance
            params["progress"] = progress
            params["steps"] = step
            params["speed"] = speed
            params["steering_angle"] = steering_angle
            params["track_width"] = track_width
            params["waypoints"] = (backward if is_reversed else forward)[:]
            params["closest_waypoints"] = [previous, following]
            params["is_left_of_center"] = is_left_of_center
            params["is_reversed"] = is_reversed
            params["closest_objects"] = [0, 0]
            params["objects_location"] = []
            params["objects_left_of_center"] = []
            params["objects_distance"] = []
            params["objects_distance_from_center"] = []
            params["objects_heading"] = []
            params["objects_speed"] = []
            params["is_crashed"] = is_crashed
            params["is_offtrack"] = is_offtrack
            params["sim_time"] = sim_time
            yield params
