"""Progress of a run as it is watched: events in, one line or one screen out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from local_trainer.cli.console import NOTHING, clock, counted, facts, lap_time, percent
from local_trainer.progress import (
    EndEvent,
    EpisodeEvent,
    EvaluationEvent,
    Event,
    PhaseEvent,
    UpdateEvent,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_PHASES = {
    "setup": "setting up",
    "rollout": "driving",
    "update": "learning",
    "evaluation": "evaluating",
    "report": "writing the report",
}


@dataclass(frozen=True)
class Standing:
    """Where a run stands, summed up from its events."""

    phase: str = "setup"
    detail: str = ""
    iteration: int = 0
    episodes: int = 0
    total_steps: int = 0
    completions: tuple[float, ...] = ()
    """Progress in percent of the training episodes of the iteration under way."""
    mean_completion: float | None = None
    """Of the last whole iteration, percent."""
    evaluation: EvaluationEvent | None = None
    """The last one."""
    best_lap_s: float | None = None
    """Of all evaluations."""
    began: float | None = None
    """Unix time of the first rollout seen."""
    first_steps: int = 0
    """Steps the run had when it was first seen: a resumed one begins above 0."""
    now: float = 0.0
    """Unix time of the last event."""
    end: EndEvent | None = None

    @property
    def steps_per_second(self) -> float | None:
        """Return steps a second of the whole loop, updates and evaluations included."""
        if self.began is None or self.now <= self.began:
            return None
        return (self.total_steps - self.first_steps) / (self.now - self.began)

    def after(self, event: Event) -> Standing:
        """Return the standing once an event has happened."""
        standing = replace(self, now=event.time)
        match event:
            case PhaseEvent():
                return standing._after_phase(event)
            case EpisodeEvent(phase="training"):
                return replace(
                    standing,
                    detail="",
                    episodes=self.episodes + 1,
                    total_steps=event.total_steps,
                    completions=(*self.completions, event.progress_percent),
                )
            case UpdateEvent() if self.completions:
                mean = sum(self.completions) / len(self.completions)
                return replace(standing, mean_completion=mean, completions=())
            case EvaluationEvent():
                laps = [lap for lap in (self.best_lap_s, event.best_lap_s) if lap is not None]
                return replace(standing, evaluation=event, best_lap_s=min(laps, default=None))
            case EndEvent():
                return replace(standing, end=event)
            case _:
                return standing

    def _after_phase(self, event: PhaseEvent) -> Standing:
        began = self.began
        if began is None and event.phase == "rollout":
            began = event.time
        return replace(
            self,
            phase=event.phase,
            detail=event.detail,
            iteration=event.iteration,
            # A rollout that only says what it waits for goes on.
            completions=() if event.phase == "rollout" and not event.detail else self.completions,
            began=began,
        )


@dataclass(frozen=True)
class TimeLimit:
    """How long a run may still take."""

    minutes: float | None
    """Of training, over all resumptions; None: no limit."""
    used_minutes: float = 0.0
    """Before this start."""

    def text(self, elapsed_s: float) -> str:
        """Return time used, and left if there is a limit."""
        used_s = self.used_minutes * 60.0 + elapsed_s
        if self.minutes is None:
            return clock(used_s)
        left_s = max(0.0, self.minutes * 60.0 - used_s)
        return f"{clock(used_s)}, at most {clock(left_s)} left"


def evaluation_text(evaluation: EvaluationEvent | None) -> str:
    """Return what the last evaluation reached."""
    if evaluation is None:
        return NOTHING
    laps = f"{evaluation.completed} of {evaluation.trials} laps"
    text = f"{laps}, mean {percent(evaluation.mean_progress_percent)}"
    if evaluation.tracks:
        each = [
            f"{name} {percent(result.mean_progress_percent)}"
            for name, result in evaluation.tracks.items()
        ]
        text += f" ({', '.join(each)})"
    return text


def iteration_line(standing: Standing, elapsed: str) -> str:
    """Return one line that sums up an iteration, for logs and pipes."""
    speed = standing.steps_per_second
    return (
        f"iteration {standing.iteration}: {counted(standing.episodes, 'episode')}, "
        f"{counted(standing.total_steps, 'step')}"
        + (f" ({speed:.0f}/s)" if speed else "")
        + f", completion {percent(standing.mean_completion)}"
        f", evaluation {evaluation_text(standing.evaluation)}"
        f", best lap {lap_time(standing.best_lap_s)}, {elapsed}"
    )


def screen(run: str, standing: Standing, elapsed: str) -> RenderableType:
    """Return the live view of a terminal."""
    from rich.panel import Panel

    speed = standing.steps_per_second
    phase = _PHASES.get(standing.phase, standing.phase)
    rows = [
        ("phase", f"{phase} {standing.detail}".rstrip() + f", iteration {standing.iteration}"),
        (
            "training",
            f"{counted(standing.episodes, 'episode')}, {counted(standing.total_steps, 'step')}",
        ),
        ("steps/s", NOTHING if speed is None else f"{speed:,.0f}"),
        ("completion", percent(standing.mean_completion)),
        ("evaluation", evaluation_text(standing.evaluation)),
        ("best lap", lap_time(standing.best_lap_s)),
        ("time", elapsed),
    ]
    return Panel(facts(rows), title=run, title_align="left", subtitle="Ctrl-C stops and keeps it")
