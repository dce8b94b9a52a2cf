"""Step traces and log lines in the service's form.

A step becomes one ``SIM_TRACE_LOG:`` line of 19 fields in the run's log and one row in the CSV
file of its iteration. The other lines that log readers look for are made here too; `RunLog`
puts them on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.runs import Run, write_atomically
from sim.steps import EpisodeStatus
from sim.track import Track

TRACE_FIELDS = (
    "episode",
    "steps",
    "X",
    "Y",
    "yaw",
    "steer",
    "throttle",
    "action",
    "reward",
    "done",
    "all_wheels_on_track",
    "progress",
    "closest_waypoint",
    "track_len",
    "tstamp",
    "episode_status",
    "pause_duration",
    "obstacle_crash_counter",
    "wall_clock",
)
"""The columns of a trace, in order."""

_LINE = "SIM_TRACE_LOG:%d,%d,%.4f,%.4f,%.4f,%.2f,%.2f,%s,%.4f,%s,%s,%.4f,%d,%.2f,%s,%s,%.2f,%d,%.4f"
_STATUS_NAMES = {int(status): status.trace_name for status in EpisodeStatus}

TraceRow = tuple[Any, ...]


def trace_rows(
    episode: Episode, track: Track, number: int | None = None, start_s: float = 0.0
) -> list[TraceRow]:
    """Return an episode's trace, one tuple a step with the values of `TRACE_FIELDS`.

    Args:
        episode: What was driven.
        track: The run's track in row order.
        number: What to write as the episode's number, from 0; its index when left out.
        start_s: Where the episode begins on the run's simulation clock.
    """
    steps = episode.steps
    status = [_STATUS_NAMES[code] for code in steps["status"].tolist()]
    if steps["status"][0] == EpisodeStatus.IN_PROGRESS:
        # The service's name for the first step; readers split a trace into episodes by it.
        status[0] = "prepare"
    count = len(steps)
    return list(
        zip(
            [episode.index if number is None else number] * count,
            steps["steps"].tolist(),
            steps["x"].tolist(),
            steps["y"].tolist(),
            steps["heading"].tolist(),
            steps["steering_angle"].tolist(),
            steps["speed"].tolist(),
            episode.actions.tolist(),
            episode.rewards.tolist(),
            steps["done"].tolist(),
            steps["all_wheels_on_track"].tolist(),
            steps["progress"].tolist(),
            closest_waypoints(episode, track).tolist(),
            [track.length_m] * count,
            # The service's clock ticks in milliseconds.
            np.round(start_s + steps["sim_time"], 3).tolist(),
            status,
            steps["pause_duration"].tolist(),
            [0] * count,
            episode.wall_clock.tolist(),
            strict=True,
        )
    )


def closest_waypoints(episode: Episode, track: Track) -> np.ndarray:
    """Return the nearer of each step's two waypoints.

    Args:
        episode: What was driven.
        track: The run's track in row order.

    Returns:
        Indices in driving direction, shape (T,), int.
    """
    center = (track.reverse() if episode.start.is_reversed else track).center
    steps = episode.steps
    position = np.stack([steps["x"], steps["y"]], axis=1)
    behind, ahead = steps["previous_waypoint"], steps["next_waypoint"]
    distance_behind = np.linalg.norm(center[behind] - position, axis=1)
    distance_ahead = np.linalg.norm(center[ahead] - position, axis=1)
    return np.where(distance_ahead < distance_behind, ahead, behind)


def trace_lines(rows: Iterable[TraceRow]) -> list[str]:
    """Return the log lines of `trace_rows`, without line ends."""
    return [_LINE % row for row in rows]


def trace_csv(rows: Iterable[TraceRow]) -> str:
    """Return the CSV text of `trace_rows`: header and unformatted values."""
    lines = [",".join(TRACE_FIELDS)]
    lines += [",".join(map(str, row)) for row in rows]
    return "\n".join(lines) + "\n"


def write_training_trace(
    run: Run,
    iteration: int,
    episodes: Sequence[Episode],
    starts_s: Sequence[float],
    track: Track,
    number: int | None = None,
) -> list[str]:
    """Write the step trace of one iteration.

    Args:
        run: Where to.
        iteration: Policy iteration, from 0.
        episodes: Its training episodes; evaluations are not traced during training.
        starts_s: Where each begins on the run's simulation clock (`TrainingMetrics.extend`).
        track: The track they were driven on, in row order.
        number: Of the track, from 0, if the run has several.

    Returns:
        The same steps as log lines, for `RunLog.write`.
    """
    rows: list[TraceRow] = []
    for episode, start_s in zip(episodes, starts_s, strict=True):
        rows += trace_rows(episode, track, start_s=start_s)
    write_atomically(run.training_trace_file(iteration, number), trace_csv(rows))
    return trace_lines(rows)


def evaluation_trace_file(run: Run, stamp: str, number: int | None = None) -> Path:
    """Return where the step trace of an evaluation lies (`metrics.evaluation_stamp`)."""
    folder = run.path / f"evaluation-{stamp}"
    if number is not None:
        folder /= str(number)
    return folder / "evaluation-simtrace" / "0-iteration.csv"


def write_evaluation_trace(
    run: Run, stamp: str, episodes: Sequence[Episode], track: Track, number: int | None = None
) -> list[str]:
    """Write the step trace of a finished evaluation; with a number, of one of several tracks.

    Returns:
        The same steps as log lines, for `RunLog.write`.
    """
    rows: list[TraceRow] = []
    clock_s = 0.0
    for lap, episode in enumerate(episodes):
        rows += trace_rows(episode, track, lap, clock_s)
        clock_s += episode.duration_s
    write_atomically(evaluation_trace_file(run, stamp, number), trace_csv(rows))
    return trace_lines(rows)


class RunLog:
    """Appends lines to a run's ``logs/training.log``; a resumed run goes on in it."""

    def __init__(self, run: Run) -> None:
        """Open the log."""
        run.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._file = run.log_file.open("a", encoding="utf-8")

    def write(self, lines: str | Iterable[str]) -> None:
        """Append a text, or several lines, and hand them to the system at once."""
        texts = [lines] if isinstance(lines, str) else lines
        self._file.write("".join(f"{text}\n" for text in texts))
        self._file.flush()

    def close(self) -> None:
        """Close the log."""
        self._file.close()

    def __enter__(self) -> RunLog:
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log."""
        self.close()


def hyperparameters_text(hyperparameters: Mapping[str, object]) -> str:
    """Return the lines that name the hyperparameters; readers take the JSON up to its brace."""
    return "Using the following hyper-parameters\n" + json.dumps(
        dict(hyperparameters), indent=2, sort_keys=True
    )


def action_space_line(action_space: object) -> str:
    """Return the line that holds the action space as in ``model_metadata.json``."""
    return f"Action space from file: {action_space!r}"


def sensor_line(
    sensors: Sequence[str],
    network: str,
    version: float,
    training_algorithm: str = "clipped_ppo",
    action_space_type: str = "discrete",
    lidar_config: Mapping[str, object] | None = None,
) -> str:
    """Return the line that names sensors and network."""
    lidar = dict(lidar_config or {})
    return (
        f"Sensor list {list(sensors)!r}, network {network}, simapp_version {version}, "
        f"training_algorithm {training_algorithm}, action_space_type {action_space_type} "
        f"lidar_config {lidar!r}"
    )


def world_line(track_name: str) -> str:
    """Return the line that names the track; it must stand before the sensor line."""
    return f" * /WORLD_NAME: {track_name}"


def episode_line(episode: Episode, total_steps: int, exploration: float | None = None) -> str:
    """Return the line that closes an episode: ``Training>`` or ``Testing>``.

    Args:
        episode: What was driven.
        total_steps: Training steps of the whole run so far.
        exploration: Parameter of the exploration policy. Categorical sampling has none, and the
            service leaves the field out.
    """
    prefix = "Training" if episode.phase == "training" else "Testing"
    shown = "" if exploration is None else f"Exploration={round(exploration, 2)}, "
    return (
        f"{prefix}> Name=main_level/agent, Worker=0, Episode={episode.index + 1}, "
        f"Total reward={round(episode.total_reward, 2)}, {shown}Steps={total_steps}, "
        f"Training iteration={episode.iteration}"
    )


def episode_lines(episodes: Iterable[Episode], steps_before: int) -> Iterator[str]:
    """Yield the closing lines of episodes; ``steps_before`` training steps came before them."""
    total_steps = steps_before
    for episode in episodes:
        if episode.phase == "training":
            total_steps += len(episode.steps)
        yield episode_line(episode, total_steps)


def policy_line(
    surrogate_loss: float, kl_divergence: float, entropy: float, epoch: int, learning_rate: float
) -> str:
    """Return the line of one epoch of an update; ``epoch`` counts from 0."""
    return (
        f"Policy training> Surrogate loss={surrogate_loss}, KL divergence={kl_divergence}, "
        f"Entropy={entropy}, training epoch={epoch}, learning_rate={learning_rate}"
    )


def saving_line(checkpoint: Path | str) -> str:
    """Return the line of a checkpoint being saved."""
    return f"Checkpoint> Saving in path={checkpoint}"


def restoring_line(checkpoint: Path | str) -> str:
    """Return the line of a checkpoint being loaded."""
    return f"Checkpoint> Restoring from path={checkpoint}"


def best_model_lines(
    metric: str,
    values: Sequence[float],
    checkpoint: str,
    best_mean: float | None,
    best_checkpoint: str | None,
    is_best: bool | None = None,
) -> list[str]:
    """Return the lines about whether a checkpoint became the best.

    Args:
        metric: ``progress``, ``reward`` or ``laptime``.
        values: One for each evaluation episode (`metrics.best_model_value`), at least one.
        checkpoint: Name of the checkpoint that drove.
        best_mean: Mean of the best checkpoint before; None if there is none.
        best_checkpoint: Its name.
        is_best: Whether the checkpoint became the best; by its mean alone when left out.
    """
    mean = sum(values) / len(values)
    label = "[BestModelSelection]"
    lines = [
        f"{label} Number of evaluations: {len(values)} Evaluation episode {metric}: {list(values)}",
        f"{label} Evaluation episode {metric} mean: {mean}",
    ]
    if is_better(metric, mean, best_mean) if is_best is None else is_best:
        sign = "<=" if metric == "laptime" else ">="
        lines += [
            f"{label} current {metric} mean: {mean} {sign} best {metric} mean: {best_mean}",
            f'{label} Updating the best checkpoint to "{checkpoint}" from "{best_checkpoint}".',
        ]
    return lines


def is_better(metric: str, mean: float, best_mean: float | None) -> bool:
    """Return whether a checkpoint's mean beats the best so far; an equal one does."""
    if best_mean is None:
        return True
    return mean <= best_mean if metric == "laptime" else mean >= best_mean
