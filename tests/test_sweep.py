"""A real sweep: run, killed in the middle, gone on with, reported and deleted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from training import TINY, command, error_line, run_command, start, wait_until

from local_trainer.config import RunConfig
from local_trainer.config_keys import assign
from local_trainer.runs import Run, list_runs

FAILING = """
def reward_function(params):
    if params["steps"] > 15:
        raise KeyError("speed_limit")
    return 1.0
"""


def write_sweep(folder: Path, **data: Any) -> Path:
    base: dict[str, Any] = {}
    for key, text in TINY.items():
        assign(base, key, None if text == "null" else text, RunConfig)
    assign(base, "stop.until", "never", RunConfig)
    assign(base, "stop.episodes", 30, RunConfig)
    for number_key in ("stop", "episodes", "evaluation", "simulator"):
        base[number_key] = {k: _number(v) for k, v in base[number_key].items()}
    base["ppo"] = {key: _number(value) for key, value in base["ppo"].items()}
    settings = {
        "base": base,
        "final_laps": 6,
        "early_stopping": "none",
        "resources": {"cpus": 1, "memory_gb": 2},
        **data,
    }
    file = folder / "tiny.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    return file


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        return value


def places(folder: Path) -> list[str]:
    return ["--sweeps-dir", str(folder / "sweeps")]


def status(folder: Path) -> dict[str, Any]:
    done = run_command(command("sweep", "status", "tiny", "--json", *places(folder)))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def bad(folder: Path, *more: str, **data: Any) -> str:
    """Return the line of a sweep that must not start, after checking that nothing has."""
    file = write_sweep(folder, **data)
    where = ["--runs-dir", str(folder / "runs"), *places(folder)]
    line = error_line(run_command(command("sweep", str(file), *where, *more), status=2))
    assert list_runs(folder / "runs") == []
    assert list((folder / "sweeps").glob("[!.]*")) == []
    return line


def test_bad_input_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    space = {"ppo.clip": [0.1, 0.2]}
    assert "Unknown key 'sedes'" in bad(tmp_path, space=space, sedes=[1])
    assert "No reward function file" in bad(tmp_path, space={"files.reward": ["nowhere.py"]})
    address = "127.0.0.1:9"  # the port of a service that no machine offers any more
    assert "127.0.0.1:9" in bad(tmp_path, "--ray", address, space=space)


@pytest.mark.slow
def test_more_than_the_machine_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    resources = {"cpus": 1, "gpus": 60, "memory_gb": 1}
    line = bad(tmp_path, space={"ppo.clip": [0.1, 0.2]}, resources=resources)
    assert "resources.gpus must be at most" in line and "got 60" in line


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_a_failed_trial_stops_nobody(tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    space = {"files.reward": ["rewards/default.py", str(failing)], "ppo.batch_size": [16, 32]}
    file = write_sweep(tmp_path, space=space)
    runs_dir = tmp_path / "runs"
    other = run_command(_train(runs_dir))
    assert other.returncode == 0

    process = start(command("sweep", str(file), "--runs-dir", str(runs_dir), *places(tmp_path)))
    first = Run(runs_dir / "tiny-001")
    wait_until(lambda: first.status_file.exists() and first.read_status().iteration >= 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    reached = first.read_status().iteration
    wait_until(lambda: not first.is_locked(), 20.0)

    done = run_command(command("sweep", "resume", "tiny", "--json", *places(tmp_path)))
    board = json.loads(done.stdout)
    entries = {entry["run"]: entry for entry in board["entries"]}
    assert sorted(entries) == [f"tiny-00{number}" for number in (1, 2, 3, 4)]
    for name in ("tiny-001", "tiny-002"):
        assert entries[name]["state"] == "finished"
        assert (entries[name]["laps"], Run(runs_dir / name).read_status().episodes) == (6, 30)
    for name in ("tiny-003", "tiny-004"):
        assert entries[name]["state"] == "failed"
        assert "raised KeyError: 'speed_limit'" in entries[name]["reason"]
        assert "\n" not in entries[name]["reason"]
    assert first.read_status().iteration == 3 >= reached
    assert entries["tiny-001"]["values"] == {
        "files.reward": "rewards/default.py",
        "ppo.batch_size": 16,
    }
    page = (tmp_path / "sweeps" / "tiny" / "report.html").read_text()
    assert "tiny-004" in page and "data:image/png" in page

    states = {trial["run"]: trial["state"] for trial in status(tmp_path)["trials"]}
    assert sorted(states.values()) == ["failed", "failed", "finished", "finished"]
    again = run_command(command("sweep", "resume", "tiny", *places(tmp_path)), status=2)
    assert "has ended" in error_line(again)

    delete = command("sweep", "delete", "tiny", *places(tmp_path))
    refused = run_command(delete, status=2)
    assert "--yes" in error_line(refused)
    assert len(list_runs(runs_dir)) == 5
    run_command([*delete, "--yes"])
    assert [run.name for run in list_runs(runs_dir)] == ["tiny-other"]
    assert not (tmp_path / "sweeps" / "tiny").exists()


@pytest.mark.slow
def test_a_sweep_is_stopped_watched_and_its_failures_are_tried_again(tmp_path: Path) -> None:
    flag = tmp_path / "mended"
    fragile = tmp_path / "fragile.py"
    fragile.write_text(
        f"import os\n\n\ndef reward_function(params):\n"
        f"    if params['steps'] > 15 and not os.path.exists({str(flag)!r}):\n"
        "        raise KeyError('speed_limit')\n"
        "    return 1.0\n"
    )
    base_space = {"files.reward": [str(fragile), "rewards/default.py"]}
    file = write_sweep(tmp_path, space=base_space, resources={"cpus": 2, "memory_gb": 2})
    where = ["--runs-dir", str(tmp_path / "runs"), *places(tmp_path)]
    again = run_command(command("sweep", "stop", "tiny", *places(tmp_path)), status=2)
    assert "Unknown sweep 'tiny'" in error_line(again)

    process = start(command("sweep", str(file), *where))
    second = Run(tmp_path / "runs" / "tiny-002")
    wait_until(lambda: second.status_file.exists() and second.read_status().iteration >= 1)
    (listed,) = json.loads(
        run_command(command("sweep", "list", "--json", *places(tmp_path))).stdout
    )
    assert (listed["name"], listed["num_trials"]) == ("tiny", 2)
    assert status(tmp_path)["process_id"] == process.pid
    shown = run_command(command("sweep", "status", "tiny", *places(tmp_path))).stdout
    assert f"running (process {process.pid})" in shown
    done = run_command(command("sweep", "stop", "tiny", *places(tmp_path)))
    assert "sweep resume tiny" in done.stdout
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "The sweep is not complete." in output
    assert status(tmp_path)["process_id"] is None
    reached = second.read_status().iteration
    assert 1 <= reached and not second.is_locked()

    report = run_command(command("sweep", "report", "tiny", "--json", *places(tmp_path)))
    states = {entry["run"]: entry["state"] for entry in json.loads(report.stdout)["entries"]}
    assert states["tiny-001"] == "failed"
    flag.touch()
    done = run_command(command("sweep", "resume", "tiny", "--failed", "--json", *places(tmp_path)))
    entries = {entry["run"]: entry for entry in json.loads(done.stdout)["entries"]}
    assert {entry["state"] for entry in entries.values()} == {"finished"}
    assert all(entry["laps"] == 6 for entry in entries.values())
    shown = run_command(command("sweep", "report", "tiny", *places(tmp_path))).stdout
    assert "tiny-001" in shown and "report.html" in shown


def _train(runs_dir: Path) -> list[str]:
    from training import train_command

    return train_command(runs_dir, "tiny-other", "--episodes", "10")
