"""``local-trainer reward line``: the racing line of a track."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli.console import lap_time, print_json, stdout, table
from local_trainer.cli.options import AsJson, TracksDir
from local_trainer.errors import ConfigError

if TYPE_CHECKING:
    from local_trainer.lab.racing_line import RacingLine
    from sim.track import Track


_COLUMNS = ("line", ">length", ">slowest", ">fastest", ">estimated", ">driven", ">at")


def line(
    track: Annotated[
        str, typer.Option("--track", "-t", help="Track, or path of its file.")
    ] = "reinvent_base",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the line: .csv (x, y, speed) or .json."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture (.png), coloured by speed.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page (.html) that opens offline.")
    ] = None,
    max_speed: Annotated[
        float, typer.Option("--max-speed", help="Fastest speed to plan with, m/s.")
    ] = 4.0,
    is_driven: Annotated[
        bool, typer.Option("--drive/--no-drive", help="Drive both lines in the simulator.")
    ] = True,
    is_reversed: Annotated[
        bool, typer.Option("--reverse", help="The line against the track's row order.")
    ] = False,
    tracks_dir: TracksDir = Path("tracks"),
    as_json: AsJson = False,
) -> None:
    """Find the racing line of a track and compare it with the centre line.

    Times are of a lap from a standing start: estimated, and driven in the simulator by the same
    path follower along both lines.
    """
    from local_trainer.cli.reward.map import load_named_track
    from local_trainer.lab import racing_line as lines

    if plot is not None and plot.suffix != ".png":
        raise ConfigError(f"--plot must end in .png, got {str(plot)!r}")
    if html is not None and html.suffix != ".html":
        raise ConfigError(f"--html must end in .html, got {str(html)!r}")
    if output is not None and output.suffix not in (".csv", ".json"):
        raise ConfigError(f"--output must end in .csv or .json, got {str(output)!r}")
    road = load_named_track(track, tracks_dir)
    if is_reversed:
        road = road.reverse()
    limits = lines.CarLimits(max_speed_mps=max_speed)
    racing = lines.racing_line(road, limits)
    results = [
        _result("centre line", road, lines.center_line(road, limits), is_driven),
        _result("racing line", road, racing, is_driven),
    ]
    files = {}
    if output is not None:
        lines.save_line(racing, output)
        files["line"] = str(output)
    if plot is not None:
        from local_trainer.lab.figures.line import write_line_plot

        write_line_plot(road, racing, plot, _subtitle(results))
        files["picture"] = str(plot)
    if html is not None:
        _write_page(html, road, racing, results)
        files["page"] = str(html)
    if as_json:
        print_json({"track": road.name, "is_reversed": is_reversed, "lines": results, **files})
        return
    stdout().print(table(_COLUMNS, map(_row, results)))
    for what, path in files.items():
        print(f"{what}: {path}")


def _result(name: str, track: Track, line: RacingLine, is_driven: bool) -> dict[str, Any]:
    from local_trainer.lab.racing_line import drive_line

    lap = drive_line(track, line) if is_driven else None
    return {
        "name": name,
        "length_m": line.length_m,
        "min_speed_mps": float(line.speeds_mps.min()),
        "max_speed_mps": float(line.speeds_mps.max()),
        "estimated_lap_s": line.lap_time_s,
        "driven_lap_s": None if lap is None else lap.lap_time_s,
        "driven_speed_scale": None if lap is None else lap.speed_scale,
    }


def _write_page(path: Path, track: Track, line: RacingLine, results: list[dict[str, Any]]) -> None:
    from local_trainer.lab.figures.line import line_png
    from local_trainer.page import Page

    points = zip(*line.points_m.T.tolist(), line.speeds_mps.tolist(), strict=True)
    page = Page(f"Racing line of {track.name}", _subtitle(results), width_px=1080)
    page.section("Both lines").table(_COLUMNS, map(_row, results))
    page.text(
        "Laps from a standing start: estimated from the line's speeds, and driven in the simulator "
        "by the same path follower along both lines."
    )
    page.section("On the track").picture(line_png(track, line), "Coloured by speed.")
    rows = "\n".join(f"{x:.3f},{y:.3f},{speed:.2f}" for x, y, speed in points)
    page.details("Points of the line: x in m, y in m, speed in m/s", f"x,y,speed\n{rows}")
    page.write(path)


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    scale = result["driven_speed_scale"]
    return (
        result["name"],
        f"{result['length_m']:.2f} m",
        f"{result['min_speed_mps']:.2f} m/s",
        f"{result['max_speed_mps']:.2f} m/s",
        lap_time(result["estimated_lap_s"]),
        lap_time(result["driven_lap_s"]),
        "" if scale is None else f"{100 * scale:.0f} % of its speeds",
    )


def _subtitle(results: list[dict[str, Any]]) -> str:
    key = "driven_lap_s" if results[1]["driven_lap_s"] is not None else "estimated_lap_s"
    word = "driven" if key == "driven_lap_s" else "estimated"
    center, racing = results
    return (
        f"{racing['length_m']:.2f} m, lap {lap_time(racing[key])} {word}; "
        f"centre line {center['length_m']:.2f} m, {lap_time(center[key])}"
    )
