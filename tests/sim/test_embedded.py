from dataclasses import replace

import numpy as np
import pytest

from sim.camera import Camera
from sim.car import CarConfig
from sim.embedded import EmbeddedSimulator
from sim.randomization import RandomizationConfig
from sim.simulator import EpisodeStart
from sim.track import Track
from sim.track_files import load_track

RANDOM = RandomizationConfig(
    brightness=(0.5, 1.5),
    noise_sigma=(0.0, 20.0),
    camera_yaw_rad=(-0.1, 0.1),
    friction_scale=(0.5, 1.5),
    latency_steps=(0, 3),
)


@pytest.fixture(scope="module")
def track() -> Track:
    return load_track("reinvent_base")


def drive(
    simulator: EmbeddedSimulator, episodes: list[int], num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Drive one episode a car, all with the same commands; return records and last pictures."""
    cars = np.arange(len(episodes))
    simulator.reset(cars, [EpisodeStart(episode) for episode in episodes])
    steps = [
        simulator.step(cars, np.full(len(cars), 8.0 * np.sin(t)), np.full(len(cars), 1.5))
        for t in range(num_steps)
    ]
    return np.array(steps), simulator.observations.copy()


def test_many_cars_in_parallel_drive_as_each_alone(track: Track) -> None:
    together, pictures = drive(EmbeddedSimulator(track, 20), list(range(20)), 12)
    alone, picture = drive(EmbeddedSimulator(track, 1), [0], 12)
    for car in range(20):
        assert together[:, car].tolist() == alone[:, 0].tolist()
        assert (pictures[car] == picture[0]).all()


def test_pictures_are_the_cameras(track: Track) -> None:
    for channels in (1, 3):
        simulator = EmbeddedSimulator(track, 2, channels=channels)
        steps, pictures = drive(simulator, [0, 1], 5)
        expected = np.zeros_like(pictures)
        last = {name: np.ascontiguousarray(steps[-1][name]) for name in steps.dtype.names or ()}
        Camera(track, channels).render(
            np.arange(2), last["origin_x"], last["origin_y"], last["yaw"], expected
        )
        assert (pictures == expected).all()


def test_random_worlds_depend_on_seed_and_episode_only(track: Track) -> None:
    together, pictures = drive(
        EmbeddedSimulator(track, 4, seed=3, randomization=RANDOM), [4, 5, 6, 7], 6
    )
    alone, picture = drive(EmbeddedSimulator(track, 1, seed=3, randomization=RANDOM), [6], 6)
    assert together[:, 2].tolist() == alone[:, 0].tolist()
    assert (pictures[2] == picture[0]).all()
    other, other_picture = drive(EmbeddedSimulator(track, 1, seed=4, randomization=RANDOM), [6], 6)
    assert other["x"][-1, 0] != alone["x"][-1, 0]
    assert (other_picture != picture).any()
    assert len(set(together["x"][-1].tolist())) > 1


def test_late_actions_arrive_late(track: Track) -> None:
    late = RandomizationConfig(latency_steps=(2, 2))
    prompt_steps, _ = drive(EmbeddedSimulator(track, 1), [0], 10)
    late_steps, _ = drive(EmbeddedSimulator(track, 1, randomization=late), [0], 12)
    for name in ("origin_x", "origin_y", "yaw", "actual_speed", "actual_steering"):
        assert late_steps[name][2:, 0].tolist() == prompt_steps[name][:, 0].tolist()
    # What the reward function hears is the command, not when it arrives.
    assert (late_steps["speed"] == 1.5).all()


def test_friction_scale_is_the_cars_friction(track: Track) -> None:
    slippery = RandomizationConfig(friction_scale=(0.6, 0.6))
    car = CarConfig()
    scaled = replace(
        car, side_friction=0.6 * car.side_friction, drive_friction=0.6 * car.drive_friction
    )
    random_steps, _ = drive(EmbeddedSimulator(track, 1, randomization=slippery), [0], 15)
    scaled_steps, _ = drive(EmbeddedSimulator(track, 1, car=scaled), [0], 15)
    np.testing.assert_allclose(random_steps["x"], scaled_steps["x"], atol=1e-9)


def test_noise_is_fresh_in_every_frame_and_the_same_in_every_run(track: Track) -> None:
    # Late actions keep the car, and so the view, where it is.
    noisy = RandomizationConfig(noise_sigma=(10.0, 10.0), latency_steps=(3, 3))
    simulator = EmbeddedSimulator(track, 1, randomization=noisy)
    steps, after_two = drive(simulator, [0], 2)
    assert steps["actual_speed"].max() == 0.0
    _, after_one = drive(simulator, [0], 1)
    assert (after_one != after_two).any()
    _, again = drive(simulator, [0], 2)
    assert (again == after_two).all()
    _, other_episode = drive(simulator, [1], 2)
    assert (other_episode != after_two).any()


def test_start_is_filmed(track: Track) -> None:
    simulator = EmbeddedSimulator(track, 3)
    simulator.reset(np.array([2]), [EpisodeStart(0)])
    assert simulator.observations[2].any()
    assert not simulator.observations[:2].any()


@pytest.mark.parametrize(("num_cars", "seed"), [(0, 0), (1, -1), (1, 2**64)])
def test_impossible_simulator_is_refused(track: Track, num_cars: int, seed: int) -> None:
    with pytest.raises(ValueError, match="must"):
        EmbeddedSimulator(track, num_cars, seed)


def test_naming_more_cars_than_there_are_is_refused(track: Track) -> None:
    simulator = EmbeddedSimulator(track, 1)
    with pytest.raises(ValueError, match="at most 1"):
        simulator.reset(np.array([0, 0]), [EpisodeStart(0), EpisodeStart(1)])
    with pytest.raises(ValueError, match="one for each"):
        simulator.reset(np.array([0]), [])
