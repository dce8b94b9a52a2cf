"""A model folder's text files as data, whoever wrote them; what is wrong comes out as one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local_trainer.errors import one_line

_MOST_BYTES = 2**20
"""Largest text file that is read; the biggest real one, a metrics file, has its own limit."""

SENSORS_CAMERA = ("observation", "FRONT_FACING_CAMERA", "LEFT_CAMERA", "STEREO_CAMERAS")
SENSORS_LIDAR = ("LIDAR", "SECTOR_LIDAR", "DISCRETIZED_SECTOR_LIDAR")
NETWORKS = (
    "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW",
    "DEEP_CONVOLUTIONAL_NETWORK",
    "DEEP_CONVOLUTIONAL_NETWORK_DEEP",
)


class Unusable(Exception):
    """Raised when a file or value is not what it must be; says so in one line."""


@dataclass(frozen=True)
class Metadata:
    """What ``model_metadata.json`` says, read as the service reads it."""

    action_space: Any
    sensors: tuple[str, ...]
    network: str
    algorithm: str
    action_space_type: str
    version: float

    @property
    def num_actions(self) -> int:
        """Return how many actions a discrete policy chooses from."""
        return len(self.action_space)

    @property
    def why_not_rebuilt(self) -> str:
        """Return why this project cannot rebuild the network; empty if it can."""
        if self.algorithm != "clipped_ppo":
            return f"the algorithm {self.algorithm} is not supported yet"
        if self.action_space_type != "discrete":
            return "continuous action spaces are not supported yet"
        if len(self.sensors) != 1 or self.sensors[0] not in ("observation", "FRONT_FACING_CAMERA"):
            return f"the sensor {' + '.join(self.sensors)} is not supported yet"
        return ""


def read_text(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """Return a text file's content.

    Raises:
        Unusable: If it is missing, too long or no text.
    """
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise Unusable(f"must have at most {most_bytes // 1024} KiB, got {size // 1024}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Unusable("is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"must be a text file: {one_line(error, 160)}") from None


def read_json(path: Path, most_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """Return a JSON file's object.

    Raises:
        Unusable: If it holds anything else.
    """
    try:
        data = json.loads(read_text(path, most_bytes))
    except (ValueError, RecursionError) as error:
        raise Unusable(f"must be JSON: {one_line(error, 160)}") from None
    if not isinstance(data, dict):
        raise Unusable(f"must be a JSON object, got {type(data).__name__}")
    return data


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's flat mapping.

    Raises:
        Unusable: If it holds anything else.
    """
    try:
        data = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unusable(f"must be YAML: {one_line(error, 160)}") from None
    if not isinstance(data, dict):
        raise Unusable(f"must be a mapping, got {type(data).__name__}")
    return data


def read_metadata(path: Path) -> Metadata:
    """Return a ``model_metadata.json`` read as the service reads it.

    Raises:
        Unusable: If the service could not.
    """
    data = read_json(path)
    if "action_space" not in data:
        raise Unusable("action_space is missing")
    has_version = "version" in data
    try:
        version = float(data["version"]) if has_version else 2.0 if "sensor" in data else 1.0
    except (TypeError, ValueError):
        raise Unusable(f"version must be a number, got {data['version']!r:.40}") from None
    named = data.get("sensor", ["observation"]) if version >= 2.0 else ["observation"]
    metadata = Metadata(
        action_space=data["action_space"],
        sensors=tuple(_sensors(named)),
        network=str(data.get("neural_network", NETWORKS[0])),
        algorithm=str(data.get("training_algorithm", "clipped_ppo")).strip().lower(),
        action_space_type=str(data.get("action_space_type", "discrete")).strip().lower(),
        version=version,
    )
    for key, value, allowed in (
        ("neural_network", metadata.network, NETWORKS),
        ("training_algorithm", metadata.algorithm, ("clipped_ppo", "sac")),
        ("action_space_type", metadata.action_space_type, ("discrete", "continuous")),
    ):
        if value not in allowed:
            raise Unusable(f"{key} must be one of {', '.join(allowed)}, got {value!r:.40}")
    _check_actions(metadata)
    return metadata


def _sensors(named: Any) -> list[str]:
    known = (*SENSORS_CAMERA, *SENSORS_LIDAR)
    if not isinstance(named, list) or not named:
        raise Unusable(f"sensor must be a list of names, got {named!r:.60}")
    for name in named:
        if name not in known:
            raise Unusable(f"sensor must be one of {', '.join(known)}, got {name!r:.40}")
    cameras = [name for name in named if name in SENSORS_CAMERA]
    if len(cameras) != 1 or len(named) - len(cameras) > 1:
        raise Unusable(
            f"sensor must name exactly one camera and at most one lidar, got {', '.join(named)}"
        )
    return named


def _check_actions(metadata: Metadata) -> None:
    space = metadata.action_space
    if metadata.action_space_type == "continuous":
        for key in ("steering_angle", "speed"):
            limits = space.get(key) if isinstance(space, dict) else None
            if not isinstance(limits, dict) or not all(_is_number(limits.get(k)) for k in _ENDS):
                raise Unusable(f"action_space.{key} must have numbers low and high")
            if limits["low"] >= limits["high"]:
                raise Unusable(
                    f"action_space.{key}: low must be below high, got {limits['low']:g} and "
                    f"{limits['high']:g}"
                )
        return
    if not isinstance(space, list) or not space:
        raise Unusable("action_space must be a list of actions")
    for number, action in enumerate(space):
        is_whole = isinstance(action, dict) and all(_is_number(action.get(k)) for k in _KEYS)
        if not is_whole:
            raise Unusable(
                f"action_space[{number}] must have numbers steering_angle and speed, "
                f"got {action!r:.60}"
            )


_ENDS = ("low", "high")
_KEYS = ("steering_angle", "speed")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
