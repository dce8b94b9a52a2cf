"""The containers of one run: started beside the stack, watched, logged, removed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_trainer.errors import ConfigError, RunFailed, last_line
from local_trainer.launch import compose
from local_trainer.store import Credentials, ObjectStore, open_store

BUCKET = "local-trainer"
"""Made by the stack; each run is a prefix in it."""

IMAGE = "local-trainer-trainer"
_PROFILE = "train"
_FOLDER_LABEL = "local-trainer.run"
_OWNER_LABEL = "local-trainer.pid"
_KILLED = 128 + 9


@dataclass(frozen=True)
class RunContainer:
    """One container of a run."""

    name: str
    is_running: bool
    exit_status: int
    is_out_of_memory: bool

    @property
    def was_killed(self) -> bool:
        """Whether somebody outside ended it at once."""
        return self.exit_status == _KILLED and not self.is_out_of_memory


class RunContainers:
    """Trainer and rollout workers of one run of the bucket."""

    def __init__(self, run: str, shown_as: Path) -> None:
        """Note names; nothing is started yet.

        Args:
            run: The run's name in the bucket.
            shown_as: The run's folder here, for messages.
        """
        self._run = run
        self._shown_as = shown_as

    def remove_left_over(self) -> None:
        """Remove the containers that a killed start of this run has left.

        Raises:
            ConfigError: If they belong to another run of this name, and it trains now.
        """
        shape = f'{{{{index .Config.Labels "{_FOLDER_LABEL}"}}}}'
        for container in self.found():
            folder = _docker("inspect", "--format", shape, container.name).stdout.strip()
            if container.is_running and folder != str(self._shown_as.absolute()):
                raise ConfigError(
                    f"A run's name must be its own in the stack: {self._run!r} of {folder} is "
                    "training; stop it, or train under another --name."
                )
        self.remove()

    def start_trainer(self) -> str:
        """Start the trainer and return its container's name."""
        name = self._name("trainer")
        self._start("trainer", name, ["local_trainer.workers.trainer", "--remote"])
        return name

    def start_rollouts(self, num_workers: int, idle_limit_s: float | None = None) -> None:
        """Start rollout workers, numbered from 0.

        Args:
            num_workers: How many.
            idle_limit_s: They end by themselves after so long without an order.
        """
        limit = [] if idle_limit_s is None else ["--idle-limit-s", str(idle_limit_s)]
        for number in range(num_workers):
            more = ["--index", str(number), "--shown-as", str(self._shown_as), *limit]
            self._start(
                "rollout", self._name(f"rollout-{number}"), ["local_trainer.workers.rollout", *more]
            )

    def restart(self, container: RunContainer) -> None:
        """Start a container again that has ended."""
        _docker("start", container.name)

    def signal(self, name: str, signal: str) -> None:
        """Send a container's process a signal: INT, KILL."""
        _docker("kill", "--signal", signal, name)

    def found(self) -> list[RunContainer]:
        """Return the run's containers, running or not."""
        names = self._names()
        if not names:
            return []
        shape = "{{.Name}} {{.State.Running}} {{.State.ExitCode}} {{.State.OOMKilled}}"
        found = []
        for line in _docker("inspect", "--format", shape, *names).stdout.splitlines():
            name, running, status, out_of_memory = line.split()
            found.append(
                RunContainer(
                    name.strip("/"), running == "true", int(status), out_of_memory == "true"
                )
            )
        return found

    def are_left_alone(self) -> bool:
        """Return whether the process that started the containers is gone; true if there are none.

        A process that has its number by now counts as that one, so the answer is late at worst.
        """
        shape = f'{{{{index .Config.Labels "{_OWNER_LABEL}"}}}}'
        names = self._names()
        said = _docker("inspect", "--format", shape, *names).stdout if names else ""
        return not any(_is_alive(int(pid)) for pid in said.split())

    def keep_logs(self, folder: Path, prefix: str = "") -> None:
        """Append what the containers said to files in a folder, one each."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._names():
            part = name.removeprefix(self._name(""))
            with (folder / f"{prefix}{part}.log").open("ab") as file:
                subprocess.run(["docker", "logs", name], stdout=file, stderr=file)

    def short_name(self, name: str) -> str:
        """Return a container's name without what all of the run's begin with."""
        return name.removeprefix(self._name(""))

    def ending(self, container: RunContainer, what_follows: str) -> str:
        """Return the line that tells how a container ended."""
        name = self.short_name(container.name)
        return f"{name} ended with status {container.exit_status} and {what_follows}"

    def last_words(self, name: str) -> str:
        """Return the last line that a container wrote; empty if it wrote none."""
        done = _docker("logs", "--tail", "5", name)
        return last_line(f"{done.stdout}\n{done.stderr}")

    def copy(self, name: str, source: str, folder: Path) -> bool:
        """Copy a folder's content out of a container; return whether it was there."""
        return _docker("cp", f"{name}:{source}/.", str(folder)).returncode == 0

    def remove(self) -> None:
        """End the containers in order, and remove them."""
        names = self._names()
        if names:
            # Rollout workers give their simulators back.
            _docker("stop", "--time", "10", *names)
            _docker("rm", "--force", "--volumes", *names)

    def _names(self) -> list[str]:
        pattern = f"name=^/?{re.escape(self._name(''))}(trainer|rollout-[0-9]+)$"
        return _docker("ps", "--all", "--filter", pattern, "--format", "{{.Names}}").stdout.split()

    def _name(self, part: str) -> str:
        return f"{compose.project_name()}-run-{self._run}-{part}"

    def _start(self, service: str, name: str, module: Sequence[str]) -> None:
        labels = ["--label", f"{_FOLDER_LABEL}={self._shown_as.absolute()}"]
        labels += ["--label", f"{_OWNER_LABEL}={os.getpid()}"]
        command = [*_compose_run(), "--detach", "--name", name, *labels, service]
        command += [*module, "--run", f"s3://{BUCKET}/{self._run}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(
                f"The {service} container cannot be started: {compose.reason(done.stderr)}"
            )


def run_module(module: str, *arguments: str) -> str:
    """Run a module of ours in a rollout worker's container and return what it prints.

    Raises:
        RunFailed: If it fails.
    """
    command = [*_compose_run(), "--rm", "--no-TTY", "rollout", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(f"{module} in a container: {compose.reason(done.stderr)}")
    return done.stdout


def check_stack() -> None:
    """Check that a run can be played in the stack.

    Raises:
        ConfigError: If there is no engine or an image is missing; says what to do.
    """
    compose.project_folder()
    if not compose.has_docker():
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


def open_bucket(run: str = "") -> ObjectStore:
    """Return a run's place in the stack's object store; without a name, that of all runs."""
    values = compose.settings()
    credentials = Credentials(values["MINIO_ROOT_USER"], values["MINIO_ROOT_PASSWORD"])
    endpoint = f"http://127.0.0.1:{values.get('MINIO_PORT', '9000')}"
    return open_store(f"s3://{BUCKET}/{run}", endpoint, credentials, "us-east-1")


def num_rollouts() -> int:
    """Return how many rollout workers run in the stack; each drives a simulator."""
    return len(_running("rollout"))


def remove_running() -> None:
    """End and remove all trainers and rollout workers of the stack."""
    names = [*_running("rollout"), *_running("trainer")]
    if names:
        _docker("rm", "--force", "--volumes", *names)


def is_used() -> bool:
    """Return whether a trainer or a rollout worker runs in the stack."""
    return bool(_running("rollout") or _running("trainer"))


def _compose_run() -> list[str]:
    folder = str(compose.project_folder())
    command = ["docker", "compose", "--project-directory", folder, "--profile", _PROFILE]
    return [*command, "run", "--no-deps"]


def _running(service: str) -> list[str]:
    filters = []
    for label, value in (("project", compose.project_name()), ("service", service)):
        filters += ["--filter", f"label=com.docker.compose.{label}={value}"]
    return _docker("ps", "--quiet", *filters).stdout.split()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True)
