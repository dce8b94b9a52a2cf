"""The embedded simulator: all cars of a track stepped, measured, judged and filmed in process.

One compiled kernel does all of a step, picture included; only pictures in colour or with a
random look are taken afterwards. Python's part is kept small, since with one car it is most of
the time.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import numba
import numpy as np
from numba.experimental import structref

from sim.camera import Camera, Rays, Scene, blind, place_camera, render_frame
from sim.car import BODY_DTYPE, CarConfig, CarNumbers, clip, drive, place
from sim.episode import EPISODE_DTYPE, begin, check_start
from sim.randomization import (
    RandomizationConfig,
    episode_generator,
    plain_looks,
    sample_look,
    sample_physics,
)
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, EpisodeStart
from sim.step_record import complete_step
from sim.steps import STEP_DTYPE
from sim.track import Track, TrackArrays, start_pose

# By default GNU OpenMP's idle threads spin for milliseconds before they sleep. On a machine with
# anything else to do (the policy's threads, say) they then keep the cores from the very thread
# they wait for, and a step takes many times longer. Read when the library is loaded, that is with
# the first parallel kernel.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

_PLACED_IN_PARALLEL_FROM_CARS = 2
"""Placing a car is mostly its picture, which is worth waking another thread for."""

_PARALLEL_FROM_CARS = 8
"""With fewer cars than this, waking the other threads costs more than they save, above all where
they have to wait for a core."""

_parallel_kernels = threading.Lock()
"""Held around them: without an OpenMP library, numba's threads cannot serve two callers at once."""

_PENDING_STEPS = 16
"""Commands kept a car: more than the longest latency (8), and a power of two."""

_OK = 0
_OUT_OF_RANGE = 1
_ENDED = 2
_TWICE = 3
_NOT_FINITE = 4


@structref.register
class _WorldType(numba.types.StructRef):
    """Numba's type of `_World`."""


class _World(structref.StructRefProxy):
    """Everything the kernels work on, as one argument.

    Handing the some fifty arrays over one by one would take longer than stepping a car.
    """

    track: TrackArrays
    car: CarNumbers
    scene: Scene
    rays: Rays
    pictures: np.ndarray
    """Grey observations, shape (num_cars, 120, 160); none if the kernels do not film."""

    bodies: np.ndarray
    """One `BODY_DTYPE` record a car."""
    episodes: np.ndarray
    """One `EPISODE_DTYPE` record a car."""
    pending: np.ndarray
    """Commands (steering in rad, speed in m/s) of the last steps, shape (num_cars, slots, 2)."""
    stamps: np.ndarray
    """Number of the call that named each car last, shape (num_cars + 1,); the last counts calls."""
    wheels: np.ndarray
    """Scratch, shape (num_cars, 4, 2)."""

    # Arguments of a call, and the poses it leaves for a camera, from the front of each array.
    cars: np.ndarray
    steering_deg: np.ndarray
    speed_mps: np.ndarray
    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray


structref.define_proxy(  # type: ignore[no-untyped-call]
    _World, _WorldType, list(_World.__annotations__)
)


class EmbeddedSimulator:
    """N cars on one track in this process. Implements `sim.simulator.Simulator`."""

    def __init__(
        self,
        track: Track,
        num_cars: int,
        seed: int = 0,
        channels: int = 1,
        car: CarConfig | None = None,
        randomization: RandomizationConfig | None = None,
    ) -> None:
        """Build the world; no car is on it before `reset`.

        Args:
            track: Track to drive on, in row order.
            num_cars: How many cars; they do not see or touch each other.
            seed: With the episode's number it fixes everything random, whatever car drives.
            channels: 1 for grey pictures, 3 for RGB, 0 for none, which is fastest.
            car: How the cars drive.
            randomization: What differs from episode to episode.

        Raises:
            ValueError: If a number is out of range.
        """
        if num_cars < 1:
            raise ValueError(f"num_cars must be >= 1, got {num_cars}")
        self.track = track
        self.num_cars = num_cars
        self.observations = np.zeros(
            (num_cars, CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, channels), np.uint8
        )
        self.reseed(seed)
        self._camera = Camera(track, channels) if channels else None
        self._randomization = randomization or RandomizationConfig()
        self._looks = plain_looks(num_cars) if self._randomization.changes_camera else None
        self._is_filmed_in_kernel = channels == 1 and self._looks is None
        scene, rays = blind()
        if self._camera is not None:
            scene, rays = _grey_scene(self._camera.scene), self._camera.rays
        self._bodies = np.zeros(num_cars, BODY_DTYPE)
        self._episodes = np.zeros(num_cars, EPISODE_DTYPE)
        self._cars = np.zeros(num_cars, np.int64)
        self._steering_deg = np.zeros(num_cars)
        self._speed_mps = np.zeros(num_cars)
        self._x, self._y, self._yaw = np.zeros((3, num_cars))
        self._world = _build_world(
            track.arrays,
            (car or CarConfig()).numbers(),
            scene,
            rays,
            self.observations[..., 0] if self._is_filmed_in_kernel else _NO_PICTURES,
            self._bodies,
            self._episodes,
            np.zeros((num_cars, _PENDING_STEPS, 2)),
            np.zeros(num_cars + 1, np.int64),
            np.zeros((num_cars, 4, 2)),
            self._cars,
            self._steering_deg,
            self._speed_mps,
            self._x,
            self._y,
            self._yaw,
        )

    def reset(self, cars: np.ndarray, starts: list[EpisodeStart]) -> None:
        """Begin new episodes; see `sim.simulator.Simulator.reset`."""
        count = self._take_cars(cars)
        if len(starts) != count:
            raise ValueError(f"starts must be one for each of the {count} cars, got {len(starts)}")
        for start in starts:
            check_start(start)
        self._check(_check_cars(self._world, count))
        for k, start in enumerate(starts):
            car = int(self._cars[k])
            friction_scale, latency_steps = self._draw(car, start.episode)
            begin(self._episodes, car, start, friction_scale, latency_steps)
            self._x[k] = start.lateral_offset_m
            self._yaw[k] = start.yaw_offset_rad
        if count < _PLACED_IN_PARALLEL_FROM_CARS:
            _place_cars(self._world, count)
        else:
            with _parallel_kernels:
                _place_cars_in_parallel(self._world, count)
        if not self._is_filmed_in_kernel:
            self._film(count)

    def step(self, cars: np.ndarray, steering_deg: np.ndarray, speed_mps: np.ndarray) -> np.ndarray:
        """Drive the named cars for one frame; see `sim.simulator.Simulator.step`."""
        count = self._take_cars(cars)
        if len(steering_deg) != count or len(speed_mps) != count:
            raise ValueError(
                f"steering_deg and speed_mps must hold one number for each of the {count} cars, "
                f"got {len(steering_deg)} and {len(speed_mps)}"
            )
        self._steering_deg[:count] = steering_deg
        self._speed_mps[:count] = speed_mps
        steps = np.empty(count, STEP_DTYPE)
        if count < _PARALLEL_FROM_CARS:
            outcome = _step_cars(self._world, count, steps)
        else:
            with _parallel_kernels:
                outcome = _step_cars_in_parallel(self._world, count, steps)
        self._check(outcome)
        if self._looks is not None:
            self._looks["frame"][self._cars[:count]] += 1
        if not self._is_filmed_in_kernel:
            self._film(count)
        return steps

    def reseed(self, seed: int) -> None:
        """Fix everything random in the episodes that `reset` begins from now on.

        Raises:
            ValueError: If the seed is out of range.
        """
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in [0, 2**64), got {seed}")
        self._seed = seed

    def close(self) -> None:
        """Release everything the simulator holds: here, memory only."""

    def _take_cars(self, cars: np.ndarray) -> int:
        count = len(cars)
        if count > self.num_cars:
            raise ValueError(f"cars must be at most {self.num_cars} indices, got {count}")
        self._cars[:count] = cars
        return count

    def _check(self, outcome: tuple[int, int]) -> None:
        """Turn what a kernel found wrong with its arguments into an error."""
        problem, k = outcome
        if problem == _OK:
            return
        car = int(self._cars[k])
        if problem == _OUT_OF_RANGE:
            raise ValueError(f"cars must be indices from 0 to {self.num_cars - 1}, got {car}")
        if problem == _TWICE:
            raise ValueError(f"cars must name each car once, got car {car} twice")
        if problem == _ENDED:
            raise ValueError(f"car {car} has no episode under way: reset it before stepping it")
        raise ValueError(
            f"steering_deg and speed_mps must be finite, got {self._steering_deg[k]} and "
            f"{self._speed_mps[k]} for car {car}"
        )

    def _draw(self, car: int, episode: int) -> tuple[float, int]:
        """Draw all that is random in an episode: set the look, return friction and latency."""
        if self._randomization == _PLAIN:
            return 1.0, 0
        rng = episode_generator(self._seed, episode)
        look = sample_look(self._randomization, rng)
        if self._looks is not None:
            self._looks[car] = look
        return sample_physics(self._randomization, rng)

    def _film(self, count: int) -> None:
        if self._camera is None:
            return
        cars = self._cars[:count]
        with _parallel_kernels:
            self._camera.render(
                cars,
                self._x[:count],
                self._y[:count],
                self._yaw[:count],
                self.observations,
                None if self._looks is None else self._looks[cars],
            )


_PLAIN = RandomizationConfig()
_NO_PICTURES = np.zeros((0, CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX), np.uint8)


def _grey_scene(scene: Scene) -> Scene:
    """Return the scene, or an empty one if it is in colour.

    The kernels are compiled for grey texels only, and do not film in colour.
    """
    if scene.texels.dtype == np.uint8:
        return scene
    nothing = np.zeros(1, np.uint8)
    return scene._replace(texels=nothing, walls=nothing, sky=nothing)


@numba.njit(nogil=True, cache=True)
def _build_world(*parts: Any) -> _World:
    """Return the world of these fields, in their order."""
    return _World(*parts)  # type: ignore[no-untyped-call]


@numba.njit(nogil=True, cache=True)
def _check_cars(world: _World, count: int) -> tuple[int, int]:
    """Return what is wrong with the first ``count`` car indices, and with which of them."""
    num_cars = len(world.bodies)
    world.stamps[num_cars] += 1
    call = world.stamps[num_cars]
    for k in range(count):
        car = world.cars[k]
        if car < 0 or car >= num_cars:
            return _OUT_OF_RANGE, k
        if world.stamps[car] == call:
            return _TWICE, k
        world.stamps[car] = call
    return _OK, 0


@numba.njit(nogil=True, cache=True)
def _check_step(world: _World, count: int) -> tuple[int, int]:
    """Return what is wrong with the arguments of a step. Nothing has moved yet."""
    outcome = _check_cars(world, count)
    if outcome[0] != _OK:
        return outcome
    for k in range(count):
        if not world.episodes[world.cars[k]].is_running:
            return _ENDED, k
        if not (math.isfinite(world.steering_deg[k]) and math.isfinite(world.speed_mps[k])):
            return _NOT_FINITE, k
    return _OK, 0


@numba.njit(nogil=True, cache=True)
def _place_cars(world: _World, count: int) -> None:
    for k in range(count):
        _place_car(world, k)


@numba.njit(nogil=True, cache=True, parallel=True)
def _place_cars_in_parallel(world: _World, count: int) -> None:
    for k in numba.prange(count):
        _place_car(world, k)


@numba.njit(nogil=True, cache=True)
def _place_car(world: _World, k: int) -> None:
    """Put the k-th car of a call on its start; x and yaw bring the offsets and become poses."""
    i = world.cars[k]
    episode = world.episodes[i]
    x, y, yaw = start_pose(world.track, episode.is_reversed, episode.start_fraction, world.x[k])
    place(world.bodies, i, x, y, yaw + world.yaw[k])
    world.pending[i] = 0.0
    _show(world, i, k)


@numba.njit(nogil=True, cache=True)
def _step_cars(world: _World, count: int, steps: np.ndarray) -> tuple[int, int]:
    outcome = _check_step(world, count)
    if outcome[0] == _OK:
        for k in range(count):
            _step_car(world, k, steps)
    return outcome


@numba.njit(nogil=True, cache=True, parallel=True)
def _step_cars_in_parallel(world: _World, count: int, steps: np.ndarray) -> tuple[int, int]:
    outcome = _check_step(world, count)
    if outcome[0] == _OK:
        for k in numba.prange(count):
            _step_car(world, k, steps)
    return outcome


@numba.njit(nogil=True, cache=True)
def _step_car(world: _World, k: int, steps: np.ndarray) -> None:
    """Drive, measure and judge the k-th car of a call, and fill record k."""
    i = world.cars[k]
    car = world.car
    episode = world.episodes[i]
    body = world.bodies[i]
    steering_deg = clip(world.steering_deg[k], -car.max_steering_deg, car.max_steering_deg)
    speed_mps = clip(world.speed_mps[k], car.min_speed_mps, car.max_speed_mps)
    slot = episode.steps & (_PENDING_STEPS - 1)
    late_slot = (episode.steps - episode.latency_steps) & (_PENDING_STEPS - 1)
    world.pending[i, slot, 0] = math.radians(steering_deg)
    world.pending[i, slot, 1] = speed_mps
    old_x, old_y = body.x, body.y
    drive(
        car,
        episode.friction_scale,
        world.pending[i, late_slot, 0],
        world.pending[i, late_slot, 1],
        world.bodies,
        i,
    )
    body.yaw -= 2.0 * math.pi * math.floor(body.yaw / (2.0 * math.pi) + 0.5)

    step = steps[k]
    step.origin_x = body.x
    step.origin_y = body.y
    step.yaw = body.yaw
    step.speed = speed_mps
    step.steering_angle = steering_deg
    step.actual_speed = body.forward_mps
    step.actual_steering = body.steering_rad
    x, y, yaw, is_put_back = complete_step(
        world.track, car, world.episodes, i, old_x, old_y, world.wheels[i], steps, k
    )
    if is_put_back:
        place(world.bodies, i, x, y, yaw)
        world.pending[i] = 0.0
    _show(world, i, k)


@numba.njit(nogil=True, cache=True)
def _show(world: _World, i: int, k: int) -> None:
    """Film car i, and copy its pose to place k of what any other camera reads."""
    body = world.bodies[i]
    world.x[k] = body.x
    world.y[k] = body.y
    world.yaw[k] = body.yaw
    if len(world.pictures) > 0:
        x, y = place_camera(world.scene, body.x, body.y, body.yaw)
        render_frame(world.scene, world.rays, x, y, body.yaw, world.pictures[i])
