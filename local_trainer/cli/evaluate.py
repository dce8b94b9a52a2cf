"""``local-trainer evaluate``: drive greedy laps with a run's model and show them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from local_trainer.cli.console import lap_time, percent, print_json, stdout
from local_trainer.errors import ConfigError, one_of
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, find_run

if TYPE_CHECKING:
    from local_trainer.evaluation import EvaluationReport


def evaluate(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name or folder of a run.")],
    trials: Annotated[
        int | None, typer.Option(help="Laps to drive; 5, or 20 with --robust.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Which checkpoint: best, last or its number.")
    ] = "best",
    robust: Annotated[
        bool,
        typer.Option(
            "--robust",
            help="Start all around the lap, in both directions, with up to 10 % action noise.",
        ),
    ] = False,
    resets: Annotated[
        int | None,
        typer.Option(help="Times a car that left the road is put back (0, or 2 and more)."),
    ] = None,
    simulator: Annotated[
        str | None,
        typer.Option(
            help="embedded, or gazebo: in containers, see `stack`; by default the run's own."
        ),
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Folder the runs lie in.")] = DEFAULT_RUNS_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Drive greedy laps with a run's model; writes a table, plots, a video and the page."""
    trials = trials if trials is not None else (20 if robust else 5)
    if not 1 <= trials <= 1000:
        raise ConfigError(f"--trials must be from 1 to 1000, got {trials}.")
    if resets is not None and (resets < 0 or resets == 1):
        raise ConfigError(f"--resets must be 0, or at least 2, got {resets}.")
    run = find_run(name, runs_dir)
    from local_trainer.checkpoints import choose_checkpoint

    choose_checkpoint(run.model_dir, checkpoint)
    simulator = _simulator(run, simulator)
    report = _drive(run, trials, checkpoint, robust, resets, simulator, is_quiet=as_json)
    if as_json:
        print_json(json.loads(report.to_json()))
    else:
        _print_report(run, report)


def _simulator(run: Run, asked: str | None) -> str:
    """Return which simulator the laps are driven in.

    Raises:
        ConfigError: If there is no such simulator, or this machine or run cannot use it.
    """
    from local_trainer.config import load_config

    if asked is not None:
        one_of("--simulator", asked, ("embedded", "gazebo"))
    backend = asked or load_config(run.config_file).simulator.backend
    if asked == "embedded" and run.environment_file.exists():
        raise ConfigError(
            f"Run {run.name!r} drives an environment of its own: leave --simulator out, or give "
            "gazebo; got embedded."
        )
    if backend == "gazebo":
        from local_trainer.launch.containers import check_stack

        check_stack()
    return backend


def _drive(
    run: Run,
    trials: int,
    checkpoint: str,
    robust: bool,
    resets: int | None,
    simulator: str,
    is_quiet: bool,
) -> EvaluationReport:
    from local_trainer.cli.watch import NoticesView, failure_of, runs_after
    from local_trainer.evaluation import read_report
    from local_trainer.launch.processes import start_evaluation

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        notices = NoticesView(run.evaluation_notices_file, stdout())
        process = start_evaluation(run, trials, checkpoint, robust, resets, file, simulator)
        try:
            if is_quiet:
                process.wait()
            else:
                where = " in Gazebo" if simulator == "gazebo" else ""
                with stdout().status(f"{trials} laps with the {checkpoint} checkpoint{where} …"):
                    while runs_after(process):
                        notices.show()
                    notices.show()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        if process.returncode:
            raise failure_of(run, process.returncode, "evaluation")
        return read_report(file)


def _print_report(run: Run, report: EvaluationReport) -> None:
    from rich.table import Table

    kind = "robust evaluation" if report.is_robust else "evaluation"
    where = " in Gazebo" if report.simulator == "gazebo" else ""
    table = Table(title=f"{run.name}: {kind} of {report.checkpoint}{where}", title_justify="left")
    by_track = report.by_track()
    track = ("track",) if by_track else ()
    left = ("track", "direction", "ended")
    for heading in (
        "trial",
        *track,
        "start",
        "direction",
        "completion",
        "time",
        "off track",
        "ended",
    ):
        table.add_column(heading, justify="left" if heading in left else "right")
    for trial in report.trials:
        table.add_row(
            str(trial.trial),
            *([trial.track] if by_track else []),
            percent(100 * trial.start_fraction),
            "reversed" if trial.is_reversed else "forward",
            percent(trial.completion_percentage),
            lap_time(trial.elapsed_time_s),
            str(trial.off_tracks),
            trial.status.replace("_", " "),
        )
    console = stdout()
    console.print(table)
    console.print(
        f"{report.completed} of {len(report.trials)} laps complete, mean completion "
        f"{percent(report.mean_completion_percentage)}, best lap {lap_time(report.best_lap_s)}, "
        f"mean lap {lap_time(report.mean_lap_s)}"
    )
    for name, part in by_track.items():
        console.print(
            f"{name}: {part.completed} of {len(part.trials)} laps complete, mean completion "
            f"{percent(part.mean_completion_percentage)}, best lap {lap_time(part.best_lap_s)}"
        )
    console.print(f"page: {run.report_file}")
