"""How trials run on Ray: Tune places them, a desk on this machine gets their files and answers.

A trial's Tune actor never computes: it starts the trainer as a process, follows what that writes,
and reports every evaluation. Nothing is stopped by killing: who has to end is told so through the
desk, saves what it has and ends by itself.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from local_trainer.errors import ConfigError, RunFailed, one_line
from local_trainer.launch.ray_cluster import connect, what_it_says
from local_trainer.launch.ray_desk import ANSWER_S, NAMESPACE, Desk
from local_trainer.launch.ray_tune import Book, Feed, GentleAsha, new_tuner
from local_trainer.launch.trials import (
    ENDED,
    STOPPED,
    EarlyStopping,
    FinalLaps,
    Resources,
    TrialSource,
    TrialState,
)
from local_trainer.runs import Run
from local_trainer.sweep.scores import Metric

_ray: Any = ray
"""Ray with its calls as they are: what `ray.remote` makes of a class has no types."""


class Trials:
    """Trials under way. Ends everything that is left when its ``with`` block is left."""

    def __init__(
        self,
        source: TrialSource,
        resources: Resources,
        address: str | None,
        *,
        metric: Metric,
        early_stopping: EarlyStopping | None,
        final_laps: FinalLaps | None,
        most_at_once: int | None,
        done_before: list[Run],
    ) -> None:
        """Connect to Ray and begin; see `local_trainer.launch.trials.start_trials`."""
        for name in ("ray", "ray.tune", "ray.air"):
            # What fails is told in a line of ours.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._stack = ExitStack()
        self._cluster = self._stack.enter_context(connect(address))
        try:
            self._cluster.check_room(resources)
            if address is not None:
                _check_machines()
            self._open(
                source, resources, metric, early_stopping, final_laps, most_at_once, done_before
            )
        except BaseException:
            self._stack.close()
            raise

    def _open(
        self,
        source: TrialSource,
        resources: Resources,
        metric: Metric,
        early_stopping: EarlyStopping | None,
        final_laps: FinalLaps | None,
        most_at_once: int | None,
        done_before: list[Run],
    ) -> None:
        home = ray.get_runtime_context().get_node_id()
        self._desk_name = f"desk-{uuid.uuid4().hex}"
        self._desk = (
            _ray.remote(Desk)
            .options(
                num_cpus=0,
                name=self._desk_name,
                namespace=NAMESPACE,
                max_concurrency=8,
                scheduling_strategy=NodeAffinitySchedulingStrategy(home, soft=False),
            )
            .remote()
        )
        self._is_stopping = False
        order = {
            "desk": self._desk_name,
            "home": home,
            "metric": metric,
            "final_trials": final_laps.trials if final_laps else 0,
            "like": final_laps.like.config_file.read_text("utf-8") if final_laps else "",
        }
        self._book = Book()
        self._feed = Feed(source, resources, order, self._desk, self._book)
        scheduler = (
            GentleAsha(self._desk, metric, early_stopping, done_before)
            if early_stopping is not None
            else None
        )
        self._error: BaseException | None = None
        self._tuner = new_tuner(
            self._feed,
            self._book,
            scheduler,
            resources,
            most_at_once,
            Path(self._stack.enter_context(tempfile.TemporaryDirectory())),
            lambda: self._is_stopping and self._book.num_running == 0,
        )
        self._thread = Thread(target=self._fit, name="tune", daemon=True)
        self._thread.start()

    def states(self) -> list[TrialState]:
        """Return where each trial stands, in the order in which they were given out."""
        return self._book.states()

    def stop(self, name: str, reason: str = ENDED) -> None:
        """End one trial; it keeps what it has and counts as ended."""
        ray.get(self._desk.ask_to_stop.remote(name, reason))

    def stop_all(self) -> None:
        """End everything cleanly; every trial can be gone on with."""
        self._is_stopping = True
        self._feed.close()
        ray.get(self._desk.ask_to_stop.remote(None, STOPPED))

    @property
    def is_over(self) -> bool:
        """Return whether nothing runs or waits any more."""
        return not self._thread.is_alive()

    def wait(self, limit_s: float | None = None) -> bool:
        """Wait for the end, or so long; return whether it has come.

        Raises:
            RunFailed: If Ray itself failed.
        """
        self._thread.join(limit_s)
        if self._error is not None:
            what = f"{type(self._error).__name__}: {self._error}"
            raise RunFailed(f"Ray failed: {one_line(what, 300)}")
        return self.is_over

    def close(self) -> None:
        """Leave the cluster; what still runs is ended at once."""
        self._is_stopping = True
        self._feed.close()
        self._stack.close()

    def __enter__(self) -> Trials:
        """Return the trials."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _fit(self) -> None:
        try:
            self._tuner.fit()
        except BaseException as error:  # handed over to the one who waits
            self._error = None if self._is_stopping else error


def _check_machines() -> None:
    """Refuse a cluster with a machine that has not what a trial needs.

    Raises:
        ConfigError: Names the machine and what it says.
    """
    asked = {}
    for node in _ray.nodes():
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = _ray.remote(_can_train).options(num_cpus=0, scheduling_strategy=place)
            asked[node["NodeManagerAddress"]] = task.remote()
    for host, answer in asked.items():
        try:
            _ray.get(answer, timeout=ANSWER_S)
        except Exception as error:  # whatever it is that a machine lacks
            raise ConfigError(
                f"Machine {host} of the cluster cannot train, since every machine needs this "
                f"project installed as here: {what_it_says(error)}"
            ) from None


def _can_train() -> None:
    """Fail where the trainer's packages are missing."""
    for name in ("tensorflow", "rl_coach", "local_trainer.workers.trainer"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"no {name}")
