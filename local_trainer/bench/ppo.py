"""``bench ppo``: transitions a second of our update, of unmodified Coach and of plain TensorFlow.

Each side is a process of its own that waits for its turn, so that only one computes at a time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

from local_trainer.errors import RunFailed
from local_trainer.machine import has_fast_bf16, num_cpus

TRANSITIONS = 512


def run(rounds: int = 3) -> dict[str, Any]:
    """Return the figures of ``bench ppo``.

    Args:
        rounds: How often each side takes its turn.

    Returns:
        ``transitions_per_second`` of each side (median), ``ratio_to_stock`` (ours at this
        processor's best precision over unmodified Coach), ``ratio_to_stock_fp32``,
        ``share_of_limit`` (ours over plain TensorFlow at the same precision) and ``precision``.

    Raises:
        RunFailed: If a side could not start.
    """
    precision = "bf16" if has_fast_bf16() else "fp32"
    sides = ["stock", "ours_fp32", f"limit_{precision}"]
    if precision == "bf16":
        sides.append("ours_bf16")
    processes = {side: _start(side) for side in sides}
    for side, process in processes.items():
        _answer(side, process)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, process in processes.items():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            rates[side].append(TRANSITIONS / float(_answer(side, process)))
    for process in processes.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    median = {side: statistics.median(values) for side, values in rates.items()}
    ours = median[f"ours_{precision}"]
    return {
        "precision": precision,
        "transitions_per_second": median,
        "ratio_to_stock": ours / median["stock"],
        "ratio_to_stock_fp32": median["ours_fp32"] / median["stock"],
        "share_of_limit": ours / median[f"limit_{precision}"],
    }


def _start(side: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "coach_presets.bench",
            side,
            str(TRANSITIONS),
            str(num_cpus()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _command(side: str) -> str:
    return f"python -m coach_presets.bench {side} {TRANSITIONS} {num_cpus()}"


def _answer(side: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RunFailed(
            f"bench ppo: the side {side} ended with status {process.wait()}; see what it prints: "
            f"{_command(side)}"
        )
    return line.strip()
