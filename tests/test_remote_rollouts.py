"""Rollout workers in other processes: the same training, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from contract.redis_server import PASSWORD, RedisServer, start_redis
from training import ROOT, TINY, wait_for_iteration, wait_until

from local_trainer.config import resolve_config
from local_trainer.progress import EpisodeEvent, read_events
from local_trainer.run_files import create_run
from local_trainer.runs import Run

pytestmark = pytest.mark.slow

EPISODES = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same training in one process."""
    run = new_run(tmp_path_factory.mktemp("here"))
    process = start_worker("trainer", run, {})
    assert process.wait(timeout=300) == 0, log_of(run, "trainer")
    return run


def new_run(folder: Path, **changes: object) -> Run:
    sets = [f"{key}={value}" for key, value in TINY.items()]
    given = {"run": "remote", "workers": 2, "stop.until": "never", "stop.episodes": EPISODES}
    given["precision"] = "fp32"  # as a frozen graph computes, wherever it acts
    return create_run(resolve_config(None, sets, {**given, **changes}), folder)


def start_worker(
    name: str, run: Run, environment: dict[str, str], *more: str
) -> subprocess.Popen[bytes]:
    log = run.path / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", f"local_trainer.workers.{name}", "--run", str(run.path)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, *more],
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def log_of(run: Run, name: str) -> str:
    return (run.path / "logs" / f"{name}.log").read_text()


@dataclass
class Stack:
    """A trainer and its rollout workers; what is started is ended."""

    run: Run
    server: RedisServer
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        place = {"REDIS_URL": self.server.url, "REDIS_PASSWORD": PASSWORD}
        # All of a machine's processes have its clock, a wrong one too.
        place |= self.server.environment
        self.processes.append(start_worker(name, self.run, place, *more))
        return self.processes[-1]

    def start_trainer(self) -> subprocess.Popen[bytes]:
        return self.start("trainer", "--remote")

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def stack_of(folder: Path, server: RedisServer, **changes: object) -> Iterator[Stack]:
    stack = Stack(new_run(folder, **changes), server)
    try:
        yield stack
    finally:
        stack.end()


def assert_same_training(run: Run, other: Run) -> None:
    """Compare every step, action, reward and metric; the clocks and the order of arrival differ."""
    for file in sorted((other.path / "steps").glob("*-?.npz")):  # the final laps name their time
        with np.load(run.path / "steps" / file.name) as found, np.load(file) as expected:
            assert found.files == expected.files
            for name in set(expected.files) - {"wall_clock", "probabilities"}:
                assert np.array_equal(found[name], expected[name]), (file.name, name)
            # A frozen graph is computed in another order: the last bits may differ.
            if "probabilities" in expected.files:
                np.testing.assert_allclose(
                    found["probabilities"], expected["probabilities"], rtol=0.0, atol=1e-6
                )
    assert (run.path / "steps" / "training-1.npz").exists()
    for name in ("training_metrics.json", "metrics/TrainingMetrics.json"):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes()
    keys = ("iteration", "episodes", "steps", "best_checkpoint", "best_progress_percent", "status")
    status, expected_status = run.read_status(), other.read_status()
    for key in keys:
        assert getattr(status, key) == getattr(expected_status, key), key


def num_played(run: Run) -> int:
    return sum(isinstance(event, EpisodeEvent) for event in read_events(run.progress_file))


def test_workers_elsewhere_give_the_same_training(
    tmp_path: Path, server: RedisServer, here: Run
) -> None:
    with stack_of(tmp_path, server) as stack:
        trainer = stack.start_trainer()
        workers = [stack.start("rollout", "--index", str(index)) for index in range(2)]
        assert trainer.wait(timeout=300) == 0, log_of(stack.run, "trainer")
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=30) == 0, log_of(stack.run, "rollout")
    assert_same_training(stack.run, here)
    assert stack.run.report_file.exists()


def test_a_killed_worker_s_episodes_are_played_by_the_other(
    tmp_path: Path, server: RedisServer, here: Run
) -> None:
    with stack_of(tmp_path, server) as stack:
        trainer = stack.start_trainer()
        killed = stack.start("rollout", "--index", "0")
        wait_until(lambda: num_played(stack.run) >= 3)
        stack.start("rollout", "--index", "1")
        os.killpg(killed.pid, signal.SIGKILL)
        assert trainer.wait(timeout=300) == 0, log_of(stack.run, "trainer")
    assert_same_training(stack.run, here)


def test_a_killed_redis_is_waited_for(tmp_path: Path, here: Run) -> None:
    server = start_redis(tmp_path)
    with stack_of(tmp_path, server) as stack:
        trainer = stack.start_trainer()
        for index in range(2):
            stack.start("rollout", "--index", str(index))
        wait_until(lambda: num_played(stack.run) >= 13)
        server.kill()
        wait_until(lambda: "waits for Redis" in log_of(stack.run, "rollout"))
        server.start()
        assert trainer.wait(timeout=300) == 0, log_of(stack.run, "trainer")
    server.kill()
    assert_same_training(stack.run, here)


def test_a_killed_trainer_goes_on_with_what_was_played(
    tmp_path: Path, server: RedisServer, here: Run
) -> None:
    with stack_of(tmp_path, server) as stack:
        killed = stack.start_trainer()
        for index in range(2):
            stack.start("rollout", "--index", str(index))
        wait_for_iteration(stack.run, 1)
        wait_until(lambda: num_played(stack.run) >= 13)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert stack.run.read_status().status == "interrupted"
        assert stack.start_trainer().wait(timeout=300) == 0, log_of(stack.run, "trainer")
    assert_same_training(stack.run, here)


@pytest.mark.parametrize("jump", ["+3h", "-3h"])
def test_a_clock_that_jumps_by_hours_changes_nothing(tmp_path: Path, here: Run, jump: str) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("no libfaketime on this machine (Debian: apt-get install libfaketime)")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    clock = {
        # Debian's Redis has jemalloc, which asks for the time before libfaketime can tell it and
        # then never starts: the C library's own allocator comes first.
        "LD_PRELOAD": f"{library}:libc.so.6",
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # a real one does not jump either
    }
    server = start_redis(tmp_path, environment=clock)
    with stack_of(tmp_path, server) as stack:
        trainer = stack.start_trainer()
        for index in range(2):
            stack.start("rollout", "--index", str(index))
        wait_until(lambda: num_played(stack.run) >= 3)
        before = time.time()
        offset.write_text(jump)
        assert trainer.wait(timeout=300) == 0, log_of(stack.run, "trainer")
    server.kill()
    events = read_events(stack.run.progress_file)
    *_, last = (event.time for event in events if isinstance(event, EpisodeEvent))
    hours = (last - before) / 3600.0
    assert hours > 2.9 if jump == "+3h" else hours < -2.9  # they did see it
    assert_same_training(stack.run, here)


def test_a_reward_function_that_raises_ends_the_run_with_its_line(
    tmp_path: Path, server: RedisServer
) -> None:
    reward = tmp_path / "bad.py"
    reward.write_text(
        "def reward_function(params):\n"
        "    if params['steps'] > 15:\n"
        "        raise KeyError('speed_limit')\n"
        "    return 1.0\n"
    )
    with stack_of(tmp_path, server, **{"files.reward": str(reward)}) as stack:
        trainer = stack.start_trainer()
        worker = stack.start("rollout")
        assert trainer.wait(timeout=300) == 2
        message = json.loads(stack.run.failure_file.read_text())["message"]
        assert "raised KeyError: 'speed_limit'" in message and "\n" not in message
        assert "remote/reward_function.py:3" in message and "steps=16" in message
        assert stack.run.read_status().status == "failed"
        assert worker.poll() is None  # it waits for the next order
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0, log_of(stack.run, "rollout")


def test_workers_that_nobody_counts_have_logs_of_their_own_and_can_end_by_themselves(
    tmp_path: Path, server: RedisServer
) -> None:
    with stack_of(tmp_path, server) as stack:
        workers = [stack.start("rollout", "--idle-limit-s", "3") for _ in range(2)]
        for worker in workers:
            assert worker.wait(timeout=120) == 0, log_of(stack.run, "rollout")
        assert log_of(stack.run, "rollout").count("ends: no order for 3 s") == 2
        assert len(list((stack.run.path / "logs").glob("reward-*.log"))) == 2
        assert not (stack.run.path / "logs/reward.log").exists()


def test_a_wrong_password_is_told_in_one_line(tmp_path: Path, server: RedisServer) -> None:
    run = new_run(tmp_path)
    place = {"REDIS_URL": server.url, "REDIS_PASSWORD": "guessed"}
    for name, more in (("trainer", ["--remote"]), ("rollout", [])):
        assert start_worker(name, run, place, *more).wait(timeout=120) == 2
        log = log_of(run, name)
        assert "refuses the password" in log and "Traceback" not in log and "guessed" not in log
    assert "refuses the password" in run.read_status().reason


def test_without_a_server_the_setting_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert start_worker("rollout", run, {"REDIS_URL": ""}).wait(timeout=60) == 2
    assert "REDIS_URL must be set" in log_of(run, "rollout")
