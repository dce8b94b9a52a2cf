"""A real MinIO on loopback for the tests marked `services`."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import minio
import pytest

from local_trainer.net import free_port
from local_trainer.store import Credentials

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and who may write."""

    endpoint: str
    credentials: Credentials
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """Return what a command needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> minio.Minio:
        """Return a client of the tests' own."""
        return minio.Minio(
            self.endpoint.removeprefix("http://"),
            access_key=self.credentials.access_key,
            secret_key=self.credentials.secret_key,
            secure=False,
        )

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{secrets.token_hex(6)}"
        self.client().make_bucket(name)
        return name


def minio_binary() -> Path:
    """Return the server's binary; the test is skipped where there is none."""
    folders = [Path(os.environ["MINIO_DIR"])] if "MINIO_DIR" in os.environ else []
    for folder in (*folders, ROOT / ".cache" / "minio"):
        if (folder / "minio").is_file():
            return folder / "minio"
    found = shutil.which("minio")
    if found is None:
        pytest.skip("no MinIO server here; scripts/build_minio.sh builds one")
    return Path(found)


@contextmanager
def running_minio(folder: Path) -> Iterator[S3Server]:
    """Yield a server that keeps its data in a folder, ended afterwards."""
    binary = minio_binary()
    address = f"127.0.0.1:{free_port()}"
    credentials = Credentials(secrets.token_hex(8), secrets.token_hex(16))
    settings = {
        "MINIO_ROOT_USER": credentials.access_key,
        "MINIO_ROOT_PASSWORD": credentials.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "HOME": str(folder),
    }
    log = (folder / "minio.log").open("wb")
    process = subprocess.Popen(
        [binary, "server", "--quiet", "--address", address, str(folder / "data")],
        env={**os.environ, **settings},
        stdout=log,
        stderr=log,
    )
    try:
        _wait_until_ready(f"http://{address}/minio/health/ready", process)
        yield S3Server(f"http://{address}", credentials, process)
    finally:
        process.kill()
        process.wait()
        log.close()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60.0
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"MinIO is not ready: {url}")
