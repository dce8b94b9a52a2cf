"""``local-trainer reward replay``: recompute rewards on recorded steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli.console import facts, print_json, stdout, table
from local_trainer.cli.options import AsJson, RunsDir, TracksDir
from local_trainer.errors import ConfigError
from local_trainer.runs import DEFAULT_RUNS_DIR

if TYPE_CHECKING:
    from local_trainer.lab.recordings import Recording
    from local_trainer.lab.replay import Replay


def replay(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…", help="Runs by name or folder, or others' logs: file, folder, tar.gz."
        ),
    ],
    rewards: Annotated[
        list[Path] | None,
        typer.Option(
            "--reward", metavar="FILE…", help="Reward functions; the run's own if left out."
        ),
    ] = None,
    track: Annotated[
        str | None, typer.Option("--track", help="Track of logs that do not name theirs.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write each step's rewards to this CSV.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with pictures to this file.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    tracks_dir: TracksDir = Path("tracks"),
    as_json: AsJson = False,
) -> None:
    """Recompute rewards on recorded steps, without a simulator.

    Tells for every run and reward function what an episode earns, how it relates to what was
    recorded, and how many rewards are equal to the recorded ones.
    """
    from local_trainer.lab.recordings import read_recording
    from local_trainer.lab.replay import replay as replay_rewards
    from local_trainer.lab.replay import write_step_csv
    from local_trainer.run_files import find_user_file

    names, files = split_rewards(names, rewards or [])
    if output is not None and output.suffix != ".csv":
        raise ConfigError(f"--output must end in .csv, got {str(output)!r}")
    if html is not None and html.suffix != ".html":
        raise ConfigError(f"--html must end in .html, got {str(html)!r}")
    found: list[Path | None] = [find_user_file("reward function", file) for file in files]
    recordings = [read_recording(name, runs_dir, tracks_dir, track) for name in names]
    replays = [
        replay_rewards(recording, file) for recording in recordings for file in found or [None]
    ]
    if output is not None:
        write_step_csv(output, replays)
    if html is not None:
        _write_page(html, replays)
    if as_json:
        print_json(
            {
                "recordings": [describe(recording) for recording in recordings],
                "replays": [one.figures() for one in replays],
            }
        )
        return
    _show(recordings, replays)
    for path in (output, html):
        if path is not None:
            print(f"Written: {path}")


def split_rewards(names: list[str], rewards: list[Path]) -> tuple[list[str], list[Path]]:
    """Return runs and reward functions of a command line.

    ``--reward A.py B.py`` leaves the second file among the runs; a Python file is never a run.

    Raises:
        ConfigError: If no run is left.
    """
    runs = [name for name in names if not name.endswith(".py")]
    if not runs:
        raise ConfigError("RUN must be at least one run or log, got only Python files.")
    return runs, [*rewards, *(Path(name) for name in names if name.endswith(".py"))]


def describe(recording: Recording) -> dict[str, Any]:
    """Return what a recording is and how exact it is, as plain data."""
    exactness = recording.exactness
    return {
        "name": recording.name,
        "source": str(recording.source),
        "kind": recording.kind,
        "track": recording.track.name,
        "episodes": len(recording.episodes),
        "steps": recording.num_steps,
        "exact": list(exactness.exact),
        "from_log": list(exactness.logged),
        "recomputed": list(exactness.recomputed),
        "agreement": {
            one.field: {"share": one.share, "steps": one.num_steps, "worst": one.worst}
            for one in exactness.agreement
        },
        "notes": list(exactness.notes),
    }


def _show(recordings: list[Recording], replays: list[Replay]) -> None:
    from local_trainer.lab.replay_text import TABLE_COLUMNS, exactness_rows, table_row

    console = stdout()
    for recording in recordings:
        console.print(facts(exactness_rows(recording)))
        console.print()
    console.print(table(TABLE_COLUMNS, map(table_row, replays)))
    if any(len(one.old) < one.recording.num_steps for one in replays):
        console.print("Compared: only steps whose recorded reward a reward function made.")


def _write_page(path: Path, replays: list[Replay]) -> None:
    from local_trainer.lab.replay_page import write_replay_page

    write_replay_page(path, replays)
