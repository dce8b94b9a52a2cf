"""Every rule of console and car, each with the smallest folder that breaks it; no TensorFlow."""

from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_trainer.archives import write_tar_gz, write_zip
from local_trainer.cli.main import run as run_cli
from local_trainer.errors import ConfigError, NotFound
from local_trainer.export.check import check_model
from local_trainer.export.check_console import NEEDED_NAMES, check_console_folder
from local_trainer.export.console_tracks import CONSOLE_TRACKS, console_place
from local_trainer.export.findings import Finding
from local_trainer.export.probe import ProbeAnswer, ProbeRequest
from sim.track_files import load_track

METADATA: dict[str, Any] = {
    "action_space": [
        {"steering_angle": -30, "speed": 1.0},
        {"steering_angle": 30, "speed": 1.0},
    ],
    "sensor": ["FRONT_FACING_CAMERA"],
    "neural_network": "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW",
    "training_algorithm": "clipped_ppo",
    "action_space_type": "discrete",
    "version": "5",
}
CONTINUOUS = {
    **METADATA,
    "action_space_type": "continuous",
    "action_space": {
        "steering_angle": {"low": -30, "high": 30},
        "speed": {"low": 1.0, "high": 2.0},
    },
}
PARAMS = "WORLD_NAME: 'reInvent2019_track'\nTRACK_DIRECTION_CLOCKWISE: false\nCAR_COLOR: Red\n"
PART = b"no weights: these rules do not open them"


def no_model(requests: Any) -> list[ProbeAnswer]:
    raise AssertionError("nothing here is whole enough to be tried out")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that keeps every rule that needs no weights, but for a reward function.

    Trying one takes a process; this one is too long to be tried.
    """
    write(tmp_path, "model_metadata.json", METADATA)
    write(tmp_path, "model/model_metadata.json", METADATA)
    write(tmp_path, "ip/hyperparameters.json", {"batch_size": 64, "lr": "0.0003"})
    write(tmp_path, "training_params.yaml", PARAMS)
    write(tmp_path, "reward_function.py", "#" * 140_001)
    write(tmp_path, "metrics/training/training-1.json", {"metrics": []})
    return tmp_path


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def put(name: str, content: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, name, content)


def both(content: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write(folder, "model_metadata.json", content)
        write(folder, "model/model_metadata.json", content)

    return change


def findings(folder: Path, **arguments: Any) -> dict[str, Finding]:
    found = check_console_folder(folder, try_out=no_model, **arguments)
    return {finding.rule: finding for finding in found}


def test_a_good_folder_passes_all_but_the_weights_it_lacks(folder: Path) -> None:
    write(folder, "reward_function.py", "def reward_function(params):\n    return 1.0\n")
    found = findings(folder, name="my-model-1", description="fast one")
    outcomes = {finding.outcome for rule, finding in found.items() if "checkpoint" not in rule}
    assert outcomes == {"passed"}
    assert all(not finding.mend for finding in found.values() if finding.outcome == "passed")
    assert found["model/.coach_checkpoint"].outcome == "refused"
    assert found["last and best checkpoint restore"].outcome == "not checked"


REFUSED = [
    # rule, what breaks it, a piece of what is said
    ("the four files the page asks for", remove("reward_function.py"), "reward_function.py"),
    ("model_metadata.json", remove("model_metadata.json"), "is missing"),
    ("model_metadata.json", put("model_metadata.json", "{"), "must be JSON"),
    ("model_metadata.json", put("model_metadata.json", "[1]"), "must be a JSON object"),
    ("model_metadata.json", both({}), "action_space is missing"),
    ("model_metadata.json", both({**METADATA, "sensor": ["LIDAR"]}), "exactly one camera"),
    (
        "model_metadata.json",
        both({**METADATA, "sensor": ["FRONT_FACING_CAMERA", "LIDAR", "SECTOR_LIDAR"]}),
        "at most one lidar",
    ),
    ("model_metadata.json", both({**METADATA, "sensor": ["OBSERVATION_CAMERA"]}), "one of"),
    ("model_metadata.json", both({**METADATA, "sensor": ["LEFT_CAMERA"]}), "LEFT_CAMERA alone"),
    ("model_metadata.json", both({**METADATA, "neural_network": "BIG"}), "neural_network"),
    ("model_metadata.json", both({**METADATA, "training_algorithm": "dqn"}), "dqn"),
    ("model_metadata.json", both({**METADATA, "action_space_type": "mixed"}), "mixed"),
    ("model_metadata.json", both({**METADATA, "version": "new"}), "version must be a number"),
    ("model_metadata.json", both({**METADATA, "action_space": [{"speed": 1}]}), "action_space[0]"),
    (
        "model_metadata.json",
        both(
            {
                **CONTINUOUS,
                "action_space": {
                    "steering_angle": {"low": 30, "high": 30},
                    "speed": {"low": 1.0, "high": 2.0},
                },
            }
        ),
        "action_space.steering_angle: low must be below high, got 30 and 30",
    ),
    (
        "model_metadata.json",
        both(
            {
                **CONTINUOUS,
                "action_space": {
                    "steering_angle": {"low": -30, "high": 30},
                    "speed": {"low": 2.0, "high": 1.0},
                },
            }
        ),
        "action_space.speed: low must be below high, got 2 and 1",
    ),
    ("model/model_metadata.json", remove("model/model_metadata.json"), "is missing"),
    (
        "model/model_metadata.json",
        put("model/model_metadata.json", {**METADATA, "version": "4"}),
        "differs",
    ),
    ("ip/hyperparameters.json", remove("ip/hyperparameters.json"), "is missing"),
    ("ip/hyperparameters.json", put("ip/hyperparameters.json", {"lr": "fast"}), "lr is 'fast'"),
    (
        "ip/hyperparameters.json",
        put("ip/hyperparameters.json", {"batch_size": "64.5"}),
        "batch_size",
    ),
    ("algorithm", both({**METADATA, "training_algorithm": "sac"}), "SAC with a discrete"),
    (
        "algorithm",
        both({**CONTINUOUS, "training_algorithm": "SAC "}),
        "num_episodes_between_training",
    ),
    ("training_params.yaml", remove("training_params.yaml"), "is missing"),
    ("training_params.yaml", put("training_params.yaml", "a: [1"), "must be YAML"),
    ("training_params.yaml", put("training_params.yaml", "just text"), "must be a mapping"),
    ("WORLD_NAME", put("training_params.yaml", "RACE_TYPE: TIME_TRIAL\n"), "is missing"),
    ("WORLD_NAME", put("training_params.yaml", "WORLD_NAME: my_yard\n"), "'my_yard'"),
    ("WORLD_NAME", put("training_params.yaml", "WORLD_NAME: Monaco_ccw\n"), "'Monaco_ccw'"),
    (
        "WORLD_NAME",
        put("training_params.yaml", "WORLD_NAME: [reInvent2019_track]\n"),
        "must be a text, got ['reInvent2019_track']",
    ),
    (
        "car body and colour",
        put("training_params.yaml", PARAMS.replace("Red", "[Red]")),
        "CAR_COLOR must be a text, got ['Red']",
    ),
    ("reward_function.py", remove("reward_function.py"), "is missing"),
    ("reward_function.py", put("reward_function.py", "#" * 140_001), "140,001 characters"),
    (
        "reward_function.py (import)",
        put("reward_function.py", "import os\n\n\ndef reward_function(params):\n    return 1.0\n"),
        "imports os",
    ),
    (
        "metrics/training/training-*.json",
        put("metrics/training/training-1.json", "{}"),
        "has no list metrics",
    ),
]


@pytest.mark.parametrize(
    ("rule", "change", "said"), REFUSED, ids=[f"{rule}: {said}" for rule, _, said in REFUSED]
)
def test_what_breaks_a_rule_is_refused(
    folder: Path, rule: str, change: Callable[[Path], None], said: str
) -> None:
    change(folder)
    finding = findings(folder)[rule]
    assert finding.outcome == "refused"
    assert said in finding.found
    assert finding.mend and "\n" not in finding.found + finding.mend


@pytest.mark.parametrize("name", NEEDED_NAMES)
def test_each_of_the_four_files_is_asked_for_wherever_it_lies(folder: Path, name: str) -> None:
    rule = "the four files the page asks for"
    for path in [path for path in folder.rglob(name)]:
        path.unlink()
    assert findings(folder)[rule].outcome == "refused"
    write(folder, f"deep/er/{name}", "")
    assert findings(folder)[rule].outcome == "passed"


def test_a_body_that_is_not_known_here_is_said_not_guessed(folder: Path) -> None:
    write(folder, "training_params.yaml", PARAMS + "BODY_SHELL_TYPE: f1_2021\n")
    finding = findings(folder)["car body and colour"]
    assert (finding.outcome, "f1_2021" in finding.found) == ("not checked", True)


def test_a_colour_is_known_whatever_its_case(folder: Path) -> None:
    write(folder, "training_params.yaml", PARAMS.replace("Red", "oRANGE"))
    assert findings(folder)["car body and colour"].outcome == "passed"


def test_the_reward_is_tried_on_the_models_own_track(folder: Path) -> None:
    first = load_track("Oval_track").inner[0].tolist()
    body = f"    return 1.0 if list(params['waypoints'][0]) == {first} else 'elsewhere'\n"
    write(folder, "reward_function.py", f"def reward_function(params):\n{body}")
    assert findings(folder)["reward_function.py (return)"].outcome == "refused"
    write(folder, "training_params.yaml", "WORLD_NAME: Oval_track\n")
    finding = findings(folder)["reward_function.py"]
    assert (finding.outcome, finding.found.rpartition(", ")[2]) == ("passed", "on Oval_track")


WARNED = [
    ("action space", both({**METADATA, "action_space": METADATA["action_space"][:1]}), "1 actions"),
    (
        "action space",
        both({**METADATA, "action_space": [{"steering_angle": 45, "speed": 5}] * 2}),
        "4 values out of range",
    ),
    (
        "TRACK_DIRECTION_CLOCKWISE",
        put("training_params.yaml", "WORLD_NAME: reInvent2019_track\n"),
        "is missing",
    ),
    (
        "TRACK_DIRECTION_CLOCKWISE",
        put("training_params.yaml", PARAMS.replace("false", "'True'")),
        "'True' counts as counter-clockwise",
    ),
    (
        "TRACK_DIRECTION_CLOCKWISE",
        put("training_params.yaml", "WORLD_NAME: Monaco\nTRACK_DIRECTION_CLOCKWISE: false\n"),
        "one direction there, clockwise",
    ),
    (
        "TRACK_DIRECTION_CLOCKWISE",
        put("training_params.yaml", PARAMS.replace("false", "[true]")),
        "[True] counts as counter-clockwise",
    ),
    (
        "car body and colour",
        put("training_params.yaml", PARAMS.replace("Red", "Pink")),
        "CAR_COLOR 'Pink' becomes White there",
    ),
    ("RACE_TYPE", put("training_params.yaml", PARAMS + "RACE_TYPE: HEAD_TO_BOT\n"), "time trial"),
    (
        "RACE_TYPE",
        put(
            "training_params.yaml",
            PARAMS + "RACE_TYPE: OBJECT_AVOIDANCE\nRANDOMIZE_OBSTACLE_LOCATIONS: 'True'\n",
        ),
        "counts as false",
    ),
    ("metrics/training/training-*.json", remove("metrics/training/training-1.json"), "none"),
    ("no archives inside", put("old.tar.gz", "x"), "old.tar.gz"),
]


@pytest.mark.parametrize(
    ("rule", "change", "said"), WARNED, ids=[f"{rule}: {said}" for rule, _, said in WARNED]
)
def test_what_is_taken_in_another_sense_is_told(
    folder: Path, rule: str, change: Callable[[Path], None], said: str
) -> None:
    change(folder)
    finding = findings(folder)[rule]
    assert (finding.outcome, said in finding.found) == ("warning", True), finding


def test_a_track_with_its_suffix_says_how_to_write_it(folder: Path) -> None:
    write(folder, "training_params.yaml", "WORLD_NAME: reInvent2019_track_cw\n")
    mend = "write reInvent2019_track and TRACK_DIRECTION_CLOCKWISE: true"
    assert findings(folder)["WORLD_NAME"].mend == mend


def test_hyperparameters_elsewhere_say_where_they_belong(folder: Path) -> None:
    (folder / "ip" / "hyperparameters.json").rename(folder / "hyperparameters.json")
    finding = findings(folder)["ip/hyperparameters.json"]
    assert finding.mend.startswith("move hyperparameters.json to ip/hyperparameters.json")


def test_sac_with_one_episode_passes(folder: Path) -> None:
    both({**CONTINUOUS, "training_algorithm": "sac"})(folder)
    write(folder, "ip/hyperparameters.json", {"num_episodes_between_training": 1})
    assert findings(folder)["algorithm"].outcome == "passed"
    write(folder, "ip/hyperparameters.json", {"num_episodes_between_training": "1"})
    assert findings(folder)["algorithm"].outcome == "refused"


@pytest.mark.parametrize("name", ["my model", "a" * 64, "", "a_b"])
def test_a_name_the_page_refuses_is_refused(folder: Path, name: str) -> None:
    assert findings(folder, name=name)["model name"].outcome == "refused"


@pytest.mark.parametrize("text", ["fast!", "a" * 256])
def test_a_description_the_page_refuses_is_refused(folder: Path, text: str) -> None:
    assert findings(folder, description=text)["description"].outcome == "refused"


def test_a_folder_above_one_gibibyte_is_refused(folder: Path) -> None:
    with (folder / "video.mp4").open("wb") as file:
        file.truncate(2**30)  # a hole, no disk
    report = check_model(folder, try_out=no_model)
    assert {f.rule: f.outcome for f in report.findings}["folder at most 1 GiB"] == "refused"


# Checkpoints; the weights themselves are tests/coach_presets/test_export.py's.


def put_checkpoint(folder: Path, name: str) -> None:
    for suffix in (".index", ".meta", ".data-00000-of-00001"):
        (folder / "model" / (name + suffix)).write_bytes(PART)


def asked_for(folder: Path) -> tuple[dict[str, Finding], list[str]]:
    """Return the findings and the checkpoints that would be tried out."""
    names: list[str] = []

    def unreadable(requests: Any) -> list[ProbeAnswer]:
        names.extend(Path(str(request.prefix)).name for request in requests)
        return [ProbeAnswer(weights_problem="cannot be read") for _ in requests]

    found = check_console_folder(folder, try_out=unreadable)
    return {finding.rule: finding for finding in found}, names


def test_last_and_best_are_tried_out(folder: Path) -> None:
    for name in ("1_Step-10.ckpt", "2_Step-20.ckpt", "10_Step-30.ckpt"):
        put_checkpoint(folder, name)
    write(folder, "model/.coach_checkpoint", "2_Step-20.ckpt\n")
    entries = {"best_checkpoint": {"name": "1_Step-10.ckpt"}}
    write(folder, "model/deepracer_checkpoints.json", entries)
    found, names = asked_for(folder)
    assert names == ["2_Step-20.ckpt", "1_Step-10.ckpt"]
    assert found["model/.coach_checkpoint"].outcome == "passed"
    assert found["last checkpoint restores and runs"].outcome == "refused"
    assert found["best checkpoint restores and runs"].outcome == "refused"
    assert found["frozen graph of 2_Step-20.ckpt"].outcome == "warning"


def test_the_newest_stands_in_for_a_checkpoint_that_is_gone(folder: Path) -> None:
    for name in ("9_Step-10.ckpt", "10_Step-30.ckpt"):
        put_checkpoint(folder, name)
    write(folder, "model/.coach_checkpoint", "11_Step-40.ckpt")
    write(folder, "model/deepracer_checkpoints.json", {"best_checkpoint": {"name": "gone"}})
    found, names = asked_for(folder)
    assert names == ["10_Step-30.ckpt"]
    assert found["model/.coach_checkpoint"].outcome == "warning"
    assert found["model/deepracer_checkpoints.json"].outcome == "warning"


@pytest.mark.parametrize("suffix", [".meta", ".data-00000-of-00001"])
def test_a_checkpoint_that_lacks_a_file_is_refused(folder: Path, suffix: str) -> None:
    put_checkpoint(folder, "2_Step-20.ckpt")
    (folder / "model" / f"2_Step-20.ckpt{suffix}").unlink()
    write(folder, "model/.coach_checkpoint", "2_Step-20.ckpt")
    found, names = asked_for(folder)
    assert found["model/.coach_checkpoint"].outcome == "refused"
    assert f"lacks model/2_Step-20.ckpt{suffix}" in found["model/.coach_checkpoint"].found
    assert names == []


def test_pointers_that_are_no_json_are_refused(folder: Path) -> None:
    write(folder, "model/deepracer_checkpoints.json", "best")
    assert findings(folder)["model/deepracer_checkpoints.json"].outcome == "refused"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"training_algorithm": "sac", **{k: CONTINUOUS[k] for k in ("action_space",)}}, "sac"),
        ({"sensor": ["STEREO_CAMERAS"]}, "STEREO_CAMERAS"),
        ({"sensor": ["FRONT_FACING_CAMERA", "LIDAR"]}, "LIDAR"),
    ],
)
def test_what_cannot_be_rebuilt_here_is_said_not_guessed(
    folder: Path, changes: dict[str, Any], why: str
) -> None:
    kind = "continuous" if why == "sac" else "discrete"
    both({**METADATA, **changes, "action_space_type": kind})(folder)
    put_checkpoint(folder, "2_Step-20.ckpt")
    write(folder, "model/.coach_checkpoint", "2_Step-20.ckpt")
    finding = findings(folder)["last and best checkpoint restore"]
    assert finding.outcome == "not checked"
    assert why in finding.found


def test_every_rule_of_the_console_has_an_example_that_breaks_it(folder: Path) -> None:
    put_checkpoint(folder, "2_Step-20.ckpt")
    write(folder, "model/.coach_checkpoint", "2_Step-20.ckpt")
    write(folder, "reward_function.py", "def reward_function(params):\n    return 1.0\n")
    found = check_console_folder(
        folder,
        "name",
        "description",
        lambda requests: [ProbeAnswer(weights_problem="cannot be read") for _ in requests],
    )
    elsewhere = {
        "model name": test_a_name_the_page_refuses_is_refused,
        "description": test_a_description_the_page_refuses_is_refused,
        "folder at most 1 GiB": test_a_folder_above_one_gibibyte_is_refused,
        "model/.coach_checkpoint": test_a_checkpoint_that_lacks_a_file_is_refused,
        "model/deepracer_checkpoints.json": test_pointers_that_are_no_json_are_refused,
        "last checkpoint restores and runs": test_last_and_best_are_tried_out,
        "best checkpoint restores and runs": test_last_and_best_are_tried_out,
        "frozen graph of 2_Step-20.ckpt": test_last_and_best_are_tried_out,
    }
    broken = {rule for rule, _, _ in REFUSED + WARNED} | elsewhere.keys()
    assert {finding.rule for finding in found} - broken == set()
    assert len(found) >= 19


# The car.


def graph_answer(requests: Any) -> list[ProbeAnswer]:
    assert [Path(request.frozen).name for request in requests] == ["model.pb"]
    return [ProbeAnswer(frozen_problem="model.pb is not a frozen graph: Error parsing")]


def car_findings(path: Path) -> dict[str, Finding]:
    report = check_model(path, try_out=graph_answer)
    assert report.target == "car"
    return {finding.rule: finding for finding in report.findings}


CAR: dict[str, bytes | Path] = {
    "model_metadata.json": json.dumps(METADATA).encode(),
    "agent/model.pb": PART,
}


def test_a_car_archive_is_told_by_what_it_holds(tmp_path: Path) -> None:
    write_tar_gz(tmp_path / "m.tar.gz", CAR)
    found = car_findings(tmp_path / "m.tar.gz")
    assert found["the frozen graph runs"].outcome == "refused"
    assert {f.outcome for rule, f in found.items() if "runs" not in rule} == {"passed"}


def test_another_kind_of_archive_is_refused_for_the_car(tmp_path: Path) -> None:
    write_zip(tmp_path / "m.zip", CAR)
    assert car_findings(tmp_path / "m.zip")["gzipped tar"].outcome == "refused"
    write_tar_gz(tmp_path / "m.tgz", CAR)
    assert car_findings(tmp_path / "m.tgz")["gzipped tar"].mend == "let its name end in .tar.gz"


def test_a_car_archive_without_one_of_its_files_is_refused(tmp_path: Path) -> None:
    write_tar_gz(tmp_path / "m.tar.gz", {"agent/model.pb": PART})
    assert car_findings(tmp_path / "m.tar.gz")["model_metadata.json"].outcome == "refused"
    write_tar_gz(tmp_path / "m.tar.gz", {"model_metadata.json": b"{}"})
    report = check_model(tmp_path / "m.tar.gz", "car", try_out=graph_answer)
    assert report.is_refused
    assert [f.found for f in report.findings if f.rule == "agent/model.pb"] == ["is missing"]


def test_other_files_in_a_car_archive_do_no_harm(tmp_path: Path) -> None:
    write_tar_gz(tmp_path / "m.tar.gz", {**CAR, "worker_0.csv": b"x"})
    assert car_findings(tmp_path / "m.tar.gz")["nothing besides"].outcome == "warning"


# Archives.


def test_a_zip_with_one_folder_inside_is_that_folder(folder: Path, tmp_path: Path) -> None:
    names = [path for path in folder.rglob("*") if path.is_file()]
    packed = {f"my-model/{path.relative_to(folder)}": path for path in names}
    write_zip(tmp_path / "a.zip", dict(packed))
    report = check_model(tmp_path / "a.zip", try_out=no_model)
    assert report.target == "console"
    assert {f.rule: f.outcome for f in report.findings}["WORLD_NAME"] == "passed"


def test_hostile_archives_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tarfile.TarInfo("model_metadata.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        archive.addfile(link)
    with tarfile.open(tmp_path / "up.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../model_metadata.json"))
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("/tmp/model_metadata.json"))
    write_zip(tmp_path / "up.zip", {"model/../../model_metadata.json": b"{}"})
    write_zip(tmp_path / "root.zip", {"/tmp/model_metadata.json": b"{}"})
    write_zip(tmp_path / "pickle.zip", {"samples/sample_0.pkl": pickle.dumps(1)})
    bomb = tarfile.TarInfo("video.mp4")
    bomb.size = 2**32
    (tmp_path / "bomb.tar").write_bytes(bomb.tobuf(tarfile.USTAR_FORMAT))
    outside = ("up.tar", "root.tar", "up.zip", "root.zip")
    for name in ("link.tar", *outside, "pickle.zip", "bomb.tar"):
        assert run_cli(["export", "check", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {name} m") and error.count("\n") == 1


def test_a_path_with_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="none.zip"):
        check_model(tmp_path / "none.zip")


def test_the_command_says_what_and_how_to_mend(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["export", "check", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert "REFUSED" in shown and "model/.coach_checkpoint" in shown
    assert "would be refused" in shown.splitlines()[-1]
    assert run_cli(["export", "check", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["is_refused"] is True
    assert {"rule", "outcome", "found", "mend"} == set(report["findings"][0])


# Tracks.


def test_the_console_knows_sixty_two_tracks_without_suffix() -> None:
    assert len(CONSOLE_TRACKS) == 62
    assert not [name for name in CONSOLE_TRACKS if name.endswith(("_cw", "_ccw"))]
    assert {d for _, directions in CONSOLE_TRACKS.values() for d in directions} == {"cw", "ccw"}


def test_the_direction_follows_from_the_way_the_cars_drove() -> None:
    base = load_track("reinvent_base")  # counter-clockwise rows
    assert base.is_ccw
    one_way = console_place(base, is_reversed=False)
    assert (one_way.world_name, one_way.is_clockwise, one_way.is_reversed) == (
        "reinvent_base",
        False,
        False,
    )
    assert console_place(base, is_reversed=True).is_reversed
    for reverse in (False, True):
        both_ways = console_place(base, reverse, "reInvent2019_track")
        assert (both_ways.is_clockwise, both_ways.is_reversed) == (reverse, False)


def test_a_track_the_console_does_not_know_lists_those_it_knows() -> None:
    track = load_track("hairpins")
    with pytest.raises(ConfigError) as failure:
        console_place(track, is_reversed=False)
    assert str(failure.value).startswith("The console does not know the track 'hairpins'; --track")
    assert all(name in str(failure.value) for name in CONSOLE_TRACKS)
    assert console_place(track, False, "Oval_track").title == "Oval Track"


def test_requests_and_answers_are_plain_data() -> None:
    request = ProbeRequest(num_actions=2, network="N", sensor="S")
    assert json.loads(json.dumps(vars(request)))["sensor"] == "S"
