"""Scripted drivers in the real simulator, and the path follower."""

import math

import numpy as np
import pytest

from local_trainer.lab.driving import NO_ACTION, PathFollower, drive, turn_table
from sim.simulator import EpisodeStart
from sim.steps import EpisodeStatus
from sim.track import Track
from sim.track_files import load_track


class Constant:
    """Always the same command; counts how often it was asked."""

    def __init__(self, steering_deg: float, speed_mps: float) -> None:
        self.answer = (steering_deg, speed_mps)
        self.seen: list[float | None] = []

    def command(self, step: np.void | None) -> tuple[float, float]:
        self.seen.append(None if step is None else float(step["steps"]))
        return self.answer


@pytest.fixture(scope="module")
def oval() -> Track:
    return load_track("Oval_track")


def follower(track: Track, speed_mps: float) -> PathFollower:
    return PathFollower(track.center, np.full(len(track.center), speed_mps), track.is_loop)


def test_each_driver_gets_its_own_cars_steps_and_the_first_call_none(oval: Track) -> None:
    drivers = [Constant(0.0, 1.0), Constant(0.0, 2.0)]
    slow, fast = drive(oval, drivers, [EpisodeStart(0), EpisodeStart(1)], max_steps=4)
    assert [driver.seen for driver in drivers] == [[None, 1.0, 2.0, 3.0]] * 2
    assert slow.steps["speed"].tolist() == [1.0] * 4
    assert fast.steps["speed"].tolist() == [2.0] * 4
    assert (slow.index, fast.index) == (0, 1)


def test_an_episode_is_cut_off_at_max_steps_and_has_no_rewards_or_actions(oval: Track) -> None:
    [episode] = drive(oval, [Constant(0.0, 0.5)], [EpisodeStart(0)], max_steps=3)
    assert episode.status is EpisodeStatus.TIME_UP
    assert episode.rewards.tolist() == [0.0] * 3
    assert episode.actions.tolist() == [NO_ACTION] * 3
    assert episode.observations is None


def test_an_episode_that_ends_early_leaves_the_others_driving(oval: Track) -> None:
    off, on = drive(
        oval, [Constant(30.0, 2.0), follower(oval, 1.0)], [EpisodeStart(0)] * 2, max_steps=100
    )
    assert off.status is EpisodeStatus.OFF_TRACK and len(off.steps) < 60
    assert len(on.steps) == 100


def test_the_same_drive_twice_is_the_same_to_the_last_bit(oval: Track) -> None:
    first, second = (
        drive(oval, [follower(oval, 1.5)], [EpisodeStart(0)], max_steps=60)[0] for _ in range(2)
    )
    assert np.array_equal(first.steps, second.steps)


def test_drivers_and_starts_must_be_as_many(oval: Track) -> None:
    with pytest.raises(ValueError, match="one for each of the 1 drivers, got 2"):
        drive(oval, [Constant(0.0, 1.0)], [EpisodeStart(0)] * 2, max_steps=3)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(
    "name", ["AWS_track", "Bowtie_track", "Straight_track", "hairpins", "narrow_loop"]
)
def test_the_follower_keeps_to_the_centre_line_at_1_mps(name: str, is_reversed: bool) -> None:
    track = load_track(name)
    speed_mps = 0.8 if name in ("Bowtie_track", "narrow_loop", "hairpins") else 1.0
    start = EpisodeStart(0, is_reversed=is_reversed)
    [lap] = drive(track, [follower(track, speed_mps)], [start], max_steps=2000)
    assert lap.is_complete
    assert lap.steps["distance_from_center"].max() < 0.25
    # A lap takes about its length over the speed, and the start from a standstill.
    assert lap.duration_s == pytest.approx(track.length_m / speed_mps, rel=0.05)


def test_the_follower_comes_back_from_beside_the_path(oval: Track) -> None:
    starts = [
        EpisodeStart(0, lateral_offset_m=offset_m, yaw_offset_rad=yaw_rad)
        for offset_m in (-0.2, 0.2)
        for yaw_rad in (-0.5, 0.5)
    ]
    drivers = [follower(oval, 1.0) for _ in starts]
    for episode in drive(oval, drivers, starts, max_steps=60):
        assert episode.steps["distance_from_center"][40:].max() < 0.06


def test_one_follower_can_drive_one_episode_after_another(oval: Track) -> None:
    driver = follower(oval, 1.5)
    first, second = (
        drive(oval, [driver], [EpisodeStart(0)], max_steps=40)[0].steps for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_steering_is_symmetric_and_turns_the_car_as_measured() -> None:
    table = turn_table()
    left, right = table.steering_for(1.5, 0.5), table.steering_for(1.5, -0.5)
    assert left == -right > 0.0
    assert table.steering_for(1.5, 0.0) == 0.0
    # The kinematic bicycle, which never slips, would need less.
    assert left > math.degrees(math.atan(0.163974 * 0.5))
    assert table.steering_for(1.5, 99.0) == 30.0
    # Read backwards, the table gives what it was made of.
    row = int(np.argmin(np.abs(table.speeds_mps - 1.5)))
    column = int(np.argmin(np.abs(table.steering_deg - 15.0)))
    curvature = float(table.curvatures_1pm[row, column])
    assert table.steering_for(float(table.speeds_mps[row]), curvature) == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("points", "speeds", "says"),
    [
        (np.zeros((1, 2)), np.ones(1), "shape \\(n >= 2, 2\\), got \\(1, 2\\)"),
        (np.zeros((5, 3)), np.ones(5), "got \\(5, 3\\)"),
        (np.eye(4, 2), np.ones(3), "one for each of the 4 points, got \\(3,\\)"),
    ],
)
def test_a_path_of_the_wrong_shape_is_refused(
    points: np.ndarray, speeds: np.ndarray, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        PathFollower(points, speeds)
