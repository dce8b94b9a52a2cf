"""The desk: gives trials on other machines their files, and tells them when to end.

It is an actor on the machine that asked for the trials, where their folders lie.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray

from local_trainer.errors import NotFound
from local_trainer.runs import Run, write_atomically
from local_trainer.store import AccessRefused, LocalStore, Progress, StoredObject, StoreError

NAMESPACE = "local-trainer"
ANSWER_S = 60.0
"""How long anybody on the cluster may take to answer."""


class Desk:
    """Holds the trials' folders on the machine that asked, and what they are asked to do."""

    def __init__(self) -> None:
        """Begin with no trials."""
        self._folders: dict[str, Path] = {}
        self._reasons: dict[str, str] = {}
        self._everybody: str | None = None
        self._locks: dict[str, ExitStack] = {}
        self._tickets: dict[str, int] = {}

    def add(self, name: str, folder: str) -> None:
        """Take a trial's folder."""
        self._folders[name] = Path(folder)

    def ask_to_stop(self, name: str | None, reason: str) -> None:
        """Ask a trial, or everybody, to end."""
        if name is None:
            self._everybody = reason
        else:
            self._reasons.setdefault(name, reason)

    def reason_to_stop(self, name: str) -> str | None:
        """Return why a trial is to end, None if it is not."""
        return self._everybody or self._reasons.get(name)

    def hold(self, name: str) -> int:
        """Hold a trial's folder for a trainer on another machine, as that would hold it here.

        Returns:
            A ticket that the trial's writes must carry. Who held the folder before, on a machine
            that was given up and may still be there, writes no more.
        """
        if name not in self._locks:
            stack = ExitStack()
            stack.enter_context(Run(self._folders[name]).lock())
            self._locks[name] = stack
        self._tickets[name] = self._tickets.get(name, 0) + 1
        return self._tickets[name]

    def let_go(self, name: str, ticket: int) -> None:
        """Let go of a trial's folder."""
        if self._tickets.get(name) == ticket and name in self._locks:
            self._locks.pop(name).close()

    def release(self, name: str) -> None:
        """Free a trial's folder for a trainer here; who held it before writes no more."""
        self._tickets[name] = self._tickets.get(name, 0) + 1
        if name in self._locks:
            self._locks.pop(name).close()

    def objects(self, name: str) -> list[tuple[str, int]]:
        """Return key and size of a trial's files."""
        return [(item.key, item.size_bytes) for item in self._store(name).objects()]

    def get(self, name: str, key: str) -> bytes | None:
        """Return a file of a trial, None if there is none."""
        try:
            return self._store(name).get(key)
        except NotFound:
            return None

    def put(self, name: str, key: str, data: bytes, ticket: int) -> bool:
        """Write a file of a trial; return False to one who no longer holds it."""
        if self._tickets.get(name) != ticket:
            return False
        self._store(name).put(key, data)
        return True

    def delete(self, name: str, key: str, ticket: int) -> bool:
        """Remove a file of a trial; see `put`."""
        if self._tickets.get(name) != ticket:
            return False
        self._store(name).delete(key)
        return True

    def _store(self, name: str) -> LocalStore:
        return LocalStore(self._folders[name])


class DeskStore:
    """A trial's folder at the desk, from another machine; a `local_trainer.store.ObjectStore`."""

    def __init__(self, desk: Any, name: str, ticket: int = 0) -> None:
        """Take the desk, the trial's name and what `Desk.hold` gave; 0 only reads."""
        self._desk = desk
        self._name = name
        self._ticket = ticket

    @property
    def location(self) -> str:
        """Return what to call it in messages."""
        return f"the machine that asked for {self._name}"

    def objects(self, prefix: str = "") -> list[StoredObject]:
        """Return the files whose keys begin with a prefix."""
        found = self._ask(self._desk.objects)
        return [StoredObject(key, size) for key, size in found if key.startswith(prefix)]

    def exists(self, key: str) -> bool:
        """Return whether there is a file."""
        return any(item.key == key for item in self.objects(key))

    def get(self, key: str) -> bytes:
        """Return a file's content.

        Raises:
            NotFound: If there is none.
        """
        data: bytes | None = self._ask(self._desk.get, key)
        if data is None:
            raise NotFound(f"No {key} at {self.location}.")
        return data

    def put(self, key: str, data: bytes) -> None:
        """Write a file.

        Raises:
            AccessRefused: If another machine holds the trial by now.
        """
        self._write(self._desk.put, key, data)

    def delete(self, key: str) -> None:
        """Remove a file; see `put`."""
        self._write(self._desk.delete, key)

    def download(self, key: str, path: Path, progress: Progress | None = None) -> None:
        """Write a file's content to a path here."""
        write_atomically(path, self.get(key))

    def upload(self, path: Path, key: str, progress: Progress | None = None) -> None:
        """Write the content of a path here; see `put`."""
        self.put(key, path.read_bytes())

    def _write(self, method: Any, *arguments: Any) -> None:
        if not self._ask(method, *arguments, self._ticket):
            raise AccessRefused(f"{self._name} is held by another machine by now.")

    def _ask(self, method: Any, *arguments: Any) -> Any:
        try:
            return ray.get(method.remote(self._name, *arguments), timeout=ANSWER_S)
        except ray.exceptions.RayError as error:
            raise StoreError(f"{self.location} does not answer: {type(error).__name__}") from None
