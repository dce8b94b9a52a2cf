"""``local-trainer export``: models for the car and the console, and the check before sending."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.checkpoints import split_model
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
from local_trainer.errors import one_of
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, find_run

if TYPE_CHECKING:
    from local_trainer.export.car import CarSheet
    from local_trainer.export.console import ConsoleExport
    from local_trainer.export.findings import CheckReport

app = typer.Typer(
    help="Take models to the car and the console, checked beforehand.", no_args_is_help=True
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@checkpoint]",
        help="Name or folder of a run; checkpoint: best (as without it), last or its number.",
    ),
]


@app.command("car")
def car_command(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Archive (default: export/model.tar.gz in the run)."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Print all about the model: the car sheet.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Write model.tar.gz for the physical car; the frozen graph is tried out first.

    Example: local-trainer export car my-run@last --report
    """
    run, checkpoint = find_model(model, runs_dir)
    from local_trainer.export.car import export_car

    with stderr().status("Trying the model out …"):
        sheet = export_car(run, checkpoint, output)
    if as_json:
        print_json(asdict(sheet))
        return
    stdout().print(facts(_sheet_rows(sheet) if report else _short_rows(sheet)))
    if report:
        rows = [
            (str(number), f"{action['steering_angle']:g}°", f"{action['speed']:g} m/s")
            for number, action in enumerate(sheet.actions)
        ]
        stdout().print("", table((">action", ">steering", ">speed"), rows))


@app.command("console")
def console_command(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; the zip goes beside it (default: in the run)"),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(help="Track of the console to name, for models of your own tracks."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Write the folder and zip that DeepRacer on AWS imports, held to its rules first.

    Example: local-trainer export console my-run
    """
    run, checkpoint = find_model(model, runs_dir)
    from local_trainer.export.console import export_console

    with stderr().status("Trying the model out …"):
        export = export_console(run, checkpoint, output, track)
    if as_json:
        print_json(asdict(export))
        return
    stdout().print(facts(_console_rows(export)))
    warnings = [finding for finding in export.report.findings if finding.outcome == "warning"]
    for finding in warnings:
        stdout().print(f"warning: {finding.rule}: {finding.found}; {finding.mend}", markup=False)


@app.command("check")
def check_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder, zip, tar or tar.gz.")],
    target: Annotated[
        str | None,
        typer.Option("--for", help="console or car (default: told from what is inside)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name the model is to have in the console.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="Its description in the console.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold any model to every rule of the console or the car; says how to mend it.

    Exit status: 0 if nothing refuses it, else 1.

    Example: local-trainer export check ~/Downloads/my-model.zip
    """
    from local_trainer.export.check import TARGETS, check_model

    place = None if target is None else one_of("--for", target, TARGETS)
    with stderr().status("Trying the model out …"):
        report = check_model(path, place, name, description)
    if as_json:
        print_json({**asdict(report), "is_refused": report.is_refused})
    else:
        _print_check(report)
    if report.is_refused:
        raise typer.Exit(1)


def find_model(model: str, runs_dir: Path) -> tuple[Run, str]:
    """Return the run and checkpoint of ``RUN`` or ``RUN@checkpoint``."""
    name, checkpoint = split_model(model)
    return find_run(name, runs_dir), checkpoint or "best"


def _short_rows(sheet: CarSheet) -> list[tuple[str, str]]:
    return [
        ("archive", f"{sheet.archive} ({sheet.archive_bytes / 2**20:.1f} MiB)"),
        ("sha256", sheet.archive_sha256),
        ("model", f"{sheet.run}, checkpoint {sheet.checkpoint}"),
        ("checked", _checked(sheet)),
        *([("note", sheet.note)] if sheet.note else []),
    ]


def _sheet_rows(sheet: CarSheet) -> list[tuple[str, str]]:
    shape = " × ".join("any" if size < 0 else str(size) for size in sheet.input_shape)
    training = (
        f"{sheet.training_minutes:.1f} min, {counted(sheet.training_episodes, 'episode')} in all"
    )
    return [
        *_short_rows(sheet),
        ("graph sha256", sheet.graph_sha256),
        ("trained on", f"{sheet.track}, {sheet.track_length_m:.2f} m a lap; {training}"),
        ("evaluation", _laps(sheet.evaluation)),
        ("robust evaluation", _laps(sheet.robust_evaluation, f"evaluate {sheet.run} --robust")),
        ("network", f"{sheet.network}, {counted(sheet.num_weights, 'variable')}"),
        ("input", f"{sheet.input_name}: {sheet.input_type}, {shape}, grey levels 0 to 255"),
        ("output", f"{sheet.output_name}: a probability for each of {len(sheet.actions)} actions"),
    ]


def _checked(sheet: CarSheet) -> str:
    origin = "recorded in training" if sheet.are_pictures_recorded else "drawn around its track"
    return (
        f"the frozen graph agrees with the live policy to {sheet.difference:.1g} "
        f"on {counted(sheet.num_pictures, 'picture')} {origin}"
    )


def _laps(evaluation: dict[str, Any] | None, command: str = "") -> str:
    if evaluation is None:
        return f"none yet; drive one with: local-trainer {command}" if command else NOTHING
    return (
        f"{evaluation['completed']} of {evaluation['trials']} laps complete, "
        f"{percent(evaluation['mean_completion_percentage'])} on average, "
        f"best {lap_time(evaluation['best_lap_s'])}, mean {lap_time(evaluation['mean_lap_s'])}"
    )


def _console_rows(export: ConsoleExport) -> list[tuple[str, str]]:
    way = "clockwise" if export.is_clockwise else "counter-clockwise"
    report = export.report
    kept = f"{counted(report.count('passed'), 'rule')} passed"
    others = [f"{report.count(o)} {o}" for o in ("warning", "not checked") if report.count(o)]
    return [
        ("folder", export.folder),
        ("zip", export.zip),
        ("model", f"{export.run}, checkpoint {export.checkpoint}"),
        ("name there", export.model_name),
        ("track there", f"{export.track_title} ({export.world_name}), {way}"),
        ("checked", ", ".join([kept, *others])),
        *([("note", export.note)] if export.note else []),
    ]


_MARKS = {"passed": "ok", "warning": "warning", "refused": "REFUSED", "not checked": "not checked"}


def _print_check(report: CheckReport) -> None:
    rows = []
    for finding in report.findings:
        rows.append((_MARKS[finding.outcome], finding.rule, finding.found))
        if finding.mend:
            rows.append(("", "", f"→ {finding.mend}"))
    stdout().print(table(("", "rule", "found"), rows))
    counts = ", ".join(
        f"{report.count(outcome)} {outcome}"
        for outcome in ("passed", "warning", "refused", "not checked")  # in this order
        if report.count(outcome)
    )
    verdict = "would be refused" if report.is_refused else "nothing refuses it"
    place = "the car" if report.target == "car" else "the console"
    print(f"{report.path} for {place}: {verdict} ({counts}).")
