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
        track = load_track(track_name)
        rng = np.random.default_rng(seed)
        self.num_cars = num_cars
        self._simulator = EmbeddedSimulator(track, num_cars, seed)
        self._params = RewardParams(track)
        self._reward_function = load_function(_REWARD_FILE)
        self._cars = np.arange(num_cars)
        self._actions = ACTIONS[rng.integers(len(ACTIONS), size=(_PREPARED_STEPS, num_cars))]
        self._steps = 0
        self._episodes = 0
        self._reset(self._cars)

    def step(self) -> np.ndarray:
        """Drive all cars one step and restart those that ended."""
        action = self._actions[self._steps % _PREPARED_STEPS]
        self._steps += 1
        steps = self._simulator.step(self._cars, action[:, 0], action[:, 1])
        done = steps["done"]
        if done.any():
            self._reset(self._cars[done])
        return steps

    def step_with_reward(self) -> None:
        """Do the same, and judge every step with a reward function in Python."""
        for params in self._params.dicts(self.step()):
            self._reward_function(params)

    def _reset(self, cars: np.ndarray) -> None:
        starts = []
        for _ in cars:
            fraction = self._episodes * _START_ADVANCE % 1.0
            starts.append(EpisodeStart(self._episodes, fraction))
            self._episodes += 1
        self._simulator.reset(cars, starts)


class Lookup:
    """The same pictures' pixels looked up in the ground picture, and nothing else."""

    def __init__(self, track_name: str, num_cars: int) -> None:
        """Spread the cameras round the track."""
        track = load_track(track_name)
        poses = [track.pose_at(car / num_cars) for car in range(num_cars)]
        self._camera = Camera(track)
        self._cars = np.arange(num_cars)
        self._x, self._y, self._yaw = np.ascontiguousarray(np.array(poses).T)
        self._out = np.zeros((num_cars, CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, 1), np.uint8)

    def step(self) -> None:
        """Look up one picture a car."""
        self._camera.lookup_baseline(self._cars, self._x, self._y, self._yaw, self._out)


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
