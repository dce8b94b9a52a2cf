"""What a run reports while it works: events, one JSON object a line in ``progress.jsonl``.

The trainer appends; the command line, notebooks, plots and the report read. An event is
written with one ``write`` call, so a reader sees whole lines only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class PhaseEvent:
    """The run began to do something else."""

    event: ClassVar[str] = "phase"
    phase: str
    """``setup``, ``rollout``, ``update``, ``evaluation`` or ``report``."""
    iteration: int
    detail: str = ""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class EpisodeEvent:
    """An episode ended."""

    event: ClassVar[str] = "episode"
    iteration: int
    episode: int
    """Number within its phase, from 0."""
    phase: str
    """``training`` or ``evaluation``."""
    status: str
    """`EpisodeStatus.trace_name`."""
    progress_percent: float
    reward: float
    steps: int
    duration_s: float
    """Simulated seconds."""
    total_steps: int
    """Training steps of the whole run so far."""
    track: str = ""
    """Name of its track if the run has several."""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class UpdateEvent:
    """The policy was improved once."""

    event: ClassVar[str] = "update"
    iteration: int
    transitions: int
    epochs: int
    policy_loss: float
    value_loss: float
    entropy: float
    kl_divergence: float
    clip_fraction: float
    explained_variance: float
    learning_rate: float
    seconds: float
    time: float = field(default_factory=time.time)
    is_taken_back: bool = False
    """Whether it moved the policy too far and was undone (`ppo.max_kl`)."""


@dataclass(frozen=True)
class TrackResult:
    """What an evaluation's trial laps reached on one of several tracks."""

    trials: int
    completed: int
    mean_progress_percent: float
    best_lap_s: float | None
    mean_lap_s: float | None


@dataclass(frozen=True)
class EvaluationEvent:
    """The greedy policy drove its trial laps."""

    event: ClassVar[str] = "evaluation"
    iteration: int
    checkpoint: str
    """Name of the checkpoint that drove, e.g. ``3_Step-2048.ckpt``."""
    trials: int
    completed: int
    mean_progress_percent: float
    best_lap_s: float | None
    mean_lap_s: float | None
    """Mean over the completed laps."""
    is_best: bool
    """Whether this became the run's best checkpoint."""
    tracks: dict[str, TrackResult] = field(default_factory=dict)
    """By the track's name, if the run has several."""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class EndEvent:
    """The run ended."""

    event: ClassVar[str] = "end"
    status: str
    """``finished``, ``stopped`` (by the user) or ``failed``."""
    reason: str
    time: float = field(default_factory=time.time)


Event = PhaseEvent | EpisodeEvent | UpdateEvent | EvaluationEvent | EndEvent
_TYPES: dict[str, type[Event]] = {
    cls.event: cls for cls in (PhaseEvent, EpisodeEvent, UpdateEvent, EvaluationEvent, EndEvent)
}


class ProgressLog:
    """Appends events to a run's ``progress.jsonl``."""

    def __init__(self, path: Path) -> None:
        """Open the file for appending; a resumed run goes on in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(path)
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def write(self, event: Event) -> None:
        """Append one event."""
        self._file.write(json.dumps({"event": event.event, **asdict(event)}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _drop_half_line(path: Path) -> None:
    """Cut off what a killed process left behind its last whole line."""
    if path.exists():
        data = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def parse_event(line: str) -> Event:
    """Return the event of one line; keys of a newer version are left out.

    Raises:
        ValueError: If the line is no event.
    """
    data = json.loads(line)
    cls = _TYPES.get(data.pop("event", None))
    if cls is None:
        raise ValueError(f"not a progress event: {line[:80]!r}")
    if cls is EvaluationEvent:
        results = data.get("tracks", {})
        data["tracks"] = {name: TrackResult(**result) for name, result in results.items()}
    known = {f.name for f in fields(cls)}
    return cls(**{key: value for key, value in data.items() if key in known})


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events written so far; a half-written last line is left for the next reading."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield parse_event(line)


def follow_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events after a byte offset and the offset to go on from."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    lines = data[:end].decode("utf-8").splitlines()
    return [parse_event(line) for line in lines], offset + end
