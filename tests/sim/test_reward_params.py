import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.reward_params import KEYS, REFERENCE_AHEAD_M, RewardParams, measure, progress_after
from sim.steps import STEP_DTYPE
from sim.track import Track, start_pose
from sim.track_files import list_tracks, load_route, load_track

SHARED = Path(__file__).parents[2] / ".." / "shared"
NAMES = [info.name for info in list_tracks()]
NOT_COMPARED = {"sim_time", "is_offtrack", "is_crashed"} | {k for k in KEYS if "object" in k}
ON_POINT = np.zeros((4, 2))


def step_at(
    track: Track,
    is_reversed: bool,
    pose: tuple[float, float, float],
    wheels: np.ndarray = ON_POINT,
    start_fraction: float = 0.0,
    previous_progress: float = 0.0,
) -> np.ndarray:
    """Return the record of a car whose reference point is at a pose. Shape (1,)."""
    x, y, yaw = pose
    steps = np.zeros(1, STEP_DTYPE)
    measure(
        track.arrays,
        is_reversed,
        x - REFERENCE_AHEAD_M * math.cos(yaw),
        y - REFERENCE_AHEAD_M * math.sin(yaw),
        yaw,
        wheels,
        start_fraction,
        previous_progress,
        steps,
        0,
    )
    return steps


def golden_entries() -> list[dict[str, Any]]:
    path = SHARED / "golden" / "reward_params.json"
    if not path.exists():
        pytest.skip(f"needs the reference values in {path}")
    entries: list[dict[str, Any]] = json.loads(path.read_text())
    return entries


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "reinvent_base",
        "reInvent2019_track",
        "Oval_track",
        "Straight_track",
        "2022_summit_speedway_cw",
        "Spain_track",
    ],
)
def test_parameters_equal_the_reference(name: str, is_reversed: bool) -> None:
    [entry] = [
        entry
        for entry in golden_entries()
        if entry["track"] == name and entry["reverse_direction"] == is_reversed
    ]
    track = load_route(SHARED / "tracks" / f"{name}.npy")
    assert track.length_m == pytest.approx(entry["track_length"], abs=1e-9)
    assert track.is_loop == entry["is_loop"]
    assert (track.is_ccw != is_reversed) == entry["is_ccw"]
    assert len(track.center) == entry["n_waypoints"]
    for pose in entry["start_poses"]:
        x, y, yaw = start_pose(track.arrays, is_reversed, pose["ndist"], 0.0)
        assert (x, y) == pytest.approx((pose["x"], pose["y"]), abs=1e-6)
        assert math.remainder(yaw - pose["yaw"], math.tau) == pytest.approx(0.0, abs=1e-6)
    for pose in entry["poses"]:
        steps = np.zeros(1, STEP_DTYPE)
        for field in ("steps", "steering_angle", "speed"):
            steps[field] = pose[field]
        measure(
            track.arrays,
            is_reversed,
            pose["x"],
            pose["y"],
            pose["yaw"],
            np.array(pose["wheels"]),
            pose["start_ndist"],
            pose["prev_progress"],
            steps,
            0,
        )
        [params] = RewardParams(track).dicts(steps)
        for key in pose["params"].keys() - NOT_COMPARED:
            want, got = pose["params"][key], params[key]
            if isinstance(got, float):
                assert got == pytest.approx(want, abs=1e-6), key
            else:
                assert got == want, key
                assert type(got) is type(want), key


def test_a_car_in_the_middle_of_a_straight_is_measured_as_by_hand() -> None:
    track = load_track("Straight_track")  # 5.707 m eastward from (0.709, 1.201), 0.61 m wide
    wheels = np.array([[2.2, 1.4], [2.2, 1.2], [2.0, 1.4], [2.0, 1.2]])
    [step] = step_at(track, False, (2.209, 1.301, 0.0), wheels, start_fraction=0.1)
    assert step["x"] == pytest.approx(2.209)
    assert step["y"] == pytest.approx(1.301)
    assert step["heading"] == pytest.approx(0.0)
    assert step["distance_from_center"] == pytest.approx(0.1)
    assert step["projection_distance"] == pytest.approx(1.5)
    assert step["progress"] == pytest.approx(100.0 * (1.5 / 5.707 - 0.1))
    assert step["track_width"] == pytest.approx(0.61)
    assert (step["previous_waypoint"], step["next_waypoint"]) == (5, 6)  # 0.2718 m apart
    assert step["all_wheels_on_track"]
    assert step["is_left_of_center"]
    assert not step["is_offtrack"]
    assert not step["is_reversed"]


def test_the_same_car_driving_the_other_way_is_right_of_the_centre() -> None:
    track = load_track("Straight_track")
    [step] = step_at(track, True, (2.209, 1.301, math.pi))
    assert step["projection_distance"] == pytest.approx(5.707 - 1.5)
    assert (step["previous_waypoint"], step["next_waypoint"]) == (15, 16)
    assert not step["is_left_of_center"]
    assert step["is_reversed"]
    assert abs(step["heading"]) == pytest.approx(180.0)


def test_wheels_count_one_by_one() -> None:
    track = load_track("Straight_track")
    on, off = (2.0, 1.2), (2.0, 2.0)
    for wheels, are_all_on, is_offtrack in (
        ([on, on, on, on], True, False),
        ([on, on, on, off], False, False),
        ([on, off, off, off], False, False),
        ([off, off, off, off], False, True),
    ):
        [step] = step_at(track, False, (2.0, 1.2, 0.0), np.array(wheels))
        assert step["all_wheels_on_track"] == are_all_on
        assert step["is_offtrack"] == is_offtrack


@pytest.mark.parametrize("heading_deg", [-540.0, -190.0, -90.0, 0.0, 179.0, 200.0, 725.0])
def test_heading_stays_within_half_a_turn(heading_deg: float) -> None:
    [step] = step_at(load_track("hairpins"), False, (2.5, 1.0, math.radians(heading_deg)))
    assert -180.0 <= step["heading"] <= 180.0
    assert math.remainder(step["heading"] - heading_deg, 360.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_drive_makes_progress_from_0_to_100(name: str, is_reversed: bool) -> None:
    track = load_track(name)
    start_fraction = 0.37 if track.is_loop else 0.0
    progress = 0.0
    seen = []
    for lap in np.linspace(0.0, 1.0 if track.is_loop else 0.999999, 160)[1:]:
        pose = start_pose(track.arrays, is_reversed, start_fraction + lap, 0.05)
        [step] = step_at(track, is_reversed, pose, ON_POINT, start_fraction, progress)
        progress = float(step["progress"])
        seen.append(progress)
    assert seen == sorted(seen)
    assert seen[0] < 2.0
    assert seen[-1] == pytest.approx(100.0, abs=0.3)  # 5 cm beside the line, a bend shifts it
    assert np.diff(seen).max() < 2.5


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_car_on_the_road_has_its_wheels_on_it_and_sides_right(
    name: str, is_reversed: bool
) -> None:
    track = load_track(name)
    half_m = 0.5 * float(track.widths_m.min())
    for fraction in np.linspace(0.01, 0.99, 60):
        for share, is_inside in ((0.2, True), (0.9, True), (1.1, False)):
            for side in (-1.0, 1.0):
                # Towards the border itself: on a track of changing width it is not square.
                x, y, yaw = start_pose(track.arrays, is_reversed, fraction, 0.0)
                [middle] = step_at(track, is_reversed, (x, y, yaw))
                offset_m = side * share * 0.5 * float(middle["track_width"])
                x, y, yaw = start_pose(track.arrays, is_reversed, fraction, offset_m)
                [step] = step_at(track, is_reversed, (x, y, yaw), np.tile((x, y), (4, 1)))
                assert step["all_wheels_on_track"] == is_inside, (fraction, share, side)
                assert step["is_offtrack"] != is_inside
                assert step["is_left_of_center"] == (side > 0.0)
                # Rows are chords of a bend: up to 5 mm between them and the arc.
                assert step["distance_from_center"] == pytest.approx(abs(offset_m), abs=0.02)
                assert step["track_width"] == pytest.approx(2 * half_m, rel=0.35)


@given(
    start=st.floats(0.0, 0.999),
    moves=st.lists(st.floats(-0.2, 0.3), min_size=1, max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_progress_continues_whatever_lines_are_crossed(start: float, moves: list[float]) -> None:
    progress = 0.0
    total = 0.0
    for move in moves:
        total += move
        if not -0.9 < total < 0.99:
            return
        progress = progress_after((start + total) % 1.0, start, progress)
        assert progress == pytest.approx(100.0 * total, abs=1e-6) or (
            # At the start itself rounding decides between 0 and a whole lap less.
            abs(total) < 1e-9 and abs(progress) < 1e-6
        )


def test_progress_ends_at_100() -> None:
    assert progress_after(0.52, 0.5, 99.0) == 100.0


def test_progress_behind_the_start_is_negative() -> None:
    assert progress_after(0.48, 0.5, 0.0) == pytest.approx(-2.0)
    assert progress_after(0.99, 0.0, 0.0) == pytest.approx(-1.0)


def test_a_dict_has_the_services_keys_in_order_and_python_values() -> None:
    track = load_track("reinvent_base")
    steps = step_at(track, False, track.pose_at(0.3))
    steps["steps"], steps["sim_time"] = 7.0, 1.25
    [params] = RewardParams(track).dicts(steps)
    assert tuple(params) == KEYS
    assert len(KEYS) == 27
    types = {type(value) for value in params.values()}
    assert types == {bool, float, list}
    assert {type(index) for index in params["closest_waypoints"]} == {int}
    assert params["steps"] == 7.0
    assert params["sim_time"] == 1.25
    assert params["track_length"] == track.length_m
    assert params["closest_objects"] == [0, 0]
    assert params["objects_location"] == []
    assert params["object_in_camera"] is False


def test_reversed_steps_get_reversed_waypoints() -> None:
    track = load_track("reinvent_base")
    steps = np.concatenate(
        [step_at(track, is_reversed, track.pose_at(0.3)) for is_reversed in (False, True)]
    )
    forward, backward = RewardParams(track).dicts(steps)
    assert forward["waypoints"] == track.waypoints
    assert backward["waypoints"] == track.waypoints[::-1]
    k, following = backward["closest_waypoints"]
    x, y = backward["waypoints"][k]
    assert math.dist((x, y), (backward["x"], backward["y"])) < 0.2
    assert following == k + 1


def test_a_reward_function_may_change_what_it_gets() -> None:
    track = load_track("reinvent_base")
    steps = step_at(track, False, track.pose_at(0.3))
    maker = RewardParams(track)
    [first] = maker.dicts(steps)
    expected = {key: list(v) if isinstance(v, list) else v for key, v in first.items()}
    for value in first.values():
        if isinstance(value, list):
            value.append("mine")
    first["x"] = None
    [second] = maker.dicts(steps)
    assert second == expected
