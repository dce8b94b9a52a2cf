"""Plane geometry of polylines: lengths, crossings, and fast exact nearest-segment look-ups.

Nearest-segment and inside tests run per car and per step. To cost the same on a track of 20
rows and of 300, a uniform grid lists for each cell the only segments that can be nearest to any
point of it. The lists are conservative, so the answers are those of trying every segment.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

_MAX_CELLS = 400_000
_TIE_TOLERANCE_M = 1e-9
"""Added to every candidate test, so that rounding never drops the nearest segment."""


class Candidates(NamedTuple):
    """Lists of segment indices, ascending within each list."""

    first: np.ndarray
    """List i is ``segments[first[i]:first[i + 1]]``. Shape (number of lists + 1,), int32."""

    segments: np.ndarray
    """All lists one after another, int32."""


class Grid(NamedTuple):
    """Square cells over a rectangle, numbered row by row from its lower left corner."""

    x0_m: float
    y0_m: float
    cell_m: float
    columns: int
    rows: int


# --- polylines -----------------------------------------------------------------------------


def arc_lengths(points: np.ndarray) -> np.ndarray:
    """Return the length along a polyline at each vertex, first 0. Shape (N,) for (N, 2), m."""
    lengths = np.hypot(np.diff(points[:, 0]), np.diff(points[:, 1]))
    return np.concatenate(([0.0], np.cumsum(lengths)))


def signed_area(ring: np.ndarray) -> float:
    """Return the area inside a closed ring (N, 2) in m2, positive if it is counter-clockwise."""
    x, y = (ring - ring[0]).T
    return 0.5 * float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))


_COLLINEAR_M4 = 1e-18
"""Products of two areas nearer to 0 than this are rounding: the segments lie on one line."""


def first_self_crossing(points: np.ndarray) -> tuple[int, int] | None:
    """Return the first two segments of a polyline that cross each other, or None.

    Neighbouring segments, and the last and first of a closed ring, share a vertex and do not
    count.

    Args:
        points: Vertices in m, shape (N, 2); a ring repeats its first vertex at the end.
    """
    is_ring = bool(np.array_equal(points[0], points[-1]))
    start, end = points[:-1], points[1:]
    count = len(start)
    for i in range(count - 2):
        last = count - 1 if is_ring and i == 0 else count
        others = slice(i + 2, last)
        a = _side(start[i], end[i], start[others]) * _side(start[i], end[i], end[others])
        b = _side(start[others], end[others], start[i]) * _side(start[others], end[others], end[i])
        hits = np.nonzero((a < -_COLLINEAR_M4) & (b < -_COLLINEAR_M4))[0]
        if len(hits):
            return i, i + 2 + int(hits[0])
    return None


def _side(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return on which side of the line start-end a point lies: > 0 left, < 0 right."""
    along, to_point = end - start, point - start
    side: np.ndarray = along[..., 0] * to_point[..., 1] - along[..., 1] * to_point[..., 0]
    return side


def segment_table(points: np.ndarray) -> np.ndarray:
    """Return one row (x, y, dx, dy, 1 / length^2) per segment. Shape (N - 1, 5), float64.

    A segment of no length gets 0 in the last column: it is nearest at its start.
    """
    delta = np.diff(points, axis=0)
    squared = np.sum(delta * delta, axis=1)
    inverse = np.divide(1.0, squared, out=np.zeros_like(squared), where=squared > 0.0)
    return np.ascontiguousarray(np.column_stack((points[:-1], delta, inverse)))


# --- look-up tables --------------------------------------------------------------------------


def grid_over(points: np.ndarray, margin_m: float, cell_m: float) -> Grid:
    """Return a grid over the bounding box of points (N, 2), with larger cells if too many."""
    low = points.min(axis=0) - margin_m
    high = points.max(axis=0) + margin_m
    width_m, height_m = high - low
    cell_m = max(cell_m, math.sqrt(width_m * height_m / _MAX_CELLS))
    columns, rows = math.ceil(width_m / cell_m), math.ceil(height_m / cell_m)
    return Grid(float(low[0]), float(low[1]), float(cell_m), int(columns), int(rows))


def cell_candidates(grid: Grid, segments: np.ndarray) -> Candidates:
    """Return for each cell the segments that may be nearest to some point in it.

    A point is at most half a diagonal from its cell's centre, so a segment can be nearest only
    if the centre is within one diagonal more of it than of the segment nearest to the centre.
    """
    x = grid.x0_m + (np.arange(grid.columns) + 0.5) * grid.cell_m
    y = grid.y0_m + (np.arange(grid.rows) + 0.5) * grid.cell_m
    centers = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    slack_m = np.full(len(centers), math.sqrt(2.0) * grid.cell_m + _TIE_TOLERANCE_M)
    return Candidates(*_candidates(centers, slack_m, segments))


def segment_candidates(along: np.ndarray, segments: np.ndarray) -> Candidates:
    """Return for each row of ``along`` the segments that may be nearest to a point on it.

    Args:
        along: Segments the points lie on, from `segment_table`.
        segments: Segments to look among, from `segment_table`.
    """
    middles = along[:, :2] + 0.5 * along[:, 2:4]
    slack_m = np.hypot(along[:, 2], along[:, 3]) + _TIE_TOLERANCE_M
    return Candidates(*_candidates(middles, slack_m, segments))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _candidates(
    points: np.ndarray, slack_m: np.ndarray, segments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """List for each point the segments not farther than the nearest one plus the slack."""
    count = len(segments)
    distance_m = np.empty(count)
    first = np.zeros(len(points) + 1, np.int32)
    index = np.empty(16 * len(points) + 16, np.int32)
    used = 0
    for i in range(len(points)):
        limit = np.inf
        for k in range(count):
            squared, _ = _to_segment(segments, k, points[i, 0], points[i, 1])
            distance_m[k] = math.sqrt(squared)
            limit = min(limit, distance_m[k])
        limit += slack_m[i]
        for k in range(count):
            if distance_m[k] <= limit:
                if used == len(index):
                    index = np.concatenate((index, np.empty_like(index)))
                index[used] = k
                used += 1
        first[i + 1] = used
    return first, index[:used].copy()


def band_candidates(grid: Grid, edges: np.ndarray) -> Candidates:
    """Return for each row of the grid the edges that reach into it.

    Args:
        grid: The grid; edges may lie outside of it.
        edges: One row (x, y, x, y) per edge, shape (E, 4), m.
    """
    low = np.minimum(edges[:, 1], edges[:, 3]) - _TIE_TOLERANCE_M
    high = np.maximum(edges[:, 1], edges[:, 3]) + _TIE_TOLERANCE_M
    bottoms = grid.y0_m + grid.cell_m * np.arange(grid.rows)
    lists = [np.nonzero((high >= y) & (low <= y + grid.cell_m))[0] for y in bottoms]
    first = np.concatenate(([0], np.cumsum([len(row) for row in lists])))
    return Candidates(first.astype(np.int32), np.concatenate(lists).astype(np.int32))


CELL_OUTSIDE, CELL_INSIDE, CELL_MIXED = 0, 1, 2


@numba.njit(nogil=True, cache=True, error_model="numpy")
def classify_cells(grid: Grid, edges: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Say of each cell whether it lies outside, inside, or across the edges of an area.

    Args:
        grid: The cells.
        edges: The area's edges, shape (E, 4), m.
        segments: The same edges as a `segment_table`.

    Returns:
        CELL_OUTSIDE, CELL_INSIDE or CELL_MIXED for each cell, uint8.
    """
    classes = np.empty(grid.columns * grid.rows, np.uint8)
    reach_m = math.sqrt(0.5) * grid.cell_m + _TIE_TOLERANCE_M
    for row in range(grid.rows):
        y = grid.y0_m + (row + 0.5) * grid.cell_m
        for column in range(grid.columns):
            x = grid.x0_m + (column + 0.5) * grid.cell_m
            kind = CELL_MIXED
            is_clear = True
            for k in range(len(segments)):
                squared, _ = _to_segment(segments, k, x, y)
                if squared <= reach_m * reach_m:
                    is_clear = False
                    break
            if is_clear:
                is_inside = False
                for k in range(len(edges)):
                    is_inside ^= _crosses_ray(edges, k, x, y)
                kind = CELL_INSIDE if is_inside else CELL_OUTSIDE
            classes[row * grid.columns + column] = kind
    return classes


# --- kernels ---------------------------------------------------------------------------------


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _to_segment(segments: np.ndarray, k: int, x: float, y: float) -> tuple[float, float]:
    """Return the squared distance to segment k and the place of its nearest point, 0 to 1."""
    ax = x - segments[k, 0]
    ay = y - segments[k, 1]
    dx = segments[k, 2]
    dy = segments[k, 3]
    t = min(max((ax * dx + ay * dy) * segments[k, 4], 0.0), 1.0)
    ex = ax - t * dx
    ey = ay - t * dy
    return ex * ex + ey * ey, t


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _crosses_ray(edges: np.ndarray, k: int, x: float, y: float) -> bool:
    """Return whether edge k crosses the ray from (x, y) towards +x."""
    ay = edges[k, 1]
    by = edges[k, 3]
    if (ay > y) == (by > y):
        return False
    return bool(x < edges[k, 0] + (y - ay) / (by - ay) * (edges[k, 2] - edges[k, 0]))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def cell_of(grid: Grid, x: float, y: float) -> int:
    """Return the number of the cell that holds a point, or -1 outside of the grid."""
    column = math.floor((x - grid.x0_m) / grid.cell_m)
    row = math.floor((y - grid.y0_m) / grid.cell_m)
    if column < 0 or row < 0 or column >= grid.columns or row >= grid.rows:
        return -1
    return int(row * grid.columns + column)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def nearest_segment(
    segments: np.ndarray, candidates: Candidates, which: int, x: float, y: float
) -> tuple[int, float]:
    """Return the first nearest segment to a point and the place of the nearest point on it.

    Args:
        segments: From `segment_table`.
        candidates: Lists of segments.
        which: The list to look in; -1 looks among all segments.
        x: Point in m.
        y: Point in m.

    Returns:
        Segment index, and the place from 0 (its start) to 1 (its end).
    """
    best = 0
    best_t = 0.0
    best_squared = np.inf
    if which < 0:
        for k in range(len(segments)):
            squared, t = _to_segment(segments, k, x, y)
            if squared < best_squared:
                best, best_t, best_squared = k, t, squared
    else:
        for i in range(candidates.first[which], candidates.first[which + 1]):
            k = candidates.segments[i]
            squared, t = _to_segment(segments, k, x, y)
            if squared < best_squared:
                best, best_t, best_squared = k, t, squared
    return best, best_t


@numba.njit(nogil=True, cache=True, error_model="numpy")
def is_inside(
    grid: Grid, classes: np.ndarray, edges: np.ndarray, bands: Candidates, x: float, y: float
) -> bool:
    """Return whether a point lies inside the area that edges bound (even-odd rule).

    Args:
        grid: A grid that covers the whole area.
        classes: From `classify_cells`.
        edges: The area's edges, shape (E, 4), m.
        bands: From `band_candidates`.
        x: Point in m.
        y: Point in m.
    """
    cell = cell_of(grid, x, y)
    if cell < 0:
        return False
    if classes[cell] != CELL_MIXED:
        return bool(classes[cell] == CELL_INSIDE)
    row = cell // grid.columns
    inside = False
    for i in range(bands.first[row], bands.first[row + 1]):
        inside ^= _crosses_ray(edges, bands.segments[i], x, y)
    return inside
