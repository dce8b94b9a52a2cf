"""Draws reward maps: one, or two with their difference."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from local_trainer.errors import ConfigError
from local_trainer.lab.reward_map import RewardMap, color_range
from local_trainer.runs import write_atomically
from local_trainer.track_plot import draw_track
from sim.track import Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

REWARD_COLORS = "viridis"
DIFFERENCE_COLORS = "RdBu_r"
_INK = "#222831"
_FIELD_COLOR = "#eef1f5"
_PANEL_WIDTH_IN = 6.0
_STACKED_FROM = 1.8
"""Tracks more times as wide as high than this are drawn below each other."""


def write_map(path: Path, reward_map: RewardMap, other: RewardMap | None = None) -> None:
    """Draw a map into a PNG file; with another one, both and the difference.

    Args:
        path: Where to write it; replaced if it exists.
        reward_map: What to draw.
        other: Compared with it; must have the same cells.

    Raises:
        ConfigError: If the two maps have different cells.
    """
    write_atomically(path, map_png(reward_map, other))


def map_png(reward_map: RewardMap, other: RewardMap | None = None) -> bytes:
    """Return `write_map`'s picture."""
    if other is not None and other.grid is not reward_map.grid:
        raise ConfigError("Two maps can be compared only on the same cells.")
    figure = _compared(reward_map, other) if other is not None else _single(reward_map)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def color_table(name: str) -> list[list[int]]:
    """Return a colour scale as 256 rows of red, green and blue, 0 to 255."""
    from matplotlib import colormaps

    colors = np.round(255.0 * colormaps[name](np.arange(256))[:, :3])
    rows: list[list[int]] = colors.astype(int).tolist()
    return rows


def driving_text(reward_map: RewardMap) -> str:
    """Return the way of driving a map is for, in words."""
    direction = ", against the row order" if reward_map.grid.is_reversed else ""
    return (
        f"{reward_map.speed_mps:g} m/s, heading {signed(reward_map.heading_deg)}° from the centre "
        f"line, steering {signed(reward_map.steering_deg)}°{direction}"
    )


def signed(value: float) -> str:
    """Return a number with its sign, 0 without."""
    return f"{value:+g}" if value else "0"


def _single(reward_map: RewardMap) -> Figure:
    figure, (axes,) = _panels(reward_map.grid.track, 1)
    limits = color_range(reward_map.reward)
    picture = _draw(axes, reward_map, reward_map.reward, REWARD_COLORS, limits)
    _add_scale(figure, [axes], picture, "reward", reward_map.reward, limits)
    facts = reward_map.facts
    figure.suptitle(
        f"{reward_map.path.name} on {reward_map.grid.track.name}\n{driving_text(reward_map)}",
        fontsize=12,
        color=_INK,
    )
    axes.set_title(
        f"mean {facts['mean']:.4g}, lowest {facts['min']:.4g}, highest {facts['max']:.4g}",
        fontsize=10,
        loc="left",
        color=_INK,
    )
    return figure


def _compared(first: RewardMap, second: RewardMap) -> Figure:
    figure, panels = _panels(first.grid.track, 3)
    limits = color_range(first.reward, second.reward)
    both = np.concatenate((first.reward, second.reward))
    for axes, one in zip(panels, (first, second), strict=False):
        picture = _draw(axes, one, one.reward, REWARD_COLORS, limits)
        _add_scale(figure, [axes], picture, "reward", both, limits)
        facts = one.facts
        axes.set_title(
            f"{one.path.name}: mean {facts['mean']:.4g}, {facts['min']:.4g} to {facts['max']:.4g}",
            fontsize=10,
            loc="left",
            color=_INK,
        )
    difference = second.reward - first.reward
    low, high = color_range(difference)
    furthest = max(abs(low), abs(high)) or 1.0
    limits = (-furthest, furthest)
    picture = _draw(panels[2], first, difference, DIFFERENCE_COLORS, limits)
    _add_scale(figure, [panels[2]], picture, "difference", difference, limits)
    panels[2].set_title(
        f"{second.path.name} minus {first.path.name}: mean {difference.mean():+.4g}",
        fontsize=10,
        loc="left",
        color=_INK,
    )
    figure.suptitle(
        f"{first.grid.track.name}: {driving_text(first)}",
        fontsize=12,
        color=_INK,
    )
    return figure


def _panels(track: Track, count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    span_x_m, span_y_m = np.ptp(np.vstack((track.inner, track.outer)), axis=0) + 1.2
    is_stacked = span_x_m / span_y_m > _STACKED_FROM
    width_in = 10.0 if count == 1 or is_stacked else _PANEL_WIDTH_IN
    height_in = float(np.clip((width_in - 1.5) * span_y_m / span_x_m, 1.6, 11.0)) + 0.8
    rows, columns = (count, 1) if is_stacked else (1, count)
    figure = Figure(
        figsize=(width_in * columns, height_in * rows + 0.5), dpi=110, layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    return figure, list(panels.ravel())


def _draw(
    axes: Axes,
    reward_map: RewardMap,
    values: np.ndarray,
    colors: str,
    limits: tuple[float, float],
) -> AxesImage:
    """Draw one value a cell, the track over it."""
    from matplotlib.patheffects import withStroke

    grid = reward_map.grid
    draw_track(axes, grid.track)
    axes.set_facecolor(_FIELD_COLOR)
    axes.grid(color="#dde3ea", linewidth=0.6)
    low_x, high_x = axes.get_xlim()
    low_y, high_y = axes.get_ylim()
    low, high = limits
    picture = axes.imshow(
        grid.image(values),
        origin="lower",
        extent=grid.extent_m,
        cmap=colors,
        vmin=low,
        vmax=high if high > low else low + 1.0,
        interpolation="nearest",
        zorder=1.5,
    )
    for text in axes.texts:  # waypoint numbers lie on the margin's colours
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    # draw_track's white borders get a dark core: seen on every colour of the scale.
    for border in (grid.track.inner, grid.track.outer):
        axes.plot(*border.T, color="black", linewidth=0.8, zorder=2.5)
    axes.set_xlim(low_x, high_x)
    axes.set_ylim(low_y, high_y)
    axes.set_aspect("equal")
    return picture


def _add_scale(
    figure: Figure,
    panels: list[Axes],
    picture: AxesImage,
    label: str,
    values: np.ndarray,
    limits: tuple[float, float],
) -> None:
    """Draw the colour scale; its ends are pointed where values lie beyond them."""
    is_below, is_above = values.min() < limits[0], values.max() > limits[1]
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (bool(is_below), bool(is_above)), "neither"
    )
    bar = figure.colorbar(picture, ax=panels, shrink=0.85, pad=0.02, extend=extend)
    bar.set_label(label, color=_INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=_INK)
