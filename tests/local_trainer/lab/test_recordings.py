import io
import tarfile
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from trace_writers import (
    archive,
    folder,
    generation_csv,
    generation_lines,
    generation_log,
)

from local_trainer.bench.replay import record_run
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError, NotFound
from local_trainer.lab import trace_files
from local_trainer.lab.recordings import Recording, read_recording
from local_trainer.simtrace import world_line
from local_trainer.step_files import read_steps
from sim.steps import EpisodeStatus
from sim.track_files import load_track

GENERATIONS = (15, 16, 17, 18, 19)
TRACK = "reinvent_base"


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    record_run(path, 16)
    return path


@pytest.fixture(scope="module")
def own(runs_dir: Path) -> Recording:
    return read_recording("driven", runs_dir)


@pytest.fixture(scope="module")
def training(own: Recording) -> Recording:
    """The run without its evaluation, which traces do not hold."""
    return replace(own, episodes=[e for e in own.episodes if e.phase == "training"])


def csv_of(recording: Recording, some: slice = slice(None), num_fields: int = 19) -> str:
    return generation_csv(recording.episodes[some], recording.track, num_fields)


def log_of(recording: Recording, num_fields: int = 19) -> str:
    return generation_log(recording.episodes, recording.track, num_fields)


def test_own_run_comes_back_bit_for_bit(runs_dir: Path, own: Recording) -> None:
    written = [
        episode
        for name in ("training-0.npz", "evaluation-0.npz")
        for episode in read_steps(runs_dir / "driven" / "steps" / name)
    ]
    assert [(e.phase, e.index) for e in own.episodes] == [(e.phase, e.index) for e in written]
    for episode, expected in zip(own.episodes, written, strict=True):
        assert episode.steps.tobytes() == expected.steps.tobytes()
        assert episode.rewards.tobytes() == expected.rewards.tobytes()
    assert own.kind == "own run"
    assert own.is_exact
    assert own.reward_file == runs_dir / "driven" / "reward_function.py"
    assert np.array_equal(own.track.route(), load_track(TRACK).route())


def test_own_run_is_found_by_its_folder_too(runs_dir: Path, own: Recording) -> None:
    assert read_recording(runs_dir / "driven").num_steps == own.num_steps


def test_run_without_steps_is_refused(runs_dir: Path, tmp_path: Path) -> None:
    folder(tmp_path / "empty", {"status.json": "{}", "steps/note.txt": ""})
    with pytest.raises(NotFound, match="'empty' has recorded no steps"):
        read_recording("empty", tmp_path)


@pytest.mark.parametrize("num_fields", GENERATIONS)
@pytest.mark.parametrize("form", ["log", "csv"])
def test_every_generation_gives_the_driven_steps(
    tmp_path: Path, training: Recording, num_fields: int, form: str
) -> None:
    path = tmp_path / f"trace.{form}"
    text = (
        log_of(training, num_fields) if form == "log" else csv_of(training, slice(None), num_fields)
    )
    path.write_text(text)
    read = read_recording(path, track=TRACK)
    assert len(read.episodes) == len(training.episodes)
    # Angles of the first generation are rounded to 0.0001 rad (heading) and 0.01 rad (steering).
    heading_error = np.degrees(0.5e-4) if num_fields == 15 else 0.5e-4
    steering_error = np.degrees(0.5e-2) if num_fields == 15 else 0.5e-2
    for got, driven in zip(read.episodes, training.episodes, strict=True):
        assert got.index == driven.index
        assert got.start.is_reversed == driven.start.is_reversed
        assert got.status is driven.status
        for name, error in (
            ("x", 0.5e-4),
            ("y", 0.5e-4),
            ("heading", heading_error),
            ("steering_angle", steering_error),
            ("progress", 0.5e-4),
            ("speed", 0.0),
            ("steps", 0.0),
            ("sim_time", 0.5e-3 + 0.5e-3),
        ):
            difference = np.abs(got.steps[name] - driven.steps[name]).max()
            assert difference <= error * 1.001, name
        assert np.array_equal(got.steps["all_wheels_on_track"], driven.steps["all_wheels_on_track"])
        assert np.abs(got.rewards - driven.rewards).max() <= 0.5e-4


def test_unrounded_traces_of_a_run_give_its_rewards_parameters_to_rounding(
    tmp_path: Path, runs_dir: Path, training: Recording
) -> None:
    traces = runs_dir / "driven" / "training-simtrace"
    read = read_recording(traces, track=TRACK)
    for got, driven in zip(read.episodes, training.episodes, strict=True):
        for name in ("x", "y", "heading", "progress"):
            assert np.array_equal(got.steps[name], driven.steps[name])
        assert (
            np.abs(got.steps["distance_from_center"] - driven.steps["distance_from_center"]).max()
            < 1e-12
        )


LAYOUTS = {
    # What the service's console, DRoA and the community's containers leave.
    "console": (
        "sim-trace/training/training-simtrace/{i}-iteration.csv",
        "sim-trace/evaluation/evaluation-simtrace/0-iteration.csv",
    ),
    "droa": (
        "abc/sim-trace/training/20260101-job/training-simtrace/{i}-iteration.csv",
        "abc/sim-trace/evaluation/20260102-job/evaluation-simtrace/0-iteration.csv",
    ),
    "single": (
        "training-simtrace/{i}-iteration.csv",
        "evaluation-20260102030405/evaluation-simtrace/0-iteration.csv",
    ),
    "multi": (
        "{w}/training-simtrace/{j}-iteration.csv",
        "evaluation-20260102030405/evaluation-simtrace/0-iteration.csv",
    ),
}


@pytest.mark.parametrize("is_archive", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read_iteration_by_iteration(
    tmp_path: Path, training: Recording, layout: str, is_archive: bool
) -> None:
    pattern, evaluation = LAYOUTS[layout]
    # 12 files, so that 10 comes after 9 and not after 1.
    files = {
        pattern.format(i=i, w=i % 2, j=i // 2): csv_of(training, slice(i, i + 1)) for i in range(12)
    }
    files[evaluation] = csv_of(training, slice(12, 14))
    files["training_params.yaml"] = f"WORLD_NAME: '{TRACK}'\n"
    files["model/other.csv"] = "a,b\n1,2\n"
    make = archive if is_archive else folder
    path = tmp_path / ("logs.tar.gz" if is_archive else "logs")
    read = read_recording(make(path, files))
    assert read.track.name == TRACK
    assert [e.phase for e in read.episodes] == ["training"] * 12 + ["evaluation"] * 2
    expected = [i // 2 if layout == "multi" else i for i in range(12)]
    assert [e.iteration for e in read.episodes[:12]] == expected
    assert [len(e.steps) for e in read.episodes] == [len(e.steps) for e in training.episodes[:14]]
    assert len({(e.phase, e.index) for e in read.episodes}) == 14


def test_workers_that_count_alike_get_numbers_of_their_own(
    tmp_path: Path, training: Recording
) -> None:
    text = csv_of(training, slice(0, 2))
    folder(tmp_path, {f"{w}/training-simtrace/0-iteration.csv": text for w in range(3)})
    read = read_recording(tmp_path, track=TRACK)
    assert [e.index for e in read.episodes] == [0, 1, 2, 3, 4, 5]


def test_mixed_lines_of_workers_that_count_alike_are_told_apart(
    tmp_path: Path, training: Recording
) -> None:
    """Three workers, two episodes each under the same numbers, line by line in turn."""
    pairs = [training.episodes[2 * worker : 2 * worker + 2] for worker in range(3)]
    streams = [
        generation_lines(
            [replace(e, start=replace(e.start, episode=k)) for k, e in enumerate(pair)],
            training.track,
            19,
        )
        for pair in pairs
    ]
    mixed = [line for lines in zip_longest(*streams) for line in lines if line is not None]
    (tmp_path / "mixed.log").write_text("\n".join(mixed) + "\n")
    read = read_recording(tmp_path / "mixed.log", track=TRACK)

    def by_start(episodes: list[Episode]) -> list[Episode]:
        return sorted(episodes, key=lambda e: (len(e.steps), round(float(e.steps["x"][0]), 2)))

    assert len(read.episodes) == 6
    for got, driven in zip(by_start(read.episodes), by_start(training.episodes[:6]), strict=True):
        np.testing.assert_allclose(got.steps["x"], driven.steps["x"], atol=1e-4)
        np.testing.assert_allclose(got.steps["y"], driven.steps["y"], atol=1e-4)
    assert any("mixed" in note for note in read.exactness.notes)


def test_nothing_of_an_archive_reaches_the_disk(tmp_path: Path, training: Recording) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text(csv_of(training))
    inside = tmp_path / "inside"
    inside.mkdir()
    path = archive(
        inside / "logs.tar.gz",
        {
            "../../outside/training-simtrace/0-iteration.csv": csv_of(training, slice(0, 1)),
            "/tmp/absolute/training-simtrace/1-iteration.csv": csv_of(training, slice(1, 2)),
        },
        links={"training-simtrace/2-iteration.csv": str(secret)},
    )
    before = sorted(tmp_path.rglob("*"))
    read = read_recording(path, track=TRACK)
    assert len(read.episodes) == 2  # the link's target is not read
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/absolute").exists()


def test_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_files, "MAX_ARCHIVE_BYTES", 2**20)
    path = archive(tmp_path / "bomb.tar.gz", {"model/weights.bin": "\0" * 2**22})
    assert path.stat().st_size < 2**14
    with pytest.raises(ConfigError, match="must unpack to at most"):
        read_recording(path)


def test_archive_with_a_name_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * 2**21), io.BytesIO())
    with pytest.raises(ConfigError, match=r"not a whole tar.gz archive.*header"):
        read_recording(path)


def test_file_larger_than_the_limit_is_refused(
    tmp_path: Path, training: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_files, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "trace.csv"
    path.write_text(csv_of(training))
    with pytest.raises(ConfigError, match="must have at most"):
        read_recording(path, track=TRACK)


@pytest.mark.parametrize("keep", [10, 200, 5000])
def test_cut_off_archive_is_refused(tmp_path: Path, training: Recording, keep: int) -> None:
    whole = archive(tmp_path / "a.tar.gz", {"training-simtrace/0-iteration.csv": csv_of(training)})
    whole.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="not a whole tar.gz"):
        read_recording(whole, track=TRACK)


def test_log_cut_off_in_a_line_loses_that_line_only(tmp_path: Path, training: Recording) -> None:
    lines = generation_lines(training.episodes, training.track, 19)
    path = tmp_path / "a.log"
    path.write_text("\n".join(lines)[:-40])
    read = read_recording(path, track=TRACK)
    assert read.num_steps == training.num_steps - 1
    assert "1 damaged trace rows were left out" in read.exactness.notes


def test_waiting_steps_are_left_out(tmp_path: Path, training: Recording) -> None:
    lines = generation_lines(training.episodes[:1], training.track, 19)
    assert "in_progress" in lines[2]
    waiting = [lines[2].replace("in_progress", "pause")] * 3
    path = tmp_path / "a.log"
    path.write_text("\n".join([*lines[:3], *waiting, *lines[3:]]))
    read = read_recording(path, track=TRACK)
    assert [len(e.steps) for e in read.episodes] == [len(lines)]


def test_continuous_actions_have_no_index(tmp_path: Path, training: Recording) -> None:
    lines = generation_lines(training.episodes[:1], training.track, 19)
    path = tmp_path / "a.log"
    path.write_text("\n".join(line.replace(",-1,", ",[-12.5 1.5],") for line in lines))
    read = read_recording(path, track=TRACK)
    assert read.num_steps == len(lines)
    assert set(read.episodes[0].actions) == {-1}


def test_iteration_of_a_log_follows_from_its_hyperparameters(
    tmp_path: Path, training: Recording
) -> None:
    path = tmp_path / "a.log"
    path.write_text('{"num_episodes_between_training": 5}\n' + log_of(training))
    read = read_recording(path)
    assert [e.iteration for e in read.episodes] == [e.index // 5 for e in training.episodes]


@pytest.mark.parametrize(
    ("settings", "name", "is_ccw"),
    [
        ("WORLD_NAME: reinvent_base\n", "reinvent_base", True),
        ("'WORLD_NAME': 'reinvent_base_cw'\n", "reinvent_base", False),
        (
            "WORLD_NAME: [reinvent_base]\nTRACK_DIRECTION_CLOCKWISE: [True]\n",
            "reinvent_base",
            False,
        ),
        ("WORLD_NAME: reinvent_base\nTRACK_DIRECTION_CLOCKWISE: False\n", "reinvent_base", True),
    ],
)
def test_track_and_direction_are_read_from_the_settings(
    tmp_path: Path, training: Recording, settings: str, name: str, is_ccw: bool
) -> None:
    folder(
        tmp_path,
        {"training-simtrace/0-iteration.csv": csv_of(training), "training_params.yaml": settings},
    )
    read = read_recording(tmp_path)
    assert (read.track.name, read.track.is_ccw) == (name, is_ccw)


def test_log_names_its_track_and_the_option_wins(tmp_path: Path, training: Recording) -> None:
    path = tmp_path / "a.log"
    path.write_text(log_of(training))
    assert read_recording(path).track.name == TRACK
    assert read_recording(path, track="reinvent_wood").track.name == "reinvent_wood"


def test_trace_without_a_track_is_told_which_would_fit(tmp_path: Path, training: Recording) -> None:
    path = tmp_path / "0-iteration.csv"
    path.write_text(csv_of(training))
    with pytest.raises(ConfigError, match=r"--track .*17\.69 m; reinvent_base and"):
        read_recording(path)


def test_unknown_track_of_a_log_is_one_line(tmp_path: Path, training: Recording) -> None:
    path = tmp_path / "a.log"
    path.write_text(log_of(training).replace(world_line(TRACK), world_line("reinvent_bass")))
    with pytest.raises(ConfigError, match="Unknown track 'reinvent_bass'. Did you mean") as caught:
        read_recording(path)
    assert "\n" not in str(caught.value)


def test_track_of_another_length_is_noted(tmp_path: Path, training: Recording) -> None:
    path = tmp_path / "a.log"
    path.write_text(log_of(training))
    read = read_recording(path, track="wide_loop")
    assert any("17.69 m long, wide_loop here" in note for note in read.exactness.notes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.log", "nothing here\n", "holds no step traces"),
        ("a.csv", "a,b,c\n1,2,3\n", "holds no step traces"),
        ("a.log", "SIM_TRACE_LOG:1,2,3\n", "15 to 19 fields, got lines of 3 fields"),
        ("a.log", "SIM_TRACE_LOG:" + ",".join("x" * 19) + "\n", "none of its 1 trace rows"),
        ("a.log", "SIM_TRACE_LOG:" + ",".join(["nan"] * 15) + "\n", "none of its 1 trace rows"),
        ("a.log", "\0\1\2SIM_TRACE_LOG:", "holds no step traces"),
        ("a.tar.gz", "no archive", "not a whole tar.gz"),
    ],
)
def test_files_without_traces_are_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((ConfigError, NotFound), match=message):
        read_recording(tmp_path / name, track=TRACK)


def test_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Unknown run 'nowhere'"):
        read_recording("nowhere", tmp_path)


def test_status_is_derived_for_2019(tmp_path: Path, training: Recording) -> None:
    path = tmp_path / "a.log"
    path.write_text(log_of(training, 15))
    ends = {e.status for e in read_recording(path).episodes}
    assert ends == {e.status for e in training.episodes}
    assert EpisodeStatus.OFF_TRACK in ends
