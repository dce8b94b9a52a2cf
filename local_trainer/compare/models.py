"""The runs that a comparison is asked for, and which of their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_trainer.checkpoints import choose_checkpoint, split_model
from local_trainer.errors import ConfigError, NotFound
from local_trainer.runs import DEFAULT_RUNS_DIR, Run, find_run


@dataclass(frozen=True)
class Model:
    """A run named on the command line, with the checkpoints that were named."""

    name: str
    run: Run
    checkpoints: tuple[str, ...]
    """``best``, ``last`` or numbers; empty: the best, and others that drove robust laps."""


def find_models(names: Sequence[str], runs_dir: Path = DEFAULT_RUNS_DIR) -> list[Model]:
    """Return the runs that ``RUN`` or ``RUN@checkpoint`` name, each once, in order.

    Raises:
        ConfigError: If fewer than two runs or checkpoints are named.
        NotFound: If there is no such run or checkpoint.
    """
    found: dict[Path, Model] = {}
    for text in names:
        name, checkpoint = split_model(text)
        run = find_run(name, runs_dir)
        if checkpoint:
            choose_checkpoint(run.model_dir, checkpoint)
        key = run.path.resolve()
        before = found.get(key, Model(name, run, ()))
        more = (checkpoint,) if checkpoint else ()
        found[key] = Model(before.name, run, tuple(dict.fromkeys(before.checkpoints + more)))
    num_models = sum(max(1, len(model.checkpoints)) for model in found.values())
    if num_models < 2:
        raise ConfigError(f"compare takes two runs or more, got {num_models}.")
    return list(found.values())


def checkpoints_to_drive(model: Model) -> list[str]:
    """Return the names of the checkpoints that ``--evaluate`` drives; empty if there is none."""
    try:
        chosen = [
            choose_checkpoint(model.run.model_dir, which)
            for which in model.checkpoints or ("best", "last")
        ]
    except NotFound:
        return []
    return [checkpoint.name for checkpoint in dict.fromkeys(chosen)]


def arguments_of(models: Sequence[Model]) -> list[str]:
    """Return what names the same runs and checkpoints on the command line."""
    return [
        text
        for model in models
        for text in ([f"{model.name}@{c}" for c in model.checkpoints] or [model.name])
    ]
