"""The reward functions we ship: what they ask for, and that cars learn to drive by them."""

import ast
import importlib.util
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from training import ROOT, command, start, trainer_process, wait_until

from local_trainer.lab.console_rules import MISSING_PARAMETERS, refusals_of_text
from local_trainer.lab.driving import PathFollower, drive
from local_trainer.lab.racing_line import RacingLine, center_line, racing_line
from local_trainer.runs import Run
from sim.reward_dict import RewardParams
from sim.simulator import EpisodeStart
from sim.track import Track
from sim.track_definition import parse_definition
from sim.track_files import load_track

REWARDS = ROOT / "rewards"
OPTIMAL = "reward_estimator_optimal_path"
NAMES = ("default", "complex_reward", OPTIMAL, "speed")
ALLOWED_IMPORTS = {"math", "numpy"}
SHARED_TRACKS = ROOT.parent / "shared" / "tracks"


def module_of(path: Path) -> ModuleType:
    """Return a module run afresh from its file, as the trainer and the service do."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reward(name: str) -> Callable[[dict[str, Any]], Any]:
    function: Callable[[dict[str, Any]], Any] = module_of(REWARDS / f"{name}.py").reward_function
    return function


def dicts(track: Track, line: RacingLine, scale: float, is_reversed: bool = False) -> list[Any]:
    """Return what a reward function gets in an episode along a line at part of its speeds."""
    driver = PathFollower(line.points_m, scale * line.speeds_mps, line.is_closed)
    [episode] = drive(track, [driver], [EpisodeStart(0, is_reversed=is_reversed)], 500)
    return RewardParams(track).dicts(episode.steps)


@pytest.fixture(scope="module")
def oval() -> Track:
    return load_track("Oval_track")


@pytest.fixture(scope="module")
def oval_line(oval: Track) -> RacingLine:
    return racing_line(oval)


# --- each of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_console_would_take_it(name: str) -> None:
    text = (REWARDS / f"{name}.py").read_text(encoding="utf-8")
    assert refusals_of_text(text) == []
    nodes = list(ast.walk(ast.parse(text)))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported <= ALLOWED_IMPORTS
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_it_returns_floats_without_what_the_console_does_not_give(
    name: str, is_reversed: bool, oval: Track, oval_line: RacingLine
) -> None:
    function = reward(name)
    for params in dicts(oval, oval_line, 1.0, is_reversed):
        for key in MISSING_PARAMETERS:
            del params[key]
        # The console's waypoints are an array, the service's a list.
        given = {**params, "waypoints": np.array(params["waypoints"])}
        value = function(given)
        assert type(value) is float and abs(value) <= 1e5
        assert function(params) == value or name == "speed"  # which counts the steps


@pytest.mark.parametrize("name", ["complex_reward", OPTIMAL])
def test_a_fast_lap_earns_more_than_a_slow_one_and_that_more_than_crawling(
    name: str, oval: Track, oval_line: RacingLine
) -> None:
    fast, slow, crawling = (
        sum(map(reward(name), dicts(oval, oval_line, scale))) for scale in (1.0, 0.6, 0.1)
    )
    assert fast > 1.2 * slow > 5.0 * crawling > 0.0


def test_off_the_road_there_is_next_to_nothing(oval: Track, oval_line: RacingLine) -> None:
    [params, *_] = dicts(oval, oval_line, 1.0)
    for name in ("complex_reward", OPTIMAL):
        assert reward(name)({**params, "is_offtrack": True}) == 1e-3


# --- the optimal path ------------------------------------------------------------------------


def test_the_optimal_path_earns_more_than_the_centre_line(
    oval: Track, oval_line: RacingLine
) -> None:
    along_path = dicts(oval, oval_line, 1.0)
    along_center = dicts(oval, center_line(oval), 1.0)
    function = reward(OPTIMAL)
    path, center = (sum(map(function, steps)) for steps in (along_path, along_center))
    # Though the centre line is longer and takes more steps.
    assert len(along_center) > len(along_path)
    assert path > 1.5 * center


@pytest.mark.parametrize("is_reversed", [False, True])
def test_on_the_path_at_its_speed_a_step_earns_one(
    is_reversed: bool, oval: Track, oval_line: RacingLine
) -> None:
    [params, *_] = dicts(oval, oval_line, 1.0, is_reversed)
    function = module_of(REWARDS / f"{OPTIMAL}.py")
    points, headings, speeds = function.path_of(params)
    at = {
        **params,
        "x": points[7][0],
        "y": points[7][1],
        "heading": float(np.degrees(headings[7])),
        "speed": speeds[7],
        "closest_waypoints": [6, 7],
    }
    assert function.reward_function(at) == pytest.approx(1.0 + 1e-3)
    assert function.reward_function({**at, "progress": 100.0}) == pytest.approx(6.0 + 1e-3)
    # Half the speed counts a quarter; 25 % too fast half; backwards nothing.
    assert function.reward_function({**at, "speed": 0.5 * speeds[7]}) == pytest.approx(0.251)
    assert function.reward_function({**at, "speed": 1.25 * speeds[7]}) == pytest.approx(0.501)
    assert function.reward_function({**at, "heading": at["heading"] + 180.0}) == 1e-3


@pytest.mark.parametrize("name", ["Oval_track", "reinvent_wood", "Straight_track", "AWS_track"])
def test_shipped_tracks_are_known(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = name.replace("wood", "base")
    assert first_words(load_track(name), capsys) == f"optimal path: known, as on {known}\n"


@pytest.mark.parametrize("name", ["Oval_track", "Bowtie_track", "reinvent_base", "AWS_track"])
def test_the_services_tracks_of_the_same_name_are_known(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = SHARED_TRACKS / f"{name}.npy"
    if not path.exists():
        pytest.skip(f"needs {path}")
    assert first_words(load_track(path), capsys) == f"optimal path: known, as on {name}\n"


def first_words(track: Track, capsys: pytest.CaptureFixture[str]) -> str:
    params = {"waypoints": track.waypoints, "track_width": float(np.median(track.widths_m))}
    module_of(REWARDS / f"{OPTIMAL}.py").path_of(params)
    return capsys.readouterr().out


def test_an_unknown_track_is_said_once_and_its_corners_are_cut(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A square with round corners, far from where our tracks are.
    corner = "  - straight_m: 4\n  - left_deg: 90\n    radius_m: 1\n"
    text = f"width_m: 1.0\nstart: {{x_m: 50, y_m: 50}}\nsegments:\n{corner * 4}"
    track = parse_definition("square", text)
    module = module_of(REWARDS / f"{OPTIMAL}.py")
    params = {"waypoints": track.waypoints, "track_width": 1.0}
    points, _, speeds = module.path_of(params)
    module.path_of(params)
    said = capsys.readouterr().out
    assert said == "optimal path: not known for this track, estimated from its waypoints\n"
    lengths_m = np.hypot(*np.diff(points, axis=0).T)
    assert lengths_m.sum() < track.length_m - 0.5
    away_m = np.hypot(*(np.array(points) - track.center).T)
    assert away_m.max() <= 0.5 * module.ROAD_SHARE + 1e-9
    assert max(speeds) > 1.2 * min(speeds) >= module.MIN_SPEED


def optimal_paths_script() -> ModuleType:
    return module_of(ROOT / "scripts" / "make_optimal_paths.py")


def test_the_table_holds_a_path_for_each_shape_of_track(
    oval_line: RacingLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = module_of(REWARDS / f"{OPTIMAL}.py").PATHS
    shapes = {load_track(p).route().tobytes() for p in (ROOT / "sim" / "tracks").glob("*.yaml")}
    assert len(table) == len(shapes)
    script = optimal_paths_script()
    others = set(table) - {"Oval_track"}
    assert set(script.stale_paths({"Oval_track": oval_line})) == others  # and not the oval's


@pytest.mark.slow
def test_the_table_is_what_the_script_makes() -> None:
    script = optimal_paths_script()
    assert script.stale_paths(script.shipped_lines()) == []


# --- training --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "complex_reward", OPTIMAL])
def test_a_short_training_sees_laps(name: str, tmp_path: Path) -> None:
    process = start(
        [
            *command("train", "--runs-dir", str(tmp_path), "--name", name, "--until", "never"),
            *("--track", "wide_loop", "--reward", str(REWARDS / f"{name}.py"), "--quiet"),
            *("--set", "evaluation.trials=1", "--set", "episodes.max_steps=300"),
        ]
    )
    run = Run(tmp_path / name)
    try:
        wait_until(lambda: process.poll() is not None or any(training_laps(run)), 600.0)
        assert process.poll() is None, process.communicate()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.kill(trainer_process(run), signal.SIGKILL)
            process.communicate(timeout=120)


def training_laps(run: Run) -> Iterator[float]:
    """Yield the times of laps driven in training so far, s."""
    if not run.progress_file.exists():
        return
    *lines, _ = run.progress_file.read_text(encoding="utf-8").split("\n")  # the last may grow
    for event in map(json.loads, lines):
        if event["event"] == "episode" and event["phase"] == "training":
            if event["status"] == "lap_complete":
                yield event["duration_s"]
