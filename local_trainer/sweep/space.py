"""What a sweep varies: for each key either every value of a grid, or values that are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np

from local_trainer.errors import ConfigError

Kind = Literal["grid", "choice", "uniform", "log_uniform", "integer"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LISTS = ("grid", "choice")


@dataclass(frozen=True)
class Dimension:
    """One key and the values it takes."""

    key: str
    """Full key of the configuration, e.g. ``ppo.learning_rate``."""
    kind: Kind
    values: tuple[Any, ...]
    """The values of a grid or choice, else the lowest and the highest."""

    @property
    def is_list(self) -> bool:
        """Return whether there are finitely many values."""
        return self.kind in _LISTS

    def draw(self, random: np.random.Generator) -> Any:
        """Return a value at random."""
        if self.is_list:
            return self.values[random.integers(len(self.values))]
        low, high = self.values
        if self.kind == "integer":
            return int(random.integers(low, high + 1))
        if self.kind == "log_uniform":
            return self.rounded(math.exp(random.uniform(math.log(low), math.log(high))))
        return self.rounded(random.uniform(low, high))

    def rounded(self, value: float) -> float | int:
        """Return a value of a range as it is used: four digits, more only make tables wide."""
        if self.kind == "integer":
            return int(value)
        low, high = self.values
        return float(min(max(float(f"{value:.4g}"), low), high))


def read_space(data: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Return the dimensions of a sweep file's ``space``.

    Raises:
        ConfigError: If one is not of the form that is allowed.
    """
    return tuple(_read_dimension(str(key), value) for key, value in data.items())


def grid(dimensions: tuple[Dimension, ...]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the grids' values; one without any if there is no grid."""
    grids = [dimension for dimension in dimensions if dimension.kind == "grid"]
    for combination in product(*(dimension.values for dimension in grids)):
        yield {d.key: value for d, value in zip(grids, combination, strict=True)}


def drawn(dimensions: tuple[Dimension, ...]) -> list[Dimension]:
    """Return the dimensions whose values are drawn."""
    return [dimension for dimension in dimensions if dimension.kind != "grid"]


def _read_dimension(key: str, value: Any) -> Dimension:
    if isinstance(value, list):
        value = {"grid": value}
    if not isinstance(value, dict) or len(value) != 1:
        raise ConfigError(
            f"space: {key} must be a list, or one of {', '.join(KINDS)} with its values, "
            f"got {value!r:.80}."
        )
    kind, values = next(iter(value.items()))
    if kind not in KINDS:
        raise ConfigError(f"space: {key} must be one of {', '.join(KINDS)}, got {kind!r:.80}.")
    if kind in _LISTS:
        return Dimension(key, kind, _checked_list(key, kind, values))
    return Dimension(key, kind, _checked_range(key, kind, values))


def _checked_list(key: str, kind: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"space: {kind} of {key} must be a list of at least one value, got {values!r:.80}."
        )
    if any(value in values[:index] for index, value in enumerate(values)):
        raise ConfigError(f"space: {kind} of {key} must hold each value once, got {values!r:.80}.")
    return tuple(values)


def _checked_range(key: str, kind: str, values: Any) -> tuple[Any, ...]:
    number = int if kind == "integer" else (int, float)
    is_range = (
        isinstance(values, list)
        and len(values) == 2
        and all(isinstance(v, number) and not isinstance(v, bool) for v in values)
        and values[0] < values[1]
    )
    if not is_range:
        what = "integers" if kind == "integer" else "numbers"
        raise ConfigError(
            f"space: {kind} of {key} must be [lowest, highest], two {what}, got {values!r:.80}."
        )
    if kind == "log_uniform" and values[0] <= 0:
        raise ConfigError(f"space: log_uniform of {key} must begin above 0, got {values[0]!r}.")
    return tuple(values)
