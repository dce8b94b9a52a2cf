"""``local-trainer runs``: list, show, compare, verify and delete runs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli.console import (
    NOTHING,
    counted,
    facts,
    lap_time,
    percent,
    print_json,
    stdout,
    table,
)
from local_trainer.errors import ConfigError
from local_trainer.history import read_history
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, RunStatus, find_run, list_runs

if TYPE_CHECKING:
    from local_trainer.manifest import Manifest, Verification

app = typer.Typer(help="List, show, compare, verify and delete runs.", no_args_is_help=True)

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder the runs lie in.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(runs_dir: RunsDir = DEFAULT_RUNS_DIR, as_json: AsJson = False) -> None:
    """List all runs, newest first."""
    runs = list_runs(runs_dir)
    if as_json:
        print_json([_state(run) for run in runs])
        return
    if not runs:
        print(f"No runs in {runs_dir} yet. Begin one with: local-trainer train")
        return
    columns = ("run", "track", "status", "created", ">minutes", ">episodes", ">best", ">best lap")
    stdout().print(table(columns, map(_row, runs)))


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name or folder of a run.")],
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Show what a run reached and where its files lie."""
    run = find_run(name, runs_dir)
    if as_json:
        print_json(describe(run))
        return
    stdout().print(facts(_summary_rows(run)))


@app.command("compare")
def compare_command(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Two runs or more.")],
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Show how runs differ in settings and in what they reached."""
    if len(names) < 2:
        raise ConfigError(f"compare takes two runs or more, got {len(names)}.")
    runs = [find_run(name, runs_dir) for name in names]
    differences = _differences([_settings(run) for run in runs])
    results = [_results(run) for run in runs]
    if as_json:
        print_json(
            {
                "runs": [run.name for run in runs],
                "settings": differences,
                "results": {key: [result[key] for result in results] for key in results[0]},
            }
        )
        return
    columns = ("", *(run.name for run in runs))
    settings = [(key, *map(_shown, values)) for key, values in differences.items()]
    rows = [(key, *(_shown(result[key]) for result in results)) for key in results[0]]
    console = stdout()
    if settings:
        console.print("Settings that differ", table(columns, settings))
    else:
        console.print("The settings are the same.\n")
    console.print("What was reached", table(columns, rows))


@app.command("verify")
def verify_command(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name or folder of a run.")],
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Check that a run is as training left it, and say whether it can be repeated here.

    Exit status: 0 if every file is as it was, else 1.
    """
    from local_trainer.manifest import read_manifest, verify

    run = find_run(name, runs_dir)
    verification = verify(run)
    manifest = read_manifest(run)
    if as_json:
        results = {"is_whole": verification.is_whole, "is_repeatable": verification.is_repeatable}
        made_with = {"starts": manifest.starts, "step_times": manifest.step_times}
        plain = {key: _plain(value) for key, value in made_with.items()}
        print_json({**asdict(verification), **results, **plain})
    else:
        stdout().print(facts(_verification_rows(verification, manifest)))
    if not verification.is_whole:
        raise typer.Exit(1)


@app.command("delete")
def delete_command(
    names: Annotated[list[str], typer.Argument(metavar="RUN…", help="Names of runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Delete runs with everything they hold; asks first."""
    runs = [find_run(name, runs_dir) for name in dict.fromkeys(names)]
    if not yes:
        what = ", ".join(run.name for run in runs)
        typer.confirm(f"Delete {what} with models, plots and logs?", abort=True)
    for run in runs:
        if run.is_locked():
            raise ConfigError(f"Run {run.name!r} is running; stop it first. Nothing was deleted.")
    for run in runs:
        run.delete()
        print(f"Deleted {run.path}")


def describe(run: Run) -> dict[str, Any]:
    """Return a run's state, results and files, as ``runs show --json`` prints them."""
    return {**_state(run), "results": _results(run), "files": run_files(run)}


def run_files(run: Run) -> dict[str, str]:
    """Return what lies where, by name; only what is there."""
    places = {
        "model": best_model(run),
        "model_dir": run.model_dir,
        "plots": run.plots_dir,
        "report": run.report_file,
        "config": run.config_file,
        "reward_function": run.reward_file,
        "log": run.log_file,
    }
    return {name: str(path) for name, path in places.items() if path and path.exists()}


def best_model(run: Run) -> Path | None:
    """Return the frozen graph of the best checkpoint, or of the newest if none is best yet."""
    number = run.read_status().best_checkpoint.partition("_")[0]
    named = run.model_dir / f"model_{number}.pb"
    if named.exists():
        return named
    graphs = run.model_dir.glob("model_*.pb")
    return max(graphs, key=lambda path: path.stat().st_mtime, default=None)


def state_text(status: RunStatus) -> str:
    """Return a run's state with the reason for it, without saying the same twice."""
    if not status.reason or status.reason.startswith(status.status):
        return status.reason or status.status
    return f"{status.status}: {status.reason}"


def _state(run: Run) -> dict[str, Any]:
    return {**asdict(run.read_status()), "path": str(run.path)}


def _row(run: Run) -> tuple[str, ...]:
    status = run.read_status()
    name = run.name if status.job_name in ("", run.name) else f"{run.name} ({status.job_name})"
    return (
        name,
        status.track,
        status.status,
        status.created[:16].replace("T", " "),
        f"{status.minutes:.1f}",
        str(status.episodes),
        percent(status.best_progress_percent if status.best_checkpoint else None),
        lap_time(status.best_lap_s),
    )


def _summary_rows(run: Run) -> list[tuple[str, str]]:
    status = run.read_status()
    rows = [
        ("run", run.name),
        ("job name", status.job_name),
        ("track", status.track),
        ("status", state_text(status)),
        ("created", status.created),
    ]
    rows += [(key.replace("_", " "), _shown(value)) for key, value in _results(run).items()]
    return rows + [(key.replace("_", " "), path) for key, path in run_files(run).items()]


def _results(run: Run) -> dict[str, Any]:
    """Return what a run reached, by name."""
    status = run.read_status()
    evaluations = read_history(run).evaluations
    return {
        "minutes": round(status.minutes, 2),
        "iterations": status.iteration,
        "episodes": status.episodes,
        "steps": status.steps,
        "evaluations": len(evaluations),
        "evaluations_all_laps": sum(e.completed == e.trials for e in evaluations),
        "first_lap_iteration": next((e.iteration for e in evaluations if e.completed), None),
        "best_progress_percent": status.best_progress_percent,
        "best_lap_s": status.best_lap_s,
        "best_checkpoint": status.best_checkpoint or None,
    }


def _verification_rows(verification: Verification, manifest: Manifest) -> list[tuple[str, str]]:
    total = counted(verification.num_artefacts, "file")
    rows = [("run", f"{verification.run}, {counted(manifest.iteration, 'iteration')}")]
    if verification.is_whole:
        rows.append(("files", f"{total}, all as training left them"))
    else:
        rows.append(("files", f"{total}, not all as training left them"))
    for what in ("changed", "missing", "added"):
        rows += [(what, name) for name in getattr(verification, what)]
    if verification.is_repeatable:
        command = f"local-trainer train --repeat {verification.run}"
        rows.append(("repeatable", f"bit for bit on this machine: {command}"))
    else:
        rows.append(("repeatable", "not for certain bit for bit on this machine"))
        rows += [("because", reason) for reason in verification.obstacles]
    environment, times = manifest.starts[-1].environment, manifest.step_times
    precision = "bf16" if environment.uses_bf16 else "fp32"
    used = ", ".join(environment.gpus) or f"{environment.processor}, {environment.threads} threads"
    rows += [
        ("seed", str(manifest.seed)),
        ("code", f"{environment.code_version}, sha256 {environment.code_sha256[:12]}"),
        ("made on", f"{used}, {precision}, Python {environment.python}"),
        ("made with", f"{len(environment.dependencies)} packages, all in manifest.json"),
    ]
    if times is not None:
        rows.append(
            (
                "a step",
                f"{times.simulated_s * 1000:.2f} ms simulated; "
                f"{times.wall_median_s * 1000:.1f} ms by the clock (median of "
                f"{counted(times.num_steps, 'step')}), 95 % below {times.wall_p95_s * 1000:.1f} ms",
            )
        )
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return None if value is None else asdict(value)


def _settings(run: Run) -> dict[str, Any]:
    """Return a run's settings by full key; files count by what is in them."""
    from local_trainer.config_keys import read_yaml_mapping

    settings = _flat(read_yaml_mapping(run.config_file))
    for path in (run.reward_file, run.metadata_file):
        if path.exists():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            settings[path.name] = f"sha256 {digest[:8]}"
    # The name tells runs apart by itself.
    return {key: value for key, value in settings.items() if key not in ("run", "job_name")}


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _differences(settings: list[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = {key: [one.get(key) for one in settings] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def _shown(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)
