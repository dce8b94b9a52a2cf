"""A track: centre line and borders, and everything derived from them.

A route is the array the service keeps a track in: one row per waypoint with six columns, centre
x, y, inner border x, y, outer border x, y, in metres and in driving order. A loop repeats its
first row at the end; anything else is an open track.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numba
import numpy as np

from sim import geometry
from sim.geometry import Candidates, Grid

MAX_ROWS = 5_000
SURFACES = ("asphalt", "carpet", "concrete", "wood")
"""What the ground may look like. Shape and driving are the same on all."""

_SAME_POINT_M = 1e-9
_GRID_CELL_M = 0.1
_GRID_MARGIN_M = 0.5
_MAX_COORDINATE_M = 10_000.0


class TrackArrays(NamedTuple):
    """A track as contiguous arrays for compiled kernels.

    Where the first axis is 2, index 0 is the row order and 1 the reverse driving direction.
    """

    is_loop: bool
    is_ccw: bool
    """Direction of the row order; open tracks count as counter-clockwise."""

    stations_m: np.ndarray
    """Length along the centre line at each waypoint, shape (2, N)."""

    center: np.ndarray
    """Centre-line segments in row order (`geometry.segment_table`), shape (N - 1, 5)."""

    inner: np.ndarray
    outer: np.ndarray

    grid: Grid
    center_near_cell: Candidates
    inner_near_segment: Candidates
    """Inner-border segments that can be nearest to a point of each centre-line segment."""
    outer_near_segment: Candidates

    road_edges: np.ndarray
    """Edges around the road, shape (E, 4)."""
    road_cells: np.ndarray
    road_bands: Candidates


@dataclass(frozen=True, eq=False)
class Track:
    """A track, checked; build one with `Track.from_route`."""

    name: str
    center: np.ndarray
    """Centre line in driving order, m, shape (N, 2); a loop repeats its first point."""
    inner: np.ndarray
    """Border inside the loop (left of an open track of ours), m, shape (N, 2)."""
    outer: np.ndarray
    is_loop: bool
    surface: str = "asphalt"
    """One of `SURFACES`."""

    @classmethod
    def from_route(cls, name: str, route: np.ndarray, surface: str = "asphalt") -> Track:
        """Return the track of a route array, after checking it.

        Args:
            name: What to call it; errors begin with it.
            route: Shape (N, 6) or wider; further columns are ignored.
            surface: One of `SURFACES`.

        Raises:
            ValueError: If the array is not a drivable route.
        """
        if surface not in SURFACES:
            raise ValueError(
                f"track {name!r}: surface must be one of {', '.join(SURFACES)}, got {surface!r}"
            )
        rows = _drop_repeated_rows(name, _check_shape(name, route))
        rows.setflags(write=False)
        track = cls(
            name,
            center=rows[:, 0:2],
            inner=rows[:, 2:4],
            outer=rows[:, 4:6],
            is_loop=bool(np.array_equal(rows[0], rows[-1])),
            surface=surface,
        )
        track._check_drivable()
        return track

    @cached_property
    def length_m(self) -> float:
        """Length of the centre line, closing segment included."""
        return float(geometry.arc_lengths(self.center)[-1])

    @cached_property
    def is_ccw(self) -> bool:
        """Whether the row order runs counter-clockwise; an open track counts as such."""
        return not self.is_loop or geometry.signed_area(self.center) > 0.0

    @cached_property
    def waypoints(self) -> list[tuple[float, float]]:
        """Centre-line vertices as the reward function gets them: (x, y) tuples of floats."""
        return [(x, y) for x, y in self.center.tolist()]

    @cached_property
    def widths_m(self) -> np.ndarray:
        """Distance between the borders at each row, shape (N,)."""
        widths: np.ndarray = np.hypot(*(self.outer - self.inner).T)
        return widths

    @cached_property
    def arrays(self) -> TrackArrays:
        """The same track for compiled kernels."""
        center, inner, outer = map(geometry.segment_table, (self.center, self.inner, self.outer))
        edges = self._road_edges()
        grid = geometry.grid_over(self.route().reshape(-1, 2), _GRID_MARGIN_M, _GRID_CELL_M)
        edge_segments = np.vstack([geometry.segment_table(e.reshape(2, 2)) for e in edges])
        stations_m = np.stack(
            (geometry.arc_lengths(self.center), geometry.arc_lengths(self.center[::-1]))
        )
        return TrackArrays(
            is_loop=self.is_loop,
            is_ccw=self.is_ccw,
            stations_m=stations_m,
            center=center,
            inner=inner,
            outer=outer,
            grid=grid,
            center_near_cell=geometry.cell_candidates(grid, center),
            inner_near_segment=geometry.segment_candidates(center, inner),
            outer_near_segment=geometry.segment_candidates(center, outer),
            road_edges=edges,
            road_cells=geometry.classify_cells(grid, edges, edge_segments),
            road_bands=geometry.band_candidates(grid, edges),
        )

    def reverse(self) -> Track:
        """Return the track as driven against its row order; inner stays inner."""
        return Track(
            self.name,
            self.center[::-1],
            self.inner[::-1],
            self.outer[::-1],
            self.is_loop,
            self.surface,
        )

    def pose_at(self, fraction: float, lateral_offset_m: float = 0.0) -> tuple[float, float, float]:
        """Return a pose on the track, looking along the centre line.

        Args:
            fraction: Place in laps from the first waypoint; a loop wraps around.
            lateral_offset_m: Metres left of the centre line (negative: right).

        Returns:
            x, y in m and yaw in rad.
        """
        x, y, yaw = start_pose(self.arrays, False, fraction, lateral_offset_m)
        return float(x), float(y), float(yaw)

    def project(self, xy: tuple[float, float]) -> float:
        """Return the length along the centre line (m) of the point on it nearest to ``xy``."""
        return float(project(self.arrays, False, xy[0], xy[1])[0])

    def route(self) -> np.ndarray:
        """Return the route array, shape (N, 6), a new one."""
        return np.column_stack((self.center, self.inner, self.outer))

    def _road_edges(self) -> np.ndarray:
        """Return the edges around the road: two rings, or one around an open track's strip."""
        if self.is_loop:
            rings = [self.outer, self.inner]
        else:
            rings = [np.vstack((self.outer, self.inner[::-1], self.outer[:1]))]
        return np.vstack([np.column_stack((ring[:-1], ring[1:])) for ring in rings])

    def _check_drivable(self) -> None:
        if self.widths_m.min() <= _SAME_POINT_M:
            row = int(self.widths_m.argmin())
            raise ValueError(
                f"track {self.name!r}: the road must be wider than 0 m, got 0 in row {row}"
            )
        crossing = geometry.first_self_crossing(self.center)
        if crossing is not None:
            raise ValueError(
                f"track {self.name!r}: the centre line must not cross itself (a figure of eight "
                f"cannot be driven), but rows {crossing[0]} and {crossing[1]} do"
            )
        if self.is_loop:
            inner_m2, outer_m2 = (
                abs(geometry.signed_area(ring)) for ring in (self.inner, self.outer)
            )
            if inner_m2 >= outer_m2:
                raise ValueError(
                    f"track {self.name!r}: the inner border (columns 2-3) must enclose less than "
                    f"the outer one (columns 4-5), got {inner_m2:.3f} and {outer_m2:.3f} m2"
                )


def _check_shape(name: str, route: np.ndarray) -> np.ndarray:
    """Return the six columns of a route as float64, or say what is wrong with it."""
    array = np.asarray(route)
    if array.ndim != 2 or array.shape[1] < 6:
        raise ValueError(
            f"track {name!r}: a route must have at least 6 columns (centre, inner, outer x, y), "
            f"got shape {array.shape}"
        )
    if not 2 <= len(array) <= MAX_ROWS:
        raise ValueError(
            f"track {name!r}: a route must have 2 to {MAX_ROWS} rows, got {len(array)}"
        )
    if array.dtype.kind not in "fiu":
        raise ValueError(f"track {name!r}: a route must hold numbers, got {array.dtype}")
    rows = array[:, :6].astype(np.float64)
    bad = np.nonzero(~(np.abs(rows) <= _MAX_COORDINATE_M).all(axis=1))[0]
    if len(bad):
        raise ValueError(
            f"track {name!r}: coordinates must be finite and within {_MAX_COORDINATE_M:.0f} m of "
            f"the origin, got {rows[bad[0]].tolist()} in row {bad[0]}"
        )
    return rows


def _drop_repeated_rows(name: str, rows: np.ndarray) -> np.ndarray:
    """Drop rows whose centre point repeats the one before; a closing row always stays."""
    step_m = np.hypot(*np.diff(rows[:, :2], axis=0).T)
    is_new = np.concatenate(([True], step_m > _SAME_POINT_M))
    if not is_new[-1]:  # the closing row stays, the row before it goes
        last_kept = int(np.nonzero(is_new)[0][-1])
        if last_kept > 0:
            is_new[last_kept] = False
        is_new[-1] = True
    kept = rows[is_new]
    is_loop = np.array_equal(kept[0], kept[-1])
    if len(kept) < (4 if is_loop else 2) or geometry.arc_lengths(kept[:, :2])[-1] <= _SAME_POINT_M:
        raise ValueError(
            f"track {name!r}: the centre line must have a length, got {len(kept)} different "
            f"row{'s' if len(kept) != 1 else ''}{' (a loop needs three)' if is_loop else ''}"
        )
    return np.ascontiguousarray(kept)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def project(
    arrays: TrackArrays, is_reversed: bool, x: float, y: float
) -> tuple[float, int, float, float, int]:
    """Project a point onto the centre line.

    Args:
        arrays: The track.
        is_reversed: True measures against the row order.
        x: Point in m.
        y: Point in m.

    Returns:
        Length along the centre line in driving direction (m); index of the last waypoint not
        after it; the projection's x and y (m); and its segment in row order.
    """
    cell = geometry.cell_of(arrays.grid, x, y)
    segment, t = geometry.nearest_segment(arrays.center, arrays.center_near_cell, cell, x, y)
    center_x = arrays.center[segment, 0] + t * arrays.center[segment, 2]
    center_y = arrays.center[segment, 1] + t * arrays.center[segment, 3]

    last = len(arrays.center)  # index of the last waypoint
    direction = 1 if is_reversed else 0
    stations_m = arrays.stations_m[direction]
    if 0.0 < t < 1.0:
        if is_reversed:
            previous = last - 1 - segment
            t = 1.0 - t
        else:
            previous = segment
        length_m = stations_m[previous + 1] - stations_m[previous]
        return stations_m[previous] + t * length_m, previous, center_x, center_y, segment
    # Off the outside of a bend many points project onto one vertex: take its station as it is,
    # so that rounding never moves the car to the segment before.
    vertex = segment if t <= 0.0 else segment + 1
    if is_reversed:
        vertex = last - vertex
    if arrays.is_loop and vertex == last:
        vertex = 0
    return stations_m[vertex], vertex, center_x, center_y, segment


@numba.njit(nogil=True, cache=True, error_model="numpy")
def start_pose(
    arrays: TrackArrays, is_reversed: bool, fraction: float, lateral_offset_m: float
) -> tuple[float, float, float]:
    """Return the pose at a fraction of the lap, looking towards the next waypoint.

    Args:
        arrays: The track.
        is_reversed: True drives against the row order.
        fraction: Laps from the first waypoint in driving direction; a loop wraps around, an open
            track is clamped to its ends.
        lateral_offset_m: Metres left of the centre line (negative: right).

    Returns:
        x, y in m and yaw in rad.
    """
    stations_m = arrays.stations_m[1 if is_reversed else 0]
    last = len(arrays.center)
    fraction = fraction - np.floor(fraction) if arrays.is_loop else min(max(fraction, 0.0), 1.0)
    station_m = fraction * stations_m[last]
    previous = min(np.searchsorted(stations_m, station_m, side="right") - 1, last - 1)
    past_m = station_m - stations_m[previous]
    t = past_m / (stations_m[previous + 1] - stations_m[previous])
    if is_reversed:
        row = last - 1 - previous
        x = arrays.center[row, 0] + (1.0 - t) * arrays.center[row, 2]
        y = arrays.center[row, 1] + (1.0 - t) * arrays.center[row, 3]
        yaw = np.arctan2(0.0 - arrays.center[row, 3], 0.0 - arrays.center[row, 2])
    else:
        row = previous
        x = arrays.center[row, 0] + t * arrays.center[row, 2]
        y = arrays.center[row, 1] + t * arrays.center[row, 3]
        yaw = np.arctan2(arrays.center[row, 3], arrays.center[row, 2])
    return x - lateral_offset_m * np.sin(yaw), y + lateral_offset_m * np.cos(yaw), yaw
