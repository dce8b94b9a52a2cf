"""The real commands with tiny numbers: train, evaluate, resume, begin from another run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TINY = [
    *("--cars", "2", "--set", "ppo.episodes_between_training=2", "--set", "ppo.batch_size=16"),
    *("--set", "episodes.max_steps=20", "--set", "evaluation.max_steps=20"),
    *("--set", "evaluation.trials=1", "--track", "Oval_track"),
]


def local_trainer(runs_dir: Path, *arguments: str) -> Any:
    """Return what a command prints as JSON."""
    command = [sys.executable, "-m", "local_trainer.cli.main", *arguments]
    done = subprocess.run(
        [*command, "--runs-dir", str(runs_dir), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    local_trainer(folder, "train", "--name", "tiny", "--episodes", "4", *TINY)
    return folder


def test_train_leaves_what_it_says(runs_dir: Path) -> None:
    run = local_trainer(runs_dir, "runs", "show", "tiny")
    assert run["status"] == "finished"
    assert run["episodes"] == 4
    assert run["iteration"] == 2
    assert run["results"]["evaluations"] == 2
    expected = {"model", "plots", "report", "config", "reward_function", "log"}
    assert expected <= set(run["files"])
    assert Path(run["files"]["model"]).stat().st_size > 10_000_000
    assert "<html" in Path(run["files"]["report"]).read_text(encoding="utf-8")


def test_evaluate_drives_the_laps_asked_for(runs_dir: Path) -> None:
    report = local_trainer(runs_dir, "evaluate", "tiny", "--trials", "2", "--resets", "2")
    assert len(report["trials"]) == 2
    assert (report["is_robust"], report["action_noise"]) == (False, 0.0)
    entries = json.loads((runs_dir / "tiny" / "evaluation_metrics.json").read_text())["metrics"]
    assert len(entries) == 2


def test_a_robust_evaluation_starts_all_around_in_both_directions(runs_dir: Path) -> None:
    metrics = (runs_dir / "tiny" / "evaluation_metrics.json").read_text()
    report = local_trainer(runs_dir, "evaluate", "tiny", "--robust", "--trials", "4")
    assert (report["is_robust"], report["action_noise"]) == (True, 0.1)
    starts = [(trial["start_fraction"], trial["is_reversed"]) for trial in report["trials"]]
    assert starts == [(0.0, False), (0.25, True), (0.5, False), (0.75, True)]
    assert (runs_dir / "tiny" / "evaluation_metrics.json").read_text() == metrics


def test_plot_draws_what_is_missing(runs_dir: Path) -> None:
    plots = runs_dir / "tiny" / "plots"
    (plots / "training.png").unlink()
    command = [sys.executable, "-m", "local_trainer", "plot", "tiny", "--runs-dir", str(runs_dir)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    assert (plots / "training.png").stat().st_size > 5000


def test_deepracer_utils_reads_the_run(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "local_trainer"))
    from test_simtrace import read_with_deepracer_utils

    read_with_deepracer_utils(runs_dir / "tiny", per_iteration=2)


def test_a_checkpoint_that_is_not_there_is_told_in_one_line(runs_dir: Path) -> None:
    command = [sys.executable, "-m", "local_trainer", "evaluate", "tiny", "--checkpoint", "77"]
    done = subprocess.run(
        [*command, "--runs-dir", str(runs_dir)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "No checkpoint '77'" in done.stderr and len(done.stderr.splitlines()) == 1


def test_resume_goes_on_where_the_run_ended(runs_dir: Path) -> None:
    run = local_trainer(runs_dir, "train", "--resume", "tiny", "--episodes", "6")
    assert run["episodes"] == 6
    assert run["iteration"] == 3


def test_a_run_can_begin_with_the_weights_of_another(runs_dir: Path) -> None:
    arguments = ["train", "--name", "second", "--from", "tiny", "--episodes", "2", *TINY]
    assert local_trainer(runs_dir, *arguments)["episodes"] == 2
    assert [run["run"] for run in local_trainer(runs_dir, "runs", "list")] == ["second", "tiny"]
