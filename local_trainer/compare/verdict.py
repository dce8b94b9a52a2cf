"""Which checkpoint to send to the car, and why.

The rule is `RULE`, in words, and `_decide`, in code.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from local_trainer.compare.comparison import (
    Candidate,
    ComparedRun,
    Difference,
    Kind,
    Laps,
    Verdict,
)
from local_trainer.compare.models import Model, arguments_of
from local_trainer.confidence import CONFIDENCE
from local_trainer.runs import DEFAULT_RUNS_DIR

NEAR_PERCENT = 5.0
"""Lap time decides only between checkpoints whose shares of complete laps are this near."""

RULE = (
    "Complete robust laps count first: the checkpoint that completed the largest share of them "
    "leads. Another one takes its place only if its share is within "
    f"{NEAR_PERCENT:.0f} percentage points, not clearly smaller, and its laps are clearly faster.",
    f"Clearly means: with {100 * CONFIDENCE:.0f} % confidence in all comparisons with the "
    "chosen one together. Shares are compared by McNemar's exact test where both drove the same "
    "laps, by Fisher's where not; mean lap times by a bootstrap of their difference, lap by lap "
    "over those that both completed, or of all complete laps.",
    f"The intervals shown with each checkpoint stand for that checkpoint alone, at "
    f"{100 * CONFIDENCE:.0f} %: Wilson's for the share of complete laps, a bootstrap for the mean "
    "lap time.",
    "They say how sure these checkpoints are, not the settings: a second training with another "
    "seed can end elsewhere. To compare settings, train each of them with several seeds.",
)


def verdicts_on(
    runs: Sequence[ComparedRun],
    candidates: Sequence[Candidate],
    differences: Sequence[Difference],
    models: Sequence[Model],
    runs_dir: Path,
) -> list[Verdict]:
    """Return one verdict for each track that runs drove on.

    Args:
        runs: All of them.
        candidates: Their checkpoints.
        differences: Of every two checkpoints that drove on one track.
        models: The runs as they were named, for the commands to type.
        runs_dir: Where they lie, for the same.
    """
    return [_verdict(group, candidates, differences, models, runs_dir) for group in _by_track(runs)]


def _by_track(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.track_sha256, []).append(run)
    return list(groups.values())


def _verdict(
    group: Sequence[ComparedRun],
    candidates: Sequence[Candidate],
    differences: Sequence[Difference],
    models: Sequence[Model],
    runs_dir: Path,
) -> Verdict:
    """Return the verdict of one track."""
    track = group[0].track
    here = [one for one in candidates if one.track_sha256 == group[0].track_sha256]
    place = "" if runs_dir == DEFAULT_RUNS_DIR else f" --runs-dir {shlex.quote(str(runs_dir))}"
    names = " ".join(shlex.quote(name) for name in arguments_of(models))
    command = f"local-trainer runs compare {names}{place} --evaluate"
    drive = ("Let all drive the same robust laps", command)
    if not here:
        verb = "has" if len(group) == 1 else "have"
        named = ", ".join(run.name for run in group)
        sentence = f"Nothing to send yet: {named} {verb} no checkpoint."
        return Verdict(track, "nothing", sentence, None, None, [], [])
    driven = [one for one in here if one.laps is not None]
    lacking = sorted({one.run for one in here} - {one.run for one in driven})
    if lacking:
        chosen, sentence = _unsettled(here, lacking)
        return _sending(track, "not settled", sentence, chosen, [], [drive], place)
    chosen, kind = _decide(driven, differences)
    others = [(one, _of(chosen, one, differences)) for one in driven if one is not chosen]
    # What decides comes first: another run's checkpoint, one that is not clearly worse, the best.
    others.sort(key=lambda o: (o[0].run == chosen.run, _is_better(chosen, *o), *_order(o[0])))
    reasons = [_reason(chosen, *other) for other in others]
    if kind == "not ready":
        sentence = (
            f"None is ready for the car: no robust lap was completed; {chosen.name} came furthest, "
            f"{_laps(chosen).mean_completion_percent:.0f} % of a lap on average."
        )
        go_on = ("Train on", f"local-trainer train --resume {shlex.quote(chosen.run)}{place}")
        return Verdict(track, kind, sentence, chosen.run, chosen.number, reasons, [go_on])
    if not others:
        sentence = f"Only {chosen.name} drove on {track}: {_laps_text(chosen)}."
        return _sending(track, "alone", sentence, chosen, [], [], place)
    more = [] if kind == "send" else [_more_laps(drive, driven)]
    sentence = _send_sentence(chosen, kind, reasons[0], others)
    return _sending(track, kind, sentence, chosen, reasons, more, place)


def _send_sentence(
    chosen: Candidate, kind: Kind, reason: str, others: Sequence[tuple[Candidate, Difference]]
) -> str:
    sentence = f"Send {chosen.name} to the car: {_laps_text(chosen)}; {reason}."
    if kind == "no clear difference":
        sentence += " More laps would tell."
    if _laps(chosen).completed_share.estimate < 0.5:
        return f"{sentence} It fails most laps: train on before you trust it."
    alike = [
        one.name
        for one, difference in others
        if one.run == chosen.run and not _is_better(chosen, one, difference)
    ]
    if alike and others[0][0].run != chosen.run:
        verb = "does" if len(alike) == 1 else "do"
        sentence += f" {', '.join(alike)} of the same run {verb} about as well."
    return sentence


def _more_laps(drive: tuple[str, str], driven: Sequence[Candidate]) -> tuple[str, str]:
    most = max(len(_laps(one).trials) for one in driven)
    return ("Drive more laps to tell them apart", f"{drive[1]} --trials {min(1000, 4 * most)}")


def _sending(
    track: str,
    kind: Kind,
    sentence: str,
    chosen: Candidate | None,
    reasons: list[str],
    commands: list[tuple[str, str]],
    place: str,
) -> Verdict:
    if chosen is None:
        return Verdict(track, kind, sentence, None, None, reasons, commands)
    export = f"local-trainer export car {shlex.quote(chosen.name)}{place}"
    commands = [*commands, ("Pack it for the car", export)]
    if kind != "not settled":
        commands.reverse()
    return Verdict(track, kind, sentence, chosen.run, chosen.number, reasons, commands)


def _unsettled(
    candidates: Sequence[Candidate], lacking: Sequence[str]
) -> tuple[Candidate | None, str]:
    """Return what looked best in training, if anything, and the sentence that says so."""
    verb = "has" if len(lacking) == 1 else "have"
    sentence = f"Not settled: {', '.join(lacking)} {verb} no robust laps yet"
    judged = [one for one in candidates if one.in_training is not None]
    if not judged:
        return None, f"{sentence}."
    best = min(judged, key=_training_order)
    event = best.in_training
    assert event is not None
    lap = f", best {event.best_lap_s:.2f} s" if event.best_lap_s is not None else ""
    return best, (
        f"{sentence}; in training {best.name} looked best: {event.completed} of "
        f"{event.trials} laps complete{lap}."
    )


def _training_order(candidate: Candidate) -> tuple[float, float, float]:
    event = candidate.in_training
    assert event is not None
    lap_s = event.mean_lap_s if event.mean_lap_s is not None else float("inf")
    return -event.completed / max(1, event.trials), -event.mean_progress_percent, lap_s


def _decide(
    driven: Sequence[Candidate], differences: Sequence[Difference]
) -> tuple[Candidate, Kind]:
    """Return the checkpoint to send by `RULE`, and how sure that is."""
    leader = min(driven, key=_order)
    if _laps(leader).completed == 0:
        return leader, "not ready"
    faster = [
        other
        for other in driven
        if other is not leader and _may_overtake(leader, other, _of(leader, other, differences))
    ]
    chosen = min(faster, key=lambda one: _laps(one).mean_lap_s or 0.0, default=leader)
    # The question is which run; checkpoints of one run compete only where there is no other.
    others = [one for one in driven if one is not chosen]
    rivals = [one for one in others if one.run != chosen.run] or others
    is_clear = all(_is_better(chosen, one, _of(chosen, one, differences)) for one in rivals)
    return chosen, "send" if is_clear else "no clear difference"


def _order(candidate: Candidate) -> tuple[float, float, float, int]:
    """Return what sorts the checkpoints: most laps, then furthest if none, then fastest."""
    laps = _laps(candidate)
    furthest = -laps.mean_completion_percent if laps.completed == 0 else 0.0
    lap_s = laps.mean_lap_s if laps.mean_lap_s is not None else float("inf")
    return -laps.completed_share.estimate, furthest, lap_s, -candidate.number


def _may_overtake(leader: Candidate, other: Candidate, difference: Difference) -> bool:
    behind = _share_percent(leader) - _share_percent(other)
    is_near = behind <= NEAR_PERCENT + 1e-9 and not difference.is_completion_clear
    return is_near and difference.is_lap_clear and _faster_by_s(other, difference) > 0.0


def _is_better(chosen: Candidate, other: Candidate, difference: Difference) -> bool:
    """Return whether the chosen one is clearly the one to send of the two."""
    if difference.is_completion_clear:
        return _share_percent(chosen) > _share_percent(other)
    return difference.is_lap_clear and _faster_by_s(chosen, difference) > 0.0


def _of(one: Candidate, other: Candidate, differences: Sequence[Difference]) -> Difference:
    return next(d for d in differences if {d.first, d.second} == {one.name, other.name})


def _faster_by_s(candidate: Candidate, difference: Difference) -> float:
    """Return how much faster a checkpoint is than the other of a difference, in s a lap."""
    assert difference.lap_s is not None
    gain_s = difference.lap_s.estimate
    return -gain_s if difference.first == candidate.name else gain_s


def _reason(chosen: Candidate, other: Candidate, difference: Difference) -> str:
    """Return how the chosen checkpoint compares with another, for after a semicolon."""
    count = f"{_laps(other).completed} of {len(_laps(other).trials)}"
    more = _share_percent(chosen) - _share_percent(other)
    if difference.is_completion_clear and more > 0.0:
        return f"that is clearly more than {other.name} ({count})"
    if difference.is_lap_clear:
        gain_s = _faster_by_s(chosen, difference)
        if gain_s > 0.0:
            return f"it is clearly faster than {other.name} ({count}), by {gain_s:.2f} s a lap"
        return (
            f"{other.name} is faster, by {-gain_s:.2f} s a lap, but completed fewer ({count}), "
            "though not clearly"
        )
    lap_s = _laps(other).mean_lap_s
    lap = f", mean lap {lap_s:.2f} s" if lap_s is not None else ""
    return f"there is no clear difference from {other.name} ({count}{lap})"


def _laps_text(candidate: Candidate) -> str:
    laps = _laps(candidate)
    lap = f", mean lap {laps.mean_lap_s:.2f} s" if laps.mean_lap_s is not None else ""
    return f"{laps.completed} of {len(laps.trials)} robust laps complete{lap}"


def _share_percent(candidate: Candidate) -> float:
    return 100.0 * _laps(candidate).completed_share.estimate


def _laps(candidate: Candidate) -> Laps:
    assert candidate.laps is not None
    return candidate.laps
