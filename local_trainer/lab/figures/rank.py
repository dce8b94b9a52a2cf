"""Draws how rewards order episodes, and where on the track two of them disagree."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from local_trainer.lab.earnings import MEASURE_LABELS, MEASURES
from local_trainer.lab.rank import Dispute, DisputedStep, RankReport, StepMap
from local_trainer.runs import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

MEASURE_COLORS = {"total": "#2563eb", "per_second": "#ea580c", "discounted": "#64748b"}
FINISHED_COLOR = "#15803d"
UNFINISHED_COLOR = "#b91c1c"
TEXT_COLOR = "#334155"
GRID_COLOR = "#e2e8f0"
DISPUTE_COLORS = "RdBu_r"
CELL_M = 0.12
MAX_MAPS = 4
NUM_COLUMNS = 4
_WIDTH_IN = 13.5
_DOTS_PER_INCH = 110


def write_rank_plot(path: Path, report: RankReport) -> None:
    """Draw a report into a PNG file; replaced if it exists."""
    write_atomically(path, rank_png(report))


def rank_png(report: RankReport) -> bytes:
    """Return the picture of a report: correlations, orders, and where two rewards disagree."""
    from matplotlib.figure import Figure

    maps = report.dispute.maps[:MAX_MAPS] if report.dispute else ()
    num_scatter_rows = -(-len(report.rewards) // NUM_COLUMNS)
    heights_in = [1.3 + 0.5 * len(report.rewards), 3.6 * num_scatter_rows]
    map_columns = min(len(maps), 2)
    if maps:
        size_m = np.ptp(np.vstack((maps[0].track.inner, maps[0].track.outer)), axis=0)
        panel_in = _WIDTH_IN / map_columns * 0.8 * size_m[1] / size_m[0]
        heights_in.append(float(np.clip(panel_in, 2.5, 7.5)) * -(-len(maps) // 2) + 0.9)
    figure = Figure(figsize=(_WIDTH_IN, sum(heights_in)), dpi=_DOTS_PER_INCH, layout="constrained")
    parts = figure.subfigures(len(heights_in), 1, squeeze=False, height_ratios=heights_in)[:, 0]
    _draw_agreement(parts[0], report)
    _draw_orders(parts[1], report, num_scatter_rows)
    if report.dispute:
        _draw_dispute(parts[2], report.dispute, maps, map_columns)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_agreement(figure: Figure, report: RankReport) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(report.rewards))
    for axes, kind in zip(panels, ("spearman", "kendall"), strict=True):
        for k, measure in enumerate(MEASURES):
            shift = 0.22 * (k - 1)
            for place, reward in zip(places, report.rewards, strict=True):
                found = getattr(reward.agreement[measure], kind)
                if found.value is None:
                    continue
                color = MEASURE_COLORS[measure]
                if found.low is not None and found.high is not None:
                    axes.plot(
                        (found.low, found.high),
                        (place + shift, place + shift),
                        color=color,
                        linewidth=2.2,
                        alpha=0.55,
                    )
                axes.plot(found.value, place + shift, "o", color=color, markersize=6)
        axes.axvline(0.0, color="#94a3b8", linewidth=1.0)
        axes.set_xlim(-1.05, 1.05)
        name = "Spearman's rank correlation" if kind == "spearman" else "Kendall's tau-b"
        _style(axes, name, "with the reference order (1: the same)", "")
    panels[0].set_yticks(places, [reward.name for reward in report.rewards])
    panels[0].set_ylim(len(report.rewards) - 0.5, -0.5)
    for measure in MEASURES:
        panels[1].plot([], [], "o-", color=MEASURE_COLORS[measure], label=MEASURE_LABELS[measure])
    panels[1].legend(
        frameon=False,
        fontsize=9,
        labelcolor=TEXT_COLOR,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        title="earned, 95 % interval",
        title_fontsize=9,
    )


def _draw_orders(figure: Figure, report: RankReport, num_rows: int) -> None:
    columns = min(NUM_COLUMNS, len(report.rewards))
    panels = figure.subplots(num_rows, columns, squeeze=False).ravel()
    place = np.array([episode.place for episode in report.episodes])
    is_finished = np.array([episode.is_complete for episode in report.episodes])
    for k, (axes, reward) in enumerate(zip(panels, report.rewards, strict=False)):
        by_reward = np.array([episode.places[k] for episode in report.episodes])
        for chosen, color, label in (
            (~is_finished, UNFINISHED_COLOR, "not finished"),
            (is_finished, FINISHED_COLOR, "finished lap"),
        ):
            axes.plot(
                place[chosen], by_reward[chosen], ".", color=color, alpha=0.6, label=label,
                markersize=6,
            )  # fmt: skip
        most = max(place.max(), by_reward.max()) + 1
        axes.plot((1, most), (1, most), color="#94a3b8", linewidth=1.0, dashes=(4, 3), zorder=0)
        _style(axes, reward.name, "Place by the reference", "Place by the total" if k == 0 else "")
    for axes in panels[len(report.rewards) :]:
        axes.set_axis_off()
    panels[0].legend(frameon=False, fontsize=9, labelcolor=TEXT_COLOR, loc="upper left")


def _draw_dispute(
    figure: Figure, dispute: Dispute, maps: tuple[StepMap, ...], columns: int
) -> None:
    panels = figure.subplots(-(-len(maps) // columns), columns, squeeze=False).ravel()
    mesh = None
    for axes, step_map in zip(panels, maps, strict=False):
        mesh = _draw_map(axes, step_map)
        shown = [
            (number, step)
            for number, step in enumerate(dispute.steps, start=1)
            if step.track == step_map.track.name
        ]
        _mark(axes, shown)
        axes.set_title(
            f"{step_map.track.name}: where {dispute.first} and {dispute.second} disagree",
            color=TEXT_COLOR, fontsize=11, fontweight="bold", loc="left",
        )  # fmt: skip
        axes.set_aspect("equal")
        axes.set_axis_off()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=list(panels), shrink=0.85, aspect=35, pad=0.01)
        bar.set_label(
            f"Mean difference in rank of a step\nblue: {dispute.second} likes it better      "
            f"red: {dispute.first} does",
            color=TEXT_COLOR,
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=TEXT_COLOR, labelsize=9)


def _draw_map(axes: Axes, step_map: StepMap) -> QuadMesh:
    from scipy.stats import binned_statistic_2d

    from local_trainer.plots import draw_track

    draw_track(axes, step_map.track)
    low, high = step_map.xy.min(axis=0), step_map.xy.max(axis=0)
    edges = [np.arange(low[axis], high[axis] + 2 * CELL_M, CELL_M) for axis in range(2)]
    means = binned_statistic_2d(*step_map.xy.T, step_map.difference, "mean", edges).statistic
    return axes.pcolormesh(
        edges[0], edges[1], np.ma.masked_invalid(means.T), cmap=DISPUTE_COLORS, vmin=-1.0,
        vmax=1.0, zorder=0.8,
    )  # fmt: skip


def _mark(axes: Axes, steps: list[tuple[int, DisputedStep]]) -> None:
    """Number the disputed steps; those that nearly coincide share a label."""
    groups: list[tuple[float, float, list[int]]] = []
    for number, step in steps:
        for x, y, numbers in groups:
            if np.hypot(x - step.x, y - step.y) < 2.0 * CELL_M:
                numbers.append(number)
                break
        else:
            groups.append((step.x, step.y, [number]))
    for x, y, numbers in groups:
        axes.annotate(
            ", ".join(map(str, numbers)), (x, y), ha="center", va="center", fontsize=8,
            color=TEXT_COLOR, fontweight="bold", zorder=5,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": TEXT_COLOR},
        )  # fmt: skip


def _style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, color=TEXT_COLOR, fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(x_label, color=TEXT_COLOR)
    axes.set_ylabel(y_label, color=TEXT_COLOR)
    axes.tick_params(colors=TEXT_COLOR, labelsize=9, length=0)
    axes.grid(color=GRID_COLOR)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
