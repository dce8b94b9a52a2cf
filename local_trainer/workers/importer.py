"""The importer: puts weights made elsewhere into a new run, as checkpoints to go on from.

``python -m local_trainer.workers.importer --run PATH --plan FILE --result FILE``; see
`local_trainer.model_import` for both files.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from local_trainer.checkpoints import BestAndLast, Checkpoint, TrainerState, write_pointers
from local_trainer.errors import ConfigError
from local_trainer.model_import import ImportPlan, ImportResult
from local_trainer.workers.setup import RunParts, load_run_parts, run_of, run_worker

if TYPE_CHECKING:
    from coach_presets.agent import LocalPPOAgent


def import_weights(parts: RunParts, plan: ImportPlan) -> ImportResult:
    """Write the checkpoints of a plan into a run.

    Raises:
        ConfigError: If the weights are damaged or of another network; names each part.
    """
    from coach_presets.agent import SessionSettings, build_agent
    from coach_presets.checkpoints import CheckpointWriter
    from coach_presets.preset import agent_parameters

    config = parts.config
    agent = build_agent(
        agent_parameters(config.ppo),
        len(parts.actions),
        parts.actions.default_action,
        config.seed,
        SessionSettings(parts.threads, use_bf16=False, use_gpu=False),
    )
    writer = CheckpointWriter(agent, parts.run)
    best = Checkpoint(plan.best_number, plan.best_steps)
    last = Checkpoint(plan.last_number, plan.last_steps)
    if plan.best is not None:
        _take(agent, Path(plan.best), is_frozen=False)
        writer.write(_state(parts, best, best, plan))
    lacking = _take(agent, Path(plan.last), plan.is_frozen)
    result = _compare(agent, plan, lacking)
    writer.write(_state(parts, last, best, plan))
    metrics = [-1.0 if m is None else m for m in (plan.best_metric, plan.last_metric)]
    write_pointers(parts.run.model_dir, BestAndLast(best, metrics[0], last, metrics[1]))
    return result


def _take(agent: LocalPPOAgent, path: Path, is_frozen: bool) -> list[str]:
    """Restore one set of weights; returns what is not in it."""
    from coach_presets.weights import (
        checkpoint_weights,
        frozen_weights,
        restore,
        unsupported_parts,
    )

    weights = frozen_weights(path, agent) if is_frozen else checkpoint_weights(path)
    problems = unsupported_parts(agent, weights)
    if problems:
        raise ConfigError(
            f"The weights {path.name} hold parts that cannot be imported: {'; '.join(problems)}."
        )
    return restore(agent, weights)


def _compare(agent: LocalPPOAgent, plan: ImportPlan, lacking: list[str]) -> ImportResult:
    """Compare the policy with the frozen graph that came with it, if there is one."""
    from coach_presets.weights import is_same_policy, policy_difference

    if plan.frozen_graph is None:
        return ImportResult(lacking, None)
    try:
        difference = policy_difference(agent, Path(plan.frozen_graph))
    except ConfigError:
        # The checkpoint is what counts; without one the graph is all there is.
        if plan.is_frozen:
            raise
        return ImportResult(lacking, None)
    is_same = is_same_policy(difference)
    if plan.is_frozen and not is_same:
        raise ConfigError(
            f"{Path(plan.frozen_graph).name} is another network than this project's: with its "
            f"weights, probabilities differ by up to {difference:.2g}."
        )
    return ImportResult(lacking, difference, is_same)


def _state(
    parts: RunParts, checkpoint: Checkpoint, best: Checkpoint, plan: ImportPlan
) -> TrainerState:
    metric = parts.config.evaluation.best_metric
    return TrainerState(
        number=checkpoint.number,
        steps=checkpoint.steps,
        episodes=checkpoint.number * parts.config.ppo.episodes_between_training,
        evaluation_episodes=0,
        seconds=0.0,
        steady_evaluations=0,
        best=best.name,
        best_metric=plan.best_metric,
        best_progress_percent=(plan.best_metric or 0.0) if metric == "progress" else 0.0,
    )


def run_import(arguments: argparse.Namespace) -> None:
    """Import as the command line says."""
    parts = load_run_parts(run_of(arguments.run))
    plan = ImportPlan.from_json(Path(arguments.plan).read_text(encoding="utf-8"))
    result = import_weights(parts, plan)
    Path(arguments.result).write_text(result.to_json(), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.importer")
    parser.add_argument("--run", required=True, help="the new run's folder")
    parser.add_argument("--plan", required=True, help="what to import, JSON")
    parser.add_argument("--result", required=True, help="where to write what came of it")
    parsed = parser.parse_args(arguments)
    return run_worker(run_of(parsed.run), partial(run_import, parsed))


if __name__ == "__main__":
    sys.exit(main())
