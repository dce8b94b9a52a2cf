"""The container stack for real: two iterations against Gazebo with two rollout workers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_trainer.launch.stack_training import BUCKET, IMAGE
from local_trainer.net import free_port
from local_trainer.runs import Run
from local_trainer.store import Credentials, open_store

pytestmark = [pytest.mark.docker, pytest.mark.gazebo]

ROOT = Path(__file__).parents[1]
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


def test_the_bucket_holds_the_same_run(trained: Run, environment: dict[str, str]) -> None:
    secrets = dict(
        line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if "=" in line
    )
    store = open_store(
        f"s3://{BUCKET}/tiny",
        f"http://127.0.0.1:{environment['MINIO_PORT']}",
        Credentials(secrets["MINIO_ROOT_USER"], secrets["MINIO_ROOT_PASSWORD"]),
        "us-east-1",
    )
    sizes = {item.key: item.size_bytes for item in store.objects()}
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
    assert "step 15" in (tmp_path / "runs/bad/logs/reward.log").read_text()
