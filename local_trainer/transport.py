"""Episodes between processes: orders go out and played episodes come back, through Redis streams.

The trainer publishes the policy that is to act and one order for each episode; rollout workers
take orders, play them and deliver. An order stays in its stream until its episode has arrived,
and one whose worker falls silent is taken by another, so that a process killed at any moment
loses nothing; an episode that arrives twice is counted once. Arrays travel as packed bytes with a
small header, never pickled. This is the one home of the Redis client.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import lz4.block
import numpy as np

from local_trainer.episodes import Episode
from local_trainer.errors import LocalTrainerError
from local_trainer.rollout import Exploration, Interrupted
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE

logger = logging.getLogger(__name__)

WIRE_VERSION = 2
SILENT_S = 20.0
"""A worker that has not been heard of for this long loses its orders to another."""

HEARTBEAT_S = 5.0
KEPT_S = 24 * 3600
"""What nobody renews for this long goes from the server: its trainer was killed for good."""

_GROUP = "workers"
_GIVE_UP_S = 120.0
_LONGEST_WAIT_S = 5.0
_CHECK_S = 5.0
_CHECKS_AT_ZERO = 3
_POLL_MS = 500
_READ_AT_ONCE = 4
_ARRAYS: dict[str, np.dtype[Any]] = {
    # Those with the largest numbers first, so that each begins where its numbers may.
    "wall_clock": np.dtype("<f8"),
    "rewards": np.dtype("<f8"),
    "steps": STEP_DTYPE,
    "actions": np.dtype("<i4"),
    "probabilities": np.dtype("<f4"),
    "observations": np.dtype("u1"),
    "final_observation": np.dtype("u1"),
}
_PICTURES = ("observations", "final_observation")
_Result = TypeVar("_Result")


class TransportError(LocalTrainerError):
    """Raised when Redis does not answer, refuses, or holds what nobody could have written."""


class RedisRefused(TransportError):
    """Raised when Redis does not accept the password."""

    exit_status = 2


class RemoteFailure(LocalTrainerError):
    """Raised where episodes are awaited if a rollout worker could not play them."""


@dataclass(frozen=True)
class Order:
    """One episode to be played."""

    start: EpisodeStart
    phase: str
    """``training`` or ``evaluation``."""
    iteration: int
    policy: str
    """Name of the published policy that acts."""
    exploration: Exploration
    keeps_pictures: bool

    @property
    def key(self) -> str:
        """Return what tells the episode from every other of the run."""
        return f"{self.phase}/{self.iteration}/{self.start.episode}/{self.policy}"


@dataclass(frozen=True)
class TakenOrder:
    """An order with the entry it holds in the stream."""

    entry: str
    order: Order


class RedisTransport:
    """The streams of one run; trainer and workers each have one of their own."""

    def __init__(
        self, url: str, run: str, password: str | None = None, silent_s: float = SILENT_S
    ) -> None:
        """Prepare the client; nothing is asked yet.

        Args:
            url: ``redis://host:port/db`` without credentials.
            run: The run's name; several runs share a server without meeting.
            password: Of the server.
            silent_s: After how long a worker that is not heard of loses its orders.

        Raises:
            TransportError: If the URL is none.
        """
        import redis

        try:
            self._redis: Any = redis.Redis.from_url(
                url,
                password=password,
                socket_timeout=30.0,
                socket_connect_timeout=5.0,
                health_check_interval=15,
            )
        except ValueError as error:
            raise TransportError(
                f"A Redis URL is redis://host:port/db, got {url!r}: {error}"
            ) from None
        self._url = url
        self._silent_ms = int(1000 * silent_s)
        prefix = f"local-trainer:{run}"
        self._orders = f"{prefix}:orders"
        self._episodes = f"{prefix}:episodes"
        self._policy = f"{prefix}:policy"
        self._keys = (self._orders, self._episodes, self._policy)

    # The trainer's side.

    def publish_policy(self, name: str, graph: bytes) -> None:
        """Make a frozen policy what the orders of this name are played with; the last one goes."""

        def publish() -> None:
            pipe = self._redis.pipeline()
            pipe.hset(self._policy, mapping={"name": name, "graph": graph})
            self._renew(pipe)
            pipe.execute()

        self._retried("publish a policy", publish)

    def has_policy(self, name: str) -> bool:
        """Return whether a policy is the published one; a server that was killed may lose it."""
        held = self._retried("look for the policy", lambda: self._redis.hget(self._policy, "name"))
        return bool(held == name.encode())

    def num_taken(self) -> int:
        """Return how many orders workers have taken and not delivered yet."""
        found = self._retried("look who plays", lambda: self._redis.xpending(self._orders, _GROUP))
        return int(found["pending"])

    def play(
        self, orders: Sequence[Order], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Episode]:
        """Have episodes played and yield them as they arrive, each once.

        What a trainer killed before had ordered counts if it is the same and has arrived
        already; everything else is thrown away.

        Raises:
            Interrupted: If ``should_stop`` said so.
            RemoteFailure: If a worker could not play one; its one line.
            TransportError: If Redis cannot be reached.
        """
        awaited = {order.key: order for order in orders}
        self._drop_orders()
        is_sent = False
        checked = time.monotonic()
        read: list[bytes] = []
        at_zero: dict[bytes, int] = {}
        while awaited:
            entries = self._read_episodes(read, is_sent)
            read = [entry for entry, _ in entries]
            for _, fields in entries:
                key = _text(fields, b"key")
                if key in awaited and b"failure" not in fields:
                    del awaited[key]
                    yield decode_episode(fields)
                elif key in awaited and is_sent:  # what failed earlier may have been mended
                    self._drop_orders(read)
                    raise _failure(fields)
            is_due = time.monotonic() - checked > _CHECK_S
            if awaited and not entries and (is_due or not is_sent):
                present = self._send_missing(awaited)
                at_zero = self._free_from_the_future(present, at_zero)
                is_sent, checked = True, time.monotonic()
            if should_stop():
                self._drop_orders(read)
                raise Interrupted
        self._drop_orders(read)

    def clear(self) -> None:
        """Remove everything of the run from the server."""
        self._retried("clean up", lambda: self._redis.delete(*self._keys))

    def _send_missing(self, awaited: dict[str, Order]) -> list[bytes]:
        """Send every order that is not in the stream: all at first; later those Redis lost.

        Returns:
            The entries that were there.
        """
        found = self._retried("look", lambda: self._redis.xrange(self._orders))
        present = {_text(fields, b"key") for _, fields in found}
        missing = {key: order for key, order in awaited.items() if key not in present}

        def send() -> None:
            pipe = self._redis.pipeline()
            for key, order in missing.items():
                pipe.xadd(self._orders, {"key": key, "order": _order_text(order)})
            self._renew(pipe)
            pipe.execute()

        self._retried("send orders", send)
        return [entry for entry, _ in found]

    def _free_from_the_future(
        self, present: Sequence[bytes], at_zero: dict[bytes, int]
    ) -> dict[bytes, int]:
        """Hand on orders whose worker fell silent before the server's clock was set back.

        They were taken in what is now the future: Redis says they were taken 0 ms ago, for hours,
        and gives them to nobody. One that is being played is at exactly 0 now and then at most.

        Args:
            present: The entries of the stream, oldest first.
            at_zero: What this returned at the last check: how often in a row each was at 0.
        """
        if not present:
            return {}

        def look() -> Any:
            ends = (present[0], present[-1])
            return self._redis.xpending_range(self._orders, _GROUP, *ends, len(present))

        taken = self._retried("look who plays", look)
        now_at_zero = [one["message_id"] for one in taken if one["time_since_delivered"] == 0]
        at_zero = {entry: at_zero.get(entry, 0) + 1 for entry in now_at_zero}
        stuck = [entry for entry, times in at_zero.items() if times >= _CHECKS_AT_ZERO]
        self._release("trainer", stuck)
        return at_zero

    def _renew(self, pipe: Any) -> None:
        """Let what the run has on the server stay for another day."""
        for key in self._keys:
            pipe.expire(key, KEPT_S)

    def _read_episodes(
        self, read_before: Sequence[bytes], waits: bool
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Remove the entries that were read before, and return the oldest that are left.

        A few at a time: an episode with its pictures can have several MB.
        """

        def read() -> Any:
            pipe = self._redis.pipeline(transaction=False)
            if read_before:
                pipe.xdel(self._episodes, *read_before)
            wait_ms = _POLL_MS if waits else None
            pipe.xread({self._episodes: "0"}, count=_READ_AT_ONCE, block=wait_ms)
            return pipe.execute()[-1]

        answer = self._retried("read episodes", read)
        return answer[0][1] if answer else []

    def _drop_orders(self, read: Sequence[bytes] = ()) -> None:
        """Drop the orders that nobody has to play any more, and episodes that were read."""

        def drop() -> None:
            pipe = self._redis.pipeline(transaction=False)
            if read:
                pipe.xdel(self._episodes, *read)
            pipe.xtrim(self._orders, maxlen=0)
            pipe.execute()

        self._retried("drop orders", drop)

    # A worker's side.

    def take(self, worker: str, wait_s: float, most: int = 1) -> list[TakenOrder]:
        """Return orders to play: first what a silent worker left, then new ones.

        Args:
            worker: Name of the worker, its own in the run.
            wait_s: Longest to wait for new ones.
            most: How many at most.
        """

        def claim() -> Any:
            return self._redis.xautoclaim(
                self._orders, _GROUP, worker, self._silent_ms, count=most
            )[1]

        def read() -> Any:
            answer = self._redis.xreadgroup(
                _GROUP, worker, {self._orders: ">"}, count=most, block=int(wait_s * 1000)
            )
            return answer[0][1] if answer else []

        entries = self._retried("take orders", claim) or self._retried("take orders", read)
        return [
            TakenOrder(entry.decode(), _read_order(fields[b"order"]))
            for entry, fields in entries
            if fields
        ]

    def policy(self, name: str) -> bytes | None:
        """Return a published policy; None if another one has taken its place."""
        held, graph = self._retried(
            "fetch the policy", lambda: self._redis.hmget(self._policy, ["name", "graph"])
        )
        return bytes(graph) if held == name.encode() else None

    def keep(self, worker: str, taken: Sequence[TakenOrder]) -> None:
        """Say that a worker still plays; at least every `HEARTBEAT_S`."""
        entries = [one.entry for one in taken]
        if entries:
            self._retried(
                "say that it plays",
                lambda: self._redis.xclaim(
                    self._orders, _GROUP, worker, 0, entries, idle=0, justid=True
                ),
            )

    def deliver(
        self, taken: TakenOrder, episode: Episode, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Send a played episode; the order goes in the same step.

        While the server is full the worker waits: the trainer makes room as it reads.

        Raises:
            Interrupted: If ``should_stop`` said so while it waited.
        """
        self._add(taken, {"key": taken.order.key, **encode_episode(episode)}, should_stop)

    def fail(self, taken: TakenOrder, message: str, exit_status: int = 1) -> None:
        """Say in one line why an episode cannot be played; it ends the run with this status."""
        fields = {"key": taken.order.key, "failure": message, "exit_status": str(exit_status)}
        self._add(taken, fields, lambda: False)

    def give_back(self, worker: str, taken: Sequence[TakenOrder]) -> None:
        """Hand orders to whoever asks next."""
        self._release(worker, [one.entry.encode() for one in taken])

    def _release(self, holder: str, entries: Sequence[bytes]) -> None:
        if entries:
            self._retried(
                "give orders back",
                lambda: self._redis.xclaim(
                    self._orders, _GROUP, holder, 0, entries, idle=self._silent_ms, justid=True
                ),
            )

    def _add(self, taken: TakenOrder, fields: Any, should_stop: Callable[[], bool]) -> None:
        import redis.exceptions

        def send() -> bool:
            # One transaction: all of it or nothing. A script would copy the episode once more.
            pipe = self._redis.pipeline(transaction=True)
            pipe.xadd(self._episodes, fields)
            pipe.expire(self._episodes, KEPT_S)  # the trainer may be gone, and its stream with it
            pipe.xack(self._orders, _GROUP, taken.entry)
            pipe.xdel(self._orders, taken.entry)
            try:
                pipe.execute()
            except redis.exceptions.OutOfMemoryError:
                return False
            return True

        waited = False
        while not self._retried("deliver an episode", send):
            if not waited:
                logger.warning("waits: Redis is full, the trainer has not read yet")
                waited = True
            if should_stop():
                raise Interrupted
            time.sleep(0.2)  # between two attempts of the same request

    # Leases: which worker drives which simulator.

    def lease(self, what: str, holder: str, seconds: float) -> bool:
        """Take or renew the right to a thing shared by all runs; return whether it is ours."""
        key = f"local-trainer:lease:{what}"
        milliseconds = int(seconds * 1000)

        def ask() -> bool:
            if self._redis.set(key, holder, nx=True, px=milliseconds):
                return True
            return bool(self._redis.eval(_RENEW, 1, key, holder, milliseconds))

        return self._retried(f"lease {what}", ask)

    def release(self, what: str, holder: str) -> None:
        """Give a lease up if it is ours."""
        key = f"local-trainer:lease:{what}"
        self._retried(f"release {what}", lambda: self._redis.eval(_RELEASE, 1, key, holder))

    def wait_until_up(self, limit_s: float) -> None:
        """Wait for the server.

        Raises:
            TransportError: If it does not answer in time, or refuses the password.
        """
        self._retried("reach the server", self._redis.ping, limit_s)

    def _make_group(self) -> None:
        import redis.exceptions

        try:
            self._redis.xgroup_create(self._orders, _GROUP, id="0", mkstream=True)
            self._redis.expire(self._orders, KEPT_S)
        except redis.exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _retried(
        self, what: str, ask: Callable[[], _Result], limit_s: float = _GIVE_UP_S
    ) -> _Result:
        """Ask again while the server is away, for two minutes, and say so meanwhile."""
        import redis.exceptions

        away: tuple[type[Exception], ...] = (
            redis.exceptions.ConnectionError,
            redis.exceptions.TimeoutError,
            *_not_now(),
        )
        began = time.monotonic()
        wait_s = 0.1
        while True:
            try:
                return ask()
            except redis.exceptions.AuthenticationError as error:
                raise RedisRefused(f"Redis at {self._url} refuses the password: {error}") from None
            except redis.exceptions.RedisError as error:
                said = str(error)
                # The server came back empty, or the trainer has ended and cleaned up.
                if said.startswith(("NOGROUP", "UNBLOCKED")):
                    self._make_group()
                    continue
                # MISCONF: its disk is full, for now.
                if not isinstance(error, away) and not said.startswith("MISCONF"):
                    raise TransportError(
                        f"Cannot {what}: Redis at {self._url} says: {said}"
                    ) from None
                if time.monotonic() - began > limit_s:
                    raise TransportError(
                        f"Cannot {what}: Redis at {self._url} has not answered for "
                        f"{limit_s:.0f} s: {said}"
                    ) from None
                logger.warning("waits for Redis at %s: %s", self._url, said)
                time.sleep(wait_s)  # between two attempts of the same request
                wait_s = min(2.0 * wait_s, _LONGEST_WAIT_S)


def _not_now() -> tuple[type[Exception], ...]:
    """Return what a server says that will do what it is asked a little later."""
    import redis.exceptions

    return redis.exceptions.BusyLoadingError, redis.exceptions.OutOfMemoryError


# Scripts: each is done as a whole or not at all.

# After the server's clock was set back, a lease that nobody renews would hold for as long again.
_RENEW = """
local is_ours = redis.call('get', KEYS[1]) == ARGV[1]
if is_ours or redis.call('pttl', KEYS[1]) > tonumber(ARGV[2]) then
  redis.call('pexpire', KEYS[1], ARGV[2])
end
return is_ours and 1 or 0
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then
  return redis.call('del', KEYS[1])
end
return 0
"""


# The wire form.


def encode_episode(episode: Episode) -> dict[str, bytes]:
    """Return an episode as fields of a stream's entry: a header, and its arrays in one piece."""
    shapes = {}
    parts = []
    for name, dtype in _ARRAYS.items():
        array = getattr(episode, name)
        if array is not None:
            shapes[name] = array.shape
            parts.append(np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data)
    header = {
        "version": WIRE_VERSION,
        "start": asdict(episode.start),
        "phase": episode.phase,
        "iteration": episode.iteration,
        "arrays": shapes,
    }
    # Packing must cost less than it saves, also where Redis is next door; see `bench redis`.
    data = lz4.block.compress(b"".join(parts))
    return {"header": json.dumps(header).encode(), "data": data}


def decode_episode(fields: dict[bytes, bytes]) -> Episode:
    """Return the episode of a stream's entry.

    Raises:
        TransportError: If it is none, or of another version.
    """
    try:
        header = json.loads(fields[b"header"])
        if header["version"] != WIRE_VERSION:
            raise ValueError(f"version {header['version']}, understood is {WIRE_VERSION}")
        return Episode(
            start=_start(header["start"]),
            phase=str(header["phase"]),
            iteration=int(header["iteration"]),
            **_unpacked(fields[b"data"], header["arrays"]),
        )
    except (
        *(AttributeError, KeyError, OverflowError, TypeError, ValueError),
        lz4.block.LZ4BlockError,
    ) as error:
        raise TransportError(f"An entry of the stream is no episode: {error!r:.200}") from None


def _unpacked(data: bytes, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Return arrays by name; pictures are views of the whole, the others are copies."""
    sizes = {name: math.prod(shape) * _ARRAYS[name].itemsize for name, shape in shapes.items()}
    # What the sender says how long it is must be what its header adds up to.
    if data[:4] != sum(sizes.values()).to_bytes(4, "little"):
        raise ValueError("its arrays have other sizes than its header says")
    whole = lz4.block.decompress(data, return_bytearray=True)
    arrays = {}
    begin = 0
    for name, shape in shapes.items():
        end = begin + sizes[name]
        part = memoryview(whole)[begin:end] if name in _PICTURES else whole[begin:end]
        arrays[name] = np.frombuffer(part, _ARRAYS[name]).reshape(shape)
        begin = end
    return arrays


def _order_text(order: Order) -> str:
    return json.dumps({"version": WIRE_VERSION, **asdict(order)})


def _read_order(data: bytes) -> Order:
    try:
        values = json.loads(data)
        if values.pop("version") != WIRE_VERSION:
            raise ValueError("another version")
        values["start"] = _start(values["start"])
        values["exploration"] = Exploration(**values["exploration"])
        return Order(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise TransportError(f"An entry of the stream is no order: {error!r:.200}") from None


def _start(values: dict[str, Any]) -> EpisodeStart:
    return EpisodeStart(**{**values, "rules": EpisodeRules(**values["rules"])})


def _failure(fields: dict[bytes, bytes]) -> RemoteFailure:
    failure = RemoteFailure(_text(fields, b"failure"))
    status = _text(fields, b"exit_status")
    failure.exit_status = int(status) if status.isdecimal() else 1
    return failure


def _text(fields: dict[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")
