"""``local-trainer train``: make a run, start it, watch it, say what came out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import asdict
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
    from local_trainer.manifest import Comparison

_FILES = "Files"
_WHEN = "When it ends"
_OUTPUT = "Output"


def train(
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Track: a name (see `track list`) or a file. Given several times, one model "
            "learns all of them."
        ),
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
    simulator: Annotated[
        str | None,
        typer.Option(help="embedded, or gazebo: in containers; see `stack`."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Rollout workers; with gazebo, each has a simulator.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster whose nodes play the episodes: HOST:PORT, auto or none.",
        ),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="With --ray: a Redis server all nodes reach (REDIS_PASSWORD); "
            "by default one is started here.",
        ),
    ] = None,
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
    repeat: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Train a run again, same settings and seed, and compare the two."
        ),
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
    cluster = {"cluster.ray": ray, "cluster.redis": redis}
    given: dict[str, Any] = {
        "run": name,
        "job_name": job_name,
        "track": track[0] if track else None,
        "tracks": (track if len(track) > 1 else ()) if track else None,
        "precision": precision,
        "seed": seed,
        "simulator.num_cars": cars,
        "simulator.backend": simulator,
        "workers": workers,
        "reverse_direction": reverse or None,
        "alternate_direction": alternate_direction or None,
        "files.reward": _text(reward),
        "files.model_metadata": _text(actions),
        "files.preset": _text(preset),
        "files.environment": _text(environment),
        **source,
    }
    files = {"--config": config, "--set": settings, "--hyperparameters": hyperparameters}
    original = None
    fixed = [key for key, value in (given | files | {"--profile": profile}).items() if value]
    if repeat is not None:
        others = {"--resume": resume, **stop, **cluster, **dict.fromkeys(fixed, True)}
        others.pop("run", None)
        original = find_run(repeat, runs_dir)
        run = _create_repetition(original, name, [k for k, v in others.items() if v], runs_dir)
    elif resume is not None:
        run = _prepare_resumption(find_run(resume, runs_dir), fixed, stop | cluster)
    else:
        run = _create(
            config, settings or [], given | stop | cluster, profile, hyperparameters, runs_dir
        )
    start = _starter(run)
    if detach:
        _detach(run, start, as_json)
        return
    status = watch(run, start, shows_progress=not quiet, to_stderr=as_json)
    comparison = _compare(original, run) if original is not None and not status else None
    if as_json:
        print_json({**describe(run), **({"repetition": asdict(comparison)} if comparison else {})})
    else:
        _print_summary(run)
        if comparison is not None:
            _print_comparison(comparison)
    if status:
        raise typer.Exit(status)
    if comparison is not None and not comparison.is_identical:
        raise typer.Exit(1)


def _create_repetition(original: Run, name: str | None, others: list[str], runs_dir: Path) -> Run:
    """Return a new run with another's settings, files, track and length."""
    from local_trainer.config import load_config
    from local_trainer.run_files import create_run, load_run_tracks

    if others:
        option = others[0] if others[0].startswith("--") else f"--{_option(others[0])}"
        raise ConfigError(
            f"--repeat takes the run's own settings: {option} cannot be given with it; "
            "allowed: --name."
        )
    with original.lock():
        config, status = load_config(original.config_file), original.read_status()
        if status.episodes == 0:
            raise ConfigError(f"Run {original.name!r} has no finished iteration to repeat.")
        # As long as it was, whatever ended it: minutes and requests come at another step.
        stop = config.stop.model_copy(
            update={"minutes": None, "until": "never", "episodes": status.episodes}
        )
        return create_run(
            config.model_copy(
                update={"run": _free_name(original, name, runs_dir), "job_name": None, "stop": stop}
            ),
            runs_dir,
            reward_path=original.reward_file,
            actions=original.metadata_file,
            preset_path=original.preset_file if original.preset_file.exists() else None,
            environment_path=(
                original.environment_file if original.environment_file.exists() else None
            ),
            tracks=load_run_tracks(original),
        )


def _free_name(original: Run, name: str | None, runs_dir: Path) -> str:
    if name is not None:
        return name
    count = 1
    while (runs_dir / f"{original.name}-repeat-{count}").exists():
        count += 1
    return f"{original.name}-repeat-{count}"


def _compare(original: Run, run: Run) -> Comparison:
    from local_trainer.manifest import compare_runs

    return compare_runs(original, run)


def _print_comparison(comparison: Comparison) -> None:
    if comparison.is_identical:
        print(
            f"The repetition is {comparison.run} bit for bit: "
            f"{counted(len(comparison.same), 'file')} of weights, steps and metrics are the same."
        )
        return
    for what in ("different", "missing"):
        for name in getattr(comparison, what):
            print(f"{what}: {name}")
    print(
        f"The repetition is not {comparison.run} bit for bit; what may be the cause: "
        f"local-trainer runs verify {comparison.run}"
    )


def _option(key: str) -> str:
    """Return the option that a setting was given with."""
    return _OPTIONS.get(key, key.removeprefix("stop.").removeprefix("cluster."))


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
    if resolved.simulator.backend == "gazebo":
        from local_trainer.launch.containers import check_stack

        check_stack()
    _check_cluster(resolved)
    return create_run(resolved, runs_dir)


def _prepare_resumption(run: Run, fixed: list[str], stop: dict[str, Any]) -> Run:
    """Check that a run can go on, and take over new limits."""
    from local_trainer.config import load_config, resolve_config, save_config

    if fixed:
        option = fixed[0] if fixed[0].startswith("--") else f"--{_option(fixed[0])}"
        raise ConfigError(
            f"--resume goes on with the run's own settings: {option} cannot be given with it; "
            "allowed: --minutes, --episodes, --until, --ray, --redis."
        )
    with run.lock():
        limits = {key: value for key, value in stop.items() if value is not None}
        if limits:
            save_config(resolve_config(run.config_file, (), limits), run.config_file)
    config = load_config(run.config_file)
    _check_limits(run, config)
    _check_cluster(config)
    return run


def _check_cluster(config: RunConfig) -> None:
    if config.cluster.ray is not None:
        from local_trainer.launch.ray_workers import check_cluster

        check_cluster(config)


_OPTIONS = {
    "run": "name",
    "tracks": "track",
    "job_name": "job-name",
    "simulator.num_cars": "cars",
    "simulator.backend": "simulator",
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


def _starter(run: Run) -> Callable[[Run], subprocess.Popen[bytes]]:
    """Return what starts a run's training: here, or in the container stack.

    Raises:
        ConfigError: If the run asks for the stack and this machine cannot run it.
    """
    from local_trainer.config import load_config
    from local_trainer.launch.processes import start_stack_training, start_training

    if load_config(run.config_file).simulator.backend != "gazebo":
        return start_training
    return start_stack_training


def _detach(run: Run, start: Callable[[Run], subprocess.Popen[bytes]], as_json: bool) -> None:
    process = start(run)
    if as_json:
        print_json({"run": run.name, "path": str(run.path), "pid": process.pid})
        return
    print(f"Run {run.name} trains in the background (process {process.pid}).")
    shown = _reference(run)
    print(f"Watch it: local-trainer runs show {shown}. Stop it: local-trainer runs stop {shown}")


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
    if status.iteration > 0:
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
