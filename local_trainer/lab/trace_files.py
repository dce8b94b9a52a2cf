"""Where the step traces lie in a log, a folder or an archive of the service and its relatives.

Archives are read in memory, entry by entry: nothing is unpacked to disk, links are passed over,
and sizes are bounded whatever the archive claims.
"""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from local_trainer.errors import ConfigError, NotFound
from local_trainer.lab.traces import has_trace_heading, has_trace_lines

MAX_FILE_BYTES = 512 * 2**20
"""Largest trace or log that is read."""

MAX_ARCHIVE_BYTES = 4 * 2**30
"""Most bytes an archive may unpack to, entries that are not read included."""

MAX_ENTRIES = 100_000
"""Most files in an archive or folder."""

_MAX_TAR_NAME_BYTES = 2**20
_ARCHIVE_NAMES = (".tar.gz", ".tgz", ".tar")
_LOG_SUFFIXES = (".log", ".txt", ".out", ".gz")
_SETTINGS_SUFFIXES = (".yaml", ".yml", ".json")
_MAX_SETTINGS_BYTES = 2**20

_CSV_NAME = re.compile(r"(\d+)-iteration\.csv")
_PHASE_FOLDER = re.compile(r"(training|evaluation)-simtrace")
_WORLD_NAME = re.compile(
    r"WORLD_NAME['\"]?\s*[:=]\s*\[?\s*['\"]?([A-Za-z0-9][A-Za-z0-9_.-]*)", re.ASCII
)
_CLOCKWISE = re.compile(r"TRACK_DIRECTION_CLOCKWISE['\"]?\s*[:=]\s*\[?\s*['\"]?(\w+)", re.ASCII)
_EPISODES_AN_ITERATION = re.compile(r"\"num_episodes_between_training\"\s*:\s*(\d{1,6})\b")


@dataclass(frozen=True)
class TraceFile:
    """One file of step traces."""

    name: str
    """Its path within the source, with forward slashes."""
    text: str
    is_csv: bool
    phase: str
    """``training`` or ``evaluation``."""
    iteration: int | None
    """Policy iteration; None for a log, whose episodes tell."""
    worker: int = 0


@dataclass(frozen=True)
class TraceSet:
    """Everything found in one source."""

    files: list[TraceFile]
    """In the order of reading: iterations, then workers; training before evaluation."""

    layout: str
    """What sort of source it is, in words."""

    world: str | None = None
    """Name of the track as the source gives it, direction suffix included."""

    episodes_an_iteration: int = 20
    reward_file: Path | None = None


def find_traces(source: Path) -> TraceSet:
    """Return the step traces of a log file, CSV file, folder or archive.

    Args:
        source: What to look into.

    Raises:
        NotFound: If there is no such file, or it holds no traces.
        ConfigError: If an archive is damaged, or anything is larger than the limits.
    """
    if source.is_dir():
        entries = list(_folder_entries(source))
    elif not source.is_file():
        raise NotFound(f"No recording {source}: neither a run nor a file or folder.")
    elif source.name.endswith(_ARCHIVE_NAMES):
        entries = list(_archive_entries(source))
    else:
        entries = [(source.name, _read_text(source))]
    files = _csv_files(entries) or _log_files(entries)
    if not files:
        raise NotFound(
            f"{source} holds no step traces: neither <n>-iteration.csv files nor logs with "
            "SIM_TRACE_LOG lines."
        )
    texts = [text for name, text in entries if not name.endswith(".csv")]
    return TraceSet(
        files=files,
        layout=_layout(source, files),
        world=_world(texts),
        episodes_an_iteration=_episodes_an_iteration(texts),
        reward_file=_reward_file(source),
    )


# --- what is in a source -----------------------------------------------------------------------


def _folder_entries(folder: Path) -> Iterator[tuple[str, str]]:
    count = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MAX_ENTRIES:
                raise ConfigError(f"{folder} must hold at most {MAX_ENTRIES:,} files, got more.")
            path = Path(parent) / name
            if _is_wanted(name, path.stat().st_size if path.is_file() else None):
                yield path.relative_to(folder).as_posix(), _read_text(path)


def _archive_entries(archive: Path) -> Iterator[tuple[str, str]]:
    try:
        with archive.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            unpacked = gzip.GzipFile(fileobj=file) if is_packed else file
            bounded = cast(IO[bytes], _Bounded(unpacked, archive))
            with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_CheckedEntry) as tar:
                yield from _tar_texts(tar, archive)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{archive} is not a whole tar.gz archive: {error}.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {archive}: {error}.") from None


def _tar_texts(tar: tarfile.TarFile, archive: Path) -> Iterator[tuple[str, str]]:
    for count, entry in enumerate(tar, start=1):
        if count > MAX_ENTRIES:
            raise ConfigError(f"{archive} must hold at most {MAX_ENTRIES:,} files, got more.")
        name = PurePosixPath(entry.name)
        if not entry.isreg() or entry.issparse() or not _is_wanted(name.name, entry.size):
            continue
        _check_size(f"{archive}: {entry.name}", entry.size)
        data = tar.extractfile(entry)
        if data is not None:
            yield str(name), _decode(entry.name, data.read(entry.size))


class _CheckedEntry(tarfile.TarInfo):
    """A tar header; one whose name or attributes would fill the memory is refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _CheckedEntry:
        entry = super().frombuf(buf, encoding, errors)
        is_name = entry.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if is_name and entry.size > _MAX_TAR_NAME_BYTES:
            raise tarfile.ReadError(f"a header of {entry.size:,} bytes")
        return entry


class _Bounded:
    """Reads on while less than the allowed bytes have come out."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, archive: Path) -> None:
        self._file = file
        self._archive = archive
        self._left = MAX_ARCHIVE_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ConfigError(
                f"{self._archive} must unpack to at most {MAX_ARCHIVE_BYTES / 2**30:g} GiB, "
                "got more."
            )
        return data


def _is_wanted(name: str, size: int | None) -> bool:
    """Return whether a file may hold traces or name the track."""
    if size is None:
        return False
    if name.endswith(_SETTINGS_SUFFIXES):
        return size <= _MAX_SETTINGS_BYTES
    return name.endswith((".csv", *_LOG_SUFFIXES)) and not name.endswith(_ARCHIVE_NAMES)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            _check_size(str(path), path.stat().st_size)
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if is_packed else file).read(MAX_FILE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{path} is not a whole gz file: {error}.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    _check_size(str(path), len(data))
    return _decode(path.name, data)


def _check_size(what: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ConfigError(f"{what} must have at most {MAX_FILE_BYTES / 2**20:g} MiB, got more.")


def _decode(name: str, data: bytes) -> str:
    if b"\0" in data[:4096]:
        return ""  # no text
    return data.decode("utf-8-sig", "replace")


# --- what the files are ------------------------------------------------------------------------


def _csv_files(entries: list[tuple[str, str]]) -> list[TraceFile]:
    found = []
    for name, text in entries:
        if not name.endswith(".csv") or not has_trace_heading(text):
            continue
        parts = PurePosixPath(name).parts
        folder = next(filter(None, map(_PHASE_FOLDER.fullmatch, parts)), None)
        match = _CSV_NAME.fullmatch(parts[-1])
        found.append(
            TraceFile(
                name,
                text,
                is_csv=True,
                phase=folder[1] if folder else "training",
                iteration=int(match[1]) if match else None,
                worker=_worker(parts),
            )
        )
    if any(_PHASE_FOLDER.search(file.name) for file in found):
        # Beside them the service may leave the same steps again, one file an episode.
        found = [file for file in found if file.iteration is not None]
    return sorted(found, key=_reading_order)


def _reading_order(file: TraceFile) -> tuple[bool, str, int, int, str]:
    is_evaluation = file.phase == "evaluation"
    # Evaluations lie in folders named after their time; workers' folders count the same laps.
    job = file.name.rpartition("/")[0] if is_evaluation else ""
    return is_evaluation, job, file.iteration or 0, file.worker, file.name


def _worker(parts: tuple[str, ...]) -> int:
    """Return the number of the folder above the traces' own, 0 if it has none."""
    for folder, below in zip(parts, parts[1:], strict=False):
        if folder.isascii() and folder.isdigit() and len(folder) < 4 and "simtrace" in below:
            return int(folder)
    return 0


def _log_files(entries: list[tuple[str, str]]) -> list[TraceFile]:
    found = []
    for name, text in entries:
        if name.endswith((".csv", *_SETTINGS_SUFFIXES)) or not has_trace_lines(text):
            continue
        is_evaluation = "evaluation" in name.lower() or ("Testing>" in text) > ("Training>" in text)
        phase = "evaluation" if is_evaluation else "training"
        found.append(TraceFile(name, text, is_csv=False, phase=phase, iteration=None))
    return sorted(found, key=lambda file: (file.phase == "evaluation", file.name))


def _layout(source: Path, files: list[TraceFile]) -> str:
    num_workers = len({file.worker for file in files})
    if not files[0].is_csv:
        what = "trace log" if len(files) == 1 else f"{len(files)} trace logs"
    elif len(files) == 1 and source.is_file() and source.suffix == ".csv":
        what = "trace CSV"
    elif any("sim-trace/" in f"/{file.name}" for file in files):
        what = "console traces"
    else:
        workers = f" of {num_workers} workers" if num_workers > 1 else ""
        what = f"trace CSVs{workers}"
    return f"{what} (archive)" if source.name.endswith(_ARCHIVE_NAMES) else what


def _world(texts: list[str]) -> str | None:
    for text in texts:
        if match := _WORLD_NAME.search(text):
            name = match[1]
            way = _CLOCKWISE.search(text)
            if way and not name.endswith(("_cw", "_ccw")):
                name += "_cw" if way[1].lower() == "true" else "_ccw"
            return name
    return None


def _episodes_an_iteration(texts: list[str]) -> int:
    for text in texts:
        if match := _EPISODES_AN_ITERATION.search(text):
            return max(1, int(match[1]))
    return 20  # the services' default


def _reward_file(source: Path) -> Path | None:
    if not source.is_dir():
        return None
    for name in ("reward_function.py", "custom_files/reward_function.py"):
        if (source / name).is_file():
            return source / name
    return None
