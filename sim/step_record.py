"""What follows a car's movement in every simulator: its step is measured, judged and recorded."""

from __future__ import annotations

import math

import numba
import numpy as np

from sim.car import CarNumbers, wheel_points
from sim.episode import judge, put_back_pose
from sim.reward_params import measure
from sim.track import TrackArrays

_LINE_END_M = 1e-9


@numba.njit(nogil=True, cache=True)
def complete_step(
    track: TrackArrays,
    car: CarNumbers,
    episodes: np.ndarray,
    i: int,
    old_x: float,
    old_y: float,
    wheels: np.ndarray,
    steps: np.ndarray,
    k: int,
) -> tuple[float, float, float, bool]:
    """Measure and judge a step after the car has moved, and fill the rest of its record.

    Args:
        track: The track, in row order.
        car: Where the wheels are.
        episodes: `sim.episode.EPISODE_DTYPE` array; the rules' counters of record ``i`` advance.
        i: The car.
        old_x: Where the car's origin was before the step, m.
        old_y: The same.
        wheels: Scratch, shape (4, 2).
        steps: `sim.steps.STEP_DTYPE` array. Record ``k`` holds origin_x, origin_y, yaw, speed,
            steering_angle, actual_speed and actual_steering; gets all other fields.
        k: The step's record.

    Returns:
        Where the car has to be put back on the road (x, y in m, yaw in rad), and whether it has to.
    """
    step = steps[k]
    episode = episodes[i]
    wheel_points(car, step.origin_x, step.origin_y, step.yaw, wheels)
    measure(
        track,
        episode.is_reversed,
        step.origin_x,
        step.origin_y,
        step.yaw,
        wheels,
        episode.start_fraction,
        episode.progress,
        steps,
        k,
    )
    moved_m = math.hypot(step.origin_x - old_x, step.origin_y - old_y)
    length_m = track.stations_m[1 if episode.is_reversed else 0, -1]
    is_line_end = not track.is_loop and step.projection_distance >= length_m - _LINE_END_M
    if judge(episodes, i, moved_m, is_line_end, steps, k):
        fraction = episode.start_fraction + episode.progress / 100.0
        x, y, yaw = put_back_pose(track, episode.is_reversed, fraction, old_x, old_y)
        return x, y, yaw, True
    return 0.0, 0.0, 0.0, False
