"""``local-trainer runs``: list, show, compare, verify, stop and delete runs."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli import compare
from local_trainer.cli.confirm import confirm
from local_trainer.cli.console import (
    NOTHING,
    counted,
    facts,
    lap_time,
    percent,
    print_json,
    stderr,
    stdout,
    table,
)
from local_trainer.cli.options import AsJson, RunsDir
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, RunStatus, find_run, list_runs

if TYPE_CHECKING:
    from local_trainer.launch.cleanup import StoredRun
    from local_trainer.manifest import Manifest, Verification

app = typer.Typer(help="List, show, compare, verify, stop and delete runs.", no_args_is_help=True)


_STOP_LIMIT_S = 180.0
"""How long a training may take to save what it has."""


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


app.command("compare")(compare.compare_command)


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
        config = {"config_sha256": _config_sha256(manifest), "seed": manifest.seed}
        made_with = {"starts": manifest.starts, "step_times": manifest.step_times}
        plain = {key: _plain(value) for key, value in made_with.items()}
        simulator = {"simulator": manifest.simulator}
        print_json({**asdict(verification), **results, **config, **simulator, **plain})
    else:
        stdout().print(facts(_verification_rows(verification, manifest)))
    if not verification.is_whole:
        raise typer.Exit(1)


@app.command("delete")
def delete_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="Names or folders of runs, or s3://bucket/run."),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Delete runs with everything they hold; asks first.

    A run that was trained in the container stack goes from the stack's bucket, too.
    """
    runs, stored = _to_delete(names, runs_dir)
    what = [f"{run.path} ({_size(_folder_bytes(run))})" for run in runs]
    what += [f"{one.location} ({_size(one.size_bytes)})" for one in stored]
    confirm(f"Delete {', '.join(what)} with models, plots and logs?", yes)
    for run in runs:
        run.delete()
        print(f"Deleted {run.path}")
    for one in stored:
        one.delete()
        print(f"Deleted {one.location} ({counted(len(one.objects), 'object')})")


@app.command("stop")
def stop_command(
    names: Annotated[list[str], typer.Argument(metavar="RUN…", help="Names or folders of runs.")],
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """End trainings that go on in the background, after saving; the runs stay."""
    runs = [find_run(name, runs_dir) for name in dict.fromkeys(names)]
    workers = {run.path: _worker_of(run) for run in runs}
    for pid in workers.values():
        os.kill(pid, signal.SIGINT)
    for run in runs:
        _wait_until_free(run)
        print(f"Ended {run.name} ({state_text(run.read_status())}).")
        print(f"Go on with: local-trainer train --resume {run.name}")


def _worker_of(run: Run) -> int:
    """Return the process that works on a run.

    Raises:
        ConfigError: If there is none of ours on this machine.
    """
    if not run.is_locked():
        raise ConfigError(f"Run {run.name!r} is not running. Nothing was stopped.")
    pid = run.holder()
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        command = ""
    if pid is None or "local_trainer.workers." not in command:
        held = f"process {pid}, which is no training" if pid else "a process of another machine"
        raise ConfigError(f"Run {run.name!r} is held by {held}. Nothing was stopped.")
    return pid


def _wait_until_free(run: Run) -> None:
    deadline = time.monotonic() + _STOP_LIMIT_S
    while run.is_locked():
        if time.monotonic() > deadline:
            raise RunFailed(
                f"Run {run.name!r} was asked to stop and has not ended in {_STOP_LIMIT_S:g} s; "
                f"kill {run.holder()} ends it at once."
            )
        time.sleep(0.2)


def _to_delete(names: list[str], runs_dir: Path) -> tuple[list[Run], list[StoredRun]]:
    """Return what the names stand for, each once, after checking that all of it may go.

    Raises:
        ConfigError: If one is running, a link, or holds another run.
        NotFound: If there is no such run.
    """
    from local_trainer.launch.cleanup import find_stack_copy, find_stored_run
    from local_trainer.store import is_s3_url

    runs: dict[Path, Run] = {}
    stored: dict[str, StoredRun] = {}
    for name in names:
        if is_s3_url(name):
            one = find_stored_run(name)
            stored[one.location] = one
        else:
            run = find_run(name, runs_dir)
            _check_deletable(run)
            place = run.path.resolve()
            runs[place] = run if run.name == place.name else Run(place)  # ".", "..": no names
    for run in runs.values():
        try:
            copy = find_stack_copy(run)
        except RunFailed:
            stderr().print(
                f"The stack is down: what its bucket holds of {run.name} stays. With the stack "
                f"up: local-trainer runs delete s3://local-trainer/{run.name}",
                markup=False,
            )
            continue
        if copy is not None:
            stored[copy.location] = copy
    for one in stored.values():
        if one.is_running:
            raise ConfigError(
                f"The run at {one.location} is running; stop it first. Nothing was deleted."
            )
    return list(runs.values()), list(stored.values())


def _check_deletable(run: Run) -> None:
    from local_trainer.launch.cleanup import containers_of, is_stack_run

    if run.path.is_symlink():
        raise ConfigError(
            f"{run.path} is a link to {run.path.resolve()}: name that folder, or remove the link "
            "yourself. Nothing was deleted."
        )
    if not run.config_file.exists():
        raise ConfigError(f"{run.path} is not a run: no config.yaml. Nothing was deleted.")
    inner = next((path.parent for path in run.path.glob("*/**/status.json")), None)
    if inner is not None:
        raise ConfigError(
            f"{run.path} holds another run, {inner}; move or delete that first. "
            "Nothing was deleted."
        )
    if run.is_locked():
        raise ConfigError(f"Run {run.name!r} is running; stop it first. Nothing was deleted.")
    containers = containers_of(run) if is_stack_run(run) else []
    if containers:
        raise ConfigError(
            f"Run {run.name!r} is running in the stack; stop it first: docker stop "
            f"{' '.join(containers)}. Nothing was deleted."
        )


def _folder_bytes(run: Run) -> int:
    """Return what a run's files take up; what links lead to does not count."""
    return sum(path.lstat().st_size for path in run.path.rglob("*") if not path.is_dir())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def describe(run: Run) -> dict[str, Any]:
    """Return a run's state, results and files, as ``runs show --json`` prints them."""
    from local_trainer.compare.training import run_results

    return {**_state(run), "results": run_results(run), "files": run_files(run)}


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
    from local_trainer.compare.training import run_results

    status = run.read_status()
    rows = [
        ("run", run.name),
        ("job name", status.job_name),
        ("track", status.track),
        ("status", state_text(status)),
        ("created", status.created),
    ]
    rows += [(key.replace("_", " "), _shown(value)) for key, value in run_results(run).items()]
    return rows + [(key.replace("_", " "), path) for key, path in run_files(run).items()]


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
        ("config", f"config.yaml, sha256 {_config_sha256(manifest)[:12]}; seed {manifest.seed}"),
        ("simulator", _simulator(manifest.simulator)),
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


def _config_sha256(manifest: Manifest) -> str:
    config = manifest.artefacts.get("config.yaml")
    return config.sha256 if config else ""


def _simulator(simulator: dict[str, Any]) -> str:
    own = ", an environment of its own" if simulator.get("own_environment") else ""
    cars, workers = int(simulator["num_cars"]), int(simulator["workers"])
    return f"{simulator['backend']}{own}, {counted(cars, 'car')}, {counted(workers, 'worker')}"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return None if value is None else asdict(value)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)
