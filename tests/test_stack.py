"""The container stack for real: two iterations against Gazebo with two rollout workers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from containers import compose, docker, open_run_bucket
from PIL import Image
from training import wait_until, write_slow_reward

from local_trainer.config import resolve_config
from local_trainer.launch.stack_training import IMAGE
from local_trainer.mirror import RunMirror
from local_trainer.net import free_port
from local_trainer.run_files import create_run
from local_trainer.runs import Run
from local_trainer.step_files import read_steps

pytestmark = [pytest.mark.docker, pytest.mark.gazebo]

ROOT = Path(__file__).parents[1]
LIMIT_S = 300.0
"""For something to happen in the stack."""
TINY = ["--workers", "2", "--episodes", "8", "--until", "never"]
TINY += ["--set", "ppo.episodes_between_training=4", "--set", "ppo.batch_size=16"]
TINY += ["--set", "evaluation.trials=1", "--set", "episodes.max_steps=60"]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A stack of its own beside one that may run, on free ports; gone afterwards."""
    image = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True)
    if image.returncode:
        pytest.skip("no images: sudo scripts/prepare-docker; local-trainer stack build")
    names = {"COMPOSE_PROJECT_NAME": "local-trainer-test", "COMPOSE_ANSI": "never"}
    ports = {"REDIS_PORT": str(free_port()), "MINIO_PORT": str(free_port())}
    values = {**os.environ, **names, **ports}
    yield values
    command(["stack", "down", "--volumes", "--yes"], values, ROOT)


@pytest.fixture(scope="module")
def trained(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("stack")
    done = command(["train", "--simulator", "gazebo", "--name", "tiny", *TINY], environment, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return Run(folder / "runs" / "tiny")


def command(
    arguments: list[str], environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "local_trainer", *arguments]
    return subprocess.run(
        program,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=420,
    )


def test_a_training_in_containers_leaves_a_whole_run(trained: Run) -> None:
    status = trained.read_status()
    assert (status.status, status.iteration, status.episodes) == ("finished", 2, 8)
    metrics = json.loads(trained.training_metrics_file.read_text())["metrics"]
    episodes = [m["episode"] for m in metrics if m["phase"] == "training"]
    assert episodes == list(range(1, 9))  # each once, in order
    assert trained.report_file.exists() and list(trained.plots_dir.iterdir())
    assert (trained.model_dir / "model_2.pb").stat().st_size > 20e6


def files_of(run: Run) -> set[str]:
    """Return a run's files; the steps a checkpoint was made after, and times, do not count."""
    names = (path.relative_to(run.path).as_posix() for path in run.path.rglob("*"))
    return {re.sub(r"Step-\d+|\d{8}T?\d{6}", "*", name) for name in names}


def test_it_leaves_the_same_files_as_a_training_without_containers(
    trained: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    done = command(["train", "--name", "tiny", *TINY], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    embedded = files_of(Run(tmp_path / "runs" / "tiny"))
    assert "model/2_*.ckpt.index" in embedded and "training_metrics.json" in embedded
    of_containers = {"notices.log", "stack.log", "rollout-0.log", "rollout-1.log"}
    assert files_of(trained) - embedded == {f"logs/{name}" for name in of_containers}
    assert embedded <= files_of(trained)


def test_the_bucket_holds_the_same_run(trained: Run, environment: dict[str, str]) -> None:
    sizes = {item.key: item.size_bytes for item in open_run_bucket(environment, "tiny").objects()}
    for path in trained.model_dir.iterdir():
        assert sizes[f"model/{path.name}"] == path.stat().st_size
    assert {"config.yaml", "reward_function.py", "training_metrics.json"} <= sizes.keys()


def test_a_reward_that_raises_in_a_container_is_one_line_here(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(
        "def reward_function(params):\n"
        "    print('step', params['steps'])\n"
        "    if params['steps'] > 14:\n"  # later than any that is tried before the run
        "        return params['speed_limit']\n"
        "    return 1.0\n"
    )
    arguments = ["train", "--simulator", "gazebo", "--reward", "bad.py", "--name", "bad", *TINY]
    done = command([*arguments, "--quiet"], environment, tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr[-2000:]
    assert ":4: reward_function raised KeyError: 'speed_limit'" in errors[0]
    assert "runs/bad/reward_function.py" in errors[0]
    # Either of the two workers may have driven the episode that was long enough.
    logs = (tmp_path / "runs/bad/logs").glob("reward*.log")
    assert any("step 15" in log.read_text() for log in logs)


def evaluations_in_the_stack(environment: dict[str, str], run: str) -> tuple[set[str], set[str]]:
    """Return a run's evaluations of which something lies in the bucket, and those in containers."""
    keys = [item.key for item in open_run_bucket(environment).objects(f"{run}-evaluation-")]
    project = environment["COMPOSE_PROJECT_NAME"]
    begin = f"{project}-run-{run}-evaluation-"
    names = docker("ps", "--all", "--filter", f"name={begin}", "--format", "{{.Names}}").split()
    in_containers = {name.removeprefix(f"{project}-run-").rsplit("-rollout-")[0] for name in names}
    return {key.partition("/")[0] for key in keys}, in_containers


def test_what_a_killed_evaluation_leaves_goes_with_the_next_one(
    trained: Run, environment: dict[str, str]
) -> None:
    folder = trained.path.parents[1]
    arguments = ["evaluate", "tiny", "--simulator", "gazebo", "--trials"]
    evaluation = subprocess.Popen(
        [sys.executable, "-m", "local_trainer", *arguments, "50"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: any(evaluations_in_the_stack(environment, "tiny")[1]), LIMIT_S)
    finally:
        os.killpg(evaluation.pid, signal.SIGKILL)
        evaluation.wait()
    in_bucket, in_containers = evaluations_in_the_stack(environment, "tiny")
    assert in_bucket == in_containers and len(in_bucket) == 1

    done = command([*arguments, "1"], environment, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert evaluations_in_the_stack(environment, "tiny") == (set(), set())


@contextmanager
def page_of_the_stack(environment: dict[str, str]) -> Iterator[str]:
    """Yield the address of what `stack view` serves."""
    view = subprocess.Popen(
        [sys.executable, "-m", "local_trainer", "stack", "view", "--port", "0"],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
    )
    try:
        assert view.stdout is not None
        yield view.stdout.readline().split()[0]
        assert view.poll() is None
        view.send_signal(signal.SIGINT)
        assert view.wait(20) == 0
    finally:
        view.kill()
        view.wait()


def picture_of_a_car_that_drives(url: str, evaluation: subprocess.Popen[str]) -> np.ndarray:
    """Return what the page shows of a simulator that drives, shape (120, 160, 3), uint8."""
    while evaluation.poll() is None:
        for simulator in json.loads(urllib.request.urlopen(f"{url}state", timeout=20).read()):
            if simulator["state"] != "drives":
                continue
            assert simulator["steps_per_second"] > 0 and simulator["time_s"] > 0
            try:
                data = urllib.request.urlopen(
                    f"{url}picture/{simulator['name']}", timeout=20
                ).read()
            except urllib.error.HTTPError:
                continue  # it has stopped meanwhile
            with Image.open(BytesIO(data)) as picture:
                return np.asarray(picture)
        time.sleep(0.1)
    raise AssertionError("the evaluation ended and no simulator was seen to drive")


def test_an_imported_model_drives_in_gazebo_and_can_be_watched(
    trained: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    where = ["--runs-dir", str(trained.path.parent)]
    out = str(tmp_path / "out")
    done = command(["export", "console", "tiny", "--output", out, *where], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    done = command(["import", f"{out}.zip", "--name", "back"], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]

    arguments = ["evaluate", "back", "--simulator", "gazebo", "--trials", "12", "--json"]
    with page_of_the_stack(environment) as url:
        evaluation = subprocess.Popen(
            [sys.executable, "-m", "local_trainer", *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            seen = picture_of_a_car_that_drives(url, evaluation)
            said, errors = evaluation.communicate(timeout=300)
        finally:
            evaluation.kill()
            evaluation.wait()
    assert evaluation.returncode == 0, errors[-2000:]
    report = json.loads(said)
    assert (report["simulator"], len(report["trials"])) == ("gazebo", 12)
    assert all(trial["completion_percentage"] > 0 for trial in report["trials"])
    assert seen.shape == (120, 160, 3)
    # Sky above, grass and road below: not one grey, and not the same everywhere.
    assert seen[:20].mean() != pytest.approx(seen[-40:].mean(), abs=5.0)
    assert seen[-60:].std() > 5.0


def simulators_of(environment: dict[str, str], run: str) -> set[str]:
    """Return the addresses of the simulators in which a run has been played so far."""
    return set(
        re.findall(rf"plays for run {run} in (\S+)", compose(environment, "logs", "rollout"))
    )


def test_plain_compose_scales_and_a_worker_whose_simulator_dies_claims_another(
    trained: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    reward = write_slow_reward(tmp_path)
    sets = ["run=scaled", "simulator.backend=gazebo", "workers=2", f"files.reward={reward}"]
    sets += ["stop.until=never", "stop.episodes=24", "ppo.episodes_between_training=12"]
    sets += ["ppo.batch_size=16", "evaluation.trials=2", "evaluation.max_steps=30"]
    run = create_run(resolve_config(sets=sets), tmp_path)
    mirror = RunMirror(open_run_bucket(environment, "scaled"), run.path)
    mirror.push()
    project = environment["COMPOSE_PROJECT_NAME"]
    scaled = {**environment, "RUN": "scaled"}
    try:
        compose(scaled, "up", "--detach", "--scale", "gazebo=3", "--scale", "rollout=2")
        wait_until(lambda: len(simulators_of(scaled, "scaled")) == 2, LIMIT_S)
        played = simulators_of(scaled, "scaled")
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        names = [f"{project}-gazebo-{number}" for number in (1, 2, 3)]
        driven = [n for n in names if docker("inspect", "-f", address, n).strip() in played]
        docker("kill", driven[0])
        wait_until(lambda: len(simulators_of(scaled, "scaled")) == 3, LIMIT_S)
        shape = "{{.State.Status}} {{.State.ExitCode}}"
        state = ["inspect", "-f", shape, f"{project}-trainer-1"]
        wait_until(lambda: docker(*state).startswith("exited"), LIMIT_S)
        assert docker(*state).split() == ["exited", "0"], compose(scaled, "logs", "trainer")
    finally:
        compose(scaled, "rm", "--force", "--stop", "trainer", "rollout")
    mirror.pull()
    status = run.read_status()
    assert (status.status, status.iteration, status.episodes) == ("finished", 2, 24)
    metrics = json.loads(run.training_metrics_file.read_text())["metrics"]
    episodes = [m["episode"] for m in metrics if m["phase"] == "training"]
    assert episodes == list(range(1, 25))


def test_an_imported_track_is_driven_in_both_directions(
    environment: dict[str, str], tmp_path: Path
) -> None:
    angle = np.linspace(0.0, 2.0 * np.pi, 121)
    centre = np.stack([3.0 * np.cos(angle), 2.0 * np.sin(angle)], axis=1)
    outward = np.stack([2.0 * np.cos(angle), 3.0 * np.sin(angle)], axis=1)
    outward *= 0.4 / np.linalg.norm(outward, axis=1, keepdims=True)
    route = np.concatenate([centre, centre - outward, centre + outward], axis=1)
    np.save(tmp_path / "ellipse.npy", route)
    done = command(["track", "import", "ellipse.npy"], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]

    arguments = ["train", "--simulator", "gazebo", "--track", "ellipse", "--name", "ellipse"]
    done = command([*arguments, "--alternate-direction", *TINY], environment, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    run = Run(tmp_path / "runs" / "ellipse")
    episodes = [e for number in (0, 1) for e in read_steps(run.steps_file("training", number))]
    assert {episode.start.is_reversed for episode in episodes} == {False, True}
    for episode in episodes:
        steps = episode.steps
        # On the ellipse, and along it: counter-clockwise is forward.
        radius = np.hypot(steps["x"] / 3.0, steps["y"] / 2.0)
        assert np.all(np.abs(radius[:3] - 1.0) < 0.25)
        first, last = (np.arctan2(steps["y"][i] / 2.0, steps["x"][i] / 3.0) for i in (0, 4))
        turned = (last - first + np.pi) % (2.0 * np.pi) - np.pi
        assert (turned < 0.0) == episode.start.is_reversed
