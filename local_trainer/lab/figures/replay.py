"""Draws a replay: one episode step by step, all steps and all episodes, recorded against new."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from local_trainer.episodes import Episode
from local_trainer.lab.replay import Replay
from local_trainer.plots import (
    DOTS_PER_INCH,
    EVALUATION_COLOR,
    GRID_COLOR,
    TEXT_COLOR,
    TRAINING_COLOR,
    png,
)

_RECORDED_COLOR = "#94a3b8"
_LAP_COLOR = "#15803d"
_DENSITY_CELLS = 60
_MAX_LINES = 4


def episode_png(replays: list[Replay], index: int) -> bytes:
    """Return the rewards of one episode over its progress: recorded, and each function's.

    Args:
        replays: Of one recording.
        index: Place of the episode in the recording.
    """
    episode = replays[0].recording.episodes[index]
    figure = Figure(figsize=(9.0, 3.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    x = episode.steps["steps"]
    axes.step(x, episode.rewards, where="mid", color=_RECORDED_COLOR, linewidth=4, label="recorded")
    colors = (TRAINING_COLOR, EVALUATION_COLOR, "#7c3aed", "#0f766e")
    for one, color in zip(replays[:_MAX_LINES], colors, strict=False):
        axes.step(
            x,
            one.rewards[index],
            where="mid",
            color=color,
            linewidth=1.3,
            label=one.reward_file.name,
        )
    _style(axes, f"Reward of each step: {episode_text(episode)}", "step", "reward")
    axes.margins(x=0.01)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=TEXT_COLOR)
    return png(figure)


def comparison_png(one: Replay) -> bytes:
    """Return new against recorded reward, of all steps compared and of all episodes."""
    figure = Figure(figsize=(9.0, 4.2), dpi=DOTS_PER_INCH, layout="constrained")
    steps_axes, totals_axes = figure.subplots(1, 2)
    _draw_steps(figure, steps_axes, one)
    _draw_totals(totals_axes, one)
    return png(figure)


def example_episode(replays: list[Replay]) -> int:
    """Return the place of the episode to show: the fastest lap, else the one that got farthest."""
    episodes = replays[0].recording.episodes

    def merit(i: int) -> tuple[bool, float]:
        episode = episodes[i]
        value = -episode.duration_s if episode.is_complete else episode.progress
        return episode.is_complete, value

    return max(range(len(episodes)), key=merit)


def episode_text(episode: Episode) -> str:
    """Return which episode it is and how it ended, in words."""
    end = (
        f"lap in {episode.duration_s:.1f} s"
        if episode.is_complete
        else f"{episode.status.label.lower()} at {episode.progress:.0f} %"
    )
    return f"{episode.phase} episode {episode.index}, iteration {episode.iteration}, {end}"


def _draw_steps(figure: Figure, axes: Axes, one: Replay) -> None:
    _style(axes, f"{len(one.old):,} steps", "recorded reward of a step", "new reward of a step")
    if not len(one.old):
        _say_nothing(axes, "no step's recorded reward\ncan be compared")
        return
    drawn = axes.hist2d(
        one.old, one.new, bins=_DENSITY_CELLS, norm=LogNorm(vmin=1), cmap="viridis_r", cmin=1
    )[3]
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label("steps", color=TEXT_COLOR)
    bar.ax.tick_params(colors=TEXT_COLOR, labelsize=9)
    _draw_diagonal(axes, one.old, one.new)
    axes.use_sticky_edges = False  # else cells at the edge hide behind the axes
    axes.margins(0.04)
    axes.autoscale_view()


def _draw_totals(axes: Axes, one: Replay) -> None:
    is_lap = np.array([episode.is_complete for episode in one.recording.episodes])
    for mask, color, label in (
        (~is_lap, EVALUATION_COLOR, "not finished"),
        (is_lap, _LAP_COLOR, "lap"),
    ):
        if mask.any():
            axes.scatter(
                one.old_totals[mask], one.new_totals[mask], s=18, color=color, alpha=0.55,
                linewidths=0, label=f"{label} ({mask.sum():,})",
            )  # fmt: skip
    _style(
        axes,
        f"{len(is_lap):,} episodes",
        "recorded reward of an episode",
        "new reward of an episode",
    )
    _draw_diagonal(axes, one.old_totals, one.new_totals)
    axes.legend(loc="best", framealpha=0.8, edgecolor="none", labelcolor=TEXT_COLOR)


def _draw_diagonal(axes: Axes, old: np.ndarray, new: np.ndarray) -> None:
    """Draw where both are equal, as far as both reach."""
    low, high = max(old.min(), new.min()), min(old.max(), new.max())
    if low < high:
        axes.plot([low, high], [low, high], color=TEXT_COLOR, linewidth=0.8, linestyle=":")


def _style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, color=TEXT_COLOR, fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(x_label, color=TEXT_COLOR)
    axes.set_ylabel(y_label, color=TEXT_COLOR)
    axes.tick_params(colors=TEXT_COLOR, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(color=GRID_COLOR, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#94a3b8")


def _say_nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, color="#94a3b8", ha="center", transform=axes.transAxes)
