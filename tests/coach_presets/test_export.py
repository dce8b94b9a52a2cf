"""Exported models: what goes out is what was trained, to 1e-6 and byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from coach_presets.compat import tf

import numpy as np
import pytest
import yaml
from agents import make_episode, new_agent, pictures, short_lived, small_ppo

from coach_presets.agent import INPUT_NODE, ONLINE, UpdateSettings
from coach_presets.checkpoints import CheckpointWriter, FrozenPolicy, read_checkpoint
from coach_presets.export import answer_all, render
from local_trainer.checkpoints import BestAndLast, TrainerState, write_pointers
from local_trainer.cli.main import run as run_cli
from local_trainer.config import resolve_config
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.evaluation import EvaluationReport, Trial, write_report
from local_trainer.export.car import export_car
from local_trainer.export.check import check_model
from local_trainer.export.console import export_console, model_name
from local_trainer.export.findings import Finding
from local_trainer.export.probe import TOLERANCE, ProbeRequest
from local_trainer.run_files import create_run
from local_trainer.runs import Run
from sim.steps import EpisodeStatus
from sim.track_files import load_track

NUM_ACTIONS = 10
STATES = (TrainerState(1, 20, 2, 5, 3.5, 0), TrainerState(2, 40, 4, 10, 7.0, 0))
GOOD_REWARD = "def reward_function(params):\n    return 1.0\n"
SHALLOW = "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a track of two directions with two checkpoints of an agent that has learned."""
    runs_dir = tmp_path_factory.mktemp("runs")
    (runs_dir / "reward.py").write_text(GOOD_REWARD)
    route = runs_dir / "reInvent2019_track.yaml"
    shutil.copyfile(Path(load_track.__code__.co_filename).parent / "tracks/Oval_track.yaml", route)
    config = resolve_config(sets=["run=my_run", f"track={route}"])
    run = create_run(config, runs_dir, reward_path=runs_dir / "reward.py")
    with short_lived(new_agent(small_ppo(), NUM_ACTIONS)) as agent:
        writer = CheckpointWriter(agent, run)
        for state in STATES:
            settings = UpdateSettings(iteration=state.number, seed=0, bootstrap_time_up=False)
            agent.train_on_episodes([_episode(agent, state.number)], settings)
            writer.write(state)
    pointers = BestAndLast(STATES[0].checkpoint, 80.0, STATES[1].checkpoint, 60.0)
    write_pointers(run.model_dir, pointers)
    (run.path / "metrics").mkdir()
    run.training_metrics_file.write_text('{"metrics": [], "version": 2.0}')
    return run


def _episode(agent: Any, number: int) -> Any:
    episode = make_episode(agent, 20, index=number)
    return replace(episode, actions=episode.actions * 2)  # among ten


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy to change."""
    shutil.copytree(trained.path, tmp_path / "my_run")
    return Run(tmp_path / "my_run")


@pytest.fixture(scope="module")
def console(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint as the console imports it."""
    folder = tmp_path_factory.mktemp("out") / "model"
    export = export_console(trained, output=folder, try_out=answer_all)
    assert not export.report.is_refused
    return folder


@pytest.fixture
def folder(console: Path, tmp_path: Path) -> Path:
    """The same, to spoil; its reward function is too long to be tried, which takes a while."""
    shutil.copytree(console, tmp_path / "model")
    (tmp_path / "model" / "reward_function.py").write_text("#" * 140_001)
    return tmp_path / "model"


def findings(path: Path) -> dict[str, Finding]:
    return {f.rule: f for f in check_model(path, try_out=answer_all).findings}


def weights(prefix: Path) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in read_checkpoint(prefix).items()}


def save(values: dict[str, np.ndarray], prefix: Path) -> None:
    """Write a checkpoint of any variables."""
    with tf.Graph().as_default(), tf.Session() as session:
        tensors = [tf.placeholder(value.dtype, value.shape) for value in values.values()]
        write = tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(values),
            shape_and_slices=[""] * len(values),
            tensors=tensors,
        )
        session.run(write, dict(zip(tensors, values.values(), strict=True)))


# The car.


def test_a_model_is_tried_out_on_what_its_run_recorded(run: Run, tmp_path: Path) -> None:
    drawn = export_car(run, output=tmp_path / "m.tar.gz", try_out=answer_all)
    assert not drawn.are_pictures_recorded
    run.pictures_file.parent.mkdir(exist_ok=True)
    np.save(run.pictures_file, pictures(7, seed=3))
    sheet = export_car(run, output=tmp_path / "again.tar.gz", try_out=answer_all)
    assert sheet.are_pictures_recorded and sheet.num_pictures == 7
    assert sheet.difference <= TOLERANCE
    assert sheet.archive_sha256 == drawn.archive_sha256
    run.pictures_file.write_bytes(b"")
    with pytest.raises(RunFailed, match=r"pictures\.npy must hold camera pictures"):
        export_car(run, output=tmp_path / "none.tar.gz", try_out=answer_all)
    assert not (tmp_path / "none.tar.gz").exists()


def test_the_car_gets_the_policy_of_the_checkpoint(trained: Run, tmp_path: Path) -> None:
    sheet = export_car(trained, "best", tmp_path / "m.tar.gz", try_out=answer_all)
    assert sheet.checkpoint == STATES[0].checkpoint.name
    assert sheet.difference <= TOLERANCE and sheet.num_pictures >= 20
    assert (sheet.input_name, sheet.input_shape) == (INPUT_NODE, [-1, 120, 160, 1])
    assert sheet.archive_sha256 == hashlib.sha256((tmp_path / "m.tar.gz").read_bytes()).hexdigest()
    with tarfile.open(tmp_path / "m.tar.gz") as archive:
        assert archive.getnames() == ["agent/model.pb", "model_metadata.json"]
        archive.extractall(tmp_path / "car", filter="data")
    # What went out, on pictures of noise that no export has seen, against the weights themselves.
    seen = pictures(8, seed=3)
    sent = FrozenPolicy(tmp_path / "car" / "agent" / "model.pb", threads=2)
    request = ProbeRequest(NUM_ACTIONS, SHALLOW, "FRONT_FACING_CAMERA")
    request = replace(request, prefix=str(STATES[0].checkpoint.prefix(trained.model_dir)))
    fresh = replace(request, save_frozen=str(tmp_path / "fresh.pb"))
    assert answer_all([fresh])[0].difference == pytest.approx(0.0, abs=1e-6)
    again = FrozenPolicy(tmp_path / "fresh.pb", threads=2)
    np.testing.assert_allclose(
        sent.probabilities(seen), again.probabilities(seen), rtol=0, atol=1e-6
    )
    metadata = (tmp_path / "car" / "model_metadata.json").read_bytes()
    assert metadata == trained.metadata_file.read_bytes()
    report = check_model(tmp_path / "m.tar.gz", try_out=answer_all)
    assert (report.target, {f.outcome for f in report.findings}) == ("car", {"passed"})


def test_the_car_archive_is_the_same_byte_for_byte(trained: Run, run: Run, tmp_path: Path) -> None:
    for path in run.path.rglob("*"):
        path.touch()
    for number, source in enumerate((trained, run)):
        export_car(source, "2", tmp_path / f"{number}.tar.gz", try_out=answer_all)
    archives = {(tmp_path / f"{number}.tar.gz").read_bytes() for number in range(2)}
    assert len(archives) == 1
    assert gzip.decompress(archives.pop())  # whole


def test_a_frozen_graph_of_another_checkpoint_stays_here(run: Run, tmp_path: Path) -> None:
    shutil.copyfile(run.model_dir / "model_1.pb", run.model_dir / "model_2.pb")
    with pytest.raises(RunFailed, match="frozen graph must agree with its weights to 1e-06"):
        export_car(run, "last", tmp_path / "m.tar.gz", try_out=answer_all)
    assert not (tmp_path / "m.tar.gz").exists()


@pytest.mark.slow
def test_a_missing_frozen_graph_is_made_again(run: Run, tmp_path: Path) -> None:
    kept = (run.model_dir / "model_2.pb").read_bytes()
    (run.model_dir / "model_2.pb").unlink()
    export_car(run, "last", tmp_path / "m.tar.gz", try_out=answer_all)
    with tarfile.open(tmp_path / "m.tar.gz") as archive:
        content = archive.extractfile("agent/model.pb")
        assert content is not None
        (tmp_path / "made.pb").write_bytes(content.read())
    (tmp_path / "kept.pb").write_bytes(kept)
    seen = pictures(4)
    policies = [FrozenPolicy(tmp_path / f"{name}.pb", 1) for name in ("made", "kept")]
    np.testing.assert_array_equal(*(policy.probabilities(seen) for policy in policies))
    assert not (run.model_dir / "model_2.pb").exists()


def test_a_running_run_and_another_ending_are_refused(run: Run, tmp_path: Path) -> None:
    with run.lock(), pytest.raises(ConfigError, match="is running"):
        export_car(run, "best", tmp_path / "m.tar.gz", try_out=answer_all)
    with pytest.raises(ConfigError, match=r"ends in \.tar\.gz"):
        export_car(run, "best", tmp_path / "m.zip", try_out=answer_all)


@pytest.mark.slow
def test_the_car_sheet_tells_all_about_the_model(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = STATES[0].checkpoint.name
    command = ["export", "car", str(run.path), "-o", str(tmp_path / "m.tar.gz"), "--report"]
    for number, is_robust, laps_s in ((1, False, [9.0, 8.0]), (2, True, [12.5, None])):
        trials = tuple(lap(index, lap_s) for index, lap_s in enumerate(laps_s, start=1))
        report = EvaluationReport(run.name, name, is_robust, 0.1, trials)
        write_report(report, run.path / f"evaluation-2026010100000{number}" / "report.json")
    assert run_cli(command) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    text = " ".join(shown)
    archive = hashlib.sha256((tmp_path / "m.tar.gz").read_bytes()).hexdigest()
    graph = hashlib.sha256((run.model_dir / "model_1.pb").read_bytes()).hexdigest()
    for row in (
        f"sha256 {archive}",
        f"model my_run, checkpoint {name}",
        "checked the frozen graph agrees with the live policy to",
        f"graph sha256 {graph}",
        "trained on reInvent2019_track,",
        "evaluation 2 of 2 laps complete, 100 % on average, best 8.00 s, mean 8.50 s",
        "robust evaluation 1 of 2 laps complete, 75 % on average, best 12.50 s, mean 12.50 s",
        f"network {SHALLOW},",
        "float32, any × 120 × 160 × 1, grey levels 0 to 255",
        f"a probability for each of {NUM_ACTIONS} actions",
    ):
        assert row in text, text
    numbers = [line.split()[0] for line in shown if line.endswith("m/s")]
    assert numbers == [str(number) for number in range(NUM_ACTIONS)]


def lap(number: int, lap_s: float | None) -> Trial:
    """Return a complete lap, or half of one."""
    status = EpisodeStatus.LAP_COMPLETE if lap_s else EpisodeStatus.OFF_TRACK
    percent = 100.0 if lap_s else 50.0
    return Trial(number, status.trace_name, percent, lap_s or 5.0, 0, 0, 1.0, 0.0, False)


@pytest.mark.slow
def test_the_first_generations_sensor_is_written_as_the_graph_calls_it(
    run: Run, tmp_path: Path
) -> None:
    metadata = json.loads(run.metadata_file.read_text())
    del metadata["sensor"], metadata["version"]
    run.metadata_file.write_text(json.dumps(metadata))
    sheet = export_car(run, "best", tmp_path / "m.tar.gz", try_out=answer_all)
    assert "FRONT_FACING_CAMERA" in sheet.note
    assert not check_model(tmp_path / "m.tar.gz", try_out=answer_all).is_refused


# The console.


def test_the_console_gets_its_layout(console: Path, trained: Run) -> None:
    name = STATES[0].checkpoint.name
    files = {str(path.relative_to(console)) for path in console.rglob("*") if path.is_file()}
    (metrics,) = [path for path in files if path.startswith("metrics/training/training-")]
    assert files - {metrics} == {
        "model_metadata.json",
        "reward_function.py",
        "training_params.yaml",
        "ip/hyperparameters.json",
        "model/.coach_checkpoint",
        "model/deepracer_checkpoints.json",
        "model/model_metadata.json",
        "model/model_1.pb",
        *(f"model/{name}{suffix}" for suffix in (".index", ".meta", ".data-00000-of-00001")),
    }
    assert (console / "model" / ".coach_checkpoint").read_text() == name
    pointers = json.loads((console / "model" / "deepracer_checkpoints.json").read_text())
    assert [pointers[f"{key}_checkpoint"]["name"] for key in ("best", "last")] == [name, name]
    assert pointers["best_checkpoint"]["avg_eval_metric"] == 80.0
    params = yaml.safe_load((console / "training_params.yaml").read_text())
    assert params["WORLD_NAME"] == "reInvent2019_track"
    assert params["TRACK_DIRECTION_CLOCKWISE"] is False
    assert all(isinstance(value, str | bool) for value in params.values())
    original = yaml.safe_load(trained.training_params_file.read_text())
    assert original.keys() <= params.keys()
    size = (console / "model" / f"{name}.data-00000-of-00001").stat().st_size
    assert size < 50e6
    hyperparameters = json.loads((console / "ip" / "hyperparameters.json").read_text())
    assert hyperparameters["loss_type"] == "mean_squared_error"


def test_the_consoles_weights_are_the_runs(console: Path, trained: Run) -> None:
    name = STATES[0].checkpoint.name
    sent, kept = weights(console / "model" / name), weights(trained.model_dir / name)
    assert sent.keys() == kept.keys() and len(sent) == 22
    assert all(np.array_equal(sent[key], kept[key]) for key in sent)


def test_the_zip_is_the_folder_and_the_same_each_time(
    console: Path, trained: Run, tmp_path: Path
) -> None:
    (tmp_path / "other" / "model").mkdir(parents=True)
    (tmp_path / "other" / "model" / ".coach_checkpoint").write_text("an export to be replaced")
    export_console(trained, output=tmp_path / "other", try_out=answer_all)
    first, second = console.with_name("model.zip"), tmp_path / "other.zip"
    assert first.read_bytes() == second.read_bytes()
    shutil.unpack_archive(second, tmp_path / "unpacked")
    names = {str(p.relative_to(console)) for p in console.rglob("*") if p.is_file()}
    for name in names:
        assert (tmp_path / "unpacked" / name).read_bytes() == (console / name).read_bytes()


def test_what_the_console_would_refuse_is_not_written(run: Run, tmp_path: Path) -> None:
    run.reward_file.write_text("import os\n\n\n" + GOOD_REWARD)
    with pytest.raises(ConfigError, match=r"would refuse the model: reward_function\.py \(import"):
        export_console(run, output=tmp_path / "out", try_out=answer_all)
    assert [path.name for path in tmp_path.iterdir()] == ["my_run"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    with pytest.raises(ConfigError, match="new folder or an earlier export"):
        export_console(run, output=tmp_path / "mine", try_out=answer_all)


def test_names_become_such_as_the_console_takes() -> None:
    assert model_name("my_run.2-3") == "my-run-2-3"
    assert model_name("__") == "model"
    assert len(model_name("a" * 100)) == 63


@pytest.mark.slow
def test_the_optimizer_stays_out_of_what_goes_to_the_console(run: Run, tmp_path: Path) -> None:
    prefix = STATES[0].checkpoint.prefix(run.model_dir)
    values = weights(prefix)
    adam = {f"{name}/Adam": value for name, value in values.items()}
    save({**values, **adam, "global_step": np.array(7)}, prefix)
    export_console(run, output=tmp_path / "out", try_out=answer_all)
    sent = weights(tmp_path / "out" / "model" / prefix.name)
    assert sent.keys() == values.keys()
    assert all(np.array_equal(sent[name], values[name]) for name in values)


# What the check finds in weights.


def model_file(folder: Path, suffix: str) -> Path:
    return folder / "model" / f"{STATES[0].checkpoint.name}{suffix}"


def test_weights_of_another_action_space_are_refused(folder: Path) -> None:
    for name in ("model_metadata.json", "model/model_metadata.json"):
        metadata = json.loads((folder / name).read_text())
        metadata["action_space"] = metadata["action_space"][:7]
        (folder / name).write_text(json.dumps(metadata))
    found = findings(folder)
    finding = found["last checkpoint restores and runs"]
    assert finding.outcome == "refused"
    assert "policy_fc" in finding.found and "(512, 7)" in finding.found
    assert "7 actions" in found[f"frozen graph of {STATES[0].checkpoint.name}"].found


@pytest.mark.slow
def test_weights_of_another_network_are_refused(folder: Path) -> None:
    for name in ("model_metadata.json", "model/model_metadata.json"):
        metadata = json.loads((folder / name).read_text())
        metadata["neural_network"] = "DEEP_CONVOLUTIONAL_NETWORK"
        (folder / name).write_text(json.dumps(metadata))
    finding = findings(folder)["best checkpoint restores and runs"]
    assert finding.outcome == "refused" and "(5, 5, 1, 32)" in finding.found


def test_a_missing_variable_is_refused(folder: Path) -> None:
    prefix = model_file(folder, "")
    values = weights(prefix)
    bias = f"{ONLINE}/network_1/ppo_head_0/policy_fc/bias"
    save({name: value for name, value in values.items() if name != bias}, prefix)
    finding = findings(folder)["last checkpoint restores and runs"]
    assert finding.outcome == "refused" and "lacks network_1/ppo_head_0" in finding.found


def test_numbers_out_of_bounds_are_refused(folder: Path) -> None:
    prefix = model_file(folder, "")
    values = weights(prefix)
    bias = f"{ONLINE}/network_1/ppo_head_0/policy_fc/bias"
    save({**values, bias: np.full_like(values[bias], np.nan)}, prefix)
    finding = findings(folder)["last checkpoint restores and runs"]
    assert finding.outcome == "refused" and "not finite" in finding.found


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_is_refused(folder: Path) -> None:
    data = model_file(folder, ".data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:1000])
    finding = findings(folder)["last checkpoint restores and runs"]
    assert finding.outcome == "refused" and "cannot be read" in finding.found


@pytest.mark.slow
def test_optimizer_slots_are_a_warning(folder: Path) -> None:
    values = weights(model_file(folder, ""))
    save({**values, "global_step": np.array(7)}, model_file(folder, ""))
    finding = findings(folder)["last checkpoint restores and runs"]
    assert finding.outcome == "warning" and "1 variables more" in finding.found


@pytest.fixture
def graph(folder: Path) -> Iterator[tf.GraphDef]:
    """The folder's frozen graph; what was changed in it is written afterwards by `put`."""
    definition = tf.GraphDef()
    definition.ParseFromString((folder / "model" / "model_1.pb").read_bytes())
    yield definition


def frozen_finding(folder: Path, definition: tf.GraphDef) -> Finding:
    (folder / "model" / "model_1.pb").write_bytes(definition.SerializeToString())
    return findings(folder)[f"frozen graph of {STATES[0].checkpoint.name}"]


def test_a_graph_that_does_more_than_compute_is_never_run(
    folder: Path, graph: tf.GraphDef, tmp_path: Path
) -> None:
    written = tmp_path / "written"
    with tf.Graph().as_default() as other:
        tf.io.write_file(str(written), "x")
    graph.node.extend(other.as_graph_def().node)
    finding = frozen_finding(folder, graph)
    assert finding.outcome == "refused" and "'WriteFile'" in finding.found
    assert not written.exists()


def test_graphs_the_car_cannot_take_are_refused(folder: Path, graph: tf.GraphDef) -> None:
    device = tf.GraphDef.FromString(graph.SerializeToString())
    device.node[5].device = "/device:GPU:0"
    assert "must name no device, got /device:GPU:0" in frozen_finding(folder, device).found
    renamed = tf.GraphDef.FromString(graph.SerializeToString())
    for node in renamed.node:
        node.name = node.name.replace("FRONT_FACING_CAMERA", "observation")
        node.input[:] = [n.replace("FRONT_FACING_CAMERA", "observation") for n in node.input]
    assert "input must be called" in frozen_finding(folder, renamed).found
    weights_off = tf.GraphDef.FromString(graph.SerializeToString())
    (bias,) = [n for n in weights_off.node if n.name.endswith("policy_fc/bias")]
    values = np.frombuffer(bias.attr["value"].tensor.tensor_content, np.float32).copy()
    values[0] += 0.1
    bias.attr["value"].tensor.tensor_content = struct.pack(f"{len(values)}f", *values)
    assert "differs from the checkpoint by" in frozen_finding(folder, weights_off).found


def test_pictures_are_of_the_track_and_always_the_same() -> None:
    track = load_track("Oval_track")
    first = render(track, 6)
    assert first.shape == (6, 120, 160, 1) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, render(track, 6))
    assert len({picture.tobytes() for picture in first}) == 6
    assert all(picture.std() > 5 for picture in first)


@pytest.mark.slow
def test_the_commands_try_models_out_in_a_process_of_their_own(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "m.tar.gz"
    command = ["export", "car", f"{run.path}@last", "--output", str(archive), "--json"]
    assert run_cli(command) == 0
    sheet = json.loads(capsys.readouterr().out)
    assert sheet["checkpoint"] == STATES[1].checkpoint.name and sheet["difference"] <= TOLERANCE
    assert run_cli(["export", "check", str(archive)]) == 0
    assert "nothing refuses it" in capsys.readouterr().out
    assert run_cli(["export", "console", str(run.path), "-o", str(tmp_path / "out")]) == 0
    assert "name there   my-run-1" in capsys.readouterr().out
    assert run_cli(["export", "car", f"{run.path}@"]) == 2
