"""Recorded driving, whoever recorded it: our own runs step by step, others' logs recomputed.

`read_recording` is the one way in. Own runs hold every reward parameter exactly; what a log of
another trainer lacks is measured again from pose and track (`local_trainer.lab.recompute`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np

from local_trainer.config import load_config
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError, NotFound
from local_trainer.lab.recompute import (
    LOGGED_FIELDS,
    RECOMPUTED_FIELDS,
    Agreement,
    agreements,
    recompute,
)
from local_trainer.lab.trace_files import TraceSet, find_traces
from local_trainer.lab.traces import Trace, parse_csv, parse_log
from local_trainer.run_files import load_run_track
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, find_run
from local_trainer.step_files import read_steps
from sim.track import Track
from sim.track_files import DEFAULT_TRACKS_DIR, list_tracks, load_track

_STEPS_FILE = re.compile(r"(training|evaluation)-(\d+)\.npz")
_STAMP_DIGITS = 14
"""Digits of an evaluation's time stamp; an iteration never has as many."""

_SAME_LENGTH_M = 0.011
"""Logs give a track's length to the centimetre."""

_DIRECTIONS = {"cw": "clockwise", "ccw": "counter-clockwise"}


@dataclass(frozen=True)
class Exactness:
    """Where the reward parameters of a recording come from."""

    exact: tuple[str, ...] = ()
    """Bit for bit as the reward function got them."""
    logged: tuple[str, ...] = ()
    """Taken from the log, rounded as it is."""
    recomputed: tuple[str, ...] = ()
    """Measured again from pose and track."""
    notes: tuple[str, ...] = ()
    """What was assumed or does not fit, a sentence each."""
    agreement: tuple[Agreement, ...] = ()
    """Recomputed against logged, where the log holds both."""


@dataclass(frozen=True)
class Recording:
    """Episodes on one track, with everything a reward function needs of them."""

    name: str
    source: Path
    track: Track
    """In row order."""

    episodes: list[Episode]
    """Without pictures, iteration by iteration: training before evaluation, then by number."""

    kind: str
    """``own run``, or what sort of log it is, e.g. ``trace log``."""

    exactness: Exactness = field(default_factory=Exactness)
    reward_file: Path | None = None
    """The reward function that made it, if the recording holds one."""

    comparable: list[np.ndarray] | None = None
    """For each episode the steps whose reward a reward function made, shape (T,), bool; None if
    all of them are. Services set some rewards themselves, and judge evaluations differently."""

    num_reward_processes: int = 1
    """How many reward processes shared the episodes, by number modulo this."""

    @property
    def is_exact(self) -> bool:
        """Return whether every parameter is as the reward function got it."""
        return bool(self.exactness.exact)

    @property
    def num_steps(self) -> int:
        """Return the number of steps of all episodes."""
        return sum(len(episode.steps) for episode in self.episodes)


def read_recording(
    source: str | Path,
    runs_dir: Path = DEFAULT_RUNS_DIR,
    tracks_dir: Path = DEFAULT_TRACKS_DIR,
    track: str | None = None,
) -> Recording:
    """Read an own run, by name or folder, or another trainer's log file, folder or archive.

    Args:
        source: Name of a run, or a path.
        runs_dir: Where own runs lie.
        tracks_dir: Where the user's tracks lie, for logs.
        track: Track of a log, instead of the one it names. Own runs bring theirs.

    Raises:
        NotFound: If there is nothing of that name, or it holds no steps.
        ConfigError: If a log is damaged or too large, or its track is not known.
        RunFailed: If the steps of an own run are damaged.
    """
    path = Path(source)
    for folder in (runs_dir / path, path):
        if (folder / "status.json").exists() and (folder / "steps").is_dir():
            return read_own_run(Run(folder))
    if path.exists():
        return _read_traces(path, tracks_dir, track)
    return read_own_run(find_run(str(source), runs_dir))


def read_own_run(run: Run) -> Recording:
    """Read all steps of a run of this trainer, bit for bit.

    Raises:
        NotFound: If the run recorded no steps.
        RunFailed: If a file is damaged.
    """
    files = _steps_files(run)
    if not files:
        raise NotFound(f"Run {run.name!r} has recorded no steps yet.")
    episodes = [episode for file in files for episode in read_steps(file)]
    config = load_config(run.config_file)
    return Recording(
        name=run.name,
        source=run.path,
        track=load_run_track(run),
        episodes=episodes,
        kind="own run",
        exactness=Exactness(exact=("all parameters",)),
        reward_file=run.reward_file if run.reward_file.is_file() else None,
        num_reward_processes=min(config.workers, config.ppo.episodes_between_training),
    )


def _read_traces(source: Path, tracks_dir: Path, track_name: str | None) -> Recording:
    found = find_traces(source)
    traces = [
        (file, (parse_csv if file.is_csv else parse_log)(file.text, file.name))
        for file in found.files
    ]
    track, notes = _track_of(source, found, [trace for _, trace in traces], tracks_dir, track_name)
    parts = []
    for file, trace in traces:
        iterations = (
            np.full(len(trace.rows), file.iteration)
            if file.iteration is not None
            else trace.rows["episode"] // found.episodes_an_iteration
        )
        parts.append(recompute(trace, track, file.phase, iterations))
    episodes = _numbered([episode for part in parts for episode in part.episodes])
    return Recording(
        name=source.resolve().name,
        source=source,
        track=track,
        episodes=episodes,
        kind=found.layout,
        exactness=Exactness(
            logged=LOGGED_FIELDS,
            recomputed=RECOMPUTED_FIELDS,
            notes=(*notes, *_notes([trace for _, trace in traces])),
            agreement=agreements(parts, track),
        ),
        reward_file=found.reward_file,
        comparable=[mask for part in parts for mask in part.comparable],
    )


def _track_of(
    source: Path, found: TraceSet, traces: list[Trace], tracks_dir: Path, name: str | None
) -> tuple[Track, list[str]]:
    """Return the track of a log and what is to be said about it."""
    length_m = float(np.median(np.concatenate([trace.rows["track_len"] for trace in traces])))
    wanted = name or found.world
    if wanted is None:
        fitting = _tracks_of_length(length_m, tracks_dir)
        hint = f"; {' and '.join(fitting)} would fit" if fitting else ""
        raise ConfigError(
            f"{source} does not say on which track it was driven: name it with --track "
            f"(its length is {length_m:.2f} m{hint})."
        )
    track, notes = _load_directed(wanted, tracks_dir)
    if abs(track.length_m - length_m) > _SAME_LENGTH_M:
        notes.append(
            f"the log's track is {length_m:.2f} m long, {track.name} here {track.length_m:.2f} m: "
            "import the service's route (track import) for exact values"
        )
    return track, notes


def _load_directed(name: str, tracks_dir: Path) -> tuple[Track, list[str]]:
    """Return a track; one named with a direction may be known without it only."""
    try:
        return load_track(name, tracks_dir), []
    except ValueError as error:
        base, _, way = name.rpartition("_")
        if way not in ("cw", "ccw"):
            raise ConfigError(str(error)) from None
        try:
            track = load_track(base, tracks_dir)
        except ValueError:
            raise ConfigError(str(error)) from None
    if track.is_ccw != (way == "ccw"):
        track = track.reverse()
    return track, [f"{name} is not known here: {base} was taken, driven {_DIRECTIONS[way]}"]


def _tracks_of_length(length_m: float, tracks_dir: Path) -> list[str]:
    return [
        info.name
        for info in list_tracks(tracks_dir)
        if not info.problem and abs(info.length_m - length_m) <= _SAME_LENGTH_M
    ]


def _numbered(episodes: list[Episode]) -> list[Episode]:
    """Return episodes with different numbers in each phase; workers count from 0 each."""
    numbers = [(episode.phase, episode.index) for episode in episodes]
    if len(set(numbers)) == len(numbers):
        return episodes
    counts = {"training": count(), "evaluation": count()}
    return [replace(e, start=replace(e.start, episode=next(counts[e.phase]))) for e in episodes]


def _notes(traces: list[Trace]) -> list[str]:
    """Return what was assumed in reading traces, a sentence each."""
    notes = []
    fields = "/".join(str(n) for n in sorted({trace.num_fields for trace in traces}))
    if any(trace.in_radians for trace in traces):
        notes.append(f"{fields} fields a step, angles in radians: steering is rounded to 0.6 deg")
    if any(trace.is_2019 for trace in traces):
        notes.append("sim_time is counted from the steps, 15 a second: the log holds wall time")
    if any(trace.is_sorted_out for trace in traces):
        notes.append("several workers' lines were mixed: told apart by episode, step and place")
    if skipped := sum(trace.num_skipped for trace in traces):
        notes.append(f"{skipped} damaged trace rows were left out")
    return notes


def _steps_files(run: Run) -> list[Path]:
    """Return the files of exact steps in the order they were driven."""
    found = []
    for path in (run.path / "steps").glob("*.npz"):
        if match := _STEPS_FILE.fullmatch(path.name):
            is_final = len(match[2]) == _STAMP_DIGITS
            found.append((is_final, int(match[2]), match[1] == "evaluation", path))
    return [path for *_, path in sorted(found)]
