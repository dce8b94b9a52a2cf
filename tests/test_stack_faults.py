"""What happens to a training in containers when something under it fails; all of it for real.

What is killed is killed in the middle of an iteration. Afterwards the training must be the same,
step by step, as one that nothing happened to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from containers import compose, docker, open_run_bucket
from training import wait_until, write_slow_reward

from local_trainer.checkpoints import list_checkpoints, list_states
from local_trainer.launch.containers import IMAGE
from local_trainer.manifest import verify
from local_trainer.net import free_port
from local_trainer.progress import EpisodeEvent, PhaseEvent, read_events
from local_trainer.runs import Run
from local_trainer.step_files import read_steps

pytestmark = [pytest.mark.docker, pytest.mark.gazebo]

ROOT = Path(__file__).parents[1]
PER_ITERATION = 12
ITERATIONS = 6
CUT_ITERATIONS = 10
SETTINGS = {
    "ppo.episodes_between_training": PER_ITERATION,
    "ppo.batch_size": 16,
    "ppo.optimization_epochs": 1,
    "evaluation.every_iterations": 100,
    "evaluation.trials": 1,
    "evaluation.max_steps": 40,
    "episodes.max_steps": 60,
    # From the middle of the road an untrained policy lasts longest, so there is time to kill.
    "episodes.start_sideways_m": 0.0,
    "episodes.start_turn_deg": 0.0,
}
LIMIT_S = 600.0
"""For a training; on a quiet machine the longest takes a quarter of it."""
CUT_S = 60.0
SMALL_DISK = {
    "services": {
        # The disk is there as long as somebody holds it.
        "keeper": {
            "image": IMAGE,
            "user": "0:0",
            "entrypoint": ["sleep", "infinity"],
            "init": True,
            "volumes": ["minio:/data"],
            "network_mode": "none",
        },
        "minio-bucket": {"depends_on": {"keeper": {"condition": "service_started"}}},
        # What it writes to this disk is memory, and counts as its own.
        "minio": {"mem_limit": "3g"},
    },
    "volumes": {
        "minio": {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1600m"}},
    },
}
"""For Compose: MinIO on a small disk, and a container that can fill it."""


@dataclass
class Stack:
    """A stack of its own beside one that may run; gone afterwards."""

    folder: Path
    environment: dict[str, str]
    trainings: list[Training] = field(default_factory=list)

    def train(self, name: str, iterations: int, *more: str, workers: int = 2) -> Training:
        sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        place = ["--simulator", "gazebo", "--name", name, "--until", "never", *sets]
        size = ["--workers", str(workers), "--episodes", str(PER_ITERATION * iterations)]
        return self.start(name, ["train", *place, *size, *more])

    def start(self, name: str, arguments: list[str]) -> Training:
        output = self.folder / f"{name}-{len(self.trainings)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "local_trainer", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.trainings.append(Training(self, Run(self.folder / "runs" / name), process, output))
        return self.trainings[-1]

    def service(self, name: str, number: int = 1) -> str:
        return f"{self.environment['COMPOSE_PROJECT_NAME']}-{name}-{number}"

    def end(self) -> None:
        for training in self.trainings:
            training.kill()
        project = self.environment["COMPOSE_PROJECT_NAME"]
        label = f"label=com.docker.compose.project={project}"
        names = docker("ps", "--all", "--quiet", "--filter", label).split()
        if names:
            docker("rm", "--force", "--volumes", *names)
        compose(self.environment, "down", "--volumes", "--remove-orphans")


@dataclass
class Training:
    """One start of a training as a user starts it, and what their terminal shows."""

    stack: Stack
    run: Run
    process: subprocess.Popen[bytes]
    output: Path

    def container(self, part: str) -> str:
        return self.stack.service(f"run-{self.run.name}-{part}", 0).removesuffix("-0")

    def shown(self) -> str:
        return self.output.read_text(errors="replace")

    def episodes(self, iteration: int) -> list[EpisodeEvent]:
        """Return the training episodes of an iteration as far as they are known here."""
        return [
            event
            for event in read_events(self.run.progress_file)
            if isinstance(event, EpisodeEvent)
            and (event.phase, event.iteration) == ("training", iteration)
        ]

    def wait_for_begin(self, iteration: int) -> None:
        begin = ("rollout", iteration)
        self.wait_for(
            lambda: any(
                isinstance(event, PhaseEvent) and (event.phase, event.iteration) == begin
                for event in read_events(self.run.progress_file)
            )
        )

    def wait_for_middle(self, iteration: int) -> None:
        """Wait until some episodes of an iteration have been played and others not."""
        self.wait_for(lambda: len(self.episodes(iteration)) >= 2)

    def wait_for_line(self, *parts: str) -> None:
        self.wait_for(
            lambda: any(all(p in line for p in parts) for line in self.shown().splitlines())
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        def is_over() -> bool:
            assert self.process.poll() in (None, 0), self.shown()[-3000:]
            return condition()

        wait_until(is_over, LIMIT_S)

    def finish(self) -> None:
        assert self.process.wait(timeout=LIMIT_S) == 0, self.shown()[-3000:]

    def kill(self) -> None:
        """Kill the command and the process that it started."""
        children = subprocess.run(
            ["pgrep", "-f", f"local_trainer.workers.stack --run {self.run.path}"], **CAPTURED
        ).stdout.split()
        relative = Path("runs") / self.run.name
        children += subprocess.run(
            ["pgrep", "-f", f"local_trainer.workers.stack --run {relative}$"], **CAPTURED
        ).stdout.split()
        for pid in [self.process.pid, *map(int, children)]:
            if Path(f"/proc/{pid}/cwd").exists() and is_below(pid, self.stack.folder):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


CAPTURED: dict = {"text": True, "capture_output": True}


def is_below(pid: int, folder: Path) -> bool:
    """Return whether a process works in a folder: only our own are killed."""
    return Path(f"/proc/{pid}/cwd").resolve() == folder.resolve()


def main_processes(*containers: str) -> list[int]:
    """Return the process ids of containers on this machine."""
    pids = [
        int(pid) for pid in docker("inspect", "--format", "{{.State.Pid}}", *containers).split()
    ]
    assert all(pid > 1 for pid in pids)
    return pids


def kill_at_once(pids: list[int]) -> float:
    """SIGKILL from outside, and the time: ``docker kill`` would tell the engine not to restart."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    except PermissionError:
        rights = ["--pid", "host", "--user", "0:0", "--cap-drop", "ALL", "--cap-add", "KILL"]
        kill = ["--entrypoint", "sh", IMAGE, "-c", f"kill -9 {' '.join(map(str, pids))}"]
        docker("run", "--rm", *rights, "--network", "none", *kill)
    return time.time()


def new_stack(folder: Path, override: dict | None = None) -> Stack:
    image = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True)
    if image.returncode:
        pytest.skip("no images: sudo scripts/prepare-docker; local-trainer stack build")
    files = os.environ.get("COMPOSE_FILE") or str(ROOT / "docker-compose.yml")
    if override is not None:
        (folder / "override.yml").write_text(yaml.safe_dump(override))
        files += f":{folder / 'override.yml'}"
    ports = free_port(), free_port()
    values = {
        "COMPOSE_PROJECT_NAME": f"local-trainer-{folder.name}-{ports[0]}",
        "COMPOSE_FILE": files,
        "COMPOSE_ANSI": "never",
        "REDIS_PORT": str(ports[0]),
        "MINIO_PORT": str(ports[1]),
        "PYTHONPATH": str(ROOT),
    }
    return Stack(folder, {**os.environ, **values})


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = new_stack(tmp_path_factory.mktemp("faults"))
    yield stack
    stack.end()


@pytest.fixture(scope="module")
def two_at_once(stack: Stack) -> tuple[Training, Training]:
    """Two trainings on one Redis and MinIO; a worker of one of them is cut off."""
    # Slow enough to be at work when the worker comes back, on a machine of any speed.
    reward = write_slow_reward(stack.folder)
    cut = stack.train("cut", CUT_ITERATIONS, "--reward", str(reward))
    calm = stack.train("calm", ITERATIONS, workers=1)
    calm.wait_for_middle(0)
    cut.wait_for_middle(0)
    worker = cut.container("rollout-0")
    shape = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
    networks = docker("inspect", "--format", shape, worker).split()
    assert len(networks) == 2
    for network in networks:
        docker("network", "disconnect", network, worker)
    began = time.monotonic()
    cut.wait_for_line("rollout-0: ", "waits for Redis")
    wait_until(lambda: time.monotonic() - began > CUT_S, 2 * CUT_S)
    for network in networks:
        docker("network", "connect", network, worker)
    for training in (calm, cut):
        training.finish()
    return calm, cut


def check_whole(training: Training, iterations: int) -> None:
    """Check that nothing is lost, doubled or damaged, here and in the bucket."""
    from coach_presets.checkpoints import FrozenPolicy, read_checkpoint

    run = training.run
    count = iterations * PER_ITERATION
    status = run.read_status()
    assert (status.status, status.iteration, status.episodes) == ("finished", iterations, count)
    metrics = json.loads(run.training_metrics_file.read_text())["metrics"]
    played = [m["episode"] for m in metrics if m["phase"] == "training"]
    assert played == list(range(1, count + 1))
    for iteration in range(iterations):
        first = iteration * PER_ITERATION
        numbers = [episode.index for episode in read_steps(run.steps_file("training", iteration))]
        assert numbers == list(range(first, first + PER_ITERATION))
    checkpoints = list_checkpoints(run.model_dir)
    assert checkpoints[-1].number == iterations
    for checkpoint in checkpoints:
        assert read_checkpoint(checkpoint.prefix(run.model_dir))
        FrozenPolicy(checkpoint.frozen_graph(run.model_dir), 1).close()
    for state in list_states(run):
        assert read_checkpoint(run.path / "resume" / f"{state.number}.ckpt")
    verification = verify(run)
    assert verification.is_whole and verification.num_artefacts > 20, verification
    sizes = {
        item.key: item.size_bytes
        for item in open_run_bucket(training.stack.environment, run.name).objects()
    }
    for path in run.model_dir.iterdir():
        assert sizes[f"model/{path.name}"] == path.stat().st_size
    assert not [name for name in sizes if name.startswith("failure")]
    assert "Traceback" not in training.shown() and "error: " not in training.shown()


def check_same(training: Training, other: Training, iterations: int) -> None:
    """Check that two trainings saw the same, did the same and earned the same.

    They have as many workers: how many pictures a network sees at once moves its last bits.
    """
    for iteration in range(iterations):
        files = [t.run.steps_file("training", iteration) for t in (training, other)]
        with np.load(files[0]) as found, np.load(files[1]) as expected:
            assert found.files == expected.files
            for name in set(expected.files) - {"wall_clock", "probabilities"}:
                assert np.array_equal(found[name], expected[name]), (iteration, name)


def test_two_runs_at_once_are_both_whole(
    two_at_once: tuple[Training, Training],
) -> None:
    calm, cut = two_at_once
    check_whole(calm, ITERATIONS)
    check_whole(cut, CUT_ITERATIONS)
    first, last = calm.episodes(0)[0].time, calm.episodes(ITERATIONS - 1)[-1].time
    assert cut.episodes(0)[0].time < last and first < cut.episodes(CUT_ITERATIONS - 1)[-1].time


def test_a_worker_that_is_cut_off_for_a_minute_holds_nobody_up(
    two_at_once: tuple[Training, Training],
) -> None:
    _, cut = two_at_once
    log = (cut.run.path / "logs" / "rollout-0.log").read_text()
    assert "lost the simulator" in log  # what it had begun did not count


def test_whatever_is_killed_the_training_is_the_same(
    stack: Stack, two_at_once: tuple[Training, Training]
) -> None:
    reward = write_slow_reward(stack.folder)
    training = stack.train("killed", ITERATIONS, "--reward", str(reward))
    victims = [
        training.container("rollout-0"),
        stack.service("gazebo"),
        stack.service("redis"),
        stack.service("minio"),
        training.container("trainer"),
    ]
    killed_at = []
    for iteration, victim in enumerate(victims):
        training.wait_for_begin(iteration)
        pids = main_processes(victim)
        training.wait_for_middle(iteration)
        killed_at.append(kill_at_once(pids))
    training.finish()
    check_whole(training, ITERATIONS)
    check_same(training, two_at_once[1], ITERATIONS)
    for iteration, when in enumerate(killed_at):
        times = [event.time for event in training.episodes(iteration)]
        assert min(times) < when < max(times), victims[iteration]
    shown = training.shown()
    for part in ("rollout-0", "trainer"):
        assert f"{part} ended with status 137 and is started again" in shown
    assert "waits for Redis" in shown


def test_after_a_restart_of_the_host_the_training_goes_on(
    stack: Stack, two_at_once: tuple[Training, Training]
) -> None:
    training = stack.train("host", 2)
    training.wait_for_middle(0)
    compose(stack.environment, "restart", "--timeout", "5", "redis", "minio", "gazebo")
    training.wait_for_middle(1)
    # The machine goes down: everything ends at once, and so does the command.
    label = f"label=com.docker.compose.project={stack.environment['COMPOSE_PROJECT_NAME']}"
    everything = main_processes(*docker("ps", "--quiet", "--filter", label).split())
    training.kill()
    kill_at_once(everything)
    wait_until(lambda: training.run.read_status().status == "interrupted", 10.0)
    again = stack.start("host", ["train", "--resume", "host"])
    again.finish()
    check_whole(again, 2)
    check_same(again, two_at_once[1], 2)


def test_a_full_object_store_is_told_and_waited_for(
    tmp_path_factory: pytest.TempPathFactory, two_at_once: tuple[Training, Training]
) -> None:
    stack = new_stack(tmp_path_factory.mktemp("small"), SMALL_DISK)
    try:
        compose(stack.environment, "up", "--detach", "--wait", "keeper", "minio")
        keeper = stack.service("keeper")
        docker("exec", keeper, "dd", "if=/dev/zero", "of=/data/ballast", "bs=1M", "count=1450")
        training = stack.train("full", 3)
        training.wait_for_line("trainer: the run is not in the store yet: Cannot write s3://")
        docker("exec", keeper, "rm", "/data/ballast")
        training.finish()
        check_whole(training, 3)
        check_same(training, two_at_once[1], 3)
    finally:
        stack.end()


@pytest.mark.parametrize(
    ("service", "name", "said"),
    [
        ("trainer", "REDIS_PASSWORD", "refuses the password"),
        ("trainer", "AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
        ("rollout", "REDIS_PASSWORD", "refuses the password"),
    ],
)
def test_a_wrong_password_is_one_line_at_the_terminal(
    stack: Stack, tmp_path: Path, service: str, name: str, said: str
) -> None:
    override = {"services": {service: {"environment": {name: "guessed"}}}}
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(override))
    files = f"{stack.environment['COMPOSE_FILE']}:{tmp_path / 'wrong.yml'}"
    wrong = Stack(tmp_path, {**stack.environment, "COMPOSE_FILE": files})
    training = wrong.train(f"wrong-{service}-{name.lower().replace('_', '-')}", 1, workers=1)
    assert training.process.wait(timeout=LIMIT_S) != 0
    lines = [line for line in training.shown().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said in lines[0], training.shown()[-3000:]
    assert "guessed" not in training.shown() and "Traceback" not in training.shown()
