"""``local-trainer plot``: draw a run's plots and its page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from local_trainer.cli.options import RunsDir
from local_trainer.runs import DEFAULT_RUNS_DIR, find_run


def plot(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name or folder of a run.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to instead of the run's own.")
    ] = None,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Print every file written, one a line.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Draw a run's plots and its page (report.html) again, also while it is running."""
    run = find_run(name, runs_dir)
    from local_trainer.plots import write_plots
    from local_trainer.report import VIDEO_NAME, video_file, write_report
    from local_trainer.runs import write_atomically

    files = write_plots(run, output)
    video = video_file(run)
    if output is not None and video.exists():
        copy = output / VIDEO_NAME
        if copy.resolve() != video.resolve():
            write_atomically(copy, video.read_bytes())
        files.append(copy)
    page = write_report(run, output)
    for path in (*files, page) if show_paths else (page,):
        print(path)
