"""A run's folder kept the same in an object store, both ways.

The trainer works in a folder of its own and pushes what changes; whoever watches pulls. Objects
appear whole, and what names other files (pointers, counters, status) appears after them, so that a
reader, or a trainer that begins again from the store, never finds a name without its content.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from local_trainer.errors import LocalTrainerError, NotFound
from local_trainer.runs import write_atomically
from local_trainer.store import AccessRefused, ObjectStore, StoreError, check_key, plain_files

logger = logging.getLogger(__name__)

PUSH_S = 1.0
PATIENCE_S = 120.0
"""How long a store that does not do what it is asked is waited for at a run's begin and end."""

_AGAIN_S = 2.0
LIVE_KEYS = ("progress.jsonl", "status.json", "failure.json")
"""What is shown while a run trains."""

_HOLD = ".pushing"
"""Folder in the run's folder that holds on to files while they are pushed."""

_HIDDEN_KEYS = ("model/.coach_checkpoint",)
_NAMING_SUFFIXES = (".index", ".coach_checkpoint", "deepracer_checkpoints.json")
_RESULT_FOLDERS = (
    "evaluation-",
    "logs/",
    "metrics/",
    "model/",
    "plots/",
    "pretrained/",
    "resume/",
    "steps/",
    "training-simtrace/",
)

_Signature = tuple[int, int, int]
_Result = TypeVar("_Result")


class RunMirror:
    """One run's folder and its place in a store."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        """Take both; nothing is copied yet.

        Args:
            store: Its prefix holds the run's files.
            folder: The run's folder; made when something is pulled.
        """
        self._store = store
        self._folder = folder
        self._pushed: dict[str, _Signature] = {}
        """What the store has, as it was in the folder."""

    def push(self) -> int:
        """Write what has changed in the folder to the store, and return how many objects changed.

        A push may take longer than an iteration. What it writes is the folder of one moment, also
        when the trainer removes old checkpoints meanwhile.

        Raises:
            StoreError: If the store does not take it.
        """
        hold = self._folder / _HOLD
        shutil.rmtree(hold, ignore_errors=True)  # of one who was killed
        try:
            return self._push(hold)
        finally:
            shutil.rmtree(hold, ignore_errors=True)

    def _push(self, hold: Path) -> int:
        # What names other files is read before them and looked for after them. They come before it
        # and go after it, so if it is there both times, they were there in between.
        read = {key: _read(path) for key, path in self._files().items() if _rank(key)}
        contents = {key: path for key, path in self._files().items() if not _rank(key)}
        held = self._hold_changed(contents, hold)
        naming = {
            key: file
            for key, file in read.items()
            if file is not None and (self._folder / key).exists()
        }
        for key, (signature, path) in held.items():
            self._store.upload(path, key)
            self._pushed[key] = signature
        changed = len(held)
        for key in sorted(naming, key=lambda key: (_rank(key), key)):
            signature, data = naming[key]
            if self._pushed.get(key) != signature:
                self._store.put(key, data)
                self._pushed[key] = signature
                changed += 1
        gone = [key for key in self._pushed if key not in contents and key not in naming]
        for key in sorted(gone, key=lambda key: (-_rank(key), key)):
            self._store.delete(key)
            del self._pushed[key]
            changed += 1
        return changed

    def pull(self, is_wanted: Callable[[str], bool] = lambda key: True) -> int:
        """Write the store's objects to the folder, names last, and return how many there were.

        Checkpoints that the store no longer has go from the folder too.

        Raises:
            NotFound: If the store has none that is wanted.
            StoreError: If the store does not give one.
        """
        keys = [check_key(item.key) for item in self._store.objects()]
        keys = [key for key in keys if is_mirrored(key) and is_wanted(key)]
        if not keys:
            raise NotFound(f"No run lies at {self._store.location}.")
        for key in sorted(keys, key=lambda key: (_rank(key), key)):
            self._store.download(key, self._folder / key)
            self._pushed[key] = _signature(self._folder / key)
        for path, key in list(plain_files(self._folder)):
            is_checkpoint = key.startswith(("model/", "resume/"))
            if is_checkpoint and is_mirrored(key) and is_wanted(key) and key not in keys:
                path.unlink()
        return len(keys)

    def pull_live(self) -> None:
        """Write what is shown while a run trains to the folder, as far as it is there."""
        for key in LIVE_KEYS:
            path = self._folder / key
            try:
                data = self._store.get(key)
            except NotFound:
                continue
            if not path.exists() or path.read_bytes() != data:
                write_atomically(path, data)

    @contextmanager
    def pushing(
        self, every_s: float = PUSH_S, on_look: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Push again and again from a thread while the block runs, and to the end after it.

        A store that is away for a while is told in the log and tried again.

        Args:
            every_s: How long to wait in between.
            on_look: Called after each push, successful or not.

        Raises:
            StoreError: If what is left cannot be pushed for two minutes.
        """
        is_over = Event()

        def work() -> None:
            while not is_over.wait(every_s):
                try:
                    self.push()
                except (LocalTrainerError, OSError) as error:
                    logger.warning("the run is not in the store yet: %s", error)
                on_look()

        thread = Thread(target=work, name="mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            patiently(self.push)

    def _files(self) -> dict[str, Path]:
        return {key: path for path, key in plain_files(self._folder) if is_mirrored(key)}

    def _hold_changed(
        self, files: dict[str, Path], hold: Path
    ) -> dict[str, tuple[_Signature, Path]]:
        """Hold on to files that have changed since they were pushed, whatever becomes of them.

        Returns:
            Signature and the path to read it from, by key.
        """
        held = {}
        for key, path in files.items():
            place = hold / key
            try:
                signature = _signature(path)
                if self._pushed.get(key) == signature:
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                _link(path, place)
            except FileNotFoundError:
                continue  # an old checkpoint that was removed just now
            held[key] = signature, place
        return held


def patiently(ask: Callable[[], _Result], limit_s: float = PATIENCE_S) -> _Result:
    """Ask a store again while it is away or full, and say so.

    Raises:
        StoreError: If it refuses, or does not do it in time.
    """
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return ask()
        except AccessRefused:
            raise
        except StoreError as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("waits for the store: %s", error)
            time.sleep(_AGAIN_S)  # between two attempts


def is_mirrored(key: str) -> bool:
    """Return whether a file belongs to the run: no lock, nothing that is half written."""
    is_hidden = any(part.startswith(".") for part in key.split("/"))
    return key in _HIDDEN_KEYS or not is_hidden


def is_setup(key: str) -> bool:
    """Return whether a file was there before the training: what a rollout worker needs."""
    return not key.startswith(_RESULT_FOLDERS) and key not in ("progress.jsonl", "report.html")


def is_print(key: str) -> bool:
    """Return whether a file holds what the reward function printed."""
    return key.startswith("logs/reward")


def _rank(key: str) -> int:
    """Return when a file may appear: 0 content, 1 what names it, 2 counters, 3 the run's state."""
    if "/" not in key:
        return 3 if key in LIVE_KEYS else 0
    if key.startswith("resume/") and key.endswith(".json"):
        return 2
    return 1 if key.endswith(_NAMING_SUFFIXES) else 0


def _link(path: Path, place: Path) -> None:
    """Give a file a second name; where the disk knows no such thing, a copy."""
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)


def _signature(path: Path) -> _Signature:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _read(path: Path) -> tuple[_Signature, bytes] | None:
    try:
        return _signature(path), path.read_bytes()
    except FileNotFoundError:
        return None
