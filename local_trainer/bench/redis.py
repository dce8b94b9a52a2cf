"""How fast episodes go through Redis, measured against Coach's own way in the same run.

Coach's way: an episode of transitions, pickled, through Redis pub/sub (`RedisPubSubBackend` and
`RedisSub`, unmodified). Ours: `RedisTransport`, orders and acknowledgements included. Both send the
same episodes, driven in the embedded simulator, from a process of their own through one server,
and take turns. A side's bytes are what its server sends to the trainer.

Episodes are of two kinds: those of 100 steps, as a training sends them once its policy drives, and
those of a beginner, which leave the road after some 20 and so cost more a transition.

``python -m local_trainer.bench.redis SIDE KIND PORT`` is the sending process: it sends all episodes
each time a line arrives.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from local_trainer.actions import default_action_space
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.net import free_port
from local_trainer.rollout import Exploration, Rollout
from local_trainer.transport import Order, RedisTransport
from sim.embedded import EmbeddedSimulator
from sim.simulator import EpisodeRules, EpisodeStart
from sim.track_files import load_track

NUM_EPISODES = 40
_MAX_STEPS = 100
_CHANNEL = "bench"
_RUN = "bench"
_SIDES = ("pickle", "ours")
_RULES = {
    # Whoever leaves the road is put back on it and goes on.
    "driving": EpisodeRules(max_steps=_MAX_STEPS, max_resets=_MAX_STEPS),
    "beginner": EpisodeRules(max_steps=_MAX_STEPS),
}
_START_LIMIT_S = 20.0


def run(rounds: int = 5) -> dict[str, Any]:
    """Return the figures of ``local-trainer bench redis``.

    Args:
        rounds: How often each side takes its turn.

    Returns:
        ``transitions_per_second`` (ours), ``bytes_per_transition`` (ours), ``ratio_to_pickle``
        (median over the rounds of our speed over pickle's in the same round),
        ``share_of_pickle_bytes``, and the same figures of the other side; under ``beginner`` all
        of them again for a beginner's episodes.

    Raises:
        ConfigError: If there is no Redis server program.
        RunFailed: If a side does not start.
    """
    with redis_server() as port:
        return {
            **_compare("driving", rounds, port),
            "beginner": _compare("beginner", rounds, port),
        }


def _compare(kind: str, rounds: int, port: int) -> dict[str, Any]:
    """Return both sides' figures with episodes of one kind."""
    speeds: dict[str, list[float]] = {side: [] for side in _SIDES}
    num_bytes = dict.fromkeys(_SIDES, 0.0)
    transitions = sum(len(episode.steps) for episode in driven_episodes(kind))
    receive = {"pickle": _receive_pickled(port), "ours": _receive_ours(port)}
    senders = {side: _start_sender(side, kind, port) for side in _SIDES}
    try:
        for number in range(rounds + 1):  # the first round opens connections; it is not counted
            for side in _SIDES:
                before = _bytes_sent(port)
                began = time.perf_counter()
                found = receive[side](senders[side])
                seconds = time.perf_counter() - began
                if found != transitions:
                    raise RunFailed(
                        f"bench redis: {side} delivered {found} transitions of {transitions}."
                    )
                if number:
                    speeds[side].append(transitions / seconds)
                    num_bytes[side] += (_bytes_sent(port) - before) / transitions / rounds
    finally:
        for sender in senders.values():
            sender.kill()
            sender.wait()
    ratios = [ours / other for ours, other in zip(speeds["ours"], speeds["pickle"], strict=True)]
    return {
        "transitions_per_second": statistics.median(speeds["ours"]),
        "bytes_per_transition": num_bytes["ours"],
        "ratio_to_pickle": statistics.median(ratios),
        "share_of_pickle_bytes": num_bytes["ours"] / num_bytes["pickle"],
        "pickle_transitions_per_second": statistics.median(speeds["pickle"]),
        "pickle_bytes_per_transition": num_bytes["pickle"],
        "transitions": transitions,
        "episodes": NUM_EPISODES,
    }


# What is sent.


class _AnyAction:
    """A policy without preference."""

    def __init__(self, num_actions: int) -> None:
        self._num_actions = num_actions

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        return np.full((len(observations), self._num_actions), 1.0 / self._num_actions, np.float32)


class _NoReward:
    def rewards(self, steps: np.ndarray) -> np.ndarray:
        return np.ones(len(steps))


def driven_episodes(kind: str) -> list[Episode]:
    """Return episodes of random actions with pictures, the same in every process.

    Args:
        kind: ``driving`` or ``beginner``.
    """
    actions = default_action_space()
    simulator = EmbeddedSimulator(load_track("reinvent_base"), NUM_EPISODES, seed=0)
    rollout = Rollout(simulator, actions, _NoReward(), seed=0)
    starts = [EpisodeStart(n, n / NUM_EPISODES, rules=_RULES[kind]) for n in range(NUM_EPISODES)]
    policy = _AnyAction(len(actions))
    exploration = Exploration("categorical")
    found = rollout.play(policy, starts, "training", 0, exploration, keeps_pictures=True)
    return sorted(found, key=lambda episode: episode.index)


def coach_episode(episode: Episode) -> Any:
    """Return an episode as Coach's rollout worker would have made it."""
    from coach_presets.compat import tf  # noqa: F401  (makes rl_coach importable)

    from rl_coach.core_types import Episode as CoachEpisode
    from rl_coach.core_types import Transition

    assert episode.observations is not None and episode.probabilities is not None
    assert episode.final_observation is not None
    pictures = [*episode.observations, episode.final_observation]
    # As in Coach, a transition's next state is the object that the next one begins with.
    states = [{"observation": picture.copy()} for picture in pictures]
    result = CoachEpisode(discount=0.95)
    for step, action in enumerate(episode.actions):
        info = {"all_action_probabilities": episode.probabilities[step]}
        transition = Transition(
            state=states[step],
            action=int(action),
            reward=float(episode.rewards[step]),
            next_state=states[step + 1],
            game_over=step == len(episode.actions) - 1,
            info=info,
        )
        result.insert(transition)
    result.update_discounted_rewards()
    return result


# The receiving side, in this process.


def _receive_pickled(port: int) -> Callable[[subprocess.Popen[str]], int]:
    from coach_presets.compat import tf  # noqa: F401

    from rl_coach.core_types import EnvironmentEpisodes
    from rl_coach.memories.backend.redis import RedisSub

    subscription = RedisSub("127.0.0.1", port, _CHANNEL)

    def receive(sender: subprocess.Popen[str]) -> int:
        _say_go(sender)
        return sum(1 for _ in subscription.run(EnvironmentEpisodes(NUM_EPISODES)))

    return receive


def _receive_ours(port: int) -> Callable[[subprocess.Popen[str]], int]:
    transport = RedisTransport(_url(port), _RUN)
    rounds = iter(range(1_000_000))

    def receive(sender: subprocess.Popen[str]) -> int:
        number = next(rounds)
        orders = [
            Order(EpisodeStart(n), "training", number, "policy", Exploration("categorical"), True)
            for n in range(NUM_EPISODES)
        ]
        _say_go(sender)
        return sum(len(episode.steps) for episode in transport.play(orders))

    return receive


def _say_go(sender: subprocess.Popen[str]) -> None:
    assert sender.stdin is not None
    sender.stdin.write("go\n")
    sender.stdin.flush()


def _bytes_sent(port: int) -> int:
    """Return how many bytes the server has sent to anybody."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"INFO stats\r\nQUIT\r\n")
        text = b""
        while chunk := connection.recv(65536):
            text += chunk
    line = next(line for line in text.splitlines() if line.startswith(b"total_net_output_bytes:"))
    return int(line.partition(b":")[2])


# The sending side, in a process of its own.


def _start_sender(side: str, kind: str, port: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, side, kind, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise RunFailed(f"bench redis: the side {side} ended with status {process.wait()}.")
    return process


def _send_pickled(kind: str, port: int) -> Callable[[], None]:
    episodes = [coach_episode(episode) for episode in driven_episodes(kind)]
    from rl_coach.memories.backend.redis import (
        RedisPubSubBackend,
        RedisPubSubMemoryBackendParameters,
    )

    backend = RedisPubSubBackend(RedisPubSubMemoryBackendParameters("127.0.0.1", port, _CHANNEL))

    def send() -> None:
        for episode in episodes:
            backend.store(episode)

    return send


def _send_ours(kind: str, port: int) -> Callable[[], None]:
    episodes = driven_episodes(kind)
    transport = RedisTransport(_url(port), _RUN)

    def send() -> None:
        num_sent = 0
        while num_sent < len(episodes):
            for taken in transport.take("sender", 1.0, most=len(episodes)):
                transport.deliver(taken, episodes[taken.order.start.episode])
                num_sent += 1

    return send


def main(side: str, kind: str, port: int) -> None:
    """Send all episodes each time a line arrives."""
    send = {"pickle": _send_pickled, "ours": _send_ours}[side](kind, port)
    print("ready", flush=True)
    for _ in sys.stdin:
        send()


# The server.


@contextmanager
def redis_server() -> Iterator[int]:
    """Run a server on loopback with the settings of docker-compose.yml, and yield its port.

    Raises:
        ConfigError: If there is no redis-server program.
        RunFailed: If it does not start.
    """
    if shutil.which("redis-server") is None:
        raise ConfigError(
            "bench redis needs redis-server: on Debian, sudo apt install redis-server"
        )
    port = free_port()
    with TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--appendonly", "yes", "--save", "", "--logfile", str(Path(folder) / "log")]
        command += ["--maxmemory", "512mb", "--maxmemory-policy", "noeviction"]
        # A subscriber that lags by 32 MB is cut off by default, and Coach's then waits for ever.
        command += ["--client-output-buffer-limit", "pubsub 0 0 0"]
        process = subprocess.Popen(command)
        try:
            RedisTransport(_url(port), _RUN).wait_until_up(_START_LIMIT_S)
            yield port
        finally:
            process.terminate()
            process.wait()


def _url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
