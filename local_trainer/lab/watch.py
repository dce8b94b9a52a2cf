"""Tries a reward function at each save and says what changed: ``local-trainer reward watch``.

A version is what one save gave: a check, rewards of recorded steps, and a map. How it is shown is
not here: the command writes it to the terminal, `local_trainer.lab.watch_page` makes a page.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from local_trainer.errors import LocalTrainerError, one_line
from local_trainer.lab.check import CallTimes, CheckReport, check_reward
from local_trainer.lab.recordings import Recording
from local_trainer.lab.replay import Replay, correlation, replay
from local_trainer.lab.reward_map import MapGrid, RewardMap, map_grid, reward_map

MAX_STEPS = 50_000
"""Recorded steps replayed at each save: the last episodes that have no more than these."""

CALLS_S = 1.0
"""Longest that all calls for the replay, or for the map, should take."""

POLL_S = 0.1

Severity = Literal["error", "warning", "console"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Note:
    """One thing the check found."""

    severity: Severity
    line: int | None
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same thing in two versions: lines move and numbers vary."""
        return self.severity, re.sub(r"\d+(?:\.\d+)?", "#", self.text)


@dataclass(frozen=True)
class Version:
    """What one save of the file gave; parts that could not be made are None."""

    number: int
    source: tuple[str, ...]
    """Lines of the file."""
    report: CheckReport | None
    replay: Replay | None
    map: RewardMap | None
    call_times: CallTimes | None
    problems: tuple[str, ...]
    """Why parts are missing, one line each."""
    elapsed_s: float

    @property
    def notes(self) -> list[Note]:
        """All the check found: errors, then what the console would refuse, then warnings."""
        if self.report is None:
            return []
        refusals = self.report.refusals
        return [
            *(Note("error", one.line, one.what) for one in self.report.errors),
            *(Note("console", one.line, one.what) for one in refusals),
            *(Note("warning", one.line, one.what) for one in self.report.warnings),
        ]

    @property
    def has_failed(self) -> bool:
        """Whether a run with this version would fail."""
        return bool(self.problems) or bool(self.report and self.report.errors)


@dataclass(frozen=True)
class Figure:
    """A number of a version beside the same of the version before."""

    name: str
    now: str
    before: str = ""
    change: str = ""


@dataclass(frozen=True)
class Diff:
    """A version against the one before."""

    came: tuple[Note, ...]
    went: tuple[Note, ...]
    num_kept: int
    figures: tuple[Figure, ...]

    @property
    def is_unchanged(self) -> bool:
        """Whether there is nothing to tell but times."""
        has_change = any(one.change for one in self.figures if one.name not in _TIMES)
        return not (self.came or self.went or has_change)


class Workbench:
    """Tries the versions of one file, always on the same track, steps and way of driving."""

    def __init__(
        self,
        path: Path,
        grid: MapGrid,
        recording: Recording | None = None,
        speed_mps: float = 1.5,
        heading_deg: float = 0.0,
        steering_deg: float = 0.0,
        call_limit_s: float = 1.0,
    ) -> None:
        """Take what all versions are tried on.

        Args:
            path: The reward function's file.
            grid: Cells of the map; a slow function gets fewer and larger ones.
            recording: Steps to replay; None for none. A slow function gets the last ones only.
            speed_mps: Of the map, like the next two.
            heading_deg: From the centre line, left positive.
            steering_deg: Left positive.
            call_limit_s: Longest a single call may take.
        """
        self._path = path
        self._grids = [grid]
        self._recording = recording
        self._driving = (speed_mps, heading_deg, steering_deg)
        self._call_limit_s = call_limit_s
        self._number = 0

    def try_out(self) -> Version:
        """Check, replay and map the file as it is now; whatever is wrong with it is told."""
        start = time.perf_counter()
        self._number += 1
        report, check_problem = _attempt("check", self._check)
        times = report.call_times if report else None
        replayed = mapped = None
        replay_problem = map_problem = ""
        if times is not None or not (report and report.errors):  # else it cannot be called at all
            call_s = times.median_s if times else 0.0
            # The calls are made by processes of their own, so threads use both cores.
            with ThreadPoolExecutor(2) as pool:
                replaying = pool.submit(_attempt, "replay", lambda: self._replay(call_s))
                mapping = pool.submit(_attempt, "map", lambda: self._map(call_s))
            replayed, replay_problem = replaying.result()
            mapped, map_problem = mapping.result()
        return Version(
            number=self._number,
            source=self._source(),
            report=report,
            replay=replayed,
            map=mapped,
            call_times=times,
            problems=tuple(filter(None, (check_problem, replay_problem, map_problem))),
            elapsed_s=time.perf_counter() - start,
        )

    def _check(self) -> CheckReport:
        return check_reward(self._path, self._call_limit_s)

    def _replay(self, call_s: float) -> Replay | None:
        if self._recording is None:
            return None
        steps = affordable(MAX_STEPS, call_s)
        return replay(last_episodes(self._recording, steps), self._path)

    def _map(self, call_s: float) -> RewardMap:
        count = affordable(len(self._grids[0]), call_s)
        grid = next((grid for grid in self._grids if len(grid) <= 1.2 * count), None)
        if grid is None:
            first = self._grids[0]
            grid = map_grid(
                first.track, first.is_reversed, margin_m=first.margin_m, num_cells=count
            )
            self._grids.append(grid)
        return reward_map(
            self._path, grid.track, *self._driving, grid=grid, time_limit_s=self._call_limit_s
        )

    def _source(self) -> tuple[str, ...]:
        try:
            return tuple(self._path.read_text(encoding="utf-8", errors="replace").splitlines())
        except OSError:
            return ()


def saves(path: Path, poll_s: float = POLL_S) -> Iterator[None]:
    """Yield at once, and again whenever the file was saved, without end.

    A save is seen whether an editor writes into the file or puts a new one in its place. While
    it is still being written, or there is no file, nothing is yielded.

    Args:
        path: The file.
        poll_s: How often to look, s.
    """
    seen: tuple[int, int, int] | None = None
    last = _stamp(path)
    while True:
        stamp = _stamp(path)
        if stamp is not None and stamp == last and stamp != seen:
            seen = stamp
            yield
        last = stamp
        time.sleep(poll_s)


def affordable(count: int, call_s: float) -> int:
    """Return how many calls there is time for: all, a quarter, a sixteenth and so on.

    In such large steps, so that two versions mostly have the same and can be compared.

    Args:
        count: How many calls there would be.
        call_s: Time a call takes.
    """
    while count > 64 and count * call_s > CALLS_S:
        count //= 4
    return count


def last_episodes(recording: Recording, max_steps: int) -> Recording:
    """Return a recording's last episodes that together have at most so many steps, at least one.

    Args:
        recording: Any.
        max_steps: How many steps at most, unless the last episode alone has more.
    """
    lengths = [len(episode.steps) for episode in recording.episodes]
    # Counted from the end: how many episodes fit.
    count = max(int(np.searchsorted(np.cumsum(lengths[::-1]), max_steps, side="right")), 1)
    comparable = recording.comparable
    return replace(
        recording,
        episodes=recording.episodes[-count:],
        comparable=None if comparable is None else comparable[-count:],
    )


def compare(version: Version, before: Version | None) -> Diff:
    """Return what came, what went, and the figures side by side.

    Args:
        version: The newest.
        before: What to compare with; None for the first version, of which all is new.
    """
    now = {note.key: note for note in version.notes}
    then = {note.key: note for note in before.notes} if before else {}
    if version.report is None:
        then = {}  # nothing is known, so nothing went
    return Diff(
        came=tuple(note for key, note in now.items() if key not in then),
        went=tuple(note for key, note in then.items() if key not in now),
        num_kept=len(now.keys() & then.keys()),
        figures=tuple(_figures(version, before)),
    )


def remember(version: Version, before: Version | None) -> Version:
    """Return a version whose missing parts are those of the last version that had them."""
    if before is None:
        return version
    return replace(
        version,
        report=version.report or before.report,
        replay=version.replay or before.replay,
        map=version.map or before.map,
        call_times=version.call_times or before.call_times,
    )


def as_data(version: Version, diff: Diff) -> dict[str, Any]:
    """Return a version and what changed as plain data."""
    return {
        "version": version.number,
        "has_failed": version.has_failed,
        "problems": list(version.problems),
        "came": [vars(note) for note in diff.came],
        "went": [vars(note) for note in diff.went],
        "kept": diff.num_kept,
        "median_call_s": version.call_times.median_s if version.call_times else None,
        "reward_per_episode": _per_episode(version),
        "map": version.map.facts if version.map else None,
        "figures": [vars(figure) for figure in diff.figures],
        "elapsed_s": version.elapsed_s,
    }


# --- figures -----------------------------------------------------------------------------------

_TIMES = ("time a call", "slowest 1 %")
_TIME_NOISE_S = 1e-6


def _figures(version: Version, before: Version | None) -> Iterator[Figure]:
    if before is not None:
        yield Figure(
            "lines", f"{len(version.source)}", f"{len(before.source)}", _lines(version, before)
        )
    yield from _call_figures(version, before)
    if version.replay is not None:
        yield from _replay_figures(version.replay, before.replay if before else None)
    if version.map is not None:
        yield from _map_figures(version.map, before.map if before else None)


def _lines(version: Version, before: Version) -> str:
    added = removed = 0
    matcher = SequenceMatcher(None, before.source, version.source, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind != "equal":
            removed += i2 - i1
            added += j2 - j1
    return f"+{added} −{removed}" if added or removed else ""


def _call_figures(version: Version, before: Version | None) -> Iterator[Figure]:
    times, then = version.call_times, before.call_times if before else None
    if times is None:
        return
    for name, now_s, then_s in (
        (_TIMES[0], times.median_s, then.median_s if then else None),
        (_TIMES[1], times.p99_s, then.p99_s if then else None),
    ):
        if then_s is None:
            yield Figure(name, duration(now_s))
        else:
            is_worth_telling = abs(now_s - then_s) > _TIME_NOISE_S
            change = _percent(now_s, then_s, 20.0) if is_worth_telling else ""
            yield Figure(name, duration(now_s), duration(then_s), change)


def _replay_figures(now: Replay, then: Replay | None) -> Iterator[Figure]:
    totals = now.new_totals
    mean = float(totals.mean())
    count = len(totals)
    name = f"reward an episode ({count:,} of {now.recording.name})"
    if then is None or len(then.new_totals) != count:
        yield Figure(name, number(mean))
        return
    old = then.new_totals
    up, down = int((totals > old).sum()), int((totals < old).sum())
    yield Figure(name, number(mean), number(float(old.mean())), _percent(mean, float(old.mean())))
    if up or down:
        yield Figure("episodes that earn more, less", "", "", f"{up:,}, {down:,}")
        same = correlation(totals, old)
        if same is not None:
            yield Figure("correlation of the episodes' rewards", "", "", f"{same:.3f}")


def _map_figures(now: RewardMap, then: RewardMap | None) -> Iterator[Figure]:
    if then is not None and then.grid is not now.grid:
        then = None
    for name, key in (("map: mean", "mean"), ("map: lowest", "min"), ("map: highest", "max")):
        value = now.facts[key]
        if then is None:
            yield Figure(name, number(value))
            continue
        old = then.facts[key]
        change = f"{value - old:+.3g}" if number(value) != number(old) else ""
        yield Figure(name, number(value), number(old), change)
    if then is not None:
        changed = float((now.reward != then.reward).mean())
        if changed:
            yield Figure("map: places that changed", "", "", f"{100.0 * changed:.0f} %")


def number(value: float) -> str:
    """Return a reward with four digits."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a short time in a unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1.0 else f"{seconds:.2f} s"


def _percent(now: float, then: float, least: float = 0.05) -> str:
    """Return a change in percent; nothing if it is less than the least worth telling."""
    if then == 0.0:
        return "" if now == 0.0 else f"{now:+.3g}"
    change = 100.0 * (now - then) / abs(then)
    return f"{change:+.3g} %" if abs(change) >= least else ""


def _per_episode(version: Version) -> float | None:
    return float(version.replay.new_totals.mean()) if version.replay else None


def _attempt(what: str, work: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return what a piece of work gave, and one line if it could not be done."""
    try:
        return work(), ""
    except (LocalTrainerError, OSError) as error:
        return None, f"no {what}: {one_line(error)}"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what a save changes: time, size and the file behind the name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
