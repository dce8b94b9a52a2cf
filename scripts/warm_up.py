"""Compiles the simulator once, so that no first run waits for it (numba keeps the result)."""

from __future__ import annotations

import numpy as np

from sim.embedded import EmbeddedSimulator
from sim.reward_params import RewardParams
from sim.simulator import EpisodeStart
from sim.track_files import load_track


def main() -> None:
    """Drive two cars for a step, in grey and in colour."""
    track = load_track("reinvent_base")
    cars = np.arange(2)
    for channels in (1, 3):
        simulator = EmbeddedSimulator(track, num_cars=len(cars), channels=channels)
        simulator.reset(cars, [EpisodeStart(0), EpisodeStart(1, is_reversed=True)])
        steps = simulator.step(cars, np.zeros(len(cars)), np.ones(len(cars)))
        RewardParams(track).dicts(steps)
        simulator.close()


if __name__ == "__main__":
    main()
