"""The action space: the original's orders, strict reading, and files that read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_trainer.actions import (
    Action,
    ActionSpace,
    custom_action_space,
    default_action_space,
    load_action_space,
    metadata_text,
    metadata_tmp_text,
    parse_action_space,
)
from local_trainer.errors import ConfigError, NotFound

TWO = [{"steering_angle": -10, "speed": 1.0}, {"steering_angle": 10, "speed": 2}]


def test_the_default_is_the_originals_ten_states() -> None:
    space = default_action_space()
    # Steering outside, speed inside, as in the original's hand-written file.
    assert space.steering_deg.tolist() == [-30, -30, -15, -15, 0, 0, 15, 15, 30, 30]
    assert space.speed_mps.tolist() == [1, 2] * 5
    assert space.default_action == 4


def test_a_custom_space_has_speed_outside_and_steering_inside() -> None:
    space = custom_action_space(1, 2, -10, 10)  # intervals 1 m/s and 5 degrees
    assert space.speed_mps.tolist() == [1] * 5 + [2] * 5
    assert space.steering_deg.tolist() == [-10, -5, 0, 5, 10] * 2


def test_a_custom_space_includes_the_maximum_after_a_shorter_step() -> None:
    space = custom_action_space(0.5, 2, -30, 30, speed_interval=1, steering_angle_interval=20)
    assert sorted(set(space.speed_mps)) == [0.5, 1.5, 2.0]
    assert sorted(set(space.steering_deg)) == [-30, -10, 10, 30]


def test_a_custom_space_of_tenths_is_not_spoilt_by_rounding() -> None:
    space = custom_action_space(0.1, 0.4, 0, 10, speed_interval=0.1, steering_angle_interval=10)
    assert sorted(set(space.speed_mps)) == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ((1, 1, 0, 0), "2 to 30 actions, got 1"),
        ((1, 4, -30, 30), "2 to 30 actions"),  # 4 x 13
        ((2, 1, 0, 10), "min_speed must be at most max_speed"),
        ((0, 1, 0, 10), "min_speed must be a number from 0.1 to 4, got 0"),
        ((1, 5, 0, 10), "max_speed must be a number from 0.1 to 4, got 5"),
        ((1, 2, -31, 10), "min_steering_angle must be a number from -30 to 30, got -31"),
        ((1, 2, 0, float("nan")), "max_steering_angle must be a number from -30 to 30, got nan"),
        ((1, 2, 0, "10"), "max_steering_angle must be a number from -30 to 30, got '10'"),
        ((1, 2, 0, 10, 0), "speed_interval must be a number > 0, got 0"),
        ((1, 2, 0, 10, 1, -5), "steering_angle_interval must be a number > 0, got -5"),
        ((1, 2, 0, 10, 1e-300), "2 to 30 actions"),
    ],
)
def test_bad_bounds_are_refused(bounds: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ConfigError, match="must") as error:
        custom_action_space(*bounds)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_absent_keys_mean_what_they_mean_to_the_service() -> None:
    bare = parse_action_space({"action_space": TWO})
    assert (bare.version, bare.sensors) == (1.0, ("observation",))
    assert (bare.algorithm, bare.network) == ("clipped_ppo", "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW")
    camera = parse_action_space({"action_space": TWO, "sensor": ["FRONT_FACING_CAMERA"]})
    assert (camera.version, camera.sensors) == (2.0, ("FRONT_FACING_CAMERA",))
    # Below version 2 the sensor list does not count.
    old = parse_action_space({"action_space": TWO, "sensor": ["FRONT_FACING_CAMERA"], "version": 1})
    assert old.sensors == ("observation",)


def test_the_place_in_the_list_counts_not_the_index() -> None:
    entries = [{**TWO[0], "index": 7}, {**TWO[1], "index": "x"}]
    assert parse_action_space({"action_space": entries}).steering_deg.tolist() == [-10, 10]


def test_text_options_are_trimmed_and_folded_as_in_the_service() -> None:
    data = {"action_space": TWO, "training_algorithm": " Clipped_PPO ", "version": "5"}
    assert parse_action_space({**data, "action_space_type": "DISCRETE"}).version == 5.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"action_space": []}, "action_space must hold 2 to 30 actions, got 0."),
        ({"action_space": TWO[:1]}, "action_space must hold 2 to 30 actions, got 1."),
        ({"action_space": TWO * 16}, "action_space must hold 2 to 30 actions, got 32."),
        ({"action_space": 3}, "action_space must be a list of actions, got 3."),
        ({"action_space": {"speed": {"low": 1}}}, "continuous action spaces are not supported yet"),
        ({"action_space": [1, 2]}, "action_space[0] must be an object"),
        ({"action_space": [TWO[0], {"speed": 1}]}, "action_space[1] must be an object"),
        (
            {"action_space": [TWO[0], {"speed": 1, "steering_angle": 31}]},
            "action_space[1].steering_angle must be a number from -30 to 30, got 31.",
        ),
        (
            {"action_space": [TWO[0], {"speed": 0.05, "steering_angle": 0}]},
            "action_space[1].speed must be a number from 0.1 to 4, got 0.05.",
        ),
        (
            {"action_space": [TWO[0], {"speed": True, "steering_angle": 0}]},
            "action_space[1].speed must be a number from 0.1 to 4, got True.",
        ),
        (
            {"action_space": [TWO[0], {"speed": float("nan"), "steering_angle": 0}]},
            "action_space[1].speed must be a number from 0.1 to 4, got nan.",
        ),
        (
            {"action_space_type": "continuous"},
            "action_space_type 'continuous' is not supported yet",
        ),
        ({"action_space_type": "round"}, "action_space_type must be one of discrete, got 'round'."),
        ({"training_algorithm": "sac"}, "training_algorithm 'sac' is not supported yet"),
        ({"training_algorithm": 1}, "training_algorithm must be one of clipped_ppo, got 1."),
        (
            {"neural_network": "DEEP_CONVOLUTIONAL_NETWORK"},
            "neural_network 'DEEP_CONVOLUTIONAL_NETWORK' is not supported yet",
        ),
        ({"sensor": ["STEREO_CAMERAS"]}, "sensor 'STEREO_CAMERAS' is not supported yet"),
        ({"sensor": ["FRONT_FACING_CAMERA", "LIDAR"]}, "sensor 'LIDAR' is not supported yet"),
        ({"sensor": ["FRONT_FACING_CAMERA"] * 2}, "sensor must be a list of one camera"),
        ({"sensor": []}, "sensor must be a list of one camera, got []."),
        ({"sensor": ["EYE"]}, "sensor must be one of FRONT_FACING_CAMERA, observation, got 'EYE'."),
        ({"version": "new"}, "version must be a number > 0, got 'new'."),
        ({"senser": ["LIDAR"]}, "Unknown key 'senser'. Did you mean 'sensor'?"),
    ],
)
def test_bad_metadata_is_one_line(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "model_metadata.json"
    path.write_text(json.dumps({"action_space": TWO} | change), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_action_space(path)
    text = str(error.value)
    assert says in text and text.startswith(f"{path}: ") and "\n" not in text


@pytest.mark.parametrize("text", ["{", "", "[1]", "\x00", '{"action_space": }', '{"version": 5}'])
def test_malformed_files_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model_metadata.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_action_space(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_action_space(tmp_path / "none.json")


ACTIONS = st.builds(Action, st.floats(-30, 30), st.floats(0.1, 4.0))


@given(st.lists(ACTIONS, min_size=2, max_size=30))
def test_a_written_space_reads_back_the_same(actions: list[Action]) -> None:
    space = ActionSpace(tuple(actions))
    assert parse_action_space(json.loads(metadata_text(space))) == space


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_json_is_read_or_refused(data: Any) -> None:
    for value in (data, {"action_space": data}, {"action_space": TWO, "sensor": data}):
        try:
            parse_action_space(value)
        except ConfigError as error:
            assert str(error)


def test_the_generated_file_has_the_originals_keys_in_order() -> None:
    data = json.loads(metadata_tmp_text(custom_action_space(1, 2, 0, 10, 1, 10)))
    assert list(data) == ["action_space"]
    assert [list(entry) for entry in data["action_space"]] == [
        ["index", "steering_angle", "speed"]
    ] * 4
    assert [list(entry.values()) for entry in data["action_space"]] == [
        [0, 0, 1],
        [1, 10, 1],
        [2, 0, 2],
        [3, 10, 2],
    ]
