"""A model comes back in from every layout it may have elsewhere, drives the same and trains on."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import TINY, command, error_line, run_command, train_command

from local_trainer.checkpoints import Checkpoint, choose_checkpoint, list_checkpoints, list_states
from local_trainer.runs import Run, find_run

pytestmark = pytest.mark.slow

METADATA_2019 = ("steering_angle", "speed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny run of two iterations."""
    runs_dir = tmp_path_factory.mktemp("source")
    run_command(train_command(runs_dir, "tiny", "--episodes", "20", "--track", "Oval_track"))
    return find_run("tiny", runs_dir)


def probabilities(graph: Path) -> np.ndarray:
    """Return what a frozen policy gives for a few pictures of noise."""
    from coach_presets.checkpoints import FrozenPolicy

    policy = FrozenPolicy(graph, 1)
    random = np.random.default_rng(3)
    found = policy.probabilities(random.integers(0, 256, (4, 120, 160, 1), dtype=np.uint8))
    policy.close()
    return found


def copied(run: Run, folder: Path, keys: list[str]) -> Path:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.path / key, folder / key)
    return folder


def last_of(run: Run) -> Checkpoint:
    return choose_checkpoint(run.model_dir, "last")


def prefix_keys(run: Run) -> list[str]:
    """Return what a prefix of the service's object store holds."""
    last = last_of(run)
    model = [*last.files(run.model_dir), last.frozen_graph(run.model_dir)]
    keys = [str(path.relative_to(run.path)) for path in model]
    keys += ["model/.coach_checkpoint", "model/deepracer_checkpoints.json"]
    keys += ["model/model_metadata.json", "ip/hyperparameters.json", "reward_function.py"]
    return [*keys, "training_params.yaml", "metrics/TrainingMetrics.json"]


def drfc_folder(run: Run, folder: Path) -> Path:
    """DRfC's prefix: no metadata at its root, a YAML file a worker."""
    made = copied(run, folder / "rl-deepracer-sagemaker", prefix_keys(run))
    (made / "training_params.yaml").rename(made / "training_params_1.yaml")
    return made


def zipped(made: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(made.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(made))
    return path


def tarred(made: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(made, ".")
    return path


def console_tar(run: Run, folder: Path) -> Path:
    """The old console's export: everything within one folder named as the model."""
    made = copied(run, folder / "x" / "my-model", [*prefix_keys(run), "model_metadata.json"])
    metrics = made / "metrics" / "training"
    metrics.mkdir()
    (made / "metrics" / "TrainingMetrics.json").rename(metrics / "training-20260101.json")
    return tarred(folder / "x", folder / "my-model.tar.gz")


def droa_zip(run: Run, folder: Path) -> Path:
    """The current console's virtual model: two root files, the rest of the training's own."""
    made = copied(run, folder / "x", [*prefix_keys(run), "model_metadata.json"])
    (made / "metrics" / "TrainingMetrics.json").unlink()
    (made / "model" / "model_metadata.json").unlink()
    text = (made / "training_params.yaml").read_text()
    (made / "training_params.yaml").write_text(text + "'TRACK_DIRECTION_CLOCKWISE': false\n")
    return zipped(made, folder / "virtualmodel.zip")


def car_archive(run: Run, folder: Path) -> Path:
    """What goes to the car, with simapp's records beside it."""
    made = copied(run, folder / "x", ["model_metadata.json"])
    (made / "agent").mkdir()
    shutil.copy(last_of(run).frozen_graph(run.model_dir), made / "agent" / "model.pb")
    (made / "worker_0.multi_agent_graph_0.csv").write_text("Episode #,Loss\n")
    return tarred(made, folder / "model.tar.gz")


def of_2019(run: Run, folder: Path) -> Path:
    """The original's prefix: other file places, camera and network under their old names."""
    made = copied(run, folder / "x", ["model_metadata.json", "presets/preset_hyperparams.py"])
    (made / "rewards").mkdir()
    shutil.copy(run.reward_file, made / "rewards" / "reward_function.py")
    metadata = json.loads((made / "model_metadata.json").read_text())
    actions = [{key: entry[key] for key in METADATA_2019} for entry in metadata["action_space"]]
    (made / "model_metadata.json").write_text(json.dumps({"action_space": actions}))
    (made / "model").mkdir()
    last = last_of(run)
    code = (
        "import sys\n"
        "from coach_presets.checkpoints import read_checkpoint\n"
        "from coach_presets.compat import tf\n"
        "from pathlib import Path\n"
        "values = read_checkpoint(Path(sys.argv[1]))\n"
        "names = {n.replace('FRONT_FACING_CAMERA', 'observation'): v for n, v in values.items()}\n"
        "globals_ = {n.replace('/online/', '/global/'): v for n, v in names.items()}\n"
        "stale = {n: v * 0 for n, v in names.items()}\n"
        "made = {n: tf.Variable(v) for n, v in {**stale, **globals_}.items()}\n"
        "session = tf.Session()\n"
        "session.run(tf.global_variables_initializer())\n"
        "tf.train.Saver(made).save(session, sys.argv[2], write_meta_graph=False)\n"
    )
    target = made / "model" / last.name
    run_command([sys.executable, "-c", code, str(last.prefix(run.model_dir)), str(target)])
    assert (made / "model" / "checkpoint").exists()
    return made


LAYOUTS = [drfc_folder, console_tar, droa_zip, car_archive, of_2019]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_model_of_each_layout_is_the_same_here(
    source: Run, layout: Callable[[Run, Path], Path], tmp_path: Path
) -> None:
    place = layout(source, tmp_path)
    arguments = ["import", str(place), "--name", "in", "--runs-dir", str(tmp_path / "runs")]
    found: dict[str, Any] = json.loads(run_command(command(*arguments, "--json")).stdout)
    run = find_run("in", tmp_path / "runs")
    last = last_of(source)
    number = 0 if layout is car_archive else last.number
    assert [checkpoint.number for checkpoint in list_checkpoints(run.model_dir)] == [number]
    mine = probabilities(choose_checkpoint(run.model_dir).frozen_graph(run.model_dir))
    theirs = probabilities(last.frozen_graph(source.model_dir))
    np.testing.assert_allclose(mine, theirs, rtol=0.0, atol=1e-6)
    assert run.reward_file.read_bytes() == source.reward_file.read_bytes()
    if layout is car_archive:
        assert found["lacking"] and all("/network_0/" in name for name in found["lacking"])
        assert found["track"] == "reinvent_base"
    else:
        assert found["lacking"] == []
    if layout in (drfc_folder, console_tar, droa_zip):
        assert found["track"] == "Oval_track"
        ours = json.loads(run.hyperparameters_file.read_text())
        assert ours == json.loads(source.hyperparameters_file.read_text())
        assert found["largest_difference"] < 1e-6
    record = json.loads((run.path / "imported" / "import.json").read_text())
    assert record["source"] == str(place)
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name != "in"]


@pytest.fixture(scope="module")
def imported(source: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("imported")
    place = drfc_folder(source, folder)
    done = run_command(command("import", str(place), "--name", "in", "--runs-dir", str(folder)))
    assert "all taken" in done.stdout
    return find_run("in", folder)


def test_an_imported_run_is_evaluated(imported: Run) -> None:
    arguments = ["evaluate", "in", "--runs-dir", str(imported.path.parent), "--trials", "1"]
    report = json.loads(run_command(command(*arguments, "--json")).stdout)
    assert report["checkpoint"] == last_of(imported).name
    assert imported.report_file.exists()


def test_another_run_begins_from_it_with_its_settings_alone(imported: Run) -> None:
    runs_dir = imported.path.parent
    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    arguments = ["train", "--from", "in", "--config", str(imported.config_file), "--name", "next"]
    run_command(command(*arguments, "--runs-dir", str(runs_dir), "--episodes", "10", *tiny))
    run = find_run("next", runs_dir)
    begun = probabilities(Checkpoint(0, 0).frozen_graph(run.model_dir))
    before = probabilities(last_of(imported).frozen_graph(imported.model_dir))
    np.testing.assert_allclose(begun, before, rtol=0.0, atol=1e-6)
    assert list_checkpoints(run.model_dir)[-1].number == 1


def test_it_is_gone_on_with_at_its_own_number(imported: Run) -> None:
    number = last_of(imported).number
    before = list_states(imported)[-1]
    tiny = {key: value for key, value in TINY.items() if key != "ppo.learning_rate"}
    text = imported.config_file.read_text()
    from local_trainer.config import load_config, resolve_config, save_config

    sets = [f"{key}={value}" for key, value in tiny.items()]
    save_config(resolve_config(imported.config_file, sets), imported.config_file)
    try:
        arguments = ["train", "--resume", "in", "--runs-dir", str(imported.path.parent)]
        run_command(command(*arguments, "--episodes", str(before.episodes + 10)))
    finally:
        imported.config_file.write_text(text)
    assert list_states(imported)[-1].number == number + 1
    assert load_config(imported.config_file).run == "in"


def test_weights_of_other_actions_are_refused_and_nothing_is_left(
    source: Run, tmp_path: Path
) -> None:
    place = drfc_folder(source, tmp_path)
    metadata = json.loads((place / "model" / "model_metadata.json").read_text())
    metadata["action_space"] = metadata["action_space"][:4]
    (place / "model" / "model_metadata.json").write_text(json.dumps(metadata))
    arguments = ["import", str(place), "--name", "in", "--runs-dir", str(tmp_path / "runs")]
    line = error_line(run_command(command(*arguments), status=2))
    assert "the weights choose among 10 actions, model_metadata.json has 4" in line
    assert list((tmp_path / "runs").iterdir()) == []


def test_damaged_weights_are_refused(source: Run, tmp_path: Path) -> None:
    place = drfc_folder(source, tmp_path)
    data = place / "model" / f"{last_of(source).name}.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    arguments = ["import", str(place), "--runs-dir", str(tmp_path / "runs")]
    assert "cannot be read" in error_line(run_command(command(*arguments), status=2))


@pytest.mark.services
def test_a_run_goes_to_a_bucket_and_comes_back(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "contract")
    from s3_server import running_minio

    (tmp_path / "minio").mkdir()
    with running_minio(tmp_path / "minio") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        place = f"s3://{server.new_bucket()}/models/tiny"
        where = ["--runs-dir", str(source.path.parent)]
        done = run_command(command("upload", "s3", "tiny", place, *where))
        assert server.credentials.secret_key not in done.stdout + done.stderr
        arguments = ["import", place, "--name", "back", "--runs-dir", str(tmp_path / "runs")]
        found = json.loads(run_command(command(*arguments, "--json")).stdout)
        car = tarred(copied(source, tmp_path / "car", prefix_keys(source)), tmp_path / "x.tar.gz")
        key = f"{place.removeprefix('s3://').partition('/')[2]}/x.tar.gz"
        server.client().fput_object(place.split("/")[2], key, str(car))
        arguments = ["import", f"{place}/x.tar.gz", "--runs-dir", str(tmp_path / "runs")]
        run_command(command(*arguments))
    assert found["track"] == "Oval_track"
    best = choose_checkpoint(source.model_dir)
    for name in ("back", "x"):
        run = find_run(name, tmp_path / "runs")
        mine = probabilities(last_of(run).frozen_graph(run.model_dir))
        theirs = probabilities(last_of(source).frozen_graph(source.model_dir))
        np.testing.assert_allclose(mine, theirs, rtol=0.0, atol=1e-6)
    assert choose_checkpoint(find_run("back", tmp_path / "runs").model_dir) == best


def test_a_real_export_reaches_the_console(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "local_trainer")
    from console_server import PASSWORD, USER, running_aws, running_console

    monkeypatch.setenv("LOCAL_TRAINER_CONSOLE_USER", USER)
    with running_aws() as aws, running_console(aws) as console:
        console.statuses = [{"status": "READY"}]
        arguments = ["upload", "console", "tiny", "--url", console.url, "--name", "Tiny"]
        arguments += ["--aws-endpoint", aws.endpoint, "--runs-dir", str(source.path.parent)]
        line = error_line(run_command(command(*arguments), status=2))
        assert "LOCAL_TRAINER_CONSOLE_PASSWORD" in line
        monkeypatch.setenv("LOCAL_TRAINER_CONSOLE_PASSWORD", PASSWORD)
        done = run_command(command(*arguments, "--json"))
        (request,) = console.imports
        keys = {key.removeprefix(f"{request['s3Path']}/") for key in aws.keys()}
    assert PASSWORD not in done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "READY"
    best = choose_checkpoint(source.model_dir)
    assert {"model/.coach_checkpoint", f"model/{best.name}.index"} <= keys


@pytest.mark.parametrize("kind", ["console", "car"])
def test_an_export_passes_its_check_comes_back_the_same_and_trains_on(
    source: Run, tmp_path: Path, kind: str
) -> None:
    where = ["--runs-dir", str(source.path.parent)]
    output = tmp_path / ("out" if kind == "console" else "model.tar.gz")
    made = command("export", kind, "tiny@last", "--output", str(output), *where, "--json")
    exported = json.loads(run_command(made).stdout)
    archive = exported["zip" if kind == "console" else "archive"]
    checked = json.loads(run_command(command("export", "check", archive, "--json")).stdout)
    assert checked["target"] == kind
    assert "refused" not in {finding["outcome"] for finding in checked["findings"]}
    place = ["--runs-dir", str(tmp_path / "runs")]
    run_command(command("import", archive, "--name", "back", *place))
    run = find_run("back", tmp_path / "runs")
    before = probabilities(last_of(source).frozen_graph(source.model_dir))
    after = probabilities(choose_checkpoint(run.model_dir).frozen_graph(run.model_dir))
    np.testing.assert_allclose(after, before, rtol=0.0, atol=1e-6)
    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    begin = ["train", "--from", "back", "--actions", str(run.metadata_file), "--name", "next"]
    run_command(command(*begin, *place, "--track", "Oval_track", "--episodes", "10", *tiny))
    trained = find_run("next", tmp_path / "runs")
    begun = probabilities(Checkpoint(0, 0).frozen_graph(trained.model_dir))
    np.testing.assert_allclose(begun, before, rtol=0.0, atol=1e-6)
    learned = probabilities(last_of(trained).frozen_graph(trained.model_dir))
    assert last_of(trained).number == 1 and np.abs(learned - begun).max() > 1e-6
