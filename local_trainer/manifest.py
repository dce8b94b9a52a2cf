"""A run's certificate, ``manifest.json``: what it was made with, and the hash of all it made.

The trainer writes it when a start of training ends; going on with the run adds to it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from local_trainer.checkpoints import choose_checkpoint, first_weights
from local_trainer.config import RunConfig, load_config
from local_trainer.errors import LocalTrainerError, NotFound, RunFailed
from local_trainer.machine import cpu_features, cpu_name, gpus, has_fast_bf16, num_cpus
from local_trainer.runs import Run, find_run, write_atomically
from sim.simulator import STEPS_PER_SECOND

FORMAT_VERSION = 1
_PACKAGE = "local-trainer"
_SOURCES = ("sim", "local_trainer", "coach_presets")
_SOURCE_SUFFIXES = (".py", ".yaml", ".cc", ".hh", ".msg", ".srv")
"""Python and tracks, and what the simulator in the container is built from."""

_ARTEFACTS = (
    "config.yaml",
    "reward_function.py",
    "model_metadata.json",
    "route.npy",
    "routes/*",
    "training_params.yaml",
    "training_params_*.yaml",
    "multi_config.json",
    "status.json",
    "progress.jsonl",
    "training_metrics.json",
    "actions/*",
    "environments/*.py",
    "ip/*.json",
    "metrics/TrainingMetrics.json",
    "model/*.ckpt.*",
    "model/.coach_checkpoint",
    "model/*.json",
    "model/*.pb",
    "presets/*.json",
    "presets/*.py",
    "pretrained/*",
    "resume/*",
    "rewards/*.py",
    "steps/pictures.npy",
    "steps/training-*.npz",
    "training-simtrace/*.csv",
    "[0-9]*/training-simtrace/*.csv",
)
"""What training writes and nothing changes afterwards; plots, the page, logs and evaluations are
made anew by other commands. Evaluations in training have the number of their iteration."""

_INPUTS = (
    "config.yaml",
    "reward_function.py",
    "model_metadata.json",
    "route.npy",
    "routes/*",
    "presets/preset.py",
    "environments/*.py",
)
"""What a repetition is made from."""

_IN_TRAINING_EVALUATION = re.compile(r"steps/evaluation-\d{1,13}\.npz")


@dataclass(frozen=True)
class Environment:
    """What the numbers of a training depend on besides its settings."""

    code_version: str
    code_sha256: str
    """Of all source files of simulators, trainer and learning side."""
    python: str
    dependencies: dict[str, str]
    """Version by name, of all that the package needs."""
    processor: str
    processor_features_sha256: str
    threads: int
    uses_bf16: bool
    gpus: tuple[str, ...]
    """Those that the network ran on; empty: on the processor."""


@dataclass(frozen=True)
class Start:
    """One start of training, from the iteration it began with to the one it ended with."""

    began: str
    """UTC, ISO 8601."""
    ended: str
    first_iteration: int
    last_iteration: int
    status: str
    reason: str
    environment: Environment


@dataclass(frozen=True)
class StepTimes:
    """How long the steps of the training episodes took."""

    num_steps: int
    simulated_s: float
    """Of one step, by the simulator's clock; what a camera frame should take."""
    largest_deviation_s: float
    """Most that a step differed from it, penalties after a reset left out."""
    wall_median_s: float
    """Of one step of one car while all drive, by the machine's clock."""
    wall_p95_s: float
    wall_max_s: float


@dataclass(frozen=True)
class Artefact:
    """One file."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Manifest:
    """A run's certificate."""

    run: str
    seed: int
    iteration: int
    episodes: int
    steps: int
    simulator: dict[str, Any]
    """Backend, cars, workers, and whether other processes played the episodes."""
    first_weights: str | None
    """SHA-256 of another run's checkpoint that training began with."""
    starts: tuple[Start, ...]
    step_times: StepTimes | None
    artefacts: dict[str, Artefact]
    """By path in the run."""

    def to_json(self) -> str:
        """Return the manifest as JSON; `read_manifest` gives it back."""
        return json.dumps({"version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class Verification:
    """What became of a run since its training ended."""

    run: str
    num_artefacts: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    """Files of the kinds that training writes that the manifest does not know."""
    obstacles: tuple[str, ...]
    """Why a repetition on this machine need not come out bit for bit the same; empty: it will."""

    @property
    def is_whole(self) -> bool:
        """Return whether every artefact is as training left it."""
        return not (self.changed or self.missing or self.added)

    @property
    def is_repeatable(self) -> bool:
        """Return whether the run can be repeated bit for bit here."""
        return not self.obstacles


@dataclass(frozen=True)
class Comparison:
    """A run and its repetition."""

    run: str
    repetition: str
    same: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        """Return whether everything that can be the same is."""
        return bool(self.same) and not (self.different or self.missing)


def manifest_file(run: Run) -> Path:
    """Return where a run's manifest lies."""
    return run.path / "manifest.json"


def current_environment(config: RunConfig) -> Environment:
    """Return what a run's numbers would depend on if it were trained now."""
    on_gpu = [] if config.instance == "cpu" else gpus()
    uses_bf16 = config.precision != "fp32" and has_fast_bf16() and not on_gpu
    features = " ".join(sorted(cpu_features()))
    return Environment(
        code_version=metadata.version(_PACKAGE),
        code_sha256=code_sha256(),
        python=platform.python_version(),
        dependencies=dependencies(),
        processor=cpu_name(),
        processor_features_sha256=hashlib.sha256(features.encode()).hexdigest(),
        threads=config.threads or num_cpus(),
        uses_bf16=uses_bf16,
        gpus=tuple(gpu.name for gpu in on_gpu),
    )


@cache
def code_sha256() -> str:
    """Return the hash of our own source files and track definitions."""
    root = Path(__file__).parents[1]
    found = [
        path
        for package in _SOURCES
        for path in (root / package).rglob("*")
        if path.suffix in _SOURCE_SUFFIXES
    ]
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(f"{path.relative_to(root)}\0{_sha256(path)}\n".encode())
    return digest.hexdigest()


@cache
def dependencies() -> dict[str, str]:
    """Return the version of everything that the installed package needs, by name."""
    versions: dict[str, str] = {}
    pending = [_PACKAGE]
    while pending:
        name = pending.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # left out on purpose, or for another system
        normal = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if normal in versions:
            continue
        versions[normal] = distribution.version
        needed = [text for text in distribution.requires or () if "extra ==" not in text]
        pending += [re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in needed]
    versions.pop(_PACKAGE, None)
    return dict(sorted(versions.items()))


def write_manifest(run: Run, began: str, first_iteration: int, is_remote: bool = False) -> Manifest:
    """Write a run's manifest at the end of a start of training.

    Args:
        run: Its status and all other files are written.
        began: When this start began, UTC, ISO 8601.
        first_iteration: The checkpoint it went on from.
        is_remote: Whether rollout workers in other processes played the episodes.
    """
    config, status = load_config(run.config_file), run.read_status()
    start = Start(
        began=began,
        ended=status.updated,
        first_iteration=first_iteration,
        last_iteration=status.iteration,
        status=status.status,
        reason=status.reason,
        environment=current_environment(config),
    )
    before = read_manifest(run) if manifest_file(run).exists() else None
    manifest = Manifest(
        run=run.name,
        seed=config.seed,
        iteration=status.iteration,
        episodes=status.episodes,
        steps=status.steps,
        simulator={
            "backend": config.simulator.backend,
            "num_cars": config.simulator.num_cars,
            "workers": config.workers,
            "own_environment": run.environment_file.exists(),
            # Of any start: one is enough to be unlike a training in one process.
            "remote": is_remote or (before is not None and _was_remote(before)),
        },
        first_weights=_first_weights(config, run),
        starts=(*(before.starts if before is not None else ()), start),
        step_times=step_times(run),
        artefacts={name: _artefact(run.path / name) for name in artefact_names(run)},
    )
    write_atomically(manifest_file(run), manifest.to_json())
    return manifest


def read_manifest(run: Run) -> Manifest:
    """Return a run's manifest.

    Raises:
        NotFound: If it has none, because its first training has not ended.
        RunFailed: If it is damaged.
    """
    path = manifest_file(run)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("version")
        if version != FORMAT_VERSION:
            raise RunFailed(f"{path} must have version {FORMAT_VERSION}, got {version}.")
        times = data.pop("step_times")
        return Manifest(
            starts=tuple(_start(start) for start in data.pop("starts")),
            step_times=None if times is None else StepTimes(**times),
            artefacts={name: Artefact(**a) for name, a in data.pop("artefacts").items()},
            **data,
        )
    except FileNotFoundError:
        raise NotFound(
            f"Run {run.name!r} has no manifest: it is written when a training ends."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFailed(f"{path} is damaged: {error}.") from None


def artefact_names(run: Run) -> list[str]:
    """Return the paths of the artefacts that a run has now."""
    found = {
        str(path.relative_to(run.path))
        for pattern in _ARTEFACTS
        for path in run.path.glob(pattern)
        if path.is_file()
    }
    steps = (f"steps/{path.name}" for path in run.path.glob("steps/evaluation-*.npz"))
    found |= {name for name in steps if _IN_TRAINING_EVALUATION.fullmatch(name)}
    return sorted(found)


def verify(run: Run) -> Verification:
    """Return whether a run is as training left it, and can be repeated here.

    Raises:
        NotFound: If it has no manifest.
        RunFailed: If the manifest is damaged.
    """
    manifest = read_manifest(run)
    now = set(artefact_names(run))
    changed = [
        name
        for name, artefact in manifest.artefacts.items()
        if name in now and _artefact(run.path / name) != artefact
    ]
    missing = sorted(manifest.artefacts.keys() - now)
    added = sorted(now - manifest.artefacts.keys())
    return Verification(
        run=run.name,
        num_artefacts=len(manifest.artefacts),
        changed=tuple(changed),
        missing=tuple(missing),
        added=tuple(added),
        obstacles=tuple(_obstacles(run, manifest, changed + missing)),
    )


def compare_runs(run: Run, repetition: Run) -> Comparison:
    """Hold a run's weights, steps and metrics against those of its repetition."""
    names = [name for name in artefact_names(run) if _is_comparable(name)]
    same, different, missing = [], [], []
    for name in names:
        other = repetition.path / name
        if not other.exists():
            missing.append(name)
        elif _is_same(run.path / name, other):
            same.append(name)
        else:
            different.append(name)
    return Comparison(run.name, repetition.name, tuple(same), tuple(different), tuple(missing))


def step_times(run: Run) -> StepTimes | None:
    """Return how long the steps of the training episodes took, None if there were none."""
    simulated, wall = [], []
    for path in sorted(run.path.glob("steps/training-*.npz")):
        with np.load(path, allow_pickle=False) as data:
            lengths = data["episodes"]["num_steps"]
            clock, machine = data["step_sim_time"], data["wall_clock"]
            waits = data["step_pause_duration"]
        inside = np.ones(max(len(clock) - 1, 0), bool)
        inside[np.cumsum(lengths)[:-1] - 1] = False
        between = np.diff(clock)[inside]
        simulated.append(between[np.diff(waits)[inside] == 0.0])
        wall.append(np.diff(machine)[inside])
    if not simulated or not sum(map(len, simulated)):
        return None
    steps, walls = np.concatenate(simulated), np.concatenate(wall)
    frame_s = 1.0 / STEPS_PER_SECOND
    return StepTimes(
        num_steps=len(walls),
        simulated_s=float(np.mean(steps)),
        largest_deviation_s=float(np.abs(steps - frame_s).max()),
        wall_median_s=float(np.median(walls)),
        wall_p95_s=float(np.percentile(walls, 95)),
        wall_max_s=float(walls.max()),
    )


def _obstacles(run: Run, manifest: Manifest, broken: list[str]) -> list[str]:
    """Return why a repetition here need not be the same, a line each."""
    found = [
        f"{name} is not as it was"
        for name in broken
        if any(fnmatch(name, pattern) for pattern in _INPUTS)
    ]
    if run.read_status().status == "damaged":
        return [*found, "status.json is damaged"]
    if run.read_status().iteration != manifest.iteration:
        found.append(f"training went on after iteration {manifest.iteration} and was killed")
    try:
        config = load_config(run.config_file)
        here = current_environment(config)
        weights = _weights_for_repetition(config, run)
    except LocalTrainerError as error:
        return [*found, str(error)]
    if weights != manifest.first_weights:
        found.append(f"the run {config.pretrained.run!r} it began from has changed or is gone")
    for start in manifest.starts:
        found += _differences(start.environment, here)
    found += _circumstances(run, manifest)
    return list(dict.fromkeys(found))


def _circumstances(run: Run, manifest: Manifest) -> list[str]:
    """Return what in the way a run was trained a repetition need not give again."""
    found = []
    if manifest.simulator.get("own_environment"):
        found.append("it drove in an environment of your own, which may not repeat itself")
    if (run.path / "imported" / "import.json").exists():
        found.append("it went on from an imported model, and a repetition begins without that")
    if manifest.simulator.get("backend") == "gazebo":
        found.append("it drove in Gazebo, whose steps need not come out the same bit for bit")
    elif _was_remote(manifest):
        found.append("rollout workers in other processes played it, whose last bits may differ")
    return found


def _was_remote(manifest: Manifest) -> bool:
    return bool(manifest.simulator.get("remote"))


def _differences(then: Environment, here: Environment) -> list[str]:
    found = []
    if then.gpus or here.gpus:
        found.append("the network runs on a GPU, whose sums are not in a fixed order")
    for what, before, now in (
        ("the code", then.code_sha256, here.code_sha256),
        ("Python", then.python, here.python),
        ("the processor", then.processor, here.processor),
        ("the number of threads", then.threads, here.threads),
        ("the precision", _precision(then), _precision(here)),
    ):
        if before == now:
            continue
        shown = "" if what == "the code" else f": {before} then, {now} now"
        found.append(f"{what} differs{shown}")
    if then.processor == here.processor and (
        then.processor_features_sha256 != here.processor_features_sha256
    ):
        found.append("the processor's features differ")
    for name in sorted(then.dependencies.keys() | here.dependencies.keys()):
        before, now = then.dependencies.get(name, "none"), here.dependencies.get(name, "none")
        if before != now:
            found.append(f"{name} differs: {before} then, {now} now")
    return found


def _precision(environment: Environment) -> str:
    return "bf16" if environment.uses_bf16 else "fp32"


def _first_weights(config: RunConfig, run: Run) -> str | None:
    """Return the hash of the weights a run began with, None for random ones or if gone."""
    if config.pretrained.run is None:
        return None
    try:
        return _data_sha256(first_weights(run, config.pretrained))
    except NotFound:
        return None


def _weights_for_repetition(config: RunConfig, run: Run) -> str | None:
    """As `_first_weights`, but of the other run: a repetition has no copy of its own."""
    if config.pretrained.run is None:
        return None
    try:
        other = find_run(config.pretrained.run, run.path.parent)
        checkpoint = choose_checkpoint(other.model_dir, config.pretrained.checkpoint)
    except NotFound:
        return None
    return _data_sha256(checkpoint.prefix(other.model_dir))


def _data_sha256(prefix: Path) -> str:
    return _sha256(prefix.with_name(f"{prefix.name}{_DATA}"))


_DATA = ".data-00000-of-00001"


def _is_comparable(name: str) -> bool:
    """Return whether a repetition's file must be the same: no names or times of day in it."""
    folder = name.partition("/")[0]
    if folder == "pretrained":  # where the trainer lay, not what came out
        return False
    return (
        name.endswith((_DATA, ".pb"))
        or folder in ("steps", "routes")
        or name
        in (
            "reward_function.py",
            "model_metadata.json",
            "route.npy",
            "metrics/TrainingMetrics.json",
        )
    )


def _is_same(one: Path, other: Path) -> bool:
    if one.suffix != ".npz":
        return _artefact(one) == _artefact(other)
    with np.load(one, allow_pickle=False) as a, np.load(other, allow_pickle=False) as b:
        # The time of day is the one thing that must differ.
        names = set(a.files) - {"wall_clock"}
        return names == set(b.files) - {"wall_clock"} and all(
            a[name].tobytes() == b[name].tobytes() for name in names
        )


def _artefact(path: Path) -> Artefact:
    return Artefact(_sha256(path), path.stat().st_size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _start(data: dict[str, Any]) -> Start:
    environment = data.pop("environment")
    used = tuple(environment.pop("gpus"))
    return Start(**data, environment=Environment(**environment, gpus=used))
