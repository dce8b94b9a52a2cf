"""The certificate: every changed file shows, and what a repetition depends on is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from driven import drive, oval

import local_trainer.manifest as manifest_module
from local_trainer.checkpoints import Checkpoint, bring_first_weights
from local_trainer.cli.main import run as run_cli
from local_trainer.config import load_config, resolve_config, save_config
from local_trainer.episodes import Episode
from local_trainer.errors import NotFound, RunFailed
from local_trainer.manifest import (
    code_sha256,
    compare_runs,
    current_environment,
    dependencies,
    manifest_file,
    read_manifest,
    step_times,
    verify,
    write_manifest,
)
from local_trainer.run_files import create_run
from local_trainer.runs import Run
from local_trainer.step_files import write_steps

BEGAN = "2026-01-01T00:00:00+00:00"
CHECKPOINT = Checkpoint(2, 40)


@cache
def driven() -> list[Episode]:
    """Two short training episodes."""
    return [drive(oval(), index, max_steps=30) for index in range(2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with the files that training leaves, its weights a few bytes."""
    runs_dir = tmp_path_factory.mktemp("runs")
    (runs_dir / "reward.py").write_text("def reward_function(params):\n    return 1.0\n")
    config = resolve_config(sets=["run=first", "instance=cpu", "seed=7"])
    run = create_run(config, runs_dir, reward_path=runs_dir / "reward.py")
    for path in (*CHECKPOINT.files(run.model_dir), CHECKPOINT.frozen_graph(run.model_dir)):
        path.write_bytes(path.name.encode())
    write_steps(run.steps_file("training", 0), driven())
    write_steps(run.steps_file("evaluation", 0), driven()[:1])
    run.write_status(replace(run.read_status(), status="finished", iteration=2, episodes=2))
    write_manifest(run, BEGAN, 0)
    return run


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """A copy to change."""
    shutil.copytree(made.path, tmp_path / "first")
    return Run(tmp_path / "first")


def test_an_untouched_run_is_whole_and_repeatable(run: Run) -> None:
    verification = verify(run)
    assert verification.is_whole and verification.is_repeatable
    manifest = read_manifest(run)
    assert verification.num_artefacts == len(manifest.artefacts) > 10
    assert (manifest.seed, manifest.iteration) == (7, 2)
    assert {"config.yaml", "steps/training-0.npz", "model/model_2.pb"} <= manifest.artefacts.keys()
    assert manifest.starts[0].environment.dependencies["numpy"] == np.__version__
    assert "tensorflow" in manifest.starts[0].environment.dependencies


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "reward_function.py",
        "route.npy",
        "status.json",
        "model/2_Step-40.ckpt.data-00000-of-00001",
        "model/model_2.pb",
        "steps/evaluation-0.npz",
        "ip/hyperparameters.json",
    ],
)
def test_one_changed_bit_shows(run: Run, name: str) -> None:
    flip(run.path / name)
    verification = verify(run)
    assert verification.changed == (name,)
    assert not verification.is_whole


def test_missing_and_added_files_show(run: Run) -> None:
    (run.path / "model" / "model_2.pb").unlink()
    (run.path / "model" / "model_3.pb").write_bytes(b"x")
    verification = verify(run)
    assert verification.missing == ("model/model_2.pb",)
    assert verification.added == ("model/model_3.pb",)


def test_what_other_commands_make_afterwards_does_not_count(run: Run) -> None:
    for name in (
        "plots/training.png",
        "report.html",
        "logs/trainer.log",
        "export/model.tar.gz",
        "evaluation_metrics.json",
        "steps/evaluation-20260101000000.npz",
        "evaluation-20260101000000/report.json",
    ):
        path = run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert verify(run).is_whole


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two tracks with a preset and weights of its own to begin with."""
    runs_dir = tmp_path_factory.mktemp("several")
    (runs_dir / "reward.py").write_text("def reward_function(params):\n    return 1.0\n")
    (runs_dir / "preset.py").write_text("agent_params = None\n")
    config = resolve_config(
        sets=["run=several", "instance=cpu", "tracks=[reinvent_base, Oval_track]"]
    )
    run = create_run(
        config,
        runs_dir,
        reward_path=runs_dir / "reward.py",
        preset_path=runs_dir / "preset.py",
        environment_path=runs_dir / "preset.py",
    )
    for path in (run.training_trace_file(0, 0), run.training_trace_file(0, 1)):
        path.parent.mkdir(parents=True)
        path.write_text("episode,steps\n")
    for path in CHECKPOINT.files(run.pretrained_dir):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(path.name.encode())
    run.write_status(replace(run.read_status(), status="finished", iteration=1, episodes=2))
    write_manifest(run, BEGAN, 0)
    return run


@pytest.mark.parametrize(
    ("name", "is_input"),
    [
        ("routes/0.npy", True),
        ("routes/1.npy", True),
        ("routes/tracks.json", True),
        ("presets/preset.py", True),
        ("environments/deepracer_racetrack_env.py", True),
        ("training_params_1.yaml", False),
        ("training_params_2.yaml", False),
        ("multi_config.json", False),
        ("0/training-simtrace/0-iteration.csv", False),
        ("1/training-simtrace/0-iteration.csv", False),
        ("pretrained/2_Step-40.ckpt.data-00000-of-00001", False),
    ],
)
def test_what_only_some_runs_have_is_certified_too(
    several: Run, tmp_path: Path, name: str, is_input: bool
) -> None:
    shutil.copytree(several.path, tmp_path / "several")
    run = Run(tmp_path / "several")
    assert verify(run).is_whole
    flip(run.path / name)
    verification = verify(run)
    assert verification.changed == (name,)
    assert (f"{name} is not as it was" in verification.obstacles) == is_input


def in_manifest(change: Callable[[dict], None]) -> Callable[[Run], None]:  # type: ignore[type-arg]
    def apply(run: Run) -> None:
        data = json.loads(manifest_file(run).read_text())
        change(data)
        manifest_file(run).write_text(json.dumps(data))

    return apply


def in_environment(key: str, value: object) -> Callable[[Run], None]:
    def change(data: dict) -> None:  # type: ignore[type-arg]
        data["starts"][0]["environment"][key] = value

    return in_manifest(change)


def without_numpy(data: dict) -> None:  # type: ignore[type-arg]
    data["starts"][0]["environment"]["dependencies"]["numpy"] = "1.0"


def in_simulator(key: str, value: object) -> Callable[[Run], None]:
    def change(data: dict) -> None:  # type: ignore[type-arg]
        data["simulator"][key] = value

    return in_manifest(change)


def imported(run: Run) -> None:
    (run.path / "imported").mkdir()
    (run.path / "imported" / "import.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_environment("code_sha256", "0"), "the code differs"),
        (in_environment("python", "3.11.0"), "Python differs: 3.11.0 then"),
        (in_environment("processor", "other"), "the processor differs: other then"),
        (in_environment("processor_features_sha256", "0"), "the processor's features differ"),
        (in_environment("threads", 999), "the number of threads differs: 999 then"),
        (in_environment("gpus", ["some GPU"]), "the network runs on a GPU"),
        (in_manifest(without_numpy), f"numpy differs: 1.0 then, {np.__version__} now"),
        (in_simulator("own_environment", True), "an environment of your own"),
        (in_simulator("backend", "gazebo"), "it drove in Gazebo"),
        (in_simulator("remote", True), "rollout workers in other processes played it"),
        (imported, "it went on from an imported model"),
        (lambda run: flip(run.reward_file), "reward_function.py is not as it was"),
    ],
)
def test_what_stands_against_a_repetition_is_named(
    run: Run, change: Callable[[Run], None], said: str
) -> None:
    change(run)
    verification = verify(run)
    assert not verification.is_repeatable
    assert any(said in obstacle for obstacle in verification.obstacles), verification.obstacles


def test_a_run_that_went_on_and_was_killed_is_not_certified(run: Run) -> None:
    run.write_status(replace(run.read_status(), iteration=3))
    assert any("went on after iteration 2" in text for text in verify(run).obstacles)


def test_first_weights_that_changed_stand_against_a_repetition(run: Run) -> None:
    shutil.copytree(run.path, run.path.parent / "source")
    config = load_config(run.config_file)
    pretrained = config.pretrained.model_copy(update={"run": "source"})
    save_config(config.model_copy(update={"pretrained": pretrained}), run.config_file)
    write_manifest(run, BEGAN, 2)
    assert verify(run).is_repeatable
    source = Run(run.path.parent / "source")
    flip(CHECKPOINT.files(source.model_dir)[2])
    assert any("'source' it began from" in text for text in verify(run).obstacles)


def test_a_run_with_a_copy_of_its_first_weights_names_those(run: Run) -> None:
    shutil.copytree(run.path, run.path.parent / "source")
    source = Run(run.path.parent / "source")
    config = load_config(run.config_file)
    pretrained = config.pretrained.model_copy(update={"run": "source"})
    save_config(config.model_copy(update={"pretrained": pretrained}), run.config_file)
    bring_first_weights(run, pretrained)
    source.path.rename(run.path.parent / "elsewhere")
    manifest = write_manifest(run, BEGAN, 2)
    assert manifest.first_weights is not None
    # A repetition has no copy, and would look for the other run.
    assert any("'source' it began from" in text for text in verify(run).obstacles)
    (run.path.parent / "elsewhere").rename(source.path)
    assert verify(run).is_repeatable


def test_a_start_with_workers_elsewhere_counts_for_good(run: Run) -> None:
    write_manifest(run, BEGAN, 2, is_remote=True)
    write_manifest(run, BEGAN, 2)
    assert any("rollout workers" in text for text in verify(run).obstacles)


def test_the_code_is_that_of_the_containers_simulator_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("local_trainer/a.py", "sim/gazebo/plugin/src/a.cc", "sim/gazebo/plugin/srv/Step.srv")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(manifest_module, "__file__", str(tmp_path / "local_trainer" / "a.py"))
    hashes = {code_sha256.__wrapped__()}
    for name in names:
        (tmp_path / name).write_text("after")
        hashes.add(code_sha256.__wrapped__())
    assert len(hashes) == 1 + len(names)


def test_going_on_adds_a_start(run: Run) -> None:
    run.write_status(replace(run.read_status(), iteration=5, status="stopped", reason="enough"))
    write_manifest(run, "2026-01-02T00:00:00+00:00", 2)
    starts = read_manifest(run).starts
    assert [(start.first_iteration, start.last_iteration) for start in starts] == [(0, 2), (2, 5)]
    assert starts[1].reason == "enough"
    assert verify(run).is_whole


def test_a_manifest_comes_back_as_it_was(run: Run) -> None:
    before = read_manifest(run)
    manifest_file(run).write_text(before.to_json())
    assert read_manifest(run) == before


def test_no_manifest_and_a_damaged_one_are_told(run: Run) -> None:
    manifest_file(run).write_text('{"version": 1}')
    with pytest.raises(RunFailed, match="is damaged"):
        verify(run)
    manifest_file(run).write_text('{"version": 99}')
    with pytest.raises(RunFailed, match="must have version 1, got 99"):
        verify(run)
    manifest_file(run).unlink()
    with pytest.raises(NotFound, match="has no manifest"):
        verify(run)


def test_a_step_takes_one_camera_frame(run: Run) -> None:
    times = step_times(run)
    assert times is not None
    episodes = driven()
    assert times.num_steps == sum(len(episode.steps) - 1 for episode in episodes)
    assert times.simulated_s == pytest.approx(1 / 15)
    assert times.largest_deviation_s < 1e-9
    shutil.rmtree(run.path / "steps")
    assert step_times(run) is None


def test_a_copy_is_identical_and_every_difference_is_named(run: Run, made: Run) -> None:
    comparison = compare_runs(made, run)
    assert comparison.is_identical
    assert {"steps/training-0.npz", "model/model_2.pb"} <= set(comparison.same)
    assert not {"status.json", "config.yaml", "progress.jsonl"} & set(comparison.same)
    flip(run.model_dir / "model_2.pb")
    CHECKPOINT.files(run.model_dir)[2].unlink()
    comparison = compare_runs(made, run)
    assert comparison.different == ("model/model_2.pb",)
    assert comparison.missing == ("model/2_Step-40.ckpt.data-00000-of-00001",)
    assert not comparison.is_identical


def test_the_time_of_day_is_no_difference_but_a_reward_is(run: Run, made: Run) -> None:
    episodes = driven()
    later = [replace(episode, wall_clock=episode.wall_clock + 3600.0) for episode in episodes]
    write_steps(run.steps_file("training", 0), later)
    assert compare_runs(made, run).is_identical
    other = [replace(episode, rewards=episode.rewards + 1e-12) for episode in episodes]
    write_steps(run.steps_file("training", 0), other)
    assert compare_runs(made, run).different == ("steps/training-0.npz",)


def test_the_environment_is_that_of_now() -> None:
    config = resolve_config(sets=["instance=cpu", "threads=3", "precision=fp32"])
    environment = current_environment(config)
    assert (environment.threads, environment.uses_bf16, environment.gpus) == (3, False, ())
    assert environment.code_sha256 == code_sha256()
    assert "rl-coach" in dependencies() and "ruff" not in dependencies()


def test_the_command_tells_and_its_exit_status_too(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["runs", "verify", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert "all as training left them" in shown and "train --repeat first" in shown
    rows = {line.split()[0] for line in shown.splitlines() if line[:1].isalpha()}
    assert {"config", "simulator", "code", "made", "a", "files", "repeatable"} <= rows
    assert "seed 7" in shown and "66.67 ms simulated" in shown
    flip(run.model_dir / "model_2.pb")
    assert run_cli(["runs", "verify", str(run.path), "--json"]) == 1
    verification = json.loads(capsys.readouterr().out)
    assert verification["changed"] == ["model/model_2.pb"]
    assert verification["is_whole"] is False
    # What the certificate is about: settings, code, what it depends on, chance, world, time.
    assert len(verification["config_sha256"]) == 64
    environment = verification["starts"][0]["environment"]
    assert len(environment["code_sha256"]) == 64 and "numpy" in environment["dependencies"]
    assert verification["seed"] == 7
    assert verification["simulator"]["backend"] == "embedded"
    assert verification["step_times"]["simulated_s"] == pytest.approx(1.0 / 15.0)
    manifest_file(run).unlink()
    assert run_cli(["runs", "verify", str(run.path)]) == 2


def test_a_repetition_takes_no_settings_of_its_own(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--runs-dir", str(run.path.parent)]
    for option in (["--seed", "3"], ["--minutes", "5"], ["--resume", "first"], ["--set", "seed=1"]):
        assert run_cli(["train", "--repeat", "first", *place, *option]) == 2
        assert f"{option[0]} cannot be given with it" in capsys.readouterr().err
    assert [path.name for path in run.path.parent.iterdir() if path.is_dir()] == ["first"]
