"""What a model from elsewhere says is found in any layout, and refused part by part.

Nothing here reads weights; tests/test_import.py takes them in.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from console_server import REGION, running_aws

from local_trainer.archives import ArchiveLimits
from local_trainer.checkpoints import Checkpoint
from local_trainer.errors import ConfigError, NotFound
from local_trainer.model_import import (
    ImportOptions,
    _map,
    _Mapping,
    _opened,
    import_model,
    unsupported_metadata,
)
from local_trainer.model_source import find_model
from local_trainer.store import LocalStore

ACTIONS = [{"steering_angle": angle, "speed": 1.5} for angle in (-20, 0, 20)]
METADATA: dict[str, Any] = {
    "action_space": ACTIONS,
    "sensor": ["FRONT_FACING_CAMERA"],
    "neural_network": "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW",
    "training_algorithm": "clipped_ppo",
    "action_space_type": "discrete",
    "version": "5",
}
HYPERPARAMETERS = {
    "batch_size": "128",
    "num_epochs": "5",
    "lr": "0.0002",
    "discount_factor": "0.99",
    "beta_entropy": "0.02",
    "loss_type": "huber",
    "num_episodes_between_training": "30",
    "exploration_type": "categorical",
    "stack_size": "1",
    "pretrained": "false",
}
PARAMS = {
    "WORLD_NAME": "Oval_track",
    "RACE_TYPE": "TIME_TRIAL",
    "REVERSE_DIR": "False",
    "CHANGE_START_POSITION": "True",
    "ROUND_ROBIN_ADVANCE_DIST": "0.1",
    "MIN_EVAL_TRIALS": "7",
}
REWARD = "def reward_function(params):\n    return float(params['all_wheels_on_track'])\n"
POINTERS = {
    "best_checkpoint": {"name": "3_Step-300.ckpt", "avg_eval_metric": 71.5},
    "last_checkpoint": {"name": "4_Step-400.ckpt", "avg_eval_metric": -1},
}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for key, content in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def checkpoint(name: str, folder: str = "model") -> dict[str, str | bytes]:
    return {f"{folder}/{name}.index": "i", f"{folder}/{name}.data-00000-of-00001": "d"}


def drfc(**changes: Any) -> dict[str, str | bytes]:
    """Return a prefix of DRfC's bucket; a part that is None is left out."""
    parts = {
        "metadata": METADATA,
        "hyperparameters": HYPERPARAMETERS,
        "params": PARAMS,
        "reward": REWARD,
        **changes,
    }
    files = checkpoint("3_Step-300.ckpt") | checkpoint("4_Step-400.ckpt")
    files |= {"model/deepracer_checkpoints.json": json.dumps(POINTERS)}
    files |= {"model/.coach_checkpoint": "4_Step-400.ckpt", "model/model_4.pb": b"g"}
    if parts["metadata"] is not None:
        files["model/model_metadata.json"] = json.dumps(parts["metadata"])
    if parts["hyperparameters"] is not None:
        files["ip/hyperparameters.json"] = json.dumps(parts["hyperparameters"])
    if parts["params"] is not None:
        files["training_params.yaml"] = yaml.safe_dump(parts["params"], explicit_start=True)
    if parts["reward"] is not None:
        files["reward_function.py"] = parts["reward"]
    files["metrics/TrainingMetrics.json"] = json.dumps({"metrics": []})
    return files


def mapped(folder: Path, **options: Any) -> _Mapping:
    return _map(find_model(LocalStore(folder)), ImportOptions(**options))


# --- where things lie ------------------------------------------------------------------------


def test_a_drfc_prefix_is_found(tmp_path: Path) -> None:
    model = find_model(LocalStore(write(tmp_path, drfc())))
    assert (model.root, model.metadata) == ("", "model/model_metadata.json")
    assert model.last.checkpoint == Checkpoint(4, 400)
    assert model.last.metric is None  # -1 stands for: not evaluated
    assert (model.best.checkpoint, model.best.metric) == (Checkpoint(3, 300), 71.5)
    assert model.frozen_graph == "model/model_4.pb"
    assert model.hyperparameters == "ip/hyperparameters.json"
    assert model.params == "training_params.yaml"
    assert model.metrics == "metrics/TrainingMetrics.json"


def test_a_whole_drfc_bucket_is_asked_for_one_model(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, drfc())
    with pytest.raises(ConfigError, match="several models.*: one/model, two/model"):
        find_model(LocalStore(tmp_path))
    assert find_model(LocalStore(tmp_path / "two")).root == ""


def test_a_bucket_with_custom_files_gives_the_metadata_beside_the_weights(tmp_path: Path) -> None:
    write(tmp_path / "prefix", drfc())
    write(tmp_path / "custom_files", {"model_metadata.json": "{}", "reward_function.py": "x"})
    model = find_model(LocalStore(tmp_path))
    assert model.root == "prefix"
    assert model.metadata == "prefix/model/model_metadata.json"
    assert model.reward == "prefix/reward_function.py"


def test_a_bucket_of_the_current_console_is_found(tmp_path: Path) -> None:
    """The two root files lie above the folder of the training's own files."""
    files = {f"sagemaker-artifacts/{key}": content for key, content in drfc().items()}
    for key in ("reward_function.py", "model/model_metadata.json"):
        files[key.rpartition("/")[2]] = files.pop(f"sagemaker-artifacts/{key}")
    files["metrics/training/2026-01-01-training.json"] = "{}"
    model = find_model(LocalStore(write(tmp_path, files)))
    assert model.root == "sagemaker-artifacts"
    assert model.metadata == "model_metadata.json"
    assert model.reward == "reward_function.py"
    assert model.params == "sagemaker-artifacts/training_params.yaml"


def test_a_model_of_2019_is_found(tmp_path: Path) -> None:
    files = checkpoint("0_Step-0.ckpt") | checkpoint("7_Step-900.ckpt")
    files |= checkpoint("8_Step-950.ckpt")
    files["model/checkpoint"] = (
        'model_checkpoint_path: "./checkpoint/7_Step-900.ckpt"\n'
        'all_model_checkpoint_paths: "./checkpoint/0_Step-0.ckpt"\n'
    )
    files |= {"model_metadata.json": json.dumps({"action_space": ACTIONS})}
    files |= {"rewards/reward_function.py": REWARD}
    files |= {"presets/preset_hyperparams.py": "learning_rate=0.0001\ndiscount=0.9\n"}
    model = find_model(LocalStore(write(tmp_path, files)))
    assert model.last.checkpoint == model.best.checkpoint == Checkpoint(7, 900)
    assert model.reward == "rewards/reward_function.py"
    mapping = mapped(tmp_path)
    assert mapping.problems == []
    assert mapping.overrides["ppo.learning_rate"] == 1e-4
    assert mapping.overrides["ppo.discount_factor"] == 0.9
    assert any("sensor observation is called FRONT_FACING_CAMERA" in n for n in mapping.notes)


def test_an_archive_of_a_car_is_found(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"agent/model.pb": b"g"}
    files["model_metadata.json"] = json.dumps(METADATA)
    model = find_model(LocalStore(write(tmp_path, files)))
    assert model.last.is_frozen
    assert model.last.keys == ["agent/model.pb"]
    assert model.frozen_graph == "agent/model.pb"
    notes = " ".join(mapped(tmp_path).notes)
    assert "only the policy is in the model" in notes
    assert "the track is not in the model: reinvent_base" in notes
    assert "hyperparameters are not in the model" in notes


def test_pointers_to_checkpoints_that_are_gone_fall_back_to_the_newest(tmp_path: Path) -> None:
    write(tmp_path, drfc())
    for name in ("4_Step-400.ckpt", "3_Step-300.ckpt"):
        (tmp_path / f"model/{name}.data-00000-of-00001").unlink()
    write(tmp_path, checkpoint("1_Step-9.ckpt") | checkpoint("2_Step-99.ckpt"))
    model = find_model(LocalStore(tmp_path))
    assert model.last.checkpoint == model.best.checkpoint == Checkpoint(2, 99)


@pytest.mark.parametrize("which", ["3", "3_Step-300.ckpt", "best"])
def test_a_checkpoint_can_be_chosen(tmp_path: Path, which: str) -> None:
    model = find_model(LocalStore(write(tmp_path, drfc())), which)
    assert model.last.checkpoint == model.best.checkpoint == Checkpoint(3, 300)


def test_an_unknown_checkpoint_is_refused(tmp_path: Path) -> None:
    write(tmp_path, drfc())
    with pytest.raises(ConfigError, match="No checkpoint '9' .* allowed: best, last, 3, 4"):
        find_model(LocalStore(tmp_path), "9")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"readme.txt": "x"}, "holds no model: neither a checkpoint"),
        ({"model/1_Step-2.ckpt.index": "x"}, "holds no model: neither a checkpoint"),
        ({"agent/model.pb": "x"}, "lacks model_metadata.json"),
        ({}, "holds no files"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, files: dict[str, str | bytes], expected: str
) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match=expected):
        import_model(write(tmp_path / "x", files), runs_dir=tmp_path / "runs")


def test_a_source_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No model folder or archive"):
        import_model(tmp_path / "none", runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# --- what it says ----------------------------------------------------------------------------


def test_settings_are_mapped(tmp_path: Path) -> None:
    mapping = mapped(write(tmp_path, drfc()))
    assert mapping.problems == []
    assert mapping.overrides == {
        "ppo.batch_size": 128,
        "ppo.optimization_epochs": 5,
        "ppo.learning_rate": 2e-4,
        "ppo.discount_factor": 0.99,
        "ppo.beta_entropy": 0.02,
        "ppo.loss_type": "huber",
        "ppo.episodes_between_training": 30,
        "ppo.exploration_type": "categorical",
        "reverse_direction": False,
        "episodes.change_start_position": True,
        "episodes.round_robin_advance": 0.1,
        "evaluation.trials": 7,
        "track": "Oval_track",
        "surface": "asphalt",
    }
    assert mapping.notes == []


def test_only_huber_is_a_loss_of_its_own_as_in_the_service(tmp_path: Path) -> None:
    values = {**HYPERPARAMETERS, "loss_type": "anything", "stack_size": 3}
    mapping = mapped(write(tmp_path, drfc(hyperparameters=values)))
    assert mapping.overrides["ppo.loss_type"] == "mean squared error"
    assert len(mapping.notes) == 2


def test_of_several_cars_the_first_counts(tmp_path: Path) -> None:
    params = {**PARAMS, "WORLD_NAME": ["Bowtie_track"], "CAR_COLOR": ["Red", "Blue"]}
    mapping = mapped(write(tmp_path, drfc(params=params)))
    assert mapping.overrides["track"] == "Bowtie_track"
    assert mapping.notes == ["CAR_COLOR is given for 2 cars: the first is taken"]


def test_what_has_no_place_here_is_noted(tmp_path: Path) -> None:
    params = {**PARAMS, "RACE_TYPE": "OBJECT_AVOIDANCE", "ENABLE_DOMAIN_RANDOMIZATION": "true"}
    mapping = mapped(write(tmp_path, drfc(params=params)))
    assert mapping.problems == []
    assert "OBJECT_AVOIDANCE" in mapping.notes[0]
    assert "ENABLE_DOMAIN_RANDOMIZATION" in mapping.notes[1]


@pytest.mark.parametrize(
    ("params", "is_reversed"),
    [
        ({"WORLD_NAME": "Oval_track_ccw"}, False),
        ({"WORLD_NAME": "Oval_track_cw"}, True),
        ({"WORLD_NAME": "Oval_track_cw", "REVERSE_DIR": "True"}, False),
        ({"WORLD_NAME": "Oval_track", "REVERSE_DIR": "true"}, True),
        # The console gives this track one direction; tools write the key all the same.
        ({"WORLD_NAME": "Oval_track", "TRACK_DIRECTION_CLOCKWISE": True}, None),
    ],
)
def test_the_direction_is_kept(
    tmp_path: Path, params: dict[str, Any], is_reversed: bool | None
) -> None:
    mapping = mapped(write(tmp_path, drfc(params=params)))
    assert mapping.problems == []
    assert mapping.track is not None and mapping.track.is_ccw
    assert mapping.overrides.get("reverse_direction", None if is_reversed is None else False) == (
        is_reversed
    )


def test_a_track_of_two_directions_turns_round_by_its_key(tmp_path: Path) -> None:
    """An imported route of a console track that is driven both ways."""
    from sim.track_files import load_track, save_route

    tracks = tmp_path / "tracks"
    tracks.mkdir()
    save_route(load_track("Oval_track"), tracks / "2022_may_pro.npy")
    params = {"WORLD_NAME": "2022_may_pro", "TRACK_DIRECTION_CLOCKWISE": True}
    folder = write(tmp_path / "model", drfc(params=params))
    mapping = mapped(folder, tracks_dir=tracks)
    assert mapping.overrides["track"] == "2022_may_pro"
    assert mapping.overrides["reverse_direction"] is True


def test_a_track_that_is_not_here_can_be_replaced(tmp_path: Path) -> None:
    write(tmp_path, drfc(params={**PARAMS, "WORLD_NAME": "Vegas_track"}))
    (problem,) = mapped(tmp_path).problems
    assert "Unknown track 'Vegas_track'" in problem and "--track" in problem
    assert mapped(tmp_path, track="hairpins").overrides["track"] == "hairpins"


def test_a_run_of_ours_brings_its_own_track_and_settings(tmp_path: Path) -> None:
    from sim.track_files import load_track, save_route

    files = {**drfc(params={**PARAMS, "WORLD_NAME": "my_track"}), "status.json": "{}"}
    files["config.yaml"] = "seed: 7\n"
    folder = write(tmp_path / "run", files)
    save_route(load_track("Bowtie_track"), folder / "route.npy")
    model = find_model(LocalStore(folder))
    assert (model.config, model.route) == ("config.yaml", "route.npy")
    mapping = mapped(folder)
    assert mapping.problems == []
    assert mapping.track is not None and mapping.track.name == "my_track"
    assert mapping.track.length_m == pytest.approx(load_track("Bowtie_track").length_m)
    assert any("my_track is not known here" in note for note in mapping.notes)


def run_of_two_tracks(folder: Path) -> Path:
    """Write a run of ours that drove two tracks, neither of which is known here by its name."""
    from sim.track_files import load_track, save_route

    files = {**drfc(params={**PARAMS, "WORLD_NAME": "one"}), "status.json": "{}"}
    files["config.yaml"] = "seed: 7\ntracks: [one, two]\n"
    listed = [
        {"name": "one", "surface": "carpet", "file": "0.npy"},
        {"name": "two", "surface": "wood", "file": "1.npy"},
    ]
    files["routes/tracks.json"] = json.dumps(listed)
    write(folder, files)
    for number, name in enumerate(("Bowtie_track", "Oval_track")):
        save_route(load_track(name), folder / "routes" / f"{number}.npy")
    save_route(load_track("Bowtie_track"), folder / "route.npy")
    return folder


def test_a_run_of_ours_brings_all_its_tracks(tmp_path: Path) -> None:
    from local_trainer.model_import import _create
    from local_trainer.run_files import load_run_tracks
    from sim.track_files import load_track

    folder = run_of_two_tracks(tmp_path / "run")
    mapping = mapped(folder)
    assert mapping.problems == []
    assert sum("is not known here; this run has a copy" in note for note in mapping.notes) == 2
    (tmp_path / "new").mkdir()
    model = find_model(LocalStore(folder))
    run = _create("it", model, mapping, ImportOptions(), tmp_path / "new", tmp_path / "runs")
    tracks = load_run_tracks(run)
    assert [(track.name, track.surface) for track in tracks] == [("one", "carpet"), ("two", "wood")]
    for track, name in zip(tracks, ("Bowtie_track", "Oval_track"), strict=True):
        assert track.length_m == pytest.approx(load_track(name).length_m)


def test_a_run_of_several_tracks_can_be_given_one(tmp_path: Path) -> None:
    from local_trainer.model_import import _create

    folder = run_of_two_tracks(tmp_path / "run")
    options = ImportOptions(track="hairpins")
    mapping = mapped(folder, track="hairpins")
    assert mapping.problems == []
    (tmp_path / "new").mkdir()
    model = find_model(LocalStore(folder))
    run = _create("it", model, mapping, options, tmp_path / "new", tmp_path / "runs")
    assert not run.tracks_file.exists() and run.read_status().track == "hairpins"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "must list the run's tracks"),
        ("[]", "must list the run's tracks"),
        ('[{"name": "one"}]', "must list the run's tracks"),
        ('[{"name": "one", "surface": "", "file": "../../x.npy"}]', "must name routes beside it"),
        ('[{"name": "../one", "surface": "", "file": "0.npy"}]', "must name routes beside it"),
    ],
)
def test_a_list_of_tracks_that_is_none_is_named(tmp_path: Path, content: str, said: str) -> None:
    folder = run_of_two_tracks(tmp_path / "run")
    write(folder, {"routes/tracks.json": content})
    (problem,) = mapped(folder).problems
    assert f"the track: routes/tracks.json {said}" in problem


@pytest.mark.parametrize("world", ["../secret", "/tmp/a.npy", "route.npy", "", 7.5])
def test_a_world_is_a_name_and_never_a_path(tmp_path: Path, world: Any) -> None:
    write(tmp_path, drfc(params={**PARAMS, "WORLD_NAME": world}))
    (problem,) = mapped(tmp_path).problems
    assert "WORLD_NAME must be a name" in problem


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"training_algorithm": "sac"}, "training_algorithm 'sac' is not supported yet"),
        ({"action_space_type": "continuous"}, "action_space_type 'continuous' is not supported"),
        (
            {"action_space": {"speed": {"low": 1, "high": 2}}},
            "continuous action spaces are not supported",
        ),
        ({"neural_network": "DEEP_CONVOLUTIONAL_NETWORK"}, "'DEEP_CONVOLUTIONAL_NETWORK' is not"),
        ({"neural_network": "DEEP_CONVOLUTIONAL_NETWORK_DEEP"}, "NETWORK_DEEP' is not supported"),
        ({"sensor": ["STEREO_CAMERAS"]}, "sensor 'STEREO_CAMERAS' is not supported"),
        ({"sensor": ["LEFT_CAMERA"]}, "sensor 'LEFT_CAMERA' is not supported"),
        ({"sensor": ["FRONT_FACING_CAMERA", "LIDAR"]}, "sensor 'LIDAR' is not supported"),
        ({"sensor": ["FRONT_FACING_CAMERA", "SECTOR_LIDAR"]}, "'SECTOR_LIDAR' is not supported"),
        ({"action_space": [*ACTIONS, {"steering_angle": 45, "speed": 1}]}, "action_space\\[3\\]"),
        ({"action_space": ACTIONS[:1]}, "must hold 2 to 30 actions, got 1"),
        ({"action_space": ACTIONS * 11}, "must hold 2 to 30 actions, got 33"),
        ({"version": "x"}, "version must be a number"),
    ],
)
def test_an_unsupported_part_is_named(change: dict[str, Any], expected: str) -> None:
    import re

    (problem,) = unsupported_metadata({**METADATA, **change})
    assert re.search(expected, problem)


def test_supported_metadata_has_no_problems() -> None:
    assert unsupported_metadata(METADATA) == []
    assert unsupported_metadata({"action_space": ACTIONS}) == []
    # Below version 2 the sensor list does not count.
    assert unsupported_metadata({**METADATA, "version": 1, "sensor": ["LIDAR"]}) == []


def test_every_unsupported_part_is_named_at_once(tmp_path: Path) -> None:
    metadata = {
        **METADATA,
        "training_algorithm": "sac",
        "sensor": ["STEREO_CAMERAS", "LIDAR"],
        "neural_network": "DEEP_CONVOLUTIONAL_NETWORK",
        "action_space": {"speed": {"low": 1, "high": 2}, "steering_angle": {"low": 0, "high": 1}},
        "action_space_type": "continuous",
    }
    values = {**HYPERPARAMETERS, "lr": "fast", "discount_factor": "1.5"}
    params = {**PARAMS, "WORLD_NAME": "Nowhere", "CHANGE_START_POSITION": "perhaps"}
    folder = write(
        tmp_path / "model", drfc(metadata=metadata, hyperparameters=values, params=params)
    )
    with pytest.raises(ConfigError, match="holds parts that cannot be imported") as raised:
        import_model(folder, ImportOptions(name="x"), tmp_path / "runs")
    for part in (
        "'sac'",
        "'STEREO_CAMERAS'",
        "'LIDAR'",
        "'DEEP_CONVOLUTIONAL_NETWORK'",
        "action_space_type 'continuous'",
        "continuous action spaces",
        "lr must be a number, got 'fast'",
        "ppo.discount_factor must be",
        "Unknown track 'Nowhere'",
        "CHANGE_START_POSITION must be true or false",
    ):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("key", "content", "expected"),
    [
        ("model/model_metadata.json", "{", "model/model_metadata.json must be JSON"),
        ("model/model_metadata.json", "[]", "must be a JSON object, got list"),
        ("ip/hyperparameters.json", b"\xff\xfe\x00", "ip/hyperparameters.json must be JSON"),
        ("training_params.yaml", "a: [", "training_params.yaml must be YAML"),
        ("training_params.yaml", "!!python/object:os.system {}", "training_params.yaml must be"),
        ("ip/hyperparameters.json", " " * (4 * 2**20 + 1), "must have at most 4 MiB"),
        ("model/deepracer_checkpoints.json", "[", "deepracer_checkpoints.json must be JSON"),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, key: str, content: str | bytes, expected: str
) -> None:
    folder = write(tmp_path / "model", {**drfc(), key: content})
    with pytest.raises(ConfigError, match=expected):
        import_model(folder, ImportOptions(name="x"), tmp_path / "runs")


def test_a_preset_file_is_read_and_not_run(tmp_path: Path) -> None:
    files = drfc(hyperparameters=None)
    files["presets/preset_hyperparams.py"] = "learning_rate=__import__('os').getpid()\n"
    (problem,) = mapped(write(tmp_path, files)).problems
    assert "presets/preset_hyperparams.py must hold name=value lines" in problem


def test_a_hostile_archive_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model", drfc())
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "model", "model")
        link = tarfile.TarInfo("model/link")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ConfigError, match="link"):
        import_model(tmp_path / "model.tar.gz", runs_dir=tmp_path / "runs")


def test_an_archive_in_a_bucket_is_not_fetched_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", REGION)
    limits = ArchiveLimits(total_bytes=1, file_bytes=1, files=1)
    with running_aws() as aws:
        bucket = aws.pool["uploadBucketName"]
        aws.client("s3").put_object(Bucket=bucket, Key="a/m.tar.gz", Body=bytes(3 * 2**20))
        place = f"s3://{bucket}/a/m.tar.gz"
        with pytest.raises(ConfigError, match=f"^{place} must be an archive of at most 1 MiB"):
            with _opened(place, aws.endpoint, limits):
                pass
    assert not list(tmp_path.glob("local-trainer-*"))


def test_a_name_that_is_taken_or_none_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", drfc())
    (tmp_path / "runs" / "model").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Run 'model' exists already"):
        import_model(folder, runs_dir=tmp_path / "runs")
    with pytest.raises(ConfigError, match="A run's name is made of letters"):
        import_model(folder, ImportOptions(name="../x"), tmp_path / "runs")


def test_a_reward_function_that_fails_here_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    from local_trainer.errors import RewardFunctionError

    reward = "def reward_function(params):\n    return params['nothing']\n"
    folder = write(tmp_path / "model", drfc(reward=reward))
    with pytest.raises(RewardFunctionError, match="Choose another with --reward") as raised:
        import_model(folder, ImportOptions(name="x"), tmp_path / "runs")
    assert "reward_function.py" in str(raised.value)
    assert list((tmp_path / "runs").iterdir()) == []
