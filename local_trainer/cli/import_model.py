"""``local-trainer import``: make a run of a model that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from local_trainer.cli.console import facts, print_json, stdout
from local_trainer.cli.options import AsJson
from local_trainer.runs import DEFAULT_RUNS_DIR, Run

if TYPE_CHECKING:
    from local_trainer.model_import import ImportedRun


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|S3-URL",
            help="Model folder or archive of DRfC, the console, simapp or a car, or "
            "s3://bucket/prefix.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the new run.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Take this one only: best, last or its number. Else best and last."),
    ] = None,
    track: Annotated[
        str | None, typer.Option(help="Track, if the model's is not known here.")
    ] = None,
    reward: Annotated[
        Path | None, typer.Option(help="Reward function instead of the model's.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="S3 server, http(s)://host:port. Else AWS_ENDPOINT_URL, AWS.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Folder the runs lie in.")] = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a run of a model from elsewhere: settings, reward function, metadata and weights.

    S3 credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    """
    from local_trainer import model_import as importing

    options = importing.ImportOptions(name, checkpoint, track, reward, endpoint)
    if as_json:
        imported = importing.import_model(source, options, runs_dir)
        print_json(
            {
                "run": imported.run.name,
                "path": str(imported.run.path),
                "source": imported.source,
                "track": imported.track,
                "checkpoints": imported.checkpoints,
                "lacking": imported.result.lacking,
                "largest_difference": imported.result.difference,
                "notes": imported.notes,
            }
        )
        return
    with stdout().status(f"Importing {source} …"):
        imported = importing.import_model(source, options, runs_dir)
    _print_summary(imported)


def _print_summary(imported: ImportedRun) -> None:
    run, result = imported.run, imported.result
    rows = [
        ("run", f"{run.name} on {imported.track}"),
        ("checkpoints", ", ".join(imported.checkpoints)),
        ("weights", _weights_text(imported)),
    ]
    if result.difference is not None:
        rows.append(
            ("policy", f"as the model's own frozen graph, to {max(result.difference, 1e-9):.1g}")
        )
    rows += [("note" if index == 0 else "", text) for index, text in enumerate(imported.notes)]
    name = _reference(run)
    rows += [
        ("evaluate", f"local-trainer evaluate {name}"),
        ("go on", f"local-trainer train --resume {name}"),
        (
            "begin from it",
            f"local-trainer train --from {run.name} --config {run.config_file} --name NEW"
            + ("" if run.path.parent == DEFAULT_RUNS_DIR else f" --runs-dir {run.path.parent}"),
        ),
    ]
    stdout().print(facts(rows))


def _weights_text(imported: ImportedRun) -> str:
    lacking = imported.result.lacking
    if not lacking:
        return "all taken"
    networks = {"value" if "/network_0/" in name else "policy" for name in lacking}
    return f"taken but for {len(lacking)} of the {' and '.join(sorted(networks))} network"


def _reference(run: Run) -> str:
    if run.path.parent == DEFAULT_RUNS_DIR:
        return run.name
    return f"{run.name} --runs-dir {run.path.parent}"
