"""The process in which `local_trainer.lab.check` tries a user's reward function.

Started as `local_trainer.reward_process` is, with the same guards; what is more, the code may not
start processes here. Findings are sent stage by stage, so that those before a hang are kept: each
reply is the stage's letter, its size and JSON.
"""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import json
import math
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np

from local_trainer.lab.console_rules import (
    MISSING_PARAMETERS,
    Refusal,
    parameter_reads,
    refusals_of_text,
    written_at,
)
from local_trainer.reward_process import (
    OK,
    REWARD_LIMIT,
    BadReturn,
    BoundedLog,
    describe,
    flush_output,
    guard,
    load_function,
    read_message,
    short,
)

HEADER_BYTES = 64
TEXT = b"t"  # what the text alone tells
LOADED = b"l"
NOT_LOADED = b"e"
CALLS = b"c"
READS = b"r"
LEAKS = b"g"
CONSOLE = b"o"
DONE = b"d"

LOADING = 0xFFFF
"""Stands for the number of the case while the file itself runs."""

_CALLS_BUDGET_S = 1.0
_READS_BUDGET_S = 0.15
_LEAKS_BUDGET_S = 0.5
_MIN_CALLS = 5
_LEAK_CALLS = 150  # about as many as the comparisons take
_MAX_FAILURES = 30
_MAX_NODES = 20_000
_PROCESS_EVENTS = (
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.exec",
    "os.system",
    "os.startfile",
    "pty.spawn",
    "subprocess.Popen",
)

Function = Callable[[dict[str, Any]], Any]


def main() -> None:
    """Try one file for one parent."""
    requests, replies, shared, log = (int(text) for text in sys.argv[1:5])
    setup = json.loads(read_message(requests))
    output = guard(setup, log)
    memory = mmap.mmap(shared, HEADER_BYTES)
    os.write(replies, OK)
    check = _Check(Path(setup["path"]), memory, replies, output)
    signal.setitimer(signal.ITIMER_REAL, setup["total_limit_s"])
    check.read_text()
    if not check.load():
        return
    os.write(replies, OK)
    check.take(json.loads(read_message(requests)))
    check.call_all()
    check.find_reads_and_slow_lines()
    check.find_leaks()
    check.try_as_console()
    check.reply(DONE, {})


class _Check:
    """One file, loaded as often as needed."""

    def __init__(self, path: Path, memory: mmap.mmap, replies: int, output: BoundedLog) -> None:
        self._path = path
        self._output = output
        self._at_work = memoryview(memory)[:8].cast("q")
        self._serial = 0
        self._replies = replies
        self._tree: ast.Module | None = None
        self._forbidden: list[dict[str, Any]] = []
        self._forbidden_at_load = 0
        self._function: Function
        self._cars: list[dict[str, Any]] = []
        self._console: dict[str, Any] = {}
        self._median_s = 0.0
        self._import_watch = _ImportWatch(str(path))

    def reply(self, kind: bytes, content: Any) -> None:
        """Send one stage's findings."""
        flush_output()
        data = json.dumps(content).encode()
        message = memoryview(kind + len(data).to_bytes(4, "little") + data)
        while message:
            message = message[os.write(self._replies, message) :]

    def take(self, message: dict[str, Any]) -> None:
        """Take the cars and the console's cases; nothing of the user's runs meanwhile."""
        self._cars = message["cars"]
        for car in self._cars:
            car["waypoints"] = [(x, y) for x, y in car["waypoints"]]
        self._console = message["console"]

    # --- stages ------------------------------------------------------------------------------

    def read_text(self) -> None:
        """Find what the text tells without being run."""
        data = self._path.read_bytes()
        text = data.decode("utf-8", "replace")
        refusals: list[Refusal] = []
        reads: list[Any] = []
        try:
            refusals = refusals_of_text(text)
            self._tree = ast.parse(text)
            reads = parameter_reads(self._tree)
        except (SyntaxError, ValueError):
            pass  # one of the refusals; loading says it again
        except (RecursionError, MemoryError):
            refusals = [Refusal("syntax", None, "is nested too deeply to be read")]
        self.reply(TEXT, {"refusals": [vars(one) for one in refusals], "reads": reads})

    def load(self) -> bool:
        """Load the file once and say whether that went well."""
        sys.addaudithook(self._forbid_processes)
        self._touch(LOADING)
        try:
            self._function = load_function(self._path)
        except BaseException as error:  # the user's code runs here: anything may come out
            self.reply(NOT_LOADED, [*self._forbidden, describe(error, str(self._path), None)])
            return False
        self._forbidden_at_load = len(self._forbidden)
        self.reply(LOADED, self._forbidden)
        return True

    def call_all(self) -> None:
        """Call the function at every pose of every car, in one module, as a run does."""
        failures: dict[str, dict[str, Any]] = {}
        times_ns: list[int] = []
        slowest = (0, 0)
        num_calls = num_poses = 0
        printed_before = self._output.num_characters
        end = time.perf_counter() + _CALLS_BUDGET_S
        for number, (case, car, params) in enumerate(self._cases()):
            num_poses += 1
            if time.perf_counter() > end and number >= _MIN_CALLS:
                continue
            num_calls += 1
            with self._import_watch if number == 0 else nullcontext():
                value, elapsed_ns, failure = self._call(self._function, case, car, params)
            if failure is None:
                failure = _bad_value(value)
                times_ns.append(elapsed_ns)
                slowest = max(slowest, (elapsed_ns, case))
            if failure is not None:
                # The same text may hold other numbers at each pose: line and kind tell.
                key = f"{failure['line']} {failure['what'][:12]}"
                if key not in failures:
                    line = failure["line"] or self._return_line(self._function, car, params)
                    failures[key] = {**failure, "line": line, "case": case, "count": 0}
                failures[key]["count"] += 1
        printed = self._output.num_characters - printed_before
        forbidden = self._forbidden[self._forbidden_at_load :]
        timing = None
        if times_ns:
            median, p99 = np.percentile(times_ns, (50, 99)) * 1e-9
            timing = {
                "median_s": float(median),
                "p99_s": float(p99),
                "max_s": slowest[0] * 1e-9,
                "max_case": slowest[1],
            }
            self._median_s = float(median)
        self.reply(
            CALLS,
            {
                "failures": list(failures.values())[:_MAX_FAILURES],
                "forbidden": forbidden[:_MAX_FAILURES],
                "num_calls": num_calls,
                "num_poses": num_poses,
                "timing": timing,
                "printed_characters": printed,
            },
        )

    def find_reads_and_slow_lines(self) -> None:
        """Find which parameters are read, and which line of the file takes the most time."""
        reads: dict[str, int] = {}
        profile = _LineProfile(str(self._path))
        end = time.perf_counter() + _READS_BUDGET_S
        for case, car, params in self._cases():
            recording = _RecordingDict(self._params(car, params))
            recording.reads, recording.path = reads, str(self._path)
            self._call_silently(case, recording)
            given = self._params(car, params)
            with profile:
                self._call_silently(case, given)
            if time.perf_counter() > end:
                break
        self.reply(READS, {"reads": list(reads.items()), "lines": profile.shares()})

    def find_leaks(self) -> None:
        """Find values that depend on the calls before, by fresh modules and other orders."""
        end = time.perf_counter() + _LEAKS_BUDGET_S
        leaks: list[dict[str, Any]] = []
        if self._median_s * _LEAK_CALLS > 4.0 * _LEAKS_BUDGET_S:
            self.reply(LEAKS, {"leaks": [], "is_tested": False})
            return
        same_road = self._cars[:2]
        elsewhere = [car for car in self._cars[2:] if not car["has_objects"]][:2]
        try:
            alone = [self._episodes([car]).values[0] for car in same_road]
            again = [self._episodes([car]).values[0] for car in same_road]
            if alone != again:
                index = next(i for i in range(2) if alone[i] != again[i])
                leaks.append(self._leak("chance", same_road[index], alone[index], again[index], ()))
            else:
                orders = [("episodes", [same_road[0], *same_road], [alone[0], *alone], False)]
                orders.append(("cars", same_road, alone, True))
                if time.perf_counter() < end:
                    others = [self._episodes([car]).values[0] for car in elsewhere]
                    expected = [alone[0], *others, alone[0]]
                    orders.append(
                        ("tracks", [same_road[0], *elsewhere, same_road[0]], expected, False)
                    )
                for kind, cars, expected, alternates in orders:
                    if time.perf_counter() > end or (kind == "tracks" and leaks):
                        break
                    leaks += self._compare(kind, cars, expected, alternates)
        except BaseException:  # the user's code runs here: loading it again may fail
            self.reply(LEAKS, {"leaks": leaks, "is_tested": False})
            return
        self.reply(LEAKS, {"leaks": leaks, "is_tested": True})

    def try_as_console(self) -> None:
        """Call the function the way the console does and find what it would refuse."""
        # Seen at the very first call: later, what is imported at a call is there already.
        refusals = self._import_watch.refusals()
        try:
            function = self._fresh()
            if len(inspect.signature(function).parameters) != 1:
                what = f"must take exactly one parameter, takes {inspect.signature(function)}"
                refusals.append(Refusal("signature", _first_line(function), what))
            else:
                refusals += self._console_calls(function)
        except BaseException as error:  # the user's code runs here: anything may come out
            failure = describe(error, str(self._path), None)
            refusals.append(Refusal("call-fails", failure["line"], failure["what"]))
        self.reply(CONSOLE, {"refusals": [vars(one) for one in refusals]})

    def _console_calls(self, function: Function) -> Iterator[Refusal]:
        seen: set[tuple[str, int | None]] = set()
        for number, (name, params) in enumerate(console_cases(self._console).items()):
            self._touch(number)
            refusal = self._console_call(function, name, params, number == 0)
            if refusal is not None and (refusal.rule, refusal.line) not in seen:
                seen.add((refusal.rule, refusal.line))
                yield refusal

    def _console_call(
        self, function: Function, name: str, params: dict[str, Any], forbids_imports: bool
    ) -> Refusal | None:
        real_import = builtins.__import__
        if forbids_imports:
            builtins.__import__ = _refuse_import  # type: ignore[assignment]
        try:
            value = function(params)
        except BaseException as error:  # the user's code runs here: anything may come out
            failure = describe(error, str(self._path), function)
            if isinstance(error, _ImportAtCall):
                return _import_refusal(str(error), failure["line"])
            if isinstance(error, KeyError) and error.args and error.args[0] in MISSING_PARAMETERS:
                what = f"must not need params[{error.args[0]!r}]: the console's checker has none"
                return Refusal("parameter", failure["line"], what)
            return Refusal("call-fails", failure["line"], f"{failure['what']} in the case {name!r}")
        finally:
            builtins.__import__ = real_import
        if isinstance(value, float) and -REWARD_LIMIT <= value <= REWARD_LIMIT:
            return None
        line = _last_line(function, params)
        if not isinstance(value, float):
            kind = type(value).__name__
            what = f"must return a float, returns {short(value)} ({kind}) in the case {name!r}"
            return Refusal("return", line, what)
        what = f"must return a value within +-1e5, returns {value:g} in the case {name!r}"
        return Refusal("return", line, what)

    # --- calls -------------------------------------------------------------------------------

    def _cases(self) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        """Yield number, car and parameters of every pose, an episode after the other."""
        case = 0
        for car in self._cars:
            for params in car["params"]:
                yield case, car, params
                case += 1

    def _params(self, car: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Return a dict of its own for one call."""
        own = {key: value[:] if type(value) is list else value for key, value in params.items()}
        own["waypoints"] = car["waypoints"][:]
        return own

    def _call(
        self, function: Function, case: int, car: dict[str, Any], params: dict[str, Any]
    ) -> tuple[Any, int, dict[str, Any] | None]:
        """Return value, time in ns, and what failed if anything did."""
        given = self._params(car, params)
        self._touch(case)
        start = time.perf_counter_ns()
        try:
            value = function(given)
        except BaseException as error:  # the user's code runs here: anything may come out
            return None, 0, describe(error, str(self._path), function)
        elapsed_ns = time.perf_counter_ns() - start
        return value, elapsed_ns, None

    def _call_silently(self, case: int, given: dict[str, Any]) -> None:
        self._touch(case)
        try:
            self._function(given)
        except BaseException:  # the user's code runs here; what it raises was told before
            pass

    def _return_line(
        self, function: Function, car: dict[str, Any], params: dict[str, Any]
    ) -> int | None:
        """Call once more and return the line it returns from."""
        return _last_line(function, self._params(car, params))

    def _touch(self, case: int) -> None:
        """Tell the parent that a call begins, and which."""
        self._serial += 1
        self._at_work[0] = self._serial << 16 | case

    def _fresh(self) -> Function:
        self._touch(LOADING)
        return load_function(self._path)

    def _forbid_processes(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _PROCESS_EVENTS:
            return
        what = f"must not start a process ({event})"
        line = _line_in(str(self._path))
        if len(self._forbidden) < _MAX_FAILURES:
            self._forbidden.append({"what": what, "line": line})
        raise BadReturn(what)

    # --- leaks -------------------------------------------------------------------------------

    def _episodes(
        self,
        cars: list[dict[str, Any]],
        alternates: bool = False,
        reset: dict[str, Any] | None = None,
    ) -> _Played:
        """Play episodes in a fresh module.

        Args:
            cars: One episode each, one after the other.
            alternates: Play them step by step in turn.
            reset: Globals to set back before every call.
        """
        function = self._fresh()
        module = sys.modules["reward_function"]
        before = _fingerprints(module)
        initial = _plain_globals(module)
        order = [(i, j) for i, car in enumerate(cars) for j in range(len(car["params"]))]
        if alternates:
            order.sort(key=lambda pair: (pair[1], pair[0]))
        values: list[list[str]] = [[] for _ in cars]
        for i, j in order:
            for name, value in (reset or {}).items():
                module.__dict__[name] = copy.deepcopy(value)
            value, _, failure = self._call(function, j, cars[i], cars[i]["params"][j])
            values[i].append(failure["what"] if failure else _exact(value))
        after = _fingerprints(module)
        changed = [name for name in after if after[name] != before.get(name)]
        return _Played(values, changed, initial)

    def _compare(
        self, kind: str, cars: list[dict[str, Any]], expected: list[list[str]], alternates: bool
    ) -> list[dict[str, Any]]:
        played = self._episodes(cars, alternates)
        if played.values == expected:
            return []
        index = next(i for i in range(len(cars)) if played.values[i] != expected[i])
        guilty = []
        if len(played.changed) > 1:
            for name in played.changed:
                others = {
                    other: played.initial[other]
                    for other in played.changed
                    if other != name and other in played.initial
                }
                if self._episodes(cars, alternates, others).values != expected:
                    guilty.append(name)
        return [
            self._leak(
                kind,
                cars[index],
                expected[index],
                played.values[index],
                guilty or played.changed,
            )
        ]

    def _leak(
        self,
        kind: str,
        car: dict[str, Any],
        expected: list[str],
        got: list[str],
        names: list[str] | tuple[()],
    ) -> dict[str, Any]:
        pose = next(i for i in range(len(got)) if expected[i] != got[i])
        lines = {name: written_at(self._tree, name) if self._tree else None for name in names}
        return {
            "kind": kind,
            "globals": list(lines.items()),
            "car": self._cars.index(car),
            "pose": pose,
            "alone": expected[pose],
            "then": got[pose],
            "num_different": sum(a != b for a, b in zip(expected, got, strict=True)),
            "num_poses": len(got),
        }


class _Played:
    """The values of some episodes, and the globals that changed meanwhile."""

    def __init__(
        self, values: list[list[str]], changed: list[str], initial: dict[str, Any]
    ) -> None:
        self.values = values
        self.changed = changed
        self.initial = initial


class _RecordingDict(dict[str, Any]):
    """Parameters that remember which of them the user's code asks for, and where first."""

    reads: dict[str, int]
    path: str

    def _note(self, key: Any) -> None:
        frame = sys._getframe(2)
        if isinstance(key, str) and key not in self.reads and frame.f_code.co_filename == self.path:
            self.reads[key] = frame.f_lineno

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)

    def pop(self, key: str, *default: Any) -> Any:
        self._note(key)
        return super().pop(key, *default)


class _LineProfile:
    """Time spent in each line of one file; what a line calls elsewhere counts as its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._times_ns: dict[int, int] = {}
        self._line = 0
        self._since_ns = 0

    def __enter__(self) -> None:
        self._line = 0
        self._since_ns = time.perf_counter_ns()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def shares(self) -> list[tuple[int, float]]:
        """Return lines and their share of the time, the slowest first, five at most."""
        total_ns = sum(self._times_ns.values())
        ordered = sorted(self._times_ns.items(), key=lambda pair: -pair[1])[:5]
        return [(line, time_ns / total_ns) for line, time_ns in ordered if total_ns]

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        now_ns = time.perf_counter_ns()
        if self._line:
            spent_ns = now_ns - self._since_ns
            self._times_ns[self._line] = self._times_ns.get(self._line, 0) + spent_ns
        inside = frame.f_code.co_filename == self._path
        if inside and event == "return":
            caller = frame.f_back
            is_ours = caller is not None and caller.f_code.co_filename == self._path
            self._line = caller.f_lineno if is_ours else 0
        elif inside and event != "call":
            self._line = frame.f_lineno
        self._since_ns = time.perf_counter_ns()  # the tracing itself counts for no line
        return self._trace if inside else None


class _ImportWatch:
    """Remembers what a call of the user's function imports, directly or not, and in which line.

    By whether it was loaded already: the first of each.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._real_import = builtins.__import__
        self._seen: dict[bool, tuple[str, int | None]] = {}

    def __enter__(self) -> None:
        builtins.__import__ = self._import

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = self._real_import

    def refusals(self) -> list[Refusal]:
        """Return the refusal for what was imported, if anything was."""
        # numpy loads its parts when they are first used, and asks for loaded ones on the way.
        one = self._seen.get(False) or self._seen.get(True)
        return [_import_refusal(*one)] if one else []

    def _import(self, name: str, *arguments: Any, **named: Any) -> ModuleType:
        self._seen.setdefault(name in sys.modules, (name, _line_in(self._path)))
        return self._real_import(name, *arguments, **named)


def _import_refusal(name: str, line: int | None) -> Refusal:
    what = f"must import at the top of the file, imports {name} when it is called"
    return Refusal("import", line, what)


def _line_in(path: str) -> int | None:
    """Return the line of a file that is at work in the callers of the caller."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != path:
        frame = frame.f_back
    return frame.f_lineno if frame is not None else None


class _ImportAtCall(Exception):
    """The function imports when it is called, which the console does not let it."""


def _refuse_import(name: str, *_: Any) -> Any:
    raise _ImportAtCall(name)


def console_cases(track: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the five sets of parameters that the console's checker tries.

    Facts of the checker, its types included: many numbers are int there, the waypoints are an
    array, and they are the second pair of the route's columns.

    Args:
        track: ``route``, rows of six numbers in m.
    """
    route = np.array(track["route"])
    line = route[:, 2:4]
    width = math.dist(route[0, 4:6], route[0, 2:4])
    length = float(np.hypot(*np.diff(line, axis=0).T).sum())
    outward = (route[0, 4:6] - route[0, 0:2]) / math.dist(route[0, 4:6], route[0, 0:2])
    last = len(route) - 1
    common: dict[str, Any] = {
        "all_wheels_on_track": True,
        "distance_from_center": 0,
        "heading": 0,
        "progress": 0,
        "steps": 1,
        "track_width": width,
        "closest_waypoints": [0, 1],
        "is_left_of_center": True,
        "is_reversed": True,
        "track_length": length,
        "closest_objects": [0, 1],
        "objects_location": [
            [4.5, 1.3],
            [6.5, 1.4],
            [4.8, 3.1],
            [3.1, 4.1],
            [0.7, 4.2],
            [1.6, 1.7],
        ],
        "objects_left_of_center": [True, True, False, True, False, True],
        "object_in_camera": True,
        "objects_speed": [0.2] * 6,
        "objects_heading": [2.7, 2.4, -1.9, -1.4, 0.0003, 0.56],
        "objects_distance": [2.0, 4.1, 8.0, 10.0, 12.6, 15.1],
        "is_crashed": False,
        "is_offtrack": False,
    }
    at = {
        "valid": 0.5 * (route[0, 0:2] + route[0, 2:4]),
        "start": line[0],
        "mid-track": line[len(route) // 2],
        "off-track": route[0, 0:2] + width * outward,
        "finish": line[last],
    }
    special: dict[str, dict[str, Any]] = {
        "valid": {"speed": 0.5, "steering_angle": 6},
        "start": {"speed": 0.1, "steering_angle": 0.2},
        "mid-track": {
            "heading": 359.9,
            "progress": 50,
            "steps": 100,
            "speed": 1.0,
            "steering_angle": 6,
            "closest_waypoints": [3, 4],
        },
        "off-track": {
            "all_wheels_on_track": False,
            "distance_from_center": width,
            "heading": 359.9,
            "speed": 1,
            "steering_angle": 15,
            "is_offtrack": True,
        },
        "finish": {
            "heading": 359.9,
            "progress": 100,
            "steps": 10000,
            "speed": 5.0,
            "steering_angle": 0,
            "closest_waypoints": [last - 1, last],
        },
    }
    return {
        name: copy.deepcopy(common)
        | {"x": at[name][0], "y": at[name][1], "waypoints": line.copy()}
        | values
        for name, values in special.items()
    }


def _bad_value(value: Any) -> dict[str, Any] | None:
    """Return what is wrong with a returned value, as a run would say it."""
    if isinstance(value, str | bytes | bytearray):
        what = f"returned the text {short(value)}; it must return a number"
        return {"what": what, "line": None}
    try:
        number = float(value)
    except Exception:  # a user's own __float__
        shown = "None" if value is None else f"{short(value)} ({type(value).__name__})"
        return {"what": f"returned {shown}; it must return a number", "line": None}
    if abs(number) <= REWARD_LIMIT:  # false for NaN
        return None
    shown = "NaN" if math.isnan(number) else f"{number:g}"
    return {"what": f"returned {shown}; it must return a number within +-1e5", "line": None}


def _exact(value: Any) -> str:
    """Return a value so that equal texts are equal rewards."""
    try:
        return repr(float(value))
    except Exception:  # a user's own __float__
        return short(value)


def _last_line(function: Function, params: dict[str, Any]) -> int | None:
    """Return the line a function returns from, by calling it; else the one it begins at."""
    lines = [_first_line(function)]
    code = getattr(function, "__code__", None)

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code is not code:
            return None
        if event == "return":
            lines.append(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        function(params)
    except BaseException:  # the user's code runs here, and it went well the first time
        pass
    finally:
        sys.settrace(None)
    return lines[-1]


def _first_line(function: Any) -> int | None:
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code is not None else None


def _plain_globals(module: ModuleType) -> dict[str, Any]:
    """Return copies of the globals that hold plain data."""
    copies = {}
    for name, value in vars(module).items():
        if name.startswith("__") or isinstance(value, ModuleType | FunctionType | type):
            continue
        try:
            copies[name] = copy.deepcopy(value)
        except Exception:  # a user's own object
            continue
    return copies


def _fingerprints(module: ModuleType) -> dict[str, Any]:
    """Return something for each place a module can keep state in that changes when it does."""
    prints: dict[str, Any] = {}
    budget = [_MAX_NODES]
    for name, value in vars(module).items():
        if name.startswith("__") or isinstance(value, ModuleType):
            continue
        if isinstance(value, FunctionType):
            kept = [vars(value), value.__defaults__, value.__kwdefaults__]
            for cell in value.__closure__ or ():
                try:
                    kept.append(cell.cell_contents)
                except ValueError:  # not filled yet
                    pass
            prints[f"the defaults or attributes of {name}"] = _fingerprint(kept, budget)
        elif isinstance(value, type):
            if value.__module__ == module.__name__:
                data = {k: v for k, v in vars(value).items() if not k.startswith("__")}
                prints[f"the class {name}"] = _fingerprint(data, budget)
        else:
            prints[name] = _fingerprint(value, budget)
    return prints


def _fingerprint(value: Any, budget: list[int], depth: int = 0) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > 8:
        return None
    if isinstance(value, np.ndarray):
        return ("array", value.shape, hash(value.tobytes()) if value.dtype != object else id(value))
    if isinstance(value, dict):
        return [
            (_fingerprint(k, budget, depth + 1), _fingerprint(v, budget, depth + 1))
            for k, v in value.items()
        ]
    if isinstance(value, list | tuple):
        return [_fingerprint(one, budget, depth + 1) for one in value]
    if isinstance(value, FunctionType | type | ModuleType):
        return id(value)
    if hasattr(value, "__dict__"):
        return [type(value).__name__, _fingerprint(vars(value), budget, depth + 1)]
    try:
        return repr(value)[:10_000]
    except Exception:  # a user's own __repr__
        return id(value)


if __name__ == "__main__":
    main()
