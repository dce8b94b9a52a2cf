"""The action space and what else ``model_metadata.json`` says: read, checked, made and written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.errors import ConfigError, NotFound

STEERING_RANGE_DEG = (-30.0, 30.0)
SPEED_RANGE_MPS = (0.1, 4.0)
NUM_ACTIONS_RANGE = (2, 30)

DEFAULT_SPEED_INTERVAL_MPS = 1.0
DEFAULT_STEERING_INTERVAL_DEG = 5.0

_SHALLOW = "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW"
_KEYS = (
    "action_space",
    "version",
    "sensor",
    "neural_network",
    "training_algorithm",
    "action_space_type",
    "lidar_config",
)
# What each key may be: (what we can do, what the service knows besides).
_SENSORS = (
    ("FRONT_FACING_CAMERA", "observation"),
    ("LEFT_CAMERA", "STEREO_CAMERAS", "LIDAR", "SECTOR_LIDAR", "DISCRETIZED_SECTOR_LIDAR"),
)
_NETWORKS = ((_SHALLOW,), ("DEEP_CONVOLUTIONAL_NETWORK", "DEEP_CONVOLUTIONAL_NETWORK_DEEP"))
_ALGORITHMS = (("clipped_ppo",), ("sac",))
_TYPES = (("discrete",), ("continuous",))


@dataclass(frozen=True)
class Action:
    """One thing the policy can choose."""

    steering_deg: float
    """Left positive."""

    speed_mps: float


@dataclass(frozen=True)
class ActionSpace:
    """What the policy chooses from, and the sensor, network and algorithm that go with it."""

    actions: tuple[Action, ...]
    """An action's number is its place here."""

    sensors: tuple[str, ...] = ("FRONT_FACING_CAMERA",)
    """Exactly one camera; its name is part of the graph's tensor names."""

    network: str = _SHALLOW

    algorithm: str = "clipped_ppo"

    version: float = 5.0
    """The service's physics version; from 2 on the sensor list counts."""

    def __post_init__(self) -> None:
        """Check the number of actions and each action's range."""
        fewest, most = NUM_ACTIONS_RANGE
        if not fewest <= len(self.actions) <= most:
            raise ConfigError(
                f"action_space must hold {fewest} to {most} actions, got {len(self.actions)}."
            )
        for index, action in enumerate(self.actions):
            where = f"action_space[{index}]"
            _check_number(f"{where}.steering_angle", action.steering_deg, STEERING_RANGE_DEG)
            _check_number(f"{where}.speed", action.speed_mps, SPEED_RANGE_MPS)

    def __len__(self) -> int:
        """Return the number of actions."""
        return len(self.actions)

    @cached_property
    def steering_deg(self) -> np.ndarray:
        """Steering of each action, left positive, shape (A,), float64."""
        return np.array([action.steering_deg for action in self.actions])

    @cached_property
    def speed_mps(self) -> np.ndarray:
        """Speed of each action, shape (A,), float64."""
        return np.array([action.speed_mps for action in self.actions])

    @property
    def default_action(self) -> int:
        """Return the first action that drives straight on, or the first."""
        straight = np.flatnonzero(self.steering_deg == 0.0)
        return int(straight[0]) if len(straight) else 0


def default_action_space() -> ActionSpace:
    """Return the ten actions of the original: five angles, each at 1 and 2 m/s."""
    return ActionSpace(
        tuple(
            Action(float(steering), float(speed))
            for steering in (-30, -15, 0, 15, 30)
            for speed in (1, 2)
        )
    )


def custom_action_space(
    min_speed: float,
    max_speed: float,
    min_steering_angle: float,
    max_steering_angle: float,
    speed_interval: float = DEFAULT_SPEED_INTERVAL_MPS,
    steering_angle_interval: float = DEFAULT_STEERING_INTERVAL_DEG,
) -> ActionSpace:
    """Return the grid of all speeds (outer loop) with all steering angles (inner loop).

    Both ascend from their minimum in steps of their interval and include their maximum, also
    where the last step is a shorter one.

    Raises:
        ConfigError: If a bound or interval is out of range or the grid has too many actions.
    """
    _check_number("min_speed", min_speed, SPEED_RANGE_MPS)
    _check_number("max_speed", max_speed, SPEED_RANGE_MPS)
    _check_number("min_steering_angle", min_steering_angle, STEERING_RANGE_DEG)
    _check_number("max_steering_angle", max_steering_angle, STEERING_RANGE_DEG)
    speeds = _grid("speed", min_speed, max_speed, speed_interval, "speed_interval")
    angles = _grid(
        "steering_angle",
        min_steering_angle,
        max_steering_angle,
        steering_angle_interval,
        "steering_angle_interval",
    )
    return ActionSpace(tuple(Action(angle, speed) for speed in speeds for angle in angles))


def load_action_space(path: Path) -> ActionSpace:
    """Return the action space of a ``model_metadata.json``.

    Raises:
        ConfigError: If the file is malformed, out of range or asks for something that is not
            supported yet.
        NotFound: If it does not exist.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"No action space file {path}.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} must be a JSON file, got a folder.") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} must be valid JSON: {error}.") from None
    try:
        return parse_action_space(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_action_space(data: Any) -> ActionSpace:
    """Return the action space of a parsed ``model_metadata.json``, read as the service does.

    Raises:
        ConfigError: As `load_action_space`.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"model metadata must be an object, got {_shown(data)}.")
    _refuse_misspelt_keys(data)
    if "action_space" not in data:
        raise ConfigError(f"action_space is missing; got only {', '.join(data) or 'nothing'}.")
    _choice("action_space_type", data.get("action_space_type", "discrete"), _TYPES, fold=True)
    algorithm = _choice(
        "training_algorithm", data.get("training_algorithm", "clipped_ppo"), _ALGORITHMS, fold=True
    )
    network = _choice("neural_network", data.get("neural_network", _SHALLOW), _NETWORKS)
    version = _version(data)
    return ActionSpace(
        actions=_discrete_actions(data["action_space"]),
        sensors=_sensors(data["sensor"])
        if "sensor" in data and version >= 2.0
        else ("observation",),
        network=network,
        algorithm=algorithm,
        version=version,
    )


def metadata_text(space: ActionSpace) -> str:
    """Return the text of ``model_metadata.json``; `parse_action_space` gives the space back."""
    data = {
        "action_space": [
            {
                "steering_angle": _plain(action.steering_deg),
                "speed": _plain(action.speed_mps),
                "index": index,
            }
            for index, action in enumerate(space.actions)
        ],
        "sensor": list(space.sensors),
        "neural_network": space.network,
        "training_algorithm": space.algorithm,
        "action_space_type": "discrete",
        # The service writes the version as a text.
        "version": f"{space.version:g}",
    }
    return json.dumps(data, indent=2) + "\n"


def metadata_tmp_text(space: ActionSpace) -> str:
    """Return the text of ``model_metadata_tmp.json``, the original's generated file."""
    actions = [
        {
            "index": index,
            "steering_angle": _plain(action.steering_deg),
            "speed": _plain(action.speed_mps),
        }
        for index, action in enumerate(space.actions)
    ]
    return json.dumps({"action_space": actions}, indent=2) + "\n"


def _refuse_misspelt_keys(data: dict[str, Any]) -> None:
    # The service ignores keys it does not know, and its own tools write some; but one that
    # looks like a known key is a mistake that would silently change the model.
    for key in data:
        if key in _KEYS:
            continue
        near = get_close_matches(str(key), [k for k in _KEYS if k not in data], n=1, cutoff=0.8)
        if near:
            raise ConfigError(
                f"Unknown key {key!r}. Did you mean {near[0]!r}? Allowed: {', '.join(_KEYS)}."
            )


def _version(data: dict[str, Any]) -> float:
    if "version" not in data:
        return 2.0 if "sensor" in data else 1.0
    try:
        version = float(data["version"])
    except (TypeError, ValueError):
        version = math.nan
    if isinstance(data["version"], bool) or not (math.isfinite(version) and version > 0.0):
        raise ConfigError(f"version must be a number > 0, got {_shown(data['version'])}.")
    return version


def _sensors(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"sensor must be a list of one camera, got {_shown(value)}.")
    sensors = tuple(_choice("sensor", name, _SENSORS) for name in value)
    if len(sensors) != 1:
        raise ConfigError(f"sensor must be a list of one camera, got {_shown(value)}.")
    return sensors


def _discrete_actions(value: Any) -> tuple[Action, ...]:
    if isinstance(value, dict):
        raise ConfigError(
            "action_space: continuous action spaces are not supported yet; allowed: a list of "
            f"actions, got {_shown(value)}."
        )
    if not isinstance(value, list):
        raise ConfigError(f"action_space must be a list of actions, got {_shown(value)}.")
    actions = []
    for index, entry in enumerate(value):
        if not isinstance(entry, dict) or not {"steering_angle", "speed"} <= entry.keys():
            raise ConfigError(
                f"action_space[{index}] must be an object with steering_angle and speed, "
                f"got {_shown(entry)}."
            )
        where = f"action_space[{index}]"
        _check_number(f"{where}.steering_angle", entry["steering_angle"], STEERING_RANGE_DEG)
        _check_number(f"{where}.speed", entry["speed"], SPEED_RANGE_MPS)
        actions.append(Action(float(entry["steering_angle"]), float(entry["speed"])))
    return tuple(actions)


def _choice(
    key: str, value: Any, options: tuple[Sequence[str], Sequence[str]], fold: bool = False
) -> str:
    """Return the option named, or say that it is unknown or not supported yet."""
    allowed, later = options
    name = value.strip().lower() if fold and isinstance(value, str) else value
    if name in allowed:
        return str(name)
    choices = ", ".join(allowed)
    if name in later:
        raise ConfigError(f"{key} {name!r} is not supported yet; allowed: {choices}, got {name!r}.")
    raise ConfigError(f"{key} must be one of {choices}, got {_shown(value)}.")


def _check_number(name: str, value: Any, limits: tuple[float, float]) -> None:
    low, high = limits
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Written so that NaN fails.
    if not (is_number and low <= value <= high):
        raise ConfigError(f"{name} must be a number from {low:g} to {high:g}, got {_shown(value)}.")


def _grid(what: str, low: float, high: float, step: float, step_name: str) -> list[float]:
    if low > high:
        raise ConfigError(f"min_{what} must be at most max_{what} ({high:g}), got {low:g}.")
    is_number = isinstance(step, int | float) and not isinstance(step, bool)
    if not (is_number and math.isfinite(step) and step > 0.0):
        raise ConfigError(f"{step_name} must be a number > 0, got {_shown(step)}.")
    # A tolerance, so that 0.1 + 0.2 steps land on the maximum; one beyond the most actions is
    # enough to be refused.
    count = min(math.floor((high - low) / step + 1e-9), NUM_ACTIONS_RANGE[1]) + 1
    values = [round(low + index * step, 10) for index in range(count)]
    if count <= NUM_ACTIONS_RANGE[1] and high - values[-1] > 1e-9:
        values.append(float(high))
    return [float(value) for value in values]


def _plain(value: float) -> int | float:
    """Return 15 for 15.0: whole numbers are written without a point, as in the original."""
    return int(value) if float(value).is_integer() else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
