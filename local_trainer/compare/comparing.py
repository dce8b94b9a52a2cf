"""Several runs beside each other, from their files alone.

`compare` reads the files and puts everything together; what it returns is plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_trainer.compare.candidates import all_differences, candidates_of, common_conditions
from local_trainer.compare.comparison import (
    Candidate,
    ComparedRun,
    Comparison,
    Difference,
    RewardDiff,
    Verdict,
    Way,
)
from local_trainer.compare.laps import RobustLaps, robust_laps
from local_trainer.compare.models import Model
from local_trainer.compare.training import (
    compared_run,
    reward_diffs,
    run_results,
    settings_of,
)
from local_trainer.compare.verdict import verdicts_on
from local_trainer.config_keys import read_yaml_mapping
from local_trainer.history import History, read_history
from local_trainer.runs import DEFAULT_RUNS_DIR


def compare(
    models: Sequence[Model], runs_dir: Path = DEFAULT_RUNS_DIR, way: Way = "both"
) -> Comparison:
    """Return what the files of runs say about them, side by side.

    Args:
        models: Runs (`find_models`).
        runs_dir: Where they lie, for the commands to type.
        way: Which robust laps count.
    """
    histories = [read_history(model.run) for model in models]
    runs = [compared_run(*parts) for parts in zip(models, histories, strict=True)]
    found = _Found(models, histories, runs, [robust_laps(model.run) for model in models])
    candidates, differences, verdicts = _judge(found, runs_dir, way)
    notes = []
    one_way = _one_way(models)
    if way == "both" and one_way != "both":
        notes = _other_way_notes(verdicts, _judge(found, runs_dir, one_way)[2], one_way)
    settings = [settings_of(model.run) for model in models]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = {key: [one.get(key) for one in settings] for key in keys}
    is_equal = {key: all(value == row[0] for value in row) for key, row in rows.items()}
    results = [
        run_results(*parts) for parts in zip((m.run for m in models), histories, strict=True)
    ]
    rewards = reward_diffs(models)
    return Comparison(
        verdicts=verdicts,
        runs=runs,
        settings={key: row for key, row in rows.items() if not is_equal[key]},
        equal_settings={key: row[0] for key, row in rows.items() if is_equal[key]},
        results={key: [result[key] for result in results] for key in results[0]},
        rewards=rewards,
        candidates=candidates,
        differences=differences,
        notes=[*_notes(verdicts, rewards, candidates), *notes],
        way=way,
    )


@dataclass(frozen=True)
class _Found:
    """What was read of the runs, an element a run."""

    models: Sequence[Model]
    histories: Sequence[History]
    runs: Sequence[ComparedRun]
    laps: Sequence[list[RobustLaps]]


def _judge(
    found: _Found, runs_dir: Path, way: Way
) -> tuple[list[Candidate], list[Difference], list[Verdict]]:
    """Return checkpoints, how they differ, and the verdicts, from the laps of a way."""
    common = common_conditions([laps for one in found.laps for laps in one])
    candidates = [
        candidate
        for model, history, laps in zip(found.models, found.histories, found.laps, strict=True)
        for candidate in candidates_of(model, history, laps, common, way)
    ]
    differences = all_differences(candidates)
    verdicts = verdicts_on(found.runs, candidates, differences, found.models, runs_dir)
    return candidates, differences, verdicts


def _one_way(models: Sequence[Model]) -> Way:
    """Return the direction that all runs were trained in; both if they differ or changed it."""
    ways: set[Way] = set()
    for model in models:
        config = read_yaml_mapping(model.run.config_file) if model.run.config_file.exists() else {}
        if config.get("alternate_direction"):
            return "both"
        ways.add("reversed" if config.get("reverse_direction") else "forward")
    return ways.pop() if len(ways) == 1 else "both"


def _other_way_notes(
    verdicts: Sequence[Verdict], one_way: Sequence[Verdict], way: Way
) -> list[str]:
    return [
        f"Of {way} laps alone, {other.run}@{other.checkpoint} would be sent: --way {way}."
        for verdict, other in zip(verdicts, one_way, strict=True)
        if other.kind in ("send", "no clear difference")
        and (verdict.run, verdict.checkpoint) != (other.run, other.checkpoint)
    ]


def _notes(
    verdicts: Sequence[Verdict], rewards: Sequence[RewardDiff], candidates: Sequence[Candidate]
) -> list[str]:
    notes = []
    if len(verdicts) > 1:
        notes.append("The runs drove on different tracks: laps compare only within one track.")
    if not all(diff.is_equal for diff in rewards):
        notes.append("The reward functions differ: rewards of different runs do not compare.")
    simulators = {one.name: one.laps.simulator for one in candidates if one.laps}
    if len(set(simulators.values())) > 1:
        told = ", ".join(f"{name} {simulator}" for name, simulator in simulators.items())
        notes.append(f"The robust laps come from different simulators: {told}.")
    for track in {one.track_sha256: None for one in candidates}:
        here = [(c.name, c.laps) for c in candidates if c.track_sha256 == track and c.laps]
        if len({laps.conditions or name for name, laps in here}) > 1:
            notes.append(
                "Not all robust laps were driven under the same conditions, so they are compared "
                "as wholes, not lap by lap; --evaluate lets all drive the same ones."
            )
            break
    return notes
