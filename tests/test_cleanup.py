"""Deleting removes exactly what was named, asks first, and leaves what runs alone."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_trainer.cli.main import run as run_cli
from local_trainer.engine import DeepRacerEngine
from local_trainer.errors import ConfigError
from local_trainer.launch.containers import BUCKET
from local_trainer.progress import PhaseEvent, ProgressLog
from local_trainer.runs import Run, RunStatus, list_runs
from local_trainer.store import open_store, upload_folder

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "contract"))
CREATED = "2026-01-01T10:00:00+00:00"


def make_run(runs_dir: Path, name: str, status: str = "finished", backend: str = "embedded") -> Run:
    run = Run(runs_dir / name)
    run.model_dir.mkdir(parents=True)
    run.write_status(RunStatus(name, name, "Oval_track", status, CREATED, CREATED))
    text = f"track: Oval_track\nsimulator:\n  backend: {backend}\n"
    run.config_file.write_text(text, encoding="utf-8")
    (run.model_dir / "model_0.pb").write_bytes(b"graph")
    return run


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    for name in ("a", "a-2", "a.b", "b"):
        make_run(tmp_path / "runs", name)
    return tmp_path / "runs"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def delete(runs_dir: Path, *names: str) -> int:
    return run_cli(["runs", "delete", *names, "--yes", "--runs-dir", str(runs_dir)])


def answer(arguments: list[str], text: str) -> tuple[int, str]:
    """Run a command in a terminal where somebody types."""
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "local_trainer", *arguments]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    os.write(keyboard, text.encode())
    out, _ = process.communicate(timeout=60)
    os.close(keyboard)
    os.close(terminal)
    return process.returncode, out.decode()


# Runs in a folder.


def test_a_run_goes_and_those_whose_names_begin_alike_stay(runs_dir: Path) -> None:
    assert delete(runs_dir, "a") == 0
    assert names(runs_dir) == {"a-2", "a.b", "b"}


def test_a_run_that_is_named_twice_goes_once(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert delete(runs_dir, "a", str(runs_dir / "a"), "a/") == 0
    assert names(runs_dir) == {"a-2", "a.b", "b"}
    assert capsys.readouterr().out.count("Deleted") == 1


@pytest.mark.parametrize("name", ["a*", "*", "?", "[ab]", "", ".", "a/../..", "a/model"])
def test_patterns_and_other_folders_are_no_runs(runs_dir: Path, name: str) -> None:
    assert delete(runs_dir, name) == 2
    assert names(runs_dir) == {"a", "a-2", "a.b", "b"}


def test_one_name_that_is_wrong_keeps_the_others(runs_dir: Path) -> None:
    assert delete(runs_dir, "a", "nothing", "b") == 2
    assert names(runs_dir) == {"a", "a-2", "a.b", "b"}


def test_a_folder_with_a_state_file_of_something_else_is_no_run(
    runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "status.json").write_text("{}", encoding="utf-8")
    assert delete(runs_dir, str(other)) == 2
    assert "is not a run: no config.yaml" in capsys.readouterr().err
    assert other.exists()


def test_a_link_to_a_run_is_refused_and_named(
    runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = make_run(tmp_path / "elsewhere", "kept")
    (runs_dir / "linked").symlink_to(elsewhere.path)
    before = sorted(elsewhere.path.rglob("*"))
    assert delete(runs_dir, "linked", "a") == 2
    assert f"is a link to {elsewhere.path}" in capsys.readouterr().err
    assert sorted(elsewhere.path.rglob("*")) == before
    assert {"linked", "a"} <= names(runs_dir)


def test_what_links_in_a_run_lead_to_stays(runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("mine", encoding="utf-8")
    (runs_dir / "a" / "plots").symlink_to(tmp_path / "data")
    assert delete(runs_dir, "a") == 0
    assert names(tmp_path / "data") == {"mine"}


def test_a_run_that_holds_another_is_refused(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(runs_dir / "a", "inner")
    assert delete(runs_dir, "a") == 2
    assert "holds another run" in capsys.readouterr().err
    assert (runs_dir / "a" / "inner" / "status.json").exists()


def test_what_an_interrupted_removal_leaves_is_not_listed(runs_dir: Path) -> None:
    leftover = runs_dir / ".deleted-1234"
    leftover.mkdir()
    os.rename(runs_dir / "b", leftover / "b")
    assert {run.name for run in list_runs(runs_dir)} == {"a", "a-2", "a.b"}


def test_without_a_terminal_nothing_goes_unless_yes_is_given(runs_dir: Path) -> None:
    command = [sys.executable, "-m", "local_trainer", "runs", "delete", "a"]
    done = subprocess.run(
        [*command, "--runs-dir", str(runs_dir)], input="y\n", capture_output=True, text=True
    )
    assert done.returncode == 2
    assert str(runs_dir / "a") in done.stderr and "--yes agrees" in done.stderr
    assert names(runs_dir) == {"a", "a-2", "a.b", "b"}


@pytest.mark.parametrize(("typed", "is_gone"), [("n\n", False), ("y\n", True)])
def test_in_a_terminal_only_a_yes_deletes(runs_dir: Path, typed: str, is_gone: bool) -> None:
    status, out = answer(["runs", "delete", "a", "--runs-dir", str(runs_dir)], typed)
    assert status == (0 if is_gone else 1)
    assert f"Delete {runs_dir / 'a'} (" in out  # what goes is named before
    assert (runs_dir / "a").exists() is not is_gone
    assert {"a-2", "a.b", "b"} <= names(runs_dir)


def test_the_originals_calls_delete_their_own_run_and_no_other(tmp_path: Path) -> None:
    given = {"job_name": "job", "runs_dir": str(tmp_path)}
    mine, other = DeepRacerEngine(given), DeepRacerEngine({**given, "job_name": "job-2"})
    mine.run, other.run = mine._create_run(), other._create_run()
    for call in (mine.delete_all_simulations, mine.clean_up_simualtion_environmnet):
        call()
        assert names(tmp_path) == {mine.run.name, other.run.name}
    with mine.run.lock(), pytest.raises(ConfigError, match="is running"):
        mine.delete_s3_simulation_resources()
    assert names(tmp_path) == {mine.run.name, other.run.name}
    mine.delete_s3_simulation_resources()
    assert names(tmp_path) == {other.run.name} and mine.run is None
    mine.delete_s3_simulation_resources()  # nothing is left to delete
    assert names(tmp_path) == {other.run.name}


# Runs in a bucket.


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from s3_server import running_minio

    with running_minio(tmp_path_factory.mktemp("minio")) as server:
        server.client().make_bucket(BUCKET)
        with pytest.MonkeyPatch.context() as patch:
            # As the container stack's server, and as any other.
            patch.setenv("MINIO_PORT", server.endpoint.rpartition(":")[2])
            patch.setenv("MINIO_ROOT_USER", server.credentials.access_key)
            patch.setenv("MINIO_ROOT_PASSWORD", server.credentials.secret_key)
            for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
                patch.delenv(name, raising=False)
            patch.setenv("AWS_ACCESS_KEY_ID", server.credentials.access_key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", server.credentials.secret_key)
            patch.setenv("AWS_REGION", "us-east-1")
            yield server.endpoint


def put(endpoint: str, run: Run, prefix: str) -> None:
    upload_folder(run.path, open_store(f"s3://{BUCKET}/{prefix}", endpoint))


def keys(endpoint: str) -> set[str]:
    return {item.key for item in open_store(f"s3://{BUCKET}", endpoint).objects()}


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path) -> Iterator[str]:
    """The bucket with three runs, one of them below another; empty afterwards."""
    for name, prefix in (("a", "a"), ("a-2", "a-2"), ("a-3", "a/deep/a-3")):
        put(endpoint, make_run(tmp_path / "there", name), prefix)
    yield endpoint
    store = open_store(f"s3://{BUCKET}", endpoint)
    for item in store.objects():
        store.delete(item.key)


@pytest.mark.services
def test_a_run_that_is_only_in_the_bucket_goes_and_its_neighbours_stay(
    bucket: str, runs_dir: Path
) -> None:
    before = keys(bucket)
    assert delete(runs_dir, f"s3://{BUCKET}/a") == 0
    gone = before - keys(bucket)
    assert gone == {"a/status.json", "a/config.yaml", "a/model/model_0.pb"}
    assert names(runs_dir) == {"a", "a-2", "a.b", "b"}  # a folder of that name is another run


@pytest.mark.services
@pytest.mark.parametrize("place", ["", "/", "/a*", "/deep", "/a/deep", "/a/model", "/b", "/a-"])
def test_what_is_no_run_in_the_bucket_is_refused(bucket: str, runs_dir: Path, place: str) -> None:
    before = keys(bucket)
    assert delete(runs_dir, f"s3://{BUCKET}{place}") == 2
    assert keys(bucket) == before


@pytest.mark.services
@pytest.mark.parametrize(("quiet_s", "is_gone"), [(0.0, False), (3600.0, True)])
def test_a_run_in_the_bucket_is_refused_while_it_reports(
    bucket: str, runs_dir: Path, tmp_path: Path, quiet_s: float, is_gone: bool
) -> None:
    run = make_run(tmp_path / "there", "c", status="running")
    log = ProgressLog(run.progress_file)
    log.write(PhaseEvent("rollout", 0, time=time.time() - quiet_s))
    log.close()
    put(bucket, run, "c")
    assert delete(runs_dir, f"s3://{BUCKET}/c", "a") == (0 if is_gone else 2)
    assert ("c/status.json" in keys(bucket)) is not is_gone
    assert (runs_dir / "a").exists() is not is_gone


@pytest.mark.services
def test_a_run_of_the_stack_goes_from_folder_and_bucket(bucket: str, runs_dir: Path) -> None:
    for name in ("g", "g-2"):
        put(bucket, make_run(runs_dir, name, backend="gazebo"), name)
    assert delete(runs_dir, "g") == 0
    left = keys(bucket)
    assert not any(key.startswith("g/") for key in left)
    assert {"g-2/status.json", "a/status.json"} <= left
    assert "g" not in names(runs_dir) and "g-2" in names(runs_dir)


@pytest.mark.services
def test_an_engines_run_of_the_stack_goes_from_folder_and_bucket(
    bucket: str, tmp_path: Path
) -> None:
    overrides = {"simulator.backend": "gazebo"}
    engine = DeepRacerEngine({"job_name": "g", "runs_dir": str(tmp_path), "overrides": overrides})
    engine.run = engine._create_run()
    put(bucket, engine.run, engine.run.name)
    others = keys(bucket) - {key for key in keys(bucket) if key.startswith(engine.run.name + "/")}
    engine.delete_s3_simulation_resources()
    assert keys(bucket) == others


@pytest.mark.services
def test_another_run_of_the_same_name_stays_in_the_bucket(bucket: str, runs_dir: Path) -> None:
    run = make_run(runs_dir, "g", backend="gazebo")
    status = json.loads(run.status_file.read_text("utf-8")) | {"created": "2025-12-31T00:00:00"}
    put(bucket, run, "g")
    run.status_file.write_text(json.dumps(status), encoding="utf-8")
    assert delete(runs_dir, "g") == 0
    assert "g/status.json" in keys(bucket)


def test_a_stack_that_is_down_keeps_its_copy_and_says_so(
    runs_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_PORT", "1")  # nobody listens there
    make_run(runs_dir, "g", backend="gazebo")
    assert delete(runs_dir, "g") == 0
    assert f"runs delete s3://{BUCKET}/g" in capsys.readouterr().err
    assert "g" not in names(runs_dir)


# The stack's volumes.


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A stack's volumes and those of one whose name begins alike; gone afterwards."""
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers: sudo scripts/prepare-docker")
    project = f"lt-cleanup-{os.getpid()}"
    volumes = {name: f"{name}_minio" for name in (project, f"{project}-2")}
    for name, volume in volumes.items():
        labels = ["--label", f"com.docker.compose.project={name}"]
        labels += ["--label", "com.docker.compose.volume=minio"]
        subprocess.run(["docker", "volume", "create", *labels, volume], check=True)
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", project)
    yield {"own": volumes[project], "other": volumes[f"{project}-2"]}
    subprocess.run(["docker", "volume", "rm", "--force", *volumes.values()], check=True)


def volume_names() -> set[str]:
    listed = subprocess.run(
        ["docker", "volume", "ls", "--format", "{{.Name}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(listed.stdout.split())


@pytest.mark.docker
def test_the_stacks_volumes_go_after_a_yes_and_no_others(stack: dict[str, str]) -> None:
    before = volume_names()
    status, out = answer(["stack", "down", "--volumes"], "n\n")
    assert status == 1
    assert f"{stack['own']} (0B)" in out and stack["other"] not in out
    assert volume_names() == before
    assert run_cli(["stack", "down", "--volumes", "--yes"]) == 0
    assert before - volume_names() == {stack["own"]}


@pytest.mark.docker
def test_without_a_terminal_the_volumes_stay_unless_yes_is_given(stack: dict[str, str]) -> None:
    before = volume_names()
    command = [sys.executable, "-m", "local_trainer", "stack", "down", "--volumes"]
    done = subprocess.run(command, input="y\n", capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert stack["own"] in done.stderr and "--yes agrees" in done.stderr
    assert volume_names() == before


@pytest.mark.docker
def test_down_without_volumes_keeps_them(stack: dict[str, str]) -> None:
    before = volume_names()
    assert run_cli(["stack", "down"]) == 0
    assert volume_names() == before


# Stopping what goes on in the background.


def test_a_run_nobody_works_on_cannot_be_stopped(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["runs", "stop", "a", "--runs-dir", str(runs_dir)]) == 2
    assert "'a' is not running. Nothing was stopped" in capsys.readouterr().err


def test_only_a_worker_of_ours_is_stopped(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run(runs_dir / "a").lock():  # by this process, which is a test
        assert Run(runs_dir / "a").holder() == os.getpid()
        assert run_cli(["runs", "stop", "a", "--runs-dir", str(runs_dir)]) == 2
    assert f"process {os.getpid()}, which is no training" in capsys.readouterr().err
    assert Run(runs_dir / "a").holder() is None


@pytest.mark.slow
def test_a_training_in_the_background_is_stopped_and_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training import run_command, train_command, wait_for_iteration

    runs_dir = tmp_path / "runs"
    run_command([*train_command(runs_dir, "long"), "--detach"])
    run = Run(runs_dir / "long")
    wait_for_iteration(run, 1)
    assert delete(runs_dir, "long") == 2  # it is running
    assert run_cli(["runs", "stop", "long", "--runs-dir", str(runs_dir)]) == 0
    assert "Ended long (stopped" in capsys.readouterr().out
    assert run.read_status().status == "stopped" and not run.is_locked()
    assert delete(runs_dir, "long") == 0
    assert names(runs_dir) == set()
