"""``local-trainer sweep``: many trainings that differ in settings, and which is best."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from local_trainer.cli.confirm import confirm
from local_trainer.cli.console import (
    clock,
    counted,
    facts,
    lap_time,
    percent,
    print_json,
    stderr,
    stdout,
    table,
)
from local_trainer.errors import ConfigError, NotFound
from local_trainer.runs import DEFAULT_RUNS_DIR

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from local_trainer.sweep.folder import Sweep, SweepState, Trial

_STOP_LIMIT_S = 180.0
_LINE_EVERY_S = 10.0
_MOST_ROWS = 20
"""Trials shown at once while a sweep runs: those that run, and the last that ended."""


class _SweepGroup(TyperGroup):
    """Takes ``sweep FILE.yaml`` for ``sweep run FILE.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0].endswith((".yaml", ".yml")):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_SweepGroup,
    help="Train many models that differ in settings, and see which is best: sweep FILE.yaml.",
    no_args_is_help=True,
)

_Name = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]
_SweepsDir = Annotated[Path, typer.Option("--sweeps-dir", help="Folder the sweeps lie in.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to stderr.")]
_Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="HOST:PORT", help="Ray cluster to train on; see docs/sweeps.md."),
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
_SWEEPS_DIR = Path("sweeps")


@app.command("run")
def run_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The sweep file.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the sweep; the file's if left out.")
    ] = None,
    ray: _Ray = None,
    runs_dir: Annotated[Path, typer.Option(help="Folder the runs lie in.")] = DEFAULT_RUNS_DIR,
    sweeps_dir: _SweepsDir = _SWEEPS_DIR,
    as_json: _AsJson = False,
    quiet: _Quiet = False,
) -> None:
    """Start a sweep; `sweep FILE.yaml` is the same.

    Checks everything first, then trains the trials, as many at once as fit, and shows which is
    best. Ctrl-C stops it cleanly; `sweep resume` goes on.
    """
    from local_trainer.launch.ray_cluster import has_ray
    from local_trainer.sweep.config import load_sweep
    from local_trainer.sweep.running import prepare_sweep

    config = load_sweep(file)
    if name is not None:
        from local_trainer.sweep.config import check_sweep

        config = check_sweep({**config.model_dump(), "name": name})
    if not has_ray():
        raise ConfigError("A sweep needs Ray: run make setup-ray.")
    sweep = prepare_sweep(config, sweeps_dir, runs_dir)
    try:
        status = _train(sweep, ray, as_json, quiet)
    finally:
        if not sweep.read_state().trials:
            sweep.delete()  # nothing began
    if status:
        raise typer.Exit(status)


@app.command("resume")
def resume_command(
    name: _Name,
    ray: _Ray = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Try the trials that failed again, too.")
    ] = False,
    sweeps_dir: _SweepsDir = _SWEEPS_DIR,
    as_json: _AsJson = False,
    quiet: _Quiet = False,
) -> None:
    """Go on with a sweep that was stopped or interrupted; trials that have ended stay."""
    from local_trainer.sweep.folder import find_sweep
    from local_trainer.sweep.running import forget_failures

    sweep = find_sweep(name, sweeps_dir)
    if failed:
        forget_failures(sweep)
    state = sweep.read_state()
    if len(state.trials) == state.num_trials and all(trial.has_ended for trial in state.trials):
        raise ConfigError(
            f"Every trial of sweep {name!r} has ended; see: local-trainer sweep report {name}"
        )
    status = _train(sweep, ray, as_json, quiet)
    if status:
        raise typer.Exit(status)


@app.command("status")
def status_command(
    name: _Name, sweeps_dir: _SweepsDir = _SWEEPS_DIR, as_json: _AsJson = False
) -> None:
    """Show how a sweep's trials stand; a failed one with its reason."""
    from local_trainer.sweep.folder import find_sweep

    sweep = find_sweep(name, sweeps_dir)
    state = sweep.read_state()
    pid = sweep.process_id()
    if as_json:
        print_json({**asdict(state), "process_id": pid, "path": str(sweep.path)})
        return
    stdout().print(_status_table(sweep, state))
    what = f"running (process {pid})" if pid else f"not running; go on: {_resume_text(sweep)}"
    if pid is None and _is_complete(state):
        what = f"done; see: local-trainer sweep report {name}"
    print(what)


@app.command("stop")
def stop_command(
    name: _Name,
    trial: Annotated[
        list[int] | None,
        typer.Option("--trial", help="End only this trial, by number. May be repeated."),
    ] = None,
    sweeps_dir: _SweepsDir = _SWEEPS_DIR,
) -> None:
    """Stop a running sweep cleanly, or end single trials of it.

    A stopped sweep can be gone on with. A trial that was ended counts with what it reached.
    """
    from local_trainer.sweep.folder import find_sweep

    sweep = find_sweep(name, sweeps_dir)
    pid = sweep.process_id()
    if pid is None:
        raise ConfigError(f"Sweep {name!r} is not running.")
    if trial:
        for one in [_find_trial(sweep, number) for number in trial]:
            sweep.request_stop(one)
            print(f"{one.run} is asked to end.")
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + _STOP_LIMIT_S
    while sweep.process_id() == pid:
        if time.monotonic() > deadline:
            raise ConfigError(f"Sweep {name!r} has not stopped yet (process {pid}).")
        time.sleep(0.5)
    print(f"Sweep {name} has stopped. Go on: {_resume_text(sweep)}")


@app.command("report")
def report_command(
    name: _Name, sweeps_dir: _SweepsDir = _SWEEPS_DIR, as_json: _AsJson = False
) -> None:
    """Show the leaderboard of a sweep, and write it with a plot as page and JSON."""
    from local_trainer.sweep.folder import find_sweep

    _report(find_sweep(name, sweeps_dir), as_json)


@app.command("list")
def list_command(sweeps_dir: _SweepsDir = _SWEEPS_DIR, as_json: _AsJson = False) -> None:
    """List all sweeps, newest first."""
    from local_trainer.sweep.folder import list_sweeps
    from local_trainer.sweep.page import counts

    sweeps = [(sweep, sweep.read_state()) for sweep in list_sweeps(sweeps_dir)]
    if as_json:
        print_json([{**asdict(state), "path": str(sweep.path)} for sweep, state in sweeps])
        return
    if not sweeps:
        print(f"No sweeps in {sweeps_dir} yet. Begin one with: local-trainer sweep FILE.yaml")
        return
    rows = [
        (
            sweep.name,
            state.created[:16].replace("T", " "),
            "running" if sweep.process_id() else "done" if _is_complete(state) else "interrupted",
            counts(state),
            f"{state.minutes:.1f}",
        )
        for sweep, state in sweeps
    ]
    stdout().print(table(("sweep", "created", "state", "trials", ">minutes"), rows))


@app.command("delete")
def delete_command(
    name: _Name,
    keep_runs: Annotated[
        bool, typer.Option("--keep-runs", help="Delete the sweep, and leave its trials' runs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    sweeps_dir: _SweepsDir = _SWEEPS_DIR,
) -> None:
    """Delete a sweep and the runs of its trials; asks first. Other runs are never touched."""
    from local_trainer.sweep.folder import find_sweep

    sweep = find_sweep(name, sweeps_dir)
    state = sweep.read_state()
    found = [] if keep_runs else [run for t in state.trials if (run := sweep.run_of(t))]
    if sweep.process_id() is not None or any(run.is_locked() for run in found):
        raise ConfigError(f"Sweep {name!r} is running; stop it first. Nothing was deleted.")
    what = f"{sweep.path}"
    if found:
        names = f"{found[0].name} to {found[-1].name}" if len(found) > 1 else found[0].name
        what += f" and {counted(len(found), 'run')} in {state.runs_dir} ({names})"
    confirm(f"Delete {what}?", yes)
    sweep.delete(found)
    for path in (*(run.path for run in found), sweep.path):
        print(f"Deleted {path}")


def _train(sweep: Sweep, ray: str | None, as_json: bool, quiet: bool) -> int:
    """Train a sweep and show it; return the exit status."""
    from local_trainer.cli.watch import INTERRUPTED
    from local_trainer.sweep.running import run_sweep

    console = stderr() if as_json else stdout()
    view = _View(sweep, console, quiet)
    if not quiet:
        where = f"the Ray cluster at {ray}" if ray else "this machine"
        console.print(f"Sweep {sweep.name}: starting on {where} …")
    with view:
        is_complete = run_sweep(sweep, ray, view.show)
    _report(sweep, as_json)
    if is_complete:
        return 0
    if not as_json:
        print(f"The sweep is not complete. Go on: {_resume_text(sweep)}")
    return INTERRUPTED


def _report(sweep: Sweep, as_json: bool) -> None:
    from local_trainer.sweep.leaderboard import make_leaderboard, write_leaderboard
    from local_trainer.sweep.page import columns, counts, row, write_page

    state = sweep.read_state()
    if not state.trials:
        raise NotFound(f"No trial of sweep {sweep.name!r} has begun yet.")
    leaderboard = make_leaderboard(sweep, state)
    write_leaderboard(sweep, leaderboard)
    write_page(sweep, state, leaderboard)
    if as_json:
        print_json(json.loads(leaderboard.to_json()))
        return
    console = stdout()
    console.print(table(columns(leaderboard), [row(entry) for entry in leaderboard.entries]))
    for entry in leaderboard.entries:
        if entry.state == "failed":
            print(f"{entry.run} failed: {entry.reason}")
    rows = [("trials", counts(state)), ("time", f"{clock(state.minutes * 60)} min")]
    rows += [("page", str(sweep.report_file)), ("json", str(sweep.leaderboard_file))]
    console.print(facts(rows))


class _View:
    """Shows a sweep while it runs: a table in a terminal, a line now and then elsewhere."""

    def __init__(self, sweep: Sweep, console: Console, quiet: bool) -> None:
        self._sweep = sweep
        self._console = console
        self._quiet = quiet
        self._live: Any = None
        self._last = ("", 0.0)

    def show(self, state: SweepState) -> None:
        """Take how the sweep stands."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(_status_table(self._sweep, state, _MOST_ROWS))
            return
        from local_trainer.sweep.page import counts

        text, now = counts(state), time.monotonic()
        if text != self._last[0] and now - self._last[1] > _LINE_EVERY_S or not self._last[0]:
            self._console.print(f"{clock(state.minutes * 60)} min: {text}")
            self._last = (text, now)

    def __enter__(self) -> _View:
        if self._console.is_terminal and not self._quiet:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)


def _status_table(sweep: Sweep, state: SweepState, most_rows: int | None = None) -> RenderableType:
    from rich.console import Group

    from local_trainer.sweep.page import counts, shown

    keys = list(dict.fromkeys(key for trial in state.trials for key in trial.values))
    has_seeds = len({trial.seed for trial in state.trials}) > 1
    columns = ["trial", *keys, *(["seed"] if has_seeds else []), "state"]
    columns += [">iteration", ">minutes", ">completion", ">best lap", "reason"]
    rows = []
    trials = list(state.trials)
    if most_rows is not None and len(trials) > most_rows:
        others = [trial for trial in trials if trial.state not in ("running", "waiting")]
        running = [trial for trial in trials if trial.state == "running"][:most_rows]
        trials = [*others[-max(1, most_rows - len(running)) :], *running]
    for trial in trials:
        run = sweep.run_of(trial)
        status = run.read_status() if run else None
        began = status is not None and bool(status.best_checkpoint)
        rows.append(
            (
                trial.run,
                *(shown(trial.values.get(key)) for key in keys),
                *([str(trial.seed)] if has_seeds else []),
                trial.state,
                str(status.iteration if status else 0),
                f"{status.minutes if status else 0.0:.1f}",
                percent(status.best_progress_percent if status and began else None),
                lap_time(status.best_lap_s if status else None),
                trial.reason,
            )
        )
    head = f"sweep {sweep.name}: {counts(state)} trials, {clock(state.minutes * 60)} min"
    return Group(head, table(columns, rows))


def _find_trial(sweep: Sweep, number: int) -> Trial:
    trials = {trial.number: trial for trial in sweep.read_state().trials}
    if number not in trials:
        raise NotFound(
            f"Sweep {sweep.name!r} has no trial {number}; allowed: {', '.join(map(str, trials))}."
        )
    return trials[number]


def _is_complete(state: SweepState) -> bool:
    return len(state.trials) == state.num_trials and all(t.has_ended for t in state.trials)


def _resume_text(sweep: Sweep) -> str:
    place = "" if sweep.path.parent == _SWEEPS_DIR else f" --sweeps-dir {sweep.path.parent}"
    return f"local-trainer sweep resume {sweep.name}{place}"
