"""What trainer and evaluation have in common: a run's parts, and how a worker ends."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_trainer.actions import ActionSpace, load_action_space
from local_trainer.config import RunConfig, load_config
from local_trainer.errors import ConfigError, LocalTrainerError
from local_trainer.machine import gpus, has_fast_bf16, num_cpus
from local_trainer.mirror import RunMirror, patiently
from local_trainer.reward import RewardFunction
from local_trainer.rollout import track_of
from local_trainer.run_files import load_run_tracks
from local_trainer.runs import Run, write_atomically
from local_trainer.store import is_s3_url, open_store
from local_trainer.transport import RedisTransport
from sim.simulator import Simulator
from sim.track import Track

logger = logging.getLogger(__name__)

REDIS_LIMIT_S = 60.0


@dataclass(frozen=True)
class RunParts:
    """A run's files as objects."""

    run: Run
    config: RunConfig
    track: Track
    """The first, if there are several."""
    actions: ActionSpace
    threads: int
    tracks: tuple[Track, ...] = ()
    """All of them if there are several."""

    @property
    def all_tracks(self) -> tuple[Track, ...]:
        """Return every track, one or several."""
        return self.tracks or (self.track,)

    @property
    def names_tracks(self) -> bool:
        """Return whether records have to say which track an episode was driven on."""
        return len(self.all_tracks) > 1

    def track_of(self, episode: int) -> Track:
        """Return the track an episode is driven on, by its number."""
        return self.all_tracks[track_of(episode, len(self.all_tracks))]

    def track_name(self, episode: int) -> str:
        """Return the name of an episode's track; empty if there is one only."""
        return self.track_of(episode).name if self.names_tracks else ""


def load_run_parts(run: Run) -> RunParts:
    """Read a run's files.

    Raises:
        LocalTrainerError: If one is missing or holds something that is not allowed.
    """
    config = load_config(run.config_file)
    tracks = load_run_tracks(run)
    return RunParts(
        run=run,
        config=config,
        track=tracks[0],
        actions=load_action_space(run.metadata_file),
        threads=config.threads or num_cpus(),
        tracks=tracks,
    )


def open_reward(
    parts: RunParts, worker: int | str = 0, track: Track | None = None
) -> RewardFunction:
    """Start the run's reward function; it loads while the caller goes on.

    Args:
        parts: The run.
        worker: Number or name of the rollout worker it is for; each has a process and a log of
            its own.
        track: Which of the run's tracks it judges on; the first if left out.
    """
    name = f"reward-{worker}.log" if worker else "reward.log"
    log = parts.run.path / "logs" / name
    return RewardFunction(parts.run.reward_file, track or parts.track, log_path=log)


def open_simulator(
    parts: RunParts, num_cars: int, host: str | None = None, track: Track | None = None
) -> Simulator:
    """Return the simulator a run asks for.

    Args:
        parts: The run.
        num_cars: How many cars.
        host: Where a Gazebo simulator is; by default GAZEBO_HOST, or this machine.
        track: Which of the run's tracks; the first if left out.

    Raises:
        ConfigError: If the user's environment is not usable.
        ConnectionError: If a Gazebo simulator does not answer.
    """
    config = parts.config.simulator
    if parts.run.environment_file.exists():
        return _open_environment(parts, num_cars, track or parts.track)
    if config.backend == "gazebo":
        return _open_gazebo(parts, num_cars, host or os.environ.get("GAZEBO_HOST", "localhost"))
    from sim.embedded import EmbeddedSimulator

    return EmbeddedSimulator(
        track or parts.track,
        num_cars,
        seed=parts.config.seed,
        channels=config.channels,
        car=config.car,
        randomization=config.randomization,
    )


def _open_gazebo(parts: RunParts, num_cars: int, host: str) -> Simulator:
    from sim.gazebo.client import GazeboSimulator

    config = parts.config.simulator
    try:
        return GazeboSimulator(
            parts.track,
            num_cars,
            seed=parts.config.seed,
            channels=config.channels,
            car=config.car,
            randomization=config.randomization,
            host=host,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{error}.") from error


def _open_environment(parts: RunParts, num_cars: int, track: Track) -> Simulator:
    from sim.gym_simulator import GymSimulator

    try:
        return GymSimulator(
            parts.run.environment_file,
            track,
            num_cars,
            seed=parts.config.seed,
            actions=[
                {"steering_angle": action.steering_deg, "speed": action.speed_mps}
                for action in parts.actions.actions
            ],
            car=parts.config.simulator.car,
            randomization=parts.config.simulator.randomization,
        )
    except ValueError as error:
        raise ConfigError(f"{error}.") from error


def open_transport(run_name: str) -> RedisTransport:
    """Return the streams of a run on the server that REDIS_URL and REDIS_PASSWORD name.

    Raises:
        ConfigError: If REDIS_URL is not set.
        TransportError: If the server does not answer or refuses the password.
    """
    url = os.environ.get("REDIS_URL")
    if not url:
        raise ConfigError(
            "Trainer and rollout workers meet in Redis: REDIS_URL must be set in the environment "
            "(redis://host:port/db), got nothing."
        )
    transport = RedisTransport(url, run_name, os.environ.get("REDIS_PASSWORD") or None)
    transport.wait_until_up(REDIS_LIMIT_S)
    return transport


@contextmanager
def opened_run(location: str) -> Iterator[Run]:
    """Yield a run from a folder; one in a bucket as a folder that is mirrored there as it changes.

    The folder of a mirrored run is below LOCAL_TRAINER_WORK, else a temporary one.

    Raises:
        NotFound: If the bucket holds no such run.
        StoreError: If the store does not answer.
    """
    if not is_s3_url(location):
        yield Run(Path(location))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.environ.get("LOCAL_TRAINER_WORK") or temporary)
        run = Run(folder / location.rstrip("/").rpartition("/")[2])
        shutil.rmtree(run.path, ignore_errors=True)  # of a trainer that was killed
        mirror = RunMirror(open_store(location), run.path)
        patiently(mirror.pull)
        with mirror.pushing(on_look=show_health):
            yield run


def show_health() -> None:
    """Say that this process is alive by the age of the file HEALTH_FILE, if one is named."""
    path = os.environ.get("HEALTH_FILE")
    if path:
        Path(path).touch()


def wants_bf16(config: RunConfig) -> bool:
    """Return whether the update computes in bf16.

    Raises:
        ConfigError: If bf16 was asked for and the processor cannot do it.
    """
    if config.precision == "bf16" and not has_fast_bf16():
        raise ConfigError(
            "precision must be auto or fp32 on this processor (bf16 needs avx512_bf16 or "
            "amx_bf16), got bf16."
        )
    return config.precision != "fp32" and has_fast_bf16() and not wants_gpu(config)


def wants_gpu(config: RunConfig) -> bool:
    """Return whether the network runs on a GPU.

    Raises:
        ConfigError: If a GPU was asked for and none answers.
    """
    if config.instance == "cpu":
        return False
    found = bool(gpus())
    if config.instance == "gpu" and not found:
        raise ConfigError("instance must be cpu or auto on this machine (no GPU answers), got gpu.")
    return found


def run_worker(run: Run, work: Callable[[], None]) -> int:
    """Run a worker's whole work and write down what ended it.

    Returns:
        The process's exit status. A failure is in the run's ``failure.json``.
    """
    run.failure_file.unlink(missing_ok=True)
    try:
        work()
    except LocalTrainerError as error:
        _write_failure(run, str(error), error.exit_status)
        return error.exit_status
    except Exception as error:  # the top of a worker: write it down for the one who watches
        traceback.print_exc()
        _write_failure(run, f"{type(error).__name__}: {error}", 1)
        return 1
    return 0


def _write_failure(run: Run, message: str, exit_status: int) -> None:
    failure = {"message": message, "exit_status": exit_status}
    print(message, file=sys.stderr)
    try:
        write_atomically(run.failure_file, json.dumps(failure, indent=2) + "\n")
    except OSError as error:
        print(f"failure.json cannot be written: {error}", file=sys.stderr)


def run_of(path: str) -> Run:
    """Return the run a worker was started for."""
    return Run(Path(path))
