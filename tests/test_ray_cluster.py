"""Who answers at a cluster's address, in one line and in seconds; Ray is not imported for it."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from training import error_line, run_command, train_command

from local_trainer.config import resolve_config
from local_trainer.errors import ConfigError
from local_trainer.launch.ray_cluster import check_address
from local_trainer.launch.ray_workers import redis_server
from local_trainer.transport import RedisTransport, TransportError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("address", ["", "here", "ray://here:10001", "here:0", "here:65536", ":1"])
def test_what_is_no_address_is_told_in_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match="A Ray address is HOST:PORT or auto, got"):
        check_address(address)


def test_an_address_where_nobody_answers_is_told_at_once(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(ConfigError, match=f"No Ray answers at 127.0.0.1:{port}: "):
        check_address(f"127.0.0.1:{port}")


def test_a_server_that_says_nothing_is_given_up_after_seconds(listener: socket.socket) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match="No Ray answers"):
        check_address(f"127.0.0.1:{listener.getsockname()[1]}")
    assert time.monotonic() - began < 10.0


def test_a_server_of_another_kind_is_told(listener: socket.socket) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(64)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = Thread(target=answer)
    thread.start()
    with pytest.raises(ConfigError, match="is no Ray cluster"):
        check_address(f"127.0.0.1:{listener.getsockname()[1]}")
    thread.join()


@contextmanager
def answering_as_ray(listener: socket.socket) -> Iterator[None]:
    """Have a port greet one client as Ray's server does."""
    settings = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100])

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(24, socket.MSG_WAITALL) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            connection.sendall(settings)

    thread = Thread(target=answer)
    thread.start()
    yield
    thread.join()


def test_a_server_that_greets_as_ray_does_passes(listener: socket.socket) -> None:
    with answering_as_ray(listener):
        check_address(f"127.0.0.1:{listener.getsockname()[1]}")


def test_a_run_started_redis_takes_the_generated_password_only() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine (Debian: apt-get install redis-server)")
    with redis_server(None, "127.0.0.1") as place:
        RedisTransport(place.url, "run", place.password).wait_until_up(5.0)
        with pytest.raises(TransportError, match="refuses the password"):
            RedisTransport(place.url, "run", "guessed").wait_until_up(5.0)
    with pytest.raises(TransportError, match="Cannot reach the server"):
        RedisTransport(place.url, "run", place.password).wait_until_up(0.2)


def test_a_redis_on_loopback_is_refused_for_other_machines() -> None:
    with (
        pytest.raises(ConfigError, match="--redis must be an address that the cluster's nodes"),
        redis_server("redis://localhost:6379/0", "192.0.2.7"),
    ):
        pass


def test_a_redis_that_does_not_answer_is_told_before_there_is_a_run(
    tmp_path: Path, listener: socket.socket
) -> None:
    pytest.importorskip("ray", reason="make setup-ray")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        redis = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"
    with answering_as_ray(listener):
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        place = ("--ray", address, "--redis", redis)
        done = run_command(train_command(tmp_path, "one", *place), status=2)
    assert f"--redis must be a server that answers, got {redis}: " in error_line(done)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_goes_with_the_embedded_simulator_only() -> None:
    with pytest.raises(ConfigError, match="simulator.backend must be embedded with cluster.ray"):
        resolve_config(sets=["cluster.ray=auto", "simulator.backend=gazebo"])


def test_a_password_in_the_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="cluster.redis must be"):
        resolve_config(sets=["cluster.redis=redis://:secret@host:6379/0"])


def test_none_leaves_the_cluster() -> None:
    assert resolve_config(sets=["cluster.ray=none"]).cluster.ray is None
