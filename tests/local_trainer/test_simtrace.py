import csv
import json
from pathlib import Path

import numpy as np
import pytest
from driven import ACTIONS, HYPERPARAMETERS, METADATA, drive, evaluate_run, oval, write_run

from local_trainer.episodes import Episode
from local_trainer.runs import Run
from local_trainer.simtrace import (
    TRACE_FIELDS,
    RunLog,
    action_space_line,
    best_model_lines,
    closest_waypoints,
    episode_line,
    hyperparameters_text,
    is_better,
    policy_line,
    restoring_line,
    saving_line,
    sensor_line,
    trace_csv,
    trace_lines,
    trace_rows,
    world_line,
    write_training_trace,
)
from sim.simulator import EpisodeStart
from sim.steps import STEP_DTYPE, EpisodeStatus
from sim.track import Track

SHARED = Path(__file__).parents[2] / ".." / "shared"


def two_steps() -> Episode:
    """Return an episode of round numbers on the oval's first straight."""
    steps = np.zeros(2, STEP_DTYPE)
    steps["steps"] = 1, 2
    steps["x"], steps["y"] = (0.24, 0.30), (-1.0, -1.0)
    steps["heading"], steps["steering_angle"], steps["speed"] = -12.34567, 15.0, 2.0
    steps["progress"] = 1.23456, 2.5
    steps["sim_time"] = 1 / 15, 2 / 15
    steps["previous_waypoint"], steps["next_waypoint"] = 0, 1
    steps["all_wheels_on_track"] = True, False
    steps["status"][-1] = EpisodeStatus.OFF_TRACK
    steps["done"][-1] = True
    return Episode(
        start=EpisodeStart(7),
        phase="training",
        iteration=0,
        steps=steps,
        actions=np.array([5, 6], np.int32),
        rewards=np.array([0.12345678, 1e-3]),
        wall_clock=np.array([1000.0, 1000.06789]),
    )


def test_a_line_has_the_service_s_19_fields() -> None:
    # The oval's waypoints are 0.25 m apart; it is 2 x 3 m + 2 pi m long, as a polygon.
    length = f"{oval().length_m:.2f}"
    assert trace_lines(trace_rows(two_steps(), oval(), start_s=10.0)) == [
        "SIM_TRACE_LOG:7,1,0.2400,-1.0000,-12.3457,15.00,2.00,5,0.1235,False,True,1.2346,1,"
        f"{length},10.067,prepare,0.00,0,1000.0000",
        "SIM_TRACE_LOG:7,2,0.3000,-1.0000,-12.3457,15.00,2.00,6,0.0010,True,False,2.5000,1,"
        f"{length},10.133,off_track,0.00,0,1000.0679",
    ]


def test_the_csv_has_a_header_and_unformatted_values() -> None:
    text = trace_csv(trace_rows(two_steps(), oval(), number=0))
    rows = list(csv.reader(text.splitlines()))
    assert tuple(rows[0]) == TRACE_FIELDS
    assert len(rows) == 3 and {len(row) for row in rows} == {19}
    first = dict(zip(rows[0], rows[1], strict=True))
    assert first["episode"] == "0"
    assert first["steps"] == "1.0"
    assert first["reward"] == "0.12345678"
    assert first["done"] == "False"
    assert first["episode_status"] == "prepare"


def test_an_episode_that_ends_at_its_first_step_says_so() -> None:
    episode = two_steps()
    rows = trace_rows(
        Episode(
            start=episode.start,
            phase="training",
            iteration=0,
            steps=episode.steps[1:],
            actions=episode.actions[1:],
            rewards=episode.rewards[1:],
            wall_clock=episode.wall_clock[1:],
        ),
        oval(),
    )
    assert rows[0][TRACE_FIELDS.index("episode_status")] == "off_track"


def test_the_closest_waypoint_is_the_nearer_of_the_two() -> None:
    episode = two_steps()
    episode.steps["x"] = 0.12, 0.13  # waypoints at 0 and 0.25
    assert closest_waypoints(episode, oval()).tolist() == [0, 1]


def test_closest_waypoints_equal_the_service_s() -> None:
    golden = SHARED / "golden" / "reward_params.json"
    if not golden.exists():
        pytest.skip("needs ../shared/golden")
    for entry in json.loads(golden.read_text()):
        route = np.load(SHARED / "tracks" / f"{entry['track']}.npy")
        poses = entry["poses"]
        steps = np.zeros(len(poses), STEP_DTYPE)
        for field in ("x", "y"):
            steps[field] = [pose["params"][field] for pose in poses]
        pairs = np.array([pose["params"]["closest_waypoints"] for pose in poses])
        steps["previous_waypoint"], steps["next_waypoint"] = pairs.T
        zeros = np.zeros(len(poses))
        start = EpisodeStart(0, is_reversed=entry["reverse_direction"])
        episode = Episode(start, "training", 0, steps, zeros.astype(np.int32), zeros, zeros)
        closest = closest_waypoints(episode, Track.from_route(entry["track"], route))
        assert closest.tolist() == [pose["closest_waypoint"] for pose in poses]


def test_the_trace_of_an_iteration_lies_under_its_number(tmp_path: Path) -> None:
    run, track = Run(tmp_path), oval()
    episodes = [drive(track, k, iteration=3) for k in (40, 41)]
    lines = write_training_trace(run, 3, episodes, [5.0, 15.0], track)
    path = tmp_path / "training-simtrace" / "3-iteration.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == len(lines) == sum(len(e.steps) for e in episodes)
    assert {row["episode"] for row in rows} == {"40", "41"}
    times = [float(row["tstamp"]) for row in rows if row["episode"] == "41"]
    assert times[0] == pytest.approx(15.0 + 1 / 15, abs=1e-3)


def test_a_log_goes_on_where_it_stopped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with RunLog(run) as log:
        log.write("first")
    with RunLog(run) as log:
        log.write(["second", "third"])
    assert run.log_file.read_text() == "first\nsecond\nthird\n"


def test_hyperparameters_are_json_up_to_the_closing_brace() -> None:
    head, _, text = hyperparameters_text(HYPERPARAMETERS).partition("\n")
    assert head == "Using the following hyper-parameters"
    assert json.loads(text[: text.index("}") + 1]) == HYPERPARAMETERS


def test_the_action_space_is_readable_after_swapping_quotes() -> None:
    line = action_space_line(METADATA["action_space"])
    assert line.startswith("Action space from file: [{'steering_angle': -30.0, 'speed': 1.0")
    assert json.loads(line.split("file: ")[1].replace("'", '"')) == METADATA["action_space"]


def test_the_sensor_line() -> None:
    assert sensor_line(["FRONT_FACING_CAMERA"], "NET", 5.0) == (
        "Sensor list ['FRONT_FACING_CAMERA'], network NET, simapp_version 5.0, "
        "training_algorithm clipped_ppo, action_space_type discrete lidar_config {}"
    )


def test_the_other_lines() -> None:
    assert world_line("oval") == " * /WORLD_NAME: oval"
    assert saving_line("model/3_Step-20.ckpt") == (
        "Checkpoint> Saving in path=model/3_Step-20.ckpt"
    )
    assert restoring_line("model/3_Step-20.ckpt") == (
        "Checkpoint> Restoring from path=model/3_Step-20.ckpt"
    )
    assert policy_line(-0.5, 0.25, 2.0, 3, 3e-4) == (
        "Policy training> Surrogate loss=-0.5, KL divergence=0.25, Entropy=2.0, "
        "training epoch=3, learning_rate=0.0003"
    )
    assert episode_line(two_steps(), 210) == (
        "Training> Name=main_level/agent, Worker=0, Episode=8, Total reward=0.12, "
        "Steps=210, Training iteration=0"
    )
    lap = drive(oval(), 2, phase="evaluation", iteration=4)
    assert episode_line(lap, 210, exploration=0.125).startswith(
        "Testing> Name=main_level/agent, Worker=0, Episode=3, Total reward="
    )
    assert "Exploration=0.12, Steps=210" in episode_line(lap, 210, exploration=0.125)


def test_the_lines_about_the_best_model() -> None:
    assert best_model_lines("progress", [50.0, 100.0], "4_Step-9.ckpt", 60.0, "2_Step-3.ckpt") == [
        "[BestModelSelection] Number of evaluations: 2 Evaluation episode progress: [50.0, 100.0]",
        "[BestModelSelection] Evaluation episode progress mean: 75.0",
        "[BestModelSelection] current progress mean: 75.0 >= best progress mean: 60.0",
        '[BestModelSelection] Updating the best checkpoint to "4_Step-9.ckpt" from '
        '"2_Step-3.ckpt".',
    ]
    assert len(best_model_lines("progress", [10.0], "4_Step-9.ckpt", 60.0, "2_Step-3.ckpt")) == 2
    # Equal progress, but a slower lap.
    assert len(best_model_lines("progress", [60.0], "4_Step-9.ckpt", 60.0, "a", False)) == 2


def test_the_better_model_wins_and_an_equal_one_too() -> None:
    assert is_better("progress", 10.0, None)
    assert is_better("progress", 10.0, 10.0) and not is_better("progress", 9.0, 10.0)
    assert is_better("laptime", 10.0, 10.0) and not is_better("laptime", 11.0, 10.0)


# What the community's log tools make of a run's folder.


def read_with_deepracer_utils(folder: Path, per_iteration: int) -> None:
    """Check that deepracer-utils reads a finished run: traces, log, metrics, evaluation."""
    logs = pytest.importorskip("deepracer.logs")
    pytest.importorskip("deepracer.logs.metrics")
    utils = pytest.importorskip("deepracer.logs.log_utils")
    run = Run(folder)

    log = logs.DeepRacerLog(str(folder))
    assert log.fh.type.name == "DRFC_MODEL_SINGLE_WORKERS"
    log.load_training_trace()
    trace = log.dataframe()
    recorded = json.loads(run.training_metrics_file.read_text())["metrics"]
    training = [entry for entry in recorded if entry["phase"] == "training"]
    assert trace["unique_episode"].nunique() == len(training)
    assert (trace["unique_episode"] == trace["episode"]).all()
    hyperparameters = json.loads(run.hyperparameters_file.read_text())
    assert log.hyperparameters() == hyperparameters
    metadata = json.loads(run.metadata_file.read_text())
    assert log.action_space() == metadata["action_space"]
    assert log.agent_and_network()["sensor_list"] == metadata["sensor"]

    summary = utils.AnalysisUtils.simulation_agg(trace)
    assert len(summary) == len(training)
    for row, entry in zip(summary.itertuples(), training, strict=True):
        assert int(row.progress) == entry["completion_percentage"]
        assert round(row.reward) == pytest.approx(entry["reward_score"], abs=1)
        # From the first step to the last: one step less than the whole.
        assert row.time == pytest.approx(entry["elapsed_time_in_milliseconds"] / 1000, abs=0.1)

    lines = utils.SimulationLogsIO.load_data(str(run.log_file))
    from_log = utils.SimulationLogsIO.convert_to_pandas(lines, per_iteration)
    assert len(from_log) >= len(trace)  # in-training evaluations are not traced, ours are
    assert from_log["episode_status"].isin(set(trace["episode_status"]) | {"time_up"}).all()
    log._parse_robomaker_metadata(run.log_file.read_bytes())
    assert log.hyperparameters() == hyperparameters
    assert log.agent_and_network()["world"]

    frame = logs.metrics.TrainingMetrics(
        bucket="", fname=str(run.training_metrics_file), region="us-east-1"
    ).metrics
    assert len(frame) == len(recorded)
    assert (frame["phase"] == "training").sum() == len(training)
    assert list(frame["time"]) == [e["elapsed_time_in_milliseconds"] / 1000 for e in recorded]

    evaluation = logs.DeepRacerLog(str(folder))
    evaluation.load_evaluation_trace()
    laps = evaluation.dataframe()
    entries = json.loads((folder / "evaluation_metrics.json").read_text())["metrics"]
    newest = laps[laps["stream"] == laps["stream"].max()]
    assert newest["episode"].nunique() == len(entries)
    ends = newest.groupby("episode").last()
    assert [int(p) for p in ends["progress"]] == [e["completion_percentage"] for e in entries]


def test_deepracer_utils_reads_a_finished_run(tmp_path: Path) -> None:
    track = oval()
    run = write_run(tmp_path / "run", track, iterations=3, per_iteration=4)
    evaluate_run(run, track, stamp="20260102030405")
    read_with_deepracer_utils(run.path, per_iteration=4)


def test_every_action_of_a_trace_is_one_of_the_action_space(tmp_path: Path) -> None:
    for row in trace_rows(drive(oval()), oval()):
        values = dict(zip(TRACE_FIELDS, row, strict=True))
        assert (values["steer"], values["throttle"]) == ACTIONS[values["action"]]
