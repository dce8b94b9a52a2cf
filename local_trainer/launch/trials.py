"""Several trainings at once, here or on a Ray cluster: what to run, how it goes, how to stop it.

A trial is a run's folder that `local_trainer.run_files.create_run` has made. Ray gives it a place
with the cores, memory and GPUs it declares; there the same trainer process works on it as for
``train``. On another machine the files that it writes come back while it works, so a place that is
lost costs no more than the iteration under way. Ray itself is imported in `ray_trials` only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from local_trainer.config import RunConfig, load_config, save_config
from local_trainer.errors import ConfigError
from local_trainer.runs import Run
from local_trainer.sweep.scores import Metric

if TYPE_CHECKING:
    from local_trainer.launch.ray_trials import Trials

STOPPED_EARLY = "stopped early: others were better by then"
ENDED = "ended by the user"
STOPPED = "stopped by the user"
"""Why a trial stopped: the first two have ended for good, the last can be gone on with."""

State = Literal["waiting", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Resources:
    """What one trial declares; a machine takes no more trials than it has of each."""

    cpus: float = 1.0
    """Processor threads."""
    gpus: float = 0.0
    """GPUs; a fraction shares one."""
    memory_gb: float = 3.0
    """Main memory, GB of 1e9 bytes."""

    @property
    def threads(self) -> int:
        """Return how many threads a trial computes with."""
        return max(1, int(self.cpus))


DEFAULT_RESOURCES = Resources()


@dataclass(frozen=True)
class EarlyStopping:
    """Asynchronous successive halving (ASHA) over the share of its limit that a trial has used."""

    grace_percent: float = 20.0
    """No trial is stopped before it has used this much."""
    reduction: float = 2.0
    """At each rung the best 1 in this many go on; the next rung is this many times further."""


@dataclass(frozen=True)
class FinalLaps:
    """Robust laps that every trial drives in the end, the same for all."""

    like: Run
    """The run whose seed and rules hold for all; only its ``config.yaml`` is read."""
    trials: int = 20


@dataclass(frozen=True)
class TrialState:
    """Where a trial stands."""

    run: str
    state: State
    """``stopped``: by the user or early, see `reason`."""
    reason: str = ""
    """One line: why it ended."""
    place: str = ""
    """Address of the machine it runs or ran on."""
    num_restarts: int = 0
    """How often its process or machine was lost and it went on elsewhere."""


class TrialSource(Protocol):
    """Who says which trial is next, and is told how trials went."""

    def next_run(self) -> Run | None:
        """Return the next trial's run, or None after the last."""

    def told(self, run: str, score: float | None) -> None:
        """Take a trial's final score; None if it failed."""


class RunList:
    """Trials that are all known beforehand."""

    def __init__(self, runs: Iterable[Run]) -> None:
        """Take the runs in their order."""
        self._runs = iter(list(runs))

    def next_run(self) -> Run | None:
        """Return the next one."""
        return next(self._runs, None)

    def told(self, run: str, score: float | None) -> None:
        """Take a score; the list stays as it is."""


def start_trials(
    runs: Iterable[Run] | TrialSource,
    resources: Resources = DEFAULT_RESOURCES,
    address: str | None = None,
    *,
    metric: Metric = "completion",
    early_stopping: EarlyStopping | None = None,
    final_laps: FinalLaps | None = None,
    most_at_once: int | None = None,
    done_before: Iterable[Run] = (),
) -> Trials:
    """Start trials and return at once; use the result in a ``with`` block, which frees everything.

    Args:
        runs: Runs that nobody works on, or a source of them. Those that have checkpoints are gone
            on with.
        resources: What each trial declares.
        address: A Ray cluster; None for this machine alone.
        metric: What early stopping and the source's scores are made of.
        early_stopping: When to give up on a trial; None never does.
        final_laps: Robust laps to drive at the end of each trial; None for none.
        most_at_once: How many trials may run at once; None: as many as fit.
        done_before: Trials of the same sweep that have ended; early stopping compares with them.

    Raises:
        ConfigError: If Ray is not installed, nobody answers at the address, or no machine has
            what a trial declares.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Running several trials needs Ray: run make setup-ray.")
    from local_trainer.launch.ray_trials import Trials

    source = RunList(runs) if isinstance(runs, Iterable) else runs
    return Trials(
        source,
        resources,
        address,
        metric=metric,
        early_stopping=early_stopping,
        final_laps=final_laps,
        most_at_once=most_at_once,
        done_before=list(done_before),
    )


def run_trials(
    runs: Iterable[Run] | TrialSource,
    resources: Resources = DEFAULT_RESOURCES,
    address: str | None = None,
    *,
    on_progress: Callable[[list[TrialState]], None] = lambda states: None,
    every_s: float = 1.0,
    metric: Metric = "completion",
    final_laps: FinalLaps | None = None,
) -> list[TrialState]:
    """Run trials to their end and return how each ended; Ctrl-C stops all of them cleanly.

    Args:
        runs: See `start_trials`.
        resources: What each trial declares.
        address: A Ray cluster; None for this machine alone.
        on_progress: Told the states again and again.
        every_s: How long to wait in between.
        metric: See `start_trials`.
        final_laps: See `start_trials`.

    Raises:
        ConfigError: As `start_trials`.
        KeyboardInterrupt: After everything was stopped.
    """
    with start_trials(runs, resources, address, metric=metric, final_laps=final_laps) as trials:
        try:
            while not trials.wait(every_s):
                on_progress(trials.states())
        except KeyboardInterrupt:
            trials.stop_all()
            trials.wait()
            raise
        on_progress(trials.states())
        return trials.states()


def fit_to_resources(config: RunConfig, resources: Resources) -> RunConfig:
    """Return a trial's configuration with the threads and the processor that it declares.

    Raises:
        ConfigError: If it asks for a GPU and declares none.
    """
    changes: dict[str, object] = {}
    if config.threads is None:
        changes["threads"] = resources.threads
    if resources.gpus == 0.0:
        if config.instance == "gpu":
            raise ConfigError("resources.gpus must be > 0 with instance gpu, got 0.")
        changes["instance"] = "cpu"
    return config.model_copy(update=changes)


def fit_run(run: Run, resources: Resources) -> None:
    """Write the threads and the processor that a trial declares into its run's configuration.

    Raises:
        ConfigError: As `fit_to_resources`.
    """
    config = load_config(run.config_file)
    fitted = fit_to_resources(config, resources)
    if fitted != config:
        save_config(fitted, run.config_file)


def log_of(run: Run) -> Path:
    """Return the log of a trial's trainer process."""
    return run.path / "logs" / "trainer.log"
