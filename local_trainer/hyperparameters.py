"""Hyperparameters in the service's forms: its JSON, and the original's preset files.

The names differ from the config's: the tables below are the only place that knows both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from local_trainer.config import PpoConfig
from local_trainer.errors import ConfigError, NotFound

_CASTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "batch_size": ("batch_size", int),
    "beta_entropy": ("beta_entropy", float),
    "discount_factor": ("discount_factor", float),
    "e_greedy_value": ("e_greedy_value", float),
    "epsilon_steps": ("epsilon_steps", int),
    "exploration_type": ("exploration_type", str),
    "loss_type": ("loss_type", str),
    "lr": ("learning_rate", float),
    "num_episodes_between_training": ("episodes_between_training", int),
    "num_epochs": ("optimization_epochs", int),
    "stack_size": ("stack_size", int),
    "term_cond_avg_score": ("term_cond_avg_score", float),
    "term_cond_max_episodes": ("term_cond_max_episodes", int),
}
"""The service's key -> (key in `PpoConfig`, type it is cast to)."""

_WORDS: dict[Callable[[Any], Any], str] = {int: "an integer", float: "a number", str: "a text"}

_PRESET_KEYS = {
    "learning_rate": "learning_rate",
    "batch_size": "batch_size",
    "optimizer_epsilon": "optimizer_epsilon",
    "optimization_epochs": "optimization_epochs",
    "discount": "discount_factor",
    "beta_entropy": "beta_entropy",
}
"""The original's preset key -> key in `PpoConfig`, in the original's order."""


def hyperparameters(ppo: PpoConfig) -> dict[str, Any]:
    """Return the hyperparameters under the service's keys, sorted."""
    return {key: getattr(ppo, name) for key, (name, _) in sorted(_CASTS.items())}


def hyperparameters_text(ppo: PpoConfig) -> str:
    """Return ``ip/hyperparameters.json`` as the service writes it: cast, sorted, indented by 2."""
    return json.dumps(hyperparameters(ppo), indent=2, sort_keys=True)


def hyperparameter_overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return config overrides (``ppo.learning_rate`` …) for the service's hyperparameters.

    Args:
        values: By the service's keys; texts are cast as the service casts them. Keys it does not
            know are left out, as there; one that looks like a known key is refused.

    Raises:
        ConfigError: If a value cannot be cast or a key is misspelt.
    """
    overrides = {}
    for key, value in values.items():
        if key in _CASTS:
            name, cast = _CASTS[key]
            overrides[f"ppo.{name}"] = _cast(key, value, cast)
            continue
        free = [known for known in _CASTS if known not in values]
        near = get_close_matches(str(key), free, n=1, cutoff=0.8)
        if near:
            raise ConfigError(
                f"Unknown hyperparameter {key!r}. Did you mean {near[0]!r}? "
                f"Allowed: {', '.join(_CASTS)}."
            )
    return overrides


def load_hyperparameters(path: Path) -> dict[str, Any]:
    """Return config overrides for a hyperparameter JSON file of the service or of this project.

    Raises:
        ConfigError: If the file is malformed or a value is not allowed.
        NotFound: If it does not exist.
    """
    values = _read_object(path)
    try:
        return hyperparameter_overrides(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def preset_hyperparameters(ppo: PpoConfig) -> dict[str, Any]:
    """Return the hyperparameters under the original's preset keys, in its order."""
    return {key: getattr(ppo, name) for key, name in _PRESET_KEYS.items()}


def preset_json_text(ppo: PpoConfig) -> str:
    """Return ``preset_hyperparameters.json``."""
    return json.dumps(preset_hyperparameters(ppo), indent=2) + "\n"


def preset_python_text(ppo: PpoConfig) -> str:
    """Return ``preset_hyperparams.py``: a ``key=value`` line a key, for presets to import."""
    return "".join(f"{key}={value!r}\n" for key, value in preset_hyperparameters(ppo).items())


def load_preset_hyperparameters(path: Path) -> dict[str, Any]:
    """Return config overrides for a ``preset_hyperparameters.json``; every key may be left out.

    Raises:
        ConfigError: If the file is malformed or holds an unknown key.
        NotFound: If it does not exist.
    """
    overrides = {}
    for key, value in _read_object(path).items():
        if key not in _PRESET_KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}. Allowed: {', '.join(_PRESET_KEYS)}.")
        overrides[f"ppo.{_PRESET_KEYS[key]}"] = value
    return overrides


def _cast(key: str, value: Any, cast: Callable[[Any], Any]) -> Any:
    is_castable = not isinstance(value, bool) and isinstance(value, str | int | float)
    try:
        if not is_castable or (cast is int and float(value) != int(float(value))):
            raise ValueError
        return int(float(value)) if cast is int else cast(value)
    except (ValueError, OverflowError):
        raise ConfigError(f"{key} must be {_WORDS[cast]}, got {value!r}.") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"No hyperparameter file {path}.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} must be a JSON file, got a folder.") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} must be valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold an object of hyperparameters, got {values!r:.80}.")
    return values
