"""Measure the steps of a drive again from recorded poses, with the simulator's own code."""

from __future__ import annotations

import math

import numba
import numpy as np

from sim.car import CarConfig, CarNumbers, wheel_points
from sim.reward_params import REFERENCE_AHEAD_M, measure
from sim.steps import STEP_DTYPE
from sim.track import Track, TrackArrays, project


def remeasure(
    track: Track,
    x: np.ndarray,
    y: np.ndarray,
    yaw_rad: np.ndarray,
    is_reversed: bool = False,
    start_fraction: float = 0.0,
    car: CarConfig | None = None,
) -> np.ndarray:
    """Return the steps of one episode with every geometric field filled from its poses.

    Args:
        track: In row order.
        x: World x of the reference point (0.14 m ahead of the car's origin) at each step, m,
            shape (T,), float64; this is what step traces hold.
        y: Its world y likewise.
        yaw_rad: Where the car looks, rad, shape (T,), float64.
        is_reversed: Whether the episode was driven against the row order.
        start_fraction: Where it began, laps in driving direction; progress counts from there.
        car: Whose wheels are looked at; the default car if left out.

    Returns:
        Shape (T,), dtype `sim.steps.STEP_DTYPE`: what `sim.reward_params.measure` writes, the
        pose, and zeros in all other fields.

    Raises:
        ValueError: If the arrays differ in shape or hold a number that is not finite.
    """
    x, y, yaw_rad = (np.ascontiguousarray(values, np.float64) for values in (x, y, yaw_rad))
    shapes = (x.shape, y.shape, yaw_rad.shape)
    if x.ndim != 1 or len(set(shapes)) != 1:
        raise ValueError(
            f"x, y and yaw_rad must have one shape (T,), got {', '.join(map(str, shapes))}"
        )
    if not all(np.isfinite(values).all() for values in (x, y, yaw_rad)):
        raise ValueError("x, y and yaw_rad must be finite")
    steps = np.zeros(len(x), STEP_DTYPE)
    numbers = (car or CarConfig()).numbers()
    _measure_all(track.arrays, numbers, is_reversed, x, y, yaw_rad, start_fraction, steps)
    # Going to the origin and back would leave a rounding error in what is known exactly.
    steps["x"], steps["y"] = x, y
    return steps


def lap_fractions(
    track: Track, x: np.ndarray, y: np.ndarray, is_reversed: bool = False
) -> np.ndarray:
    """Return where points are on the centre line, laps in driving direction.

    Args:
        track: In row order.
        x: World x in m, shape (T,), float64.
        y: World y in m, shape (T,), float64.
        is_reversed: Whether the driving direction is against the row order.

    Returns:
        Shape (T,), float64, 0 to 1.
    """
    fractions = np.empty(len(x))
    _project_all(
        track.arrays,
        is_reversed,
        np.ascontiguousarray(x, np.float64),
        np.ascontiguousarray(y, np.float64),
        fractions,
    )
    return fractions


@numba.njit(nogil=True, cache=True)
def _measure_all(
    arrays: TrackArrays,
    car: CarNumbers,
    is_reversed: bool,
    x: np.ndarray,
    y: np.ndarray,
    yaw_rad: np.ndarray,
    start_fraction: float,
    steps: np.ndarray,
) -> None:
    wheels = np.empty((4, 2))
    progress = 0.0
    for i in range(len(steps)):
        origin_x = x[i] - REFERENCE_AHEAD_M * math.cos(yaw_rad[i])
        origin_y = y[i] - REFERENCE_AHEAD_M * math.sin(yaw_rad[i])
        wheel_points(car, origin_x, origin_y, yaw_rad[i], wheels)
        measure(
            arrays,
            is_reversed,
            origin_x,
            origin_y,
            yaw_rad[i],
            wheels,
            start_fraction,
            progress,
            steps,
            i,
        )
        progress = steps[i].progress
        steps[i].origin_x = origin_x
        steps[i].origin_y = origin_y
        steps[i].yaw = yaw_rad[i]


@numba.njit(nogil=True, cache=True)
def _project_all(
    arrays: TrackArrays, is_reversed: bool, x: np.ndarray, y: np.ndarray, fractions: np.ndarray
) -> None:
    lap_m = arrays.stations_m[1 if is_reversed else 0, len(arrays.center)]
    for i in range(len(x)):
        fractions[i] = project(arrays, is_reversed, x[i], y[i])[0] / lap_m
