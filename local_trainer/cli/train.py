"""``local-trainer train``: make a run, start it, watch it, say what came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli.console import (
    clock,
    counted,
    facts,
    lap_time,
    percent,
    print_json,
    stdout,
)
from local_trainer.cli.runs import describe, run_files, state_text
from local_trainer.cli.watch import watch
from local_trainer.errors import ConfigError
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, find_run

if TYPE_CHECKING:
    from local_trainer.config import RunConfig

_FILES = "Files"
_WHEN = "When it ends"
_OUTPUT = "Output"


def train(
    track: Annotated[
        str | None, typer.Option(help="Track: a name (see `track list`) or a file.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run's folder.")] = None,
    job_name: Annotated[str | None, typer.Option(help="Name shown in tables and metrics.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Defaults to begin from: fast, or cloud (the service's).")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Numbers of the update: auto, fp32 or bf16.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes everything random.")] = None,
    cars: Annotated[int | None, typer.Option(help="Cars that drive at once.")] = None,
    reverse: Annotated[
        bool, typer.Option("--reverse", help="Drive the track the other way round.")
    ] = False,
    alternate_direction: Annotated[
        bool, typer.Option("--alternate-direction", help="Turn round after each episode.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Most minutes to train.", rich_help_panel=_WHEN)
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Most training episodes.", rich_help_panel=_WHEN)
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="steady: as soon as the model drives steadily; never: only at the limit.",
            rich_help_panel=_WHEN,
        ),
    ] = None,
    reward: Annotated[
        Path | None, typer.Option(help="Reward function, Python.", rich_help_panel=_FILES)
    ] = None,
    actions: Annotated[
        Path | None,
        typer.Option(help="Action space, model_metadata.json.", rich_help_panel=_FILES),
    ] = None,
    hyperparameters: Annotated[
        Path | None, typer.Option(help="Hyperparameters, JSON.", rich_help_panel=_FILES)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings, YAML; see docs/config.md.", rich_help_panel=_FILES),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, e.g. ppo.batch_size=64. May be repeated.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    preset: Annotated[
        Path | None, typer.Option(help="Coach preset of your own.", rich_help_panel=_FILES)
    ] = None,
    environment: Annotated[
        Path | None, typer.Option(help="Gym environment of your own.", rich_help_panel=_FILES)
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    from_run: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN[@best|last]", help="Begin with a run's weights."),
    ] = None,
    runs_dir: Annotated[
        Path, typer.Option(help="Folder the runs lie in.", rich_help_panel=_OUTPUT)
    ] = DEFAULT_RUNS_DIR,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the result as JSON; progress goes to stderr.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=_OUTPUT)
    ] = False,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Start it and return at once.", rich_help_panel=_OUTPUT),
    ] = False,
) -> None:
    """Train a model, evaluate it and show what happened."""
    source = _split_source(from_run)
    stop = {"stop.minutes": minutes, "stop.episodes": episodes, "stop.until": until}
    given: dict[str, Any] = {
        "run": name,
        "job_name": job_name,
        "track": track,
        "precision": precision,
        "seed": seed,
        "simulator.num_cars": cars,
        "reverse_direction": reverse or None,
        "alternate_direction": alternate_direction or None,
        "files.reward": _text(reward),
        "files.model_metadata": _text(actions),
        "files.preset": _text(preset),
        "files.environment": _text(environment),
        **source,
    }
    files = {"--config": config, "--set": settings, "--hyperparameters": hyperparameters}
    if resume is not None:
        fixed = [key for key, value in (given | files | {"--profile": profile}).items() if value]
        run = _prepare_resumption(find_run(resume, runs_dir), fixed, stop)
    else:
        run = _create(config, settings or [], given | stop, profile, hyperparameters, runs_dir)
    if detach:
        _detach(run, as_json)
        return
    from local_trainer.launch.processes import start_training

    status = watch(run, start_training, shows_progress=not quiet, to_stderr=as_json)
    if as_json:
        print_json(describe(run))
    else:
        _print_summary(run)
    if status:
        raise typer.Exit(status)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _split_source(text: str | None) -> dict[str, Any]:
    """Return the settings of ``--from RUN`` or ``--from RUN@checkpoint``."""
    if text is None:
        return {}
    name, at, checkpoint = text.partition("@")
    if not name or (at and not checkpoint):
        raise ConfigError(f"--from takes RUN, RUN@best or RUN@last, got {text!r}.")
    return {"pretrained.run": name, "pretrained.checkpoint": checkpoint or None}


def _create(
    config: Path | None,
    settings: list[str],
    given: dict[str, Any],
    profile: str | None,
    hyperparameters: Path | None,
    runs_dir: Path,
) -> Run:
    from local_trainer.config import resolve_config
    from local_trainer.hyperparameters import load_hyperparameters
    from local_trainer.run_files import create_run

    learning = load_hyperparameters(hyperparameters) if hyperparameters is not None else {}
    resolved = resolve_config(config, settings, {**learning, **given}, profile)
    return create_run(resolved, runs_dir)


def _prepare_resumption(run: Run, fixed: list[str], stop: dict[str, Any]) -> Run:
    """Check that a run can go on, and take over new limits."""
    from local_trainer.config import load_config, resolve_config, save_config

    if fixed:
        option = fixed[0] if fixed[0].startswith("--") else f"--{_OPTIONS.get(fixed[0], fixed[0])}"
        raise ConfigError(
            f"--resume goes on with the run's own settings: {option} cannot be given with it; "
            "allowed: --minutes, --episodes, --until."
        )
    with run.lock():
        limits = {key: value for key, value in stop.items() if value is not None}
        if limits:
            save_config(resolve_config(run.config_file, (), limits), run.config_file)
    _check_limits(run, load_config(run.config_file))
    return run


_OPTIONS = {
    "run": "name",
    "job_name": "job-name",
    "simulator.num_cars": "cars",
    "reverse_direction": "reverse",
    "alternate_direction": "alternate-direction",
    "files.reward": "reward",
    "files.model_metadata": "actions",
    "files.preset": "preset",
    "files.environment": "environment",
    "pretrained.run": "from",
}
"""Setting -> option, where the two have different names."""


def _check_limits(run: Run, config: RunConfig) -> None:
    """Refuse to resume a run that would end at once."""
    option = _option_past_limit(run, config)
    if option is not None:
        raise ConfigError(
            f"Run {run.name!r} has reached its limit; go on with: "
            f"local-trainer train --resume {_reference(run)} {option}"
        )


def _option_past_limit(run: Run, config: RunConfig) -> str | None:
    """Return the option that gives a run a new limit, or None if it has not reached its own."""
    from local_trainer.history import read_history

    status, limits = run.read_status(), config.stop
    if limits.minutes is not None and status.minutes >= limits.minutes:
        return f"--minutes {2 * limits.minutes:g}"
    if limits.episodes is not None and status.episodes >= limits.episodes:
        return f"--episodes {2 * limits.episodes}"
    last = read_history(run).evaluations[-limits.steady_evaluations :]
    is_steady = len(last) == limits.steady_evaluations and all(
        evaluation.completed == evaluation.trials for evaluation in last
    )
    return "--until never" if is_steady and limits.until == "steady" else None


def _detach(run: Run, as_json: bool) -> None:
    from local_trainer.launch.processes import start_training

    process = start_training(run)
    if as_json:
        print_json({"run": run.name, "path": str(run.path), "pid": process.pid})
        return
    print(f"Run {run.name} trains in the background (process {process.pid}).")
    print(f"Watch it: local-trainer runs show {run.name}. Stop it: kill -INT {process.pid}")


def _print_summary(run: Run) -> None:
    status = run.read_status()
    reached = lap_time(status.best_lap_s)
    if status.best_checkpoint:
        best = f"{percent(status.best_progress_percent)} completion, best lap {reached}"
        best += f" (checkpoint {status.best_checkpoint})"
    else:
        best = "no evaluation yet"
    training = (
        f"{clock(status.minutes * 60)} min, {counted(status.iteration, 'iteration')}, "
        f"{counted(status.episodes, 'episode')}, {counted(status.steps, 'step')}"
    )
    state = state_text(status)
    rows = [("run", f"{run.name} on {status.track}"), ("status", state)]
    rows += [("best", best), ("training", training)]
    shown = ("model", "plots", "report", "log")
    rows += [(name, path) for name, path in run_files(run).items() if name in shown]
    rows.append(("evaluate", f"local-trainer evaluate {_reference(run)}"))
    rows.append(("go on", _resume_command(run)))
    stdout().print(facts(rows))


def _resume_command(run: Run) -> str:
    """Return the command that goes on with a run, past the limit that ended it."""
    from local_trainer.config import load_config

    option = _option_past_limit(run, load_config(run.config_file))
    return f"local-trainer train --resume {_reference(run)} {option or ''}".rstrip()


def _reference(run: Run) -> str:
    """Return how a command names a run."""
    if run.path.parent == DEFAULT_RUNS_DIR:
        return run.name
    return f"{run.name} --runs-dir {run.path.parent}"
