"""The user's reward function, called for many steps at once in a process of its own.

The user's code can hang, exit, eat memory or print without end; none of that may harm the
training process. `local_trainer.reward_process` is the other side.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from local_trainer.environment import without_secrets
from local_trainer.errors import NotFound, RewardFunctionError
from local_trainer.reward_process import (
    CAPACITY,
    OK,
    RECORDS_OFFSET,
    REWARDS_OFFSET,
    SHARED_BYTES,
)
from sim.reward_dict import RewardParams
from sim.steps import STEP_DTYPE

if TYPE_CHECKING:  # it imports the compiler, and the process can start meanwhile
    from sim.track import Track

MEMORY_LIMIT_BYTES = 4 * 2**30
LOG_LIMIT_BYTES = 2**20
_LOAD_LIMIT_S = 5.0
_START_LIMIT_S = 30.0
_SHOWN_PARAMS = ("progress", "steps", "x", "y", "heading", "speed", "steering_angle")


class GuardedProcess:
    """A process in which one of our modules runs the user's code under limits.

    The module gets four file descriptors as arguments: requests, replies, shared memory (its
    first 8 bytes are the index of the call at work) and log. See `local_trainer.reward_process`.
    """

    def __init__(self, module: str, path: Path, shared_bytes: int, log_path: Path | None) -> None:
        """Start the process.

        Args:
            module: Our module that is run.
            path: The user's file.
            shared_bytes: Size of the shared memory.
            log_path: Where what the code prints is appended; None drops it.

        Raises:
            NotFound: If the user's file does not exist.
        """
        if not path.is_file():
            raise NotFound(f"No reward function file {path}.")
        self.path = path
        self._log = _open_log(log_path)
        self._shared_file = _shared_file(shared_bytes)
        self._memory = mmap.mmap(self._shared_file.fileno(), shared_bytes)
        self._start(module)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.close()

    def close(self) -> None:
        """End the process and whatever it started; a second call does nothing."""
        if self._process.poll() is None or self._requests >= 0:
            self._kill()
        for name in ("_requests", "_replies"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)
        self._log.close()
        self._shared_file.close()

    def _start(self, module: str) -> None:
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        given = (request_end, reply_end, self._shared_file.fileno(), self._log.fileno())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, given)],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the trainer; and children die with it
            )
        finally:
            os.close(request_end)
            os.close(reply_end)

    def send(self, message: dict[str, Any]) -> None:
        """Send one JSON message of ours to the process."""
        data = json.dumps(message).encode()
        try:
            _write_all(self._requests, len(data).to_bytes(4, "little") + data)
        except BrokenPipeError:
            pass  # it died at once; the first reply says so

    def await_reply(self, limit_s: float, too_late: str) -> bytes:
        """Wait for a reply as long as calls get done, and return its first byte.

        Raises:
            RewardFunctionError: ``too_late`` if one call takes longer than the limit, or how the
                process ended if it did.
        """
        done = self.at_work()
        while not select.select([self._replies], [], [], limit_s)[0]:
            if self.at_work() == done:
                line = self._where_it_hangs()
                self._kill()
                raise self.failure(too_late, line)
            done = self.at_work()
        kind = os.read(self._replies, 1)
        if not kind:
            raise self.failure(self._how_it_ended(), None)
        return kind

    def read_reply(self) -> bytes:
        """Return the rest of a reply that has one: its size (4 bytes), then it."""
        size = int.from_bytes(_read_exactly(self._replies, 4), "little")
        return _read_exactly(self._replies, size)

    def at_work(self) -> int:
        """Return the index of the call at work."""
        return int.from_bytes(self._memory[:8], "little", signed=True)

    def failure(self, what: str, line: int | None) -> RewardFunctionError:
        """Return the error for what happened in a line of the user's file."""
        where = f"{self.path}:{line}" if line else f"{self.path}"
        return RewardFunctionError(f"{where}: {what}")

    def _where_it_hangs(self) -> int | None:
        """Ask the process which line it is at; it answers into the log."""
        start = os.fstat(self._log.fileno()).st_size
        self._process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + 0.5
        pattern = re.compile(rf'File "{re.escape(str(self.path))}", line (\d+)')
        while time.monotonic() < deadline:
            text = os.pread(self._log.fileno(), 65_536, start).decode("utf-8", "replace")
            if match := pattern.search(text):
                return int(match[1])
            time.sleep(0.01)
        return None

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "closed its connection to the trainer"
        if status >= 0:
            return f"ended the process with exit status {status}"
        return f"was ended by signal {signal.Signals(-status).name}"

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()


class RewardFunction(GuardedProcess):
    """A reward function file, loaded in its own process and ready to be called."""

    def __init__(
        self,
        path: Path,
        track: Track,
        time_limit_s: float = 1.0,
        load_limit_s: float = _LOAD_LIMIT_S,
        log_path: Path | None = None,
    ) -> None:
        """Start the process; it loads the file while the caller goes on.

        Args:
            path: The user's file.
            track: In row order; each record says which way its car drove.
            time_limit_s: Longest a single call may take.
            load_limit_s: Longest the file's own top level may take.
            log_path: Where what the code prints is appended; None drops it.

        Raises:
            NotFound: If the file does not exist.
        """
        super().__init__("local_trainer.reward_process", path, SHARED_BYTES, log_path)
        self._track = track
        self._time_limit_s = time_limit_s
        self._load_limit_s = load_limit_s
        self._is_loaded = False
        self._batch = np.empty(0, STEP_DTYPE)
        self._records = np.frombuffer(self._memory, STEP_DTYPE, CAPACITY, RECORDS_OFFSET)
        self._rewards = np.frombuffer(self._memory, np.float64, CAPACITY, REWARDS_OFFSET)
        self.send(
            {
                "path": str(self.path),
                "waypoints": self._track.waypoints,
                "length_m": self._track.length_m,
                "memory_bytes": MEMORY_LIMIT_BYTES,
                "log_bytes": LOG_LIMIT_BYTES,
                "load_limit_s": self._load_limit_s,
                "time_limit_s": self._time_limit_s,
            }
        )

    def wait_until_loaded(self) -> None:
        """Wait until the file is loaded; `rewards` does so by itself.

        Raises:
            RewardFunctionError: If the file cannot be loaded.
        """
        if self._is_loaded:
            return
        # Two waits: first for Python and its imports, then for the user's top level.
        self._await_reply(_START_LIMIT_S, "the reward process never started")
        self._await_reply(
            self._load_limit_s, f"did not finish loading within {self._load_limit_s:g} s"
        )
        self._is_loaded = True

    def rewards(self, steps: np.ndarray) -> np.ndarray:
        """Return the reward of each step.

        Args:
            steps: Shape (n,), dtype `sim.steps.STEP_DTYPE`.

        Returns:
            Shape (n,), float64.

        Raises:
            RewardFunctionError: If the function fails; one line with the user's file and line,
                and the parameters as attribute ``params``.
        """
        self.wait_until_loaded()
        rewards = np.empty(len(steps))
        for first in range(0, len(steps), CAPACITY):
            batch = steps[first : first + CAPACITY]
            rewards[first : first + len(batch)] = self._rewards_of_batch(batch)
        return rewards

    def _rewards_of_batch(self, steps: np.ndarray) -> np.ndarray:
        self._batch = steps
        self._records[: len(steps)] = steps
        try:
            os.write(self._requests, len(steps).to_bytes(4, "little"))
        except BrokenPipeError:
            pass  # it died between two calls; the reply says so
        self._await_reply(self._time_limit_s, f"did not return within {self._time_limit_s:g} s")
        return self._rewards[: len(steps)]

    def _await_reply(self, limit_s: float, too_late: str) -> None:
        """Wait for one reply, and raise what went wrong if anything did."""
        if self.await_reply(limit_s, too_late) != OK:
            failure = json.loads(self.read_reply())
            raise self.failure(failure["what"], failure["line"])

    def failure(self, what: str, line: int | None) -> RewardFunctionError:
        """Return the error for what happened, with the parameters if it was a call."""
        if not self._is_loaded:
            return super().failure(what, line)
        where = f"{self.path}:{line}" if line else f"{self.path}"
        index = min(max(self.at_work(), 0), len(self._batch) - 1)
        params = RewardParams(self._track).dicts(self._batch[index : index + 1])[0]
        shown = ", ".join(f"{key}={params[key]:.6g}" for key in _SHOWN_PARAMS)
        error = RewardFunctionError(f"{where}: reward_function {what} (given {shown})")
        error.params = params
        return error


def check_reward_file(path: Path, track: Track, time_limit_s: float = 1.0) -> None:
    """Load a reward function and call it around a lap, so that mistakes show before a run.

    Args:
        path: The user's file.
        track: The track the run will use.
        time_limit_s: Longest a single call may take.

    Raises:
        NotFound: If the file does not exist.
        RewardFunctionError: If it cannot be loaded or a call fails.
    """
    with RewardFunction(path, track, time_limit_s) as function:
        function.rewards(trial_steps(track))


def trial_steps(track: Track) -> np.ndarray:
    """Return steps a car may well take: at waypoints around the lap, on the road and off it.

    Returns:
        Shape (n,), dtype `sim.steps.STEP_DTYPE`.
    """
    from sim.simulator import STEPS_PER_SECOND

    rows = np.linspace(0, len(track.center) - 1, 10, endpoint=False).astype(int)
    ahead_m = track.center[rows + 1] - track.center[rows]
    heading_rad = np.arctan2(ahead_m[:, 1], ahead_m[:, 0])
    station_m = np.insert(np.hypot(*np.diff(track.center, axis=0).T).cumsum(), 0, 0.0)[rows]
    on_road = np.zeros(len(rows), STEP_DTYPE)
    on_road["x"], on_road["y"] = track.center[rows].T
    on_road["heading"] = np.degrees(heading_rad)
    on_road["projection_distance"] = station_m
    on_road["progress"] = 100.0 * station_m / track.length_m
    on_road["steps"] = 1.0 + np.arange(len(rows))
    on_road["speed"] = 1.0
    on_road["track_width"] = track.widths_m[rows]
    on_road["sim_time"] = on_road["steps"] / STEPS_PER_SECOND
    on_road["previous_waypoint"], on_road["next_waypoint"] = rows, rows + 1
    on_road["all_wheels_on_track"] = True

    off_road = on_road.copy()  # a road's width to the left
    off_road["x"] -= np.sin(heading_rad) * off_road["track_width"]
    off_road["y"] += np.cos(heading_rad) * off_road["track_width"]
    off_road["distance_from_center"] = off_road["track_width"]
    off_road["all_wheels_on_track"] = False
    off_road["is_left_of_center"] = off_road["is_offtrack"] = True
    return np.concatenate((on_road, off_road))


def _open_log(path: Path | None) -> IO[bytes]:
    if path is None:
        return tempfile.TemporaryFile("a+b")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+b")


def _shared_file(num_bytes: int) -> IO[bytes]:
    """Return a nameless file in memory where the system has one: nothing is left to clean up."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    file = tempfile.TemporaryFile(dir=folder)
    file.truncate(num_bytes)
    return file


def _environment() -> dict[str, str]:
    """Return the process's environment: our packages importable, one thread a library.

    No secret is in it: the code may be a stranger's, as that of an imported model is.
    """
    root = str(Path(__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**without_secrets(), **one_thread, "PYTHONPATH": os.pathsep.join(paths)}


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := os.read(descriptor, size - len(data))):
        data += chunk
    return data
