"""The racing line: where the best one is known, and against the centre line on every track."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from local_trainer.cli.reward import app
from local_trainer.errors import ConfigError, NotFound
from local_trainer.lab.racing_line import (
    CarLimits,
    RacingLine,
    center_line,
    drive_line,
    racing_line,
    read_line,
    save_line,
)
from sim.track import Track
from sim.track_definition import parse_definition
from sim.track_files import list_tracks, load_track

CLOSED = [info.name for info in list_tracks() if info.is_loop]
SAME_SHAPE = ("reinvent_carpet", "reinvent_concrete", "reinvent_wood")
"""These are reinvent_base on another ground."""
LONGEST = pytest.param("AWS_track", marks=pytest.mark.slow)
SHAPES = [LONGEST if name == "AWS_track" else name for name in CLOSED if name not in SAME_SHAPE]


def ring(radius_m: float = 2.0, width_m: float = 0.8) -> Track:
    """A circle, counter-clockwise around (0, radius)."""
    text = f"width_m: {width_m}\nsegments:\n  - left_deg: 360\n    radius_m: {radius_m}\n"
    return parse_definition("ring", text)


@pytest.fixture(scope="module")
def oval() -> Track:
    return load_track("Oval_track")


@pytest.fixture(scope="module")
def oval_line(oval: Track) -> RacingLine:
    return racing_line(oval)


def test_on_a_ring_the_line_is_a_circle_at_one_speed() -> None:
    track, limits = ring(), CarLimits()
    line = racing_line(track, limits)
    radii_m = np.hypot(line.points_m[:, 0], line.points_m[:, 1] - 2.0)
    assert np.ptp(radii_m) < 0.01
    assert np.ptp(line.speeds_mps) < 0.05
    # Its speed is what the limits give for its radius.
    expected = limits.speeds_for(np.array([1.0 / radii_m.mean()]))[0][0]
    assert line.speeds_mps.mean() == pytest.approx(expected, rel=0.01)
    assert line.length_m == pytest.approx(2.0 * math.pi * radii_m.mean(), rel=0.001)


def test_a_straight_road_is_driven_straight_at_full_speed() -> None:
    track = load_track("Straight_track")
    line = racing_line(track, CarLimits(max_speed_mps=3.0))
    assert not line.is_closed
    assert line.length_m == pytest.approx(track.length_m, abs=0.01)
    assert np.allclose(line.speeds_mps, 3.0)
    # v^2 = 2 a s while it speeds up, then 3 m/s.
    acceleration = CarLimits().acceleration_mps2
    speeding_m = 9.0 / (2.0 * acceleration)
    expected_s = 3.0 / acceleration + (track.length_m - speeding_m) / 3.0
    assert line.lap_time_s == pytest.approx(expected_s, rel=0.02)


@pytest.mark.parametrize("name", SHAPES)
def test_driven_alike_it_beats_the_centre_line_and_stays_on_the_road(name: str) -> None:
    track = load_track(name)
    line = racing_line(track)
    center, racing = drive_line(track, center_line(track)), drive_line(track, line)
    assert center is not None and racing is not None
    assert racing.lap_time_s < center.lap_time_s
    assert not racing.episode.steps["is_offtrack"].any()
    # What the limits promise is what the car does.
    assert racing.speed_scale >= 0.9
    assert racing.lap_time_s == pytest.approx(line.lap_time_s, rel=0.12)


def test_the_line_keeps_its_margin_from_both_borders(oval: Track, oval_line: RacingLine) -> None:
    for border in (oval.inner, oval.outer):
        fine = np.vstack([np.linspace(a, b, 20) for a, b in zip(border, border[1:], strict=False)])
        gaps_m = np.hypot(*(oval_line.points_m[:, None] - fine[None]).transpose(2, 0, 1))
        assert gaps_m.min() > CarLimits().margin_m - 0.01


def test_speeds_change_no_faster_than_the_car_can(oval_line: RacingLine) -> None:
    lengths_m = np.hypot(*np.diff(oval_line.points_m, axis=0).T)
    changes = np.diff(oval_line.speeds_mps**2) / (2.0 * lengths_m)
    assert np.abs(changes).max() < CarLimits().acceleration_mps2 * 1.01
    assert oval_line.speeds_mps.max() <= 4.0


def test_a_slower_car_needs_more_time_and_keeps_its_limit() -> None:
    fast, slow = (racing_line(ring(), CarLimits(max_speed_mps=speed)) for speed in (4.0, 1.5))
    assert slow.speeds_mps.max() <= 1.5
    assert slow.lap_time_s > fast.lap_time_s


def test_the_other_direction_is_the_same_line_back(oval: Track, oval_line: RacingLine) -> None:
    back = oval_line.reverse()
    assert np.array_equal(back.points_m[0], oval_line.points_m[0])
    assert np.array_equal(back.points_m[1], oval_line.points_m[-1])
    lap = drive_line(oval, back, is_reversed=True)
    assert lap is not None and lap.speed_scale == 1.0


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_written_line_reads_back(tmp_path: Path, oval_line: RacingLine, suffix: str) -> None:
    path = tmp_path / f"Oval_track{suffix}"
    save_line(oval_line, path)
    again = read_line(path)
    assert again.track == "Oval_track" and again.is_closed
    assert np.allclose(again.points_m, oval_line.points_m, atol=1e-4)
    assert np.allclose(again.speeds_mps, oval_line.speeds_mps, atol=1e-4)
    assert again.lap_time_s == pytest.approx(oval_line.lap_time_s, abs=0.01)


def test_a_csv_begins_with_its_columns(tmp_path: Path, oval_line: RacingLine) -> None:
    save_line(oval_line, tmp_path / "line.csv")
    assert (tmp_path / "line.csv").read_text().startswith("x,y,speed\n")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", "must end in .csv or .json, got"),
        ("a.csv", "x,y\n1,2\n", "must hold the numbers x, y, speed"),
        ("a.csv", "x,y,speed\n1,2,fast\n", "must hold the numbers x, y, speed"),
        ("a.csv", "x,y,speed\n1,2,3\n", "at least 4 points"),
        ("a.csv", "x,y,speed\n" + "1,2,0\n" * 5, "speeds above 0"),
        ("a.json", "[]", "must hold the numbers x, y, speed"),
        ("a.json", "{", "must hold the numbers x, y, speed"),
    ],
)
def test_a_file_without_a_line_is_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_line(tmp_path / name)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        read_line(tmp_path / "none.csv")


@pytest.mark.parametrize("speed", [0.1, 4.1, math.nan])
def test_a_speed_the_car_does_not_have_is_refused(speed: float) -> None:
    with pytest.raises(ConfigError, match="above 0.1 and at most 4 m/s"):
        CarLimits(max_speed_mps=speed)


def test_the_command_tells_writes_and_draws(tmp_path: Path) -> None:
    output, plot, page = (tmp_path / f"line.{kind}" for kind in ("csv", "png", "html"))
    done = CliRunner().invoke(
        app,
        ["line", "--track", "Oval_track", "--json"]
        + ["-o", str(output), "--plot", str(plot), "--html", str(page)],
    )
    assert done.exit_code == 0, done.output
    center, racing = json.loads(done.stdout)["lines"]
    assert racing["driven_lap_s"] < center["driven_lap_s"]
    assert racing["length_m"] < center["length_m"]
    assert len(read_line(output).points_m) > 100
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    assert "Racing line of Oval_track" in text and "data:image/png" in text
    assert f"{racing['driven_lap_s']:.2f} s" in text
