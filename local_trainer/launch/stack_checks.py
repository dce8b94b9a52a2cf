"""What this machine lacks to run the container stack, each with what mends it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_trainer import machine
from local_trainer.errors import LocalTrainerError
from local_trainer.launch import compose
from local_trainer.launch.containers import IMAGE

OLDEST_COMPOSE = (2, 17)
"""The first with ``up --wait-timeout``."""

BUILD_DISK_GIB = 10.0
"""What building all images takes on the way; they are 3.5 GiB in the end."""
RUN_DISK_GIB = 1.0
MEMORY_GIB = 4.0
"""Seen: Gazebo, MinIO and Redis 0.3 GiB together, a rollout worker 0.9, a trainer up to 1.9."""

_PREPARE = "sudo scripts/prepare-docker"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class StackCheck:
    """One thing looked at."""

    name: str
    is_ok: bool
    found: str
    mend: str = ""


def examine_stack() -> Iterator[StackCheck]:
    """Yield what was looked at; what needs an engine only if one answers."""
    engine = _engine()
    yield engine
    yield _compose()
    if engine.is_ok:
        info = _info()
        missing = _missing_images()
        yield _images(missing)
        yield _disk(info, is_building=bool(missing))
        yield _memory(info)
        yield from _gpu(info)
    yield from _ports(engine.is_ok)


def _engine() -> StackCheck:
    if not compose.has_docker():
        return StackCheck("engine", False, "there is no docker command", _PREPARE)
    status, version, said = _ask("docker", "version", "--format", "{{.Server.Version}}")
    if status == 0:
        return StackCheck("engine", True, f"Docker {version}")
    if "permission denied" in said:
        mend = "sudo usermod -aG docker $USER, then log in again"
        return StackCheck("engine", False, "this user may not talk to Docker's engine", mend)
    return StackCheck(
        "engine", False, f"no Docker engine answers: {compose.reason(said)}", _PREPARE
    )


def _compose() -> StackCheck:
    oldest = ".".join(map(str, OLDEST_COMPOSE))
    if not compose.has_docker():
        return StackCheck("compose", False, f"no Compose; needed is {oldest} or newer", _PREPARE)
    status, version, _ = _ask("docker", "compose", "version", "--short")
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if status or not numbers:
        return StackCheck("compose", False, f"no Compose; needed is {oldest} or newer", _PREPARE)
    if (int(numbers[1]), int(numbers[2])) < OLDEST_COMPOSE:
        found = f"Compose {version} is too old; needed is {oldest} or newer"
        return StackCheck("compose", False, found, "install docker-compose-plugin or a newer one")
    return StackCheck("compose", True, f"Compose {version}")


def _missing_images() -> list[str]:
    names = (compose.GAZEBO_IMAGE, IMAGE)
    return [name for name in names if _ask("docker", "image", "inspect", name)[0]]


def _images(missing: list[str]) -> StackCheck:
    if missing:
        found = f"not built: {', '.join(missing)}"
        return StackCheck("images", False, found, "local-trainer stack build")
    return StackCheck("images", True, "Gazebo's and the trainer's are built")


def _disk(info: dict[str, object], is_building: bool) -> StackCheck:
    folder = Path(str(info.get("DockerRootDir") or "/var/lib/docker"))
    try:
        free = machine.free_disk_gib(folder)
    except OSError as error:
        return StackCheck("disk", True, f"{folder} cannot be looked at ({error.strerror})")
    needed = BUILD_DISK_GIB if is_building else RUN_DISK_GIB
    found = f"{free:.1f} GiB free for containers in {folder}"
    if free >= needed:
        return StackCheck("disk", True, found)
    what = "building the images" if is_building else "running the stack"
    return StackCheck("disk", False, f"{found}; {what} takes {needed:g}", "docker system prune")


def _memory(info: dict[str, object]) -> StackCheck:
    available = machine.available_memory_gib()
    total = float(str(info.get("MemTotal") or 0)) / 2**30
    # An engine in a virtual machine has less than this machine.
    amounts = [amount for amount in (available, total or None) if amount is not None]
    if not amounts:
        return StackCheck("memory", True, "cannot be told on this system")
    found = f"{min(amounts):.1f} GiB for containers"
    if min(amounts) >= MEMORY_GIB:
        return StackCheck("memory", True, found)
    mend = "close other programs, or give Docker's machine more memory"
    return StackCheck("memory", False, f"{found}; the stack takes {MEMORY_GIB:g}", mend)


def _gpu(info: dict[str, object]) -> Iterator[StackCheck]:
    if not machine.gpus():
        return
    runtimes = info.get("Runtimes")
    if isinstance(runtimes, dict) and "nvidia" in runtimes or info.get("DiscoveredDevices"):
        yield StackCheck("gpu", True, "containers can have this machine's GPU (compose/gpu.yml)")
        return
    mend = (
        "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure "
        "--runtime=docker && sudo systemctl restart docker"
    )
    found = "there is a GPU but no NVIDIA container toolkit; compose/gpu.yml cannot be used"
    yield StackCheck("gpu", False, found, mend)


def _ports(has_engine: bool) -> Iterator[StackCheck]:
    try:
        settings = compose.settings()
        ours = {found.ports for found in compose.containers()} if has_engine else set()
    except LocalTrainerError as error:
        yield StackCheck("ports", False, str(error))
        return
    for service, name, default in (
        ("Redis", "REDIS_PORT", "6379"),
        ("MinIO", "MINIO_PORT", "9000"),
    ):
        port = settings.get(name) or default
        if not port.isdecimal() or not 0 < int(port) < 2**16:
            yield StackCheck("ports", False, f"{name}={port} is no port", f"correct {name} in .env")
        elif f"127.0.0.1:{port}" in ours:
            yield StackCheck("ports", True, f"the stack's {service} listens on {port}")
        elif _is_taken(int(port)):
            found = f"port {port}, which the stack's {service} needs, is taken"
            yield StackCheck("ports", False, found, f"{name}=<a free port> in .env")
        else:
            yield StackCheck("ports", True, f"port {port} is free for {service}")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return False  # below 1024: the engine may
        except OSError:
            return True
    return False


def _info() -> dict[str, object]:
    status, text, _ = _ask("docker", "info", "--format", "{{json .}}")
    try:
        info = json.loads(text) if status == 0 else {}
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _ask(*command: str) -> tuple[int, str, str]:
    """Return a command's exit status, its output and what it said about errors."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout.strip(), done.stderr.strip()
