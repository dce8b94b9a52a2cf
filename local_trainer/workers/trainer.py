"""The trainer: plays episodes, improves the policy, evaluates it, keeps checkpoints.

``python -m local_trainer.workers.trainer --run PATH [--remote]``. A run that has checkpoints is
gone on with. SIGINT and SIGTERM stop it cleanly.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from local_trainer.checkpoints import (
    BestAndLast,
    Checkpoint,
    TrainerState,
    choose_checkpoint,
    first_weights,
    list_states,
    remove_old,
    remove_unfinished,
    write_pointers,
)
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError, LocalTrainerError
from local_trainer.hyperparameters import hyperparameters
from local_trainer.manifest import write_manifest
from local_trainer.metrics import TrainingMetrics, best_model_value
from local_trainer.players import LocalPlayers, Players, RemotePlayers
from local_trainer.progress import (
    EndEvent,
    EpisodeEvent,
    EvaluationEvent,
    PhaseEvent,
    ProgressLog,
    TrackResult,
    UpdateEvent,
)
from local_trainer.recorded_pictures import write_pictures
from local_trainer.reward import RewardFunction
from local_trainer.rollout import (
    Interrupted,
    Rollout,
    evaluation_starts,
    training_exploration,
    training_starts,
)
from local_trainer.runs import Run
from local_trainer.simtrace import (
    RunLog,
    action_space_line,
    best_model_lines,
    episode_lines,
    hyperparameters_text,
    is_better,
    policy_line,
    restoring_line,
    saving_line,
    sensor_line,
    world_line,
    write_training_trace,
)
from local_trainer.step_files import write_steps
from local_trainer.stop_flag import StopFlag
from local_trainer.transport import RedisTransport
from local_trainer.workers.setup import (
    RunParts,
    load_run_parts,
    open_reward,
    open_simulator,
    open_transport,
    opened_run,
    run_worker,
    wants_bf16,
    wants_gpu,
)

if TYPE_CHECKING:
    from coach_presets.agent import LocalPPOAgent

logger = logging.getLogger(__name__)

_NEW = TrainerState(0, 0, 0, 0, 0.0, 0)


class Trainer:
    """One start of a run's training, from its newest checkpoint to its end."""

    def __init__(
        self,
        parts: RunParts,
        started: float,
        asked_to_stop: StopFlag,
        transport: RedisTransport | None = None,
    ) -> None:
        """Build simulator, reward process and agent.

        Args:
            parts: The run.
            started: `time.monotonic` when this start began; training time counts from here.
            asked_to_stop: Set once the training is to stop as soon as it can.
            transport: Where rollout workers play the episodes; None plays them here.
        """
        self._parts = parts
        self._config = parts.config
        self._run = parts.run
        self._started = started
        self._asked_to_stop = asked_to_stop
        self._last_metric = -1.0  # what the service writes before the first evaluation
        self._progress = ProgressLog(self._run.progress_file)
        self._log = RunLog(self._run)
        self._progress.write(PhaseEvent("setup", 0))
        self._rewards: list[RewardFunction] = []
        self._players, self._last_players = self._open_players(transport)
        self._agent = self._build_agent()
        self._saves = ThreadPoolExecutor(1, "save")
        self._saving: Future[None] | None = None
        self._state = self._restore()
        self._seconds_before = self._state.seconds
        self._metrics = TrainingMetrics(self._run, self._config.evaluation.best_metric)
        self._metrics.truncate(self._state.episodes, self._state.evaluation_episodes)

    @property
    def iteration(self) -> int:
        """Return how many iterations are finished."""
        return self._state.number

    def train(self) -> EndEvent:
        """Train until a limit, a steady policy or a request; return how it ended."""
        self._log_header()
        try:
            if self._state.number == 0:
                self._save(self._state)
            while (end := self._reason_to_end()) is None:
                self._iterate()
        except Interrupted:
            end = self._reason_to_end() or EndEvent("stopped", "stopped by the user")
        self._finish_saving()
        return end

    def close(self, end: EndEvent) -> None:
        """Write down how it ended and release everything."""
        self._write_status(end.status, end.reason)
        self._progress.write(end)
        self._progress.close()
        self._log.close()
        for reward in self._rewards:
            reward.close()
        self._players.close()
        self._saves.shutdown()

    def show_results(self, end: EndEvent) -> None:
        """Drive the final laps with the best checkpoint, and write video, plots and page."""
        from local_trainer.workers.evaluation import evaluate_checkpoint, show_run

        self._write_status(end.status, end.reason)  # before the page, which shows it
        if self._state.number == 0:
            return
        self._phase("report")
        checkpoint = choose_checkpoint(self._run.model_dir)
        evaluate_checkpoint(
            self._parts, self._last_players, checkpoint, self._config.evaluation.trials
        )
        show_run(self._run)

    # Set-up.

    def _open_players(self, transport: RedisTransport | None) -> tuple[Players, Players]:
        """Return who plays the training and who drives the final laps.

        Here, they share the cars, and each judges its own episodes; one drives the final laps.
        """
        if transport is not None:
            remote = RemotePlayers(transport, self._say_waiting)
            return remote, remote
        config, tracks = self._config, self._parts.all_tracks
        num_workers = min(config.workers, config.ppo.episodes_between_training // len(tracks))
        # Who plays an episode follows from its number, and so does its track.
        tracks_of = tracks * num_workers
        cars = math.ceil(config.simulator.num_cars / len(tracks_of))
        self._rewards = [
            open_reward(self._parts, worker, track) for worker, track in enumerate(tracks_of)
        ]
        rollouts = [
            Rollout(
                open_simulator(self._parts, cars, track=track),
                self._parts.actions,
                reward,
                config.seed,
            )
            for track, reward in zip(tracks_of, self._rewards, strict=True)
        ]
        return LocalPlayers(rollouts), LocalPlayers(rollouts[: len(tracks)])

    def _build_agent(self) -> LocalPPOAgent:
        from coach_presets.acting import ActingAgent
        from coach_presets.agent import SessionSettings, build_agent
        from coach_presets.checkpoints import CheckpointWriter
        from coach_presets.preset import agent_parameters, load_preset, merge_preset

        if self._run.preset_file.exists():
            parameters = merge_preset(load_preset(self._run.preset_file))
        else:
            parameters = agent_parameters(self._config.ppo)
        session = SessionSettings(
            self._parts.threads, wants_bf16(self._config), wants_gpu(self._config)
        )
        agent = build_agent(
            parameters,
            len(self._parts.actions),
            self._parts.actions.default_action,
            self._config.seed,
            session,
        )
        self._writer = CheckpointWriter(agent, self._run)
        self._acting = ActingAgent(agent)
        return agent

    def _restore(self) -> TrainerState:
        """Return where to go on from: the newest whole checkpoint, else another run's, else 0."""
        from coach_presets.checkpoints import restore_state, restore_weights

        remove_unfinished(self._run)
        states = list_states(self._run)
        for state in reversed(states):
            try:
                restore_state(self._agent, self._run, state)
            except ConfigError as error:
                self._say(f"{error} Falling back to the checkpoint before it.")
                continue
            if state.learning_rate is not None:
                self._agent.learning_rate = state.learning_rate
            self._log.write(restoring_line(state.checkpoint.prefix(self._run.model_dir)))
            return state
        if states:
            raise ConfigError(f"No checkpoint of run {self._run.name!r} can be read.")
        source = self._config.pretrained
        if source.run is not None:
            prefix = first_weights(self._run, source)
            lacking = restore_weights(self._agent, prefix)
            self._log.write(restoring_line(prefix))
            if lacking:
                self._say(f"{prefix.name} of {source.run} lacks {', '.join(lacking)}.")
        return _NEW

    def _log_header(self) -> None:
        space = self._parts.actions
        rows = [{"steering_angle": a.steering_deg, "speed": a.speed_mps} for a in space.actions]
        self._log.write([world_line(track.name) for track in self._parts.all_tracks])
        self._log.write(
            sensor_line(
                list(space.sensors), space.network, space.version, space.algorithm, "discrete"
            )
        )
        self._log.write(action_space_line(rows))
        self._log.write(hyperparameters_text(hyperparameters(self._config.ppo)))

    # One iteration.

    def _iterate(self) -> None:
        number = self._state.number
        self._phase("rollout")
        episodes = self._play_training()
        self._finish_saving()
        self._phase("update")
        update = self._update(episodes)
        self._log_update(update)
        state = replace(
            self._state,
            number=number + 1,
            steps=self._state.steps + sum(len(e.steps) for e in episodes),
            episodes=self._state.episodes + len(episodes),
            learning_rate=self._agent.learning_rate,
        )
        trials: list[Episode] = []
        if state.number % self._config.evaluation.every_iterations == 0:
            self._phase("evaluation")
            with self._agent.averaged():
                trials = self._play_evaluation(state)
            state = self._judge(state, trials)
        state = replace(state, seconds=self._seconds())
        self._write_records(episodes, trials, number)
        self._state = state
        self._save(state)
        self._write_status("running", "")

    def _play_training(self) -> list[Episode]:
        state, ppo = self._state, self._config.ppo
        starts = training_starts(self._config, state.episodes, ppo.episodes_between_training)
        episodes = []
        steps = state.steps
        for episode in self._players.play(
            self._acting,
            starts,
            "training",
            state.number,
            training_exploration(ppo, state.steps),
            keeps_pictures=True,
            should_stop=self._should_stop,
        ):
            steps += len(episode.steps)
            self._report(episode, steps)
            episodes.append(episode)
        return sorted(episodes, key=lambda episode: episode.index)

    def _update(self, episodes: list[Episode]) -> UpdateEvent:
        from coach_presets.agent import UpdateSettings

        ppo = self._config.ppo
        settings = UpdateSettings(
            iteration=self._state.number,
            seed=self._config.seed,
            max_transitions=ppo.max_update_transitions,
            bootstrap_time_up=ppo.bootstrap_time_up,
            max_kl=ppo.max_kl,
            target_kl=ppo.target_kl,
            learning_rate_range=(0.1 * ppo.learning_rate, 2.0 * ppo.learning_rate),
            averaging=_kept_of_average(ppo.averaging, self._state.number),
        )
        return self._agent.train_on_episodes(episodes, settings, self._interrupt_if_asked)

    def _play_evaluation(self, state: TrainerState) -> list[Episode]:
        starts = evaluation_starts(
            self._config, state.evaluation_episodes, self._config.evaluation.trials
        )
        episodes = []
        for episode in self._players.play(
            self._acting,
            starts,
            "evaluation",
            state.number,
            should_stop=self._should_stop,
        ):
            self._report(episode, state.steps)
            episodes.append(episode)
        return sorted(episodes, key=lambda episode: episode.index)

    def _judge(self, state: TrainerState, trials: list[Episode]) -> TrainerState:
        """Compare the new policy with the best so far; among equals the faster lap wins."""
        metric = self._config.evaluation.best_metric
        values = [best_model_value(trial, metric) for trial in trials]
        mean = sum(values) / len(values)
        laps = [trial.duration_s for trial in trials if trial.is_complete]
        progress = sum(trial.progress for trial in trials) / len(trials)
        lap = sum(laps) / len(laps) if laps else None
        best = is_better(metric, mean, state.best_metric)
        if best and mean == state.best_metric and state.best_lap_s is not None:
            best = lap is not None and lap <= state.best_lap_s
        name = state.checkpoint.name
        self._log.write(
            best_model_lines(metric, values, name, state.best_metric, state.best, is_best=best)
        )
        self._progress.write(
            EvaluationEvent(
                iteration=state.number,
                checkpoint=name,
                trials=len(trials),
                completed=len(laps),
                mean_progress_percent=progress,
                best_lap_s=min(laps, default=None),
                mean_lap_s=lap,
                is_best=best,
                tracks=self._by_track(trials),
            )
        )
        self._last_metric = mean
        is_steady = len(laps) == len(trials)
        state = replace(
            state,
            evaluation_episodes=state.evaluation_episodes + len(trials),
            steady_evaluations=state.steady_evaluations + 1 if is_steady else 0,
        )
        if not best:
            return state
        return replace(
            state, best=name, best_metric=mean, best_progress_percent=progress, best_lap_s=lap
        )

    def _by_track(self, trials: list[Episode]) -> dict[str, TrackResult]:
        """Return what the trials reached on each of several tracks; nothing if there is one."""
        if not self._parts.names_tracks:
            return {}
        found: dict[str, TrackResult] = {}
        for track in self._parts.all_tracks:
            driven = [t for t in trials if self._parts.track_of(t.index) is track]
            laps = [trial.duration_s for trial in driven if trial.is_complete]
            found[track.name] = TrackResult(
                trials=len(driven),
                completed=len(laps),
                mean_progress_percent=sum(t.progress for t in driven) / len(driven),
                best_lap_s=min(laps, default=None),
                mean_lap_s=sum(laps) / len(laps) if laps else None,
            )
        return found

    # Records.

    def _report(self, episode: Episode, total_steps: int) -> None:
        self._progress.write(
            EpisodeEvent(
                iteration=episode.iteration,
                episode=episode.index,
                phase=episode.phase,
                status=episode.status.trace_name,
                progress_percent=episode.progress,
                reward=episode.total_reward,
                steps=len(episode.steps),
                duration_s=episode.duration_s,
                total_steps=total_steps,
                track=self._parts.track_name(episode.index),
            )
        )

    def _log_update(self, update: UpdateEvent) -> None:
        self._progress.write(update)
        for epoch, line in enumerate(self._agent.epoch_log):
            self._log.write(
                policy_line(
                    line["Surrogate loss"],
                    line["KL divergence"],
                    line["Entropy"],
                    epoch,
                    line["learning_rate"],
                )
            )
        self._agent.epoch_log.clear()
        if update.is_taken_back:
            self._log.write("The update moved the policy too far and is taken back.")

    def _write_records(
        self, episodes: list[Episode], trials: list[Episode], iteration: int
    ) -> None:
        starts_s = self._metrics.extend(episodes, self._parts.track_name)
        self._metrics.extend(trials, self._parts.track_name)
        self._metrics.write()
        self._write_traces(episodes, starts_s, iteration)
        self._log.write(episode_lines([*episodes, *trials], self._state.steps))
        write_steps(self._run.steps_file("training", iteration), episodes)
        write_pictures(self._run.pictures_file, episodes)
        if trials:
            write_steps(self._run.steps_file("evaluation", iteration), trials)

    def _write_traces(self, episodes: list[Episode], starts_s: list[float], iteration: int) -> None:
        """Write the trace of each track's episodes: a reader takes a file to be of one track."""
        for number, track in enumerate(self._parts.all_tracks):
            driven = [
                (episode, start_s)
                for episode, start_s in zip(episodes, starts_s, strict=True)
                if self._parts.track_of(episode.index) is track
            ]
            lines = write_training_trace(
                self._run,
                iteration,
                [episode for episode, _ in driven],
                [start_s for _, start_s in driven],
                track,
                number if self._parts.names_tracks else None,
            )
            self._log.write(lines)

    def _save(self, state: TrainerState) -> None:
        """Write a checkpoint while the next episodes are played; the weights stand still then."""
        self._log.write(saving_line(state.checkpoint.prefix(self._run.model_dir)))
        self._saving = self._saves.submit(self._write_checkpoint, state)

    def _write_checkpoint(self, state: TrainerState) -> None:
        self._writer.write(state)
        best = Checkpoint.parse(state.best) if state.best else None
        write_pointers(
            self._run.model_dir,
            BestAndLast(
                best or state.checkpoint,
                -1.0 if state.best_metric is None else state.best_metric,
                state.checkpoint,
                self._last_metric,
            ),
        )
        remove_old(self._run, best)

    def _finish_saving(self) -> None:
        if self._saving is not None:
            self._saving.result()
            self._saving = None

    def _write_status(self, status: str, reason: str) -> None:
        state = self._state
        self._run.write_status(
            replace(
                self._run.read_status(),
                status=status,
                reason=reason,
                updated=datetime.now(UTC).isoformat(timespec="seconds"),
                iteration=state.number,
                episodes=state.episodes,
                steps=state.steps,
                minutes=self._seconds() / 60.0,
                best_checkpoint=state.best or "",
                best_progress_percent=state.best_progress_percent,
                best_lap_s=state.best_lap_s,
            )
        )

    # When to end.

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _reason_to_end(self) -> EndEvent | None:
        stop, state = self._config.stop, self._state
        if self._asked_to_stop.is_set():
            return EndEvent("stopped", "stopped by the user")
        if stop.minutes is not None and self._seconds() >= stop.minutes * 60.0:
            plural = "minute is" if stop.minutes == 1 else "minutes are"
            return EndEvent("finished", f"{stop.minutes:g} {plural} over")
        if stop.episodes is not None and state.episodes >= stop.episodes:
            return EndEvent("finished", f"{state.episodes} episodes were played")
        if state.number >= self._config.ppo.term_cond_max_episodes:
            return EndEvent("finished", f"{state.number} updates were made")
        if stop.until == "steady" and state.steady_evaluations >= stop.steady_evaluations:
            return EndEvent(
                "finished",
                f"the model drives steadily: {state.steady_evaluations} evaluations in a row "
                "with every lap complete",
            )
        return None

    def _should_stop(self) -> bool:
        minutes = self._config.stop.minutes
        is_over = minutes is not None and self._seconds() >= minutes * 60.0
        return is_over or self._asked_to_stop.is_set()

    def _interrupt_if_asked(self) -> None:
        if self._should_stop():
            raise Interrupted

    def _phase(self, phase: str) -> None:
        self._progress.write(PhaseEvent(phase, self._state.number))

    def _say_waiting(self, message: str) -> None:
        self._progress.write(PhaseEvent("rollout", self._state.number, message))
        logger.warning("%s", message)

    def _say(self, message: str) -> None:
        self._progress.write(PhaseEvent("setup", 0, message))
        self._log.write(message)
        print(message, file=sys.stderr)


def train_run(run: Run, is_remote: bool = False) -> None:
    """Train a run to its end and make its plots, final evaluation and page.

    Args:
        run: Which.
        is_remote: Whether rollout workers play the episodes, reached through Redis.
    """
    started = time.monotonic()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    asked_to_stop = StopFlag()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    with run.lock():
        parts = load_run_parts(run)
        trainer = _start(run, parts, started, asked_to_stop, is_remote)
        first_iteration = trainer.iteration

        def close(end: EndEvent) -> None:
            trainer.close(end)
            _certify(run, began, first_iteration, is_remote)

        try:
            end = trainer.train()
            trainer.show_results(end)
        except LocalTrainerError as error:
            close(EndEvent("failed", str(error)))
            raise
        except Exception as error:
            close(EndEvent("failed", f"{type(error).__name__}: {error}"))
            raise
        close(end)


_YOUNG = 3


def _kept_of_average(averaging: float, updates: int) -> float:
    """Return how much of the average weights stays, given how many updates came before.

    The first weights know nothing and the next few little, so the average begins short.
    """
    return min(averaging, updates / (updates + _YOUNG))


def _certify(run: Run, began: str, first_iteration: int, is_remote: bool) -> None:
    try:
        write_manifest(run, began, first_iteration, is_remote)
    except (OSError, LocalTrainerError) as error:
        # The training is over, and how it ended is written down; that stands.
        print(f"manifest.json cannot be written: {error}", file=sys.stderr)


def _start(
    run: Run, parts: RunParts, started: float, asked_to_stop: StopFlag, is_remote: bool
) -> Trainer:
    run.write_status(replace(run.read_status(), status="running", reason=""))
    try:
        transport = open_transport(run.name) if is_remote else None
        return Trainer(parts, started, asked_to_stop, transport)
    except LocalTrainerError as error:
        run.write_status(replace(run.read_status(), status="failed", reason=str(error)))
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.trainer")
    parser.add_argument("--run", required=True, help="the run's folder, or s3://bucket/prefix")
    parser.add_argument(
        "--remote",
        action="store_true",
        help="rollout workers play the episodes, met in Redis at REDIS_URL (REDIS_PASSWORD)",
    )
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with opened_run(parsed.run) as run:
            return run_worker(run, partial(train_run, run, parsed.remote))
    except LocalTrainerError as error:  # the place where the run lies, before or after the work
        print(error, file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
