"""``local-trainer reward rank``: how well rewards order recorded episodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from local_trainer.cli.console import print_json, stdout, table
from local_trainer.cli.options import AsJson, RunsDir, TracksDir
from local_trainer.errors import ConfigError
from local_trainer.runs import DEFAULT_RUNS_DIR

if TYPE_CHECKING:
    from local_trainer.lab.rank import RankReport


def rank(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…", help="Runs by name or folder, or others' logs: file, folder, tar.gz."
        ),
    ],
    rewards: Annotated[
        list[Path] | None,
        typer.Option(
            "--reward",
            metavar="FILE…",
            help="Reward functions to compare (default: the one that made the first run).",
        ),
    ] = None,
    profile: Annotated[
        Literal["fast", "cloud"],
        typer.Option("--profile", help="Whose discount factor applies."),
    ] = "fast",
    discount: Annotated[
        float | None, typer.Option("--discount", help="Discount factor, 0 to 1.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes the bootstrap.")] = 0,
    track: Annotated[
        str | None, typer.Option("--track", help="Track of logs that do not name theirs.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw the ranking into this PNG.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file.")] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    tracks_dir: TracksDir = Path("tracks"),
    as_json: AsJson = False,
) -> None:
    """Say how well rewards put fast finished laps above slow ones and failures.

    Prints rank correlations with the order that does not depend on any reward, with bootstrap
    intervals, the best and worst episodes, and the steps at which two rewards disagree most.
    """
    from local_trainer.cli.reward.replay import split_rewards
    from local_trainer.lab.earnings import check_discount, profile_discount
    from local_trainer.lab.rank import rank as rank_rewards
    from local_trainer.lab.rank_page import report_data
    from local_trainer.lab.recordings import read_recording
    from local_trainer.run_files import find_user_file

    for path, suffix, name in ((output, ".png", "--output"), (html, ".html", "--html")):
        if path is not None and path.suffix != suffix:
            raise ConfigError(f"{name} must end in {suffix}, got {str(path)!r}")
    chosen = profile_discount(profile) if discount is None else check_discount(discount)
    names, files = split_rewards(names, rewards or [])
    found = [find_user_file("reward function", file) for file in files]
    recordings = [read_recording(name, runs_dir, tracks_dir, track) for name in names]
    if not found:
        own = recordings[0].reward_file
        if own is None:
            raise ConfigError(f"{recordings[0].name} holds no reward function: give --reward.")
        found = [own]
    report = rank_rewards(recordings, found, chosen, seed)
    if output is not None:
        from local_trainer.lab.figures.rank import write_rank_plot

        write_rank_plot(output, report)
    if html is not None:
        from local_trainer.lab.rank_page import write_rank_page

        write_rank_page(html, report)
    if as_json:
        print_json(report_data(report))
        return
    _show(report)
    for path in (output, html):
        if path is not None:
            print(f"Written: {path}")


def _show(report: RankReport) -> None:
    from local_trainer.lab.rank_page import (
        EPISODES_TEXT,
        REWARD_COLUMNS,
        dispute_text,
        episode_columns,
        episode_rows,
        reward_rows,
        step_columns,
        step_rows,
    )

    console = stdout()
    finished = sum(episode.is_complete for episode in report.episodes)
    console.print(
        f"{len(report.episodes):,} episodes of {', '.join(report.recordings)} on "
        f"{', '.join(report.tracks)}, {finished:,} of them finished. "
        f"Discount factor {report.discount:g}.",
        markup=False,
    )
    console.print(table(REWARD_COLUMNS, reward_rows(report)))
    console.print(f"Best and worst episodes. {EPISODES_TEXT}", markup=False)
    console.print(table(episode_columns(report), episode_rows(report)))
    if report.dispute:
        console.print(dispute_text(report), markup=False)
        console.print(table(step_columns(report), step_rows(report)))
