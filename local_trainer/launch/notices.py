"""What a run in the stack waits for, told to the one who watches it on this machine.

Trainer and rollout workers write warnings to their containers' logs; those reach this machine
whatever else is away: Redis, the object store or the network between them.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock, Thread

from local_trainer.errors import one_line

OTHERS_FIRST = "waits for another command that starts or ends parts of the stack"

_WARNING = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ WARNING (.+)$")
_REPEAT_S = 30.0


class Notices:
    """A file of lines, each written once in half a minute, and the containers' logs they come from.

    `local_trainer.cli.watch` shows what is appended to the file.
    """

    def __init__(self, path: Path, short_name: Callable[[str], str] = lambda name: name) -> None:
        """Open the file for appending.

        Args:
            path: The file; its folder is made.
            short_name: How a container is called in a line.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._short_name = short_name
        self._lock = Lock()
        self._said: dict[str, float] = {}
        self._readers: dict[str, _Reader] = {}

    def say(self, message: str) -> None:
        """Write a line, unless it was written a moment ago; numbers make no difference."""
        line = one_line(message)
        key = re.sub(r"\d+", "", line)
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(key, -_REPEAT_S) < _REPEAT_S or self._file.closed:
                return
            self._said[key] = now
            self._file.write(f"{line}\n")

    def follow(self, containers: Iterable[str]) -> None:
        """Read the logs of running containers from now on, as far as they are not read already."""
        for name in containers:
            reader = self._readers.get(name)
            if reader is None or not reader.is_alive():
                since = time.time() - 1.0 if reader is None else reader.ended
                self._readers[name] = _Reader(name, since, self._take)
                self._readers[name].start()

    def close(self) -> None:
        """Stop reading and close the file."""
        for reader in self._readers.values():
            reader.stop()
        with self._lock:
            self._file.close()

    def _take(self, container: str, line: str) -> None:
        found = _WARNING.match(line)
        if found:
            self.say(f"{self._short_name(container)}: {found[1]}")


class _Reader(Thread):
    """Reads one container's log until the container ends."""

    def __init__(self, name: str, since: float, take: Callable[[str, str], None]) -> None:
        super().__init__(name=f"log of {name}", daemon=True)
        self._container = name
        self._take = take
        self.ended = since
        command = ["docker", "logs", "--follow", "--since", f"{since:.3f}", name]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def run(self) -> None:
        """Hand on line by line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._take(self._container, line.rstrip("\n"))
        self._process.wait()
        self.ended = time.time()

    def stop(self) -> None:
        """End reading."""
        self._process.terminate()
        self.join(5.0)
