"""A model made elsewhere, in a folder or bucket: which file is what, and which checkpoints count.

The layouts of DRfC, of the console (old and current), of simapp and of the 2019 original differ in
where a file lies, hardly in its name; so files are found by name, those nearest to the weights
first. Nothing is interpreted here beyond the pointers to the checkpoints.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local_trainer.checkpoints import Checkpoint
from local_trainer.errors import ConfigError, one_line
from local_trainer.store import ObjectStore

_MOST_TEXT_BYTES = 4 * 2**20
_MOST_WEIGHT_BYTES = 512 * 2**20
_DATA = ".data-00000-of-00001"
_FROZEN = re.compile(r"model(_\d+)?\.pb")
_PARAMS = re.compile(r"training_params(_\d+)?\.yaml")
_METRICS = re.compile(r"(training[_-].*|TrainingMetrics(_\d+)?)\.json")


@dataclass(frozen=True)
class SourceCheckpoint:
    """Weights in a source."""

    key: str
    """Of the checkpoint without suffix, or of the frozen graph."""
    checkpoint: Checkpoint
    """What it is called there; 0 where a name says nothing."""
    metric: float | None = None
    """What its evaluation came to there."""
    is_frozen: bool = False
    """Whether there is the policy alone."""

    @property
    def keys(self) -> list[str]:
        """Return the files that hold it."""
        return [self.key] if self.is_frozen else [f"{self.key}.index", self.key + _DATA]


@dataclass(frozen=True)
class ModelSource:
    """A model's files by what they are; keys of the store they lie in, None where there is none."""

    store: ObjectStore
    sizes: dict[str, int]
    """Size in bytes by key."""
    root: str
    """Folder that the model's other folders lie in."""
    best: SourceCheckpoint
    last: SourceCheckpoint
    metadata: str
    hyperparameters: str | None
    preset_hyperparameters: str | None
    params: str | None
    reward: str | None
    metrics: str | None
    config: str | None
    """The settings of a run of this project."""
    route: str | None
    tracks: str | None
    """The list of a run's tracks if they are several; their routes lie beside it."""

    @property
    def frozen_graph(self) -> str | None:
        """Return the frozen graph that belongs to the last checkpoint."""
        if self.last.is_frozen:
            return self.last.key
        key = posixpath.join(
            posixpath.dirname(self.last.key), f"model_{self.last.checkpoint.number}.pb"
        )
        return key if key in self.sizes else None

    @property
    def text_files(self) -> list[str]:
        """Return the files that are kept as they are."""
        files = (
            self.metadata,
            self.hyperparameters,
            self.preset_hyperparameters,
            self.params,
            self.reward,
            self.metrics,
            self.config,
        )
        return [key for key in files if key is not None]

    def read(self, key: str) -> bytes:
        """Return a small file's content.

        Raises:
            ConfigError: If it is not small.
        """
        return _read(self.store, key, self.sizes[key])

    def read_json(self, key: str) -> dict[str, Any]:
        """Return a JSON file's object.

        Raises:
            ConfigError: If it holds anything else.
        """
        return _json_object(key, self.read(key))

    def read_yaml(self, key: str) -> dict[str, Any]:
        """Return a YAML file's mapping.

        Raises:
            ConfigError: If it holds anything else.
        """
        try:
            data = yaml.safe_load(self.read(key))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{key} must be YAML: {one_line(error, 160)}.") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{key} must be a mapping, got {type(data).__name__}.")
        return {str(name): value for name, value in data.items()}

    def fetch(self, keys: Iterable[str], folder: Path) -> list[Path]:
        """Write weights to a folder; returns where they lie.

        Raises:
            ConfigError: If one is larger than any model's.
        """
        paths = []
        for key in keys:
            if self.sizes[key] > _MOST_WEIGHT_BYTES:
                most = _MOST_WEIGHT_BYTES >> 20
                raise ConfigError(
                    f"{key} must have at most {most} MiB, got {self.sizes[key] >> 20}."
                )
            path = folder / posixpath.basename(key)
            self.store.download(key, path)
            paths.append(path)
        return paths


def find_model(store: ObjectStore, which: str | None = None) -> ModelSource:
    """Return the one model of a folder or bucket.

    Args:
        store: Where it lies.
        which: ``best``, ``last`` or a checkpoint's number or name; None: best and last.

    Raises:
        ConfigError: If there is none, several, or an essential file is missing.
    """
    sizes = {item.key: item.size_bytes for item in store.objects()}
    if not sizes:
        raise ConfigError(f"{store.location} holds no files.")
    model_dir = _model_dir(store.location, sizes)
    best, last = _checkpoints(store, sizes, model_dir)
    best, last = _chosen(store, sizes, model_dir, best, last, which)
    root = posixpath.dirname(model_dir) if model_dir else ""
    near = [model_dir, root, posixpath.dirname(root)]

    def nearest(*patterns: str) -> str | None:
        return _nearest(sizes, patterns, near)

    metadata = nearest(r"model_metadata\.json")
    if metadata is None:
        raise ConfigError(f"{store.location} lacks model_metadata.json.")
    return ModelSource(
        store=store,
        sizes=sizes,
        root=root,
        best=best,
        last=last,
        metadata=metadata,
        hyperparameters=nearest(r"ip/hyperparameters\.json", r"hyperparameters\.json"),
        preset_hyperparameters=nearest(
            r"preset_hyperparam(eter)?s\.json", r"preset_hyperparams\.py"
        ),
        params=nearest(_PARAMS.pattern),
        reward=nearest(r"reward_function\.py"),
        metrics=nearest(
            r"metrics/TrainingMetrics\.json", r"metrics/training/.*\.json", _METRICS.pattern
        ),
        config=nearest(r"config\.yaml") if _is_own_run(sizes, root) else None,
        route=posixpath.join(root, "route.npy") if _is_own_run(sizes, root) else None,
        tracks=_own_tracks(sizes, root),
    )


def _own_tracks(sizes: dict[str, int], root: str) -> str | None:
    key = posixpath.join(root, "routes", "tracks.json")
    return key if key in sizes and _is_own_run(sizes, root) else None


def _is_own_run(sizes: dict[str, int], root: str) -> bool:
    names = ("config.yaml", "status.json", "route.npy")
    return all(posixpath.join(root, name) in sizes for name in names)


def _model_dir(location: str, sizes: dict[str, int]) -> str:
    """Return the folder that holds the weights."""
    folders = {posixpath.dirname(key) for key in sizes if _checkpoint_of(key, sizes) is not None}
    if not folders:
        folders = {posixpath.dirname(key) for key in sizes if _is_frozen_graph(key)}
    named = {folder for folder in folders if posixpath.basename(folder) in ("model", "agent")}
    folders = named or folders
    if not folders:
        raise ConfigError(
            f"{location} holds no model: neither a checkpoint (<n>_Step-<steps>.ckpt.index with "
            f"{_DATA}) nor a frozen graph (agent/model.pb)."
        )
    if len(folders) > 1:
        shown = ", ".join(sorted(folder or "." for folder in folders)[:8])
        raise ConfigError(f"{location} holds several models, give the folder of one: {shown}.")
    return folders.pop()


def _checkpoint_of(key: str, sizes: dict[str, int]) -> Checkpoint | None:
    """Return the whole checkpoint whose index a key is."""
    name = posixpath.basename(key)
    if not name.endswith(".ckpt.index") or f"{key.removesuffix('.index')}{_DATA}" not in sizes:
        return None
    try:
        return Checkpoint.parse(name.removesuffix(".index"))
    except ValueError:
        return None


def _is_frozen_graph(key: str) -> bool:
    return _FROZEN.fullmatch(posixpath.basename(key)) is not None


def _known(sizes: dict[str, int], model_dir: str) -> dict[Checkpoint, str]:
    """Return the whole checkpoints of a folder: key without suffix by checkpoint, in order."""
    found = {}
    for key in sizes:
        checkpoint = _checkpoint_of(key, sizes)
        if checkpoint is not None and posixpath.dirname(key) == model_dir:
            found[checkpoint] = key.removesuffix(".index")
    return dict(sorted(found.items()))


def _checkpoints(
    store: ObjectStore, sizes: dict[str, int], model_dir: str
) -> tuple[SourceCheckpoint, SourceCheckpoint]:
    """Return best and last checkpoint as the pointer files name them."""
    known = _known(sizes, model_dir)
    if not known:
        frozen = _frozen_graph(sizes, model_dir)
        return frozen, frozen
    newest = next(reversed(known))
    pointers = _pointers(store, sizes, model_dir)
    named = _named(store, sizes, model_dir)
    last, last_metric = _pointed_at(pointers, "last_checkpoint")
    # Left out or gone: the service too takes the newest then.
    last = last if last in known else named if named in known else newest
    best, best_metric = _pointed_at(pointers, "best_checkpoint")
    best = best if best in known else last
    return (
        SourceCheckpoint(known[best], best, best_metric),
        SourceCheckpoint(known[last], last, last_metric),
    )


def _frozen_graph(sizes: dict[str, int], model_dir: str) -> SourceCheckpoint:
    """Return the policy of the car's archive, or the one with the highest number."""
    keys = [k for k in sizes if posixpath.dirname(k) == model_dir and _is_frozen_graph(k)]

    def number(key: str) -> int:
        digits = re.sub(r"\D", "", posixpath.basename(key))
        # Without a number it is the one that was chosen for the car.
        return int(digits) if digits else 10**12

    key = max(keys, key=number)
    count = number(key)
    checkpoint = Checkpoint(count if count < 10**12 else 0, 0)
    return SourceCheckpoint(key, checkpoint, is_frozen=True)


def _chosen(
    store: ObjectStore,
    sizes: dict[str, int],
    model_dir: str,
    best: SourceCheckpoint,
    last: SourceCheckpoint,
    which: str | None,
) -> tuple[SourceCheckpoint, SourceCheckpoint]:
    if which is None:
        return best, last
    if which in ("best", "last"):
        one = best if which == "best" else last
        return one, one
    known = _known(sizes, model_dir)
    for checkpoint, key in known.items():
        if which in (str(checkpoint.number), checkpoint.name):
            one = SourceCheckpoint(key, checkpoint)
            return one, one
    numbers = ", ".join(str(checkpoint.number) for checkpoint in known)
    allowed = f"best, last{', ' + numbers if numbers else ''}"
    raise ConfigError(f"No checkpoint {which!r} in {store.location}; allowed: {allowed}.")


def _pointers(store: ObjectStore, sizes: dict[str, int], model_dir: str) -> dict[str, Any]:
    key = posixpath.join(model_dir, "deepracer_checkpoints.json")
    if key not in sizes:
        return {}
    return _json_object(key, _read(store, key, sizes[key]))


def _pointed_at(pointers: dict[str, Any], which: str) -> tuple[Checkpoint | None, float | None]:
    entry = pointers.get(which)
    if not isinstance(entry, dict):
        return None, None
    # The second is what older stacks call it.
    metric: Any = entry.get("avg_eval_metric", entry.get("avg_comp_pct"))
    is_number = isinstance(metric, int | float) and not isinstance(metric, bool)
    try:
        checkpoint = Checkpoint.parse(str(entry.get("name")))
    except ValueError:
        return None, None
    # -1 stands for: not evaluated.
    return checkpoint, float(metric) if is_number and metric >= 0 else None


def _named(store: ObjectStore, sizes: dict[str, int], model_dir: str) -> Checkpoint | None:
    """Return the checkpoint that Coach's or TensorFlow's own pointer file names."""
    for name in (".coach_checkpoint", "checkpoint"):
        key = posixpath.join(model_dir, name)
        if key not in sizes:
            continue
        text = _read(store, key, sizes[key]).decode("utf-8", "replace")
        found = re.search(r"(\d+)_Step-(\d+)\.ckpt", text)
        if found is not None:
            return Checkpoint(int(found[1]), int(found[2]))
    return None


def _nearest(sizes: dict[str, int], patterns: Sequence[str], near: Sequence[str]) -> str | None:
    """Return the file that fits the first pattern, nearest to the weights, then least deep."""
    for pattern in patterns:
        fits = [key for key in sizes if re.search(rf"(^|/){pattern}$", key)]
        if fits:
            return min(fits, key=lambda key: (*_distance(key, near), key.count("/"), key))
    return None


def _distance(key: str, near: Sequence[str]) -> tuple[int, int]:
    for place, folder in enumerate(near):
        if posixpath.dirname(key) == folder:
            return 0, place
    for place, folder in enumerate(near):
        if not folder or key.startswith(f"{folder}/"):
            return 1, place
    return 2, 0


def _read(store: ObjectStore, key: str, size: int) -> bytes:
    if size > _MOST_TEXT_BYTES:
        raise ConfigError(
            f"{key} must have at most {_MOST_TEXT_BYTES >> 20} MiB, got {size} bytes."
        )
    return store.get(key)


def _json_object(key: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{key} must be JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be a JSON object, got {type(value).__name__}.")
    return value
