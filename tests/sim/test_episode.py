import math

import numpy as np
import pytest

from sim.episode import EPISODE_DTYPE, begin, check_rules, judge, put_back_pose
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus
from sim.track_files import load_track


def new_episode(rules: EpisodeRules) -> np.ndarray:
    episodes = np.zeros(1, EPISODE_DTYPE)
    begin(episodes, 0, EpisodeStart(0, rules=rules), 1.0, 0)
    return episodes


def judged(
    episodes: np.ndarray,
    progress: float,
    is_offtrack: bool = False,
    moved_m: float = 0.1,
    is_line_end: bool = False,
) -> np.ndarray:
    """Judge one step and return its record."""
    steps = np.zeros(1, STEP_DTYPE)
    steps["progress"] = progress
    steps["is_offtrack"] = is_offtrack
    judge(episodes, 0, moved_m, is_line_end, steps, 0)
    return steps[0]


def test_each_step_is_counted_and_takes_a_fifteenth_of_a_second() -> None:
    episodes = new_episode(EpisodeRules())
    for number in (1, 2, 3):
        step = judged(episodes, progress=float(number))
        assert step["steps"] == number
        assert step["sim_time"] == pytest.approx(number / 15)
        assert step["status"] == EpisodeStatus.IN_PROGRESS
        assert not step["done"]


def test_fifteen_steps_of_falling_progress_end_it() -> None:
    episodes = new_episode(EpisodeRules())
    done = [bool(judged(episodes, progress=-0.1 * k)["done"]) for k in range(1, 16)]
    assert done == [False] * 14 + [True]


def test_one_step_ahead_begins_the_count_of_falling_progress_anew() -> None:
    episodes = new_episode(EpisodeRules(reversed_steps=3))
    progresses = [-1.0, -2.0, -1.5, -2.0, -3.0, -3.0, -4.0, -5.0, -6.0]
    steps = [judged(episodes, progress) for progress in progresses]
    assert [bool(step["done"]) for step in steps] == [False] * 8 + [True]
    assert steps[-1]["status"] == EpisodeStatus.REVERSED


@pytest.mark.parametrize(
    ("moved_m", "status"),
    [(0.0003, EpisodeStatus.IMMOBILIZED), (0.000301, EpisodeStatus.IN_PROGRESS)],
)
def test_fifteen_steps_without_movement_end_it(moved_m: float, status: EpisodeStatus) -> None:
    episodes = new_episode(EpisodeRules())
    for _ in range(15):
        step = judged(episodes, progress=0.0, moved_m=moved_m)
    assert step["status"] == status


def test_time_up_comes_before_a_complete_lap_and_that_before_leaving_the_road() -> None:
    complete = judged(new_episode(EpisodeRules()), progress=100.0, is_offtrack=True)
    assert complete["status"] == EpisodeStatus.LAP_COMPLETE
    late = judged(new_episode(EpisodeRules(max_steps=1)), progress=100.0, is_offtrack=True)
    assert late["status"] == EpisodeStatus.TIME_UP
    assert complete["done"] and late["done"]


def test_end_of_an_open_track_completes_the_lap_wherever_it_began() -> None:
    step = judged(new_episode(EpisodeRules()), progress=40.0, is_line_end=True)
    assert step["status"] == EpisodeStatus.LAP_COMPLETE


def test_neither_time_up_nor_a_complete_lap_is_answered_with_a_reset() -> None:
    rules = EpisodeRules(max_resets=5, max_steps=2)
    assert judged(new_episode(rules), progress=100.0)["done"]
    episodes = new_episode(rules)
    assert not judged(episodes, progress=1.0, is_offtrack=True)["done"]
    assert judged(episodes, progress=1.0, is_offtrack=True)["status"] == EpisodeStatus.TIME_UP


def test_reset_costs_the_penalty_and_keeps_the_progress_before_it() -> None:
    episodes = new_episode(EpisodeRules(max_resets=2, off_track_penalty_s=2.0))
    judged(episodes, progress=10.0)
    left = judged(episodes, progress=11.0, is_offtrack=True)
    assert left["status"] == EpisodeStatus.OFF_TRACK
    assert left["reset_count"] == 1
    assert left["pause_duration"] == 0.0
    assert episodes["progress"][0] == 10.0
    following = judged(episodes, progress=10.5)
    assert following["pause_duration"] == 2.0
    assert following["sim_time"] == pytest.approx(3 / 15 + 2.0)


def test_standing_still_costs_no_penalty() -> None:
    episodes = new_episode(EpisodeRules(max_resets=2, immobilized_steps=1))
    assert judged(episodes, progress=1.0, moved_m=0.0)["status"] == EpisodeStatus.IMMOBILIZED
    assert judged(episodes, progress=1.0)["pause_duration"] == 0.0


def test_resets_run_out() -> None:
    episodes = new_episode(EpisodeRules(max_resets=2))
    done = [bool(judged(episodes, 1.0, is_offtrack=True)["done"]) for _ in range(3)]
    assert done == [False, False, True]
    assert not episodes["is_running"][0]


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", ["reinvent_base", "Oval_track", "Straight_track"])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_car_is_put_back_on_the_lane_it_was_nearest_to(
    name: str, is_reversed: bool, side: float
) -> None:
    track = load_track(name)
    driven = track.reverse() if is_reversed else track
    for fraction in (0.0, 0.31, 0.77):
        was_x, was_y, _ = driven.pose_at(fraction, side * 0.3)
        x, y, yaw = put_back_pose(track.arrays, is_reversed, fraction, was_x, was_y)
        center_x, center_y, center_yaw = driven.pose_at(fraction)
        assert math.remainder(yaw - center_yaw, 2 * math.pi) == 0.0
        # Half way to the border: a quarter of the road's width, on the side the car was on.
        left_m = -math.sin(yaw) * (x - center_x) + math.cos(yaw) * (y - center_y)
        width_m = driven.widths_m[int(fraction * (len(driven.widths_m) - 1))]
        assert left_m * side == pytest.approx(width_m / 4, rel=0.15)


@pytest.mark.parametrize(
    "rules",
    [
        EpisodeRules(max_steps=0),
        EpisodeRules(max_resets=1),
        EpisodeRules(max_resets=-1),
        EpisodeRules(collision_penalty_s=math.nan),
        EpisodeRules(reversed_steps=0),
        EpisodeRules(immobilized_steps=0),
    ],
)
def test_impossible_rules_are_refused(rules: EpisodeRules) -> None:
    with pytest.raises(ValueError, match="must"):
        check_rules(rules)
