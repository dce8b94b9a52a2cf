"""Policies that act here or, as frozen graphs, wherever episodes are played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coach_presets.agent import LocalPPOAgent
from coach_presets.checkpoints import FrozenPolicy, freeze, policy_graph


class ActingAgent:
    """An agent as it acts at the moment. Implements `local_trainer.players.Acting`."""

    def __init__(self, agent: LocalPPOAgent) -> None:
        """Take the agent."""
        self._agent = agent
        self._graph: Any = None

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        """Return the probability of each action; see `local_trainer.rollout.Policy`."""
        return self._agent.probabilities(observations)

    def graph(self) -> bytes:
        """Return the policy with its present weights as a frozen graph."""
        session = self._agent.networks["main"].online_network.sess
        if self._graph is None:
            self._graph = policy_graph(session)
        return freeze(session, self._graph)


class ActingCheckpoint(FrozenPolicy):
    """A checkpoint's frozen graph. Implements `local_trainer.players.Acting`."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load the graph; see `FrozenPolicy`."""
        super().__init__(path, threads)
        self._path = path

    def graph(self) -> bytes:
        """Return the frozen graph."""
        return self._path.read_bytes()
