"""What a run has reported so far, sorted by kind and free of what a resumed run did again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from local_trainer.progress import (
    EndEvent,
    EpisodeEvent,
    EvaluationEvent,
    Event,
    UpdateEvent,
    read_events,
)
from local_trainer.runs import Run


@dataclass(frozen=True)
class History:
    """A run's events, each list in order."""

    training: list[EpisodeEvent] = field(default_factory=list)
    """Training episodes."""

    trials: list[EpisodeEvent] = field(default_factory=list)
    """Laps of the in-training evaluations."""

    updates: list[UpdateEvent] = field(default_factory=list)
    evaluations: list[EvaluationEvent] = field(default_factory=list)
    end: EndEvent | None = None

    @property
    def best_evaluation(self) -> EvaluationEvent | None:
        """Return the evaluation whose checkpoint is the run's best."""
        return next((e for e in reversed(self.evaluations) if e.is_best), None)

    def episodes_before(self, iteration: int) -> int:
        """Return how many training episodes were driven up to and including an iteration."""
        return sum(episode.iteration <= iteration for episode in self.training)


def read_history(run: Run) -> History:
    """Return what the run has reported so far; empty lists if nothing yet."""
    return sort_events(read_events(run.progress_file))


def sort_events(events: Iterable[Event]) -> History:
    """Return events by kind.

    A run that was interrupted and resumed reports the iteration that was under way again. What
    came from the first attempt is left out.
    """
    kept: dict[tuple[str, str, int, int], EpisodeEvent | UpdateEvent | EvaluationEvent] = {}
    newest = 0
    end: EndEvent | None = None
    for event in events:
        if isinstance(event, EndEvent):
            end = event
        elif isinstance(event, EpisodeEvent | UpdateEvent | EvaluationEvent):
            end = None
            if event.iteration < newest and _is_training(event):
                # Training went back to an earlier checkpoint: what came after it is void.
                kept = {key: old for key, old in kept.items() if old.iteration < event.iteration}
                newest = event.iteration
            newest = max(newest, event.iteration)
            kept[_identity(event)] = event
    found = list(kept.values())
    episodes = [event for event in found if isinstance(event, EpisodeEvent)]
    return History(
        training=sorted((e for e in episodes if e.phase == "training"), key=lambda e: e.episode),
        trials=[e for e in episodes if e.phase != "training"],
        updates=[event for event in found if isinstance(event, UpdateEvent)],
        evaluations=[event for event in found if isinstance(event, EvaluationEvent)],
        end=end,
    )


def _is_training(event: EpisodeEvent | UpdateEvent | EvaluationEvent) -> bool:
    return isinstance(event, EpisodeEvent) and event.phase == "training"


def _identity(
    event: EpisodeEvent | UpdateEvent | EvaluationEvent,
) -> tuple[str, str, int, int]:
    if isinstance(event, EpisodeEvent):
        return (event.event, event.phase, event.iteration, event.episode)
    return (event.event, "", event.iteration, 0)
