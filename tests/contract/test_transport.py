"""The transport against a real Redis server: nothing is lost, nothing counts twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from redis_server import PASSWORD, RedisServer, start_redis

from local_trainer.episodes import Episode
from local_trainer.rollout import Exploration, Interrupted
from local_trainer.transport import (
    KEPT_S,
    Order,
    RedisTransport,
    RemoteFailure,
    TakenOrder,
    TransportError,
    decode_episode,
    encode_episode,
)
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def connect(server: RedisServer, request: pytest.FixtureRequest) -> Callable[..., RedisTransport]:
    """Open a transport of this test's run."""

    def open_transport(run: str = request.node.name, **settings: Any) -> RedisTransport:
        return RedisTransport(server.url, run, PASSWORD, **settings)

    return open_transport


def order(episode: int, **changes: Any) -> Order:
    start = EpisodeStart(episode, 0.25, True, 0.1, -0.2, EpisodeRules(max_steps=77))
    made = Order(start, "training", 3, "training-3", Exploration("e-greedy", 0.5), True)
    return replace(made, **changes)


def played(one: Order, steps: int = 5) -> Episode:
    random = np.random.default_rng(one.start.episode)
    records = np.zeros(steps, STEP_DTYPE)
    records["x"] = random.standard_normal(steps)
    records["progress"] = np.nextafter(50.0, random.random(steps))
    records["done"][-1] = True
    pictures = random.integers(0, 256, (steps + 1, 120, 160, 1), dtype=np.uint8)
    return Episode(
        start=one.start,
        phase=one.phase,
        iteration=one.iteration,
        steps=records,
        actions=random.integers(0, 10, steps).astype(np.int32),
        rewards=random.standard_normal(steps),
        wall_clock=random.random(steps),
        observations=pictures[:-1] if one.keeps_pictures else None,
        probabilities=random.random((steps, 10), np.float32) if one.keeps_pictures else None,
        final_observation=pictures[-1] if one.keeps_pictures else None,
    )


def are_equal(one: Episode, other: Episode) -> bool:
    for item in fields(Episode):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or a.tobytes() != b.tobytes() or a.shape != b.shape:
                return False
        elif a != b:
            return False
    return True


def work(transport: RedisTransport, worker: str, count: int) -> list[Order]:
    """Play orders as a worker does until so many are done."""
    done = []
    while len(done) < count:
        for taken in transport.take(worker, 0.2):
            transport.deliver(taken, played(taken.order))
            done.append(taken.order)
    return done


def raw_client(server: RedisServer) -> Any:
    return redis.Redis.from_url(server.url, password=PASSWORD)


@pytest.mark.parametrize("keeps_pictures", [True, False])
def test_an_episode_comes_back_bit_for_bit(keeps_pictures: bool) -> None:
    sent = played(order(1, keeps_pictures=keeps_pictures))
    wire = {name.encode(): data for name, data in encode_episode(sent).items()}
    assert are_equal(decode_episode(wire), sent)


def test_what_is_no_episode_is_refused() -> None:
    wire = {name.encode(): data for name, data in encode_episode(played(order(1))).items()}
    header = json.loads(wire[b"header"])
    damaged: list[dict[bytes, bytes]] = [{}, {**wire, b"data": b"x"}, {**wire, b"header": b"[]"}]
    damaged.append({**wire, b"data": wire[b"data"][:-4]})
    damaged.append({**wire, b"data": b"\xff\xff\xff\x7f" + wire[b"data"][4:]})
    for shape in ([4], [-5], [5, 2]):
        arrays = {**header["arrays"], "rewards": shape}
        damaged.append({**wire, b"header": json.dumps({**header, "arrays": arrays}).encode()})
    for fields_ in damaged:
        with pytest.raises(TransportError, match="is no episode"):
            decode_episode(fields_)


def test_orders_come_back_as_episodes(connect: Callable[..., RedisTransport]) -> None:
    orders = [order(number) for number in range(6)]
    with ThreadPoolExecutor() as threads:
        workers = [threads.submit(work, connect(), f"w{i}", 3) for i in range(2)]
        got = sorted(connect().play(orders), key=lambda episode: episode.index)
        taken = [one for worker in workers for one in worker.result()]
    assert sorted(taken, key=lambda one: one.start.episode) == orders
    assert len(got) == 6
    assert all(are_equal(episode, played(one)) for episode, one in zip(got, orders, strict=True))


def test_a_silent_workers_order_goes_to_another(connect: Callable[..., RedisTransport]) -> None:
    lazy, keen = connect(silent_s=2.0), connect(silent_s=2.0)
    with ThreadPoolExecutor() as threads:
        result = threads.submit(lambda: list(connect().play([order(0)])))
        taken = lazy.take("lazy", 5.0)
        assert len(taken) == 1
        for _ in range(5):  # it is heard of: nobody may take its order
            lazy.keep("lazy", taken)
            assert keen.take("keen", 0.5) == []
        assert len(work(keen, "keen", 1)) == 1
        lazy.deliver(taken[0], played(taken[0].order))  # back again: counts no second time
        assert len(result.result()) == 1
        second = threads.submit(lambda: list(connect().play([order(1)])))
        work(keen, "keen", 1)
        assert [episode.index for episode in second.result()] == [1]


def test_an_order_taken_before_the_clock_went_back_goes_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_trainer.transport._CHECK_S", 0.3)
    server = start_redis(tmp_path, "--enable-debug-command", "local")
    trainer, worker = (RedisTransport(server.url, "run", PASSWORD, 30.0) for _ in range(2))
    deadline = time.monotonic() + 10.0
    try:
        with ThreadPoolExecutor() as threads:
            orders = [order(0), order(1)]
            result = threads.submit(
                lambda: list(trainer.play(orders, lambda: time.monotonic() > deadline))
            )
            (lost,) = worker.take("killed", 5.0)
            (kept,) = worker.take("alive", 5.0)
            take_in_the_future(server, "local-trainer:run:orders", lost)
            found: list[TakenOrder] = []
            while not found and time.monotonic() < deadline:
                worker.keep("alive", [kept])
                found = worker.take("other", 0.1)
            assert [one.order for one in found] == [lost.order]
            for one in (*found, kept):
                worker.deliver(one, played(one.order))
            assert len(result.result()) == 2
    finally:
        server.kill()


def take_in_the_future(server: RedisServer, stream: str, taken: TakenOrder) -> None:
    """Make an order look as if its worker took it in three hours: the clock went back since.

    XCLAIM refuses such a time; a stream that is restored may hold it.
    """
    raw = raw_client(server)
    then = int(1000 * time.time()) - 1000
    later = then + 3 * 3600 * 1000
    raw.xclaim(stream, "workers", "killed", 0, [taken.entry], time=then, justid=True)
    stored = raw.dump(stream)
    assert stored.count(then.to_bytes(8, "little")) == 1
    changed = stored.replace(then.to_bytes(8, "little"), later.to_bytes(8, "little"))
    raw.execute_command("DEBUG", "SET-SKIP-CHECKSUM-VALIDATION", 1)
    raw.restore(stream, 0, changed, replace=True)
    (held,) = raw.xpending_range(stream, "workers", "-", "+", 9, "killed")
    assert held["time_since_delivered"] == 0


def test_orders_given_back_are_played_at_once(connect: Callable[..., RedisTransport]) -> None:
    one, other = connect(silent_s=60.0), connect(silent_s=60.0)
    with ThreadPoolExecutor() as threads:
        result = threads.submit(lambda: list(connect().play([order(0)])))
        taken = one.take("one", 5.0)
        one.give_back("one", taken)
        assert len(work(other, "other", 1)) == 1
        assert len(result.result()) == 1


def test_a_failure_ends_the_wait_and_an_old_one_does_not(
    connect: Callable[..., RedisTransport],
) -> None:
    with ThreadPoolExecutor() as threads:
        result = threads.submit(lambda: list(connect().play([order(0), order(1)])))
        worker = connect()
        taken = [*worker.take("w", 5.0), *worker.take("w", 5.0)]
        for one in taken:
            worker.fail(one, "reward_function.py:3: raised ZeroDivisionError")
        with pytest.raises(RemoteFailure, match=r"^reward_function\.py:3: raised Zero"):
            result.result()
        again = threads.submit(lambda: list(connect().play([order(0), order(1)])))
        work(worker, "w", 2)
        assert len(again.result()) == 2


def test_the_trainer_can_be_asked_to_stop(connect: Callable[..., RedisTransport]) -> None:
    began = time.monotonic()
    with pytest.raises(Interrupted):
        list(connect().play([order(0)], lambda: time.monotonic() - began > 0.3))
    assert connect().take("w", 0.1) == []  # nobody plays for a trainer that has gone


def test_only_the_published_policy_is_given(connect: Callable[..., RedisTransport]) -> None:
    graph = bytes(range(256)) * 1000
    connect().publish_policy("training-0", b"old")
    connect().publish_policy("training-1", graph)
    assert connect().policy("training-1") == graph
    assert connect().policy("training-0") is None


def test_two_runs_on_one_server_do_not_meet(connect: Callable[..., RedisTransport]) -> None:
    with ThreadPoolExecutor() as threads:
        results = [
            threads.submit(lambda run=run, i=i: list(connect(run).play([order(0, iteration=i)])))
            for i, run in enumerate(("first", "second"))
        ]
        work(connect("second"), "w", 1)
        work(connect("first"), "w", 1)
        assert [result.result()[0].iteration for result in results] == [0, 1]


def test_what_a_killed_trainer_left_goes_by_itself(
    server: RedisServer, connect: Callable[..., RedisTransport], request: pytest.FixtureRequest
) -> None:
    raw = raw_client(server)
    prefix = f"local-trainer:{request.node.name}"
    trainer = connect()
    trainer.publish_policy("training-3", b"graph")
    with ThreadPoolExecutor() as threads:
        arriving = trainer.play([order(0), order(1)])
        first = threads.submit(next, arriving)
        work(connect(), "w", 1)
        first.result()
        work(connect(), "w", 1)  # arrives for nobody
    for name in ("orders", "episodes", "policy"):
        assert KEPT_S - 60 < raw.ttl(f"{prefix}:{name}") <= KEPT_S, name
    # What publishes or orders keeps all of it.
    for name in ("orders", "episodes", "policy"):
        raw.expire(f"{prefix}:{name}", 100)
    trainer.publish_policy("training-4", b"graph")
    for name in ("orders", "episodes", "policy"):
        assert raw.ttl(f"{prefix}:{name}") > KEPT_S - 60, name
    trainer.clear()
    assert connect().take("w", 0.1) == []  # a worker that is still there makes the stream anew
    assert raw.ttl(f"{prefix}:orders") > 0


def test_a_lease_has_one_holder_and_ends(connect: Callable[..., RedisTransport]) -> None:
    one, other = connect(), connect("another run")
    assert one.lease("gazebo-1", "one", 30.0)
    assert one.lease("gazebo-1", "one", 30.0)
    assert not other.lease("gazebo-1", "other", 30.0)
    other.release("gazebo-1", "other")  # not its own: stays
    assert not other.lease("gazebo-1", "other", 30.0)
    assert one.lease("gazebo-1", "one", 0.4)
    time.sleep(0.5)
    assert other.lease("gazebo-1", "other", 30.0)
    other.release("gazebo-1", "other")
    assert one.lease("gazebo-1", "one", 0.1)


def test_a_lease_from_before_the_clock_was_set_back_ends_in_time(
    connect: Callable[..., RedisTransport],
) -> None:
    one, other = connect(), connect()
    # What a lease of 0.4 s looks like to a server whose clock went back by three hours.
    assert one.lease("gazebo-2", "one", 3 * 3600.0 + 0.4)
    assert not other.lease("gazebo-2", "other", 0.4)
    time.sleep(0.5)
    assert other.lease("gazebo-2", "other", 0.1)


def test_who_plays_can_be_asked(connect: Callable[..., RedisTransport]) -> None:
    trainer, worker = connect(), connect()
    assert trainer.num_taken() == 0
    with ThreadPoolExecutor() as threads:
        result = threads.submit(lambda: list(connect().play([order(0), order(1)])))
        taken = [*worker.take("w", 5.0), *worker.take("w", 5.0)]
        assert trainer.num_taken() == 2
        for number, one in enumerate(taken):
            worker.deliver(one, played(one.order))
            assert trainer.num_taken() == 1 - number
        assert len(result.result()) == 2


def test_a_server_killed_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    try:
        transport = RedisTransport(server.url, "run", PASSWORD)
        orders = [order(number) for number in range(4)]
        with ThreadPoolExecutor() as threads:
            result = threads.submit(lambda: list(transport.play(orders)))
            work(RedisTransport(server.url, "run", PASSWORD), "w", 2)
            server.kill()
            # It comes back without anything: what was on its way has to be asked for again.
            for path in tmp_path.iterdir():
                if path.is_dir():
                    for file in path.iterdir():
                        file.unlink()
            server.start()
            worker = RedisTransport(server.url, "run", PASSWORD)
            while not result.done():
                for taken in worker.take("w", 0.2):
                    worker.deliver(taken, played(taken.order))
            got = result.result()
        assert sorted(episode.index for episode in got) == [0, 1, 2, 3]
    finally:
        server.kill()


def test_a_full_server_makes_workers_wait(tmp_path: Path) -> None:
    limits = ("--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
    server = start_redis(tmp_path, *limits)
    try:
        trainer = RedisTransport(server.url, "run", PASSWORD)
        worker = RedisTransport(server.url, "run", PASSWORD)
        # Noise does not get smaller: 4 of these are more than the server holds.
        orders = [order(number) for number in range(4)]
        with ThreadPoolExecutor() as threads:
            arriving = trainer.play(orders)
            first = threads.submit(next, arriving)
            taken = [one for _ in orders for one in worker.take("w", 5.0)]
            sending = threads.submit(
                lambda: [worker.deliver(one, played(one.order, 150)) for one in taken]
            )
            assert first.result().index == 0
            time.sleep(0.5)
            assert not sending.done()
            assert sorted(episode.index for episode in arriving) == [1, 2, 3]
            sending.result()
    finally:
        server.kill()


def test_a_wrong_password_is_told_at_once(server: RedisServer) -> None:
    with pytest.raises(TransportError, match="refuses the password") as failure:
        RedisTransport(server.url, "run", "guess").wait_until_up(5.0)
    assert "guess" not in str(failure.value) and "\n" not in str(failure.value)


def test_a_server_that_is_not_there_is_told_in_time() -> None:
    with pytest.raises(TransportError, match="has not answered for 1 s"):
        RedisTransport("redis://127.0.0.1:1/0", "run").wait_until_up(1.0)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(TransportError, match="A Redis URL is"):
        RedisTransport("http://127.0.0.1", "run")
