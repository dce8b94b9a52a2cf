"""Reports of `local_trainer.lab.rank` as tables, plain data and a page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from local_trainer.lab.earnings import MEASURE_LABELS, MEASURES
from local_trainer.lab.rank import (
    DisputedStep,
    Interval,
    RankedEpisode,
    RankReport,
    RewardRanking,
)
from local_trainer.page import Page

NOTHING = "–"
REWARD_COLUMNS = (
    "reward", "earned", ">Spearman", ">95 % interval", ">Kendall", ">95 % interval",
    ">finished above", ">among laps", ">best",
)  # fmt: skip
STEP_COLUMNS = (
    "no.", "episode", ">step", ">x", ">y", ">speed", ">steering", ">from center",
    ">first", ">rank", ">second", ">rank",
)  # fmt: skip
REFERENCE_TEXT = (
    "The reference order: finished laps above all others, by lap time; unfinished episodes by the "
    "progress they reached; equal ones share their place. Episodes of different tracks are not "
    "compared: correlations are means over the tracks, weighted by their episodes."
)
EPISODES_TEXT = "By the reference order; for each reward what was earned (and its place by that)."
COLUMNS_TEXT = (
    "Finished above: share of the pairs of a finished and an unfinished episode in which the "
    "finished one earned more in total. Among laps: Kendall's tau-b of total reward and speed "
    "among finished laps. Best: share of the resamples in which this reward's total had the "
    "highest Spearman correlation."
)


def write_rank_page(path: Path, report: RankReport) -> None:
    """Write the page of a report; replaced if it exists."""
    from local_trainer.lab.figures.rank import rank_png

    finished = sum(episode.is_complete for episode in report.episodes)
    page = Page(
        "Ranking of rewards",
        subtitle=(
            f"Runs: {', '.join(report.recordings)}",
            f"{len(report.episodes):,} episodes on {', '.join(report.tracks)}, {finished:,} of "
            f"them finished; discount factor {report.discount:g}; "
            f"{report.num_resamples:,} bootstrap resamples",
        ),
        width_px=1280,
    )
    page.section("How well each reward orders the episodes")
    page.text(REFERENCE_TEXT)
    page.table(REWARD_COLUMNS, reward_rows(report))
    page.text(COLUMNS_TEXT)
    page.picture(rank_png(report), min_width_px=900)
    page.section("Best and worst episodes").text(EPISODES_TEXT).table(
        episode_columns(report), episode_rows(report)
    )
    if report.dispute:
        page.section("Steps at which two rewards disagree most")
        page.text(dispute_text(report))
        page.table(step_columns(report), step_rows(report))
    page.write(path)


def reward_rows(report: RankReport) -> list[tuple[str, ...]]:
    """Return the rows of `REWARD_COLUMNS`: one a reward and measure."""
    rows: list[tuple[str, ...]] = []
    for reward in report.rewards:
        for measure in MEASURES:
            is_first = measure == MEASURES[0]
            agreement = reward.agreement[measure]
            rows.append(
                (
                    reward.name if is_first else "",
                    MEASURE_LABELS[measure],
                    _value(agreement.spearman.value),
                    _range(agreement.spearman),
                    _value(agreement.kendall.value),
                    _range(agreement.kendall),
                    *(_extras(reward, len(report.rewards)) if is_first else ("", "", "")),
                )
            )
    return rows


def episode_columns(report: RankReport) -> tuple[str, ...]:
    """Return the columns of `episode_rows`."""
    own = [f">{reward.name}" for reward in report.rewards]
    return ("place", "episode", "end", ">progress", ">time", *own)


def episode_rows(report: RankReport, most: int = 5) -> list[tuple[str, ...]]:
    """Return the rows of the best and the worst episodes of each track by the reference."""
    rows: list[tuple[str, ...]] = []
    for track in report.tracks:
        episodes = [episode for episode in report.episodes if episode.track == track]
        shown = episodes[:most] + episodes[max(most, len(episodes) - most) :]
        for k, episode in enumerate(shown):
            if k == most and len(episodes) > 2 * most:
                rows.append(("…", *[""] * (len(episode_columns(report)) - 1)))
            rows.append(_episode_row(report, episode))
    return rows


def dispute_text(report: RankReport) -> str:
    """Return which two rewards the steps are about, and how far all pairs agree."""
    assert report.dispute is not None
    pairs = "; ".join(
        f"{first} and {second} {_value(value)}"
        for (first, second), value in report.step_spearman.items()
    )
    return (
        f"Rank correlation of the rewards of all steps: {pairs}. The steps are those at which "
        f"{report.dispute.first} (first) and {report.dispute.second} (second) rank furthest "
        "apart, one an episode and not two at one place. Rank: share of the track's steps that "
        "earn less."
    )


def step_columns(report: RankReport) -> tuple[str, ...]:
    """Return the columns of `step_rows`, with the two rewards' names."""
    assert report.dispute is not None
    names = {">first": f">{report.dispute.first}", ">second": f">{report.dispute.second}"}
    return tuple(names.get(column, column) for column in STEP_COLUMNS)


def step_rows(report: RankReport) -> list[tuple[str, ...]]:
    """Return the disputed steps, the widest disagreement first."""
    assert report.dispute is not None
    return [
        (
            str(number),
            _episode_name(report, step),
            str(step.step),
            f"{step.x:.2f} m",
            f"{step.y:.2f} m",
            f"{step.speed:.2f} m/s",
            f"{step.steering_angle:+.0f}°",
            f"{step.distance_from_center:.2f} m",
            f"{step.values[0]:.4g}",
            f"{100.0 * step.shares[0]:.0f} %",
            f"{step.values[1]:.4g}",
            f"{100.0 * step.shares[1]:.0f} %",
        )
        for number, step in enumerate(report.dispute.steps, start=1)
    ]


def report_data(report: RankReport) -> dict[str, Any]:
    """Return a report as plain data, maps left out."""
    dispute = report.dispute
    return {
        "runs": list(report.recordings),
        "tracks": list(report.tracks),
        "num_episodes": len(report.episodes),
        "discount": report.discount,
        "num_resamples": report.num_resamples,
        "seed": report.seed,
        "rewards": [{**asdict(reward), "path": str(reward.path)} for reward in report.rewards],
        "episodes": [asdict(episode) for episode in report.episodes],
        "step_spearman": [
            {"first": first, "second": second, "spearman": value}
            for (first, second), value in report.step_spearman.items()
        ],
        "disputed": None
        if dispute is None
        else {
            "first": dispute.first,
            "second": dispute.second,
            "steps": [asdict(step) for step in dispute.steps],
        },
    }


def _extras(reward: RewardRanking, num_rewards: int) -> tuple[str, str, str]:
    above = reward.finished_above
    return (
        NOTHING if above is None else f"{100.0 * above:.1f} %",
        _value(reward.laps_kendall),
        f"{100.0 * reward.is_best_share:.0f} %" if num_rewards > 1 else NOTHING,
    )


def _episode_row(report: RankReport, episode: RankedEpisode) -> tuple[str, ...]:
    own = [
        f"{earned.total:.4g} ({place:g})"
        for earned, place in zip(episode.earned, episode.places, strict=True)
    ]
    return (
        f"{episode.place:g}",
        _episode_name(report, episode),
        episode.status.replace("_", " "),
        f"{episode.progress:.1f} %",
        f"{episode.duration_s:.2f} s",
        *own,
    )


def _episode_name(report: RankReport, one: RankedEpisode | DisputedStep) -> str:
    """Return what to call an episode, with as much as tells it apart."""
    parts = [f"{one.phase} {one.index} (iteration {one.iteration})"]
    if len(report.recordings) > 1:
        parts.insert(0, one.recording)
    if len(report.tracks) > 1:
        parts.append(f"on {one.track}")
    return " ".join(parts)


def _value(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return NOTHING
    return f"{interval.low:.3f} to {interval.high:.3f}"
