"""Attack a reward function: drive in ways nobody wants and see whether they earn more.

Scripted drivers and a small search drive episodes under the rules of a training episode. What
each earns is compared with a clean fast lap: the fastest centre-line lap and the fastest racing
line that keep all wheels on the road, whichever of the two earns more by the measure.

A driver that out-earns that and does not finish its lap, or only in several times the time, is
a trap. How grave it is depends on
what the learner sees. PPO raises the discounted return: with a discount factor of 0.95 a longer
episode adds nothing to it, with 0.999 it does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from local_trainer.actions import ActionSpace
from local_trainer.config import resolve_config
from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError
from local_trainer.lab.drivers import Attempt, Limited, Tactic, attempts, random_tactic, varied
from local_trainer.lab.driving import drive
from local_trainer.lab.earnings import MEASURES, Earnings, Measure, earnings
from local_trainer.reward import RewardFunction, check_reward_file
from sim.simulator import EpisodeRules, EpisodeStart
from sim.track import Track

Grade = Literal["severe", "moderate", "mild", "note"]
GRADES: tuple[Grade, ...] = ("severe", "moderate", "mild", "note")
GRADE_MEANINGS: dict[Grade, str] = {
    "severe": "finishes no lap in a decent time, yet earns more per episode, and more per second "
    "or discounted too: each step pulls the learner there",
    "moderate": "finishes no lap in a decent time, yet earns more per episode, because its "
    "episode lasts longer: pulls once episodes are long and the discount factor is near 1",
    "mild": "finishes its lap in a decent time, but a slower or unclean one, and earns more than "
    "a clean fast lap",
    "note": "finishes no lap in a decent time and earns less per episode, but more per second or "
    "discounted for as long as it lasts",
}

MORE_SHARE = 0.01
"""Earning more means by more than this share; less is within what starting poses change."""
RATE_MORE_SHARE = 0.25
"""The same for what a second or the discounted return brings: a slow car keeps a line a little
better than a fast one, which is no trap."""

DECENT_LAPS = 3.0
"""A lap that takes longer than so many fast ones counts as not finished: whether the step cap
stops a crawling car before its lap is over should not decide how grave it is."""

LONGEST_DRIVEN_STEPS = 3000
"""Caps beyond this are not driven to the end; 200 s show what a driver is at."""

NUM_SHOWN = 5
_MOST_OF_A_GRADE = {"severe": 4, "moderate": 3, "mild": 2, "note": 1}

_TOGETHER = 7
"""Cars driven at once. From 8 on the simulator steps them in parallel, which without pictures
costs more than it saves."""
_BATCH = 24
_NUM_ELITES = 6
_RANDOM_SHARE = 0.5
_MIN_BAR = 1e-6


@dataclass(frozen=True)
class Drive:
    """One driver's episode and what it earned."""

    name: str
    description: str
    episode: Episode
    """Without pictures; its rewards are the attacked function's."""
    earned: Earnings
    more: dict[Measure, float]
    """How much more than the clean fast lap, as a share of that: 0.5 is half as much again."""
    grade: Grade | None
    """None: it earns no more than it should."""

    @property
    def is_complete(self) -> bool:
        """Return whether it finished its lap."""
        return self.episode.is_complete

    @property
    def is_clean(self) -> bool:
        """Return whether all wheels stayed on the road."""
        return bool(self.episode.steps["all_wheels_on_track"].all())


@dataclass(frozen=True)
class HackReport:
    """What `attack` found."""

    reward: Path
    track: Track
    is_reversed: bool
    discount: float
    max_steps: int
    bar: Earnings
    """What a clean fast lap earns: by each measure the better of the yardsticks."""
    yardsticks: tuple[Drive, ...]
    """The fastest clean laps, fastest first."""
    drives: tuple[Drive, ...]
    """All other scripted drivers and the search's best, gravest and best earning first."""
    num_searched: int
    """Drivers that the search tried."""
    search_s: float

    @property
    def findings(self) -> tuple[Drive, ...]:
        """Return the drivers that earn more than they should, gravest first."""
        return tuple(one for one in self.drives if one.grade is not None)

    @property
    def is_severe(self) -> bool:
        """Return whether there is a severe finding."""
        return any(one.grade == "severe" for one in self.drives)


@dataclass(frozen=True)
class _Result:
    """A driven attempt before it is judged."""

    attempt: Attempt
    episode: Episode
    earned: Earnings
    tactic: Tactic | None = None


class _Arena:
    """Drives attempts and asks the reward function what they earn."""

    def __init__(
        self,
        function: RewardFunction,
        track: Track,
        is_reversed: bool,
        rules: EpisodeRules,
        discount: float,
        start_fraction: float,
        actions: ActionSpace | None,
    ) -> None:
        self._function = function
        self._track = track
        self._start = EpisodeStart(0, start_fraction, is_reversed, rules=rules)
        self._discount = discount
        self._actions = actions

    def drive(
        self, chosen: Sequence[Attempt], tactics: Sequence[Tactic | None] | None = None
    ) -> list[_Result]:
        """Return the attempts driven and paid, in their order."""
        drivers = [attempt.make() for attempt in chosen]
        if self._actions is not None:
            drivers = [Limited(driver, self._actions) for driver in drivers]
        episodes: list[Episode] = []
        for first in range(0, len(drivers), _TOGETHER):
            some = drivers[first : first + _TOGETHER]
            starts = [self._start] * len(some)
            episodes += drive(self._track, some, starts, self._start.rules.max_steps)
        results = []
        for attempt, episode, tactic in zip(
            chosen, episodes, tactics or [None] * len(chosen), strict=True
        ):
            # One whole episode a call, so that what a function keeps belongs to one car.
            episode.rewards[:] = self._function.rewards(episode.steps)
            earned = earnings(episode.rewards, episode.duration_s, self._discount)
            results.append(_Result(attempt, episode, earned, tactic))
        return results


def attack(
    reward: Path,
    track: Track,
    is_reversed: bool = False,
    profile: str = "fast",
    discount: float | None = None,
    max_steps: int | None = None,
    seconds: float = 10.0,
    seed: int = 0,
    start_fraction: float = 0.0,
    actions: ActionSpace | None = None,
    num_rounds: int | None = None,
    time_limit_s: float = 1.0,
) -> HackReport:
    """Look for ways to drive that earn more than a clean fast lap.

    Args:
        reward: The reward function's file.
        track: In row order.
        is_reversed: True drives against the row order.
        profile: Whose discount factor and step cap apply.
        discount: Instead of the profile's.
        max_steps: Instead of the profile's; never more than `LONGEST_DRIVEN_STEPS`.
        seconds: How long the adversarial search may take; 0 leaves it out.
        seed: Fixes what the search tries.
        start_fraction: Where the episodes begin, fraction of a lap.
        actions: Drivers may give only these commands; None allows all that the car can do.
        num_rounds: Ends the search after so many rounds, whatever ``seconds`` says.
        time_limit_s: Longest a single call of the function may take.

    Raises:
        ConfigError: If a number is out of range or no driver of ours finishes a lap.
        RewardFunctionError: If the function fails.
    """
    config = resolve_config(
        profile=profile,
        overrides={"ppo.discount_factor": discount, "episodes.max_steps": max_steps},
    )
    if not 0.0 <= start_fraction < 1.0:
        raise ConfigError(f"--start must be at least 0 and below 1, got {start_fraction:g}")
    if seconds < 0.0:
        raise ConfigError(f"--seconds must be at least 0, got {seconds:g}")
    rules = config.episodes.model_copy(
        update={"max_steps": min(config.episodes.max_steps, LONGEST_DRIVEN_STEPS)}
    ).rules()
    as_driven = track.reverse() if is_reversed else track
    check_reward_file(reward, track, time_limit_s)  # before seconds of planning and driving
    with RewardFunction(reward, track, time_limit_s) as function:
        arena = _Arena(
            function,
            track,
            is_reversed,
            rules,
            config.ppo.discount_factor,
            start_fraction,
            actions,
        )
        scripted = arena.drive(attempts(as_driven))
        chosen = _yardsticks(scripted, track.name)
        bar = Earnings(**{m: max(r.earned.of(m) for r in chosen) for m in MEASURES})
        started = time.perf_counter()
        found, num_searched = _search(arena, as_driven, bar, seconds, seed, num_rounds)
        search_s = time.perf_counter() - started
    others = [r for r in scripted if not any(r is one for one in chosen)]
    decent_s = DECENT_LAPS * chosen[0].episode.duration_s
    drives = [_judged(result, bar, decent_s) for result in (*others, *found)]
    return HackReport(
        reward=reward,
        track=track,
        is_reversed=is_reversed,
        discount=config.ppo.discount_factor,
        max_steps=rules.max_steps,
        bar=bar,
        yardsticks=tuple(_judged(result, bar, decent_s, is_yardstick=True) for result in chosen),
        drives=tuple(sorted(drives, key=_gravity)),
        num_searched=num_searched,
        search_s=search_s,
    )


def excess(earned: Earnings, bar: Earnings) -> dict[Measure, float]:
    """Return how much more is earned by each measure, as a share of the bar's size."""
    return {m: (earned.of(m) - bar.of(m)) / max(abs(bar.of(m)), _MIN_BAR) for m in MEASURES}


def grade(more: dict[Measure, float], gets_round: bool) -> Grade | None:
    """Return how grave it is that a driver earns so much more than a clean fast lap.

    Args:
        more: As `excess` returns it.
        gets_round: Whether the driver finished its lap in a decent time.
    """
    rate = max(more["per_second"], more["discounted"])
    if gets_round:
        is_more = more["total"] > MORE_SHARE or rate > RATE_MORE_SHARE
        return "mild" if is_more else None
    if more["total"] > MORE_SHARE:
        return "severe" if rate > RATE_MORE_SHARE else "moderate"
    return "note" if rate > RATE_MORE_SHARE else None


def sentence(one: Drive, bar: Earnings) -> str:
    """Return in one sentence what a finding means."""
    totals = f"{one.earned.total:.4g} per episode against {bar.total:.4g}"
    rates = (
        f"{one.earned.per_second:.3g} a second against {bar.per_second:.3g}, "
        f"{one.earned.discounted:.3g} discounted against {bar.discounted:.3g}"
    )
    end = one.episode.status.label.lower()
    lap = f"Finishes no lap ({end})"
    if one.is_complete:
        lap = f"Takes {one.episode.duration_s:.0f} s for a lap"
    if one.grade == "severe":
        return f"{lap} and earns {totals}; also {rates}."
    if one.grade == "moderate":
        return f"{lap} and earns {totals}, by lasting longer; {rates}."
    if one.grade == "mild":
        kind = "a slower" if one.is_clean else "an unclean"
        return f"Finishes {kind} lap ({one.episode.duration_s:.1f} s) and earns {totals}; {rates}."
    if one.grade == "note":
        return (
            f"Ends early ({end} after {one.episode.duration_s:.1f} s, {totals}), "
            f"but until then earns {rates}."
        )
    return f"Earns no more than a clean fast lap: {totals}."


def _yardsticks(results: Iterable[_Result], track: str) -> list[_Result]:
    """Return the fastest clean lap along each honest line, fastest first.

    On open tracks the wheels leave the road at its ends, so that no lap is clean there; then the
    finished ones count.
    """
    finished = [r for r in results if r.attempt.honest_line and r.episode.is_complete]
    clean = [r for r in finished if r.episode.steps["all_wheels_on_track"].all()]
    best: dict[str, _Result] = {}
    for result in sorted(clean or finished, key=lambda r: r.episode.duration_s):
        best.setdefault(str(result.attempt.honest_line), result)
    if not best:
        raise ConfigError(
            f"No driver finishes a lap on {track} within the step cap: there is nothing to "
            "compare with; allow more steps with --max-steps or other actions."
        )
    return list(best.values())


def _judged(result: _Result, bar: Earnings, decent_s: float, is_yardstick: bool = False) -> Drive:
    episode = result.episode
    gets_round = episode.is_complete and episode.duration_s <= decent_s
    more = excess(result.earned, bar)
    return Drive(
        name=result.attempt.name,
        description=result.attempt.description,
        episode=episode,
        earned=result.earned,
        more=more,
        grade=None if is_yardstick else grade(more, gets_round),
    )


def _gravity(one: Drive) -> tuple[int, float]:
    rank = GRADES.index(one.grade) if one.grade is not None else len(GRADES)
    return rank, -one.earned.total


def _search(
    arena: _Arena,
    track: Track,
    bar: Earnings,
    seconds: float,
    seed: int,
    num_rounds: int | None,
) -> tuple[list[_Result], int]:
    """Try random drivers and variations of the best; return the best of each kind of trap."""
    random = np.random.default_rng(seed)
    deadline = time.perf_counter() + seconds
    best: dict[str, list[_Result]] = {}
    tried = rounds = 0
    while time.perf_counter() < deadline if num_rounds is None else rounds < num_rounds:
        elites = [result.tactic for group in best.values() for result in group]
        tactics = []
        for _ in range(_BATCH):
            elite = elites[random.integers(len(elites))] if elites else None
            is_new = elite is None or random.random() < _RANDOM_SHARE
            tactics.append(
                random_tactic(random) if is_new or elite is None else varied(elite, random)
            )
        results = arena.drive([tactic.attempt(track) for tactic in tactics], tactics)
        tried, rounds = tried + len(results), rounds + 1
        for name, score in _OBJECTIVES.items():
            group = best.get(name, []) + [r for r in results if score(r, bar) > -np.inf]
            group.sort(key=lambda r: -score(r, bar))
            best[name] = group[:_NUM_ELITES]
    winners: list[_Result] = []
    for group in best.values():
        if group and not any(group[0] is one for one in winners):
            winners.append(group[0])
    return winners, tried


def _long_trap(result: _Result, bar: Earnings) -> float:
    """Return how much an unfinished episode earns."""
    return -np.inf if result.episode.is_complete else excess(result.earned, bar)["total"]


def _steady_trap(result: _Result, bar: Earnings) -> float:
    """Return how far an unfinished episode is from a severe finding, or beyond."""
    if result.episode.is_complete:
        return -np.inf
    more = excess(result.earned, bar)
    return min(more["total"], max(more["per_second"], more["discounted"]))


def _slow_lap(result: _Result, bar: Earnings) -> float:
    """Return how much a finished lap earns."""
    return excess(result.earned, bar)["total"] if result.episode.is_complete else -np.inf


_OBJECTIVES = {"long": _long_trap, "steady": _steady_trap, "slow lap": _slow_lap}


def shown_findings(report: HackReport, most: int = NUM_SHOWN) -> list[Drive]:
    """Return the findings that say most: the gravest, and not many of one kind."""
    shown: list[Drive] = []
    for one in report.findings:
        limit = _MOST_OF_A_GRADE.get(one.grade or "", most)
        if sum(other.grade == one.grade for other in shown) < limit and not any(
            np.array_equal(one.episode.steps, other.episode.steps) for other in shown
        ):
            shown.append(one)
    return shown[:most]


def report_data(report: HackReport) -> dict[str, Any]:
    """Return a report as plain data, paths left out."""
    return {
        "reward": str(report.reward),
        "track": report.track.name,
        "is_reversed": report.is_reversed,
        "discount": report.discount,
        "max_steps": report.max_steps,
        "clean_fast_lap": asdict(report.bar),
        "is_severe": report.is_severe,
        "num_searched": report.num_searched,
        "search_s": report.search_s,
        "yardsticks": [_drive_data(one, report) for one in report.yardsticks],
        "findings": [_drive_data(one, report) for one in report.findings],
        "others": [_drive_data(one, report) for one in report.drives if one.grade is None],
    }


def _drive_data(one: Drive, report: HackReport) -> dict[str, Any]:
    return {
        "name": one.name,
        "description": one.description,
        "grade": one.grade,
        "meaning": sentence(one, report.bar) if one.grade else None,
        "status": one.episode.status.trace_name,
        "is_complete": one.is_complete,
        "is_clean": one.is_clean,
        "progress": one.episode.progress,
        "duration_s": one.episode.duration_s,
        "earned": asdict(one.earned),
        "more": one.more,
    }
