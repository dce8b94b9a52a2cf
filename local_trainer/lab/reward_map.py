"""A reward over the whole track: what a car would get at every place, for one way of driving.

The track is covered with square cells, on the road and a margin beside it. In each a car is put
with its reference point (the ``x`` and ``y`` of the reward function) on the cell's middle, turned
by the chosen angle from the direction of the two closest waypoints. Everything the reward
function is told follows from that pose by the simulator's own measuring. ``progress``, ``steps``
and ``sim_time`` are those of a car that came there from the start line at the chosen speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.errors import ConfigError
from local_trainer.reward import RewardFunction
from sim.remeasure import remeasure
from sim.simulator import STEPS_PER_SECOND
from sim.track import Track

MARGIN_M = 0.3
"""How far beside the road the map reaches: a car ends its episode well within."""

NUM_CELLS = 8_000
"""About how many cells cover the road when no cell size is given."""

MAX_CELLS = 100_000
MAX_SPEED_MPS = 10.0
MAX_STEERING_DEG = 90.0


@dataclass(frozen=True, eq=False)
class MapGrid:
    """The cells of a map, row by row from the lower left; all arrays are read-only."""

    track: Track
    is_reversed: bool
    cell_m: float
    margin_m: float
    low_m: tuple[float, float]
    """Lower left corner of the picture, x and y."""
    num_columns: int
    num_rows: int
    column: np.ndarray
    """Where each cell lies in the picture, shape (n,), int64."""
    row: np.ndarray
    x_m: np.ndarray
    """Middle of each cell, world frame, shape (n,), float64."""
    y_m: np.ndarray
    direction_rad: np.ndarray
    """Direction from the closest waypoint behind to the one ahead, shape (n,), float64."""
    station_m: np.ndarray
    closest_waypoint: np.ndarray
    """The nearer of the two closest waypoints, in driving order, shape (n,), int64."""

    _by_heading: dict[float, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many cells there are."""
        return len(self.x_m)

    @property
    def extent_m(self) -> tuple[float, float, float, float]:
        """Left, right, lower and upper edge of the picture, m."""
        x_m, y_m = self.low_m
        return (
            x_m,
            x_m + self.num_columns * self.cell_m,
            y_m,
            y_m + self.num_rows * self.cell_m,
        )

    def image(self, values: np.ndarray) -> np.ndarray:
        """Return one value a cell as a picture.

        Args:
            values: Shape (n,).

        Returns:
            Shape (num_rows, num_columns), float64, lowest row first, NaN where no cell is.
        """
        picture = np.full((self.num_rows, self.num_columns), np.nan)
        picture[self.row, self.column] = values
        return picture

    def steps(self, speed_mps: float, heading_deg: float, steering_deg: float) -> np.ndarray:
        """Return what a car in each cell is told; shape (n,), dtype `sim.steps.STEP_DTYPE`."""
        _check_driving(speed_mps, heading_deg, steering_deg)
        if heading_deg not in self._by_heading:
            yaw_rad = self.direction_rad + math.radians(heading_deg)
            self._by_heading[heading_deg] = _measured(
                self.track, self.is_reversed, self.x_m, self.y_m, yaw_rad
            )
        steps = self._by_heading[heading_deg].copy()
        steps["speed"] = steps["actual_speed"] = speed_mps
        steps["steering_angle"] = steering_deg
        steps["actual_steering"] = math.radians(steering_deg)
        steps["steps"] = np.maximum(np.round(self.station_m * STEPS_PER_SECOND / speed_mps), 1.0)
        steps["sim_time"] = steps["steps"] / STEPS_PER_SECOND
        return steps


@dataclass(frozen=True, eq=False)
class RewardMap:
    """The reward in every cell for one speed, heading and steering; arrays are read-only."""

    path: Path
    grid: MapGrid
    speed_mps: float
    heading_deg: float
    """From the direction of the centre line, left positive."""
    steering_deg: float
    reward: np.ndarray
    """Shape (n,), float64."""
    is_on_road: np.ndarray
    """Whether at least one wheel is on the road, shape (n,), bool."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Mean, lowest and highest reward, and where the highest is.

        ``mean_on_road`` is the mean where at least one wheel is on the road, None if nowhere.
        """
        reward, grid = self.reward, self.grid
        on_road = reward[self.is_on_road]
        best = int(reward.argmax())
        return {
            "mean": float(reward.mean()),
            "mean_on_road": float(on_road.mean()) if len(on_road) else None,
            "min": float(reward.min()),
            "max": float(reward.max()),
            "num_values": len(np.unique(reward)),
            "max_at": {
                "x_m": float(grid.x_m[best]),
                "y_m": float(grid.y_m[best]),
                "closest_waypoint": int(grid.closest_waypoint[best]),
            },
        }


@dataclass(frozen=True, eq=False)
class RewardLattice:
    """The reward in every cell for several speeds, headings and steerings."""

    path: Path
    grid: MapGrid
    speeds_mps: tuple[float, ...]
    headings_deg: tuple[float, ...]
    steerings_deg: tuple[float, ...]
    rewards: np.ndarray
    """Shape (speeds, headings, steerings, n), float32, read-only."""


def map_grid(
    track: Track,
    is_reversed: bool = False,
    cell_m: float | None = None,
    margin_m: float = MARGIN_M,
    num_cells: int = NUM_CELLS,
) -> MapGrid:
    """Cover a track with cells.

    Args:
        track: In row order.
        is_reversed: True drives it against its row order.
        cell_m: Side of a cell; None for one that gives about ``num_cells``.
        margin_m: How far beside the road the cells reach.
        num_cells: About how many cells.

    Raises:
        ConfigError: If a size is out of range.
    """
    if not 0.0 <= margin_m <= 5.0:
        raise ConfigError(f"The margin must be within 0 and 5 m, got {margin_m:g}")
    road_m = track.widths_m + 2.0 * margin_m
    area_m2 = track.length_m * float(road_m.mean())
    if cell_m is None:
        cell_m = max(round(math.sqrt(area_m2 / num_cells), 3), 0.01)
    if not 0.005 <= cell_m <= 1.0 or area_m2 / cell_m**2 > MAX_CELLS:
        finest_m = max(0.005, math.ceil(1000.0 * math.sqrt(area_m2 / MAX_CELLS)) / 1000.0)
        raise ConfigError(
            f"The side of a cell must be within {finest_m:g} and 1 m on {track.name}, "
            f"got {cell_m:g}"
        )
    corners = np.vstack((track.inner, track.outer))
    low = corners.min(axis=0) - margin_m
    num_columns, num_rows = np.ceil((corners.max(axis=0) + margin_m - low) / cell_m).astype(int)
    row, column = np.indices((num_rows, num_columns)).reshape(2, -1)
    x_m, y_m = low[0] + (column + 0.5) * cell_m, low[1] + (row + 0.5) * cell_m

    steps = _measured(track, is_reversed, x_m, y_m, np.zeros(len(x_m)))
    shown = np.flatnonzero(steps["distance_from_center"] <= 0.5 * steps["track_width"] + margin_m)
    steps = steps[shown]
    if not len(shown):
        raise ConfigError(f"No cell of {cell_m:g} m fits on the road of {track.name}")

    waypoints = track.center[::-1] if is_reversed else track.center
    # The end of an open track looks on along its last segment.
    behind = np.minimum(steps["previous_waypoint"], len(waypoints) - 2)
    ahead_m = waypoints[behind + 1] - waypoints[behind]
    grid = MapGrid(
        track=track,
        is_reversed=is_reversed,
        cell_m=cell_m,
        margin_m=margin_m,
        low_m=(float(low[0]), float(low[1])),
        num_columns=int(num_columns),
        num_rows=int(num_rows),
        column=column[shown],
        row=row[shown],
        x_m=x_m[shown],
        y_m=y_m[shown],
        direction_rad=np.arctan2(ahead_m[:, 1], ahead_m[:, 0]),
        station_m=steps["projection_distance"].copy(),
        closest_waypoint=_nearer_waypoint(steps, waypoints),
    )
    _freeze(
        grid.column,
        grid.row,
        grid.x_m,
        grid.y_m,
        grid.direction_rad,
        grid.station_m,
        grid.closest_waypoint,
    )
    return grid


def reward_map(
    path: Path,
    track: Track,
    speed_mps: float = 1.5,
    heading_deg: float = 0.0,
    steering_deg: float = 0.0,
    is_reversed: bool = False,
    grid: MapGrid | None = None,
    time_limit_s: float = 1.0,
) -> RewardMap:
    """Return the reward all over a track.

    Args:
        path: The reward function's file.
        track: In row order.
        speed_mps: Commanded speed.
        heading_deg: The car's heading from the direction of the centre line, left positive.
        steering_deg: Commanded steering angle, left positive.
        is_reversed: True drives the track against its row order.
        grid: Cells to use instead of `map_grid`'s; it then says track and direction.
        time_limit_s: Longest a single call may take.

    Raises:
        ConfigError: If speed, heading or steering is out of range.
        NotFound: If the file does not exist.
        RewardFunctionError: If the function cannot be loaded or fails in some cell.
    """
    grid = grid or map_grid(track, is_reversed)
    steps = grid.steps(speed_mps, heading_deg, steering_deg)
    with RewardFunction(path, grid.track, time_limit_s) as function:
        reward = function.rewards(steps)
    result = RewardMap(
        path, grid, speed_mps, heading_deg, steering_deg, reward, ~steps["is_offtrack"]
    )
    _freeze(result.reward, result.is_on_road)
    return result


def reward_lattice(
    path: Path,
    grid: MapGrid,
    speeds_mps: Sequence[float],
    headings_deg: Sequence[float],
    steerings_deg: Sequence[float],
    time_limit_s: float = 1.0,
) -> RewardLattice:
    """Return the reward all over a track for every combination of speed, heading and steering.

    Raises:
        As `reward_map`.
    """
    shape = (len(speeds_mps), len(headings_deg), len(steerings_deg), len(grid))
    rewards = np.empty(shape, np.float32)
    with RewardFunction(path, grid.track, time_limit_s) as function:
        for i, speed_mps in enumerate(speeds_mps):
            for j, heading_deg in enumerate(headings_deg):
                for k, steering_deg in enumerate(steerings_deg):
                    rewards[i, j, k] = function.rewards(
                        grid.steps(speed_mps, heading_deg, steering_deg)
                    )
    _freeze(rewards)
    return RewardLattice(
        path, grid, tuple(speeds_mps), tuple(headings_deg), tuple(steerings_deg), rewards
    )


def color_range(*rewards: np.ndarray) -> tuple[float, float]:
    """Return the lowest and highest value of a colour scale that serves all of these.

    Few values far away from all others do not count: they would leave one colour to the rest.

    Args:
        rewards: Any shapes.
    """
    values = np.concatenate([np.ravel(part) for part in rewards])
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if inner_high > inner_low and high - low > 3.0 * (inner_high - inner_low):
        return inner_low, inner_high
    return low, high


def _measured(
    track: Track, is_reversed: bool, x_m: np.ndarray, y_m: np.ndarray, yaw_rad: np.ndarray
) -> np.ndarray:
    """Return the steps of cars whose reference points lie at given places, shapes (n,)."""
    steps = remeasure(track, x_m, y_m, yaw_rad, is_reversed)
    # One car a cell: each has come there from the start line, none from the cell before.
    lap_m = track.arrays.stations_m[int(is_reversed), -1]
    steps["progress"] = np.minimum(100.0 * (steps["projection_distance"] / lap_m), 100.0)
    return steps


def _nearer_waypoint(steps: np.ndarray, waypoints: np.ndarray) -> np.ndarray:
    here = np.column_stack((steps["x"], steps["y"]))
    both = np.stack((steps["previous_waypoint"], steps["next_waypoint"]))
    distance_m = np.hypot(*(waypoints[both] - here).transpose(2, 0, 1))
    nearer: np.ndarray = np.where(distance_m[0] <= distance_m[1], both[0], both[1])
    return nearer.astype(np.int64)


def _check_driving(speed_mps: float, heading_deg: float, steering_deg: float) -> None:
    if not 0.0 < speed_mps <= MAX_SPEED_MPS:
        raise ConfigError(
            f"The speed must be above 0 and at most {MAX_SPEED_MPS:g} m/s, got {speed_mps:g}"
        )
    # Written so that NaN is refused, too.
    if not abs(heading_deg) <= 180.0:
        raise ConfigError(f"The heading must be within +-180 degrees, got {heading_deg:g}")
    if not abs(steering_deg) <= MAX_STEERING_DEG:
        raise ConfigError(
            f"The steering must be within +-{MAX_STEERING_DEG:g} degrees, got {steering_deg:g}"
        )


def _freeze(*arrays: np.ndarray) -> None:
    for array in arrays:
        array.setflags(write=False)
