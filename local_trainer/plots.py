"""Pictures of a run: how training went, where the car drove, what it chose, where it left the road.

Everything is read from the run's files, so a plot can be made again at any time. The functions
return matplotlib figures that no window owns; `write_plots` saves them as PNG.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from local_trainer.actions import ActionSpace, load_action_space
from local_trainer.episodes import Episode
from local_trainer.history import History, read_history
from local_trainer.metrics import Entry, evaluation_entry, latest_evaluation_file, read_metrics
from local_trainer.rollout import track_of
from local_trainer.run_files import load_run_tracks
from local_trainer.runs import Run, write_atomically
from local_trainer.step_files import newest_evaluation_steps, read_steps
from sim.steps import EpisodeStatus
from sim.track import Track
from sim.track_files import load_route

TRAINING_COLOR = "#2563eb"
EVALUATION_COLOR = "#ea580c"
TEXT_COLOR = "#334155"
GRID_COLOR = "#e2e8f0"
ROAD_COLOR = "#cbd5e1"
BORDER_COLOR = "#64748b"
DOTS_PER_INCH = 110
HEAT_CELL_M = 0.04
HEAT_RADIUS_M = 0.12
"""Standard deviation of the blur of the heat map."""
RECENT_EPISODES = 100
"""How many of the last training episodes the action histogram counts."""

_LEGEND_COLUMNS = 3

# Okabe and Ito's colours without their yellow, which is too light on white: told apart by
# everybody. Markers go with them, and after them other lines.
_RUN_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1e1e1e")
_RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_RUN_LINES = ("-", "--", ":", "-.")

# Fades out, so that the road below stays visible where little happened.
_HEAT = LinearSegmentedColormap.from_list(
    "off_tracks", ["#fde68a00", "#fdba74b0", "#f97316d0", "#991b1be8"]
)
_END_COLORS = {
    EpisodeStatus.LAP_COMPLETE: "#15803d",
    EpisodeStatus.TIME_UP: "#a16207",
}


def plot_training(run: Run) -> Figure:
    """Return the training curves of a run, as far as it is."""
    return plot_history(read_history(run), run.name)


def plot_history(history: History, title: str = "") -> Figure:
    """Return the training curves of what a run has reported."""
    figure = Figure(figsize=(11.0, 13.0), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(4, 2)
    if title:
        figure.suptitle(title, color=TEXT_COLOR, fontsize=14, fontweight="bold")
    _reward_panel(panels[0, 0], history)
    _completion_panel(panels[0, 1], history)
    _lap_time_panel(panels[1, 0], history)
    _evaluation_panel(panels[1, 1], history)
    _update_panel(panels[2, 0], history, "entropy", "Entropy of the policy", "nats")
    _update_panel(panels[2, 1], history, "kl_divergence", "KL divergence of an update", "nats")
    _update_panel(panels[3, 0], history, "policy_loss", "Policy loss", "surrogate loss")
    _update_panel(panels[3, 1], history, "value_loss", "Value loss", "loss of the value head")
    return figure


def plot_runs(runs: Mapping[str, Run]) -> Figure:
    """Return reward and completion of several runs, one curve each.

    Args:
        runs: By what to call them in the legend.
    """
    rows = math.ceil(len(runs) / _LEGEND_COLUMNS)
    figure = Figure(figsize=(11.0, 4.4 + 0.24 * rows), dpi=DOTS_PER_INCH, layout="constrained")
    reward, completion = figure.subplots(1, 2)
    is_empty = True
    for number, (name, run) in enumerate(runs.items()):
        training = read_history(run).training
        is_empty = is_empty and not training
        look = run_look(number)
        iterations = np.array([event.iteration for event in training], dtype=int)
        episodes = np.array([event.episode + 1 for event in training], dtype=int)
        for axes, field in ((reward, "reward"), (completion, "progress_percent")):
            values = np.array([getattr(event, field) for event in training])
            curve = _means(iterations, episodes, values) if training else ([], [])
            axes.plot(*curve, linewidth=1.8, markersize=5, markevery=0.08, label=name, **look)
    completion.set_ylim(-3.0, 103.0)
    _style(reward, "Reward", "Training episode", "Mean reward per episode")
    _style(completion, "Completion", "Training episode", "Mean share of the lap (%)")
    for axes in (reward, completion):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if is_empty:
            axes.set_xlim(0.0, 20.0)
            _say_empty(axes)
    if is_empty:
        reward.set_yticks([])
    if runs:
        figure.legend(
            handles=reward.lines,
            loc="outside lower center",
            ncols=min(len(runs), _LEGEND_COLUMNS),
            frameon=False,
            fontsize=9,
            labelcolor=TEXT_COLOR,
        )
    return figure


def run_look(number: int) -> dict[str, Any]:
    """Return colour, marker and line of the run of a number: told apart without colour, too."""
    return {
        "color": _RUN_COLORS[number % len(_RUN_COLORS)],
        "marker": _RUN_MARKERS[number % len(_RUN_MARKERS)],
        "linestyle": _RUN_LINES[number // len(_RUN_COLORS) % len(_RUN_LINES)],
    }


def plot_evaluations(laps: Mapping[str, Sequence[Entry]]) -> Figure:
    """Return completion and time of several models' evaluation laps side by side.

    Args:
        laps: Elements of the evaluation metrics (`read_evaluation`), by what to call the model.
    """
    height = 1.9 + 0.65 * max(1, len(laps))
    figure = Figure(figsize=(11.0, height), dpi=DOTS_PER_INCH, layout="constrained")
    completion, elapsed = figure.subplots(1, 2, sharey=True)
    labels = []
    for number, (name, entries) in enumerate(laps.items()):
        _lap_dots(completion, number, [int(entry["completion_percentage"]) for entry in entries])
        whole = [entry for entry in entries if entry["episode_status"] == "Lap complete"]
        seconds = [int(entry["elapsed_time_in_milliseconds"]) / 1000.0 for entry in whole]
        _lap_dots(elapsed, number, seconds)
        labels.append(f"{name}\n{len(whole)} of {len(entries)} laps whole")
    completion.set_yticks(range(len(laps)), labels)
    completion.set_ylim(max(1, len(laps)) - 0.45, -0.55)
    completion.set_xlim(-3.0, 103.0)
    _style(completion, "Completion of each lap (line: mean)", "Share of the lap (%)", "")
    _style(elapsed, "Time of whole laps (line: mean)", "Time (s)", "")
    elapsed.tick_params(axis="y", length=0)
    if not elapsed.lines:
        elapsed.set_xticks([])
        _say_empty(elapsed, "no whole lap")
    return figure


def _lap_dots(axes: Axes, row: int, values: Sequence[float]) -> None:
    """Draw a model's laps in its row, spread a little so that equal ones are seen."""
    if not values:
        return
    look = run_look(row) | {"linestyle": "none"}
    spread = row + np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [row]
    axes.plot(values, spread, markersize=7, alpha=0.75, markeredgewidth=0, **look)
    axes.vlines(float(np.mean(values)), row - 0.3, row + 0.3, color=look["color"], linewidth=2.5)


def plot_path(episodes: Sequence[Episode], track: Track, title: str = "Path driven") -> Figure:
    """Return the paths of episodes on the track, coloured by the measured speed.

    Args:
        episodes: With their steps; none gives the track alone.
        track: The run's track.
        title: Shown above.
    """
    figure, axes = _track_figure(track, title)
    colors = _speed_range([episode.steps["actual_speed"] for episode in episodes])
    lines: LineCollection | None = None
    for episode in episodes:
        steps = episode.steps
        points = np.stack([steps["x"], steps["y"]], axis=1)
        segments = np.stack([points[:-1], points[1:]], axis=1)
        # After a mishap the car was put back on the road; it did not drive there.
        drove = steps["status"][:-1] == EpisodeStatus.IN_PROGRESS
        lines = LineCollection(
            list(segments[drove]),
            cmap="viridis",
            norm=colors,
            linewidths=2.2,
            alpha=0.9 if len(episodes) < 8 else 0.5,
            capstyle="round",
        )
        lines.set_array(steps["actual_speed"][1:][drove])
        axes.add_collection(lines)
        _mark_ends(axes, episode)
    if lines is not None:
        bar = figure.colorbar(lines, ax=axes, shrink=0.75, pad=0.02)
        bar.set_label("Speed (m/s)", color=TEXT_COLOR)
        bar.ax.tick_params(colors=TEXT_COLOR)
        _end_legend(axes, episodes)
    return figure


def plot_actions(
    groups: dict[str, Sequence[Episode]], actions: ActionSpace, title: str = "Actions chosen"
) -> Figure:
    """Return how often each action was chosen, in percent of the steps.

    Args:
        groups: Episodes by what to call them in the legend; empty groups are left out.
        actions: The run's action space.
        title: Shown above.
    """
    labels = action_labels(actions)
    shown = {name: episodes for name, episodes in groups.items() if episodes}
    figure = Figure(
        figsize=(8.0, max(3.2, 1.2 + 0.32 * len(labels))), dpi=DOTS_PER_INCH, layout="constrained"
    )
    axes = figure.subplots()
    places = np.arange(len(labels))
    height = 0.8 / max(1, len(shown))
    colors = [TRAINING_COLOR, EVALUATION_COLOR, "#0f766e", "#7c3aed"]
    for k, (name, episodes) in enumerate(shown.items()):
        counts = np.bincount(
            np.concatenate([episode.actions for episode in episodes]), minlength=len(labels)
        )
        axes.barh(
            places - 0.4 + (k + 0.5) * height,
            100.0 * counts / counts.sum(),
            height,
            label=f"{name} ({counts.sum():,} steps)",
            color=colors[k % len(colors)],
        )
    axes.set_yticks(places, labels, fontfamily="monospace")
    _style(axes, title, "Share of steps (%)", "Steering and speed")
    axes.grid(axis="y", visible=False)
    if shown:
        axes.legend(frameon=False, labelcolor=TEXT_COLOR)
    else:
        _say_empty(axes)
    return figure


def plot_off_tracks(
    episodes: Iterable[Episode], track: Track, title: str = "Where the car left the road"
) -> Figure:
    """Return a heat map of the places where episodes went off the track."""
    figure, axes = _track_figure(track, title)
    found = [off_track_places(episode) for episode in episodes]
    places = np.concatenate([np.zeros((0, 2)), *found])
    if len(places) == 0:
        axes.set_title(f"{title}: nowhere in {len(found)} episodes", **_TITLE)
        return figure
    density, extent = _density(places)
    picture = axes.imshow(
        density,
        cmap=_HEAT,
        extent=extent,
        origin="lower",
        interpolation="bilinear",
        zorder=3,
        vmin=0.0,
    )
    axes.plot(*places.T, ".", color="#450a0a", markersize=3, alpha=0.6, zorder=4)
    bar = figure.colorbar(picture, ax=axes, shrink=0.75, pad=0.02)
    bar.set_label("Times off the track per m²", color=TEXT_COLOR)
    bar.ax.tick_params(colors=TEXT_COLOR)
    axes.set_title(f"{title}: {len(places)} times in {len(found)} episodes", **_TITLE)
    return figure


def plot_evaluation(entries: Sequence[Entry], title: str = "Evaluation") -> Figure:
    """Return completion and time of each evaluation lap.

    Args:
        entries: Elements of the evaluation metrics (`read_evaluation`).
        title: Shown above.
    """
    figure = Figure(figsize=(11.0, 3.8), dpi=DOTS_PER_INCH, layout="constrained")
    completion, elapsed = figure.subplots(1, 2)
    figure.suptitle(title, color=TEXT_COLOR, fontsize=14, fontweight="bold")
    trials = [int(entry["trial"]) for entry in entries]
    seconds = [int(entry["elapsed_time_in_milliseconds"]) / 1000.0 for entry in entries]
    is_complete = [entry["episode_status"] == "Lap complete" for entry in entries]
    colors = ["#15803d" if complete else EVALUATION_COLOR for complete in is_complete]
    percents = [int(entry["completion_percentage"]) for entry in entries]
    bars = completion.bar(trials, percents, color=colors, width=0.7)
    completion.bar_label(bars, [f"{p} %" for p in percents], color=TEXT_COLOR, fontsize=9)
    completion.set_ylim(0, 112)
    _style(completion, "Completion (green: whole lap)", "Trial", "Share of the lap (%)")
    bars = elapsed.bar(trials, seconds, color=colors, width=0.7)
    elapsed.bar_label(bars, [f"{s:.2f}" for s in seconds], color=TEXT_COLOR, fontsize=9)
    elapsed.set_ylim(0, max(seconds, default=1.0) * 1.12)
    _style(elapsed, "Time from start to end, penalties included", "Trial", "Time (s)")
    for axes in (completion, elapsed):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        if not entries:
            _say_empty(axes)
    return figure


def evaluation_table(run: Run) -> list[dict[str, float]]:
    """Return the newest evaluation: rows of trial, completion_percentage, elapsed_time (s)."""
    return [
        {
            "trial": int(entry["trial"]),
            "completion_percentage": int(entry["completion_percentage"]),
            "elapsed_time": int(entry["elapsed_time_in_milliseconds"]) / 1000.0,
        }
        for entry in read_evaluation(run)
    ]


def read_evaluation(run: Run) -> list[Entry]:
    """Return the laps of the run's newest evaluation.

    A run that was not evaluated on its own shows the in-training evaluation of its best
    checkpoint; the list is empty if there is none either.
    """
    entries = read_metrics(latest_evaluation_file(run))
    if entries:
        return entries
    laps = evaluation_episodes(run)
    return [evaluation_entry(lap, trial) for trial, lap in enumerate(laps, start=1)]


def evaluation_episodes(run: Run) -> list[Episode]:
    """Return the recorded laps of the newest evaluation, or of the best checkpoint's."""
    path = newest_evaluation_steps(run)
    if path is None:
        best = read_history(run).best_evaluation
        path = run.steps_file("evaluation", best.iteration) if best else None
    return read_steps(path) if path is not None and path.exists() else []


def training_episodes(run: Run, history: History, newest: int | None = None) -> Iterator[Episode]:
    """Yield recorded training episodes in order, an iteration in memory at a time.

    Args:
        run: Whose.
        history: What it reported.
        newest: Only the iterations that hold the last so many episodes; all when left out.
    """
    reported = history.training if newest is None else history.training[-newest:]
    for iteration in sorted({event.iteration for event in reported}):
        path = run.steps_file("training", iteration)
        if path.exists():
            yield from read_steps(path)


def _density(places: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return how often something happened around each cell, per m², and the cells' extent."""
    margin_m = 4.0 * HEAT_RADIUS_M
    low, high = places.min(axis=0) - margin_m, places.max(axis=0) + margin_m
    shape = np.ceil((high - low) / HEAT_CELL_M).astype(int)
    counts = np.zeros(shape)
    np.add.at(counts, tuple(((places - low) / HEAT_CELL_M).astype(int).T), 1.0)
    smooth = gaussian_filter(counts, HEAT_RADIUS_M / HEAT_CELL_M, mode="constant")
    high = low + shape * HEAT_CELL_M
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    return smooth.T / HEAT_CELL_M**2, extent


def action_labels(actions: ActionSpace) -> list[str]:
    """Return a label for each action, e.g. ``+15° 2.0 m/s``."""
    return [
        f"{f'{a.steering_deg:+.3g}' if a.steering_deg else '0'}° {a.speed_mps:.1f} m/s"
        for a in actions.actions
    ]


def off_track_places(episode: Episode) -> np.ndarray:
    """Return where the car left the road, world frame in m, shape (K, 2)."""
    steps = episode.steps
    places = np.stack([steps["x"], steps["y"]], axis=1)
    off_track: np.ndarray = places[steps["status"] == EpisodeStatus.OFF_TRACK]
    return off_track


def write_plots(run: Run, folder: Path | None = None) -> list[Path]:
    """Draw all plots of a run and save them as PNG.

    Args:
        run: What to draw; one that is still running is drawn as far as it is.
        folder: Where to; the run's own folder of plots when left out.

    Returns:
        The files: ``training``, ``path``, ``actions``, ``off_tracks`` and ``evaluation``; of
        several tracks each after the first has ``path-<number>`` and ``off_tracks-<number>``.
    """
    folder = folder or run.plots_dir
    history = read_history(run)
    is_one = not run.tracks_file.exists()
    tracks = (load_route(run.route_file),) if is_one else load_run_tracks(run)
    actions = load_action_space(run.metadata_file)
    laps = evaluation_episodes(run)
    newest = list(training_episodes(run, history, newest=RECENT_EPISODES))
    figures = {
        "training": plot_history(history, run.name),
        **_path_figures(tracks, laps, newest),
        "actions": plot_actions(
            {"training, newest": newest[-RECENT_EPISODES:], "evaluation": laps}, actions
        ),
        **_off_track_figures(tracks, run, history),
        "evaluation": plot_evaluation(read_evaluation(run)),
    }
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        write_atomically(path, png(figure))
        paths.append(path)
    return paths


def of_track(name: str, number: int) -> str:
    """Return the name of the picture or video of a track; the first keeps the plain one."""
    return f"{name}-{number}" if number else name


def _path_figures(
    tracks: Sequence[Track], laps: Sequence[Episode], newest: Sequence[Episode]
) -> dict[str, Figure]:
    figures = {}
    for number, track in enumerate(tracks):
        driven = _driven_on(laps, number, tracks)
        shown = driven or _driven_on(newest, number, tracks)[-1:]
        title = _path_title(driven) + _on(track, tracks)
        figures[of_track("path", number)] = plot_path(shown, track, title)
    return figures


def _off_track_figures(tracks: Sequence[Track], run: Run, history: History) -> dict[str, Figure]:
    # One track after the other: all of a long run's steps would not fit into memory.
    return {
        of_track("off_tracks", number): plot_off_tracks(
            (e for e in training_episodes(run, history) if _is_on(e, number, tracks)),
            track,
            "Where the car left the road" + _on(track, tracks),
        )
        for number, track in enumerate(tracks)
    }


def _driven_on(episodes: Sequence[Episode], number: int, tracks: Sequence[Track]) -> list[Episode]:
    return [episode for episode in episodes if _is_on(episode, number, tracks)]


def _is_on(episode: Episode, number: int, tracks: Sequence[Track]) -> bool:
    return track_of(episode.index, len(tracks)) == number


def _on(track: Track, tracks: Sequence[Track]) -> str:
    return f", {track.name}" if len(tracks) > 1 else ""


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def live_training_plot(
    run: Run, is_done: Callable[[], bool], refresh_s: float = 2.0, file: Path | None = None
) -> None:
    """Show the training curves of a running run until it is done.

    In a notebook the picture is replaced in place; elsewhere it is kept up to date in a file.

    Args:
        run: The run; it need not have begun to report.
        is_done: Whether the run has ended.
        refresh_s: Seconds between two pictures.
        file: Where to write the picture outside a notebook; ``training.png`` among the run's
            plots when left out.
    """
    show = _notebook_display() or _file_display(file or run.plots_dir / "training.png")
    _show_live(lambda: plot_training(run), show, lambda: _reported(run), is_done, refresh_s)


def live_runs_plot(
    runs: Callable[[], Mapping[str, Run]],
    file: Path,
    is_done: Callable[[], bool],
    refresh_s: float = 2.0,
) -> None:
    """Show the training curves of several runs until all are done; the last one is in the file.

    In a notebook the picture is replaced in place; elsewhere the file is kept up to date.

    Args:
        runs: Gives them by what to call them in the legend, which may change.
        file: Where to write the picture.
        is_done: Whether all have ended.
        refresh_s: Seconds between two pictures.
    """
    keep = _file_display(file)
    show = _notebook_display() or keep

    def state() -> object:
        return [(name, _reported(run)) for name, run in runs().items()]

    _show_live(lambda: plot_runs(runs()), show, state, is_done, refresh_s)
    if show is not keep:
        keep(png(plot_runs(runs())))


def _reported(run: Run) -> int:
    return run.progress_file.stat().st_size if run.progress_file.exists() else 0


def _show_live(
    draw: Callable[[], Figure],
    show: Callable[[bytes], None],
    state: Callable[[], object],
    is_done: Callable[[], bool],
    refresh_s: float,
) -> None:
    """Show a picture whenever what it shows has changed, until the end."""
    drawn: object = None
    while True:
        is_last = is_done()
        now = state()
        if now != drawn:
            show(png(draw()))
            drawn = now
        if is_last:
            return
        time.sleep(refresh_s)


def display(picture: bytes) -> None:
    """Show a PNG in the running notebook, if there is one."""
    show = _notebook_display()
    if show is not None:
        show(picture)


def _notebook_display() -> Callable[[bytes], None] | None:
    """Return what replaces a picture in the running notebook, None outside one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    notebook: Any = import_module("IPython.display")
    handles: list[Any] = []

    def show(picture: bytes) -> None:
        image = notebook.Image(data=picture, format="png")
        if handles:
            handles[0].update(image)
        else:
            handles.append(notebook.display(image, display_id=True))

    return show


def _file_display(path: Path) -> Callable[[bytes], None]:
    return lambda picture: write_atomically(path, picture)


# Panels of the training curves.


def _reward_panel(axes: Axes, history: History) -> None:
    _episode_dots(axes, history, lambda event: event.reward)
    _style(axes, "Reward", "Training episode", "Reward per episode")


def _completion_panel(axes: Axes, history: History) -> None:
    _episode_dots(axes, history, lambda event: event.progress_percent)
    axes.set_ylim(-3.0, 103.0)
    _style(axes, "Completion", "Training episode", "Share of the lap (%)")


def _episode_dots(axes: Axes, history: History, value: Callable[[Any], float]) -> None:
    if not history.training:
        _say_empty(axes)
        return
    episodes = np.array([event.episode + 1 for event in history.training])
    values = np.array([value(event) for event in history.training])
    iterations = np.array([event.iteration for event in history.training])
    axes.plot(
        episodes, values, ".", color=TRAINING_COLOR, alpha=0.25, markersize=4, label="episode"
    )
    x, mean = _means(iterations, episodes, values)
    axes.plot(x, mean, color=TRAINING_COLOR, linewidth=2, label="mean of an iteration")
    if history.trials:
        x, mean = _means(
            np.array([event.iteration for event in history.trials]),
            np.array([history.episodes_before(event.iteration) for event in history.trials]),
            np.array([value(event) for event in history.trials]),
        )
        axes.plot(x, mean, color=EVALUATION_COLOR, linewidth=2, label="mean of an evaluation")
    _legend_beside_title(axes)


def _legend_beside_title(axes: Axes) -> None:
    """Explain what is drawn in a panel that may have no empty corner to do so."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2,
        ncols=3,
        columnspacing=0.9,
        handlelength=1.3,
        handletextpad=0.4,
        frameon=False,
        fontsize=8,
        labelcolor=TEXT_COLOR,
    )


def _lap_time_panel(axes: Axes, history: History) -> None:
    laps = [event for event in history.training if event.status == "lap_complete"]
    greedy = [
        (history.episodes_before(event.iteration), event.best_lap_s)
        for event in history.evaluations
        if event.best_lap_s is not None
    ]
    if laps:
        axes.plot(
            [event.episode + 1 for event in laps],
            [event.duration_s for event in laps],
            ".",
            color=TRAINING_COLOR,
            alpha=0.35,
            markersize=4,
            label="training lap",
        )
    if greedy:
        axes.plot(
            [episodes for episodes, _ in greedy],
            [lap_s for _, lap_s in greedy],
            "o-",
            color=EVALUATION_COLOR,
            linewidth=2,
            markersize=4,
            label="best lap of an evaluation",
        )
    if laps or greedy:
        _legend_beside_title(axes)
    else:
        _say_empty(axes, "no whole lap yet")
    _style(axes, "Lap time", "Training episode", "Whole laps (s)")


def _evaluation_panel(axes: Axes, history: History) -> None:
    if not history.evaluations:
        _say_empty(axes)
    iterations = [event.iteration for event in history.evaluations]
    axes.bar(
        iterations,
        [100.0 * event.completed / max(1, event.trials) for event in history.evaluations],
        width=0.8,
        color="#fed7aa",
        label="whole laps",
    )
    axes.plot(
        iterations,
        [event.mean_progress_percent for event in history.evaluations],
        "o-",
        color=EVALUATION_COLOR,
        linewidth=2,
        markersize=4,
        label="mean completion",
    )
    best = history.best_evaluation
    if best is not None:
        axes.plot(
            best.iteration,
            best.mean_progress_percent,
            "*",
            color="#15803d",
            markersize=15,
            label=f"best: {best.checkpoint}",
        )
    axes.set_ylim(0.0, 125.0)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    if history.evaluations:
        axes.legend(frameon=False, fontsize=8, labelcolor=TEXT_COLOR, loc="upper center", ncols=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _style(axes, "Evaluations", "Iteration", "Share (%)")


def _update_panel(axes: Axes, history: History, name: str, title: str, label: str) -> None:
    if history.updates:
        axes.plot(
            [event.iteration for event in history.updates],
            [getattr(event, name) for event in history.updates],
            "o-",
            color=TRAINING_COLOR,
            linewidth=1.8,
            markersize=3,
        )
    else:
        _say_empty(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _style(axes, title, "Iteration", label[0].upper() + label[1:])


def _means(groups: np.ndarray, x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last x and the mean value of each group, in order of the groups."""
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(groups[order], prepend=groups[order][0] - 1))
    counts = np.diff(first, append=len(groups))
    return (
        np.maximum.reduceat(x[order], first),
        np.add.reduceat(values[order], first) / counts,
    )


# The track below a path.


def _track_figure(track: Track, title: str) -> tuple[Figure, Axes]:
    low = np.minimum(track.inner.min(axis=0), track.outer.min(axis=0))
    high = np.maximum(track.inner.max(axis=0), track.outer.max(axis=0))
    size = np.maximum(high - low, 0.1)
    width = 10.0
    height = float(np.clip((width - 2.0) * size[1] / size[0] + 1.3, 3.5, 11.0))
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="compressed")
    axes = figure.subplots()
    draw_track(axes, track)
    margin = 0.06 * float(size.max())
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(low[1] - margin, high[1] + margin)
    axes.set_aspect("equal")
    _style(axes, title, "x (m)", "y (m)")
    return figure, axes


def draw_track(axes: Axes, track: Track) -> None:
    """Draw the road, its borders, centre line and start line."""
    if track.is_loop:
        rings = [track.outer, track.inner[::-1]]
    else:
        rings = [np.concatenate([track.outer, track.inner[::-1], track.outer[:1]])]
    codes = [
        code for ring in rings for code in (Outline.MOVETO, *[Outline.LINETO] * (len(ring) - 1))
    ]
    road = Outline(np.concatenate(rings), codes)
    axes.add_patch(PathPatch(road, facecolor=ROAD_COLOR, edgecolor="none", zorder=0.5))
    for border in (track.inner, track.outer):
        axes.plot(*border.T, color=BORDER_COLOR, linewidth=1.2, zorder=1)
    axes.plot(*track.center.T, color="white", linewidth=1.0, linestyle=(0, (5, 5)), zorder=1)
    start = np.stack([track.inner[0], track.outer[0]])
    axes.plot(*start.T, color=TEXT_COLOR, linewidth=2.0, zorder=2)


def _mark_ends(axes: Axes, episode: Episode) -> None:
    last = episode.steps[-1]
    if not episode.is_complete:
        color = _END_COLORS.get(episode.status, "#b91c1c")
        axes.plot(
            last["x"], last["y"], "X", color=color, markersize=9, markeredgecolor="white", zorder=4
        )


def _end_legend(axes: Axes, episodes: Sequence[Episode]) -> None:
    """Say what the crosses mean, if there are any."""
    ended = {episode.status for episode in episodes if not episode.is_complete}
    for status in sorted(ended):
        axes.plot(
            [], [], "X", color=_END_COLORS.get(status, "#b91c1c"), label=f"end: {status.label}"
        )
    if ended:
        axes.legend(frameon=False, fontsize=9, labelcolor=TEXT_COLOR)


def _speed_range(speeds: Sequence[np.ndarray]) -> Normalize:
    """Return the colour range: the start from standstill must not use up most of it."""
    if not speeds:
        return Normalize(0.0, 1.0)
    low, high = np.percentile(np.concatenate(speeds), [5.0, 100.0])
    return Normalize(float(low), max(float(high), float(low) + 0.1))


def _path_title(laps: Sequence[Episode]) -> str:
    if not laps:
        return "Path of the newest training episode"
    whole = sum(lap.is_complete for lap in laps)
    return f"Paths of the evaluation: {whole} of {len(laps)} laps complete"


_TITLE: dict[str, Any] = {"color": TEXT_COLOR, "fontsize": 11, "fontweight": "bold", "loc": "left"}


def _style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, **_TITLE)
    axes.set_xlabel(x_label, color=TEXT_COLOR)
    axes.set_ylabel(y_label, color=TEXT_COLOR)
    axes.tick_params(colors=TEXT_COLOR, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(color=GRID_COLOR, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#94a3b8")


def _say_empty(axes: Axes, text: str = "nothing yet") -> None:
    axes.text(0.5, 0.5, text, color="#94a3b8", ha="center", transform=axes.transAxes)
