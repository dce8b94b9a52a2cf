"""``local-trainer track``: list, show, import and make tracks, and measure poses on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli.console import NOTHING, facts, print_json, stdout, table
from local_trainer.cli.options import AsJson, TracksDir
from local_trainer.errors import ConfigError

if TYPE_CHECKING:
    from sim.track import Track
    from sim.track_files import TrackInfo

app = typer.Typer(help="List, show, import and make tracks.", no_args_is_help=True)

Replace = Annotated[bool, typer.Option("--replace", help="Overwrite tracks of the same name.")]

_TRACKS_DIR = Path("tracks")


@app.command("list")
def list_command(tracks_dir: TracksDir = _TRACKS_DIR, as_json: AsJson = False) -> None:
    """List all tracks: ours, and yours in the tracks folder."""
    from sim.track_files import list_tracks

    infos = list_tracks(tracks_dir)
    if as_json:
        print_json([asdict(info) for info in infos])
        return
    columns = ("track", ">length", ">width", ">waypoints", "direction", "surface", "from")
    stdout().print(table(columns, map(_row, infos)))
    for info in infos:
        if info.problem:
            stdout().print(f"{info.path}: {info.problem}", markup=False)


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Track, or path of its file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Picture to write (default: NAME.png).")
    ] = None,
    tracks_dir: TracksDir = _TRACKS_DIR,
    as_json: AsJson = False,
) -> None:
    """Draw a track and tell its measures.

    With --json, a picture is drawn only where --output says.
    """
    track = _load(name, tracks_dir)
    if output is None and not as_json:
        output = Path(f"{track.name}.png")
    if output is not None:
        from local_trainer.track_plot import write_track_plot

        if output.suffix != ".png":
            raise ConfigError(f"--output must end in .png, got {str(output)!r}")
        write_track_plot(track, output)
    values = _describe(track)
    if as_json:
        print_json({**values, "picture": None if output is None else str(output)})
        return
    x, y, yaw_deg = values["start"].values()
    rows = [
        ("track", track.name),
        ("length", f"{values['length_m']:.2f} m, {values['waypoints']} waypoints"),
        ("width", _width_text(values["width_min_m"], values["width_max_m"])),
        ("direction", values["direction"]),
        ("start", f"({x:.2f}, {y:.2f}) m, heading {yaw_deg:.0f}°"),
        ("surface", track.surface),
        ("picture", str(output)),
    ]
    stdout().print(facts(rows))


@app.command("import")
def import_command(
    source: Annotated[
        Path, typer.Argument(metavar="PATH", help="A route .npy, or a folder of them.")
    ],
    both_directions: Annotated[
        bool, typer.Option("--both-directions", help="Also write NAME_ccw and NAME_cw.")
    ] = False,
    replace: Replace = False,
    tracks_dir: TracksDir = _TRACKS_DIR,
    as_json: AsJson = False,
) -> None:
    """Copy routes of the service into the tracks folder: all of them, or none if one is bad."""
    from sim.track_files import import_routes

    with _as_config_error():
        names = import_routes(source, tracks_dir, both_directions, replace)
    _say_written(names, tracks_dir, as_json)


@app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new track.")],
    points: Annotated[
        Path | None, typer.Option("--points", help="Centre line: .csv, .json or .npy, x y in m.")
    ] = None,
    width_m: Annotated[
        float | None, typer.Option("--width", help="Width of the road in m, with --points.")
    ] = None,
    segments: Annotated[
        Path | None, typer.Option("--segments", help="Definition (YAML): straights and arcs.")
    ] = None,
    is_open: Annotated[
        bool, typer.Option("--open", help="The last of the points does not join the first.")
    ] = False,
    replace: Replace = False,
    tracks_dir: TracksDir = _TRACKS_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a track from points along its centre line, or from a definition."""
    from sim.track_files import new_from_definition, new_from_points

    if (points is None) == (segments is None):
        given = "neither" if points is None else "both"
        raise ConfigError(f"Give either --points with --width, or --segments; got {given}.")
    with _as_config_error():
        if points is not None:
            if width_m is None:
                raise ConfigError("--points needs --width, the road's width in metres.")
            new_from_points(name, points, width_m, tracks_dir, not is_open, replace)
        elif segments is not None:
            if width_m is not None or is_open:
                raise ConfigError("--width and --open go with --points; a definition has its own.")
            new_from_definition(name, segments, tracks_dir, replace)
    _say_written([name], tracks_dir, as_json)


@app.command("params")
def params_command(
    route: Annotated[str, typer.Argument(metavar="ROUTE", help="Track, or path of its file.")],
    poses: Annotated[
        Path, typer.Option("--poses", help="JSON: a list of entries, each with poses.")
    ],
    tracks_dir: TracksDir = _TRACKS_DIR,
    as_json: AsJson = False,
) -> None:
    """Print the reward function's parameters at given poses.

    An entry's reverse_direction says which way its poses drive.
    """
    from local_trainer.track_params import answer, read_poses

    entries = read_poses(poses)
    track = _load(route, tracks_dir)
    answers = [answer(track, entry) for entry in entries]
    if as_json:
        print_json(answers)
        return
    columns = ("direction", ">x", ">y", ">heading", ">progress", ">from center", ">width", "on")
    rows = [_pose_row(entry, pose) for entry in answers for pose in entry["poses"]]
    stdout().print(table(columns, rows))


@contextmanager
def _as_config_error() -> Iterator[None]:
    """Show what the simulator's side refuses as the user's mistake."""
    try:
        yield
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {str(error.filename)!r}.") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _load(name: str, tracks_dir: Path) -> Track:
    from sim.track_files import load_track

    with _as_config_error():
        return load_track(name, tracks_dir)


def _say_written(names: list[str], tracks_dir: Path, as_json: bool) -> None:
    if as_json:
        print_json({"tracks": names, "tracks_dir": str(tracks_dir)})
        return
    for name in names:
        print(f"{name} is in {tracks_dir}; see it with: local-trainer track show {name}")


def _direction(is_loop: bool, is_ccw: bool) -> str:
    if not is_loop:
        return "open"
    return "counter-clockwise" if is_ccw else "clockwise"


def _row(info: TrackInfo) -> tuple[str, ...]:
    source = "built in" if info.is_built_in else info.path
    if info.problem:
        return (info.name, NOTHING, NOTHING, NOTHING, "unusable", NOTHING, source)
    return (
        info.name,
        f"{info.length_m:.2f} m",
        f"{info.width_m:.2f} m",
        str(info.rows),
        _direction(info.is_loop, info.is_ccw),
        info.surface,
        source,
    )


def _describe(track: Track) -> dict[str, Any]:
    import math

    x, y, yaw = track.pose_at(0.0)
    return {
        "track": track.name,
        "length_m": track.length_m,
        "width_min_m": float(track.widths_m.min()),
        "width_max_m": float(track.widths_m.max()),
        "waypoints": len(track.center),
        "direction": _direction(track.is_loop, track.is_ccw),
        "is_loop": track.is_loop,
        "is_ccw": track.is_ccw,
        "start": {"x_m": x, "y_m": y, "heading_deg": math.degrees(yaw)},
        "surface": track.surface,
    }


def _width_text(low_m: float, high_m: float) -> str:
    if high_m - low_m < 0.005:
        return f"{low_m:.2f} m"
    return f"{low_m:.2f} to {high_m:.2f} m"


def _pose_row(entry: dict[str, Any], pose: dict[str, Any]) -> tuple[str, ...]:
    params = pose["params"]
    on_road = "off" if params["is_offtrack"] else "partly"
    return (
        "reversed" if entry["reverse_direction"] else "forward",
        f"{params['x']:.3f}",
        f"{params['y']:.3f}",
        f"{params['heading']:.1f}°",
        f"{round(params['progress'], 2) + 0.0:.2f} %",  # never -0.00
        f"{params['distance_from_center']:.3f} m",
        f"{params['track_width']:.3f} m",
        "all wheels" if params["all_wheels_on_track"] else on_road,
    )
