"""``local-trainer runs compare``: runs side by side, and which checkpoint to send to the car."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from local_trainer.cli.console import print_json, stderr, stdout, table
from local_trainer.cli.options import RunsDir
from local_trainer.errors import ConfigError, RunFailed, one_of
from local_trainer.runs import DEFAULT_RUNS_DIR

if TYPE_CHECKING:
    from local_trainer.compare.comparison import Comparison
    from local_trainer.compare.models import Model

TRIALS = 20
"""Laps a checkpoint drives with ``--evaluate``, as in ``evaluate --robust``."""


def compare_command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN[@checkpoint]…",
            help="Two runs or more; checkpoint: best (as without it), last or its number.",
        ),
    ],
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Let the best and last checkpoints (or those named) drive the same robust laps "
            "now: same starts, seed and noise. Laps driven before are not driven again.",
        ),
    ] = False,
    trials: Annotated[
        int, typer.Option(help="Laps each checkpoint drives with --evaluate.")
    ] = TRIALS,
    way: Annotated[
        str,
        typer.Option(help="Robust laps that count: both (directions), forward or reversed."),
    ] = "both",
    html: Annotated[
        Path | None,
        typer.Option(help="The page (default: compare-<runs>.html in the folder of runs)."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; no page unless --html names one.")
    ] = False,
) -> None:
    """Compare runs on one page: settings, curves, robust laps, and which checkpoint to send.

    Example: local-trainer runs compare mine other --evaluate
    """
    from local_trainer.compare.comparing import compare
    from local_trainer.compare.comparison import WAYS
    from local_trainer.compare.models import find_models

    if not 1 <= trials <= 1000:
        raise ConfigError(f"--trials must be from 1 to 1000, got {trials}.")
    counted = one_of("--way", way, WAYS)
    models = find_models(names, runs_dir)
    if evaluate:
        _drive(models, trials)
    comparison = compare(models, runs_dir, counted)
    page = html or (None if as_json else runs_dir / _page_name(models))
    if page is not None:
        from local_trainer.compare.page import write_page

        write_page(comparison, page)
    if as_json:
        print_json(comparison.to_json())
        return
    _print(comparison)
    print(f"page: {page}")


def _drive(models: list[Model], trials: int) -> None:
    """Let every run drive its laps, one run after another.

    Raises:
        RunFailed: If one cannot.
    """
    from local_trainer.cli.watch import failure_of
    from local_trainer.compare.models import checkpoints_to_drive
    from local_trainer.launch.processes import start_comparison

    for model in models:
        checkpoints = checkpoints_to_drive(model)
        if not checkpoints:
            continue
        process = start_comparison(model.run, models[0].run, checkpoints, trials)
        try:
            shown = ", ".join(name.partition("_")[0] for name in checkpoints)
            with stderr().status(f"{model.name}: {trials} robust laps with checkpoint {shown} …"):
                process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        if process.returncode:
            error = failure_of(model.run, process.returncode, "comparison")
            told = RunFailed(f"{model.name}: {error}")
            told.exit_status = error.exit_status
            raise told


def _page_name(models: list[Model]) -> str:
    names = [model.run.name for model in models]
    more = [f"{len(names) - 3}-more"] if len(names) > 3 else []
    return f"compare-{'-'.join([*names[:3], *more])}.html"


def _print(comparison: Comparison) -> None:
    from local_trainer.compare.page import LAPS_COLUMNS, laps_rows, shown

    console = stdout()
    for verdict in comparison.verdicts:
        place = f"{verdict.track}: " if len(comparison.verdicts) > 1 else ""
        console.print(f"{place}{verdict.sentence}", style="bold", markup=False)
        for words, command in verdict.commands:
            console.print(f"  {words}: {command}", markup=False)
    console.print()
    rows = laps_rows(comparison)
    if rows:
        console.print(table(LAPS_COLUMNS, rows))
    columns = ("", *(run.name for run in comparison.runs))
    results = [(key, *map(shown, values)) for key, values in comparison.results.items()]
    console.print("What was reached", table(columns, results))
    if comparison.settings:
        settings = [(key, *map(shown, values)) for key, values in comparison.settings.items()]
        console.print("Settings that differ", table(columns, settings))
    else:
        console.print("The settings are the same.\n")
    for run in comparison.runs:
        for note in run.notes:
            console.print(f"note: {run.name} {note}", markup=False)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False)
