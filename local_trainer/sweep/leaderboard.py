"""Which trial of a sweep is best: robust laps with intervals, and what each took."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from local_trainer.checkpoints import choose_checkpoint
from local_trainer.compare.laps import common_config, conditions_of, robust_laps
from local_trainer.confidence import Interval, mean_interval, share_interval
from local_trainer.config import load_config
from local_trainer.errors import NotFound
from local_trainer.evaluation import ROBUST_NOISE, EvaluationReport
from local_trainer.runs import Run, write_atomically
from local_trainer.sweep.folder import Sweep, SweepState, Trial

SEED = "seed"


@dataclass(frozen=True)
class Entry:
    """One trial in the leaderboard."""

    place: int | None
    """1 is the best; None for a trial without robust laps."""
    number: int
    run: str
    state: str
    reason: str
    values: dict[str, Any]
    """What differs between the trials, seed included."""
    checkpoint: str
    """The one that drove the robust laps; empty without."""
    laps: int
    completed: int
    completion: Interval | None
    """Share of the robust laps that were completed, 0 to 1, with Wilson's interval."""
    mean_completion_percent: float | None
    """Mean over the robust laps."""
    lap_s: float | None
    """Mean time of the completed robust laps."""
    lap_interval: Interval | None
    """Bootstrap interval of that mean; None below six laps."""
    steps: int
    minutes: float
    num_restarts: int


@dataclass(frozen=True)
class Leaderboard:
    """A sweep's trials, best first."""

    sweep: str
    num_trials: int
    """Planned in all."""
    differing: tuple[str, ...]
    """Keys that differ between trials, in the sweep file's order."""
    entries: tuple[Entry, ...]

    @property
    def best(self) -> Entry | None:
        """Return the best trial, None if none has driven robust laps."""
        return next((entry for entry in self.entries if entry.place == 1), None)

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def make_leaderboard(sweep: Sweep, state: SweepState | None = None) -> Leaderboard:
    """Return how a sweep's trials compare now.

    Order: completed robust laps, then mean completion, then lap time. Equal ones share a place.
    """
    state = state or sweep.read_state()
    keys = [key for key in _differing(state) if key != SEED]
    has_seeds = len({trial.seed for trial in state.trials}) > 1
    differing = (*keys, SEED) if has_seeds else tuple(keys)
    num_laps = sweep.read_config().final_laps
    entries = [_entry(sweep, trial, differing, num_laps) for trial in state.trials]
    ranked = sorted(entries, key=_order)
    placed: list[Entry] = []
    for index, entry in enumerate(ranked, start=1):
        before = placed[-1] if placed else None
        is_equal = before is not None and _order(before)[:-1] == _order(entry)[:-1]
        place = before.place if before is not None and is_equal else index
        placed.append(replace(entry, place=place if entry.laps else None))
    return Leaderboard(sweep.name, state.num_trials, differing, tuple(placed))


def write_leaderboard(sweep: Sweep, leaderboard: Leaderboard) -> None:
    """Write the leaderboard to the sweep's folder."""
    write_atomically(sweep.leaderboard_file, leaderboard.to_json() + "\n")


def _differing(state: SweepState) -> list[str]:
    keys = dict.fromkeys(key for trial in state.trials for key in trial.values)
    if len(state.trials) < 2:
        return list(keys)
    found = []
    for key in keys:
        values = [trial.values.get(key) for trial in state.trials]
        if any(value != values[0] for value in values):
            found.append(key)
    return found


def _entry(sweep: Sweep, trial: Trial, differing: tuple[str, ...], num_laps: int) -> Entry:
    run = sweep.run_of(trial)
    report = _final_laps(run, sweep, num_laps) if run is not None else None
    status = run.read_status() if run is not None else None
    laps = [lap.elapsed_time_s for lap in report.trials if lap.is_complete] if report else []
    values = {**trial.values, SEED: trial.seed}
    return Entry(
        place=None,
        number=trial.number,
        run=trial.run,
        state=trial.state,
        reason=trial.reason,
        values={key: values.get(key) for key in differing},
        checkpoint=report.checkpoint if report else "",
        laps=len(report.trials) if report else 0,
        completed=len(laps),
        completion=share_interval(len(laps), len(report.trials)) if report else None,
        mean_completion_percent=report.mean_completion_percentage if report else None,
        lap_s=sum(laps) / len(laps) if laps else None,
        lap_interval=mean_interval(laps),
        steps=status.steps if status else 0,
        minutes=status.minutes if status else 0.0,
        num_restarts=trial.num_restarts,
    )


def _final_laps(run: Run, sweep: Sweep, trials: int) -> EvaluationReport | None:
    """Return the laps that a run's best checkpoint drove as the sweep's others did, None without.

    The program's version may be another by now: that alone does not empty a leaderboard.
    """
    try:
        best = choose_checkpoint(run.model_dir).name
    except NotFound:
        return None
    config = common_config(load_config(run.config_file), sweep.common)
    wanted = conditions_of(run, config, trials, ROBUST_NOISE)
    reports = [
        laps.report
        for laps in robust_laps(run)
        if laps.conditions is not None
        and replace(laps.conditions, code_sha256=wanted.code_sha256) == wanted
        and laps.report.checkpoint == best
    ]
    return reports[-1] if reports else None


def _order(entry: Entry) -> tuple[float, ...]:
    if not entry.laps:
        return (1.0, 0.0, 0.0, 0.0, entry.number)
    lap_s = float("inf") if entry.lap_s is None else entry.lap_s
    share = entry.completed / entry.laps
    return (0.0, -share, -(entry.mean_completion_percent or 0.0), lap_s, entry.number)
