"""``bench gazebo``: how fast the Gazebo simulator in the container stack is, and how repeatable.

Everything happens in a stack of its own on free ports, which is gone afterwards; one that runs
already is left alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from local_trainer.config import resolve_config
from local_trainer.errors import RunFailed, last_line
from local_trainer.launch import compose
from local_trainer.launch.containers import BUCKET, check_stack, remove_running, run_module
from local_trainer.launch.processes import start_stack_training
from local_trainer.net import free_port
from local_trainer.progress import EpisodeEvent, follow_events
from local_trainer.run_files import create_run
from local_trainer.runs import Run

TRACK = "reinvent_base"
_PROJECT = "local-trainer-bench"
_TRAINING_LIMIT_S = 300.0
_POLL_S = 0.1


def run() -> dict[str, Any]:
    """Return the figures of ``bench gazebo``.

    Returns:
        ``seconds_to_first_episode``: from the beginning of ``stack up`` to the end of a training's
        first episode. ``seconds_to_stack_up``: of these, until all containers are healthy.
        ``real_time_factor``: simulated seconds a second, one car driven by a script.
        ``real_time_factor_with_policy``: of one rollout worker that plays training episodes.
        ``same_seed_same_images``: whether two runs of one seed and the same commands, the
        simulator's container started anew in between, give the same bytes in every picture and
        record.

    Raises:
        ConfigError: If this machine cannot run the stack.
        RunFailed: If something of it fails.
    """
    check_stack()
    with _own_stack(), tempfile.TemporaryDirectory() as folder:
        began = time.time()
        compose.up(1)
        up_s = time.time() - began
        run, first = _train(Path(folder))
        location = f"s3://{BUCKET}/{run.name}"
        figures = _drive(location, "--speed")
        compose.restart("gazebo")
        again = _drive(location)
    return {
        "track": TRACK,
        "seconds_to_stack_up": up_s,
        "seconds_to_first_episode": first - began,
        "real_time_factor": median(figures["alone"]),
        "real_time_factor_with_policy": median(figures["with_policy"]),
        "same_seed_same_images": figures["digest"] == again["digest"],
    }


@contextmanager
def _own_stack() -> Iterator[None]:
    """Let Compose mean a stack of our own, and remove it with its data afterwards."""
    changed = {
        "COMPOSE_PROJECT_NAME": f"{_PROJECT}-{os.getpid()}",
        "REDIS_PORT": str(free_port()),
        "MINIO_PORT": str(free_port()),
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    ends = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        remove_running()
        compose.down(has_volumes=True)
        signal.signal(signal.SIGTERM, ends)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _train(folder: Path) -> tuple[Run, float]:
    """Train in the stack until the first episode has been played; return when that was."""
    config = resolve_config(
        None, [], {"run": "bench", "track": TRACK, "simulator.backend": "gazebo", "workers": 1}
    )
    run = create_run(config, folder)
    process = start_stack_training(run)
    try:
        first = _first_episode(run, process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    return run, first


def _first_episode(run: Run, process: subprocess.Popen[bytes]) -> float:
    deadline = time.monotonic() + _TRAINING_LIMIT_S
    while time.monotonic() < deadline:
        is_over = process.poll() is not None
        for event in follow_events(run.progress_file)[0]:
            if isinstance(event, EpisodeEvent):
                return event.time
        if is_over:
            log = (run.path / "logs" / "stack.log").read_text(errors="replace")
            raise RunFailed(f"bench gazebo: {last_line(log) or 'no training'}")
        time.sleep(_POLL_S)
    raise RunFailed(f"bench gazebo: no episode within {_TRAINING_LIMIT_S:.0f} s.")


def _drive(location: str, *more: str) -> dict[str, Any]:
    text = run_module("local_trainer.bench.gazebo_drive", "--run", location, *more)
    figures: dict[str, Any] = json.loads(last_line(text))
    return figures
