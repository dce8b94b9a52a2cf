"""Pictures of runs side by side: how they learned, and how their robust laps spread.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; line styles and marks
differ besides, so that a grey print can be read, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from local_trainer.compare.comparison import Candidate, ComparedRun, Comparison, Laps

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
TEXT_COLOR = "#334155"
GRID_COLOR = "#e2e8f0"
CHOSEN_COLOR = "#f1f5f9"
_DOTS_PER_INCH = 110
_MARKS_A_LINE = 12


def plot_curves(runs: Sequence[ComparedRun]) -> Figure:
    """Return reward, completion and lap time against steps and against minutes."""
    figure = Figure(figsize=(11.0, 10.0), dpi=_DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(3, 2, sharex="col", sharey="row")
    for column, (by, label) in enumerate((("steps", "Training steps"), ("minutes", "Minutes"))):
        reward, completion, laps = panels[:, column]
        _lines(reward, runs, by, "reward")
        _lines(completion, runs, by, "completion_percent")
        _lines(laps, runs, f"lap_{by}", "lap_s")
        completion.set_ylim(-3.0, 103.0)
        laps.set_xlabel(label, color=TEXT_COLOR)
        for axes, empty in ((reward, "no training"), (completion, "no training"), (laps, "no lap")):
            if not axes.lines:
                axes.text(0.5, 0.5, empty, color="#94a3b8", ha="center", transform=axes.transAxes)
    panels[2, 0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panels[2, 0].xaxis.set_major_locator(MaxNLocator(5))
    for row, (title, unit) in enumerate(_TITLES):
        panels[row, 0].set_ylabel(unit, color=TEXT_COLOR)
        for axes in panels[row]:
            _style(axes, title)
    handles = [_handle(number, run.name) for number, run in enumerate(runs)]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(4, len(runs)),
        frameon=False,
        labelcolor=TEXT_COLOR,
        fontsize=11,
        handlelength=4.0,
    )
    return figure


_TITLES = (
    ("Reward in training", "Mean reward of an episode"),
    ("Completion in training", "Mean share of the lap (%)"),
    ("Best lap of each evaluation in training", "Lap time (s)"),
)


def plot_laps(comparison: Comparison) -> Figure:
    """Return each checkpoint's robust laps: how many were complete, and their times."""
    shown = [one for one in comparison.candidates if one.laps is not None]
    height_in = 1.5 + 0.75 * max(1, len(shown))
    figure = Figure(figsize=(11.0, height_in), dpi=_DOTS_PER_INCH, layout="constrained")
    share, times = figure.subplots(1, 2, sharey=True)
    names = [run.name for run in comparison.runs]
    chosen = {(verdict.run, verdict.checkpoint) for verdict in comparison.verdicts}
    for row, one in enumerate(shown):
        assert one.laps is not None
        number = names.index(one.run)
        if (one.run, one.number) in chosen:
            for axes in (share, times):
                axes.axhspan(row - 0.46, row + 0.46, color=CHOSEN_COLOR, zorder=0)
        _share(share, row, number, one.laps)
        _times(times, row, number, one.laps)
    share.set_yticks(range(len(shown)), [_name(one, chosen) for one in shown])
    share.set_ylim(len(shown) - 0.5, -0.5)
    share.set_xlim(-2.0, 102.0)
    share.set_xlabel("Complete robust laps (%)", color=TEXT_COLOR)
    times.set_xlabel("Time of a complete lap (s)", color=TEXT_COLOR)
    _style(share, "Do they arrive?")
    _style(times, "How fast?")
    for axes in (share, times):
        axes.grid(axis="y", visible=False)
    share.tick_params(axis="y", labelsize=11)
    return figure


def _name(candidate: Candidate, chosen: set[tuple[str | None, int | None]]) -> str:
    return f"→ {candidate.name}" if (candidate.run, candidate.number) in chosen else candidate.name


def _share(axes: Axes, row: int, number: int, laps: Laps) -> None:
    color, interval = COLORS[number % len(COLORS)], laps.completed_share
    low, high = 100.0 * interval.low, 100.0 * interval.high
    axes.plot([low, high], [row, row], color=color, linewidth=3, solid_capstyle="butt", alpha=0.45)
    axes.plot([low, low, high, high], [row] * 4, "|", color=color, markersize=11, mew=2)
    axes.plot(100.0 * interval.estimate, row, MARKS[number % len(MARKS)], color=color, ms=9)
    text = f"{laps.completed} of {len(laps.trials)}"
    at, side = (high + 2.0, "left") if high < 78.0 else (low - 2.0, "right")
    axes.text(at, row, text, color=TEXT_COLOR, ha=side, va="center", fontsize=10)


def _times(axes: Axes, row: int, number: int, laps: Laps) -> None:
    color = COLORS[number % len(COLORS)]
    found = [trial for trial in laps.trials if trial.is_complete]
    if not found:
        axes.text(
            0.5, row, "no complete lap", color="#64748b", ha="center", va="center",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        return
    for is_reversed, fill in ((False, color), (True, "none")):
        seconds = [t.elapsed_time_s for t in found if t.is_reversed is is_reversed]
        axes.plot(
            seconds, row + 0.12 + 0.2 * _spread(len(seconds), is_reversed), "o",
            markeredgecolor=color, markerfacecolor=fill, markersize=5, alpha=0.8,
        )  # fmt: skip
    mean_s = sum(trial.elapsed_time_s for trial in found) / len(found)
    if laps.mean_lap is not None:
        ends = [laps.mean_lap.low, laps.mean_lap.high]
        axes.plot(ends, [row - 0.25] * 2, "|-", color="#0f172a", linewidth=2, ms=9, mew=2)
    axes.plot(mean_s, row - 0.25, MARKS[number % len(MARKS)], color="#0f172a", markersize=7)


def _spread(count: int, is_reversed: bool) -> np.ndarray:
    """Return heights that keep equal times apart, always the same, shape (count,)."""
    return np.random.default_rng([count, is_reversed]).uniform(-1.0, 1.0, count)


def _lines(axes: Axes, runs: Sequence[ComparedRun], x_field: str, y_field: str) -> None:
    """Draw one field of every run's `Curve` against another."""
    for number, run in enumerate(runs):
        x, y = getattr(run.curve, x_field), getattr(run.curve, y_field)
        if any(value is not None for value in y):
            # A gap breaks the line, so there each point needs its mark.
            mark_every = 1 if None in y else max(1, len(x) // _MARKS_A_LINE)
            values = [np.nan if value is None else value for value in y]
            axes.plot(x, values, markevery=mark_every, **_style_of(number))


def _style_of(number: int) -> dict[str, Any]:
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKS[number % len(MARKS)],
        "markersize": 5,
        "linewidth": 1.8,
    }


def _handle(number: int, name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=name, **_style_of(number))


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, color=TEXT_COLOR, fontsize=11, fontweight="bold", loc="left")
    axes.tick_params(colors=TEXT_COLOR, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(color=GRID_COLOR, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#94a3b8")
