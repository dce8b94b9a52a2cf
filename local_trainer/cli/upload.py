"""``local-trainer upload``: send a model to an S3 bucket or into the console."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from local_trainer.cli.console import counted, facts, print_json, stderr, stdout
from local_trainer.cli.export import find_model
from local_trainer.cli.options import RunsDir
from local_trainer.errors import ConfigError
from local_trainer.runs import DEFAULT_RUNS_DIR

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_trainer.console_api import SignIn
    from local_trainer.store import Progress
    from local_trainer.upload import UploadReport

USER_VARIABLE = "LOCAL_TRAINER_CONSOLE_USER"
PASSWORD_VARIABLE = "LOCAL_TRAINER_CONSOLE_PASSWORD"

app = typer.Typer(help="Send a model to an S3 bucket or into the console.", no_args_is_help=True)

Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@checkpoint]",
        help="Name or folder of a run; checkpoint: best, last or its number.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to stderr.")]


@app.command("s3")
def s3_command(
    model: Model,
    location: Annotated[str, typer.Argument(metavar="S3-URL", help="s3://bucket/prefix.")],
    endpoint: Annotated[
        str | None, typer.Option(help="S3 server, http(s)://host:port. Else AWS_ENDPOINT_URL, AWS.")
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--everything", help="Records, logs and every checkpoint too."),
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Send a run's model to any S3 bucket; `import` takes it from there.

    Without a checkpoint, best and last go. Credentials are taken from AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY. The same command goes on with an interrupted upload.

    Example: local-trainer upload s3 my-run s3://bucket/models/my-run
    """
    from local_trainer.upload import upload_run

    run, checkpoint = find_model(model, runs_dir)
    which = checkpoint if "@" in model else None
    with _progress() as progress:
        report = upload_run(run, location, which, endpoint, everything, progress)
    if as_json:
        print_json(asdict(report))
        return
    rows = [("uploaded", f"{run.name} to {report.location}"), ("files", _sent(report))]
    rows.append(("bring it back", f"local-trainer import {report.location} --name NAME"))
    stdout().print(facts(rows))


@app.command("console")
def console_command(
    model: Model,
    url: Annotated[str, typer.Option(help="Address of the console's page.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model there. Else made of the run's.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="Text beside the model there.")] = None,
    user: Annotated[
        str | None, typer.Option(help=f"Who signs in. Else {USER_VARIABLE}, or you are asked.")
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(help="Track of the console to name, for models of your own tracks."),
    ] = None,
    aws_endpoint: Annotated[
        str | None, typer.Option(help="Stands in for AWS's own endpoints, for trying it out.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    as_json: AsJson = False,
) -> None:
    """Send a model into an installation of DeepRacer on AWS, and wait until it is imported.

    The model is held to the console's rules first. The password is asked for, or taken from
    LOCAL_TRAINER_CONSOLE_PASSWORD. The same command goes on with an interrupted upload.

    Example: local-trainer upload console my-run --url https://my-console.example.com
    """
    from local_trainer.console_api import ConsoleSession, discover
    from local_trainer.upload import check_name, upload_to_console

    run, checkpoint = find_model(model, runs_dir)
    if name is not None:
        check_name(name, description)
    site = discover(url)
    session = ConsoleSession(site, _sign_in(user), aws_endpoint)
    from local_trainer.export.console import export_console

    with stderr().status("Trying the model out …"):
        export = export_console(run, checkpoint, track=track)
    with _progress() as progress:
        done = upload_to_console(
            run,
            Path(export.folder),
            session,
            name or export.model_name,
            description,
            aws_endpoint,
            progress,
            say=lambda text: stderr().print(text, markup=False),
        )
    if as_json:
        print_json(asdict(done))
        return
    rows = [
        ("model", f"{run.name}, checkpoint {export.checkpoint}"),
        ("in the console", f"{done.model_name} ({done.model_id}): {done.status}"),
        ("files", _sent(done.files)),
        ("see it", done.url),
    ]
    stdout().print(facts(rows))


def _sign_in(user: str | None) -> SignIn:
    """Return who signs in; what neither option nor environment says is asked for."""
    from local_trainer.console_api import SignIn

    user = user or os.environ.get(USER_VARIABLE) or _asked("User name", False, "--user")
    password = os.environ.get(PASSWORD_VARIABLE) or _asked(
        f"Password of {user}", True, PASSWORD_VARIABLE
    )
    return SignIn(user, password)


def _asked(what: str, is_hidden: bool, otherwise: str) -> str:
    import sys

    if not sys.stdin.isatty():
        raise ConfigError(f"The console needs a sign-in: set {otherwise}, or run it in a terminal.")
    return str(typer.prompt(what, hide_input=is_hidden, err=True))


@contextmanager
def _progress() -> Iterator[Callable[[int], Progress]]:
    """Yield what opens a bar for a number of bytes."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bars(*columns, TransferSpeedColumn(), console=stderr(), transient=True) as bars:

        def begin(num_bytes: int) -> Progress:
            task = bars.add_task("Uploading", total=num_bytes)
            return lambda size: bars.advance(task, size)

        yield begin


def _sent(report: UploadReport) -> str:
    sent = f"{counted(report.num_files, 'file')}, {report.num_bytes / 2**20:.1f} MiB"
    if report.num_skipped:
        sent += f"; {counted(report.num_skipped, 'file')} had arrived before"
    return sent
