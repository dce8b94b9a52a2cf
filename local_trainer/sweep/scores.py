"""How far a trial has come, as one number: what early stopping and the search compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from local_trainer.config import StopConfig
from local_trainer.progress import EvaluationEvent
from local_trainer.runs import RunStatus

Metric = Literal["completion", "lap_time"]
"""``completion``: the larger mean completion is better, between equals the shorter lap.
``lap_time``: the shorter lap; trials without one are ordered by completion, below all others."""

METRICS: tuple[Metric, ...] = get_args(Metric)

FAILED = -100_000.0
"""Score of a trial that failed: below every other."""

_LAP_SHARE = 0.01
"""A lap's part of the score is below this, so that it decides between equal completions only."""


def score(metric: Metric, completion_percent: float, lap_s: float | None) -> float:
    """Return a score, larger is better.

    Args:
        metric: What counts.
        completion_percent: Mean over the laps of an evaluation.
        lap_s: Mean time of its complete laps, None without one.
    """
    if metric == "lap_time":
        return completion_percent - 10_000.0 if lap_s is None else -lap_s
    return completion_percent + (0.0 if lap_s is None else _LAP_SHARE / (1.0 + lap_s))


def best_score(metric: Metric, evaluations: Iterable[EvaluationEvent]) -> float | None:
    """Return the best score of a trial's evaluations, since its best checkpoint is what is kept."""
    scores = [score(metric, e.mean_progress_percent, e.mean_lap_s) for e in evaluations]
    return max(scores, default=None)


def budget_percent(stop: StopConfig, status: RunStatus) -> float:
    """Return how much of its limit a trial has used: of minutes or episodes, whichever is more."""
    shares = [0.0]
    if stop.minutes is not None:
        shares.append(status.minutes / stop.minutes)
    if stop.episodes is not None:
        shares.append(status.episodes / stop.episodes)
    return min(100.0, 100.0 * max(shares))
