"""What ``doctor --stack`` says on machines that cannot run the stack: each really is that way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKER = shutil.which("docker")
NEEDS_DOCKER = pytest.mark.skipif(DOCKER is None, reason="no docker command here")
PREPARE = "sudo scripts/prepare-docker"


def failures(tmp_path: Path, **environment: str) -> dict[str, tuple[str, str]]:
    """Return what ``doctor --stack`` finds wrong, by name: what, and what mends it."""
    done = subprocess.run(
        [sys.executable, "-m", "local_trainer", "doctor", "--stack", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )
    checks = json.loads(done.stdout)["checks"]
    failed = {c["name"]: (c["found"], c["mend"]) for c in checks if c["state"] == "failed"}
    assert done.returncode == (1 if failed else 0)
    assert not any("\n" in text for pair in failed.values() for text in pair)
    return failed


def command(folder: Path, name: str, script: str) -> str:
    """Put a command first on the path and return the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_no_docker_command(tmp_path: Path) -> None:
    failed = failures(tmp_path, PATH=str(tmp_path))
    assert failed["engine"] == ("there is no docker command", PREPARE)
    assert failed["compose"][1] == PREPARE


@NEEDS_DOCKER
@pytest.mark.docker
def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    found, mend = failures(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")["engine"]
    assert found.startswith("no Docker engine answers") and mend == PREPARE


def test_a_compose_that_is_too_old(tmp_path: Path) -> None:
    rest = f'exec {DOCKER} "$@"' if DOCKER else "exit 1"
    script = f'[ "$1 $2" = "compose version" ] && echo 2.12.2 && exit\n{rest}'
    found, mend = failures(tmp_path, PATH=command(tmp_path / "bin", "docker", script))["compose"]
    assert found == "Compose 2.12.2 is too old; needed is 2.17 or newer"
    assert "docker-compose-plugin" in mend


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found, mend = failures(tmp_path, MINIO_PORT=str(port))["ports"]
    assert found == f"port {port}, which the stack's MinIO needs, is taken"
    assert mend == "MINIO_PORT=<a free port> in .env"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk of 1 MB cannot be mounted here (not root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@NEEDS_DOCKER
@pytest.mark.docker
def test_a_disk_too_small_for_containers(tmp_path: Path, small_disk: Path) -> None:
    # The engine's folder cannot be moved for a test: its answer is changed to name a full disk.
    info = f"""{DOCKER} "$@" | sed 's|"DockerRootDir":"[^"]*"|"DockerRootDir":"{small_disk}"|'"""
    script = f'[ "$1" = info ] && {{ {info}; exit; }}\nexec {DOCKER} "$@"'
    found, mend = failures(tmp_path, PATH=command(tmp_path / "bin", "docker", script))["disk"]
    assert found.startswith("0.0 GiB free for containers in") and str(small_disk) in found
    assert mend == "docker system prune"


@NEEDS_DOCKER
@pytest.mark.docker
def test_a_gpu_without_its_toolkit(tmp_path: Path) -> None:
    runtimes = subprocess.run(
        ["docker", "info", "--format", "{{json .Runtimes}}"], capture_output=True, text=True
    ).stdout
    if '"nvidia"' in runtimes:
        pytest.skip("this engine has the NVIDIA toolkit")
    path = command(tmp_path / "bin", "nvidia-smi", "echo 'NVIDIA T4, 15360'")
    found, mend = failures(tmp_path, PATH=path)["gpu"]
    assert "no NVIDIA container toolkit" in found and "nvidia-container-toolkit" in mend


@NEEDS_DOCKER
@pytest.mark.docker
def test_memory_is_what_a_container_may_take(tmp_path: Path) -> None:
    image = "local-trainer-trainer"
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
        pytest.skip("no images: sudo scripts/prepare-docker; local-trainer stack build")
    # The code of this folder, whatever the image was built with.
    code = ["--volume", f"{ROOT}/local_trainer:/opt/local-trainer/local_trainer:ro"]
    done = subprocess.run(
        ["docker", "run", "--rm", "--memory", "512m", *code, image, "local_trainer"]
        + ["doctor", "--runs-dir", "/tmp/runs"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("✗"))
    assert "memory" in line and "0.5 GiB available; training takes 2.5 GiB" in line
