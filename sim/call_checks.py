"""Checks of a simulator call's arguments that are the same for every simulator in Python."""

from __future__ import annotations

import numpy as np

from sim.episode import check_start
from sim.simulator import EpisodeStart


def check_cars(cars: np.ndarray, num_cars: int) -> None:
    """Check that car indices are in range, none twice.

    Raises:
        ValueError: If one is not.
    """
    for car in cars.tolist():
        if not 0 <= car < num_cars:
            raise ValueError(f"cars must be indices from 0 to {num_cars - 1}, got {car}")
    if len(set(cars.tolist())) != len(cars):
        raise ValueError(f"cars must name each car once, got {cars.tolist()}")


def check_starts(cars: np.ndarray, starts: list[EpisodeStart]) -> None:
    """Check that there is one start for each car, and that episodes can begin that way.

    Raises:
        ValueError: If not.
    """
    if len(starts) != len(cars):
        raise ValueError(f"starts must be one for each of the {len(cars)} cars, got {len(starts)}")
    for start in starts:
        check_start(start)


def check_commands(
    cars: np.ndarray, steering_deg: np.ndarray, speed_mps: np.ndarray, is_running: np.ndarray
) -> None:
    """Check the commands of a step.

    Args:
        cars: The cars to drive, checked, shape (n,).
        steering_deg: One for each of them.
        speed_mps: One for each of them.
        is_running: Whether each car of the simulator has an episode under way.

    Raises:
        ValueError: If there are too few or too many, one is not finite, or a car cannot drive.
    """
    if len(steering_deg) != len(cars) or len(speed_mps) != len(cars):
        raise ValueError(
            f"steering_deg and speed_mps must hold one number for each of the {len(cars)} cars, "
            f"got {len(steering_deg)} and {len(speed_mps)}"
        )
    if not (np.isfinite(steering_deg).all() and np.isfinite(speed_mps).all()):
        raise ValueError(
            f"steering_deg and speed_mps must be finite, got {steering_deg} and {speed_mps}"
        )
    for car in cars.tolist():
        if not is_running[car]:
            raise ValueError(f"car {car} has no episode under way: reset it before stepping it")
