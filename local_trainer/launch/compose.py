"""The container stack: docker-compose.yml through the docker command line, and its secrets."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_trainer.errors import ConfigError, RunFailed

PROFILE = "gazebo"
_ALL_PROFILES = (PROFILE, "train")
GAZEBO_IMAGE = "local-trainer-gazebo"
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
    write_secrets(project_folder() / ".env")
    arguments = ["up", "--detach", "--wait", "--wait-timeout", "300"]
    if is_building:
        arguments.append("--build")
    if simulators > 0:
        arguments += ["--scale", f"gazebo={simulators}"]
    profiles = [PROFILE] if simulators > 0 else []
    _call(arguments, profiles)


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
    if shutil.which("docker") is None:
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
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RunFailed(f"docker compose {arguments[0]}: {said[-1]}")
    return done
