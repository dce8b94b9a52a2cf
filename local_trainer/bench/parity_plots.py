"""Pictures of how far the two simulators agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from local_trainer.bench.parity import CameraDifference, SpeedResponse, Trajectories, Turns

GAZEBO_COLOR = "#D55E00"
EMBEDDED_COLOR = "#0072B2"
TEXT_COLOR = "#334155"
GRID_COLOR = "#e2e8f0"
_DOTS_PER_INCH = 110
_SHOWN_DRIVES = 10
_STEPS_PER_SECOND = 15.0


def plot_cameras(cameras: Sequence[CameraDifference]) -> Figure:
    """Return, a row a track: both worst pictures, their difference, the mean over all poses."""
    figure = Figure(figsize=(12.0, 2.75 * len(cameras)), dpi=_DOTS_PER_INCH, layout="constrained")
    rows = figure.subplots(len(cameras), 4, squeeze=False)
    for camera, row in zip(cameras, rows, strict=True):
        theirs, ours = camera.worst
        apart = np.abs(theirs.astype(int) - ours.astype(int))
        for axes, picture, title in (
            (row[0], theirs, f"{camera.track}: Gazebo"),
            (row[1], ours, "Embedded"),
        ):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            _style_picture(axes, title)
        for axes, picture, title, most in (
            (row[2], apart, f"Difference {apart.mean():.2f} (worst pose)", 60),
            (
                row[3],
                camera.by_pixel,
                f"Mean difference {camera.by_pose.mean():.2f} ({len(camera.by_pose)} poses)",
                10,
            ),
        ):
            shown = axes.imshow(picture, cmap="magma", vmin=0, vmax=most)
            _style_picture(axes, title)
            bar = figure.colorbar(shown, ax=axes, shrink=0.8, extend="max")
            bar.set_label("grey levels of 255", color=TEXT_COLOR, fontsize=8)
            bar.ax.tick_params(labelsize=8, colors=TEXT_COLOR)
    return figure


def plot_turns(turns: Turns) -> Figure:
    """Return heat maps of Gazebo's radii and the embedded car's error in radius and speed."""
    figure = Figure(figsize=(12.0, 4.6), dpi=_DOTS_PER_INCH, layout="constrained")
    radius, error, speed = figure.subplots(1, 3, sharey=True)
    _heat_map(radius, turns, np.log10(turns.gazebo_m), turns.gazebo_m, "{:.2f}", "viridis", None)
    _style(radius, "Turning radius in Gazebo, m", "steering, degrees", "commanded speed, m/s")
    for axes, values, title in (
        (error, 100.0 * turns.radius_error, "Embedded radius: difference, %"),
        (speed, 100.0 * turns.speed_error, "Embedded speed in the turn: difference, %"),
    ):
        _heat_map(axes, turns, values, values, "{:+.1f}", "RdBu_r", 10.0)
        _style(axes, title, "steering, degrees", "")
    return figure


def _heat_map(
    axes: Axes,
    turns: Turns,
    colors: np.ndarray,
    numbers: np.ndarray,
    text: str,
    color_map: str,
    limit: float | None,
) -> None:
    shown = axes.imshow(
        colors,
        cmap=color_map,
        vmin=-limit if limit else None,
        vmax=limit,
        aspect="auto",
        origin="lower",
    )
    for (row, column), value in np.ndenumerate(numbers):
        words = text.format(value) if math.isfinite(value) else "not steady"
        level = float(np.asarray(shown.norm(colors))[row, column]) if math.isfinite(value) else 0.5
        is_dark = abs(level - 0.5) > 0.35 if limit else level < 0.6
        axes.text(
            column,
            row,
            words,
            ha="center",
            va="center",
            fontsize=8,
            color="white" if is_dark else "black",
        )
    axes.set_xticks(range(len(turns.steering_rad)))
    axes.set_xticklabels([f"{math.degrees(angle):.1f}" for angle in turns.steering_rad])
    axes.set_yticks(range(len(turns.speeds_mps)))
    axes.set_yticklabels([f"{speed:g}" for speed in turns.speeds_mps])


def plot_speed_responses(responses: Sequence[SpeedResponse]) -> Figure:
    """Return speed over time from one commanded speed to another, both simulators."""
    columns = 3
    rows = math.ceil(len(responses) / columns)
    figure = Figure(figsize=(12.0, 2.6 * rows), dpi=_DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes in panels[len(responses) :]:
        axes.remove()
    for axes, one in zip(panels, responses, strict=False):
        times_s = np.arange(1, len(one.gazebo_mps) + 1) / _STEPS_PER_SECOND
        axes.plot(times_s, one.gazebo_mps, "o", color=GAZEBO_COLOR, ms=4, label="Gazebo")
        axes.plot(times_s, one.embedded_mps, "-", color=EMBEDDED_COLOR, label="embedded")
        title = f"{one.start_mps:g} to {one.end_mps:g} m/s: at most {100 * one.error:.1f} % apart"
        _style(axes, title, "seconds after the command", "speed, m/s")
        axes.set_ylim(bottom=-0.1)
        axes.legend(frameon=False, fontsize=8)
    return figure


def plot_trajectories(trajectories: Sequence[Trajectories]) -> Figure:
    """Return some drives overlaid, and how far apart all of them end; a row a speed."""
    figure = Figure(
        figsize=(12.0, 4.2 * len(trajectories)), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    rows = figure.subplots(len(trajectories), 2, squeeze=False, width_ratios=(2, 1))
    for one, (paths, ends) in zip(trajectories, rows, strict=True):
        for k in range(min(_SHOWN_DRIVES, len(one.gazebo))):
            for drives, color, look, name in (
                (one.gazebo, GAZEBO_COLOR, "-", "Gazebo"),
                (one.embedded, EMBEDDED_COLOR, "--", "embedded"),
            ):
                x = np.append(0.0, drives["x"][k])
                y = np.append(0.0, drives["y"][k])
                paths.plot(x, y, look, color=color, lw=1.4, label=name if k == 0 else None)
                paths.plot(x[-1], y[-1], "o", color=color, ms=4)
        paths.set_aspect("equal")
        paths.legend(frameon=False, fontsize=9)
        _style(
            paths,
            f"Two seconds of the same commands at {one.speed_mps:g} m/s "
            f"({min(_SHOWN_DRIVES, len(one.gazebo))} of {len(one.gazebo)} drives)",
            "m ahead",
            "m to the left",
        )
        errors_cm = 100.0 * np.sort(one.end_point_errors_m)
        share = 100.0 * np.arange(1, len(errors_cm) + 1) / len(errors_cm)
        ends.step(errors_cm, share, where="post", color=TEXT_COLOR)
        median_cm = float(np.median(errors_cm))
        ends.axvline(median_cm, color=GAZEBO_COLOR, lw=1.0, ls="--")
        _style(ends, f"End points: median {median_cm:.1f} cm apart", "cm apart", "% of the drives")
        ends.set_ylim(0.0, 102.0)
        ends.set_xlim(left=0.0)
    return figure


def _style_picture(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, color=TEXT_COLOR)
    axes.set_xticks([])
    axes.set_yticks([])


def _style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=10, color=TEXT_COLOR)
    axes.set_xlabel(x_label, color=TEXT_COLOR, fontsize=9)
    axes.set_ylabel(y_label, color=TEXT_COLOR, fontsize=9)
    axes.tick_params(colors=TEXT_COLOR, labelsize=8)
    if not axes.images:
        axes.grid(color=GRID_COLOR)
        axes.set_axisbelow(True)
