"""A sweep on disk: its settings, copies of the user's files, and how each trial stands.

``sweeps/<name>/`` holds the sweep; its trials are ordinary runs in the runs folder. A sweep that
was interrupted goes on from here alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from local_trainer.config import FilesConfig, save_config
from local_trainer.config_keys import read_yaml_mapping
from local_trainer.errors import ConfigError, NotFound, unknown_name
from local_trainer.run_files import find_user_file
from local_trainer.runs import Run, write_atomically
from local_trainer.sweep.config import FILE_KEYS, Point, SweepConfig, check_sweep, trial_config

DEFAULT_SWEEPS_DIR = Path("sweeps")
_STATE_FILE = "sweep.json"


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep, as it is kept."""

    number: int
    """From 1."""
    run: str
    values: dict[str, Any]
    """Full key -> value of what varies; files by the user's names for them."""
    seed: int
    state: str = "waiting"
    """``waiting``, ``running``, ``finished``, ``stopped`` or ``failed``."""
    reason: str = ""
    """One line."""
    created: str = ""
    """When its run was made, as the run's status says; empty before."""
    place: str = ""
    num_restarts: int = 0
    score: float | None = None

    @property
    def has_ended(self) -> bool:
        """Return whether resuming the sweep leaves it as it is."""
        return self.state in ("finished", "stopped", "failed")


@dataclass(frozen=True)
class SweepState:
    """What ``sweep.json`` holds."""

    name: str
    created: str
    """UTC, ISO 8601."""
    runs_dir: str
    """Absolute path."""
    num_trials: int
    files: dict[str, str]
    """The user's name of a file -> its copy's name in the folder ``files``."""
    trials: tuple[Trial, ...]
    minutes: float = 0.0
    """Of all starts of the sweep."""


class Sweep:
    """One sweep's folder."""

    def __init__(self, path: Path) -> None:
        """Take the folder."""
        self.path = path

    @property
    def name(self) -> str:
        """Return the sweep's name."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """Return the sweep's settings, YAML."""
        return self.path / "sweep.yaml"

    @property
    def common(self) -> Run:
        """Return what stands for the run whose seed and rules hold for everybody's final laps."""
        return Run(self.path)

    @property
    def report_file(self) -> Path:
        """Return the HTML page."""
        return self.path / "report.html"

    @property
    def leaderboard_file(self) -> Path:
        """Return the leaderboard as JSON."""
        return self.path / "leaderboard.json"

    @property
    def runs_dir(self) -> Path:
        """Return the folder of its runs."""
        return Path(self.read_state().runs_dir)

    def read_config(self) -> SweepConfig:
        """Return the settings it was started with."""
        return check_sweep(read_yaml_mapping(self.config_file))

    def read_state(self) -> SweepState:
        """Return how it stands.

        Raises:
            NotFound: If the folder holds no sweep.
            ConfigError: If its state file is damaged.
        """
        path = self.path / _STATE_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            trials = tuple(Trial(**trial) for trial in data.pop("trials"))
            state = SweepState(trials=trials, **data)
        except FileNotFoundError:
            raise NotFound(f"{self.path} is not a sweep: it has no {_STATE_FILE}.") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(f"{path} is damaged.") from None
        if self.process_id() is not None:
            return state
        # What says that it runs, and nobody works on the sweep: it was interrupted.
        found = (replace(t, state="waiting") if t.state == "running" else t for t in trials)
        return replace(state, trials=tuple(found))

    def write_state(self, state: SweepState) -> None:
        """Replace the state."""
        write_atomically(self.path / _STATE_FILE, json.dumps(asdict(state), indent=2) + "\n")

    def run_of(self, trial: Trial) -> Run | None:
        """Return a trial's run if it is there, and is the one that the sweep made."""
        run = Run(self.runs_dir / trial.run)
        if not trial.created or not run.status_file.exists():
            return None
        return run if run.read_status().created == trial.created else None

    # Who works on it.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep; freed by the kernel however the process ends.

        Raises:
            ConfigError: If another process holds it.
        """
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"Sweep {self.name!r} is running; stop it first: local-trainer sweep stop "
                    f"{self.name}"
                ) from None
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
            os.truncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def process_id(self) -> int | None:
        """Return the process that works on the sweep, None if none does."""
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            text = os.read(descriptor, 32).decode()
            return int(text) if text.isdigit() else None
        finally:
            os.close(descriptor)

    # Requests to the process that works on it.

    def request_stop(self, trial: Trial) -> None:
        """Ask the process that works on the sweep to end one trial."""
        write_atomically(self.path / "stop" / trial.run, "")

    def take_requests(self) -> list[str]:
        """Return the runs of the trials that are to end, and forget the requests."""
        folder = self.path / "stop"
        found = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
        shutil.rmtree(folder, ignore_errors=True)
        return found

    # The user's files.

    def own_file(self, state: SweepState, name: str) -> str:
        """Return the path of the sweep's copy of a user's file."""
        return str((self.path / "files" / state.files[name]).resolve())

    def delete(self, runs: Sequence[Run] = ()) -> None:
        """Remove runs of the sweep, then its own folder; nobody can go on with it meanwhile.

        Raises:
            ConfigError: If it or one of the runs is running; nothing was deleted then.
        """
        with self.lock():
            if busy := [run.name for run in runs if run.is_locked()]:
                raise ConfigError(
                    f"Run {busy[0]!r} is running; stop it first. Nothing was deleted."
                )
            for run in runs:
                run.delete()
            _remove(self.path)


def create_sweep(
    config: SweepConfig,
    files: Mapping[str, Path],
    num_trials: int,
    sweeps_dir: Path,
    runs_dir: Path,
) -> Sweep:
    """Write a new sweep's folder, whole or not at all.

    Args:
        config: Its settings.
        files: The user's name of each file that its trials use -> the file.
        num_trials: How many trials it has.
        sweeps_dir: Folder of all sweeps.
        runs_dir: Folder of all runs.

    Raises:
        ConfigError: If there is a sweep of that name, or the folder cannot be written.
    """
    check_name(config.name, sweeps_dir, runs_dir)
    copies = {
        name: f"{number}-{path.name}" for number, (name, path) in enumerate(files.items(), start=1)
    }
    state = SweepState(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        runs_dir=str(runs_dir.resolve()),
        num_trials=num_trials,
        files=copies,
        trials=(),
    )
    sweeps_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=sweeps_dir))
    try:
        sweep = Sweep(temporary / config.name)
        (sweep.path / "files").mkdir(parents=True)
        for name, path in files.items():
            shutil.copyfile(path, sweep.path / "files" / copies[name])
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomically(sweep.config_file, text)
        first = Point({d.key: d.values[0] for d in config.dimensions}, config.seeds[0])
        save_config(trial_config(config, first), sweep.common.config_file)
        sweep.write_state(state)
        os.rename(sweep.path, sweeps_dir / config.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Sweep(sweeps_dir / config.name)


def check_name(name: str, sweeps_dir: Path, runs_dir: Path) -> None:
    """Refuse a name that a sweep has already, or whose first run is there.

    Raises:
        ConfigError: If it is taken.
    """
    if (sweeps_dir / name).exists():
        raise ConfigError(
            f"Sweep {name!r} exists already in {sweeps_dir}; go on with it (local-trainer sweep "
            f"resume {name}), delete it, or give another name."
        )
    if taken := sorted(runs_dir.glob(f"{name}-[0-9][0-9][0-9]*")):
        raise ConfigError(
            f"Run {taken[0].name!r} exists already in {runs_dir}; give the sweep another name."
        )


def user_files(config: SweepConfig) -> dict[str, Path]:
    """Return the user's files that a sweep's trials use, by the names the user gave them.

    Raises:
        NotFound: If one does not exist.
        ConfigError: If one is a folder.
    """
    names: dict[str, Path] = {}
    base = trial_config(config, Point({d.key: d.values[0] for d in config.dimensions}, 0))
    for key in FILE_KEYS:
        dimension = next((d for d in config.dimensions if d.key == key), None)
        values = dimension.values if dimension else [getattr(base.files, key.partition(".")[2])]
        for value in values:
            if value is not None:
                what = FilesConfig.model_fields[key.partition(".")[2]].description or key
                names[str(value)] = find_user_file(what.partition(",")[0].lower(), Path(str(value)))
    return names


def run_name(sweep: str, number: int) -> str:
    """Return the name of a trial's run."""
    return f"{sweep}-{number:03}"


def find_sweep(name: str, sweeps_dir: Path = DEFAULT_SWEEPS_DIR) -> Sweep:
    """Return the sweep of a name.

    Raises:
        NotFound: If there is none; names the nearest.
    """
    known = {sweep.name: sweep for sweep in list_sweeps(sweeps_dir)}
    if name in known:
        return known[name]
    if not known:
        raise NotFound(f"Unknown sweep {name!r}: {sweeps_dir} holds no sweeps yet.")
    raise NotFound(unknown_name("sweep", name, known))


def list_sweeps(sweeps_dir: Path = DEFAULT_SWEEPS_DIR) -> list[Sweep]:
    """Return all sweeps of a folder, newest first."""
    if not sweeps_dir.is_dir():
        return []
    found = [Sweep(path) for path in sweeps_dir.iterdir() if (path / _STATE_FILE).is_file()]
    found = [sweep for sweep in found if not sweep.path.is_symlink()]
    return sorted(found, key=lambda sweep: (sweep.read_state().created, sweep.name), reverse=True)


def changed(state: SweepState, trial: Trial) -> SweepState:
    """Return a state with one trial replaced or added."""
    trials = {one.number: one for one in state.trials} | {trial.number: trial}
    return replace(state, trials=tuple(trials[number] for number in sorted(trials)))


def _remove(folder: Path) -> None:
    """Take a folder away at once, then empty it; a link is never followed."""
    gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=folder.parent))
    try:
        os.rename(folder, gone / folder.name)
    finally:
        shutil.rmtree(gone, ignore_errors=True)
