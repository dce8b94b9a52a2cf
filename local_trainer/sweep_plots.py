"""Pictures of a sweep: every trial as a line through its settings to what it reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from local_trainer.plots import DOTS_PER_INCH, TEXT_COLOR, png
from local_trainer.sweep.leaderboard import Entry, Leaderboard

_COLORS = "viridis_r"
_LINE_COLOR_UNKNOWN = "#94a3b8"
_LOG_FROM = 9.0
"""Settings whose largest value is this many times the smallest are drawn on a logarithmic axis."""
_LONGEST_LABEL = 20
_APART = 0.014
_FARTHEST_APART = 0.09
"""Lines that cross an axis at the same height are drawn a little apart, at most so much in all."""
_NOTHING = "none"


@dataclass(frozen=True)
class _Axis:
    """One upright axis: where each trial crosses it, and what is written beside it."""

    title: str
    heights: list[float | None]
    """0 to 1, one a trial; None for a trial that has no value."""
    ticks: list[tuple[float, str]]


def parallel_coordinates_png(leaderboard: Leaderboard) -> bytes:
    """Return the parallel coordinates of a leaderboard as a PNG file."""
    return png(plot_parallel_coordinates(leaderboard))


def plot_parallel_coordinates(leaderboard: Leaderboard) -> Figure:
    """Return a figure with one line a trial: its settings, then completion and lap time.

    The colour is the completion of the robust laps; trials without any are grey and end at their
    last setting.
    """
    entries = leaderboard.entries
    axes = [
        _settings_axis(key, [e.values.get(key) for e in entries]) for key in leaderboard.differing
    ]
    axes += _result_axes(entries)
    axes = [replace(axis, heights=_apart(axis.heights)) for axis in axes]
    width_in = float(np.clip(2.3 * len(axes), 7.0, 24.0))
    figure = Figure(figsize=(width_in, 5.2), dpi=DOTS_PER_INCH, layout="constrained")
    panel = figure.subplots()
    _draw_axes(panel, axes)
    norm = Normalize(0.0, 100.0)
    colors = matplotlib.colormaps[_COLORS]
    # The best last, so that it lies on top.
    for index in reversed(range(len(entries))):
        completion = entries[index].mean_completion_percent
        color = _LINE_COLOR_UNKNOWN if completion is None else colors(norm(completion))
        _draw_line(panel, axes, index, color, is_best=entries[index].place == 1)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=panel, pad=0.02, fraction=0.03)
    bar.set_label("mean completion of the robust laps, %", color=TEXT_COLOR)
    return figure


def _draw_axes(panel: Axes, axes: Sequence[_Axis]) -> None:
    for place, axis in enumerate(axes):
        panel.plot((place, place), (0.0, 1.0), color="#475569", linewidth=1.2, zorder=3)
        for height, label in axis.ticks:
            panel.plot((place - 0.02, place + 0.02), (height, height), color="#475569", zorder=3)
            panel.text(
                place + 0.035,
                height,
                label,
                va="center",
                fontsize=9,
                color=TEXT_COLOR,
                zorder=5,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            )
        panel.text(
            place, 1.06, axis.title, ha="center", fontsize=10, fontweight="bold", color=TEXT_COLOR
        )
    panel.set_xlim(-0.35, len(axes) - 0.55)
    panel.set_ylim(-0.06, 1.12)
    panel.set_axis_off()


def _draw_line(panel: Axes, axes: Sequence[_Axis], index: int, color: Any, is_best: bool) -> None:
    """Draw a trial's line, slightly curved so that lines can be followed through an axis."""
    xs: list[float] = []
    ys: list[float] = []
    for place in range(len(axes) - 1):
        left, right = axes[place].heights[index], axes[place + 1].heights[index]
        if left is None or right is None:
            continue
        t = np.linspace(0.0, 1.0, 24)
        smooth = t * t * (3.0 - 2.0 * t)
        xs += list(place + t)
        ys += list(left + (right - left) * smooth)
    panel.plot(
        xs,
        ys,
        color=color,
        linewidth=3.2 if is_best else 1.6,
        alpha=1.0 if is_best else 0.75,
        zorder=4 if is_best else 2,
        solid_capstyle="round",
    )


def _settings_axis(key: str, values: Sequence[Any]) -> _Axis:
    title = key.replace(".", ".\n") if len(key) > _LONGEST_LABEL else key
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > 1:
        return _number_axis(title, [float(value) for value in values])
    labels = [_label(value) for value in values]
    order = sorted(dict.fromkeys(labels))
    heights = {label: _spread(place, len(order)) for place, label in enumerate(order)}
    ticks = [(height, label) for label, height in heights.items()]
    return _Axis(title, [heights[label] for label in labels], ticks)


def _result_axes(entries: Sequence[Entry]) -> list[_Axis]:
    shares = [None if e.completion is None else 100.0 * e.completion.estimate for e in entries]
    ticks = [(percent / 100.0, f"{percent} %") for percent in (0, 25, 50, 75, 100)]
    heights = [None if share is None else share / 100.0 for share in shares]
    axes = [_Axis("robust laps\ncompleted", heights, ticks)]
    laps = [e.lap_s for e in entries]
    if any(lap is not None for lap in laps):
        # Upside down: a short lap is good, and good is at the top of the axis beside it.
        axes.append(_number_axis("mean lap", laps, unit=" s", is_upside_down=True))
    return axes


def _number_axis(
    title: str, values: Sequence[float | None], unit: str = "", is_upside_down: bool = False
) -> _Axis:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    is_log = low > 0.0 and high / low >= _LOG_FROM

    def height(value: float) -> float:
        if high == low:
            return 0.5
        if is_log:
            share = math.log(value / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return 1.0 - share if is_upside_down else share

    distinct = sorted(set(known))
    if len(distinct) > 6:
        shares = np.linspace(0.0, 1.0, 5)
        distinct = [
            low * (high / low) ** share if is_log else low + share * (high - low)
            for share in shares
        ]
    ticks = [(height(value), f"{value:.3g}{unit}") for value in distinct]
    return _Axis(title, [None if v is None else height(v) for v in values], ticks)


def _apart(heights: Sequence[float | None]) -> list[float | None]:
    """Return heights in which equal ones are a little apart, in their order."""
    same: dict[float, list[int]] = {}
    for index, height in enumerate(heights):
        if height is not None:
            same.setdefault(round(height, 6), []).append(index)
    moved = list(heights)
    for height, indices in same.items():
        step = min(_APART, _FARTHEST_APART / len(indices))
        for rank, index in enumerate(indices):
            moved[index] = height + step * ((len(indices) - 1) / 2.0 - rank)
    return moved


def _label(value: Any) -> str:
    text = _NOTHING if value is None else str(value)
    if "/" in text:
        text = text.rpartition("/")[2]
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def _spread(place: int, count: int) -> float:
    return 0.5 if count == 1 else place / (count - 1)
