"""How one model's training grows with rollout workers, and what each part of it costs.

The workers are the processes that a cluster's nodes run (`local_trainer.workers.rollout`), here on
one machine, and meet this process in a Redis server of the measurement's own, as in a training.
What a part costs is its processor time, which other work on the machine hardly changes; how many
steps a second come out is wall-clock time and ends where the machine's cores are used up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from local_trainer.bench.redis import redis_server
from local_trainer.checkpoints import TrainerState
from local_trainer.config import RunConfig, load_config, resolve_config
from local_trainer.episodes import Episode
from local_trainer.errors import RunFailed
from local_trainer.machine import num_cpus
from local_trainer.players import RemotePlayers
from local_trainer.rollout import training_exploration, training_starts
from local_trainer.run_files import create_run
from local_trainer.runs import Run
from local_trainer.transport import RedisTransport, encode_episode

if TYPE_CHECKING:
    from coach_presets.agent import LocalPPOAgent

COUNTS = (1, 2, 4)
LEAST_GAIN = 1.1
"""More workers that bring less than this much more have stopped to help."""

_BROADCASTS = 5
_ALONE = 10
"""How many episodes a car drives alone."""

_END_S = 20.0


def run(rollouts: int = 3, counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """Return the figures of ``local-trainer bench scale``.

    Args:
        rollouts: How many rollouts of the default length are measured with each number of workers.
        counts: The numbers of workers.

    Returns:
        ``steps_per_second`` by number of workers; ``stops_growing_at``, the number after which
        more bring less than a tenth (None: not yet); ``bytes_per_transition`` as sent;
        ``policy_bytes``, ``checkpoint_bytes`` and ``resume_bytes``; ``broadcast_s``, one policy to
        the server and from there to one worker; processor milliseconds a transition of a worker
        and of the trainer's receiving; ``seconds_per_step_of_one_car``;
        ``gradient_samples_per_second`` of one update.

    Raises:
        ConfigError: If there is no Redis server program.
        RunFailed: If a worker does not start.
    """
    speeds: dict[int, float] = {}
    costs: dict[str, float] = {}
    episodes: list[Episode] = []
    with TemporaryDirectory() as folder, redis_server() as port:
        url = f"redis://127.0.0.1:{port}/0"
        first = _new_run(Path(folder), counts[0])
        agent = _agent(first)
        sizes = _sizes(agent, first)
        for count in counts:
            made = first if count == counts[0] else _new_run(Path(folder), count)
            speeds[count], used, episodes = _measure(made, url, agent, rollouts)
            costs = costs or used  # of the fewest workers: those that share a core wait for it
        broadcast_s = _broadcast_s(url, agent)
        update = _update(agent, load_config(first.config_file), episodes)
    transitions = sum(len(episode.steps) for episode in episodes)
    sent = sum(len(data) for e in episodes for data in encode_episode(e).values())
    return {
        "processors": num_cpus(),
        "steps_per_second": {str(count): speed for count, speed in speeds.items()},
        "stops_growing_at": stops_growing_at(speeds),
        "bytes_per_transition": sent / transitions,
        "transitions_per_rollout": transitions,
        **sizes,
        "broadcast_s": broadcast_s,
        **costs,
        "gradient_samples_per_second": update,
    }


def stops_growing_at(speeds: dict[int, float]) -> int | None:
    """Return the number of workers after which more bring less than a tenth; None if not yet.

    Args:
        speeds: Steps a second by number of workers, in rising order.
    """
    counts = list(speeds)
    for fewer, more in zip(counts, counts[1:], strict=False):
        if speeds[more] < LEAST_GAIN * speeds[fewer]:
            return fewer
    return None


def _new_run(folder: Path, workers: int) -> Run:
    return create_run(resolve_config(overrides={"run": f"w{workers}", "workers": workers}), folder)


def _agent(made: Run) -> LocalPPOAgent:
    from coach_presets.agent import SessionSettings, build_agent
    from coach_presets.preset import agent_parameters
    from local_trainer.actions import load_action_space
    from local_trainer.machine import has_fast_bf16

    config, actions = load_config(made.config_file), load_action_space(made.metadata_file)
    session = SessionSettings(num_cpus(), has_fast_bf16(), False)
    return build_agent(
        agent_parameters(config.ppo), len(actions), actions.default_action, config.seed, session
    )


def _sizes(agent: LocalPPOAgent, made: Run) -> dict[str, int]:
    """Return what a policy and a checkpoint take, in bytes."""
    from coach_presets.acting import ActingAgent
    from coach_presets.checkpoints import CheckpointWriter

    CheckpointWriter(agent, made).write(TrainerState(0, 0, 0, 0, 0.0, 0))
    found = {
        name: sum(path.stat().st_size for path in (made.path / name).glob("0*"))
        for name in ("model", "resume")
    }
    return {
        "policy_bytes": len(ActingAgent(agent).graph()),
        "checkpoint_bytes": found["model"],
        "resume_bytes": found["resume"],
    }


def _measure(
    made: Run, url: str, agent: LocalPPOAgent, rollouts: int
) -> tuple[float, dict[str, float], list[Episode]]:
    """Return steps a second, processor milliseconds a transition, and the last episodes."""
    from coach_presets.acting import ActingAgent

    config = load_config(made.config_file)
    players = RemotePlayers(RedisTransport(url, made.name), lambda message: None)
    acting = ActingAgent(agent)
    episodes: list[Episode] = []
    num_steps = 0
    with _workers(made, url, config.workers) as processes:
        for number in range(rollouts + 1):
            if number == 1:  # the first one waits until all are up and have compiled
                began = time.perf_counter()
                before = _used(processes)
            episodes = list(_play(players, acting, config, number))
            if number:
                num_steps += sum(len(episode.steps) for episode in episodes)
        seconds = time.perf_counter() - began
        used = {name: after - before[name] for name, after in _used(processes).items()}
        alone = _alone_s(players, acting, config)
    players.close()
    costs = {f"{name}_ms_per_transition": 1000.0 * s / num_steps for name, s in used.items()}
    costs["seconds_per_step_of_one_car"] = alone
    return num_steps / seconds, costs, episodes


def _alone_s(players: RemotePlayers, acting: Any, config: RunConfig) -> float:
    """Return seconds a step of a car that drives alone: an iteration waits for its longest lap."""
    seconds, num_steps = 0.0, 0
    for number in range(1, 1 + _ALONE):
        began = time.perf_counter()
        (episode,) = _play(players, acting, config, -number, 1)
        seconds += time.perf_counter() - began
        num_steps += len(episode.steps)
    return seconds / num_steps


def _play(
    players: RemotePlayers, acting: Any, config: RunConfig, number: int, count: int | None = None
) -> Iterator[Episode]:
    count = count or config.ppo.episodes_between_training
    return players.play(
        acting,
        training_starts(config, abs(number) * count, count),
        "training",
        number,
        training_exploration(config.ppo, 0),
        keeps_pictures=True,
    )


@contextmanager
def _workers(made: Run, url: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield running worker processes; each computes with one thread, as one CPU of a node."""
    environment = {**os.environ, "REDIS_URL": url, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    processes = []
    for index in range(count):
        command = [sys.executable, "-m", "local_trainer.workers.rollout", "--run", str(made.path)]
        processes.append(
            subprocess.Popen(
                [*command, "--index", str(index)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        )
    try:
        yield processes
        ended = [process.returncode for process in processes if process.poll() is not None]
        if ended:
            raise RunFailed(f"bench scale: a rollout worker ended with status {ended[0]}.")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()
            process.wait()


def _used(processes: Sequence[subprocess.Popen[bytes]]) -> dict[str, float]:
    """Return the processor seconds that workers with their reward processes, and we, have used."""
    own = os.times()
    return {
        "worker": sum(_tree_s(process.pid) for process in processes),
        "trainer": own.user + own.system,
    }


def _tree_s(pid: int) -> float:
    """Return the processor seconds of a process and its children."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if pid in (int(stat.parent.name), int(fields[1])):
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _broadcast_s(url: str, agent: LocalPPOAgent) -> float:
    """Return seconds from freezing a policy until a worker has its bytes: the least of several."""
    from coach_presets.acting import ActingAgent

    transport, acting = RedisTransport(url, "broadcast"), ActingAgent(agent)
    acting.graph()
    seconds = []
    for number in range(_BROADCASTS):
        began = time.perf_counter()
        graph = acting.graph()
        transport.publish_policy(str(number), graph)
        if transport.policy(str(number)) != graph:
            raise RunFailed("bench scale: the policy did not arrive as it was sent.")
        seconds.append(time.perf_counter() - began)
    transport.clear()
    return min(seconds)


def _update(agent: LocalPPOAgent, config: RunConfig, episodes: list[Episode]) -> float:
    """Return gradient samples a second of one update with the default settings."""
    from coach_presets.agent import UpdateSettings

    ppo = config.ppo
    settings = UpdateSettings(
        iteration=0,
        seed=config.seed,
        max_transitions=ppo.max_update_transitions,
        bootstrap_time_up=ppo.bootstrap_time_up,
        max_kl=None,
        target_kl=ppo.target_kl,
        learning_rate_range=(0.1 * ppo.learning_rate, 2.0 * ppo.learning_rate),
        averaging=ppo.averaging,
    )
    done = agent.train_on_episodes(episodes, settings, lambda: None)
    return done.transitions * done.epochs / done.seconds
