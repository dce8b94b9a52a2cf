"""The sweep file: what is the same for all trials, what varies, how to search, what a trial takes.

Everything is checked before anything starts; a mistake is a `ConfigError` of one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_trainer.config import RunConfig, resolve_config
from local_trainer.config_keys import (
    NAME_PATTERN,
    assign,
    check_keys,
    first_problem,
    flattened,
    read_yaml_mapping,
)
from local_trainer.errors import ConfigError
from local_trainer.sweep.scores import Metric
from local_trainer.sweep.space import Dimension, drawn, grid, read_space

FILE_KEYS = ("files.reward", "files.model_metadata", "files.preset", "files.environment")
"""Keys whose values are the user's files; a sweep keeps copies of them."""

MOST_TRIALS = 10_000

_OURS = {
    "run": "the sweep names its runs itself",
    "job_name": "the sweep names its runs itself",
    "seed": "seeds are listed under the sweep's own key seeds",
    "files": "its keys are set one by one, e.g. files.reward",
    "threads": "it follows from resources.cpus",
    "simulator.backend": "trials drive the embedded simulator",
}
"""Keys that cannot be varied, with the reason."""


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ResourcesConfig(_Part):
    """What one trial takes of a machine. No more trials run at once than fit."""

    cpus: float = Field(default=1.0, ge=0.1, le=1024)
    """Processor threads; the trainer computes with as many."""

    gpus: float = Field(default=0.0, ge=0.0, le=64)
    """GPUs; a fraction shares one. 0 trains on the processor."""

    memory_gb: float = Field(default=3.0, ge=0.1)
    """Main memory, GB."""


class EarlyStoppingConfig(_Part):
    """ASHA: a trial that does worse than others did at the same share of its limit ends early."""

    grace_percent: float = Field(default=20.0, gt=0.0, le=100.0)
    """Share of its limit (minutes or episodes) that every trial gets, percent."""

    reduction: float = Field(default=2.0, gt=1.0, le=100.0)
    """The best 1 in this many go on at each rung; the next rung is this many times further."""


class SweepConfig(_Part):
    """Everything about a sweep; kept as its ``sweep.yaml``."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=100)]
    """Name of the sweep; its runs are called ``<name>-001`` and so on. Left out: the file's."""

    base: dict[str, Any] = {}
    """Settings of every trial, as in a ``--config`` file."""

    space: dict[str, Any] = {}
    """What varies: full key -> a list (every value is tried), or ``choice``, ``uniform``,
    ``log_uniform``, ``integer`` (values are drawn)."""

    seeds: list[Annotated[int, Field(ge=0, le=2**32 - 1)]] = Field(default=[0], min_length=1)
    """Every combination is trained with each; with ``optuna`` they take turns."""

    samples: int | None = Field(default=None, ge=1, le=MOST_TRIALS)
    """How often values are drawn, for each combination of the lists."""

    search: Literal["random", "optuna"] = "random"
    """How values are drawn: each by itself, or learning from the trials before (Optuna's TPE)."""

    search_seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Fixes what is drawn."""

    metric: Metric = "completion"
    """What early stopping and Optuna compare. ``completion``: completion, then lap time."""

    early_stopping: Literal["asha", "none"] | EarlyStoppingConfig = "asha"
    """``asha`` with the settings below, or ``none``."""

    final_laps: int = Field(default=20, ge=1, le=1000)
    """Robust laps that every trial's best checkpoint drives in the end; the same for all."""

    resources: ResourcesConfig = ResourcesConfig()
    """What one trial takes of a machine."""

    @property
    def asha(self) -> EarlyStoppingConfig | None:
        """Return the settings of early stopping, None without it."""
        if self.early_stopping == "none":
            return None
        if self.early_stopping == "asha":
            return EarlyStoppingConfig()
        assert isinstance(self.early_stopping, EarlyStoppingConfig)
        return self.early_stopping

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Return what varies, besides the seeds."""
        return read_space(self.space)


@dataclass(frozen=True)
class Point:
    """What one trial is to be trained with."""

    values: dict[str, Any]
    """Full key -> value, for every key that varies."""
    seed: int


def load_sweep(file: Path) -> SweepConfig:
    """Return a sweep file's content, everything in it checked.

    Raises:
        ConfigError: If anything is not allowed; one line.
        NotFound: If there is no such file.
    """
    data = {"name": file.stem, **read_yaml_mapping(file)}
    try:
        return check_sweep(data)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def check_sweep(data: Mapping[str, Any]) -> SweepConfig:
    """Return a sweep's settings after checking them, every trial that is known beforehand too.

    Raises:
        ConfigError: If anything is not allowed; one line.
    """
    check_keys(dict(data), SweepConfig)
    _check_asha_keys(data.get("early_stopping"))
    try:
        sweep = SweepConfig.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError(first_problem(error, SweepConfig, {})) from None
    dimensions = sweep.dimensions
    _check_space(sweep, dimensions)
    _check_ends(sweep, dimensions)
    if sweep.search == "random":
        for point in points(sweep):
            trial_config(sweep, point)
    return sweep


def points(sweep: SweepConfig) -> Iterator[Point]:
    """Yield the trials of a grid or random sweep, in order; the same each time."""
    dimensions = sweep.dimensions
    free = drawn(dimensions)
    random = np.random.default_rng(sweep.search_seed)
    for combination in grid(dimensions):
        for _ in range(sweep.samples or 1):
            values = {**combination, **{d.key: d.draw(random) for d in free}}
            ordered = {d.key: values[d.key] for d in dimensions}
            for seed in sweep.seeds:
                yield Point(ordered, seed)


def num_trials(sweep: SweepConfig) -> int:
    """Return how many trials a sweep has in all."""
    if sweep.search == "optuna":
        return sweep.samples or 1
    count = (sweep.samples or 1) * len(sweep.seeds)
    for dimension in sweep.dimensions:
        count *= len(dimension.values) if dimension.kind == "grid" else 1
    return count


def trial_config(sweep: SweepConfig, point: Point) -> RunConfig:
    """Return a trial's configuration.

    Raises:
        ConfigError: If a value is not allowed, or the values do not go together.
    """
    data: dict[str, Any] = {}
    for key, value in sweep.base.items():
        if "." in key:
            assign(data, key, value, RunConfig)
        else:
            check_keys({key: value}, RunConfig)
            data[key] = value
    flat = flattened(data)
    profile = point.values.get("profile", data.get("profile"))
    given = {key: value for key, value in {**flat, **point.values}.items() if key != "profile"}
    nothing = [f"{key}=null" for key, value in given.items() if value is None]
    config = resolve_config(None, nothing, {**given, "seed": point.seed}, profile)
    if config.cluster.ray is not None:
        raise ConfigError(
            "cluster.ray cannot be set in a sweep: each trial plays its own episodes, and sweep "
            f"--ray names the cluster that trains them, got {config.cluster.ray}."
        )
    if config.simulator.backend != "embedded":
        raise ConfigError(
            f"base: simulator.backend must be embedded in a sweep, got {config.simulator.backend}."
        )
    return config


def _check_asha_keys(data: Any) -> None:
    if isinstance(data, dict):
        check_keys(data, EarlyStoppingConfig)
        try:
            EarlyStoppingConfig.model_validate(data)
        except ValidationError as error:
            problem = first_problem(error, EarlyStoppingConfig, {})
            raise ConfigError(f"early_stopping.{problem}") from None


def _check_space(sweep: SweepConfig, dimensions: tuple[Dimension, ...]) -> None:
    if not dimensions and len(sweep.seeds) < 2:
        raise ConfigError(
            "The space is empty: space must name at least one key with its values, or seeds at "
            f"least two, got space {sweep.space} and seeds {sweep.seeds}."
        )
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise ConfigError(f"seeds must hold each seed once, got {sweep.seeds}.")
    for key in [*sweep.base, *(dimension.key for dimension in dimensions)]:
        if key in _OURS and not (key == "files" and key in sweep.base):
            raise ConfigError(f"{key} cannot be set in a sweep: {_OURS[key]}.")
    free = drawn(dimensions)
    if free and sweep.samples is None:
        raise ConfigError(
            f"samples must say how often values are drawn for {free[0].key}, got nothing."
        )
    if not free and sweep.samples is not None:
        raise ConfigError(
            f"samples goes with values that are drawn (choice, uniform, log_uniform, integer); "
            f"space has lists only, got {sweep.samples}."
        )
    if sweep.search == "optuna" and len(free) < len(dimensions):
        listed = next(d.key for d in dimensions if d.kind == "grid")
        raise ConfigError(f"search optuna takes choice in place of a list, got {listed} as a list.")
    if sweep.search == "optuna" and not free:
        raise ConfigError("search optuna needs a space, got seeds alone.")
    if num_trials(sweep) > MOST_TRIALS:
        raise ConfigError(
            f"A sweep may have at most {MOST_TRIALS} trials, got {num_trials(sweep)}."
        )


def _check_ends(sweep: SweepConfig, dimensions: tuple[Dimension, ...]) -> None:
    """Check every listed value and both ends of every range, each by itself."""
    lowest = {d.key: d.values[0] for d in dimensions}
    for dimension in dimensions:
        for value in dimension.values:
            config = trial_config(sweep, Point({**lowest, dimension.key: value}, sweep.seeds[0]))
    if not dimensions:
        config = trial_config(sweep, Point({}, sweep.seeds[0]))
    if sweep.asha is not None and config.stop.minutes is None and config.stop.episodes is None:
        raise ConfigError(
            "early_stopping asha needs a limit to take its share of: set stop.minutes or "
            "stop.episodes in base, got neither."
        )
    if config.instance == "gpu" and sweep.resources.gpus == 0.0:
        raise ConfigError("resources.gpus must be > 0 with instance gpu, got 0.")
