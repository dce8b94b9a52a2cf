"""What an episode earns: in total, a second, and as a learner with a discount factor sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.signal import lfilter

from local_trainer.config import resolve_config
from local_trainer.errors import ConfigError

Measure = Literal["total", "per_second", "discounted"]
MEASURES: tuple[Measure, ...] = ("total", "per_second", "discounted")
MEASURE_LABELS: dict[Measure, str] = {
    "total": "per episode",
    "per_second": "per second",
    "discounted": "discounted",
}


@dataclass(frozen=True)
class Earnings:
    """What one episode earned."""

    total: float
    """Sum of the rewards."""
    per_second: float
    """That over the episode's simulated seconds."""
    discounted: float
    """Discounted return from the first step: what PPO raises, averaged over where it starts."""

    def of(self, measure: Measure) -> float:
        """Return one of the three."""
        return float(getattr(self, measure))


def earnings(rewards: np.ndarray, duration_s: float, discount: float) -> Earnings:
    """Return what an episode with these rewards earned.

    Args:
        rewards: Reward of each step, shape (T,), float64, T >= 1.
        duration_s: Simulated seconds from the start to the last step.
        discount: Weight of the next step's reward, 0 to 1.
    """
    total = float(rewards.sum())
    return Earnings(total, total / duration_s, float(returns(rewards, discount)[0]))


def returns(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Return the discounted return from each step to the episode's end, shape (T,), float64."""
    backward: np.ndarray = lfilter([1.0], [1.0, -discount], rewards[::-1])
    return backward[::-1]


def profile_discount(profile: str) -> float:
    """Return the discount factor that a profile trains with.

    Raises:
        ConfigError: If there is no such profile.
    """
    return float(resolve_config(profile=profile).ppo.discount_factor)


def check_discount(discount: float) -> float:
    """Return a discount factor, checked.

    Raises:
        ConfigError: If it is not between 0 and 1.
    """
    if not 0.0 <= discount <= 1.0:
        raise ConfigError(f"--discount must be a number from 0 to 1, got {discount:g}")
    return discount


def short_names(paths: list[Path]) -> list[str]:
    """Return a name for each reward file: its stem, with as many folders as tell it apart.

    Raises:
        ConfigError: If one file is given twice.
    """
    whole = [path.resolve() for path in paths]
    for path in whole:
        if whole.count(path) > 1:
            raise ConfigError(f"Each reward file must be given once, got {path} twice.")
    names = []
    for path in whole:
        parts = path.with_suffix("").parts
        count = 1
        while any(
            other != path and other.with_suffix("").parts[-count:] == parts[-count:]
            for other in whole
        ) and count < len(parts):
            count += 1
        names.append("/".join(parts[-count:]))
    return names
