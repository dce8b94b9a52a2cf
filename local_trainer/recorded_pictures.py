"""A few of the pictures a run was trained on, on disk: what its model is tried out on later."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.errors import RunFailed
from local_trainer.runs import Run, write_atomically
from sim.simulator import CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX

NUM_PICTURES = 24
_SHAPE = (CAMERA_HEIGHT_PX, CAMERA_WIDTH_PX, 1)


def write_pictures(path: Path, episodes: Sequence[Episode]) -> None:
    """Write pictures spread evenly over all steps of episodes; replaces those before.

    Args:
        path: File to write, ``.npy``.
        episodes: With their pictures.
    """
    seen = [e.observations for e in episodes if e.observations is not None]
    ends = np.cumsum([len(pictures) for pictures in seen])
    if not len(ends):
        return
    steps = np.linspace(0, ends[-1] - 1, min(NUM_PICTURES, int(ends[-1]))).astype(int)
    owners = np.searchsorted(ends, steps, side="right")
    chosen = [seen[i][step - ends[i]] for i, step in zip(owners, steps, strict=True)]
    buffer = io.BytesIO()
    np.save(buffer, np.stack(chosen), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def read_pictures(path: Path) -> np.ndarray:
    """Return a file's pictures, shape (n, 120, 160, 1), uint8.

    Raises:
        RunFailed: If the file holds no such pictures.
    """
    got = "something else"
    # numpy's own message would advise loading a damaged file as pickles.
    with suppress(OSError, ValueError, EOFError), path.open("rb") as file:
        pictures: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        if pictures.dtype == np.uint8 and pictures.shape[1:] == _SHAPE and len(pictures):
            return pictures
        got = f"{pictures.dtype}, {pictures.shape}"
    raise RunFailed(
        f"{path} must hold camera pictures (uint8, n x 120 x 160 x 1), got {got}. Remove it, and "
        "an export draws its own."
    )


def recorded_pictures(run: Run) -> Path | None:
    """Return the file of a run's recorded pictures; None if it has none, as imported runs.

    Raises:
        RunFailed: If the file is damaged.
    """
    if not run.pictures_file.exists():
        return None
    read_pictures(run.pictures_file)
    return run.pictures_file
