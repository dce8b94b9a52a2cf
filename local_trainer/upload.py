"""Finished models on their way out: to any S3 bucket, or into the console.

An upload that was interrupted goes on where it ended: a small file in the run remembers what has
arrived, by content. It goes away with the end of the upload.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from local_trainer.checkpoints import Checkpoint, choose_checkpoint
from local_trainer.console_api import ConsoleError, ConsoleSession
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.runs import Run, write_atomically
from local_trainer.store import (
    CredentialsExpired,
    ObjectStore,
    Progress,
    is_s3_url,
    open_store,
    plain_files,
    resolve_endpoint,
)

NAME_PATTERN = r"[A-Za-z0-9-]{1,64}"
DESCRIPTION_PATTERN = r"[A-Za-z0-9 -]{1,255}"

_POLL_S = 5.0
_MOST_FAILED_POLLS = 5
_LEFT_OUT = (".gz", ".zip", ".DS_Store", "Thumbs.db", "desktop.ini")
"""How the names of files end that the console's own page does not upload."""

_POINTERS = ("model/deepracer_checkpoints.json", "model/.coach_checkpoint")
"""What readers look for first goes up last."""

_NOT_THE_MODEL = re.compile(
    r"(steps|resume|logs|export|upload|(\d+/)?training-simtrace|imported)/|evaluation-[^/]*/.*simtrace/"
    r"|\.run\.lock$|failure\.json$|model/\..*\.ckpt"
)


@dataclass(frozen=True)
class UploadReport:
    """What an upload came to."""

    location: str
    num_files: int
    num_bytes: int
    num_skipped: int
    """Files that had arrived before an interruption."""


@dataclass(frozen=True)
class ConsoleUpload:
    """What became of a model in the console."""

    model_id: str
    model_name: str
    status: str
    url: str
    files: UploadReport


@dataclass
class UploadState:
    """What has arrived so far, kept in a file."""

    path: Path
    target: str
    prefix: str = ""
    """Below the target; made once an upload."""
    model_id: str = ""
    """The console's name of the model, once it was asked to import it."""
    content: str = ""
    """SHA-256 of all files of a console export: a name alone may stand for another model."""
    arrived: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the content by key."""

    @staticmethod
    def load(run: Run, target: str) -> UploadState:
        """Return where an upload to a target stands; a new or damaged state is at its begin."""
        digest = hashlib.sha256(target.encode()).hexdigest()[:12]
        path = run.path / "upload" / f"{digest}.json"
        state = UploadState(path, target)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            arrived = {str(key): str(value) for key, value in data["arrived"].items()}
            if data["target"] == target:
                state = UploadState(
                    path,
                    target,
                    str(data["prefix"]),
                    str(data["model_id"]),
                    str(data["content"]),
                    arrived,
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return state

    def save(self) -> None:
        """Write the state."""
        data = {key: value for key, value in asdict(self).items() if key != "path"}
        write_atomically(self.path, json.dumps(data, indent=2) + "\n")

    def remove(self) -> None:
        """Forget the upload."""
        self.path.unlink(missing_ok=True)
        for left in self.path.parent.glob(f".{self.path.name}.*"):
            left.unlink(missing_ok=True)  # what a process that was killed while it wrote left
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def upload_run(
    run: Run,
    location: str,
    which: str | None = None,
    endpoint: str | None = None,
    is_everything: bool = False,
    progress: Callable[[int], Progress] | None = None,
) -> UploadReport:
    """Write a run's model to a bucket, under the keys of the service's own object store.

    Args:
        run: Whose model.
        location: ``s3://bucket/prefix``.
        which: ``best``, ``last`` or a number: only this checkpoint. None: best and last.
        endpoint: S3 server; see `local_trainer.store.open_store`.
        is_everything: Whether records and what resuming needs go too, and every checkpoint.
        progress: Is told all bytes, returns what is told how many have arrived.

    Raises:
        ConfigError: If the run is running or the location is not allowed.
        NotFound: If there is no such checkpoint or bucket.
        StoreError: If the store refuses.
    """
    if not is_s3_url(location):
        raise ConfigError(f"An upload goes to s3://bucket/prefix, got {location!r:.80}.")
    store = open_store(location, endpoint)
    with run.lock():
        files = _run_files(run, which, is_everything)
        target = f"{store.location} {resolve_endpoint(endpoint)} {which} {is_everything}"
        state = UploadState.load(run, target)
        report = _send(files, lambda: store, "", state, progress)
        state.remove()
    return report


def upload_to_console(
    run: Run,
    folder: Path,
    session: ConsoleSession,
    name: str,
    description: str | None = None,
    endpoint: str | None = None,
    progress: Callable[[int], Progress] | None = None,
    say: Callable[[str], None] = lambda text: None,
    most_minutes: float = 30.0,
) -> ConsoleUpload:
    """Upload a console export, have it imported, and wait until it is.

    Args:
        run: Whose model; remembers an interrupted upload.
        folder: What `local_trainer.export.console.export_console` wrote.
        session: The console.
        name: What the model is to be called there.
        description: Text beside it.
        endpoint: S3 server that stands in for AWS.
        progress: As for `upload_run`.
        say: Is told each step.
        most_minutes: How long to wait for the import.

    Raises:
        ConfigError: If name or description is not allowed.
        ConsoleError: If the console refuses the request.
        RunFailed: If it could not import the model; gives its own message.
        StoreError: If the upload fails.
    """
    check_name(name, description)
    site = session.site
    files = {key: path for path, key in plain_files(folder) if not key.endswith(_LEFT_OUT)}
    state = _console_state(run, f"{site.url} {name}", files)
    report = UploadReport(f"s3://{site.bucket}/{state.prefix}", 0, 0, len(state.arrived))
    if not state.model_id:
        state.prefix = state.prefix or f"uploads/models/{uuid.uuid4()}"
        state.save()

        def store() -> ObjectStore:
            return open_store(
                f"s3://{site.bucket}",
                endpoint or f"https://s3.{site.region}.amazonaws.com",
                session.credentials,
                site.region,
            )

        report = _send(_in_order(files), store, f"{state.prefix}/", state, progress, session.renew)
        say(f"uploaded to {report.location}")
        state.model_id = session.import_model(state.prefix, name, description)
        state.save()
    say(f"the console imports it as {name} ({state.model_id})")
    try:
        status = _wait(session, state.model_id, most_minutes)
    except RunFailed:
        state.remove()
        raise
    state.remove()
    return ConsoleUpload(state.model_id, name, status, site.url, report)


def check_name(name: str, description: str | None = None) -> None:
    """Refuse a name or description that the console does not take.

    Raises:
        ConfigError: Says what is allowed.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            "A model's name in the console is 1 to 64 letters, digits and hyphens, "
            f"got {name!r:.80}."
        )
    if description and not re.fullmatch(DESCRIPTION_PATTERN, description):
        raise ConfigError(
            "A model's description in the console is at most 255 letters, digits, spaces and "
            f"hyphens, got {description!r:.80}."
        )


def _console_state(run: Run, target: str, files: dict[str, Path]) -> UploadState:
    """Return where the upload of these very files stands; that of other ones is forgotten."""
    lines = "".join(f"{key}\0{_digest(path)}\n" for key, path in sorted(files.items()))
    content = hashlib.sha256(lines.encode()).hexdigest()
    state = UploadState.load(run, target)
    if state.content == content:
        return state
    return UploadState(state.path, target, content=content)


def _wait(session: ConsoleSession, model_id: str, most_minutes: float) -> str:
    """Return the status of an imported model once it is ready."""
    deadline = time.monotonic() + 60.0 * most_minutes
    failed = 0
    while True:
        try:
            model = session.model(model_id)
            failed = 0
        except ConsoleError:
            failed += 1
            if failed == _MOST_FAILED_POLLS:
                raise
            model = {"status": "IMPORTING"}
        status = str(model.get("status", ""))
        if status == "READY":
            return status
        if status not in ("IMPORTING", "QUEUED"):
            said = str(model.get("importErrorMessage") or f"its status is {status or 'missing'}")
            raise RunFailed(f"The console could not import the model: {said.rstrip('.')}.")
        if time.monotonic() >= deadline:
            raise ConsoleError(
                f"The console still imports the model {model_id} after {most_minutes:g} minutes; "
                "the same command goes on waiting."
            )
        time.sleep(_POLL_S)


def _run_files(run: Run, which: str | None, is_everything: bool) -> dict[str, Path]:
    """Return what goes up by key, pointers to checkpoints last."""
    model_dir = run.model_dir
    names = (which,) if which is not None else ("best", "last")
    chosen = {choose_checkpoint(model_dir, name) for name in names}
    files = {}
    for path, key in plain_files(run.path):
        is_record = _NOT_THE_MODEL.match(key) is not None
        if key.startswith("upload/") or key == ".run.lock" or (is_record and not is_everything):
            continue
        checkpoint = _checkpoint_of(key)
        if is_everything or checkpoint is None or checkpoint in {c.number for c in chosen}:
            files[key] = path
    return _in_order(files)


def _checkpoint_of(key: str) -> int | None:
    """Return the number of the checkpoint a file of the model folder belongs to."""
    name = key.removeprefix("model/")
    if name == key:
        return None
    graph = re.fullmatch(r"model_(\d+)\.pb", name)
    if graph is not None:
        return int(graph[1])
    try:
        return Checkpoint.parse(name.partition(".ckpt")[0] + ".ckpt").number
    except ValueError:
        return None


def _in_order(files: dict[str, Path]) -> dict[str, Path]:
    return dict(sorted(files.items(), key=lambda item: (item[0] in _POINTERS, item[0])))


def _send(
    files: dict[str, Path],
    open_it: Callable[[], ObjectStore],
    prefix: str,
    state: UploadState,
    progress: Callable[[int], Progress] | None,
    renew: Callable[[], None] | None = None,
) -> UploadReport:
    """Send files that have not arrived yet, one after the other; each is remembered."""
    digests = {key: _digest(path) for key, path in files.items()}
    left = {key: path for key, path in files.items() if state.arrived.get(key) != digests[key]}
    total = sum(path.stat().st_size for path in files.values())
    size = sum(path.stat().st_size for path in left.values())
    count = progress(total) if progress is not None else None
    if count is not None:
        count(total - size)
    location = ""
    for key, path in left.items():
        for store in _stores(open_it, renew):
            location = store.location
            try:
                store.upload(path, prefix + key, count)
            except CredentialsExpired:
                if renew is None:
                    raise
                continue
            break
        state.arrived[key] = digests[key]
        state.save()
    location = location or open_it().location
    where = f"{location}/{prefix}".rstrip("/")
    return UploadReport(where, len(left), size, len(files) - len(left))


def _stores(
    open_it: Callable[[], ObjectStore], renew: Callable[[], None] | None
) -> Iterator[ObjectStore]:
    """Yield a store, and once more one with new credentials.

    Raises:
        CredentialsExpired: If those have expired too.
    """
    yield open_it()
    if renew is not None:
        renew()
    yield open_it()
    raise CredentialsExpired("The console gives credentials that have expired already.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
