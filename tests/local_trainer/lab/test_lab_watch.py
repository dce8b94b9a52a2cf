import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from local_trainer.config import RunConfig
from local_trainer.episodes import Episode
from local_trainer.lab.recordings import Recording, read_own_run
from local_trainer.lab.reward_map import MapGrid, map_grid
from local_trainer.lab.watch import (
    Note,
    Workbench,
    affordable,
    compare,
    duration,
    last_episodes,
    remember,
    saves,
)
from local_trainer.run_files import create_run
from local_trainer.runs import Run
from local_trainer.step_files import write_steps
from sim.simulator import EpisodeStart
from sim.track_files import load_track

ROOT = Path(__file__).parents[3]
CONSTANT = "def reward_function(params):\n    return {}\n"
NUM_EPISODES, STEPS_EACH = 3, 10


@pytest.fixture(scope="module")
def grid() -> MapGrid:
    return map_grid(load_track("Oval_track"), num_cells=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, grid: MapGrid) -> Run:
    """A run of three episodes of ten steps each, which earned 1 a step."""
    folder = tmp_path_factory.mktemp("runs")
    reward = folder / "reward.py"
    reward.write_text(CONSTANT.format("1.0"))
    run = create_run(RunConfig(run="driven", track="Oval_track"), folder, reward_path=reward)
    steps = grid.steps(1.0, 0.0, 0.0)
    episodes = [
        Episode(
            start=EpisodeStart(k),
            phase="training",
            iteration=0,
            steps=steps[k * STEPS_EACH : (k + 1) * STEPS_EACH],
            actions=np.zeros(STEPS_EACH, np.int32),
            rewards=np.ones(STEPS_EACH),
            wall_clock=1e9 + np.arange(STEPS_EACH, dtype=float),
        )
        for k in range(NUM_EPISODES)
    ]
    write_steps(run.steps_file("training", 0), episodes)
    return run


@pytest.fixture
def recording(run: Run) -> Recording:
    return read_own_run(run)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "reward.py"
    path.write_text(CONSTANT.format("1.0"))
    return path


def figures(diff_or_figures: object) -> dict[str, tuple[str, str, str]]:
    return {
        one.name: (one.now, one.before, one.change)
        for one in diff_or_figures.figures  # type: ignore[attr-defined]
    }


def test_a_first_version_is_all_new(file: Path, grid: MapGrid, recording: Recording) -> None:
    version = Workbench(file, grid, recording).try_out()
    assert (version.number, version.problems, version.has_failed) == (1, (), False)
    diff = compare(version, None)
    assert list(diff.came) == version.notes and diff.went == ()
    shown = figures(diff)
    assert shown["reward an episode (3 of driven)"] == ("10", "", "")
    assert shown["map: mean"] == ("1", "", "")
    assert "lines" not in shown


def test_the_next_version_tells_what_changed(
    file: Path, grid: MapGrid, recording: Recording
) -> None:
    bench = Workbench(file, grid, recording)
    before = bench.try_out()
    file.write_text(CONSTANT.format("params['spede'] if params['steps'] < 0 else 1.5"))
    version = bench.try_out()
    diff = compare(version, before)
    assert version.number == 2
    assert [note.severity for note in diff.came if "'spede'" in note.text] == ["warning"]
    shown = figures(diff)
    assert shown["lines"] == ("2", "2", "+1 −1")
    assert shown["reward an episode (3 of driven)"] == ("15", "10", "+50 %")
    assert shown["episodes that earn more, less"] == ("", "", "3, 0")
    assert shown["map: mean"] == ("1.5", "1", "+0.5")
    assert shown["map: places that changed"] == ("", "", "100 %")
    assert not diff.is_unchanged
    back = compare(replace(before, number=3), version)
    assert {note.key for note in back.went} == {note.key for note in diff.came}


def test_a_version_that_fails_is_told_and_compared_with_the_last_that_worked(
    file: Path, grid: MapGrid, recording: Recording
) -> None:
    bench = Workbench(file, grid, recording)
    first = bench.try_out()
    file.write_text(CONSTANT.format("1.0 if params['speed'] > 1.5 else params['no such']"))
    broken = bench.try_out()
    assert broken.has_failed and broken.replay is None and broken.map is None
    assert [problem.split(":")[0] for problem in broken.problems] == ["no replay", "no map"]
    assert all("reward.py:2" in problem for problem in broken.problems)
    assert any(note.severity == "error" and note.line == 2 for note in broken.notes)
    remembered = remember(broken, first)
    file.write_text(CONSTANT.format("2.0"))
    diff = compare(bench.try_out(), remembered)
    assert "error" in [note.severity for note in diff.went] and not diff.came
    assert figures(diff)["reward an episode (3 of driven)"] == ("20", "10", "+100 %")


def test_a_slow_function_gets_fewer_places_and_steps(
    file: Path, grid: MapGrid, recording: Recording
) -> None:
    bench = Workbench(file, grid, recording)
    fast = bench.try_out()
    slow_code = "import time\ndef reward_function(params):\n    time.sleep({})\n    return 1.0\n"
    file.write_text(slow_code.format(0.005))
    slow = bench.try_out()
    assert fast.map is not None and slow.map is not None and slow.replay is not None
    assert fast.map.grid is grid
    assert 40 <= len(slow.map.grid) < len(grid) / 3
    assert len(slow.replay.recording.episodes) == NUM_EPISODES  # 30 steps are 0.15 s
    shown = figures(compare(slow, fast))
    assert shown["map: mean"] == ("1", "", "")  # other places: not comparable
    assert bench.try_out().map.grid is slow.map.grid  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("count", "call_s", "left"), [(4000, 1e-6, 4000), (4000, 3e-4, 1000), (4000, 1.0, 62)]
)
def test_calls_are_quartered_until_there_is_time(count: int, call_s: float, left: int) -> None:
    assert affordable(count, call_s) == left


def test_a_file_that_cannot_be_loaded_is_not_tried_further(file: Path, grid: MapGrid) -> None:
    bench = Workbench(file, grid)
    first = bench.try_out()
    file.write_text("def reward_function(params:\n")
    version = bench.try_out()
    assert version.has_failed and version.problems == () and version.map is None
    assert [note.line for note in version.notes if note.severity == "error"] == [1]
    remembered = remember(version, first)
    assert remembered.notes == version.notes
    assert (remembered.map, remembered.call_times) == (first.map, first.call_times)


def test_saving_the_same_again_changes_nothing(file: Path, grid: MapGrid) -> None:
    bench = Workbench(file, grid)
    first = bench.try_out()
    diff = compare(bench.try_out(), first)
    assert diff.is_unchanged and diff.num_kept == len(first.notes)
    assert not any(name.startswith("reward an episode") for name in figures(diff))


def test_a_finding_is_the_same_when_lines_and_numbers_move() -> None:
    one = Note("warning", 3, "takes 5.1 ms a call")
    assert one.key == Note("warning", 7, "takes 12 ms a call").key
    assert one.key != Note("error", 3, "takes 5.1 ms a call").key


def test_only_the_last_episodes_are_replayed(recording: Recording) -> None:
    assert len(last_episodes(recording, 30).episodes) == 3
    last = last_episodes(recording, 29).episodes
    assert [episode.index for episode in last] == [1, 2]
    assert [episode.index for episode in last_episodes(recording, 1).episodes] == [2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14e-6, "3.1 µs"), (0.0123, "12.3 ms"), (2.0, "2.00 s")]
)
def test_durations_are_in_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def next_save(watching: Iterator[None]) -> threading.Thread:
    """Begin to wait for the next save."""
    thread = threading.Thread(target=next, args=(watching,), daemon=True)
    thread.start()
    return thread


def write_in_place(path: Path) -> None:
    path.write_text(path.read_text() + "#\n")


def write_beside_and_replace(path: Path) -> None:
    beside = path.with_suffix(".new")
    # The same size and, as a restored backup, the same time: only the file itself is another.
    beside.write_text(path.read_text())
    status = path.stat()
    os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))
    beside.replace(path)


def delete_and_write(path: Path) -> None:
    text = path.read_text()
    path.unlink()
    time.sleep(0.05)
    path.write_text(text + "#\n")


@pytest.mark.parametrize("save", [write_in_place, write_beside_and_replace, delete_and_write])
def test_a_save_is_seen_however_it_is_done(file: Path, save: object) -> None:
    watching = saves(file, poll_s=0.01)
    next(watching)
    waiting = next_save(watching)
    waiting.join(0.1)
    assert waiting.is_alive(), "nothing was saved yet"
    save(file)  # type: ignore[operator]
    waiting.join(5.0)
    assert not waiting.is_alive()


class Watching:
    """The command as a process, and what it has printed so far."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local_trainer", "reward", "watch", *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.text = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line

    def wait_for(self, *words: str, limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while not all(word in self.text for word in words):
            assert time.monotonic() < deadline and self.process.poll() is None, self.text
            time.sleep(0.05)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(20.0)
        self._thread.join(5.0)
        return status


def test_the_command_goes_on_from_save_to_save_until_ctrl_c(
    file: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    watching = Watching(file, "--run", run.path, "--output", folder)
    try:
        watching.wait_for("version 1", "works", "reward an episode", "map: highest", "watch.html")
        assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
        first_page = (folder / "watch.html").read_text()
        assert 'http-equiv="refresh"' in first_page and "Version 1" in first_page

        file.write_text("def reward_function(params):\n    return 1.0 / 0.0\n")
        watching.wait_for("version 2", "fails", "+ error: line 2: raised ZeroDivisionError")

        write_beside_and_replace_with(file, CONSTANT.format("2.0"))
        watching.wait_for("version 3", "− error: line 2: raised ZeroDivisionError", "+100 %")
        assert "Version 3" in (folder / "watch.html").read_text()
        assert watching.interrupt() == 130
    finally:
        watching.process.kill()
    assert "Stopped watching." in watching.text
    assert "Traceback" not in watching.text and "error: interrupted" not in watching.text
    assert sorted(path.name for path in folder.iterdir()) == ["map.png", "watch.html"]


def write_beside_and_replace_with(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)
