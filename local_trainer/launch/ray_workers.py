"""Trains one model with rollout workers on the nodes of a Ray cluster.

The trainer is the same process as with rollout workers in containers, on this machine; Ray places
the workers, each kept alive by an actor, and starts the actor of a lost node elsewhere.
Orders and episodes go through Redis (`local_trainer.transport`), so what a lost worker had is
played by another. A run's files reach the nodes as bytes; nothing has to be shared. The process
around all this is `local_trainer.workers.cluster`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

from local_trainer.config import RunConfig, config_text, load_config
from local_trainer.errors import ConfigError, RunFailed, last_line, one_line
from local_trainer.launch.notices import Notices
from local_trainer.launch.ray_cluster import (
    RayCluster,
    check_address,
    connect,
    has_ray,
    imported_ray,
)
from local_trainer.manifest import code_sha256
from local_trainer.net import free_port
from local_trainer.runs import Run
from local_trainer.stop_flag import StopFlag
from local_trainer.transport import RedisTransport, TransportError

CPUS_PER_WORKER = 1
_LOOK_S = 1.0
_ROOM_S = 10.0
_END_S = 15.0
_REDIS_UP_S = 10.0
_MOST_STARTS = 5
"""How often a worker process that ends by itself is started again on its node."""

_LOG_BYTES = 65_536
_REDIS_MEMORY_MB = 1024
_THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


def check_cluster(config: RunConfig) -> None:
    """Check, before a run is made, that its cluster has room for it and that a Redis answers.

    Raises:
        ConfigError: If not; one line that says what to do.
    """
    if not has_ray():
        raise ConfigError("cluster.ray needs Ray: run make setup-ray")
    assert config.cluster.ray is not None
    check_address(config.cluster.ray)
    url = config.cluster.redis
    if url is not None:
        _check_redis(url)
    elif shutil.which("redis-server") is None:
        raise ConfigError(
            "Trainer and rollout workers meet in Redis: put redis-server on the PATH (for example "
            "apt-get install redis-server), or name a server with --redis redis://HOST:PORT/0; "
            "found neither."
        )
    with connect(config.cluster.ray) as cluster:
        _check_size(cluster, config.workers)
        if url is not None:
            _check_reach(url, cluster.own_host())


def _check_redis(url: str) -> None:
    try:
        RedisTransport(url, "check", _password()).wait_until_up(0.0)
    except TransportError as error:
        raise ConfigError(f"--redis must be a server that answers, got {url}: {error}") from None


def _check_reach(url: str, host: str) -> None:
    """Refuse a server on this machine's loopback for nodes that know it by another address."""
    if _is_loopback(urlsplit(url).hostname or "") and not _is_loopback(host):
        raise ConfigError(f"--redis must be an address that the cluster's nodes reach, got {url}.")


def _password() -> str:
    return os.environ.get("REDIS_PASSWORD", "")


class ClusterTraining:
    """One start of a run's training with rollout workers on a cluster."""

    def __init__(self, run: Run) -> None:
        """Prepare; nothing is started yet.

        Args:
            run: A run whose configuration names a cluster.
        """
        self._run = run
        self._config = load_config(run.config_file)
        self._trainer: subprocess.Popen[bytes] | None = None
        self._is_asked_to_stop = StopFlag()

    def request_stop(self) -> None:
        """Ask the training to stop and save."""
        self._is_asked_to_stop.set()
        if self._trainer is not None:
            self._trainer.send_signal(signal.SIGTERM)

    def train(self) -> int:
        """Train to the end and return the trainer's exit status.

        Raises:
            ConfigError: If the cluster cannot be joined or is too small.
            RunFailed: If no worker can be started.
        """
        cluster_config = self._config.cluster
        with ExitStack() as stack:
            notices = Notices(self._run.notices_file)
            stack.callback(notices.close)
            cluster = stack.enter_context(connect(cluster_config.ray))
            _check_size(cluster, self._config.workers)
            redis = stack.enter_context(redis_server(cluster_config.redis, cluster.own_host()))
            workers = stack.enter_context(_Workers(self._run, self._config, redis, notices))
            if self._is_asked_to_stop.is_set():
                return 0
            self._trainer = stack.enter_context(_trainer(self._run, redis))
            if self._is_asked_to_stop.is_set():
                self._trainer.send_signal(signal.SIGTERM)
            while self._trainer.poll() is None:
                workers.look()
                with suppress(subprocess.TimeoutExpired):
                    self._trainer.wait(_LOOK_S)
            return self._trainer.returncode


@dataclass(frozen=True)
class RedisPlace:
    """Where trainer and workers meet."""

    url: str
    password: str

    def environment(self) -> dict[str, str]:
        """Return it as workers expect it."""
        return {"REDIS_URL": self.url, "REDIS_PASSWORD": self.password}


@contextmanager
def redis_server(url: str | None, host: str) -> Iterator[RedisPlace]:
    """Yield the user's Redis, or one that is started here for this run alone.

    Args:
        url: Of the user's; None starts one. Its password is REDIS_PASSWORD.
        host: This machine's address as the cluster's nodes see it.

    Raises:
        ConfigError: If the nodes cannot reach a server on this machine's loopback, or there is no
            redis-server.
        TransportError: If it does not answer.
    """
    if url is not None:
        _check_reach(url, host)
        yield RedisPlace(url, _password())
        return
    program = shutil.which("redis-server")
    if program is None:
        raise ConfigError("There is no redis-server on the PATH; name a server with --redis.")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, ExitStack() as stack:
        place = RedisPlace(f"redis://{host}:{free_port(host)}/0", secrets.token_urlsafe(24))
        process = stack.enter_context(_redis_process(program, place, host, Path(folder)))
        transport = RedisTransport(place.url, "start", place.password)
        transport.wait_until_up(_REDIS_UP_S)
        if process.poll() is not None:
            raise RunFailed(f"redis-server ended with status {process.returncode}.")
        yield place


@contextmanager
def _redis_process(
    program: str, place: RedisPlace, host: str, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    addresses = dict.fromkeys((host, "127.0.0.1"))
    settings = (
        f"bind {' '.join(addresses)}",
        f"port {urlsplit(place.url).port}",
        f"requirepass {place.password}",
        f"dir {folder}",
        f"maxmemory {_REDIS_MEMORY_MB}mb",
        "maxmemory-policy noeviction",
        'save ""',
        "appendonly no",
    )
    process = subprocess.Popen(
        [program, "-"],  # what it reads here nobody sees in the list of processes
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_end_with_parent,
    )
    assert process.stdin is not None
    process.stdin.write("\n".join(settings).encode())
    process.stdin.close()
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _trainer(run: Run, redis: RedisPlace) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "local_trainer.workers.trainer", "--run", str(run.path)]
    with (run.path / "logs" / "trainer.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--remote"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **redis.environment()},
            preexec_fn=_end_with_parent,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _check_size(cluster: RayCluster, num_workers: int) -> None:
    found = cluster.resources()
    if found.cpus < num_workers * CPUS_PER_WORKER:
        raise ConfigError(
            f"--workers must be at most {int(found.cpus // CPUS_PER_WORKER)} on this cluster "
            f"(one CPU each, nodes: {found.nodes}), got {num_workers}."
        )


class _Workers:
    """The rollout workers of a run on the cluster's nodes."""

    def __init__(self, run: Run, config: RunConfig, redis: RedisPlace, notices: Notices) -> None:
        self._run = run
        self._notices = notices
        place = _actor_class()
        self._actors: list[Any] = [
            place.remote(
                node_files(run, config), run.name, index, str(run.path), redis.environment()
            )
            for index in range(config.workers)
        ]
        self._asked: list[Any] = [actor.look.remote() for actor in self._actors]
        self._states: list[PlaceState | None] = [None] * config.workers
        self._began = time.monotonic()

    def look(self) -> None:
        """Ask every worker how it is and tell what is new.

        Raises:
            RunFailed: If none can play.
        """
        ray = imported_ray()

        for index, asked in enumerate(self._asked):
            if not ray.wait([asked], timeout=0)[0]:
                continue
            try:
                self._take(index, ray.get(asked))
            except ray.exceptions.RayActorError as error:
                self._lost(index, error)
            self._asked[index] = self._actors[index].look.remote()
        waiting = sum(state is None for state in self._states)
        if waiting and time.monotonic() - self._began > _ROOM_S:
            count = f"{waiting} of {len(self._states)}"
            self._notices.say(f"{count} rollout workers wait for room on the cluster")
        failed = [state.failure for state in self._states if state is not None and state.failure]
        if len(failed) == len(self._states):
            raise RunFailed(f"No rollout worker can play: {failed[0]}")

    def _take(self, index: int, state: PlaceState) -> None:
        before, self._states[index] = self._states[index], state
        if before is None or before.node != state.node:
            nodes = [state.node for state in self._states if state is not None]
            if len(nodes) == len(self._states):
                self._notices.say(f"all {len(nodes)} rollout workers play, on {_counted(nodes)}")
            if state.code_sha256 != code_sha256():
                self._notices.say(
                    f"{state.node} has another version of this program: its episodes may differ"
                )
        if state.failure and (before is None or before.failure != state.failure):
            self._notices.say(f"rollout worker {index} on {state.node}: {state.failure}")

    def _lost(self, index: int, error: Exception) -> None:
        state, self._states[index] = self._states[index], None
        if state is None:
            reason = one_line(error)
            if "ModuleNotFoundError" in reason or "ImportError" in reason:
                raise RunFailed(f"A node cannot load this program: {reason[-300:]}") from None
            return
        self._notices.say(
            f"lost rollout worker {index} on {state.node}: others play its episodes, and it "
            "starts again where there is room"
        )

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them, and keep what they printed in the run's logs."""
        ray = imported_ray()

        ends = [
            actor.stop.remote()
            for actor, state in zip(self._actors, self._states, strict=True)
            if state is not None
        ]
        done = ray.wait(ends, num_returns=len(ends), timeout=_END_S)[0] if ends else []
        for end in done:
            with suppress(ray.exceptions.RayError):
                for name, data in ray.get(end).items():
                    (self._run.path / "logs" / name).write_bytes(data)
        for actor in self._actors:
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)


def _counted(nodes: Sequence[str]) -> str:
    return ", ".join(f"{node} ({count})" for node, count in sorted(Counter(nodes).items()))


def _actor_class() -> Any:
    ray = imported_ray()

    return ray.remote(
        num_cpus=CPUS_PER_WORKER,
        max_restarts=-1,
        max_concurrency=2,
        scheduling_strategy="SPREAD",
    )(RolloutPlace)


def node_files(run: Run, config: RunConfig) -> dict[str, bytes]:
    """Return what a rollout worker needs of a run, by its place in the folder."""
    # A worker computes with its share of the threads: one CPU each.
    ours = config.model_copy(update={"threads": CPUS_PER_WORKER * config.workers})
    paths = [run.reward_file, run.metadata_file, run.route_file, run.status_file]
    paths += sorted(run.tracks_file.parent.glob("*"))
    if run.environment_file.exists():
        paths.append(run.environment_file)
    files = {str(path.relative_to(run.path)): path.read_bytes() for path in paths}
    return {**files, run.config_file.name: config_text(ours).encode()}


# On a node.


@dataclass(frozen=True)
class PlaceState:
    """How a rollout worker is."""

    node: str
    """Address of its node."""
    code_sha256: str
    failure: str
    """One line if it cannot play."""


class RolloutPlace:
    """Keeps one rollout worker process alive on a node; an actor of Ray."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        run_name: str,
        index: int,
        shown_as: str,
        environment: Mapping[str, str],
    ) -> None:
        """Write the run's files to a folder of the node's own and start the worker.

        Args:
            files: See `node_files`.
            run_name: Names the run's streams in Redis.
            index: Number of the worker.
            shown_as: The run's folder, for messages.
            environment: Where Redis is.
        """
        self._parent = Path(tempfile.mkdtemp(prefix="rollout-"))
        self._folder = self._parent / run_name
        for name, data in files.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._log = self._folder / "logs" / f"rollout-{index}.log"
        self._log.parent.mkdir(exist_ok=True)
        self._command = [sys.executable, "-m", "local_trainer.workers.rollout"]
        self._command += ["--run", str(self._folder), "--index", str(index)]
        self._command += ["--shown-as", shown_as]
        threads = dict.fromkeys(_THREAD_VARIABLES, str(CPUS_PER_WORKER))
        self._environment = {**os.environ, **threads, **environment}
        self._failure = ""
        self._stop = Event()
        self._process: subprocess.Popen[bytes] | None = None
        Thread(target=self._leave_with_node, args=(os.getppid(),), daemon=True).start()
        # One thread starts and waits: a child that must end with its parent ends with its thread.
        self._thread = Thread(target=self._keep_playing, daemon=True)
        self._thread.start()

    def look(self) -> PlaceState:
        """Return how the worker is, a moment after the last look."""
        ray = imported_ray()

        self._stop.wait(_LOOK_S)
        return PlaceState(str(ray.util.get_node_ip_address()), code_sha256(), self._failure)

    def stop(self) -> dict[str, bytes]:
        """End the worker, remove its files and return the ends of its logs by their names."""
        self._stop.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(_END_S)
        logs = {
            path.name: path.read_bytes()[-_LOG_BYTES:] for path in self._log.parent.glob("*.log")
        }
        shutil.rmtree(self._parent, ignore_errors=True)
        return logs

    def _leave_with_node(self, node_process: int) -> None:
        """End everything once the node is gone: Ray lets its processes live on for a while."""
        while os.getppid() == node_process:
            time.sleep(_LOOK_S)  # between two looks
        shutil.rmtree(self._parent, ignore_errors=True)
        os._exit(1)  # the worker gets its signal, hands back its orders and ends

    def _keep_playing(self) -> None:
        for _ in range(_MOST_STARTS):
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    preexec_fn=_end_with_parent,
                )
            status = self._process.wait()
            if self._stop.is_set():
                return
            last = last_line(self._log.read_text(errors="replace"))
            if status == ConfigError.exit_status:
                break
            self._stop.wait(1.0)
        self._failure = f"ended with status {status}: {last[:300]}"


def _end_with_parent() -> None:
    """Have the kernel end this child with the thread that started it, however that ends."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
