"""Start workers as processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from local_trainer.config import load_config
from local_trainer.environment import without_secrets
from local_trainer.runs import Run


def start_training(run: Run) -> subprocess.Popen[bytes]:
    """Start training a run, or go on with it; with its Ray cluster if it names one.

    SIGINT stops it cleanly.
    """
    is_on_cluster = load_config(run.config_file).cluster.ray is not None
    return _start(run, "cluster" if is_on_cluster else "trainer", [])


def start_stack_training(run: Run) -> subprocess.Popen[bytes]:
    """Start training a run in the container stack, or go on with it. SIGINT stops it cleanly."""
    return _start(run, "stack", [])


def start_evaluation(
    run: Run,
    trials: int = 5,
    checkpoint: str = "best",
    is_robust: bool = False,
    resets: int | None = None,
    report: Path | None = None,
    simulator: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start driving greedy laps with a run's checkpoint.

    Args:
        run: Whose model.
        trials: How many laps.
        checkpoint: ``best``, ``last``, a number or a name.
        is_robust: Whether laps begin all around, in both directions, with noise on the actions.
        resets: How often a car that left the road is put back; None as the run says.
        report: Where the report goes too (`local_trainer.evaluation`).
        simulator: ``embedded`` or ``gazebo``, which brings the container stack up if need be;
            None as the run says.
    """
    arguments = ["--trials", str(trials), "--checkpoint", checkpoint]
    if is_robust:
        arguments.append("--robust")
    if resets is not None:
        arguments += ["--resets", str(resets)]
    if report is not None:
        arguments += ["--report", str(report)]
    if simulator is not None:
        arguments += ["--simulator", simulator]
    return _start(run, "evaluation", arguments)


def start_comparison(
    run: Run, like: Run, checkpoints: Sequence[str], trials: int
) -> subprocess.Popen[bytes]:
    """Start driving the same robust laps that other runs drive, too.

    Args:
        run: Whose model.
        like: The run whose seed, rules, car and ground hold for all.
        checkpoints: Names or numbers.
        trials: How many laps each.
    """
    named = [part for name in checkpoints for part in ("--checkpoint", name)]
    return _start(run, "comparison", ["--like", str(like.path), "--trials", str(trials), *named])


def start_probe(folder: Path) -> subprocess.Popen[bytes]:
    """Start trying out the models that ``request.json`` in a folder names.

    See `local_trainer.export.probe`; the process ends with the one that started it.
    """
    command = [sys.executable, "-m", "local_trainer.workers.probe", "--folder", str(folder)]
    with (folder / "probe.log").open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=without_secrets(),
        )


def _start(run: Run, worker: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    log = run.path / "logs" / f"{worker}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"local_trainer.workers.{worker}", "--run", str(run.path)]
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in the terminal reaches the one who watches, who stops
        # the worker in an orderly way.
        return subprocess.Popen(
            command + arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A trainer on its own reaches nobody, and runs the user's preset and environment.
            env=without_secrets() if worker == "trainer" else dict(os.environ),
            start_new_session=True,
        )
