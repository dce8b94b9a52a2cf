"""Play episodes: many cars at once, one policy call a step for all of them.

Knows simulator, policy and reward only by what they promise, so the same loop makes training
episodes, in-training evaluations and final ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event
from typing import Protocol

import numpy as np

from local_trainer.actions import ActionSpace
from local_trainer.config import PpoConfig, RunConfig
from local_trainer.episodes import Episode
from sim.simulator import EpisodeRules, EpisodeStart, Simulator
from sim.steps import STEP_DTYPE

_ACTION_STREAM = 1
_START_STREAM = 2
"""Keep the random numbers of actions and of start poses apart from the simulator's."""


class Policy(Protocol):
    """What chooses: the agent in training, a frozen graph in evaluation."""

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        """Return the probability of each action.

        Args:
            observations: Pictures, shape (n, 120, 160, 1), uint8.

        Returns:
            Shape (n, num_actions), float32; each row sums to 1.
        """


class Reward(Protocol):
    """What judges each step; `local_trainer.reward.RewardFunction` is one."""

    def rewards(self, steps: np.ndarray) -> np.ndarray:
        """Return one reward a step, shape (n,), float64."""


class Interrupted(Exception):
    """Raised when the caller asked to stop in the middle of a rollout."""


@dataclass(frozen=True)
class Exploration:
    """How actions are picked from the policy's probabilities."""

    kind: str = "greedy"
    """``greedy``, ``categorical`` or ``e-greedy``."""

    epsilon: float = 0.0
    """Share of random actions, for ``e-greedy``."""

    action_noise: float = 0.0
    """Largest relative error of the executed steering and speed, e.g. 0.1 for 10 %."""


GREEDY = Exploration()


def training_exploration(ppo: PpoConfig, steps_so_far: int) -> Exploration:
    """Return how training explores after a number of steps (C's linear schedule from 1)."""
    if ppo.exploration_type == "categorical":
        return Exploration("categorical")
    done = min(steps_so_far / ppo.epsilon_steps, 1.0)
    return Exploration("e-greedy", epsilon=1.0 + done * (ppo.e_greedy_value - 1.0))


@dataclass
class _Drive:
    """An episode while it is being driven."""

    start: EpisodeStart
    random: np.random.Generator
    pictures: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Rollout:
    """Everything needed to play episodes."""

    simulator: Simulator
    actions: ActionSpace
    reward: Reward
    seed: int

    def play(
        self,
        policy: Policy,
        starts: list[EpisodeStart],
        phase: str,
        iteration: int,
        exploration: Exploration = GREEDY,
        keeps_pictures: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Episode]:
        """Play one episode from each start and yield them as they end.

        Cars take the next start when theirs has ended. What an episode does depends on the
        seed, its number and the policy, not on which car drives it or on its neighbours.

        Args:
            policy: What chooses the actions.
            starts: Where the episodes begin; their numbers must differ.
            phase: ``training`` or ``evaluation``.
            iteration: Policy iteration, written into the episodes.
            exploration: How actions are picked.
            keeps_pictures: Whether episodes carry pictures and probabilities, as training needs.
            should_stop: Asked before each step.

        Raises:
            Interrupted: If ``should_stop`` said so.
            RewardFunctionError: If the reward function failed.
        """
        waiting = list(reversed(starts))
        drives: dict[int, _Drive] = {}
        free = np.arange(min(self.simulator.num_cars, len(starts)))
        while len(free) or drives:
            if len(free) and waiting:
                self._begin(free[: len(waiting)], waiting, drives, phase)
            if should_stop():
                raise Interrupted
            cars = np.fromiter(drives, np.int64, len(drives))
            steps = self._step(policy, cars, drives, exploration, keeps_pictures)
            free = cars[steps["done"]]
            for car in free:
                last = self.simulator.observations[car].copy() if keeps_pictures else None
                yield self._finish(drives.pop(int(car)), phase, iteration, last)
            if not waiting and not drives:
                return

    def _begin(
        self, cars: np.ndarray, waiting: list[EpisodeStart], drives: dict[int, _Drive], phase: str
    ) -> None:
        chosen = [waiting.pop() for _ in cars]
        self.simulator.reset(cars, chosen)
        for car, start in zip(cars, chosen, strict=True):
            stream = (phase == "evaluation") * 2**32 + _ACTION_STREAM * 2**40 + start.episode
            random = np.random.Generator(np.random.Philox(key=[self.seed, stream]))
            drives[int(car)] = _Drive(start, random)

    def _step(
        self,
        policy: Policy,
        cars: np.ndarray,
        drives: dict[int, _Drive],
        exploration: Exploration,
        keeps_pictures: bool,
    ) -> np.ndarray:
        pictures = self.simulator.observations[cars]
        probabilities = policy.probabilities(pictures)
        chances = np.array([drives[int(car)].random.random(4) for car in cars])
        chosen = pick_actions(probabilities, chances, exploration)
        steering_deg = self.actions.steering_deg[chosen]
        speed_mps = self.actions.speed_mps[chosen]
        if exploration.action_noise:
            steering_deg = steering_deg * (1 + exploration.action_noise * (2 * chances[:, 2] - 1))
            speed_mps = speed_mps * (1 + exploration.action_noise * (2 * chances[:, 3] - 1))
        steps = self.simulator.step(cars, steering_deg, speed_mps)
        now = time.time()
        for i, car in enumerate(cars):
            drive = drives[int(car)]
            drive.actions.append(int(chosen[i]))
            drive.steps.append(steps[i])
            drive.times.append(now)
            if keeps_pictures:
                drive.pictures.append(pictures[i])
                drive.probabilities.append(probabilities[i])
        return steps

    def _finish(
        self, drive: _Drive, phase: str, iteration: int, last: np.ndarray | None
    ) -> Episode:
        steps = np.array(drive.steps, STEP_DTYPE)
        return Episode(
            start=drive.start,
            phase=phase,
            iteration=iteration,
            steps=steps,
            actions=np.array(drive.actions, np.int32),
            # A whole episode at once, in order: what a function keeps between calls then belongs
            # to one car, as on the service, however many drive together here.
            rewards=self.reward.rewards(steps),
            wall_clock=np.array(drive.times),
            observations=np.stack(drive.pictures) if drive.pictures else None,
            probabilities=np.stack(drive.probabilities) if drive.probabilities else None,
            final_observation=last,
        )


def play_together(
    workers: Sequence[Rollout],
    policy: Policy,
    starts: list[EpisodeStart],
    phase: str,
    iteration: int,
    exploration: Exploration = GREEDY,
    keeps_pictures: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Episode]:
    """Play episodes with several workers, each in a thread of its own, and yield them as they end.

    With W workers, worker i plays the episodes whose number is i modulo W. The arguments are
    those of `Rollout.play`; the policy is called from several threads at once.

    Raises:
        Interrupted: If ``should_stop`` said so.
        RewardFunctionError: If the reward function failed. The other workers stop too.
    """
    settings = (phase, iteration, exploration, keeps_pictures)
    if len(workers) == 1:
        yield from workers[0].play(policy, starts, *settings, should_stop)
        return
    is_over = Event()
    results: SimpleQueue[Episode | BaseException | None] = SimpleQueue()

    def work(number: int) -> None:
        share = [start for start in starts if start.episode % len(workers) == number]
        try:
            for episode in workers[number].play(
                policy, share, *settings, lambda: is_over.is_set() or should_stop()
            ):
                results.put(episode)
            results.put(None)
        except BaseException as error:  # raised again where the episodes are waited for
            results.put(error)

    with ThreadPoolExecutor(len(workers), "rollout") as threads:
        try:
            threads.map(work, range(len(workers)))
            num_working = len(workers)
            while num_working:
                result = results.get()
                if isinstance(result, Episode):
                    yield result
                elif result is None:
                    num_working -= 1
                else:
                    raise result
        finally:
            is_over.set()


def pick_actions(
    probabilities: np.ndarray, chances: np.ndarray, exploration: Exploration
) -> np.ndarray:
    """Return the index of one action a row.

    Args:
        probabilities: Shape (n, num_actions).
        chances: Uniform random numbers in [0, 1), shape (n, >= 2).
        exploration: How to pick.
    """
    num_actions = probabilities.shape[1]
    if exploration.kind == "categorical":
        # float64, and scaled by the sum: float32 rows sum to 1 only nearly.
        levels = np.cumsum(probabilities, axis=1, dtype=np.float64)
        below = levels <= chances[:, :1] * levels[:, -1:]
        chosen: np.ndarray = np.minimum(below.sum(axis=1), num_actions - 1)
        return chosen
    chosen = probabilities.argmax(axis=1)
    if exploration.kind == "e-greedy":
        anything = (chances[:, 1] * num_actions).astype(np.int64)
        chosen = np.where(chances[:, 0] < exploration.epsilon, anything, chosen)
    return chosen


def track_of(episode: int, num_tracks: int) -> int:
    """Return which of a run's tracks an episode drives: they take turns.

    An evaluation drives every track equally often, so its numbers begin with the first track.
    """
    return episode % num_tracks


def training_starts(config: RunConfig, first_episode: int, count: int) -> list[EpisodeStart]:
    """Return where the next training episodes begin: round robin along each track.

    How far off the centre line is drawn from the seed and the episode's number.
    """
    settings, rules = config.episodes, config.episodes.rules()
    starts = []
    for episode in range(first_episode, first_episode + count):
        turn = episode // len(config.all_tracks)
        fraction = settings.start_position_offset
        if settings.change_start_position:
            fraction += turn * settings.round_robin_advance
        is_reversed = config.reverse_direction
        if config.alternate_direction:
            is_reversed ^= turn % 2 == 1
        sideways, turned = _offsets(config.seed, episode, "training")
        starts.append(
            EpisodeStart(
                episode,
                fraction % 1.0,
                is_reversed,
                lateral_offset_m=settings.start_sideways_m * sideways,
                yaw_offset_rad=math.radians(settings.start_turn_deg) * turned,
                rules=rules,
            )
        )
    return starts


def _offsets(seed: int, episode: int, phase: str) -> tuple[float, float]:
    """Return how far an episode begins off the centre line and turned, each in [-1, 1)."""
    stream = (phase == "training") * 2**32 + _START_STREAM * 2**40 + episode
    random = np.random.Generator(np.random.Philox(key=[seed, stream]))
    sideways, turned = random.uniform(-1.0, 1.0, 2).tolist()
    return sideways, turned


def evaluation_starts(
    config: RunConfig, first_episode: int, trials: int, rules: EpisodeRules | None = None
) -> list[EpisodeStart]:
    """Return where evaluation laps begin: at the start line, all but the first a little off it.

    ``trials`` is how many laps each track sees; they are numbered in turn (`track_of`).

    Without the small offsets a greedy policy in a simulator that repeats itself would drive the
    same lap each time. They are drawn from the seed and the episode's number: up to 0.1 m
    sideways and 0.15 rad.
    """
    rules = rules or config.evaluation.rules()
    starts = []
    num_tracks = len(config.all_tracks)
    for number in range(trials * num_tracks):
        episode, trial = first_episode + number, number // num_tracks
        sideways, turned = _offsets(config.seed, episode, "evaluation") if trial else (0.0, 0.0)
        is_reversed = config.reverse_direction
        if config.alternate_direction:
            is_reversed ^= trial % 2 == 1
        starts.append(
            EpisodeStart(
                episode,
                config.episodes.start_position_offset % 1.0,
                is_reversed,
                lateral_offset_m=0.1 * sideways,
                yaw_offset_rad=0.15 * turned,
                rules=rules,
            )
        )
    return starts


def robust_starts(
    config: RunConfig, trials: int, rules: EpisodeRules | None = None
) -> list[EpisodeStart]:
    """Return starts all around the lap of each track, in both directions in turn."""
    rules = rules or config.evaluation.rules()
    num_tracks = len(config.all_tracks)
    return [
        EpisodeStart(
            trial * num_tracks + track, (trial / trials) % 1.0, trial % 2 == 1, rules=rules
        )
        for trial in range(trials)
        for track in range(num_tracks)
    ]
