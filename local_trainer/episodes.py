"""An episode as the trainer gets it, whatever played it.

`Episode` is what rollouts hand to the trainer, what traces, metrics and plots are written
from, and (without pictures) what a run keeps on disk, one ``.npz`` an iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.simulator import EpisodeStart
from sim.steps import EpisodeStatus


@dataclass(frozen=True)
class Episode:
    """One finished episode of one car, T steps long."""

    start: EpisodeStart
    phase: str
    """``training`` or ``evaluation``."""

    iteration: int
    """Policy iteration that played it, counted from 0."""

    steps: np.ndarray
    """What happened, shape (T,), dtype `sim.steps.STEP_DTYPE`."""

    actions: np.ndarray
    """Index into the action space, shape (T,), int32."""

    rewards: np.ndarray
    """What the reward function returned, shape (T,), float64."""

    wall_clock: np.ndarray
    """Unix time of each step in seconds, shape (T,), float64."""

    observations: np.ndarray | None = None
    """What the policy saw before each action, shape (T, 120, 160, channels), uint8."""

    probabilities: np.ndarray | None = None
    """What the policy gave for each action, shape (T, num_actions), float32."""

    final_observation: np.ndarray | None = None
    """What the camera saw after the last step, shape (120, 160, channels), uint8. Kept because
    an episode cut off by its step cap is not over: its future is estimated from here."""

    @property
    def index(self) -> int:
        """Return the number of the episode within its phase, counted from 0."""
        return self.start.episode

    @property
    def status(self) -> EpisodeStatus:
        """Return how the episode ended."""
        return EpisodeStatus(int(self.steps["status"][-1]))

    @property
    def progress(self) -> float:
        """Return the progress at the last step in percent."""
        return float(self.steps["progress"][-1])

    @property
    def is_complete(self) -> bool:
        """Return whether the car finished its lap."""
        return self.status is EpisodeStatus.LAP_COMPLETE

    @property
    def duration_s(self) -> float:
        """Return simulated seconds from the start to the last step, penalties included."""
        return float(self.steps["sim_time"][-1])

    @property
    def total_reward(self) -> float:
        """Return the sum of the rewards."""
        return float(self.rewards.sum())
