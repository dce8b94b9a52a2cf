"""Intervals and tests against values known by hand."""

import numpy as np
import pytest

from local_trainer.confidence import (
    FEWEST_VALUES,
    mean_difference,
    mean_interval,
    share_interval,
    share_p_value,
)


def test_wilson_interval_of_all_and_of_none_by_hand() -> None:
    z = 1.959963984540054
    every = share_interval(10, 10)
    assert (every.estimate, every.high) == (1.0, pytest.approx(1.0))
    assert every.low == pytest.approx(10 / (10 + z**2))
    none = share_interval(0, 10)
    assert (none.estimate, none.low) == (0.0, pytest.approx(0.0))
    assert none.high == pytest.approx(z**2 / (10 + z**2))


def test_a_share_of_no_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="n"):
        share_interval(0, 0)


def test_equal_values_leave_no_doubt_about_their_mean() -> None:
    interval = mean_interval([9.5] * FEWEST_VALUES)
    assert interval is not None
    assert (interval.estimate, interval.low, interval.high) == (9.5, 9.5, 9.5)


def test_too_few_values_give_no_interval() -> None:
    assert mean_interval([9.5] * (FEWEST_VALUES - 1)) is None
    assert mean_difference([1.0] * 20, [1.0] * (FEWEST_VALUES - 1), is_paired=False) is None


def test_the_bootstrap_is_as_wide_as_the_normal_law_says() -> None:
    values = np.random.default_rng(1).normal(10.0, 2.0, 400)
    interval = mean_interval(values)
    assert interval is not None
    # 10,000 resamples leave about 2 % of noise on the width.
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert interval.low < interval.estimate < interval.high


def test_pairs_see_a_shift_that_single_values_hide() -> None:
    slow = np.linspace(5.0, 25.0, 20)
    paired = mean_difference(slow, slow - 0.5, is_paired=True)
    alone = mean_difference(slow, slow - 0.5, is_paired=False)
    assert paired is not None and alone is not None
    assert (paired.low, paired.high) == (pytest.approx(0.5), pytest.approx(0.5))
    assert paired.excludes_zero
    assert not alone.excludes_zero


def test_pairs_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match="as many values on each side, got 2, 1"):
        mean_difference([1.0, 2.0], [1.0], is_paired=True)


def test_many_values_take_little_memory_and_the_same_interval_each_time() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 3000)
    assert mean_interval(values) == mean_interval(values)


def test_exact_tests_by_hand() -> None:
    six, none = [True] * 6, [False] * 6
    assert share_p_value(six, none, is_paired=True) == pytest.approx(2 * 0.5**6)
    assert share_p_value(six + none, six + none, is_paired=True) == 1.0
    # 3 of 3 against 0 of 3: two of the twenty ways to deal three successes to six trials.
    assert share_p_value(six[:3], none[:3], is_paired=False) == pytest.approx(2 / 20)
