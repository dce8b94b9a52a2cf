"""Rewards of recorded steps, recomputed without a simulator and compared with what was given."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError
from local_trainer.lab.recordings import Recording
from local_trainer.reward import RewardFunction
from local_trainer.runs import write_atomically

CLOSE = 1e-3
"""Rewards no farther apart than this count as the same where a log is rounded."""

CSV_COLUMNS = (
    "recording",
    "reward_file",
    "phase",
    "iteration",
    "episode",
    "step",
    "x",
    "y",
    "progress",
    "recorded",
    "replayed",
)


@dataclass(frozen=True)
class Replay:
    """One reward function's rewards for all steps of one recording."""

    recording: Recording
    reward_file: Path
    rewards: list[np.ndarray]
    """For each episode of the recording, shape (T,), float64."""

    seconds: float
    """Time for all calls, without starting the process and loading the file."""

    @property
    def name(self) -> str:
        """Return recording and reward function in a few words."""
        return f"{self.recording.name}: {self.reward_file.stem}"

    @property
    def is_own_reward(self) -> bool:
        """Return whether the reward function is the one that made the recording."""
        own = self.recording.reward_file
        return own is not None and own.read_bytes() == self.reward_file.read_bytes()

    @property
    def steps_per_second(self) -> float:
        """Return how many steps were judged in a second."""
        return self.recording.num_steps / self.seconds if self.seconds else 0.0

    @cached_property
    def old(self) -> np.ndarray:
        """Recorded rewards of the steps that can be compared, shape (n,)."""
        return self._compared([episode.rewards for episode in self.recording.episodes])

    @cached_property
    def new(self) -> np.ndarray:
        """Replayed rewards of the same steps, shape (n,)."""
        return self._compared(self.rewards)

    @property
    def exact_fraction(self) -> float | None:
        """Return the part of the compared steps whose reward is equal bit for bit."""
        if not len(self.old):
            return None
        return float((self.old.view(np.uint64) == self.new.view(np.uint64)).mean())

    @property
    def within_fraction(self) -> float | None:
        """Return the part of the compared steps whose rewards are within 1e-3 of each other."""
        return float((np.abs(self.old - self.new) <= CLOSE).mean()) if len(self.old) else None

    @property
    def step_correlation(self) -> float | None:
        """Return Pearson's correlation of old and new reward over the compared steps."""
        return correlation(self.old, self.new)

    @cached_property
    def old_totals(self) -> np.ndarray:
        """Recorded reward of each episode, shape (episodes,)."""
        return np.array([episode.rewards.sum() for episode in self.recording.episodes])

    @cached_property
    def new_totals(self) -> np.ndarray:
        """Replayed reward of each episode, shape (episodes,)."""
        return np.array([rewards.sum() for rewards in self.rewards])

    @property
    def total_correlation(self) -> float | None:
        """Return Pearson's correlation of old and new total over the episodes."""
        return correlation(self.old_totals, self.new_totals)

    def figures(self) -> dict[str, Any]:
        """Return all results as plain data."""
        recording = self.recording
        return {
            "recording": recording.name,
            "kind": recording.kind,
            "track": recording.track.name,
            "reward_file": str(self.reward_file),
            "is_own_reward": self.is_own_reward,
            "episodes": len(recording.episodes),
            "steps": recording.num_steps,
            "steps_compared": len(self.old),
            "recorded_per_episode": float(self.old_totals.mean()),
            "replayed_per_episode": float(self.new_totals.mean()),
            "recorded_per_step": float(self.old_totals.sum() / recording.num_steps),
            "replayed_per_step": float(self.new_totals.sum() / recording.num_steps),
            "step_correlation": self.step_correlation,
            "total_correlation": self.total_correlation,
            "exact_fraction": self.exact_fraction,
            "within_1e-3": self.within_fraction,
            "steps_per_second": self.steps_per_second,
            "totals": [
                {
                    "phase": episode.phase,
                    "iteration": episode.iteration,
                    "episode": episode.index,
                    "status": episode.status.trace_name,
                    "progress": episode.progress,
                    "recorded": float(old),
                    "replayed": float(new),
                }
                for episode, old, new in zip(
                    recording.episodes, self.old_totals, self.new_totals, strict=True
                )
            ],
        }

    def _compared(self, rewards: list[np.ndarray]) -> np.ndarray:
        joined = np.concatenate(rewards)
        masks = self.recording.comparable
        return joined if masks is None else joined[np.concatenate(masks)]


def replay(recording: Recording, reward_file: Path | None = None) -> Replay:
    """Call a reward function for every step of a recording.

    The calls come in the order in which the recording's own trainer made them: episode by
    episode as they ended, so that what a function keeps between calls is the same as then.

    Args:
        recording: From `local_trainer.lab.recordings.read_recording`.
        reward_file: The function; by default the one that made the recording.

    Raises:
        ConfigError: If no file is given and the recording holds none.
        NotFound: If the file does not exist.
        RewardFunctionError: If the function cannot be loaded, fails, or takes too long.
    """
    reward_file = reward_file or recording.reward_file
    if reward_file is None:
        raise ConfigError(
            f"{recording.source} holds no reward function: name one with --reward FILE."
        )
    rewards: list[np.ndarray] = [np.zeros(0)] * len(recording.episodes)
    seconds = 0.0
    for share in _call_order(recording):
        if not share:
            continue
        steps = np.concatenate([recording.episodes[i].steps for i in share])
        with RewardFunction(reward_file, recording.track) as function:
            function.wait_until_loaded()
            start = time.perf_counter()
            joined = function.rewards(steps)
            seconds += time.perf_counter() - start
        ends = np.cumsum([len(recording.episodes[i].steps) for i in share])
        for i, part in zip(share, np.split(joined, ends[:-1]), strict=True):
            rewards[i] = part
    return Replay(recording, reward_file, rewards, seconds)


def write_step_csv(path: Path, replays: Sequence[Replay]) -> None:
    """Write every step's recorded and replayed reward, one row each (`CSV_COLUMNS`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in replays:
        for episode, rewards in zip(one.recording.episodes, one.rewards, strict=True):
            writer.writerows(_csv_rows(one, episode, rewards))
    write_atomically(path, text.getvalue())


def correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Pearson's correlation, None where one of the two does not vary.

    Args:
        first: Shape (n,).
        second: Shape (n,).
    """
    if len(first) < 2 or np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _call_order(recording: Recording) -> list[list[int]]:
    """Return for each reward process the indices of its episodes in the order it saw them."""
    episodes = recording.episodes
    order = list(range(len(episodes)))
    if recording.is_exact:
        # Episodes that ended with the same step were judged by number, as they stand here.
        order.sort(key=lambda i: float(episodes[i].wall_clock[-1]))
    count = recording.num_reward_processes
    return [[i for i in order if episodes[i].index % count == k] for k in range(count)]


def _csv_rows(one: Replay, episode: Episode, rewards: np.ndarray) -> list[tuple[object, ...]]:
    steps = episode.steps
    head = (
        one.recording.name,
        str(one.reward_file),
        episode.phase,
        episode.iteration,
        episode.index,
    )
    columns = [steps[name].tolist() for name in ("steps", "x", "y", "progress")]
    return [
        (*head, int(step), *values)
        for step, *values in zip(*columns, episode.rewards.tolist(), rewards.tolist(), strict=True)
    ]
