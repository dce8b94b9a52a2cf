import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from local_trainer.cli.track import app
from local_trainer.errors import ConfigError
from sim.reward_params import KEYS
from sim.track_files import load_track, save_route

SHARED = Path(__file__).parents[2] / ".." / "shared"
COMPARED_APART = {"sim_time", "is_offtrack", "is_crashed"} | {k for k in KEYS if "object" in k}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: object) -> str:
    """Return the one line a command refuses its input with (the program shows it, exit 2)."""
    result = invoke(*arguments)
    assert isinstance(result.exception, ConfigError), result.output
    assert result.exception.exit_status == 2
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture
def route_file(tmp_path: Path) -> Path:
    path = tmp_path / "lake.npy"
    save_route(load_track("wide_loop"), path)
    return path


def test_list_names_every_track(tmp_path: Path) -> None:
    output = run("list", "--tracks-dir", tmp_path)
    for name in ("reinvent_base", "AWS_track", "Straight_track", "hairpins"):
        assert name in output
    assert "17.69 m" in output


def test_list_as_json_has_one_object_a_track(tmp_path: Path) -> None:
    tracks = {track["name"]: track for track in json.loads(run("list", "--json"))}
    base = tracks["reinvent_base"]
    assert base["rows"] == 119
    assert base["is_loop"] and base["is_ccw"] and base["is_built_in"]
    assert base["length_m"] == pytest.approx(17.69, abs=0.01)
    assert not tracks["Straight_track"]["is_loop"]


def test_list_says_what_is_wrong_with_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.npy").touch()
    assert "track 'mine': must be a .npy file" in run("list", "--tracks-dir", tmp_path)


def test_show_draws_the_track_and_tells_its_measures(tmp_path: Path) -> None:
    picture = tmp_path / "new folder" / "track.png"
    output = run("show", "reinvent_base", "--output", picture)
    assert "17.69 m, 119 waypoints" in output
    assert "counter-clockwise" in output
    with Image.open(picture) as image:
        assert min(image.size) > 500
        colors = image.convert("RGB").getcolors(1 << 20)
    assert colors is not None
    assert len(colors) > 5


def test_show_as_json_draws_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = json.loads(run("show", "Straight_track", "--json"))
    assert values["direction"] == "open"
    assert values["length_m"] == pytest.approx(5.707)
    assert values["picture"] is None
    assert list(tmp_path.iterdir()) == []
    run("show", "Straight_track")
    assert [path.name for path in tmp_path.iterdir()] == ["Straight_track.png"]


def test_show_takes_the_path_of_a_file(route_file: Path) -> None:
    values = json.loads(run("show", route_file, "--json"))
    assert values["track"] == "lake"
    assert values["width_max_m"] > values["width_min_m"]


def test_show_refuses_unknown_tracks_and_other_pictures(tmp_path: Path) -> None:
    assert "Did you mean 'reinvent_base'?" in refusal("show", "reinvent_bas")
    assert "--output must end in .png" in refusal("show", "hairpins", "-o", tmp_path / "a.gif")


def test_import_writes_both_directions_and_the_tracks_can_be_used(
    tmp_path: Path, route_file: Path
) -> None:
    tracks = tmp_path / "tracks"
    output = run("import", route_file, "--both-directions", "--tracks-dir", tracks)
    assert "lake_cw is in" in output
    assert sorted(path.name for path in tracks.iterdir()) == [
        "lake.npy",
        "lake_ccw.npy",
        "lake_cw.npy",
    ]
    values = json.loads(run("show", "lake_cw", "--tracks-dir", tracks, "--json"))
    assert values["direction"] == "clockwise"


def test_import_refuses_what_is_no_route_and_what_exists(tmp_path: Path, route_file: Path) -> None:
    tracks = tmp_path / "tracks"
    (tmp_path / "empty.npy").touch()
    line = refusal("import", tmp_path / "empty.npy", "--tracks-dir", tracks)
    assert "track 'empty': must be a .npy file" in line
    assert "No such file" in refusal("import", tmp_path / "none.npy", "--tracks-dir", tracks)
    assert not tracks.exists()
    run("import", route_file, "--tracks-dir", tracks)
    assert "exists already" in refusal("import", route_file, "--tracks-dir", tracks)
    run("import", route_file, "--tracks-dir", tracks, "--replace")


def test_new_makes_a_track_from_points(tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("0,0\n4,0\n4,3\n0,3\n")
    run("new", "mine", "--points", points, "--width", 0.8, "--tracks-dir", tmp_path)
    values = json.loads(run("show", "mine", "--tracks-dir", tmp_path, "--json"))
    assert values["width_min_m"] == pytest.approx(0.8)
    assert values["is_loop"]


def test_new_makes_a_track_from_segments(tmp_path: Path) -> None:
    segments = tmp_path / "segments.yaml"
    segments.write_text("{width_m: 1, segments: [{right_deg: 360, radius_m: 2}]}")
    output = run("new", "round", "--segments", segments, "--tracks-dir", tmp_path, "--json")
    assert json.loads(output)["tracks"] == ["round"]
    assert load_track("round", tmp_path).length_m == pytest.approx(4 * np.pi, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "got neither"),
        (["--points", "{f}", "--segments", "{f}"], "got both"),
        (["--points", "{f}"], "--points needs --width"),
        (["--points", "{f}", "--width", "0"], "width must be above 0 and at most 20 m, got 0.0"),
        (["--points", "{f}", "--width", "1"], "must be rows of x, y"),
        (["--points", "none.csv", "--width", "1"], "There is no file 'none.csv'"),
        (["--segments", "{f}", "--width", "1"], "--width and --open go with --points"),
        (["--segments", "{f}"], "track 'mine': must be a mapping"),
        (["--segments", "none.yaml"], "There is no file 'none.yaml'"),
    ],
)
def test_new_refuses_wrong_input_and_writes_nothing(
    tmp_path: Path, options: list[str], message: str
) -> None:
    file = tmp_path / "file.json"
    file.write_text("[1, 2]")
    arguments = [option.format(f=file) for option in options]
    assert message in refusal("new", "mine", *arguments, "--tracks-dir", tmp_path / "tracks")
    assert not (tmp_path / "tracks").exists()


def poses_file(folder: Path, entries: Any) -> Path:
    path = folder / "poses.json"
    path.write_text(json.dumps(entries))
    return path


def test_params_measures_each_pose_in_its_entrys_direction(tmp_path: Path) -> None:
    pose = {"x": 2.069, "y": 1.301, "yaw": 0.0}  # 0.14 m behind the point that is measured
    entries = [{"poses": [pose]}, {"poses": [pose], "reverse_direction": True}]
    path = poses_file(tmp_path, entries)
    forward, backward = json.loads(run("params", "Straight_track", "--poses", path, "--json"))
    assert forward["track"] == "Straight_track"
    params = forward["poses"][0]["params"]
    assert set(params) == set(KEYS) - {"waypoints"}
    assert params["x"] == pytest.approx(2.209)
    assert params["projection_distance"] == pytest.approx(1.5)
    assert params["is_left_of_center"] is True
    assert params["all_wheels_on_track"] is True
    assert forward["poses"][0]["closest_waypoint"] == 6
    params = backward["poses"][0]["params"]
    assert params["projection_distance"] == pytest.approx(4.207)
    assert params["is_left_of_center"] is False
    assert params["is_reversed"] is True
    assert "all wheels" in run("params", "Straight_track", "--poses", path)


def without_answers(entry: dict[str, Any]) -> dict[str, Any]:
    poses = [
        {key: value for key, value in pose.items() if key not in ("params", "closest_waypoint")}
        for pose in entry["poses"]
    ]
    start_poses = [{"ndist": pose["ndist"]} for pose in entry["start_poses"]]
    keep = {"track": entry["track"], "reverse_direction": entry["reverse_direction"]}
    return {**keep, "start_poses": start_poses, "poses": poses}


@pytest.mark.parametrize("name", ["reinvent_base", "Straight_track", "2022_summit_speedway_cw"])
def test_params_answers_the_reference_entries(tmp_path: Path, name: str) -> None:
    reference = SHARED / "golden" / "reward_params.json"
    if not reference.exists():
        pytest.skip(f"needs the reference values in {reference}")
    wanted = [entry for entry in json.loads(reference.read_text()) if entry["track"] == name]
    path = poses_file(tmp_path, [without_answers(entry) for entry in wanted])
    route = SHARED / "tracks" / f"{name}.npy"
    answers = json.loads(run("params", route, "--poses", path, "--json"))
    for want, got in zip(wanted, answers, strict=True):
        for key in ("track", "reverse_direction", "is_loop", "is_ccw", "n_waypoints"):
            assert got[key] == want[key]
        for want_start, got_start in zip(want["start_poses"], got["start_poses"], strict=True):
            assert got_start == pytest.approx(want_start, abs=1e-6)
        for want_pose, got_pose in zip(want["poses"], got["poses"], strict=True):
            assert got_pose["closest_waypoint"] == want_pose["closest_waypoint"]
            assert got_pose["params"].keys() == want_pose["params"].keys()
            for key in want_pose["params"].keys() - COMPARED_APART:
                assert got_pose["params"][key] == pytest.approx(
                    want_pose["params"][key], abs=1e-6
                ), key


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON"),
        ("[" * 100000, "must be JSON"),
        ("{}", "poses: must be a list of entries, got an object with nothing"),
        ("[3]", "entry 0: must be an object with a list 'poses', got a number"),
        ('[{"pose": []}]', "entry 0: must be .*got an object with pose"),
        ('[{"poses": [{"x": 1, "y": 2}]}]', "entry 0, pose 0: yaw is missing"),
        ('[{"poses": [{"x": "1", "y": 2, "yaw": 0}]}]', "pose 0: x must be a number"),
        ('[{"poses": [{"x": NaN, "y": 2, "yaw": 0}]}]', "x must be a number.*got nan"),
        ('[{"poses": [{"x": 1e99, "y": 2, "yaw": 0}]}]', "x must be .*within"),
        ('[{"poses": [{"x": 1, "y": 2, "yaw": 0, "wheels": [[1, 2]]}]}]', "four \\[x, y\\] pairs"),
        ('[{"poses": [], "reverse_direction": 1}]', "reverse_direction must be true or false"),
        ('[{"poses": [], "start_poses": [1]}]', "start pose 0: must be an object with 'ndist'"),
    ],
)
def test_params_refuses_malformed_poses(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "poses.json"
    path.write_text(content)
    line = refusal("params", "reinvent_base", "--poses", path)
    assert re.search(message, line), line


def test_params_refuses_a_missing_file_and_an_unknown_track(tmp_path: Path) -> None:
    path = poses_file(tmp_path, [])
    assert "Cannot read the poses file" in refusal(
        "params", "reinvent_base", "--poses", tmp_path / "none.json"
    )
    assert "Unknown track" in refusal("params", "nowhere", "--poses", path)
    assert json.loads(run("params", "reinvent_base", "--poses", path, "--json")) == []
