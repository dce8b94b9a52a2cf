"""``bench train``: how long the real ``train`` command takes to a model that drives."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from local_trainer.config import resolve_config
from local_trainer.errors import RunFailed, last_line
from local_trainer.history import History, read_history
from local_trainer.runs import Run

TRACK = "reinvent_base"
STEADY = 3
"""Evaluations in a row with every lap complete that count as steady."""

_SAMPLE_S = 5.0
_BYTES_PER_GB = 1e9


def run(seeds: int = 3, minutes: float = 5.0, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the figures of ``bench train``: medians over the seeds.

    Args:
        seeds: How many trainings; seeds 0, 1, …
        minutes: Length of each.
        settings: ``key=value`` settings beside the defaults of ``train``.

    Returns:
        ``seconds_to_first_lap`` and ``seconds_to_steady_laps`` (from the command's start; None if
        most seeds never got there), ``share_steady_after``, ``steps_per_second`` of the whole
        loop, ``memory_gb`` (the most that the command and its processes held) and
        ``memory_growth`` (see `memory_growth`), and ``seeds`` with each training's own figures.

    Raises:
        ConfigError: If a setting is none.
        RunFailed: If a training fails.
    """
    resolve_config(sets=[f"stop.minutes={minutes}", *settings])
    with tempfile.TemporaryDirectory() as folder:
        each = [_train(Path(folder), seed, minutes, settings) for seed in range(seeds)]
    names = (
        "seconds_to_first_lap",
        "seconds_to_steady_laps",
        "share_steady_after",
        "steps_per_second",
        "memory_gb",
        "memory_growth",
    )
    return {
        "track": TRACK,
        "minutes": minutes,
        **{name: _median([figures[name] for figures in each]) for name in names},
        "seeds": each,
    }


def _train(folder: Path, seed: int, minutes: float, settings: Sequence[str]) -> dict[str, Any]:
    name = f"seed-{seed}"
    command = [sys.executable, "-m", "local_trainer", "train", "--name", name, "--quiet"]
    command += ["--runs-dir", str(folder), "--seed", str(seed), "--track", TRACK]
    command += ["--minutes", str(minutes), "--until", "never", "--json"]
    for setting in settings:
        command += ["--set", setting]
    started = time.time()
    output, memory = _run_watched(command)
    return {
        "seed": seed,
        **figures_of(read_history(Run(folder / name)), started),
        "memory_gb": max(memory) / _BYTES_PER_GB if memory else None,
        "memory_growth": memory_growth(memory),
        "run": json.loads(output),
    }


def _run_watched(command: list[str]) -> tuple[str, list[int]]:
    """Run a command to its end; return what it printed and its memory at regular times, bytes.

    No memory where the system does not tell.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    memory = []
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(process.communicate)
        while wait([ended], _SAMPLE_S).not_done:
            if held := _memory(process.pid):
                memory.append(held)
        output, errors = ended.result()
    if process.returncode:
        raise RunFailed(f"bench train: {last_line(errors).removeprefix('error: ')}")
    return output, memory


def _memory(pid: int) -> int:
    """Return what a process and its descendants hold, bytes.

    What several of them share counts in each: counted by halves (as "proportional" size) it would
    move with whatever else on the machine has loaded the same libraries.

    0 if it has ended, or where there is no ``/proc``.
    """
    folder = Path(f"/proc/{pid}")
    try:
        lines = (folder / "status").read_text().splitlines()
        children = [
            int(child)
            for file in folder.glob("task/*/children")
            for child in file.read_text().split()
        ]
    except OSError:
        return 0
    own = sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return own + sum(_memory(child) for child in children)


def memory_growth(samples: Sequence[int]) -> float | None:
    """Return the growth from the second sixth of a training to its last, as a share.

    The first sixth is left out: everything has been used once by then. Medians, so that the final
    laps and the report weigh little in the last one.

    Args:
        samples: Memory at regular times, bytes.

    Returns:
        None if there are too few.
    """
    sixth = len(samples) // 6
    if not sixth:
        return None
    return statistics.median(samples[-sixth:]) / statistics.median(samples[sixth : 2 * sixth]) - 1.0


def figures_of(history: History, started: float) -> dict[str, Any]:
    """Return a training's figures.

    Args:
        history: What it reported.
        started: Unix time of the command's start.
    """
    laps = [lap for lap in history.trials if lap.status == "lap_complete"]
    whole = [event.completed == event.trials for event in history.evaluations]
    steady_at = next((i for i in range(STEADY - 1, len(whole)) if all(whole[i - 2 : i + 1])), None)
    after = [] if steady_at is None else whole[steady_at + 1 :]
    best = [event.best_lap_s for event in history.evaluations if event.best_lap_s is not None]
    span = history.updates[-1].time - started if history.updates else 0.0
    return {
        "seconds_to_first_lap": laps[0].time - started if laps else None,
        "seconds_to_steady_laps": (
            None if steady_at is None else history.evaluations[steady_at].time - started
        ),
        "share_steady_after": sum(after) / len(after) if after else 0.0,
        "steps_per_second": history.training[-1].total_steps / span if span else 0.0,
        "steps": history.training[-1].total_steps if history.training else 0,
        "updates": len(history.updates),
        "best_lap_s": min(best, default=None),
    }


def _median(values: list[float | None]) -> float | None:
    """Return the median, an absent value counting as larger than any."""
    ordered = sorted(float("inf") if value is None else value for value in values)
    middle = statistics.median(ordered)
    return None if middle == float("inf") else middle
