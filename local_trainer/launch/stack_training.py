"""Trains a run in the container stack and leaves it like a training on this machine.

Writes the run's files to MinIO, starts simulators, rollout workers and a trainer for this run,
mirrors what the trainer writes into the run's folder, and ends as the trainer ended. The process
around it is `local_trainer.workers.stack`.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path

from local_trainer.checkpoints import bring_first_weights
from local_trainer.config import load_config
from local_trainer.errors import ConfigError, LocalTrainerError, NotFound, RunFailed
from local_trainer.launch import compose
from local_trainer.launch.containers import BUCKET as BUCKET
from local_trainer.launch.containers import IMAGE as IMAGE
from local_trainer.launch.containers import (
    RunContainers,
    check_stack,
    is_used,
    num_rollouts,
    open_bucket,
)
from local_trainer.launch.notices import OTHERS_FIRST, Notices
from local_trainer.mirror import RunMirror, is_mirrored, is_print, patiently
from local_trainer.runs import Run
from local_trainer.store import ObjectStore, StoreError, plain_files

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_MOST_RESTARTS = 5
"""Of all containers together, between two finished iterations."""

_PULL_LIMIT_S = 60.0
_REFUSED = ConfigError.exit_status
"""A worker that ends with this would do so again: a password or a setting is wrong."""


class StackTraining:
    """One start of a run's training in the stack."""

    def __init__(self, run: Run) -> None:
        """Prepare; nothing is started yet.

        Args:
            run: A run whose configuration asks for the Gazebo simulator.
        """
        self._run = run
        self._num_workers = load_config(run.config_file).workers
        self._containers = RunContainers(run.name, run.path)
        self._notices = Notices(run.notices_file, self._containers.short_name)
        self._num_asked = self._num_stops = 0
        self._num_restarts = 0
        """Since the last iteration that was finished."""
        self._iteration = 0
        self._given_up: set[str] = set()

    def request_stop(self) -> None:
        """Ask the training to stop and save; the second time it is ended at once."""
        self._num_asked += 1

    def train(self) -> int:
        """Train to the end and return the trainer's exit status.

        Raises:
            LocalTrainerError: If the stack cannot be started or the result not be fetched.
        """
        check_stack()
        bring_first_weights(self._run, load_config(self._run.config_file).pretrained)
        self._notices.say("brings the stack up: Redis, MinIO and a simulator for each worker")
        self._containers.remove_left_over()
        try:
            with compose.changing(lambda: self._say(OTHERS_FIRST)):
                compose.ensure(num_rollouts() + self._num_workers, may_renew=not is_used())
                store = open_bucket(self._run.name)
                mirror = RunMirror(store, self._run.path)
                self._send(store, mirror)
                trainer = self._containers.start_trainer()
                self._containers.start_rollouts(self._num_workers)
            status = self._follow(mirror, trainer)
            self._fetch(mirror, trainer, status)
        finally:
            self._containers.keep_logs(self._run.path / "logs")
            self._containers.remove()
            self._keep_prints()
            self._notices.close()
        return status

    def _fetch(self, mirror: RunMirror, trainer: str, status: int) -> None:
        """Write what was trained to the run's folder, from the trainer itself if need be.

        Raises:
            RunFailed: If the trainer failed and could not write down why, or not store its work.
        """
        try:
            patiently(lambda: mirror.pull(lambda key: key != "config.yaml"), _PULL_LIMIT_S)
            if not status or self._run.failure_file.exists():
                return
            problem = self._containers.last_words(trainer)
        except StoreError as error:
            problem = str(error)
        if self._take_from(trainer):
            problem += f" {self._run.path} is whole; the store does not have all of it."
        raise RunFailed(problem or f"The trainer ended with status {status} and said nothing.")

    def _keep_prints(self) -> None:
        """Fetch what the reward function printed until its workers ended."""
        try:
            RunMirror(open_bucket(self._run.name), self._run.path).pull(is_print)
        except NotFound:
            pass  # it printed nothing, or nothing was started
        except StoreError as error:
            logger.warning("what the reward function printed is not fetched: %s", error)

    def _take_from(self, trainer: str) -> bool:
        """Replace the run's files by those in the trainer's container if they are further."""
        here = self._run.read_status()
        with tempfile.TemporaryDirectory(dir=self._run.path, prefix=".trainer-") as folder:
            there = Path(folder)
            if not self._containers.copy(trainer, f"/work/{self._run.name}", there):
                return False
            try:
                status = json.loads((there / "status.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return False
            is_same_run = status.get("created") == here.created
            if not is_same_run or int(status.get("iteration", 0)) < here.iteration:
                return False
            for path, key in list(plain_files(there)):
                if is_mirrored(key) and key != "config.yaml":
                    target = self._run.path / key
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
        return True

    def _send(self, store: ObjectStore, mirror: RunMirror) -> None:
        """Make store and folder the same, from whichever side is further."""
        try:
            there = json.loads(store.get("status.json"))
        except (NotFound, ValueError):
            there = {}
        here = self._run.read_status()
        if there.get("created") == here.created:
            if int(there.get("iteration", 0)) > here.iteration:
                mirror.pull(lambda key: key != "config.yaml")  # whoever watched was killed
        else:
            for item in store.objects():
                store.delete(item.key)  # another run of this name, deleted here
        store.delete("failure.json")
        self._run.failure_file.unlink(missing_ok=True)
        mirror.push()

    def _follow(self, mirror: RunMirror, trainer: str) -> int:
        """Mirror what is shown, pass on requests to stop, restart what was killed."""
        while True:
            time.sleep(_POLL_S)
            try:
                mirror.pull_live()
            except LocalTrainerError as error:
                self._say(f"progress is not seen: {error}")
            self._count_anew()
            self._pass_on_stops(trainer)
            found = self._containers.found()
            if not any(one.name == trainer for one in found):
                self._say("waits for the Docker engine: it does not show the trainer's container")
                continue
            self._notices.follow(one.name for one in found if one.is_running)
            for container in found:
                if container.is_running:
                    continue
                is_trainer = container.name == trainer
                may_restart = self._num_asked == 0 and self._num_restarts < _MOST_RESTARTS
                may_restart &= container.exit_status != _REFUSED
                if may_restart and (container.was_killed or not is_trainer):
                    self._num_restarts += 1
                    self._say(self._containers.ending(container, "is started again"))
                    self._containers.restart(container)
                elif is_trainer:
                    if container.is_out_of_memory:
                        raise RunFailed(
                            "The trainer's container ran out of memory; raise its mem_limit in "
                            "docker-compose.yml or lower ppo.episodes_between_training."
                        )
                    return container.exit_status
                elif not any(one.is_running for one in found if one.name != trainer):
                    words = self._containers.last_words(container.name).removeprefix("error: ")
                    raise RunFailed(
                        f"No rollout worker is left; the last words of {container.name} "
                        f"(status {container.exit_status}): {words or 'none'}"
                    )
                elif self._num_asked == 0 and container.name not in self._given_up:
                    self._given_up.add(container.name)
                    self._say(self._containers.ending(container, "is not started again"))

    def _count_anew(self) -> None:
        """Allow as many restarts as before once an iteration was finished meanwhile."""
        iteration = self._run.read_status().iteration
        if iteration > self._iteration:
            self._iteration = iteration
            self._num_restarts = 0
            self._given_up.clear()

    def _say(self, message: str) -> None:
        self._notices.say(message)
        logger.warning("%s", message)

    def _pass_on_stops(self, trainer: str) -> None:
        if self._num_asked > self._num_stops:
            self._containers.signal(trainer, "INT" if self._num_stops == 0 else "KILL")
            self._num_stops += 1
