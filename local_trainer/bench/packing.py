"""``bench packing``: two trainings that share this machine against one after the other."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from local_trainer.config import resolve_config
from local_trainer.errors import RunFailed
from local_trainer.launch.trials import Resources, run_trials
from local_trainer.machine import num_cpus
from local_trainer.run_files import create_run
from local_trainer.runs import Run

TRACK = "reinvent_base"


def run(episodes: int = 200, rounds: int = 2) -> dict[str, Any]:
    """Return the figures of ``bench packing``.

    Both sides train the same two models (seeds 0 and 1) for the same number of episodes. Together,
    each has half of the machine's threads; one after the other, each has all of them. The sides
    take turns, so that a machine that is busy with something else slows both.

    Args:
        episodes: Training episodes of each model.
        rounds: How often each side takes its turn.

    Returns:
        ``ratio`` (seconds one after the other / seconds together, best of each side), ``steps``
        trained by each side, and every round's seconds.
    """
    threads = num_cpus()
    sides = {"together": max(1, threads // 2), "one_after_the_other": threads}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for name, cpus in sides.items():
                took, steps = _train(Path(folder) / f"{name}-{turn}", cpus, episodes)
                seconds[name].append(took)
                rates[name].append(steps / took)
    together, alone = (min(seconds[name]) for name in sides)
    return {
        "cores": threads,
        "episodes_each": episodes,
        "ratio": alone / together,
        "ratio_of_steps_per_second": max(rates["together"]) / max(rates["one_after_the_other"]),
        "seconds_together": seconds["together"],
        "seconds_one_after_the_other": seconds["one_after_the_other"],
    }


def _train(folder: Path, cpus: int, episodes: int) -> tuple[float, int]:
    """Train two models with so many threads each; return seconds, and steps of both."""
    runs = [_create(folder, seed, cpus, episodes) for seed in (0, 1)]
    started = time.monotonic()
    states = run_trials(runs, Resources(cpus=cpus, memory_gb=2.0))
    took = time.monotonic() - started
    if failed := [state.reason for state in states if state.state != "finished"]:
        raise RunFailed(f"bench packing: {failed[0]}")
    return took, sum(run.read_status().steps for run in runs)


def _create(folder: Path, seed: int, cpus: int, episodes: int) -> Run:
    settings = {
        "run": f"seed-{seed}",
        "seed": seed,
        "track": TRACK,
        "threads": cpus,
        "stop.episodes": episodes,
        "stop.until": "never",
        "stop.minutes": 60.0,
    }
    return create_run(resolve_config(overrides=settings), folder)
