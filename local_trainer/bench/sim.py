"""How fast the embedded simulator is, measured against a bare texture look-up loop.

All sides take turns in short slices, so that whatever else the machine does hits them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from local_trainer.reward_process import load_function
from sim.camera import Camera
from sim.embedded import EmbeddedSimulator
from sim.reward_params import RewardParams
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, EpisodeStart
from sim.track_files import load_track

ACTIONS = np.array([(deg, mps) for mps in (1.0, 2.0) for deg in (-30.0, -15.0, 0.0, 15.0, 30.0)])
"""Steering in degrees and speed in m/s."""

_REWARD_FILE = Path(__file__).parents[2] / "rewards" / "default.py"
_START_ADVANCE = 0.05
_PREPARED_STEPS = 256


class RandomDriver:
    """Cars that drive random actions on one track and start again whenever they end."""

    def __init__(self, track_name: str, num_cars: int, seed: int = 0) -> None:
        """Place the cars round the track."""
        self._track = track = load_track(track_name)
        rng = np.random.default_rng(seed)
        self.num_cars = num_cars
        self._simulator = EmbeddedSimulator(track, num_cars, seed)
        self._params = RewardParams(track)
        self._reward_function = load_function(_REWARD_FILE)
        self._cars = np.arange(num_cars)
        self._actions = ACTIONS[rng.integers(len(ACTIONS), size=(_PREPARED_STEPS, num_cars))]
        self._steps = 0
        self._episodes = 0
        self._last_starts: list[EpisodeStart] = []
        self._reset(self._cars)

    def step(self) -> np.ndarray:
        """Drive all cars one step and restart those that ended."""
        action = self._actions[self._steps % _PREPARED_STEPS]
        self._steps += 1
        steps = self._simulator.step(self._cars, action[:, 0], action[:, 1])
        self._last_starts = []
        done = steps["done"].nonzero()[0]
        if len(done):
            self._reset(done)
        return steps

    def restarts(self) -> np.ndarray:
        """Return x, y and yaw of the cars that the last step restarted, shape (3, n)."""
        poses = [self._track.pose_at(start.fraction) for start in self._last_starts]
        return np.array(poses).reshape(-1, 3).T

    def step_with_reward(self) -> None:
        """Do the same, and judge every step with a reward function in Python."""
        for params in self._params.dicts(self.step()):
            self._reward_function(params)

    def _reset(self, cars: np.ndarray) -> None:
        first = self._episodes
        self._episodes += len(cars)
        self._last_starts = [
            EpisodeStart(episode, fraction=episode * _START_ADVANCE % 1.0)
            for episode in range(first, self._episodes)
        ]
        self._simulator.reset(cars, self._last_starts)


class Lookup:
    """The pixels of the pictures a drive takes, looked up in the ground picture; nothing else."""

    def __init__(self, track_name: str, num_cars: int) -> None:
        """Drive for a while and note where pictures are taken."""
        self._camera = Camera(load_track(track_name))
        self._poses = _poses_of_pictures(track_name, num_cars)
        most = max(poses.shape[1] for poses in self._poses)
        self._out = np.zeros((most, CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, 1), np.uint8)
        self._cars = np.arange(most)
        self._steps = 0

    def step(self) -> None:
        """Look up the pictures of one step of all cars."""
        x, y, yaw = self._poses[self._steps % len(self._poses)]
        self._steps += 1
        self._camera.lookup_baseline(self._cars[: len(x)], x, y, yaw, self._out)


def _poses_of_pictures(track_name: str, num_cars: int) -> list[np.ndarray]:
    """Return x, y and yaw of all pictures of each step, shape (3, n): n - num_cars are restarts."""
    driver = RandomDriver(track_name, num_cars)
    poses = []
    for _ in range(_PREPARED_STEPS):
        steps = driver.step()
        driven = np.array([steps["origin_x"], steps["origin_y"], steps["yaw"]])
        poses.append(np.concatenate((driven, driver.restarts()), axis=1))
    return poses


def run(
    track_name: str = "reinvent_base",
    num_cars: int = 64,
    rounds: int = 7,
    slice_s: float = 0.4,
) -> dict[str, float]:
    """Measure, and return the figures of ``local-trainer bench sim``.

    Args:
        track_name: Where to drive.
        num_cars: Cars in all measurements but that of one car.
        rounds: How often every side has its turn; figures are medians over them.
        slice_s: How long a turn is.
    """
    many = RandomDriver(track_name, num_cars)
    judged = RandomDriver(track_name, num_cars)
    one = RandomDriver(track_name, 1)
    lookup = Lookup(track_name, num_cars)
    sides: dict[str, tuple[Callable[[], object], int]] = {
        "steps_per_second": (many.step, num_cars),
        "lookup_per_second": (lookup.step, num_cars),
        "steps_per_second_python_reward": (judged.step_with_reward, num_cars),
        "steps_per_second_one_car": (one.step, 1),
    }
    for step, _ in sides.values():
        _rate(step, 1, slice_s / 4.0)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (step, cars) in sides.items():
            rates[name].append(_rate(step, cars, slice_s))
    shares = [
        ours / bare
        for ours, bare in zip(rates["steps_per_second"], rates["lookup_per_second"], strict=True)
    ]
    return {
        "cars": num_cars,
        **{name: median(values) for name, values in rates.items()},
        "share_of_lookup": median(shares),
    }


def _rate(step: Callable[[], object], cars: int, slice_s: float) -> float:
    """Return car steps a second, from whole steps over at least ``slice_s``."""
    count = 0
    start = time.perf_counter()
    while (elapsed_s := time.perf_counter() - start) < slice_s:
        step()
        count += cars
    return count / elapsed_s
