"""Trials on a Ray cluster of several nodes, one of which is killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training import TINY, wait_until, write_slow_reward

from local_trainer.config import resolve_config
from local_trainer.errors import ConfigError
from local_trainer.launch.trials import ENDED, STOPPED, FinalLaps, Resources, start_trials
from local_trainer.run_files import create_run
from local_trainer.runs import Run

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def ports() -> dict[str, int]:
    """Return free ports for a node's agents; with ports named it does not wait for them."""
    names = ("metrics_export_port", "metrics_agent_port", "dashboard_agent_listen_port")
    sockets = [socket.socket() for _ in range(4)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip((*names, "runtime_env_agent_port"), found, strict=True))


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=10**8, **ports())


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A cluster of one node, the one that asks; it has no CPU for trials if none is given."""
    from ray.cluster_utils import Cluster

    num_cpus = getattr(request, "param", 0)
    settings = {"num_cpus": num_cpus, "object_store_memory": 10**8, "no_monitor": True, **ports()}
    made = Cluster(initialize_head=True, head_node_args=settings)
    yield made
    made.shutdown()


def make_run(runs_dir: Path, number: int, episodes: int, reward: Path | None = None) -> Run:
    sets = [f"{key}={value}" for key, value in TINY.items()]
    sets += ["stop.until=never", f"stop.episodes={episodes}", f"seed={number}", f"run=n{number}"]
    if reward is not None:
        sets.append(f"files.reward={reward}")
    return create_run(resolve_config(sets=sets), runs_dir)


def node_that_trains(run: Run, nodes: list[Any]) -> Any | None:
    """Return the node whose raylet is an ancestor of a run's trainer."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"local_trainer.workers.trainer" not in arguments:
                continue
            if not any(part.endswith(os.fsencode(f"/{run.name}")) for part in arguments):
                continue
            pid = int(entry.name)
            while pid > 1 and pid not in raylets:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        if pid in raylets:
            return raylets[pid]
    return None


def test_a_killed_node_loses_no_trial_and_every_run_comes_back(
    tmp_path: Path, cluster: Any
) -> None:
    nodes = [add_node(cluster) for _ in range(2)]
    reward = write_slow_reward(tmp_path)
    runs = [make_run(tmp_path, number, 60, reward) for number in range(2)]
    final_laps = FinalLaps(runs[0], 4)
    resources = Resources(cpus=1, memory_gb=1)
    with start_trials(runs, resources, cluster.address, final_laps=final_laps) as trials:
        # Their folders are elsewhere: what is seen here has come back.
        wait_until(lambda: any(run.read_status().iteration >= 1 for run in runs), 240.0)
        half_way = next(run for run in runs if run.read_status().iteration >= 1)
        assert half_way.is_locked()
        lost = node_that_trains(half_way, nodes)
        assert lost is not None
        cluster.remove_node(lost, allow_graceful=False)
        add_node(cluster)
        wait_until(lambda: trials.wait(0.5), 240.0)
        states = {state.run: state for state in trials.states()}
    for run in runs:
        assert states[run.name].state == "finished", states[run.name].reason
        status = run.read_status()
        assert (status.status, status.iteration, status.episodes) == ("finished", 6, 60)
        assert len(list(run.path.glob("evaluation-*/conditions.json"))) == 1
        assert run.report_file.exists() and list(run.model_dir.glob("*.pb"))
        assert not run.is_locked()
    assert states[half_way.name].num_restarts >= 1


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_trial_comes_back_from_a_killed_node_to_the_machine_that_asked(
    tmp_path: Path, cluster: Any
) -> None:
    node = add_node(cluster)
    reward = write_slow_reward(tmp_path)
    runs = [make_run(tmp_path, number, 60, reward) for number in range(2)]
    with start_trials(runs, Resources(cpus=1, memory_gb=1), cluster.address) as trials:
        found: list[Run] = []

        def is_half_way() -> bool:
            found[:] = [run for run in runs if node_that_trains(run, [node]) is not None]
            return bool(found) and found[0].read_status().iteration >= 1

        wait_until(is_half_way, 240.0)
        cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: trials.wait(0.5), 240.0)
        states = {state.run: state for state in trials.states()}
    for run in runs:
        assert states[run.name].state == "finished", states[run.name].reason
        assert run.read_status().episodes == 60
        assert not run.is_locked()
    assert states[found[0].name].num_restarts >= 1


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_trial_that_waits_is_ended_and_final_laps_that_were_stopped_are_driven_later(
    tmp_path: Path, cluster: Any
) -> None:
    runs = [make_run(tmp_path, number, 10) for number in range(2)]
    first, second = runs
    laps = FinalLaps(first, 1000)
    resources = Resources(cpus=1, memory_gb=1)
    log = first.path / "logs" / "comparison.log"
    with start_trials(runs, resources, cluster.address, final_laps=laps) as trials:
        wait_until(log.exists, 240.0)
        trials.stop_all()
        wait_until(lambda: trials.wait(0.5), 60.0)
        states = {state.run: state for state in trials.states()}
    assert (states[first.name].state, states[first.name].reason) == ("stopped", STOPPED)
    assert first.read_status().status == "finished"
    assert not list(first.path.glob("evaluation-*/conditions.json"))

    laps = FinalLaps(first, 4)
    with start_trials(runs, resources, cluster.address, final_laps=laps) as trials:
        wait_until(lambda: len(trials.states()) == 2, 60.0)
        trials.stop(second.name)
        wait_until(lambda: trials.wait(0.5), 240.0)
        states = {state.run: state for state in trials.states()}
    assert states[first.name].state == "finished"
    assert len(list(first.path.glob("evaluation-*/conditions.json"))) == 1
    assert (states[second.name].state, states[second.name].reason) == ("stopped", ENDED)
    assert (second.read_status().status, second.read_status().iteration) == ("stopped", 0)


def test_what_no_machine_of_the_cluster_has_is_refused_at_once(
    tmp_path: Path, cluster: Any
) -> None:
    run = make_run(tmp_path, 0, 10)
    with pytest.raises(ConfigError, match=r"cpus on any of its machines.*got 1"):
        start_trials([run], Resources(cpus=1, memory_gb=1), cluster.address)
    assert run.read_status().status == "created"


def environment_of(run: Run) -> dict[str, str] | None:
    """Return the environment of a run's trainer; None while there is none."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"local_trainer.workers.trainer" not in arguments:
                continue
            if any(part.endswith(os.fsencode(f"/{run.name}")) for part in arguments):
                pairs = (entry / "environ").read_bytes().decode().split("\0")
                return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        except OSError:
            continue  # it ended meanwhile
    return None


def test_fractions_of_a_gpu_are_given_out_and_no_more(tmp_path: Path, cluster: Any) -> None:
    # Declared GPUs: Ray counts and numbers them whether they are there or not.
    cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=10**8, **ports())
    runs = [make_run(tmp_path, number, 20) for number in range(3)]
    resources = Resources(cpus=1, gpus=0.5, memory_gb=1)
    seen: dict[str, str] = {}
    most_at_once = 0
    with start_trials(runs, resources, cluster.address) as trials:
        is_over = False
        while not is_over:
            is_over = trials.wait(0.5)
            running = [s.run for s in trials.states() if s.state == "running"]
            most_at_once = max(most_at_once, len(running))
            for run in runs:
                environment = environment_of(run)
                if environment is not None:
                    seen[run.name] = environment["CUDA_VISIBLE_DEVICES"]
        states = {state.run: state for state in trials.states()}
    assert [states[run.name].state for run in runs] == ["finished"] * 3
    assert most_at_once == 2
    assert seen == {run.name: "0" for run in runs}
    with pytest.raises(ConfigError, match=r"gpus on any of its machines.*got 2"):
        start_trials(runs, Resources(cpus=1, gpus=2, memory_gb=1), cluster.address)
