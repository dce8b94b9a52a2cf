"""The command ``local-trainer``: mounts the commands and turns errors into one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from local_trainer.cli import (
    bench,
    doctor,
    evaluate,
    export,
    import_model,
    plot,
    reward,
    runs,
    stack,
    sweep,
    track,
    train,
    upload,
)
from local_trainer.cli.console import print_error
from local_trainer.cli.watch import INTERRUPTED
from local_trainer.errors import LocalTrainerError

app = typer.Typer(
    name="local-trainer",
    help="Train DeepRacer-style cars on this machine: simulator, PPO, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("plot")(plot.plot)
app.command("import")(import_model.import_model)
app.add_typer(runs.app, name="runs")
app.add_typer(export.app, name="export")
app.add_typer(upload.app, name="upload")
app.add_typer(track.app, name="track")
app.add_typer(reward.app, name="reward")
app.add_typer(stack.app, name="stack")
app.add_typer(sweep.app, name="sweep")
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"local-trainer {version('local-trainer')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error came from.")
    ] = False,
) -> None:
    """Train DeepRacer-style cars on this machine: simulator, PPO, evaluation."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or settings."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; errors are one line on standard error."""
    # Accepted anywhere, since it is added after something went wrong.
    shows_traceback = "--traceback" in arguments
    rest = [argument for argument in arguments if argument != "--traceback"]
    try:
        status = app(rest, prog_name="local-trainer", standalone_mode=False)
    except (LocalTrainerError, OSError, typer.TyperException, typer.Abort) as error:
        if shows_traceback:
            raise
        message, status = _describe(error)
        if message:  # empty where the help was shown instead
            print_error(message)
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _describe(error: Exception) -> tuple[str, int]:
    """Return the line that tells the user what went wrong, and the exit status."""
    if isinstance(error, LocalTrainerError):
        return str(error), error.exit_status
    if isinstance(error, typer.TyperException):
        return error.format_message(), error.exit_code
    if isinstance(error, OSError):
        return _describe_os_error(error), 1
    return "aborted", 1


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error)
    hint = {
        errno.ENOSPC: "; free some space or give another folder with --runs-dir",
        errno.EROFS: "; give a folder that can be written with --runs-dir",
        errno.EACCES: "; give a folder that can be written with --runs-dir",
    }.get(error.errno or 0, "")
    return f"{where}{what}{hint}"


if __name__ == "__main__":
    main()
