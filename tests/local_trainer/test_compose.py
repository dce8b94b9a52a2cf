import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local_trainer.launch.compose import changing, write_secrets

ROOT = Path(__file__).parents[2]
LONG_RUNNING = {
    "redis": "unless-stopped",
    "minio": "unless-stopped",
    "gazebo": "unless-stopped",
    "trainer": "on-failure",  # one that is done stays so
    "rollout": "unless-stopped",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Compose makes of docker-compose.yml with fresh secrets."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command: sudo scripts/prepare-docker")
    env = tmp_path_factory.mktemp("stack") / "env"
    write_secrets(env)
    command = ["docker", "compose", "--project-directory", str(ROOT), "--env-file", str(env)]
    command += ["--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "is not a docker command" in done.stderr:
        pytest.skip("no Compose v2: sudo scripts/prepare-docker")
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


@pytest.mark.docker
@pytest.mark.parametrize("name", LONG_RUNNING)
def test_services_can_do_no_more_than_they_must(stack: dict[str, Any], name: str) -> None:
    service = stack["services"][name]
    assert service["read_only"] and service["init"]
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["mem_limit"]) > 0
    assert service["healthcheck"]["test"]
    assert service["restart"] == LONG_RUNNING[name]
    user, group = service["user"].split(":")
    assert int(user) > 0 and int(group) > 0
    assert not service.get("privileged")


@pytest.mark.docker
def test_only_loopback_is_served_and_no_socket_is_shared(stack: dict[str, Any]) -> None:
    ports = [port for service in stack["services"].values() for port in service.get("ports", [])]
    assert ports and all(port["host_ip"] == "127.0.0.1" for port in ports)
    mounts = [m for service in stack["services"].values() for m in service.get("volumes", [])]
    assert mounts and all(mount["type"] == "volume" for mount in mounts)
    assert stack["networks"]["simulation"]["internal"]


@pytest.mark.docker
def test_stack_without_secrets_is_refused(tmp_path: Path) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command: sudo scripts/prepare-docker")
    (tmp_path / "env").touch()
    command = ["docker", "compose", "--project-directory", str(ROOT)]
    command += ["--env-file", str(tmp_path / "env"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode != 0
    assert "local-trainer stack up" in done.stderr


def test_secrets_are_made_once_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("REDIS_PORT=7000")
    added = write_secrets(path)
    assert sorted(added) == ["MINIO_ROOT_PASSWORD", "MINIO_ROOT_USER", "REDIS_PASSWORD"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text.splitlines()[0] == "REDIS_PORT=7000"
    assert write_secrets(path) == []
    assert path.read_text() == text
    assert write_secrets(tmp_path / "other") and (tmp_path / "other").read_text() not in text


def test_secrets_others_could_read_are_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    write_secrets(path)
    path.chmod(0o644)
    write_secrets(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_stack_is_not_started_while_another_command_changes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local_trainer", "stack", "up"]
    # Without Docker it ends as soon as it may begin.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(tmp_path)}
    with changing():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Waiting for another command")
        assert process.poll() is None
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "needs Docker" in said
