"""Archives from elsewhere unpacked safely, and archives of our own written byte for byte alike.

Nothing in an archive is trusted: only plain files and folders come out of one, below the folder
that was asked for, within limits, and never a pickle.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from local_trainer.errors import ConfigError, NotFound, one_line
from local_trainer.runs import appearing

_MIB = 2**20
_CHUNK = _MIB
_MOST_HEADER_BYTES = _MIB
"""A tar header that claims more is an attack: tarfile would read it into memory whole."""

_DEEPEST = 32
_LONGEST_PART = 255
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pk", ".joblib", ".pt", ".pth")
_NEVER_PICKLE = (".data-00000-of-00001", ".mp4", ".png", ".jpg", ".pb")
"""Binary files that may begin with any bytes, so that their first two say nothing."""

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    gzip.BadGzipFile,
    EOFError,
    RecursionError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


@dataclass(frozen=True)
class ArchiveLimits:
    """The most that comes out of an archive."""

    total_bytes: int = 1024 * _MIB
    """The console takes no larger model folder."""
    file_bytes: int = 512 * _MIB
    files: int = 5000

    @property
    def archive_bytes(self) -> int:
        """Return the most that an archive of as much can have itself."""
        # In a tar each file costs its header and padding; twice that leaves room for names.
        return self.total_bytes + 4 * 1024 * self.files + _MIB


DEFAULT_LIMITS = ArchiveLimits()


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip, tar or gzipped tar, judged by its content."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return False
    return head[:2] == b"\x1f\x8b" or head[:4] in (b"PK\x03\x04", b"PK\x05\x06") or _is_tar(head)


def unpack(path: Path, folder: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Unpack a zip, tar or gzipped tar from anywhere into a new folder.

    Args:
        path: The archive; its kind is told from its content.
        folder: Where to; must not exist, or be empty. Nothing stays in it after a failure.
        limits: The most that comes out.

    Raises:
        NotFound: If there is no such file.
        ConfigError: If it is no archive, is damaged, or holds anything but plain files and
            folders that belong below its own root: links, devices, absolute names, ``..``, a
            name twice, too much of anything, a pickle. One line.
    """
    if not path.is_file():
        raise NotFound(f"No archive {path}.")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"An archive is unpacked into an empty folder, got {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _unpack(path, folder, limits)
    except BaseException:
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        raise


def check_folder(folder: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Hold a folder from elsewhere to the rules of `unpack`; nothing is followed or changed.

    Raises:
        NotFound: If there is no such folder.
        ConfigError: If it breaks a rule.
    """
    if not folder.is_dir():
        raise NotFound(f"No folder {folder}.")
    guard = _Guard(str(folder), limits)
    for entry in _walk(folder):
        info = entry.stat(follow_symlinks=False)
        name = str(Path(entry.path).relative_to(folder))
        _refuse_kind(str(folder), name, info.st_mode)
        guard.admit(name, info.st_size, is_folder=stat.S_ISDIR(info.st_mode))
        if stat.S_ISREG(info.st_mode):
            with open(entry.path, "rb") as file:
                guard.refuse_pickle(name, file.read(2))


@contextlib.contextmanager
def opened(path: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> Iterator[Path]:
    """Yield a folder with what a model folder or archive holds; an unpacked one goes afterwards.

    Raises:
        NotFound: If there is nothing at the path.
        ConfigError: As `unpack` and `check_folder`.
    """
    if path.is_dir():
        check_folder(path, limits)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="local-trainer-") as folder:
        unpack(path, Path(folder), limits)
        yield Path(folder)


def write_tar_gz(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write a gzipped tar of plain files, whole or not at all.

    The same files give the same bytes whenever and wherever it is written (with the same zlib):
    sorted names, no times, no owners.

    Args:
        path: The archive.
        files: Content, or the file it is taken from, by name in the archive.
    """
    with (
        appearing(path) as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(files):
            with _content(files[name]) as (content, size):
                member = tarfile.TarInfo(name)
                member.size = size
                member.mode = 0o644
                archive.addfile(member, content)


def write_zip(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write a zip of plain files; otherwise as `write_tar_gz`."""
    with appearing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name)  # dated 1980, the format's first day
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            with _content(files[name]) as (content, size):
                member.file_size = size
                with archive.open(member, "w") as packed:
                    shutil.copyfileobj(content, packed, _CHUNK)


class _Guard:
    """Counts what comes out of one archive, and refuses what may not."""

    def __init__(self, archive: str, limits: ArchiveLimits) -> None:
        self.archive = archive
        self._limits = limits
        self._left = limits.total_bytes
        self._seen: dict[str, bool] = {}

    def admit(self, name: str, size: int, is_folder: bool) -> str:
        """Return a member's relative path after checking its name and size."""
        place = _safe_place(self.archive, name)
        if not place and is_folder:
            return place
        if not place or (place in self._seen and not (is_folder and self._seen[place])):
            raise self.refused(f"holds {_shown(name)} twice")
        self._seen[place] = is_folder
        if len(self._seen) > self._limits.files:
            raise self.refused(f"must hold at most {self._limits.files} files, got more")
        if not is_folder:
            self._take(name, size)
        return place

    def _take(self, name: str, size: int) -> None:
        if size > self._limits.file_bytes:
            most = self._limits.file_bytes / _MIB
            raise self.refused(
                f"may hold files of at most {most:g} MiB, got {_shown(name)} of {size / _MIB:,.0f}"
            )
        self._left -= size
        if self._left < 0:
            most = self._limits.total_bytes / _MIB
            raise self.refused(f"must come to at most {most:g} MiB unpacked, got more")

    def refuse_pickle(self, name: str, head: bytes) -> None:
        """Refuse a file that Python would run when it is read as an object."""
        lower = name.lower()
        # Protocols 2 to 5 begin with this mark and their number.
        is_marked = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        if lower.endswith(_PICKLE_SUFFIXES) or (is_marked and not lower.endswith(_NEVER_PICKLE)):
            raise self.refused(
                f"must hold no pickle, which is a program in disguise, got {_shown(name)}; "
                "leave it out"
            )

    def refused(self, why: str) -> ConfigError:
        """Return the error that names the archive."""
        return ConfigError(f"{self.archive} {why}.")


class _Bounded(io.RawIOBase):
    """A stream that gives no more than a tar of the limits can need, and no huge header."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset > self._most:
            raise tarfile.ReadError("it claims more than it may hold")
        return self._file.seek(offset)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= max(_CHUNK, _MOST_HEADER_BYTES) or self.tell() > self._most:
            raise tarfile.ReadError("it claims more than it may hold")
        return self._file.read(size)


def _unpack(path: Path, folder: Path, limits: ArchiveLimits) -> None:
    guard = _Guard(path.name, limits)
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        try:
            if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                _unpack_zip(file, folder, guard, limits)
            elif head[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    _unpack_tar(unpacked, folder, guard, limits)
            elif _is_tar(head):
                _unpack_tar(file, folder, guard, limits)
            else:
                raise ConfigError(f"{path.name} must be a zip, tar or tar.gz, got something else.")
        except ConfigError:
            raise
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        except OSError as error:
            # A zip that points outside itself.
            if error.errno != errno.EINVAL:
                raise
            raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path.name} is no whole archive: {one_line(error)}.")


def _unpack_tar(file: Any, folder: Path, guard: _Guard, limits: ArchiveLimits) -> None:
    bounded: Any = _Bounded(file, limits.archive_bytes)
    with tarfile.open(fileobj=bounded, mode="r:") as archive:
        for member in archive:
            is_plain = member.isreg() and not member.issparse()
            if not (is_plain or member.isdir()):
                raise _not_plain(guard, member.name, _tar_kind(member))
            place = guard.admit(member.name, member.size, member.isdir())
            if member.isdir():
                (folder / place).mkdir(parents=True, exist_ok=True)
                continue
            content = archive.extractfile(member)
            if content is not None:
                with content:
                    _write(folder / place, content, member.name, member.size, guard)
    # To the end: there gzip says whether all of it was as it was packed.
    while bounded.read(_CHUNK):
        pass


def _unpack_zip(file: IO[bytes], folder: Path, guard: _Guard, limits: ArchiveLimits) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for member in members:
            _refuse_kind(guard.archive, member.filename, member.external_attr >> 16)
            if member.flag_bits & 0x1:
                raise guard.refused(f"must not be encrypted, got {_shown(member.filename)}")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise guard.refused(
                    f"must be packed with deflate or not at all, got {_shown(member.filename)}"
                )
            place = guard.admit(member.filename, member.file_size, member.is_dir())
            if member.is_dir():
                (folder / place).mkdir(parents=True, exist_ok=True)
                continue
            with archive.open(member) as content:
                _write(folder / place, content, member.filename, member.file_size, guard)


def _write(path: Path, content: IO[bytes], name: str, size: int, guard: _Guard) -> None:
    """Write a member's content; it must be as long as was said and counted."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            left = size
            head = b""
            while chunk := content.read(_CHUNK):
                if not head:
                    head = chunk[:2]
                    guard.refuse_pickle(name, head)
                left -= len(chunk)
                if left < 0:
                    raise guard.refused(f"gives more than it says for {_shown(name)}")
                file.write(chunk)
            if left:
                raise guard.refused(f"ends within {_shown(name)}")
            guard.refuse_pickle(name, head)  # by its name, where there is no content
    except (FileExistsError, NotADirectoryError):
        raise guard.refused(f"uses {_shown(name)} as a file and as a folder") from None


def _safe_place(archive: str, name: str) -> str:
    """Return a member's path below the root, ``""`` for the root itself."""
    bad = None
    if not name or "\0" in name or any(ord(character) < 32 for character in name):
        bad = "a name without control characters"
    elif name.startswith(("/", "\\")) or name[1:2] == ":":
        bad = "a relative name"
    elif "\\" in name:
        bad = "a name with / between folders"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if bad is None and ".." in parts:
        bad = "a name below the archive's own root"
    if bad is None and (
        len(parts) > _DEEPEST or any(len(p.encode()) > _LONGEST_PART for p in parts)
    ):
        bad = "a shorter name"
    if bad is not None:
        raise ConfigError(f"{archive} must give each file {bad}, got {_shown(name)}.")
    return "/".join(parts)


def _refuse_kind(archive: str, name: str, mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "a device or pipe"
        raise ConfigError(
            f"{archive} must hold plain files and folders only, got {what}: {_shown(name)}."
        )


def _not_plain(guard: _Guard, name: str, what: str) -> ConfigError:
    return guard.refused(f"must hold plain files and folders only, got {what}: {_shown(name)}")


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link"
    return "a sparse file" if member.issparse() else "a device or pipe"


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))


@contextlib.contextmanager
def _content(source: bytes | Path) -> Iterator[tuple[IO[bytes], int]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
        return
    with source.open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size
