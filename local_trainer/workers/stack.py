"""The process on this machine around a training in the container stack.

``python -m local_trainer.workers.stack --run PATH``. It holds the run, as the trainer of a
training without containers does. SIGINT and SIGTERM stop the training cleanly.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys

from local_trainer.launch.stack_training import StackTraining
from local_trainer.runs import Run
from local_trainer.workers.setup import run_of, run_worker


def train_in_stack(run: Run) -> int:
    """Train a run in the stack and return the trainer's exit status."""
    with run.lock():
        training = StackTraining(run)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: training.request_stop())
        return training.train()


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.stack")
    parser.add_argument("--run", required=True, help="the run's folder")
    run = run_of(parser.parse_args(arguments).run)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    statuses: list[int] = []
    status = run_worker(run, lambda: statuses.append(train_in_stack(run)))
    return status or statuses[0]


if __name__ == "__main__":
    sys.exit(main())
