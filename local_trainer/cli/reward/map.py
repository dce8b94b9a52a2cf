"""``local-trainer reward map``: the reward all over a track, as a picture and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from local_trainer.cli.console import NOTHING, print_json, stdout, table
from local_trainer.cli.options import AsJson, TracksDir
from local_trainer.errors import ConfigError

if TYPE_CHECKING:
    from local_trainer.lab.reward_map import MapGrid, RewardMap
    from sim.track import Track


def reward_map(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Reward function.")],
    track_name: Annotated[
        str, typer.Option("--track", "-t", help="Track, or path of its file.")
    ] = "reinvent_base",
    compare: Annotated[
        Path | None, typer.Option("--compare", help="Second reward function, drawn beside it.")
    ] = None,
    speed_mps: Annotated[float, typer.Option("--speed", help="Commanded speed, m/s.")] = 1.5,
    heading_deg: Annotated[
        float,
        typer.Option("--heading", help="Heading from the centre line, degrees, left positive."),
    ] = 0.0,
    steering_deg: Annotated[
        float, typer.Option("--steering", help="Commanded steering, degrees, left positive.")
    ] = 0.0,
    is_reversed: Annotated[
        bool, typer.Option("--reverse", help="Drive the track against its row order.")
    ] = False,
    cell_m: Annotated[
        float | None,
        typer.Option("--cell", help="Side of the picture's cells, m (default: by the track)."),
    ] = None,
    margin_m: Annotated[
        float, typer.Option("--margin", help="How far beside the road to look, m.")
    ] = 0.3,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Picture to write (default: FILE-map.png)."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Page with sliders to write; about 84 times the work."),
    ] = None,
    time_limit_s: Annotated[
        float, typer.Option("--time-limit", min=0.001, help="Longest a single call may take, s.")
    ] = 1.0,
    tracks_dir: TracksDir = Path("tracks"),
    as_json: AsJson = False,
) -> None:
    """Draw the reward over a track for one speed, heading and steering.

    With --json or --html, a picture is drawn only where --output says.
    """
    from local_trainer.lab.figures.map import write_map
    from local_trainer.lab.map_page import NUM_CELLS as PAGE_CELLS
    from local_trainer.lab.reward_map import map_grid
    from local_trainer.lab.reward_map import reward_map as compute
    from local_trainer.run_files import find_user_file

    for path, ending, option in ((output, ".png", "--output"), (html, ".html", "--html")):
        if path is not None and path.suffix != ending:
            raise ConfigError(f"{option} must end in {ending}, got {str(path)!r}")
    if output is None and html is None and not as_json:
        output = Path(f"{file.stem}-map.png")
    track = load_named_track(track_name, tracks_dir)
    grid = map_grid(track, is_reversed, cell_m, margin_m)
    driving = (speed_mps, heading_deg, steering_deg)
    files = [find_user_file("reward function", one) for one in (file, compare) if one is not None]
    maps = [compute(path, track, *driving, grid=grid, time_limit_s=time_limit_s) for path in files]
    if output is not None:
        write_map(output, *maps)
    if html is not None:
        page_grid = map_grid(track, is_reversed, None, margin_m, PAGE_CELLS)
        _write_page(html, files, page_grid, driving, time_limit_s)
    if as_json:
        print_json(_as_data(maps, output, html))
        return
    columns = ("reward", ">mean", ">on road", ">lowest", ">highest", "highest at", ">values")
    stdout().print(table(columns, map(_row, maps)))
    for written in filter(None, (output, html)):
        print(f"written: {written}")


def load_named_track(name: str, tracks_dir: Path) -> Track:
    """Return a track by name or file.

    Raises:
        ConfigError: If there is no such track or its file is not usable.
    """
    from sim.track_files import load_track

    try:
        return load_track(name, tracks_dir)
    except FileNotFoundError:
        raise ConfigError(f"There is no track file {name!r}.") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _write_page(
    path: Path,
    files: list[Path],
    grid: MapGrid,
    driving: tuple[float, float, float],
    time_limit_s: float,
) -> None:
    from local_trainer.lab import map_page
    from local_trainer.lab.reward_map import reward_lattice

    speeds_mps, headings_deg, steerings_deg = (
        map_page.with_value(fixed, chosen)
        for fixed, chosen in zip(
            (map_page.SPEEDS_MPS, map_page.HEADINGS_DEG, map_page.STEERINGS_DEG),
            driving,
            strict=True,
        )
    )
    lattices = [
        reward_lattice(file, grid, speeds_mps, headings_deg, steerings_deg, time_limit_s)
        for file in files
    ]
    map_page.map_page(lattices, *driving).write(path)


def _as_data(maps: list[RewardMap], output: Path | None, html: Path | None) -> dict[str, Any]:
    first = maps[0]
    data: dict[str, Any] = {
        "track": first.grid.track.name,
        "is_reversed": first.grid.is_reversed,
        "speed_mps": first.speed_mps,
        "heading_deg": first.heading_deg,
        "steering_deg": first.steering_deg,
        "cell_m": first.grid.cell_m,
        "num_cells": len(first.grid),
        "rewards": [{"file": str(one.path), **one.facts} for one in maps],
        "picture": None if output is None else str(output),
        "page": None if html is None else str(html),
    }
    if len(maps) == 2:
        difference = maps[1].reward - first.reward
        data["difference"] = {
            "mean": float(difference.mean()),
            "min": float(difference.min()),
            "max": float(difference.max()),
        }
    return data


def _row(one: RewardMap) -> tuple[str, ...]:
    facts = one.facts
    best = facts["max_at"]
    on_road = facts["mean_on_road"]
    return (
        one.path.name,
        f"{facts['mean']:.4g}",
        NOTHING if on_road is None else f"{on_road:.4g}",
        f"{facts['min']:.4g}",
        f"{facts['max']:.4g}",
        f"({best['x_m']:.2f}, {best['y_m']:.2f}) m, waypoint {best['closest_waypoint']}",
        f"{facts['num_values']:,}",
    )
