"""Draws a line on its track, coloured by speed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from local_trainer.lab.racing_line import RacingLine
from local_trainer.runs import write_atomically
from local_trainer.track_plot import (
    BORDER_COLOR,
    CENTER_COLOR,
    FIELD_COLOR,
    START_COLOR,
    TEXT_COLOR,
)
from sim.track import Track

_ROAD_COLOR = "#33373f"
"""Darker than the road of a track's own picture, so that the colours of speeds stand out."""


def write_line_plot(track: Track, line: RacingLine, path: Path, subtitle: str = "") -> None:
    """Draw a line on its track into a PNG file, replaced if it exists; see `line_png`."""
    write_atomically(path, line_png(track, line, subtitle))


def line_png(track: Track, line: RacingLine, subtitle: str = "") -> bytes:
    """Return the picture of a line on its track as PNG.

    Args:
        track: The line's track.
        line: What to draw.
        subtitle: Written below the track's name.
    """
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    corners = np.vstack((track.inner, track.outer))
    low, high = corners.min(axis=0) - 0.4, corners.max(axis=0) + 0.4
    span_x_m, span_y_m = high - low
    width_in = 11.0
    height_in = float(np.clip((width_in - 1.4) * span_y_m / span_x_m, 1.8, 12.0)) + 1.1
    figure = Figure(figsize=(width_in, height_in), dpi=120, layout="constrained")
    axes = figure.add_subplot()

    if track.is_loop:
        road = Outline.make_compound_path(Outline(track.outer), Outline(track.inner[::-1]))
    else:
        road = Outline(np.vstack((track.outer, track.inner[::-1])))
    axes.add_patch(PathPatch(road, facecolor=_ROAD_COLOR, edgecolor="none", zorder=1))
    for border in (track.inner, track.outer):
        axes.plot(*border.T, color=BORDER_COLOR, linewidth=1.5, zorder=2)
    axes.plot(*track.center.T, color=CENTER_COLOR, linewidth=0.9, dashes=(5, 5), zorder=2)

    points, speeds = line.points_m, line.speeds_mps
    if line.is_closed:
        points, speeds = np.vstack((points, points[:1])), np.append(speeds, speeds[0])
    colored = LineCollection(
        list(np.stack((points[:-1], points[1:]), axis=1)),
        array=(speeds[:-1] + speeds[1:]) / 2.0,
        # Without the darkest colours, which do not show on the road.
        cmap=ListedColormap(colormaps["plasma"](np.linspace(0.28, 1.0, 256))),
        clim=_speed_range(speeds),
        linewidths=4.0,
        capstyle="round",
        zorder=3,
    )
    axes.add_collection(colored)
    bar = figure.colorbar(colored, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("speed (m/s)", color=TEXT_COLOR, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=TEXT_COLOR)
    bar.outline.set_visible(False)

    axes.plot(
        *np.stack((track.inner[0], track.outer[0])).T, color=START_COLOR, linewidth=3.0, zorder=4
    )
    x, y, yaw = track.pose_at(0.0)
    length_m = 0.9 * float(track.widths_m[0])
    axes.annotate(
        "",
        xy=(x + length_m * np.cos(yaw), y + length_m * np.sin(yaw)),
        xytext=(x, y),
        arrowprops={"arrowstyle": "-|>", "color": START_COLOR, "linewidth": 2.0},
        zorder=5,
    )
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    axes.set_facecolor(FIELD_COLOR)
    axes.tick_params(colors=TEXT_COLOR, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("x (m)", color=TEXT_COLOR, fontsize=9)
    axes.set_ylabel("y (m)", color=TEXT_COLOR, fontsize=9)
    title = f"{track.name}: racing line" + (f"\n{subtitle}" if subtitle else "")
    axes.set_title(title, color=TEXT_COLOR, fontsize=11, loc="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _speed_range(speeds_mps: np.ndarray) -> tuple[float, float]:
    """Return the speeds of the first and last colour, in half metres a second."""
    low = float(np.floor(2.0 * speeds_mps.min()) / 2.0)
    high = float(np.ceil(2.0 * speeds_mps.max()) / 2.0)
    return min(low, high - 1.0), high
