"""Start a sweep, or go on with it: hold it, give its trials to Ray, keep its state, sum it up."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from local_trainer.actions import load_action_space
from local_trainer.config import RunConfig
from local_trainer.errors import LocalTrainerError
from local_trainer.launch.trials import EarlyStopping, FinalLaps, Resources, start_trials
from local_trainer.reward import check_reward_file
from local_trainer.run_files import find_user_file, load_config_tracks
from local_trainer.runs import find_run
from local_trainer.sweep.config import Point, SweepConfig, num_trials, trial_config
from local_trainer.sweep.folder import Sweep, SweepState, check_name, create_sweep, user_files
from local_trainer.sweep.search import SweepSource

if TYPE_CHECKING:
    from local_trainer.launch.ray_trials import Trials

_LOOK_S = 1.0

OnLook = Callable[[SweepState], None]


def prepare_sweep(config: SweepConfig, sweeps_dir: Path, runs_dir: Path) -> Sweep:
    """Check the files, tracks and runs that a sweep's trials use, and write its folder.

    Raises:
        ConfigError: If one is not usable, or the sweep's name is taken.
        NotFound: If one does not exist.
        RewardFunctionError: If a reward function cannot be loaded or called.
    """
    check_name(config.name, sweeps_dir, runs_dir)
    files = user_files(config)
    _check_inputs(config, runs_dir)
    return create_sweep(config, files, num_trials(config), sweeps_dir, runs_dir)


def run_sweep(
    sweep: Sweep, address: str | None = None, on_look: OnLook = lambda state: None
) -> bool:
    """Train a sweep's trials to their end; Ctrl-C and SIGTERM stop it cleanly.

    Args:
        sweep: One that nobody works on; trials that have ended stay as they are.
        address: A Ray cluster; None for this machine alone.
        on_look: Told about once a second how it stands.

    Returns:
        Whether every trial has ended; False if it was stopped.

    Raises:
        ConfigError: If it is running, or Ray cannot give what a trial declares.
        RunFailed: If Ray itself failed.
    """
    config = sweep.read_config()
    resources = Resources(**config.resources.model_dump())
    asha = config.asha
    with sweep.lock():
        sweep.take_requests()
        source = SweepSource(sweep, resources)
        ended = [sweep.run_of(t) for t in source.state.trials if t.state in ("finished", "stopped")]
        stopping = None if asha is None else EarlyStopping(asha.grace_percent, asha.reduction)
        with start_trials(
            source,
            resources,
            address,
            metric=config.metric,
            early_stopping=stopping,
            final_laps=FinalLaps(sweep.common, config.final_laps),
            done_before=[run for run in ended if run is not None],
        ) as trials:
            state = _follow(sweep, source, trials, on_look)
    return len(state.trials) == state.num_trials and all(t.has_ended for t in state.trials)


def forget_failures(sweep: Sweep) -> None:
    """Let trials that failed be tried again when the sweep goes on."""
    with sweep.lock():
        state = sweep.read_state()
        trials = tuple(
            replace(t, state="waiting", reason="", score=None) if t.state == "failed" else t
            for t in state.trials
        )
        sweep.write_state(replace(state, trials=trials))


def _follow(sweep: Sweep, source: SweepSource, trials: Trials, on_look: OnLook) -> SweepState:
    started, before = time.monotonic(), source.state.minutes

    def look() -> SweepState:
        minutes = before + (time.monotonic() - started) / 60.0
        state = source.take(trials.states(), minutes)
        on_look(state)
        return state

    with _counted_signals() as count_signals:
        is_stopping = False
        while not trials.wait(_LOOK_S):
            if count_signals() and not is_stopping:
                is_stopping = True
                trials.stop_all()
            if count_signals() > 1:
                break
            for run in sweep.take_requests():
                trials.stop(run)
            look()
        return look()


@contextmanager
def _counted_signals() -> Iterator[Callable[[], int]]:
    """Count SIGINT, SIGTERM and SIGHUP instead of being interrupted in the middle of something."""
    count = 0

    def take(number: int, frame: object) -> None:
        nonlocal count
        count += 1

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, take) for number in numbers]
    try:
        yield lambda: count
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _check_inputs(config: SweepConfig, runs_dir: Path) -> None:
    """Look at every track, file and run that is named, each once."""
    configs = _variants(config)
    tracks = [load_config_tracks(one) for one in configs("track", "tracks")]
    for one in configs("files.reward"):
        path = find_user_file("reward function", Path(one.files.reward))
        try:
            check_reward_file(path, tracks[0][0])
        except LocalTrainerError as error:
            error.args = (f"{one.files.reward}: {error}",)
            raise
    for one in configs("files.model_metadata"):
        if one.files.model_metadata is not None:
            load_action_space(find_user_file("action space", Path(one.files.model_metadata)))
    for one in configs("pretrained.run"):
        if one.pretrained.run is not None:
            find_run(one.pretrained.run, runs_dir)


def _variants(config: SweepConfig) -> Callable[..., list[RunConfig]]:
    """Return what gives a configuration for each value of a key, all else as in the first trial."""
    first = {d.key: d.values[0] for d in config.dimensions}

    def configs(*keys: str) -> list[RunConfig]:
        varied = [(d.key, value) for d in config.dimensions if d.key in keys for value in d.values]
        changes = [{key: value} for key, value in varied] or [{}]
        return [
            trial_config(config, Point({**first, **change}, config.seeds[0])) for change in changes
        ]

    return configs
