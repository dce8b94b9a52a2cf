"""A video of one lap: what the camera saw, beside the car on the track, with speed and steering.

MP4 with H.264, in real time; every browser and phone plays it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from local_trainer.episodes import Episode
from local_trainer.runs import write_atomically
from sim.ground import top_view
from sim.simulator import STEPS_PER_SECOND, EpisodeStart
from sim.steps import EpisodeStatus
from sim.track import Track

CAMERA_SIZE_PX = (480, 360)
GAUGES_HEIGHT_PX = 120
TOP_VIEW_SIZE_PX = (640, CAMERA_SIZE_PX[1] + GAUGES_HEIGHT_PX)
FRAME_SIZE_PX = (CAMERA_SIZE_PX[0] + TOP_VIEW_SIZE_PX[0], TOP_VIEW_SIZE_PX[1])
LAST_FRAME_COUNT = STEPS_PER_SECOND
"""How often the last picture is repeated, so that the result can be read: one second."""

CAR_LENGTH_M, CAR_WIDTH_M = 0.32, 0.20
MIN_CAR_LENGTH_PX = 18.0
MAX_STEERING_DEG = 30.0

_BACKGROUND = (15, 23, 42)
_SHADE = (*_BACKGROUND, 210)
_PANEL = (30, 41, 59)
_TEXT = (241, 245, 249)
_MUTED = (148, 163, 184)
_ACCENT = (56, 189, 248)
_CAR = (239, 68, 68)
_GLASS = (15, 23, 42)
_SLOW, _FAST = np.array([56, 189, 248]), np.array([250, 204, 21])
_SUPERSAMPLING = 4
_STATUS_COLORS = {EpisodeStatus.LAP_COMPLETE: (74, 222, 128)}
_FAILED = (248, 113, 113)


def write_video(path: Path, episode: Episode, track: Track) -> None:
    """Write the video of one episode.

    Args:
        path: File to write or replace, ``.mp4``.
        episode: With its pictures.
        track: The run's track in row order.

    Raises:
        ValueError: If the episode has no pictures.
    """
    if episode.observations is None:
        raise ValueError("write_video needs an episode with observations, got one without")
    # The file's index is moved to its front at the end, for which it must be a real file.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lap.mp4"
        _encode(file, frames(episode, track))
        write_atomically(path, file.read_bytes())


def frames(episode: Episode, track: Track) -> Iterator[np.ndarray]:
    """Yield the pictures of the video.

    Args:
        episode: With its pictures.
        track: The run's track in row order.

    Yields:
        RGB, shape (480, 1120, 3), uint8. One for each step, from before its action, and then
        the last one, `LAST_FRAME_COUNT` times.
    """
    assert episode.observations is not None
    steps = episode.steps
    map_view = _MapView(track)
    top_mps = max(1.0, math.ceil(float(max(steps["speed"].max(), steps["actual_speed"].max()))))
    x, y, yaw = _start_pose(track, episode.start)
    speed_mps = progress = clock_s = 0.0
    resets = 0
    was_put_back = False
    for step, picture in zip(steps, episode.observations, strict=True):
        frame = Image.new("RGB", FRAME_SIZE_PX, _BACKGROUND)
        _draw_camera(frame, picture)
        map_view.draw_on(frame, x, y, yaw)
        _draw_gauges(frame, speed_mps, float(step["speed"]), float(step["steering_angle"]), top_mps)
        _draw_headline(frame, clock_s, progress, resets, EpisodeStatus.IN_PROGRESS)
        yield np.asarray(frame)
        new_x, new_y = float(step["origin_x"]), float(step["origin_y"])
        if not was_put_back:  # the step began somewhere else than the last one ended
            map_view.add_trail(x, y, new_x, new_y, float(step["actual_speed"]) / top_mps)
        x, y, yaw = new_x, new_y, float(step["yaw"])
        speed_mps, progress = float(step["actual_speed"]), float(step["progress"])
        clock_s, resets = float(step["sim_time"]), int(step["reset_count"])
        was_put_back = step["status"] != EpisodeStatus.IN_PROGRESS
    last = episode.final_observation
    _draw_camera(frame, episode.observations[-1] if last is None else last)
    map_view.draw_on(frame, x, y, yaw)
    final = steps[-1]
    _draw_gauges(frame, speed_mps, float(final["speed"]), float(final["steering_angle"]), top_mps)
    _draw_headline(frame, clock_s, progress, resets, episode.status)
    for _ in range(LAST_FRAME_COUNT):
        yield np.asarray(frame)


class _MapView:
    """The track from above; keeps the trail it has drawn."""

    def __init__(self, track: Track) -> None:
        picture, self._world_to_pixel = top_view(track, *TOP_VIEW_SIZE_PX)
        self._picture = Image.fromarray(picture)
        self._pixels_per_m = abs(float(self._world_to_pixel[0, 0]))

    def add_trail(self, x: float, y: float, new_x: float, new_y: float, share: float) -> None:
        """Draw a piece of the path, coloured by the share of the top speed."""
        color = tuple(int(c) for c in _SLOW + (_FAST - _SLOW) * min(max(share, 0.0), 1.0))
        line = [self._pixel(x, y), self._pixel(new_x, new_y)]
        ImageDraw.Draw(self._picture).line(line, fill=color, width=3)

    def draw_on(self, frame: Image.Image, x: float, y: float, yaw: float) -> None:
        """Paste the track with the car on it at the right of the frame."""
        left = CAMERA_SIZE_PX[0]
        frame.paste(self._picture, (left, 0))
        car = self._car(yaw)
        column, row = self._pixel(x, y)
        place = (left + round(column - car.width / 2), round(row - car.height / 2))
        frame.paste(car, place, car)

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        column, row = self._world_to_pixel @ (x, y, 1.0)
        return float(column), float(row)

    def _car(self, yaw: float) -> Image.Image:
        """Return the car as a small picture with a transparent ground, looking along yaw."""
        length = max(CAR_LENGTH_M * self._pixels_per_m, MIN_CAR_LENGTH_PX)
        half_length = length / 2.0
        half_width = half_length * CAR_WIDTH_M / CAR_LENGTH_M
        size = 2 * math.ceil(math.hypot(half_length, half_width)) + 4
        car = Image.new("RGBA", (size * _SUPERSAMPLING, size * _SUPERSAMPLING), (0, 0, 0, 0))
        draw = ImageDraw.Draw(car)

        def box(back: float, front: float, half: float) -> list[tuple[float, float]]:
            corners = [(back, -half), (front, -half), (front, half), (back, half)]
            return [
                (
                    (size / 2 + u * math.cos(yaw) - v * math.sin(yaw)) * _SUPERSAMPLING,
                    (size / 2 - u * math.sin(yaw) - v * math.cos(yaw)) * _SUPERSAMPLING,
                )
                for u, v in corners
            ]

        outline = 1.5
        draw.polygon(
            box(-half_length - outline, half_length + outline, half_width + outline),
            fill=(255, 255, 255, 255),
        )
        draw.polygon(box(-half_length, half_length, half_width), fill=(*_CAR, 255))
        draw.polygon(
            box(0.15 * half_length, 0.6 * half_length, 0.7 * half_width), fill=(*_GLASS, 255)
        )
        return car.resize((size, size), Image.Resampling.BOX)


def _draw_camera(frame: Image.Image, picture: np.ndarray) -> None:
    """Paste what the camera saw, grey (120, 160, 1) or colour (120, 160, 3), enlarged."""
    pixels = picture[:, :, 0] if picture.shape[2] == 1 else picture
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    frame.paste(image.resize(CAMERA_SIZE_PX, Image.Resampling.BILINEAR), (0, 0))


def _draw_gauges(
    frame: Image.Image,
    speed_mps: float,
    commanded_mps: float,
    steering_deg: float,
    top_mps: float,
) -> None:
    """Draw speed (bar: measured, mark: commanded) and steering below the camera."""
    draw = ImageDraw.Draw(frame)
    top = CAMERA_SIZE_PX[1]
    draw.rectangle((0, top, CAMERA_SIZE_PX[0] - 1, FRAME_SIZE_PX[1] - 1), fill=_BACKGROUND)
    left, right = 130, 380
    row = top + 38
    draw.text((20, row), "Speed", _MUTED, _font(20), anchor="lm")
    draw.rounded_rectangle((left, row - 9, right, row + 9), 5, fill=_PANEL)
    length = (right - left) * min(speed_mps / top_mps, 1.0)
    if length >= 1.0:
        draw.rounded_rectangle((left, row - 9, left + length, row + 9), 5, fill=_ACCENT)
    mark = left + (right - left) * min(commanded_mps / top_mps, 1.0)
    draw.rectangle((mark - 2, row - 14, mark + 1, row + 14), fill=_TEXT)
    draw.text((465, row), f"{speed_mps:.2f} m/s", _TEXT, _font(20), anchor="rm")
    row = top + 84
    draw.text((20, row), "Steering", _MUTED, _font(20), anchor="lm")
    draw.rounded_rectangle((left, row - 9, right, row + 9), 5, fill=_PANEL)
    middle = (left + right) / 2
    # Left is positive, and left in the picture.
    end = middle - steering_deg / MAX_STEERING_DEG * (right - left) / 2
    end = min(max(end, left), right)
    if abs(end - middle) >= 1.0:
        draw.rectangle((min(middle, end), row - 9, max(middle, end), row + 9), fill=_ACCENT)
    draw.rectangle((middle - 1, row - 14, middle, row + 14), fill=_MUTED)
    draw.text((465, row), f"{steering_deg:+.0f}°", _TEXT, _font(20), anchor="rm")


def _draw_headline(
    frame: Image.Image, clock_s: float, progress: float, resets: int, status: EpisodeStatus
) -> None:
    """Write time and progress over the top view, and at the end how it ended."""
    draw = ImageDraw.Draw(frame, "RGBA")
    left, top = CAMERA_SIZE_PX[0] + 14, 12
    columns = [(f"{clock_s:.2f} s", 95), (f"{max(progress, 0.0):.1f} %", 195)]
    if resets:
        columns.append((f"resets {resets}", 300))
    draw.rounded_rectangle((left - 6, top - 4, left + columns[-1][1] + 8, top + 30), 6, _SHADE)
    for text, right in columns:  # right-aligned, so that the numbers stand still
        draw.text((left + right, top + 13), text, _TEXT, _font(22), anchor="rm")
    if status is not EpisodeStatus.IN_PROGRESS:
        color = _STATUS_COLORS.get(status, _FAILED)
        row = FRAME_SIZE_PX[1] - 44
        width = draw.textlength(status.label, _font(28))
        draw.rounded_rectangle((left - 6, row - 6, left + width + 10, row + 34), 6, _SHADE)
        draw.text((left, row + 14), status.label, color, _font(28), anchor="lm")


@lru_cache
def _font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size_px)


def _start_pose(track: Track, start: EpisodeStart) -> tuple[float, float, float]:
    driven = track.reverse() if start.is_reversed else track
    x, y, yaw = driven.pose_at(start.fraction, start.lateral_offset_m)
    return x, y, yaw + start.yaw_offset_rad


def _encode(path: Path, pictures: Iterator[np.ndarray]) -> None:
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=STEPS_PER_SECOND)
        stream.width, stream.height = FRAME_SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "superfast", "crf": "25"}
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
