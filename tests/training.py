"""Start the real command with settings so small that a training takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from local_trainer.checkpoints import list_states
from local_trainer.runs import Run

ROOT = Path(__file__).parents[1]
TINY = {
    "ppo.episodes_between_training": "10",
    "ppo.optimization_epochs": "1",
    "ppo.batch_size": "32",
    "ppo.learning_rate": "0.001",
    "ppo.discount_factor": "0.95",
    "ppo.max_update_transitions": "null",
    "episodes.max_steps": "40",
    "evaluation.trials": "2",
    "evaluation.max_steps": "30",
    "simulator.num_cars": "10",
    "instance": "cpu",
}
SLOWLY = """

import time

plain = reward_function


def reward_function(params):
    time.sleep(0.02)
    return plain(params)
"""


def write_slow_reward(folder: Path) -> Path:
    """Write the default reward function, but slow: an iteration takes seconds.

    Whoever kills something in the middle of one must not depend on how fast the machine is.
    """
    file = folder / "slow.py"
    file.write_text((ROOT / "rewards" / "default.py").read_text() + SLOWLY)
    return file


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "local_trainer", *arguments]


def train_command(runs_dir: Path, name: str, *more: str, **settings: str) -> list[str]:
    """Return a tiny training's command; settings are named with ``__`` for a dot."""
    given = {**TINY, **{key.replace("__", "."): value for key, value in settings.items()}}
    sets = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    place = ["--runs-dir", str(runs_dir), "--name", name, "--until", "never"]
    return command("train", *place, *more, *sets)


def run_command(arguments: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and check its exit status."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return done


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def wait_until(condition: Callable[[], bool], limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def wait_for_iteration(run: Run, number: int) -> None:
    """Wait until a checkpoint of an iteration is whole."""
    wait_until(lambda: any(state.number >= number for state in list_states(run)))


def trainer_process(run: Run) -> int:
    """Return the process id of a run's trainer."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"local_trainer.workers.trainer" in arguments and os.fsencode(run.path) in arguments:
            return int(entry.name)
    raise AssertionError(f"nobody trains {run.path}")


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed command wrote."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]
