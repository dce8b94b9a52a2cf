"""``local-trainer reward watch``: check, replay and map at each save, with what changed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from local_trainer.cli.console import counted, stdout, table
from local_trainer.cli.options import RunsDir, TracksDir
from local_trainer.cli.watch import INTERRUPTED
from local_trainer.runs import DEFAULT_RUNS_DIR

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from local_trainer.lab.reward_map import RewardMap
    from local_trainer.lab.watch import Diff, Note, Version

_STYLES = {"error": "red", "warning": "yellow", "console": "magenta"}
_MAP_CELLS = 4_000


def watch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Reward function to watch.")],
    run: Annotated[
        str | None, typer.Option("--run", help="Run or log whose steps are replayed.")
    ] = None,
    track_name: Annotated[
        str | None,
        typer.Option(
            "--track", "-t", help="Track of the map (default: the run's or reinvent_base)."
        ),
    ] = None,
    speed_mps: Annotated[float, typer.Option("--speed", help="Of the map, m/s.")] = 1.5,
    heading_deg: Annotated[
        float, typer.Option("--heading", help="Of the map, degrees from the centre line.")
    ] = 0.0,
    steering_deg: Annotated[
        float, typer.Option("--steering", help="Of the map, degrees, left positive.")
    ] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of map and page (default: FILE-watch)."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    tracks_dir: TracksDir = Path("tracks"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each version.")
    ] = False,
) -> int:
    """Check, replay and map a reward function whenever it is saved, until Ctrl-C.

    The page in the output folder can stay open in a browser: it reads itself again.
    """
    from local_trainer.cli.reward.map import load_named_track
    from local_trainer.lab.recordings import read_recording
    from local_trainer.lab.reward_map import map_grid
    from local_trainer.lab.watch import Workbench, compare, remember, saves
    from local_trainer.run_files import find_user_file

    file = find_user_file("reward function", file)
    recording = read_recording(run, runs_dir, tracks_dir, track_name) if run else None
    if recording is not None and track_name is None:
        track = recording.track
    else:
        track = load_named_track(track_name or "reinvent_base", tracks_dir)
    grid = map_grid(track, num_cells=_MAP_CELLS)
    grid.steps(speed_mps, heading_deg, steering_deg)  # refuses what is out of range, once
    bench = Workbench(file, grid, recording, speed_mps, heading_deg, steering_deg)
    show = _Show(file, output or Path(f"{file.stem}-watch"), as_json)
    before: Version | None = None
    try:
        for _ in saves(file):
            with show.busy():
                version = bench.try_out()
            show.version(version, compare(version, before))
            before = remember(version, before)
    except KeyboardInterrupt:
        show.end()
        return INTERRUPTED
    return 0


class _Show:
    """Writes each version to the terminal, the picture and the page."""

    def __init__(self, file: Path, folder: Path, as_json: bool) -> None:
        self._file = file
        self._folder = folder
        self._as_json = as_json
        self._console: Console = stdout()
        self._map: tuple[bytes, str] | None = None

    def busy(self) -> Status:
        return self._console.status(f"Trying {self._file.name} …")

    def version(self, version: Version, diff: Diff) -> None:
        from local_trainer.lab.watch import as_data

        start = time.perf_counter()
        clock = datetime.now().strftime("%H:%M:%S")
        if version.map is not None:
            self._draw(version.map)
        version = replace(version, elapsed_s=version.elapsed_s + time.perf_counter() - start)
        page = self._write(version, diff, clock)
        if self._as_json:
            data = {**as_data(version, diff), "page": str(page)}
            print(json.dumps(data, ensure_ascii=False), flush=True)
            return
        self._print(version, diff, clock)
        if version.number == 1:
            self._console.print(f"  page: {page} (stays up to date); Ctrl-C ends", markup=False)

    def end(self) -> None:
        if not self._as_json:
            self._console.print("\nStopped watching.")

    def _draw(self, reward_map: RewardMap) -> None:
        from local_trainer.lab.figures.map import driving_text, map_png
        from local_trainer.runs import write_atomically

        caption = f"{reward_map.grid.track.name}: {driving_text(reward_map)}"
        self._map = (map_png(reward_map), caption)
        write_atomically(self._folder / "map.png", self._map[0])

    def _write(self, version: Version, diff: Diff, clock: str) -> Path:
        from local_trainer.lab.watch_page import watch_page

        picture, caption = self._map or (None, "")
        if version.map is None and self._map:
            caption += " (of the last version that could be drawn)"
        page = watch_page(self._file, version, diff, clock, picture, caption)
        return page.write(self._folder / "watch.html")

    def _print(self, version: Version, diff: Diff, clock: str) -> None:
        console = self._console
        color = "red" if version.has_failed else "green"
        state = "fails" if version.has_failed else "works"
        console.print(
            f"[bold]{clock}[/]  version {version.number}  [{color}]{state}[/]  "
            f"{_counts(version)}  ({version.elapsed_s:.1f} s)"
        )
        for sign, notes in (("+", diff.came), ("−", diff.went)):
            for note in notes:
                self._print_note(sign, note)
        if version.report is None or not version.report.errors:  # errors explain these
            for problem in version.problems:
                console.print(f"  ! {problem}", markup=False, style="red")
        if version.number > 1 and diff.is_unchanged:
            console.print("  nothing changed")
            return
        columns = ("", ">now", ">before", ">change")
        rows = [(f"  {one.name}", one.now, one.before, one.change) for one in diff.figures]
        shown = 2 if version.number == 1 else 4
        if rows:
            console.print(table(columns[:shown], [row[:shown] for row in rows]))

    def _print_note(self, sign: str, note: Note) -> None:
        from local_trainer.lab.watch_page import SEVERITY_WORDS

        where = f"line {note.line}: " if note.line else ""
        style = "dim" if sign == "−" else _STYLES[note.severity]
        self._console.print(
            f"  {sign} {SEVERITY_WORDS[note.severity]}: {where}{note.text}",
            markup=False,
            style=style,
        )


def _counts(version: Version) -> str:
    report = version.report
    if report is None:
        return "not checked"
    errors, warnings = len(report.errors), len(report.warnings)
    parts = [counted(errors, "error"), counted(warnings, "warning")]
    if report.refusals:
        parts.append(f"console refuses for {counted(len(report.refusals), 'reason')}")
    return ", ".join(parts)
