"""Join a Ray cluster, or start Ray on this machine alone, quietly and in one line of errors.

Ray is imported here and in the modules beside, inside functions: it is an extra that not every
installation has. A process is connected to one cluster at a time.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import current_thread, main_thread
from types import TracebackType
from typing import Any

from local_trainer.errors import ConfigError, RunFailed, last_line, one_line
from local_trainer.launch.trials import Resources as Declared
from local_trainer.machine import num_cpus as num_usable_cpus
from local_trainer.net import free_port

_ANSWER_S = 5.0
_LONGEST_SOCKET_FOLDER = 30
"""Ray's sockets lie up to 70 characters below its folder; the system allows 107 in all."""

_LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own switch; off, all of its servers listen on loopback only."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning at each start
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_HEADER = 9
_HTTP2_SETTINGS = 4


@dataclass(frozen=True)
class Resources:
    """What a cluster has in all, used or not."""

    cpus: float
    gpus: float
    memory_bytes: int
    """For processes; Ray keeps some of the machine's back for its object store."""
    nodes: int


class RayCluster:
    """A connection to Ray; close it, or use it in a ``with`` statement."""

    def __init__(self, address: str, is_local: bool, folder: Path | None) -> None:
        """Take a connection that is up; use `connect`."""
        self.address = address
        """host:port that a node would join at."""
        self.is_local = is_local
        """Whether it was started here and ends with this."""
        self._folder = folder
        self._is_open = True

    def resources(self) -> Resources:
        """Return what the cluster has now."""
        ray = imported_ray()
        found = ray.cluster_resources()
        return Resources(
            cpus=float(found.get("CPU", 0.0)),
            gpus=float(found.get("GPU", 0.0)),
            memory_bytes=int(found.get("memory", 0)),
            nodes=sum(bool(node["Alive"]) for node in ray.nodes()),
        )

    def check_room(self, declared: Declared) -> None:
        """Refuse what no machine can ever give: Ray would wait for it without end.

        Raises:
            ConfigError: If no machine has as much as one trial declares.
        """
        where = "This machine" if self.is_local else f"The Ray cluster at {self.address}"
        nodes = [node["Resources"] for node in imported_ray().nodes() if node["Alive"]]
        wanted = (
            ("gpus", "GPU", declared.gpus, 1.0),
            ("cpus", "CPU", declared.cpus, 1.0),
            ("memory_gb", "memory", declared.memory_gb, 1e9),
        )
        for name, key, amount, unit in wanted:
            most = max((node.get(key, 0.0) for node in nodes), default=0.0) / unit
            if amount > most:
                machine = "" if self.is_local else " on any of its machines"
                raise ConfigError(
                    f"{where} has {most:.3g} {name}{machine}: resources.{name} must be at most "
                    f"that for one trial, got {amount:g}."
                )

    def own_host(self) -> str:
        """Return this machine's address as the cluster's nodes see it."""
        return str(imported_ray().util.get_node_ip_address())

    def close(self) -> None:
        """Leave the cluster, ending what this process started in it; a local Ray ends."""
        if not self._is_open:
            return
        self._is_open = False
        imported_ray().shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> RayCluster:
        """Return the connection."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()


def connect(address: str | None, num_cpus: float | None = None) -> RayCluster:
    """Join the cluster at an address, or start a Ray of this process's own.

    Nothing is printed, a local Ray has no dashboard, sends no usage statistics and listens on
    loopback only. Signal handlers that were set stay.

    Args:
        address: ``host:port``, ``auto`` for the one that runs on this machine, or None to start
            one here that ends with the connection.
        num_cpus: How many CPUs a local Ray is told to have; None for those this process may use.

    Raises:
        ConfigError: If Ray is not installed, nobody answers at the address, what answers is no
            Ray or another version, or this machine is no node of the cluster; one line.
        RunFailed: If a local Ray does not come up.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    if address is None:
        return _start(num_cpus)
    check_address(address)
    ray = imported_ray()
    if address != "auto":
        _check_node(address)
    with _kept_signal_handlers():
        try:
            ray.init(address=address, **_settings())
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(_refusal(address, error)) from None
    return RayCluster(str(ray.get_runtime_context().gcs_address), False, None)


def check_address(address: str) -> None:
    """Check in seconds, without importing Ray, that something like Ray answers at an address.

    Raises:
        ConfigError: If it is no address, or nobody answers there.
    """
    target = _target(address)
    if target is not None and not os.environ.get("RAY_USE_TLS"):
        _check_answer(address, *target)


def has_ray() -> bool:
    """Return whether Ray is installed; imports nothing."""
    from importlib.util import find_spec

    return find_spec("ray") is not None


def _start(num_cpus: float | None) -> RayCluster:
    ray = imported_ray()
    with _listening_on_loopback():
        for is_last in (False, True):
            folder = _short_folder()
            try:
                _init_local(ray, num_cpus, folder)
                break
            except Exception as error:  # Ray raises plain ones when it comes up too slowly
                ray.shutdown()
                shutil.rmtree(folder, ignore_errors=True)
                if is_last:
                    told = one_line(error, 400)
                    raise RunFailed(f"Ray does not start on this machine: {told}") from None
    return RayCluster(str(ray.get_runtime_context().gcs_address), True, folder)


def _init_local(ray: Any, num_cpus: float | None, folder: Path) -> None:
    with _kept_signal_handlers():
        ray.init(
            address="local",
            num_cpus=num_usable_cpus() if num_cpus is None else num_cpus,
            include_dashboard=False,
            # Named, so that the node does not give up while the process that picks one starts.
            _metrics_export_port=free_port(),
            _temp_dir=str(folder),
            **_settings(),
        )


def what_it_says(error: BaseException) -> str:
    """Return what an error from elsewhere says, without the places that Ray puts before it."""
    return last_line(str(error)) or type(error).__name__


@contextmanager
def _listening_on_loopback() -> Iterator[None]:
    """Have a Ray that is started in here listen on loopback only."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[_LOOPBACK_SWITCH] = "0"  # for the processes it starts
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = True
        del os.environ[_LOOPBACK_SWITCH]


def imported_ray() -> Any:
    """Return the module.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("A cluster needs Ray: run make setup-ray") from None
    return ray


def _settings() -> dict[str, Any]:
    return {"logging_level": "ERROR", "log_to_driver": False}


def _short_folder() -> Path:
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST_SOCKET_FOLDER:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="ray-", dir=parent))


def _target(address: str) -> tuple[str, int] | None:
    """Return host and port; None for ``auto``.

    Raises:
        ConfigError: If the address is neither.
    """
    if address == "auto":
        return None
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"A Ray address is HOST:PORT or auto, got {address!r}.")
    return host.strip("[]"), int(port)


def _check_answer(address: str, host: str, port: int) -> None:
    """Greet the server as its own clients do: Ray itself waits forty seconds for an answer."""
    try:
        with socket.create_connection((host, port), _ANSWER_S) as connection:
            connection.settimeout(_ANSWER_S)
            connection.sendall(_HTTP2_GREETING)
            header = connection.recv(_HTTP2_HEADER, socket.MSG_WAITALL)
    except OSError as error:
        raise ConfigError(
            f"No Ray answers at {address}: {error}. Start one: ray start --head --port=6379"
        ) from None
    if len(header) < _HTTP2_HEADER or header[3] != _HTTP2_SETTINGS:
        raise ConfigError(f"What answers at {address} is no Ray cluster.")


def _check_node(address: str) -> None:
    """Check that the cluster at an address is one that this process can join."""
    services: Any = import_module("ray._private.services")
    raylet: Any = import_module("ray._raylet")
    state: Any = import_module("ray._private.state").GlobalState()
    try:
        target = services.canonicalize_bootstrap_address_or_die(address)
        options = raylet.GcsClientOptions.create(
            target, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=True
        )
        raylet.GcsClient(address=target)
        state._initialize_global_state(options)
        hosts = {node["NodeManagerAddress"] for node in state.node_table() if node["Alive"]}
    except Exception as error:  # whatever a server that is none of ours makes the client say
        told = one_line(error, 400)
        raise ConfigError(f"What answers at {address} is no Ray cluster: {told}") from None
    here = {services.get_node_ip_address(target), "127.0.0.1"}
    if not hosts & here:
        raise ConfigError(
            f"This machine is no node of the Ray cluster at {address}; join first: "
            f"ray start --address={address}"
        )


def _refusal(address: str, error: Exception) -> str:
    if isinstance(error, ConnectionError) and address == "auto":
        return "No Ray runs on this machine. Start one: ray start --head --port=6379"
    return f"The Ray cluster at {address} cannot be joined: {one_line(error, 400)}"


@contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Give handlers that were set back what Ray takes; it may keep what nobody had set."""
    if current_thread() is not main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler) and handler is not signal.default_int_handler:
                signal.signal(number, handler)
