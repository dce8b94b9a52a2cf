"""`DeepRacer-v0`: one car as a gym environment (0.12, what Coach speaks) and a Gymnasium one.

Importing this module registers both under that id::

    import gymnasium, sim.gym_env
    env = gymnasium.make("DeepRacer-v0", track="Oval_track")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gym
import gymnasium
import numpy as np

from sim.car import CarConfig
from sim.embedded import EmbeddedSimulator
from sim.randomization import RandomizationConfig
from sim.reward_params import RewardParams
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, EpisodeRules, EpisodeStart
from sim.steps import EpisodeStatus
from sim.track import Track
from sim.track_files import load_track

ENVIRONMENT_ID = "DeepRacer-v0"

RewardFunction = Callable[[dict[str, Any]], float]
Action = Mapping[str, float]
Observation = np.ndarray | dict[str, np.ndarray]

DEFAULT_ACTIONS: tuple[Action, ...] = tuple(
    {"steering_angle": steering_deg, "speed": speed_mps}
    for speed_mps in (1.0, 2.0)
    for steering_deg in (-30.0, -15.0, 0.0, 15.0, 30.0)
)
"""Speed outside, steering inside, both rising."""


def center_line_reward(params: dict[str, Any]) -> float:
    """Return 1, 0.5 or 0.1 by how near the centre line the car is, nearly 0 beyond."""
    part_of_width = params["distance_from_center"] / params["track_width"]
    for limit, reward in ((0.1, 1.0), (0.25, 0.5), (0.5, 0.1)):
        if part_of_width <= limit:
            return reward
    return 1e-3


class Drive:
    """One car with actions and a reward: what both environments are made of."""

    def __init__(
        self,
        track: str | Track = "reinvent_base",
        reward_function: RewardFunction = center_line_reward,
        actions: Sequence[Action] = DEFAULT_ACTIONS,
        channels: int = 1,
        seed: int = 0,
        rules: EpisodeRules | None = None,
        start_advance: float = 0.05,
        alternate_direction: bool = False,
        car: CarConfig | None = None,
        randomization: RandomizationConfig | None = None,
    ) -> None:
        """Put a car on a track.

        Args:
            track: The track, its name, or the path of its file.
            reward_function: Called with the reward parameters of each step.
            actions: What the car can do, each with ``steering_angle`` in degrees (left positive)
                and ``speed`` in m/s.
            channels: 1 for grey pictures, 3 for RGB.
            seed: With the episode's number it fixes everything random.
            rules: When an episode ends.
            start_advance: Part of a lap by which each start lies ahead of the one before.
            alternate_direction: Whether every other episode drives the other way round.
            car: How the car drives.
            randomization: What differs from episode to episode.

        Raises:
            ValueError: If an argument is out of range.
        """
        car = car or CarConfig()
        _check_actions(actions, car)
        if not 0.0 <= start_advance < 1.0:
            raise ValueError(f"start_advance must be in [0, 1), got {start_advance}")
        self.actions = [(float(a["steering_angle"]), float(a["speed"])) for a in actions]
        self.shape = (CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, channels)
        self._track = load_track(track) if isinstance(track, str) else track
        self._reward_function = reward_function
        self._rules = rules or EpisodeRules()
        self._start_advance = start_advance
        self._alternate_direction = alternate_direction
        self._simulator = EmbeddedSimulator(
            self._track, 1, seed, channels, car=car, randomization=randomization
        )
        self._params = RewardParams(self._track)
        self._car = np.zeros(1, np.int64)
        self._next_episode = 0
        self._next_start: EpisodeStart | None = None
        self.last_step: np.ndarray | None = None
        """The last step, shape (1,), dtype `sim.steps.STEP_DTYPE`; None before the first."""

    def reseed(self, seed: int) -> None:
        """Make everything random from a new seed, and begin with episode 0 again."""
        self._simulator.reseed(seed)
        self._next_episode = 0

    def begin_next_at(self, start: EpisodeStart) -> None:
        """Let the next `reset` begin this episode; later ones go on from its number."""
        self._next_start = start

    def reset(self) -> np.ndarray:
        """Begin the next episode and return the first picture."""
        start = self._next_start or self._usual_start()
        self._simulator.reset(self._car, [start])
        self._next_start = None
        self._next_episode = start.episode + 1
        return self.picture()

    def step(self, action: int) -> tuple[np.ndarray, float, EpisodeStatus, bool, dict[str, Any]]:
        """Drive one step: picture, reward, status, whether it was the last, reward parameters.

        Raises:
            ValueError: If there is no such action, or the episode is over.
        """
        if not 0 <= action < len(self.actions):
            raise ValueError(f"action must be from 0 to {len(self.actions) - 1}, got {action}")
        steering_deg, speed_mps = self.actions[action]
        steps = self._simulator.step(self._car, np.array([steering_deg]), np.array([speed_mps]))
        self.last_step = steps
        # Two dicts, since a reward function may change what it gets.
        params, info = self._params.dicts(np.repeat(steps, 2))
        reward = float(self._reward_function(params))
        status = EpisodeStatus(int(steps["status"][0]))
        return self.picture(), reward, status, bool(steps["done"][0]), info

    def picture(self) -> np.ndarray:
        """Return a copy of what the camera sees, shape (120, 160, channels), uint8."""
        picture: np.ndarray = self._simulator.observations[0].copy()
        return picture

    def rgb_picture(self) -> np.ndarray:
        """Return what the camera sees, shape (120, 160, 3), uint8; a grey picture stays grey."""
        picture = self.picture()
        return picture if picture.shape[2] == 3 else np.repeat(picture, 3, axis=2)

    def close(self) -> None:
        """Release the simulator."""
        self._simulator.close()

    def _usual_start(self) -> EpisodeStart:
        episode = self._next_episode
        return EpisodeStart(
            episode,
            fraction=episode * self._start_advance % 1.0,
            is_reversed=self._alternate_direction and episode % 2 == 1,
            rules=self._rules,
        )


def _check_actions(actions: Sequence[Action], car: CarConfig) -> None:
    if len(actions) < 2:
        raise ValueError(f"actions must be two or more, got {len(actions)}")
    for number, action in enumerate(actions):
        if set(action) - {"index"} != {"steering_angle", "speed"}:
            raise ValueError(
                f"action {number} must have steering_angle and speed, got {sorted(action)}"
            )
        if not abs(action["steering_angle"]) <= car.max_steering_deg:
            raise ValueError(
                f"action {number}: steering_angle must be within +-{car.max_steering_deg:g} "
                f"degrees, got {action['steering_angle']}"
            )
        if not car.min_speed_mps <= action["speed"] <= car.max_speed_mps:
            raise ValueError(
                f"action {number}: speed must be from {car.min_speed_mps:g} to "
                f"{car.max_speed_mps:g} m/s, got {action['speed']}"
            )


class GymnasiumDeepRacerEnv(gymnasium.Env[np.ndarray, np.int64]):
    """A car drives round a track by what its camera sees.

    ## Description
    A model car, 1/18 of a real one, drives on a road with white borders and a dashed centre
    line. It gets one picture of its front camera per step and answers with a steering angle and
    a speed. One step is 1/15 s. The car has lag in speed and steering and limited grip.

    ## Action Space
    `Discrete(n)`: the index of one of `actions`, by default ten, speed 1 and 2 m/s by steering
    -30, -15, 0, 15 and 30 degrees (left positive).

    ## Observation Space
    `Box(0, 255, (120, 160, 1), uint8)`, grey; `channels=3` gives `(120, 160, 3)`, RGB.

    ## Rewards
    What `reward_function(params)` returns; by default 1, 0.5, 0.1 or 0.001 by the distance from
    the centre line. `params`, the service's parameters, is also each step's `info`.

    ## Starting State
    At rest on the centre line, looking along it. The first episode after seeding starts at the
    first waypoint, each further one `start_advance` (0.05) of a lap ahead of the one before.
    Nothing is random unless `randomization` says so.

    ## Episode End
    Terminated: the lap is complete, all wheels have left the road, the car has driven backwards
    or stood still for 15 steps. Truncated: after `rules.max_steps` (500) steps.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, render_mode: str | None = None, **drive: Any) -> None:
        """Take the arguments of `Drive`; with ``render_mode="rgb_array"`` the picture is shown."""
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self.drive = Drive(**drive)
        self.action_space = gymnasium.spaces.Discrete(len(self.drive.actions))
        self.observation_space = gymnasium.spaces.Box(0, 255, self.drive.shape, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the next episode, or with a seed the first one of that seed.

        Returns:
            The picture, and an empty dict: there are no reward parameters before a step.
        """
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.drive.reseed(seed)
        return self.drive.reset(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Drive one step: picture, reward, terminated, truncated, reward parameters."""
        picture, reward, status, done, info = self.drive.step(int(action))
        truncated = status is EpisodeStatus.TIME_UP
        return picture, reward, done and not truncated, truncated, info

    def render(self) -> np.ndarray | None:
        """Return the camera's picture, shape (120, 160, 3), or None without a render mode."""
        return None if self.render_mode is None else self.drive.rgb_picture()

    def close(self) -> None:
        """Release the simulator."""
        self.drive.close()


class DeepRacerEnv(gym.Env):  # type: ignore[misc]
    """The same environment with the interface of gym 0.12, which Coach uses."""

    metadata = {"render.modes": ["rgb_array"], "video.frames_per_second": 15}
    reward_range = (-1e5, 1e5)

    def __init__(self, camera_name: str | None = None, **drive: Any) -> None:
        """Take the arguments of `Drive`.

        Args:
            camera_name: Observations are dicts with the picture under this name, as Coach wants
                it for networks with named inputs. None: the picture itself.
            **drive: The arguments of `Drive`.
        """
        self.drive = Drive(**drive)
        self.action_space = gym.spaces.Discrete(len(self.drive.actions))
        picture = gym.spaces.Box(0, 255, self.drive.shape, np.uint8)
        self._camera_name = camera_name
        self.observation_space = (
            picture if camera_name is None else gym.spaces.Dict({camera_name: picture})
        )

    def seed(self, seed: int | None = None) -> list[int]:
        """Make everything random from a seed, and begin with episode 0 again."""
        self.drive.reseed(seed or 0)
        return [seed or 0]

    def begin_next_at(self, start: EpisodeStart) -> None:
        """Let the next `reset` begin this episode; later ones go on from its number."""
        self.drive.begin_next_at(start)

    def reset(self) -> Observation:
        """Begin the next episode and return the first picture."""
        return self._observed(self.drive.reset())

    def step(self, action: int) -> tuple[Observation, float, bool, dict[str, Any]]:
        """Drive one step: picture, reward, done, reward parameters."""
        picture, reward, _, done, info = self.drive.step(int(action))
        return self._observed(picture), reward, done, info

    def render(self, mode: str = "rgb_array") -> np.ndarray:
        """Return the camera's picture, shape (120, 160, 3)."""
        if mode != "rgb_array":
            raise ValueError(f"mode must be 'rgb_array', got {mode!r}")
        return self.drive.rgb_picture()

    def close(self) -> None:
        """Release the simulator."""
        self.drive.close()

    def _observed(self, picture: np.ndarray) -> Observation:
        return picture if self._camera_name is None else {self._camera_name: picture}


def _register() -> None:
    if ENVIRONMENT_ID not in gymnasium.registry:
        gymnasium.register(ENVIRONMENT_ID, entry_point="sim.gym_env:GymnasiumDeepRacerEnv")
    if ENVIRONMENT_ID not in gym.envs.registry.env_specs:
        gym.register(ENVIRONMENT_ID, entry_point="sim.gym_env:DeepRacerEnv")


_register()
