import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from local_trainer.cli.reward import map as map_command
from local_trainer.errors import ConfigError, RewardFunctionError
from local_trainer.lab.figures.map import color_table, map_png, write_map
from local_trainer.lab.map_page import map_page, with_value
from local_trainer.lab.reward_map import (
    MapGrid,
    color_range,
    map_grid,
    reward_lattice,
    reward_map,
)
from local_trainer.track_params import answer
from sim.reward_params import RewardParams
from sim.track import Track
from sim.track_files import load_track

Writer = Callable[[str], Path]
LENGTH_M, WIDTH_M, HALF_ROAD_M = 4.0, 2.0, 0.3


@pytest.fixture(scope="module")
def track() -> Track:
    """A rectangle of 4 m x 2 m, counter-clockwise from its corner (0, 0), a row each 0.5 m."""
    x = np.arange(0.0, LENGTH_M, 0.5)
    y = np.arange(0.0, WIDTH_M, 0.5)
    center = np.concatenate(
        [
            np.column_stack((x, np.zeros_like(x))),
            np.column_stack((np.full_like(y, LENGTH_M), y)),
            np.column_stack((LENGTH_M - x, np.full_like(x, WIDTH_M))),
            np.column_stack((np.zeros_like(y), WIDTH_M - y)),
        ]
    )
    center = np.concatenate((center, center[:1]))
    size = np.array([LENGTH_M, WIDTH_M])
    inner = np.clip(center, HALF_ROAD_M, size - HALF_ROAD_M)
    outer = center + HALF_ROAD_M * ((center == size).astype(float) - (center == 0.0))
    return Track.from_route("rectangle", np.concatenate((center, inner, outer), axis=1))


@pytest.fixture(scope="module")
def grid(track: Track) -> MapGrid:
    return map_grid(track, cell_m=0.1)


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write_reward(expression: str, name: str = "reward.py") -> Path:
        path = tmp_path / name
        path.write_text(f"def reward_function(params):\n    return {expression}\n")
        return path

    return write_reward


def lower_straight(grid: MapGrid) -> np.ndarray:
    """Return which cells project onto the lower straight, clear of its corners."""
    return np.flatnonzero((grid.y_m < 0.6) & (grid.x_m > 0.8) & (grid.x_m < 3.2))


def test_every_place_of_the_road_and_its_margin_has_a_cell(grid: MapGrid) -> None:
    # Outer rectangle with margin 5.2 x 3.2 m less the four rounded outer corners (up to 0.6 m
    # from the centre line's corner), less the inner one of 2.8 x 0.8 m.
    area_m2 = 5.2 * 3.2 - (4.0 - math.pi) * 0.6**2 - 2.8 * 0.8
    # The road is 0.85 m wide across its corners, so a little more than that lies within.
    assert area_m2 <= len(grid) * grid.cell_m**2 <= 1.06 * area_m2
    assert len(set(zip(grid.column.tolist(), grid.row.tolist(), strict=True))) == len(grid)
    left, _, low, _ = grid.extent_m
    assert grid.x_m == pytest.approx(left + (grid.column + 0.5) * 0.1)
    assert grid.y_m == pytest.approx(low + (grid.row + 0.5) * 0.1)


def test_without_a_margin_cells_lie_on_the_road(track: Track) -> None:
    grid = map_grid(track, cell_m=0.05, margin_m=0.0)
    here = lower_straight(grid)
    assert np.abs(grid.y_m[here]).max() <= HALF_ROAD_M


def test_about_as_many_cells_as_asked_for(track: Track) -> None:
    assert len(map_grid(track, num_cells=2_000)) == pytest.approx(2_000, rel=0.15)


def test_the_car_stands_where_the_cell_is(grid: MapGrid, write: Writer) -> None:
    assert np.array_equal(reward_map(write("params['x']"), grid.track, grid=grid).reward, grid.x_m)
    assert np.array_equal(reward_map(write("params['y']"), grid.track, grid=grid).reward, grid.y_m)


def test_the_heading_counts_from_the_centre_line(grid: MapGrid, write: Writer) -> None:
    reward = reward_map(write("params['heading']"), grid.track, 1.0, 25.0, grid=grid).reward
    # The four straights look towards 0, 90, 180 and 270 degrees.
    assert set(np.round((reward - 25.0) % 360.0, 6)) == {0.0, 90.0, 180.0, 270.0}
    assert reward[lower_straight(grid)] == pytest.approx(25.0)


def test_speed_and_steering_are_those_chosen(grid: MapGrid, write: Writer) -> None:
    path = write("params['speed'] + 100.0 * params['steering_angle']")
    assert set(reward_map(path, grid.track, 2.5, 0.0, -20.0, grid=grid).reward) == {-1997.5}


def test_progress_and_steps_are_those_of_a_car_from_the_start(grid: MapGrid) -> None:
    steps = grid.steps(1.5, 0.0, 0.0)
    here = lower_straight(grid)
    # The lap is 12 m long and begins at x = 0; at 1.5 m/s a step is 0.1 m.
    assert steps["progress"][here] == pytest.approx(grid.x_m[here] * 100.0 / 12.0)
    assert np.array_equal(steps["steps"][here], np.round(grid.x_m[here] * 10.0))
    assert steps["sim_time"] == pytest.approx(steps["steps"] / 15.0)
    assert steps["steps"].min() == 1.0
    assert 99.0 < steps["progress"].max() <= 100.0


@pytest.mark.parametrize("is_reversed", [False, True])
def test_parameters_are_the_simulators_own(is_reversed: bool) -> None:
    track = load_track("hairpins")
    grid = map_grid(track, is_reversed, num_cells=300)
    steps = grid.steps(2.0, -30.0, 10.0)
    poses = [
        {
            "x": step["origin_x"],
            "y": step["origin_y"],
            "yaw": step["yaw"],
            "prev_progress": max(step["progress"] - 1.0, 0.0),
            "steps": step["steps"],
            "steering_angle": 10.0,
            "speed": 2.0,
        }
        for step in ({name: float(s[name]) for name in s.dtype.names} for s in steps)
    ]
    entry = {"reverse_direction": is_reversed, "poses": poses}
    for given, pose, waypoint in zip(
        RewardParams(track).dicts(steps),
        answer(track, entry)["poses"],
        grid.closest_waypoint,
        strict=True,
    ):
        assert pose["closest_waypoint"] == waypoint
        for key, value in pose["params"].items():
            if key != "sim_time":  # `answer` has no clock
                assert given[key] == pytest.approx(value), key


def test_driving_the_other_way_turns_the_car_and_its_side(track: Track) -> None:
    forward = map_grid(track, cell_m=0.1)
    backward = map_grid(track, is_reversed=True, cell_m=0.1)
    here = lower_straight(forward)
    assert np.array_equal(forward.x_m, backward.x_m)
    assert np.cos(backward.direction_rad[here]) == pytest.approx(-1.0)
    one, other = forward.steps(1.0, 0.0, 0.0)[here], backward.steps(1.0, 0.0, 0.0)[here]
    assert (one["is_left_of_center"] != other["is_left_of_center"]).all()
    assert one["progress"] + other["progress"] == pytest.approx(100.0)


def test_an_open_track_looks_on_at_its_end() -> None:
    track = load_track("Straight_track")
    grid = map_grid(track, num_cells=400)
    x, y, yaw = track.pose_at(0.5)
    assert grid.direction_rad == pytest.approx(yaw, abs=1e-9)


def test_the_picture_has_each_value_in_its_place(grid: MapGrid) -> None:
    picture = grid.image(grid.x_m)
    assert picture.shape == (grid.num_rows, grid.num_columns)
    assert np.isfinite(picture).sum() == len(grid)
    left = grid.extent_m[0]
    for column in np.flatnonzero(np.isfinite(picture).any(axis=0)):
        values = picture[:, column]
        assert values[np.isfinite(values)] == pytest.approx(left + (column + 0.5) * 0.1)


def test_facts_tell_mean_range_and_the_best_place(grid: MapGrid, write: Writer) -> None:
    facts = reward_map(write("float(params['is_offtrack'])"), grid.track, grid=grid).facts
    assert (facts["min"], facts["max"], facts["num_values"]) == (0.0, 1.0, 2)
    assert facts["mean_on_road"] == 0.0 < facts["mean"] < 1.0
    facts = reward_map(write("-abs(params['x'] - 3) - abs(params['y'])"), grid.track, grid=grid)
    assert facts.facts["max_at"]["x_m"] == pytest.approx(3.0, abs=0.05)
    assert facts.facts["max_at"]["closest_waypoint"] == 6


def test_a_lattice_holds_the_map_of_every_combination(grid: MapGrid, write: Writer) -> None:
    path = write("params['speed'] + params['heading'] * params['steering_angle']")
    lattice = reward_lattice(path, grid, (1.0, 2.0), (0.0, 30.0), (-10.0, 5.0, 10.0))
    assert lattice.rewards.shape == (2, 2, 3, len(grid))
    one = reward_map(path, grid.track, 2.0, 30.0, 5.0, grid=grid)
    assert np.array_equal(lattice.rewards[1, 1, 1], one.reward.astype(np.float32))


def test_maps_cannot_be_changed(grid: MapGrid, write: Writer) -> None:
    one = reward_map(write("1.0"), grid.track, grid=grid)
    for array in (one.reward, grid.x_m, grid.closest_waypoint):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_function_that_fails_somewhere_is_told_with_its_line(
    grid: MapGrid, write: Writer
) -> None:
    with pytest.raises(RewardFunctionError, match=r"reward.py:2: .*ZeroDivisionError"):
        reward_map(write("1 / (params['x'] < 3)"), grid.track, grid=grid)


@pytest.mark.parametrize(
    ("driving", "message"),
    [
        ((0.0, 0.0, 0.0), "speed must be above 0 and at most 10 m/s, got 0"),
        ((math.nan, 0.0, 0.0), "speed"),
        ((1.0, 181.0, 0.0), r"heading must be within \+-180 degrees, got 181"),
        ((1.0, 0.0, math.inf), r"steering must be within \+-90 degrees, got inf"),
    ],
)
def test_driving_out_of_range_is_refused(
    grid: MapGrid, write: Writer, driving: tuple[float, float, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reward_map(write("1.0"), grid.track, *driving, grid=grid)


@pytest.mark.parametrize("cell_m", [0.0, 0.001, 1.5, math.nan])
def test_cells_too_small_or_large_are_refused(track: Track, cell_m: float) -> None:
    with pytest.raises(ConfigError, match="side of a cell must be within 0.013 and 1 m"):
        map_grid(track, cell_m=cell_m)


def test_a_few_values_far_away_do_not_take_the_colours() -> None:
    values = np.linspace(0.0, 1.0, 1001)
    assert color_range(values) == (0.0, 1.0)
    assert color_range(values[:3], values[-3:]) == (0.0, 1.0)
    values[-1] = 1000.0
    low, high = color_range(values)
    assert -0.01 < low < 0.01 and 0.99 < high < 1.01
    assert color_range(np.full(5, 2.0)) == (2.0, 2.0)


def test_the_picture_is_drawn_also_for_one_value_everywhere(
    grid: MapGrid, write: Writer, tmp_path: Path
) -> None:
    one = reward_map(write("1.0"), grid.track, grid=grid)
    write_map(tmp_path / "one.png", one)
    write_map(tmp_path / "two.png", one, one)
    for name in ("one.png", "two.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_maps_on_different_cells_cannot_be_compared(track: Track, write: Writer) -> None:
    one, other = (reward_map(write("1.0"), track, grid=map_grid(track, cell_m=0.2)) for _ in "ab")
    with pytest.raises(ConfigError, match="same cells"):
        map_png(one, other)


def test_a_colour_scale_goes_from_its_darkest_to_its_brightest() -> None:
    table = color_table("gray")
    assert len(table) == 256 and table[0] == [0, 0, 0] and table[255] == [255, 255, 255]


def test_the_chosen_value_takes_the_nearest_ones_place() -> None:
    assert with_value((1.0, 2.0, 3.0), 2.4) == (1.0, 2.4, 3.0)
    assert with_value((1.0, 2.0, 3.0), 9.0) == (1.0, 2.0, 9.0)
    assert with_value((1.0, 2.0, 3.0), 3.0) == (1.0, 2.0, 3.0)


def run_map(*arguments: object) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(map_command.reward_map)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_command_draws_and_prints_both(tmp_path: Path, write: Writer) -> None:
    one, other = write("1.0", "one.py"), write("params['speed']", "other.py")
    picture = tmp_path / "map.png"
    track = ("--track", "Oval_track", "--cell", 0.1, "--speed", 3)
    status, text = run_map(one, "--compare", other, *track, "--json", "-o", picture)
    assert status == 0
    data = json.loads(text)
    assert [entry["mean"] for entry in data["rewards"]] == [1.0, 3.0]
    assert data["difference"] == {"mean": 2.0, "min": 2.0, "max": 2.0}
    assert data["track"] == "Oval_track" and data["picture"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    status, text = run_map(one, *track, "-o", picture)
    assert status == 0 and "one.py" in text and str(picture) in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "map.jpg"], r"--output must end in .png, got 'map.jpg'"),
        (["--html", "map.png"], r"--html must end in .html, got 'map.png'"),
        (["--track", "Ovl_track"], "Did you mean 'Oval_track'"),
        (["--margin", "-1"], "margin must be within 0 and 5 m, got -1"),
    ],
)
def test_the_command_refuses_in_one_line(write: Writer, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_map(write("1.0"), *arguments)


def test_the_page_shows_in_a_browser_what_was_computed(
    grid: MapGrid, write: Writer, tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or google-chrome to read the page with")
    one = write("params['speed'] * 100 + params['steering_angle']", "one.py")
    other = write("params['heading']", "other.py")
    values = ((1.0, 2.0), (0.0, 20.0), (-5.0, 7.0))
    page = map_page([reward_lattice(path, grid, *values) for path in (one, other)], 1.0, 0.0, -5.0)
    file = page.write(tmp_path / "page.html")
    address = f"{file.as_uri()}#speed=2&heading=20&steering=7&x=2.01&y=0.02"
    dom = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    # The cell around (2.01, 0.02): columns begin at -0.6, so its middle is (2.05, 0.05).
    assert (
        "x 2.050 m · y 0.050 m · closest waypoint 4 · one.py 207 · other.py 20 · "
        "other.py minus one.py -187" in dom
    )
    assert "+20°" in dom and "+7°" in dom and "2 m/s" in dom
