"""`DeepRacerEngine`: the original's parameters, honoured or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_trainer.actions import ActionSpace
from local_trainer.engine import PARAMETERS, DeepRacerEngine
from local_trainer.errors import ConfigError, NotFound, RunFailed

BOUNDS = {"min_speed": 1, "max_speed": 2, "min_steering_angle": -10, "max_steering_angle": 10}


def engine(tmp_path: Path, **params: Any) -> DeepRacerEngine:
    return DeepRacerEngine({"job_name": "my-job", "runs_dir": str(tmp_path / "runs"), **params})


def test_the_job_name_alone_suffices() -> None:
    config = DeepRacerEngine({"job_name": "my-job"}).config
    assert config.track == "reinvent_base"
    assert config.stop.minutes == 60.0
    assert (config.evaluation.trials, config.workers, config.instance) == (5, 1, "cpu")
    ppo = config.ppo
    assert (ppo.learning_rate, ppo.batch_size, ppo.optimizer_epsilon) == (0.0003, 64, 1e-5)
    assert (ppo.optimization_epochs, ppo.discount_factor, ppo.beta_entropy) == (10, 0.999, 0.01)


def test_every_parameter_reaches_the_config(tmp_path: Path) -> None:
    made = engine(
        tmp_path,
        track_name="Oval_track",
        instance_type="ml.p3.2xlarge",
        instance_pool_count=2,
        job_duration=90,
        evaluation_trials=3,
        learning_rate=0.001,
        batch_size=128,
        optimizer_epsilon=1e-7,
        optimization_epochs=3,
        discount_factor=0.9,
        beta_entropy=0.02,
        overrides={"stop.until": "never"},
    ).config
    assert (made.track, made.instance, made.workers) == ("Oval_track", "gpu", 2)
    assert (made.stop.minutes, made.stop.until, made.evaluation.trials) == (1.5, "never", 3)
    ppo = made.ppo
    assert (ppo.learning_rate, ppo.batch_size, ppo.optimizer_epsilon) == (0.001, 128, 1e-7)
    assert (ppo.optimization_epochs, ppo.discount_factor, ppo.beta_entropy) == (3, 0.9, 0.02)


@pytest.mark.parametrize(
    ("instance_type", "device"),
    [
        ("ml.c4.2xlarge", "cpu"),
        ("ml.m5.large", "cpu"),
        ("ml.p2.xlarge", "gpu"),
        ("ml.g4dn.xlarge", "gpu"),
    ],
)
def test_the_instance_type_picks_the_device(
    tmp_path: Path, instance_type: str, device: str
) -> None:
    assert engine(tmp_path, instance_type=instance_type).config.instance == device


def test_a_profile_replaces_the_originals_hyperparameters(tmp_path: Path) -> None:
    assert engine(tmp_path, profile="fast").config.ppo.optimization_epochs == 2
    assert engine(tmp_path, profile="fast", batch_size=32).config.ppo.batch_size == 32


def test_a_custom_action_space_is_made_of_its_bounds(tmp_path: Path) -> None:
    space = engine(tmp_path, custom_action_space=True, **BOUNDS)._actions
    assert isinstance(space, ActionSpace) and len(space) == 10
    fine = engine(
        tmp_path,
        custom_action_space=True,
        speed_interval=0.5,
        steering_angle_interval=10,
        **BOUNDS,
    )._actions
    assert isinstance(fine, ActionSpace) and len(fine) == 9


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"job_name": None}, "job_name is required"),
        ({"job_name": "a/b"}, "job_name must be a name of letters"),
        ({"trak_name": "x"}, "Unknown parameter 'trak_name'. Did you mean 'track_name'?"),
        ({"track_name": "reinvent_bas"}, "Did you mean 'reinvent_base'?"),
        ({"instance_type": "big"}, "instance_type must be a name such as ml.c4.2xlarge"),
        ({"instance_pool_count": 0}, "instance_pool_count must be an integer from 1"),
        ({"job_duration": 0}, "job_duration must be a number of seconds > 0, got 0."),
        ({"job_duration": "1h"}, "job_duration must be a number of seconds > 0, got '1h'."),
        ({"evaluation_trials": 0}, "evaluation_trials must be an integer from 1"),
        ({"batch_size": 0}, "batch_size must be an integer from 1 to 65536, got 0."),
        ({"learning_rate": "x"}, "learning_rate must be a number from 1e-08 to 1, got 'x'."),
        ({"batch_size": 70_000}, "batch_size must be an integer from 1 to 65536"),
        ({"custom_action_space": 1}, "custom_action_space must be True or False, got 1."),
        ({"custom_action_space": True}, "missing: min_speed, max_speed, min_steering_angle, max"),
        (
            {"custom_action_space": True, **BOUNDS, "min_speed": 9},
            "min_speed must be a number from 0.1 to 4, got 9.",
        ),
        (BOUNDS, "min_speed needs custom_action_space to be True, got False."),
        ({"reward_policy": 3}, "reward_policy must be a path, got 3."),
        ({"overrides": {"ppo.clipp": 1}}, "Unknown key 'ppo.clipp'. Did you mean 'ppo.clip'?"),
        ({"overrides": 3}, "overrides must be a dict of config keys, got 3."),
        ({"profile": "slow"}, "profile must be one of fast, cloud, got 'slow'."),
    ],
)
def test_what_is_not_allowed_is_one_line_at_construction(
    tmp_path: Path, params: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        engine(tmp_path, **params)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["reward_policy", "meta_file", "presets", "racetrack_env"])
def test_a_missing_file_is_told_at_construction(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound, match=r"none\.file"):
        engine(tmp_path, **{name: "none.file"})


def test_what_needs_a_run_says_so(tmp_path: Path) -> None:
    made = engine(tmp_path)
    calls = (
        made.plot_training_output,
        made.start_evaluation_process,
        made.plot_evaluation_output,
        made.start_model_evaluation,
    )
    for call in calls:
        with pytest.raises(ConfigError, match="call start_training_testing_process first"):
            call()
    assert not made.check_if_simulation_active()
    # Cleaning up where nothing was started does nothing.
    made.stop_training()
    made.clean_up_simualtion_environmnet()
    made.delete_all_simulations()
    made.delete_s3_simulation_resources()


def test_the_list_of_parameters_is_the_originals() -> None:
    original = {
        "job_name",
        "track_name",
        "instance_type",
        "instance_pool_count",
        "job_duration",
        "racetrack_env",
        "reward_policy",
        "meta_file",
        "presets",
        "evaluation_trials",
        "custom_action_space",
        *BOUNDS,
        "speed_interval",
        "steering_angle_interval",
        "learning_rate",
        "batch_size",
        "optimizer_epsilon",
        "optimization_epochs",
        "discount_factor",
        "beta_entropy",
    }
    assert original <= set(PARAMETERS)
    assert set(PARAMETERS) - original == {"profile", "runs_dir", "overrides"}


@pytest.mark.slow
def test_train_evaluate_plot_and_clean_up(tmp_path: Path) -> None:
    made = engine(
        tmp_path,
        profile="fast",
        evaluation_trials=2,
        overrides={"stop.episodes": 4, "ppo.episodes_between_training": 4, "ppo.batch_size": 16},
    )
    run = made.start_training_testing_process()
    assert run.name.startswith("my-job-sagemaker-")
    assert made.check_if_simulation_active()
    with pytest.raises(ConfigError, match="is running"):
        made.start_training_testing_process()
    made.plot_training_output()
    assert not made.check_if_simulation_active()
    table = made.start_model_evaluation()
    assert list(table.columns) == ["trial", "completion_percentage", "elapsed_time"]
    assert table["trial"].tolist() == [1, 2]
    assert (run.plots_dir / "evaluation.png").stat().st_size > 0
    made.delete_s3_simulation_resources()
    assert not run.path.exists()


@pytest.mark.slow
def test_a_failed_training_says_why(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    # Fine where it is checked, wrong after some steps of a real episode.
    reward.write_text(
        "calls = 0\ndef reward_function(params):\n"
        "    global calls; calls += 1\n    return 1.0 if calls < 30 else None\n",
        encoding="utf-8",
    )
    made = engine(tmp_path, profile="fast", reward_policy=str(reward))
    made.start_training_testing_process()
    with pytest.raises(RunFailed, match="returned None"):
        made.wait_for_training()
