"""The process in which the user's reward function runs: load it once, then answer batches.

Started by `local_trainer.reward` as ``python -m local_trainer.reward_process REQUESTS REPLIES
SHARED LOG`` (file descriptors, numbers). Records and rewards pass through shared memory; the two
pipes carry a few bytes a batch. Keep the imports few: every run waits for them.
"""

from __future__ import annotations

import faulthandler
import inspect
import io
import json
import math
import mmap
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sim.reward_dict import RewardParams
from sim.steps import STEP_DTYPE

CAPACITY = 256
"""Records in one batch."""

HEADER_BYTES = 64
"""The shared memory begins with the index (int64) of the record at work."""

RECORDS_OFFSET = HEADER_BYTES
REWARDS_OFFSET = RECORDS_OFFSET + CAPACITY * STEP_DTYPE.itemsize
SHARED_BYTES = REWARDS_OFFSET + CAPACITY * 8

REWARD_LIMIT = 1e5
OK = b"k"
FAILED = b"e"


class Road(NamedTuple):
    """As much of the track as the dicts need; the rest of it would import the compiler."""

    length_m: float
    waypoints: list[tuple[float, float]]


class BadReturn(Exception):
    """The function returned something that is no reward."""


def main() -> None:
    """Serve one parent until it closes its end."""
    requests, replies, shared, log = (int(text) for text in sys.argv[1:5])
    setup = json.loads(read_message(requests))
    guard(setup, log)
    memory = mmap.mmap(shared, SHARED_BYTES)
    os.write(replies, OK)  # Python is up; from here on the user's code takes the time
    try:
        function = load_function(Path(setup["path"]))
    except BaseException as error:  # the user's code runs here: anything may come out
        flush_output()
        _reply_failure(replies, describe(error, setup["path"], None))
        return
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    flush_output()
    os.write(replies, OK)
    waypoints = [(x, y) for x, y in setup["waypoints"]]
    _serve(function, Road(setup["length_m"], waypoints), memory, requests, replies, setup)


def load_function(path: Path) -> Callable[[dict[str, Any]], Any]:
    """Run the user's file as a module and return its ``reward_function``.

    Raises:
        BadReturn: If there is no such function or it does not take one parameter.
        Exception: Whatever the file raises.
    """
    module = ModuleType("reward_function")
    module.__file__ = str(path)
    # Dataclasses and the like look their module up by name.
    sys.modules[module.__name__] = module
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    function: Any = getattr(module, "reward_function", None)
    if not callable(function):
        what = "no reward_function" if function is None else f"reward_function = {function!r}"
        raise BadReturn(f"must define reward_function(params), got {what}")
    try:
        inspect.signature(function).bind({})
    except TypeError:
        signature = inspect.signature(function)
        raise BadReturn(
            f"reward_function must take one parameter, got reward_function{signature}"
        ) from None
    loaded: Callable[[dict[str, Any]], Any] = function
    return loaded


def _serve(
    function: Callable[[dict[str, Any]], Any],
    road: Road,
    memory: mmap.mmap,
    requests: int,
    replies: int,
    setup: dict[str, Any],
) -> None:
    params = RewardParams(road)
    records = np.frombuffer(memory, STEP_DTYPE, CAPACITY, RECORDS_OFFSET)
    rewards = np.frombuffer(memory, np.float64, CAPACITY, REWARDS_OFFSET)
    # Plain memory views: setting one number is several times cheaper than through numpy.
    at_work = memoryview(memory)[:8].cast("q")
    slots = memoryview(memory)[REWARDS_OFFSET:SHARED_BYTES].cast("d")
    while count_bytes := os.read(requests, 4):
        count = int.from_bytes(count_bytes, "little")
        signal.setitimer(signal.ITIMER_REAL, setup["time_limit_s"] * count + 5.0)
        at_work[0] = 0
        try:
            for index, one in enumerate(params.each(records[:count])):
                at_work[0] = index
                value = function(one)
                slots[index] = value if type(value) is float else _as_number(value)
            _check_rewards(rewards[:count], at_work)
        except BaseException as error:  # the user's code runs here: anything may come out
            flush_output()
            _reply_failure(replies, describe(error, setup["path"], function))
        else:
            flush_output()
            os.write(replies, OK)
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _as_number(value: Any) -> float:
    """Return a returned value as a float: what ``float()`` takes, texts excepted."""
    if isinstance(value, str | bytes | bytearray):
        raise BadReturn(f"returned the text {short(value)}; it must return a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        shown = "None" if value is None else f"{short(value)} ({type(value).__name__})"
        raise BadReturn(f"returned {shown}; it must return a number") from None


def _check_rewards(rewards: np.ndarray, at_work: memoryview) -> None:
    is_good = np.abs(rewards) <= REWARD_LIMIT  # false for NaN
    if is_good.all():
        return
    at_work[0] = index = int(np.flatnonzero(~is_good)[0])
    value = float(rewards[index])
    shown = "NaN" if math.isnan(value) else f"{value:g}"
    raise BadReturn(f"returned {shown}; it must return a number within +-1e5")


def describe(error: BaseException, path: str, function: Any) -> dict[str, Any]:
    """Return what happened, and the line of the user's file it happened in."""
    line = None
    if isinstance(error, SyntaxError) and error.filename == path:
        return {"what": f"is not valid Python: {error.msg}", "line": error.lineno}
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == path:
            line = frame.lineno
    if isinstance(error, BadReturn):
        code = getattr(function, "__code__", None)
        return {"what": str(error), "line": line or (code.co_firstlineno if code else None)}
    text = _shorten(" ".join(str(error).split()), 200)
    if isinstance(error, SystemExit):
        return {"what": f"ended the process with exit status {_exit_status(error)}", "line": line}
    return {"what": f"raised {type(error).__name__}{': ' if text else ''}{text}", "line": line}


def guard(setup: dict[str, Any], log: int) -> BoundedLog:
    """Keep what the user's code can do to this machine small.

    Args:
        setup: ``memory_bytes`` and ``log_bytes``, limits; ``load_limit_s``, from now on.
        log: Descriptor that printed text goes to.

    Returns:
        What stands in for standard output from now on.
    """
    for kind, limit in (
        (resource.RLIMIT_AS, setup["memory_bytes"]),
        # Backstop for output that bypasses Python; the log below is bounded well before.
        (resource.RLIMIT_FSIZE, 64 * setup["log_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):
            pass  # not every system has every limit; the time limit always holds
    # The parent asks where the code hangs with this signal; works inside C loops, too.
    faulthandler.register(signal.SIGUSR2, file=log, all_threads=False)
    # If the parent dies while the code hangs, the kernel ends this process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, setup["load_limit_s"] + 5.0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    output = BoundedLog(log, setup["log_bytes"])
    sys.stdout = sys.stderr = output
    return output


class BoundedLog(io.TextIOBase):
    """What the user's code prints, up to a limit."""

    def __init__(self, descriptor: int, limit_bytes: int) -> None:
        """Write to a copy of the descriptor, at most so many characters."""
        self._file = os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="replace")
        self._left = limit_bytes
        self.num_characters = 0
        """All that was printed, what was left out too."""

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Write the text as far as the limit allows; the rest is dropped."""
        self.num_characters += len(text)
        if self._left > 0:
            self._file.write(text[: self._left])
            self._left -= len(text)
            if self._left <= 0:
                self._file.write("\n(the rest of the reward function's output is left out)\n")
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        self._file.flush()


def flush_output() -> None:
    """Write out what the user's code printed, if that is still possible."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # a full disk or a user who closed it; rewards matter more than their prints


def read_message(descriptor: int) -> bytes:
    """Return the bytes of one message: their number (4 bytes), then they."""
    size = int.from_bytes(os.read(descriptor, 4), "little")
    data = b""
    while len(data) < size:
        chunk = os.read(descriptor, size - len(data))
        if not chunk:
            raise SystemExit(1)  # the parent is gone
        data += chunk
    return data


def _reply_failure(descriptor: int, failure: dict[str, Any]) -> None:
    data = json.dumps(failure).encode()
    os.write(descriptor, FAILED + len(data).to_bytes(4, "little") + data)


def short(value: Any) -> str:
    """Return what a value looks like in a few characters; never raises."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # the user's __repr__
        text = f"a {type(value).__name__}"
    return _shorten(text, 60)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _exit_status(error: SystemExit) -> int:
    # As Python itself counts: nothing is success, a text is failure.
    return error.code if isinstance(error.code, int) else int(error.code is not None)


if __name__ == "__main__":
    main()
