"""What happens when a training is killed, stopped, damaged or given something bad."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training import (
    command,
    error_line,
    run_command,
    start,
    train_command,
    trainer_process,
    wait_for_iteration,
    wait_until,
)

from local_trainer.checkpoints import list_checkpoints, list_states
from local_trainer.history import read_history
from local_trainer.runs import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(runs_dir: Path) -> Run:
    """A run of four iterations that nothing happened to."""
    run_command(train_command(runs_dir, "whole", "--episodes", "40"))
    return Run(runs_dir / "whole")


@pytest.fixture
def finished(whole: Run, tmp_path: Path) -> Run:
    """A copy of that run, to damage."""
    shutil.copytree(whole.path, tmp_path / "copy")
    return Run(tmp_path / "copy")


def resume(run: Run, *more: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    arguments = ["train", "--resume", run.name, "--runs-dir", str(run.path.parent), *more]
    return run_command(command(*arguments), status)


def tensors(run: Run, number: int) -> list[bytes]:
    """Return the contents of a checkpoint: weights, and optimizer."""
    weights = next(c for c in list_checkpoints(run.model_dir) if c.number == number)
    suffix = ".data-00000-of-00001"
    files = [Path(f"{weights.prefix(run.model_dir)}{suffix}")]
    files.append(run.path / "resume" / f"{number}.ckpt{suffix}")
    return [path.read_bytes() for path in files]


def rows_without_clock(run: Run, iteration: int) -> list[dict[str, str]]:
    with run.training_trace_file(iteration).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["wall_clock"]
    return rows


def outcomes(run: Run) -> list[tuple[object, ...]]:
    history = read_history(run)
    episodes = [*history.training, *history.trials]
    driven: list[tuple[object, ...]] = [
        (e.phase, e.iteration, e.episode, e.status, e.progress_percent, e.reward, e.total_steps)
        for e in episodes
    ]
    return driven + [(u.iteration, u.transitions, u.policy_loss) for u in history.updates]


# Going on.


def test_a_killed_run_goes_on_as_if_nothing_had_happened(runs_dir: Path, whole: Run) -> None:
    run = Run(runs_dir / "killed")
    process = start(train_command(runs_dir, "killed", "--episodes", "40"))
    wait_for_iteration(run, 2)
    os.kill(trainer_process(run), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended with signal 9" in errors and "Traceback" not in errors
    assert run.read_status().status == "interrupted"

    resume(run)
    assert run.read_status().status == "finished"
    assert tensors(run, 4) == tensors(whole, 4)
    for name in ("training_metrics.json", "metrics/TrainingMetrics.json"):
        assert (run.path / name).read_text() == (whole.path / name).read_text()
    for iteration in range(4):
        assert rows_without_clock(run, iteration) == rows_without_clock(whole, iteration)
    assert outcomes(run) == outcomes(whole)
    status, expected = run.read_status(), whole.read_status()
    for name in ("iteration", "episodes", "steps", "best_checkpoint", "best_progress_percent"):
        assert getattr(status, name) == getattr(expected, name), name
    left_over = [
        p for p in run.path.rglob(".*") if p.name not in (".coach_checkpoint", ".run.lock")
    ]
    assert left_over == []


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    finished: Run, whole: Run
) -> None:
    newest = list_checkpoints(finished.model_dir)[-1]
    newest.files(finished.model_dir)[-1].write_bytes(b"damaged")
    done = resume(finished, "--episodes", "50")
    assert "4_Step-" in done.stderr + (finished.path / "logs/trainer.log").read_text()
    assert "Falling back" in (finished.path / "logs/trainer.log").read_text()
    assert finished.read_status().iteration == 5
    # The iteration that was lost comes out the same again.
    assert tensors(finished, 4) == tensors(whole, 4)


def test_no_readable_checkpoint_is_told(finished: Run) -> None:
    for state in list_states(finished):
        state.checkpoint.files(finished.model_dir)[-1].write_bytes(b"damaged")
    line = error_line(resume(finished, "--episodes", "50", status=2))
    assert "No checkpoint of run 'copy' can be read" in line


# Stopping, and two at once.


def test_a_running_run_is_left_alone_and_ctrl_c_stops_it_cleanly(runs_dir: Path) -> None:
    run = Run(runs_dir / "stopped")
    process = start(train_command(runs_dir, "stopped"))
    wait_for_iteration(run, 1)

    assert "is running" in error_line(resume(run, status=2))
    again = run_command(train_command(runs_dir, "stopped"), status=2)
    assert "stopped" in error_line(again)

    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20.0
    assert process.returncode == 130 and "Traceback" not in errors
    status = run.read_status()
    assert (status.status, status.reason) == ("stopped", "stopped by the user")
    assert f"local-trainer train --resume stopped --runs-dir {runs_dir}" in output
    assert list_states(run)[-1].number == status.iteration >= 1

    resume(run, "--episodes", str(status.episodes + 10))
    assert run.read_status().status == "finished"


# Bad rewards, bad settings.


def reward_file(folder: Path, body: str) -> Path:
    path = folder / "bad.py"
    path.write_text(
        "import time\n\n\ndef reward_function(params):\n"
        f"    if params['steps'] > 15:\n        {body}\n    return 1.0\n"
    )
    return path


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("raise KeyError('speed_limit')", "raised KeyError: 'speed_limit'"),
        ("return float('nan')", "returned NaN"),
        ("time.sleep(60)", "did not return within"),
    ],
    ids=["raises", "nan", "hangs"],
)
def test_a_reward_function_that_fails_ends_the_run_with_its_line(
    tmp_path: Path, body: str, what: str
) -> None:
    reward = reward_file(tmp_path, body)
    arguments = train_command(tmp_path, "bad", "--reward", str(reward))
    line = error_line(run_command(arguments, status=2))
    number = 4 if "nan" in body else 6  # what is returned belongs to the function
    assert what in line and f"reward_function.py:{number}" in line and "steps=16" in line
    run = Run(tmp_path / "bad")
    status = run.read_status()
    assert status.status == "failed" and what in status.reason
    assert json.loads(run.failure_file.read_text())["exit_status"] == 2
    assert list_checkpoints(run.model_dir)  # the run stays


def test_a_run_that_is_stopped_while_it_sets_up_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path / "early")
    process = start(train_command(tmp_path, "early", "--episodes", "10"))
    wait_until(lambda: run.status_file.exists() and run.read_status().status == "running")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert run.read_status().status == "stopped" and run.read_status().iteration == 0
    assert "go on" in output and "evaluate" not in output  # there is nothing yet that could
    assert not any("Traceback" in p.read_text() for p in (run.path / "logs").glob("*.log"))
    resume(run)
    assert run.read_status().status == "finished" and run.read_status().episodes == 10


def test_a_training_that_diverges_is_told_in_one_line(tmp_path: Path) -> None:
    preset = tmp_path / "per_cent.py"
    preset.write_text(
        "from coach_presets.preset import graph_manager as make\n"
        "from local_trainer.config import PpoConfig\n"
        "graph_manager = make(PpoConfig())\n"
        "graph_manager.agent_params.algorithm.discount = 99\n"
    )
    more = ("--episodes", "20", "--set", f"files.preset={preset}")
    line = error_line(run_command(train_command(tmp_path, "wild", *more), status=1))
    assert "Training diverged in iteration 0" in line and "value loss is" in line
    assert "ppo.learning_rate" in line and "largest value target" in line
    assert Run(tmp_path / "wild").read_status().status == "failed"


def test_a_run_with_other_actions_is_no_beginning(
    whole: Run, runs_dir: Path, tmp_path: Path
) -> None:
    metadata = json.loads(whole.metadata_file.read_text())
    metadata["action_space"] = metadata["action_space"][:4]
    actions = tmp_path / "model_metadata.json"
    actions.write_text(json.dumps(metadata))
    more = ("--actions", str(actions), "--from", "whole")
    line = error_line(run_command(train_command(runs_dir, "fewer", *more), status=2))
    assert "its actions is 10, this run's is 4" in line


def test_a_run_begins_with_the_weights_of_another(whole: Run, runs_dir: Path) -> None:
    more = ("--from", "whole@last", "--episodes", "10")
    run_command(train_command(runs_dir, "onward", *more))
    assert tensors(Run(runs_dir / "onward"), 0)[0] == tensors(whole, 4)[0]


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for the first checkpoint and not for the second."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can only be made by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_later(small_disk: Path) -> None:
    done = run_command(train_command(small_disk, "full", "--episodes", "30"), status=1)
    assert "No space left on device" in error_line(done)
    run = Run(small_disk / "full")
    status = run.read_status()
    assert status.status == "failed" and "No space left on device" in status.reason
    assert list_states(run)
    assert not [path for path in run.model_dir.glob(".*") if path.name != ".coach_checkpoint"]
    subprocess.run(["mount", "-o", "remount,size=1g", str(small_disk)], check=True)
    resume(run)
    wait_until(lambda: run.read_status().status == "finished", 5.0)
    assert run.read_status().iteration == 3
