"""When and why an episode ends, and where a car that left the road is put back.

The rules are the service's. One thing is simplified: a penalty there is a pause of so many
seconds in which nothing moves, here the clock jumps by them and the next step follows at once.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numba
import numpy as np

from sim import geometry
from sim.car import STEP_S
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import EpisodeStatus
from sim.track import TrackArrays, project, start_pose

STANDSTILL_M = 0.0003
"""A car that moves no farther than this in a step counts as standing still."""

EPISODE_DTYPE = np.dtype(
    [
        ("start_fraction", "f8"),  # laps in driving direction
        ("progress", "f8"),  # percent, at the step before
        ("clock_s", "f8"),  # simulated time since the start, penalties included
        ("pause_s", "f8"),  # penalties so far
        ("off_track_penalty_s", "f8"),
        ("collision_penalty_s", "f8"),
        ("friction_scale", "f8"),
        ("latency_steps", "i8"),  # steps by which actions arrive late
        ("steps", "i8"),  # played so far
        ("resets", "i8"),  # so far
        ("falling", "i8"),  # steps in a row with falling progress
        ("still", "i8"),  # steps in a row without movement
        ("max_steps", "i8"),
        ("max_resets", "i8"),
        ("reversed_steps", "i8"),
        ("immobilized_steps", "i8"),
        ("is_reversed", "?"),
        ("is_running", "?"),
    ],
    align=True,
)
"""One car's episode under way, with the rules it is played by."""

_IN_PROGRESS = int(EpisodeStatus.IN_PROGRESS)
_LAP_COMPLETE = int(EpisodeStatus.LAP_COMPLETE)
_OFF_TRACK = int(EpisodeStatus.OFF_TRACK)
_CRASHED = int(EpisodeStatus.CRASHED)
_IMMOBILIZED = int(EpisodeStatus.IMMOBILIZED)
_REVERSED = int(EpisodeStatus.REVERSED)
_TIME_UP = int(EpisodeStatus.TIME_UP)


def begin(
    episodes: np.ndarray, i: int, start: EpisodeStart, friction_scale: float, latency_steps: int
) -> None:
    """Write a fresh episode over record ``i`` of an `EPISODE_DTYPE` array."""
    rules = start.rules
    episodes[i] = (
        start.fraction,
        0.0,
        0.0,
        0.0,
        rules.off_track_penalty_s,
        rules.collision_penalty_s,
        friction_scale,
        latency_steps,
        0,
        0,
        0,
        0,
        rules.max_steps,
        rules.max_resets,
        rules.reversed_steps,
        rules.immobilized_steps,
        start.is_reversed,
        True,
    )


def check_start(start: EpisodeStart) -> None:
    """Check that an episode can begin this way.

    Raises:
        ValueError: If a value is out of range.
    """
    if not 0.0 <= start.fraction < 1.0:
        raise ValueError(f"fraction must be in [0, 1), got {start.fraction}")
    if start.episode < 0:
        raise ValueError(f"episode must be >= 0, got {start.episode}")
    if not math.isfinite(start.lateral_offset_m) or not math.isfinite(start.yaw_offset_rad):
        raise ValueError(
            "lateral_offset_m and yaw_offset_rad must be finite, got "
            f"{start.lateral_offset_m} and {start.yaw_offset_rad}"
        )
    check_rules(start.rules)


@lru_cache(maxsize=16)  # every start of a run brings the same rules
def check_rules(rules: EpisodeRules) -> None:
    """Check the rules of an episode.

    Raises:
        ValueError: If a value is out of range.
    """
    for name in ("max_steps", "reversed_steps", "immobilized_steps"):
        if getattr(rules, name) < 1:
            raise ValueError(f"{name} must be >= 1, got {getattr(rules, name)}")
    if rules.max_resets < 0 or rules.max_resets == 1:
        raise ValueError(f"max_resets must be 0 or >= 2, got {rules.max_resets}")
    for name in ("off_track_penalty_s", "collision_penalty_s"):
        penalty_s = getattr(rules, name)
        if not (math.isfinite(penalty_s) and penalty_s >= 0.0):
            raise ValueError(f"{name} must be a number >= 0, got {penalty_s}")


@numba.njit(nogil=True, cache=True)
def judge(
    episodes: np.ndarray, i: int, moved_m: float, is_line_end: bool, steps: np.ndarray, k: int
) -> bool:
    """Apply the rules to a measured step and complete its record.

    Time up comes before a complete lap, that before a crash, that before the others.

    Args:
        episodes: `EPISODE_DTYPE` array; counters and clock of record ``i`` are advanced.
        i: The car.
        moved_m: How far the car's origin moved in this step.
        is_line_end: Whether the car has reached the end of an open track.
        steps: `sim.steps.STEP_DTYPE` array; record ``k`` holds what `measure` wrote, and gets
            steps, sim_time, pause_duration, reset_count, status, is_crashed and done.
        k: The step's record.

    Returns:
        True if the car has to be put back on the road and the episode goes on.
    """
    episode = episodes[i]
    step = steps[k]
    episode.steps += 1
    episode.clock_s += STEP_S
    episode.falling = episode.falling + 1 if step.progress < episode.progress else 0
    episode.still = episode.still + 1 if moved_m <= STANDSTILL_M else 0
    is_crashed = False  # nothing stands on the track

    status = _IN_PROGRESS
    if episode.steps >= episode.max_steps:
        status = _TIME_UP
    elif step.progress >= 100.0 or is_line_end:
        status = _LAP_COMPLETE
    elif is_crashed:
        status = _CRASHED
    elif step.is_offtrack:
        status = _OFF_TRACK
    elif episode.still >= episode.immobilized_steps:
        status = _IMMOBILIZED
    elif episode.falling >= episode.reversed_steps:
        status = _REVERSED

    may_reset = status != _IN_PROGRESS and status != _TIME_UP and status != _LAP_COMPLETE
    is_put_back = may_reset and episode.resets < episode.max_resets
    if is_put_back:
        episode.resets += 1
    step.steps = episode.steps
    step.sim_time = episode.clock_s
    step.pause_duration = episode.pause_s
    step.reset_count = episode.resets
    step.status = status
    step.is_crashed = is_crashed
    step.done = status != _IN_PROGRESS and not is_put_back
    episode.is_running = not step.done

    if is_put_back:
        # The lap goes on from the progress before the mishap, which `episode` still holds.
        penalty_s = episode.off_track_penalty_s
        if status == _CRASHED:
            penalty_s = episode.collision_penalty_s
        elif status == _IMMOBILIZED:
            penalty_s = 0.0
        episode.clock_s += penalty_s
        episode.pause_s += penalty_s
        episode.falling = 0
        episode.still = 0
    else:
        episode.progress = step.progress
    return is_put_back


@numba.njit(nogil=True, cache=True)
def put_back_pose(
    arrays: TrackArrays, is_reversed: bool, fraction: float, x: float, y: float
) -> tuple[float, float, float]:
    """Return where a car goes back on the road: on the lane nearest to where it was.

    A lane is the line midway between the centre line and a border.

    Args:
        arrays: The track.
        is_reversed: True drives against the row order.
        fraction: Where to put it, laps from the first waypoint in driving direction.
        x: Where the car was before the mishap, m.
        y: Where the car was before the mishap, m.

    Returns:
        x, y in m and yaw in rad, looking along the centre line.
    """
    center_x, center_y, yaw = start_pose(arrays, is_reversed, fraction, 0.0)
    segment = project(arrays, is_reversed, center_x, center_y)[4]
    k, t = geometry.nearest_segment(
        arrays.inner, arrays.inner_near_segment, segment, center_x, center_y
    )
    inner_x = (center_x + arrays.inner[k, 0] + t * arrays.inner[k, 2]) / 2.0
    inner_y = (center_y + arrays.inner[k, 1] + t * arrays.inner[k, 3]) / 2.0
    k, t = geometry.nearest_segment(
        arrays.outer, arrays.outer_near_segment, segment, center_x, center_y
    )
    outer_x = (center_x + arrays.outer[k, 0] + t * arrays.outer[k, 2]) / 2.0
    outer_y = (center_y + arrays.outer[k, 1] + t * arrays.outer[k, 3]) / 2.0
    if math.hypot(x - inner_x, y - inner_y) <= math.hypot(x - outer_x, y - outer_y):
        return inner_x, inner_y, yaw
    return outer_x, outer_y, yaw
