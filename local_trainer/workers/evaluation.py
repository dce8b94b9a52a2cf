"""The evaluation: drives greedy laps with a checkpoint's frozen graph and keeps what happened.

``python -m local_trainer.workers.evaluation --run PATH [--checkpoint best] [--trials 5]
[--robust] [--resets N] [--simulator gazebo] [--report FILE]``. SIGTERM ends it in order.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from local_trainer.checkpoints import Checkpoint, choose_checkpoint
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError
from local_trainer.evaluation import ROBUST_NOISE, EvaluationReport, report_of, write_report
from local_trainer.metrics import evaluation_stamp, write_evaluation_metrics
from local_trainer.players import LocalPlayers, Players
from local_trainer.rollout import (
    GREEDY,
    Exploration,
    Rollout,
    evaluation_starts,
    robust_starts,
)
from local_trainer.runs import Run
from local_trainer.simtrace import write_evaluation_trace
from local_trainer.step_files import evaluation_steps_file, write_steps
from local_trainer.workers.setup import (
    RunParts,
    load_run_parts,
    open_reward,
    open_simulator,
    run_of,
    run_worker,
)

_MOST_CARS = 32


def evaluate_checkpoint(
    parts: RunParts, players: Players, checkpoint: Checkpoint, trials: int, is_robust: bool = False
) -> EvaluationReport:
    """Drive laps with a checkpoint; write metrics, trace, steps, report and the best lap's video.

    A robust evaluation leaves the run's own evaluation files as they are: its laps begin
    elsewhere and would not compare.

    Raises:
        ConfigError: If the checkpoint's graph does not fit the run's action space.
    """
    from coach_presets.acting import ActingCheckpoint

    run = parts.run
    policy = ActingCheckpoint(checkpoint.frozen_graph(run.model_dir), parts.threads)
    if policy.num_actions != len(parts.actions):
        raise ConfigError(
            f"checkpoint {checkpoint.name} chooses among {policy.num_actions} actions, "
            f"model_metadata.json has {len(parts.actions)}."
        )
    exploration = Exploration(action_noise=ROBUST_NOISE) if is_robust else GREEDY
    starts = (
        robust_starts(parts.config, trials)
        if is_robust
        else evaluation_starts(parts.config, 0, trials)
    )
    found = players.play(
        policy, starts, "evaluation", checkpoint.number, exploration, keeps_pictures=True
    )
    episodes = sorted(found, key=lambda episode: episode.index)
    policy.close()
    report = report_of(
        run.name,
        checkpoint.name,
        episodes,
        is_robust,
        exploration.action_noise,
        simulator_of(parts),
        parts.track_name,
    )
    _write_records(parts, episodes, report)
    return report


def _write_records(parts: RunParts, episodes: list[Episode], report: EvaluationReport) -> None:
    run, stamp = parts.run, evaluation_stamp()
    write_report(report, run.path / f"evaluation-{stamp}" / "report.json")
    if report.is_robust:
        return
    write_evaluation_metrics(run, episodes, stamp, parts.track_name)
    write_steps(evaluation_steps_file(run, stamp), episodes)
    from local_trainer.report import video_file
    from local_trainer.video import write_video

    for number, track in enumerate(parts.all_tracks):
        driven = [episode for episode in episodes if parts.track_of(episode.index) is track]
        write_evaluation_trace(run, stamp, driven, track, number if parts.names_tracks else None)
        write_video(video_file(run, number), _best_lap(driven), track)


def _best_lap(episodes: list[Episode]) -> Episode:
    """Return the fastest finished lap, or the one that came furthest."""
    finished = [episode for episode in episodes if episode.is_complete]
    if finished:
        return min(finished, key=lambda episode: episode.duration_s)
    return max(episodes, key=lambda episode: episode.progress)


def show_run(run: Run) -> None:
    """Draw the run's plots and write its page."""
    from local_trainer.plots import write_plots
    from local_trainer.report import write_report as write_page

    write_plots(run)
    write_page(run)


def simulator_of(parts: RunParts) -> str:
    """Return what a run's cars drive in: ``embedded``, ``gazebo`` or its own ``environment``."""
    backend = parts.config.simulator.backend
    has_own = backend == "embedded" and parts.run.environment_file.exists()
    return "environment" if has_own else backend


def evaluate_run(arguments: argparse.Namespace) -> None:
    """Evaluate a run as the command line says."""
    run = run_of(arguments.run)
    parts = load_run_parts(run)
    if arguments.resets is not None:
        changed = parts.config.evaluation.model_copy(update={"number_of_resets": arguments.resets})
        config = parts.config.model_copy(update={"evaluation": changed})
        parts = replace(parts, config=config)
    parts = _in_simulator(parts, arguments.simulator, arguments.trials)
    checkpoint = choose_checkpoint(run.model_dir, arguments.checkpoint)
    with _opened_players(parts, arguments.trials) as players:
        report = evaluate_checkpoint(parts, players, checkpoint, arguments.trials, arguments.robust)
    show_run(run)
    if arguments.report:
        write_report(report, Path(arguments.report))


def _in_simulator(parts: RunParts, simulator: str | None, trials: int) -> RunParts:
    """Return a run's parts for laps in another simulator than it trained in."""
    from local_trainer.launch.stack_evaluation import in_gazebo

    simulator = simulator or parts.config.simulator.backend
    if simulator == "gazebo" and parts.names_tracks:
        raise ConfigError(
            f"--simulator must be embedded for a run of several tracks "
            f"({len(parts.all_tracks)}), got gazebo."
        )
    if simulator == "gazebo":
        return replace(parts, config=in_gazebo(parts.config, trials))
    changed = parts.config.simulator.model_copy(update={"backend": simulator})
    return replace(parts, config=parts.config.model_copy(update={"simulator": changed}))


@contextmanager
def _opened_players(parts: RunParts, trials: int) -> Iterator[Players]:
    """Yield who drives the laps: this process, or a rollout worker in the container stack."""
    if simulator_of(parts) == "gazebo" and "GAZEBO_HOST" not in os.environ:
        from local_trainer.launch.stack_evaluation import stack_players

        with stack_players(parts.run, parts.config) as away:
            try:
                yield away
            finally:
                away.close()  # a policy has some 20 MB
        return
    cars = min(trials, _MOST_CARS)
    with ExitStack() as rewards:
        rollouts = []
        for number, track in enumerate(parts.all_tracks):
            reward = rewards.enter_context(open_reward(parts, number, track))
            simulator = open_simulator(parts, cars, track=track)
            rollouts.append(Rollout(simulator, parts.actions, reward, parts.config.seed))
        players = LocalPlayers(rollouts)
        yield players
        players.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.evaluation")
    parser.add_argument("--run", required=True, help="the run's folder")
    parser.add_argument("--checkpoint", default="best", help="best, last, a number or a name")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--robust", action="store_true")
    parser.add_argument("--resets", type=int)
    parser.add_argument("--simulator", choices=["embedded", "gazebo"], help="default: the run's")
    parser.add_argument("--report", help="also write the report to this file")
    parsed = parser.parse_args(arguments)
    # What it started ends with it, containers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return run_worker(run_of(parsed.run), partial(evaluate_run, parsed))


if __name__ == "__main__":
    sys.exit(main())
