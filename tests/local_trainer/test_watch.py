"""Watching a training process; a small program that writes events stands for the trainer."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local_trainer.cli.watch import INTERRUPTED, watch
from local_trainer.errors import RunFailed
from local_trainer.runs import Run, RunStatus

TRAINER = """
import signal, sys, time
from pathlib import Path
from local_trainer.progress import *

log = ProgressLog(Path(sys.argv[1]) / "progress.jsonl")

def stop(number, frame):
    log.write(EndEvent("stopped", "interrupted"))
    sys.exit(0)

signal.signal(signal.SIGINT, stop)
for iteration in range(2):
    log.write(PhaseEvent("rollout", iteration))
    log.write(EpisodeEvent(iteration, iteration, "training", "off_track", 25.0, 3.0, 9, 0.6, 9))
    log.write(UpdateEvent(iteration, 9, 4, 0.1, 0.2, 2.3, 0.0, 0.1, 0.5, 1e-3, 0.1))
    log.write(EvaluationEvent(iteration, "x", 5, iteration, 50.0, 14.25, 14.25, True))
"""
FINISH = 'log.write(EndEvent("finished", "drives steadily"))'
HANG = "while True: time.sleep(0.05)"
FAIL = """
Path(sys.argv[1], "failure.json").write_text('{"message": "reward.py:3: boom", "exit_status": 2}')
sys.exit(1)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "one")
    run.path.mkdir()
    now = "2026-01-01T10:00:00+00:00"
    run.write_status(RunStatus("one", "one", "Oval_track", "created", now, now))
    run.config_file.write_text("track: Oval_track\n", encoding="utf-8")
    return run


def starting(ending: str) -> Callable[[Run], subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", TRAINER + ending]
    return lambda run: subprocess.Popen([*command, str(run.path)], start_new_session=True)


def interrupt_once_seen(path: Path, number: int = signal.SIGINT) -> None:
    """Send this process a Ctrl-C, or another signal, as soon as a file has something in it."""

    def wait_and_send() -> None:
        while not path.exists() or b"evaluation" not in path.read_bytes():
            pass_turn.wait(0.02)
        os.kill(os.getpid(), number)

    pass_turn = threading.Event()
    threading.Thread(target=wait_and_send, daemon=True).start()


def test_what_a_run_waits_for_is_shown_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.notices_file.parent.mkdir()
    run.notices_file.write_text("of an earlier start\n")
    say = """
from local_trainer.launch.notices import Notices
notices = Notices(Path(sys.argv[1]) / "logs" / "notices.log")
for seconds in range(3):
    notices.say(f"rollout-0: waits for Redis: [Errno 111], {seconds} s")
"""
    assert watch(run, starting(say + FINISH)) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if not line.startswith("iteration")]
    assert told == ["rollout-0: waits for Redis: [Errno 111], 0 s"]


def test_one_line_an_iteration_where_there_is_no_terminal(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(run, starting(FINISH)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["iteration 0", "iteration 1"]
    assert "completion 25 %" in lines[0]
    assert "evaluation 1 of 5 laps, mean 50 %, best lap 14.25 s" in lines[1]
    assert "at most" in lines[1]


def test_progress_goes_to_stderr_when_asked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    watch(run, starting(FINISH), to_stderr=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "iteration 1" in captured.err


def test_quiet_writes_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    watch(run, starting(FINISH), shows_progress=False)
    assert capsys.readouterr().out == ""


def test_interrupt_lets_the_trainer_save_and_end(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_once_seen(run.progress_file)
    assert watch(run, starting(HANG)) == INTERRUPTED
    assert '"stopped"' in run.progress_file.read_text(encoding="utf-8")
    assert "Stopping and saving" in capsys.readouterr().err


@contextmanager
def nobody_reads(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[None]:
    """Let what is written to standard output or error meet a pipe that was closed."""
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w", buffering=1) as file:
        for name in names:
            monkeypatch.setattr(sys, name, file)
        yield
    monkeypatch.undo()


def test_a_training_stops_when_nobody_reads_what_is_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = starting(HANG)(run)
    with nobody_reads(monkeypatch, "stdout"), pytest.raises(SystemExit):
        watch(run, lambda run: process)
    process.wait(20)
    assert '"stopped"' in run.progress_file.read_text(encoding="utf-8")


def test_a_training_stops_when_its_terminal_was_closed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_once_seen(run.progress_file, signal.SIGHUP)
    process = starting(HANG)(run)
    with nobody_reads(monkeypatch, "stderr"), pytest.raises(BrokenPipeError):
        watch(run, lambda run: process, shows_progress=False)
    process.wait(20)
    assert '"stopped"' in run.progress_file.read_text(encoding="utf-8")


def test_a_failure_is_told_as_the_trainer_wrote_it(run: Run) -> None:
    with pytest.raises(RunFailed, match=r"reward.py:3: boom") as caught:
        watch(run, starting(FAIL), shows_progress=False)
    assert caught.value.exit_status == 2


def test_a_trainer_killed_from_outside_is_named(run: Run) -> None:
    with pytest.raises(RunFailed, match="ended with signal 9"):
        watch(run, starting("import os; os.kill(os.getpid(), 9)"), shows_progress=False)
