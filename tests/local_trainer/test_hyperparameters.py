"""Hyperparameters: the service's keys and casts, the original's preset files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from local_trainer.config import PpoConfig, resolve_config
from local_trainer.errors import ConfigError, NotFound
from local_trainer.hyperparameters import (
    hyperparameter_overrides,
    hyperparameters_text,
    load_hyperparameters,
    load_preset_hyperparameters,
    preset_json_text,
    preset_python_text,
)

SERVICE = {
    "batch_size": 64,
    "beta_entropy": 0.01,
    "discount_factor": 0.999,
    "e_greedy_value": 0.05,
    "epsilon_steps": 10000,
    "exploration_type": "categorical",
    "loss_type": "mean squared error",
    "lr": 0.0003,
    "num_episodes_between_training": 20,
    "num_epochs": 10,
    "stack_size": 1,
    "term_cond_avg_score": 100000.0,
    "term_cond_max_episodes": 100000,
}
"""What the service writes with its own defaults."""


def test_the_cloud_profile_is_echoed_as_the_service_does() -> None:
    text = hyperparameters_text(resolve_config(profile="cloud").ppo)
    assert text == json.dumps(SERVICE, indent=2, sort_keys=True)


def test_texts_are_cast_as_in_the_cloud(tmp_path: Path) -> None:
    path = tmp_path / "hyperparameters.json"
    values = {key: str(value) for key, value in SERVICE.items()} | {"pretrained": "false"}
    path.write_text(json.dumps(values), encoding="utf-8")
    config = resolve_config(overrides=load_hyperparameters(path))
    assert json.loads(hyperparameters_text(config.ppo)) == SERVICE


def test_the_consoles_spelling_of_the_loss_is_known() -> None:
    overrides = hyperparameter_overrides({"loss_type": "mean_squared_error"})
    assert resolve_config(overrides=overrides).ppo.loss_type == "mean squared error"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lr": "fast"}, "lr must be a number, got 'fast'."),
        ({"lr": None}, "lr must be a number, got None."),
        ({"batch_size": "64.5"}, "batch_size must be an integer, got '64.5'."),
        ({"batch_size": True}, "batch_size must be an integer, got True."),
        ({"num_epochs": "inf"}, "num_epochs must be an integer, got 'inf'."),
        ({"learning_rat": 1, "discount_facto": 1}, "Did you mean 'discount_factor'?"),
    ],
)
def test_bad_values_are_one_line(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    path = tmp_path / "hyperparameters.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_hyperparameters(path)
    assert says in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_malformed_files_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hyperparameters.json"
    path.write_text(text, encoding="utf-8")
    for read in (load_hyperparameters, load_preset_hyperparameters):
        with pytest.raises(ConfigError) as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        with pytest.raises(NotFound):
            read(tmp_path / "none.json")


def test_preset_files_have_the_originals_keys_in_its_order(tmp_path: Path) -> None:
    ppo = PpoConfig(learning_rate=0.0003, batch_size=64, discount_factor=0.999)
    keys = [
        "learning_rate",
        "batch_size",
        "optimizer_epsilon",
        "optimization_epochs",
        "discount",
        "beta_entropy",
    ]
    assert list(json.loads(preset_json_text(ppo))) == keys
    lines = preset_python_text(ppo).splitlines()
    assert [line.partition("=")[0] for line in lines] == keys
    assert lines[:2] == ["learning_rate=0.0003", "batch_size=64"]
    assert lines[4] == "discount=0.999"
    names: dict[str, Any] = {}
    exec(preset_python_text(ppo), names)
    assert names["optimizer_epsilon"] == ppo.optimizer_epsilon == 1e-7

    path = tmp_path / "preset_hyperparameters.json"
    path.write_text(preset_json_text(ppo), encoding="utf-8")
    assert resolve_config(overrides=load_preset_hyperparameters(path)).ppo == ppo


def test_an_unknown_preset_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "preset_hyperparameters.json"
    path.write_text('{"lr": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown key 'lr'. Allowed: learning_rate,"):
        load_preset_hyperparameters(path)
