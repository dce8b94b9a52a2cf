"""Others' step traces as episodes: what the log holds is taken, the rest is measured again.

Pose, commands, progress, the wheel flag and the status come from the log; everything else a
reward function gets follows from pose and track (`sim.remeasure`). Where log and measurement
both know a value they are compared, so that a wrong track or a wrong unit shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.lab.traces import Trace
from sim.remeasure import lap_fractions, remeasure
from sim.simulator import STEPS_PER_SECOND, EpisodeStart
from sim.steps import EpisodeStatus
from sim.track import Track

LOGGED_FIELDS = (
    "x",
    "y",
    "heading",
    "progress",
    "steps",
    "speed",
    "steering_angle",
    "all_wheels_on_track",
    "is_crashed",
)
"""Parameters taken from a trace as they stand there."""

RECOMPUTED_FIELDS = (
    "distance_from_center",
    "projection_distance",
    "track_width",
    "track_length",
    "waypoints",
    "closest_waypoints",
    "is_left_of_center",
    "is_offtrack",
    "is_reversed",
    "sim_time",
)
"""Parameters measured again."""

_STANDING = ("pause", "park")
"""Status of steps in which the car waits and no reward function is called."""

_STATUS_CODES = {status.trace_name: int(status) for status in EpisodeStatus}
_POSITION_ERROR_M = 1e-4
"""Traces give positions to 0.1 mm."""

_FORCED_REWARD = 1e-8
"""What the first generation gave for a step off the track or stuck, without asking anyone."""


@dataclass(frozen=True)
class Agreement:
    """How often a recomputed value is the one that the log holds, too."""

    field: str
    num_steps: int
    num_equal: int
    """Steps on which they differ by no more than the log's rounding."""
    worst: float
    """Largest difference, in the field's unit; in waypoints or flags 0 or more."""

    @property
    def share(self) -> float:
        """Return the part of the steps that agree, 0 to 1."""
        return self.num_equal / self.num_steps if self.num_steps else 1.0


@dataclass(frozen=True)
class Recomputed:
    """Episodes of one trace."""

    episodes: list[Episode]
    comparable: list[np.ndarray]
    """For each episode the steps whose logged reward a reward function made, shape (T,), bool."""

    differences: dict[str, np.ndarray] = field(default_factory=dict)
    """By field, log against measurement, one number a step."""


def recompute(trace: Trace, track: Track, phase: str, iteration_of: np.ndarray) -> Recomputed:
    """Return the episodes of a trace with every parameter a reward function gets.

    Args:
        trace: What was read.
        track: Where it was driven, in row order.
        phase: ``training`` or ``evaluation``.
        iteration_of: Policy iteration of each of its rows, shape (n,), int.

    Returns:
        Episodes in the log's order. Rows in which the car only waits are left out. Fields of a
        step that no reward function gets (speed and steering as measured) are estimates.
    """
    rows = trace.rows
    is_driven = ~np.isin(rows["episode_status"], _STANDING)
    result = Recomputed([], [])
    differences: list[dict[str, np.ndarray]] = []
    for first, last in _episode_bounds(rows):
        kept = np.arange(first, last)[is_driven[first:last]]
        if not len(kept):
            continue
        episode, differs = _episode(rows[kept], trace, track, phase, int(iteration_of[first]))
        result.episodes.append(episode)
        result.comparable.append(_comparable(rows[kept], trace, phase))
        differences.append(differs)
    for name in differences[0] if differences else ():
        result.differences[name] = np.concatenate([one[name] for one in differences])
    return result


def agreements(parts: Sequence[Recomputed], track: Track) -> tuple[Agreement, ...]:
    """Return how far log and measurement agree over all steps of several traces.

    Args:
        parts: Results of `recompute`.
        track: Their track.
    """
    progress_error = 100.0 * 2.0 * _POSITION_ERROR_M / track.length_m + 1e-4
    allowed = {"progress": progress_error, "track_length": 0.01}
    found = []
    for name in ("all_wheels_on_track", "closest_waypoint", "progress", "track_length"):
        arrays = [part.differences[name] for part in parts if name in part.differences]
        if not arrays:
            continue
        difference = np.concatenate(arrays)
        num_equal = int((difference <= allowed.get(name, 0.0)).sum())
        found.append(Agreement(name, len(difference), num_equal, float(difference.max())))
    return tuple(found)


def _episode_bounds(rows: np.ndarray) -> list[tuple[int, int]]:
    """Return first and one-past-last row of each episode."""
    # A log that was appended to begins again with the same numbers.
    is_new = (np.diff(rows["episode"]) != 0) | (np.diff(rows["steps"]) < 0)
    cuts = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(rows)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def _comparable(rows: np.ndarray, trace: Trace, phase: str) -> np.ndarray:
    """Return the steps whose reward the user's function made, as the services work."""
    if phase == "evaluation":  # judged by the service's own centre-line reward
        return np.zeros(len(rows), np.bool_)
    if trace.is_2019:
        is_forced = rows["done"] & (rows["reward"] <= 2.0 * _FORCED_REWARD)
    else:
        is_forced = (rows["episode_status"] == "prepare") & (rows["reward"] == 0.0)
    return np.logical_not(is_forced)


def _episode(
    rows: np.ndarray, trace: Trace, track: Track, phase: str, iteration: int
) -> tuple[Episode, dict[str, np.ndarray]]:
    x, y = rows["X"], rows["Y"]
    yaw_rad = np.radians(rows["yaw"])
    is_reversed = _is_reversed(rows, track)
    fractions = lap_fractions(track, x, y, is_reversed)
    start_fraction = _start_fraction(fractions, rows["progress"])
    steps = remeasure(track, x, y, yaw_rad, is_reversed, start_fraction)
    differences = _differences(rows, steps, track, is_reversed)

    steps["heading"] = rows["yaw"]
    steps["progress"] = rows["progress"]
    steps["steps"] = rows["steps"]
    steps["speed"] = rows["throttle"]
    steps["steering_angle"] = rows["steer"]
    steps["all_wheels_on_track"] = rows["all_wheels_on_track"]
    steps["done"] = rows["done"]
    steps["pause_duration"] = rows["pause_duration"]
    steps["sim_time"] = _sim_time(rows, trace)
    steps["status"] = _status(rows, steps, trace)
    steps["is_offtrack"] = _is_offtrack(steps, trace)
    steps["is_crashed"] = steps["status"] == EpisodeStatus.CRASHED
    steps["reset_count"] = _reset_count(steps)
    steps["actual_speed"] = _driven_mps(steps)
    steps["actual_steering"] = np.radians(rows["steer"])
    episode = Episode(
        start=EpisodeStart(int(rows["episode"][0]), float(start_fraction), is_reversed),
        phase=phase,
        iteration=iteration,
        steps=steps,
        actions=rows["action"].astype(np.int32),
        rewards=rows["reward"].astype(np.float64),
        wall_clock=rows["tstamp" if trace.is_2019 else "wall_clock"].astype(np.float64),
    )
    return episode, differences


def _is_reversed(rows: np.ndarray, track: Track) -> bool:
    """Return whether an episode was driven against the row order: progress then counts down."""
    if len(rows) > 1:
        there = lap_fractions(track, rows["X"], rows["Y"])
        moved = _wrapped(np.diff(there))
        counted = _wrapped(np.diff(rows["progress"]) / 100.0)
        along, against = np.abs(moved - counted).sum(), np.abs(moved + counted).sum()
        if along != against:
            return bool(against < along)
    nearest = [
        int((_nearer_waypoints(rows, track, way) == rows["closest_waypoint"]).sum())
        for way in (False, True)
    ]
    return nearest[1] > nearest[0]


def _start_fraction(fractions: np.ndarray, progress: np.ndarray) -> float:
    """Return where an episode began; each step tells, and the median is the least rounded."""
    starts = fractions - progress / 100.0
    return float((starts[0] + np.median(_wrapped(starts - starts[0]))) % 1.0)


def _wrapped(laps: np.ndarray) -> np.ndarray:
    """Return differences in laps, each as the shorter way round."""
    return laps - np.round(laps)


def _differences(
    rows: np.ndarray, steps: np.ndarray, track: Track, is_reversed: bool
) -> dict[str, np.ndarray]:
    wheels = steps["all_wheels_on_track"] != rows["all_wheels_on_track"]
    nearest = _nearer(steps, track, is_reversed)
    apart = np.abs(nearest - rows["closest_waypoint"])
    num_waypoints = len(track.center) - 1
    return {
        "all_wheels_on_track": wheels.astype(np.float64),
        "closest_waypoint": np.minimum(apart, np.abs(num_waypoints - apart)).astype(np.float64),
        "progress": np.abs(steps["progress"] - rows["progress"]),
        "track_length": np.abs(track.length_m - rows["track_len"]),
    }


def _nearer_waypoints(rows: np.ndarray, track: Track, is_reversed: bool) -> np.ndarray:
    steps = remeasure(track, rows["X"], rows["Y"], np.radians(rows["yaw"]), is_reversed)
    return _nearer(steps, track, is_reversed)


def _nearer(steps: np.ndarray, track: Track, is_reversed: bool) -> np.ndarray:
    """Return the nearer of each step's two waypoints, as traces hold it."""
    center = track.center[::-1] if is_reversed else track.center
    behind, ahead = steps["previous_waypoint"], steps["next_waypoint"]
    from_behind = np.hypot(steps["x"] - center[behind, 0], steps["y"] - center[behind, 1])
    to_ahead = np.hypot(steps["x"] - center[ahead, 0], steps["y"] - center[ahead, 1])
    nearer: np.ndarray = np.where(to_ahead < from_behind, ahead, behind)
    return nearer


def _sim_time(rows: np.ndarray, trace: Trace) -> np.ndarray:
    """Return seconds since the episode's start; its first step ends after one frame."""
    if trace.is_2019:  # the clock on the wall, which no reward function got
        counted: np.ndarray = rows["steps"] / STEPS_PER_SECOND
        return counted
    first_s = max(float(rows["steps"][0]), 1.0) / STEPS_PER_SECOND
    since_start: np.ndarray = rows["tstamp"] - rows["tstamp"][0] + first_s
    return since_start


def _status(rows: np.ndarray, steps: np.ndarray, trace: Trace) -> np.ndarray:
    if not trace.is_2019:
        names, places = np.unique(rows["episode_status"], return_inverse=True)
        codes = [_STATUS_CODES.get(str(name), int(EpisodeStatus.IN_PROGRESS)) for name in names]
        named: np.ndarray = np.array(codes)[places]
        return named
    # The first generation says only that an episode ended; why follows from where.
    status = np.full(len(rows), int(EpisodeStatus.IN_PROGRESS))
    ended = np.flatnonzero(rows["done"])
    for k in ended:
        if rows["progress"][k] >= 100.0:
            status[k] = EpisodeStatus.LAP_COMPLETE
        elif steps["is_offtrack"][k]:
            status[k] = EpisodeStatus.OFF_TRACK
        elif rows["reward"][k] <= 2.0 * _FORCED_REWARD:
            status[k] = EpisodeStatus.IMMOBILIZED
        else:
            status[k] = EpisodeStatus.TIME_UP
    return status


def _is_offtrack(steps: np.ndarray, trace: Trace) -> np.ndarray:
    """Return whether no wheel is on the road: an episode goes on only while one is."""
    status = steps["status"]
    is_off: np.ndarray = status == EpisodeStatus.OFF_TRACK
    # These win over off-track where both hold, so only the pose can tell.
    wins = (EpisodeStatus.LAP_COMPLETE, EpisodeStatus.TIME_UP, EpisodeStatus.CRASHED)
    is_off |= np.isin(status, wins) & steps["is_offtrack"]
    return is_off


def _reset_count(steps: np.ndarray) -> np.ndarray:
    is_reset = (steps["status"] != EpisodeStatus.IN_PROGRESS) & ~steps["done"]
    return np.cumsum(is_reset)


def _driven_mps(steps: np.ndarray) -> np.ndarray:
    """Return the speed from place to place, m/s."""
    if len(steps) < 2:
        return np.zeros(len(steps))
    moved_m = np.hypot(np.diff(steps["x"]), np.diff(steps["y"]))
    elapsed_s = np.maximum(np.diff(steps["sim_time"]), 1e-3)
    speeds = moved_m / elapsed_s
    return np.concatenate((speeds[:1], speeds))
