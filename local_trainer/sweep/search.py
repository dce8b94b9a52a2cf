"""Which trial is next: those that were interrupted, then new points of the space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from local_trainer.config import RunConfig, load_config
from local_trainer.errors import LocalTrainerError
from local_trainer.launch.trials import STOPPED, Resources, TrialState, fit_to_resources
from local_trainer.run_files import create_run
from local_trainer.runs import Run
from local_trainer.sweep.config import Point, SweepConfig, points, trial_config
from local_trainer.sweep.folder import Sweep, SweepState, Trial, changed, run_name
from local_trainer.sweep.scores import FAILED
from local_trainer.sweep.space import Dimension


class Sampler(Protocol):
    """Who chooses new points."""

    def next_point(self, number: int) -> Point | None:
        """Return the point of a trial, counted from 1; None after the last."""

    def told(self, trial: Trial) -> None:
        """Take a trial that has its score."""


class ListSampler:
    """Points that are known beforehand: grid and random search."""

    def __init__(self, config: SweepConfig) -> None:
        """Take the sweep's points."""
        self._points = list(points(config))

    def next_point(self, number: int) -> Point | None:
        """Return the point of that number."""
        return self._points[number - 1] if number <= len(self._points) else None

    def told(self, trial: Trial) -> None:
        """Take a trial that has its score; the points stay as they are."""


class OptunaSampler:
    """Points that Optuna's TPE chooses from how earlier ones went."""

    def __init__(self, config: SweepConfig, before: tuple[Trial, ...]) -> None:
        """Begin the search, or go on with it.

        Args:
            config: The sweep.
            before: Its trials so far; those that have ended with a score are learnt from.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._config = config
        self._dimensions = config.dimensions
        self._distributions = {d.key: self._distribution(d) for d in self._dimensions}
        sampler = optuna.samplers.TPESampler(
            # Another seed than at the start: else the same first points again.
            seed=config.search_seed + len(before),
            constant_liar=True,
            n_startup_trials=min(10, max(2, (config.samples or 1) // 3)),
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: dict[int, Any] = {}
        for trial in before:
            if trial.has_ended and trial.score is not None:
                self._learn(trial)

    def next_point(self, number: int) -> Point | None:
        """Return what Optuna suggests."""
        if number > (self._config.samples or 1):
            return None
        asked = self._study.ask(self._distributions)
        self._asked[number] = asked
        values = {d.key: self._value(d, asked.params[d.key]) for d in self._dimensions}
        seeds = self._config.seeds
        return Point(values, seeds[(number - 1) % len(seeds)])

    def told(self, trial: Trial) -> None:
        """Let Optuna learn from a trial that has its score."""
        asked = self._asked.pop(trial.number, None)
        if asked is None:  # suggested before the sweep was interrupted
            self._learn(trial)
        else:
            self._study.tell(asked, trial.score)

    def _learn(self, trial: Trial) -> None:
        params = {
            d.key: d.values.index(trial.values[d.key]) if d.is_list else trial.values[d.key]
            for d in self._dimensions
        }
        made = self._optuna.trial.create_trial(
            params=params, distributions=self._distributions, value=trial.score
        )
        self._study.add_trial(made)

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if dimension.is_list:  # by place: Optuna takes no lists as values
            return kinds.CategoricalDistribution(range(len(dimension.values)))
        low, high = dimension.values
        if dimension.kind == "integer":
            return kinds.IntDistribution(low, high)
        return kinds.FloatDistribution(low, high, log=dimension.kind == "log_uniform")

    def _value(self, dimension: Dimension, param: Any) -> Any:
        return dimension.values[param] if dimension.is_list else dimension.rounded(param)


class SweepSource:
    """Gives out a sweep's trials, makes their runs, and keeps its state file up to date.

    Asked and told by Ray's thread, read by the one who watches.
    """

    def __init__(self, sweep: Sweep, resources: Resources) -> None:
        """Take a sweep that this process holds."""
        self._sweep = sweep
        self._config = sweep.read_config()
        self._resources = resources
        state = sweep.read_state()
        # Interrupted: they wait again, until they are given out.
        trials = (replace(t, state="waiting") if t.state == "running" else t for t in state.trials)
        self._state = replace(state, trials=tuple(trials))
        sweep.write_state(self._state)
        self._lock = Lock()
        self._pending: Iterator[Trial] = iter([t for t in self._state.trials if not t.has_ended])
        self._sampler: Sampler = (
            OptunaSampler(self._config, self._state.trials)
            if self._config.search == "optuna"
            else ListSampler(self._config)
        )

    @property
    def state(self) -> SweepState:
        """Return how the sweep stands."""
        return self._state

    def next_run(self) -> Run | None:
        """Return the run of the next trial; one that cannot be made fails, and the next is tried.

        Returns:
            None after the last.
        """
        while (trial := self._next_trial()) is not None:
            try:
                run = self._open_run(trial)
            except (LocalTrainerError, OSError) as error:
                failed = replace(trial, state="failed", reason=str(error), score=FAILED)
                self._keep(failed)
                self._sampler.told(failed)
                continue
            created = run.read_status().created
            self._keep(replace(trial, state="waiting", reason="", created=created))
            return run
        return None

    def told(self, run: str, score: float | None) -> None:
        """Take a trial's final score; None if it failed."""
        trial = replace(self._trial(run), score=FAILED if score is None else score)
        self._keep(trial)
        self._sampler.told(trial)

    def take(self, states: list[TrialState], minutes: float) -> SweepState:
        """Write down how the trials stand, and return it all.

        Args:
            states: Of those that were given out.
            minutes: How long the sweep has taken, over all its starts.
        """
        with self._lock:
            before = self._state
            for state in states:
                trial = next(t for t in self._state.trials if t.run == state.run)
                goes_on = state.reason == STOPPED
                changes: dict[str, Any] = {
                    "state": "waiting" if goes_on else state.state,
                    "reason": "" if goes_on else state.reason,
                    "place": state.place or trial.place,
                    "num_restarts": state.num_restarts,
                }
                self._state = changed(self._state, replace(trial, **changes))
            if self._state != before:
                self._state = replace(self._state, minutes=minutes)
                self._sweep.write_state(self._state)
            return self._state

    def _next_trial(self) -> Trial | None:
        trial = next(self._pending, None)
        if trial is not None:
            return trial
        number = len(self._state.trials) + 1
        point = self._sampler.next_point(number)
        if point is None:
            return None
        trial = Trial(number, run_name(self._sweep.name, number), point.values, point.seed)
        self._keep(trial)
        return trial

    def _open_run(self, trial: Trial) -> Run:
        """Return a trial's run; made if it is not there yet."""
        run = self._sweep.run_of(trial)
        if run is not None:
            return run
        config = trial_config(self._config, Point(trial.values, trial.seed))
        config = fit_to_resources(config, self._resources).model_copy(update={"run": trial.run})
        orphan = self._orphan(trial, config)
        if orphan is not None:
            return orphan
        files = config.files
        return create_run(
            config,
            Path(self._state.runs_dir),
            reward_path=self._own(files.reward),
            actions=self._own(files.model_metadata),
            preset_path=self._own(files.preset),
            environment_path=self._own(files.environment),
        )

    def _orphan(self, trial: Trial, config: RunConfig) -> Run | None:
        """Return the run that was made for a trial when the sweep was killed right after.

        Somebody else's of that name is older, has begun, or has other settings.
        """
        run = Run(Path(self._state.runs_dir) / trial.run)
        if trial.created or not run.status_file.exists():
            return None
        status, made = run.read_status(), load_config(run.config_file)
        settled = {"job_name": trial.run, "surface": made.surface}  # when it was made
        is_ours = (
            status.status == "created"
            and status.created >= self._state.created
            and made == config.model_copy(update=settled)
        )
        return run if is_ours else None

    def _own(self, name: str | None) -> Path | None:
        return None if name is None else Path(self._sweep.own_file(self._state, name))

    def _trial(self, run: str) -> Trial:
        return next(trial for trial in self._state.trials if trial.run == run)

    def _keep(self, trial: Trial) -> None:
        with self._lock:
            self._state = changed(self._state, trial)
            self._sweep.write_state(self._state)
