"""Watching a training process: show its progress, pass on Ctrl-C, tell how it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from local_trainer.cli import live
from local_trainer.cli.console import stderr, stdout
from local_trainer.errors import RunFailed
from local_trainer.machine import free_disk_gib
from local_trainer.progress import EndEvent, Event, PhaseEvent, UpdateEvent, follow_events
from local_trainer.runs import Run

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells count it."""

_POLL_S = 0.25
_FULL_DISK_GIB = 0.001


def watch(
    run: Run,
    start: Callable[[Run], subprocess.Popen[bytes]],
    shows_progress: bool = True,
    to_stderr: bool = False,
) -> int:
    """Start a run's training and follow it to its end.

    Args:
        run: A run that nobody works on.
        start: Starts the training process.
        shows_progress: Whether progress is written at all.
        to_stderr: Write it to standard error, because standard output is for the result.

    Returns:
        Exit status: 0, or 130 if the user stopped it.

    Raises:
        RunFailed: If the training process failed.
    """
    watcher = _Watcher(run, shows_progress, to_stderr)
    with _kill_as_interrupt():
        process = start(run)
        try:
            watcher.follow(process)
        except KeyboardInterrupt:
            return _stop(process, watcher)
        except BaseException:  # such as a pipe that nobody reads any more
            process.send_signal(signal.SIGINT)
            raise
    if process.returncode:
        raise failure_of(run, process.returncode, "trainer")
    return 0


def failure_of(run: Run, returncode: int, worker: str) -> RunFailed:
    """Return the error that ended a worker, as it wrote it down."""
    try:
        failure = json.loads(run.failure_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        failure = {"message": _unexplained(run, returncode, worker)}
    error = RunFailed(str(failure.get("message")))
    error.exit_status = int(failure.get("exit_status", 1))
    return error


def _unexplained(run: Run, returncode: int, worker: str) -> str:
    """Return what can be told of a worker that could not write down why it ended."""
    if free_disk_gib(run.path) < _FULL_DISK_GIB:
        return f"The {worker} process ended because the disk of {run.path} is full."
    how = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
    hint = " (killed from outside, or out of memory)" if returncode == -signal.SIGKILL else ""
    log = run.path / "logs" / f"{worker}.log"
    return f"The {worker} process ended with {how}{hint}; see {log}."


@contextmanager
def _kill_as_interrupt() -> Iterator[None]:
    """Let `kill` and a closed terminal stop a run as cleanly as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes], watcher: _Watcher) -> int:
    """Let the training save and end; a second Ctrl-C ends it at once."""
    process.send_signal(signal.SIGINT)  # first: the terminal may be gone
    try:
        print("Stopping and saving; Ctrl-C again ends it at once.", file=sys.stderr)
        watcher.follow(process)
    except KeyboardInterrupt:
        process.kill()
        process.wait()
    return INTERRUPTED


class NoticesView:
    """Writes what is appended to a file from now on, line by line."""

    def __init__(self, path: Path, console: Console) -> None:
        """Take the file, there already or not."""
        self._path = path
        self._console = console
        self._offset = _size(path)

    def show(self) -> None:
        """Write what is new."""
        if _size(self._path) > self._offset:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
            lines = text[: text.rfind(b"\n") + 1]
            self._offset += len(lines)
            for line in lines.decode("utf-8").splitlines():
                self._console.print(line, markup=False)


class _Watcher:
    """Shows a run's progress: a live view in a terminal, one line an iteration elsewhere."""

    def __init__(self, run: Run, shows_progress: bool, to_stderr: bool) -> None:
        from local_trainer.config import load_config

        self._run = run
        self._console = stderr() if to_stderr else stdout()
        self._shows_progress = shows_progress
        self._standing, self._offset = _standing_before(run)
        self._notices = NoticesView(run.notices_file, self._console)
        self._started = time.monotonic()
        used_minutes = run.read_status().minutes
        self._limit = live.TimeLimit(load_config(run.config_file).stop.minutes, used_minutes)

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Show what happens until the process has ended."""
        if not self._shows_progress:
            process.wait()
        elif self._console.is_terminal:
            self._show_live(process)
        else:
            self._print_iterations(process)

    def _show_live(self, process: subprocess.Popen[bytes]) -> None:
        from rich.live import Live

        with Live(console=self._console, refresh_per_second=4, transient=True) as view:
            for event in self._events(process):
                if event is not None:
                    self._take(event)
                view.update(live.screen(self._run.name, self._standing, self._elapsed()))

    def _print_iterations(self, process: subprocess.Popen[bytes]) -> None:
        is_line_due = False
        for event in self._events(process):
            if event is None:
                continue
            # An iteration is over when something other than its update or evaluation begins.
            begins_next = isinstance(event, PhaseEvent) and event.phase in ("rollout", "report")
            if is_line_due and (begins_next or isinstance(event, EndEvent)):
                self._console.print(live.iteration_line(self._standing, self._elapsed()))
                is_line_due = False
            is_line_due = is_line_due or isinstance(event, UpdateEvent)
            self._take(event)
            is_line_due = is_line_due and not _is_new_start(event)

    def _take(self, event: Event) -> None:
        """Move on to where the run stands after an event."""
        if _is_new_start(event):
            # In the stack a trainer that was killed begins again: what it lost is played anew.
            self._standing, _ = _standing_before(self._run)
        self._standing = self._standing.after(event)

    def _events(self, process: subprocess.Popen[bytes]) -> Iterator[Event | None]:
        """Yield events as they are written, None after each look, until the process ended."""
        is_running = True
        while is_running:
            is_running = runs_after(process)
            # Above the live view.
            self._notices.show()
            events, self._offset = follow_events(self._run.progress_file, self._offset)
            yield from events
            yield None

    def _elapsed(self) -> str:
        return self._limit.text(time.monotonic() - self._started)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_new_start(event: Event) -> bool:
    return isinstance(event, PhaseEvent) and event.phase == "setup" and not event.detail


def runs_after(process: subprocess.Popen[bytes], wait_s: float = _POLL_S) -> bool:
    """Return whether a process still runs after a moment."""
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        return True
    return False


def _standing_before(run: Run) -> tuple[live.Standing, int]:
    """Return where a run stood before this start, and how much of its log that took."""
    from local_trainer.history import read_history

    status = run.read_status()
    _, offset = follow_events(run.progress_file)
    standing = live.Standing(
        iteration=status.iteration,
        episodes=status.episodes,
        total_steps=status.steps,
        first_steps=status.steps,
        evaluation=next(reversed(read_history(run).evaluations), None),
        best_lap_s=status.best_lap_s,
    )
    return standing, offset
