"""Small agents and episodes for the tests of the learning side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coach_presets.compat import tf

import numpy as np

from coach_presets.agent import LocalPPOAgent, SessionSettings, UpdateSettings, build_agent
from coach_presets.preset import agent_parameters
from local_trainer.config import PpoConfig
from local_trainer.episodes import Episode
from sim.simulator import EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus

NUM_ACTIONS = 5
SETTINGS = UpdateSettings(iteration=0, seed=0, bootstrap_time_up=False)


def small_ppo(**changes: Any) -> PpoConfig:
    """Return settings for an update of two minibatches."""
    usual = {"batch_size": 8, "optimization_epochs": 1}
    usual |= {"learning_rate": 1e-3, "discount_factor": 0.99}
    return PpoConfig(**{**usual, **changes})


def new_agent(
    ppo: PpoConfig | None = None, num_actions: int = NUM_ACTIONS, seed: int = 0
) -> LocalPPOAgent:
    """Return an agent in fp32."""
    session = SessionSettings(threads=2, use_bf16=False, use_gpu=False)
    return build_agent(agent_parameters(ppo or small_ppo()), num_actions, 0, seed, session)


def session_of(agent: Any) -> Any:
    return agent.networks["main"].online_network.sess


@contextmanager
def short_lived(agent: LocalPPOAgent) -> Iterator[LocalPPOAgent]:
    """Give the agent's memory back afterwards."""
    yield agent
    session_of(agent).close()


def variables_of(agent: LocalPPOAgent) -> dict[str, Any]:
    with session_of(agent).graph.as_default():
        return {variable.op.name: variable for variable in tf.global_variables()}


def state_of(agent: LocalPPOAgent) -> dict[str, np.ndarray]:
    """Return everything that an update changes: weights, optimizer, step counter."""
    values: dict[str, np.ndarray] = session_of(agent).run(variables_of(agent))
    return values


def weights_of(agent: Any) -> dict[str, np.ndarray]:
    """Return the weights of the online networks by name."""
    weights = {v.op.name: v for v in agent.networks["main"].online_network.weights}
    values: dict[str, np.ndarray] = session_of(agent).run(weights)
    return values


def put_state(agent: LocalPPOAgent, values: dict[str, np.ndarray]) -> None:
    for name, variable in variables_of(agent).items():
        if name in values:
            variable.load(values[name], session_of(agent))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 120, 160, 1), dtype=np.uint8)


def make_episode(
    agent: LocalPPOAgent,
    steps: int,
    index: int = 0,
    rewards: np.ndarray | None = None,
    status: EpisodeStatus = EpisodeStatus.OFF_TRACK,
) -> Episode:
    """Return an episode of noise that the agent could have played."""
    random = np.random.default_rng(index)
    seen = pictures(steps + 1, seed=index)
    records = np.zeros(steps, STEP_DTYPE)
    records["status"][-1] = status
    records["done"][-1] = True
    return Episode(
        start=EpisodeStart(index),
        phase="training",
        iteration=0,
        steps=records,
        actions=random.integers(0, NUM_ACTIONS, steps).astype(np.int32),
        rewards=random.normal(0.0, 3.0, steps) if rewards is None else rewards,
        wall_clock=np.zeros(steps),
        observations=seen[:-1],
        probabilities=agent.probabilities(seen[:-1]),
        final_observation=seen[-1],
    )
