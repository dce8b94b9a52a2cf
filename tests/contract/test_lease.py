"""A simulator is driven by one worker at a time, against a real Redis server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import PASSWORD, RedisServer, start_redis

from local_trainer.lease import SimulatorLease, addresses
from local_trainer.rollout import Interrupted
from local_trainer.transport import RedisTransport


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> list[str]:
    return [f"{request.node.name}-{number}" for number in range(2)]


def lease(server: RedisServer, holder: str, hosts: list[str], seconds: float) -> SimulatorLease:
    transport = RedisTransport(server.url, "run", PASSWORD)
    return SimulatorLease(transport, holder, lambda: hosts, seconds)


def test_each_worker_gets_a_simulator_of_its_own(server: RedisServer, hosts: list[str]) -> None:
    one, other, late = (lease(server, name, hosts, 30.0) for name in ("a", "b", "c"))
    assert {one.claim(), other.claim()} == set(hosts)
    with pytest.raises(Interrupted):
        late.claim(lambda: True)
    one.give_up()
    assert not one.is_held and late.claim() not in ("", None)


def test_who_does_not_renew_in_time_has_lost_it(server: RedisServer, hosts: list[str]) -> None:
    paused, quick = (lease(server, name, hosts[:1], 2.0) for name in ("a", "b"))
    paused.claim()
    assert paused.renew() and paused.is_held
    time.sleep(2.1)  # the lease runs out
    assert not paused.is_held
    assert quick.claim() == hosts[0]
    assert not paused.renew()
    assert quick.renew()  # what the other lost is not taken away from this one


def test_a_lease_that_ran_out_is_lost_even_if_nobody_took_it(
    server: RedisServer, hosts: list[str]
) -> None:
    paused = lease(server, "a", hosts[:1], 0.2)
    paused.claim()
    time.sleep(0.3)
    assert not paused.renew()  # somebody may have come and gone
    assert lease(server, "b", hosts[:1], 5.0).claim() == hosts[0]


def test_a_dead_simulator_is_left_alone_and_another_claimed(
    server: RedisServer, hosts: list[str]
) -> None:
    worker = lease(server, "a", hosts, 30.0)
    dead = worker.claim()
    worker.give_up(is_dead=True)
    assert worker.claim() != dead


def test_names_stand_for_all_their_addresses(tmp_path: Path) -> None:
    assert addresses("localhost, 127.0.0.2") == ["127.0.0.1", "127.0.0.2"]
    assert addresses("") == [] and addresses("no.such.host.invalid") == []
