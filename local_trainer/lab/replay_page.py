"""The page of a replay: what the reward functions give for recorded steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from local_trainer.lab.figures.replay import comparison_png, episode_png, example_episode
from local_trainer.lab.replay import Replay
from local_trainer.lab.replay_text import TABLE_COLUMNS, exactness_rows, table_row
from local_trainer.page import Badge, Cell, Page

_TOP_EPISODES = 12


def write_replay_page(path: Path, replays: Sequence[Replay]) -> None:
    """Write the page of some replays: pictures and numbers in one file.

    Args:
        path: Where; replaced if it exists.
        replays: Those of one recording next to each other.
    """
    replay_page(replays).write(path)


def replay_page(replays: Sequence[Replay]) -> Page:
    """Return the page of some replays; those of one recording must be next to each other."""
    recordings = list(dict.fromkeys(id(one.recording) for one in replays))
    rewards = dict.fromkeys(one.reward_file.name for one in replays)
    page = Page(
        "Reward replay",
        f"{', '.join(rewards)} on {len(recordings)} recording{'s' if len(recordings) > 1 else ''}",
        _badge(replays),
        width_px=1080,
    )
    page.section("Results").table(TABLE_COLUMNS, map(table_row, replays))
    page.text(
        "recorded/ep. and new/ep.: mean reward of an episode. corr.: correlation of new and "
        "recorded reward, over steps and over episodes. equal: steps whose reward is the recorded "
        "one bit for bit.",
    )
    for _, group in groupby(replays, key=lambda one: id(one.recording)):
        _add_recording(page, list(group))
    return page


def _badge(replays: Sequence[Replay]) -> Badge | None:
    """Return whether the rewards of own runs come out as recorded, if any was replayed."""
    own = [one for one in replays if one.is_own_reward and one.recording.is_exact]
    if not own:
        return None
    if all(one.exact_fraction == 1.0 for one in own):
        return Badge("the runs' own rewards are equal bit for bit", "good")
    return Badge("a run's own rewards differ", "bad")


def _add_recording(page: Page, replays: list[Replay]) -> None:
    recording = replays[0].recording
    index = example_episode(replays)
    page.section(f"{recording.name}: {recording.kind} on {recording.track.name}")
    page.picture(episode_png(replays, index), alt="reward of each step of one episode")
    for one in replays:
        page.picture(
            comparison_png(one),
            f"{one.reward_file.name}: new against recorded; on the dotted line both are equal.",
        )
    page.facts(exactness_rows(recording)[1:])
    page.section(f"{recording.name}: episodes that change places").text(
        "Where an episode stands among the others, ordered by reward, changes most for these."
    ).table(
        ("phase", "ended", ">iteration", ">episode", ">progress", ">recorded", *_heads(replays)),
        _episode_rows(replays),
    )


def _heads(replays: list[Replay]) -> list[str]:
    return [f">{one.reward_file.name}" for one in replays]


def _episode_rows(replays: list[Replay]) -> list[list[Cell]]:
    recording = replays[0].recording
    old_place = _places(replays[0].old_totals)
    moved = np.sum([np.abs(_places(one.new_totals) - old_place) for one in replays], axis=0)
    rows: list[list[Cell]] = []
    for i in np.argsort(-moved, kind="stable")[:_TOP_EPISODES]:
        if moved[i] == 0:
            break
        episode = recording.episodes[i]
        rows.append(
            [
                episode.phase,
                episode.status.label,
                str(episode.iteration),
                str(episode.index),
                f"{episode.progress:.1f} %",
                f"{replays[0].old_totals[i]:.2f}",
                *(f"{one.new_totals[i]:.2f}" for one in replays),
            ]
        )
    return rows


def _places(totals: np.ndarray) -> np.ndarray:
    """Return each episode's place in the order of reward; equal ones keep the recording's."""
    return np.argsort(np.argsort(totals, kind="stable"), kind="stable")
