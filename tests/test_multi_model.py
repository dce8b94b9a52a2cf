"""Several models at once: the original's calls, checked before anything starts, packed by Ray."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import local_trainer
from local_trainer import engine as engine_module
from local_trainer import multi_model
from local_trainer.config import resolve_config
from local_trainer.engine import DeepRacerEngine
from local_trainer.errors import ConfigError, LocalTrainerError, NotFound
from local_trainer.launch.pack import Pack, PackedJob, PackFolder
from local_trainer.launch.trials import Resources
from local_trainer.machine import num_cpus
from local_trainer.multi_model import (
    param_gen_batch_sizes,
    param_gen_tracks,
    plot_multi_model_evaluation,
    plot_multi_model_runs_output,
    start_multi_model_evaluation,
    start_multi_model_simulations,
)
from local_trainer.progress import read_events
from local_trainer.run_files import create_run
from local_trainer.runs import list_runs

ROOT = Path(__file__).parents[1]
TINY = {
    "ppo.episodes_between_training": 10,
    "ppo.optimization_epochs": 1,
    "episodes.max_steps": 30,
    "evaluation.max_steps": 30,
    "stop.episodes": 20,
    "stop.until": "never",
    "simulator.num_cars": 10,
}


def job(tmp_path: Path, name: str, **more: Any) -> dict[str, Any]:
    given = {"job_name": name, "runs_dir": str(tmp_path / "runs"), "track_name": "Oval_track"}
    return {**given, "overrides": TINY, "evaluation_trials": 2, **more}


# The generators, against the original's names and defaults.


def test_batches_double_from_the_smallest_to_the_largest() -> None:
    params = param_gen_batch_sizes(job_name_prefix="demo")
    assert [one["batch_size"] for one in params] == [64, 128, 256, 512]
    assert [one["job_name"] for one in params] == [
        f"demo-batchsize-{size}" for size in (64, 128, 256, 512)
    ]
    assert {one["job_duration"] for one in params} == {3600}
    assert {one["evaluation_trials"] for one in params} == {5}
    assert {one["track_name"] for one in params} == {"reinvent_base"}


def test_a_largest_batch_between_two_is_not_exceeded() -> None:
    params = param_gen_batch_sizes(10, 79, 60, "demo", "Oval_track")
    assert [one["batch_size"] for one in params] == [10, 20, 40]
    assert {(one["job_duration"], one["track_name"]) for one in params} == {(60, "Oval_track")}


def test_tracks_are_the_originals_and_names_have_no_underscores() -> None:
    params = param_gen_tracks("demo")
    assert [one["track_name"] for one in params] == ["reinvent_base", "Oval_track", "Bowtie_track"]
    assert [one["job_name"] for one in params] == [
        "demo-track-reinvent-base",
        "demo-track-Oval-track",
        "demo-track-Bowtie-track",
    ]
    assert {(one["batch_size"], one["job_duration"], one["evaluation_trials"]) for one in params}
    assert {one["batch_size"] for one in params} == {64}


def test_what_is_generated_is_what_the_engine_takes() -> None:
    for one in (*param_gen_batch_sizes(job_name_prefix="a"), *param_gen_tracks("a")):
        assert DeepRacerEngine(one).job_name == one["job_name"]


@pytest.mark.parametrize(
    ("generate", "says"),
    [
        (lambda: param_gen_batch_sizes(), "job_name_prefix is required"),
        (lambda: param_gen_tracks(), "job_name_prefix is required"),
        (lambda: param_gen_batch_sizes(0, job_name_prefix="a"), "min_batch must be an integer"),
        (lambda: param_gen_batch_sizes(64, 32, job_name_prefix="a"), "at least min_batch 64"),
        (lambda: param_gen_tracks("a", track_names="Oval_track"), "must be a list of names"),
    ],
)
def test_generators_refuse_what_cannot_be_meant(generate: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        generate()


def test_the_calls_are_found_where_a_notebook_looks() -> None:
    names = [name for name in local_trainer._HOMES if name != "DeepRacerEngine"]
    assert len(names) == 6
    for name in names:
        found = getattr(multi_model, name)
        assert getattr(local_trainer, name) is found
        assert getattr(engine_module, name) is found
    assert local_trainer.DeepRacerEngine is DeepRacerEngine
    with pytest.raises(AttributeError):
        _ = local_trainer.nothing


def test_importing_the_package_imports_nothing_of_it() -> None:
    code = "import sys, local_trainer; print([m for m in sys.modules if 'local_trainer.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# Everything is checked before anything starts.


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"batch_size": 0}, "Job 'bad': batch_size must be an integer from 1 to 65536, got 0."),
        ({"job_name": None}, "Job 2 of 2: job_name is required"),
        ({"job_name": "good"}, "Job 'good': each job needs a name of its own"),
        ({"track": "x"}, "Job 'bad': Unknown parameter 'track'. Did you mean 'track_name'?"),
        ({"track_name": "Oval"}, "Job 'bad': "),
        ({"reward_policy": "none.py"}, "Job 'bad': No reward function file none.py."),
        ({"overrides": {"simulator.backend": "gazebo"}}, "Job 'bad': simulator.backend must be"),
    ],
)
def test_a_bad_job_is_named_in_one_line_and_nothing_starts(
    tmp_path: Path, bad: dict[str, Any], says: str
) -> None:
    with pytest.raises((ConfigError, NotFound)) as error:
        start_multi_model_simulations([job(tmp_path, "good"), job(tmp_path, "bad", **bad)])
    assert str(error.value).startswith(says) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("job_gives", "start_takes", "says"),
    [
        ({}, {"resources": Resources(cpus=10_000)}, "resources.cpus must be at most the "),
        ({}, {"resources": Resources(gpus=99)}, "resources.gpus must be at most the "),
        ({}, {"address": "127.0.0.1:9"}, "No Ray answers at 127.0.0.1:9: "),
        ({}, {"address": "nowhere"}, "A Ray address is HOST:PORT or auto, got 'nowhere'."),
        (
            {"instance_type": "ml.p3.2xlarge"},
            {"resources": Resources()},
            "Job 'one': instance_type must be a processor, such as ml.c4.2xlarge, where a job has "
            "no GPU (resources.gpus 0), got ml.p3.2xlarge.",
        ),
        (
            {"overrides": {"instance": "gpu"}},
            {"resources": Resources()},
            "Job 'one': resources.gpus must be > 0 with instance gpu, got 0.",
        ),
        (
            {"overrides": {"cluster.ray": "auto"}},
            {},
            "Job 'one': cluster.ray cannot be set for several models at once",
        ),
    ],
)
def test_what_there_is_no_room_for_is_told_before_there_are_runs(
    tmp_path: Path, job_gives: dict[str, Any], start_takes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        start_multi_model_simulations([job(tmp_path, "one", **job_gives)], **start_takes)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_reward_function_that_cannot_be_called_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def reward_function(params):\n    return 'much'\n")
    params = [job(tmp_path, "good"), job(tmp_path, "bad", reward_policy=str(tmp_path / "bad.py"))]
    with pytest.raises(LocalTrainerError, match="^Job 'bad': "):
        start_multi_model_simulations(params)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("params", [[], {}, {"job_name": "a"}, "a", [3]])
def test_several_models_are_a_list_of_dicts(params: Any) -> None:
    with pytest.raises(ConfigError):
        start_multi_model_simulations(params)


def test_without_ray_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'ray' else real(name, *a)\n"
        "from local_trainer import start_multi_model_simulations as start\n"
        "from local_trainer.errors import ConfigError\n"
        "try: start([{'job_name': 'a'}])\n"
        "except ConfigError as error: print(error)\n"
        "print([m for m in sys.modules if m == 'ray'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    said = done.stdout.splitlines()
    assert said == ["Several models at once needs Ray: run make setup-ray.", "[]"], done.stderr


def test_plots_need_trainings_that_were_started(tmp_path: Path) -> None:
    engines = {"a": DeepRacerEngine(job(tmp_path, "a"))}
    assert engines["a"].state == "not started"
    for call in (
        plot_multi_model_runs_output,
        start_multi_model_evaluation,
        plot_multi_model_evaluation,
    ):
        with pytest.raises(ConfigError, match="call start_training_testing_process first"):
            call(engines)
    with pytest.raises(ConfigError, match="one engine at least"):
        plot_multi_model_runs_output({})


HOLD = (
    "import sys, time; from pathlib import Path; from local_trainer.runs import Run\n"
    "with Run(Path(sys.argv[1])).lock(): print(flush=True); time.sleep(60)\n"
)


@pytest.mark.parametrize("is_worker", [True, False])
def test_kill_ends_a_worker_and_asks_anybody_else_who_holds_the_run(
    tmp_path: Path, is_worker: bool
) -> None:
    run = create_run(resolve_config(sets=["run=one"]), tmp_path / "runs")
    folder = PackFolder(tmp_path / "pack")
    # A worker is known by its command line; the desk of a pack on a cluster is none.
    name = "local_trainer.workers.trainer" if is_worker else "ray::Desk"
    command = [sys.executable, "-c", HOLD, str(run.path), name]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    packing = subprocess.Popen(["sleep", "60"])
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        PackedJob(Pack(folder, packing), run).kill()
        if is_worker:
            assert holder.wait(10.0) == -signal.SIGKILL
        assert folder.asked_to_stop() == (set() if is_worker else {"one"})
        assert run.is_locked() is not is_worker
    finally:
        for process in (holder, packing):
            process.kill()
            process.wait()


# For real.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DeepRacerEngine]:
    """Three jobs on two places: one good, one whose reward fails later, one stopped in time."""
    pytest.importorskip("ray", reason="make setup-ray")
    folder = tmp_path_factory.mktemp("multi")
    reward = folder / "bad.py"
    # Fine where it is checked, wrong after some steps of a real episode.
    reward.write_text(
        "calls = 0\ndef reward_function(params):\n"
        "    global calls; calls += 1\n    return 1.0 if calls < 60 else None\n",
        encoding="utf-8",
    )
    params = [
        job(folder, "good", batch_size=16),
        job(folder, "bad", reward_policy=str(reward)),
        job(folder, "late"),
    ]
    half = Resources(cpus=num_cpus() / 2, memory_gb=1.0)
    engines = start_multi_model_simulations(params, resources=half)
    assert [engine.state for engine in engines.values()] == ["waiting"] * 3
    assert all(engine.check_if_simulation_active() for engine in engines.values())
    with pytest.raises(ConfigError, match="is running"):
        engines["good"].start_training_testing_process()
    engines["late"].stop_training()
    assert engines["late"].state == "stopped"
    return engines


@pytest.mark.slow
def test_all_curves_are_in_one_picture_and_a_failure_is_told(
    trained: dict[str, DeepRacerEngine],
) -> None:
    with pytest.warns(RuntimeWarning, match="Job 'bad': Training of run .*returned None"):
        picture = plot_multi_model_runs_output(trained)
    assert picture.name == "multi_model_runs.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert trained["good"].state == "finished"
    assert trained["bad"].state.startswith("failed: ")
    assert ":2: reward_function returned None" in trained["bad"].state
    assert not any(engine.check_if_simulation_active() for engine in trained.values())


@pytest.mark.slow
def test_a_job_that_was_stopped_while_it_waited_never_began(
    trained: dict[str, DeepRacerEngine],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plot_multi_model_runs_output(trained)
    run = trained["late"].run
    assert run is not None
    assert run.read_status().status == "created" and not run.progress_file.exists()


@pytest.mark.slow
def test_the_evaluation_has_a_row_a_lap_and_a_column_job(
    trained: dict[str, DeepRacerEngine],
) -> None:
    good = {name: trained[name] for name in ("good", "bad")}
    with pytest.warns(RuntimeWarning, match="Job 'bad'"):
        evaluated = start_multi_model_evaluation(good)
    assert list(evaluated) == ["good"]
    with pytest.warns(RuntimeWarning, match="Job 'bad'"):
        table = plot_multi_model_evaluation(good)
    assert list(table.columns) == ["job", "trial", "completion_percentage", "elapsed_time"]
    assert table["job"].tolist() == ["good", "good"]
    assert table["trial"].tolist() == [1, 2]
    run = trained["good"].run
    assert run is not None
    assert (run.path.parent / "multi_model_evaluation.png").stat().st_size > 0


@pytest.mark.slow
def test_a_notebook_that_dies_leaves_the_trainings_to_their_end_one_after_another(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray", reason="make setup-ray")
    code = (
        "import json, os, sys, signal\n"
        "from local_trainer import start_multi_model_simulations as start\n"
        "from local_trainer.launch.trials import Resources\n"
        "params, cpus = json.loads(sys.argv[1]), float(sys.argv[2])\n"
        "start(params, resources=Resources(cpus=cpus, memory_gb=1.0))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    params = json.dumps([job(tmp_path, "one"), job(tmp_path, "two")])
    arguments = [sys.executable, "-c", code, params, str(num_cpus())]
    assert subprocess.run(arguments, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
    runs = tmp_path / "runs"
    deadline = time.monotonic() + 400.0
    while list(runs.glob(".pack-*")):  # removed by the process that packs, at its end
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    found = sorted(list_runs(runs), key=lambda run: run.name)
    assert [run.read_status().status for run in found] == ["finished", "finished"]
    times = [[event.time for event in read_events(run.progress_file)] for run in found]
    first, second = sorted(times)
    assert first[-1] < second[0]  # each asked for all cores


@pytest.mark.slow
def test_an_evaluation_that_no_place_fits_is_refused_in_place_of_waiting(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="make setup-ray")
    code = (
        "import os, sys; from pathlib import Path\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from local_trainer.errors import ConfigError\n"
        "from local_trainer.launch.pack import PackFolder\n"
        "from local_trainer.launch.ray_evaluations import Evaluations\n"
        "from local_trainer.launch.trials import Resources\n"
        "try: Evaluations(PackFolder(Path(sys.argv[1])), {}, Resources(cpus=2))\n"
        "except ConfigError as error: print(error)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=120)
    # Of the processors that the process may use, not of those that there are.
    said = "This machine has 1 cpus: resources.cpus must be at most that for one trial, got 2."
    assert done.stdout.splitlines() == [said], done.stderr


def test_in_a_notebook_one_picture_renews_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="make notebook")
    nbformat = pytest.importorskip("nbformat", reason="make notebook")
    monkeypatch.syspath_prepend(ROOT / "tests" / "local_trainer")
    from driven import oval, write_run

    run = write_run(tmp_path / "run", oval(), 2, 2)
    code = (
        "from pathlib import Path\n"
        "from local_trainer.plots import live_runs_plot\n"
        "from local_trainer.runs import Run\n"
        f"run, looks = Run(Path({str(run.path)!r})), []\n"
        "def is_done():\n"
        "    looks.append(1)\n"
        "    return len(looks) == 3\n"
        "live_runs_plot(lambda: {f'job ({len(looks)})': run}, run.path / 'x.png', is_done, 0.0)\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": ROOT}}).execute()
    outputs = notebook.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data"]
    shown = base64.b64decode(outputs[0].data["image/png"])
    assert shown == (run.path / "x.png").read_bytes()  # the last of three
