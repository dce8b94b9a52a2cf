"""The poses of ``reward check`` are what the simulator's own kernels measure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from local_trainer.lab.check_poses import REFERENCE_AHEAD_M, cars_on
from sim.car import CarConfig, wheel_points
from sim.reward_dict import KEYS
from sim.reward_params import REFERENCE_AHEAD_M as KERNEL_AHEAD_M
from sim.reward_params import measure
from sim.steps import STEP_DTYPE
from sim.track import Track
from sim.track_files import BUILT_IN_DIR, load_track

TRACKS = sorted(path.stem for path in BUILT_IN_DIR.glob("*.yaml"))


@pytest.fixture(params=TRACKS)
def track(request: pytest.FixtureRequest) -> Track:
    return load_track(request.param)


def test_each_pose_is_measured_as_the_simulator_does(track: Track) -> None:
    assert REFERENCE_AHEAD_M == KERNEL_AHEAD_M
    numbers = CarConfig().numbers()
    wheels = np.empty((4, 2))
    step = np.zeros(1, STEP_DTYPE)
    for car in cars_on(track):
        for params in car.params:
            yaw = math.radians(params["heading"])
            x = params["x"] - REFERENCE_AHEAD_M * math.cos(yaw)
            y = params["y"] - REFERENCE_AHEAD_M * math.sin(yaw)
            wheel_points(numbers, x, y, yaw, wheels)
            measure(track.arrays, car.is_reversed, x, y, yaw, wheels, 0.0, 0.0, step, 0)
            for key in ("distance_from_center", "projection_distance", "track_width"):
                assert params[key] == pytest.approx(step[key][0], abs=1e-9), key
            for key in ("all_wheels_on_track", "is_left_of_center", "is_offtrack"):
                assert params[key] == step[key][0], key
            waypoints = [step["previous_waypoint"][0], step["next_waypoint"][0]]
            assert params["closest_waypoints"] == waypoints


def test_poses_are_on_and_off_the_road_as_their_names_say(track: Track) -> None:
    for car in cars_on(track):
        for name, params in zip(car.poses, car.params, strict=True):
            assert tuple(params) == tuple(key for key in KEYS if key != "waypoints")
            assert params["is_offtrack"] == name.startswith("off the road"), name
            if "border" in name:
                assert not params["all_wheels_on_track"], name
        steps = [params["steps"] for params in car.params]
        assert steps == sorted(set(steps)) and steps[0] == 1.0
        assert car.params[-1]["progress"] == 100.0
        behind = [p["progress"] for p in car.params if p["progress"] < 0.0]
        assert len(behind) == int(track.is_loop)


def test_objects_are_the_same_boxes_in_both_directions(track: Track) -> None:
    without, with_boxes, reversed_without, reversed_with = cars_on(track)
    assert [car.has_objects for car in (without, with_boxes)] == [False, True]
    assert [car.is_reversed for car in (reversed_without, reversed_with)] == [True, True]
    for params in without.params:
        assert params["closest_objects"] == [0, 0] and not params["objects_location"]
        assert not params["is_crashed"] and not params["object_in_camera"]
    for here, there in zip(with_boxes.params, reversed_with.params, strict=True):
        assert here["objects_location"] == there["objects_location"]
        left = [not is_left for is_left in here["objects_left_of_center"]]
        assert there["objects_left_of_center"] == left
        for params in (here, there):
            previous, following = params["closest_objects"]
            ahead_m = [
                (distance_m - params["projection_distance"]) % params["track_length"]
                for distance_m in params["objects_distance"]
            ]
            assert ahead_m[following] == min(ahead_m) and ahead_m[previous] == max(ahead_m)
    assert sum(params["is_crashed"] for params in with_boxes.params) == 1
    assert any(params["object_in_camera"] for params in with_boxes.params)
