"""Robust laps of several runs under the same conditions, kept so that they can be told apart.

An evaluation made for a comparison lies where ``evaluate --robust`` puts its own, with
``conditions.json`` beside it. Two evaluations with equal conditions began at the same places with
the same noise, so lap k of one and lap k of the other belong together.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from local_trainer.config import RunConfig, load_config
from local_trainer.errors import RunFailed
from local_trainer.evaluation import EvaluationReport, read_report, write_report
from local_trainer.metrics import evaluation_stamp
from local_trainer.runs import Run, write_atomically

_FILE = "conditions.json"
_ROOT = Path(__file__).parents[2]
_CODE = (
    "sim/**/*.py",
    "sim/**/*.yaml",
    "coach_presets/acting.py",
    "local_trainer/players.py",
    "local_trainer/rollout.py",
)
"""What drives the laps: another version may drive them another way."""


@dataclass(frozen=True)
class Conditions:
    """What decides how a policy's robust laps go, besides the policy."""

    track_sha256: str
    """Of the run's route file."""
    surface: str
    seed: int
    trials: int
    action_noise: float
    evaluation_sha256: str
    """Of the rules: cut-off, resets, penalties."""
    simulator_sha256: str
    """Of car and randomization."""
    environment_sha256: str
    """Of the user's environment; empty for ours."""
    code_sha256: str


@dataclass(frozen=True)
class RobustLaps:
    """A robust evaluation found in a run."""

    report: EvaluationReport
    stamp: str
    """UTC time as 14 digits."""
    conditions: Conditions | None
    """None for ``evaluate --robust``, which does not write them down."""


def common_config(own: RunConfig, like: Run) -> RunConfig:
    """Return a run's configuration with the seed, rules, car and ground of another run.

    The simulator is the embedded one, whatever the runs were trained in. A run of several tracks
    drives on its first.
    """
    rules = load_config(like.config_file)
    simulator = rules.simulator.model_copy(update={"backend": "embedded"})
    return own.model_copy(
        update={
            "tracks": (),
            "seed": rules.seed,
            "surface": rules.surface,
            "evaluation": rules.evaluation,
            "simulator": simulator,
        }
    )


def conditions_of(run: Run, config: RunConfig, trials: int, action_noise: float) -> Conditions:
    """Return the conditions of robust laps of a run under a configuration."""
    rules = asdict(config.evaluation.rules())
    simulator = config.simulator.model_dump(mode="json", include={"car", "randomization"})
    has_environment = run.environment_file.exists()
    return Conditions(
        track_sha256=route_sha256(run),
        surface=config.surface or "",
        seed=config.seed,
        trials=trials,
        action_noise=action_noise,
        evaluation_sha256=_digest(rules),
        simulator_sha256=_digest(simulator),
        environment_sha256=_file_sha256(run.environment_file) if has_environment else "",
        code_sha256=_code_sha256(),
    )


def route_sha256(run: Run) -> str:
    """Return what tells a run's track from others of the same name; empty without a route."""
    return _file_sha256(run.route_file) if run.route_file.exists() else ""


def keep(run: Run, report: EvaluationReport, conditions: Conditions) -> Path:
    """Write an evaluation into a run and return its folder."""
    when = datetime.now(UTC)
    while (folder := run.path / f"evaluation-{evaluation_stamp(when)}").exists():
        when += timedelta(seconds=1)
    write_atomically(folder / _FILE, json.dumps(asdict(conditions), indent=2) + "\n")
    write_report(report, folder / "report.json")
    return folder


def robust_laps(run: Run) -> list[RobustLaps]:
    """Return the robust evaluations of a run, oldest first; damaged ones are left out."""
    found = []
    for path in sorted(run.path.glob("evaluation-*/report.json")):
        try:
            report = read_report(path)
        except RunFailed:
            continue
        if report.is_robust and report.trials:
            stamp = path.parent.name.removeprefix("evaluation-")
            found.append(RobustLaps(report, stamp, _conditions(path.parent / _FILE)))
    return found


def has_driven(run: Run, checkpoint: str, conditions: Conditions) -> bool:
    """Return whether a checkpoint drove under these conditions: it would drive the same again."""
    return any(
        laps.conditions == conditions and laps.report.checkpoint == checkpoint
        for laps in robust_laps(run)
    )


def _conditions(path: Path) -> Conditions | None:
    try:
        return Conditions(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@cache
def _code_sha256() -> str:
    found = {path for pattern in _CODE for path in _ROOT.glob(pattern)}
    return _digest({str(path.relative_to(_ROOT)): _file_sha256(path) for path in found})


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
