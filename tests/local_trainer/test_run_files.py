"""Making a run: all of its files or none, and one line for everything that stands in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from local_trainer.actions import custom_action_space, default_action_space, load_action_space
from local_trainer.config import load_config, resolve_config
from local_trainer.errors import ConfigError, LocalTrainerError, NotFound, RewardFunctionError
from local_trainer.run_files import create_run, load_run_track
from local_trainer.runs import list_runs
from sim.track_files import load_track

GOOD_REWARD = "def reward_function(params):\n    return 1.0\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_has_the_services_files(tmp_path: Path) -> None:
    run = create_run(resolve_config(sets=["run=first", "job_name=mine"]), tmp_path)
    assert files_of(run.path) == {
        "config.yaml",
        "ip/hyperparameters.json",
        "model/model_metadata.json",
        "model_metadata.json",
        "presets/preset_hyperparameters.json",
        "presets/preset_hyperparams.py",
        "reward_function.py",
        "rewards/reward_function.py",
        "route.npy",
        "status.json",
        "training_params.yaml",
    }
    assert load_action_space(run.metadata_file) == default_action_space()
    status = json.loads(run.status_file.read_text(encoding="utf-8"))
    assert (status["status"], status["job_name"], status["track"]) == (
        "created",
        "mine",
        "reinvent_base",
    )
    assert os.listdir(tmp_path) == ["first"]
    assert [found.name for found in list_runs(tmp_path)] == ["first"]


def test_the_run_keeps_its_config_and_track(tmp_path: Path) -> None:
    config = resolve_config(sets=["track=reinvent_wood", "ppo.batch_size=32", "profile=cloud"])
    run = create_run(config, tmp_path)
    assert run.name.startswith("reinvent_wood-")
    saved = load_config(run.config_file)
    assert (saved.run, saved.job_name, saved.surface) == (run.name, run.name, "wood")
    assert saved.ppo == config.ppo
    track = load_run_track(run)
    original = load_track("reinvent_wood")
    assert (track.name, track.surface) == ("reinvent_wood", original.surface)
    np.testing.assert_array_equal(track.route(), original.route())


def test_a_track_may_be_a_file_and_its_surface_chosen(tmp_path: Path) -> None:
    np.save(tmp_path / "my_way.npy", load_track("Straight_track").route())
    config = resolve_config(sets=[f"track={tmp_path}/my_way.npy", "surface=carpet"])
    track = load_run_track(create_run(config, tmp_path / "runs"))
    assert (track.name, track.surface, track.is_loop) == ("my_way", "carpet", False)


def test_unnamed_runs_of_the_same_second_get_different_names(tmp_path: Path) -> None:
    names = {create_run(resolve_config(), tmp_path).name for _ in range(3)}
    assert len(names) == 3


def test_training_params_are_quoted_texts(tmp_path: Path) -> None:
    config = resolve_config(
        sets=["run=first", "reverse_direction=true", "episodes.round_robin_advance=0.05"]
    )
    text = create_run(config, tmp_path).training_params_file.read_text(encoding="utf-8")
    assert text.startswith("---\n")
    assert "'WORLD_NAME': 'reinvent_base'\n" in text
    values = yaml.safe_load(text)
    assert all(isinstance(value, str) for value in values.values())
    assert values["REVERSE_DIR"] == "True"
    assert values["ROUND_ROBIN_ADVANCE_DIST"] == "0.05"
    assert values["SAGEMAKER_SHARED_S3_PREFIX"] == "first"
    assert values["METRICS_S3_OBJECT_KEY"] == "first/metrics/TrainingMetrics.json"
    mandatory = (
        "SAGEMAKER_SHARED_S3_BUCKET",
        "METRICS_S3_BUCKET",
        "MODEL_METADATA_FILE_S3_KEY",
        "BODY_SHELL_TYPE",
        "CAR_COLOR",
    )
    assert all(values[key] for key in mandatory)


def test_the_users_files_are_taken_as_they_are(tmp_path: Path) -> None:
    reward = write(tmp_path / "r.py", GOOD_REWARD)
    metadata = (
        '{"action_space": [{"speed": 1, "steering_angle": 0}, {"speed": 2, "steering_angle": 0}]}'
    )
    run = create_run(
        resolve_config(),
        tmp_path / "runs",
        reward_path=reward,
        actions=write(tmp_path / "m.json", metadata),
        preset_path=write(tmp_path / "p.py", "x = 1\n"),
        environment_path=write(tmp_path / "e.py", "y = 1\n"),
    )
    assert run.reward_file.read_text() == GOOD_REWARD
    assert (run.path / "rewards" / "reward_function.py").read_text() == GOOD_REWARD
    assert run.metadata_file.read_text() == metadata
    assert (run.model_dir / "model_metadata.json").read_text() == metadata
    assert run.preset_file.read_text() == "x = 1\n"
    assert run.environment_file.read_text() == "y = 1\n"


def test_a_custom_action_space_leaves_the_generated_file(tmp_path: Path) -> None:
    space = custom_action_space(1, 2, 0, 10)
    run = create_run(resolve_config(), tmp_path, actions=space)
    tmp = json.loads((run.path / "actions" / "model_metadata_tmp.json").read_text())
    assert [entry["index"] for entry in tmp["action_space"]] == [0, 1, 2, 3, 4, 5]
    assert load_action_space(run.metadata_file) == space


@pytest.mark.parametrize(
    ("sets", "kind", "says"),
    [
        (["track=reinvent_bas"], ConfigError, "Did you mean 'reinvent_base'?"),
        (["track=/none/x.npy"], ConfigError, "/none/x.npy"),
        (["files.reward=none.py"], NotFound, "No reward function file none.py."),
        (["files.reward=rewards"], ConfigError, "must be a file, got the folder rewards"),
        (["files.model_metadata=none.json"], NotFound, "No action space file none.json."),
        (["files.preset=none.py"], NotFound, "No preset file none.py."),
        (["files.environment=none.py"], NotFound, "No environment file none.py."),
        (["pretrained.run=none"], NotFound, "Unknown run 'none'"),
    ],
)
def test_what_does_not_exist_is_one_line_and_leaves_nothing(
    tmp_path: Path, sets: list[str], kind: type[LocalTrainerError], says: str
) -> None:
    with pytest.raises(kind) as error:
        create_run(resolve_config(sets=sets), tmp_path / "runs")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert error.value.exit_status == 2
    assert not (tmp_path / "runs").exists()


def test_bad_user_files_leave_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(RewardFunctionError, match="returned None"):
        create_run(
            resolve_config(),
            runs,
            reward_path=write(tmp_path / "r.py", "def reward_function(p): pass\n"),
        )
    with pytest.raises(ConfigError, match="2 to 30 actions, got 0"):
        create_run(
            resolve_config(), runs, actions=write(tmp_path / "m.json", '{"action_space": []}')
        )
    with pytest.raises(ConfigError, match=r"p\.py:1: the preset is not valid Python"):
        create_run(resolve_config(), runs, preset_path=write(tmp_path / "p.py", "x = = 1\n"))
    assert not runs.exists()


def test_a_name_that_exists_is_refused_and_the_run_untouched(tmp_path: Path) -> None:
    config = resolve_config(sets=["run=first"])
    before = create_run(config, tmp_path).status_file.read_bytes()
    with pytest.raises(ConfigError, match="Run 'first' exists already"):
        create_run(config, tmp_path)
    assert (tmp_path / "first" / "status.json").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    # A file where the folder should be: refused whoever asks, root included.
    write(tmp_path / "file", "")
    with pytest.raises(ConfigError, match="must go into a folder that can be written") as error:
        create_run(resolve_config(), tmp_path / "file" / "runs")
    assert "\n" not in str(error.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    # /dev/full stands for a disk without room; opening files below it fails as well.
    with pytest.raises(ConfigError, match="can be written"):
        create_run(resolve_config(), full)
    assert os.listdir(tmp_path) == []
