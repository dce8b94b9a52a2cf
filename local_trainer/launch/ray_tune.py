"""What stands between Ray Tune and our trials: their book, their source, and how they are ended.

Tune's state is of no use to us, since a sweep goes on from its runs; and Tune ends nothing by
itself: whom it would stop is asked to end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else Tune prints tables of its own

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from local_trainer.config import load_config
from local_trainer.errors import LocalTrainerError
from local_trainer.history import read_history
from local_trainer.launch.ray_cluster import what_it_says
from local_trainer.launch.ray_desk import ANSWER_S, NAMESPACE
from local_trainer.launch.ray_work import Work
from local_trainer.launch.trials import (
    STOPPED,
    STOPPED_EARLY,
    EarlyStopping,
    Resources,
    TrialSource,
    TrialState,
    fit_run,
)
from local_trainer.runs import Run
from local_trainer.sweep.scores import Metric, best_score, budget_percent

_ray: Any = ray
"""Ray with its calls as they are: what `ray.remote` makes of a class has no types."""

MOST_RESTARTS = 3
"""How often a trial whose process or machine was lost goes on before it counts as failed."""


def new_tuner(
    feed: Feed,
    book: Book,
    scheduler: Any,
    resources: Resources,
    most_at_once: int | None,
    storage: Path,
    is_over: Callable[[], bool],
) -> tune.Tuner:
    """Return what runs the trials.

    Args:
        feed: Where they come from.
        book: Where it is written how they stand.
        scheduler: Of Tune's; None for none.
        resources: What each trial declares.
        most_at_once: How many may run at once; None: as many as fit.
        storage: A folder for what Tune writes.
        is_over: Asked often; ends Tune.
    """
    bundle = {"CPU": resources.cpus, "memory": resources.memory_gb * 1e9}
    if resources.gpus:
        bundle["GPU"] = resources.gpus
    return tune.Tuner(
        tune.with_resources(_Trial, tune.PlacementGroupFactory([bundle])),
        tune_config=tune.TuneConfig(
            search_alg=feed,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=most_at_once,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MOST_RESTARTS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[book],
            stop=_StopWhenAsked(is_over),
        ),
    )


class _Trial(tune.Trainable):  # type: ignore[misc,unused-ignore]
    """One trial at its place; Tune calls `step` until it says that it is done."""

    def setup(self, config: dict[str, Any]) -> None:
        self._order = config
        self._desk: Any = _ray.get_actor(config["desk"], namespace=NAMESPACE)
        self._work = Work(config, self._reason_to_stop, self._desk)

    def step(self) -> dict[str, Any]:
        try:
            return self._work.next_result()
        except LocalTrainerError as error:
            failed = {"done": True, "state": "failed", "reason": what_it_says(error)}
            result = {**self._work.standing(), **failed}
            with suppress(LocalTrainerError):  # one reason is enough
                self._work.close()
            return result

    def cleanup(self) -> None:
        self._work.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept by Tune: a trial goes on from its run's own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

    def _reason_to_stop(self) -> str | None:
        asked = self._desk.reason_to_stop.remote(self._order["run"])
        try:
            reason: Any = _ray.get(asked, timeout=ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            return None  # a busy machine; it is asked again
        return None if reason is None else str(reason)


def _nothing() -> None:
    """Stand for what is only of use in this process, where Tune writes its own state down."""


class _OfThisProcess:
    """Left out of what Tune writes down; nobody reads it, since a sweep goes on from its runs."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _OfThisProcess:
        return self


class Book(_OfThisProcess, tune.Callback):  # type: ignore[misc,unused-ignore]
    """Keeps where every trial stands; written by Tune's thread, read by others."""

    def __init__(self) -> None:
        """Begin with no trials."""
        self._states: dict[str, TrialState] = {}
        self._starts: dict[str, int] = {}
        self._lock = Lock()

    def states(self) -> list[TrialState]:
        """Return where each trial stands, in the order in which they were given out."""
        with self._lock:
            return list(self._states.values())

    def add(self, name: str, state: str = "waiting", reason: str = "") -> None:
        """Write a trial down."""
        self._put(name, state=state, reason=reason)

    @property
    def num_running(self) -> int:
        """Return how many trials have their place."""
        return sum(state.state == "running" for state in self.states())

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has got a place, and how often it had lost one."""
        name = trial.config["run"]
        self._starts[name] = self._starts.get(name, 0) + 1
        self._put(name, state="running", num_restarts=self._starts[name] - 1)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note what a trial says of itself."""
        self._put(
            result["run"],
            state=result["state"],
            reason=result["reason"],
            place=result["place"],
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial is given up."""
        reason = f"its process or machine was lost {MOST_RESTARTS + 1} times"
        self._put(trial.config["run"], state="failed", reason=reason)

    def _put(self, name: str, **changes: Any) -> None:
        with self._lock:
            old = self._states.get(name, TrialState(name, "waiting"))
            self._states[name] = replace(old, **changes)


class Feed(_OfThisProcess, Searcher):  # type: ignore[misc,unused-ignore]
    """Gives Tune the trials of a source, one after another."""

    def __init__(
        self,
        source: TrialSource,
        resources: Resources,
        order: dict[str, Any],
        desk: Any,
        book: Book,
    ) -> None:
        """Take where trials come from.

        Args:
            source: Of runs.
            resources: What each trial declares.
            order: What all trials are told alike.
            desk: Actor of `local_trainer.launch.ray_desk.Desk`.
            book: Where trials are written down.
        """
        super().__init__(metric="score", mode="max")
        self._source = source
        self._resources = resources
        self._order = order
        self._desk = desk
        self._book = book
        self._names: dict[str, str] = {}
        self._is_closed = False

    def close(self) -> None:
        """Give out no more trials."""
        self._is_closed = True

    def suggest(self, trial_id: str) -> Any:
        """Return the order of the next trial; those that do not fit the machine fail at once."""
        while not self._is_closed and (run := self._source.next_run()) is not None:
            self._book.add(run.name)
            try:
                fit_run(run, self._resources)
            except LocalTrainerError as error:
                self._book.add(run.name, "failed", str(error))
                self._source.told(run.name, None)
                continue
            self._names[trial_id] = run.name
            folder = str(run.path.resolve())
            _ray.get(self._desk.add.remote(run.name, folder))
            pretrained = self._add_pretrained(run)
            return {**self._order, "run": run.name, "folder": folder, "pretrained": pretrained}
        return Searcher.FINISHED

    def _add_pretrained(self, run: Run) -> str | None:
        source = load_config(run.config_file).pretrained.run
        if source is None:
            return None
        folder = (run.path.parent / source).resolve()
        ray.get(self._desk.add.remote(source, str(folder)))
        return source

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tune asks for it."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the source the score of a trial that has ended; one that goes on later has none."""
        name = self._names[trial_id]
        if error:
            self._source.told(name, None)
        elif result is not None and result["state"] != "waiting" and result["reason"] != STOPPED:
            self._source.told(name, None if result["state"] == "failed" else result["score"])

    def save(self, checkpoint_path: str) -> None:
        """Write the empty file that Tune expects: a sweep goes on from its runs."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class GentleAsha(_OfThisProcess, ASHAScheduler):  # type: ignore[misc,unused-ignore]
    """ASHA that asks a trial to end where the original takes its place away."""

    def __init__(
        self, desk: Any, metric: Metric, settings: EarlyStopping, done_before: list[Run]
    ) -> None:
        """Take the rules, and the runs whose scores count from before."""
        super().__init__(
            time_attr="budget_percent",
            metric="score",
            mode="max",
            max_t=100,
            grace_period=settings.grace_percent,  # type: ignore[arg-type,unused-ignore]
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )
        self._desk = desk
        self._asked: set[str] = set()
        for run in done_before:
            self._learn(run, metric)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Have the original judge a result, and ask whom it would stop to end."""
        if result["done"] or trial.trial_id in self._asked:
            return TrialScheduler.CONTINUE
        action = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP:
            self._asked.add(trial.trial_id)
            self._desk.ask_to_stop.remote(result["run"], STOPPED_EARLY)
        return TrialScheduler.CONTINUE

    def _learn(self, run: Run, metric: Metric) -> None:
        """Record an earlier trial's scores, so that later ones are compared with it."""
        trial: Any = SimpleNamespace(trial_id=run.name)
        nobody: Any = None
        self.on_trial_add(nobody, trial)
        stop, status = load_config(run.config_file).stop, run.read_status()
        history = read_history(run)
        share = budget_percent(stop, status) / max(1, len(history.evaluations))
        for count in range(1, len(history.evaluations) + 1):
            result = {
                "score": best_score(metric, history.evaluations[:count]),
                "budget_percent": share * count,
            }
            super().on_trial_result(nobody, trial, result)


class _StopWhenAsked(_OfThisProcess, tune.Stopper):  # type: ignore[misc,unused-ignore]
    """Ends Tune once everybody who was asked to stop has done so."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._is_over()
