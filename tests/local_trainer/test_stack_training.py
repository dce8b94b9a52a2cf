"""What a machine that cannot run the stack is told, and what the stack is made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from local_trainer.checkpoints import Checkpoint
from local_trainer.config import resolve_config
from local_trainer.run_files import create_run

ROOT = Path(__file__).parents[2]
NEEDS_DOCKER = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command here")


def refused(tmp_path: Path, *more: str, **environment: str) -> str:
    """Return the one line that a training in the stack is refused with."""
    command = [sys.executable, "-m", "local_trainer", "train", "--simulator", "gazebo"]
    done = subprocess.run(
        [*command, "--runs-dir", str(tmp_path / "runs"), *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "runs").exists()
    (line,) = done.stderr.splitlines()
    return line


def test_without_docker_it_says_how_to_get_it(tmp_path: Path) -> None:
    line = refused(tmp_path, PATH=str(tmp_path))
    assert "needs Docker with Compose v2 (sudo scripts/prepare-docker)" in line


@NEEDS_DOCKER
@pytest.mark.docker
def test_an_engine_that_does_not_answer_is_told(tmp_path: Path) -> None:
    line = refused(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert "needs a Docker engine" in line and "none answers" in line


def test_a_picture_that_varies_is_refused_with_gazebo(tmp_path: Path) -> None:
    line = refused(tmp_path, "--set", "simulator.randomization.brightness=[0.8, 1.2]")
    assert "must leave the picture as it is with simulator.backend gazebo" in line


def test_an_evaluation_says_what_it_waits_for(tmp_path: Path) -> None:
    run = create_run(resolve_config(None, [], {"run": "one"}), tmp_path)
    checkpoint = Checkpoint(0, 0)
    for path in checkpoint.files(run.model_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # An engine that can start nothing.
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        '#!/bin/sh\ncase "$*" in *" up "*) echo "error: disk full" >&2; exit 1; esac\n'
    )
    docker.chmod(0o755)
    command = [sys.executable, "-m", "local_trainer", "evaluate", "one", "--simulator", "gazebo"]
    done = subprocess.run(
        [*command, "--runs-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{docker.parent}{os.pathsep}{os.environ['PATH']}"},
        timeout=60,
    )
    assert done.stdout.splitlines() == ["brings the stack up: Redis, MinIO and a simulator"]
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: docker compose up: error: disk full"]


@NEEDS_DOCKER
@pytest.mark.docker
@pytest.mark.parametrize("override", [[], ["compose/gpu.yml"]], ids=["cpu", "gpu"])
@pytest.mark.parametrize("profiles", [[], ["gazebo"], ["train"], ["gazebo", "train"]])
def test_every_combination_of_files_is_a_stack(override: list[str], profiles: list[str]) -> None:
    command = ["docker", "compose", "--env-file", "/dev/null"]
    for file in ["docker-compose.yml", *override]:
        command += ["--file", file]
    for profile in profiles:
        command += ["--profile", profile]
    passwords = {"REDIS_PASSWORD": "r", "MINIO_ROOT_USER": "u", "MINIO_ROOT_PASSWORD": "m"}
    done = subprocess.run(
        [*command, "config"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **passwords, "COMPOSE_FILE": "", "RUN": "one"},
        check=True,
    )
    services = yaml.safe_load(done.stdout)["services"]
    assert ("trainer" in services) == ("rollout" in services) == ("train" in profiles)
    for service in services.values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"]
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
    if "train" in profiles:
        assert services["trainer"]["command"][-1] == "s3://local-trainer/one"
        for service in ("trainer", "rollout"):
            devices = services[service].get("deploy", {}).get("resources", {}).get("reservations")
            assert bool(devices) == bool(override)
            # A password in an argument would show in the process list.
            assert not {"r", "u", "m"} & set(services[service]["command"])
