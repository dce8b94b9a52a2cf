"""A sweep's folder: what it keeps, what it deletes, how its trials compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local_trainer.checkpoints import BestAndLast, Checkpoint, write_pointers
from local_trainer.compare.laps import common_config, conditions_of, keep
from local_trainer.config import load_config, save_config
from local_trainer.errors import ConfigError, NotFound
from local_trainer.evaluation import EvaluationReport
from local_trainer.evaluation import Trial as Lap
from local_trainer.launch.trials import STOPPED, Resources, TrialState
from local_trainer.runs import Run, RunStatus
from local_trainer.sweep.config import check_sweep
from local_trainer.sweep.folder import Sweep, Trial, changed, find_sweep
from local_trainer.sweep.leaderboard import make_leaderboard
from local_trainer.sweep.page import counts, write_page
from local_trainer.sweep.running import prepare_sweep
from local_trainer.sweep.search import OptunaSampler, SweepSource


def make_sweep(folder: Path, **data: Any) -> Sweep:
    settings = {
        "name": "s",
        "base": {"track": "Oval_track", "stop": {"episodes": 10}},
        "space": {"ppo.clip": [0.1, 0.2]},
        **data,
    }
    return prepare_sweep(check_sweep(settings), folder / "sweeps", folder / "runs")


@pytest.fixture
def given_out(tmp_path: Path) -> tuple[Sweep, SweepSource, list[Run]]:
    """A sweep of two trials, both made."""
    sweep = make_sweep(tmp_path)
    source = SweepSource(sweep, Resources())
    runs = [run for _ in range(2) if (run := source.next_run())]
    return sweep, source, runs


def test_trials_are_runs_with_their_own_settings(
    given_out: tuple[Sweep, SweepSource, list[Run]],
) -> None:
    sweep, source, runs = given_out
    assert [run.name for run in runs] == ["s-001", "s-002"]
    assert source.next_run() is None
    configs = [load_config(run.config_file) for run in runs]
    assert [config.ppo.clip for config in configs] == [0.1, 0.2]
    assert {(c.threads, c.instance, c.stop.episodes) for c in configs} == {(1, "cpu", 10)}
    assert all(sweep.run_of(trial) is not None for trial in sweep.read_state().trials)


def test_what_was_interrupted_is_given_out_again_and_what_has_ended_is_not(
    given_out: tuple[Sweep, SweepSource, list[Run]],
) -> None:
    sweep, source, _ = given_out
    source.take([TrialState("s-001", "finished"), TrialState("s-002", "stopped", STOPPED)], 1.0)
    again = SweepSource(sweep, Resources())
    run = again.next_run()
    assert run is not None and run.name == "s-002"
    assert again.next_run() is None


def test_a_sweep_keeps_the_reward_function_it_was_started_with(tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text("def reward_function(params):\n    return 1.0\n")
    sweep = make_sweep(tmp_path, space={"files.reward": [str(reward), "rewards/speed.py"]})
    reward.write_text("def reward_function(params):\n    return 2.0\n")
    run = SweepSource(sweep, Resources()).next_run()
    assert run is not None
    assert "return 1.0" in run.reward_file.read_text()
    assert sweep.read_state().trials[0].values == {"files.reward": str(reward)}


def test_a_name_is_taken_by_a_sweep_or_its_runs(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    with pytest.raises(ConfigError, match="sweep resume s"):
        make_sweep(tmp_path)
    SweepSource(sweep, Resources()).next_run()
    sweep.delete()
    with pytest.raises(ConfigError, match="Run 's-001' exists already"):
        make_sweep(tmp_path)


def test_only_the_runs_that_the_sweep_made_are_its_own(
    given_out: tuple[Sweep, SweepSource, list[Run]],
) -> None:
    sweep, _, runs = given_out
    # Deleted, and made anew by somebody else at another time.
    runs[0].write_status(replace(runs[0].read_status(), created="2020-01-01T00:00:00+00:00"))
    found = [sweep.run_of(trial) for trial in sweep.read_state().trials]
    assert found == [None, runs[1]]


def test_a_running_sweep_is_not_deleted(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    with sweep.lock():
        assert sweep.process_id() is not None
        with pytest.raises(ConfigError, match="is running"):
            sweep.delete()
        with pytest.raises(ConfigError, match="sweep stop s"), sweep.lock():
            pass
    assert sweep.process_id() is None
    sweep.delete()
    assert list((tmp_path / "sweeps").iterdir()) == []


def test_a_sweep_is_held_while_it_and_its_runs_are_deleted(
    given_out: tuple[Sweep, SweepSource, list[Run]],
) -> None:
    sweep, _, runs = given_out
    with runs[1].lock(), pytest.raises(ConfigError, match=r"'s-002' is running.*Nothing was"):
        sweep.delete(runs)
    assert all(run.path.exists() for run in runs)
    with sweep.lock(), pytest.raises(ConfigError, match="Sweep 's' is running"):
        sweep.delete(runs)
    assert all(run.path.exists() for run in runs)
    sweep.delete(runs)
    assert not any(path.exists() for path in (sweep.path, runs[0].path, runs[1].path))


def test_a_run_that_was_made_just_before_a_kill_is_taken_over(
    given_out: tuple[Sweep, SweepSource, list[Run]],
) -> None:
    sweep, source, runs = given_out
    made = runs[1].read_status().created
    state = source.state
    sweep.write_state(changed(state, replace(state.trials[1], created="")))
    again = SweepSource(sweep, Resources())
    assert [run.name for _ in range(2) if (run := again.next_run())] == ["s-001", "s-002"]
    trial = sweep.read_state().trials[1]
    assert (trial.state, trial.created) == ("waiting", made)


@pytest.mark.parametrize("what", ["older", "begun", "other"])
def test_a_run_of_the_same_name_that_is_somebody_elses_is_not_taken_over(
    given_out: tuple[Sweep, SweepSource, list[Run]], what: str
) -> None:
    sweep, source, runs = given_out
    status, config = runs[1].read_status(), load_config(runs[1].config_file)
    if what == "older":
        runs[1].write_status(replace(status, created="2020-01-01T00:00:00+00:00"))
    elif what == "begun":
        runs[1].write_status(replace(status, status="finished"))
    else:
        save_config(config.model_copy(update={"seed": 99}), runs[1].config_file)
    sweep.write_state(changed(source.state, replace(source.state.trials[1], created="")))
    again = SweepSource(sweep, Resources())
    assert [run.name for _ in range(2) if (run := again.next_run())] == ["s-001"]
    failed = again.state.trials[1]
    assert failed.state == "failed" and "exists already" in failed.reason


def test_an_unknown_sweep_is_told_with_the_nearest(tmp_path: Path) -> None:
    make_sweep(tmp_path, name="rates")
    with pytest.raises(NotFound, match="Did you mean 'rates'"):
        find_sweep("rate", tmp_path / "sweeps")


def test_requests_to_end_a_trial_are_taken_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    sweep.request_stop(Trial(2, "s-002", {}, 0))
    assert sweep.take_requests() == ["s-002"]
    assert sweep.take_requests() == []


BEST = Checkpoint(1, 10)


def drive(
    run: Run,
    sweep: Sweep,
    times_s: list[float],
    num_failed: int = 0,
    checkpoint: Checkpoint = BEST,
    seed: int | None = None,
) -> None:
    """Keep robust laps in a run: so many complete ones, then failed ones that got half way."""
    run.model_dir.mkdir(exist_ok=True)
    for path in checkpoint.files(run.model_dir):
        path.touch()
    write_pointers(run.model_dir, BestAndLast(BEST, 1.0, checkpoint, 0.0))
    laps = [
        Lap(number, "lap_complete", 100.0, time_s, 0, 0, 1.0, 0.0, False)
        for number, time_s in enumerate(times_s, start=1)
    ]
    laps += [
        Lap(len(laps) + number, "off_track", 50.0, 3.0, 1, 0, 1.0, 0.0, False)
        for number in range(1, num_failed + 1)
    ]
    report = EvaluationReport(run.name, checkpoint.name, True, 0.1, tuple(laps))
    config = common_config(load_config(run.config_file), sweep.common)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    keep(run, report, conditions_of(run, config, len(laps), 0.1))


def test_completed_laps_count_before_lap_time_and_a_failed_trial_is_last(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, space={"ppo.clip": [0.1, 0.2, 0.3, 0.4]}, final_laps=8)
    source = SweepSource(sweep, Resources())
    runs = [run for _ in range(4) if (run := source.next_run())]
    drive(runs[0], sweep, [10.0] * 5, num_failed=3)
    drive(runs[1], sweep, [20.0] * 4 + [21.0] * 4)
    drive(runs[2], sweep, [15.0] * 8)
    states = [TrialState(run.name, "finished") for run in runs[:3]]
    state = source.take([*states, TrialState(runs[3].name, "failed", "it raised")], 2.0)
    board = make_leaderboard(sweep)
    assert [(entry.place, entry.run) for entry in board.entries] == [
        (1, "s-003"),
        (2, "s-002"),
        (3, "s-001"),
        (None, "s-004"),
    ]
    best, second, third, failed = board.entries
    assert best.values == {"ppo.clip": 0.3}
    assert best.completion is not None and best.completion.high == pytest.approx(1.0)
    assert (second.lap_s, third.lap_interval) == (20.5, None)
    assert second.lap_interval is not None
    assert 20.0 <= second.lap_interval.low < 20.5 < second.lap_interval.high <= 21.0
    assert (third.completed, third.laps, third.mean_completion_percent) == (5, 8, 81.25)
    assert (failed.state, failed.reason) == ("failed", "it raised")
    assert counts(state) == "3 finished, 1 failed of 4"

    write_page(sweep, state, board)
    page = sweep.report_file.read_text()
    assert "it raised" in page and "data:image/png" in page and "s-003" in page
    assert "Lap times of different tracks cannot be compared" in page


def test_only_laps_of_the_best_checkpoint_under_the_sweeps_own_conditions_count(
    tmp_path: Path,
) -> None:
    sweep = make_sweep(tmp_path, final_laps=8)
    source = SweepSource(sweep, Resources())
    runs = [run for _ in range(2) if (run := source.next_run())]
    drive(runs[0], sweep, [15.0] * 8)
    # Driven later, for comparisons with other runs.
    drive(runs[0], sweep, [9.0] * 8, checkpoint=Checkpoint(2, 20))
    drive(runs[0], sweep, [8.0] * 8, seed=77)
    drive(runs[0], sweep, [7.0] * 4)
    drive(runs[1], sweep, [6.0] * 4)
    best, other = make_leaderboard(sweep).entries
    assert (best.run, best.checkpoint, best.laps, best.lap_s) == ("s-001", BEST.name, 8, 15.0)
    assert (other.place, other.laps) == (None, 0)


def test_optuna_learns_from_scores_and_goes_on_from_what_was_kept() -> None:
    pytest.importorskip("optuna")
    data = {
        "name": "s",
        "base": {"stop": {"episodes": 10}},
        "space": {
            "ppo.discount_factor": {"uniform": [0.0, 1.0]},
            "ppo.loss_type": {"choice": ["huber", "mean squared error"]},
        },
        "search": "optuna",
        "samples": 40,
        "seeds": [4, 5],
    }
    config = check_sweep(data)
    before: list[Trial] = []
    for first in (0, 20):  # the second half is another process, as after an interruption
        sampler = OptunaSampler(config, tuple(before))
        for number in range(first + 1, first + 21):
            point = sampler.next_point(number)
            assert point is not None and point.seed == (4 if number % 2 else 5)
            is_right = point.values["ppo.loss_type"] == "huber"
            score = is_right - abs(point.values["ppo.discount_factor"] - 0.8)
            trial = Trial(
                number, f"s-{number:03}", point.values, point.seed, "finished", score=score
            )
            sampler.told(trial)
            before.append(trial)
    assert sampler.next_point(41) is None
    last = before[-10:]
    # By chance half of them would be right, and 0.8 would be missed by 0.34 in the mean.
    assert sum(trial.values["ppo.loss_type"] == "huber" for trial in last) >= 8
    missed = [abs(trial.values["ppo.discount_factor"] - 0.8) for trial in last]
    assert sum(missed) / len(missed) < 0.2


def test_optuna_learns_only_from_trials_that_have_ended() -> None:
    pytest.importorskip("optuna")
    space = {"ppo.clip": {"uniform": [0.1, 0.2]}}
    data = {"name": "s", "base": {"stop": {"episodes": 10}}, "space": space, "samples": 4}
    config = check_sweep({**data, "search": "optuna"})
    half_way = Trial(1, "s-001", {"ppo.clip": 0.15}, 0, state="waiting", score=3.0)
    ended = replace(half_way, number=2, state="finished", score=5.0)
    sampler = OptunaSampler(config, (half_way, ended))
    assert [trial.value for trial in sampler._study.trials] == [5.0]


def test_a_status_that_says_running_counts_as_interrupted_when_nobody_works(
    given_out: tuple[Sweep, SweepSource, list[Run]],
) -> None:
    sweep, source, _ = given_out
    with sweep.lock():
        source.take([TrialState("s-001", "running")], 0.1)
        assert sweep.read_state().trials[0].state == "running"
    assert sweep.read_state().trials[0].state == "waiting"
    assert isinstance(Run(sweep.runs_dir / "s-001").read_status(), RunStatus)
