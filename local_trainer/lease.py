"""The right of one rollout worker to drive one simulator, held in Redis and renewed."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable
from threading import Lock

from local_trainer.rollout import Interrupted
from local_trainer.transport import RedisTransport

logger = logging.getLogger(__name__)

LEASE_S = 20.0
_AVOID_S = 30.0
_SAY_S = 3.0
_SAY_AGAIN_S = 30.0


class SimulatorLease:
    """At most one simulator at a time, and nobody else drives it meanwhile.

    A worker that could not renew in time has lost its simulator, even if nobody took it: what it
    played since is not to be counted.
    """

    def __init__(
        self,
        transport: RedisTransport,
        holder: str,
        hosts: Callable[[], Iterable[str]],
        seconds: float = LEASE_S,
    ) -> None:
        """Hold nothing yet.

        Args:
            transport: Where leases are kept.
            holder: Name of the worker, its own among all runs.
            hosts: Returns the addresses of all simulators there are.
            seconds: How long a lease holds without being renewed.
        """
        self._transport = transport
        self._holder = holder
        self._hosts = hosts
        self._seconds = seconds
        self._lock = Lock()
        self._host: str | None = None
        self._renewed = 0.0
        self._avoided: dict[str, float] = {}

    def claim(self, should_stop: Callable[[], bool] = lambda: False) -> str:
        """Wait for a free simulator and return its address.

        Raises:
            Interrupted: If ``should_stop`` said so.
        """
        say_at = time.monotonic() + _SAY_S
        while True:
            hosts = sorted(self._hosts())
            for host in hosts:
                if time.monotonic() >= self._avoided.get(host, 0.0) and self._take(host):
                    return host
            if should_stop():
                raise Interrupted
            if time.monotonic() > say_at:
                say_at = time.monotonic() + _SAY_AGAIN_S
                logger.warning(
                    "waits for a free simulator; there are: %s", ", ".join(hosts) or "none"
                )
            time.sleep(0.5)  # between two looks

    def renew(self) -> bool:
        """Renew the lease and return whether it was held all the time since it was claimed."""
        with self._lock:
            if self._host is None:
                return False
            asked = time.monotonic()
            is_ours = self._transport.lease(_key(self._host), self._holder, self._seconds)
            if not is_ours or time.monotonic() - self._renewed > self._seconds:
                logger.warning(
                    "lost the simulator %s: the lease was not renewed in time", self._host
                )
                if is_ours:
                    self._transport.release(_key(self._host), self._holder)
                self._host = None
                return False
            self._renewed = asked
            return True

    @property
    def is_held(self) -> bool:
        """Return whether the lease is held, as far as known without asking."""
        return self._host is not None and time.monotonic() - self._renewed <= self._seconds

    def give_up(self, is_dead: bool = False) -> None:
        """Let go of the simulator; one that is dead is left alone for a while."""
        with self._lock:
            host, self._host = self._host, None
            if host is not None:
                if is_dead:
                    self._avoided[host] = time.monotonic() + _AVOID_S
                self._transport.release(_key(host), self._holder)

    def _take(self, host: str) -> bool:
        with self._lock:
            asked = time.monotonic()
            if not self._transport.lease(_key(host), self._holder, self._seconds):
                return False
            self._host, self._renewed = host, asked
            return True


def addresses(names: str) -> list[str]:
    """Return all addresses that names separated by commas stand for; none for one nobody knows."""
    found: set[str] = set()
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            answers = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        except socket.gaierror:
            continue
        found |= {str(answer[4][0]) for answer in answers}
    return sorted(found)


def _key(host: str) -> str:
    return f"gazebo/{host}"
