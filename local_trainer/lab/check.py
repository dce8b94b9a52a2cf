"""Checks a reward function before it costs an hour of training: ``local-trainer reward check``.

The file runs in a guarded process of its own (`local_trainer.lab.check_process`); this side makes
the poses, waits, and puts the findings into a `CheckReport`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from local_trainer.errors import RewardFunctionError
from local_trainer.lab import check_process as process
from local_trainer.lab.console_rules import Refusal
from local_trainer.reward import LOG_LIMIT_BYTES, MEMORY_LIMIT_BYTES, GuardedProcess
from sim.reward_dict import KEYS

if TYPE_CHECKING:
    from local_trainer.lab.check_poses import Car
    from sim.track import Track

FIRST_GENERATION_NAMES = {
    "on_track": "all_wheels_on_track",
    "car_orientation": "heading",
    "throttle": "speed",
    "steering": "steering_angle",
    "closest_waypoint": "closest_waypoints",
}
"""Parameters of the service's first reward functions, and what took their place."""

SHOWN_PARAMETERS = (
    "x",
    "y",
    "heading",
    "speed",
    "steering_angle",
    "progress",
    "steps",
    "distance_from_center",
    "track_width",
    "closest_waypoints",
    "all_wheels_on_track",
    "is_offtrack",
)
"""Parameters that one line can show; the report holds all."""

_MAIN_TRACK = "reinvent_base"
_START_LIMIT_S = 30.0
_LOAD_LIMIT_S = 5.0
_CALL_LIMIT_S = 1.0
_CONSOLE_LIMIT_S = 5.0
_TOTAL_LIMIT_S = 120
_NO_CASE = process.LOADING
_SLOW_CALL_S = 2e-3
_MUCH_OUTPUT_A_CALL = 500

_LEAK_TEXTS = {
    "chance": "other values for the same calls of a freshly loaded file: it uses chance, the clock "
    "or something outside the file",
    "episodes": "other values after another episode",
    "cars": "other values when the calls of two cars alternate",
    "tracks": "other values after driving another track or direction",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be."""

    is_error: bool
    kind: str
    """exception, return, hang, exit, process, load, parameter, leak, output or slow."""
    line: int | None
    """In the user's file."""
    what: str
    where: str = ""
    """Track, direction and pose of the first call it happened in."""
    count: int = 1
    """Calls it happened in."""
    params: dict[str, Any] | None = None
    """What the first such call was given, without ``waypoints``."""


@dataclass(frozen=True)
class SlowLine:
    """A line of the user's file and its share of the time."""

    line: int
    share: float
    source: str


@dataclass(frozen=True)
class CallTimes:
    """How long calls take, in s."""

    median_s: float
    p99_s: float
    max_s: float
    max_where: str
    """The slowest call's track, direction and pose."""
    slowest_lines: tuple[SlowLine, ...]


@dataclass(frozen=True)
class CheckReport:
    """All that a check found."""

    path: str
    findings: tuple[Finding, ...]
    refusals: tuple[Refusal, ...]
    """Why the console would refuse the file; apart from the findings."""
    is_console_complete: bool
    """Whether the console's five cases could be tried as well as its rules for the text."""
    is_leak_tested: bool
    num_calls: int
    num_poses: int
    num_tracks: int
    call_times: CallTimes | None
    parameters_read: tuple[str, ...]
    elapsed_s: float

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that would end a run, or make it worthless."""
        return tuple(finding for finding in self.findings if finding.is_error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings to think about."""
        return tuple(finding for finding in self.findings if not finding.is_error)


def check_reward(
    path: Path, call_limit_s: float = _CALL_LIMIT_S, console_track: Track | None = None
) -> CheckReport:
    """Try a reward function on every shipped track and return what was found.

    Args:
        path: The user's file.
        call_limit_s: Longest a single call may take.
        console_track: Track of the console's own cases; None: reinvent_base.

    Raises:
        NotFound: If the file does not exist.
    """
    start = time.perf_counter()
    stages: dict[bytes, Any] = {}
    ended: _Ended | None = None
    with _CheckProcess(path) as guarded:
        # Imported here: the process reads and loads the file meanwhile.
        from sim.track_files import BUILT_IN_DIR, load_track

        tracks = [load_track(file) for file in sorted(BUILT_IN_DIR.glob("*.yaml"))]
        cars = _ordered_cars(tracks)
        main = next(track for track in tracks if track.name == _MAIN_TRACK)
        route = (console_track or main).route().tolist()
        try:
            for kind, content in guarded.stages(cars, route, call_limit_s):
                stages[kind] = content
        except _Ended as error:
            ended = error
        num_raw_bytes = guarded.num_raw_bytes()
    elapsed_s = time.perf_counter() - start
    return _report(path, stages, ended, num_raw_bytes, cars, len(tracks), elapsed_s)


def duration(seconds: float) -> str:
    """Return a short time in the unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1.0 else f"{seconds:.2f} s"


class _Ended(RewardFunctionError):
    """The process hung or ended before its last stage."""

    def __init__(self, what: str, line: int | None, case: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.case = case


class _CheckProcess(GuardedProcess):
    def __init__(self, path: Path) -> None:
        super().__init__("local_trainer.lab.check_process", path, process.HEADER_BYTES, None)
        self.send(
            {
                "path": str(path),
                "memory_bytes": MEMORY_LIMIT_BYTES,
                "log_bytes": LOG_LIMIT_BYTES,
                "load_limit_s": _START_LIMIT_S,
                "total_limit_s": _TOTAL_LIMIT_S,
            }
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def stages(
        self, cars: list[Car], route: list[list[float]], call_limit_s: float
    ) -> Iterator[tuple[bytes, Any]]:
        """Yield the content of each stage as it comes; ends early if loading fails."""
        self.await_reply(_START_LIMIT_S, "the process for the reward function never started")
        yield self._stage(_LOAD_LIMIT_S, "could not be read in time")
        loaded = self._stage(_LOAD_LIMIT_S, f"did not finish loading within {_LOAD_LIMIT_S:g} s")
        yield loaded
        if loaded[0] == process.NOT_LOADED:
            return
        self.await_reply(_START_LIMIT_S, "stopped answering after it was loaded")
        self.send({"cars": [vars(car) for car in cars], "console": {"route": route}})
        too_late = "did not return within {:g} s"
        for limit_s in (call_limit_s, call_limit_s, _LOAD_LIMIT_S, _CONSOLE_LIMIT_S, call_limit_s):
            yield self._stage(limit_s, too_late.format(limit_s))

    def num_raw_bytes(self) -> int:
        """Return how much was written to the output, by whatever way."""
        return os.fstat(self._log.fileno()).st_size

    def failure(self, what: str, line: int | None) -> _Ended:
        """Return what happened, with the number of the call."""
        return _Ended(what, line, self.at_work() & 0xFFFF)

    def _stage(self, limit_s: float, too_late: str) -> tuple[bytes, Any]:
        kind = self.await_reply(limit_s, too_late)
        try:
            return kind, json.loads(self.read_reply())
        except ValueError:  # cut short, or the user's code wrote into it
            raise self.failure("broke off in the middle of an answer", None) from None


def _ordered_cars(tracks: list[Track]) -> list[Car]:
    """Put the main track's cars first, then one of each other track, so that few show much."""
    from local_trainer.lab.check_poses import cars_on

    by_track = {track.name: cars_on(track) for track in tracks}
    main = by_track.pop(_MAIN_TRACK)
    # Diagonally: the tracks differ in direction and objects from one to the next.
    rest = [
        cars[(turn + index) % len(cars)]
        for turn in range(len(main))
        for index, cars in enumerate(by_track.values())
    ]
    return main + rest


# --- the report ------------------------------------------------------------------------------


def _report(
    path: Path,
    stages: dict[bytes, Any],
    ended: _Ended | None,
    num_raw_bytes: int,
    cars: list[Car],
    num_tracks: int,
    elapsed_s: float,
) -> CheckReport:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    cases = _Cases(cars)
    calls = stages.get(process.CALLS, {})
    console = stages.get(process.CONSOLE)
    findings = [
        *_load_findings(stages),
        *_call_findings(calls, cases),
        *_ended_findings(ended, stages, cases),
        *_parameter_findings(stages),
        *_leak_findings(stages, cars),
        *_cost_findings(stages),
    ]
    if num_raw_bytes > 2 * LOG_LIMIT_BYTES:
        what = f"writes past print: more than {num_raw_bytes / 1e6:.0f} MB while it was checked"
        findings.append(Finding(True, "output", None, what))
    texts = stages.get(process.TEXT, {"refusals": [], "reads": []})
    refusals = [Refusal(**one) for one in texts["refusals"]]
    refusals += [Refusal(**one) for one in (console or {"refusals": []})["refusals"]]
    if ended is not None and _is_in_console_stage(stages):
        rule = "timeout" if ended.what.startswith("did not") else "call-fails"
        refusals.append(Refusal(rule, ended.line, f"{ended.what} in one of the five cases"))
    if not any(one.rule == "syntax" for one in refusals):
        refusals += _load_refusals(stages, ended)
    return CheckReport(
        path=str(path),
        findings=tuple(_with_hints(findings)),
        refusals=tuple(_unique(refusals)),
        is_console_complete=console is not None or _is_in_console_stage(stages),
        is_leak_tested=stages.get(process.LEAKS, {}).get("is_tested", False),
        num_calls=calls.get("num_calls", _calls_until(ended, stages)),
        num_poses=sum(len(car.params) for car in cars),
        num_tracks=num_tracks,
        call_times=_call_times(stages, cases, lines),
        parameters_read=tuple(sorted({key for key, _ in _reads(stages)} & set(KEYS))),
        elapsed_s=elapsed_s,
    )


def _calls_until(ended: _Ended | None, stages: dict[bytes, Any]) -> int:
    """Return how many calls there were before the process ended in one of the first."""
    has_begun = process.LOADED in stages and process.CALLS not in stages
    return ended.case + 1 if ended is not None and has_begun and ended.case < _NO_CASE else 0


class _Cases:
    """Poses by the number that the process knows them by."""

    def __init__(self, cars: list[Car]) -> None:
        self._poses = [(car, i) for car in cars for i in range(len(car.params))]

    def where(self, case: int) -> str:
        """Return track, direction and pose; empty for anything but a call."""
        if not 0 <= case < len(self._poses):
            return ""
        car, i = self._poses[case]
        return f"{car.name}: {car.poses[i]}"

    def params(self, case: int) -> dict[str, Any] | None:
        """Return what the call was given, without waypoints."""
        if not 0 <= case < len(self._poses):
            return None
        car, i = self._poses[case]
        return car.params[i]


def _load_findings(stages: dict[bytes, Any]) -> Iterator[Finding]:
    for failure in _unique_failures(stages.get(process.NOT_LOADED, [])):
        yield Finding(True, "load", failure["line"], failure["what"])
    for failure in _unique_failures(stages.get(process.LOADED, [])):
        yield Finding(True, "process", failure["line"], failure["what"])


def _load_refusals(stages: dict[bytes, Any], ended: _Ended | None) -> Iterator[Refusal]:
    """The console loads the file, too."""
    for failure in stages.get(process.NOT_LOADED, [])[-1:]:
        is_signature = "must take one parameter" in failure["what"]
        rule = "signature" if is_signature else "load"
        yield Refusal(rule, failure["line"], failure["what"])
    if ended is not None and process.TEXT in stages and process.LOADED not in stages:
        yield Refusal("load", ended.line, ended.what)


def _call_findings(calls: dict[str, Any], cases: _Cases) -> Iterator[Finding]:
    told = set()
    for failure in calls.get("failures", []):
        what, case = failure["what"], failure["case"]
        told.add(what)
        kind = "exception"
        if what.startswith("returned"):
            kind = "return"
        elif what.startswith("ended"):
            kind = "exit"
        elif what.startswith("must not start a process"):
            kind = "process"
        yield Finding(
            True,
            kind,
            failure["line"],
            what,
            cases.where(case),
            failure["count"],
            cases.params(case),
        )
    for failure in _unique_failures(calls.get("forbidden", [])):
        if failure["what"] not in told:  # caught by the user's code
            yield Finding(True, "process", failure["line"], failure["what"])


def _ended_findings(
    ended: _Ended | None, stages: dict[bytes, Any], cases: _Cases
) -> Iterator[Finding]:
    if ended is None or _is_in_console_stage(stages):
        return
    kind = "hang" if ended.what.startswith("did not") else "exit"
    if process.LOADED not in stages:
        yield Finding(True, kind, ended.line, ended.what)
        return
    # In later stages the number counts something else.
    is_call = process.READS not in stages
    where = cases.where(ended.case) if is_call else ""
    params = cases.params(ended.case) if is_call else None
    yield Finding(True, kind, ended.line, ended.what, where, 1, params)


def _is_in_console_stage(stages: dict[bytes, Any]) -> bool:
    return process.LEAKS in stages and process.CONSOLE not in stages


def _reads(stages: dict[bytes, Any]) -> list[tuple[str, int]]:
    """Return parameters asked for and the first line of each: seen in the text or at work."""
    reads: dict[str, int] = {}
    for kind in (process.TEXT, process.READS):
        for key, line in stages.get(kind, {"reads": []})["reads"]:
            reads.setdefault(key, line)
    return sorted(reads.items(), key=lambda read: (read[1], read[0]))


def _parameter_findings(stages: dict[bytes, Any]) -> Iterator[Finding]:
    for key, line in _reads(stages):
        if key in KEYS:
            continue
        if key in FIRST_GENERATION_NAMES:
            what = f"{key!r} is deprecated and no longer given: use {FIRST_GENERATION_NAMES[key]!r}"
        else:
            what = f"there is no parameter {key!r}{_did_you_mean(key)}"
        yield Finding(False, "parameter", line, what)


def _did_you_mean(key: str) -> str:
    near = get_close_matches(key, KEYS, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _leak_findings(stages: dict[bytes, Any], cars: list[Car]) -> Iterator[Finding]:
    for leak in stages.get(process.LEAKS, {"leaks": []})["leaks"]:
        car, pose = cars[leak["car"]], leak["pose"]
        names = leak["globals"]
        shown = ", ".join(
            f"the global {name} (changed in line {line})" if line is not None else name
            for name, line in names
        )
        through = f" through {shown}" if shown else ""
        if not shown and leak["kind"] != "chance":
            through = " through something outside the file"
        what = (
            f"gives {_LEAK_TEXTS[leak['kind']]}{through}: {_short(leak['then'])} "
            f"instead of {_short(leak['alone'])}"
        )
        where = f"{car.name}: {car.poses[pose]}"
        line = next((line for _, line in names if line is not None), None)
        yield Finding(False, "leak", line, what, where, leak["num_different"], car.params[pose])


def _short(value: str) -> str:
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value


def _cost_findings(stages: dict[bytes, Any]) -> Iterator[Finding]:
    calls = stages.get(process.CALLS, {})
    timing = calls.get("timing")
    if timing and timing["median_s"] > _SLOW_CALL_S:
        what = (
            f"takes {timing['median_s'] * 1e3:.1f} ms a call: no run can be faster than "
            f"{1.0 / timing['median_s']:.0f} steps a second with it"
        )
        yield Finding(False, "slow", None, what)
    if calls and calls["num_calls"] < calls["num_poses"]:
        what = f"only {calls['num_calls']} of {calls['num_poses']} poses could be tried in time"
        yield Finding(False, "slow", None, what)
    printed = calls.get("printed_characters", 0) / max(calls.get("num_calls", 0), 1)
    if printed > _MUCH_OUTPUT_A_CALL:
        what = (
            f"prints {printed:,.0f} characters a call; of all that it prints a run keeps the "
            f"first {LOG_LIMIT_BYTES:,}"
        )
        yield Finding(False, "output", None, what)


def _call_times(stages: dict[bytes, Any], cases: _Cases, lines: list[str]) -> CallTimes | None:
    timing = stages.get(process.CALLS, {}).get("timing")
    if timing is None:
        return None
    slowest = tuple(
        SlowLine(line, share, lines[line - 1].strip() if 0 < line <= len(lines) else "")
        for line, share in stages.get(process.READS, {"lines": []})["lines"]
    )
    return CallTimes(
        timing["median_s"],
        timing["p99_s"],
        timing["max_s"],
        cases.where(timing["max_case"]),
        slowest,
    )


def _with_hints(findings: list[Finding]) -> Iterator[Finding]:
    """Say with a missing key what it could have meant, and not a second time as a warning."""
    hints = {
        finding.what.split("'")[1]: finding for finding in findings if finding.kind == "parameter"
    }
    told = set()
    for finding in findings:
        if finding.kind == "exception" and finding.what.startswith("raised KeyError: '"):
            key = finding.what.split("'")[1]
            if key in hints:
                told.add(key)
                what = f"{finding.what}: {hints[key].what}"
                finding = Finding(**{**vars(finding), "what": what})
        if finding.kind == "parameter" and finding.what.split("'")[1] in told:
            continue
        yield finding


def _unique(refusals: list[Refusal]) -> Iterator[Refusal]:
    seen = set()
    for refusal in sorted(refusals, key=lambda one: one.line or 0):
        # An import inside a function is found in the text and again when it is called.
        key = (refusal.rule, refusal.line, "" if "top of" in refusal.what else refusal.what)
        if key not in seen:
            seen.add(key)
            yield refusal


def _unique_failures(failures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({(one["what"], one["line"]): one for one in failures}.values())
