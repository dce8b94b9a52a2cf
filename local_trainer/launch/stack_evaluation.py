"""Plays the laps of an evaluation in the container stack, whatever simulator the run trained with.

The evaluation stays in its own process; a rollout worker in a container plays what it orders, in a
Gazebo simulator that nobody else drives meanwhile. What was started for it ends with it.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from local_trainer.config import RunConfig, config_text
from local_trainer.episodes import Episode
from local_trainer.errors import LocalTrainerError, RunFailed
from local_trainer.launch import compose
from local_trainer.launch.containers import (
    RunContainers,
    check_stack,
    is_used,
    num_rollouts,
    open_bucket,
)
from local_trainer.launch.notices import OTHERS_FIRST, Notices
from local_trainer.mirror import is_mirrored, is_print, is_setup
from local_trainer.players import Acting, RemotePlayers
from local_trainer.rollout import GREEDY, Exploration
from local_trainer.runs import Run
from local_trainer.store import ObjectStore, check_key, plain_files
from local_trainer.transport import RedisTransport
from sim.randomization import RandomizationConfig
from sim.simulator import EpisodeStart

logger = logging.getLogger(__name__)

_REDIS_LIMIT_S = 60.0
_LOOK_S = 2.0
_MOST_RESTARTS = 3
_MARK = "-evaluation-"
_IDLE_LIMIT_S = 600.0
"""A worker without orders for this long was left alone: the evaluation was killed."""


def in_gazebo(config: RunConfig, trials: int) -> RunConfig:
    """Return a run's settings for laps in Gazebo, which cannot vary the picture."""
    simulator = config.simulator
    varied = RandomizationConfig(
        friction_scale=simulator.randomization.friction_scale,
        latency_steps=simulator.randomization.latency_steps,
    )
    updates = {"backend": "gazebo", "randomization": varied}
    return config.model_copy(
        update={
            "simulator": simulator.model_copy(update=updates),
            "evaluation": config.evaluation.model_copy(update={"trials": trials}),
            "workers": 1,
        }
    )


@contextmanager
def stack_players(run: Run, config: RunConfig) -> Iterator[StackPlayers]:
    """Bring the stack up and yield who plays there; afterwards end what was started.

    A stack that was up stays up, and so does what other runs use by then.

    Args:
        run: Whose reward function, action space and track.
        config: Its settings; see `in_gazebo`.

    Raises:
        ConfigError: If this machine cannot run the stack.
        RunFailed: If the stack or the rollout worker cannot be started.
    """
    check_stack()
    # A name of its own: the run itself may train in the stack at the same time.
    name = f"{run.name}{_MARK}{secrets.token_hex(4)}"
    containers = RunContainers(name, run.path)
    with closing(Notices(run.evaluation_notices_file, containers.short_name)) as notices:
        notices.say("brings the stack up: Redis, MinIO and a simulator")
        stood = compose.running()
        store: ObjectStore | None = None
        try:
            with compose.changing(lambda: notices.say(OTHERS_FIRST)):
                compose.ensure(num_rollouts() + config.workers, may_renew=not is_used())
                _remove_left_over(run)
                store = open_bucket(name)
                _send(run, config, store)
                containers.start_rollouts(config.workers, _IDLE_LIMIT_S)
            settings = compose.settings()
            url = f"redis://127.0.0.1:{settings.get('REDIS_PORT', '6379')}/0"
            transport = RedisTransport(url, name, settings["REDIS_PASSWORD"])
            transport.wait_until_up(_REDIS_LIMIT_S)
            players = StackPlayers(transport, containers, notices)
            yield players
        finally:
            _end(run, containers, store, stood, notices)


class StackPlayers:
    """A rollout worker in a container, looked after. Implements `local_trainer.players.Players`."""

    def __init__(
        self, transport: RedisTransport, containers: RunContainers, notices: Notices
    ) -> None:
        """Take the streams, the containers that play, and whom to tell what is waited for."""
        self._remote = RemotePlayers(transport, notices.say)
        self._containers = containers
        self._notices = notices
        self._looked = time.monotonic()
        self._num_restarts = 0

    def play(
        self,
        policy: Acting,
        starts: list[EpisodeStart],
        phase: str,
        iteration: int,
        exploration: Exploration = GREEDY,
        keeps_pictures: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Episode]:
        """Have episodes played; see `local_trainer.players.Players.play`.

        Raises:
            RunFailed: If the worker ends again and again.
        """

        def looks_and_asks() -> bool:
            self._look()
            return should_stop()

        settings = (phase, iteration, exploration, keeps_pictures, looks_and_asks)
        return self._remote.play(policy, starts, *settings)

    def close(self) -> None:
        """Remove what is left on the server."""
        self._remote.close()

    def _look(self) -> None:
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        found = self._containers.found()
        self._notices.follow(container.name for container in found if container.is_running)
        for container in found:
            if container.is_running:
                continue
            if self._num_restarts == _MOST_RESTARTS:
                raise RunFailed(
                    f"The rollout worker ended with status {container.exit_status}, "
                    f"{_MOST_RESTARTS + 1} times; what it said is in "
                    "logs/evaluation-rollout-0.log."
                )
            self._num_restarts += 1
            self._notices.say(self._containers.ending(container, "is started again"))
            self._containers.restart(container)


def _send(run: Run, config: RunConfig, store: ObjectStore) -> None:
    """Write what a rollout worker needs to the bucket; it drives no environment of the user's."""
    own = run.environment_file.relative_to(run.path).as_posix()
    for file, key in plain_files(run.path):
        if is_mirrored(key) and is_setup(key) and key not in (run.config_file.name, own):
            store.upload(file, key)
    store.put(run.config_file.name, config_text(config).encode())


def _remove_left_over(run: Run) -> None:
    """Remove what killed evaluations of a run have left in the bucket, and their containers.

    One that goes on has its container: it starts it before anybody else may get here.
    """
    bucket = open_bucket()
    found: dict[str, list[str]] = {}
    for item in bucket.objects(run.name + _MARK):
        found.setdefault(item.key.partition("/")[0], []).append(item.key)
    for name, keys in found.items():
        containers = RunContainers(name, run.path)
        is_evaluation = re.fullmatch(re.escape(run.name + _MARK) + "[0-9a-f]{8}", name)
        if is_evaluation and containers.are_left_alone():
            containers.remove()
            for key in keys:
                bucket.delete(key)


def _end(
    run: Run,
    containers: RunContainers,
    store: ObjectStore | None,
    stood: frozenset[str],
    notices: Notices,
) -> None:
    containers.keep_logs(run.path / "logs", "evaluation-")
    with compose.changing(lambda: notices.say(OTHERS_FIRST)):
        containers.remove()
        try:
            if store is not None:
                _keep_prints(run, store)
                for item in store.objects():
                    store.delete(item.key)
        except LocalTrainerError as error:
            logger.warning("the bucket is not cleaned up: %s", error)
        finally:
            if not is_used():
                compose.remove_all_but(stood)


def _keep_prints(run: Run, store: ObjectStore) -> None:
    """Append what the reward function printed to where it prints here."""
    for item in store.objects("logs/"):
        if is_print(item.key):
            with (run.path / check_key(item.key)).open("ab") as file:
                file.write(store.get(item.key))
