"""The container stack: docker-compose.yml through the docker command line, and its secrets."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_trainer.errors import ConfigError, RunFailed

PROFILE = "gazebo"
_ALL_PROFILES = (PROFILE, "train")
_PROJECT = "local-trainer"  # docker-compose.yml says so
GAZEBO_IMAGE = "local-trainer-gazebo"
_UP = ("up", "--detach", "--wait", "--wait-timeout", "300")
_SECRETS = {
    "REDIS_PASSWORD": lambda: secrets.token_hex(24),
    "MINIO_ROOT_USER": lambda: f"trainer-{secrets.token_hex(4)}",
    "MINIO_ROOT_PASSWORD": lambda: secrets.token_hex(24),
}


@dataclass(frozen=True)
class Container:
    """One container of the stack."""

    name: str
    service: str
    state: str
    """``running``, ``exited`` …"""
    health: str
    """``healthy``, ``unhealthy``, ``starting``, or empty without a check."""
    ports: str
    """Where it can be reached on this machine; empty if nowhere."""

    @property
    def is_up(self) -> bool:
        """Whether it does what it is for: runs in good health, or has done its one job."""
        if self.state == "running":
            return self.health in ("healthy", "")
        return self.state == "exited" and self.service.endswith("-bucket")


@dataclass(frozen=True)
class Simulator:
    """A Gazebo container that runs."""

    name: str
    address: str
    """On the stack's network, which this machine reaches."""


def project_folder() -> Path:
    """Return the folder with docker-compose.yml.

    Raises:
        ConfigError: If this installation has none.
    """
    folder = Path(__file__).parents[2]
    if not (folder / "docker-compose.yml").is_file():
        raise ConfigError(
            f"The container stack needs the project's checkout: no docker-compose.yml in {folder}."
        )
    return folder


def project_name() -> str:
    """Return the name that Compose gives the stack: its containers' names begin with it."""
    return settings().get("COMPOSE_PROJECT_NAME") or _PROJECT


def settings() -> dict[str, str]:
    """Return .env's values, made if missing; what is set in the environment comes first."""
    path = project_folder() / ".env"
    write_secrets(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    values = {name.strip(): value.strip().strip("'\"") for name, value in pairs}
    return {**values, **os.environ}


def has_docker() -> bool:
    """Return whether there is a docker command."""
    return shutil.which("docker") is not None


@contextmanager
def changing(on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let nobody else start or end parts of the stack meanwhile.

    Args:
        on_wait: Called if somebody else does so now and has to be waited for.
    """
    path = project_folder() / ".env"
    write_secrets(path)
    # .env is replaced when it changes, and its folder never.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_secrets(path: Path) -> list[str]:
    """Add the passwords that a file of settings lacks, and make it readable by its owner alone.

    Args:
        path: The file, ``NAME=value`` a line; made if missing.

    Returns:
        The names of those added; none if all were there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    present = {line.split("=", 1)[0].strip() for line in text.splitlines() if "=" in line}
    missing = [name for name in _SECRETS if name not in present]
    if missing:
        if text and not text.endswith("\n"):
            text += "\n"
        text += "".join(f"{name}={_SECRETS[name]()}\n" for name in missing)
        # Never readable by others, not even while it is being written.
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return missing


def up(simulators: int = 1, is_building: bool = False) -> None:
    """Start the stack and wait until all of it is healthy.

    Args:
        simulators: How many Gazebo containers; 0 starts none.
        is_building: Whether to build the images of this project anew first.

    Raises:
        RunFailed: If it does not come up.
    """
    arguments = list(_UP)
    if is_building:
        arguments.append("--build")
    if simulators > 0:
        arguments += ["--scale", f"gazebo={simulators}"]
    profiles = [PROFILE] if simulators > 0 else []
    _call(arguments, profiles)


def ensure(simulators: int, may_renew: bool) -> None:
    """Start what of the stack is not up, and end nothing that is.

    Args:
        simulators: How many Gazebo containers there must be at least.
        may_renew: Whether containers of older images or settings may be replaced.

    Raises:
        RunFailed: If it does not come up.
    """
    there = sum(found.service == "gazebo" for found in containers())
    scale = ["--scale", f"gazebo={max(simulators, there)}"]
    _run([*_UP, *scale, *([] if may_renew else ["--no-recreate"])], captures=True)


def running() -> frozenset[str]:
    """Return the names of the stack's containers that run, or have done their one job."""
    return frozenset(
        found.name for found in containers() if found.state == "running" or found.is_up
    )


def simulators() -> list[Simulator]:
    """Return the Gazebo containers that run, by name; none if Docker does not answer."""
    filters = []
    for label, value in (("project", project_name()), ("service", "gazebo")):
        filters += ["--filter", f"label=com.docker.compose.{label}={value}"]
    shape = "{{.Name}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    try:
        ids = subprocess.run(
            ["docker", "ps", "--quiet", *filters], capture_output=True, text=True
        ).stdout.split()
        text = subprocess.run(
            ["docker", "inspect", "--format", shape, *ids], capture_output=True, text=True
        ).stdout
    except OSError:
        return []
    rows = [line.split() for line in text.splitlines()]
    return sorted(
        (Simulator(row[0].strip("/"), row[1]) for row in rows if len(row) > 1),
        key=lambda found: (len(found.name), found.name),
    )


def remove_all_but(names: frozenset[str]) -> None:
    """End and remove the stack's containers but some; the whole stack if those are none."""
    if not names:
        _run(["down"], captures=True, profiles=_ALL_PROFILES)
        return
    others = [found.name for found in containers() if found.name not in names]
    if others:
        subprocess.run(["docker", "rm", "--force", *others], capture_output=True)


def restart(service: str) -> None:
    """Start a service's containers anew and wait until they are healthy."""
    _run(["restart", service], captures=True)
    _run([*_UP, "--no-recreate", "--no-deps", service], captures=True)


def down(has_volumes: bool = False) -> None:
    """Stop the stack and remove its containers; data stay unless ``has_volumes`` removes them."""
    _call(["down", *(["--volumes"] if has_volumes else [])], _ALL_PROFILES)


def build() -> None:
    """Build all images of the stack."""
    _call(["build"], _ALL_PROFILES)


def logs(services: Sequence[str] = (), is_following: bool = False) -> None:
    """Write the containers' logs to standard output."""
    _call(["logs", *(["--follow"] if is_following else []), *services])


def containers() -> list[Container]:
    """Return the stack's containers, by service and name; none if it is down."""
    text = _run(["ps", "--all", "--format", "json"], captures=True).stdout
    # One array in older releases of Compose, one object a line in newer ones.
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line.strip():
            entry = json.loads(line)
            rows += entry if isinstance(entry, list) else [entry]
    found = [
        Container(row["Name"], row["Service"], row["State"], row.get("Health", ""), _ports(row))
        for row in rows
    ]
    return sorted(found, key=lambda container: (container.service, container.name))


def _ports(row: dict[str, Any]) -> str:
    published = [
        f"{port['URL']}:{port['PublishedPort']}"
        for port in row.get("Publishers") or []
        if port.get("PublishedPort")
    ]
    return ", ".join(sorted(set(published)))


def _call(arguments: Sequence[str], profiles: Sequence[str] = (PROFILE,)) -> None:
    """Run Compose and let the user see what it says."""
    status = _run(arguments, profiles=profiles).returncode
    if status:
        raise RunFailed(
            f"docker compose {arguments[0]} ended with status {status}; what it said is above. "
            "See local-trainer stack logs"
        )


def _run(
    arguments: Sequence[str], captures: bool = False, profiles: Sequence[str] = (PROFILE,)
) -> subprocess.CompletedProcess[str]:
    if not has_docker():
        raise ConfigError(
            "The container stack needs Docker with Compose v2: sudo scripts/prepare-docker"
        )
    folder = project_folder()
    write_secrets(folder / ".env")
    command = ["docker", "compose", "--project-directory", str(folder)]
    for profile in profiles:
        command += ["--profile", profile]
    done = subprocess.run([*command, *arguments], text=True, capture_output=captures)
    if captures and done.returncode:
        raise RunFailed(f"docker compose {arguments[0]}: {reason(done.stderr)}")
    return done


def reason(said: str) -> str:
    """Return the line in which Docker says why it failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()]
    return (telling or lines or ["it said nothing"])[-1]
