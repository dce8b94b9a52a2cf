"""The checkpoints that could be sent to the car, their robust laps, and how they differ."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import combinations

from local_trainer.checkpoints import Checkpoint, choose_checkpoint, list_checkpoints
from local_trainer.compare.comparison import Candidate, Difference, Laps, Way
from local_trainer.compare.laps import RobustLaps, route_sha256
from local_trainer.compare.models import Model
from local_trainer.confidence import (
    CONFIDENCE,
    mean_difference,
    mean_interval,
    share_interval,
    share_p_value,
)
from local_trainer.evaluation import Trial
from local_trainer.history import History


def common_conditions(found: Iterable[RobustLaps]) -> str:
    """Return the conditions under which most checkpoints drove, the newest among equals."""
    drove: dict[str, set[tuple[str, str]]] = {}
    newest: dict[str, str] = {}
    for laps in found:
        if key := _conditions_key(laps):
            drove.setdefault(key, set()).add((laps.report.run, laps.report.checkpoint))
            newest[key] = max(newest.get(key, ""), laps.stamp)
    return max(drove, key=lambda key: (len(drove[key]), newest[key]), default="")


def candidates_of(
    model: Model, history: History, found: list[RobustLaps], common: str, way: Way
) -> list[Candidate]:
    """Return the checkpoints of a run that count: those named, else the best and all that drove.

    Args:
        model: The run.
        history: Of its training.
        found: Its robust laps.
        common: Conditions whose laps come first (`common_conditions`).
        way: Which laps count.
    """
    known = list_checkpoints(model.run.model_dir)
    if not known:
        return []
    best = choose_checkpoint(model.run.model_dir, "best")
    last = choose_checkpoint(model.run.model_dir, "last")
    if model.checkpoints:
        chosen = {choose_checkpoint(model.run.model_dir, which) for which in model.checkpoints}
    else:
        driven = {laps.report.checkpoint for laps in found}
        chosen = {best, *(one for one in known if one.name in driven)}
    events = {event.checkpoint: event for event in history.evaluations}
    track_sha256 = route_sha256(model.run) or f"unknown: {model.run.read_status().track}"
    return [
        Candidate(
            name=f"{model.name}@{one.number}",
            run=model.name,
            track_sha256=track_sha256,
            checkpoint=one.name,
            number=one.number,
            which=" and ".join(w for w, c in (("best", best), ("last", last)) if c == one),
            in_training=events.get(one.name),
            laps=_laps_of(one, found, common, way),
        )
        for one in sorted(chosen)
    ]


def all_differences(candidates: Sequence[Candidate]) -> list[Difference]:
    """Return the difference of every two checkpoints with robust laps on the same track."""
    driven = [candidate for candidate in candidates if candidate.laps is not None]
    pairs = [p for p in combinations(driven, 2) if p[0].track_sha256 == p[1].track_sha256]
    counts = Counter(one.track_sha256 for one in driven)
    return [_difference(*pair, counts[pair[0].track_sha256] - 1) for pair in pairs]


def _conditions_key(laps: RobustLaps) -> str:
    if laps.conditions is None:
        return ""
    text = json.dumps(asdict(laps.conditions), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _laps_of(checkpoint: Checkpoint, found: list[RobustLaps], common: str, way: Way) -> Laps | None:
    """Return a checkpoint's laps under the common conditions, else its newest."""
    own = [laps for laps in found if laps.report.checkpoint == checkpoint.name]
    if not own:
        return None
    laps = max(own, key=lambda one: (_conditions_key(one) == common != "", one.stamp))
    ways = {True: ("both", "reversed"), False: ("both", "forward")}
    of_first = laps.report.trials[0].track
    trials = tuple(
        trial
        for trial in laps.report.trials
        if way in ways[trial.is_reversed] and trial.track == of_first
    )
    if not trials:
        return None
    times_s = [trial.elapsed_time_s for trial in trials if trial.is_complete]
    return Laps(
        stamp=laps.stamp,
        conditions=_conditions_key(laps),
        simulator=laps.report.simulator,
        action_noise=laps.report.action_noise,
        completed=len(times_s),
        completed_share=share_interval(len(times_s), len(trials)),
        mean_completion_percent=sum(t.completion_percentage for t in trials) / len(trials),
        forward=_count(trial for trial in trials if not trial.is_reversed),
        reversed=_count(trial for trial in trials if trial.is_reversed),
        best_lap_s=min(times_s, default=None),
        mean_lap_s=sum(times_s) / len(times_s) if times_s else None,
        mean_lap=mean_interval(times_s),
        trials=trials,
    )


def _count(trials: Iterable[Trial]) -> tuple[int, int]:
    ends = [trial.is_complete for trial in trials]
    return sum(ends), len(ends)


def _difference(first: Candidate, second: Candidate, num_comparisons: int) -> Difference:
    """Return a difference; each comparison has its share of the doubt all may have together."""
    assert first.laps is not None and second.laps is not None
    doubt = (1.0 - CONFIDENCE) / num_comparisons
    one, two = first.laps.trials, second.laps.trials
    is_paired = first.laps.conditions == second.laps.conditions != "" and len(one) == len(two)
    p_value = share_p_value([t.is_complete for t in one], [t.is_complete for t in two], is_paired)
    num_pairs = None
    if is_paired:
        both = [(a, b) for a, b in zip(one, two, strict=True) if a.is_complete and b.is_complete]
        num_pairs = len(both)
        times_s = [[a.elapsed_time_s for a, _ in both], [b.elapsed_time_s for _, b in both]]
    else:
        times_s = [[t.elapsed_time_s for t in side if t.is_complete] for side in (one, two)]
    return Difference(
        first=first.name,
        second=second.name,
        is_paired=is_paired,
        confidence=1.0 - doubt,
        completion_p_value=p_value,
        is_completion_clear=p_value < doubt,
        num_lap_pairs=num_pairs,
        lap_s=mean_difference(times_s[0], times_s[1], is_paired, 1.0 - doubt),
    )
