"""How well rewards order episodes: fast finished laps first, slow ones next, failures last.

The reference order of the episodes on a track does not depend on any reward: a finished lap
stands above every unfinished one; finished laps are ordered by their time, unfinished ones by
the progress they reached. Equal ones share their place. A reward orders the same episodes by
what they earned. The rank correlation of the two orders is 1 where they are the same, 0 where
they have nothing to do with each other, and -1 where the reward prefers the worst.

Episodes of different tracks are never compared: each track has its own correlation, and the
mean of them, weighted by the number of episodes, is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, rankdata

from local_trainer.episodes import Episode
from local_trainer.errors import ConfigError
from local_trainer.lab.earnings import MEASURES, Earnings, Measure, earnings, short_names
from local_trainer.lab.recordings import Recording
from local_trainer.reward import RewardFunction
from sim.track import Track

MIN_EPISODES = 10
"""Fewer on a track order too little to say anything."""

NUM_RESAMPLES = 1000
NUM_DISPUTED_STEPS = 10
DISPUTES_APART_M = 0.5
"""Disputed steps shown are at least this far from each other."""
INTERVAL = 0.95
"""Share of the bootstrap that lies within an interval."""

_ABOVE_ALL_PROGRESS = 1e6
"""Added to finished laps; progress is at most 100, and no lap lasts a million seconds."""

_BLOCK_ROWS = 1000
"""Rows of a pairs matrix held at once, so that many episodes fit in memory."""


@dataclass(frozen=True)
class Interval:
    """A correlation with its bootstrap interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """How a reward's order of the episodes agrees with the reference, by one measure."""

    spearman: Interval
    kendall: Interval
    """Tau-b: of the pairs that neither order ties, right ones less wrong ones."""


@dataclass(frozen=True)
class RewardRanking:
    """What one reward makes of the episodes."""

    name: str
    path: Path
    agreement: dict[Measure, Agreement]
    finished_above: float | None
    """Share of the pairs of a finished and an unfinished episode in which the finished one
    earned more (ties count half); None without such pairs."""
    laps_kendall: float | None
    """Kendall's tau-b between total reward and speed among finished laps only."""
    is_best_share: float
    """Share of the resamples in which no other reward's Spearman (total) was higher."""


@dataclass(frozen=True)
class RankedEpisode:
    """One episode with its place in the reference order and what each reward gave it."""

    recording: str
    track: str
    phase: str
    index: int
    iteration: int
    status: str
    is_complete: bool
    progress: float
    """Percent."""
    duration_s: float
    place: float
    """1 for the best of the track; equal ones share the mean of their places."""
    earned: tuple[Earnings, ...]
    """One a reward, in the rewards' order."""
    places: tuple[float, ...]
    """Place by each reward's total."""


@dataclass(frozen=True)
class DisputedStep:
    """A step that one reward likes much better than the other does."""

    recording: str
    track: str
    phase: str
    index: int
    iteration: int
    step: int
    """From 1."""
    x: float
    y: float
    speed: float
    """m/s, commanded."""
    steering_angle: float
    """Degrees, commanded."""
    distance_from_center: float
    values: tuple[float, float]
    """Rewards of the step."""
    shares: tuple[float, float]
    """Share of the track's steps that earn less (ties half), 0 to 1, by each reward."""


@dataclass(frozen=True)
class StepMap:
    """How two rewards differ along the driven steps of one track."""

    track: Track
    xy: np.ndarray
    """Where the car was, m, shape (n, 2), float64."""
    difference: np.ndarray
    """Share of steps that earn less by the first reward, less that by the second, in [-1, 1],
    shape (n,), float64."""


@dataclass(frozen=True)
class Dispute:
    """Where two rewards disagree, step by step."""

    first: str
    second: str
    step_spearman: float | None
    """Rank correlation of the two rewards over all steps."""
    steps: tuple[DisputedStep, ...]
    """The widest disagreements, at most one an episode and not close to each other."""
    maps: tuple[StepMap, ...]


@dataclass(frozen=True)
class RankReport:
    """What `rank` found."""

    recordings: tuple[str, ...]
    tracks: tuple[str, ...]
    discount: float
    num_resamples: int
    seed: int
    rewards: tuple[RewardRanking, ...]
    """As given."""
    episodes: tuple[RankedEpisode, ...]
    """Best first by the reference, track by track."""
    step_spearman: dict[tuple[str, str], float | None]
    """Rank correlation of each pair of rewards over all steps."""
    dispute: Dispute | None
    """The pair that agrees least; None with one reward."""


@dataclass(frozen=True)
class _Group:
    """All episodes of one track."""

    track: Track
    names: list[str]
    episodes: list[Episode]


def rank(
    recordings: Sequence[Recording],
    rewards: Sequence[Path],
    discount: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    time_limit_s: float = 1.0,
) -> RankReport:
    """Say how well each reward orders recorded episodes.

    Args:
        recordings: Episodes; several tracks are ranked apart and combined.
        rewards: Reward function files.
        discount: For the discounted return from the start.
        seed: Fixes the bootstrap.
        num_resamples: Bootstrap resamples.
        time_limit_s: Longest a single call of a reward function may take.

    Raises:
        ConfigError: If there is no reward, one is given twice, a track has too few episodes, or
            all its episodes are equal.
        RewardFunctionError: If a reward function fails.
    """
    if not rewards:
        raise ConfigError("Give at least one reward function file with --reward, got none.")
    names = short_names(list(rewards))
    groups = _by_track(recordings)
    references = [np.array([reference_value(e) for e in g.episodes]) for g in groups]
    for group, reference in zip(groups, references, strict=True):
        _check_group(group, reference)
    step_rewards = [[_rewards(path, g, time_limit_s) for g in groups] for path in rewards]
    earned = [
        [
            [
                earnings(values, e.duration_s, discount)
                for values, e in zip(by_episode, g.episodes, strict=True)
            ]
            for by_episode, g in zip(by_group, groups, strict=True)
        ]
        for by_group in step_rewards
    ]
    agreements, bests = _agreements(references, earned, seed, num_resamples)
    rankings = tuple(
        RewardRanking(
            name,
            path,
            agreements[k],
            _finished_above(groups, earned[k]),
            _laps_kendall(groups, references, earned[k]),
            bests[k],
        )
        for k, (name, path) in enumerate(zip(names, rewards, strict=True))
    )
    correlations, dispute = _disputes(names, groups, step_rewards)
    return RankReport(
        recordings=tuple(recording.name for recording in recordings),
        tracks=tuple(group.track.name for group in groups),
        discount=discount,
        num_resamples=num_resamples,
        seed=seed,
        rewards=rankings,
        episodes=_ranked_episodes(groups, references, earned),
        step_spearman=correlations,
        dispute=dispute,
    )


def reference_value(episode: Episode) -> float:
    """Return a number that orders episodes as they should be ordered; more is better."""
    if episode.is_complete:
        # Rounded: the clock's sum of 1/15 s must not order laps of the same number of steps.
        return _ABOVE_ALL_PROGRESS - round(episode.duration_s, 6)
    return episode.progress


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the rank correlation of each pair of rows; NaN where a row is constant.

    Args:
        first: Shape (r, n), float64.
        second: Likewise.

    Returns:
        Shape (r,), float64.
    """
    a = rankdata(first, axis=1)
    b = rankdata(second, axis=1)
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    correlation: np.ndarray = np.full(len(a), np.nan)
    np.divide((a * b).sum(axis=1), scale, out=correlation, where=scale > 0.0)
    return correlation


def kendall(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of resamples; NaN where all values of one are the same.

    A resample is how often it holds each item. Pairs of an item with itself tie in both orders
    and so count nowhere: tau-b is a quotient of quadratic forms in the counts.

    Args:
        first: Values, shape (n,), float64.
        second: Likewise.
        counts: How often each resample holds each item, shape (r, n).

    Returns:
        Shape (r,), float64.
    """
    weights = counts.astype(np.float32)
    sums = np.zeros((3, len(counts)))
    for start in range(0, len(first), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        signs_a = np.sign(first[rows, None] - first).astype(np.float32)
        signs_b = np.sign(second[rows, None] - second).astype(np.float32)
        for total, pairs in zip(
            sums, (signs_a * signs_b, np.abs(signs_a), np.abs(signs_b)), strict=True
        ):
            total += np.einsum("ri,ri->r", weights[:, rows] @ pairs, weights, dtype=np.float64)
    right_less_wrong, pairs_a, pairs_b = sums
    scale = np.sqrt(pairs_a * pairs_b)
    tau: np.ndarray = np.full(len(counts), np.nan)
    np.divide(right_less_wrong, scale, out=tau, where=scale > 0.0)
    return tau


def _by_track(recordings: Sequence[Recording]) -> list[_Group]:
    """Collect the recordings' episodes by track: the same route, whatever its name."""
    sources = [recording.source.resolve() for recording in recordings]
    groups: list[_Group] = []
    for recording, source in zip(recordings, sources, strict=True):
        if sources.count(source) > 1:
            raise ConfigError(f"Each run must be given once, got {recording.name} twice.")
        for group in groups:
            if np.array_equal(group.track.route(), recording.track.route()):
                break
        else:
            group = _Group(recording.track, [], [])
            groups.append(group)
        group.names.extend([recording.name] * len(recording.episodes))
        group.episodes.extend(recording.episodes)
    return groups


def _check_group(group: _Group, reference: np.ndarray) -> None:
    where = f"on {group.track.name}"
    if len(reference) < MIN_EPISODES:
        raise ConfigError(
            f"Ranking needs at least {MIN_EPISODES} episodes {where}, got {len(reference)}."
        )
    if np.ptp(reference) == 0.0:
        raise ConfigError(
            f"The {len(reference)} episodes {where} all ended the same: nothing to rank."
        )


def _rewards(path: Path, group: _Group, time_limit_s: float) -> list[np.ndarray]:
    """Return the rewards of each episode, from one process, episode after episode."""
    steps = np.concatenate([episode.steps for episode in group.episodes])
    with RewardFunction(path, group.track, time_limit_s) as function:
        rewards = function.rewards(steps)
    ends = np.cumsum([len(episode.steps) for episode in group.episodes])
    return np.split(rewards, ends[:-1])


def _agreements(
    references: list[np.ndarray],
    earned: list[list[list[Earnings]]],
    seed: int,
    num_resamples: int,
) -> tuple[list[dict[Measure, Agreement]], list[float]]:
    """Return each reward's agreement by measure, and how often it was the best."""
    random = np.random.default_rng(seed)
    # One draw for all rewards, so that they are compared on the same resamples. The first row is
    # the episodes themselves.
    draws = [
        np.vstack((np.arange(len(r))[None], random.integers(len(r), size=(num_resamples, len(r)))))
        for r in references
    ]
    weights = np.array([len(r) for r in references], float)
    agreements: list[dict[Measure, Agreement]] = []
    totals = []
    for by_group in earned:
        by_measure: dict[Measure, Agreement] = {}
        for measure in MEASURES:
            rows = []
            for reference, draw, items in zip(references, draws, by_group, strict=True):
                values = np.array([item.of(measure) for item in items])
                counts = np.stack([np.bincount(row, minlength=len(row)) for row in draw])
                rows.append(
                    (
                        spearman(reference[draw], values[draw]),
                        kendall(reference, values, counts),
                    )
                )
            combined = np.average(np.array(rows), axis=0, weights=weights)
            by_measure[measure] = Agreement(_interval(combined[0]), _interval(combined[1]))
            if measure == "total":
                totals.append(combined[0, 1:])
        agreements.append(by_measure)
    return agreements, _best_shares(np.array(totals))


def _interval(values: np.ndarray) -> Interval:
    """Return the first value with the interval of the others."""
    if np.isnan(values[0]):
        return Interval(None, None, None)
    tail = 50.0 * (1.0 - INTERVAL)
    rest = values[1:][~np.isnan(values[1:])]
    if not len(rest):
        return Interval(float(values[0]), None, None)
    low, high = np.percentile(rest, (tail, 100.0 - tail))
    return Interval(float(values[0]), float(low), float(high))


def _best_shares(totals: np.ndarray) -> list[float]:
    """Return how often each row is a column's highest; rows that are the highest share it."""
    if not totals.size:
        return [1.0 / len(totals)] * len(totals)
    values = np.where(np.isnan(totals), -np.inf, totals)
    is_best = values == values.max(axis=0)
    shares: list[float] = (is_best / is_best.sum(axis=0)).mean(axis=1).tolist()
    return shares


def _finished_above(groups: list[_Group], earned: list[list[Earnings]]) -> float | None:
    above = pairs = 0.0
    for group, items in zip(groups, earned, strict=True):
        totals = np.array([item.total for item in items])
        is_finished = np.array([episode.is_complete for episode in group.episodes])
        difference = totals[is_finished][:, None] - totals[~is_finished]
        above += np.count_nonzero(difference > 0.0) + 0.5 * np.count_nonzero(difference == 0.0)
        pairs += difference.size
    return above / pairs if pairs else None


def _laps_kendall(
    groups: list[_Group], references: list[np.ndarray], earned: list[list[Earnings]]
) -> float | None:
    taus, weights = [], []
    for group, reference, items in zip(groups, references, earned, strict=True):
        is_finished = np.array([episode.is_complete for episode in group.episodes])
        totals = np.array([item.total for item in items])[is_finished]
        laps = reference[is_finished]
        if len(laps) >= 2 and np.ptp(laps) > 0.0 and np.ptp(totals) > 0.0:
            taus.append(float(kendalltau(laps, totals).statistic))
            weights.append(len(laps))
    return float(np.average(taus, weights=weights)) if taus else None


def _ranked_episodes(
    groups: list[_Group], references: list[np.ndarray], earned: list[list[list[Earnings]]]
) -> tuple[RankedEpisode, ...]:
    ranked = []
    for g, (group, reference) in enumerate(zip(groups, references, strict=True)):
        places = rankdata(-reference)
        by_reward = [rankdata([-item.total for item in items[g]]) for items in earned]
        for i in np.argsort(places, kind="stable"):
            episode = group.episodes[i]
            ranked.append(
                RankedEpisode(
                    recording=group.names[i],
                    track=group.track.name,
                    phase=episode.phase,
                    index=episode.index,
                    iteration=episode.iteration,
                    status=episode.status.trace_name,
                    is_complete=episode.is_complete,
                    progress=episode.progress,
                    duration_s=episode.duration_s,
                    place=float(places[i]),
                    earned=tuple(items[g][i] for items in earned),
                    places=tuple(float(p[i]) for p in by_reward),
                )
            )
    return tuple(ranked)


def _disputes(
    names: list[str], groups: list[_Group], step_rewards: list[list[list[np.ndarray]]]
) -> tuple[dict[tuple[str, str], float | None], Dispute | None]:
    """Return the step correlation of every pair, and where the least agreeing pair differs."""
    if len(names) < 2:
        return {}, None
    values = [[np.concatenate(by_episode) for by_episode in r] for r in step_rewards]
    weights = np.array([len(v) for v in values[0]], float)
    correlations: dict[tuple[str, str], float | None] = {}
    for a, b in combinations(range(len(names)), 2):
        by_group = [
            float(spearman(x[None], y[None])[0]) for x, y in zip(values[a], values[b], strict=True)
        ]
        mean = float(np.average(by_group, weights=weights))
        correlations[names[a], names[b]] = None if np.isnan(mean) else mean
    first, second = min(
        correlations, key=lambda pair: (correlations[pair] is not None, correlations[pair] or 0.0)
    )
    a, b = names.index(first), names.index(second)
    maps, steps = [], []
    for group, x, y in zip(groups, values[a], values[b], strict=True):
        shares = np.stack((_shares(x), _shares(y)))
        difference = shares[0] - shares[1]
        all_steps = np.concatenate([episode.steps for episode in group.episodes])
        xy = np.column_stack((all_steps["x"], all_steps["y"]))
        maps.append(StepMap(group.track, xy, difference))
        steps += _widest(group, all_steps, np.stack((x, y)), shares)
    return correlations, Dispute(
        first, second, correlations[first, second], _spread(steps), tuple(maps)
    )


def _shares(values: np.ndarray) -> np.ndarray:
    """Return the share of values below each one, ties counting half."""
    shares: np.ndarray = (rankdata(values) - 0.5) / len(values)
    return shares


def _widest(
    group: _Group, steps: np.ndarray, values: np.ndarray, shares: np.ndarray
) -> list[DisputedStep]:
    """Return the widest disagreement of each episode."""
    found = []
    first = 0
    difference = np.abs(shares[0] - shares[1])
    for name, episode in zip(group.names, group.episodes, strict=True):
        last = first + len(episode.steps)
        i = first + int(difference[first:last].argmax())
        step = steps[i]
        found.append(
            DisputedStep(
                recording=name,
                track=group.track.name,
                phase=episode.phase,
                index=episode.index,
                iteration=episode.iteration,
                step=int(step["steps"]),
                x=float(step["x"]),
                y=float(step["y"]),
                speed=float(step["speed"]),
                steering_angle=float(step["steering_angle"]),
                distance_from_center=float(step["distance_from_center"]),
                values=(float(values[0, i]), float(values[1, i])),
                shares=(float(shares[0, i]), float(shares[1, i])),
            )
        )
        first = last
    return found


def _spread(steps: list[DisputedStep]) -> tuple[DisputedStep, ...]:
    """Return the widest disagreements, apart from each other: one place says it all."""
    chosen: list[DisputedStep] = []
    for step in sorted(steps, key=lambda s: -abs(s.shares[0] - s.shares[1])):
        is_near = any(
            other.track == step.track
            and np.hypot(other.x - step.x, other.y - step.y) < DISPUTES_APART_M
            for other in chosen
        )
        if not is_near:
            chosen.append(step)
        if len(chosen) == NUM_DISPUTED_STEPS:
            break
    return tuple(chosen)
