"""Nothing leaves its folder, nothing harmful comes out, and what we write is always the same."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from local_trainer.archives import (
    ArchiveLimits,
    check_folder,
    is_archive,
    opened,
    unpack,
    write_tar_gz,
    write_zip,
)
from local_trainer.errors import ConfigError, NotFound

FILES: dict[str, bytes | Path] = {
    "model_metadata.json": b"{}",
    "agent/model.pb": bytes(range(256)) * 64,
}
SMALL = ArchiveLimits(total_bytes=100_000, file_bytes=60_000, files=10)


def tar_of(path: Path, *members: tarfile.TarInfo, content: bytes = b"", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zip_of(path: Path, name: str, content: bytes = b"x", mode: int = 0) -> Path:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def refusal(archive: Path, folder: Path, limits: ArchiveLimits = SMALL) -> str:
    """Return the line an archive is refused with, after checking that nothing is left of it."""
    with pytest.raises(ConfigError) as failure:
        unpack(archive, folder, limits)
    assert not any(folder.iterdir())
    assert {path.name for path in folder.parent.iterdir()} <= {archive.name, folder.name}
    assert "\n" not in str(failure.value)
    return str(failure.value)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("write", [write_tar_gz, write_zip])
def test_what_is_written_comes_out(
    write: Callable[[Path, dict[str, bytes | Path]], None], tmp_path: Path
) -> None:
    source = tmp_path / "source.pb"
    source.write_bytes(b"graph")
    write(tmp_path / "a", {**FILES, "from/file.pb": source})
    assert is_archive(tmp_path / "a")
    unpack(tmp_path / "a", tmp_path / "out")
    assert contents(tmp_path / "out") == {**FILES, "from/file.pb": b"graph"}


@pytest.mark.parametrize("write", [write_tar_gz, write_zip])
def test_the_same_files_give_the_same_bytes(
    write: Callable[[Path, dict[str, bytes | Path]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "first", FILES)
    source = tmp_path / "m.pb"
    source.write_bytes(b"".join([bytes(FILES["agent/model.pb"])]))  # type: ignore[arg-type]
    os.chmod(source, 0o755)
    os.utime(source, (0, 86_400))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    reordered: dict[str, bytes | Path] = {"agent/model.pb": source, "model_metadata.json": b"{}"}
    write(tmp_path / "elsewhere" / "second", reordered)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "elsewhere" / "second").read_bytes()


def test_plain_tars_and_names_with_a_dot_in_front_come_out(tmp_path: Path) -> None:
    folder = member("./agent", tarfile.DIRTYPE)
    archive = tar_of(tmp_path / "a.tar", member("."), content=b"")
    archive = tar_of(tmp_path / "a.tar", folder, member("./agent/model.pb"), content=b"g")
    unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {"agent/model.pb": b"g"}


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "C:/x", "a\\..\\x", "a\nb"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_elsewhere_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    archive = tar_of(path, member(name)) if kind == "tar" else zip_of(path, name)
    assert "must give each file" in refusal(archive, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "link", "what"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "a link"),
        (tarfile.SYMTYPE, "model.pb", "a link"),
        (tarfile.LNKTYPE, "model.pb", "a link"),
        (tarfile.CHRTYPE, "", "a device or pipe"),
        (tarfile.BLKTYPE, "", "a device or pipe"),
        (tarfile.FIFOTYPE, "", "a device or pipe"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(
    kind: bytes, link: str, what: str, tmp_path: Path
) -> None:
    archive = tar_of(tmp_path / "a.tar", member("good"), member("bad", kind, link))
    expected = f"a.tar must hold plain files and folders only, got {what}: 'bad'."
    assert refusal(archive, tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("mode", "what"), [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a device or pipe")]
)
def test_links_and_devices_in_a_zip_are_refused(mode: int, what: str, tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", "bad", b"/etc/passwd", mode | 0o777)
    assert f"got {what}: 'bad'" in refusal(archive, tmp_path / "out")


@pytest.mark.parametrize("write", [write_tar_gz, write_zip])
def test_bombs_are_refused(
    write: Callable[[Path, dict[str, bytes | Path]], None], tmp_path: Path
) -> None:
    write(tmp_path / "a", {"big": bytes(70_000)})
    assert "may hold files of at most" in refusal(tmp_path / "a", tmp_path / "out")
    write(tmp_path / "a", {name: bytes(40_000) for name in "abc"})
    assert "must come to at most" in refusal(tmp_path / "a", tmp_path / "out")
    write(tmp_path / "a", {str(number): b"" for number in range(11)})
    assert "must hold at most 10 files, got more" in refusal(tmp_path / "a", tmp_path / "out")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"big": bytes(1_000)})
    data = (tmp_path / "a.zip").read_bytes()
    lie = data.replace((1_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lie != data
    (tmp_path / "a.zip").write_bytes(lie)
    refusal(tmp_path / "a.zip", tmp_path / "out")


def test_a_tar_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = 2**32
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(10_000_000))
    assert "claims more than it may hold" in refusal(tmp_path / "a.tar.gz", tmp_path / "out")


def test_thousands_of_nested_headers_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) * 5000)
    refusal(tmp_path / "a.tar", tmp_path / "out", ArchiveLimits())


@pytest.mark.parametrize("write", [write_tar_gz, write_zip])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["samples/sample_0.pkl", "memory", "weights.PT"])
def test_a_pickle_is_refused(
    write: Callable[[Path, dict[str, bytes | Path]], None],
    protocol: int,
    name: str,
    tmp_path: Path,
) -> None:
    write(tmp_path / "a", {name: pickle.dumps([1], protocol)})
    assert f"must hold no pickle, which is a program in disguise, got '{name}'" in refusal(
        tmp_path / "a", tmp_path / "out"
    )


def test_weights_that_begin_like_a_pickle_come_out(tmp_path: Path) -> None:
    name = "model/0_Step-0.ckpt.data-00000-of-00001"
    write_zip(tmp_path / "a", {name: b"\x80\x04\x95"})
    unpack(tmp_path / "a", tmp_path / "out")


def test_a_name_twice_and_a_file_as_a_folder_are_refused(tmp_path: Path) -> None:
    twice = tar_of(tmp_path / "a.tar", member("x"), member("./x"))
    assert "holds './x' twice" in refusal(twice, tmp_path / "out")
    both = tar_of(tmp_path / "a.tar", member("x"), member("x/y"))
    assert "as a file and as a folder" in refusal(both, tmp_path / "out")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_of(tmp_path / "a.zip", "x").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "must not be encrypted, got 'x'" in refusal(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("write", [write_tar_gz, write_zip])
def test_damaged_archives_are_refused_wherever_they_are_cut(
    write: Callable[[Path, dict[str, bytes | Path]], None], tmp_path: Path
) -> None:
    write(tmp_path / "whole", {"a": bytes(1000), "b/c": os.urandom(500)})
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()
    for length in range(3, len(data) - 30, 11):
        (tmp_path / "a").write_bytes(data[:length])
        refusal(tmp_path / "a", tmp_path / "out", ArchiveLimits())


def test_flipped_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    for write in (write_tar_gz, write_zip):
        write(tmp_path / "whole", {"a": b"text" * 20, "b/c": b"more"})
        data = bytearray((tmp_path / "whole").read_bytes())
        for place in range(len(data)):
            changed = bytes(data[:place]) + bytes([data[place] ^ 0xFF]) + bytes(data[place + 1 :])
            (tmp_path / "a").write_bytes(changed)
            try:
                unpack(tmp_path / "a", tmp_path / f"{write.__name__}-{place}")
            except ConfigError as error:
                assert "\n" not in str(error)


def test_text_is_no_archive_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("hello")
    assert not is_archive(tmp_path / "a.zip")
    line = "a.zip must be a zip, tar or tar.gz, got something else."
    assert refusal(tmp_path / "a.zip", tmp_path / "out") == line
    with pytest.raises(NotFound, match="none.zip"):
        unpack(tmp_path / "none.zip", tmp_path / "new")


def test_a_folder_with_files_in_it_stays_as_it_is(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="empty folder"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"x"}


def test_a_folder_is_held_to_the_same_rules(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "agent").mkdir(parents=True)
    (folder / "agent" / "model.pb").write_bytes(b"g")
    check_folder(folder, SMALL)
    with opened(folder, SMALL) as found:
        assert found == folder
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="got a link: 'link'"):
        check_folder(folder, SMALL)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ConfigError, match="got a device or pipe: 'pipe'"):
        check_folder(folder, SMALL)
    (folder / "pipe").unlink()
    (folder / "a.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match="no pickle"):
        check_folder(folder, SMALL)


def test_an_opened_archive_is_gone_afterwards(tmp_path: Path) -> None:
    write_tar_gz(tmp_path / "a.tar.gz", FILES)
    with opened(tmp_path / "a.tar.gz") as folder:
        assert contents(folder) == FILES
    assert not folder.exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_zip(tmp_path / "a.zip", {"x": tmp_path / "missing"})
    assert list(tmp_path.iterdir()) == []
