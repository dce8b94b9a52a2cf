"""A run on disk: where its files lie, what state it is in, and who is working on it.

A run is a folder; the keys below it are those of the service's object store, so that the
folder can be copied to a bucket as it is. Only `Run` knows the names.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

from local_trainer.errors import ConfigError, NotFound, unknown_name

DEFAULT_RUNS_DIR = Path("runs")


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, kept in its ``status.json``."""

    run: str
    job_name: str
    track: str
    status: str
    """``created``, ``running``, ``finished``, ``stopped`` or ``failed``; shown as ``interrupted``
    when the file says running but no process holds the run, ``damaged`` if it cannot be read."""
    created: str
    """UTC, ISO 8601."""
    updated: str
    reason: str = ""
    """Why it ended, one line."""
    iteration: int = 0
    episodes: int = 0
    steps: int = 0
    """Training steps so far."""
    minutes: float = 0.0
    """Minutes of training so far, over all resumptions."""
    best_checkpoint: str = ""
    best_progress_percent: float = 0.0
    best_lap_s: float | None = None


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    path: Path

    @property
    def name(self) -> str:
        """Return the run's name."""
        return self.path.name

    # What the launcher writes before the start.
    @property
    def config_file(self) -> Path:
        """Return the resolved configuration, YAML."""
        return self.path / "config.yaml"

    @property
    def reward_file(self) -> Path:
        """Return the reward function."""
        return self.path / "reward_function.py"

    @property
    def metadata_file(self) -> Path:
        """Return the action space and sensors."""
        return self.path / "model_metadata.json"

    @property
    def hyperparameters_file(self) -> Path:
        """Return the hyperparameters as the trainer uses them."""
        return self.path / "ip" / "hyperparameters.json"

    @property
    def training_params_file(self) -> Path:
        """Return the simulator's parameters in the service's YAML form."""
        return self.path / "training_params.yaml"

    @property
    def route_file(self) -> Path:
        """Return the track as a route array: a run does not change when a track file does."""
        return self.path / "route.npy"

    @property
    def tracks_file(self) -> Path:
        """Return the list of a run's tracks if they are several, JSON; routes lie beside it."""
        return self.path / "routes" / "tracks.json"

    @property
    def preset_file(self) -> Path:
        """Return the user's Coach preset, if there is one."""
        return self.path / "presets" / "preset.py"

    @property
    def environment_file(self) -> Path:
        """Return the user's environment, if there is one."""
        return self.path / "environments" / "deepracer_racetrack_env.py"

    # What the trainer writes.
    @property
    def model_dir(self) -> Path:
        """Return the folder of checkpoints and frozen graphs."""
        return self.path / "model"

    @property
    def progress_file(self) -> Path:
        """Return the event log (`local_trainer.progress`)."""
        return self.path / "progress.jsonl"

    @property
    def log_file(self) -> Path:
        """Return the log with the service's line formats."""
        return self.path / "logs" / "training.log"

    @property
    def notices_file(self) -> Path:
        """Return what a run in the container stack waited for, one line each."""
        return self.path / "logs" / "notices.log"

    @property
    def evaluation_notices_file(self) -> Path:
        """Return what its evaluations in the container stack waited for, one line each."""
        return self.path / "logs" / "evaluation-notices.log"

    @property
    def failure_file(self) -> Path:
        """Return what ended a failed run."""
        return self.path / "failure.json"

    @property
    def training_metrics_file(self) -> Path:
        """Return the training metrics in the service's form."""
        return self.path / "metrics" / "TrainingMetrics.json"

    def training_trace_file(self, iteration: int, track: int | None = None) -> Path:
        """Return the step trace of one iteration; with several tracks, of one of them.

        Tracks have folders by their number, as workers have on the service.
        """
        folder = self.path if track is None else self.path / str(track)
        return folder / "training-simtrace" / f"{iteration}-iteration.csv"

    def steps_file(self, phase: str, iteration: int) -> Path:
        """Return the exact steps of one iteration (`local_trainer.episodes`)."""
        return self.path / "steps" / f"{phase}-{iteration}.npz"

    @property
    def pictures_file(self) -> Path:
        """Return some pictures of the newest training episodes (`recorded_pictures`)."""
        return self.path / "steps" / "pictures.npy"

    @property
    def pretrained_dir(self) -> Path:
        """Return the folder of the checkpoint it begins with, where no other run can be seen."""
        return self.path / "pretrained"

    @property
    def plots_dir(self) -> Path:
        """Return the folder of pictures and videos."""
        return self.path / "plots"

    @property
    def report_file(self) -> Path:
        """Return the HTML page."""
        return self.path / "report.html"

    # State.
    @property
    def status_file(self) -> Path:
        """Return the state file."""
        return self.path / "status.json"

    def read_status(self) -> RunStatus:
        """Return the run's state; ``interrupted`` if it claims to run but nobody holds it.

        Raises:
            NotFound: If the folder holds no run.
        """
        try:
            data = json.loads(self.status_file.read_text(encoding="utf-8"))
            known = {field.name for field in fields(RunStatus)}
            status = RunStatus(**{key: value for key, value in data.items() if key in known})
        except FileNotFoundError:
            raise NotFound(f"{self.path} is not a run: it has no status.json.") from None
        except (ValueError, TypeError, AttributeError):
            # One damaged file must not hide the other runs.
            return RunStatus(self.name, self.name, "", "damaged", "", "", "status.json is damaged")
        if status.status == "running" and not self.is_locked():
            return RunStatus(**{**asdict(status), "status": "interrupted"})
        return status

    def write_status(self, status: RunStatus) -> None:
        """Replace the run's state."""
        write_atomically(self.status_file, json.dumps(asdict(status), indent=2) + "\n")

    def is_locked(self) -> bool:
        """Return whether a process works on the run right now."""
        try:
            with self.lock():
                return False
        except ConfigError:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run; the lock is freed by the kernel however the process ends.

        Raises:
            ConfigError: If another process holds it.
        """
        descriptor = os.open(self.path / ".run.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(
                f"Run {self.name!r} is running; stop it first or wait until it ends."
            ) from None
        with suppress(OSError):  # a full disk must not keep anybody from working on the run
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
        try:
            yield
        finally:
            os.close(descriptor)

    def holder(self) -> int | None:
        """Return the process on this machine that works on the run, None if there is none."""
        if not self.is_locked():
            return None
        pid, _, host = (self.path / ".run.lock").read_text(encoding="utf-8").partition(" ")
        return int(pid) if pid.isdigit() and host == socket.gethostname() else None

    def delete(self) -> None:
        """Remove the run's folder, out of sight in one step.

        Raises:
            ConfigError: If the run is running, or its path is a link to a folder elsewhere.
        """
        if self.path.is_symlink():
            raise ConfigError(f"{self.path} is a link to {self.path.resolve()}; name that folder.")
        with self.lock():
            # One level down: nobody listing the runs takes what is left of it for one.
            rubbish = Path(tempfile.mkdtemp(prefix=".deleted-", dir=self.path.parent))
            os.rename(self.path, rubbish / self.name)
        shutil.rmtree(rubbish)


def find_run(name: str, runs_dir: Path = DEFAULT_RUNS_DIR) -> Run:
    """Return the run of a name, or of a path to its folder.

    Raises:
        NotFound: If there is none; names the nearest.
    """
    for path in (runs_dir / name, Path(name)):
        if (path / "status.json").exists():
            return Run(path)
    known = [run.name for run in list_runs(runs_dir)]
    if not known:
        raise NotFound(f"Unknown run {name!r}: {runs_dir} holds no runs yet.")
    raise NotFound(unknown_name("run", name, known))


def list_runs(runs_dir: Path = DEFAULT_RUNS_DIR) -> list[Run]:
    """Return all runs of a folder, newest first."""
    if not runs_dir.is_dir():
        return []
    runs = [Run(path) for path in runs_dir.iterdir() if (path / "status.json").exists()]
    return sorted(runs, key=lambda run: (run.read_status().created, run.name), reverse=True)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a whole file or nothing: readers see the old or the new one."""
    with appearing(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def appearing(path: Path, prefix: str | None = None) -> Iterator[IO[bytes]]:
    """Yield a file that takes its name only when it is whole and on the disk.

    Args:
        path: The name; its folder is made, a file of that name replaced.
        prefix: What the file's name begins with until then; hidden and like ``path`` by default.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix or f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
