"""What deleting has to know beside a run's folder: runs in a bucket, and the stack's volumes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass

from local_trainer.config import load_config
from local_trainer.errors import ConfigError, LocalTrainerError, NotFound, RunFailed
from local_trainer.launch import compose
from local_trainer.launch.containers import BUCKET, RunContainers, open_bucket
from local_trainer.progress import parse_event
from local_trainer.runs import Run
from local_trainer.store import ObjectStore, StoredObject, open_store, split_s3_url

QUIET_S = 600.0
"""A run in a bucket that says it is running counts as killed after so long without an event."""

_PROFILES = ("gazebo", "train")


@dataclass(frozen=True)
class StoredRun:
    """A run in a bucket."""

    store: ObjectStore
    objects: tuple[StoredObject, ...]
    created: str
    """As its status says; UTC, ISO 8601."""
    is_running: bool

    @property
    def location(self) -> str:
        """Return its URL."""
        return self.store.location

    @property
    def size_bytes(self) -> int:
        """Return what it takes up."""
        return sum(item.size_bytes for item in self.objects)

    def delete(self) -> None:
        """Remove the run's objects; the state last, so that an interrupted removal can go on."""
        for item in sorted(self.objects, key=lambda item: (item.key == "status.json", item.key)):
            self.store.delete(item.key)


@dataclass(frozen=True)
class Volume:
    """A volume of the container stack."""

    name: str
    size: str
    """As Docker shows it: ``635.3MB``."""


def find_stored_run(url: str) -> StoredRun:
    """Return the run at ``s3://bucket/run``.

    The stack's own bucket is asked with the stack's passwords, unless the environment names a
    server; any other with those of the environment.

    Raises:
        ConfigError: If the URL is not one of a run, or the credentials are missing.
        NotFound: If no run lies there.
        StoreError: If the store does not answer.
    """
    bucket, prefix = split_s3_url(url)
    if not prefix:
        raise ConfigError(f"A run in a bucket is s3://bucket/run, got {url!r:.80}.")
    names_server = any(os.environ.get(f"AWS_ENDPOINT_URL{end}") for end in ("", "_S3"))
    if bucket == BUCKET and not names_server:
        store = _stack_store(prefix)
        if store is None:
            raise RunFailed(f"The stack with {url} is down; local-trainer stack up starts it.")
    else:
        store = open_store(url)
    return _read(store)


def find_stack_copy(run: Run) -> StoredRun | None:
    """Return what the stack's bucket holds of a run, None if it holds nothing of it.

    Raises:
        RunFailed: If the stack is down, so that nobody knows.
        StoreError: If the store does not answer.
    """
    if not is_stack_run(run):
        return None
    store = _stack_store(run.name)
    if store is None:
        raise RunFailed("The stack is down.")
    try:
        copy = _read(store)
    except NotFound:
        return None
    # Another run of this name, whose folder lies elsewhere, is none of this one's business.
    return copy if copy.created == run.read_status().created else None


def is_stack_run(run: Run) -> bool:
    """Return whether a run trains in the container stack."""
    try:
        return load_config(run.config_file).simulator.backend == "gazebo"
    except (LocalTrainerError, OSError):  # a damaged run can be deleted, too
        return False


def containers_of(run: Run) -> list[str]:
    """Return the names of the containers that train a run right now."""
    if not compose.has_docker():
        return []
    found = RunContainers(run.name, run.path).found()
    return [container.name for container in found if container.is_running]


def containers_of_runs() -> list[str]:
    """Return the names of all containers of runs that are at work in the stack right now."""
    return [one.name for one in _containers_of_runs() if one.state == "running"]


def remove_ended_containers() -> None:
    """Remove containers of runs of the stack that ended without being tidied away."""
    ended = [one.name for one in _containers_of_runs() if one.state == "exited"]
    if ended:
        _docker("rm", "--volumes", *ended)


def _containers_of_runs() -> list[compose.Container]:
    return [one for one in compose.containers() if one.service in ("trainer", "rollout")]


def stack_volumes() -> list[Volume]:
    """Return the volumes that exist of the stack, exactly those that `compose.down` removes.

    Raises:
        ConfigError: If there is no Docker.
        RunFailed: If it does not answer.
    """
    names = {str(volume["name"]) for volume in _stack_settings()["volumes"].values()}
    listed = _docker("system", "df", "--verbose", "--format", "{{json .Volumes}}")
    volumes = [Volume(entry["Name"], entry["Size"]) for entry in json.loads(listed or "[]")]
    return sorted((v for v in volumes if v.name in names), key=lambda volume: volume.name)


def _read(store: ObjectStore) -> StoredRun:
    objects = store.objects()
    keys = {item.key for item in objects}
    if not {"status.json", "config.yaml"} <= keys:
        raise NotFound(f"No run lies at {store.location}.")
    # A run below this one is another run.
    others = tuple(key.removesuffix("status.json") for key in keys if key.endswith("/status.json"))
    own = tuple(item for item in objects if not item.key.startswith(others))
    try:
        status = json.loads(store.get("status.json"))
        created, says_running = str(status.get("created", "")), status.get("status") == "running"
    except (ValueError, AttributeError):
        created, says_running = "", False
    return StoredRun(store, own, created, says_running and _quiet_s(store, keys) < QUIET_S)


def _quiet_s(store: ObjectStore, keys: set[str]) -> float:
    """Return how long ago a run reported something."""
    if "progress.jsonl" not in keys:
        return 0.0
    lines = store.get("progress.jsonl").splitlines()
    for line in reversed(lines):
        try:
            return time.time() - parse_event(line.decode("utf-8")).time
        except ValueError:
            continue
    return 0.0


def _stack_store(prefix: str) -> ObjectStore | None:
    """Return a prefix of the stack's bucket, None if nobody answers there."""
    port = int(compose.settings().get("MINIO_PORT") or 9000)
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return None
    return open_bucket(prefix)


def _stack_settings() -> dict[str, dict[str, dict[str, str]]]:
    """Return the stack's resolved settings, its volumes among them."""
    folder = compose.project_folder()
    compose.settings()  # makes the passwords, without which the others do not resolve
    profiles = [part for name in _PROFILES for part in ("--profile", name)]
    arguments = ["compose", "--project-directory", str(folder), *profiles]
    settings: dict[str, dict[str, dict[str, str]]] = json.loads(
        _docker(*arguments, "config", "--format", "json")
    )
    return settings


def _docker(*arguments: str) -> str:
    if not compose.has_docker():
        raise ConfigError(
            "The container stack needs Docker with Compose v2: sudo scripts/prepare-docker"
        )
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(f"docker {arguments[0]}: {compose.reason(done.stderr)}")
    return done.stdout
