import numpy as np
import pytest

from sim.car import CarConfig
from sim.embedded import EmbeddedSimulator
from sim.remeasure import lap_fractions, remeasure
from sim.simulator import EpisodeStart
from sim.track import Track
from sim.track_files import load_track

MEASURED = (
    "heading",
    "distance_from_center",
    "projection_distance",
    "progress",
    "track_width",
    "origin_x",
    "origin_y",
    "yaw",
)
FLAGS = (
    "previous_waypoint",
    "next_waypoint",
    "all_wheels_on_track",
    "is_left_of_center",
    "is_offtrack",
    "is_reversed",
)


@pytest.fixture(scope="module")
def track() -> Track:
    return load_track("reinvent_base")


@pytest.mark.parametrize("is_reversed", [False, True])
def test_steps_of_the_simulator_are_measured_again_from_their_poses(
    track: Track, is_reversed: bool
) -> None:
    start_fraction = 0.97  # so that the finish line is crossed
    simulator = EmbeddedSimulator(track, 1)
    simulator.reset(np.array([0]), [EpisodeStart(0, start_fraction, is_reversed)])
    driven = []
    for k in range(500):
        steering = np.array([25.0 * np.sin(k / 4.0)])
        driven.append(simulator.step(np.array([0]), steering, np.array([1.5])))
        if driven[-1]["done"][0]:
            break
    steps = np.concatenate(driven)
    assert len(steps) > 10
    again = remeasure(
        track, steps["x"], steps["y"], np.radians(steps["heading"]), is_reversed, start_fraction
    )
    assert np.array_equal(again["x"], steps["x"])
    assert np.array_equal(again["y"], steps["y"])
    for name in MEASURED:
        assert np.abs(again[name] - steps[name]).max() < 1e-9, name
    for name in FLAGS:
        assert np.array_equal(again[name], steps[name]), name


def test_waypoints_lie_at_their_share_of_the_lap(track: Track) -> None:
    x, y = track.center[:-1].T
    lengths_m = np.hypot(*np.diff(track.center, axis=0).T)
    expected = np.concatenate(([0.0], np.cumsum(lengths_m)[:-1])) / lengths_m.sum()
    assert np.abs(lap_fractions(track, x, y) - expected).max() < 1e-12
    backwards = lap_fractions(track, x, y, is_reversed=True)
    assert (
        np.abs((backwards + expected) % 1.0 - np.round((backwards + expected) % 1.0)).max() < 1e-9
    )


def test_wheels_are_those_of_the_given_car(track: Track) -> None:
    x, y, yaw = track.pose_at(0.02)
    pose = (np.array([x]), np.array([y]), np.array([yaw]))
    assert remeasure(track, *pose)["all_wheels_on_track"][0]
    # Wider than the road: its rear wheels stand beside it, the front ones on it.
    wide = CarConfig(rear_wheel_y_m=0.6)
    assert not remeasure(track, *pose, car=wide)["all_wheels_on_track"][0]
    assert not remeasure(track, *pose, car=wide)["is_offtrack"][0]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([0.0, 1.0], [0.0], "one shape"),
        ([[0.0]], [[0.0]], "one shape"),
        ([np.nan], [0.0], "finite"),
        ([0.0], [np.inf], "finite"),
    ],
)
def test_bad_poses_are_refused(track: Track, x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remeasure(track, np.array(x), np.array(y), np.zeros_like(np.array(x)))
