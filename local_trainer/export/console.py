"""A run's model as the console (DeepRacer on AWS) imports it: a folder, and the same as a zip."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from local_trainer.archives import write_zip
from local_trainer.config import load_config
from local_trainer.errors import ConfigError
from local_trainer.export.car import ExportedModel, tried_out
from local_trainer.export.check_console import (
    MOST_NAME_CHARACTERS,
    check_console_folder,
    pointers_text,
)
from local_trainer.export.console_tracks import ConsolePlace, console_place
from local_trainer.export.findings import CheckReport
from local_trainer.export.probe import TryOut, probe
from local_trainer.history import read_history
from local_trainer.run_files import load_run_tracks
from local_trainer.runs import Run

_MARK = "model/.coach_checkpoint"


@dataclass(frozen=True)
class ConsoleExport:
    """What was written for the console."""

    run: str
    checkpoint: str
    folder: str
    zip: str
    model_name: str
    """A name the console takes."""
    world_name: str
    track_title: str
    is_clockwise: bool
    note: str
    report: CheckReport


def export_console(
    run: Run,
    which: str = "best",
    output: Path | None = None,
    track: str | None = None,
    try_out: TryOut = probe,
) -> ConsoleExport:
    """Write the folder and zip that the console imports, from a run that is not running.

    Args:
        run: Whose model.
        which: ``best``, ``last``, a number or a name of a checkpoint.
        output: The folder, the zip beside it; None: below ``export/`` in the run. One that an
            export made before is replaced.
        track: Track of the console to name instead of the run's own.
        try_out: Tries the model out.

    Raises:
        NotFound: If there is no such checkpoint.
        ConfigError: If the run is running, or the console would refuse the model: then nothing
            is written.
        RunFailed: If the checkpoint cannot be exported.
    """
    # The console names one track; a model of several gets the first, or the one asked for.
    place = console_place(
        load_run_tracks(run)[0], load_config(run.config_file).reverse_direction, track
    )
    with tried_out(run, which, try_out, uses_preset=False) as model:
        name = model_name(f"{run.name}-{model.checkpoint.number}")
        output = output or run.path / "export" / name
        _refuse_foreign(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".new-") as parent:
            folder = Path(parent) / "model"
            _write(folder, console_files(model, place))
            # The weights and the graph are copies of what was tried out just now.
            found = check_console_folder(folder, name, try_out=lambda _: [model.answer])
            report = CheckReport(str(output), "console", found)
            _refuse_unfit(report)
            packed = output.with_name(f"{output.name}.zip")
            files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
            write_zip(packed, dict(files))
            if output.exists():
                shutil.rmtree(output)
            folder.rename(output)
    return ConsoleExport(
        run=run.name,
        checkpoint=model.checkpoint.name,
        folder=str(output),
        zip=str(packed),
        model_name=name,
        world_name=place.world_name,
        track_title=place.title,
        is_clockwise=place.is_clockwise,
        note=_note(model, place),
        report=report,
    )


def model_name(text: str) -> str:
    """Return the nearest name that the console takes: letters, digits and hyphens."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "model"
    return name[:MOST_NAME_CHARACTERS].rstrip("-")


def console_files(model: ExportedModel, place: ConsolePlace) -> dict[str, bytes | Path]:
    """Return a model's files by their place in the console's layout."""
    run, checkpoint = model.run, model.checkpoint
    metric, stamp_s = _metric(model)
    files: dict[str, bytes | Path] = {
        "model_metadata.json": model.metadata,
        "model/model_metadata.json": model.metadata,
        "reward_function.py": run.reward_file,
        "ip/hyperparameters.json": _hyperparameters(run),
        "training_params.yaml": params_text(run.training_params_file, place).encode(),
        "model/.coach_checkpoint": checkpoint.name.encode(),
        "model/deepracer_checkpoints.json": pointers_text(checkpoint, metric, stamp_s).encode(),
        f"model/model_{checkpoint.number}.pb": model.frozen,
    }
    files |= {f"model/{path.name}": path for path in model.weights}
    if run.training_metrics_file.exists():
        files[f"metrics/training/training-{_stamp(run)}.json"] = _metrics(run)
    return files


def _metrics(run: Run) -> Path | bytes:
    """Return the training metrics without the track of each episode, which is our own key."""
    if not run.tracks_file.exists():
        return run.training_metrics_file
    metrics = json.loads(run.training_metrics_file.read_text(encoding="utf-8"))
    for entry in metrics["metrics"]:
        entry.pop("track", None)
    return json.dumps(metrics).encode()


def params_text(path: Path, place: ConsolePlace) -> str:
    """Return a run's ``training_params.yaml`` with the console's track.

    Every value is a quoted text, as the service's own tools write them, but for the direction:
    the importer compares it with the boolean.
    """
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    texts = {key: value if isinstance(value, list) else str(value) for key, value in values.items()}
    texts["WORLD_NAME"] = place.world_name
    texts["REVERSE_DIR"] = str(place.is_reversed)
    texts.pop("TRACK_DIRECTION_CLOCKWISE", None)
    text = yaml.safe_dump(
        texts, default_style="'", explicit_start=True, sort_keys=False, width=10_000
    )
    return f"{text}'TRACK_DIRECTION_CLOCKWISE': {str(place.is_clockwise).lower()}\n"


def _hyperparameters(run: Run) -> bytes:
    """Return the hyperparameters; the console writes the loss with an underscore."""
    values = json.loads(run.hyperparameters_file.read_text(encoding="utf-8"))
    if isinstance(values.get("loss_type"), str):
        values["loss_type"] = values["loss_type"].replace(" ", "_")
    return json.dumps(values, indent=2, sort_keys=True).encode()


def _metric(model: ExportedModel) -> tuple[float, float]:
    """Return what the checkpoint's evaluation came to, and when it was written, in seconds."""
    pointers = model.run.model_dir / "deepracer_checkpoints.json"
    entries = json.loads(pointers.read_text(encoding="utf-8")) if pointers.exists() else {}
    for entry in entries.values():
        if entry.get("name") == model.checkpoint.name:
            return float(entry.get("avg_eval_metric", -1.0)), float(entry.get("time_stamp", 0.0))
    written_s = model.checkpoint.files(model.run.model_dir)[0].stat().st_mtime
    for evaluation in read_history(model.run).evaluations:
        if evaluation.checkpoint == model.checkpoint.name:
            return evaluation.mean_progress_percent, written_s
    return -1.0, written_s


def _stamp(run: Run) -> str:
    """Return the 14 digits of when the run began."""
    try:
        return f"{datetime.fromisoformat(run.read_status().created):%Y%m%d%H%M%S}"
    except ValueError:
        return "1"


def _write(folder: Path, files: dict[str, bytes | Path]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)


def _refuse_foreign(output: Path) -> None:
    is_ours = (output / _MARK).is_file() or not (output.exists() and any(output.iterdir()))
    if not is_ours:
        raise ConfigError(f"--output must be a new folder or an earlier export, got {output}.")


def _refuse_unfit(report: CheckReport) -> None:
    for finding in report.findings:
        if finding.outcome == "refused":
            raise ConfigError(
                f"The console would refuse the model: {finding.rule}: {finding.found}. "
                f"Mend: {finding.mend}. Nothing was written."
            )


def _note(model: ExportedModel, place: ConsolePlace) -> str:
    notes = [model.note] if model.note else []
    tracks = [track.name for track in load_run_tracks(model.run)]
    if len(tracks) > 1:
        notes.append(
            f"trained on {', '.join(tracks)}: the console shows one track, {place.world_name}"
        )
    if place.is_reversed:
        notes.append(
            f"the console drives {place.world_name} one way round only, the other than this model"
        )
    return "; ".join(notes)
