"""The process around several trainings or evaluations at once.

``python -m local_trainer.workers.pack --folder PATH``. Ray packs the jobs on the machine; this
process writes where each stands and hears whose end is asked for (`local_trainer.launch.pack`).
SIGINT and SIGTERM stop all of them in order.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from local_trainer.errors import LocalTrainerError, RunFailed
from local_trainer.launch.pack import ENDS, Order, PackFolder, Standing
from local_trainer.launch.trials import TrialState, start_trials
from local_trainer.runs import Run

_LOOK_S = 0.3
_ATTEMPTS = 3
_WAITING = Standing("waiting")

_Started = TypeVar("_Started")


class _Runs:
    """Gives out the runs of trainings that are still wanted."""

    def __init__(self, runs: list[Run], is_wanted: Callable[[str], bool]) -> None:
        self._runs = iter(runs)
        self._is_wanted = is_wanted

    def next_run(self) -> Run | None:
        """Return the next one whose folder is still there."""
        for run in self._runs:
            if self._is_wanted(run.name) and run.config_file.exists():
                return run
        return None

    def told(self, run: str, score: float | None) -> None:
        """Take a score; nothing depends on it."""


def train_all(folder: PackFolder, order: Order) -> None:
    """Train a pack's runs to their end."""
    runs = [Run(Path(path)) for path in order.runs]
    told: set[str] = set()
    standings: dict[str, Standing] = {}
    source = _Runs(runs, lambda name: name not in folder.asked_to_stop())
    trials = _patiently(lambda: start_trials(source, order.resources, order.address))
    with trials:
        is_ending = _on_request_to_end(trials.stop_all)
        is_over = False
        while not is_over:
            is_over = trials.wait(_LOOK_S)
            for name in folder.asked_to_stop() - told:
                trials.stop(name, "stopped by the user")
                told.add(name)
            states = {state.run: state for state in trials.states()}
            for run in runs:
                # A training that ended well stays so, whatever becomes of its place afterwards.
                if standings.get(run.name, _WAITING).state != "finished":
                    is_unwanted = run.name in told or is_ending()
                    standings[run.name] = _standing(states.get(run.name), is_unwanted, is_over)
            folder.write_standings(standings)


def _standing(state: TrialState | None, is_unwanted: bool, is_over: bool) -> Standing:
    """Return where a training stands.

    One that waits and was told to stop never begins: it looks for that before it does.
    """
    if state is None or state.state == "waiting":
        if is_unwanted:
            return Standing("stopped", "stopped by the user before it began")
        return Standing("failed", "it never began") if is_over else _WAITING
    return Standing(state.state, state.reason)


def evaluate_all(folder: PackFolder, order: Order) -> None:
    """Evaluate a pack's runs."""
    from local_trainer.launch.ray_evaluations import Evaluations

    trials = dict(zip(map(Path, order.runs), order.trials, strict=True))
    evaluations = _patiently(lambda: Evaluations(folder, trials, order.resources))

    def stop_all() -> None:
        for path in trials:
            folder.ask_to_stop(path.name)

    _on_request_to_end(stop_all)
    is_over = False
    while not is_over:
        is_over = evaluations.wait(_LOOK_S)
        folder.write_standings(evaluations.standings())
    evaluations.close()


def _patiently(start: Callable[[], _Started]) -> _Started:
    """Start something on Ray, again if need be: a machine that is busy outlasts Ray's patience."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return start()
        except RunFailed as error:
            print(error, file=sys.stderr, flush=True)
    return start()


def _on_request_to_end(stop_all: Callable[[], None]) -> Callable[[], bool]:
    """Stop everything on SIGINT or SIGTERM; return whether one of them came."""
    asked: list[int] = []

    def end(number: int, frame: object) -> None:
        if not asked:
            asked.append(number)
            stop_all()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return lambda: bool(asked)


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.pack")
    parser.add_argument("--folder", required=True, help="folder shared with the one who started it")
    folder = PackFolder(Path(parser.parse_args(arguments).folder))
    order = folder.read_order()
    try:
        (train_all if order.kind == "training" else evaluate_all)(folder, order)
    except LocalTrainerError as error:
        _fail_the_rest(folder, order, str(error))
        print(error, file=sys.stderr)
        return error.exit_status
    finally:
        if os.getppid() != order.parent:  # nobody looks any more
            folder.remove()
    return 0


def _fail_the_rest(folder: PackFolder, order: Order, reason: str) -> None:
    standings = folder.read_standings()
    for path in order.runs:
        name = Path(path).name
        if standings.get(name, _WAITING).state not in ENDS:
            standings[name] = Standing("failed", reason)
    folder.write_standings(standings)


if __name__ == "__main__":
    sys.exit(main())
