"""The Gazebo simulator behind the interface every simulator has.

Physics and pictures come from a container; episode rules, measurements and what is random in an
episode are the embedded simulator's own code.
"""

from __future__ import annotations

import math
import os
import socket
import time
from typing import Any

import numpy as np

from sim.call_checks import check_cars, check_commands, check_starts
from sim.car import CarConfig
from sim.episode import EPISODE_DTYPE, begin
from sim.gazebo.messages import import_ros
from sim.gazebo.world import World, write_world
from sim.ground import to_grey
from sim.randomization import (
    RandomizationConfig,
    episode_generator,
    sample_look,
    sample_physics,
)
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, EpisodeStart
from sim.step_record import complete_step
from sim.steps import STEP_DTYPE
from sim.track import Track, start_pose

MASTER_PORT = 11311
START_LIMIT_S = 120.0
"""For a container to come up and Gazebo to load a world."""
CALL_LIMIT_S = 30.0
"""For an answer to one call. A step takes milliseconds."""

_CALLER = "/trainer"

_LATEST_STEPS = 16
"""Commands kept a car: more than the longest latency (8)."""


class GazeboSimulator:
    """N cars on one track in a Gazebo container. Implements `sim.simulator.Simulator`.

    The cars take turns with one car model, so they neither see nor touch each other.
    """

    def __init__(
        self,
        track: Track,
        num_cars: int,
        seed: int = 0,
        channels: int = 1,
        car: CarConfig | None = None,
        randomization: RandomizationConfig | None = None,
        host: str = "localhost",
    ) -> None:
        """Load the track into a simulator; no car is on it before `reset`.

        Args:
            track: Track to drive on, in row order.
            num_cars: How many cars; they do not see or touch each other.
            seed: With the episode's number it fixes everything random, whatever car drives.
            channels: 1 for grey pictures, 3 for RGB.
            car: How the cars drive.
            randomization: What differs from episode to episode: friction and latency only.
            host: Name or address of the container.

        Raises:
            ValueError: If a number is out of range or a picture is to be randomized.
            ConnectionError: If the simulator does not answer, or cannot load the world.
        """
        if num_cars < 1:
            raise ValueError(f"num_cars must be >= 1, got {num_cars}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
        self._randomization = randomization or RandomizationConfig()
        if self._randomization.changes_camera:
            raise ValueError(
                "randomization must leave the picture as it is with Gazebo (friction_scale and "
                "latency_steps may vary), got a range for the picture or the camera"
            )
        self.track = track
        self.num_cars = num_cars
        self.observations = np.zeros(
            (num_cars, CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, channels), np.uint8
        )
        self.reseed(seed)
        self._car = (car or CarConfig()).numbers()
        self._episodes = np.zeros(num_cars, EPISODE_DTYPE)
        self._pending = np.zeros((num_cars, _LATEST_STEPS, 2))
        self._places = np.zeros((num_cars, 2))
        """Where each car's origin is now, m."""
        self._seeds = np.zeros(num_cars, np.int64)
        self._wheels = np.zeros((4, 2))
        self._services = Services(host)
        self._services.load(write_world(track, car))

    def reset(self, cars: np.ndarray, starts: list[EpisodeStart]) -> None:
        """Begin new episodes; see `sim.simulator.Simulator.reset`."""
        check_cars(cars, self.num_cars)
        check_starts(cars, starts)
        poses = np.zeros((len(cars), 3))
        for k, (car, start) in enumerate(zip(cars.tolist(), starts, strict=True)):
            rng = episode_generator(self._seed, start.episode)
            sample_look(self._randomization, rng)  # the draws before those of the physics
            begin(self._episodes, car, start, *sample_physics(self._randomization, rng))
            self._seeds[car] = int(rng.integers(0, 2**32))
            poses[k] = start_pose(
                self.track.arrays, start.is_reversed, start.fraction, start.lateral_offset_m
            )
            poses[k, 2] += start.yaw_offset_rad
        self._place(cars, poses)

    def step(self, cars: np.ndarray, steering_deg: np.ndarray, speed_mps: np.ndarray) -> np.ndarray:
        """Drive the named cars for one frame; see `sim.simulator.Simulator.step`."""
        check_cars(cars, self.num_cars)
        check_commands(cars, steering_deg, speed_mps, self._episodes["is_running"])
        limits = self._car
        steering_deg = np.clip(steering_deg, -limits.max_steering_deg, limits.max_steering_deg)
        speed_mps = np.clip(speed_mps, limits.min_speed_mps, limits.max_speed_mps)
        commands = self._delay(cars, np.radians(steering_deg), speed_mps)
        answer = self._services.step(cars, commands)
        self._show(cars, answer.pictures)

        steps = np.zeros(len(cars), STEP_DTYPE)
        steps["speed"] = speed_mps
        steps["steering_angle"] = steering_deg
        put_back = []
        for k, (car, state) in enumerate(zip(cars.tolist(), answer.states, strict=True)):
            step = steps[k]
            step["origin_x"], step["origin_y"] = state.x, state.y
            # Gazebo's own angle, brought to (-pi, pi] like the embedded simulator's.
            step["yaw"] = math.remainder(state.yaw, 2.0 * math.pi)
            step["actual_speed"], step["actual_steering"] = state.forward_mps, state.steering_rad
            old_x, old_y = self._places[car]
            self._places[car] = state.x, state.y
            x, y, yaw, is_put_back = complete_step(
                self.track.arrays,
                self._car,
                self._episodes,
                car,
                old_x,
                old_y,
                self._wheels,
                steps,
                k,
            )
            if is_put_back:
                put_back.append((car, (x, y, yaw)))
        if put_back:
            moved, poses = zip(*put_back, strict=True)
            self._place(np.array(moved), np.array(poses))
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
        """Let go of the container; its world stays as it is."""
        self._services.close()

    def _place(self, cars: np.ndarray, poses: np.ndarray) -> None:
        """Put cars down at rest. ``poses`` is x, y in m and yaw in rad, shape (n, 3)."""
        friction = self._episodes["friction_scale"][cars]
        answer = self._services.place(cars, poses, friction, self._seeds[cars])
        self._places[cars] = poses[:, :2]
        self._pending[cars] = 0.0
        self._show(cars, answer.pictures)

    def _delay(
        self, cars: np.ndarray, steering_rad: np.ndarray, speed_mps: np.ndarray
    ) -> np.ndarray:
        """Return the commands that arrive now (steering in rad, speed in m/s), shape (n, 2)."""
        played = self._episodes["steps"][cars]
        latency = self._episodes["latency_steps"][cars]
        self._pending[cars, played % _LATEST_STEPS] = np.stack([steering_rad, speed_mps], axis=1)
        arriving: np.ndarray = self._pending[cars, (played - latency) % _LATEST_STEPS]
        return arriving

    def _show(self, cars: np.ndarray, pictures: bytes) -> None:
        shape = (len(cars), CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, 3)
        rgb = np.frombuffer(pictures, np.uint8).reshape(shape)
        self.observations[cars] = (
            rgb if self.observations.shape[3] == 3 else to_grey(rgb)[..., None]
        )


class Services:
    """The container's ROS services over connections that stay open."""

    def __init__(self, host: str) -> None:
        """Note where the container is; nothing is sent yet."""
        self._ros = import_ros()
        self._host = host
        self._connections: dict[str, Any] = {}
        # The master of all calls of this process: rospy knows one.
        os.environ["ROS_MASTER_URI"] = f"http://{host}:{MASTER_PORT}"

    def load(self, world: World) -> None:
        """Start Gazebo with a world, or keep it if it runs that world already.

        Raises:
            ConnectionError: If the container does not answer, or Gazebo does not start.
        """
        self.close()
        file = self._ros.msg.File
        files = [file(name, data) for name, data in sorted(world.files.items())]
        self._wait_for("/simulator/load")
        self._call("/simulator/load", self._ros.srv.Load, START_LIMIT_S, world.sdf, files)
        self._wait_for("/simulator/step")

    def place(
        self, cars: np.ndarray, poses: np.ndarray, friction_scale: np.ndarray, seeds: np.ndarray
    ) -> Any:
        """Put cars down at rest; returns the plugin's `Place` response."""
        x, y, yaw = poses.T.tolist()
        arguments = (cars.tolist(), x, y, yaw, friction_scale.tolist(), seeds.tolist())
        return self._call("/simulator/place", self._ros.srv.Place, CALL_LIMIT_S, *arguments)

    def step(self, cars: np.ndarray, commands: np.ndarray) -> Any:
        """Drive cars for one frame; returns the plugin's `Step` response."""
        steering_rad, speed_mps = commands.T.tolist()
        arguments = (cars.tolist(), steering_rad, speed_mps)
        return self._call("/simulator/step", self._ros.srv.Step, CALL_LIMIT_S, *arguments)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _wait_for(self, service: str) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                self._look_up(service)
                return
            except (OSError, self._ros.rosgraph.MasterException) as error:
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"Gazebo simulator {self._host}:{MASTER_PORT} must offer {service} within "
                        f"{START_LIMIT_S:.0f} s, got: {error}"
                    ) from error
            time.sleep(0.2)

    def _look_up(self, service: str) -> str:
        """Return where a service is; raises an OSError or MasterException if it is nowhere."""
        master = self._ros.rosgraph.Master(_CALLER)
        try:
            uri: str = master.lookupService(service)
            return uri
        finally:
            master.handle("close")()  # rosgraph itself leaves its connection open

    def _call(self, service: str, kind: Any, limit_s: float, *arguments: Any) -> Any:
        rospy, rosgraph = self._ros.rospy, self._ros.rosgraph
        failures = (rospy.ServiceException, rospy.ROSException, rosgraph.MasterException)
        where = f"Gazebo simulator {self._host}"
        if service not in self._connections:
            self._connections[service] = rospy.ServiceProxy(service, kind, persistent=True)
        connection = self._connections[service]
        try:
            if connection.transport is None:
                self._connect(connection, limit_s)
            answer = connection(*arguments)
        except (*failures, OSError, EOFError) as error:
            del self._connections[service]
            connection.close()
            why = str(error) or type(error).__name__
            raise ConnectionError(f"{where} did not answer {service}: {why}") from error
        if answer.error:
            raise ConnectionError(f"{where} refused {service}: {answer.error}")
        return answer

    def _connect(self, connection: Any, limit_s: float) -> None:
        """Open the connection as rospy does, with a time limit and without delayed packets."""
        uri = self._look_up(connection.resolved_name)
        host, port = self._ros.rospy.core.parse_rosrpc_uri(uri)
        transport = self._ros.TCPROSTransport(connection.protocol, connection.resolved_name)
        transport.buff_size = connection.buff_size
        transport.connect(host, port, uri, timeout=limit_s)
        transport.socket.settimeout(limit_s)
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.transport = transport
