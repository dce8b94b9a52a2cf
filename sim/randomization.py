"""What may differ from episode to episode: how the world looks, and how the car drives.

A model that met many variations while training depends less on the exact colours, camera and
grip of the simulator. Everything drawn here is fixed by the simulator's seed and the episode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

Range = tuple[float, float]

LOOK_DTYPE = np.dtype(
    [
        ("brightness", "f8"),  # factor
        ("contrast", "f8"),  # factor around middle grey
        ("field_gain", "f8", (3,)),  # factor on red, green, blue
        ("road_gain", "f8", (3,)),
        ("line_gain", "f8", (3,)),
        ("noise_sigma", "f8"),  # of 255
        ("camera_height_m", "f8"),  # added to the camera's own
        ("camera_pitch_rad", "f8"),  # added, positive looks further down
        ("camera_yaw_rad", "f8"),  # added, positive looks further left
        ("noise_key", "u8"),  # the episode's own noise
        ("frame", "u8"),  # counts frames of the episode: each gets fresh noise
    ],
    align=True,
)
"""How one car sees the world during one episode."""


@dataclass(frozen=True)
class RandomizationConfig:
    """Ranges (low, high) that each episode draws from, evenly. The defaults change nothing."""

    brightness: Range = (1.0, 1.0)
    """Factor on every pixel."""

    contrast: Range = (1.0, 1.0)
    """Factor on each pixel's distance from middle grey."""

    field_tint: Range = (1.0, 1.0)
    """Factors on the red, green and blue of the ground beside the road, drawn one by one."""

    road_tint: Range = (1.0, 1.0)
    """The same for the road."""

    line_tint: Range = (1.0, 1.0)
    """The same for the border and centre lines."""

    noise_sigma: Range = (0.0, 0.0)
    """Standard deviation of each colour channel's noise, in steps of 0-255."""

    camera_height_m: Range = (0.0, 0.0)
    """Added to the camera's height above ground."""

    camera_pitch_rad: Range = (0.0, 0.0)
    """Added to the camera's pitch; positive looks further down."""

    camera_yaw_rad: Range = (0.0, 0.0)
    """Added to the camera's direction; positive looks further left."""

    friction_scale: Range = (1.0, 1.0)
    """Factor on the tyres' grip."""

    latency_steps: tuple[int, int] = (0, 0)
    """Whole steps by which actions arrive late, both ends included."""

    def __post_init__(self) -> None:
        """Check every range."""
        for name, (lowest, highest) in _ALLOWED.items():
            low, high = getattr(self, name)
            if not (
                math.isfinite(low) and math.isfinite(high) and lowest <= low <= high <= highest
            ):
                raise ValueError(
                    f"randomization.{name} must be (low, high) with {lowest} <= low <= high <= "
                    f"{highest}, got ({low}, {high})"
                )

    @property
    def changes_camera(self) -> bool:
        """Whether any picture can differ from the plain one."""
        plain = RandomizationConfig()
        names = [field.name for field in fields(self) if field.name not in _PHYSICS]
        return any(getattr(self, name) != getattr(plain, name) for name in names)


_PHYSICS = ("friction_scale", "latency_steps")
_ALLOWED: dict[str, tuple[float, float]] = {
    "brightness": (0.0, 4.0),
    "contrast": (0.0, 4.0),
    "field_tint": (0.0, 4.0),
    "road_tint": (0.0, 4.0),
    "line_tint": (0.0, 4.0),
    "noise_sigma": (0.0, 128.0),
    "camera_height_m": (-0.1, 0.5),
    "camera_pitch_rad": (-0.25, 0.5),
    "camera_yaw_rad": (-0.5, 0.5),
    "friction_scale": (0.05, 4.0),
    "latency_steps": (0, 8),
}
"""Per field. Camera limits keep the horizon in the picture and the camera above the ground."""


def episode_generator(seed: int, episode: int) -> np.random.Generator:
    """Return the generator of everything random in one episode, whatever car drives it."""
    return np.random.Generator(np.random.Philox(key=[seed, episode]))


def sample_look(config: RandomizationConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw one episode's look.

    Args:
        config: The ranges.
        rng: The episode's generator. The same number of draws whatever the ranges, so that
            widening one leaves the others as they were.

    Returns:
        Shape (), dtype `LOOK_DTYPE`, with `frame` 0. Increment that with every frame.
    """
    look = np.zeros((), LOOK_DTYPE)
    for name in ("brightness", "contrast", "noise_sigma"):
        look[name] = rng.uniform(*getattr(config, name))
    for name in ("camera_height_m", "camera_pitch_rad", "camera_yaw_rad"):
        look[name] = rng.uniform(*getattr(config, name))
    for part in ("field", "road", "line"):
        low, high = getattr(config, f"{part}_tint")
        look[f"{part}_gain"] = rng.uniform(low, high, size=3)
    look["noise_key"] = rng.integers(0, 2**64, dtype=np.uint64)
    return look


def sample_physics(config: RandomizationConfig, rng: np.random.Generator) -> tuple[float, int]:
    """Draw one episode's friction scale and action latency in steps.

    Args:
        config: The ranges.
        rng: The episode's generator, after `sample_look` has drawn from it.
    """
    low, high = config.latency_steps
    return float(rng.uniform(*config.friction_scale)), int(rng.integers(low, high, endpoint=True))


def plain_looks(num_cars: int) -> np.ndarray:
    """Return looks that change nothing, shape (num_cars,)."""
    looks = np.zeros(num_cars, LOOK_DTYPE)
    for name in ("brightness", "contrast", "field_gain", "road_gain", "line_gain"):
        looks[name] = 1.0
    return looks
