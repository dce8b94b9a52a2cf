"""What an evaluation found: its laps and their summary, as an object and as a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.errors import RunFailed
from local_trainer.runs import write_atomically
from sim.steps import EpisodeStatus

ROBUST_NOISE = 0.1
"""Of the actions in robust laps, a fraction of each."""


@dataclass(frozen=True)
class Trial:
    """One lap of an evaluation."""

    trial: int
    """From 1."""
    status: str
    """`EpisodeStatus.trace_name`."""
    completion_percentage: float
    elapsed_time_s: float
    """Simulated seconds, penalties included; the lap time if the lap is complete."""
    off_tracks: int
    resets: int
    reward: float
    start_fraction: float
    """Place on the centre line where it began, fraction of a lap."""
    is_reversed: bool
    track: str = ""
    """Its name if the run has several."""

    @property
    def is_complete(self) -> bool:
        """Return whether the lap was finished."""
        return self.status == EpisodeStatus.LAP_COMPLETE.trace_name


@dataclass(frozen=True)
class EvaluationReport:
    """Greedy laps of one checkpoint."""

    run: str
    checkpoint: str
    is_robust: bool
    """Starts all around the lap, both directions, and noise on the actions."""
    action_noise: float
    """Largest relative error of the executed steering and speed."""
    trials: tuple[Trial, ...]
    simulator: str = "embedded"
    """``embedded``, ``gazebo``, or ``environment`` if the run has one of its own."""

    @property
    def completed(self) -> int:
        """Return how many laps were finished."""
        return sum(trial.is_complete for trial in self.trials)

    @property
    def mean_completion_percentage(self) -> float:
        """Return the mean over all trials."""
        return sum(trial.completion_percentage for trial in self.trials) / len(self.trials)

    @property
    def best_lap_s(self) -> float | None:
        """Return the fastest finished lap, None without one."""
        return min((t.elapsed_time_s for t in self.trials if t.is_complete), default=None)

    @property
    def mean_lap_s(self) -> float | None:
        """Return the mean of the finished laps, None without one."""
        laps = [trial.elapsed_time_s for trial in self.trials if trial.is_complete]
        return sum(laps) / len(laps) if laps else None

    def by_track(self) -> dict[str, EvaluationReport]:
        """Return the report of each track by its name; empty if there is one only."""
        names = dict.fromkeys(trial.track for trial in self.trials if trial.track)
        return {
            name: replace(self, trials=tuple(t for t in self.trials if t.track == name))
            for name in names
        }

    def to_json(self) -> str:
        """Return the report with its summary as JSON."""
        summary = self._summary()
        if tracks := self.by_track():
            summary["tracks"] = {name: report._summary() for name, report in tracks.items()}
        return json.dumps({**asdict(self), "summary": summary}, indent=2)

    def _summary(self) -> dict[str, Any]:
        return {
            "completed": self.completed,
            "mean_completion_percentage": self.mean_completion_percentage,
            "best_lap_s": self.best_lap_s,
            "mean_lap_s": self.mean_lap_s,
        }


def report_of(
    run: str,
    checkpoint: str,
    episodes: Sequence[Episode],
    is_robust: bool = False,
    action_noise: float = 0.0,
    simulator: str = "embedded",
    track_name: Callable[[int], str] = lambda episode: "",
) -> EvaluationReport:
    """Return the report of driven laps, in their order.

    Args:
        run: Name of the run.
        checkpoint: Name of the checkpoint that drove.
        episodes: The laps.
        is_robust: Whether they began all around, in both directions.
        action_noise: Largest relative error of the executed steering and speed.
        simulator: What the cars drove in.
        track_name: Returns the track of an episode's number, empty if the run has one.
    """
    trials = []
    for number, episode in enumerate(episodes, start=1):
        status = episode.steps["status"]
        trials.append(
            Trial(
                trial=number,
                status=episode.status.trace_name,
                completion_percentage=episode.progress,
                elapsed_time_s=episode.duration_s,
                off_tracks=int(np.count_nonzero(status == EpisodeStatus.OFF_TRACK)),
                resets=int(episode.steps["reset_count"][-1]),
                reward=episode.total_reward,
                start_fraction=episode.start.fraction,
                is_reversed=episode.start.is_reversed,
                track=track_name(episode.index),
            )
        )
    return EvaluationReport(run, checkpoint, is_robust, action_noise, tuple(trials), simulator)


def write_report(report: EvaluationReport, path: Path) -> None:
    """Write a report to a file."""
    write_atomically(path, report.to_json() + "\n")


def read_report(path: Path) -> EvaluationReport:
    """Return the report of a file.

    Raises:
        RunFailed: If the file is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data.pop("summary", None)
        trials = tuple(Trial(**trial) for trial in data.pop("trials"))
        return EvaluationReport(trials=trials, **data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFailed(f"{path} must be an evaluation report, got: {error}") from None
