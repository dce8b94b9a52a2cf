"""``model.tar.gz`` for the physical car: the metadata and the frozen policy, tried out first."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from local_trainer.actions import ActionSpace, load_action_space
from local_trainer.archives import write_tar_gz
from local_trainer.checkpoints import Checkpoint, choose_checkpoint
from local_trainer.config import load_config
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.evaluation import EvaluationReport, read_report
from local_trainer.export.probe import (
    INPUT_SHAPE,
    INPUT_TYPE,
    POLICY_NODE,
    TOLERANCE,
    ProbeAnswer,
    ProbeRequest,
    TryOut,
    input_node,
    probe,
)
from local_trainer.recorded_pictures import recorded_pictures
from local_trainer.run_files import load_run_tracks
from local_trainer.runs import Run

METADATA_NAME = "model_metadata.json"
GRAPH_NAME = "agent/model.pb"
GRAPH_SENSOR = "FRONT_FACING_CAMERA"
"""The camera that our graphs name; the first generation's ``observation`` is the same camera."""


@dataclass(frozen=True)
class ExportedModel:
    """A checkpoint of a run that was tried out and may leave it."""

    run: Run
    checkpoint: Checkpoint
    actions: ActionSpace
    metadata: bytes
    """``model_metadata.json`` as it goes out."""
    note: str
    """What was changed in it, one line; empty if nothing."""
    frozen: Path
    """The frozen graph; may lie in a folder that goes with the block that made this."""
    weights: list[Path]
    """The checkpoint's three files, of trainable variables alone."""
    answer: ProbeAnswer


@dataclass(frozen=True)
class CarSheet:
    """What went to the car."""

    run: str
    checkpoint: str
    archive: str
    archive_bytes: int
    archive_sha256: str
    graph_sha256: str
    note: str
    track: str
    track_length_m: float
    training_minutes: float
    training_episodes: int
    actions: list[dict[str, float]]
    """``steering_angle`` in degrees, left positive, ``speed`` in m/s; in the policy's order."""
    network: str
    num_weights: int
    """Trainable variables of policy and value function."""
    input_name: str
    input_shape: list[int]
    input_type: str
    output_name: str
    num_pictures: int
    """Pictures that frozen graph and live policy were compared on."""
    are_pictures_recorded: bool
    """Whether the model was trained on them; else they were drawn around its track."""
    difference: float
    """Largest difference of a probability."""
    evaluation: dict[str, Any] | None
    """The newest of this checkpoint, starts as in training."""
    robust_evaluation: dict[str, Any] | None
    """The newest of this checkpoint with ``evaluate --robust``."""


def export_car(
    run: Run, which: str = "best", output: Path | None = None, try_out: TryOut = probe
) -> CarSheet:
    """Write the archive that the car takes from a run that is not running.

    Args:
        run: Whose model.
        which: ``best``, ``last``, a number or a name of a checkpoint.
        output: The archive; None: ``export/model.tar.gz`` in the run.
        try_out: Tries the model out.

    Raises:
        NotFound: If there is no such checkpoint.
        ConfigError: If the run is running, or the name of the archive is not allowed.
        RunFailed: If the frozen graph is not what the car takes, or not the live policy.
    """
    output = output or run.path / "export" / "model.tar.gz"
    if not output.name.endswith(".tar.gz"):
        raise ConfigError(f"The car takes a file that ends in .tar.gz, got {output}.")
    with tried_out(run, which, try_out) as model:
        graph = model.frozen.read_bytes()
        write_tar_gz(output, {METADATA_NAME: model.metadata, GRAPH_NAME: graph})
        return _sheet(model, output, graph)


@contextmanager
def tried_out(
    run: Run, which: str, try_out: TryOut = probe, uses_preset: bool = True
) -> Iterator[ExportedModel]:
    """Yield a run's model after trying it out; the run cannot be started meanwhile.

    Args:
        run: Whose model.
        which: Which of its checkpoints.
        try_out: Tries it out.
        uses_preset: Whether the network may be one of a preset; the console builds it from the
            metadata alone.
    """
    with run.lock(), tempfile.TemporaryDirectory(prefix="local-trainer-") as folder:
        actions = load_action_space(run.metadata_file)
        checkpoint = choose_checkpoint(run.model_dir, which)
        metadata, note = metadata_of_graph(run.metadata_file.read_bytes(), actions)
        preset = run.preset_file if uses_preset and run.preset_file.exists() else None
        model = _try_out(run, checkpoint, actions, Path(folder), preset, try_out)
        yield replace(model, metadata=metadata, note=note)


def metadata_of_graph(data: bytes, actions: ActionSpace) -> tuple[bytes, str]:
    """Return metadata that name the camera the graph names, and what was changed in them."""
    if actions.sensors == (GRAPH_SENSOR,):
        return data, ""
    content = json.loads(data.decode("utf-8-sig"))
    content["sensor"] = [GRAPH_SENSOR]
    # Only from version 2 on does anyone read the list.
    content["version"] = f"{max(actions.version, 2.0):g}"
    note = f"the sensor is written as {GRAPH_SENSOR}, the name in the graph"
    return (json.dumps(content, indent=2) + "\n").encode(), note


def _try_out(
    run: Run,
    checkpoint: Checkpoint,
    actions: ActionSpace,
    folder: Path,
    preset: Path | None,
    try_out: TryOut,
) -> ExportedModel:
    """Return the model if its frozen graph is whole and agrees with the live policy."""
    model_dir = run.model_dir
    kept = checkpoint.frozen_graph(model_dir)
    frozen = kept if kept.exists() else folder / kept.name
    recorded = recorded_pictures(run)
    request = ProbeRequest(
        num_actions=len(actions),
        network=actions.network,
        sensor=GRAPH_SENSOR,
        prefix=str(checkpoint.prefix(model_dir)),
        frozen=str(kept) if kept.exists() else None,
        preset=None if preset is None else str(preset),
        pictures=None if recorded is None else str(recorded),
        route=str(run.route_file) if run.route_file.exists() else None,
        surface=load_config(run.config_file).surface or "asphalt",
        save_frozen=None if kept.exists() else str(frozen),
    )
    answer = try_out([request])[0]
    weights = checkpoint.files(model_dir)
    if answer.other_variables:
        # Made elsewhere, with the optimizer inside: the console takes the weights alone.
        prefix = folder / checkpoint.name
        saved = try_out([replace(request, save_weights=str(prefix))])[0]
        answer = replace(saved, other_variables=[])
        weights = checkpoint.files(folder)
    _refuse_unfit(answer, len(actions), checkpoint)
    return ExportedModel(run, checkpoint, actions, b"", "", frozen, weights, answer)


def _refuse_unfit(answer: ProbeAnswer, num_actions: int, checkpoint: Checkpoint) -> None:
    problem = answer.weights_problem or answer.frozen_problem
    if not problem:
        problem = frozen_problem(answer, GRAPH_SENSOR, num_actions)
    if problem:
        raise RunFailed(f"Checkpoint {checkpoint.name} cannot be exported: {problem}")
    if answer.difference is None or not answer.difference <= TOLERANCE:
        raise RunFailed(
            f"Checkpoint {checkpoint.name} cannot be exported: its frozen graph must agree with "
            f"its weights to {TOLERANCE:g}, got a difference of {answer.difference:g}."
        )


def frozen_problem(answer: ProbeAnswer, sensor: str, num_actions: int) -> str:
    """Return why the car would not take a frozen graph, one line; empty if it does."""
    facts = answer.frozen
    if answer.frozen_problem or facts is None:
        return answer.frozen_problem or "there is no frozen graph."
    if facts.devices:
        return f"it must name no device, got {', '.join(facts.devices)}."
    rules = [
        ("its input must be called", input_node(sensor), facts.input_name),
        ("its input must have the shape", INPUT_SHAPE, facts.input_shape),
        ("its input must be", INPUT_TYPE, facts.input_type),
        ("it must choose among", f"{num_actions} actions", f"{facts.num_actions} actions"),
    ]
    for what, allowed, got in rules:
        if allowed != got:
            return f"{what} {allowed}, got {got}."
    # Not "greater": a NaN must not pass.
    if not answer.probability_sum_error <= 1e-3:
        return f"probabilities must sum to 1, got an error of {answer.probability_sum_error:g}."
    return ""


def _sheet(model: ExportedModel, archive: Path, graph: bytes) -> CarSheet:
    run, answer = model.run, model.answer
    assert answer.frozen is not None and answer.difference is not None
    tracks, status = load_run_tracks(run), run.read_status()
    return CarSheet(
        run=run.name,
        checkpoint=model.checkpoint.name,
        archive=str(archive),
        archive_bytes=archive.stat().st_size,
        archive_sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        note=model.note,
        track=", ".join(track.name for track in tracks),
        track_length_m=sum(track.length_m for track in tracks) / len(tracks),
        training_minutes=status.minutes,
        training_episodes=status.episodes,
        actions=[
            {"steering_angle": action.steering_deg, "speed": action.speed_mps}
            for action in model.actions.actions
        ],
        network=model.actions.network,
        num_weights=answer.num_weights,
        input_name=answer.frozen.input_name,
        input_shape=answer.frozen.input_shape,
        input_type=answer.frozen.input_type,
        output_name=POLICY_NODE,
        num_pictures=answer.num_pictures,
        are_pictures_recorded=run.pictures_file.exists(),
        difference=answer.difference,
        evaluation=_evaluation(model, is_robust=False),
        robust_evaluation=_evaluation(model, is_robust=True),
    )


def _evaluation(model: ExportedModel, is_robust: bool) -> dict[str, Any] | None:
    """Return the newest evaluation of a checkpoint in numbers."""
    for path in sorted(model.run.path.glob("evaluation-*/report.json"), reverse=True):
        report = read_report(path)
        if report.is_robust == is_robust and report.checkpoint == model.checkpoint.name:
            return _in_numbers(report)
    return None


def _in_numbers(report: EvaluationReport) -> dict[str, Any]:
    return {
        "trials": len(report.trials),
        "completed": report.completed,
        "mean_completion_percentage": report.mean_completion_percentage,
        "best_lap_s": report.best_lap_s,
        "mean_lap_s": report.mean_lap_s,
    }
