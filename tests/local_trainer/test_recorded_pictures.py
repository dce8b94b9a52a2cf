from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driven import drive, oval

from local_trainer.episodes import Episode
from local_trainer.errors import RunFailed
from local_trainer.recorded_pictures import (
    NUM_PICTURES,
    read_pictures,
    recorded_pictures,
    write_pictures,
)
from local_trainer.runs import Run


def seen(count: int, first: int) -> Episode:
    """Return an episode whose pictures count from ``first`` in their grey."""
    grey = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None]
    return replace(drive(oval(), 0), observations=np.tile(grey, (1, 120, 160, 1)))


def test_pictures_are_spread_over_all_episodes(tmp_path: Path) -> None:
    blind = replace(drive(oval(), 0), observations=None)
    write_pictures(tmp_path / "p.npy", [seen(30, 0), blind, seen(1, 30), seen(60, 31)])
    greys = read_pictures(tmp_path / "p.npy")[:, 0, 0, 0].astype(int)
    assert len(greys) == NUM_PICTURES
    assert (greys[0], greys[-1]) == (0, 90)
    assert set(np.diff(greys)) <= {3, 4}


def test_fewer_steps_than_pictures_are_all_kept(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p.npy", [seen(2, 5), seen(1, 9)])
    assert read_pictures(tmp_path / "p.npy")[:, 7, 7, 0].tolist() == [5, 6, 9]


def test_nothing_seen_leaves_no_file(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p.npy", [replace(drive(oval(), 0), observations=None)])
    assert not (tmp_path / "p.npy").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got something else. Remove it"),
        (b"PK\x05\x06" + bytes(18), "got something else. Remove it"),  # an archive of none
        (b"\x93NUMPY no", "got something else. Remove it"),
        (np.zeros((2, 120, 160, 1), np.float32), r"uint8, n x 120 x 160 x 1\), got float32"),
        (np.zeros((2, 160, 120, 1), np.uint8), r"got uint8, \(2, 160, 120, 1\)"),
        (np.zeros((0, 120, 160, 1), np.uint8), r"got uint8, \(0, 120, 160, 1\)"),
        (np.array([{"a": 1}]), "got something else. Remove it"),
    ],
)
def test_a_file_of_anything_else_is_named(
    tmp_path: Path, content: bytes | np.ndarray, said: str
) -> None:
    run = Run(tmp_path)
    assert recorded_pictures(run) is None
    run.pictures_file.parent.mkdir()
    if isinstance(content, bytes):
        run.pictures_file.write_bytes(content)
    else:
        np.save(run.pictures_file, content)
    with pytest.raises(RunFailed, match=f"pictures.npy .*{said}"):
        recorded_pictures(run)
