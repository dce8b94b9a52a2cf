"""The process on this machine around a training with rollout workers on a Ray cluster.

``python -m local_trainer.workers.cluster --run PATH``. The trainer it starts holds the run. SIGINT
and SIGTERM stop the training cleanly.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace

from local_trainer.errors import LocalTrainerError
from local_trainer.launch.ray_workers import ClusterTraining
from local_trainer.runs import Run
from local_trainer.workers.setup import run_of, run_worker


def train_on_cluster(run: Run) -> int:
    """Train a run and return the trainer's exit status."""
    training = ClusterTraining(run)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: training.request_stop())
    try:
        return training.train()
    except LocalTrainerError as error:
        run.write_status(replace(run.read_status(), status="failed", reason=str(error)))
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run the worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m local_trainer.workers.cluster")
    parser.add_argument("--run", required=True, help="the run's folder")
    run = run_of(parser.parse_args(arguments).run)
    statuses: list[int] = []
    status = run_worker(run, lambda: statuses.append(train_on_cluster(run)))
    return status or statuses[0]


if __name__ == "__main__":
    sys.exit(main())
