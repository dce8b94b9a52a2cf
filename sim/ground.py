"""A track's ground as a picture: field, road, border lines and dashed centre line.

The same picture is what the embedded camera looks up, what Gazebo's ground plane wears and
what videos and plots draw beneath a path. Nothing here knows cameras or cars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from sim.track import Track

BORDER_LINE_M = 0.05
"""Width of the white lines. They lie on the road, their outer edge on its border."""

CENTER_LINE_M = 0.03
DASH_M = 0.12
"""Length of a dash of the centre line, and of a gap (stretched to fit the lap evenly)."""

MARGIN_M = 1.0
"""From the outermost border point to the wall that surrounds the ground."""

FINEST_CELL_M = 0.005
MAX_CELLS = 6_000_000
MAX_SIDE_CELLS = 30_000
"""Bound memory, and the camera's fixed-point numbers: a ground larger than 150 m2, or longer
than 150 m, gets coarser cells than `FINEST_CELL_M`."""

GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)

_SUBROWS = 4  # scan lines a cell row; along x the coverage is exact
_RGB = tuple[int, int, int]
_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroundStyle:
    """Colours and grain of a world. All RGB, 0-255."""

    field: _RGB
    road: _RGB
    wall: _RGB
    sky: _RGB = (183, 211, 233)
    border_line: _RGB = (236, 238, 236)
    center_line: _RGB = (247, 158, 22)
    grain: float = 0.0
    """Relative brightness of the road's mottling, peak; 0 is plain."""
    grain_m: float = 0.06
    """Size of a mottle."""
    plank_m: float = 0.0
    """Width of the road's planks, which lie along x; 0 has none."""


STYLES: dict[str, GroundStyle] = {
    "asphalt": GroundStyle(
        field=(46, 128, 74), road=(72, 76, 82), wall=(198, 202, 204), grain=0.05
    ),
    "carpet": GroundStyle(
        field=(104, 84, 70), road=(50, 54, 66), wall=(206, 200, 188), grain=0.16, grain_m=0.03
    ),
    "concrete": GroundStyle(
        field=(66, 98, 66), road=(122, 121, 117), wall=(186, 188, 190), grain=0.08, grain_m=0.15
    ),
    "wood": GroundStyle(
        field=(60, 62, 68),
        road=(158, 112, 70),
        wall=(214, 208, 196),
        center_line=(250, 206, 40),
        grain=0.05,
        plank_m=0.11,
    ),
}
"""By `Track.surface`. Real tracks are black on green with white and orange lines (asphalt)."""


@dataclass(frozen=True)
class Ground:
    """A rectangle of ground seen from straight above, north (+y) up."""

    rgb: _Bytes
    """Colours, shape (H, W, 3)."""

    materials: _Bytes
    """How much of each cell is field, road and line, shape (H, W, 3). They add up to 255."""

    cell_m: float
    """Edge of a cell (one pixel)."""

    left_m: float
    """World x of the left edge."""

    top_m: float
    """World y of the upper edge."""

    style: GroundStyle

    @property
    def right_m(self) -> float:
        """World x of the right edge."""
        return self.left_m + float(self.rgb.shape[1] * self.cell_m)

    @property
    def bottom_m(self) -> float:
        """World y of the lower edge."""
        return self.top_m - float(self.rgb.shape[0] * self.cell_m)

    @property
    def world_to_pixel(self) -> _Floats:
        """Shape (2, 3): times (x_m, y_m, 1) gives (column, row); pixel centres at .5."""
        per_m = 1.0 / self.cell_m
        return np.array(
            [[per_m, 0.0, -self.left_m * per_m], [0.0, -per_m, self.top_m * per_m]], np.float64
        )


def draw_ground(track: Track) -> Ground:
    """Return the ground of a track up to its surrounding wall, as finely as memory allows."""
    low, high = _extent(track)
    size = high - low
    by_area_m = math.sqrt(float(size.prod()) / MAX_CELLS)
    cell_m = max(FINEST_CELL_M, by_area_m, float(size.max()) / MAX_SIDE_CELLS)
    width, height = (math.ceil(extent / cell_m) for extent in size)
    return _draw(track, float(low[0]), float(high[1]), cell_m, height, width)


def top_view(track: Track, width_px: int, height_px: int) -> tuple[_Bytes, _Floats]:
    """Draw the whole track into a picture of the given size, centred, for videos and plots.

    Args:
        track: The track.
        width_px: Width of the picture, at least 1.
        height_px: Height of the picture, at least 1.

    Returns:
        The RGB picture, shape (height_px, width_px, 3), uint8, +y up, and the 2x3 transform from
        (x_m, y_m, 1) in the world to (column, row) in the picture.
    """
    if width_px < 1 or height_px < 1:
        raise ValueError(
            f"a top view needs a width and height of at least 1 px, got {width_px} x {height_px}"
        )
    low, high = _extent(track)
    size = high - low
    cell_m = float(max(size[0] / width_px, size[1] / height_px))
    middle = (low + high) / 2
    left_m = float(middle[0]) - width_px * cell_m / 2
    top_m = float(middle[1]) + height_px * cell_m / 2
    ground = _draw(track, left_m, top_m, cell_m, height_px, width_px)
    return ground.rgb, ground.world_to_pixel


def to_grey(rgb: npt.ArrayLike) -> _Bytes:
    """Return the grey picture the network is trained on, rounded. RGB is on the last axis."""
    grey = np.asarray(rgb, np.float32) @ np.array(GREY_WEIGHTS, np.float32)
    # The weights add up to 0.9999, so white rounds to 255 and nothing overflows.
    return np.rint(grey).astype(np.uint8)


def _extent(track: Track) -> tuple[_Floats, _Floats]:
    points = np.concatenate([track.inner, track.outer])
    return points.min(axis=0) - MARGIN_M, points.max(axis=0) + MARGIN_M


def _draw(
    track: Track, left_m: float, top_m: float, cell_m: float, height: int, width: int
) -> Ground:
    if track.surface not in STYLES:
        raise ValueError(
            f"Unknown surface {track.surface!r}. Surfaces: {', '.join(sorted(STYLES))}"
        )
    style = STYLES[track.surface]
    rgb = np.empty((height, width, 3), np.uint8)
    materials = np.empty((height, width, 3), np.uint8)
    road = _strip(track.inner, track.outer)
    grid = np.array([left_m, top_m, cell_m])
    palette = np.array([style.field, style.road, style.border_line, style.center_line], np.float32)
    grain = np.array([style.grain, style.grain_m, style.plank_m])
    borders = _stroke([track.inner, track.outer], BORDER_LINE_M)
    dashes = _stroke(_dashes(track.center), CENTER_LINE_M / 2)
    _paint(grid, road, *borders, *dashes, palette, grain, rgb, materials)
    return Ground(rgb, materials, cell_m, left_m, top_m, style)


def _strip(left: _Floats, right: _Floats) -> _Floats:
    """Return the quads between two lines of equal length, shape (N - 1, 4, 2)."""
    return np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)


def _stroke(lines: list[_Floats], half_width_m: float) -> tuple[_Floats, _Floats]:
    """Return quads and (x, y, radius) discs that thicken lines, their ends cut off square."""
    quads, discs = [np.empty((0, 4, 2))], [np.empty((0, 2))]
    for line in lines:
        along = np.diff(line, axis=0)
        length = np.hypot(along[:, 0], along[:, 1])
        start, end = line[:-1][length > 0], line[1:][length > 0]
        along = along[length > 0] * (half_width_m / length[length > 0])[:, None]
        across = np.stack([-along[:, 1], along[:, 0]], axis=1)
        quads.append(np.stack([start + across, end + across, end - across, start - across], axis=1))
        is_closed = bool(np.array_equal(line[0], line[-1]))
        discs.append(line if is_closed else line[1:-1])
    centers = np.concatenate(discs)
    radius = np.full((len(centers), 1), half_width_m)
    return np.concatenate(quads), np.concatenate([centers, radius], axis=1)


def _dashes(center: _Floats) -> list[_Floats]:
    """Return the dashes of a centre line, each a short line of shape (n, 2)."""
    steps = np.diff(center, axis=0)
    station = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
    periods = max(1, round(float(station[-1]) / (2 * DASH_M)))
    ends = np.linspace(0.0, float(station[-1]), 2 * periods + 1)
    dashes = []
    for start, end in zip(ends[0::2], ends[1::2], strict=False):
        inside = station[(station > start) & (station < end)]
        at = np.concatenate([[start], inside, [end]])
        xy = [np.interp(at, station, center[:, axis]) for axis in range(2)]
        dashes.append(np.stack(xy, axis=1))
    return dashes


@njit(cache=True, nogil=True)
def _paint(
    grid: _Floats,
    road: _Floats,
    border_quads: _Floats,
    border_discs: _Floats,
    dash_quads: _Floats,
    dash_discs: _Floats,
    palette: npt.NDArray[np.float32],
    grain: _Floats,
    rgb: _Bytes,
    materials: _Bytes,
) -> None:
    """Fill both pictures of a ground. ``grid`` is left_m, top_m, cell_m."""
    left_m, top_m, cell_m = grid
    height, width = rgb.shape[0], rgb.shape[1]
    no_discs = np.empty((0, 3))
    cover = np.empty((3, width), np.float32)
    most = len(border_quads) + len(border_discs) + len(road) + len(dash_quads) + len(dash_discs)
    spans = np.empty((most, 2))
    for row in range(height):
        y_m = top_m - row * cell_m
        cover[:] = 0.0
        _cover_row(road, no_discs, grid, y_m, spans, cover[0])
        _cover_row(border_quads, border_discs, grid, y_m, spans, cover[1])
        _cover_row(dash_quads, dash_discs, grid, y_m, spans, cover[2])
        for col in range(width):
            on_road = min(cover[0, col], np.float32(1.0))
            if on_road == 0.0:
                for k in range(3):
                    rgb[row, col, k] = np.uint8(palette[0, k])
                materials[row, col, 0], materials[row, col, 1], materials[row, col, 2] = 255, 0, 0
                continue
            # Lines are painted on the road: border lines end where the road does.
            border = min(cover[1, col], np.float32(1.0))
            dash = min(cover[2, col], np.float32(1.0)) * (np.float32(1.0) - border)
            plain = np.float32(1.0) - border - dash
            shade = np.float32(1.0) + np.float32(
                _grain(left_m + (col + 0.5) * cell_m, y_m - 0.5 * cell_m, grain)
            )
            for k in range(3):
                paint = (
                    plain * shade * palette[1, k] + border * palette[2, k] + dash * palette[3, k]
                )
                value = palette[0, k] + on_road * (paint - palette[0, k])
                rgb[row, col, k] = np.uint8(min(max(value, 0.0), 255.0) + 0.5)
            line = np.uint8(on_road * (border + dash) * 255.0 + 0.5)
            field = min(np.uint8((1.0 - on_road) * 255.0 + 0.5), np.uint8(255) - line)
            materials[row, col, 0] = field
            materials[row, col, 1] = np.uint8(255) - field - line
            materials[row, col, 2] = line


@njit(cache=True, nogil=True)
def _cover_row(
    quads: _Floats, discs: _Floats, grid: _Floats, y_m: float, spans: _Floats, cover: _Floats
) -> None:
    """Add to each cell of a row how much of it the union of the shapes covers."""
    left_m, _, cell_m = grid
    width = cover.shape[0]
    for subrow in range(_SUBROWS):
        y = y_m - (subrow + 0.5) / _SUBROWS * cell_m
        num_spans = _find_spans(quads, discs, y, spans)
        done = 0.0
        for i in range(num_spans):
            start = max((spans[i, 0] - left_m) / cell_m, done)
            end = min((spans[i, 1] - left_m) / cell_m, float(width))
            if end <= start:
                continue
            done = end
            first, last = int(start), int(end)
            share = np.float32(1.0 / _SUBROWS)
            if first == last:
                cover[first] += (end - start) * share
                continue
            cover[first] += (first + 1 - start) * share
            for col in range(first + 1, last):
                cover[col] += share
            if last < width:
                cover[last] += (end - last) * share


@njit(cache=True, nogil=True)
def _find_spans(quads: _Floats, discs: _Floats, y: float, spans: _Floats) -> int:
    """Write where a line of constant y runs inside the shapes, by start; return how often."""
    num_spans = 0
    for i in range(quads.shape[0]):
        low, high = np.inf, -np.inf
        for k in range(4):
            x0, y0 = quads[i, k, 0], quads[i, k, 1]
            x1, y1 = quads[i, (k + 1) % 4, 0], quads[i, (k + 1) % 4, 1]
            if (y0 <= y) != (y1 <= y):
                x = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                low, high = min(low, x), max(high, x)
        if low < high:
            num_spans = _insert_span(spans, num_spans, low, high)
    for i in range(discs.shape[0]):
        reach = discs[i, 2] ** 2 - (y - discs[i, 1]) ** 2
        if reach > 0.0:
            half = math.sqrt(reach)
            num_spans = _insert_span(spans, num_spans, discs[i, 0] - half, discs[i, 0] + half)
    return num_spans


@njit(cache=True, nogil=True)
def _insert_span(spans: _Floats, num_spans: int, low: float, high: float) -> int:
    at = num_spans
    while at > 0 and spans[at - 1, 0] > low:
        spans[at, 0], spans[at, 1] = spans[at - 1, 0], spans[at - 1, 1]
        at -= 1
    spans[at, 0], spans[at, 1] = low, high
    return num_spans + 1


@njit(cache=True, nogil=True)
def _grain(x_m: float, y_m: float, grain: _Floats) -> float:
    """Return the relative brightness that mottling and planks add at a point of the road."""
    peak, size_m, plank_m = grain
    if plank_m == 0.0:
        mottle: float = peak * _noise(x_m / size_m, y_m / size_m)
        return mottle
    plank = math.floor(y_m / plank_m)
    # Planks are ten times as long as wide, shifted against each other; fibres run along them.
    board = math.floor(x_m / (10.0 * plank_m) + 0.37 * plank)
    tone: float = 2.0 * peak * _lattice(board, plank)
    fibre: float = peak * _noise(x_m / (12.0 * size_m), y_m / (0.2 * size_m))
    seam = -0.3 if y_m / plank_m - plank < 0.04 else 0.0
    return tone + fibre + seam


@njit(cache=True, nogil=True)
def _noise(x: float, y: float) -> float:
    """Return smooth noise in [-1, 1] with features of size 1."""
    col, row = math.floor(x), math.floor(y)
    u, v = x - col, y - row
    u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
    lower: float = _lattice(col, row) * (1.0 - u) + _lattice(col + 1, row) * u
    upper: float = _lattice(col, row + 1) * (1.0 - u) + _lattice(col + 1, row + 1) * u
    return lower * (1.0 - v) + upper * v


@njit(cache=True, nogil=True)
def _lattice(col: int, row: int) -> float:
    """Return a fixed random number in [-1, 1] for a pair of whole numbers."""
    bits = np.uint32(np.int64(col) * 374761393 + np.int64(row) * 668265263)
    bits = np.uint32((bits ^ (bits >> np.uint32(13))) * np.uint32(1274126177))
    bits ^= bits >> np.uint32(16)
    return float(bits) / 2147483647.5 - 1.0
