"""Processes that open other people's files or run the user's code see no secret."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from local_trainer.config import resolve_config, save_config
from local_trainer.environment import without_secrets
from local_trainer.launch.processes import start_probe, start_stack_training, start_training
from local_trainer.runs import Run

SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LOCAL_TRAINER_CONSOLE_USER",
    "LOCAL_TRAINER_CONSOLE_PASSWORD",
    "REDIS_PASSWORD",
    "REDIS_URL",
    "MINIO_ROOT_USER",
    "MINIO_ROOT_PASSWORD",
    "github_token",
    "SOME_API_KEY",
)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("GAZEBO_HOST", "kept")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "mine")
    made.path.mkdir()
    save_config(resolve_config(sets=["run=mine"]), made.config_file)
    return made


def seen_by(process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Return what a process that has just been started sees, and end it."""
    text = Path(f"/proc/{process.pid}/environ").read_bytes().decode()
    process.kill()
    process.wait()
    return dict(line.split("=", 1) for line in text.split("\0") if line)


def test_only_secrets_are_left_out() -> None:
    kept = without_secrets({"PATH": "/bin", "PYTHONPATH": "a", "HOME": "/", "MY_PASSWORD": "x"})
    assert kept == {"PATH": "/bin", "PYTHONPATH": "a", "HOME": "/"}
    assert not set(SECRETS) & without_secrets().keys()


def test_a_training_on_its_own_and_a_models_trial_see_none(run: Run, tmp_path: Path) -> None:
    for process in (start_training(run), start_probe(tmp_path)):
        seen = seen_by(process)
        assert "s3cr3t" not in seen.values()
        assert seen["GAZEBO_HOST"] == "kept"


def test_a_training_in_the_stack_keeps_what_it_reaches_others_with(run: Run) -> None:
    assert seen_by(start_stack_training(run))["REDIS_PASSWORD"] == "s3cr3t"
