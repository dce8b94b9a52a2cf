"""What every simulator promises, whichever stands behind the interface."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.embedded import EmbeddedSimulator
from sim.gazebo.client import GazeboSimulator
from sim.gym_simulator import GymSimulator
from sim.simulator import EpisodeRules, EpisodeStart, Simulator
from sim.steps import STEP_DTYPE, EpisodeStatus
from sim.track import Track
from sim.track_files import load_track

GYM_FILE = Path(__file__).parent / "plain_environment.py"
# So fine that whatever a test commands lies next to an action.
GYM_ACTIONS = [
    {"steering_angle": float(steering_deg), "speed": tenths / 10}
    for tenths in range(1, 41)
    for steering_deg in range(-30, 31)
]


def gym_simulator(track: Track, num_cars: int, seed: int = 0) -> Simulator:
    return GymSimulator(GYM_FILE, track, num_cars, seed, GYM_ACTIONS)


BACKENDS: dict[str, Callable[..., Simulator]] = {
    "embedded": EmbeddedSimulator,
    "gym": gym_simulator,
}

ONE = np.array([0])


@pytest.fixture(params=[*BACKENDS, pytest.param("gazebo", marks=pytest.mark.gazebo)])
def new_simulator(request: pytest.FixtureRequest) -> Callable[..., Simulator]:
    if request.param == "gazebo":
        return partial(GazeboSimulator, host=request.getfixturevalue("gazebo_host"))
    return BACKENDS[request.param]


@pytest.fixture(scope="module")
def oval() -> Track:
    return load_track("Oval_track")


def step_one(simulator: Simulator, steering_deg: float, speed_mps: float) -> Any:
    return simulator.step(ONE, np.array([steering_deg]), np.array([speed_mps]))[0]


def follow_center_line(simulator: Simulator, track: Track, speed_mps: float) -> Any:
    """Drive car 0 by steering towards a point on the centre line, until its episode ends."""
    step = step_one(simulator, 0.0, speed_mps)
    while not step["done"]:
        ahead = (step["projection_distance"] + 0.35) / track.length_m
        x, y, _ = track.pose_at(ahead if track.is_loop else min(ahead, 1.0))
        bearing = math.atan2(y - step["origin_y"], x - step["origin_x"]) - step["yaw"]
        bearing = math.remainder(bearing, 2 * math.pi)
        step = step_one(simulator, math.degrees(bearing) * 1.2, speed_mps)
    return step


def test_observations_are_pictures_overwritten_in_place(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 2)
    pictures = simulator.observations
    assert pictures.shape == (2, 120, 160, 1)
    assert pictures.dtype == np.uint8
    simulator.reset(np.array([1]), [EpisodeStart(0)])
    assert pictures[1].std() > 10.0
    before = pictures.copy()
    simulator.step(np.array([1]), np.array([20.0]), np.array([2.0]))
    assert simulator.observations is pictures
    assert (pictures[1] != before[1]).any()
    assert (pictures[0] == before[0]).all()


def test_steps_are_new_records_counted_and_timed_from_the_start(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 1)
    simulator.reset(ONE, [EpisodeStart(0)])
    first, second = (simulator.step(ONE, np.zeros(1), np.ones(1)) for _ in range(2))
    assert first.dtype == STEP_DTYPE and first.shape == (1,)
    assert first["steps"][0] == 1.0 and second["steps"][0] == 2.0
    assert second["sim_time"][0] == pytest.approx(2 / 15)
    assert first["status"][0] == EpisodeStatus.IN_PROGRESS
    assert not first["done"][0]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_car_starts_on_the_centre_line_and_progresses_in_its_driving_direction(
    new_simulator: Callable[..., Simulator], oval: Track, is_reversed: bool
) -> None:
    simulator = new_simulator(oval, 1)
    simulator.reset(ONE, [EpisodeStart(0, fraction=0.25, is_reversed=is_reversed)])
    driven = oval.reverse() if is_reversed else oval
    x, y, yaw = driven.pose_at(0.25)
    steps = [step_one(simulator, 0.0, 1.0) for _ in range(5)]
    # One step from rest covers less than 10 cm.
    assert math.hypot(steps[0]["origin_x"] - x, steps[0]["origin_y"] - y) < 0.1
    assert abs(math.remainder(steps[0]["yaw"] - yaw, 2 * math.pi)) < 0.01
    assert (np.diff([step["progress"] for step in steps]) > 0).all()
    assert steps[0]["is_reversed"] == is_reversed


def test_offsets_move_and_turn_the_start(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 1)
    start = EpisodeStart(0, fraction=0.1, lateral_offset_m=0.1, yaw_offset_rad=0.2)
    simulator.reset(ONE, [start])
    x, y, yaw = oval.pose_at(0.1, 0.1)
    step = step_one(simulator, 0.0, 0.1)
    assert math.hypot(step["origin_x"] - x, step["origin_y"] - y) < 0.01
    assert step["yaw"] == pytest.approx(yaw + 0.2, abs=0.01)


def test_positive_steering_turns_left(new_simulator: Callable[..., Simulator], oval: Track) -> None:
    simulator = new_simulator(oval, 2)
    cars = np.arange(2)
    simulator.reset(cars, [EpisodeStart(0), EpisodeStart(1)])
    for _ in range(6):
        steps = simulator.step(cars, np.array([20.0, -20.0]), np.ones(2))
    yaw = oval.pose_at(0.0)[2]
    assert steps["yaw"][0] > yaw + 0.1
    assert steps["yaw"][1] < yaw - 0.1
    assert steps["steering_angle"].tolist() == [20.0, -20.0]


def test_commands_are_clipped(new_simulator: Callable[..., Simulator], oval: Track) -> None:
    simulator = new_simulator(oval, 2)
    cars = np.arange(2)
    simulator.reset(cars, [EpisodeStart(0), EpisodeStart(1)])
    for _ in range(3):
        wild = simulator.step(cars, np.array([90.0, 30.0]), np.array([-5.0, 0.1]))
    assert wild["x"][0] == wild["x"][1]
    assert wild["steering_angle"].tolist() == [30.0, 30.0]
    assert wild["speed"].tolist() == [0.1, 0.1]


def play(
    simulator: Simulator, episodes: list[int], actions: np.ndarray
) -> tuple[dict[int, list[bytes]], dict[int, list[bytes]]]:
    """Play one episode a car with actions by episode and step; cars that end stay where they are.

    Returns:
        By episode, the fields of its steps and the pictures after them, as bytes.
    """
    cars = np.arange(len(episodes))
    simulator.reset(
        cars,
        [
            EpisodeStart(episode, fraction=0.1 * episode, is_reversed=episode % 2 == 1)
            for episode in episodes
        ],
    )
    records: dict[int, list[bytes]] = {episode: [] for episode in episodes}
    pictures: dict[int, list[bytes]] = {episode: [] for episode in episodes}
    running = cars
    for t in range(actions.shape[1]):
        chosen = actions[[episodes[car] for car in running], t]
        steps = simulator.step(running, chosen[:, 0], chosen[:, 1])
        for car, step in zip(running, steps, strict=True):
            records[episodes[car]].append(repr(step.item()).encode())
            pictures[episodes[car]].append(simulator.observations[car].tobytes())
        running = running[~steps["done"]]
        if len(running) == 0:
            break
    return records, pictures


def test_same_seed_same_run_whatever_the_cars_are_split_into(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    rng = np.random.default_rng(1)
    actions = np.stack([rng.uniform(-30, 30, (10, 40)), rng.uniform(0.5, 2.0, (10, 40))], axis=-1)
    together = play(new_simulator(oval, 10, seed=5), list(range(10)), actions)
    for part in ([7, 2], [9, 0, 1, 3], [4], [8, 6, 5]):
        records, pictures = play(new_simulator(oval, len(part), seed=5), part, actions)
        for episode in part:
            assert records[episode] == together[0][episode]
            assert pictures[episode] == together[1][episode]


def test_cars_not_named_stand_still_in_time(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 2)
    simulator.reset(np.arange(2), [EpisodeStart(0), EpisodeStart(1)])
    for _ in range(5):
        simulator.step(np.array([1]), np.zeros(1), np.ones(1))
    steps = simulator.step(np.arange(2), np.zeros(2), np.ones(2))
    assert steps["steps"].tolist() == [1.0, 6.0]


def test_records_follow_the_order_of_the_call(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 3)
    starts = [EpisodeStart(k, fraction=0.3 * k) for k in range(3)]
    simulator.reset(np.array([2, 0, 1]), starts)
    steps = simulator.step(np.array([1, 2, 0]), np.zeros(3), np.ones(3))
    places = steps["projection_distance"] / oval.length_m
    assert places == pytest.approx([0.6, 0.0, 0.3], abs=0.02)


def test_ended_car_refuses_to_step_until_it_is_reset(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 1)
    with pytest.raises(ValueError, match="reset"):
        step_one(simulator, 0.0, 1.0)
    start = EpisodeStart(0, rules=EpisodeRules(max_steps=1))
    simulator.reset(ONE, [start])
    assert step_one(simulator, 0.0, 1.0)["done"]
    with pytest.raises(ValueError, match="reset"):
        step_one(simulator, 0.0, 1.0)
    simulator.reset(ONE, [start])
    assert step_one(simulator, 0.0, 1.0)["steps"] == 1.0


@pytest.mark.parametrize(
    ("cars", "steering_deg", "speed_mps"),
    [
        ([2], [0.0], [1.0]),
        ([-1], [0.0], [1.0]),
        ([0, 0], [0.0, 0.0], [1.0, 1.0]),
        ([0, 1, 0], [0.0] * 3, [1.0] * 3),
        ([0], [math.nan], [1.0]),
        ([0], [0.0], [math.inf]),
        ([0, 1], [0.0], [1.0]),
    ],
)
def test_refused_step_moves_nothing(
    new_simulator: Callable[..., Simulator],
    oval: Track,
    cars: list[int],
    steering_deg: list[float],
    speed_mps: list[float],
) -> None:
    simulator = new_simulator(oval, 2)
    simulator.reset(np.arange(2), [EpisodeStart(0), EpisodeStart(1)])
    with pytest.raises(ValueError, match="must"):
        simulator.step(np.array(cars), np.array(steering_deg), np.array(speed_mps))
    steps = simulator.step(np.arange(2), np.zeros(2), np.ones(2))
    assert steps["steps"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "start",
    [
        EpisodeStart(0, fraction=1.0),
        EpisodeStart(0, fraction=math.nan),
        EpisodeStart(-1),
        EpisodeStart(0, lateral_offset_m=math.inf),
        EpisodeStart(0, yaw_offset_rad=math.nan),
        EpisodeStart(0, rules=EpisodeRules(max_steps=0)),
        EpisodeStart(0, rules=EpisodeRules(max_resets=1)),
        EpisodeStart(0, rules=EpisodeRules(off_track_penalty_s=-1.0)),
    ],
)
def test_refused_reset_leaves_the_episodes_under_way(
    new_simulator: Callable[..., Simulator], oval: Track, start: EpisodeStart
) -> None:
    simulator = new_simulator(oval, 2)
    simulator.reset(np.arange(2), [EpisodeStart(0), EpisodeStart(1)])
    simulator.step(np.arange(2), np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="must"):
        simulator.reset(np.arange(2), [EpisodeStart(0), start])
    steps = simulator.step(np.arange(2), np.zeros(2), np.ones(2))
    assert steps["steps"].tolist() == [2.0, 2.0]


def test_leaving_the_road_ends_the_episode(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 1)
    simulator.reset(ONE, [EpisodeStart(0, yaw_offset_rad=math.pi / 2)])
    step = step_one(simulator, 0.0, 1.0)
    while not step["done"]:
        assert not step["is_offtrack"]
        step = step_one(simulator, 0.0, 1.0)
    assert step["status"] == EpisodeStatus.OFF_TRACK
    assert step["is_offtrack"] and not step["all_wheels_on_track"]


def test_driving_backwards_ends_the_episode(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 1)
    simulator.reset(ONE, [EpisodeStart(0, fraction=0.1, yaw_offset_rad=math.pi)])
    steps = [step_one(simulator, 0.0, 0.5) for _ in range(15)]
    assert steps[-1]["status"] == EpisodeStatus.REVERSED
    assert not any(step["done"] for step in steps[:-1])
    assert steps[-1]["progress"] < 0.0


def test_lap_of_a_loop_completes(new_simulator: Callable[..., Simulator], oval: Track) -> None:
    simulator = new_simulator(oval, 1)
    simulator.reset(ONE, [EpisodeStart(0, fraction=0.4, rules=EpisodeRules(max_steps=1000))])
    last = follow_center_line(simulator, oval, 1.0)
    assert last["status"] == EpisodeStatus.LAP_COMPLETE
    assert last["progress"] == 100.0


def test_end_of_an_open_track_is_a_complete_lap(new_simulator: Callable[..., Simulator]) -> None:
    track = load_track("Straight_track")
    simulator = new_simulator(track, 1)
    simulator.reset(ONE, [EpisodeStart(0)])
    last = follow_center_line(simulator, track, 1.0)
    assert last["status"] == EpisodeStatus.LAP_COMPLETE
    assert last["progress"] == 100.0


def test_open_track_can_be_driven_the_other_way_from_half_way(
    new_simulator: Callable[..., Simulator],
) -> None:
    track = load_track("Straight_track")
    simulator = new_simulator(track, 1)
    simulator.reset(ONE, [EpisodeStart(0, fraction=0.5, is_reversed=True)])
    last = follow_center_line(simulator, track.reverse(), 1.0)
    assert last["status"] == EpisodeStatus.LAP_COMPLETE
    assert last["progress"] == pytest.approx(50.0)


def test_step_cap_ends_the_episode(new_simulator: Callable[..., Simulator], oval: Track) -> None:
    simulator = new_simulator(oval, 1)
    simulator.reset(ONE, [EpisodeStart(0, rules=EpisodeRules(max_steps=7))])
    steps = [step_one(simulator, 0.0, 0.5) for _ in range(7)]
    assert [bool(step["done"]) for step in steps] == [False] * 6 + [True]
    assert steps[-1]["status"] == EpisodeStatus.TIME_UP


def test_car_put_back_waits_and_goes_on(
    new_simulator: Callable[..., Simulator], oval: Track
) -> None:
    simulator = new_simulator(oval, 1)
    rules = EpisodeRules(max_resets=2, off_track_penalty_s=3.0)
    simulator.reset(ONE, [EpisodeStart(0, fraction=0.05, rules=rules)])
    steps = []
    while not steps or not steps[-1]["done"]:
        steps.append(step_one(simulator, 30.0, 1.0))
    left = [k for k, step in enumerate(steps) if step["status"] == EpisodeStatus.OFF_TRACK]
    assert len(left) == 3  # put back twice, then the end
    k = left[0]
    assert steps[k]["reset_count"] == 1 and not steps[k]["done"]
    assert steps[k + 1]["sim_time"] == pytest.approx(steps[k]["sim_time"] + 3.0 + 1 / 15)
    assert steps[k + 1]["pause_duration"] == 3.0
    assert steps[-1]["pause_duration"] == 6.0
    assert steps[-1]["reset_count"] == 2
    assert not steps[k + 1]["is_offtrack"]
    # Back where the lap had got to: the reference point is 14 cm ahead, one step covers < 10 cm.
    gained_m = (steps[k + 1]["progress"] - steps[k - 1]["progress"]) / 100.0 * oval.length_m
    assert 0.0 < gained_m < 0.25
