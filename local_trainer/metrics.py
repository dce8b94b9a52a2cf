"""The metrics files of a run, in the service's form: training and evaluation.

The service's clock never goes back, but here many cars drive at once, each on a clock of its
own. The files place the episodes one after another on one clock, in the order in which they
are appended, so that readers find the intervals they know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.runs import Run, write_atomically
from sim.steps import EpisodeStatus

METRICS_VERSION = 2.0
BEST_MODEL_METRICS = ("progress", "reward", "laptime")
UNFINISHED_LAP_MS = 999_999
"""What an unfinished lap counts when the best model is chosen by lap time."""

_COUNTED = {
    "crash_count": EpisodeStatus.CRASHED,
    "immobilized_count": EpisodeStatus.IMMOBILIZED,
    "off_track_count": EpisodeStatus.OFF_TRACK,
    "reversed_count": EpisodeStatus.REVERSED,
}

Entry = dict[str, int | str]


class TrainingMetrics:
    """The training metrics of one run: appended an episode at a time, written as a whole.

    The file holds the in-training evaluations too; such an entry carries the number of the
    training episode before it.
    """

    def __init__(self, run: Run, best_model_metric: str = "progress") -> None:
        """Read what the run already has; a new run begins empty.

        Raises:
            ConfigError: If the metric that chooses the best model is unknown.
            RunFailed: If the file is there but cannot be read.
        """
        if best_model_metric not in BEST_MODEL_METRICS:
            raise ConfigError(
                f"best_model_metric must be one of {', '.join(BEST_MODEL_METRICS)}, "
                f"got {best_model_metric!r}"
            )
        self._run = run
        self._best_model_metric = best_model_metric
        self._entries: list[Entry] = read_metrics(run.training_metrics_file)

    @property
    def clock_s(self) -> float:
        """Return where the run's simulation clock stands: the end of the last episode."""
        return self._clock_ms / 1000.0

    @property
    def training_episodes(self) -> int:
        """Return the number of training entries."""
        return sum(entry["phase"] == "training" for entry in self._entries)

    @property
    def evaluation_episodes(self) -> int:
        """Return the number of in-training evaluation entries."""
        return len(self._entries) - self.training_episodes

    def append(self, episode: Episode, trial: int, track: str = "") -> float:
        """Add an episode; `write` puts it on disk.

        Args:
            episode: What was driven.
            trial: Its number within its iteration, from 1. Ignored for an evaluation, which
                carries the number of the training episode before it.
            track: Name of its track if the run has several; a key of ours.

        Returns:
            Where the episode begins on the run's simulation clock, in seconds.
        """
        start_ms = self._clock_ms
        last = self._entries[-1] if self._entries else {"episode": 0, "trial": 0}
        is_training = episode.phase == "training"
        entry: Entry = {
            "reward_score": round(episode.total_reward),
            **_interval(start_ms, episode),
            "episode": episode.index + 1 if is_training else last["episode"],
            "trial": trial if is_training else last["trial"],
            "phase": episode.phase,
            "completion_percentage": int(episode.progress),
            "episode_status": episode.status.label,
        }
        if track:
            entry["track"] = track
        self._entries.append(entry)
        return start_ms / 1000.0

    def extend(
        self, episodes: Iterable[Episode], track_name: Callable[[int], str] = lambda episode: ""
    ) -> list[float]:
        """Add the episodes of one iteration (or one evaluation) in order.

        Args:
            episodes: What was driven.
            track_name: Returns the track of an episode's number, empty if the run has one.

        Returns:
            Where each begins on the run's simulation clock, in seconds; what the trace needs.
        """
        return [
            self.append(episode, trial, track_name(episode.index))
            for trial, episode in enumerate(episodes, start=1)
        ]

    def truncate(self, training_episodes: int, evaluation_episodes: int | None = None) -> None:
        """Drop everything after a checkpoint that a resumed run goes on from.

        Args:
            training_episodes: How many training entries to keep.
            evaluation_episodes: How many evaluation entries to keep; all that belong to the
                kept training episodes when left out.
        """
        if evaluation_episodes is None:
            evaluation_episodes = len(self._entries)
        kept: list[Entry] = []
        seen = {"training": 0, "evaluation": 0}
        allowed = {"training": training_episodes, "evaluation": evaluation_episodes}
        for entry in self._entries:
            phase = str(entry["phase"])
            seen[phase] += 1
            if seen[phase] <= allowed[phase] and int(entry["episode"]) <= training_episodes:
                kept.append(entry)
        self._entries = kept

    def write(self) -> None:
        """Replace the run's metrics files; once an iteration is often enough."""
        text = json.dumps(
            {
                "metrics": self._entries,
                "version": METRICS_VERSION,
                "best_model_metric": self._best_model_metric,
            }
        )
        write_atomically(self._run.training_metrics_file, text)
        write_atomically(self._run.path / "training_metrics.json", text)

    @property
    def _clock_ms(self) -> int:
        return int(self._entries[-1]["metric_time"]) if self._entries else 0


def evaluation_stamp(when: datetime | None = None) -> str:
    """Return the name of an evaluation: its UTC time as 14 digits."""
    return (when or datetime.now(UTC)).strftime("%Y%m%d%H%M%S")


def evaluation_metrics_file(run: Run, stamp: str) -> Path:
    """Return where the metrics of an evaluation lie."""
    return run.path / "metrics" / "evaluation" / f"evaluation-{stamp}.json"


def latest_evaluation_file(run: Run) -> Path:
    """Return where the metrics of the newest evaluation lie, under the original's name."""
    return run.path / "evaluation_metrics.json"


def write_evaluation_metrics(
    run: Run,
    episodes: Sequence[Episode],
    stamp: str,
    track_name: Callable[[int], str] = lambda episode: "",
) -> Path:
    """Write the metrics of a finished evaluation.

    Args:
        run: Where to.
        episodes: Its laps in order.
        stamp: Its name, see `evaluation_stamp`.
        track_name: Returns the track of an episode's number, empty if the run has one.

    Returns:
        The file; the same content lies at the run's root as ``evaluation_metrics.json``.
    """
    entries: list[Entry] = []
    clock_ms = 0
    for trial, episode in enumerate(episodes, start=1):
        entries.append(evaluation_entry(episode, trial, clock_ms, track_name(episode.index)))
        clock_ms = int(entries[-1]["metric_time"])
    # No "version" here: the service refuses keys it does not know in this file.
    text = json.dumps({"metrics": entries})
    path = evaluation_metrics_file(run, stamp)
    write_atomically(path, text)
    write_atomically(latest_evaluation_file(run), text)
    return path


def evaluation_entry(episode: Episode, trial: int, start_ms: int = 0, track: str = "") -> Entry:
    """Return the metrics of one evaluation lap.

    Args:
        episode: The lap.
        trial: Its number, from 1.
        start_ms: Where it begins on the evaluation's clock.
        track: Its track if the run has several; a key the service does not know.
    """
    status = episode.steps["status"]
    counts = {name: int(np.count_nonzero(status == code)) for name, code in _COUNTED.items()}
    return {
        "completion_percentage": int(episode.progress),
        **_interval(start_ms, episode),
        "episode_status": episode.status.label,
        **counts,
        "reset_count": sum(counts.values()),
        "trial": trial,
        **({"track": track} if track else {}),
    }


def read_metrics(path: Path) -> list[Entry]:
    """Return the entries of a metrics file, training or evaluation; none if it is not there.

    Raises:
        RunFailed: If it is no metrics file.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        entries: list[Entry] = data["metrics"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise RunFailed(
            f"{path} must be a metrics file (JSON with 'metrics'), got {error}"
        ) from error
    return entries


def best_model_value(episode: Episode, metric: str) -> float:
    """Return what one evaluation episode counts when the best model is chosen.

    Args:
        episode: The lap.
        metric: ``progress`` (percent), ``reward`` (sum) or ``laptime`` (ms, smaller is better).
    """
    if metric == "reward":
        return episode.total_reward
    if metric == "laptime":
        return round(episode.duration_s * 1000) if episode.is_complete else UNFINISHED_LAP_MS
    return episode.progress


def _interval(start_ms: int, episode: Episode) -> Entry:
    elapsed_ms = round(episode.duration_s * 1000)
    return {
        "metric_time": start_ms + elapsed_ms,
        "start_time": start_ms,
        "elapsed_time_in_milliseconds": elapsed_ms,
    }
