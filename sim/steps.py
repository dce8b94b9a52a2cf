"""One simulation step of one car as a fixed record, and the status codes of an episode.

The record is what a simulator produces, what an episode stores, what the traces are
written from and what the reward function's parameters are made of. It holds every number
exactly (float64), so that a reward can be recomputed bit for bit from a recorded run.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

STEP_DTYPE = np.dtype(
    [
        ("x", "f8"),  # m, world frame: the point 0.14 m ahead of the car's origin
        ("y", "f8"),  # m, world frame
        ("heading", "f8"),  # degrees in [-180, 180], counter-clockwise from +x
        ("distance_from_center", "f8"),  # m, >= 0
        ("projection_distance", "f8"),  # m along the centre line from waypoint 0
        ("progress", "f8"),  # percent of a lap since the episode's start, <= 100
        ("steps", "f8"),  # 1.0 at the first step of an episode
        ("speed", "f8"),  # m/s, as commanded by the action
        ("steering_angle", "f8"),  # degrees, left positive, as commanded by the action
        ("track_width", "f8"),  # m, at the projection
        ("sim_time", "f8"),  # s, the simulation clock of this car
        ("pause_duration", "f8"),  # s of penalty so far in this episode
        ("origin_x", "f8"),  # m, world frame: the car's origin
        ("origin_y", "f8"),
        ("yaw", "f8"),  # rad
        ("actual_speed", "f8"),  # m/s, measured along the car
        ("actual_steering", "f8"),  # rad, mean of the front wheels
        ("previous_waypoint", "i4"),  # closest_waypoints[0]
        ("next_waypoint", "i4"),  # closest_waypoints[1]
        ("reset_count", "i4"),  # evaluation resets so far in this episode
        ("status", "i4"),  # EpisodeStatus
        ("all_wheels_on_track", "?"),
        ("is_left_of_center", "?"),
        ("is_offtrack", "?"),
        ("is_crashed", "?"),
        ("is_reversed", "?"),
        ("done", "?"),  # last step of the episode
    ],
    align=True,
)
"""Fields of a step; units as the reward function gets them (degrees, percent), rest SI."""


class EpisodeStatus(IntEnum):
    """Why an episode is where it is. The names are the service's trace values."""

    IN_PROGRESS = 0
    LAP_COMPLETE = 1
    OFF_TRACK = 2
    CRASHED = 3
    IMMOBILIZED = 4
    REVERSED = 5
    TIME_UP = 6

    @property
    def trace_name(self) -> str:
        """Return the value written into step traces, e.g. ``off_track``."""
        return self.name.lower()

    @property
    def label(self) -> str:
        """Return the label written into metrics files, e.g. ``Off track``."""
        if self is EpisodeStatus.TIME_UP:
            return "Time Up"
        return self.name.replace("_", " ").capitalize()
