"""Compiles the simulator once, so that no first run waits for it (numba keeps the result)."""

from __future__ import annotations

import numpy as np

from sim.embedded import EmbeddedSimulator
from sim.reward_params import RewardParams
from sim.simulator import EpisodeStart
from sim.track_files import load_track


def main() -> None:
    """Drive enough cars for a step to reach every kernel, in grey and in colour."""
    track = load_track("reinvent_base")
    cars = np.arange(16)  # from 8 cars on the parallel kernels run
    for channels in (1, 3):
        simulator = EmbeddedSimulator(track, num_cars=len(cars), channels=channels)
        starts = [EpisodeStart(car, is_reversed=car % 2 == 1) for car in range(len(cars))]
        simulator.reset(cars, starts)
        simulator.step(cars[:1], np.zeros(1), np.ones(1))
        steps = simulator.step(cars[1:], np.zeros(len(cars) - 1), np.ones(len(cars) - 1))
        RewardParams(track).dicts(steps)
        simulator.close()


if __name__ == "__main__":
    main()
