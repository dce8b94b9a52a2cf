"""What the Gazebo simulator promises beyond the contract. Needs its container."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
from typing import IO

import numpy as np
import pytest

from sim.embedded import EmbeddedSimulator
from sim.gazebo.client import MASTER_PORT, GazeboSimulator
from sim.gazebo.messages import DEBIAN_PACKAGES
from sim.randomization import RandomizationConfig
from sim.simulator import EpisodeRules, EpisodeStart
from sim.track import Track
from sim.track_files import load_track

pytestmark = pytest.mark.gazebo

ONE = np.array([0])


def random_starts(count: int) -> list[EpisodeStart]:
    rng = np.random.default_rng(0)
    return [
        EpisodeStart(
            k,
            fraction=float(rng.uniform(0.0, 1.0)),
            is_reversed=bool(k % 2),
            lateral_offset_m=float(rng.uniform(-0.3, 0.3)),
            yaw_offset_rad=float(rng.uniform(-0.5, 0.5)),
        )
        for k in range(count)
    ]


def drive(simulator: GazeboSimulator, num_steps: int) -> list[bytes]:
    """Drive with fixed random commands; return every record and picture as bytes."""
    rng = np.random.default_rng(3)
    simulator.reset(ONE, [EpisodeStart(7, fraction=0.2, rules=EpisodeRules(max_resets=100))])
    seen = []
    for _ in range(num_steps):
        steps = simulator.step(ONE, rng.uniform(-30, 30, 1), rng.uniform(0.5, 2.0, 1))
        seen += [steps.tobytes(), simulator.observations.tobytes()]
    return seen


@pytest.mark.parametrize("name", ["reinvent_base", "Oval_track", "Straight_track"])
def test_camera_sees_what_the_embedded_one_sees(gazebo_host: str, name: str) -> None:
    track, starts, cars = load_track(name), random_starts(20), np.arange(20)
    gazebo, embedded = GazeboSimulator(track, 20, host=gazebo_host), EmbeddedSimulator(track, 20)
    for simulator in (gazebo, embedded):
        simulator.reset(cars, starts)
    apart = np.abs(gazebo.observations.astype(int) - embedded.observations.astype(int))
    by_pose = apart.mean(axis=(1, 2, 3))
    assert by_pose.max() < 4.0
    # Near rows read the same texels in both.
    assert apart[:, 80:].mean() < 0.1


def test_same_run_after_gazebo_was_started_anew(gazebo_host: str) -> None:
    track = load_track("reinvent_base")
    first = drive(GazeboSimulator(track, 1, seed=3, host=gazebo_host), 60)
    GazeboSimulator(load_track("Oval_track"), 1, host=gazebo_host)  # another world, another Gazebo
    again = drive(GazeboSimulator(track, 1, seed=3, host=gazebo_host), 60)
    assert again == first


def test_car_stays_where_it_is_put(gazebo_host: str) -> None:
    track, starts = load_track("reinvent_base"), random_starts(5)
    simulator = GazeboSimulator(track, 5, host=gazebo_host)
    simulator.reset(np.arange(5), starts)
    steps = simulator.step(np.arange(5), np.zeros(5), np.full(5, 0.1))
    for start, step in zip(starts, steps, strict=True):
        driven = track.reverse() if start.is_reversed else track
        x, y, yaw = driven.pose_at(start.fraction, start.lateral_offset_m)
        # One step from rest at 0.1 m/s covers less than 7 mm.
        assert np.hypot(step["origin_x"] - x, step["origin_y"] - y) < 0.007
        turned = step["yaw"] - yaw - start.yaw_offset_rad
        assert abs(np.angle(np.exp(1j * turned))) < 0.005


def test_slippery_wheels_accelerate_less(gazebo_host: str) -> None:
    track = load_track("Straight_track")
    speeds = []
    for scale in (1.0, 0.5):
        random = RandomizationConfig(friction_scale=(scale, scale))
        simulator = GazeboSimulator(track, 1, randomization=random, host=gazebo_host)
        simulator.reset(ONE, [EpisodeStart(0)])
        for _ in range(3):
            step = simulator.step(ONE, np.zeros(1), np.full(1, 4.0))[0]
        speeds.append(step["actual_speed"])
    assert speeds[1] / speeds[0] == pytest.approx(0.5, abs=0.1)


def test_late_actions_arrive_late(gazebo_host: str) -> None:
    late = RandomizationConfig(latency_steps=(2, 2))
    simulator = GazeboSimulator(load_track("Oval_track"), 1, randomization=late, host=gazebo_host)
    simulator.reset(ONE, [EpisodeStart(0)])
    speeds = [
        float(simulator.step(ONE, np.zeros(1), np.ones(1))["actual_speed"][0]) for _ in range(4)
    ]
    assert max(np.abs(speeds[:2])) < 0.01 and speeds[2] > 0.1


def test_what_gazebo_cannot_show_is_refused(gazebo_host: str) -> None:
    with pytest.raises(ValueError, match="randomization must leave the picture"):
        GazeboSimulator(
            load_track("Oval_track"),
            1,
            randomization=RandomizationConfig(noise_sigma=(0.0, 5.0)),
            host=gazebo_host,
        )


def test_absent_simulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.gazebo.client.START_LIMIT_S", 0.5)
    with pytest.raises(ConnectionError, match="127.0.0.1:11311 must offer /simulator/load"):
        GazeboSimulator(load_track("Oval_track"), 1, host="127.0.0.1")


WATCHER = """
import os, sys
sys.path.append(sys.argv[1])
import rospy
rospy.init_node("watcher", anonymous=True)
# Each topic has a thread of its own: a line must be written in one go.
subscribers = [rospy.Subscriber(topic, rospy.AnyMsg, lambda message, topic=topic: os.write(
    1, f"{topic} {message._connection_header['type']} {len(message._buff)}\\n".encode()))
    for topic in sys.argv[2:]]
print("watching", flush=True)
rospy.spin()
"""

TOPICS = {
    "/racecar/camera/zed/rgb/image_rect_color": "sensor_msgs/Image",
    "/racecar/odom": "nav_msgs/Odometry",
    "/racecar/joint_states": "sensor_msgs/JointState",
    "/racecar/command": "car_simulator/DriveCommand",
    "/clock": "rosgraph_msgs/Clock",
}


def test_ros_user_can_watch_while_cars_drive(gazebo_host: str, oval: Track) -> None:
    simulator = GazeboSimulator(oval, 1, host=gazebo_host)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((gazebo_host, 1))
        own_address = probe.getsockname()[0]
    environment = os.environ | {
        "ROS_MASTER_URI": f"http://{gazebo_host}:{MASTER_PORT}",
        "ROS_IP": own_address,
    }
    watcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WATCHER), DEBIAN_PACKAGES, *TOPICS],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        simulator.reset(ONE, [EpisodeStart(0, rules=EpisodeRules(max_steps=10_000))])
        seen: dict[str, tuple[str, int]] = {}

        def listen(lines: IO[str]) -> None:
            for line in lines:
                topic, kind, size = line.split()
                seen[topic] = (kind, int(size))

        listener = threading.Thread(target=listen, args=(watcher.stdout,))
        listener.start()
        for _ in range(400):
            simulator.step(ONE, np.zeros(1), np.full(1, 0.1))
            if len(seen) == len(TOPICS):
                break
    finally:
        watcher.kill()
        watcher.wait()
    listener.join()
    watcher.stdout.close()
    assert {topic: kind for topic, (kind, _) in seen.items()} == TOPICS
    assert seen["/racecar/camera/zed/rgb/image_rect_color"][1] > 160 * 120 * 3


@pytest.fixture(scope="module")
def oval() -> Track:
    return load_track("Oval_track")
