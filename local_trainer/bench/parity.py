"""``bench parity``: how far the embedded simulator and Gazebo agree.

Four comparisons: pictures from the same poses; the car's steady turns and how it follows a
change of speed; two seconds of the same commands; laps of a policy that was trained in the
embedded simulator. docs/parity.md says how each is measured.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.errors import ConfigError, RunFailed, last_line
from local_trainer.launch.compose import GAZEBO_IMAGE
from local_trainer.runs import DEFAULT_RUNS_DIR, find_run, write_atomically
from sim.car import BODY_DTYPE, CarConfig, TurnMeasurement, drive, fit_car
from sim.embedded import EmbeddedSimulator
from sim.gazebo.client import GazeboSimulator, Services
from sim.gazebo.world import write_world
from sim.simulator import EpisodeStart
from sim.track_files import load_track

TRACKS = ("reinvent_base", "Oval_track", "AWS_track")
SPEEDS_MPS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
STEERING_RAD = (0.1, 0.2, 0.3, 0.4, math.radians(30.0))
SPEED_CHANGES_MPS = ((0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.5))
TRAJECTORY_SPEEDS_MPS = (1.0, 2.0)

_FIELDS = ("x", "y", "yaw", "forward_mps", "leftward_mps", "yaw_rate_radps")
MOTION_DTYPE = np.dtype([(name, "f8") for name in _FIELDS])
"""How a car moves at the end of a step; angles in rad, world frame; see `sim.car.BODY_DTYPE`."""

_RUN_UP_STEPS = 15
_STEADY_STEPS = 8
_TURN_STEPS = 30
_CHANGE_STEPS = 20
_TRAJECTORY_STEPS = 30
"""Two seconds."""
_MOST_CARS = 10
"""Cars in one call: an answer has a time limit."""
_UNSTEADY = 0.05


@dataclass(frozen=True)
class CameraDifference:
    """Pictures of both simulators from the same poses on one track."""

    track: str
    by_pose: np.ndarray
    """Mean absolute difference of each picture, grey levels, shape (poses,)."""
    by_pixel: np.ndarray
    """Mean absolute difference of each pixel, grey levels, shape (120, 160)."""
    worst: tuple[np.ndarray, np.ndarray]
    """Gazebo's and the embedded picture where they differ most, shape (120, 160) each."""


@dataclass(frozen=True)
class Turns:
    """Steady turns of a grid of commands; arrays have the shape (speeds, steering angles)."""

    speeds_mps: np.ndarray
    steering_rad: np.ndarray
    gazebo_m: np.ndarray
    """Radius of the origin's path: mean of left and right turn; NaN where it is not steady."""
    asymmetry: np.ndarray
    """Difference of Gazebo's left and right radius over their mean."""
    embedded_m: np.ndarray
    gazebo_mps: np.ndarray
    """Steady speed of the origin."""
    embedded_mps: np.ndarray

    @property
    def radius_error(self) -> np.ndarray:
        """How much larger the embedded radius is, over Gazebo's."""
        error: np.ndarray = self.embedded_m / self.gazebo_m - 1.0
        return error

    @property
    def speed_error(self) -> np.ndarray:
        """How much faster the embedded car is, over Gazebo's speed."""
        error: np.ndarray = self.embedded_mps / self.gazebo_mps - 1.0
        return error


@dataclass(frozen=True)
class SpeedResponse:
    """The speed after each step from one commanded speed to another, m/s, straight ahead."""

    start_mps: float
    end_mps: float
    gazebo_mps: np.ndarray
    embedded_mps: np.ndarray

    @property
    def error(self) -> float:
        """Largest difference at any time, over the faster of the two commands."""
        apart = np.abs(self.embedded_mps - self.gazebo_mps).max()
        return float(apart / max(self.start_mps, self.end_mps))


@dataclass(frozen=True)
class Trajectories:
    """Two seconds of the same commands in both, from the same place; after each step."""

    speed_mps: float
    gazebo: np.ndarray
    """Of `MOTION_DTYPE`, shape (drives, steps); x along the first direction of drive."""
    embedded: np.ndarray

    @property
    def end_point_errors_m(self) -> np.ndarray:
        """Distance of the two cars at the end of each drive, shape (drives,)."""
        last = self.gazebo[:, -1], self.embedded[:, -1]
        apart: np.ndarray = np.hypot(last[0]["x"] - last[1]["x"], last[0]["y"] - last[1]["y"])
        return apart


@dataclass(frozen=True)
class Parity:
    """Everything that was compared."""

    turns: Turns
    responses: list[SpeedResponse]
    trajectories: list[Trajectories]
    cameras: list[CameraDifference]
    laps: dict[str, Any] | None
    """Report of the evaluation in Gazebo, if a run was named."""

    def figures(self) -> dict[str, Any]:
        """Return the figures of ``bench parity``."""
        by_pose = np.concatenate([camera.by_pose for camera in self.cameras])
        error = np.abs(self.turns.radius_error)
        steady = error[np.isfinite(error)]
        figures: dict[str, Any] = {
            "poses": len(by_pose),
            "camera_mean_abs_difference": float(by_pose.mean()),
            "camera_worst_pose": float(by_pose.max()),
            "turns": len(steady),
            "turns_not_steady": int(error.size - steady.size),
            "turning_radius_max_error": float(steady.max()),
            "turning_radius_median_error": float(np.median(steady)),
            "turning_radius_within_5_percent": int((steady <= 0.05).sum()),
            "turning_radius_left_right_difference": float(np.nanmax(self.turns.asymmetry)),
            "turn_speed_max_error": float(np.nanmax(np.abs(self.turns.speed_error))),
            "speed_response_max_error": max(one.error for one in self.responses),
        }
        for one in self.trajectories:
            errors_m = one.end_point_errors_m
            name = f"end_point_error_{one.speed_mps:g}mps"
            figures[f"{name}_m"] = float(np.median(errors_m))
            figures[f"{name}_worst_m"] = float(errors_m.max())
        if self.laps is not None:
            figures["laps_in_gazebo"] = self.laps["summary"]["completed"]
            figures["laps_driven"] = len(self.laps["trials"])
        return figures


def run(
    out: Path,
    host: str | None = None,
    run_name: str | None = None,
    runs_dir: Path = DEFAULT_RUNS_DIR,
    has_fit: bool = False,
    num_poses: int = 200,
    num_drives: int = 40,
) -> dict[str, Any]:
    """Measure, write a report with pictures, and return the figures of ``bench parity``.

    Args:
        out: Folder for ``parity.html``, ``parity.json`` and ``car_table.json``.
        host: A Gazebo container that runs already; by default one is started for this.
        run_name: A run whose best model drives five laps in Gazebo.
        runs_dir: Where it lies.
        has_fit: Whether to fit the embedded car to what was measured, too.
        num_poses: Pictures taken, over all tracks.
        num_drives: Drives of two seconds at each speed.

    Raises:
        ConfigError: If no simulator can be started, or there is no such run.
        RunFailed: If the laps cannot be driven.
    """
    trained = find_run(run_name, runs_dir) if run_name else None
    with gazebo(host) as address:
        # The car first: its world is the first track's, and Gazebo starts anew for every world.
        parity = Parity(
            turns=compare_turns(address),
            responses=compare_speed_responses(address),
            trajectories=[
                compare_trajectories(address, speed, num_drives) for speed in TRAJECTORY_SPEEDS_MPS
            ],
            cameras=[
                compare_cameras(address, name, math.ceil(num_poses / len(TRACKS)))
                for name in TRACKS
            ],
            laps=_laps_in_gazebo(address, trained.path) if trained else None,
        )
    figures = parity.figures()
    out.mkdir(parents=True, exist_ok=True)
    table = car_table(parity.turns)
    write_atomically(out / "car_table.json", json.dumps(table, indent=1) + "\n")
    if has_fit:
        figures["fitted_car"] = fitted_values(parity.turns)
    write_atomically(out / "parity.json", json.dumps(figures, indent=1) + "\n")
    from local_trainer.bench.parity_page import build_page

    figures["report"] = str(build_page(parity, figures).write(out / "parity.html"))
    return figures


@contextmanager
def gazebo(host: str | None = None) -> Iterator[str]:
    """Yield the address of a simulator: the one named, that of GAZEBO_HOST, or one of our own.

    Raises:
        ConfigError: If none is named and Docker or the image is missing.
    """
    if host := host or os.environ.get("GAZEBO_HOST"):
        yield host
        return
    if shutil.which("docker") is None or _docker("version").returncode:
        raise ConfigError(
            "bench parity needs a Docker engine (sudo scripts/prepare-docker), or --host."
        )
    if _docker("image", "inspect", GAZEBO_IMAGE).returncode:
        raise ConfigError(f"bench parity needs the image {GAZEBO_IMAGE}: local-trainer stack build")
    safety = "--init --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
    started = _docker("run", "--detach", "--rm", *safety.split(), GAZEBO_IMAGE)
    if started.returncode:
        raise RunFailed(f"The simulator's container cannot be started: {started.stderr.strip()}")
    container = started.stdout.strip()
    try:
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        yield _docker("inspect", "--format", address, container).stdout.strip()
    finally:
        _docker("rm", "--force", container)


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True)


# The camera.


def compare_cameras(host: str, track_name: str, num_poses: int, seed: int = 0) -> CameraDifference:
    """Take pictures from the same random poses on and beside the lane, in both simulators."""
    track, cars = load_track(track_name), np.arange(num_poses)
    rng = np.random.default_rng(seed)
    starts = [
        EpisodeStart(
            k,
            fraction=float(rng.uniform(0.0, 1.0)),
            is_reversed=bool(k % 2),
            lateral_offset_m=float(rng.uniform(-0.3, 0.3)),
            yaw_offset_rad=float(rng.uniform(-0.5, 0.5)),
        )
        for k in range(num_poses)
    ]
    embedded = EmbeddedSimulator(track, num_poses)
    embedded.reset(cars, starts)
    simulator = GazeboSimulator(track, num_poses, host=host)
    for group in np.array_split(cars, math.ceil(num_poses / _MOST_CARS)):
        simulator.reset(group, [starts[k] for k in group])
    simulator.close()
    theirs, ours = simulator.observations[..., 0], embedded.observations[..., 0]
    apart = np.abs(theirs.astype(int) - ours.astype(int))
    by_pose = apart.mean(axis=(1, 2))
    worst = int(by_pose.argmax())
    return CameraDifference(
        track_name, by_pose, apart.mean(axis=0), (theirs[worst].copy(), ours[worst].copy())
    )


# The car.


def drive_gazebo(host: str, commands: np.ndarray) -> np.ndarray:
    """Drive cars from rest at the origin in Gazebo.

    Args:
        host: The simulator.
        commands: Steering in rad and speed in m/s of each step, shape (drives, steps, 2).

    Returns:
        Of `MOTION_DTYPE`, after each step, shape (drives, steps).
    """
    motion = np.zeros(commands.shape[:2], MOTION_DTYPE)
    services = Services(host)
    try:
        services.load(write_world(load_track(TRACKS[0])))
        groups = math.ceil(len(commands) / _MOST_CARS)
        for drives in np.array_split(np.arange(len(commands)), groups):
            cars = np.arange(len(drives))
            services.place(cars, np.zeros((len(cars), 3)), np.ones(len(cars)), cars)
            for step in range(commands.shape[1]):
                states = services.step(cars, commands[drives, step]).states
                for k, state in zip(drives, states, strict=True):
                    motion[k, step] = tuple(getattr(state, name) for name in _FIELDS)
    finally:
        services.close()
    motion["yaw"] = np.unwrap(motion["yaw"], axis=1)
    return motion


def drive_embedded(commands: np.ndarray, car: CarConfig | None = None) -> np.ndarray:
    """Do as `drive_gazebo` with the embedded simulator's car."""
    numbers = (car or CarConfig()).numbers()
    motion = np.zeros(commands.shape[:2], MOTION_DTYPE)
    bodies = np.zeros(len(commands), BODY_DTYPE)
    for step in range(commands.shape[1]):
        for k, (steering_rad, speed_mps) in enumerate(commands[:, step]):
            drive(numbers, 1.0, steering_rad, speed_mps, bodies, k)
        for name in _FIELDS:
            motion[name][:, step] = bodies[name]
    return motion


def turn_commands(speeds_mps: Sequence[float], steering_rad: Sequence[float]) -> np.ndarray:
    """Return drives straight up to each speed, then turning left and right by each steering.

    Returns:
        Commands as in `drive_gazebo`; drives in the order speed, steering, side.
    """
    drives = [(side * angle, v) for v in speeds_mps for angle in steering_rad for side in (1, -1)]
    commands = np.repeat(np.array(drives)[:, None, :], _RUN_UP_STEPS + _TURN_STEPS, axis=1)
    commands[:, :_RUN_UP_STEPS, 0] = 0.0
    return commands


def compare_turns(
    host: str,
    speeds_mps: Sequence[float] = SPEEDS_MPS,
    steering_rad: Sequence[float] = STEERING_RAD,
    car: CarConfig | None = None,
) -> Turns:
    """Compare radius and speed of steady turns over a grid of commands, left and right."""
    commands = turn_commands(speeds_mps, steering_rad)
    shape = (len(speeds_mps), len(steering_rad), 2)
    theirs_m, theirs_mps = (part.reshape(shape) for part in _steady(drive_gazebo(host, commands)))
    ours_m, ours_mps = (part.reshape(shape) for part in _steady(drive_embedded(commands, car)))
    gazebo_m = theirs_m.mean(axis=2)
    return Turns(
        speeds_mps=np.array(speeds_mps),
        steering_rad=np.array(steering_rad),
        gazebo_m=gazebo_m,
        asymmetry=np.abs(theirs_m[..., 0] - theirs_m[..., 1]) / gazebo_m,
        embedded_m=ours_m.mean(axis=2),
        gazebo_mps=theirs_mps.mean(axis=2),
        embedded_mps=ours_mps.mean(axis=2),
    )


def _steady(motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return radius and speed at the end of each drive; a radius is NaN if it still changes."""
    last = motion[:, -_STEADY_STEPS:]
    speeds_mps = np.hypot(last["forward_mps"], last["leftward_mps"])
    turns_radps = last["yaw_rate_radps"]
    mean_radps = turns_radps.mean(axis=1)
    radii_m = speeds_mps.mean(axis=1) / np.abs(mean_radps)
    is_steady = np.ptp(turns_radps, axis=1) <= _UNSTEADY * np.abs(mean_radps)
    return np.where(is_steady, radii_m, np.nan), speeds_mps.mean(axis=1)


def compare_speed_responses(
    host: str, changes_mps: Sequence[tuple[float, float]] = SPEED_CHANGES_MPS
) -> list[SpeedResponse]:
    """Compare how the car gets from one speed to another, straight ahead."""
    commands = np.zeros((len(changes_mps), _RUN_UP_STEPS + _CHANGE_STEPS, 2))
    for k, (start, end) in enumerate(changes_mps):
        commands[k, :_RUN_UP_STEPS, 1] = start
        commands[k, _RUN_UP_STEPS:, 1] = end
    theirs, ours = drive_gazebo(host, commands), drive_embedded(commands)
    return [
        SpeedResponse(
            start,
            end,
            theirs["forward_mps"][k, _RUN_UP_STEPS:],
            ours["forward_mps"][k, _RUN_UP_STEPS:],
        )
        for k, (start, end) in enumerate(changes_mps)
    ]


def compare_trajectories(
    host: str, speed_mps: float, num_drives: int, seed: int = 0
) -> Trajectories:
    """Compare two seconds of random steering at one speed, from straight ahead at that speed.

    The steering stays for two to five steps, then takes another value of -30 to 30 degrees.
    """
    rng = np.random.default_rng(seed)
    commands = np.zeros((num_drives, _RUN_UP_STEPS + _TRAJECTORY_STEPS, 2))
    commands[..., 1] = speed_mps
    for k in range(num_drives):
        step = _RUN_UP_STEPS
        while step < commands.shape[1]:
            held = int(rng.integers(2, 6))
            commands[k, step : step + held, 0] = math.radians(rng.uniform(-30.0, 30.0))
            step += held
    theirs, ours = drive_gazebo(host, commands), drive_embedded(commands)
    return Trajectories(speed_mps, _from_start(theirs), _from_start(ours))


def _from_start(motion: np.ndarray) -> np.ndarray:
    """Return the drives after their run-up, seen from the pose at its end."""
    start = motion[:, _RUN_UP_STEPS - 1, None]
    after = motion[:, _RUN_UP_STEPS:].copy()
    x, y = after["x"] - start["x"], after["y"] - start["y"]
    cos, sin = np.cos(start["yaw"]), np.sin(start["yaw"])
    after["x"], after["y"] = x * cos + y * sin, y * cos - x * sin
    after["yaw"] -= start["yaw"]
    return after


def car_table(turns: Turns) -> list[dict[str, float]]:
    """Return Gazebo's steady turns as rows that `sim.car.fit_car` takes."""
    return [row._asdict() for row in _measurements(turns)]


def _measurements(turns: Turns) -> list[TurnMeasurement]:
    return [
        TurnMeasurement(float(speed), float(angle), float(turns.gazebo_m[i, j]))
        for i, speed in enumerate(turns.speeds_mps)
        for j, angle in enumerate(turns.steering_rad)
        if math.isfinite(turns.gazebo_m[i, j])
    ]


def fitted_values(turns: Turns) -> dict[str, float]:
    """Return those of the car's parameters that come out different when fitted to the turns."""
    before, after = asdict(CarConfig()), asdict(fit_car(_measurements(turns)))
    return {name: value for name, value in after.items() if value != before[name]}


# Laps.


def _laps_in_gazebo(host: str, run_path: Path) -> dict[str, Any]:
    """Drive five laps with a run's best model; return the evaluation's report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "local_trainer.workers.evaluation", "--run", str(run_path)]
        command += ["--simulator", "gazebo", "--trials", "5", "--report", str(report)]
        done = subprocess.run(
            command, env={**os.environ, "GAZEBO_HOST": host}, capture_output=True, text=True
        )
        if done.returncode:
            said = last_line(done.stderr) or "it said nothing"
            raise RunFailed(f"The laps in Gazebo cannot be driven: {said}")
        laps: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return laps
