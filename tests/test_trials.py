"""The desk, the feed and early stopping of trials; Ray's own parts do not run here."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local_trainer.config import resolve_config
from local_trainer.errors import ConfigError
from local_trainer.launch.trials import (
    ENDED,
    STOPPED,
    STOPPED_EARLY,
    EarlyStopping,
    Resources,
    RunList,
)
from local_trainer.progress import EvaluationEvent, ProgressLog
from local_trainer.run_files import create_run
from local_trainer.runs import Run
from local_trainer.sweep.scores import FAILED

pytest.importorskip("ray", reason="make setup-ray")

from local_trainer.launch.ray_desk import Desk
from local_trainer.launch.ray_tune import Book, Feed, GentleAsha


def make_run(folder: Path, name: str) -> Run:
    return create_run(resolve_config(sets=["stop.episodes=100", f"run={name}"]), folder)


# The desk.


def test_a_released_folder_is_free_and_who_held_it_writes_no_more(tmp_path: Path) -> None:
    run = make_run(tmp_path, "back")
    desk = Desk()
    desk.add(run.name, str(run.path))
    ticket = desk.hold(run.name)
    assert run.is_locked()
    assert desk.put(run.name, "notes.txt", b"before", ticket)
    desk.release(run.name)
    assert not run.is_locked()
    assert not desk.put(run.name, "notes.txt", b"after", ticket)
    assert not desk.delete(run.name, "notes.txt", ticket)
    assert (run.path / "notes.txt").read_bytes() == b"before"
    desk.let_go(run.name, ticket)  # too late, and no error
    with run.lock(), pytest.raises(ConfigError, match="is running"):
        desk.hold(run.name)
    assert desk.hold(run.name) > ticket


# The feed.


class Told(RunList):
    """A source that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__([])
        self.scores: dict[str, float | None] = {}

    def told(self, run: str, score: float | None) -> None:
        self.scores[run] = score


def result(state: str, reason: str = "", score: float = 7.0) -> dict[str, Any]:
    return {"state": state, "reason": reason, "score": score}


@pytest.mark.parametrize(
    ("ended", "scores"),
    [
        (result("finished"), {"n1": 7.0}),
        (result("stopped", STOPPED_EARLY), {"n1": 7.0}),
        (result("stopped", ENDED), {"n1": 7.0}),
        (result("failed", "it raised"), {"n1": None}),
        (result("stopped", STOPPED), {}),
        (result("waiting", STOPPED, FAILED), {}),
        (None, {}),
    ],
)
def test_only_trials_that_have_ended_have_a_score(
    ended: dict[str, Any] | None, scores: dict[str, float | None]
) -> None:
    source = Told()
    feed = Feed(source, Resources(), {}, None, Book())
    feed._names["trial"] = "n1"
    feed.on_trial_complete("trial", ended)
    assert source.scores == scores


def test_a_trial_that_ray_gave_up_has_failed() -> None:
    source = Told()
    feed = Feed(source, Resources(), {}, None, Book())
    feed._names["trial"] = "n1"
    feed.on_trial_complete("trial", None, error=True)
    assert source.scores == {"n1": None}


# Early stopping.


class AskedToStop:
    """Stands for Ray's handle of the desk's one method that is called here."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.ask_to_stop = self

    def remote(self, name: str, reason: str) -> None:
        self.asked.append((name, reason))


def asha(desk: AskedToStop, done_before: list[Run]) -> GentleAsha:
    return GentleAsha(desk, "completion", EarlyStopping(20.0, 2.0), done_before)


def report(scheduler: GentleAsha, name: str, percent: float, score: float) -> str:
    """Have the scheduler judge an evaluation of a trial."""
    nobody: Any = None
    trial: Any = SimpleNamespace(trial_id=name)
    if name not in scheduler._trial_info:
        scheduler.on_trial_add(nobody, trial)
    found = {"run": name, "done": False, "budget_percent": percent, "score": score}
    return scheduler.on_trial_result(nobody, trial, found)


def test_the_worse_trial_is_asked_to_end_and_the_best_never() -> None:
    desk = AskedToStop()
    scheduler = asha(desk, [])
    actions = set()
    for percent in (10.0, 20.0, 40.0, 60.0, 80.0, 100.0):
        actions.add(report(scheduler, "best", percent, percent))
        actions.add(report(scheduler, "worse", percent, percent / 2.0))
    assert desk.asked == [("worse", STOPPED_EARLY)]  # once
    assert actions == {"CONTINUE"}  # Tune itself takes no place away


def test_nobody_is_asked_to_end_before_the_grace_is_over() -> None:
    desk = AskedToStop()
    scheduler = asha(desk, [])
    report(scheduler, "best", 19.0, 90.0)
    report(scheduler, "worse", 19.0, 1.0)
    assert desk.asked == []


def test_trials_that_ended_before_a_sweep_goes_on_count(tmp_path: Path) -> None:
    before = make_run(tmp_path, "before")
    with closing(ProgressLog(before.progress_file)) as log:
        for number, percent in enumerate((30.0, 60.0), start=1):
            log.write(EvaluationEvent(number, f"{number}", 5, 0, percent, None, None, True))
    before.write_status(replace(before.read_status(), status="finished", episodes=100))
    alone = AskedToStop()
    report(asha(alone, []), "later", 50.0, 40.0)
    assert alone.asked == []
    compared = AskedToStop()
    report(asha(compared, [before]), "later", 50.0, 20.0)
    assert compared.asked == [("later", STOPPED_EARLY)]
    better = AskedToStop()
    report(asha(better, [before]), "better", 50.0, 40.0)
    assert better.asked == []
