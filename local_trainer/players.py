"""Who plays the trainer's episodes: this process, or rollout workers elsewhere.

The trainer asks `Players` for episodes and does not know which. Both play the same episodes from
the same seed: what an episode does depends on its number, its start and the policy.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from local_trainer.episodes import Episode
from local_trainer.rollout import GREEDY, Exploration, Policy, Rollout, play_together
from local_trainer.transport import Order, RedisTransport, TransportError
from sim.simulator import EpisodeStart

_CHECK_S = 5.0
_NOBODY_S = 5.0
_SILENCE_S = 30.0


class Acting(Policy, Protocol):
    """A policy that can act here, or be sent to where it acts."""

    def graph(self) -> bytes:
        """Return it as a frozen graph with its present weights."""


class Players(Protocol):
    """Plays episodes."""

    def play(
        self,
        policy: Acting,
        starts: list[EpisodeStart],
        phase: str,
        iteration: int,
        exploration: Exploration = GREEDY,
        keeps_pictures: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Episode]:
        """Play one episode from each start and yield them as they end, in any order.

        Args:
            policy: What chooses the actions.
            starts: Where the episodes begin; their numbers must differ.
            phase: ``training`` or ``evaluation``.
            iteration: Policy iteration, written into the episodes.
            exploration: How actions are picked.
            keeps_pictures: Whether episodes carry pictures and probabilities, as training needs.
            should_stop: Asked often.

        Raises:
            local_trainer.rollout.Interrupted: If ``should_stop`` said so.
            LocalTrainerError: If an episode cannot be played; one line.
        """

    def close(self) -> None:
        """Release everything."""


class LocalPlayers:
    """Rollouts in this process."""

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        """Take the rollouts; their simulators are closed with this."""
        self._rollouts = rollouts

    def play(
        self,
        policy: Acting,
        starts: list[EpisodeStart],
        phase: str,
        iteration: int,
        exploration: Exploration = GREEDY,
        keeps_pictures: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Episode]:
        """Play episodes; see `Players.play`."""
        settings = (phase, iteration, exploration, keeps_pictures, should_stop)
        return play_together(self._rollouts, policy, starts, *settings)

    def close(self) -> None:
        """Close the simulators."""
        for rollout in self._rollouts:
            rollout.simulator.close()


class RemotePlayers:
    """Rollout workers in other processes or containers, reached through Redis."""

    def __init__(self, transport: RedisTransport, say: Callable[[str], None]) -> None:
        """Take the run's streams.

        Args:
            transport: Of this run.
            say: Is told, in one line, what is waited for when nothing arrives for long.
        """
        self._transport = transport
        self._say = say
        self._is_away = False

    def play(
        self,
        policy: Acting,
        starts: list[EpisodeStart],
        phase: str,
        iteration: int,
        exploration: Exploration = GREEDY,
        keeps_pictures: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Episode]:
        """Have episodes played; see `Players.play`.

        Raises:
            TransportError: If Redis cannot be reached.
        """
        try:
            yield from self._play(
                policy, starts, phase, iteration, exploration, keeps_pictures, should_stop
            )
        except TransportError:
            self._is_away = True
            raise

    def close(self) -> None:
        """Remove what the run has on the server, if it answers; workers find nothing more to do."""
        if not self._is_away:
            self._transport.clear()

    def _play(
        self,
        policy: Acting,
        starts: list[EpisodeStart],
        phase: str,
        iteration: int,
        exploration: Exploration,
        keeps_pictures: bool,
        should_stop: Callable[[], bool],
    ) -> Iterator[Episode]:
        graph = policy.graph()
        # By its content: a trainer that was killed and resumed orders the same episodes again.
        name = f"{phase}-{iteration}-{hashlib.sha256(graph).hexdigest()[:16]}"
        self._transport.publish_policy(name, graph)
        orders = [
            Order(start, phase, iteration, name, exploration, keeps_pictures) for start in starts
        ]
        watch = _Watch(self._transport, name, graph, self._say, len(orders))
        for episode in self._transport.play(orders, lambda: watch.look() or should_stop()):
            watch.count()
            yield episode


class _Watch:
    """Looks after a rollout that is awaited."""

    def __init__(
        self,
        transport: RedisTransport,
        policy: str,
        graph: bytes,
        say: Callable[[str], None],
        awaited: int,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._graph = graph
        self._say = say
        self._awaited = awaited
        self._looked = self._heard = self._played = time.monotonic()
        self._said_nobody = False

    def look(self) -> bool:
        """Publish the policy again if Redis has lost it, and say so if nothing arrives."""
        now = time.monotonic()
        if now - self._looked > _CHECK_S:
            self._looked = now
            if not self._transport.has_policy(self._policy):
                self._transport.publish_policy(self._policy, self._graph)
            self._look_who_plays(now)
        if now - self._heard > _SILENCE_S:
            self._heard = now
            self._say(f"waits for rollout workers: {self._awaited} episodes have not arrived")
        return False

    def _look_who_plays(self, now: float) -> None:
        if self._transport.num_taken():
            self._played = now
            self._said_nobody = False
        elif now - self._played > _NOBODY_S and not self._said_nobody:
            self._said_nobody = True
            self._say(f"waits for a rollout worker: nobody plays the {self._awaited} episodes left")

    def count(self) -> None:
        """Note that an episode has arrived."""
        self._awaited -= 1
        self._heard = self._played = time.monotonic()
        self._said_nobody = False
