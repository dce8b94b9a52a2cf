"""Trains a run in the container stack and leaves it like a training on this machine.

Writes the run's files to MinIO, starts simulators, rollout workers and a trainer for this run,
mirrors what the trainer writes into the run's folder, and ends as the trainer ended. The process
around it is `local_trainer.workers.stack`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from local_trainer.config import load_config
from local_trainer.errors import ConfigError, LocalTrainerError, NotFound, RunFailed
from local_trainer.launch import compose
from local_trainer.mirror import RunMirror
from local_trainer.runs import Run
from local_trainer.store import Credentials, ObjectStore, open_store

logger = logging.getLogger(__name__)

BUCKET = "local-trainer"
"""Made by the stack; each run is a prefix in it."""

IMAGE = "local-trainer-trainer"
_PROFILE = "train"
_POLL_S = 1.0
_KILLED = 128 + 9
_MOST_RESTARTS = 5


def check_stack() -> None:
    """Check that a run can be trained in the stack.

    Raises:
        ConfigError: If there is no engine or an image is missing; says what to do.
    """
    compose.project_folder()
    if shutil.which("docker") is None:
        raise ConfigError(
            "simulator.backend gazebo needs Docker with Compose v2 (sudo scripts/prepare-docker); "
            "there is no docker command."
        )
    if _docker("version", "--format", "{{.Server.Version}}").returncode:
        raise ConfigError(
            "simulator.backend gazebo needs a Docker engine (sudo scripts/prepare-docker); "
            "none answers."
        )
    for image in (compose.GAZEBO_IMAGE, IMAGE):
        if _docker("image", "inspect", "--format", "{{.Id}}", image).returncode:
            raise ConfigError(
                f"simulator.backend gazebo needs the image {image}: local-trainer stack build"
            )


class StackTraining:
    """One start of a run's training in the stack."""

    def __init__(self, run: Run) -> None:
        """Prepare; nothing is started yet.

        Args:
            run: A run whose configuration asks for the Gazebo simulator.
        """
        self._run = run
        self._num_workers = load_config(run.config_file).workers
        self._num_asked = self._num_stops = 0
        self._num_restarts = 0

    def request_stop(self) -> None:
        """Ask the training to stop and save; the second time it is ended at once."""
        self._num_asked += 1

    def train(self) -> int:
        """Train to the end and return the trainer's exit status.

        Raises:
            LocalTrainerError: If the stack cannot be started or the result not be fetched.
        """
        check_stack()
        compose.up(self._num_workers)
        self._remove_containers()  # of a start that was killed
        store = self._store()
        mirror = RunMirror(store, self._run.path)
        self._send(store, mirror)
        try:
            self._start_containers()
            status = self._follow(mirror)
        finally:
            self._keep_logs()
            self._remove_containers()
        mirror.pull(lambda key: key != "config.yaml")
        return status

    # The run's files.

    def _store(self) -> ObjectStore:
        # As Compose itself does it: what is set where the command is given comes first.
        values = {**_settings(compose.project_folder() / ".env"), **os.environ}
        credentials = Credentials(values["MINIO_ROOT_USER"], values["MINIO_ROOT_PASSWORD"])
        endpoint = f"http://127.0.0.1:{values.get('MINIO_PORT', '9000')}"
        return open_store(f"s3://{BUCKET}/{self._run.name}", endpoint, credentials, "us-east-1")

    def _send(self, store: ObjectStore, mirror: RunMirror) -> None:
        """Make store and folder the same, from whichever side is further."""
        try:
            there = json.loads(store.get("status.json"))
        except (NotFound, ValueError):
            there = {}
        here = self._run.read_status()
        if there.get("created") == here.created:
            if int(there.get("iteration", 0)) > here.iteration:
                mirror.pull(lambda key: key != "config.yaml")  # whoever watched was killed
        else:
            for item in store.objects():
                store.delete(item.key)  # another run of this name, deleted here
        store.delete("failure.json")
        self._run.failure_file.unlink(missing_ok=True)
        mirror.push()

    # The containers.

    def _start_containers(self) -> None:
        _compose_run(self._run.name, "trainer", self._name("trainer"))
        for number in range(self._num_workers):
            _compose_run(self._run.name, "rollout", self._name(f"rollout-{number}"))

    def _follow(self, mirror: RunMirror) -> int:
        """Mirror what is shown, pass on requests to stop, restart what was killed."""
        trainer = self._name("trainer")
        while True:
            time.sleep(_POLL_S)
            try:
                mirror.pull_live()
            except LocalTrainerError as error:
                logger.warning("progress is not seen: %s", error)
            self._pass_on_stops(trainer)
            for container in self._containers():
                if container.is_running:
                    continue
                is_trainer = container.name == trainer
                was_killed = container.exit_status == _KILLED and not container.is_out_of_memory
                may_restart = self._num_asked == 0 and self._num_restarts < _MOST_RESTARTS
                if may_restart and (was_killed or not is_trainer):
                    self._num_restarts += 1
                    logger.warning(
                        "%s ended with status %d and is started again",
                        container.name,
                        container.exit_status,
                    )
                    _docker("start", container.name)
                elif is_trainer:
                    if container.is_out_of_memory:
                        raise RunFailed(
                            "The trainer's container ran out of memory; raise its mem_limit in "
                            "docker-compose.yml or lower ppo.episodes_between_training."
                        )
                    return container.exit_status
                elif not any(one.is_running for one in self._containers() if one.name != trainer):
                    raise RunFailed(
                        f"No rollout worker is left: {container.name} ended with status "
                        f"{container.exit_status}; see {self._run.path / 'logs'}."
                    )

    def _pass_on_stops(self, trainer: str) -> None:
        if self._num_asked > self._num_stops:
            _docker("kill", "--signal", "INT" if self._num_stops == 0 else "KILL", trainer)
            self._num_stops += 1

    def _containers(self) -> list[_Container]:
        """Return the containers of this run."""
        names = self._container_names()
        shape = "{{.Name}} {{.State.Running}} {{.State.ExitCode}} {{.State.OOMKilled}}"
        found = []
        for line in _docker("inspect", "--format", shape, *names).stdout.splitlines():
            name, running, status, out_of_memory = line.split()
            found.append(
                _Container(name.strip("/"), running == "true", int(status), out_of_memory == "true")
            )
        return found

    def _container_names(self) -> list[str]:
        pattern = f"name=^/?{re.escape(self._name(''))}(trainer|rollout-[0-9]+)$"
        return _docker("ps", "--all", "--filter", pattern, "--format", "{{.Names}}").stdout.split()

    def _remove_containers(self) -> None:
        names = self._container_names()
        if names:
            # Rollout workers give their simulators back.
            _docker("stop", "--time", "10", *names)
            _docker("rm", "--force", "--volumes", *names)

    def _keep_logs(self) -> None:
        """Write what the containers said to the run's logs."""
        folder = self._run.path / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._container_names():
            with (folder / f"{name.removeprefix(self._name(''))}.log").open("ab") as file:
                subprocess.run(["docker", "logs", name], stdout=file, stderr=file)

    def _name(self, part: str) -> str:
        return f"local-trainer-run-{self._run.name}-{part}"


@dataclass(frozen=True)
class _Container:
    name: str
    is_running: bool
    exit_status: int
    is_out_of_memory: bool


def _compose_run(run: str, service: str, name: str) -> None:
    command = ["docker", "compose", "--project-directory", str(compose.project_folder())]
    command += ["--profile", _PROFILE, "run", "--detach", "--no-deps", "--name", name, service]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RUN": run})
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RunFailed(f"The {service} container cannot be started: {said[-1]}")


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True)


def _settings(path: Path) -> dict[str, str]:
    """Return the values of a file with ``NAME=value`` a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, value in pairs}
