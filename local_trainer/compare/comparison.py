"""A comparison of runs, and what it is made of: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from local_trainer.confidence import Interval
from local_trainer.evaluation import Trial
from local_trainer.progress import EvaluationEvent

Way = Literal["both", "forward", "reversed"]
"""Which robust laps count: in the track's direction, against it, or both."""

WAYS: tuple[Way, ...] = ("both", "forward", "reversed")

Kind = Literal["send", "no clear difference", "not ready", "not settled", "alone", "nothing"]


@dataclass(frozen=True)
class Curve:
    """How a run learned, one value an iteration."""

    steps: list[int] = field(default_factory=list)
    """Training steps at its end."""
    minutes: list[float] = field(default_factory=list)
    """Minutes of training at the end of its episodes, pauses left out."""
    reward: list[float] = field(default_factory=list)
    """Mean over the training episodes."""
    completion_percent: list[float] = field(default_factory=list)
    """Mean over the training episodes."""
    lap_steps: list[int] = field(default_factory=list)
    """Training steps at each evaluation."""
    lap_minutes: list[float] = field(default_factory=list)
    lap_s: list[float | None] = field(default_factory=list)
    """Best lap of each evaluation, None without a complete one."""


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs."""

    name: str
    """As the user called it."""
    path: str
    track: str
    track_sha256: str
    status: str
    notes: list[str]
    """What a reader must know before comparing it."""
    actions: list[str]
    """The action space, an action each; empty if it cannot be read."""
    curve: Curve


@dataclass(frozen=True)
class Laps:
    """The robust laps of one checkpoint."""

    stamp: str
    """UTC time of the evaluation as 14 digits."""
    conditions: str
    """Equal for evaluations that drove the same laps; empty if that was not written down."""
    simulator: str
    """``embedded``, ``gazebo``, or ``environment``: the run's own."""
    action_noise: float
    completed: int
    completed_share: Interval
    """0 to 1."""
    mean_completion_percent: float
    forward: tuple[int, int]
    """Complete laps and all laps in the track's direction."""
    reversed: tuple[int, int]
    best_lap_s: float | None
    mean_lap_s: float | None
    mean_lap: Interval | None
    """In s; None for too few complete laps."""
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that could be sent to the car."""

    name: str
    """``RUN@number``."""
    run: str
    track_sha256: str
    checkpoint: str
    number: int
    which: str
    """``best``, ``last``, ``best and last``, or nothing."""
    in_training: EvaluationEvent | None
    """What it reached in its run's own evaluation."""
    laps: Laps | None


@dataclass(frozen=True)
class Difference:
    """What two checkpoints' robust laps say about them."""

    first: str
    second: str
    is_paired: bool
    """Whether both drove the same laps."""
    confidence: float
    completion_p_value: float
    is_completion_clear: bool
    num_lap_pairs: int | None
    """Laps that both completed; None without pairs."""
    lap_s: Interval | None
    """Mean lap time of the first less that of the second."""

    @property
    def is_lap_clear(self) -> bool:
        """Return whether one is clearly faster."""
        return self.lap_s is not None and self.lap_s.excludes_zero


@dataclass(frozen=True)
class Verdict:
    """Which checkpoint to send to the car, for one track."""

    track: str
    kind: Kind
    sentence: str
    run: str | None
    checkpoint: int | None
    reasons: list[str]
    """How it compares with each of the others."""
    commands: list[tuple[str, str]]
    """What to type next: words and command."""


@dataclass(frozen=True)
class RewardDiff:
    """How a run's reward function differs from the first run's."""

    run: str
    against: str
    is_equal: bool
    diff: str
    """Unified diff; empty if equal."""


@dataclass(frozen=True)
class Comparison:
    """All there is to say about the runs."""

    verdicts: list[Verdict]
    runs: list[ComparedRun]
    settings: dict[str, list[Any]]
    """Settings that differ, by key, a value a run."""
    equal_settings: dict[str, Any]
    results: dict[str, list[Any]]
    """What was reached, by name, a value a run."""
    rewards: list[RewardDiff]
    candidates: list[Candidate]
    differences: list[Difference]
    notes: list[str]
    """What a reader must know about all of them."""
    way: Way
    """Which robust laps count."""

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        plain = asdict(self)
        for one, row in zip(self.differences, plain["differences"], strict=True):
            row["is_lap_clear"] = one.is_lap_clear
        return plain
