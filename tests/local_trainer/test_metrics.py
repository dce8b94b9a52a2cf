import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.metrics import (
    TrainingMetrics,
    best_model_value,
    evaluation_stamp,
    read_metrics,
    write_evaluation_metrics,
)
from local_trainer.runs import Run
from sim.simulator import EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus


def episode(
    index: int = 0,
    status: EpisodeStatus = EpisodeStatus.OFF_TRACK,
    *,
    phase: str = "training",
    progress: float = 12.9,
    duration_s: float = 1.5,
    reward: float = 2.6,
    resets: tuple[EpisodeStatus, ...] = (),
) -> Episode:
    """Return an episode of which only the last step and the resets matter."""
    steps = np.zeros(2 + len(resets), STEP_DTYPE)
    steps["status"][: len(resets)] = resets
    steps["status"][-1] = status
    steps["progress"][-1] = progress
    steps["sim_time"][-1] = duration_s
    count = len(steps)
    return Episode(
        start=EpisodeStart(index),
        phase=phase,
        iteration=index // 2,
        steps=steps,
        actions=np.zeros(count, np.int32),
        rewards=np.full(count, reward / count),
        wall_clock=np.zeros(count),
    )


def content(run: Run) -> dict:
    return json.loads(run.training_metrics_file.read_text())


def test_a_training_entry_has_the_service_s_fields_and_types(tmp_path: Path) -> None:
    run = Run(tmp_path)
    metrics = TrainingMetrics(run)
    metrics.extend([episode(0)])
    metrics.write()
    assert content(run) == {
        "metrics": [
            {
                "reward_score": 3,  # 2.6 rounded
                "metric_time": 1500,
                "start_time": 0,
                "elapsed_time_in_milliseconds": 1500,
                "episode": 1,
                "trial": 1,
                "phase": "training",
                "completion_percentage": 12,  # 12.9 cut off
                "episode_status": "Off track",
            }
        ],
        "version": 2.0,
        "best_model_metric": "progress",
    }
    assert '"version": 2.0' in run.training_metrics_file.read_text()


def test_the_original_s_key_holds_the_same_bytes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    metrics = TrainingMetrics(run)
    metrics.extend([episode(0)])
    metrics.write()
    assert (tmp_path / "training_metrics.json").read_bytes() == (
        run.training_metrics_file.read_bytes()
    )


def test_episodes_follow_one_another_on_one_clock(tmp_path: Path) -> None:
    metrics = TrainingMetrics(Run(tmp_path))
    assert metrics.extend([episode(0), episode(1, duration_s=2.0)]) == [0.0, 1.5]
    assert metrics.clock_s == 3.5
    assert metrics.extend([episode(0, phase="evaluation")]) == [3.5]


def test_trials_restart_with_an_iteration_and_stand_still_in_an_evaluation(tmp_path: Path) -> None:
    run = Run(tmp_path)
    metrics = TrainingMetrics(run)
    metrics.extend([episode(0), episode(1)])
    metrics.extend([episode(k, phase="evaluation") for k in range(3)])
    metrics.extend([episode(2), episode(3)])
    metrics.write()
    entries = content(run)["metrics"]
    assert [(e["phase"][0], e["episode"], e["trial"]) for e in entries] == [
        ("t", 1, 1),
        ("t", 2, 2),
        *[("e", 2, 2)] * 3,
        ("t", 3, 1),
        ("t", 4, 2),
    ]


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    first = [episode(0, duration_s=31 / 15), episode(1, duration_s=22 / 15)]
    trials = [episode(0, phase="evaluation", duration_s=1 / 15)]
    second = [episode(2, duration_s=7 / 15), episode(3)]

    whole = TrainingMetrics(Run(tmp_path / "whole"))
    for episodes in (first, trials, second):
        starts = whole.extend(episodes)
    whole.write()

    run = Run(tmp_path / "interrupted")
    before = TrainingMetrics(run)
    before.extend(first)
    before.extend(trials)
    before.extend([episode(2), episode(3, EpisodeStatus.LAP_COMPLETE)])  # will be lost
    before.write()
    after = TrainingMetrics(run)
    after.truncate(training_episodes=2)
    assert after.extend(second) == starts
    after.write()
    assert content(run) == content(Run(tmp_path / "whole"))


def test_truncating_keeps_as_many_evaluations_as_asked_for(tmp_path: Path) -> None:
    metrics = TrainingMetrics(Run(tmp_path))
    metrics.extend([episode(0), episode(1)])
    metrics.extend([episode(k, phase="evaluation") for k in range(3)])
    assert (metrics.training_episodes, metrics.evaluation_episodes) == (2, 3)
    metrics.truncate(2, evaluation_episodes=1)
    assert (metrics.training_episodes, metrics.evaluation_episodes) == (2, 1)
    metrics.truncate(0)
    assert (metrics.training_episodes, metrics.evaluation_episodes) == (0, 0)
    assert metrics.clock_s == 0.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metrics": 1'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.training_metrics_file.parent.mkdir()
    run.training_metrics_file.write_text(text)
    with pytest.raises(RunFailed, match=r"TrainingMetrics\.json must be a metrics file"):
        TrainingMetrics(run)


def test_an_unknown_best_model_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="progress, reward, laptime, got 'lap'"):
        TrainingMetrics(Run(tmp_path), "lap")


def test_an_evaluation_counts_what_went_wrong(tmp_path: Path) -> None:
    run = Run(tmp_path)
    off, reverse = EpisodeStatus.OFF_TRACK, EpisodeStatus.REVERSED
    laps = [
        episode(0, EpisodeStatus.LAP_COMPLETE, progress=100.0, resets=(off, off, reverse)),
        episode(1, EpisodeStatus.CRASHED),
    ]
    path = write_evaluation_metrics(run, laps, "20260102030405")
    assert path == tmp_path / "metrics" / "evaluation" / "evaluation-20260102030405.json"
    assert path.read_bytes() == (tmp_path / "evaluation_metrics.json").read_bytes()
    assert json.loads(path.read_text()) == {
        "metrics": [
            {
                "completion_percentage": 100,
                "metric_time": 1500,
                "start_time": 0,
                "elapsed_time_in_milliseconds": 1500,
                "episode_status": "Lap complete",
                "crash_count": 0,
                "immobilized_count": 0,
                "off_track_count": 2,
                "reversed_count": 1,
                "reset_count": 3,
                "trial": 1,
            },
            {
                "completion_percentage": 12,
                "metric_time": 3000,
                "start_time": 1500,
                "elapsed_time_in_milliseconds": 1500,
                "episode_status": "Crashed",
                "crash_count": 1,
                "immobilized_count": 0,
                "off_track_count": 0,
                "reversed_count": 0,
                "reset_count": 1,
                "trial": 2,
            },
        ]
    }
    assert read_metrics(path)[1]["trial"] == 2


def test_a_stamp_is_the_utc_time_as_14_digits() -> None:
    assert evaluation_stamp(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "20260102030405"
    assert len(evaluation_stamp()) == 14 and evaluation_stamp().isdigit()


def test_the_best_model_is_chosen_by_progress_reward_or_lap_time() -> None:
    lap = episode(0, EpisodeStatus.LAP_COMPLETE, progress=100.0, duration_s=10.2)
    assert best_model_value(lap, "progress") == 100.0
    assert best_model_value(lap, "reward") == pytest.approx(2.6)
    assert best_model_value(lap, "laptime") == 10_200
    assert best_model_value(episode(0), "laptime") == 999_999
    assert best_model_value(replace(lap, phase="evaluation"), "laptime") == 10_200
