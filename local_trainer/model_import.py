"""A model made elsewhere becomes a run: settings mapped, reward and metadata kept, weights taken.

Everything that cannot be taken over is found before anything is written, and told at once. The
weights go in with `local_trainer.workers.importer`, a process of its own, since only that one
needs TensorFlow.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from local_trainer.actions import parse_action_space
from local_trainer.archives import DEFAULT_LIMITS, ArchiveLimits, is_archive, opened
from local_trainer.config import RunConfig, resolve_config
from local_trainer.config_keys import NAME_PATTERN
from local_trainer.environment import without_secrets
from local_trainer.errors import ConfigError, LocalTrainerError, NotFound, RewardFunctionError
from local_trainer.hyperparameters import hyperparameter_overrides
from local_trainer.model_source import ModelSource, SourceCheckpoint, find_model
from local_trainer.run_files import create_run, find_user_file
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, write_atomically
from local_trainer.store import LocalStore, ObjectStore, Progress, is_s3_url, open_store
from sim.track import Track
from sim.track_files import DEFAULT_TRACKS_DIR, load_route, load_track

DEFAULT_REWARD = "rewards/default.py"
DEFAULT_TRACK = "reinvent_base"
CAMERA = "FRONT_FACING_CAMERA"

_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
_USABLE_ACTIONS = [{"steering_angle": 0, "speed": 1}, {"steering_angle": 30, "speed": 1}]
_NOT_HERE = "not in the model"
_TRACK_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about an import; None leaves it to the model."""

    name: str | None = None
    """Name of the new run."""
    checkpoint: str | None = None
    """``best``, ``last`` or a number; None takes both."""
    track: str | None = None
    reward: Path | None = None
    endpoint: str | None = None
    """S3 server."""
    tracks_dir: Path = DEFAULT_TRACKS_DIR


DEFAULT_OPTIONS = ImportOptions()


@dataclass(frozen=True)
class ImportPlan:
    """What the importer process does: the weights to take, as a file between the two."""

    last: str
    """Path of a checkpoint without suffix, or of a frozen graph."""
    last_number: int
    last_steps: int
    is_frozen: bool
    best: str | None = None
    """Path of the best checkpoint, if it is another one."""
    best_number: int = 0
    best_steps: int = 0
    best_metric: float | None = None
    last_metric: float | None = None
    frozen_graph: str | None = None
    """The frozen policy that came with the last checkpoint, to compare with."""

    def to_json(self) -> str:
        """Return the plan's text."""
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> ImportPlan:
        """Return the plan of a text."""
        return ImportPlan(**json.loads(text))


@dataclass(frozen=True)
class ImportResult:
    """What the importer process found."""

    lacking: list[str]
    """The network's weights that the model does not hold; they begin afresh."""
    difference: float | None
    """Largest difference of a probability from the model's own frozen graph; None without one."""
    is_same_policy: bool = True

    def to_json(self) -> str:
        """Return the result's text."""
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> ImportResult:
        """Return the result of a text."""
        return ImportResult(**json.loads(text))


@dataclass(frozen=True)
class ImportedRun:
    """What an import came to."""

    run: Run
    source: str
    checkpoints: list[str]
    track: str
    notes: list[str]
    """What was not taken over as it was, one line each."""
    result: ImportResult


@dataclass
class _Mapping:
    """A model's settings on their way into a run's."""

    overrides: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    track: Track | None = None
    tracks: tuple[Track, ...] = ()
    """All of them if they are several, ``track`` first."""


def import_model(
    source: str | Path,
    options: ImportOptions = DEFAULT_OPTIONS,
    runs_dir: Path = DEFAULT_RUNS_DIR,
) -> ImportedRun:
    """Make a run of a model folder, archive or bucket prefix of DRfC, the console or simapp.

    Args:
        source: A path or ``s3://bucket/prefix``.
        options: What the user says about it.
        runs_dir: Folder of all runs.

    Returns:
        The run, which can be trained on, evaluated and exported.

    Raises:
        ConfigError: If there is no model, or parts of it are not supported; names all of them.
        NotFound: If there is nothing at the source.
        RewardFunctionError: If the model's reward function cannot be called here.
        LocalTrainerError: If the weights cannot be taken.
    """
    name = _run_name(source, options.name, runs_dir)
    with _opened(source, options.endpoint) as store:
        model = find_model(store, options.checkpoint)
        mapping = _map(model, options)
        if mapping.problems:
            raise ConfigError(
                f"{source} holds parts that cannot be imported: {'; '.join(mapping.problems)}."
            )
        return _write_run(str(source), name, model, mapping, options, runs_dir)


def _run_name(source: str | Path, name: str | None, runs_dir: Path) -> str:
    if name is None:
        last = str(source).rstrip("/").rsplit("/", 1)[-1]
        for suffix in _ARCHIVE_SUFFIXES:
            last = last.removesuffix(suffix)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "imported"
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            "A run's name is made of letters, digits, '.', '_' and '-' and begins with a letter "
            f"or digit, got {name!r:.80}."
        )
    if (runs_dir / name).exists():
        raise ConfigError(f"Run {name!r} exists already in {runs_dir}; choose another with --name.")
    return name


@contextmanager
def _opened(
    source: str | Path, endpoint: str | None, limits: ArchiveLimits = DEFAULT_LIMITS
) -> Iterator[ObjectStore]:
    """Yield the store that a model lies in; an archive is unpacked for as long."""
    if not is_s3_url(source):
        path = Path(source)
        if endpoint is not None:
            raise ConfigError(f"--endpoint goes with s3://bucket/prefix, got {source}.")
        if path.is_dir():
            yield LocalStore(path)
            return
        if not path.exists():
            raise NotFound(f"No model folder or archive {source}.")
        with opened(path, limits) as folder:
            yield LocalStore(folder)
        return
    url = str(source).rstrip("/")
    if not url.lower().endswith(_ARCHIVE_SUFFIXES):
        yield open_store(url, endpoint)
        return
    parent, _, key = url.rpartition("/")
    store = open_store(parent, endpoint)
    with tempfile.TemporaryDirectory(prefix="local-trainer-") as folder_name:
        archive = Path(folder_name, key)
        store.download(key, archive, _at_most(limits.archive_bytes, url))
        if not is_archive(archive):
            raise ConfigError(f"{source} must be a zip, tar or tar.gz, got something else.")
        with opened(archive, limits) as folder:
            yield LocalStore(folder)


def _at_most(most_bytes: int, source: str) -> Progress:
    """Return what ends a download that brings more than an archive may have."""
    arrived = 0

    def count(size: int) -> None:
        nonlocal arrived
        arrived += size
        if arrived > most_bytes:
            raise ConfigError(
                f"{source} must be an archive of at most {most_bytes >> 20} MiB, got more."
            )

    return count


# --- what the model says, in our words -------------------------------------------------------


def _map(model: ModelSource, options: ImportOptions) -> _Mapping:
    mapping = _Mapping()
    _map_metadata(model, mapping)
    _map_hyperparameters(model, mapping)
    params = _params(model, mapping)
    _map_params(params, mapping)
    _map_track(model, params, options, mapping)
    _refuse_values_out_of_range(mapping)
    if model.last.is_frozen:
        mapping.notes.append(
            "only the policy is in the model: the value network begins afresh, so that training "
            "on goes back a little at first"
        )
    return mapping


def unsupported_metadata(metadata: dict[str, Any]) -> list[str]:
    """Return each part of a ``model_metadata.json`` that this project has no place for."""
    parts: list[dict[str, Any]] = [
        {key: metadata[key]}
        for key in ("training_algorithm", "action_space_type", "neural_network", "version")
        if key in metadata
    ]
    sensors = metadata.get("sensor", [])
    is_honoured = not _is_old_version(metadata)
    if isinstance(sensors, list) and sensors and is_honoured:
        parts += [{"sensor": [name]} for name in sensors]
    elif "sensor" in metadata and is_honoured:
        parts.append({"sensor": sensors})
    problems = [_problem({"action_space": _USABLE_ACTIONS, **part}) for part in parts]
    actions = metadata.get("action_space")
    if isinstance(actions, list):
        problems += [_action_problem(index, entry) for index, entry in enumerate(actions)]
        repeats = (_USABLE_ACTIONS * len(actions))[: len(actions)]
        problems.append(_problem({"action_space": repeats}))
    else:
        problems.append(_problem({"action_space": actions}))
    return list(dict.fromkeys(problem for problem in problems if problem is not None))


def _problem(metadata: dict[str, Any]) -> str | None:
    try:
        parse_action_space(metadata)
    except ConfigError as error:
        return str(error).rstrip(".")
    return None


def _action_problem(index: int, entry: Any) -> str | None:
    problem = _problem({"action_space": [entry, *_USABLE_ACTIONS]})
    return None if problem is None else problem.replace("action_space[0]", f"action_space[{index}]")


def _is_old_version(metadata: dict[str, Any]) -> bool:
    try:
        return float(metadata["version"]) < 2.0
    except (KeyError, TypeError, ValueError):
        return False


def _map_metadata(model: ModelSource, mapping: _Mapping) -> None:
    try:
        metadata = model.read_json(model.metadata)
    except ConfigError as error:
        mapping.problems.append(str(error).rstrip("."))
        return
    mapping.problems += unsupported_metadata(metadata)
    if not mapping.problems and parse_action_space(metadata).sensors == ("observation",):
        mapping.notes.append(
            f"the sensor observation is called {CAMERA} here, and the version is 5; the original "
            "file is kept"
        )


def _metadata_bytes(model: ModelSource) -> bytes:
    """Return the run's ``model_metadata.json``: the model's own, its camera under our name."""
    data = model.read(model.metadata)
    metadata = model.read_json(model.metadata)
    if parse_action_space(metadata).sensors == (CAMERA,):
        return data
    # The camera's name is part of the network's names; the network here has but one.
    metadata |= {"sensor": [CAMERA], "version": "5"}
    return (json.dumps(metadata, indent=2) + "\n").encode()


def _map_hyperparameters(model: ModelSource, mapping: _Mapping) -> None:
    try:
        values = _hyperparameters(model)
    except ConfigError as error:
        mapping.problems.append(str(error).rstrip("."))
        return
    if not values:
        mapping.notes.append(f"hyperparameters are {_NOT_HERE}: the service's defaults are taken")
    if str(values.pop("stack_size", 1)) not in ("1", "1.0"):
        mapping.notes.append("stack_size is left out: the service too never used it")
    loss = values.get("loss_type")
    known = ("huber", "mean squared error", "mean_squared_error")
    if loss is not None and str(loss).strip().lower() not in known:
        values["loss_type"] = "mean squared error"
        mapping.notes.append(f"loss_type {loss!r:.40} means mean squared error, as in the service")
    for key, value in values.items():
        try:
            mapping.overrides |= hyperparameter_overrides({key: value})
        except ConfigError as error:
            mapping.problems.append(f"hyperparameter {str(error).rstrip('.')}")


_PRESET_NAMES = {
    "learning_rate": "lr",
    "batch_size": "batch_size",
    "optimization_epochs": "num_epochs",
    "discount": "discount_factor",
    "beta_entropy": "beta_entropy",
}
"""The original's preset key -> the service's."""

_HYPERPARAMETERS = (
    "batch_size",
    "beta_entropy",
    "discount_factor",
    "e_greedy_value",
    "epsilon_steps",
    "exploration_type",
    "loss_type",
    "lr",
    "num_episodes_between_training",
    "num_epochs",
    "stack_size",
    "term_cond_avg_score",
    "term_cond_max_episodes",
)


def _hyperparameters(model: ModelSource) -> dict[str, Any]:
    """Return the hyperparameters under the service's keys."""
    if model.hyperparameters is not None:
        values = model.read_json(model.hyperparameters)
        return {key: values[key] for key in _HYPERPARAMETERS if key in values}
    key = model.preset_hyperparameters
    if key is None:
        return {}
    values = model.read_json(key) if key.endswith(".json") else _assignments(key, model.read(key))
    return {_PRESET_NAMES[name]: value for name, value in values.items() if name in _PRESET_NAMES}


def _assignments(key: str, data: bytes) -> dict[str, Any]:
    """Return the ``name=value`` lines of a Python file, which is not run."""
    values = {}
    try:
        for node in ast.parse(data).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values[node.targets[0].id] = ast.literal_eval(node.value)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{key} must hold name=value lines: {error}.") from None
    return values


def _params(model: ModelSource, mapping: _Mapping) -> dict[str, Any]:
    """Return ``training_params.yaml``; of a list, which stands for several cars, its first."""
    if model.params is None:
        return {}
    try:
        params = model.read_yaml(model.params)
    except ConfigError as error:
        mapping.problems.append(str(error).rstrip("."))
        return {}
    single = {}
    for key, value in params.items():
        if isinstance(value, list) and key not in ("OBJECT_POSITIONS", "PARK_POSITIONS"):
            if len(value) > 1:
                mapping.notes.append(f"{key} is given for {len(value)} cars: the first is taken")
            value = value[0] if value else None
        single[key] = value
    return single


_PARAMS: dict[str, tuple[str, type]] = {
    "ALTERNATE_DRIVING_DIRECTION": ("alternate_direction", bool),
    "BEST_MODEL_METRIC": ("evaluation.best_metric", str),
    "CHANGE_START_POSITION": ("episodes.change_start_position", bool),
    "MIN_EVAL_TRIALS": ("evaluation.trials", int),
    "NUMBER_OF_REVERSE_COUNTS": ("episodes.reversed_steps", int),
    "REVERSE_DIR": ("reverse_direction", bool),
    "ROUND_ROBIN_ADVANCE_DIST": ("episodes.round_robin_advance", float),
    "START_POSITION_OFFSET": ("episodes.start_position_offset", float),
}
"""The service's simulator parameter -> (our key, type); each may be written as a text."""


def _map_params(params: dict[str, Any], mapping: _Mapping) -> None:
    for key, (name, kind) in _PARAMS.items():
        if params.get(key) is None:
            continue
        try:
            mapping.overrides[name] = _cast(params[key], kind)
        except ValueError:
            mapping.problems.append(f"{key} must be {_KINDS[kind]}, got {params[key]!r:.40}")
    race = params.get("RACE_TYPE", "TIME_TRIAL")
    if race != "TIME_TRIAL":
        mapping.notes.append(f"the race type {race} is left out: the road is empty here")
    if _is_true(params.get("ENABLE_DOMAIN_RANDOMIZATION")):
        mapping.notes.append(
            "ENABLE_DOMAIN_RANDOMIZATION is left out; see simulator.randomization for what can "
            "vary here"
        )
    if params.get("JOB_TYPE") == "EVALUATION":
        mapping.notes.append("the simulator's parameters are those of an evaluation")


_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def _cast(value: Any, kind: type) -> Any:
    text = str(value).strip()
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return kind(text)


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() == "true"


def _map_track(
    model: ModelSource, params: dict[str, Any], options: ImportOptions, mapping: _Mapping
) -> None:
    """Find the track, and which way round it is driven."""
    world = params.get("WORLD_NAME")
    try:
        if options.track is not None:
            mapping.track = load_track(options.track, options.tracks_dir)
            mapping.overrides["tracks"] = []
        elif model.tracks is not None:
            mapping.tracks = _own_tracks(model, model.tracks)
            mapping.track = mapping.tracks[0]
        elif world is not None and not re.fullmatch(_TRACK_NAME, str(world)):
            # A name, not a path: the file is someone else's.
            raise ValueError(f"WORLD_NAME must be a name, got {world!r:.80}")
        elif model.route is not None and world is not None:
            mapping.track = _own_route(model, str(world))
            _note_unknown(str(world), "route.npy", options, mapping)
        elif world is None:
            mapping.track = load_track(DEFAULT_TRACK, options.tracks_dir)
            mapping.notes.append(
                f"the track is {_NOT_HERE}: {DEFAULT_TRACK} is taken (--track chooses another)"
            )
        else:
            _find_world(str(world), params, options, mapping)
    except ValueError as error:
        reason = str(error).rstrip(".")
        mapping.problems.append(
            f"the track: {reason}; import its route (local-trainer track import) or choose "
            "another with --track"
        )
    if mapping.tracks:
        # Each keeps its own surface with its route.
        names = [track.name for track in mapping.tracks]
        mapping.overrides |= {"track": names[0], "tracks": names}
        for number, name in enumerate(names):
            _note_unknown(name, f"routes/{number}.npy", options, mapping)
    elif mapping.track is not None:
        name = options.track or mapping.track.name
        mapping.overrides |= {"track": name, "surface": mapping.track.surface}


def _note_unknown(world: str, file: str, options: ImportOptions, mapping: _Mapping) -> None:
    if not _is_known(world, options.tracks_dir):
        mapping.notes.append(
            f"the track {world} is not known here; this run has a copy ({file}), for "
            f"others save that as {world}.npy and import it (local-trainer track import)"
        )


def _own_tracks(model: ModelSource, key: str) -> tuple[Track, ...]:
    """Return the tracks of a run of several.

    Raises:
        ValueError: If the list is damaged, or names anything but routes beside it.
    """
    try:
        listed = [(one["name"], one["surface"], one["file"]) for one in json.loads(model.read(key))]
    except (KeyError, TypeError, ValueError, RecursionError):
        listed = []
    if not listed:
        raise ValueError(f"{key} must list the run's tracks")
    tracks = []
    with tempfile.TemporaryDirectory(prefix="local-trainer-") as folder:
        for name, surface, file in listed:
            route = posixpath.join(posixpath.dirname(key), str(file))
            # Names, not paths: the file may be someone else's.
            if not re.fullmatch(_TRACK_NAME, str(name)) or route not in model.sizes:
                raise ValueError(f"{key} must name routes beside it, got {name!r:.40} {file!r:.40}")
            (path,) = model.fetch([route], Path(folder))
            tracks.append(load_route(path, str(name), str(surface)))
    return tuple(tracks)


def _own_route(model: ModelSource, world: str) -> Track:
    assert model.route is not None
    with tempfile.TemporaryDirectory(prefix="local-trainer-") as folder:
        (path,) = model.fetch([model.route], Path(folder))
        return load_route(path, world)


def _is_known(world: str, tracks_dir: Path) -> bool:
    try:
        load_track(world, tracks_dir)
    except ValueError:
        return False
    return True


def _find_world(
    world: str, params: dict[str, Any], options: ImportOptions, mapping: _Mapping
) -> None:
    """Load a world of the service; ``_cw`` and ``_ccw`` are directions where no such route is."""
    found = re.fullmatch(r"(.+?)_(cw|ccw)", world)
    is_clockwise = None if found is None else found[2] == "cw"
    # The simulator puts the direction behind the name; a track of one direction has no such name.
    if found is None and _has_two_directions(world) and "TRACK_DIRECTION_CLOCKWISE" in params:
        is_clockwise = _is_true(params["TRACK_DIRECTION_CLOCKWISE"])
    try:
        suffix = "" if is_clockwise is None else "_cw" if is_clockwise else "_ccw"
        base = world if found is None else found[1]
        mapping.track = load_track(base + suffix, options.tracks_dir)
        return
    except ValueError:
        if is_clockwise is None:
            raise
    mapping.track = load_track(base, options.tracks_dir)
    is_reversed = bool(mapping.overrides.get("reverse_direction", False))
    if mapping.track.is_ccw == is_clockwise:
        mapping.overrides["reverse_direction"] = not is_reversed
    mapping.notes.append(
        f"{base}{suffix} is the route {base} "
        f"{'backwards' if mapping.track.is_ccw == is_clockwise else 'as it is'}"
    )


def _has_two_directions(world: str) -> bool:
    from local_trainer.export.console_tracks import CONSOLE_TRACKS

    return world in CONSOLE_TRACKS and len(CONSOLE_TRACKS[world][1]) > 1


def _refuse_values_out_of_range(mapping: _Mapping) -> None:
    for key, value in mapping.overrides.items():
        try:
            resolve_config(overrides={key: value}, profile="cloud")
        except LocalTrainerError as error:
            mapping.problems.append(str(error).rstrip("."))


# --- the run ---------------------------------------------------------------------------------


def _write_run(
    source: str,
    name: str,
    model: ModelSource,
    mapping: _Mapping,
    options: ImportOptions,
    runs_dir: Path,
) -> ImportedRun:
    """Write the run beside its place, put the weights in, and move it there in one step."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".import-", dir=runs_dir))
    try:
        run = _create(name, model, mapping, options, temporary, runs_dir)
        weights = temporary / ".weights"
        plan = _fetch_weights(model, weights)
        result = _put_weights_in(run, plan, temporary)
        notes = [*mapping.notes, *_result_notes(result)]
        checkpoints = list(dict.fromkeys(c.checkpoint.name for c in (model.best, model.last)))
        _keep_originals(run, source, model, checkpoints, notes)
        _write_status(run, source, model, mapping)
        run.failure_file.unlink(missing_ok=True)
        if (runs_dir / name).exists():
            raise ConfigError(f"Run {name!r} exists already in {runs_dir}.")
        os.rename(run.path, runs_dir / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    tracks = mapping.tracks or filter(None, [mapping.track])
    track = ", ".join(one.name for one in tracks)
    return ImportedRun(Run(runs_dir / name), source, checkpoints, track, notes, result)


def _create(
    name: str,
    model: ModelSource,
    mapping: _Mapping,
    options: ImportOptions,
    temporary: Path,
    runs_dir: Path,
) -> Run:
    inbox = temporary / ".files"
    inbox.mkdir()
    metadata = inbox / "model_metadata.json"
    metadata.write_bytes(_metadata_bytes(model))
    reward = _reward_file(model, options, inbox, mapping)
    try:
        return create_run(
            _config(name, model, mapping, runs_dir),
            temporary,
            reward_path=reward,
            actions=metadata,
            track=mapping.track,
            tracks=mapping.tracks,
        )
    except RewardFunctionError as error:
        text = str(error).replace(f"{inbox}/", "").rstrip(".")
        raise RewardFunctionError(
            f"The model's reward function cannot be called here: {text}. Choose another with "
            "--reward."
        ) from None


def _config(name: str, model: ModelSource, mapping: _Mapping, runs_dir: Path) -> RunConfig:
    home = (runs_dir / name).resolve()
    overrides = {
        **mapping.overrides,
        "run": name,
        "job_name": name,
        # So that another run can begin from this one's config.yaml alone.
        "files.reward": str(home / "reward_function.py"),
        "files.model_metadata": str(home / "model_metadata.json"),
    }
    if model.config is None:
        return resolve_config(overrides=overrides, profile="cloud")
    with tempfile.TemporaryDirectory(prefix="local-trainer-") as folder:
        path = Path(folder, "config.yaml")
        path.write_bytes(model.read(model.config))
        config = resolve_config(path)
        files = config.files
        if files.preset is not None or files.environment is not None:
            mapping.notes.append("its own Coach preset or environment is left out")
        # What it says of other files and runs is true where it was written only.
        clean = {"preset": None, "environment": None, "tracks_dir": "tracks"}
        base = config.model_dump(mode="json")
        base["files"] = {**base["files"], **clean}
        base["pretrained"] = {"run": None, "checkpoint": "best"}
        path.write_text(json.dumps(base), encoding="utf-8")  # JSON is YAML
        return resolve_config(path, overrides=overrides)


def _reward_file(
    model: ModelSource, options: ImportOptions, inbox: Path, mapping: _Mapping
) -> Path:
    if options.reward is not None:
        return find_user_file("reward function", options.reward)
    if model.reward is None:
        mapping.notes.append(
            f"the reward function is {_NOT_HERE}: {DEFAULT_REWARD} is taken (--reward chooses "
            "another)"
        )
        return find_user_file("reward function", Path(DEFAULT_REWARD))
    path = inbox / "reward_function.py"
    path.write_bytes(model.read(model.reward))
    return path


def _fetch_weights(model: ModelSource, folder: Path) -> ImportPlan:
    def fetched(checkpoint: SourceCheckpoint, place: str) -> str:
        paths = model.fetch(checkpoint.keys, folder / place)
        return str(paths[0]).removesuffix(".index")

    last, best = model.last, model.best
    graph = model.frozen_graph
    plan = ImportPlan(
        last=fetched(last, "last"),
        last_number=last.checkpoint.number,
        last_steps=last.checkpoint.steps,
        is_frozen=last.is_frozen,
        best_number=best.checkpoint.number,
        best_steps=best.checkpoint.steps,
        best_metric=best.metric,
        last_metric=last.metric,
        frozen_graph=None if graph is None else str(model.fetch([graph], folder / "graph")[0]),
    )
    if best.checkpoint == last.checkpoint:
        return plan
    return replace(plan, best=fetched(best, "best"))


def _put_weights_in(run: Run, plan: ImportPlan, folder: Path) -> ImportResult:
    """Start the importer and wait for it.

    Raises:
        LocalTrainerError: As the importer wrote down.
    """
    plan_file, result_file = folder / ".plan.json", folder / ".result.json"
    plan_file.write_text(plan.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "local_trainer.workers.importer", "--run", str(run.path)]
    command += ["--plan", str(plan_file), "--result", str(result_file)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=without_secrets()
    )
    if done.returncode == 0:
        return ImportResult.from_json(result_file.read_text(encoding="utf-8"))
    try:
        failure = json.loads(run.failure_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        last = done.stderr.strip().rsplit("\n", 1)[-1]
        failure = {"message": f"The importer ended with status {done.returncode}: {last}"}
    error = LocalTrainerError(str(failure["message"]))
    error.exit_status = int(failure.get("exit_status", 1))
    raise error


def _result_notes(result: ImportResult) -> list[str]:
    if result.is_same_policy:
        return []
    return [
        "the model's frozen graph is not the policy of its checkpoint (probabilities differ by up "
        f"to {result.difference:.2g}); the checkpoint was taken"
    ]


def _keep_originals(
    run: Run, source: str, model: ModelSource, checkpoints: list[str], notes: list[str]
) -> None:
    """Keep the model's own text files as they were, and where all came from."""
    folder = run.path / "imported"
    digests = {}
    prefix = f"{model.root}/" if model.root else ""
    for key in model.text_files:
        data = model.read(key)
        digests[key] = hashlib.sha256(data).hexdigest()
        write_atomically(folder / key.removeprefix(prefix), data)
    record = {
        "source": source,
        "checkpoints": checkpoints,
        "is_policy_only": model.last.is_frozen,
        "sha256": digests,
        "notes": notes,
    }
    write_atomically(folder / "import.json", json.dumps(record, indent=2) + "\n")


def _write_status(run: Run, source: str, model: ModelSource, mapping: _Mapping) -> None:
    last, best = model.last.checkpoint, model.best
    is_progress = mapping.overrides.get("evaluation.best_metric", "progress") == "progress"
    run.write_status(
        replace(
            run.read_status(),
            status="stopped",
            reason=f"imported from {source}",
            iteration=last.number,
            steps=last.steps,
            best_checkpoint=best.checkpoint.name,
            best_progress_percent=(best.metric or 0.0) if is_progress else 0.0,
        )
    )
