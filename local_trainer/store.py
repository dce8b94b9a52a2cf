"""Where files go that leave this machine's disk: a folder or an S3 bucket behind one interface.

An object appears whole or not at all, whatever ends the one who writes it. This is the one home
of the S3 client. Credentials come from the environment or from the caller, never from a URL, and
are in no message.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from local_trainer.errors import ConfigError, LocalTrainerError, NotFound, one_line
from local_trainer.runs import appearing

logger = logging.getLogger(__name__)

AWS_ENDPOINT = "https://s3.amazonaws.com"
PART_BYTES = 8 * 2**20
"""Files larger than this go up in parts, of this size or larger."""

_MOST_PARTS = 3
"""As many as minio's client sends at once. When one of more fails it waits for ever: the parts
that it then skips never give back their turn."""

_ATTEMPTS = 4
_FIRST_WAIT_S = 0.5
_CHUNK = 2**20
_PART_PREFIX = ".part-"
_LONGEST_KEY = 1024

Progress = Callable[[int], None]
"""Is told how many more bytes have arrived. A retry takes back what it counted: less than 0."""

_Result = TypeVar("_Result")


class StoreError(LocalTrainerError):
    """Raised when a store cannot do what was asked; says which attempt failed and why."""


class AccessRefused(StoreError):
    """Raised when a store does not accept the credentials."""

    exit_status = 2


class CredentialsExpired(AccessRefused):
    """Raised when temporary credentials are over; new ones help."""


@dataclass(frozen=True)
class Credentials:
    """What an S3 endpoint is asked with; the secrets are in no representation."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    """Part of temporary credentials only."""

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Credentials:
        """Return the credentials of ``AWS_ACCESS_KEY_ID`` and its companions.

        Raises:
            ConfigError: If one of the two that are needed is missing.
        """
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        missing = [name for name in names if not environment.get(name)]
        if missing:
            raise ConfigError(
                f"S3 needs {' and '.join(names)} in the environment; missing: {', '.join(missing)}."
            )
        token = environment.get("AWS_SESSION_TOKEN") or None
        return Credentials(environment[names[0]], environment[names[1]], token)


@dataclass(frozen=True)
class StoredObject:
    """One object of a store."""

    key: str
    """Below the store's prefix, parts separated by ``/``."""
    size_bytes: int


class ObjectStore(Protocol):
    """Objects below one prefix; keys are relative and use ``/``."""

    @property
    def location(self) -> str:
        """Return where the store is, as the user named it."""

    def objects(self, prefix: str = "") -> list[StoredObject]:
        """Return what there is whose key begins with a text, by key."""

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""

    def get(self, key: str) -> bytes:
        """Return an object's content.

        Raises:
            NotFound: If there is none.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write an object; readers see the old or the new one, whole."""

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""

    def download(self, key: str, path: Path, progress: Progress | None = None) -> None:
        """Write an object to a file, which appears whole.

        Raises:
            NotFound: If there is none.
        """

    def upload(self, path: Path, key: str, progress: Progress | None = None) -> None:
        """Write a file to an object, which appears whole; large ones go in parts.

        Raises:
            NotFound: If there is no such file.
        """


def open_store(
    location: str | Path,
    endpoint: str | None = None,
    credentials: Credentials | None = None,
    region: str | None = None,
) -> ObjectStore:
    """Return the store of a folder or of ``s3://bucket/prefix``.

    Args:
        location: A folder, made when something is written, or an S3 URL.
        endpoint: ``http(s)://host:port`` of an S3 server; by default ``AWS_ENDPOINT_URL_S3``,
            ``AWS_ENDPOINT_URL`` or AWS itself.
        credentials: Instead of those in the environment.
        region: Instead of ``AWS_REGION`` or ``AWS_DEFAULT_REGION``; AWS is asked otherwise.

    Raises:
        ConfigError: If a part of the location is not allowed or credentials are missing.
    """
    if not is_s3_url(location):
        if endpoint is not None:
            raise ConfigError(f"An endpoint goes with s3://bucket/prefix, got {location}.")
        return LocalStore(Path(location))
    bucket, prefix = split_s3_url(str(location))
    environment = os.environ
    endpoint = resolve_endpoint(endpoint)
    region = region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    return S3Store(bucket, prefix, endpoint, credentials or Credentials.from_environment(), region)


def resolve_endpoint(endpoint: str | None) -> str:
    """Return the S3 server that is meant: the one given, the environment's, or AWS itself."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return endpoint or next(filter(None, map(os.environ.get, names)), AWS_ENDPOINT)


def is_s3_url(location: str | Path) -> bool:
    """Return whether a location is one in a bucket."""
    return isinstance(location, str) and location.lower().startswith("s3://")


def split_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix``; the prefix has no ``/`` at its ends.

    Raises:
        ConfigError: If the URL is not of that form, or carries a password.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(
            "An S3 location is s3://bucket/prefix without credentials, which come from "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if parts.scheme.lower() != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"An S3 location is s3://bucket/prefix, got {url!r:.80}.")
    prefix = parts.path.strip("/")
    if prefix:
        check_key(prefix)
    return parts.netloc, prefix


def check_key(key: str) -> str:
    """Return a key after checking that it stays below its prefix.

    Raises:
        ConfigError: If it does not.
    """
    is_plain = key.isprintable() and "\\" not in key and len(key.encode()) <= _LONGEST_KEY
    if not is_plain or any(part in ("", ".", "..") for part in key.split("/")):
        raise ConfigError(
            "An object's key is made of names separated by /, without '.' and '..', "
            f"got {key!r:.80}."
        )
    return key


def upload_folder(
    folder: Path,
    store: ObjectStore,
    progress: Progress | None = None,
    is_wanted: Callable[[str], bool] = lambda key: True,
) -> list[StoredObject]:
    """Write every file of a folder to a store, and return what was written.

    Links and what is not a plain file are left out.
    """
    written = []
    for path, key in plain_files(folder):
        if is_wanted(key):
            store.upload(path, key, progress)
            written.append(StoredObject(key, path.stat().st_size))
    return written


def download_folder(
    store: ObjectStore,
    folder: Path,
    progress: Progress | None = None,
    is_wanted: Callable[[str], bool] = lambda key: True,
) -> list[StoredObject]:
    """Write every object of a store to a folder, and return what was written.

    Raises:
        NotFound: If nothing is there.
    """
    found = [item for item in store.objects() if is_wanted(item.key)]
    if not found:
        raise NotFound(f"Nothing lies at {store.location}.")
    for item in found:
        store.download(item.key, folder / check_key(item.key), progress)
    return found


def plain_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and key of each plain file below a folder, by key; no link is followed."""
    found = []
    for parent, _, names in os.walk(folder, followlinks=False):
        for name in names:
            path = Path(parent, name)
            if not name.startswith(_PART_PREFIX) and stat.S_ISREG(path.lstat().st_mode):
                found.append((path, path.relative_to(folder).as_posix()))
    yield from sorted(found, key=lambda item: item[1])


class LocalStore:
    """A folder as a store."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; it need not exist."""
        self._folder = folder

    @property
    def location(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def objects(self, prefix: str = "") -> list[StoredObject]:
        """Return what there is; see `ObjectStore.objects`."""
        return [
            StoredObject(key, path.stat().st_size)
            for path, key in plain_files(self._folder)
            if key.startswith(prefix)
        ]

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return self._path(key).is_file()

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _not_found(self, key) from None

    def put(self, key: str, data: bytes) -> None:
        """Write an object; see `ObjectStore.put`."""
        with appearing(self._path(key), _PART_PREFIX) as file:
            file.write(data)

    def delete(self, key: str) -> None:
        """Remove an object and the folders that it leaves empty."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError, PermissionError):
            if path.is_file():
                raise
            return
        for folder in path.parents:
            if folder == self._folder or not _is_removed(folder):
                return

    def download(self, key: str, path: Path, progress: Progress | None = None) -> None:
        """Write an object to a file; see `ObjectStore.download`."""
        source = self._path(key)
        if not source.is_file():
            raise _not_found(self, key)
        _copy(source, path, progress)

    def upload(self, path: Path, key: str, progress: Progress | None = None) -> None:
        """Write a file to an object; see `ObjectStore.upload`."""
        _check_file(path)
        _copy(path, self._path(key), progress)

    def _path(self, key: str) -> Path:
        path = self._folder / check_key(key)
        # A link in the folder must not lead out of it.
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise ConfigError(f"{key!r:.80} leads out of {self._folder}.")
        return path


class S3Store:
    """A prefix of an S3 bucket as a store."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        endpoint: str,
        credentials: Credentials,
        region: str | None = None,
    ) -> None:
        """Prepare the client; nothing is asked yet.

        Raises:
            ConfigError: If endpoint or bucket cannot be one.
        """
        import certifi
        import minio
        import minio.error
        import urllib3

        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
            raise ConfigError(f"An S3 endpoint is http(s)://host:port, got {endpoint!r:.80}.")
        if "@" in parts.netloc:
            raise ConfigError("An S3 endpoint is http(s)://host:port, without credentials.")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint
        # One attempt a request: the retries here say why they were needed.
        http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=10.0, read=60.0),
            maxsize=10,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
            retries=False,
        )
        try:
            self._client = minio.Minio(
                parts.netloc,
                access_key=credentials.access_key,
                secret_key=credentials.secret_key,
                session_token=credentials.session_token,
                secure=parts.scheme == "https",
                region=region,
                http_client=http,
            )
            minio.helpers.is_valid_bucket_name(bucket, False)
        except (minio.error.MinioError, ValueError) as error:
            reason = getattr(error, "message", None) or str(error)
            raise ConfigError(f"{self.location} cannot be opened: {reason}") from None

    @property
    def location(self) -> str:
        """Return the URL of the prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def objects(self, prefix: str = "") -> list[StoredObject]:
        """Return what there is; see `ObjectStore.objects`."""

        def ask() -> list[StoredObject]:
            found = self._client.list_objects_v2(
                self._bucket, self._prefix + prefix, recursive=True
            )
            return [
                StoredObject(item.object_name.removeprefix(self._prefix), int(item.size or 0))
                for item in found
                if not item.is_dir and not item.object_name.endswith("/")
            ]

        return sorted(self._retried("list", prefix, ask), key=lambda item: item.key)

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        try:
            self._retried("find", key, lambda: self._client.stat_object(*self._place(key)))
        except NotFound:
            return False
        return True

    def get(self, key: str) -> bytes:
        """Return an object's content; see `ObjectStore.get`."""

        def ask() -> bytes:
            with self._response(key) as response:
                return bytes(response.read())

        return self._retried("read", key, ask)

    def put(self, key: str, data: bytes) -> None:
        """Write an object; see `ObjectStore.put`."""
        import io

        def ask() -> None:
            self._client.put_object(
                *self._place(key), io.BytesIO(data), len(data), part_size=_part_bytes(len(data))
            )

        self._retried("write", key, ask)

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        self._retried("delete", key, lambda: self._client.remove_object(*self._place(key)))

    def download(self, key: str, path: Path, progress: Progress | None = None) -> None:
        """Write an object to a file; see `ObjectStore.download`."""

        def ask() -> None:
            with _counting(progress) as count, self._response(key) as response:
                with appearing(path, _PART_PREFIX) as file:
                    for chunk in response.stream(_CHUNK):
                        file.write(chunk)
                        count(len(chunk))

        self._retried("read", key, ask)

    def upload(self, path: Path, key: str, progress: Progress | None = None) -> None:
        """Write a file to an object; see `ObjectStore.upload`."""
        _check_file(path)

        def ask() -> None:
            with _counting(progress) as count, path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._client.put_object(
                    *self._place(key),
                    file,
                    size,
                    progress=_Meter(count),
                    part_size=_part_bytes(size),
                )

        self._retried("write", key, ask)

    def _place(self, key: str) -> tuple[str, str]:
        return self._bucket, self._prefix + check_key(key)

    @contextmanager
    def _response(self, key: str) -> Iterator[Any]:
        response = self._client.get_object(*self._place(key))
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _retried(self, verb: str, key: str, ask: Callable[[], _Result]) -> _Result:
        """Return what a request gives, asking again a few times where that may help.

        Raises:
            NotFound: If the object does not exist.
            AccessRefused: If the credentials do not do.
            StoreError: If it fails otherwise.
        """
        import minio.error
        import urllib3.exceptions

        for attempt in itertools.count(1):
            try:
                return ask()
            except minio.error.MinioError as error:
                code, reason = _response_of(error)
                may_pass = code in _TRANSIENT_CODES
            except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
                code, reason, may_pass = "", _plain_reason(error, self._endpoint), True
            what = f"{self.location}/{key}".rstrip("/")
            if not may_pass or attempt == _ATTEMPTS:
                raise self._error(verb, key, what, code, reason, attempt) from None
            wait_s = _FIRST_WAIT_S * 2 ** (attempt - 1)
            logger.warning(
                "waits %g s to %s %s again (attempt %d of %d): %s",
                wait_s,
                verb,
                what,
                attempt,
                _ATTEMPTS,
                reason,
            )
            time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _error(
        self, verb: str, key: str, what: str, code: str, reason: str, attempts: int
    ) -> LocalTrainerError:
        if code in ("NoSuchKey", "ResourceNotFound"):
            return _not_found(self, key)
        if code == "NoSuchBucket":
            return NotFound(f"No bucket {self._bucket!r} at {self._endpoint}.")
        text = f"{what} ({self._endpoint})"
        if code in _EXPIRED_CODES:
            return CredentialsExpired(f"Cannot {verb} {text}: the credentials expired ({code}).")
        if code in _REFUSED_CODES:
            return AccessRefused(
                f"Cannot {verb} {text}: {code}: {reason} Check the credentials and what they allow."
            )
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        return StoreError(f"Cannot {verb} {text}{tried}: {code + ': ' if code else ''}{reason}")


def _part_bytes(size_bytes: int) -> int:
    """Return how large the parts of a file are that it is sent in."""
    return max(PART_BYTES, -(-size_bytes // _MOST_PARTS))


_TRANSIENT_CODES = (
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "XMinioServerNotInitialized",
)
_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_REFUSED_CODES = (
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
)


class _Meter(Thread):
    """Hands on how many bytes have arrived; the client asks for a thread, which never runs."""

    def __init__(self, count: Progress) -> None:
        super().__init__(daemon=True)
        self._count = count

    def set_meta(self, object_name: str, total_length: int) -> None:
        """Learn what is uploaded; nothing to do."""

    def update(self, size: int) -> None:
        """Count what has arrived."""
        self._count(size)


@contextmanager
def _counting(progress: Progress | None) -> Iterator[Progress]:
    """Yield a counter that takes back what it counted if the attempt fails."""
    counted = 0

    def count(size: int) -> None:
        nonlocal counted
        counted += size
        if progress is not None:
            progress(size)

    try:
        yield count
    except BaseException:
        if counted:
            count(-counted)
        raise


def _response_of(error: Any) -> tuple[str, str]:
    """Return code and message of an answer that is an error."""
    import minio.error

    # The client turns the codes it knows into classes of the same name.
    is_known = isinstance(error, minio.error.KnownResponseError)
    code = type(error).__name__ if is_known else str(getattr(error, "code", "") or "")
    message = str(getattr(error, "message", "") or error)
    return code, f"{one_line(message).rstrip('.')}."


def _plain_reason(error: Exception, endpoint: str) -> str:
    """Return why no answer came, without the addresses of objects in memory."""
    import urllib3.exceptions

    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return f"nobody answers at {endpoint}."
    text = str(error.args[-1] if error.args else error) or type(error).__name__
    return f"{one_line(text).rstrip('.')}."


def _not_found(store: ObjectStore, key: str) -> NotFound:
    return NotFound(f"No object {key} at {store.location}.")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise NotFound(f"No file {path} to upload.")


def _copy(source: Path, target: Path, progress: Progress | None) -> None:
    with (
        _counting(progress) as count,
        source.open("rb") as file,
        appearing(target, _PART_PREFIX) as copy,
    ):
        while chunk := file.read(_CHUNK):
            copy.write(chunk)
            count(len(chunk))


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty
        return False
    return True
