"""Parts shared by tests of this folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

GAZEBO_IMAGE = "local-trainer-gazebo"


@pytest.fixture(scope="session")
def gazebo_host() -> Iterator[str]:
    """Start a simulator container for the tests marked `gazebo`, and yield its address.

    GAZEBO_HOST names one that runs already.
    """
    if host := os.environ.get("GAZEBO_HOST"):
        yield host
        return
    if shutil.which("docker") is None or _docker("info").returncode:
        pytest.skip("no Docker engine answers: sudo scripts/prepare-docker")
    if _docker("image", "inspect", GAZEBO_IMAGE).returncode:
        pytest.skip(f"no image {GAZEBO_IMAGE}: docker compose build gazebo")
    safety = "--init --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
    started = _docker("run", "--detach", "--rm", *safety.split(), GAZEBO_IMAGE)
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        yield _docker("inspect", "--format", address, container).stdout.strip()
    finally:
        _docker("rm", "--force", container)


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60)
