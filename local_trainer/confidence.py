"""How sure one can be: intervals for shares and means, and whether two of them differ.

Laps are treated as if their starts and noise had been drawn at random. Every bootstrap is seeded,
so the same laps always give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
FEWEST_VALUES = 6
"""Below this a bootstrap of the mean says less than it seems to."""

_NUM_RESAMPLES = 10_000
_MOST_NUMBERS = 2_000_000
"""Most numbers one block of resamples holds."""


@dataclass(frozen=True)
class Interval:
    """An estimate and where the true value lies with the stated confidence."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Return whether the sign is certain."""
        return self.low > 0.0 or self.high < 0.0


def share_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return a share with Wilson's score interval, all in 0 to 1.

    Raises:
        ValueError: If there is no trial, or more successes than trials.
    """
    from scipy.stats import binomtest

    found = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high))


def mean_interval(
    values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval | None:
    """Return the mean with its bootstrap interval (percentiles); None for too few values."""
    if len(values) < FEWEST_VALUES:
        return None
    means = _resampled_means(np.asarray(values, np.float64), 0)
    return _between(float(np.mean(values)), means, confidence)


def mean_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    is_paired: bool,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Return how much larger the first mean is, with its bootstrap interval.

    Args:
        first: Values of one side.
        second: Values of the other.
        is_paired: Whether the k-th values belong together.
        confidence: How sure the interval is.

    Returns:
        None for too few values on a side.

    Raises:
        ValueError: If paired sides are not equally long.
    """
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if is_paired:
        if len(one) != len(two):
            raise ValueError(f"pairs need as many values on each side, got {len(one)}, {len(two)}")
        return mean_interval(one - two, confidence)
    if min(len(one), len(two)) < FEWEST_VALUES:
        return None
    differences = _resampled_means(one, 0) - _resampled_means(two, 1)
    return _between(float(one.mean() - two.mean()), differences, confidence)


def share_p_value(first: Sequence[bool], second: Sequence[bool], is_paired: bool) -> float:
    """Return how likely shares as different as these are if there is no true difference.

    Pairs: McNemar's exact test, which looks at the pairs whose sides differ. Otherwise: Fisher's
    exact test.

    Raises:
        ValueError: If paired sides are not equally long.
    """
    from scipy.stats import binomtest, fisher_exact

    if is_paired:
        pairs = list(zip(first, second, strict=True))
        only_first = sum(one and not two for one, two in pairs)
        only_second = sum(two and not one for one, two in pairs)
        if only_first + only_second == 0:
            return 1.0
        return float(binomtest(only_first, only_first + only_second).pvalue)
    counts = [[sum(side), len(side) - sum(side)] for side in (first, second)]
    return float(fisher_exact(counts).pvalue)


def _resampled_means(values: np.ndarray, stream: int) -> np.ndarray:
    """Return means of resamples, shape (_NUM_RESAMPLES,)."""
    random = np.random.default_rng([0, stream])
    size = max(1, _MOST_NUMBERS // len(values))
    blocks = []
    for begin in range(0, _NUM_RESAMPLES, size):
        count = min(size, _NUM_RESAMPLES - begin)
        blocks.append(values[random.integers(len(values), size=(count, len(values)))].mean(axis=1))
    return np.concatenate(blocks)


def _between(estimate: float, resampled: np.ndarray, confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Interval(estimate, float(low), float(high))
