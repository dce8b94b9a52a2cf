"""The comparison: drives the same robust laps with checkpoints of one of the runs compared.

``python -m local_trainer.workers.comparison --run PATH --like PATH --trials N
--checkpoint NAME [--checkpoint NAME]``; started for one run after another. See
`local_trainer.compare.laps` for what "the same" means.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial

from local_trainer.checkpoints import Checkpoint, choose_checkpoint
from local_trainer.compare.laps import common_config, conditions_of, has_driven, keep
from local_trainer.errors import ConfigError
from local_trainer.evaluation import ROBUST_NOISE, EvaluationReport, report_of
from local_trainer.players import LocalPlayers, Players
from local_trainer.rollout import Exploration, Rollout, robust_starts
from local_trainer.workers.setup import (
    RunParts,
    load_run_parts,
    open_reward,
    open_simulator,
    run_of,
    run_worker,
)
from sim.track_files import load_route

_MOST_CARS = 32


def drive_laps(parts: RunParts, names: list[str], trials: int) -> None:
    """Drive robust laps with checkpoints and keep the reports in the run.

    A checkpoint that drove them already would drive the same again, and is left out.

    Raises:
        ConfigError: If a checkpoint's graph does not fit the run's action space.
        NotFound: If there is no such checkpoint.
    """
    run = parts.run
    conditions = conditions_of(run, parts.config, trials, ROBUST_NOISE)
    chosen = {choose_checkpoint(run.model_dir, name) for name in names}
    missing = [one for one in sorted(chosen) if not has_driven(run, one.name, conditions)]
    if not missing:
        return
    with open_reward(parts) as reward:
        simulator = open_simulator(parts, min(trials, _MOST_CARS))
        players = LocalPlayers([Rollout(simulator, parts.actions, reward, parts.config.seed)])
        for checkpoint in missing:
            keep(run, _drive(parts, players, checkpoint, trials), conditions)
        players.close()


def _drive(
    parts: RunParts, players: Players, checkpoint: Checkpoint, trials: int
) -> EvaluationReport:
    from coach_presets.acting import ActingCheckpoint

    policy = ActingCheckpoint(checkpoint.frozen_graph(parts.run.model_dir), parts.threads)
    try:
        if policy.num_actions != len(parts.actions):
            raise ConfigError(
                f"checkpoint {checkpoint.name} chooses among {policy.num_actions} actions, "
                f"model_metadata.json has {len(parts.actions)}."
            )
        episodes = players.play(
            policy,
            robust_starts(parts.config, trials),
            "evaluation",
            checkpoint.number,
            Exploration(action_noise=ROBUST_NOISE),
        )
        in_order = sorted(episodes, key=lambda episode: episode.index)
    finally:
        policy.close()
    return report_of(parts.run.name, checkpoint.name, in_order, True, ROBUST_NOISE)


def compare_run(arguments: argparse.Namespace) -> None:
    """Drive as the command line says."""
    own = load_run_parts(run_of(arguments.run))
    config = common_config(own.config, run_of(arguments.like))
    track = load_route(own.run.route_file, own.track.name, config.surface or "asphalt")
    parts = replace(own, config=config, track=track, tracks=())
    drive_laps(parts, arguments.checkpoint, arguments.trials)


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.comparison")
    parser.add_argument("--run", required=True, help="the run's folder")
    parser.add_argument("--like", required=True, help="folder of the run whose rules hold for all")
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--checkpoint", action="append", required=True, help="name or number")
    parsed = parser.parse_args(arguments)
    return run_worker(run_of(parsed.run), partial(compare_run, parsed))


if __name__ == "__main__":
    sys.exit(main())
