"""What every object store promises, a folder's and a real S3 server's alike."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, running_minio

import local_trainer.store as store_module
from local_trainer.errors import ConfigError, NotFound
from local_trainer.mirror import patiently
from local_trainer.store import (
    PART_BYTES,
    AccessRefused,
    Credentials,
    CredentialsExpired,
    ObjectStore,
    StoredObject,
    StoreError,
    download_folder,
    open_store,
    upload_folder,
)

BIG = 2 * PART_BYTES + 12_345
S3 = pytest.param("s3", marks=pytest.mark.services)
NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(params=["local", S3])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """Where a store is, and how it is opened."""
    if request.param == "local":
        return str(tmp_path / "store"), {}
    running: S3Server = request.getfixturevalue("server")
    bucket = running.new_bucket()
    options = {"endpoint": running.endpoint, "credentials": running.credentials}
    return f"s3://{bucket}/some/prefix", options


@pytest.fixture
def store(place: tuple[str, dict[str, Any]]) -> ObjectStore:
    return open_store(place[0], **place[1])


def big_file(folder: Path) -> Path:
    path = folder / "big.bin"
    path.write_bytes(os.urandom(BIG))
    return path


def test_what_is_put_is_got(store: ObjectStore) -> None:
    store.put("model/.coach_checkpoint", b"1_Step-20.ckpt")
    store.put("empty", b"")
    assert store.get("model/.coach_checkpoint") == b"1_Step-20.ckpt"
    assert store.get("empty") == b""


@pytest.mark.services
def test_a_full_server_is_told_and_takes_the_file_once_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "small", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here (not root)")
    try:
        with running_minio(disk) as server:
            options = {"endpoint": server.endpoint, "credentials": server.credentials}
            store = open_store(f"s3://{server.new_bucket()}/run", **options)
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(320 * 2**20))
            # More parts than are sent at once, were they as small as they may be.
            file = tmp_path / "file"
            file.write_bytes(os.urandom(12 * PART_BYTES))
            with pytest.raises(StoreError, match="Cannot write s3://.*/run/key "):
                store.upload(file, "key")
            assert not store.exists("key")
            ballast.unlink()
            patiently(lambda: store.upload(file, "key"), 60.0)  # the server looks once a second
            assert store.get("key") == file.read_bytes()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_put_replaces(store: ObjectStore) -> None:
    store.put("key", b"old and longer")
    store.put("key", b"new")
    assert store.get("key") == b"new"
    assert store.objects() == [StoredObject("key", 3)]


def test_objects_are_listed_by_prefix_in_order(store: ObjectStore) -> None:
    for key in ("b/2", "b/1", "a", "bc"):
        store.put(key, key.encode())
    assert [item.key for item in store.objects()] == ["a", "b/1", "b/2", "bc"]
    assert store.objects("b/") == [StoredObject("b/1", 3), StoredObject("b/2", 3)]
    assert [item.key for item in store.objects("b")] == ["b/1", "b/2", "bc"]
    assert store.objects("none") == []


def test_more_objects_than_one_answer_holds_are_listed(store: ObjectStore) -> None:
    keys = [f"many/{number:04}" for number in range(1010)]
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda key: store.put(key, b""), keys))
    assert [item.key for item in store.objects("many/")] == keys


def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert store.objects() == []


def test_exists_and_delete(store: ObjectStore) -> None:
    store.put("folder/key", b"x")
    assert store.exists("folder/key")
    assert not store.exists("folder")
    assert not store.exists("folder/other")
    store.delete("folder/key")
    store.delete("folder/key")
    assert not store.exists("folder/key")
    assert store.objects() == []


def test_a_missing_object_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No object none at "):
        store.get("none")
    with pytest.raises(NotFound, match="No object none at "):
        store.download("none", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    with pytest.raises(NotFound, match="No file "):
        store.upload(tmp_path / "file", "key")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\nb"])
def test_a_key_stays_below_the_prefix(store: ObjectStore, key: str) -> None:
    with pytest.raises(ConfigError, match="An object's key"):
        store.put(key, b"")


def test_a_big_file_goes_up_and_down_whole_and_its_bytes_are_counted(
    store: ObjectStore, tmp_path: Path
) -> None:
    path = big_file(tmp_path)
    up: list[int] = []
    down: list[int] = []
    store.upload(path, "big.bin", up.append)
    store.download("big.bin", tmp_path / "copy" / "big.bin", down.append)
    assert (tmp_path / "copy" / "big.bin").read_bytes() == path.read_bytes()
    assert sum(up) == sum(down) == BIG
    assert len(up) > 1


def test_folders_go_up_and_down(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for key in ("model/.ready", "model/a.pb", "b.json", "c.tmp"):
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / key).write_text(key)
    (source / "link").symlink_to("/etc/hostname")
    written = upload_folder(source, store, is_wanted=lambda key: not key.endswith(".tmp"))
    assert [item.key for item in written] == ["b.json", "model/.ready", "model/a.pb"]
    assert store.objects() == written
    download_folder(store, tmp_path / "copy")
    assert (tmp_path / "copy" / "model" / ".ready").read_text() == "model/.ready"


def test_a_download_of_nothing_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Nothing lies at "):
        download_folder(store, tmp_path / "copy")


def test_an_object_appears_whole_or_not_at_all(
    place: tuple[str, dict[str, Any]], store: ObjectStore, tmp_path: Path
) -> None:
    """A writer that is killed half-way leaves the object as it was."""
    path = big_file(tmp_path)
    store.put("big.bin", b"old")
    credentials = place[1].get("credentials")
    environment = dict(os.environ)
    if credentials is not None:
        secrets = (credentials.access_key, credentials.secret_key)
        environment |= dict(zip(NAMES, secrets, strict=False))
    code = (
        "import os, pathlib, sys\n"
        "from local_trainer.store import open_store\n"
        "place, endpoint, path = sys.argv[1:]\n"
        "store = open_store(place, endpoint or None)\n"
        "store.upload(pathlib.Path(path), 'big.bin', lambda size: os._exit(9))\n"
    )
    arguments = [place[0], place[1].get("endpoint", ""), str(path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, timeout=60)
    assert done.returncode == 9
    assert store.get("big.bin") == b"old"
    assert [item.key for item in store.objects()] == ["big.bin"]


def test_a_link_does_not_lead_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="leads out of"):
        open_store(tmp_path / "store").get("link")


@pytest.mark.services
def test_wrong_credentials_are_refused_at_once(server: S3Server) -> None:
    place = f"s3://{server.new_bucket()}"
    for credentials in (
        Credentials(server.credentials.access_key, "not-the-secret"),
        Credentials("nobody", "not-the-secret"),
    ):
        store = open_store(place, server.endpoint, credentials)
        with pytest.raises(AccessRefused) as raised:
            store.put("key", b"")
        assert "not-the-secret" not in str(raised.value)
        assert not isinstance(raised.value, CredentialsExpired)


@pytest.mark.services
def test_a_missing_bucket_is_named(server: S3Server) -> None:
    store = open_store("s3://no-such-bucket/x", server.endpoint, server.credentials)
    with pytest.raises(NotFound, match="No bucket 'no-such-bucket' at http://127"):
        store.put("key", b"")


def test_a_server_that_does_not_answer_is_asked_a_few_times(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "_FIRST_WAIT_S", 0.01)
    store = open_store("s3://bucket/x", "http://127.0.0.1:9", Credentials("a", "b"), "us-east-1")
    with caplog.at_level(logging.WARNING), pytest.raises(StoreError, match="after 4 attempts"):
        store.get("key")
    reasons = [record.getMessage() for record in caplog.records]
    assert len(reasons) == 3
    assert all(reason.endswith("nobody answers at http://127.0.0.1:9.") for reason in reasons)


class _Busy(BaseHTTPRequestHandler):
    """Answers with an S3 error a set number of times, then with an object."""

    answers: list[tuple[int, str]] = []

    def do_GET(self) -> None:
        status, code = self.answers.pop(0) if self.answers else (200, "")
        body = f"<Error><Code>{code}</Code><Message>because</Message></Error>" if code else "data"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setattr(store_module, "_FIRST_WAIT_S", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        endpoint = f"http://127.0.0.1:{listening.server_port}"
        yield open_store("s3://bucket/x", endpoint, Credentials("a", "b", "t"), "us-east-1")
        listening.shutdown()
        thread.join()


def test_a_busy_server_is_asked_again(busy: ObjectStore) -> None:
    _Busy.answers = [(503, "SlowDown"), (500, "InternalError")]
    assert busy.get("key") == b"data"


def test_expired_credentials_are_told_apart_and_not_tried_again(busy: ObjectStore) -> None:
    _Busy.answers = [(400, "ExpiredToken")]
    with pytest.raises(CredentialsExpired, match="credentials expired"):
        busy.get("key")
    assert _Busy.answers == []


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="missing: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        open_store("s3://bucket")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "who")
    with pytest.raises(ConfigError, match="missing: AWS_SECRET_ACCESS_KEY"):
        open_store("s3://bucket")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert "hidden" not in repr(Credentials.from_environment())
    assert open_store("s3://bucket/a/").location == "s3://bucket/a"


@pytest.mark.parametrize(
    ("location", "endpoint"),
    [
        ("s3://", None),
        ("s3:///prefix", None),
        ("s3://user:password@bucket/x", None),
        ("s3://bucket/a/../b", None),
        ("s3://bucket/x?versionId=1", None),
        ("s3://bucket", "127.0.0.1:9000"),
        ("s3://bucket", "http://user:password@127.0.0.1:9000"),
        ("s3://b", "http://127.0.0.1:9000"),
        ("folder", "http://127.0.0.1:9000"),
    ],
)
def test_a_location_that_cannot_be_one_is_refused(location: str, endpoint: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        open_store(location, endpoint, Credentials("a", "b"))
    assert "password" not in str(raised.value)
