"""What the reward function is told about a step: measured here, made a dict in `sim.reward_dict`.

`measure` fills the geometric fields of a step record from the car's pose; `RewardParams` turns
records into the dicts a reward function gets. Nothing else in the project computes either.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from sim import geometry
from sim.reward_dict import KEYS, RewardParams
from sim.track import TrackArrays, project

__all__ = ["KEYS", "REFERENCE_AHEAD_M", "RewardParams", "measure", "progress_after"]

REFERENCE_AHEAD_M = 0.14
"""The point all centre-line quantities are measured at lies this far ahead of the car's origin."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def measure(
    arrays: TrackArrays,
    is_reversed: bool,
    origin_x: float,
    origin_y: float,
    yaw: float,
    wheels: np.ndarray,
    start_fraction: float,
    previous_progress: float,
    steps: np.ndarray,
    i: int,
) -> None:
    """Fill the geometric fields of one step record.

    Sets x, y, heading, distance_from_center, projection_distance, progress, track_width,
    previous_waypoint, next_waypoint, all_wheels_on_track, is_left_of_center, is_offtrack and
    is_reversed; leaves the others alone.

    Args:
        arrays: The track (`Track.arrays` of the track in row order).
        is_reversed: True measures against the row order; waypoint indices then count from the
            end of the rows.
        origin_x: The car's origin in m.
        origin_y: The car's origin in m.
        yaw: Direction the car looks in, rad.
        wheels: Contact points in m, shape (4, 2).
        start_fraction: Where the episode began, laps in driving direction.
        previous_progress: Progress of the step before in percent, 0 at the first.
        steps: Array of `sim.steps.STEP_DTYPE`.
        i: Index of the record to fill.
    """
    cos_yaw = math.cos(yaw)
    sin_yaw = math.sin(yaw)
    x = origin_x + REFERENCE_AHEAD_M * cos_yaw
    y = origin_y + REFERENCE_AHEAD_M * sin_yaw
    station_m, previous, center_x, center_y, segment = project(arrays, is_reversed, x, y)
    inner_x, inner_y = _nearest_point(
        arrays.inner, arrays.inner_near_segment, segment, center_x, center_y
    )
    outer_x, outer_y = _nearest_point(
        arrays.outer, arrays.outer_near_segment, segment, center_x, center_y
    )
    wheels_on_road = 0
    for wheel in range(4):
        if geometry.is_inside(
            arrays.grid,
            arrays.road_cells,
            arrays.road_edges,
            arrays.road_bands,
            wheels[wheel, 0],
            wheels[wheel, 1],
        ):
            wheels_on_road += 1

    last = len(arrays.center)
    lap_m = arrays.stations_m[1 if is_reversed else 0, last]
    is_nearer_inner = _distance(x, y, inner_x, inner_y) < _distance(x, y, outer_x, outer_y)
    record = steps[i]
    record.x = x
    record.y = y
    record.heading = math.degrees(math.atan2(sin_yaw, cos_yaw))
    record.distance_from_center = _distance(x, y, center_x, center_y)
    record.projection_distance = station_m
    record.progress = progress_after(station_m / lap_m, start_fraction, previous_progress)
    record.track_width = _distance(inner_x, inner_y, outer_x, outer_y)
    record.previous_waypoint = previous
    record.next_waypoint = previous + 1 if previous < last else 0
    record.all_wheels_on_track = wheels_on_road == 4
    record.is_offtrack = wheels_on_road == 0
    record.is_left_of_center = is_nearer_inner == (arrays.is_ccw != is_reversed)
    record.is_reversed = is_reversed


@numba.njit(nogil=True, cache=True, error_model="numpy")
def progress_after(fraction: float, start_fraction: float, previous_progress: float) -> float:
    """Return the progress in percent of a lap, continued over the finish and start lines.

    Args:
        fraction: Place on the track now, laps in driving direction, 0 to 1.
        start_fraction: Place where the episode began, likewise.
        previous_progress: Progress of the step before, percent; 0 at the first.

    Returns:
        At most 100; slightly negative behind the start.
    """
    progress = 100.0 * (fraction - start_fraction)
    if progress <= 0.0:
        progress += 100.0
    if previous_progress > progress + 50.0:
        progress += 100.0
    if progress > previous_progress + 50.0:
        progress -= 100.0
    return min(progress, 100.0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _distance(ax: float, ay: float, bx: float, by: float) -> float:
    return math.sqrt((ax - bx) ** 2 + (ay - by) ** 2)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _nearest_point(
    segments: np.ndarray, candidates: geometry.Candidates, which: int, x: float, y: float
) -> tuple[float, float]:
    k, t = geometry.nearest_segment(segments, candidates, which, x, y)
    return segments[k, 0] + t * segments[k, 2], segments[k, 1] + t * segments[k, 3]
