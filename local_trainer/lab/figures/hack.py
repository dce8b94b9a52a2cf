"""Draws what an attack on a reward function found: the paths, and what each driver earns."""

from __future__ import annotations

import io
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from local_trainer.lab.earnings import MEASURE_LABELS, MEASURES
from local_trainer.lab.hack import Drive, HackReport, shown_findings
from local_trainer.runs import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

GRADE_COLORS = {
    "severe": "#b91c1c",
    "moderate": "#ea580c",
    "mild": "#ca8a04",
    "note": "#64748b",
    None: "#94a3b8",
}
YARDSTICK_COLOR = "#15803d"
TEXT_COLOR = "#334155"
GRID_COLOR = "#e2e8f0"
PATH_COLORS = "viridis"
NUM_COLUMNS = 3
NUM_BARS = 16
_PANEL_WIDTH_IN = 4.6
_BAR_HEIGHT_IN = 0.27
_DOTS_PER_INCH = 110


def write_hack_plot(path: Path, report: HackReport) -> None:
    """Draw a report into a PNG file; replaced if it exists."""
    write_atomically(path, hack_png(report))


def hack_png(report: HackReport) -> bytes:
    """Return the picture of a report: paths above, earnings below."""
    from matplotlib.figure import Figure

    drives = [*report.yardsticks[:1], *shown_findings(report)]
    num_rows = -(-len(drives) // NUM_COLUMNS)
    ordered = _ordered(report)
    size_m = np.ptp(np.vstack((report.track.inner, report.track.outer)), axis=0)
    panel_in = float(np.clip(_PANEL_WIDTH_IN * size_m[1] / size_m[0], 1.4, 5.5)) + 0.75
    bars_in = _BAR_HEIGHT_IN * len(ordered) + 1.1
    figure = Figure(
        figsize=(NUM_COLUMNS * _PANEL_WIDTH_IN, num_rows * panel_in + bars_in + 0.4),
        dpi=_DOTS_PER_INCH,
        layout="constrained",
    )
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(num_rows * panel_in, bars_in))
    above, below = parts[:, 0]
    _draw_paths(above, report, drives, num_rows)
    _draw_bars(below, report, ordered)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _ordered(report: HackReport) -> list[Drive]:
    """Return the drivers of the bar chart, the best earning per episode first."""
    drives = sorted((*report.yardsticks, *report.drives), key=lambda d: -d.earned.total)
    if len(drives) <= NUM_BARS:
        return drives
    kept = {id(d) for d in (*report.yardsticks, *shown_findings(report))}
    rest = [d for d in drives if id(d) not in kept][: NUM_BARS - len(kept)]
    kept |= {id(d) for d in rest}
    return [d for d in drives if id(d) in kept]


def _draw_paths(figure: Figure, report: HackReport, drives: list[Drive], num_rows: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    panels = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False).ravel()
    rewards = np.concatenate([one.episode.rewards for one in drives])
    low, high = np.percentile(rewards, (1.0, 99.0))
    limits = Normalize(float(low), max(float(high), float(low) + 1e-3))
    for axes, one in zip(panels, drives, strict=False):
        _draw_path(axes, report, one, limits)
    for axes in panels[len(drives) :]:
        axes.set_axis_off()
    bar = figure.colorbar(
        ScalarMappable(limits, PATH_COLORS), ax=list(panels), shrink=0.75, aspect=35, pad=0.01
    )
    bar.set_label("Reward of a step", color=TEXT_COLOR)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=TEXT_COLOR, labelsize=9)


def _draw_path(axes: Axes, report: HackReport, one: Drive, limits: Normalize) -> None:
    from matplotlib.collections import LineCollection

    from local_trainer.plots import draw_track

    draw_track(axes, report.track)
    steps = one.episode.steps
    points = np.column_stack((steps["x"], steps["y"]))
    pieces = np.stack((points[:-1], points[1:]), axis=1)
    line = LineCollection(list(pieces), cmap=PATH_COLORS, norm=limits, linewidths=2.6, zorder=3)
    line.set_array(one.episode.rewards[1:])
    axes.add_collection(line)
    axes.plot(*points[0], "o", color="white", markeredgecolor=TEXT_COLOR, markersize=6, zorder=4)
    if not one.is_complete:
        color = GRADE_COLORS[one.grade]
        axes.plot(*points[-1], "X", color=color, markeredgecolor="white", markersize=10, zorder=5)
    color = GRADE_COLORS[one.grade] if one.grade else YARDSTICK_COLOR
    axes.set_title(
        shorten(f"{one.grade or 'clean fast lap'}: {one.name}", 40, placeholder=" …"),
        color=color,
        fontsize=11,
        fontweight="bold",
        loc="left",
        pad=20,
    )
    axes.text(0.0, 1.02, _facts(one), color=TEXT_COLOR, fontsize=9, transform=axes.transAxes)
    axes.set_aspect("equal")
    axes.margins(0.03)
    axes.set_axis_off()


def _facts(one: Drive) -> str:
    end = one.episode.status.label.lower()
    return (
        f"{end} after {one.episode.duration_s:.1f} s, {one.earned.total:.4g} per episode, "
        f"{one.earned.per_second:.3g} a second"
    )


def _draw_bars(figure: Figure, report: HackReport, drives: list[Drive]) -> None:
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    yardsticks = {id(one) for one in report.yardsticks}
    colors = [
        YARDSTICK_COLOR if id(one) in yardsticks else GRADE_COLORS[one.grade] for one in drives
    ]
    titles = {
        "total": "Reward per episode",
        "per_second": "Reward per second",
        "discounted": f"Discounted return (factor {report.discount:g})",
    }
    places = np.arange(len(drives))
    for axes, measure in zip(panels, MEASURES, strict=True):
        axes.barh(places, [one.earned.of(measure) for one in drives], color=colors, height=0.72)
        axes.axvline(report.bar.of(measure), color=YARDSTICK_COLOR, linewidth=1.6, dashes=(4, 3))
        axes.set_title(
            titles[measure], color=TEXT_COLOR, fontsize=11, fontweight="bold", loc="left"
        )
        axes.set_xlabel(f"Earned {MEASURE_LABELS[measure]}", color=TEXT_COLOR)
        axes.tick_params(colors=TEXT_COLOR, labelsize=9, length=0)
        axes.grid(axis="x", color=GRID_COLOR)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
    panels[0].set_yticks(places, [one.name for one in drives])
    panels[0].invert_yaxis()
    _legend(panels[-1], drives, colors)


def _legend(axes: Axes, drives: list[Drive], colors: list[str]) -> None:
    from matplotlib.patches import Patch

    present = {one.grade for one in drives}
    entries = [Patch(color=YARDSTICK_COLOR, label="clean fast lap")]
    entries += [
        Patch(color=color, label=name)
        for name, color in GRADE_COLORS.items()
        if name in present and name is not None
    ]
    if any(color == GRADE_COLORS[None] for color in colors):
        entries.append(Patch(color=GRADE_COLORS[None], label="earns no more"))
    axes.legend(
        handles=entries, frameon=False, fontsize=9, labelcolor=TEXT_COLOR, loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )  # fmt: skip
