"""The part of ``bench gazebo`` that runs in a rollout worker's container: drives and prints JSON.

``python -m local_trainer.bench.gazebo_drive --run s3://bucket/run [--speed]``. The run's newest
policy acts where one is needed; GAZEBO_HOST says where the simulator is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.actions import load_action_space
from local_trainer.checkpoints import choose_checkpoint
from local_trainer.config import load_config
from local_trainer.mirror import RunMirror
from local_trainer.reward import RewardFunction
from local_trainer.rollout import Rollout, training_exploration, training_starts
from local_trainer.run_files import load_run_track
from local_trainer.runs import Run
from local_trainer.store import open_store
from sim.gazebo.client import GazeboSimulator
from sim.simulator import STEPS_PER_SECOND, EpisodeRules, EpisodeStart

WORKER_CARS = 5
"""What one rollout worker plays at the same time by default (`workers.rollout.orders_at_once`)."""

_ONE = np.array([0])
_ALONE_SLICES = 15
_ALONE_STEPS = 60
_POLICY_SLICES = 5
_EPISODES = 10
_DIGEST_STEPS = 150


def drive(location: str, has_speed: bool) -> dict[str, Any]:
    """Return the figures of one start of the simulator.

    Args:
        location: The run in the bucket.
        has_speed: Whether speeds are measured, too.

    Returns:
        ``digest`` of a driven run; ``alone`` and ``with_policy``, simulated seconds a second, one
        a slice.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / location.rpartition("/")[2])
        RunMirror(open_store(location), run.path).pull()
        simulator = _open(run, 1)
        figures: dict[str, Any] = {"digest": _digest(simulator)}
        if has_speed:
            figures["alone"] = _alone(simulator)
        simulator.close()
        if has_speed:
            figures["with_policy"] = _with_policy(run)
    return figures


def _open(run: Run, num_cars: int) -> GazeboSimulator:
    config = load_config(run.config_file)
    host = os.environ["GAZEBO_HOST"]
    return GazeboSimulator(load_run_track(run), num_cars, seed=config.seed, host=host)


def _digest(simulator: GazeboSimulator) -> str:
    """Return a digest of all pictures and records of a run with fixed commands."""
    rng = np.random.default_rng(3)
    digest = hashlib.sha256()
    simulator.reset(_ONE, [EpisodeStart(7, fraction=0.2, rules=EpisodeRules(max_resets=100))])
    for _ in range(_DIGEST_STEPS):
        steps = simulator.step(_ONE, rng.uniform(-30, 30, 1), rng.uniform(0.5, 2.0, 1))
        digest.update(steps.tobytes())
        digest.update(simulator.observations.tobytes())
    return digest.hexdigest()


def _alone(simulator: GazeboSimulator) -> list[float]:
    """Drive straight ahead, one car."""
    ahead = (_ONE, np.zeros(1), np.full(1, 0.5))
    rates = []
    for _ in range(_ALONE_SLICES):
        simulator.reset(_ONE, [EpisodeStart(0)])
        rates.append(_rate(simulator.step(*ahead) for _ in range(_ALONE_STEPS)))
    return rates


def _rate(batches: Iterable[np.ndarray]) -> float:
    """Return simulated seconds a second while steps arrive in batches."""
    began = time.perf_counter()
    count = sum(len(steps) for steps in batches)
    return count / STEPS_PER_SECOND / (time.perf_counter() - began)


def _with_policy(run: Run) -> list[float]:
    """Play training episodes as a rollout worker does: policy and reward function in the loop."""
    from coach_presets.checkpoints import FrozenPolicy

    config, track = load_config(run.config_file), load_run_track(run)
    policy = FrozenPolicy(choose_checkpoint(run.model_dir, "last").frozen_graph(run.model_dir), 1)
    rates = []
    with RewardFunction(run.reward_file, track) as reward:
        simulator = _open(run, WORKER_CARS)
        rollout = Rollout(simulator, load_action_space(run.metadata_file), reward, config.seed)
        exploration = training_exploration(config.ppo, 0)
        for number in range(_POLICY_SLICES + 1):
            starts = training_starts(config, number * _EPISODES, _EPISODES)
            play = rollout.play(policy, starts, "training", 0, exploration, keeps_pictures=True)
            rates.append(_rate(episode.steps for episode in play))
        simulator.close()
    policy.close()
    return rates[1:]  # the first loads what is loaded once


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.bench.gazebo_drive")
    parser.add_argument("--run", required=True, help="s3://bucket/run")
    parser.add_argument("--speed", action="store_true", help="measure speeds, too")
    parsed = parser.parse_args(arguments)
    print(json.dumps(drive(parsed.run, parsed.speed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
