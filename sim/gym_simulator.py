"""A gym environment of the user's own as a simulator: one instance of it a car."""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sim.car import CarConfig
from sim.episode import check_start
from sim.ground import to_grey
from sim.gym_env import DeepRacerEnv
from sim.randomization import RandomizationConfig
from sim.reward_params import REFERENCE_AHEAD_M
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus
from sim.track import Track

CLASS_NAME = "DeepRacerRacetrackEnv"
"""What the user's file must define."""

_NUMBERS = (
    "x",
    "y",
    "heading",
    "distance_from_center",
    "projection_distance",
    "progress",
    "steps",
    "speed",
    "steering_angle",
    "track_width",
    "sim_time",
)
_FLAGS = ("all_wheels_on_track", "is_left_of_center", "is_offtrack", "is_crashed", "is_reversed")
INFO_KEYS = (*_NUMBERS, *_FLAGS, "closest_waypoints", "track_length")
"""What ``info`` must hold after each step, named and measured as the reward parameters are."""

_SHAPES = tuple((CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, channels) for channels in (1, 3))
_LENGTH_TOLERANCE = 0.01


class GymSimulator:
    """N cars, each in an environment of the user's. Implements `sim.simulator.Simulator`.

    The environment decides what the camera sees, how the car drives and when an episode ends; the
    step cap of the episode's rules holds besides. The reward it returns is not used: a run's
    rewards come from its reward function, called with what ``info`` says, so that they can be
    computed again from the recorded steps.

    An environment that has ``begin_next_at(start)``, as `sim.gym_env.DeepRacerEnv` and all that
    is derived from it, is told where the next ``reset()`` has to begin. Any other begins where
    it likes, seeded with the seed and the episode's number.
    """

    def __init__(
        self,
        path: Path,
        track: Track,
        num_cars: int,
        seed: int,
        actions: Sequence[Mapping[str, float]],
        car: CarConfig | None = None,
        randomization: RandomizationConfig | None = None,
    ) -> None:
        """Load the file, make the environments, and try the first one for a step.

        Args:
            path: Python file that defines the class `CLASS_NAME`.
            track: Track to drive on, in row order.
            num_cars: How many environments.
            seed: With the episode's number it fixes everything random.
            actions: What an index means, each with ``steering_angle`` in degrees and ``speed``
                in m/s. A command is carried out as the nearest of them.
            car: How the cars drive.
            randomization: What differs from episode to episode.

        The class gets those of ``track``, ``actions``, ``seed``, ``car`` and ``randomization``
        that its constructor takes.

        Raises:
            ValueError: If the file or what the environment does is not usable.
        """
        if num_cars < 1:
            raise ValueError(f"num_cars must be >= 1, got {num_cars}")
        self.track = track
        self.num_cars = num_cars
        self.observations = np.zeros((num_cars, CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, 1), np.uint8)
        self._path = path
        self._seed = seed
        self._commands = np.array([(a["steering_angle"], a["speed"]) for a in actions])
        settings = {
            "track": track,
            "actions": actions,
            "seed": seed,
            "car": car,
            "randomization": randomization,
        }
        kind = _load_class(path)
        with self._user_code():
            taken = _taken(kind, settings)
            self._environments = [kind(**taken) for _ in range(num_cars)]
        self._starts: list[EpisodeStart | None] = [None] * num_cars
        """Where the episode under way began, by car; None without one."""
        self._played = np.zeros(num_cars, np.int64)
        self._check_environment()

    def reset(self, cars: np.ndarray, starts: list[EpisodeStart]) -> None:
        """Begin new episodes; see `sim.simulator.Simulator.reset`."""
        self._check_cars(cars)
        if len(starts) != len(cars):
            raise ValueError(
                f"starts must be one for each of the {len(cars)} cars, got {len(starts)}"
            )
        for start in starts:
            check_start(start)
        for car, start in zip(cars.tolist(), starts, strict=True):
            self._begin(car, start)

    def step(self, cars: np.ndarray, steering_deg: np.ndarray, speed_mps: np.ndarray) -> np.ndarray:
        """Drive the named cars for one frame; see `sim.simulator.Simulator.step`."""
        self._check_step(cars, steering_deg, speed_mps)
        steps = np.zeros(len(cars), STEP_DTYPE)
        chosen = self._nearest_actions(steering_deg, speed_mps)
        for k, (car, action) in enumerate(zip(cars.tolist(), chosen.tolist(), strict=True)):
            self._step_car(car, action, steps[k : k + 1])
        return steps

    def close(self) -> None:
        """Close the environments."""
        for environment in self._environments:
            with self._user_code():
                environment.close()

    # Checks.

    def _check_environment(self) -> None:
        """Play one step, so that mistakes show before a run."""
        space = getattr(self._environments[0], "action_space", None)
        if getattr(space, "n", None) != len(self._commands):
            raise ValueError(
                f"environment {self._path}: action_space must be Discrete({len(self._commands)}), "
                f"one for each action of the run, got {space}"
            )
        self._begin(0, EpisodeStart(0))
        self._step_car(0, 0, np.zeros(1, STEP_DTYPE))
        self._starts[0] = None
        self.observations[0] = 0

    def _check_cars(self, cars: np.ndarray) -> None:
        for car in cars:
            if not 0 <= car < self.num_cars:
                raise ValueError(f"cars must be indices from 0 to {self.num_cars - 1}, got {car}")
        if len(np.unique(cars)) != len(cars):
            raise ValueError(f"cars must name each car once, got {cars.tolist()}")

    def _check_step(
        self, cars: np.ndarray, steering_deg: np.ndarray, speed_mps: np.ndarray
    ) -> None:
        self._check_cars(cars)
        if len(steering_deg) != len(cars) or len(speed_mps) != len(cars):
            raise ValueError(
                f"steering_deg and speed_mps must hold one number for each of the {len(cars)} "
                f"cars, got {len(steering_deg)} and {len(speed_mps)}"
            )
        if not (np.isfinite(steering_deg).all() and np.isfinite(speed_mps).all()):
            raise ValueError(
                f"steering_deg and speed_mps must be finite, got {steering_deg} and {speed_mps}"
            )
        for car in cars.tolist():
            if self._starts[car] is None:
                raise ValueError(f"car {car} has no episode under way: reset it before stepping it")

    # One car.

    def _begin(self, car: int, start: EpisodeStart) -> None:
        environment = self._environments[car]
        with self._user_code():
            if hasattr(environment, "begin_next_at"):
                environment.begin_next_at(start)
            elif hasattr(environment, "seed"):
                environment.seed((self._seed + 1_000_003 * start.episode) % 2**31)
            picture = environment.reset()
        self._show(car, picture, "reset()")
        self._starts[car] = start
        self._played[car] = 0

    def _step_car(self, car: int, action: int, step: np.ndarray) -> None:
        """Play one step of a car and fill its record, an array of one."""
        environment, start = self._environments[car], self._starts[car]
        assert start is not None
        with self._user_code():
            answer = environment.step(action)
        if not isinstance(answer, tuple) or len(answer) != 4:
            raise ValueError(
                f"environment {self._path}: step() must return (picture, reward, done, info), got "
                f"{_described(answer)}"
            )
        picture, _, is_done, info = answer
        self._show(car, picture, "step()")
        self._played[car] += 1
        is_time_up = bool(self._played[car] >= start.rules.max_steps)
        own = environment.unwrapped if hasattr(environment, "unwrapped") else environment
        if isinstance(own, DeepRacerEnv) and own.drive.last_step is not None:
            step[:] = own.drive.last_step  # what info does not tell
            self._read_info(info, step)
        else:
            self._read_info(info, step)
            _guess_rest(step)
        step["done"] = bool(is_done) or is_time_up
        if step["done"] and step["status"] == EpisodeStatus.IN_PROGRESS:
            step["status"] = _why_it_ended(step, is_time_up)
        if step["done"]:
            self._starts[car] = None

    def _show(self, car: int, picture: Any, call: str) -> None:
        if (
            not isinstance(picture, np.ndarray)
            or picture.shape not in _SHAPES
            or picture.dtype != np.uint8
        ):
            raise ValueError(
                f"environment {self._path}: {call} must give a picture of shape {_SHAPES[0]} or "
                f"{_SHAPES[1]}, uint8, got {_described(picture)}"
            )
        is_grey = picture.shape[2] == 1
        self.observations[car, ..., 0] = picture[..., 0] if is_grey else to_grey(picture)

    def _read_info(self, info: Any, step: np.ndarray) -> None:
        """Copy what ``info`` says into a record."""
        where = f"environment {self._path}: info"
        if not isinstance(info, Mapping):
            raise ValueError(f"{where} must be a dict of reward parameters, got {_described(info)}")
        missing = [key for key in INFO_KEYS if key not in info]
        if missing:
            raise ValueError(f"{where} must hold {', '.join(INFO_KEYS)}; lacks {missing[0]}")
        for key in (*_NUMBERS, "track_length"):
            if not _is_number(info[key]):
                raise ValueError(f"{where}[{key!r}] must be a finite number, got {info[key]!r:.80}")
        for key in (*_NUMBERS, *_FLAGS):
            step[key] = info[key]
        length_m = self.track.length_m
        if abs(info["track_length"] - length_m) > _LENGTH_TOLERANCE * length_m:
            raise ValueError(
                f"{where}['track_length'] must be that of {self.track.name}, {length_m:.2f} m, got "
                f"{info['track_length']:.2f}: the environment drives on another track than the run"
            )
        waypoints = info["closest_waypoints"]
        try:
            step["previous_waypoint"], step["next_waypoint"] = waypoints
        except (TypeError, ValueError):
            raise ValueError(
                f"{where}['closest_waypoints'] must be two indices, got {waypoints!r:.80}"
            ) from None

    def _nearest_actions(self, steering_deg: np.ndarray, speed_mps: np.ndarray) -> np.ndarray:
        """Return the index of the action nearest to each command, each axis by its range."""
        ranges = np.maximum(np.ptp(self._commands, axis=0), 1e-9)
        commands = np.stack([steering_deg, speed_mps], axis=1)
        apart = (commands[:, None] - self._commands[None]) / ranges
        nearest: np.ndarray = (apart**2).sum(axis=2).argmin(axis=1)
        return nearest

    @contextmanager
    def _user_code(self) -> Iterator[None]:
        """Turn whatever the user's code raises into one line with its place in their file."""
        try:
            yield
        except (Exception, SystemExit) as error:
            raise ValueError(_failure(self._path, error)) from error


def _load_class(path: Path) -> Any:
    """Return the class of the user's file."""
    name = f"user_environment_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses, among others, look their module up
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code
        raise ValueError(_failure(path, error)) from error
    found = getattr(module, CLASS_NAME, None)
    if not callable(found):
        raise ValueError(f"environment {path} must define the class {CLASS_NAME}; it does not")
    return found


def _taken(kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a class's constructor takes."""
    parameters = inspect.signature(kind).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return settings
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in settings.items() if name in names}


def _guess_rest(step: np.ndarray) -> None:
    """Fill what only our own environments tell: origin, direction and measured motion."""
    yaw = math.radians(step["heading"][0])
    step["yaw"] = yaw
    step["origin_x"] = step["x"] - REFERENCE_AHEAD_M * math.cos(yaw)
    step["origin_y"] = step["y"] - REFERENCE_AHEAD_M * math.sin(yaw)
    step["actual_speed"] = step["speed"]
    step["actual_steering"] = np.radians(step["steering_angle"])


def _why_it_ended(step: np.ndarray, is_time_up: bool) -> EpisodeStatus:
    """Return the reason that can be seen in a last step; an end without one is a cut."""
    if is_time_up:
        return EpisodeStatus.TIME_UP
    if step["progress"][0] >= 100.0:
        return EpisodeStatus.LAP_COMPLETE
    if step["is_crashed"][0]:
        return EpisodeStatus.CRASHED
    if step["is_offtrack"][0]:
        return EpisodeStatus.OFF_TRACK
    return EpisodeStatus.TIME_UP


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"{value!r:.80}"


def _failure(path: Path, error: BaseException) -> str:
    """Return one line: file, line and what was raised there."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"{path}:{line}" if line else f"{path}"
    said = " ".join(str(error).split())
    return f"environment {where}: {type(error).__name__}: {said}"
