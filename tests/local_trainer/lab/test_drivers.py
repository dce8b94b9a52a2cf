"""Scripted drivers do what their names say, in the real simulator."""

import math

import numpy as np
import pytest

from local_trainer.actions import default_action_space
from local_trainer.episodes import Episode
from local_trainer.lab.drivers import (
    FASTEST_MPS,
    FULL_LOCK_DEG,
    SLOWEST_MPS,
    Limited,
    Line,
    Loiter,
    Steady,
    Tactic,
    WrongWay,
    Zigzag,
    attempts,
    random_tactic,
    varied,
)
from local_trainer.lab.driving import Driver, drive
from sim.simulator import EpisodeStart
from sim.steps import EpisodeStatus
from sim.track_files import load_track

TRACK = load_track("reinvent_base")
CENTER = Line.center_of(TRACK)


def driven(*drivers: Driver, max_steps: int = 500) -> list[Episode]:
    starts = [EpisodeStart(0)] * len(drivers)
    return drive(TRACK, list(drivers), starts, max_steps)


@pytest.fixture(scope="module")
def scripted() -> dict[str, Episode]:
    """Return the episode of every scripted driver by its name."""
    chosen = attempts(TRACK)
    return dict(zip([a.name for a in chosen], driven(*(a.make() for a in chosen)), strict=True))


def test_honest_drivers_finish_clean_laps_and_the_racing_line_is_the_fastest(scripted):
    honest = [a.name for a in attempts(TRACK) if a.honest_line]
    assert honest
    for name in honest:
        assert scripted[name].status is EpisodeStatus.LAP_COMPLETE, name
    center_s = scripted["centre line"].duration_s
    assert scripted["racing line"].duration_s < center_s
    assert center_s < scripted["slow lap"].duration_s < scripted["very slow lap"].duration_s


def test_crawling_and_standing_still_last_to_the_cap_and_hardly_get_on(scripted):
    for name in ("crawling", "standing still"):
        assert scripted[name].status is EpisodeStatus.TIME_UP
        assert (scripted[name].steps["speed"] == SLOWEST_MPS).all()
    # 0.1 m/s for 500 steps; progress is measured 0.14 m ahead of the car's origin.
    expected = 100.0 * (0.1 * 500 / 15.0 + 0.14) / TRACK.length_m
    assert scripted["crawling"].progress == pytest.approx(expected, abs=0.3)
    assert scripted["standing still"].progress < scripted["crawling"].progress


def test_circling_flat_out_and_zigzag_leave_the_road(scripted):
    for name in ("circling", "circling at full speed", "flat out", "zigzag at full speed"):
        assert scripted[name].status is EpisodeStatus.OFF_TRACK, name


def test_driving_backwards_ends_as_reversed_with_falling_progress(scripted):
    episode = scripted["driving backwards"]
    assert episode.status is EpisodeStatus.REVERSED
    assert (np.diff(episode.steps["progress"][-15:]) < 0.0).all()


def test_weaving_swings_to_both_sides_and_cutting_corners_leaves_the_road_in_part(scripted):
    weaving = scripted["weaving"].steps
    left = weaving["is_left_of_center"]
    assert 0.2 < left.mean() < 0.8
    assert np.count_nonzero(np.diff(left.astype(int))) > 8
    cutting = scripted["cutting corners"]
    assert not cutting.steps["all_wheels_on_track"].all()
    assert cutting.steps["distance_from_center"].max() > CENTER.half_width_m - 0.15


def test_loiterer_turns_far_to_both_sides_and_stays_near_its_line():
    (episode,) = driven(Loiter(CENTER, 0.3))
    assert episode.status is EpisodeStatus.TIME_UP
    assert episode.progress < 100.0 * 0.3 * 500 / 15.0 / TRACK.length_m * 0.8
    # On the first straight, which runs along +x.
    yaw_deg = np.degrees(episode.steps["yaw"][:100])
    assert yaw_deg.max() > 40.0 and yaw_deg.min() < -40.0
    assert episode.steps["distance_from_center"].max() < 0.6


def test_steady_driver_never_changes_and_zigzag_knows_only_full_lock():
    assert Steady(7.0, 1.5).command(None) == (7.0, 1.5)
    (episode,) = driven(Zigzag(CENTER, 1.0), max_steps=60)
    assert set(np.abs(episode.steps["steering_angle"])) == {FULL_LOCK_DEG}
    assert len(set(episode.steps["steering_angle"])) == 2


def test_wrong_way_driver_swings_out_and_turns_at_full_lock_until_it_looks_back():
    driver = WrongWay(Steady(0.0, 2.0), speed_mps=0.3)
    step = np.zeros((), [("yaw", "f8")])
    right, left, on = (-FULL_LOCK_DEG, 0.3), (FULL_LOCK_DEG, 0.3), (0.0, 2.0)
    assert driver.command(None) == right
    turned_deg = (0.0, -59.0, -61.0, 0.0, 149.0, 151.0, 151.0)
    for degrees, expected in zip(
        turned_deg, (right, right, left, left, left, left, on), strict=True
    ):
        step["yaw"] = math.radians(degrees)
        assert driver.command(step[()]) == expected


def test_limited_driver_gives_only_the_model_s_actions():
    space = default_action_space()
    assert Limited(Steady(-20.0, 0.1), space).command(None) == (-15.0, 1.0)
    (episode,) = driven(Limited(CENTER.follow(1.4)(), space), max_steps=80)
    given = {(s["steering_angle"], s["speed"]) for s in episode.steps}
    assert given <= {(a.steering_deg, a.speed_mps) for a in space.actions}


def test_offset_line_is_parallel_and_a_weave_swings_as_far_as_asked():
    left = CENTER.offset(0.2)
    away = np.hypot(*(left.points_m - CENTER.points_m).T)
    np.testing.assert_allclose(away, 0.2, atol=1e-9)
    # The start lies on a straight along +x: left is +y.
    assert left.points_m[0, 1] == pytest.approx(CENTER.points_m[0, 1] + 0.2, abs=1e-6)
    weave = CENTER.weave(0.3, 2.0)
    away = np.hypot(*(weave.points_m - CENTER.points_m).T)
    assert away.max() == pytest.approx(0.3, abs=0.01)


def test_tactics_repeat_with_the_seed_and_stay_within_the_car_s_range():
    def draw() -> list[Tactic]:
        random = np.random.default_rng(5)
        first = [random_tactic(random) for _ in range(60)]
        return first + [varied(tactic, random) for tactic in first]

    tactics = draw()
    assert tactics == draw()
    assert {tactic.kind for tactic in tactics} == {"weave", "circle", "zigzag", "loiter"}
    for tactic in tactics:
        assert SLOWEST_MPS <= tactic.speed_mps <= FASTEST_MPS
        assert abs(tactic.steering_deg) <= FULL_LOCK_DEG
    for kind in ("weave", "circle", "zigzag", "loiter"):
        tactic = next(t for t in tactics if t.kind == kind)
        steering_deg, speed_mps = tactic.attempt(TRACK).make().command(None)
        assert abs(steering_deg) <= FULL_LOCK_DEG and speed_mps > 0.0
