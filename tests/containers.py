"""Docker, Compose and the stack's bucket as tests use them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from local_trainer.launch.containers import BUCKET
from local_trainer.store import Credentials, S3Store, open_store

ROOT = Path(__file__).parents[1]


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compose(environment: Mapping[str, str], *arguments: str) -> str:
    """Run Compose with all services of a training; the environment names the project."""
    command = ["docker", "compose", "--profile", "gazebo", "--profile", "train", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def open_run_bucket(environment: Mapping[str, str], run: str = "") -> S3Store:
    """Return the objects of a run, or of all, in the MinIO of the stack the environment names."""
    lines = (ROOT / ".env").read_text().splitlines()
    secrets = dict(line.split("=", 1) for line in lines if "=" in line)
    credentials = Credentials(secrets["MINIO_ROOT_USER"], secrets["MINIO_ROOT_PASSWORD"])
    endpoint = f"http://127.0.0.1:{environment['MINIO_PORT']}"
    store = open_store(f"s3://{BUCKET}/{run}", endpoint, credentials, "us-east-1")
    assert isinstance(store, S3Store)
    return store
