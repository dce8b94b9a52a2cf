"""The exact steps of an iteration on disk, without pictures: one ``.npz``, no pickle.

Every number comes back bit for bit, so that a reward can be recomputed from a finished run.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from local_trainer.episodes import Episode
from local_trainer.errors import NotFound, RunFailed
from local_trainer.runs import Run, write_atomically
from sim.simulator import EpisodeRules, EpisodeStart
from sim.steps import STEP_DTYPE

FORMAT_VERSION = 1

_RULES_DTYPE = np.dtype(
    [
        ("max_steps", "i8"),
        ("max_resets", "i8"),
        ("off_track_penalty_s", "f8"),
        ("collision_penalty_s", "f8"),
        ("reversed_steps", "i8"),
        ("immobilized_steps", "i8"),
    ]
)
_HEADER_DTYPE = np.dtype(
    [
        ("num_steps", "i8"),
        ("iteration", "i8"),
        ("is_evaluation", "?"),
        ("has_probabilities", "?"),
        ("episode", "i8"),
        ("fraction", "f8"),
        ("is_reversed", "?"),
        ("lateral_offset_m", "f8"),
        ("yaw_offset_rad", "f8"),
        ("rules", _RULES_DTYPE),
    ]
)
assert _RULES_DTYPE.names == tuple(f.name for f in fields(EpisodeRules))


def write_steps(path: Path, episodes: Sequence[Episode]) -> None:
    """Write episodes as a whole; pictures are left out.

    Args:
        path: File to write or replace.
        episodes: In the order in which `read_steps` gives them back.

    Raises:
        ValueError: If the episodes' probabilities are for different numbers of actions.
    """
    probabilities = [e.probabilities for e in episodes if e.probabilities is not None]
    if len({p.shape[1] for p in probabilities}) > 1:
        raise ValueError(
            "episodes of one file must have one number of actions, got "
            f"{sorted({p.shape[1] for p in probabilities})}"
        )
    arrays = {
        "version": np.array(FORMAT_VERSION),
        "episodes": np.array([_header(e) for e in episodes], dtype=_HEADER_DTYPE),
        "actions": _join([e.actions for e in episodes], np.dtype("i4")),
        "rewards": _join([e.rewards for e in episodes], np.dtype("f8")),
        "wall_clock": _join([e.wall_clock for e in episodes], np.dtype("f8")),
        "probabilities": (
            np.concatenate(probabilities) if probabilities else np.zeros((0, 0), np.float32)
        ),
        **_columns(_join([e.steps for e in episodes], STEP_DTYPE)),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def read_steps(path: Path) -> list[Episode]:
    """Return the episodes of a file, without pictures.

    Raises:
        NotFound: If there is no such file.
        RunFailed: If the file is damaged or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        version = int(arrays["version"])
        if version != FORMAT_VERSION:
            raise RunFailed(f"{path} must have version {FORMAT_VERSION}, got {version}")
        return _split(arrays)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist: the run recorded no such steps.") from None
    except (ValueError, KeyError, EOFError, BadZipFile, ZlibError) as error:
        raise RunFailed(f"{path} is damaged: {error}") from error


def evaluation_steps_file(run: Run, stamp: str) -> Path:
    """Return where the laps of an evaluation lie (`metrics.evaluation_stamp`)."""
    return run.path / "steps" / f"evaluation-{stamp}.npz"


def newest_evaluation_steps(run: Run) -> Path | None:
    """Return the steps of the run's newest evaluation of its own, None if there was none."""
    # An in-training evaluation's file carries its iteration, never 14 digits.
    found = sorted(run.path.glob(f"steps/evaluation-{'[0-9]' * 14}.npz"))
    return found[-1] if found else None


def _header(episode: Episode) -> tuple[object, ...]:
    start, rules = episode.start, episode.start.rules
    return (
        len(episode.steps),
        episode.iteration,
        episode.phase == "evaluation",
        episode.probabilities is not None,
        start.episode,
        start.fraction,
        start.is_reversed,
        start.lateral_offset_m,
        start.yaw_offset_rad,
        tuple(getattr(rules, field.name) for field in fields(rules)),
    )


def _columns(steps: np.ndarray) -> dict[str, np.ndarray]:
    # A column compresses several times better than records, and an aligned record holds
    # padding bytes, which would be arbitrary.
    assert STEP_DTYPE.names is not None
    return {f"step_{name}": np.ascontiguousarray(steps[name]) for name in STEP_DTYPE.names}


def _join(parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)


def _split(arrays: dict[str, np.ndarray]) -> list[Episode]:
    assert STEP_DTYPE.names is not None
    headers = arrays["episodes"]
    steps = np.zeros(int(headers["num_steps"].sum()), STEP_DTYPE)
    for name in STEP_DTYPE.names:
        steps[name] = arrays[f"step_{name}"]
    episodes = []
    first = first_probability = 0
    for header in headers:
        last = first + int(header["num_steps"])
        probabilities = None
        if header["has_probabilities"]:
            end = first_probability + int(header["num_steps"])
            probabilities = arrays["probabilities"][first_probability:end]
            first_probability = end
        episodes.append(
            Episode(
                start=_start(header),
                phase="evaluation" if header["is_evaluation"] else "training",
                iteration=int(header["iteration"]),
                steps=steps[first:last],
                actions=arrays["actions"][first:last],
                rewards=arrays["rewards"][first:last],
                wall_clock=arrays["wall_clock"][first:last],
                probabilities=probabilities,
            )
        )
        first = last
    return episodes


def _start(header: np.void) -> EpisodeStart:
    rules = header["rules"]
    assert _RULES_DTYPE.names is not None
    return EpisodeStart(
        episode=int(header["episode"]),
        fraction=float(header["fraction"]),
        is_reversed=bool(header["is_reversed"]),
        lateral_offset_m=float(header["lateral_offset_m"]),
        yaw_offset_rad=float(header["yaw_offset_rad"]),
        rules=EpisodeRules(**{name: rules[name].item() for name in _RULES_DTYPE.names}),
    )
