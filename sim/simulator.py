"""What every simulator promises: N cars on one track, placed, stepped and seen together.

The embedded simulator and the Gazebo one implement `Simulator`; `tests/contract/` holds the
checks both must pass. A simulator knows poses, pictures and episode rules; it does not know
rewards, policies or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sim.track import Track

CAMERA_HEIGHT_PX = 120
CAMERA_WIDTH_PX = 160
STEPS_PER_SECOND = 15
"""One step is one camera frame."""


@dataclass(frozen=True)
class EpisodeRules:
    """When an episode ends, and what happens to a car that leaves the road."""

    max_steps: int = 500
    """Steps after which the episode is cut off (`TIME_UP`). A car at full lock can circle on
    the road for ever; the service's own cap is 100000."""

    max_resets: int = 0
    """How often a car is put back on the road before the episode ends. 0 in training."""

    off_track_penalty_s: float = 2.0
    """Seconds a car waits after it was put back because it left the road or drove backwards."""

    collision_penalty_s: float = 5.0
    """Seconds a car waits after a crash (no objects stand on the track yet)."""

    reversed_steps: int = 15
    """Consecutive steps with falling progress that end an episode as `REVERSED`."""

    immobilized_steps: int = 15
    """Consecutive steps without movement (<= 0.3 mm) that end an episode as `IMMOBILIZED`."""


@dataclass(frozen=True)
class EpisodeStart:
    """Where and how one episode begins."""

    episode: int
    """Number of the episode; together with the simulator's seed it fixes everything random."""

    fraction: float = 0.0
    """Place along the centre line, fraction of a lap in [0, 1), in driving direction."""

    is_reversed: bool = False
    """True drives the track against its row order."""

    lateral_offset_m: float = 0.0
    """Metres left of the centre line (negative: right)."""

    yaw_offset_rad: float = 0.0
    """Radians counter-clockwise from the centre line's direction."""

    rules: EpisodeRules = EpisodeRules()


class Simulator(Protocol):
    """N cars on one track."""

    track: Track
    """In row order; episodes started with ``is_reversed`` drive its `Track.reverse()`."""

    num_cars: int

    observations: np.ndarray
    """What each car's camera sees now. Shape (num_cars, 120, 160, channels), uint8; one channel
    is grey, three are RGB. Overwritten in place by `reset` and `step`: copy what you keep."""

    def reset(self, cars: np.ndarray, starts: list[EpisodeStart]) -> None:
        """Begin new episodes.

        Args:
            cars: Indices of the cars to place, shape (n,), int.
            starts: One start for each of them.

        Raises:
            ValueError: If an index or a start is out of range.
        """

    def step(self, cars: np.ndarray, steering_deg: np.ndarray, speed_mps: np.ndarray) -> np.ndarray:
        """Drive the named cars for one camera frame (1/15 s).

        Args:
            cars: Indices of the cars that move, shape (n,), int. The others stand still in time.
            steering_deg: Commanded steering, left positive, shape (n,). Clipped to +-30 inside.
            speed_mps: Commanded speed, shape (n,). Clipped to 0.1-4.0 inside.

        Returns:
            One record a car, shape (n,), dtype `sim.steps.STEP_DTYPE`, a new array each call.

        Raises:
            ValueError: If a car's episode has ended and it was not reset.
        """

    def close(self) -> None:
        """Release everything the simulator holds."""
