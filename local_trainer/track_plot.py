"""Draws a track: its road, where it starts, which way it runs, and its waypoint numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from local_trainer.runs import write_atomically
from sim.track import Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIELD_COLOR = "#dbe5d3"
ROAD_COLORS = {
    "asphalt": "#5b616b",
    "carpet": "#4a5a73",
    "concrete": "#9a9a94",
    "wood": "#a97f50",
}
BORDER_COLOR = "#ffffff"
CENTER_COLOR = "#f5b301"
START_COLOR = "#d62839"
TEXT_COLOR = "#222831"
NUMBERS_EVERY = 10
NUMBER_DISTANCE_PT = 11.0


def write_track_plot(track: Track, path: Path) -> None:
    """Draw a track into a PNG file.

    Args:
        track: What to draw.
        path: Where to write it; replaced if it exists.
    """
    from matplotlib.figure import Figure

    span_x_m, span_y_m = np.ptp(np.vstack((track.inner, track.outer)), axis=0) + 1.2
    width_in = 10.0
    height_in = float(np.clip(width_in * span_y_m / span_x_m, 2.4, 12.0))
    figure = Figure(figsize=(width_in, height_in + 0.9), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    draw_track(axes, track)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def draw_track(axes: Axes, track: Track) -> None:
    """Draw a track into axes, in metres."""
    _draw_road(axes, track)
    _draw_start(axes, track)
    _draw_waypoint_numbers(axes, track)
    corners = np.vstack((track.inner, track.outer))
    low, high = corners.min(axis=0) - 0.6, corners.max(axis=0) + 0.6
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    axes.set_facecolor(FIELD_COLOR)
    axes.grid(color="#cbd7c2", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT_COLOR, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("x (m)", color=TEXT_COLOR, fontsize=9)
    axes.set_ylabel("y (m)", color=TEXT_COLOR, fontsize=9)
    axes.set_title(_title(track), color=TEXT_COLOR, fontsize=11, loc="left")


def _title(track: Track) -> str:
    shape = "open"
    if track.is_loop:
        shape = "counter-clockwise" if track.is_ccw else "clockwise"
    return (
        f"{track.name}   {track.length_m:.2f} m long, {np.median(track.widths_m):.2f} m wide, "
        f"{shape}, {len(track.center)} waypoints, {track.surface}"
    )


def _draw_road(axes: Axes, track: Track) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    if track.is_loop:
        outline = Outline.make_compound_path(Outline(track.outer), Outline(track.inner[::-1]))
    else:
        outline = Outline(np.vstack((track.outer, track.inner[::-1])))
    color = ROAD_COLORS[track.surface]
    axes.add_patch(PathPatch(outline, facecolor=color, edgecolor="none", zorder=1))
    for border in (track.inner, track.outer):
        axes.plot(*border.T, color=BORDER_COLOR, linewidth=2.0, zorder=2)
    axes.plot(*track.center.T, color=CENTER_COLOR, linewidth=1.2, dashes=(5, 5), zorder=2)


def _draw_start(axes: Axes, track: Track) -> None:
    """Draw the start line across the road and an arrow in driving direction."""
    line = np.stack((track.inner[0], track.outer[0]))
    axes.plot(*line.T, color=START_COLOR, linewidth=3.0, zorder=4)
    x, y, yaw = track.pose_at(0.0)
    length_m = 0.9 * float(track.widths_m[0])
    tip = (x + length_m * np.cos(yaw), y + length_m * np.sin(yaw))
    axes.annotate(
        "",
        xy=tip,
        xytext=(x, y),
        arrowprops={"arrowstyle": "-|>", "color": START_COLOR, "linewidth": 2.5},
        zorder=5,
    )


def _draw_waypoint_numbers(axes: Axes, track: Track) -> None:
    """Mark and number every tenth waypoint; the number stands outside of the road."""
    count = len(track.center)
    if track.is_loop:  # leave room for the 0
        count -= NUMBERS_EVERY // 2
    for k in range(0, count, NUMBERS_EVERY):
        axes.plot(*track.center[k], marker="o", markersize=3.0, color="white", zorder=3)
        outward = track.outer[k] - track.center[k]
        axes.annotate(
            str(k),
            xy=track.outer[k],
            xytext=tuple(NUMBER_DISTANCE_PT * outward / np.hypot(*outward)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            color=TEXT_COLOR,
            zorder=6,
        )
