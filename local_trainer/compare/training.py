"""What each run is, what it reached, how it learned, and in what runs differ."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from local_trainer.actions import load_action_space
from local_trainer.checkpoints import list_checkpoints
from local_trainer.compare.comparison import ComparedRun, Curve, RewardDiff
from local_trainer.compare.laps import route_sha256
from local_trainer.compare.models import Model
from local_trainer.config_keys import flattened, read_yaml_mapping
from local_trainer.errors import ConfigError, NotFound
from local_trainer.history import History, read_history
from local_trainer.progress import PhaseEvent, read_events
from local_trainer.runs import Run


def compared_run(model: Model, history: History) -> ComparedRun:
    """Return what a reader must know of a run, and how it learned."""
    status = model.run.read_status()
    return ComparedRun(
        name=model.name,
        path=str(model.run.path),
        track=next(iter(_tracks(model.run)), status.track) or "an unknown track",
        track_sha256=route_sha256(model.run) or f"unknown: {status.track}",
        status=status.status,
        notes=_run_notes(model.run, history),
        actions=_actions(model.run),
        curve=learning_curve(model.run, history),
    )


def run_results(run: Run, history: History | None = None) -> dict[str, Any]:
    """Return what a run reached, by name."""
    status = run.read_status()
    evaluations = (history or read_history(run)).evaluations
    return {
        "minutes": round(status.minutes, 2),
        "iterations": status.iteration,
        "episodes": status.episodes,
        "steps": status.steps,
        "evaluations": len(evaluations),
        "evaluations_all_laps": sum(e.completed == e.trials for e in evaluations),
        "first_lap_iteration": next((e.iteration for e in evaluations if e.completed), None),
        "best_progress_percent": status.best_progress_percent,
        "best_lap_s": status.best_lap_s,
        "best_checkpoint": status.best_checkpoint or None,
    }


def learning_curve(run: Run, history: History) -> Curve:
    """Return how a run learned; empty lists where it has nothing recorded."""
    minutes = _minutes(run)
    curve = Curve()
    groups: dict[int, list[Any]] = {}
    for event in history.training:
        groups.setdefault(event.iteration, []).append(event)
    steps_at = {number: max(e.total_steps for e in events) for number, events in groups.items()}
    for number, events in sorted(groups.items()):
        curve.steps.append(steps_at[number])
        curve.minutes.append(minutes.get(("episode", number), 0.0))
        curve.reward.append(sum(e.reward for e in events) / len(events))
        curve.completion_percent.append(sum(e.progress_percent for e in events) / len(events))
    for found in history.evaluations:
        if found.iteration in steps_at:
            curve.lap_steps.append(steps_at[found.iteration])
            curve.lap_minutes.append(minutes.get(("evaluation", found.iteration), 0.0))
            curve.lap_s.append(found.best_lap_s)
    return curve


def settings_of(run: Run) -> dict[str, Any]:
    """Return a run's settings by full key; files count by what is in them."""
    settings: dict[str, Any] = {}
    if run.config_file.exists():
        settings = flattened(read_yaml_mapping(run.config_file))
    for path in (run.reward_file, run.metadata_file, run.preset_file, run.environment_file):
        if path.exists():
            settings[path.name] = f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    # The name tells runs apart by itself.
    return {key: value for key, value in settings.items() if key not in ("run", "job_name")}


def reward_diffs(models: Sequence[Model]) -> list[RewardDiff]:
    """Return how the reward functions of all runs but the first differ from the first's."""
    texts = [_text(model.run.reward_file) for model in models]
    diffs = []
    for model, text in zip(models[1:], texts[1:], strict=True):
        names = (f"{models[0].name}/reward_function.py", f"{model.name}/reward_function.py")
        lines = difflib.unified_diff(texts[0].splitlines(), text.splitlines(), *names, lineterm="")
        is_equal = text == texts[0]
        diff = "" if is_equal else "\n".join(lines)
        diffs.append(RewardDiff(model.name, models[0].name, is_equal, diff))
    return diffs


def _run_notes(run: Run, history: History) -> list[str]:
    status = run.read_status()
    notes = []
    if status.status == "running":
        now = f"is still training, now at iteration {status.iteration}"
        notes.append(f"{now}: stop it before you pack it")
    elif status.status not in ("finished", "stopped"):
        why = f": {status.reason}" if status.reason else ""
        notes.append(f"did not end by itself ({status.status}{why})")
    if (run.path / "imported" / "import.json").exists():
        notes.append("was imported: what came before that has no curves here")
    elif not history.training:
        notes.append("has no training recorded")
    elif not any(e.status == "lap_complete" for e in (*history.training, *history.trials)):
        notes.append("never completed a lap in training")
    if len(_tracks(run)) > 1:
        notes.append(f"learned {len(_tracks(run))} tracks: its laps on the first one count here")
    if not list_checkpoints(run.model_dir):
        notes.append("has no checkpoint yet")
    return notes


def _tracks(run: Run) -> list[str]:
    """Return the names of a run's tracks if it has several."""
    config = read_yaml_mapping(run.config_file) if run.config_file.exists() else {}
    return list(config.get("tracks") or ())


def _minutes(run: Run) -> dict[tuple[str, int], float]:
    """Return minutes of training at the last event of each kind and iteration.

    The clock stands while a run does not train, and goes back with a run that does an iteration
    again.
    """
    at: dict[tuple[str, int], float] = {}
    ends_s: dict[int, float] = {}
    now_s, last = 0.0, None
    is_start = False
    for event in read_events(run.progress_file):
        if isinstance(event, PhaseEvent) and event.phase == "setup" and not event.detail:
            is_start, last = True, event.time
            continue
        number = getattr(event, "iteration", None)
        if number is None or (isinstance(event, PhaseEvent) and event.phase == "setup"):
            continue
        if is_start:
            now_s = ends_s.get(number - 1, 0.0)
            is_start = False
        now_s += max(0.0, event.time - last) if last is not None else 0.0
        last = event.time
        at[event.event, number] = now_s / 60.0
        ends_s[number] = now_s
    return at


def _actions(run: Run) -> list[str]:
    try:
        space = load_action_space(run.metadata_file)
    except (ConfigError, NotFound, OSError):
        return []
    return [
        f"{f'{a.steering_deg:+g}' if a.steering_deg else '0'}° at {a.speed_mps:g} m/s"
        for a in sorted(space.actions, key=lambda a: (a.steering_deg, a.speed_mps))
    ]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
