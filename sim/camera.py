"""The car's camera: a pinhole over the ground picture, with a wall and the sky behind it.

Along a row of the image the ground position moves by the same step from pixel to pixel, so a
row is one straight walk through the texture. Each row reads the level of the picture (every
level halves the one before) that matches what one of its pixels covers on the ground. Far rows
cover a strip that is long and narrow; they average two walks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from sim.ground import Ground, GroundStyle, draw_ground, to_grey
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX
from sim.track import Track

FIELD_OF_VIEW_RAD = 1.13
"""Horizontal. Pixels are square."""

FOCAL_PX = CAMERA_WIDTH_PX / 2 / math.tan(FIELD_OF_VIEW_RAD / 2)

CAMERA_FORWARD_M = 0.14529
CAMERA_HEIGHT_M = 0.13033
CAMERA_PITCH_RAD = 0.2618
"""The camera's place from the car's origin, which lies on the ground; looking down."""

WALL_HEIGHT_M = 1.0

_MAX_TAPS = 2
_TWO_TAPS_FROM = 4.0
"""How long a pixel's strip of ground is against its width where a row takes two walks."""

_CLEARANCE_M = 0.02  # the camera never stands in or behind a wall
_MIN_SLOPE = 1e-5  # keeps rays near the horizon finite
_ONE = 65536.0  # fixed point: 16 bits for the place within a texel
_CENTER_ROW = (CAMERA_HEIGHT_PX - 1) / 2
_CENTER_COL = (CAMERA_WIDTH_PX - 1) / 2

_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Texels = npt.NDArray[np.uint8] | npt.NDArray[np.uint32]


class Rays(NamedTuple):
    """Where the image's rows meet the ground or, above the horizon, the height of the wall's top.

    Two walks a row at most; the first is the farther one.
    """

    forward_m: _Floats
    """Distance ahead of the camera, shape (120, 2)."""
    step_m: _Floats
    """How far apart two neighbouring pixels are, shape (120, 2)."""
    taps: _Ints
    """Walks of the row, shape (120,); 0 above the horizon."""
    level: _Ints
    """Level of the picture that the row reads, shape (120,)."""
    stretch: _Floats
    """Length of the row's central ray over the ground, in focal lengths, shape (120,)."""


class Scene(NamedTuple):
    """A ground and its surroundings for compiled kernels.

    A texel is one byte of grey or four bytes (red, green, blue, unused) in one number.
    """

    texels: _Texels
    """All levels after one another, each row by row with a border of one texel."""
    offset: _Ints
    """Index of the first texel of a level, shape (levels,)."""
    stride: _Ints
    """Texels from one row to the next, shape (levels,)."""
    per_m: _Floats
    """Texels a metre, shape (levels,)."""
    left_m: float
    right_m: float
    bottom_m: float
    top_m: float
    walls: _Texels
    """North, east, south, west; shape (4,)."""
    sky: _Texels
    """Shape (1,)."""


class Camera:
    """Cameras of any number of cars on one track."""

    def __init__(self, track: Track, channels: int = 1) -> None:
        """Draw the track's ground and work out the rays.

        Args:
            track: Where the cars drive.
            channels: 1 for grey, 3 for RGB.
        """
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
        self.channels = channels
        self.ground = draw_ground(track)
        self.scene = _scene(self.ground, is_grey=channels == 1)
        self.rays = _new_rays()
        _aim(self.rays, CAMERA_HEIGHT_M, CAMERA_PITCH_RAD, self.scene.per_m)
        self._look_scenes: tuple[Scene, Scene] | None = None

    def render(
        self,
        cars: npt.NDArray[np.int64],
        x: _Floats,
        y: _Floats,
        yaw: _Floats,
        out: _Bytes,
        looks: np.ndarray | None = None,
    ) -> None:
        """Write what each named car sees into ``out[cars[i]]``.

        Args:
            cars: Rows of ``out`` to write, shape (n,), int64, none twice.
            x: The car's origin, m, world frame, shape (n,).
            y: The same.
            yaw: Radians counter-clockwise from +x, shape (n,).
            out: Shape (num_cars, 120, 160, channels), uint8, C-contiguous.
            looks: How each of the n cars sees, dtype `sim.randomization.LOOK_DTYPE`; None: plainly.

        Raises:
            ValueError: If ``out`` has another shape or a car's number is out of its range.
        """
        shape = (CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, self.channels)
        if out.shape[1:] != shape or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous, of shape (cars, *{shape}), got {out.shape}")
        if len(cars) == 0:
            return
        if cars.min() < 0 or cars.max() >= len(out):
            raise ValueError(f"cars must be in [0, {len(out)}), got {cars.min()} to {cars.max()}")
        if looks is not None:
            colors, materials = self._scenes_for_looks()
            _render_looks(colors, materials, looks, cars, x, y, yaw, out)
        elif self.channels == 1 and len(cars) == 1:
            # Waking other threads takes longer than one picture.
            render_one(
                self.scene, self.rays, x[0], y[0], yaw[0], out.reshape(out.shape[:3])[cars[0]]
            )
        elif self.channels == 1:
            render_grey(self.scene, self.rays, cars, x, y, yaw, out.reshape(out.shape[:3]))
        else:
            _render_rgb(self.scene, self.rays, cars, x, y, yaw, out)

    def lookup_baseline(
        self,
        cars: npt.NDArray[np.int64],
        x: _Floats,
        y: _Floats,
        yaw: _Floats,
        out: _Bytes,
    ) -> None:
        """Do only the texture look-ups of `render`: the yardstick of the simulator's benchmark.

        The same ground pixels of grey pictures, each one nearest look-up in the finest level:
        step, round down, copy. Neither filtering nor wall nor sky.
        """
        _look_up_only(self.scene, self.rays, cars, x, y, yaw, out.reshape(out.shape[:3]))

    def _scenes_for_looks(self) -> tuple[Scene, Scene]:
        if self._look_scenes is None:
            colors = _scene(self.ground, is_grey=False)
            self._look_scenes = (colors, _material_scene(self.ground))
        return self._look_scenes


def blind() -> tuple[Scene, Rays]:
    """Return an empty scene and rays that meet nothing, for kernels that do not film."""
    texel, level = np.zeros(1, np.uint8), np.zeros(1, np.int64)
    scene = Scene(texel, level, level, np.ones(1), 0.0, 0.0, 0.0, 0.0, texel, texel)
    return scene, _new_rays()


def _new_rays() -> Rays:
    size = (CAMERA_HEIGHT_PX, _MAX_TAPS)
    rows = CAMERA_HEIGHT_PX
    return Rays(
        np.zeros(size), np.zeros(size), np.zeros(rows, int), np.zeros(rows, int), np.zeros(rows)
    )


def _scene(ground: Ground, is_grey: bool) -> Scene:
    sky = np.array([ground.style.sky], np.uint8)
    return _pack_scene(ground, ground.rgb, wall_colors(ground.style), sky, is_grey)


def wall_colors(style: GroundStyle) -> _Bytes:
    """Return the RGB of the north, east, south and west wall, shape (4, 3)."""
    # Sides in different shades give the room corners.
    shades = np.array([1.0, 0.94, 0.88, 0.94])[:, None]
    colors: _Bytes = np.rint(np.array([style.wall]) * shades).astype(np.uint8)
    return colors


def _material_scene(ground: Ground) -> Scene:
    nothing = np.zeros((4, 3), np.uint8)
    return _pack_scene(ground, ground.materials, nothing, nothing[:1], is_grey=False)


def _pack_scene(
    ground: Ground, picture: _Bytes, walls: _Bytes, sky: _Bytes, is_grey: bool
) -> Scene:
    to_texels = to_grey if is_grey else _packed
    levels = [picture]
    while min(levels[-1].shape[:2]) > 8:
        levels.append(_halved(levels[-1]))
    padded = [np.pad(to_texels(level), 1, mode="edge") for level in levels]
    offset = np.cumsum([0] + [level.size for level in padded[:-1]])
    return Scene(
        texels=np.concatenate([level.ravel() for level in padded]),
        offset=offset.astype(np.int64),
        stride=np.array([level.shape[1] for level in padded], np.int64),
        per_m=np.array([1.0 / (ground.cell_m * 2**k) for k in range(len(levels))], np.float64),
        left_m=ground.left_m,
        right_m=ground.right_m,
        bottom_m=ground.bottom_m,
        top_m=ground.top_m,
        walls=to_texels(walls),
        sky=to_texels(sky),
    )


def _packed(rgb: _Bytes) -> npt.NDArray[np.uint32]:
    packed = np.zeros(rgb.shape[:-1] + (4,), np.uint8)
    packed[..., :3] = rgb
    return packed.view("<u4")[..., 0]


@njit(cache=True, nogil=True)
def _halved(picture: _Bytes) -> _Bytes:
    """Return a picture of half the size, each pixel the mean of four; odd edges are repeated."""
    height, width = picture.shape[0], picture.shape[1]
    half = np.empty(((height + 1) // 2, (width + 1) // 2, 3), np.uint8)
    for row in range(half.shape[0]):
        upper, lower = 2 * row, min(2 * row + 1, height - 1)
        for col in range(half.shape[1]):
            left, right = 2 * col, min(2 * col + 1, width - 1)
            for k in range(3):
                total = (
                    np.int64(picture[upper, left, k])
                    + np.int64(picture[upper, right, k])
                    + np.int64(picture[lower, left, k])
                    + np.int64(picture[lower, right, k])
                )
                half[row, col, k] = np.uint8((total + 2) // 4)
    return half


@njit(cache=True, nogil=True)
def _aim(rays: Rays, height_m: float, pitch_rad: float, per_m: _Floats) -> None:
    """Fill in the rays of a camera at a height above ground, looking down by a pitch."""
    for row in range(CAMERA_HEIGHT_PX):
        up = (_CENTER_ROW - row) / FOCAL_PX
        slope, stretch = _ray(up, pitch_rad)
        rays.stretch[row] = stretch
        if slope < 0.0:
            _meet(rays, row, 0, up, pitch_rad, height_m - max(WALL_HEIGHT_M, height_m + 0.01))
            rays.taps[row] = 0
            continue
        far_slope, far_stretch = _ray(up + 0.5 / FOCAL_PX, pitch_rad)
        near_slope, near_stretch = _ray(up - 0.5 / FOCAL_PX, pitch_rad)
        far_m = height_m * far_stretch / max(far_slope, _MIN_SLOPE)
        length_m = far_m - height_m * near_stretch / near_slope
        width_m = height_m / max(slope, _MIN_SLOPE) / FOCAL_PX
        taps = 2 if length_m > _TWO_TAPS_FROM * width_m else 1
        for tap in range(taps):
            part = ((taps - 1) / 2 - tap) / taps
            _meet(rays, row, tap, up + part / FOCAL_PX, pitch_rad, height_m)
        rays.taps[row] = taps
        # One level has to do for both directions: the geometric mean of length and width.
        level = round(math.log2(math.sqrt(length_m / taps * width_m) * per_m[0]))
        rays.level[row] = min(max(level, 0), len(per_m) - 1)


@njit(cache=True, nogil=True)
def _ray(up: float, pitch_rad: float) -> tuple[float, float]:
    """Return how far a ray sinks and how far it gets ahead, per focal length."""
    cos, sin = math.cos(pitch_rad), math.sin(pitch_rad)
    return sin - up * cos, cos + up * sin


@njit(cache=True, nogil=True)
def _meet(rays: Rays, row: int, tap: int, up: float, pitch_rad: float, drop_m: float) -> None:
    """Fill in where a ray is once it has sunk by ``drop_m``; negative above the horizon."""
    slope, stretch = _ray(up, pitch_rad)
    slope = max(slope, _MIN_SLOPE) if drop_m > 0.0 else min(slope, -_MIN_SLOPE)
    rays.forward_m[row, tap] = drop_m / slope * stretch
    rays.step_m[row, tap] = drop_m / slope / FOCAL_PX


@njit(cache=True, nogil=True)
def place_camera(scene: Scene, x: float, y: float, yaw: float) -> tuple[float, float]:
    """Return where the camera of a car is, kept inside the walls."""
    camera_x = x + CAMERA_FORWARD_M * math.cos(yaw)
    camera_y = y + CAMERA_FORWARD_M * math.sin(yaw)
    return (
        min(max(camera_x, scene.left_m + _CLEARANCE_M), scene.right_m - _CLEARANCE_M),
        min(max(camera_y, scene.bottom_m + _CLEARANCE_M), scene.top_m - _CLEARANCE_M),
    )


@njit(cache=True, nogil=True)
def render_frame(scene: Scene, rays: Rays, x: float, y: float, yaw: float, frame: _Texels) -> None:
    """Draw what a camera at (x, y) sees that looks along ``yaw``; ``frame`` is (120, 160)."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    corners = np.empty(4)
    sides = np.empty(5, np.int64)
    num_corners = _find_corners(scene, x, y, cos, sin, corners, sides)
    texels = scene.texels
    texel = np.empty(CAMERA_WIDTH_PX, np.uint32)
    second = np.empty(CAMERA_WIDTH_PX, np.uint32)
    for row in range(CAMERA_HEIGHT_PX):
        line = frame[row]
        start, end = _columns_inside(scene, rays, row, x, y, cos, sin)
        count = end - start
        if count < CAMERA_WIDTH_PX:
            color = scene.walls[sides[0]]
            at = 0
            for i in range(num_corners + 1):
                until = CAMERA_WIDTH_PX
                if i < num_corners:
                    edge = _CENTER_COL + FOCAL_PX * rays.stretch[row] * corners[i]
                    until = int(min(max(edge + 0.5, 0.0), CAMERA_WIDTH_PX))
                color = scene.walls[sides[i]]
                line[at : min(until, start)] = color
                line[max(at, end) : until] = color
                at = until
        if rays.taps[row] == 0:
            line[start:end] = scene.sky[0]
        elif rays.taps[row] == 1:
            _find_texels(scene, rays, row, 0, x, y, cos, sin, start, count, texel)
            ground = line[start:end]
            for i in range(count):
                ground[i] = texels[texel[i]]
        else:
            _find_texels(scene, rays, row, 0, x, y, cos, sin, start, count, texel)
            _find_texels(scene, rays, row, 1, x, y, cos, sin, start, count, second)
            ground = line[start:end]
            for i in range(count):
                a, b = np.uint32(texels[texel[i]]), np.uint32(texels[second[i]])
                # The mean of each byte, rounded down, without carrying into the next one.
                ground[i] = (a & b) + (((a ^ b) & np.uint32(0xFEFEFE)) >> np.uint32(1))


@njit(cache=True, nogil=True, inline="always")
def _columns_inside(
    scene: Scene, rays: Rays, row: int, x: float, y: float, cos: float, sin: float
) -> tuple[int, int]:
    """Return the columns [start, end) of a row that lie within the walls."""
    forward_m, step_m = rays.forward_m[row, 0], rays.step_m[row, 0]
    step_x, step_y = sin * step_m, -cos * step_m
    left_x = x + cos * forward_m - _CENTER_COL * step_x
    left_y = y + sin * forward_m - _CENTER_COL * step_y
    right_x = left_x + (CAMERA_WIDTH_PX - 1) * step_x
    right_y = left_y + (CAMERA_WIDTH_PX - 1) * step_y
    # The room is convex: with both ends inside, all of the row is.
    if (
        min(left_x, right_x) >= scene.left_m
        and max(left_x, right_x) <= scene.right_m
        and min(left_y, right_y) >= scene.bottom_m
        and max(left_y, right_y) <= scene.top_m
    ):
        return 0, CAMERA_WIDTH_PX
    return _clip(scene, left_x, left_y, step_x, step_y)


@njit(cache=True, nogil=True)
def _clip(
    scene: Scene, left_x: float, left_y: float, step_x: float, step_y: float
) -> tuple[int, int]:
    first, last = 0.0, CAMERA_WIDTH_PX - 1.0
    for start, step, low, high in (
        (left_x, step_x, scene.left_m, scene.right_m),
        (left_y, step_y, scene.bottom_m, scene.top_m),
    ):
        if abs(step) < 1e-12:
            if start < low or start > high:
                return 0, 0
            continue
        enter, leave = (low - start) / step, (high - start) / step
        first = max(first, min(enter, leave))
        last = min(last, max(enter, leave))
    if first > last:
        return 0, 0
    return math.ceil(first), math.floor(last) + 1


@njit(cache=True, nogil=True, inline="always")
def _find_texels(
    scene: Scene,
    rays: Rays,
    row: int,
    tap: int,
    x: float,
    y: float,
    cos: float,
    sin: float,
    start: int,
    count: int,
    texel: npt.NDArray[np.uint32],
) -> None:
    """Write the indices of the texels of ``count`` pixels from column ``start`` of a row.

    Apart from the look-ups, so that the compiler does this part several pixels at a time.
    """
    level = rays.level[row]
    per_m = scene.per_m[level]
    forward_m, step_m = rays.forward_m[row, tap], rays.step_m[row, tap]
    step_col, step_row = sin * step_m * per_m, cos * step_m * per_m
    from_middle = start - _CENTER_COL
    # The extra texel is the level's border.
    first_col = (x + cos * forward_m - scene.left_m) * per_m + 1.0 + from_middle * step_col
    first_row = (scene.top_m - y - sin * forward_m) * per_m + 1.0 + from_middle * step_row
    step_u, step_v = np.int32(step_col * _ONE), np.int32(step_row * _ONE)
    u, v = np.int32(first_col * _ONE), np.int32(first_row * _ONE)
    stride, offset = np.uint32(scene.stride[level]), np.uint32(scene.offset[level])
    for i in range(count):
        across = np.uint32(u + np.int32(i) * step_u) >> np.uint32(16)
        down = np.uint32(v + np.int32(i) * step_v) >> np.uint32(16)
        texel[i] = np.uint32(offset + np.uint32(down * stride) + across)


@njit(cache=True, nogil=True)
def _find_corners(
    scene: Scene, x: float, y: float, cos: float, sin: float, corners: _Floats, sides: _Ints
) -> int:
    """Find the room's corners ahead, from left to right, and the walls between them.

    Args:
        scene: The room.
        x: The camera, m.
        y: The same.
        cos: Of the camera's yaw.
        sin: The same.
        corners: Filled with each corner's distance to the right over that ahead.
        sides: Filled with the wall left of each corner and, last, right of the last one.

    Returns:
        Number of corners ahead of the camera, at least 1.
    """
    found = 0
    for corner in range(4):  # clockwise from north-east: east is right of the first, and so on
        dx = (scene.right_m if corner < 2 else scene.left_m) - x
        dy = (scene.top_m if corner in (0, 3) else scene.bottom_m) - y
        ahead, right = cos * dx + sin * dy, sin * dx - cos * dy
        if ahead <= 1e-6:
            continue
        at = found
        while at > 0 and corners[at - 1] > right / ahead:
            corners[at], sides[at] = corners[at - 1], sides[at - 1]
            at -= 1
        corners[at], sides[at] = right / ahead, corner
        found += 1
    if found:
        sides[found] = (sides[found - 1] + 1) % 4
    else:
        sides[0] = 0
    return found


@njit(cache=True, nogil=True)
def render_one(scene: Scene, rays: Rays, x: float, y: float, yaw: float, frame: _Bytes) -> None:
    """Draw the grey picture of a car whose origin is at (x, y); ``frame`` is (120, 160)."""
    camera_x, camera_y = place_camera(scene, x, y, yaw)
    render_frame(scene, rays, camera_x, camera_y, yaw, frame)


@njit(cache=True, nogil=True, parallel=True)
def render_grey(
    scene: Scene,
    rays: Rays,
    cars: npt.NDArray[np.int64],
    x: _Floats,
    y: _Floats,
    yaw: _Floats,
    out: _Bytes,
) -> None:
    """Draw the grey pictures of the named cars; ``out`` has shape (num_cars, 120, 160)."""
    for i in prange(len(cars)):
        render_one(scene, rays, x[i], y[i], yaw[i], out[cars[i]])


@njit(cache=True, nogil=True, parallel=True)
def _render_rgb(
    scene: Scene,
    rays: Rays,
    cars: npt.NDArray[np.int64],
    x: _Floats,
    y: _Floats,
    yaw: _Floats,
    out: _Bytes,
) -> None:
    for i in prange(len(cars)):
        frame = np.empty((CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX), np.uint32)
        camera_x, camera_y = place_camera(scene, x[i], y[i], yaw[i])
        render_frame(scene, rays, camera_x, camera_y, yaw[i], frame)
        picture = out[cars[i]]
        for row in range(CAMERA_HEIGHT_PX):
            for col in range(CAMERA_WIDTH_PX):
                packed = frame[row, col]
                picture[row, col, 0] = packed & 0xFF
                picture[row, col, 1] = packed >> 8 & 0xFF
                picture[row, col, 2] = packed >> 16 & 0xFF


@njit(cache=True, nogil=True, parallel=True)
def _render_looks(
    colors: Scene,
    materials: Scene,
    looks: np.ndarray,
    cars: npt.NDArray[np.int64],
    x: _Floats,
    y: _Floats,
    yaw: _Floats,
    out: _Bytes,
) -> None:
    for i in prange(len(cars)):
        look = looks[i]
        rays = Rays(
            np.empty((CAMERA_HEIGHT_PX, _MAX_TAPS)),
            np.empty((CAMERA_HEIGHT_PX, _MAX_TAPS)),
            np.empty(CAMERA_HEIGHT_PX, np.int64),
            np.zeros(CAMERA_HEIGHT_PX, np.int64),
            np.empty(CAMERA_HEIGHT_PX),
        )
        height_m = CAMERA_HEIGHT_M + look.camera_height_m
        _aim(rays, height_m, CAMERA_PITCH_RAD + look.camera_pitch_rad, colors.per_m)
        camera_x, camera_y = place_camera(colors, x[i], y[i], yaw[i])
        camera_yaw = yaw[i] + look.camera_yaw_rad
        color = np.empty((CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX), np.uint32)
        material = np.empty((CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX), np.uint32)
        render_frame(colors, rays, camera_x, camera_y, camera_yaw, color)
        render_frame(materials, rays, camera_x, camera_y, camera_yaw, material)
        _apply_look(color, material, look, out[cars[i]])


@njit(cache=True, nogil=True)
def _apply_look(
    color: npt.NDArray[np.uint32],
    material: npt.NDArray[np.uint32],
    look: Any,
    picture: _Bytes,
) -> None:
    """Tint, light and add noise to a frame, and write it as grey or RGB."""
    seed = _mixed(look.noise_key + _mixed(look.frame))
    # In locals: reading a record's fields for every pixel takes longer than all the rest.
    brightness, contrast, sigma = look.brightness, look.contrast, look.noise_sigma
    tints = np.empty((3, 3), np.float64)
    tints[0], tints[1], tints[2] = look.field_gain, look.road_gain, look.line_gain
    tints = (tints - np.float64(1.0)) / np.float64(255.0)
    rgb = np.empty(3)
    for row in range(CAMERA_HEIGHT_PX):
        for col in range(CAMERA_WIDTH_PX):
            packed, parts = color[row, col], material[row, col]
            field, road, line = parts & 0xFF, parts >> 8 & 0xFF, parts >> 16 & 0xFF
            for k in range(3):
                tint = 1.0 + field * tints[0, k] + road * tints[1, k] + line * tints[2, k]
                value = np.float64(packed >> (8 * k) & 0xFF) * tint * brightness
                value = 127.5 + (value - 127.5) * contrast
                if sigma > 0.0:
                    pixel = (row * CAMERA_WIDTH_PX + col) * 3 + k
                    value += sigma * _normal(_mixed(seed + np.uint64(pixel)))
                rgb[k] = math.floor(min(max(value, 0.0), 255.0) + 0.5)
            if picture.shape[2] == 1:
                grey = 0.2989 * rgb[0] + 0.5870 * rgb[1] + 0.1140 * rgb[2]
                picture[row, col, 0] = np.uint8(grey + 0.5)
            else:
                for k in range(3):
                    picture[row, col, k] = np.uint8(rgb[k])


@njit(cache=True, nogil=True)
def _mixed(bits: int | np.uint64) -> np.uint64:
    """Return 64 random bits for a number: the finishing steps of SplitMix64."""
    z = np.uint64(bits) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _normal(bits: np.uint64) -> float:
    """Return a nearly normal number: four 16-bit uniforms added up, variance 1."""
    total = 0.0
    for k in range(4):
        total += np.float64(bits >> np.uint64(16 * k) & np.uint64(0xFFFF))
    return (total / 65535.0 - 2.0) * math.sqrt(3.0)


@njit(cache=True, nogil=True, parallel=True)
def _look_up_only(
    scene: Scene,
    rays: Rays,
    cars: npt.NDArray[np.int64],
    x: _Floats,
    y: _Floats,
    yaw: _Floats,
    out: _Bytes,
) -> None:
    texels, stride, per_m = scene.texels, np.uint64(scene.stride[0]), scene.per_m[0]
    for i in prange(len(cars)):
        cos, sin = math.cos(yaw[i]), math.sin(yaw[i])
        camera_x, camera_y = place_camera(scene, x[i], y[i], yaw[i])
        frame = out[cars[i]]
        for row in range(CAMERA_HEIGHT_PX):
            if rays.taps[row] == 0:
                continue
            start, end = _columns_inside(scene, rays, row, camera_x, camera_y, cos, sin)
            forward_m, step_m = rays.forward_m[row, 0], rays.step_m[row, 0]
            from_middle = start - _CENTER_COL
            world_x = camera_x + cos * forward_m + sin * step_m * from_middle
            world_y = camera_y + sin * forward_m - cos * step_m * from_middle
            u = np.int64(((world_x - scene.left_m) * per_m + 1.0) * _ONE)
            v = np.int64(((scene.top_m - world_y) * per_m + 1.0) * _ONE)
            step_u = np.int64(sin * step_m * per_m * _ONE)
            step_v = np.int64(cos * step_m * per_m * _ONE)
            ground = frame[row, start:end]
            for col in range(end - start):
                ground[col] = texels[np.uint64(v >> 16) * stride + np.uint64(u >> 16)]
                u += step_u
                v += step_v
