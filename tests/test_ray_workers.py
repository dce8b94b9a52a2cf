"""One model trained by rollout workers on several Ray nodes, of which one is killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import (
    ROOT,
    error_line,
    run_command,
    train_command,
    wait_for_iteration,
    wait_until,
)

from local_trainer.progress import EpisodeEvent, read_events
from local_trainer.runs import Run
from local_trainer.step_files import read_steps

pytestmark = pytest.mark.slow

TRACKS = ("--track", "reinvent_base", "--track", "Oval_track")
EPISODES = 20
LONG = "10000"


class Nodes:
    """A Ray cluster of a head without CPUs and two nodes, all on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, **ports()}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self._cluster.address)
        self.nodes = [self._cluster.add_node(num_cpus=cpus, **ports()) for cpus in (1, 2)]

    def kill(self, node: Any) -> None:
        """Kill a node's raylet; what runs on the node goes with it."""
        node.all_processes["raylet"][0].process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self._cluster.shutdown()


def ports() -> dict[str, int]:
    """Return ports for a node's agents: it would give up while a slow one picks its own."""
    names = ("metrics_export", "metrics_agent", "dashboard_agent_listen", "runtime_env_agent")
    return {f"{name}_port": free_port() for name in names}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="needs Ray: make setup-ray")
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine (Debian: apt-get install redis-server)")
    cluster = Nodes()
    yield cluster
    cluster.close()


def workers_of(run: Run) -> dict[int, int]:
    """Return the rollout workers that play for a run: process id -> process id of its node."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"local_trainer.workers.rollout" in arguments and os.fsencode(run.path) in arguments:
                found[int(entry.name)] = parent(parent(int(entry.name)))
        except OSError:
            continue
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def num_played(run: Run) -> int:
    return sum(isinstance(event, EpisodeEvent) for event in read_events(run.progress_file))


def assert_each_episode_once(run: Run, num_iterations: int) -> None:
    """Check that every number from 0 is in the records of one iteration, once."""
    for phase in ("training", "evaluation"):
        numbers = [
            episode.index
            for iteration in range(num_iterations)
            for episode in read_steps(run.steps_file(phase, iteration))
        ]
        assert numbers == list(range(len(numbers))), phase
    events = [e for e in read_events(run.progress_file) if isinstance(e, EpisodeEvent)]
    reported = Counter((e.phase, e.episode) for e in events if e.iteration < num_iterations)
    assert set(reported.values()) == {1}


def assert_same_steps(run: Run, other: Run) -> None:
    for phase in ("training", "evaluation"):
        for iteration in (0, 1):
            found = read_steps(run.steps_file(phase, iteration))
            expected = read_steps(other.steps_file(phase, iteration))
            for episode, same in zip(found, expected, strict=True):
                assert episode.start == same.start
                assert np.array_equal(episode.steps, same.steps)
                assert np.array_equal(episode.actions, same.actions)
                assert np.array_equal(episode.rewards, same.rewards)


def test_a_node_that_is_killed_costs_no_episode(nodes: Nodes, tmp_path: Path) -> None:
    here = train_command(tmp_path, "here", *TRACKS, "--episodes", str(EPISODES), "--quiet")
    run_command(here)
    place = ("--workers", "2", "--ray", nodes.address)
    command = train_command(tmp_path, "away", *TRACKS, *place, "--episodes", LONG)
    training = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    try:
        run = Run(tmp_path / "away")
        raylets = [node.all_processes["raylet"][0].process.pid for node in nodes.nodes]
        wait_until(lambda: num_played(run) >= 3)
        before = workers_of(run)
        assert sorted(before.values()) == sorted(raylets)
        nodes.kill(nodes.nodes[0])
        # The other node has room for both.
        wait_until(lambda: list(workers_of(run).values()) == [raylets[1]] * 2)
        assert set(before) & set(workers_of(run)) == {
            p for p, n in before.items() if n != raylets[0]
        }
        wait_for_iteration(run, 3)
        training.send_signal(signal.SIGINT)
        output, _ = training.communicate(timeout=120)
    finally:
        training.send_signal(signal.SIGINT)
        training.wait(timeout=120)
    assert run.read_status().status == "stopped", output
    assert "all 2 rollout workers play, on " in output
    assert "lost rollout worker" in output
    assert_each_episode_once(run, run.read_status().iteration)
    assert_same_steps(run, Run(tmp_path / "here"))
    wait_until(lambda: not workers_of(run), 30.0)
    assert {"rollout-0.log", "rollout-1.log"} & {p.name for p in (run.path / "logs").iterdir()}


def test_more_workers_than_the_cluster_has_cpus_are_refused(nodes: Nodes, tmp_path: Path) -> None:
    place = ("--workers", "50", "--ray", nodes.address, "--quiet")
    began = time.monotonic()
    done = run_command(train_command(tmp_path, "many", *place), status=2)
    assert "--workers must be at most" in error_line(done)
    assert time.monotonic() - began < 60.0
    assert list(tmp_path.iterdir()) == []  # no run was made
