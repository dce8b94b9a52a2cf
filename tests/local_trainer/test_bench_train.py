"""The figures of ``bench train``, from histories made by hand."""

from __future__ import annotations

import sys

import pytest

from local_trainer.bench.train import _median, _run_watched, figures_of, memory_growth, run
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.history import History
from local_trainer.progress import EpisodeEvent, EvaluationEvent, UpdateEvent


def evaluation(iteration: int, completed: int, lap_s: float | None = None) -> EvaluationEvent:
    """Return an evaluation of three laps that ended at 100 s and 10 s an iteration."""
    best = lap_s if completed else None
    return EvaluationEvent(
        iteration=iteration,
        checkpoint=f"{iteration}_Step-1.ckpt",
        trials=3,
        completed=completed,
        mean_progress_percent=50.0,
        best_lap_s=best,
        mean_lap_s=best,
        is_best=False,
        time=100.0 + 10.0 * iteration,
    )


def episode(phase: str, status: str, total_steps: int, time: float) -> EpisodeEvent:
    return EpisodeEvent(0, 0, phase, status, 50.0, 1.0, 10, 1.0, total_steps, time=time)


def update(time: float) -> UpdateEvent:
    return UpdateEvent(0, 10, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e-3, 1.0, time)


def history(*completed: int) -> History:
    return History(
        evaluations=[evaluation(i, count, 12.0 + i) for i, count in enumerate(completed)]
    )


def test_a_run_that_reported_nothing_has_no_times() -> None:
    figures = figures_of(History(), 100.0)
    assert figures["seconds_to_first_lap"] is None
    assert figures["seconds_to_steady_laps"] is None
    assert figures["best_lap_s"] is None
    assert (figures["steps_per_second"], figures["steps"], figures["updates"]) == (0.0, 0, 0)


def test_the_first_lap_is_the_first_trial_that_was_complete() -> None:
    trials = [
        episode("evaluation", "off_track", 0, 110.0),
        episode("evaluation", "lap_complete", 0, 117.0),
        episode("evaluation", "lap_complete", 0, 125.0),
    ]
    assert figures_of(History(trials=trials), 100.0)["seconds_to_first_lap"] == 17.0


def test_laps_are_steady_at_the_third_whole_evaluation_in_a_row() -> None:
    figures = figures_of(history(1, 3, 3, 2, 3, 3, 3, 3, 2), 90.0)
    assert figures["seconds_to_steady_laps"] == 100.0 + 60.0 - 90.0
    assert figures["share_steady_after"] == 0.5


@pytest.mark.parametrize("completed", [(), (3,), (3, 3), (3, 3, 2, 3, 3)])
def test_less_than_three_in_a_row_is_not_steady(completed: tuple[int, ...]) -> None:
    figures = figures_of(history(*completed), 90.0)
    assert figures["seconds_to_steady_laps"] is None
    assert figures["share_steady_after"] == 0.0


def test_three_at_once_are_steady_with_nothing_after() -> None:
    figures = figures_of(history(3, 3, 3), 100.0)
    assert figures["seconds_to_steady_laps"] == 20.0
    assert figures["share_steady_after"] == 0.0


def test_steps_count_up_to_the_last_update() -> None:
    training = [
        episode("training", "off_track", 400, 105.0),
        episode("training", "off_track", 1000, 108.0),
    ]
    figures = figures_of(History(training=training, updates=[update(106.0), update(110.0)]), 100.0)
    assert (figures["steps_per_second"], figures["steps"], figures["updates"]) == (100.0, 1000, 2)


def test_the_best_lap_is_the_fastest_of_all_evaluations() -> None:
    assert figures_of(history(0, 3, 1), 100.0)["best_lap_s"] == 13.0


def test_a_seed_that_never_got_there_counts_as_the_slowest() -> None:
    assert _median([30.0, None, 20.0]) == 30.0
    assert _median([30.0, None, None]) is None
    assert _median([None]) is None


def test_memory_growth_leaves_the_beginning_out() -> None:
    # Six sixths of two samples: 10 while it begins, then from 100 to 104.
    samples = [10, 10, 100, 100, 101, 101, 102, 102, 103, 103, 104, 104]
    assert memory_growth(samples) == pytest.approx(0.04)
    assert memory_growth(samples[:5]) is None
    assert memory_growth([]) is None


def test_memory_of_a_command_and_its_children_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_trainer.bench.train._SAMPLE_S", 0.05)
    hold = "held = bytearray(80_000_000); import time; time.sleep(1.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}]); print('ok')"
    output, memory = _run_watched([sys.executable, "-c", code])
    assert output == "ok\n"
    assert 80e6 < max(memory) < 250e6 and min(memory) > 0
    with pytest.raises(RunFailed, match="^bench train: no$"):
        _run_watched([sys.executable, "-c", "import sys; sys.exit('error: no')"])


def test_a_setting_that_is_none_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="^Unknown key 'ppo.nonsense'"):
        run(settings=["ppo.nonsense=1"])
    with pytest.raises(ConfigError, match="^stop.minutes must be a number > 0"):
        run(minutes=0.0)
