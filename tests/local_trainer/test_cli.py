"""The command line: one-line errors, exit statuses, runs on disk, speed of the help."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from local_trainer.cli import console, live
from local_trainer.cli.main import run as run_cli
from local_trainer.progress import (
    EndEvent,
    EpisodeEvent,
    EvaluationEvent,
    PhaseEvent,
    ProgressLog,
    UpdateEvent,
)
from local_trainer.runs import Run, RunStatus

HEAVY = ("tensorflow", "rl_coach", "numba", "scipy", "matplotlib", "pandas", "av")


def make_run(runs_dir: Path, name: str, created: str, **values: object) -> Run:
    run = Run(runs_dir / name)
    run.path.mkdir(parents=True)
    given = {"job_name": name, "track": "Oval_track", "status": "finished", "updated": created}
    run.write_status(RunStatus(run=name, created=created, **(given | values)))  # type: ignore[arg-type]
    run.config_file.write_text("track: Oval_track\nppo:\n  batch_size: 64\n", encoding="utf-8")
    return run


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    make_run(folder, "older", "2026-01-01T10:00:00+00:00", minutes=3.5, best_lap_s=12.25)
    make_run(folder, "newer", "2026-01-02T10:00:00+00:00", job_name="second try")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run_cli(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def training_episode(episode: int, progress_percent: float, **values: object) -> EpisodeEvent:
    given = {"iteration": 0, "phase": "training", "status": "off_track", "reward": 1.0}
    given |= {"steps": 10, "duration_s": 0.7, "total_steps": 10 * (episode + 1)}
    return EpisodeEvent(episode=episode, progress_percent=progress_percent, **(given | values))  # type: ignore[arg-type]


def an_update(iteration: int = 0, **values: object) -> UpdateEvent:
    return UpdateEvent(iteration, 20, 4, 0.1, 0.2, 2.3, 0.01, 0.1, 0.5, 1e-3, 1.0, **values)  # type: ignore[arg-type]


def test_help_takes_less_than_a_second_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from local_trainer.cli.main import run; status = run(['--help']);"
        f"heavy = [name for name in {HEAVY} if name in sys.modules];"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "Usage: local-trainer" in done.stdout
    # The processor's time, for the machine may be busy with other tests.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--minute", "3"], "--minutes"),
        (["train", "--minutes", "soon"], "--minutes"),
        (["train", "--minutes", "-1"], "stop.minutes must be a number > 0"),
        (["train", "--until", "bored"], "one of steady, never, got 'bored'"),
        (["train", "--set", "ppo.batchsize=64"], "Did you mean 'ppo.batch_size'?"),
        (["train", "--set", "ppo.batch_size"], "--set takes key=value"),
        (["train", "--track", "reinvent_bse"], "reinvent_base"),
        (["train", "--reward", "nowhere.py"], "nowhere.py"),
        (["train", "--from", "@best"], "--from takes RUN"),
        (["train", "--resume", "nothing"], "Unknown run 'nothing'"),
        (["train", "--resume", "older", "--track", "Oval_track"], "--track cannot be given"),
        (["train", "--resume", "older", "--cars", "3"], "--cars cannot be given"),
        (["runs", "show", "oldr"], "Did you mean 'older'?"),
        (["runs", "compare", "older"], "two runs or more, got 1"),
        (["runs", "delete", "older", "nothing", "--yes"], "Unknown run 'nothing'"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    arguments: list[str], says: str, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "train" in arguments or "runs" in arguments:
        arguments = [*arguments, "--runs-dir", str(runs_dir)]
    status, out, err = call(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert sorted(path.name for path in runs_dir.iterdir()) == ["newer", "older"]


def test_traceback_shows_where_an_error_came_from(runs_dir: Path) -> None:
    with pytest.raises(Exception, match="Unknown run"):
        run_cli(["runs", "show", "nothing", "--runs-dir", str(runs_dir), "--traceback"])


def test_runs_list_is_newest_first_in_json(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = call(capsys, "runs", "list", "--json", "--runs-dir", str(runs_dir))
    runs = json.loads(out)
    assert status == 0
    assert [run["run"] for run in runs] == ["newer", "older"]
    assert runs[0]["job_name"] == "second try"
    assert runs[1] | {"track": "Oval_track", "status": "finished", "minutes": 3.5} == runs[1]
    assert runs[1]["best_lap_s"] == 12.25


def test_runs_list_of_an_empty_folder_is_an_empty_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "runs", "list", "--json", "--runs-dir", str(tmp_path))[1] == "[]\n"


def test_a_run_nobody_works_on_is_shown_as_interrupted(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(runs_dir, "killed", "2026-01-03T10:00:00+00:00", status="running")
    _, out, _ = call(capsys, "runs", "list", "--json", "--runs-dir", str(runs_dir))
    assert json.loads(out)[0]["status"] == "interrupted"


def test_runs_show_counts_what_the_log_holds(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(runs_dir / "older")
    log = ProgressLog(run.progress_file)
    for iteration, completed in enumerate((0, 4, 5)):
        log.write(an_update(iteration))
        name = f"{iteration}_Step-20.ckpt"
        log.write(EvaluationEvent(iteration, name, 5, completed, 90.0, None, None, False))
    log.close()
    _, out, _ = call(capsys, "runs", "show", "older", "--json", "--runs-dir", str(runs_dir))
    results = json.loads(out)["results"]
    assert results["evaluations"] == 3
    assert results["evaluations_all_laps"] == 1
    assert results["first_lap_iteration"] == 1


def test_compare_shows_only_the_settings_that_differ(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = "track: Oval_track\nppo:\n  batch_size: 128\n"
    Run(runs_dir / "newer").config_file.write_text(changed, encoding="utf-8")
    arguments = ("runs", "compare", "older", "newer", "--json", "--runs-dir", str(runs_dir))
    _, out, _ = call(capsys, *arguments)
    compared = json.loads(out)
    assert compared["settings"] == {"ppo.batch_size": [64, 128]}
    assert compared["results"]["minutes"] == [3.5, 0.0]


def test_delete_with_yes_removes_the_run_only(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "runs", "delete", "older", "--yes", "--runs-dir", str(runs_dir))[0] == 0
    assert [path.name for path in runs_dir.iterdir()] == ["newer"]


def test_a_running_run_is_not_deleted(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run(runs_dir / "older").lock():
        status, _, err = call(
            capsys, "runs", "delete", "newer", "older", "--yes", "--runs-dir", str(runs_dir)
        )
    assert status == 2
    assert "is running" in err
    assert (runs_dir / "older").exists()
    assert (runs_dir / "newer").exists()


def test_doctor_says_what_it_found_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = call(capsys, "doctor", "--json", "--runs-dir", str(tmp_path / "runs"))
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["python"]["state"] == "ok"
    assert checks["packages"]["state"] == "ok"
    assert checks["runs"]["state"] == "ok"
    assert not (tmp_path / "runs").exists()


def test_doctor_names_a_folder_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, out, _ = call(capsys, "doctor", "--runs-dir", str(tmp_path / "file" / "runs"))
    assert status == 1
    assert "✗ runs" in out
    assert "--runs-dir" in out


def test_standing_sums_up_an_iteration() -> None:
    standing = live.Standing()
    events = (
        PhaseEvent("rollout", 0, time=100.0),
        training_episode(0, 20.0, time=101.0),
        training_episode(1, 60.0, time=104.0),
        training_episode(0, 99.0, phase="evaluation", time=104.0),
        an_update(time=105.0),
        EvaluationEvent(0, "0_Step-20.ckpt", 5, 2, 71.0, 14.2, 15.0, True, time=110.0),
        EndEvent("stopped", "Ctrl-C", time=110.0),
    )
    for event in events:
        standing = standing.after(event)
    assert standing.episodes == 2
    assert standing.mean_completion == 40.0
    assert standing.steps_per_second == 2.0  # 20 steps in 10 s
    assert standing.best_lap_s == 14.2
    line = live.iteration_line(standing, "0:10")
    assert "evaluation 2 of 5 laps, mean 71 %" in line
    assert "best lap 14.20 s" in line


def test_time_left_counts_earlier_starts() -> None:
    assert live.TimeLimit(10.0, used_minutes=4.0).text(90.0) == "5:30, at most 4:30 left"
    assert live.TimeLimit(None).text(3723.0) == "1:02:03"


def test_clock_and_laps_are_short() -> None:
    assert console.clock(65.4) == "1:05"
    assert console.lap_time(None) == console.NOTHING
    assert console.percent(33.4) == "33 %"


def test_brackets_in_tables_and_facts_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console.stdout().print(console.facts([("line", "points[i] = [0, 1]")]))
    console.stdout().print(console.table(["name"], [["waypoints[i]"]]))
    shown = capsys.readouterr().out
    assert "points[i] = [0, 1]" in shown and "waypoints[i]" in shown
