"""A run's checkpoints on disk: names, which one is best and last, what is kept.

The names and the two pointer files are the service's. What is inside a checkpoint is the
business of `coach_presets.checkpoints`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_trainer.errors import ConfigError, NotFound
from local_trainer.runs import Run, find_run, write_atomically

if TYPE_CHECKING:
    from local_trainer.config import PretrainedConfig

KEPT_NEWEST = 4
_NEWEST_FILE = ".coach_checkpoint"
"""Holds the newest checkpoint's name, for Coach."""

_SUFFIXES = (".index", ".meta", ".data-00000-of-00001")


@dataclass(frozen=True, order=True)
class Checkpoint:
    """One checkpoint's name: ``<number>_Step-<training steps>.ckpt``."""

    number: int
    """Policy iteration that it came out of; 0 is the untrained network."""

    steps: int
    """Training steps before it."""

    @property
    def name(self) -> str:
        """Return the name without folder."""
        return f"{self.number}_Step-{self.steps}.ckpt"

    def prefix(self, model_dir: Path) -> Path:
        """Return the path that TensorFlow's readers take."""
        return model_dir / self.name

    def files(self, model_dir: Path) -> list[Path]:
        """Return its three files."""
        return [model_dir / (self.name + suffix) for suffix in _SUFFIXES]

    def frozen_graph(self, model_dir: Path) -> Path:
        """Return the frozen policy that belongs to it."""
        return model_dir / f"model_{self.number}.pb"

    @staticmethod
    def parse(name: str) -> Checkpoint:
        """Return the checkpoint of a name.

        Raises:
            ValueError: If the name is none.
        """
        number, _, rest = name.partition("_Step-")
        if not (name.endswith(".ckpt") and number.isdigit() and rest[: -len(".ckpt")].isdigit()):
            raise ValueError(f"a checkpoint is named <number>_Step-<steps>.ckpt, got {name!r}")
        return Checkpoint(int(number), int(rest[: -len(".ckpt")]))


@dataclass(frozen=True)
class BestAndLast:
    """What ``deepracer_checkpoints.json`` says."""

    best: Checkpoint | None
    best_metric: float
    last: Checkpoint | None
    last_metric: float


def list_checkpoints(model_dir: Path) -> list[Checkpoint]:
    """Return the whole checkpoints of a model folder, oldest first."""
    found = []
    for index in model_dir.glob("*.ckpt.index"):
        try:
            checkpoint = Checkpoint.parse(index.name.removesuffix(".index"))
        except ValueError:
            continue
        if all(path.exists() for path in checkpoint.files(model_dir)):
            found.append(checkpoint)
    return sorted(found)


def write_pointers(model_dir: Path, pointers: BestAndLast) -> None:
    """Write ``deepracer_checkpoints.json`` and ``.coach_checkpoint``."""
    stamp = time.time()
    entries: dict[str, Any] = {}
    for key, checkpoint, metric in (
        ("best_checkpoint", pointers.best, pointers.best_metric),
        ("last_checkpoint", pointers.last, pointers.last_metric),
    ):
        if checkpoint is not None:
            entries[key] = {
                "name": checkpoint.name,
                "avg_eval_metric": metric,
                "time_stamp": stamp,
            }
    write_atomically(model_dir / "deepracer_checkpoints.json", json.dumps(entries))
    if pointers.last is not None:
        write_atomically(model_dir / _NEWEST_FILE, pointers.last.name)


def split_model(text: str) -> tuple[str, str]:
    """Return the run and the checkpoint of ``RUN@checkpoint``; an empty one of ``RUN`` alone.

    Raises:
        ConfigError: If one of the two is left out beside the ``@``.
    """
    name, at, checkpoint = text.rpartition("@")
    if not at or "/" in checkpoint:  # a folder with @ in its path
        return text, ""
    if not name or not checkpoint:
        raise ConfigError(f"A model is RUN, RUN@best, RUN@last or RUN@number, got {text!r}.")
    return name, checkpoint


def choose_checkpoint(model_dir: Path, which: str = "best") -> Checkpoint:
    """Return a run's checkpoint.

    Args:
        model_dir: The run's ``model`` folder.
        which: ``best``, ``last``, a number, or a name.

    Raises:
        NotFound: If there is no such checkpoint; names those there are.
    """
    known = list_checkpoints(model_dir)
    if not known:
        raise NotFound(f"{model_dir} holds no checkpoint yet.")
    if which in ("best", "last"):
        named = _pointed_at(model_dir, which)
        # Left out or gone: the service too takes the newest then.
        return named if named in known else known[-1]
    for checkpoint in known:
        if which in (checkpoint.name, str(checkpoint.number)):
            return checkpoint
    names = ", ".join(str(checkpoint.number) for checkpoint in known)
    raise NotFound(f"No checkpoint {which!r} in {model_dir}; allowed: best, last, {names}.")


def _pointed_at(model_dir: Path, which: str) -> Checkpoint | None:
    try:
        entries = json.loads((model_dir / "deepracer_checkpoints.json").read_text("utf-8"))
        return Checkpoint.parse(entries[f"{which}_checkpoint"]["name"])
    except (FileNotFoundError, KeyError, ValueError, TypeError):
        return None


def first_weights(run: Run, source: PretrainedConfig) -> Path:
    """Return the prefix of the checkpoint that a run begins with.

    Raises:
        NotFound: If the other run, or the checkpoint, does not exist.
    """
    if run.pretrained_dir.exists():
        return list_checkpoints(run.pretrained_dir)[-1].prefix(run.pretrained_dir)
    other = find_run(str(source.run), run.path.parent)
    return choose_checkpoint(other.model_dir, source.checkpoint).prefix(other.model_dir)


def bring_first_weights(run: Run, source: PretrainedConfig) -> None:
    """Copy the checkpoint that a run begins with into its folder.

    For a trainer that sees this run and no other.

    Raises:
        NotFound: If the other run, or the checkpoint, does not exist.
    """
    if source.run is None or run.pretrained_dir.exists():
        return
    prefix = first_weights(run, source)
    folder = Path(tempfile.mkdtemp(dir=run.path, prefix=".pretrained-"))
    for path in Checkpoint.parse(prefix.name).files(prefix.parent):
        shutil.copy2(path, folder)
    folder.chmod(0o755)
    folder.rename(run.pretrained_dir)


def remove_old(run: Run, best: Checkpoint | None) -> None:
    """Keep the newest four checkpoints and the best, and what resuming the newest two needs."""
    known = list_checkpoints(run.model_dir)
    for checkpoint in known[:-KEPT_NEWEST]:
        if checkpoint != best:
            for path in (*checkpoint.files(run.model_dir), checkpoint.frozen_graph(run.model_dir)):
                path.unlink(missing_ok=True)
    for state in list_states(run)[:-2]:
        for path in state_files(run, state.number):
            path.unlink(missing_ok=True)


def remove_unfinished(run: Run) -> None:
    """Remove what a killed process or a full disk left of a checkpoint that never was whole."""
    for folder in (run.model_dir, run.path / "resume"):
        for path in folder.glob(".*"):
            if path.name != _NEWEST_FILE:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class TrainerState:
    """Where training stands after an iteration; everything random follows from it and the seed."""

    number: int
    """Number of the checkpoint it belongs to: iterations finished."""
    steps: int
    """Training steps."""
    episodes: int
    """Training episodes."""
    evaluation_episodes: int
    seconds: float
    """Wall time of all starts together."""
    steady_evaluations: int
    """Evaluations in a row with every lap complete."""
    learning_rate: float | None = None
    """Of the next update, where it moves (``ppo.target_kl``)."""
    best: str | None = None
    """Name of the best checkpoint."""
    best_metric: float | None = None
    best_progress_percent: float = 0.0
    best_lap_s: float | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint it belongs to."""
        return Checkpoint(self.number, self.steps)


def state_files(run: Run, number: int) -> list[Path]:
    """Return what resuming from a checkpoint needs beside it: counters and optimizer."""
    folder = run.path / "resume"
    return [folder / f"{number}.json"] + [
        folder / f"{number}.ckpt{suffix}" for suffix in (".index", ".data-00000-of-00001")
    ]


def write_state(run: Run, state: TrainerState) -> None:
    """Write the counters; done last, so that they stand for a whole checkpoint."""
    write_atomically(state_files(run, state.number)[0], json.dumps(asdict(state), indent=2))


def list_states(run: Run) -> list[TrainerState]:
    """Return the states that training can resume from, oldest first."""
    states = []
    for path in (run.path / "resume").glob("*.json"):
        try:
            states.append(TrainerState(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError):
            continue
    return sorted(states, key=lambda state: state.number)
