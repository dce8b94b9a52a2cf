"""Every rule by which the console (DeepRacer on AWS) takes or refuses a model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_trainer.checkpoints import Checkpoint
from local_trainer.errors import LocalTrainerError
from local_trainer.export.car import frozen_problem
from local_trainer.export.console_tracks import CONSOLE_TRACKS, split_direction
from local_trainer.export.findings import Finding, not_checked, passed, refused, warning
from local_trainer.export.model_files import (
    Metadata,
    Unusable,
    read_json,
    read_metadata,
    read_text,
    read_yaml,
)
from local_trainer.export.probe import TOLERANCE, ProbeAnswer, ProbeRequest, TryOut, probe

if TYPE_CHECKING:
    from sim.track import Track

MOST_FOLDER_BYTES = 2**30
MOST_REWARD_CHARACTERS = 140_000
MOST_NAME_CHARACTERS = 63
MOST_DESCRIPTION_CHARACTERS = 255
COLORS = ("Black", "Grey", "Blue", "Red", "Orange", "White", "Purple")
NEEDED_NAMES = (
    "model_metadata.json",
    "reward_function.py",
    "training_params.yaml",
    "hyperparameters.json",
)
_MOST_METRICS_BYTES = 64 * 2**20
_CHECKPOINT_SUFFIXES = (".index", ".meta", ".data-00000-of-00001")
_SKIPPED = (".gz", ".zip")
_CASTS = {
    "batch_size": int,
    "num_epochs": int,
    "stack_size": int,
    "lr": float,
    "e_greedy_value": float,
    "epsilon_steps": int,
    "beta_entropy": float,
    "discount_factor": float,
    "num_episodes_between_training": int,
    "term_cond_max_episodes": int,
    "term_cond_avg_score": float,
    "sac_alpha": float,
}

_Naming = Generator[Finding, None, str | None]


@dataclass
class _Model:
    """One folder under check."""

    folder: Path
    try_out: TryOut
    names: tuple[str, ...]
    """Of all its files, relative."""
    metadata: Metadata | None = None
    hyperparameters: dict[str, Any] | None = None
    params: dict[str, Any] | None = None

    def path(self, name: str) -> Path:
        return self.folder / name


def check_console_folder(
    folder: Path,
    name: str | None = None,
    description: str | None = None,
    try_out: TryOut = probe,
) -> tuple[Finding, ...]:
    """Return every rule's finding for a model folder; nothing in it is changed.

    Args:
        folder: As it would be uploaded.
        name: Name the model is to have in the console; None: not looked at.
        description: Its description there.
        try_out: Tries the model out.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = tuple(str(path.relative_to(folder)) for path in files)
    model = _Model(folder, try_out, names)
    rules: tuple[Callable[[_Model], Iterator[Finding]], ...] = (
        _size,
        _names_there,
        _metadata,
        _metadata_twice,
        _actions,
        _hyperparameters,
        _algorithm,
        _training_params,
        _track,
        _race,
        _car,
        _reward,
        _metrics,
        _skipped,
        _model_rules,
    )
    findings = [*_named(name, description)]
    for rule in rules:
        findings += rule(model)
    return tuple(findings)


def _named(name: str | None, description: str | None) -> Iterator[Finding]:
    for rule, value, pattern, most in (
        ("model name", name, r"[A-Za-z0-9-]+", MOST_NAME_CHARACTERS),
        ("description", description, r"[A-Za-z0-9 -]+", MOST_DESCRIPTION_CHARACTERS),
    ):
        if value is None:
            continue
        if re.fullmatch(pattern, value) and len(value) <= most:
            yield passed(rule, value)
        else:
            spaces = ", spaces" if " " in pattern else ""
            mend = f"use letters, digits{spaces} and hyphens, at most {most} characters"
            yield refused(rule, f"{value!r:.80}", mend)


# Files.


def _size(model: _Model) -> Iterator[Finding]:
    size = sum(model.path(name).stat().st_size for name in model.names)
    found = f"{size / 2**20:,.1f} MiB in {len(model.names)} files"
    if size > MOST_FOLDER_BYTES:
        mend = "leave out all but the files that are checked here, one checkpoint for last and best"
        yield refused("folder at most 1 GiB", found, mend)
    else:
        yield passed("folder at most 1 GiB", found)


def _names_there(model: _Model) -> Iterator[Finding]:
    there = {Path(name).name for name in model.names}
    missing = [name for name in NEEDED_NAMES if name not in there]
    rule = "the four files the page asks for"
    if missing:
        yield refused(rule, f"missing: {', '.join(missing)}", "add them where the rules below say")
    else:
        yield passed(rule, ", ".join(NEEDED_NAMES))


def _skipped(model: _Model) -> Iterator[Finding]:
    skipped = [name for name in model.names if name.endswith(_SKIPPED)]
    if skipped:
        mend = "nothing to do if they are not needed"
        yield warning("no archives inside", f"not uploaded: {', '.join(skipped[:3])}", mend)


# Metadata.


def _metadata(model: _Model) -> Iterator[Finding]:
    rule = "model_metadata.json"
    try:
        model.metadata = read_metadata(model.path("model_metadata.json"))
    except Unusable as problem:
        mend = "put the metadata that the model was trained with at the top of the folder"
        yield refused(rule, str(problem), mend)
        return
    metadata = model.metadata
    sensors = " + ".join(metadata.sensors)
    if metadata.sensors == ("LEFT_CAMERA",):
        mend = "train with FRONT_FACING_CAMERA; the console has no picture to try this one with"
        yield refused(rule, "sensor LEFT_CAMERA alone", mend)
        return
    yield passed(rule, f"{metadata.algorithm}, {metadata.network}, {sensors}")


def _metadata_twice(model: _Model) -> Iterator[Finding]:
    rule = "model/model_metadata.json"
    try:
        inner = read_json(model.path(rule))
    except Unusable as problem:
        yield refused(rule, str(problem), "copy model_metadata.json into the folder model, too")
        return
    try:
        is_same = inner == read_json(model.path("model_metadata.json"))
    except Unusable:
        is_same = True  # told already
    if is_same:
        yield passed(rule, "says the same as the one at the top")
    else:
        mend = "copy the one the model was trained with over the other"
        yield refused(rule, "differs from the one at the top", mend)


def _actions(model: _Model) -> Iterator[Finding]:
    rule = "action space"
    metadata = model.metadata
    if metadata is None:
        yield not_checked(rule, "without model_metadata.json")
        return
    if metadata.action_space_type == "continuous":
        yield passed(rule, "continuous, low below high")
        return
    actions = metadata.action_space
    found = f"{len(actions)} actions"
    steep = [a for a in actions if not -30 <= a["steering_angle"] <= 30]
    fast = [a for a in actions if not 0.1 <= a["speed"] <= 4.0]
    if not 2 <= len(actions) <= 30 or steep or fast:
        mend = (
            "the page itself makes 2 to 30 actions from -30 to 30 degrees and 0.1 to 4 m/s; "
            "the simulator clips what lies outside"
        )
        yield warning(rule, f"{found}, {len(steep) + len(fast)} values out of range", mend)
    else:
        yield passed(rule, f"{found} in range")


# Hyperparameters and algorithm.


def _hyperparameters(model: _Model) -> Iterator[Finding]:
    rule = "ip/hyperparameters.json"
    try:
        values = read_json(model.path(rule))
    except Unusable as problem:
        elsewhere = [name for name in model.names if Path(name).name == "hyperparameters.json"]
        mend = "put the hyperparameters there"
        if elsewhere:
            mend = f"move {elsewhere[0]} to {rule}: the importer reads it there and nowhere else"
        yield refused(rule, str(problem), mend)
        return
    model.hyperparameters = values
    for key, cast in _CASTS.items():
        if key in values and not _casts(values[key], cast):
            yield refused(rule, f"{key} is {values[key]!r:.40}", f"make {key} a number")
            return
    yield passed(rule, f"{len(values)} values")


def _casts(value: Any, cast: type[int] | type[float]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return cast(value) == float(value)
    except (ValueError, OverflowError):
        return False


def _algorithm(model: _Model) -> Iterator[Finding]:
    rule = "algorithm"
    if model.metadata is None:
        yield not_checked(rule, "without model_metadata.json")
    elif model.metadata.algorithm != "sac":
        yield passed(rule, model.metadata.algorithm)
    elif model.metadata.action_space_type == "discrete":
        yield refused(rule, "SAC with a discrete action space", "SAC takes continuous ones only")
    elif model.hyperparameters is None:
        yield not_checked(rule, "without ip/hyperparameters.json")
    else:
        between = model.hyperparameters.get("num_episodes_between_training")
        if between == 1 and isinstance(between, int) and not isinstance(between, bool):
            yield passed(rule, "sac")
        else:
            mend = "set num_episodes_between_training to the number 1"
            yield refused(rule, f"SAC with num_episodes_between_training {between!r:.20}", mend)


# training_params.yaml.


def _training_params(model: _Model) -> Iterator[Finding]:
    rule = "training_params.yaml"
    try:
        model.params = read_yaml(model.path(rule))
    except Unusable as problem:
        mend = "put the file that training was started with at the top of the folder"
        yield refused(rule, str(problem), mend)
    else:
        yield passed(rule, f"{len(model.params)} keys")


def _track(model: _Model) -> Iterator[Finding]:
    rule = "WORLD_NAME"
    if model.params is None:
        yield not_checked(rule, "without training_params.yaml")
        return
    world = model.params.get("WORLD_NAME")
    known = f"one of: {', '.join(CONSOLE_TRACKS)}"
    if not isinstance(world, str) or not world:
        found = f"must be a text, got {world!r:.60}" if world else "is missing"
        yield refused(rule, found, f"set it to the track, {known}")
        return
    base, suffix = split_direction(world)
    if world not in CONSOLE_TRACKS:
        if suffix is not None and base in CONSOLE_TRACKS:
            value = "true" if suffix == "cw" else "false"
            mend = f"write {base} and TRACK_DIRECTION_CLOCKWISE: {value}"
        else:
            mend = f"the console knows only {known.removeprefix('one of: ')}"
        yield refused(rule, repr(world)[:80], mend)
        return
    title, directions = CONSOLE_TRACKS[world]
    yield passed(rule, f"{world} ({title})")
    yield _direction(model.params, directions)


def _direction(params: dict[str, Any], directions: tuple[str, ...]) -> Finding:
    rule = "TRACK_DIRECTION_CLOCKWISE"
    value = params.get(rule)
    if len(directions) == 1:
        only = "clockwise" if directions[0] == "cw" else "counter-clockwise"
        if isinstance(value, bool) and value != (directions[0] == "cw"):
            mend = "nothing to do: the key is not read for such a track"
            return warning(rule, f"the track has one direction there, {only}", mend)
        return passed(rule, f"the track has one direction, {only}")
    if isinstance(value, bool):
        return passed(rule, "clockwise" if value else "counter-clockwise")
    if value is None:
        mend = "write TRACK_DIRECTION_CLOCKWISE: true or false"
        return warning(rule, "is missing and counts as counter-clockwise", mend)
    mend = "write true or false, without quotes"
    return warning(rule, f"{value!r:.20} counts as counter-clockwise", mend)


def _race(model: _Model) -> Iterator[Finding]:
    rule = "RACE_TYPE"
    if model.params is None:
        yield not_checked(rule, "without training_params.yaml")
        return
    race = model.params.get("RACE_TYPE")
    if race == "OBJECT_AVOIDANCE":
        key = "RANDOMIZE_OBSTACLE_LOCATIONS"
        value = model.params.get(key)
        if isinstance(value, str) and value.lower() == "true":
            mend = f"write {key}: true without quotes"
            yield warning(rule, f"object avoidance; {key} as a text counts as false", mend)
            return
        yield passed(rule, "object avoidance")
    elif race in ("TIME_TRIAL", None):
        yield passed(rule, "time trial")
    else:
        mend = "the console knows TIME_TRIAL and OBJECT_AVOIDANCE"
        yield warning(rule, f"{race!r:.40} counts as a time trial", mend)


def _car(model: _Model) -> Iterator[Finding]:
    rule = "car body and colour"
    if model.params is None:
        yield not_checked(rule, "without training_params.yaml")
        return
    shell = model.params.get("BODY_SHELL_TYPE", "deepracer")
    color = model.params.get("CAR_COLOR", "White")
    mend = f"use one of {', '.join(COLORS)}"
    if not isinstance(color, str):
        yield refused(rule, f"CAR_COLOR must be a text, got {color!r:.40}", mend)
    elif shell != "deepracer":
        why = f"BODY_SHELL_TYPE {shell!r:.40}: the console's own list of shells is not known here"
        yield not_checked(rule, why)
    elif color.upper() not in {known.upper() for known in COLORS}:
        yield warning(rule, f"CAR_COLOR {color!r:.40} becomes White there", mend)
    else:
        yield passed(rule, f"{shell}, {color}")


# Reward function and metrics.


def _reward(model: _Model) -> Iterator[Finding]:
    rule = "reward_function.py"
    try:
        text = read_text(model.path(rule), 4 * MOST_REWARD_CHARACTERS)
    except Unusable as problem:
        yield refused(rule, str(problem), "put the reward function at the top of the folder")
        return
    if len(text) > MOST_REWARD_CHARACTERS:
        mend = f"shorten it to {MOST_REWARD_CHARACTERS:,} characters"
        yield refused(rule, f"{len(text):,} characters", mend)
        return
    from local_trainer.export.reward_rules import reward_findings

    yield from reward_findings(model.path(rule), _known_track(model.params or {}))


def _known_track(params: dict[str, Any]) -> Track | None:
    """Return the model's track if there is a route of it here."""
    from sim.track_files import load_track

    world = params.get("WORLD_NAME")
    if not isinstance(world, str) or world not in CONSOLE_TRACKS:
        return None  # someone else's text never becomes a path
    direction = "cw" if params.get("TRACK_DIRECTION_CLOCKWISE") is True else "ccw"
    for name in (f"{world}_{direction}", world):
        try:
            return load_track(name)
        except ValueError:
            continue
    return None


def _metrics(model: _Model) -> Iterator[Finding]:
    rule = "metrics/training/training-*.json"
    taken = [
        name
        for name in model.names
        if name.startswith("metrics/training/") and "training-" in name and name.endswith(".json")
    ]
    if not taken:
        others = [name for name in model.names if Path(name).name == "TrainingMetrics.json"]
        mend = "copy the training metrics there if the console is to draw them"
        if others:
            mend = f"copy {others[0]} to metrics/training/training-1.json to have it drawn"
        yield warning(rule, "none; the model comes without its reward graph", mend)
        return
    for name in taken:
        try:
            metrics = read_json(model.path(name), _MOST_METRICS_BYTES).get("metrics")
        except Unusable as problem:
            yield refused(rule, f"{name} {problem}", "replace or remove it")
            return
        if not isinstance(metrics, list):
            yield refused(rule, f"{name} has no list metrics", "replace or remove it")
            return
    yield passed(rule, ", ".join(taken[:3]))


# The model itself.


def _model_rules(model: _Model) -> Iterator[Finding]:
    there = {
        name.removeprefix("model/").removesuffix(".index")
        for name in model.names
        if re.fullmatch(r"model/[^/]+\.ckpt\.index", name)
    }
    whole = {name for name in there if not _missing_parts(model, name)}
    last = yield from _named_checkpoint(model, there, whole)
    best = yield from _pointers(model, whole)
    chosen = {"last": last, "best": best or last}
    yield from _tried(model, {key: name for key, name in chosen.items() if name is not None})


def _missing_parts(model: _Model, name: str) -> list[str]:
    parts = [f"model/{name}{suffix}" for suffix in _CHECKPOINT_SUFFIXES]
    return [part for part in parts if part not in model.names]


def _named_checkpoint(model: _Model, there: set[str], whole: set[str]) -> _Naming:
    """Look at ``.coach_checkpoint``; return the checkpoint to try as the last."""
    rule = "model/.coach_checkpoint"
    newest = _newest(whole)
    try:
        name = read_text(model.path(rule), 1024).strip()
    except Unusable as problem:
        mend = f"write {newest or 'the name of the checkpoint'} into it, without suffix"
        yield refused(rule, str(problem), mend)
        return newest
    if name in whole:
        yield passed(rule, name)
        return name
    if name in there:
        missing = ", ".join(_missing_parts(model, name))
        yield refused(rule, f"{name} lacks {missing}", "add the file")
    elif newest is None:
        mend = "add its three files: .index, .meta and .data-00000-of-00001"
        yield refused(rule, f"names {name!r:.60}, which is not there", mend)
    else:
        mend = f"write {newest} into it"
        yield warning(
            rule, f"names {name!r:.60}, which is not there; the newest is taken, {newest}", mend
        )
    return newest


def _pointers(model: _Model, whole: set[str]) -> _Naming:
    """Look at ``deepracer_checkpoints.json``; return the best checkpoint, None for the last."""
    rule = "model/deepracer_checkpoints.json"
    if rule not in model.names:
        mend = "add it to say which checkpoint is the best"
        yield warning(rule, "none; the last checkpoint counts as the best", mend)
        return None
    try:
        data = read_json(model.path(rule))
        entries = {key: data.get(f"{key}_checkpoint") for key in ("best", "last")}
        names = {key: entry["name"] for key, entry in entries.items() if isinstance(entry, dict)}
    except (Unusable, KeyError) as problem:
        yield refused(rule, f"{problem}", "write best_checkpoint and last_checkpoint with a name")
        return None
    missing = {key: name for key, name in names.items() if name not in whole}
    if missing:
        key, name = next(iter(missing.items()))
        mend = "name checkpoints that are in the folder"
        yield warning(rule, f"the {key} is {name!r:.60}, which is not there", mend)
    elif "best" not in names:
        yield warning(rule, "names no best", "add best_checkpoint with a name")
    else:
        yield passed(rule, ", ".join(f"{key} {name}" for key, name in names.items()))
    return names.get("best") if names.get("best") in whole else None


def _newest(names: set[str]) -> str | None:
    numbered = []
    for name in names:
        try:
            numbered.append((Checkpoint.parse(name), name))
        except ValueError:
            continue
    return max(numbered)[1] if numbered else None


def _tried(model: _Model, chosen: dict[str, str]) -> Iterator[Finding]:
    """Rebuild the graph, restore last and best, run pictures through."""
    metadata = model.metadata
    why = "without usable metadata" if metadata is None else metadata.why_not_rebuilt
    if not chosen:
        why = why or "there is no whole checkpoint"
    if why or metadata is None:
        yield not_checked("last and best checkpoint restore", why)
        return
    names = list(dict.fromkeys(chosen.values()))
    requests = [_request(model, metadata, name) for name in names]
    try:
        answers = dict(zip(names, model.try_out(requests), strict=True))
    except LocalTrainerError as error:
        yield not_checked("last and best checkpoint restore", str(error)[:200])
        return
    for key, name in chosen.items():
        yield from _restored(key, name, answers[name])
    for name in names:
        yield _frozen(model, metadata, name, answers[name])


def _request(model: _Model, metadata: Metadata, name: str) -> ProbeRequest:
    frozen = _frozen_file(model, name)
    return ProbeRequest(
        num_actions=metadata.num_actions,
        network=metadata.network,
        sensor=metadata.sensors[0],
        prefix=str(model.path(f"model/{name}")),
        frozen=None if frozen is None else str(frozen),
    )


def _frozen_file(model: _Model, name: str) -> Path | None:
    path = model.path(f"model/model_{name.partition('_')[0]}.pb")
    return path if path.is_file() else None


def _restored(key: str, name: str, answer: ProbeAnswer) -> Iterator[Finding]:
    rule = f"{key} checkpoint restores and runs"
    if answer.weights_problem:
        mend = "export the checkpoint again from the run it came from, with that run's metadata"
        yield refused(rule, answer.weights_problem, mend)
        return
    if not answer.probability_sum_error <= 1e-3:
        mend = "take an earlier checkpoint: this one's weights have grown out of bounds"
        yield refused(rule, "the policy gives no probabilities", mend)
        return
    found = f"{name}: {answer.num_weights} variables, {answer.num_pictures} pictures"
    if answer.other_variables:
        mend = "save the trainable variables alone, a third of the size"
        others = len(answer.other_variables)
        yield warning(rule, f"{found}; {others} variables more than are needed", mend)
    else:
        yield passed(rule, found)


def _frozen(model: _Model, metadata: Metadata, name: str, answer: ProbeAnswer) -> Finding:
    file = _frozen_file(model, name)
    rule = f"frozen graph of {name}"
    if file is None:
        mend = f"add model/model_{name.partition('_')[0]}.pb"
        return warning(rule, "none; a car archive cannot be made of the model there", mend)
    problem = frozen_problem(answer, metadata.sensors[0], metadata.num_actions)
    if problem:
        return refused(rule, problem, "freeze the checkpoint's policy again")
    if answer.difference is None:
        return not_checked(rule, "the checkpoint does not restore")
    if not answer.difference <= TOLERANCE:
        mend = "put the graph that was frozen from this checkpoint beside it"
        found = f"{file.name} differs from the checkpoint by {answer.difference:.2g}"
        return refused(rule, found, mend)
    return passed(rule, f"{file.name} agrees to {answer.difference:.1g}")


def pointers_text(checkpoint: Checkpoint, metric: float, stamp_s: float) -> str:
    """Return a ``deepracer_checkpoints.json`` in which best and last are one checkpoint."""
    entry = {"name": checkpoint.name, "avg_eval_metric": metric, "time_stamp": stamp_s}
    return json.dumps({"best_checkpoint": entry, "last_checkpoint": entry})
