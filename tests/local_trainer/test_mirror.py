"""A run's folder and its place in a store stay the same, and no name comes before its content."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from local_trainer.errors import NotFound
from local_trainer.mirror import RunMirror, is_mirrored, is_setup, patiently
from local_trainer.store import AccessRefused, LocalStore, Progress, StoreError, plain_files

FILES = {
    "config.yaml": b"seed: 0\n",
    "status.json": b'{"status": "running"}',
    "progress.jsonl": b'{"event": "phase"}\n',
    "model/.coach_checkpoint": b"1_Step-10.ckpt",
    "model/1_Step-10.ckpt.data-00000-of-00001": b"weights" * 1000,
    "model/1_Step-10.ckpt.index": b"index",
    "model/deepracer_checkpoints.json": b"{}",
    "resume/1.ckpt.data-00000-of-00001": b"slots" * 1000,
    "resume/1.ckpt.index": b"index",
    "resume/1.json": b"{}",
    "steps/training-0.npz": b"steps",
}


class RecordingStore(LocalStore):
    """A folder that keeps the order in which things were written and removed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.order: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.order.append(key)

    def upload(self, path: Path, key: str, progress: Progress | None = None) -> None:
        super().upload(path, key, progress)
        self.order.append(key)

    def delete(self, key: str) -> None:
        super().delete(key)
        self.order.append(f"-{key}")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for key, data in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {key: path.read_bytes() for path, key in plain_files(folder)}


@pytest.fixture
def store(tmp_path: Path) -> RecordingStore:
    return RecordingStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "run", FILES)


def test_a_run_comes_back_as_it_was_without_locks_and_half_written_files(
    store: RecordingStore, folder: Path, tmp_path: Path
) -> None:
    write(folder, {".run.lock": b"", "model/.2_Step-20.ckpt.index": b"h", ".status.json.x1": b"h"})
    RunMirror(store, folder).push()
    RunMirror(store, tmp_path / "other").pull()
    assert contents(tmp_path / "other") == FILES


def test_names_come_after_what_they_name_and_the_state_last(
    store: RecordingStore, folder: Path
) -> None:
    RunMirror(store, folder).push()
    place = {key: number for number, key in enumerate(store.order)}
    data = [place[key] for key in FILES if "data" in key]
    names = [place[key] for key in FILES if key.endswith((".index", "checkpoints.json"))]
    assert max(data) < min(names) and max(names) < place["resume/1.json"]
    assert place["resume/1.json"] < place["status.json"]


def test_only_what_changed_goes_up_again(store: RecordingStore, folder: Path) -> None:
    mirror = RunMirror(store, folder)
    assert mirror.push() == len(FILES)
    assert mirror.push() == 0
    write(folder, {"progress.jsonl": b"longer now\n"})
    assert mirror.push() == 1
    assert store.order[-1] == "progress.jsonl" and store.get("progress.jsonl") == b"longer now\n"


def test_a_removed_checkpoint_goes_its_name_first(store: RecordingStore, folder: Path) -> None:
    mirror = RunMirror(store, folder)
    mirror.push()
    del store.order[:]
    removed = [key for key in FILES if key.startswith("resume/")]
    for key in removed:
        (folder / key).unlink()
    mirror.push()
    assert store.order[0] == "-resume/1.json"
    assert sorted(store.order) == sorted(f"-{key}" for key in removed)


class SlowStore(RecordingStore):
    """A store that takes so long for a file that the trainer gets on meanwhile."""

    def __init__(self, folder: Path, get_on: Callable[[], None]) -> None:
        super().__init__(folder)
        self.get_on = get_on

    def upload(self, path: Path, key: str, progress: Progress | None = None) -> None:
        self.get_on()
        super().upload(path, key, progress)


def next_iteration(folder: Path) -> None:
    """Write the next state to resume from and remove the one before, as the trainer does."""
    before = max(int(path.stem) for path in (folder / "resume").glob("*.json"))
    for suffix in (".ckpt.data-00000-of-00001", ".ckpt.index", ".json"):
        write(folder, {f"resume/{before + 1}{suffix}": f"{before + 1}".encode()})
    for suffix in (".json", ".ckpt.index", ".ckpt.data-00000-of-00001"):
        (folder / f"resume/{before}{suffix}").unlink()


def states(keys: Iterable[str], suffix: str) -> set[str]:
    return {key.removesuffix(suffix) for key in keys if key.endswith(suffix) and "resume" in key}


@pytest.mark.parametrize("has_links", [True, False])
def test_a_trainer_that_is_faster_than_the_store_can_always_be_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:

        def refuse(source: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr("os.link", refuse)
    store = SlowStore(tmp_path / "store", lambda: next_iteration(folder))
    mirror = RunMirror(store, folder)
    reached = []
    for _ in range(3):
        mirror.push()
        found = contents(tmp_path / "store")
        (state,) = states(found, ".json")
        assert states(found, ".ckpt.index") == states(found, ".ckpt.data-00000-of-00001") == {state}
        reached.append(int(state.partition("/")[2]))
    assert reached[0] == 1 and reached == sorted(set(reached))
    assert found[f"{state}.ckpt.data-00000-of-00001"] == f"{reached[-1]}".encode()
    assert not list(folder.glob(".*"))


def test_a_state_that_goes_while_it_is_looked_at_is_not_named(
    store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = RunMirror(store, folder)
    hold_changed = RunMirror._hold_changed

    def hold_late(self: RunMirror, files: dict[str, Path], hold: Path) -> Any:
        next_iteration(folder)
        return hold_changed(self, files, hold)

    monkeypatch.setattr(RunMirror, "_hold_changed", hold_late)
    mirror.push()
    assert not [key for key in store.order if key.startswith("resume/")]
    monkeypatch.undo()
    mirror.push()
    assert store.get("resume/2.ckpt.data-00000-of-00001") == b"2"
    assert store.exists("resume/2.json") and not store.exists("resume/1.json")


def test_a_watcher_sees_progress_and_loses_old_checkpoints(
    store: RecordingStore, folder: Path, tmp_path: Path
) -> None:
    trainer, watcher = RunMirror(store, folder), RunMirror(store, tmp_path / "seen")
    watcher.pull_live()  # nothing there yet
    trainer.push()
    watcher.pull_live()
    assert contents(tmp_path / "seen") == {
        key: FILES[key] for key in ("progress.jsonl", "status.json")
    }
    watcher.pull()
    for path in (folder / "model").glob("1_Step*"):
        path.unlink()
    write(folder, {"model/2_Step-20.ckpt.index": b"index", "model/.coach_checkpoint": b"2"})
    trainer.push()
    watcher.pull()
    assert contents(tmp_path / "seen") == contents(folder)


def test_what_changes_while_it_trains_goes_up_by_itself_and_the_rest_at_the_end(
    store: RecordingStore, folder: Path
) -> None:
    looks: list[float] = []
    with RunMirror(store, folder).pushing(0.01, lambda: looks.append(time.monotonic())):
        deadline = time.monotonic() + 10
        while not store.exists("status.json") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.exists("status.json")
        write(folder, {"report.html": b"page"})
    assert store.get("report.html") == b"page" and looks


def test_a_store_that_is_away_is_tried_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(LocalStore):
        is_away = True

        def put(self, key: str, data: bytes) -> None:
            if self.is_away:
                raise StoreError("Cannot write: nobody answers.")
            super().put(key, data)

    store: Any = Away(tmp_path / "store")
    with RunMirror(store, folder).pushing(0.01):
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        store.is_away = False
    assert "nobody answers" in caplog.text
    assert contents(tmp_path / "store") == FILES


class Full(LocalStore):
    """A store that has no room for some attempts."""

    attempts = 2

    def put(self, key: str, data: bytes) -> None:
        if self.attempts:
            self.attempts -= 1
            raise StoreError("Cannot write: XMinioStorageFull: no room.")
        super().put(key, data)


def test_the_last_push_waits_for_room_and_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_trainer.mirror._AGAIN_S", 0.01)
    with RunMirror(Full(tmp_path / "store"), folder).pushing(60.0):
        pass
    assert contents(tmp_path / "store") == FILES
    assert caplog.text.count("waits for the store: Cannot write: XMinioStorageFull") == 2


def test_a_store_that_refuses_is_not_asked_again() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise AccessRefused("Cannot write: SignatureDoesNotMatch.")

    with pytest.raises(AccessRefused):
        patiently(ask)
    with pytest.raises(StoreError):
        patiently(lambda: Full(Path("unused")).put("a", b""), limit_s=0.0)
    assert len(asked) == 1


def test_no_run_there_is_told(store: RecordingStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No run lies at"):
        RunMirror(store, tmp_path / "run").pull()


def test_a_worker_needs_what_was_there_before_the_training() -> None:
    needed = (
        "config.yaml",
        "status.json",
        "reward_function.py",
        "route.npy",
        "model_metadata.json",
    )
    assert all(map(is_setup, needed))
    assert not any(map(is_setup, ("model/1_Step-10.ckpt.index", "steps/training-0.npz", "plots/a")))
    assert is_mirrored("model/.coach_checkpoint") and not is_mirrored(".run.lock")
