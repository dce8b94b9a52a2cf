"""Evaluations of several runs on a Ray of their own: as many at once as fit on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from local_trainer.config import load_config
from local_trainer.errors import ConfigError
from local_trainer.launch.pack import PackFolder, Standing
from local_trainer.launch.ray_cluster import connect
from local_trainer.launch.ray_work import start_worker, still_runs, why_it_failed
from local_trainer.launch.trials import Resources
from local_trainer.runs import Run

_LOOK_S = 0.5
_STOPPED = Standing("stopped", "stopped by the user")


class Evaluations:
    """Evaluations under way."""

    def __init__(self, folder: PackFolder, trials: Mapping[Path, int], resources: Resources):
        """Connect to Ray and begin.

        Args:
            folder: Where one reads whose end is asked for.
            trials: How many laps to drive, by the run's folder.
            resources: What each evaluation declares.

        Raises:
            ConfigError: If this machine has less than that.
        """
        self._folder = folder
        self._cluster = connect(None)
        try:
            self._cluster.check_room(resources)
        except ConfigError:
            self._cluster.close()
            raise
        work = ray.remote(_evaluate).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            memory=int(resources.memory_gb * 1e9),
            max_retries=0,
        )
        self._left = {
            work.remote(str(folder.path), str(path), laps): path.name
            for path, laps in trials.items()
        }
        self._ended: dict[str, Standing] = {}
        self._names = [path.name for path in trials]

    def wait(self, limit_s: float) -> bool:
        """Wait for the end, or so long; return whether it has come."""
        if self._left:
            done, _ = ray.wait(list(self._left), timeout=limit_s)
            for reference in done:
                self._ended[self._left.pop(reference)] = _result(reference)
        return not self._left

    def standings(self) -> dict[str, Standing]:
        """Return where each evaluation stands, by the run's name."""
        return {name: self._standing(name) for name in self._names}

    def close(self) -> None:
        """End what is left."""
        self._cluster.close()

    def _standing(self, name: str) -> Standing:
        if name in self._ended:
            return self._ended[name]
        if _begun(self._folder, name).exists():
            return Standing("running")
        return _STOPPED if name in self._folder.asked_to_stop() else Standing("waiting")


def _begun(folder: PackFolder, name: str) -> Path:
    return folder.path / "begun" / name


def _result(reference: Any) -> Standing:
    try:
        found: Standing = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Standing("failed", f"Ray failed: {type(error).__name__}")
    return found


def _evaluate(folder_path: str, run_path: str, trials: int) -> Standing:
    """Drive a run's laps in a process of their own; runs in a process of Ray's."""
    folder, run = PackFolder(Path(folder_path)), Run(Path(run_path))
    if run.name in folder.asked_to_stop():
        return _STOPPED
    begun = _begun(folder, run.name)
    begun.parent.mkdir(exist_ok=True)
    begun.touch()
    config = load_config(run.config_file)
    process = start_worker(run, "evaluation", ["--trials", str(trials)], config)
    is_stopped = False
    while still_runs(process, _LOOK_S):
        if not is_stopped and run.name in folder.asked_to_stop():
            is_stopped = True
            process.terminate()
    if is_stopped:
        return _STOPPED
    if process.returncode:
        return Standing("failed", why_it_failed(run, process.returncode))
    return Standing("finished")
